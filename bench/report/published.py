"""A published folder's own page, and the index of all of them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import journal, kernel_times, search
from bench.errors import UserError
from bench.journal import Row
from bench.publish import ABOUT, NAME, PLOTS
from bench.report import Record, views
from bench.report.cells import by_settings, label, records
from bench.report.document import HTML_NAME, Document
from bench.report.frame import cell_frame
from bench.report.max_batch import max_batch
from bench.report.page import NOT_MEASURED, Page, ratio_text
from bench.report.speedups import all_seeds, mean_rate
from bench.report.tables import folder_page, to_csv, to_json
from bench.trial import rate_text

PAGE_NAME = "README.md"
INDEX_BEGINS, INDEX_ENDS = "<!-- index -->", "<!-- end of the index -->"
_ABOUT = (
    "Measured by unet-bench, whose `results/README.md` tells the method and every column with its "
    "unit. To reproduce a row: the command in its column `command`."
)
_MARKED = re.compile(f"({INDEX_BEGINS}\n).*?({INDEX_ENDS})", re.DOTALL)


def files(folder: Path, name: str) -> dict[str, bytes]:
    """All that is rendered of a folder: its page, tables, plots and HTML, by path.

    Args:
        folder: With what was recorded.
        name: That it is published under.
    """
    found: dict[str, bytes] = {}
    if kernel_times.is_all_there_is(folder):
        record = kernel_times.read(folder)
        page = kernel_times.page(record, str(folder / kernel_times.FILE_NAME))
        body = [page.to_markdown(), *_measured_by([record["environment"]["command"]])]
    else:
        rows = journal.read(folder)
        page = folder_page(rows, folder)
        document = Document(folder, name, rows, page)
        found |= document.pictures()
        found[HTML_NAME] = document.html().encode()
        body = _body(folder, rows, document)
    found["table.csv"] = to_csv(page.frame).encode()
    found["table.json"] = to_json(page.frame).encode()
    about = [text] if (text := about_of(folder)) else []
    found[PAGE_NAME] = ("\n\n".join([f"# {name}", *about, *body]) + "\n").encode()
    return found


def about_of(folder: Path) -> str:
    """What a published folder shows, in one line; empty where nobody has said."""
    path = folder / ABOUT
    text = path.read_text() if path.exists() else ""
    return " ".join(text.split()).replace("<", "&lt;")


def _body(folder: Path, rows: Sequence[Row], document: Document) -> list[str]:
    pictures = [
        f"![{plot.caption}]({PLOTS}/{plot.name}.svg)\n\n{plot.caption}" for plot in document.plots
    ]
    return [
        f"[{HTML_NAME}]({HTML_NAME}) has all of it in one page, to be downloaded and opened: "
        "sorted, filtered, every row with its own command.",
        *(choice.sentence for choice in document.recommendation.choices),
        document.page.to_markdown(),
        *(
            f"<details><summary>{title}</summary>\n\n{page.to_markdown()}\n</details>"
            for title, page in _views(folder, document.page)
        ),
        *pictures,
        *_measured_by(str(row.environment.get("command")) for row in rows),
    ]


def _measured_by(commands: Iterable[str]) -> list[str]:
    return ["Measured by:", "\n".join(["```", *dict.fromkeys(commands), "```"])]


def _views(folder: Path, page: Page) -> Iterable[tuple[str, Page]]:
    """The views that have something to show."""
    for name in views.VIEWS:
        try:
            yield f"View {name}", views.page(page.frame, name)
        except UserError:  # it has nothing to show here
            continue
    if (folder / search.FILE_NAME).exists():
        yield f"View {search.VIEW}", max_batch(records(page.frame), search.read(folder))


def index(results: Path) -> str:
    """What is published: themes by machines, side by side, and what each folder shows."""
    folders = sorted(path for path in results.iterdir() if NAME.fullmatch(path.name))
    themes: dict[str, dict[str, list[str]]] = {}
    lines = []
    for folder in folders:
        match = NAME.fullmatch(folder.name)
        day, device, torch, theme = match.groups() if match else ("", "", "", "")
        found = _found(folder)
        link = f"[{day}]({folder.name})"
        if found:
            themes.setdefault(theme, {}).setdefault(device, []).append(f"{link}: {found}")
        about = about_of(folder).replace("|", r"\|")
        lines.append(f"| {link} | {theme} | {_words(device)} | {torch} | {about} |")
    machines = sorted({device for found in themes.values() for device in found})

    def side_by_side(theme: str) -> list[str]:
        found = themes[theme]
        return [theme, *("<br>".join(found.get(one, [NOT_MEASURED])) for one in machines)]

    table = [["theme", *map(_words, machines)], [":--"] * (1 + len(machines))]
    table += map(side_by_side, sorted(themes))
    return "\n".join(
        [
            "Machine beside machine: the fastest of each, within its own folder. What was measured "
            "on different machines is never divided by each other.",
            "",
            *(f"| {' | '.join(line)} |" for line in table),
            "",
            "| published | theme | machine | torch | what |",
            "|:--|:--|:--|:--|:--|",
            *lines,
        ]
    )


def _words(device: str) -> str:
    return device.replace("-", " ")


def _found(folder: Path) -> str:
    """The fastest of a folder, in a few words; empty where it holds no journal."""
    if kernel_times.is_all_there_is(folder):
        record = kernel_times.read(folder)
        return kernel_times.page(record, folder.name).verdict
    if not (folder / journal.FILE_NAME).exists():
        return ""
    cells = records(cell_frame(journal.read(folder)))
    return "; ".join(_fastest(words, group) for words, group in by_settings(cells))


def _fastest(words: str, cells: list[Record]) -> str:
    at = f"{words}: " if words else ""
    cell = next((cell for cell in cells if cell["fastest"]), None)
    if cell is None:
        return f"{at}nothing is called fastest"
    own = all_seeds(cell, cells)
    text = f"{at}{label(cell)}, {rate_text(mean_rate(own))} images/s"
    if len(own) > 1:
        text += f" over {len(own)} seeds"
    elif cell["speedup_rounds"] and cell["variant"] != cell["plain_variant"]:
        text += f", {ratio_text(cell, 'speedup')} {cell['plain_variant']}"
    return text


def index_page(results: Path) -> str:
    """The page of all published folders, as it stands.

    Raises:
        UserError: It has no marks around the index.
    """
    path = results / PAGE_NAME
    if not path.exists():
        return f"# Results\n\n{_ABOUT}\n\n{INDEX_BEGINS}\n{INDEX_ENDS}\n"
    text = path.read_text()
    if not _MARKED.search(text):
        raise UserError(f"{path}: expected a line {INDEX_BEGINS} and one {INDEX_ENDS}")
    return text


def with_index(page: str, results: Path) -> str:
    """The page with its index rendered anew."""
    return _MARKED.sub(lambda match: f"{match[1]}{index(results)}\n{match[2]}", page)
