"""How a page is shown, printed for another program, and written beside its journal."""

import contextlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from bench import journal
from bench.arguments import FORMATS
from bench.errors import UserError
from bench.events import discard

if TYPE_CHECKING:
    from bench.report.page import Page


class Output(Console):
    """A console whose reader may go away: a sweep is not ended by `| head`, as rich would."""

    def on_broken_pipe(self) -> None:
        """See the class."""
        discard(sys.stdout)


def print_page(console: Console, page: "Page") -> None:
    """Shows a table with what is to be said about it."""
    # A pipe has no width, not even where colours are forced upon it.
    width = console.width if console.file.isatty() else None
    # Wide enough for any table: rich would cut the columns that do not fit, down to nothing. What
    # may be left out the page leaves out and says so; a terminal wraps a line that is still longer.
    wide = Output(file=console.file, width=10_000, force_terminal=console.is_terminal)
    wide.print(page.to_rich(width))
    for note in page.notes:
        print_line(console, note, style="dim")
    print_line(console, page.verdict, style="bold")


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Shows a text as it is, in one line.

    Texts come from others too: folders, variants, error messages of torch. In a `str` rich would
    take `[enforce fail at alloc.cpp]` for markup, and `:b:` for an emoji; in a `Text` nothing.
    """
    console.print(Text(text, style or ""), soft_wrap=True)


def write_page(page: "Page", style: str) -> None:
    """Puts a page on the standard output, in one of `FORMATS`."""
    if style == "table":
        print_page(Output(), page)
        return
    try:
        sys.stdout.write(render(page, style))
        sys.stdout.flush()
    except BrokenPipeError:  # what follows from the page does not depend on who has read it
        discard(sys.stdout)


def write_tables(folder: Path, page: "Page") -> dict[str, str]:
    """Writes the table beside the journal in every format.

    Returns:
        What was written, by suffix.
    """
    texts = {suffix: render(page, suffix) for suffix in FORMATS[1:]}
    for suffix, text in texts.items():
        try:
            (folder / f"table.{suffix}").write_text(text)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; the journal there is safe") from None
    return texts


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their path in a folder, each whole or not at all."""
    for name, content in files.items():
        path = folder / name
        whole = path.with_name(f"{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole.write_bytes(content)
            whole.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                whole.unlink()
            raise UserError(f"{path} cannot be written: {error.strerror}") from None


def render(page: "Page", style: str) -> str:
    """A page in one of `FORMATS` but the first."""
    from bench.report.tables import to_csv, to_json

    if style == "md":
        return page.to_markdown()
    return to_csv(page.frame) if style == "csv" else to_json(page.frame)


def print_written(console: Console, folder: Path, suffixes: Iterable[str]) -> None:
    """Tells where the journal is, and the tables by their suffixes."""
    names = [journal.FILE_NAME, *(f"table.{suffix}" for suffix in suffixes)]
    print_line(console, "Written: " + ", ".join(str(folder / name) for name in names))
