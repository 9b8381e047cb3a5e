"""`python -m bench` is `unet-bench`: gets the process ready, then imports and runs the rest."""

import sys

from bench import startup
from bench.commands import EXIT_INTERRUPTED


def main() -> None:
    """Runs the command line and exits; see `bench.cli.main`."""
    try:
        with startup.quiet_interrupt():
            startup.prepare()
            from bench import cli
        cli.main()
    except KeyboardInterrupt:  # just before `cli.main` could take it, or just after
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
