import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.forkserver import EventReader, ForkServer, ServerGoneError, poll_ms
from tests.harness import REPOSITORY, events_of, run_child, wait_until_dead


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer(preload=("tests.children",))
    yield server
    server.close()


def server_pid(server: ForkServer) -> int:
    return server._process.pid


def test_a_child_gets_its_request_and_a_process_of_its_own(server: ForkServer) -> None:
    ended = [run_child(server, "answer", number=n, text="ä\n") for n in range(2)]
    assert [e.exit_code for e in ended] == [0, 0]
    assert [e.events[0]["request"] for e in ended] == [{"number": n, "text": "ä\n"} for n in (0, 1)]
    pids = {e.events[0]["pid"] for e in ended}
    assert len(pids | {os.getpid(), server_pid(server)}) == 4


def test_a_long_request_arrives_whole(server: ForkServer) -> None:
    names = [f"bf16+channels_last+{number:04}" for number in range(20_000)]
    (event,) = run_child(server, "answer", names=names).events
    assert event["request"] == {"names": names}


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(0.0, 0), (0.0001, 1), (1.5, 1500), (3e6, 2**31 - 1)]
)
def test_a_wait_is_one_that_poll_takes(seconds: float, milliseconds: int) -> None:
    assert poll_ms(seconds) == milliseconds


def test_what_a_child_changes_and_how_it_dies_does_not_reach_the_next(server: ForkServer) -> None:
    before = run_child(server, "answer").events[0]
    assert run_child(server, "leak").exit_code == -signal.SIGSEGV
    after = run_child(server, "answer").events[0]
    assert after == before | {"pid": after["pid"]}
    assert after["state"] == []
    assert after["leak"] is None


@pytest.mark.parametrize("code", [0, 7, 255])
def test_exit_codes_are_reported(server: ForkServer, code: int) -> None:
    assert run_child(server, "end", code=code).exit_code == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_the_signal_that_killed_a_child_is_reported(
    server: ForkServer, number: signal.Signals
) -> None:
    assert run_child(server, "end", signal=int(number)).exit_code == -number


def test_an_exception_is_exit_code_1_and_its_traceback_is_in_the_log(server: ForkServer) -> None:
    ended = run_child(server, "end", message="the child is broken")
    assert ended.exit_code == 1
    assert ended.log.startswith("Traceback")
    assert ended.log.endswith("RuntimeError: the child is broken")


def test_an_entry_that_is_not_there_is_told_in_the_log(server: ForkServer) -> None:
    ended = run_child(server, "no_such_function")
    assert ended.exit_code == 1
    assert "no_such_function" in ended.log


def test_a_module_that_cannot_be_preloaded_stops_nothing() -> None:
    server = ForkServer(preload=("no_such_module", "tests.children"))
    try:
        assert run_child(server, "answer").exit_code == 0
    finally:
        server.close()


def test_all_output_is_captured_and_the_tail_is_cut(
    server: ForkServer, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run_child(server, "write")
    assert set(ended.log.split()) == {"printed", "to", "stderr", "by", "a", "process", "end"}
    ended = run_child(server, "write", bytes=100_000)
    assert len(ended.log) <= 4000
    assert "xxx end" in ended.log
    assert capfd.readouterr() == ("", "")


def test_large_events_arrive_whole_and_in_order(server: ForkServer) -> None:
    ended = run_child(server, "send_large", bytes=2**20)
    assert [event["number"] for event in ended.events] == [0, 1, 2]
    assert all(event["text"] == "x" * 2**20 for event in ended.events)


def test_each_server_has_a_hash_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    hashes = []
    for _ in range(2):
        server = ForkServer(preload=())
        hashes.append({run_child(server, "answer").events[0]["hash"] for _ in range(2)})
        server.close()
    first, second = hashes
    assert len(first) == len(second) == 1
    assert first != second


def start_sleeping(server: ForkServer) -> tuple[int, int]:
    """Process ids of a child that sleeps and of a process that it has started."""
    with tempfile.TemporaryFile() as log:
        child = server.fork("tests.children:sleep", {}, log)
        (event,) = events_of(child, EventReader(child.events))
        child.events.close()
        assert event["pid"] == child.pid
        return child.pid, event["helper"]


def test_kill_ends_a_child_and_what_it_started(server: ForkServer) -> None:
    with tempfile.TemporaryFile() as log:
        child = server.fork("tests.children:sleep", {}, log)
        (event,) = events_of(child, EventReader(child.events))
        child.kill()
        assert server.reply() == {"exit_code": -signal.SIGKILL}
        wait_until_dead(child.pid, event["helper"])
        child.kill()  # of what is gone already
        child.events.close()


def test_close_ends_the_server_and_a_running_child(server: ForkServer) -> None:
    child, helper = start_sleeping(server)
    server.close()
    wait_until_dead(server_pid(server), child, helper)


def test_a_server_that_is_killed_takes_its_child_along_and_says_so(server: ForkServer) -> None:
    child, helper = start_sleeping(server)
    os.kill(server_pid(server), signal.SIGKILL)
    wait_until_dead(child)
    os.kill(helper, signal.SIGKILL)  # a runner does so
    with (
        tempfile.TemporaryFile() as log,
        pytest.raises(ServerGoneError, match=r"^the process that starts trials was killed by SIG"),
    ):
        server.fork("tests.children:answer", {}, log)


PARENT = """
import tempfile, time
from bench.forkserver import ForkServer
from bench.forkserver import EventReader
from tests.harness import events_of
from tests.test_forkserver import server_pid, start_sleeping

server = ForkServer(preload=("tests.children",))
print(server_pid(server), *start_sleeping(server), flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_parent_that_is_killed_leaves_no_process(number: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        server, child, helper = map(int, parent.stdout.readline().split())
        parent.send_signal(number)
        assert parent.wait() == -number
    wait_until_dead(server, child, helper)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(server: ForkServer) -> None:
    assert os.getpgid(server_pid(server)) != os.getpgid(0)
    assert os.getsid(server_pid(server)) != os.getsid(0)


# A process that has called the CUDA driver must not be forked: CUDA does not work in its children.

DRIVER = """
#include <stdio.h>
#include <stdlib.h>
static int called(const char *name) {
    FILE *log = fopen(getenv("UNET_BENCH_TEST_DRIVER"), "a");
    fprintf(log, "%s\\n", name);
    fclose(log);
    return 100; /* CUDA_ERROR_NO_DEVICE */
}
int cuInit(unsigned flags) { return called("cuInit"); }
int cuDriverGetVersion(int *version) { return called("cuDriverGetVersion"); }
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags,
                        void *found) { *address = 0; return called("cuGetProcAddress_v2"); }
int cuGetProcAddress(const char *name, void **address, int version, unsigned long long flags) {
    *address = 0;
    return called("cuGetProcAddress");
}
"""

PRELOAD = """
import os
import bench.worker, unet.colorize
log = os.environ["UNET_BENCH_TEST_DRIVER"]
assert not os.path.exists(log), open(log).read()
import torch
assert not torch.cuda.is_available()
assert os.path.exists(log), "the stand-in was never called, so this shows nothing"
"""


def test_what_the_server_imports_leaves_the_cuda_driver_alone(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler for a stand-in of the driver")
    (tmp_path / "cuda.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    build = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "cuda.c")]
    subprocess.run(build, check=True)
    environ = {
        **os.environ,
        "LD_LIBRARY_PATH": str(tmp_path),
        "UNET_BENCH_TEST_DRIVER": str(tmp_path / "log"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PRELOAD],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
