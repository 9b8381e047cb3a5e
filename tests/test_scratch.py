"""The temporary folder of a runner: it goes with its process, or when the next one starts."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import scratch
from bench.runner import Runner
from bench.scratch import PREFIX, ScratchFolder
from tests.harness import REPOSITORY

Holder = tuple[Path, "subprocess.Popen[str]"]

TASK = "tests.toy_task:ToyTask"

HOLD = f"""
import sys
from bench.runner import Runner
runner = Runner({TASK!r}, 60)
print(runner._folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def holder(parent: Path) -> Iterator[Holder]:
    """A process that has a runner, and the folder of it."""
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        yield folder, process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
def test_what_a_killed_process_has_left_is_removed_by_the_next_one(
    holder: Holder, parent: Path, number: signal.Signals
) -> None:
    left, process = holder
    (left / "more").mkdir()
    with Runner(TASK, 60):
        assert left.exists()  # its process lives
    process.send_signal(number)
    process.wait()
    assert left.exists()
    with Runner(TASK, 60) as runner:
        assert [path for path in parent.iterdir() if path.is_dir()] == [runner._folder.path]
    assert not [path for path in parent.iterdir() if path.is_dir()]


def test_what_is_not_known_to_be_abandoned_stays(parent: Path) -> None:
    (parent / f"{PREFIX}being-made").mkdir()
    (parent / f"{PREFIX}file").touch()
    elsewhere = parent / "elsewhere"
    ScratchFolder().path.rename(elsewhere)  # abandoned, since nothing holds the object
    (parent / f"{PREFIX}link").symlink_to(elsewhere)
    scratch.remove_abandoned(parent)
    names = {path.name for path in parent.iterdir()}
    assert names >= {f"{PREFIX}being-made", f"{PREFIX}file", "elsewhere"}


def test_it_belongs_to_its_user_alone() -> None:
    folder = ScratchFolder()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()
    folder.remove()
    assert not folder.path.exists()


@pytest.mark.parametrize("name", ["a b", "it's", "$x"])
def test_its_path_needs_no_quoting(
    name: str, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = parent / name
    asked.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(asked))
    monkeypatch.setattr(scratch, "_OTHERS", (str(parent / "missing"), str(parent)))
    assert scratch.temporary_folder() == parent
    monkeypatch.setattr(scratch, "_OTHERS", ())
    assert scratch.temporary_folder() == asked
    assert os.access(asked, os.W_OK)
