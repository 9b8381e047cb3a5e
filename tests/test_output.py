"""How texts and tables reach a terminal and a pipe: whole, and as they are."""

import ast
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import bench
from bench.output import print_line, print_page
from bench.report.page import Page

HOSTILE = [
    "[enforce fail at alloc_cpu.cpp:127]",
    "[/tmp/a.so]",
    "[bold]b[/bold]",
    "C:warning:x",
    "[link=file:///x]y",
]
"""What rich takes for markup in a `str`, or for an emoji."""


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(page: Page, file: io.StringIO, width: int = 200) -> list[str]:
    console = Console(file=file, width=width, force_terminal=True, no_color=True, _environ={})
    print_page(console, page)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


def page_of(columns: dict[str, list[str]], dispensable: list[str], *notes: str) -> Page:
    count = len(next(iter(columns.values())))
    return Page(pd.DataFrame(), columns, [False] * count, dispensable, "verdict", list(notes))


@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_of_a_page_is_shown_as_it_is(text: str) -> None:
    page = page_of({"variant": [text], f"vs {text}": ["1"], "status": ["ok"]}, [], f"note {text}")
    lines = printed(page, io.StringIO())
    assert sum(text in line for line in lines) == 3
    narrow = printed(
        page_of({"variant": ["a" * 99], text: ["1" * 60]}, [text]), Screen(), width=120
    )
    assert f"not shown for lack of width: {text}" in map(str.rstrip, narrow)
    assert not any("1" * 60 in line for line in narrow)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_is_shown_as_it_is(text: str) -> None:
    file = io.StringIO()
    print_line(Console(file=file, width=20), f"{text} and {text} and {text}")
    assert file.getvalue() == f"{text} and {text} and {text}\n"


def test_nothing_is_printed_in_another_way() -> None:
    """`print_line` and `print_page` alone print: a new place cannot forget what they know."""
    found = {}
    for path in Path(bench.__file__).parent.rglob("*.py"):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        count = sum(isinstance(c.func, ast.Attribute) and c.func.attr == "print" for c in calls)
        if count:
            found[path.name] = count
    assert found == {"output.py": 2}


def test_what_does_not_fit_is_whole_or_named() -> None:
    columns = {
        "variant": ["bf16+channels_last+reduce-overhead"],
        "batch": ["16"],
        "images/s": ["not measured"],
        "step ms": ["133.8"],
        "status": ["unsupported 0/5"],
    }
    lines = printed(page_of(columns, ["step ms"]), Screen(), width=45)
    table = "\n".join(lines)
    for title, (text,) in columns.items():
        if title == "step ms":
            assert text not in table
            assert any(line.startswith("not shown") and title in line for line in lines)
        else:
            assert title in table
            assert text in table
    assert "…" not in table


def test_a_pipe_has_no_width_though_colours_are_forced_upon_it() -> None:
    columns = {f"column {number}": ["x" * 10] for number in range(20)}
    page = page_of(columns, list(columns))
    lines = printed(page, io.StringIO(), width=80)
    assert all(any(title in line for line in lines) for title in columns)
    assert not any("not shown" in line for line in lines)
