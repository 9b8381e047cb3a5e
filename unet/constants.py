"""Numbers of the workload that more than its training needs to know (torch-free)."""

L_CENTER = 50.0
L_SCALE = 50.0
AB_SCALE = 110.0
"""The network sees (L - 50) / 50, in [-1, 1], and predicts ab / 110: a and b of sRGB reach 108."""

LEARNING_RATE = 1e-3
FINAL_LEARNING_RATE = LEARNING_RATE / 20
