"""The search for the largest batch: what probes are taken for, and the command from end to end."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import journal, search, sweep
from bench.runner import Runner
from bench.search import FILE_NAME, MEMORY, PROBES, Certificate, Limits, Search, _peak_bytes, read
from bench.sweep import Observer, Plan
from bench.trial import Status, TrialResult
from tests.commands import main
from tests.harness import (
    BUDGET_BYTES,
    CommandLine,
    Recorder,
    row_of,
    toy_plan,
    wait_until,
)
from tests.report_rows import bad

BUDGET = 8000.0
TARGET = 0.95 * BUDGET


def line(constant: float, slope: float) -> Callable[[int], float]:
    return lambda size: constant + slope * size


def narrowed(asked: Search, truth: Callable[[int], float], shown: float = BUDGET) -> list[int]:
    """Probes until the search has ended; what is beyond `shown` runs out of memory."""
    sizes: list[int] = []
    while (size := asked.next()) is not None:
        assert len(sizes) < PROBES
        assert size not in sizes
        sizes.append(size)
        peak = truth(size)
        asked.told(size, peak if peak <= shown else None)
    return sizes


@pytest.mark.parametrize(
    ("truth", "most"),
    [
        (line(500, 40), 1),  # as predicted
        (line(900, 40), 2),  # a constant that nobody knew of
        (line(200, 40), 2),
        (line(500, 42), 3),
        (line(500, 44), 4),  # what is predicted runs out of memory
        (line(500, 36), 3),
        (line(900, 60), 9),
        (line(500, 200), 10),  # wildly wrong
    ],
)
@pytest.mark.parametrize("step", [1, 8])
def test_the_largest_batch_is_found_in_a_few_probes(
    truth: Callable[[int], float], most: int, step: int
) -> None:
    asked = Search(line(500, 40), TARGET, step, cap=10_000)
    sizes = narrowed(asked, truth)
    assert len(sizes) <= most
    assert asked.best % step == 0
    assert 0 < truth(asked.best) <= TARGET
    # The next one does not fit, or is nearer than what it is worth.
    assert truth(asked.best + max(step, round(0.05 * asked.best))) > TARGET


def test_a_cap_is_kept_and_needs_one_probe() -> None:
    asked = Search(line(500, 40), TARGET, 8, cap=100)
    assert narrowed(asked, line(500, 40)) == [96]
    assert asked.best == 96


def test_where_nothing_fits_there_is_no_batch() -> None:
    asked = Search(line(500, 40), TARGET, 1, cap=10_000)
    narrowed(asked, line(9000, 40))
    assert asked.best == 0


def test_a_batch_that_fails_later_is_the_best_no_more() -> None:
    asked = Search(line(500, 40), TARGET, 1, cap=10_000)
    (size,) = narrowed(asked, line(500, 40))
    asked.told(size, None)
    assert asked.best == 0
    narrowed(asked, line(500, 41))
    assert 0 < asked.best < size


ON_CPU = {
    "budget_bytes": 1000,
    "limit_vm_data_bytes": 1500,
    "peak_vm_data_bytes": 1400,
    "peak_bytes": 700,
    "first_step_peak_bytes": 800,
}
ON_CUDA = {
    "peak_bytes": 900,
    "first_step_peak_bytes": 800,
    "alloc_retries": 2,
    "warmup_alloc_retries": 2,
}


@pytest.mark.parametrize(
    ("memory", "near"),
    [
        (ON_CPU, 900),  # 100 from the limit, which holds for what is only reserved
        (ON_CPU | {"peak_bytes": None, "first_step_peak_bytes": None}, 900),  # not readable
        (ON_CPU | {"peak_bytes": 950}, 950),
        (ON_CUDA, 900),
        (ON_CUDA | {"alloc_retries": 3}, None),  # it only ran by emptying its cache
    ],
)
def test_how_near_a_process_came_to_its_limit(
    memory: dict[str, int | str | None], near: int | None
) -> None:
    assert _peak_bytes(TrialResult(Status.OK, memory=memory)) == near
    assert _peak_bytes(TrialResult(Status.OOM, memory=memory)) is None


# The command.


def run(folder: Path, *more: str) -> list[str]:
    words = ["max-batch", "--set", "workload=tests.toy:TOY", "--set", "oom_from=10"]
    words += ["--cap", "16", "--device", "cpu", "--budget", "1GiB", "--out", str(folder)]
    return [*words, "--set", "measured_steps=2", "--set", "warmup_steps=1", *more]


def test_the_largest_batch_is_certified_and_what_failed_stays_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = main(run(tmp_path, "oom", "nan", "too-large"), capsys)
    assert code == 1, error  # for one of those asked for
    assert "at batch 16 diverged" in out
    line = next(text for text in out.splitlines() if text.split()[:1] == ["oom"])
    assert line.split()[1] == "9"
    rows = {row.trial.label: row for row in journal.read(tmp_path)}
    assert rows["oom b9"].result.status is rows["oom b9 round 1"].result.status is Status.OK
    assert rows["oom b10"].result.status is Status.OOM
    assert rows["too-large b10"].result.status is Status.UNSUPPORTED
    found = read(tmp_path)["too-large"]
    assert found.batch_size == 9
    assert "2147483648 elements" in found.because
    # The plain variant, uncalled for: others are held against its largest power of two.
    assert rows["none b16 round 1"].result.status is Status.OK
    assert len({row.trial.samples for row in rows.values()}) == 1
    # The same command again measures nothing.
    before = (tmp_path / journal.FILE_NAME).read_bytes()
    code, out, _ = main(run(tmp_path, "oom", "--json"), capsys)
    assert code == 0
    assert (tmp_path / journal.FILE_NAME).read_bytes() == before
    told = {cell["variant"]: cell for cell in json.loads(out)}
    assert (told["oom"]["max_batch"], told["oom"]["because"]) == (9, "memory")
    assert (told["none"]["max_batch"], told["none"]["because"]) == (16, "--cap")
    # As the report tells later.
    code, out, _ = main(
        ["report", str(tmp_path), "--view", "max-batch", "--format", "json"], capsys
    )
    assert {cell["variant"]: cell["max_batch"] for cell in json.loads(out)} == {
        "none": 16,
        "oom": 9,
    }
    # What the folder's trials have no samples for is refused.
    code, _, error = main(run(tmp_path, "oom", "--cap", "32"), capsys)
    assert code == 2
    assert "its trials have" in error


def test_a_batch_that_a_further_process_does_not_hold_is_not_certified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "found"
    words = run(folder, "oom-later", "--set", f"mark={tmp_path / 'mark'}")
    code, out, error = main(words, capsys)
    assert code == 0, error
    assert "oom-later: a further process did not hold batch 16." in out
    status = {row.trial.label: row.result.status for row in journal.read(folder)}
    assert status["oom-later b16"] is Status.OK
    assert status["oom-later b16 round 1"] is Status.OOM
    assert status["oom-later b9"] is status["oom-later b9 round 1"] is Status.OK
    assert read(folder)["oom-later"] == Certificate(9, MEMORY)
    # Another margin is another search of the same rows.
    before = (folder / journal.FILE_NAME).read_bytes()
    code, _, error = main([*words, "--margin", "40%"], capsys)
    assert code == 0, error
    assert json.loads((folder / FILE_NAME).read_text())["limits"]["margin"] == 0.4
    assert (folder / journal.FILE_NAME).read_bytes() == before


def test_an_interrupted_search_tells_how_to_go_on(tmp_path: Path) -> None:
    folder, mark = tmp_path / "found", tmp_path / "mark"
    command = CommandLine(*run(folder, "none", "hang-later", "--set", f"mark={mark}"))
    wait_until(mark.exists)
    command.send(signal.SIGINT)
    code, output = command.wait()
    assert code == 130, output
    assert f"Interrupted. To go on: the same command with --out {folder}" in output
    assert "Traceback" not in output
    *before, last = journal.read(folder)
    assert [row.result.status for row in before] == [Status.OK] * len(before)
    assert (last.trial.variant, last.result.status) == ("hang-later", Status.INTERRUPTED)
    assert not (folder / FILE_NAME).exists()
    assert command.processes() == []


CONTEXT = 400 << 20
SLOPE = 20 << 20


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose trials take 20 MiB an image, and run only by thrashing from 25 on."""

    def measured(plan: Plan, observer: Observer, runner: Runner) -> bool:
        with journal.Journal(plan.folder) as written:
            for trial in plan.spec.trials("cuda", BUDGET_BYTES):
                if trial.key not in written.rows:
                    memory = {"peak_bytes": SLOPE * trial.batch_size, "warmup_alloc_retries": 1}
                    memory["alloc_retries"] = 1 + (trial.batch_size >= 25)
                    row = row_of(trial)
                    row.result.memory |= memory
                    written.append(row)
        return True

    monkeypatch.setattr(sweep, "situate", lambda *_: ({"device": "cuda"}, BUDGET_BYTES))
    monkeypatch.setattr(sweep, "check_budget", lambda *_: CONTEXT)
    monkeypatch.setattr(sweep, "run", measured)


@pytest.mark.parametrize(("margin", "largest"), [(0.05, 24), (0.3, 15)])
def test_on_a_gpu_the_context_takes_its_part_and_thrashing_is_no_fit(
    margin: float, largest: int, tmp_path: Path, gpu: None
) -> None:
    plan = toy_plan(tmp_path / "found", variants=["none"], rounds=2, batch_size=1)
    found = search.run(plan, Limits(1, 64, margin), None, Recorder())
    assert found == {"none": Certificate(largest, MEMORY)}
    # 24 was the last without retries; with 30 % left free, the context leaves room for 15.
    assert largest == 24 or SLOPE * 16 > 0.7 * BUDGET_BYTES - CONTEXT >= SLOPE * 15


def test_a_search_limited_by_samples_can_be_repeated_in_its_folder(
    tmp_path: Path, gpu: None
) -> None:
    plan = toy_plan(tmp_path / "found", variants=["none"], rounds=2, batch_size=1)
    for _ in range(2):
        found = search.run(plan, Limits(1, 64, 0.05), 18, Recorder())
        assert found == {"none": Certificate(3, "samples")}  # of 6 steps each


def test_a_variant_that_the_device_cannot_do_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = main(run(tmp_path, "unsupported"), capsys)
    assert code == 2
    assert "unsupported: cpu cannot do this" in error
    assert not (tmp_path / journal.FILE_NAME).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "max-batch.json: expected it as max-batch writes it"),
        ("[]", "max-batch.json: expected it as max-batch writes it"),
        ('{"variants": {"fp32": {"batch_size": "x", "because": 3}}}', "expected it as max-batch"),
        (
            '{"variants": {"fp32": {"batch_size": 99, "because": "--cap"}}}',
            "the journal has no batch 99 of fp32 that ended well, which max-batch has certified",
        ),
    ],
)
def test_what_max_batch_has_not_written_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with journal.Journal(tmp_path) as written:
        written.append(bad("fp32", 4, Status.OOM))
    (tmp_path / FILE_NAME).write_text(text)
    code, _, error = main(["report", str(tmp_path), "--view", "max-batch"], capsys)
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_where_nothing_fits_it_is_told_how_near_the_smallest_came(
    tmp_path: Path, gpu: None
) -> None:
    plan = toy_plan(tmp_path / "found", variants=["none"], rounds=2, batch_size=1)
    found = search.run(plan, Limits(1, 64, 0.59), None, Recorder())
    assert found == {"none": Certificate(0, "memory: batch 1 came to 20 MiB")}


def test_a_folder_without_a_search_has_no_such_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = main(["report", str(tmp_path), "--view", "max-batch"], capsys)
    assert code == 2
    assert str(tmp_path) in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cap", "0"], "--cap '0': expected a whole number from 1 on"),
        (["--multiple-of", "x"], "--multiple-of 'x': expected a whole number from 1 on"),
        (["--cap", "4", "--multiple-of", "8"], "--cap 4: expected at least --multiple-of 8"),
        (["--margin", "100%"], "--margin '100%': expected a percentage above 0 and below 100"),
        (
            ["--set", "batch_size=4"],
            "--set batch_size=4: max-batch finds or decides batch_size itself",
        ),
        (["--set", "seed=1,2"], "--set seed=1,2: expected one value"),
        (["--rounds", "1"], "rounds 1: expected at least 2, to certify"),
        (["--budget", "0GiB"], "memory size '0GiB': expected a positive one"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = main(["max-batch", *words, "--out", str(tmp_path)], capsys)
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_budget_that_is_too_small_for_anything_is_told_with_what_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "image_size=64", "--set", "width=64", "--budget", "500MiB"]
    words = ["max-batch", "fp32", *words, "--device", "cpu", "--out", str(tmp_path)]
    code, _, error = main(words, capsys)
    assert code == 2
    assert "budget 500 MiB: fp32 at batch 1 needs" in error
    assert not (tmp_path / journal.FILE_NAME).exists()
