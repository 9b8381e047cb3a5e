"""`report` by view, as a user types it."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import arguments, cli, kernel_times, search
from bench.journal import Journal
from bench.report import views
from tests.report_rows import COMPILED, EAGER, SLOWER, timed

REDUCED = timed("bf16", 4, 180, final_mse=85.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with Journal(folder) as journal:
        for row in (EAGER, COMPILED, SLOWER, REDUCED):
            journal.append(row)
    return folder


def report(
    folder: Path, words: str | Sequence[str], capsys: pytest.CaptureFixture[str]
) -> tuple[object, str, str]:
    words = words.split() if isinstance(words, str) else words
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", str(folder), *words])
    out, error = capsys.readouterr()
    return caught.value.code, out, error


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("compiled-vs-eager", ("max-autotune", "~1.50x", "42.0")),
        ("amp", ("bf16", "~1.80x")),
        ("ladder", ("fp32+compile", "150.0")),
    ],
)
def test_each_view_is_printed(
    view: str, words: Sequence[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = report(folder, f"--view {view}", capsys)
    assert (code, error) == (0, "")
    for word in words:
        assert word in out


def test_a_view_comes_in_every_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {
        style: report(folder, f"--view compiled-vs-eager --format {style}", capsys)[1]
        for style in ("json", "csv", "md")
    }
    records = json.loads(texts["json"])
    lines = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert len(records) == len(lines) == 2
    assert [list(record) for record in records] == [list(line) for line in lines]
    speedups = [record["speedup"] for record in records]
    assert speedups == pytest.approx([1.5, 0.9])
    assert [float(line["speedup"]) for line in lines] == pytest.approx(speedups)
    assert texts["md"].count("\n|") >= 3
    assert "1.50x" in texts["md"]


def test_a_run_s_length_makes_a_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "--view compiled-vs-eager"
    # Compiling takes 42 s more, and saves 1/300 s an image: it pays from 12,600 images on.
    short = report(folder, f"{asked} --images 1000", capsys)
    long = report(folder, f"{asked} --epochs 100", capsys)  # of 1000 images
    assert (short[0], long[0]) == (0, 0)
    assert "1,000 images" in short[1]
    assert "100 epochs" in long[1]
    assert short[1].splitlines()[-1] != long[1].splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--view compiled", "--view 'compiled': did you mean 'compiled-vs-eager'? expected one of"),
        ("--view AMP", "--view 'AMP': did you mean 'amp'?"),
        ("--view=", "--view ''"),
        ("--view", "--view: expected one argument"),
        ("--epochs 3", "--images and --epochs: expected with --view compiled-vs-eager"),
        ("--images 3", "--images and --epochs: expected with --view compiled-vs-eager"),
        ("--view max-batch --images 3", "--images and --epochs: expected with --view compiled-vs-"),
        ("--view kernels --epochs 3", "--images and --epochs: expected with --view compiled-vs-"),
        ("--view kernals", "--view 'kernals': did you mean 'kernels'?"),
        ("--view amp --epochs 3", "--epochs: only --view compiled-vs-eager takes the length"),
        ("--view compiled-vs-eager --epochs x", "--epochs 'x': expected a number"),
        ("--view compiled-vs-eager --epochs 0", "--epochs 0: expected a number above 0"),
        ("--view compiled-vs-eager --images=-5", "--images -5: expected a number above 0"),
        ("--view compiled-vs-eager --images nan", "--images nan: expected a number above 0"),
        ("--view compiled-vs-eager --images inf", "--images inf: expected a number above 0"),
        (
            "--view compiled-vs-eager --images 5 --epochs 3",
            "--images and --epochs: expected at most one of them",
        ),
        ("--view amp --format xml", "--format 'xml': expected one of table, md, csv, json"),
    ],
)
def test_a_mistake_about_views_is_one_line(
    words: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = report(folder, words, capsys)
    assert (code, out) == (2, "")
    assert error.startswith("unet-bench: ")
    assert expected in error
    assert error.count("\n") == 1


def test_a_view_without_anything_to_show_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(tmp_path) as journal:
        journal.append(EAGER)
    for view in ("compiled-vs-eager", "amp"):
        code, out, error = report(tmp_path, f"--view {view}", capsys)
        assert (code, out) == (2, "")
        assert error.startswith(f"unet-bench: --view {view}: ")
        assert error.count("\n") == 1


def test_every_view_of_cells_can_be_asked_for() -> None:
    assert set(views.VIEWS) == set(arguments.VIEWS) - {search.VIEW, kernel_times.VIEW}
