"""Starts a trial's process in milliseconds: a server with torch preloaded that forks on request.

A plain new process spends seconds importing torch. The server imports once and forks a child per
trial, which has the isolation of a process of its own. It is executed anew for every round, so
that address layout and hash seed vary between rounds.

Nothing outlives its parent, however that ends: when the parent is gone the server ends the child
and all that the child has started; when the server is gone the kernel kills the child, and the
parent the rest.
"""

import contextlib
import ctypes
import importlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.workload import load_object

_MESSAGE_BYTES = 1 << 16
_FAREWELL_S = 2.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ServerGoneError(Exception):
    """The process that trials are forked from has ended unexpectedly.

    Args:
        code: Its exit code as in `subprocess`; `None` if it has not ended yet.
    """

    def __init__(self, code: int | None) -> None:
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        super().__init__(f"the process that starts trials {how}")


def poll_ms(seconds: float) -> int:
    """A wait as `poll` takes it, which counts milliseconds in a C int: at most some 24 days."""
    return min(math.ceil(seconds * 1000), 2**31 - 1)


def _die_with_parent(parent: int) -> None:
    on_parent_death(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def on_parent_death(number: int) -> None:
    """Has the kernel send this process a signal when its parent ends; 0 for none."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


@dataclass
class Child:
    """A process forked by the server.

    Attributes:
        pid: Its process id, which is also its process group's.
        events: The reading end of its event pipe, non-blocking, binary.
        log: What it wrote to standard output and error.
        exit_code: As in `subprocess`, once it is known: a negative one is the signal's number.
    """

    pid: int
    events: IO[bytes]
    log: IO[bytes]
    exit_code: int | None = None

    def kill(self) -> None:
        """Kills the child and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def log_tail(self, limit_bytes: int = 4000) -> str:
        """The end of what it wrote, at most `limit_bytes`."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - limit_bytes))
        return self.log.read().decode(errors="replace").strip()


class EventReader:
    """Cuts what arrives in an event pipe into events."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._rest = b""
        self.ended = False

    def read(self) -> Iterator[dict[str, Any]]:
        """The events that have arrived whole."""
        while chunk := self._pipe.read(1 << 16):
            self._rest += chunk
        self.ended = chunk == b""  # None: nothing more at present
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            yield json.loads(line)


class ForkServer:
    """The parent's end: starts the server and asks it for children, one at a time.

    Args:
        preload: Modules the server imports before it forks.
        temporary: Their folder for temporary files; `None` for the parent's.
    """

    def __init__(self, preload: tuple[str, ...], temporary: Path | None = None) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # numpy's BLAS starts threads at import, and threads do not survive a fork; torch brings
        # its own.
        environ = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
        if temporary:
            environ["TMPDIR"] = str(temporary)
        environ["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                # -P: the module path is the parent's, without the current folder before it.
                [
                    sys.executable,
                    "-P",
                    "-m",
                    __name__,
                    f"{theirs.fileno()}",
                    f"{os.getpid()}",
                    *preload,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
                env=environ,
            )
        self._ready = False

    def wait_until_ready(self, stop_fd: int, timeout_s: float) -> bool:
        """Waits until all is imported.

        Args:
            stop_fd: Gives up when there is something to read here.
            timeout_s: Gives up after so many seconds.

        Raises:
            ServerGoneError: It will never be ready.
        """
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(stop_fd, select.POLLIN)
        while not self._ready:
            ready = {fd for fd, _ in poll.poll(poll_ms(timeout_s))}
            if self.socket.fileno() not in ready:
                return False
            self._ready = "ready" in self.reply()
        return True

    def fork(self, entry: str, request: dict[str, Any], log: IO[bytes]) -> Child:
        """Runs `entry(request, events)` in a new process.

        Args:
            entry: A function as `module:attribute`; `events` is a binary file to write to.
            request: JSON types.
            log: An open file for the child's standard output and error.

        Raises:
            ServerGoneError: There is no server to do it.
        """
        read_fd, write_fd = os.pipe()
        message = json.dumps({"entry": entry, "request": request}).encode()
        try:
            # In a file: a message of a socket has an end, and what is beyond it would be lost.
            with tempfile.TemporaryFile() as asked:
                asked.write(message)
                asked.flush()
                fds = [write_fd, log.fileno(), asked.fileno()]
                socket.send_fds(self.socket, [b"fork"], fds)
            if not self._ready:
                self._ready = "ready" in self.reply()
            pid = self.reply()["pid"]
        except ServerGoneError:
            os.close(read_fd)
            raise
        except OSError:
            os.close(read_fd)
            raise self._gone() from None
        finally:
            os.close(write_fd)
        os.set_blocking(read_fd, False)
        return Child(pid, os.fdopen(read_fd, "rb", buffering=0), log)

    def reply(self) -> dict[str, Any]:
        """The server's next message. Blocks.

        After `fork`, `{"exit_code": n}` comes when the child has ended.

        Raises:
            ServerGoneError: None will come.
        """
        try:
            data = self.socket.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._gone()
        reply: dict[str, Any] = json.loads(data)
        return reply

    def _gone(self) -> ServerGoneError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_FAREWELL_S)
        return ServerGoneError(self._process.returncode)

    def close(self) -> None:
        """Ends the server, and a child that should still run with all that it has started."""
        self.socket.close()
        try:
            self._process.wait(timeout=_FAREWELL_S)
        except subprocess.TimeoutExpired:  # it is still importing
            self._process.kill()
            self._process.wait()


def _serve(connection: socket.socket) -> None:
    while True:
        message, fds, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 3)
        if not message:
            return
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _die_with_parent(server)
            connection.close()
            _run_child(*fds)
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # here and in the child: whoever comes first
        connection.send(json.dumps({"pid": pid}).encode())
        connection.send(json.dumps({"exit_code": _wait(pid, connection)}).encode())


def _wait(pid: int, connection: socket.socket) -> int:
    """Waits until the child has ended or the parent is gone, and ends what the child has left."""
    child = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    poll.register(connection, select.POLLIN)  # the parent says nothing now, so this is its end
    poll.poll()
    os.close(child)
    # Before it is reaped: until then no other process can have its number.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _run_child(events_fd: int, log_fd: int, asked_fd: int) -> None:
    """Never returns: `os._exit` skips the clean-up that belongs to the server."""
    code = 1
    try:
        with os.fdopen(asked_fd, "rb") as asked:
            asked.seek(0)  # the place in a file is shared by all that have it open
            message: dict[str, Any] = json.loads(asked.read())
        os.setpgid(0, 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        with os.fdopen(events_fd, "wb", buffering=0) as events:
            load_object(message["entry"])(message["request"], events)
        code = 0
    except BaseException:  # noqa: BLE001 (a forked child must not run the server's code)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main() -> None:
    fd, parent, *preload = sys.argv[1:]
    _die_with_parent(int(parent))
    for module in preload:
        with contextlib.suppress(ImportError):  # the child imports again, and its row tells
            importlib.import_module(module)
    with socket.socket(fileno=int(fd)) as connection, contextlib.suppress(BrokenPipeError):
        connection.send(json.dumps({"ready": True}).encode())
        on_parent_death(0)  # from here on the connection tells, and the child is ended first
        _serve(connection)


if __name__ == "__main__":
    _main()
