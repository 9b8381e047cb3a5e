"""What a process makes sure of at its start: streams, a home, and an end without a traceback."""

import contextlib
import fcntl
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench import startup
from bench.commands import EXIT_INTERRUPTED
from bench.journal import FILE_NAME, read
from bench.trial import Status
from tests.harness import REPOSITORY, CommandLine, wait_until, write_toml

TRIAL = shlex.split(
    "trial none --batch-size 4 --set workload=tests.toy:TOY --set samples=16 "
    "--set warmup_steps=1 --set measured_steps=2 --device cpu --budget 1GiB --out"
)


def without(*names: str, **more: str) -> dict[str, str]:
    """The environment without some variables, and with others."""
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONPATH": str(REPOSITORY), **more}


def closing(numbers: Sequence[int]) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


# Streams.


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}]
)
def test_what_an_encoding_has_no_letter_for_is_printed_by_its_number(
    environment: dict[str, str],
) -> None:
    code = "from bench import startup; startup.prepare(); print(chr(177), 5)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=without("PYTHONIOENCODING", "PYTHONUTF8", **environment),
        capture_output=True,
        check=True,
    )
    assert found.stdout == b"\\xb1 5\n"


LOOK = """
import json, os, sys
from bench import startup
startup.prepare()
numbers = [*os.pipe(), os.open(os.devnull, os.O_RDONLY)]
print("printed", flush=True)
print("told", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    kinds = [os.readlink(f"/proc/self/fd/{fd}") == os.devnull for fd in range(3)]
    json.dump([min(numbers), kinds, [os.get_inheritable(fd) for fd in range(3)]], file)
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_a_closed_stream_is_the_null_device_here_and_in_children(
    closed: tuple[int, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "found")],
        env=without(),
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=closing(closed),
    )
    printed = {1: "printed\n", 2: "told\n"}
    assert {1: done.stdout, 2: done.stderr} == {
        fd: "" if fd in closed else text for fd, text in printed.items()
    }
    least, kinds, inherited = json.loads((tmp_path / "found").read_text())
    assert least > 2
    assert kinds == [fd in closed for fd in range(3)]
    assert inherited == [True] * 3


def test_a_trial_with_all_streams_closed_is_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *TRIAL, str(tmp_path)],
        cwd=REPOSITORY,
        check=False,
        preexec_fn=closing((0, 1, 2)),
    )
    assert done.returncode == 0
    assert [row.result.status for row in read(tmp_path)] == [Status.OK]
    assert (tmp_path / "table.md").is_file()


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as plain:
        stream = startup.outliving_its_reader(plain)
        stream.write("read")
        stream.flush()
        assert os.read(reading, 100) == b"read"
        os.close(reading)
        for _ in range(2):
            stream.write("to nobody")
            stream.flush()


def test_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "w") as plain:  # noqa: PTH123
        stream = startup.outliving_its_reader(plain)
        stream.write("lost")
        with pytest.raises(OSError, match="No space left"):
            stream.flush()
        with contextlib.suppress(OSError):
            stream.detach().detach()  # type: ignore[attr-defined]


def test_a_full_disk_is_told_with_the_stream() -> None:
    code = "from bench import startup; startup.prepare(); print('lost', flush=True)"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=without(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "No space left on device: 'standard output'" in done.stderr


@pytest.mark.parametrize("ended", [1, 2])
def test_help_and_mistakes_outlive_their_reader(ended: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words, code = (["sweep", "--help"], 0) if ended == 1 else (["no-such-command"], 2)
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=REPOSITORY,
        stdout=writing if ended == 1 else subprocess.PIPE,
        stderr=writing if ended == 2 else subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr or "") == (code, "")


# Signals.


def test_a_terminal_that_is_closed_ends_a_sweep_in_good_order(tmp_path: Path) -> None:
    toml = write_toml(tmp_path / "toy.toml", variants=["none", "hang"], batch_size=[4], samples=64)
    controller, terminal = pty.openpty()
    folder, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    command = CommandLine(
        "sweep", toml, "--out", folder,
        variables={"TMPDIR": str(temporary)},
        streams=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)

    def draws() -> bool:
        """Whether the first row is written; meanwhile somebody reads what is drawn."""
        while select.select([controller], [], [], 0.05)[0]:
            os.read(controller, 1 << 16)
        return (folder / FILE_NAME).exists() and (folder / FILE_NAME).stat().st_size > 0

    wait_until(draws)
    os.close(controller)
    code, _ = command.wait()
    assert code == EXIT_INTERRUPTED
    statuses = [row.result.status for row in read(folder)]
    assert statuses[:1] == [Status.OK]
    assert set(statuses[1:]) <= {Status.INTERRUPTED}
    assert (folder / "table.md").is_file()
    assert json.loads((folder / "runs.jsonl").read_text())["stopped_by"] == "interrupted"
    assert command.processes() == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_nohup_ignores_stays_ignored(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        assert (signal.SIGHUP in startup.stop_signals()) == (handler is signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


BLOCKING = """
import os, pathlib, time
pathlib.Path(os.environ["UNET_BENCH_TEST_READY"]).touch()
time.sleep(3600)
"""


def test_ctrl_c_while_modules_are_imported_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(BLOCKING)
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "plan"],
        env=without(
            PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}", UNET_BENCH_TEST_READY=str(ready)
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(ready.exists)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (EXIT_INTERRUPTED, "")


# A user whom the system does not know.

NOBODY = """
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""

NAMES = (
    *("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"),
    *("UNET_BENCH_CACHE", "XDG_CACHE_HOME", "XDG_STATE_HOME"),
)


def as_nobody(arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs Python where neither the environment nor the password database tells of a home."""
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(NOBODY)
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=without(
            *NAMES,
            PYTHONPATH=f"{folder / 'site'}{os.pathsep}{REPOSITORY}",
            TMPDIR=str(folder),
        ),
        capture_output=True,
        text=True,
        check=False,
    )


def home_in(folder: Path) -> Path:
    return folder / f"home-of-uid{os.getuid()}"


def test_a_user_without_a_home_measures_and_is_told_where_things_are_kept(tmp_path: Path) -> None:
    done = as_nobody(["-m", "bench", *TRIAL, "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert str(home_in(tmp_path)) in line
    assert "HOME" in line
    assert home_in(tmp_path).stat().st_mode & 0o777 == 0o700
    assert {path.name for path in tmp_path.iterdir()} == {
        "site", "out", home_in(tmp_path).name,
    }  # fmt: skip


def test_a_home_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    home_in(tmp_path).mkdir()
    home_in(tmp_path).chmod(0o777)
    done = as_nobody(["-m", "bench", "plan"], tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "HOME" in line
    assert "mode 777" in line


def test_without_a_home_the_cache_names_the_variable(tmp_path: Path) -> None:
    ask = "from kernels.cache import cache_folder; cache_folder()"
    done = as_nobody(["-c", ask], tmp_path)
    assert "UNET_BENCH_CACHE" in done.stderr.splitlines()[-1]


def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("CC", "my-cc")
    startup.unset_empty_variables()
    assert "CXX" not in os.environ
    assert os.environ["CC"] == "my-cc"
