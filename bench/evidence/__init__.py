"""Evidence: one command makes the most of a few minutes on a machine that is there only now."""
