"""What each command does: `run` takes its options and returns the exit code."""

import os

EXIT_FAILED, EXIT_MISTAKE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 130
EXIT_INTERNAL = os.EX_SOFTWARE
"""70: a fault of unet-bench itself; no gate and no script takes it for an answer."""
