"""What a process of unet-bench makes sure of before it imports the rest: its streams, its home.

It imports little, so that little time passes before it is called.
"""

import contextlib
import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.commands import EXIT_INTERRUPTED, EXIT_MISTAKE

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STREAMS = ("stdin", "stdout", "stderr")

_REFUSING = ("strict", "surrogateescape")
"""What streams do with a letter that their encoding does not have; the second in the C locale."""

_READER_GONE = (errno.EPIPE, errno.EIO)
"""What a write gives after a pipe's reader has ended, or a terminal was closed."""

_EMPTY_IS_UNSET = ("CC", "CXX", "HOME")
"""Variables that others take at their word even where they are empty."""


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Ctrl-C ends the process without a word, since nothing has begun yet."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask this process to end in good order.

    SIGHUP, which a terminal sends when it is closed, is none where it is ignored, as by `nohup`.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def prepare() -> None:
    """Called once, before anything else is imported."""
    open_missing_streams()
    for name in _STREAMS[1:]:
        setattr(sys, name, outliving_its_reader(getattr(sys, name)))
    unset_empty_variables()
    ensure_home()


def open_missing_streams() -> None:
    """Opens the null device in place of standard streams that are closed.

    Otherwise the next file or pipe gets the number of a standard stream, and whatever is printed,
    here or by a process started from here, ends up in it.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) < len(_STREAMS):
        os.set_inheritable(fd, True)
    os.close(fd)
    for fd, name in enumerate(_STREAMS):
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115


class _OutputFile(io.FileIO):
    """A standard stream; once its reader has gone away, what is written goes nowhere."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            on_disk = stat.S_ISREG(os.fstat(self.fileno()).st_mode)
            if error.errno not in _READER_GONE or on_disk:
                error.filename = f"standard {'output' if self.fileno() == 1 else 'error'}"
                raise
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.fileno())
            os.close(devnull)
            return super().write(data)


def outliving_its_reader(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same stream, to which writing is no error when nobody reads it any more."""
    return io.TextIOWrapper(
        io.BufferedWriter(_OutputFile(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        # What an encoding has no letter for is told by its number: no reason to end.
        errors="backslashreplace" if stream.errors in _REFUSING else stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


def unset_empty_variables() -> None:
    """An empty variable counts as none."""
    for name in _EMPTY_IS_UNSET:
        if os.environ.get(name) == "":
            del os.environ[name]


def ensure_home() -> None:
    """Gives a user without a home one in the folder of temporary files.

    A container may run as a user that its password database does not list. Then not only our own
    caches have no place, but also those of torch, Triton and matplotlib, and torch asks for the
    user's name.
    """
    import pwd

    uid = os.getuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        os.environ.setdefault("USER", f"uid{uid}")
    else:
        return
    if "HOME" in os.environ:
        return
    import tempfile
    from pathlib import Path

    from kernels.cache import open_trusted

    home = Path(tempfile.gettempdir(), f"home-of-uid{uid}")
    unknown = f"unet-bench: HOME is not set, and the system knows no home of uid {uid}"
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        os.close(open_trusted(home, os.O_DIRECTORY))
    except OSError as error:
        sys.stderr.write(
            f"{unknown}: expected HOME to name a folder, since {home}: {error.strerror}\n"
        )
        sys.exit(EXIT_MISTAKE)
    sys.stderr.write(f"{unknown}: using {home}\n")
    os.environ["HOME"] = str(home)
