import errno
import fcntl
import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.environment import COMPARABLE, RECORDED_LATER
from bench.errors import UserError
from bench.evidence.record import locked
from bench.journal import FILE_NAME, PER_FOLDER, Journal, Row, check_comparable, read, read_if_any
from bench.trial import Status, TrialResult
from tests.harness import REPOSITORY, row_of, toy_trial, wait_until


def fill(folder: Path, count: int) -> list[Row]:
    rows = [row_of(toy_trial(batch_size=2**n)) for n in range(count)]
    with Journal(folder) as journal:
        for row in rows:
            journal.append(row)
    return rows


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = fill(tmp_path / "new" / "folder", 3)
    assert read(tmp_path / "new" / "folder") == rows


def test_a_line_stands_alone(tmp_path: Path) -> None:
    (row,) = fill(tmp_path, 1)
    (line,) = (tmp_path / FILE_NAME).read_text().splitlines()
    content = json.loads(line)
    assert content["schema"] == 1
    assert content["key"] == row.trial.key
    assert content["trial"] == row.trial.to_json()
    assert content["status"] == "ok"
    assert {"environment", "data", "workload"} <= content.keys()


def test_the_key_is_stable_and_tells_all_that_was_asked_apart() -> None:
    trial = toy_trial(
        axes={"fault": "none", "flavor": "plain"},
        settings={"size": 64, "sleep_ms": 1, "oom_from": 1},
    )
    assert trial.key == "858b70d888915ad2"
    assert replace(trial, variant="another name for the same").key == trial.key
    changes: list[dict[str, Any]] = [
        {"axes": {"fault": "none", "flavor": "sweet"}},
        {"settings": {**trial.settings, "sleep_ms": 2}},
        {"workload": "tests.toy:OTHER"},
        {"device": "cuda"},
        *({name: 1 + getattr(trial, name)} for name in ("batch_size", "seed", "round", "samples")),
        *({name: 9} for name in ("warmup_steps", "measured_steps", "budget_bytes")),
    ]
    keys = {replace(trial, **change).key for change in changes} | {trial.key}
    assert len(keys) == len(changes) + 1


def test_the_last_line_of_a_key_wins_in_the_place_of_the_first(tmp_path: Path) -> None:
    first, second = fill(tmp_path, 2)
    again = row_of(first.trial, Status.CRASH)
    with Journal(tmp_path) as journal:
        journal.append(again)
        assert journal.rows[first.trial.key] == again
    assert read(tmp_path) == [again, second]
    assert len((tmp_path / FILE_NAME).read_bytes().splitlines()) == 3


def test_values_that_are_not_finite_become_null_at_any_depth(tmp_path: Path) -> None:
    result = TrialResult(
        Status.DIVERGED,
        losses=[1.0, math.nan],
        quality={"final_mse": -math.inf},
        facts={"nested": {"deep": [math.nan, math.inf]}},
    )
    with Journal(tmp_path) as journal:
        journal.append(replace(row_of(toy_trial()), result=result))
    text = (tmp_path / FILE_NAME).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    (row,) = read(tmp_path)
    assert row.result.losses == [1.0, None]
    assert row.result.quality == {"final_mse": None}
    assert row.result.facts == {"nested": {"deep": [None, None]}}


def test_a_line_torn_at_any_byte_is_passed_over_and_cut_when_the_sweep_goes_on(
    tmp_path: Path,
) -> None:
    first, second = fill(tmp_path, 2)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole), 97):
        path.write_bytes(whole[:end])
        assert read(tmp_path) == [first]
        assert path.read_bytes() == whole[:end]  # a reader changes nothing
        with Journal(tmp_path) as journal:
            assert list(journal.rows) == [first.trial.key]
            journal.append(second)
        assert path.read_bytes() == whole


def test_a_first_line_that_is_torn_leaves_an_empty_journal(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b'{"schema":1')
    assert read_if_any(tmp_path) == []
    with Journal(tmp_path) as journal:
        assert journal.rows == {}
    assert (tmp_path / FILE_NAME).read_bytes() == b""


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Inode and size of each file or folder when it was made durable."""
    found: list[tuple[int, int]] = []
    fsync = os.fsync

    def observed(fd: int) -> None:
        told = os.fstat(fd)
        found.append((told.st_ino, told.st_size))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", observed)
    return found


def test_a_new_journal_s_name_is_durable_before_any_row(
    tmp_path: Path, synced: list[tuple[int, int]]
) -> None:
    folder = tmp_path / "out"
    with Journal(folder):
        assert folder.stat().st_ino in [inode for inode, _ in synced]


def test_a_row_is_durable_when_append_returns(
    tmp_path: Path, synced: list[tuple[int, int]]
) -> None:
    with Journal(tmp_path) as journal:
        for number in range(3):
            journal.append(row_of(toy_trial(round=number)))
            told = (tmp_path / FILE_NAME).stat()
            assert synced[-1] == (told.st_ino, told.st_size)
            assert len(synced) == 2 + number  # the folder, and one for each row


def test_a_result_that_could_not_be_read_again_is_a_crash_that_says_so(tmp_path: Path) -> None:
    row = row_of(toy_trial())
    row.result.quality["words"] = "very good"  # type: ignore[assignment]
    with Journal(tmp_path) as journal:
        written = journal.append(row)
        assert list(journal.rows.values()) == [written]
        with pytest.raises(UserError, match=r"data.words null: expected"):
            journal.append(replace(row, data={"words": None}))
    assert read(tmp_path) == [written]
    assert written.result.status is Status.CRASH
    assert 'quality.words "very good"' in str(written.result.reason)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_with_a_way_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / FILE_NAME
    for open_, where in ((Journal, path), (lambda folder: locked(folder).__enter__(), tmp_path)):
        with pytest.raises(UserError) as caught:
            open_(tmp_path)
        message = str(caught.value)
        assert message.startswith(str(where))
        assert os.strerror(number) in message
        assert "--out" in message
        assert "\n" not in message


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda line: {key: value for key, value in line.items() if key != name}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line | {"schema": 2}, "schema 2: expected 1"),
        (without("schema"), "schema None: expected 1"),
        (without("trial"), "not a row of schema 1: trial is missing"),
        (without("environment"), "not a row of schema 1: environment is missing"),
        (lambda line: line | {"odd": 1}, "not a row of schema 1: unknown name 'odd'"),
        (lambda line: line | {"status": "fine"}, 'status "fine": expected ok or oom or'),
        (lambda line: line | {"trial": {"batch_size": 1}}, "trial: workload is missing"),
        (lambda line: line | {"key": 16 * "0"}, "key 0000000000000000: expected"),
        (lambda line: [line], "schema None: expected 1"),
        (lambda line: line | {"window": {}}, "not a row of schema 1: window {}: expected array"),
        (lambda line: line | {"quality": None}, "not a row of schema 1: quality null"),
        (lambda line: line | {"environment": 3}, "not a row of schema 1: environment 3"),
        (lambda line: line | {"previews": "x"}, 'not a row of schema 1: previews "x"'),
    ],
)
def test_a_line_that_is_no_row_is_named_and_left_alone(
    tmp_path: Path, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    fill(tmp_path, 3)
    path = tmp_path / FILE_NAME
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(damage(json.loads(lines[1])))
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    for open_ in (read, Journal):
        with pytest.raises(ValueError, match=f"^{path}, line 2: ") as caught:
            open_(tmp_path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_broken_line_in_the_middle_is_named_with_its_number(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    path = tmp_path / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    with pytest.raises(ValueError, match=f"^{path}, line 2: not JSON: "):
        read(tmp_path)


def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=f"^{folder}: expected a folder with a {FILE_NAME}"):
            read(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from bench.journal import Journal
with Journal(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(3600)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(ValueError, match=f"^--out {tmp_path}: another sweep is writing"):
                Journal(tmp_path)
            assert read_if_any(tmp_path) == []  # a reader needs no lock
        finally:
            other.kill()
    wait_until(lambda: other.poll() is not None)
    fill(tmp_path, 1)


def test_a_refused_writer_releases_nothing_and_a_closed_journal_all(tmp_path: Path) -> None:
    with Journal(tmp_path):
        for _ in range(2):
            with pytest.raises(ValueError, match="another sweep is writing there"):
                Journal(tmp_path)
    fill(tmp_path, 1)


def test_an_output_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"^--out {folder}: "):
            Journal(folder)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_row_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    # In a process of its own, since the limit is the process's.
    script = f"""
import resource
from pathlib import Path
from bench.journal import FILE_NAME, Journal
from tests.harness import row_of, toy_trial
folder = Path({str(tmp_path)!r})
with Journal(folder) as journal:
    journal.append(row_of(toy_trial()))
    end = (folder / FILE_NAME).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (end + 100, resource.RLIM_INFINITY))
    try:
        journal.append(row_of(toy_trial(round=1)))
    except ValueError as error:
        print(error)
    assert (folder / FILE_NAME).stat().st_size == end
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.append(row_of(toy_trial(round=2)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout == (
        f"{tmp_path / FILE_NAME}: File too large; the rows before none b4 round 1 are safe\n"
    )
    assert [row.trial.round for row in read(tmp_path)] == [0, 2]


def test_the_journal_is_an_ordinary_file(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    mode = stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    assert mode == 0o666 & ~umask


DIFFERENCES: dict[str, Any] = {
    **{f"environment.{name}": {name: "other"} for name in COMPARABLE},
    "data.size": {"size": 65},
    "data.source": {"source": "elsewhere"},
    "data.fingerprint": {"fingerprint": "new"},
    **{name: {name: "other" if name in ("workload", "device") else 9} for name in PER_FOLDER},
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_rows_that_cannot_be_compared_are_refused_with_the_key(name: str) -> None:
    row = row_of(toy_trial(), environment=dict.fromkeys(COMPARABLE, "same"))
    change = DIFFERENCES[name]
    if name.startswith("environment."):
        other = replace(row, environment={**row.environment, **change})
    elif name.startswith("data."):
        other = replace(row, data={**row.data, **change})
    else:
        other = replace(row, trial=replace(row.trial, **change))
    for here, there in ((row, other), (other, row)):
        with pytest.raises(
            ValueError, match=rf"^where: {name} is .* there and .* here; "
        ) as caught:
            check_comparable(here, there, "where")
        assert "\n" not in str(caught.value)


def test_a_journal_of_rows_that_cannot_be_compared_is_refused_with_the_line(
    tmp_path: Path,
) -> None:
    rows = [row_of(toy_trial(round=number)) for number in range(3)]
    other = replace(rows[2], environment={**rows[2].environment, "cpu_model": "Another"})
    lines = [row.to_line() for row in (*rows[:2], other)]
    path = tmp_path / FILE_NAME
    path.write_text("".join(lines))
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(
        f"{path}, line 3: environment.cpu_model is 'Another', and None in line 1; "
    )
    path.write_text("".join([*lines, rows[2].to_line()]))  # which replaces it
    assert read(tmp_path) == rows


def test_what_rows_of_old_do_not_record_is_as_good_as_nothing() -> None:
    today = row_of(toy_trial(), environment=dict.fromkeys(COMPARABLE))
    old = replace(
        today,
        environment={
            name: value for name, value in today.environment.items() if name not in RECORDED_LATER
        },
    )
    check_comparable(old, today, "where")
    check_comparable(today, old, "where")
    for name in RECORDED_LATER:
        told = replace(today, environment={**today.environment, name: "A=1"})
        with pytest.raises(ValueError, match=rf"environment.{name} is None there and 'A=1' here"):
            check_comparable(old, told, "where")


def test_rows_of_one_sweep_can_be_compared() -> None:
    trial = toy_trial()
    changes: list[dict[str, Any]] = [
        {"batch_size": 8},
        {"round": 1},
        {"seed": 1},
        {"axes": {"fault": "raise", "flavor": "plain"}},
        {"settings": {**trial.settings, "sleep_ms": 5}},
    ]
    for change in changes:
        check_comparable(row_of(trial), row_of(replace(trial, **change)), "where")
    dirty = row_of(trial, environment={**row_of(trial).environment, "commit": "x", "dirty": True})
    check_comparable(row_of(trial), dirty, "where")
