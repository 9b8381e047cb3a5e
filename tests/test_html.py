"""The page as a file; tests/test_browser.py opens it."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.journal import FILE_NAME, Row
from bench.previews import FOLDER as PREVIEWS
from bench.report.html import sort_value
from bench.trial import Status
from tests.commands import main
from tests.report_rows import bad, in_rounds, measured, of_today, row, sample, timed, trial
from tests.test_plots import ROWS


def write(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text("".join(row.to_line() for row in rows))
    return folder


def html_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    code, out, error = main(["report", str(folder), "--html"], capsys)
    assert (code, error) == (0, "")
    assert out == f"Written: {folder / 'report.html'}\n"
    return (folder / "report.html").read_text()


class Outline(HTMLParser):
    """Tags that are opened and not closed, and every address."""

    VOID = ("meta", "input", "img", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()


def test_it_is_well_formed_and_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Outline(html_of(write(tmp_path, ROWS), capsys))
    assert found.open == []
    assert all(re.match("#|data:image/png;base64,", one) for one in found.addresses)


def test_it_tells_what_the_tables_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = html_of(write(tmp_path, ROWS), capsys)
    _, table, _ = main(["report", str(tmp_path), "--format", "md"], capsys)
    verdict = next(line for line in table.splitlines() if line.startswith("Fastest"))
    assert verdict in text
    _, recommended, _ = main(["recommend", str(tmp_path), "--format", "md"], capsys)
    sentence = next(line for line in recommended.splitlines() if line.startswith("Use"))
    assert sentence.replace("'", "&#39;") in text
    assert "def train_step(" in text
    assert text.count("unet-bench trial") >= 6  # the recommended one's, and every row's
    for words in ("Some CPU", "torch 2.15.0", "budget 8 GiB", "6 cells, 10 rounds", "abc"):
        assert words in text


def test_whatever_a_journal_says_is_shown_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"
    rows = [
        *ROWS,
        of_today(f"fp32{evil}", 4, measured(), axes={"precision": evil}),
        bad("bf16", 8, Status.CRASH),
    ]
    rows[-1] = replace(rows[-1], result=replace(rows[-1].result, reason=evil))
    rows = [
        replace(one, environment={**one.environment, "device_name": evil, "command": evil})
        for one in rows
    ]
    text = html_of(write(tmp_path, rows), capsys)
    assert Outline(text).open == []
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_previews_are_shown_once_where_all_have_them_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen(one: Row, name: str) -> Row:
        previews = {"grey": "a" * 16 + ".png", "predicted": f"{name * 16}.png"}
        return replace(one, result=replace(one.result, previews=previews))

    rows = [
        seen(timed("fp32", 4, 60), "b"),
        seen(timed("fp32", 16, 100), "c"),
        seen(timed("bf16", 4, 90), "d"),
        timed("bf16+channels_last", 4, 80),
    ]
    (tmp_path / PREVIEWS).mkdir()
    for name in "abcd":
        (tmp_path / PREVIEWS / f"{name * 16}.png").write_bytes(b"png " + name.encode())
    text = html_of(write(tmp_path, rows), capsys)
    captions = re.findall('<img [^>]*alt="([^"]*)"', text)
    assert captions == [
        "grey",
        "predicted: fp32, batch 16, MSE 100.0",
        "predicted: bf16, batch 4, MSE 100.0",
    ]
    (tmp_path / PREVIEWS / ("d" * 16 + ".png")).unlink()  # as of a journal that was copied alone
    assert len(re.findall("<img ", html_of(tmp_path, capsys))) == 2


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "secret.png"])
def test_a_journal_of_others_that_names_another_file_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    (folder / PREVIEWS).mkdir(parents=True)
    for path in (tmp_path / "secret.png", folder / "secret.png", folder / PREVIEWS / "secret.png"):
        path.write_text("secret")
    one = timed("fp32", 4, 60)
    rows = [replace(one, result=replace(one.result, previews={"true": name}))]
    code, out, error = main(["report", str(write(folder, rows)), "--html"], capsys)
    assert (code, out) == (2, "")
    assert f"{folder / FILE_NAME}, line 1: " in error
    assert "previews.true" in error
    assert not (folder / "report.html").exists()


def test_another_workload_s_code_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(tmp_path)
    rows = [
        row(trial(batch_size=size, workload="elsewhere:WORKLOAD"), measured(9.0, size))
        for size in (4, 8)
    ]
    text = html_of(write(tmp_path / "out", rows), capsys)
    assert "workload=elsewhere:WORKLOAD" in text
    assert "train_step" not in text


def test_what_failed_throughout_has_a_page_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = html_of(write(tmp_path, [bad("fp32", 4, Status.OOM)]), capsys)
    assert "Nothing was measured here: no row ended well." in text
    assert Outline(text).open == []
    assert "What to use" not in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~1.31x", "1.31"),
        ("=1.00x", "1.00"),
        ("[1.20, 1.35]", "1.20"),
        ("1,024", "1024"),
        ("-0.5", "-0.5"),
        ("+3.1", "+3.1"),
        ("≤ 3", "≤ 3"),
        ("-", ""),
        ("not measured", ""),
        ("not readable", ""),
        ("fp32", "fp32"),
        ("16", "16"),
        ("ok 10/10", "ok 10/10"),
        ("33.4", "33.4"),
    ],
)
def test_figures_are_sorted_by_their_numbers(text: str, value: str) -> None:
    assert sort_value(text) == value


def large(count: int) -> list[Row]:
    """So many rows of many samples, of many variants."""
    phases = [[0.001, 0.01, 0.02, 0.003 + 1e-6 * step] for step in range(120)]
    monitor = [
        sample("measuring" if n else "starting", 90.0 + n / 4, n / 2, 1.0 + n / 1e3)
        for n in range(200)
    ]
    monitor.append(sample("training", 141.0, 110.0, 1.2))
    names = [
        f"{precision}+v{number}" for precision in ("fp32", "bf16") for number in range(count // 20)
    ]
    return [
        row(
            trial(name, size, axes={"precision": name}),
            measured(
                50.0 + place,
                size,
                step_phase_s=phases,
                step_samples=[size] * 120,
                window=[10, 120],
                monitor=monitor,
            ),
        )
        for place, name in enumerate(names)
        for size in (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    ]


def test_a_thousand_rows_stay_a_page_of_five_megabytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = large(1000)
    assert len(rows) == 1000
    text = html_of(write(tmp_path, rows), capsys)
    assert text.count("<tbody data-axes") == 1000
    assert len(text.encode()) <= 5_000_000
    found = re.search('<script type="application/json" id="timelines">(.*?)</script>', text)
    assert found
    timelines = json.loads(found[1])
    assert timelines
    assert all(len(one["at_s"]) <= 80 for one in timelines)


def test_making_it_never_imports_torch(tmp_path: Path) -> None:
    write(tmp_path, in_rounds("fp32", 4, 60))
    code = (
        "import sys; from bench.cli import main\n"
        "for words in (['report', sys.argv[1], '--html', '--plots'], ['recommend', sys.argv[1]]):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert not end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--html", "--view", "ladder"], "--view ladder: not with --html, which writes files"),
        (["--plots", "--format", "md"], "--format md: not with --plots"),
        (["--out", "there"], "--out: expected with --html or --plots"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = main(["report", str(write(tmp_path, ROWS)), *more], capsys)
    assert (code, out) == (2, "")
    assert words in error
    assert error.count("\n") == 1


def test_where_nothing_can_be_written_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, ROWS)
    (tmp_path / "taken").write_text("")
    place = str(tmp_path / "taken" / "below")
    code, _, error = main(["report", str(tmp_path), "--html", "--out", place], capsys)
    assert code == 2
    assert error.startswith(f"unet-bench: {tmp_path / 'taken'}")
    assert error.count("\n") == 1
