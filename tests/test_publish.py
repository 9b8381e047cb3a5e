"""What may be published, what it is called then, and what is written."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import search, stopping
from bench.environment import ROOT, source_fingerprint
from bench.journal import FILE_NAME, Row
from bench.previews import FOLDER as PREVIEWS
from bench.publish import ABOUT, NAME, device_slug, is_committed
from bench.report.published import INDEX_BEGINS, INDEX_ENDS
from bench.stopping import Run, Stop
from bench.trial import Status
from tests.commands import main
from tests.report_rows import (
    at_minutes,
    bad,
    in_environment,
    in_rounds,
    noise_description,
    of_today,
    timed,
)

COMMIT = "0123456789" * 4
ENVIRONMENT = {
    "commit": COMMIT,
    "device_name": "AMD EPYC 7B13 Processor",
    "torch": "2.15.0+cu132",
    "gpu_uuid": None,
    "cpus_allowed": 2,
    "command": "unet-bench sweep ladder --rounds 5",
}
FIVE = (1.0, 1.004, 0.997, 1.002, 0.998)
ENDED = Run("unet-bench sweep ladder --rounds 5", "2026", "2026", Stop.ROUNDS, 5, None, None)


def fit(**environment: Any) -> list[Row]:
    """Rows that may be published."""
    rows = [
        *in_rounds("fp32", 16, 100, FIVE),
        *in_rounds("bf16", 16, 150, FIVE),
        *(bad("bf16", 32, Status.OOM, round=number) for number in range(5)),
    ]
    rows = [replace(row, workload=rows[0].workload) for row in rows]
    rows.sort(key=lambda row: row.trial.round)  # measured in turn
    return at_minutes(in_environment(rows, **(ENVIRONMENT | environment)), 0)


def write(folder: Path, rows: Sequence[Row], run: Run | None = ENDED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text("".join(row.to_line() for row in rows))
    if run:
        stopping.record(folder, run)
    return folder


Publish = Callable[..., tuple[object, str, str]]


@pytest.fixture
def publish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Publish:
    def run(folder: Path, *more: str) -> tuple[object, str, str]:
        return main(["publish", str(folder), "--to", str(tmp_path / "results"), *more], capsys)

    return run


TARGET = "2026-01-01_amd-epyc-7b13-2-cores_torch-2.15.0_ladder"


def test_a_folder_is_published_with_all_there_is_to_see(tmp_path: Path, publish: Publish) -> None:
    rows = fit()
    rows[0] = replace(rows[0], result=replace(rows[0].result, previews={"true": f"{'a' * 16}.png"}))
    folder = write(tmp_path / "mine", rows)
    (folder / PREVIEWS).mkdir()
    for name in "ab":
        (folder / PREVIEWS / f"{name * 16}.png").write_bytes(b"a picture")
    (folder / "notes-to-self.txt").write_text("not to be published")
    code, out, error = publish(folder, "--about", "What each switch bought")
    target = tmp_path / "results" / TARGET
    assert (code, error) == (0, "")
    assert out.splitlines() == [
        f"Published: {target}",
        f"Written: {tmp_path / 'results' / 'README.md'}",
    ]
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    kinds = ("throughput", "memory", "quality", "ladder", "steps", "timeline")
    assert there == {
        *("journal.jsonl", "runs.jsonl", "README.md", "report.html", "table.csv", "table.json"),
        *("about.md", f"previews/{'a' * 16}.png"),
        *(f"plots/{kind}.{suffix}" for kind in kinds for suffix in ("svg", "png")),
    }
    assert (target / FILE_NAME).read_bytes() == (folder / FILE_NAME).read_bytes()
    page = (target / "README.md").read_text()
    for words in (
        f"# {TARGET}",
        "What each switch bought",
        "Use bf16 at batch 16: 1.50x",
        "Fastest here: bf16 at batch 16",
        "(plots/throughput.svg)",
        "<summary>View ladder</summary>",
        "unet-bench sweep ladder --rounds 5",
    ):
        assert words in page
    for name in re.findall(r"\]\(([^)]+)\)", page):
        assert (target / name).is_file()
    table = pd.read_csv(target / "table.csv")
    assert list(table["variant"]) == ["fp32", "bf16", "bf16"]
    assert not list((tmp_path / "results").glob(".publishing-*"))


def test_the_index_has_machines_side_by_side(tmp_path: Path, publish: Publish) -> None:
    publish(write(tmp_path / "one", fit()), "--about", "On a server")
    gpu = {"device_name": "NVIDIA GeForce RTX 4060", "gpu_uuid": "GPU-1"}
    publish(write(tmp_path / "two", fit(**gpu)), "--about", "On a card")
    results = tmp_path / "results"
    lines = (results / "README.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| theme |"))
    assert head == "| theme | amd epyc 7b13 2 cores | nvidia geforce rtx 4060 |"
    (ladder,) = [line for line in lines if line.startswith("| ladder |")]
    cells = ladder.strip("| ").split(" | ")
    assert len(cells) == 3
    for cell in cells[1:]:
        assert cell.endswith("bf16 b16, 150.0 images/s, 1.50x [1.50, 1.50] fp32")
    assert any("On a card" in line for line in lines)
    publish(write(tmp_path / "three", fit()), "--name", "again")
    text = (results / "README.md").read_text()
    assert "| again | [2026-01-01]" in text
    assert "| not measured |" in text


def test_what_stands_around_the_index_stays(tmp_path: Path, publish: Publish) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "README.md").write_text(
        f"# Mine\n\n{INDEX_BEGINS}\nof long ago\n{INDEX_ENDS}\n\nMethod\n"
    )
    publish(write(tmp_path / "one", fit()))
    text = (results / "README.md").read_text()
    assert text.startswith(f"# Mine\n\n{INDEX_BEGINS}\nMachine beside machine")
    assert text.endswith(f"{INDEX_ENDS}\n\nMethod\n")
    assert "of long ago" not in text


def test_without_its_marks_the_index_is_not_touched(tmp_path: Path, publish: Publish) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "README.md").write_text("# Mine\n")
    code, _, error = publish(write(tmp_path / "one", fit()))
    assert code == 2
    assert "expected a line <!-- index -->" in error
    assert [path.name for path in results.iterdir()] == ["README.md"]


def test_what_is_said_of_a_folder_stays_in_its_cell(tmp_path: Path, publish: Publish) -> None:
    evil = "a | b <script>x</script>\n## heading\n<!-- end of the index -->"
    publish(write(tmp_path / "one", fit()), "--about", evil)
    publish(write(tmp_path / "two", fit()), "--name", "two")
    text = (tmp_path / "results" / "README.md").read_text()
    assert text.count(INDEX_ENDS) == text.count("## heading") == 1
    assert "<script>" not in text
    assert r"| a \| b &lt;script>" in text


def test_what_a_journal_says_is_text_on_the_page(tmp_path: Path, publish: Publish) -> None:
    rows = fit()
    evil = "a | b\n# heading <img src=x> ![](http://example.com/x.png)"
    rows[-1] = replace(rows[-1], result=replace(rows[-1].result, reason=evil, status=Status.CRASH))
    publish(write(tmp_path / "one", rows))
    page = (tmp_path / "results" / TARGET / "README.md").read_text()
    assert "\n# heading" not in page
    assert "<img" not in page
    assert "](http" not in page


def test_outside_a_checkout_nothing_is_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "one", fit())
    monkeypatch.chdir(tmp_path)
    code, _, error = main(["publish", str(folder)], capsys)
    assert code == 2
    assert "there is no results/README.md here; expected to be in a checkout, or --to" in error
    assert not (tmp_path / "results").exists()
    code, _, error = main(["publish", str(folder), "--to", ""], capsys)
    assert (code, error) == (2, "unet-bench: --to '': expected a folder\n")


def test_a_torn_journal_is_not_whole(
    tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "one", fit())
    with (folder / FILE_NAME).open("a") as file:
        file.write('{"schema": 1, "key"')
    code, _, error = publish(folder)
    assert code == 2
    assert "the last line of its journal is not whole" in error
    _, out, _ = main(["report", str(folder)], capsys)
    assert "The last line of the journal is not whole, and is left out." in out


def test_what_is_published_can_be_rendered_anew(tmp_path: Path, publish: Publish) -> None:
    publish(write(tmp_path / "one", fit()), "--about", "Before")
    target = tmp_path / "results" / TARGET
    (target / "more.md").write_text("put here by hand")
    (target / "plots" / "gone.svg").write_text("of an earlier version")
    (target / "report.html").unlink()
    (target / "table.csv").write_text("old")
    code, out, _ = publish(target)
    assert code == 0
    assert (target / "report.html").is_file()
    assert (target / "table.csv").read_text().count("\n") == 4
    assert (target / "more.md").read_text() == "put here by hand"
    assert not (target / "plots" / "gone.svg").exists()
    assert (target / ABOUT).read_text() == "Before\n"
    assert f"Rendered anew: {target}" in out
    code, _, error = publish(target, "--name", "other")
    assert code == 2
    assert "is published already, and keeps its name" in error


def rows_without(rows: Sequence[Row], *numbers: int) -> list[Row]:
    return [row for place, row in enumerate(rows) if place not in numbers]


def changed(rows: Sequence[Row], place: int, **environment: Any) -> list[Row]:
    return [
        *rows[:place],
        *in_environment(rows[place : place + 1], **environment),
        *rows[place + 1 :],
    ]


@pytest.mark.parametrize(
    ("rows", "run", "words"),
    [
        (fit(), None, "nothing tells that it is complete: it has no runs.jsonl"),
        (fit(), replace(ENDED, stopped_by=Stop.INTERRUPTED), "its last run was interrupted; the"),
        (fit(), replace(ENDED, stopped_by=Stop.MAX_TIME), "its last run ran out of time; the same"),
        (rows_without(fit(), 7), ENDED, "bf16 b16 has 4 rounds, others have 5"),
        (fit(dirty=True), ENDED, "measured with uncommitted changes"),
        (changed(fit(), 3, commit="f" * 40), ENDED, f"several commits: {COMMIT}, {'f' * 40}"),
        (changed(fit(), 3, torch="2.14"), ENDED, "is '2.14', and '2.15.0+cu132' in line 1; rows"),
        (fit(commit=None, source="0" * 16), ENDED, "no commit here has that code"),
        (
            [row for row in fit() if row.trial.round < 3],
            ENDED,
            "the noise floor of fp32 b16 is not known: rounds are 3, and 5 are needed",
        ),
        ([row for row in fit() if row.result.status is Status.OOM], ENDED, "no trial ended well"),
    ],
    ids=[
        *("no record", "interrupted", "out of time", "rounds missing", "dirty", "commits"),
        *("environments", "unknown code", "noise", "nothing"),
    ],
)
def test_what_is_not_fit_is_refused_and_why_is_told(
    rows: list[Row], run: Run | None, words: str, tmp_path: Path, publish: Publish
) -> None:
    code, out, error = publish(write(tmp_path / "mine", rows, run))
    assert (code, out) == (2, "")
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_all_that_is_missing_is_told_at_once(tmp_path: Path, publish: Publish) -> None:
    _, _, error = publish(write(tmp_path / "mine", fit(dirty=True)[:9], None))
    assert "it has no runs.jsonl" in error
    assert "measured with uncommitted changes" in error
    assert "noise floor of fp32 b16 is not known" in error


def test_a_measured_noise_floor_does_for_few_rounds(tmp_path: Path, publish: Publish) -> None:
    rows = [timed("fp32", 16, 100), timed("bf16", 16, 150)]
    settled = at_minutes(in_environment(rows, **ENVIRONMENT), 0)
    assert publish(write(tmp_path / "one", settled))[0] == 2
    known = in_environment(settled, noise=noise_description(0.01, batch_size=16))
    assert publish(write(tmp_path / "two", known))[0] == 0


def test_seeds_are_repetitions_too(tmp_path: Path, publish: Publish) -> None:
    rows = [timed("fp32", 16, 100, seed=seed) for seed in range(5)]
    rows = at_minutes(in_environment(rows, **ENVIRONMENT), 0)
    assert publish(write(tmp_path / "one", rows))[0] == 0
    assert publish(write(tmp_path / "two", rows[:4]), "--name", "four")[0] == 2


def test_a_search_has_rounds_where_it_certifies(tmp_path: Path, publish: Publish) -> None:
    rows = [*in_rounds("fp32", 16, 100, FIVE), of_today("fp32", 24, rows_of_one().result)]
    rows = in_environment(rows, **(ENVIRONMENT | {"noise": noise_description(0.01, batch_size=16)}))
    folder = write(tmp_path / "one", at_minutes(rows, 0))
    certified = {"fp32": {"batch_size": 16, "because": "memory"}}
    (folder / search.FILE_NAME).write_text(json.dumps({"variants": certified}))
    assert publish(folder)[0] == 0
    assert "<summary>View max-batch</summary>" in (
        (tmp_path / "results" / TARGET / "README.md").read_text()
    )


def rows_of_one() -> Row:
    return timed("fp32", 24, 110)


def test_nothing_is_overwritten(tmp_path: Path, publish: Publish) -> None:
    publish(write(tmp_path / "one", fit()))
    code, _, error = publish(write(tmp_path / "two", fit()))
    assert code == 2
    assert "is there already; --name gives it another name" in error


@pytest.mark.parametrize("theme", ["Ladder", "a b", "../up", "", "a_b", "-a"])
def test_a_theme_is_a_word(theme: str, tmp_path: Path, publish: Publish) -> None:
    code, _, error = publish(write(tmp_path / "one", fit()), f"--name={theme}")
    assert code == 2
    assert f"--name {theme!r}: expected small letters, digits and single hyphens" in error


def test_what_is_no_folder_of_ours_is_told(tmp_path: Path, publish: Publish) -> None:
    code, _, error = publish(tmp_path / "nowhere")
    assert code == 2
    assert "expected a folder with a journal.jsonl in it" in error


@pytest.mark.parametrize(
    ("command", "theme"),
    [
        ("unet-bench sweep ladder --rounds 5", "ladder"),
        ("unet-bench sweep", "quick"),
        ("unet-bench sweep --rounds 5", "quick"),
        ("unet-bench sweep there/mine.toml", "mine"),
        ("unet-bench max-batch bf16", "max-batch"),
        ("unet-bench doctor --noise", "noise"),
    ],
)
def test_the_theme_is_what_was_asked_for(
    command: str, theme: str, tmp_path: Path, publish: Publish
) -> None:
    _, out, _ = publish(write(tmp_path / "one", fit(), replace(ENDED, command=command)))
    name = Path(out.splitlines()[0].removeprefix("Published: ")).name
    match = NAME.fullmatch(name)
    assert match
    assert match.groups() == ("2026-01-01", "amd-epyc-7b13-2-cores", "2.15.0", theme)


@pytest.mark.parametrize(
    ("name", "uuid", "slug"),
    [
        ("Intel(R) Xeon(R) Processor", None, "intel-xeon-2-cores"),
        ("AMD EPYC", None, "amd-epyc-2-cores"),
        ("NVIDIA GeForce RTX 4060 Ti", "GPU-1", "nvidia-geforce-rtx-4060-ti"),
        ("NVIDIA H100 80GB HBM3", "GPU-1", "nvidia-h100-80gb-hbm3"),
    ],
)
def test_a_device_has_a_name_in_paths(name: str, uuid: str | None, slug: str) -> None:
    told = {"device_name": name, "gpu_uuid": uuid, "cpus_allowed": 2}
    assert device_slug(told) == slug


def test_kernels_are_published_too(tmp_path: Path, publish: Publish) -> None:
    (folder,) = ROOT.glob("results/2*_kernels")
    shutil.copytree(folder, tmp_path / "mine", ignore=shutil.ignore_patterns("*.md", "table*"))
    code, out, error = publish(tmp_path / "mine", "--about", "Lab kernels")
    assert (code, error) == (0, "")
    target = Path(out.splitlines()[0].removeprefix("Published: "))
    assert target.name == folder.name
    page = (target / "README.md").read_text()
    assert "Lab kernels" in page
    assert "| training batch | reference |" in page
    assert "unet-bench kernels" in page
    assert {"kernels.json", "table.csv", "table.json"} < {path.name for path in target.iterdir()}


def test_code_outside_git_is_known_by_its_content(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout with its history")
    listed = subprocess.run(
        ["git", "archive", "HEAD", "bench", "kernels", "unet"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=listed.stdout, check=True)
    outside = {"commit": None, "dirty": None}
    assert is_committed({**outside, "source": source_fingerprint(tmp_path)})
    assert not is_committed({**outside, "source": "0" * 16})
    assert not is_committed(outside)
    assert not is_committed({"commit": "abc", "dirty": True})
    assert not is_committed({**outside, "source": "0" * 16}, tmp_path)
