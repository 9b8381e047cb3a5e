"""The one exception for users' mistakes; any other exception is a fault of unet-bench."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """What was asked for, or a file that was given, cannot be used.

    The message is one line: what was given, what was expected, and where. `bench.cli.main` prints
    it and exits with 2. Only this class is treated so: a plain `ValueError`, such as "math domain
    error", is an internal error.
    """


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """Turns a `ValueError` into a `UserError`.

    For calls of a workload, which reports a wrong setting as a `ValueError` (see
    `bench.workload.Workload`) and imports nothing from here.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
