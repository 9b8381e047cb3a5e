"""What is shown as a user's mistake, and what as a fault of unet-bench."""

import ast
from argparse import Namespace
from pathlib import Path

import pytest

import bench
from bench import cli, errors, spec
from bench.errors import UserError, as_user_error
from tests.commands import main

PACKAGE = Path(bench.__file__).parent

CHILDREN = ("tracing.py", "side_by_side.py")
"""What these raise stays in the worker process, which reports it as an answer."""


def plain_value_errors(path: Path) -> list[int]:
    """The lines where a `ValueError` is raised, and no `UserError`."""
    nodes = ast.walk(ast.parse(path.read_text()))
    raised = [node for node in nodes if isinstance(node, ast.Raise)]
    calls = [
        (node.exc.func if isinstance(node.exc, ast.Call) else node.exc, node) for node in raised
    ]
    return [
        node.lineno
        for name, node in calls
        if isinstance(name, ast.Name) and name.id == "ValueError"
    ]


def test_the_harness_raises_user_errors_for_users_mistakes() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if path.name not in CHILDREN]
    assert len(paths) > 50
    found = {str(path.relative_to(PACKAGE)): plain_value_errors(path) for path in paths}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("name", CHILDREN)
def test_the_search_for_plain_errors_finds_them(name: str) -> None:
    assert plain_value_errors(PACKAGE / name)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("math domain error"),
        KeyError("gone"),
        AssertionError(),
        RecursionError("deep"),
        UnicodeEncodeError("ascii", "é", 0, 1, "not in range"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_internal_error_is_one_line_a_traceback_and_an_exit_code_of_its_own(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(options: Namespace) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "plan", fails)
    code, out, told = main(["plan", "quick"], capsys)
    first, *_ = told.splitlines()
    assert (code, out) == (70, "")
    assert first.startswith("unet-bench: internal error")
    assert type(error).__name__ in first
    assert "Traceback (most recent call last):" in told
    assert "in fails" in told


def test_a_user_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(options: Namespace) -> int:
        raise UserError("--out [/x]: expected [bold]a folder[/bold] :warning:")

    monkeypatch.setitem(cli.COMMANDS, "plan", fails)
    line = "unet-bench: --out [/x]: expected [bold]a folder[/bold] :warning:\n"
    assert main(["plan", "quick"], capsys) == (2, "", line)


def test_what_a_workload_refuses_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["image_size=7"], ["variants=fp23"]):
        code, out, told = main(["plan", "quick", "--set", *words], capsys)
        assert (code, out) == (2, "")
        assert told.startswith("unet-bench: ")
        assert len(told.splitlines()) == 1


def test_a_value_error_of_a_workload_becomes_a_user_error() -> None:
    with pytest.raises(UserError, match=r"^size 3: expected 4$"), as_user_error():
        raise ValueError("size 3: expected 4")
    with pytest.raises(KeyError), as_user_error():
        raise KeyError


def test_the_exit_codes_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = main(["--help"], capsys)
    assert code == 0
    assert "70 an internal error" in " ".join(out.split())


def test_help_and_class_are_where_they_are_said_to_be() -> None:
    assert issubclass(errors.UserError, ValueError)
    with pytest.raises(UserError):
        spec.load("no-such-preset", {})
