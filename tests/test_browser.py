"""The page in a real browser: Debian's Chromium, without a window.

Where there is none these tests are skipped, unless `UNET_BENCH_BROWSER=required`, as in `.ci/run`.
"""

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import cli
from bench.journal import FILE_NAME
from bench.previews import FOLDER as PREVIEWS
from bench.trial import Status
from tests.report_rows import bad, timed
from tests.test_plots import ROWS

NAMES = ("chromium", "chromium-browser", "google-chrome")
EVIL = "<script>alert(1)</script> & \"quotes\" <img src='http://example.com/x.png'>"


def lack(what: str) -> None:
    if os.environ.get("UNET_BENCH_BROWSER") == "required":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        lack("Chromium (on Debian: apt install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lack("playwright")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@dataclass
class Opened:
    """A page in the browser, and what it did that it should not.

    Attributes:
        page: Of playwright.
        complaints: Of the console.
        requests: Addresses other than the page's own.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def column(self, title: str) -> list[str]:
        """What stands in a column, of the rows that are shown, from top to bottom."""
        titles = self.page.locator("#cells thead th").all_inner_texts()
        place = [text.strip() for text in titles].index(title) + 1
        shown = self.page.locator(
            f"#cells tbody:not([hidden]) > tr:first-child > td:nth-child({place})"
        )
        return [text.strip() for text in shown.all_inner_texts()]

    def sort(self, title: str) -> None:
        self.page.locator("#cells th button", has_text=re.compile(f"^{title}$")).click()

    def clear(self) -> None:
        self.page.get_by_role("button", name="clear").click()
        self.page.get_by_text("8 of 8 cells").wait_for()

    def choose(self, name: str, value: str) -> None:
        self.page.locator("label", has_text=name).locator("select").select_option(value)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything that one may have on it."""
    folder = tmp_path_factory.mktemp("browser")
    picture = io.BytesIO()
    Image.new("RGB", (64, 16), "green").save(picture, "PNG")
    (folder / PREVIEWS).mkdir()
    (folder / PREVIEWS / f"{'a' * 16}.png").write_bytes(picture.getvalue())
    failed = bad("bf16", 8, Status.CRASH)
    rows = [
        *ROWS,
        replace(failed, result=replace(failed.result, reason=EVIL)),
        timed("bf16+compile", 16, 1024.0, 1.0, 30.0),
    ]
    rows[0] = replace(rows[0], result=replace(rows[0].result, previews={"true": f"{'a' * 16}.png"}))
    (folder / FILE_NAME).write_text("".join(row.to_line() for row in rows))
    with pytest.raises(SystemExit):
        cli.main(["report", str(folder), "--html"])
    return folder / "report.html"


def visit(browser: Any, path: Path, **how: Any) -> Opened:
    opened = Opened(browser.new_page(**how))
    page = opened.page
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    return opened


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    found = visit(browser, report, viewport={"width": 1280, "height": 900})
    yield found
    found.page.close()
    assert found.complaints == []
    others = [address for address in found.requests if address != report.as_uri()]
    assert [address for address in others if not address.startswith("data:")] == []


def test_it_shows_everything(opened: Opened) -> None:
    for place in ("#verdict", "#use", "#plots", "#table", "#previews", "#notes", "#machine"):
        assert opened.page.locator(place).is_visible()
    for name in ("throughput", "memory", "quality", "ladder", "steps", "timeline"):
        box = opened.page.locator(f"#plot-{name} svg").bounding_box()
        assert box["width"] > 300
        assert box["height"] > 80
    assert opened.page.evaluate("document.querySelector('.previews img').naturalWidth") == 64
    assert opened.page.locator("#shown").inner_text() == "8 of 8 cells"
    colors = opened.page.evaluate(
        "[...document.querySelectorAll('#cells .status')].map((s) => getComputedStyle(s).color)"
    )
    assert len(set(colors)) == 2  # what ended well, and what did not


def test_what_a_journal_says_is_only_text(opened: Opened) -> None:
    opened.page.locator("#cells .open").nth(opened.column("status").index("crash")).click()
    assert EVIL in opened.page.locator("#cells tr.more:not([hidden])").inner_text()


def test_it_sorts_by_numbers_with_what_is_missing_last(opened: Opened) -> None:
    opened.sort("images/s")
    falling = ["1024.0", "150.0", "120.0", "100.0", "90.0", "60.0", "not measured", "not measured"]
    assert opened.column("images/s") == falling
    opened.sort("images/s")
    assert opened.column("images/s") == [*falling[5::-1], *falling[6:]]
    opened.sort("batch")
    assert opened.column("batch") == sorted(opened.column("batch"), key=int, reverse=True)
    opened.sort("variant")
    assert opened.column("variant") == sorted(opened.column("variant"), reverse=True)
    sorts = opened.page.locator("#cells th[aria-sort]").evaluate_all("all => all.length")
    assert sorts == 1


def test_it_filters_by_axis_status_and_words(opened: Opened) -> None:
    opened.choose("precision", "bf16")
    assert all("bf16" in variant for variant in opened.column("variant"))
    assert opened.page.locator("#shown").inner_text() == "6 of 8 cells"
    opened.choose("batch_size", "16")
    opened.choose("memory_format", "channels_last")
    assert opened.column("variant") == ["bf16+channels_last"]
    opened.clear()
    opened.choose("status", "oom")
    assert opened.column("status") == ["oom"]
    opened.clear()
    opened.page.locator("#search").fill("COMPILE")
    assert opened.column("variant") == ["bf16+compile"]


def test_sorting_keeps_what_was_filtered(opened: Opened) -> None:
    opened.choose("precision", "fp32")
    opened.sort("images/s")
    assert opened.column("images/s") == ["100.0", "60.0"]


def test_a_row_opens_to_its_command(opened: Opened) -> None:
    button = opened.page.locator("#cells .open").first
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    more = opened.page.locator("#cells tr.more:not([hidden])").inner_text()
    assert more.strip().startswith("unet-bench trial fp32 --batch-size 4 ")
    button.click()
    assert opened.page.locator("#cells tr.more:not([hidden])").count() == 0


def test_any_trial_s_timeline_can_be_chosen(opened: Opened) -> None:
    trials = opened.page.locator("#trial option").all_inner_texts()
    assert {"fp32 b4", "bf16 b16", "bf16+compile b16"} <= set(trials)
    opened.page.locator("#trial").select_option(label="fp32 b4")
    assert opened.page.locator("#timeline svg title").inner_html().endswith("of fp32 b4")
    assert opened.page.locator("#timeline polyline").count() == 2
    names = opened.page.locator("#timeline text[transform]").all_text_contents()
    assert names == ["measuring", "training"]  # as they came


def test_it_can_be_copied_from(opened: Opened) -> None:
    opened.page.locator(".copy").first.click()
    opened.page.get_by_text(re.compile("^(copied|selected)$")).wait_for()


def test_it_works_without_a_mouse(opened: Opened) -> None:
    opened.page.locator("#cells th button").nth(3).focus()
    opened.page.keyboard.press("Enter")
    assert opened.column("images/s")[0] == "1024.0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_or_dark_as_the_reader_likes(browser: Any, report: Path, scheme: str) -> None:
    found = visit(browser, report, color_scheme=scheme)
    style = "getComputedStyle(document.body)"
    ground, ink = (
        sum(map(int, found.page.evaluate(f"{style}.{name}.match(/[0-9]+/g).slice(0, 3)")))
        for name in ("backgroundColor", "color")
    )
    assert (ground > ink) == (scheme == "light")
    assert abs(ground - ink) > 400
    texts = found.page.evaluate(
        "getComputedStyle(document.querySelector('#plot-throughput text')).fill.match(/[0-9]+/g)"
    )
    assert sum(map(int, texts[:3])) == ink  # pictures too
    found.page.close()


def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, report: Path) -> None:
    found = visit(browser, report, viewport={"width": 375, "height": 800})
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert found.page.locator("#cells").is_visible()
    found.page.close()


def test_it_can_be_printed(browser: Any, report: Path) -> None:
    found = visit(browser, report)
    found.page.emulate_media(media="print")
    assert not found.page.locator("#filters").is_visible()
    assert found.page.locator("#cells").is_visible()
    overflow = found.page.evaluate("getComputedStyle(document.querySelector('.scroll')).maxHeight")
    assert overflow == "none"
    assert found.page.pdf(format="A4").startswith(b"%PDF")
    found.page.close()


def test_the_picture_s_bytes_are_in_the_page(report: Path) -> None:
    content = (report.parent / PREVIEWS / f"{'a' * 16}.png").read_bytes()
    assert base64.b64encode(content).decode() in report.read_text()


def test_without_a_script_the_table_is_there(browser: Any, report: Path) -> None:
    found = visit(browser, report, java_script_enabled=False)
    assert found.page.locator("#cells tbody").count() == 8
    assert found.page.locator("#plot-throughput svg").is_visible()
    found.page.close()
