"""Which command is asked for; how its mistakes are told, and how the program exits."""

import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence

from bench import parsers
from bench.commands import (
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_MISTAKE,
    compare,
    doctor,
    evidence,
    kernels,
    max_batch,
    plan,
    publish,
    recommend,
    report,
    sweep,
    trial,
)
from bench.errors import UserError
from bench.events import discard
from bench.output import Output, print_line
from bench.startup import stop_signals


def main(words: Sequence[str] | None = None) -> None:
    """Runs a command and exits.

    With 0 fine, 1 failed, 2 the caller's mistake, 3 a gate inconclusive, 70 an internal error, 130
    interrupted.
    """
    errors = Output(stderr=True)
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)
    try:
        options = parsers.parse(list(sys.argv[1:] if words is None else words))
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
    except UserError as error:
        print_line(errors, f"unet-bench: {error}")
        code = EXIT_MISTAKE
    except KeyboardInterrupt:
        print_line(errors, "unet-bench: interrupted")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        discard(sys.stdout)
        code = 0
    except OSError as error:  # no permission, no space: the machine's answer to what was asked
        where = f"{error.filename}: " if error.filename else ""
        print_line(errors, f"unet-bench: {where}{error.strerror}")
        discard(sys.stdout)  # it may be what is full
        code = EXIT_MISTAKE
    except Exception as error:  # noqa: BLE001 (whatever it is, it is no user's mistake)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print_line(errors, f"unet-bench: internal error, a fault of unet-bench: {what}")
        print_line(errors, "Please report it with the command and this traceback:")
        print_line(errors, traceback.format_exc().rstrip())
        code = EXIT_INTERNAL
    sys.exit(code)


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "sweep": sweep.run,
    "plan": plan.run,
    "max-batch": max_batch.run,
    "trial": trial.run,
    "report": report.run,
    "recommend": recommend.run,
    "publish": publish.run,
    "compare": compare.run,
    "doctor": doctor.run,
    "kernels": kernels.run,
    "evidence": evidence.run,
}
