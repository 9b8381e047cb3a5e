"""Mistakes with folders, options and two commands at once; and what a spreadsheet is given."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from bench import search, sweep
from bench.commands.measuring import how_to_go_on
from bench.errors import UserError
from bench.report.tables import to_csv
from tests.commands import main


@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_a_folder_that_cannot_be_one_is_refused_alike(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    for out in (path, path / "below"):
        code, printed, error = main(
            [command, "quick", "--device", "cpu", "--out", str(out)], capsys
        )
        assert (code, printed) == (2, "")
        assert error.startswith(f"unet-bench: --out {out}: expected a folder, {path} is a file")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_a_folder_that_cannot_be_made_is_refused_alike(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # There permissions allow root everything, and the file system nothing.
    code, printed, error = main([command, "quick", "--device", "cpu", "--out", "/proc/x"], capsys)
    assert (code, printed) == (2, "")
    assert error.startswith("unet-bench: --out /proc/x: /proc cannot be written: ")


def test_a_plan_leaves_nothing_in_the_folder_above(tmp_path: Path) -> None:
    assert sweep.earlier_rows(tmp_path / "out") == []
    assert not list(tmp_path.iterdir())


def test_plan_refuses_an_empty_folder_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quick", "--out", ""], capsys)[0] == 2


@pytest.mark.parametrize("text", ["3000000", "1e300", "inf", "nan", "0", "-1", "soon"])
def test_a_timeout_that_nobody_waits_for_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["sweep", "quick", "--device", "cpu", f"--timeout={text}", "--out", str(out)]
    code, _, error = main(words, capsys)
    assert code == 2
    assert error.startswith(f"unet-bench: --timeout {text!r}: ")
    assert not out.exists()


def test_the_advice_after_an_interruption_is_one_word_to_a_shell() -> None:
    folder = Path("results/local/my run; $(x)")
    assert shlex.split(how_to_go_on(folder))[-2:] == ["--out", str(folder)]


def test_two_searches_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with search._alone(folder), pytest.raises(UserError, match="another max-batch"):
        search._alone(folder).__enter__()
    with search._alone(folder):  # the first has ended
        pass


def test_a_search_needs_a_folder_that_can_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="expected a folder"):
        search._alone(tmp_path / "file").__enter__()


def test_no_text_of_a_csv_is_a_formula_and_every_number_is_as_it_was() -> None:
    frame = pd.DataFrame(
        {
            "change": ["+bf16", "=1+1", "-x", "@x", "\tx", "bf16+compile", None],
            "number": [-1.5, 2.0, None, 0.0, 1.0, 1.0, 1.0],
            "count": pd.array([-1, 2, None, 3, 4, 5, 6], "Int64"),
            "flag": [True, False, True, True, True, True, True],
        }
    )
    lines = [line.split(",") for line in to_csv(frame).splitlines()]
    assert [line[0] for line in lines[1:]] == [
        *("'+bf16", "'=1+1", "'-x", "'@x", "'\tx", "bf16+compile", "")
    ]
    assert [line[1:] for line in lines[1:4]] == [
        ["-1.5", "-1", "True"],
        ["2.0", "2", "False"],
        ["", "", "True"],
    ]
