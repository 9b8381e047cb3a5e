"""What each command does: `run` takes its options and returns the exit code."""

EXIT_FAILED, EXIT_MISTAKE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 130
