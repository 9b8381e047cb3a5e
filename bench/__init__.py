"""The harness: trials, processes, memory, time and reports."""
