"""The command line from within: what a command says, and what it would do, had it been let."""

from collections.abc import Sequence

import pytest

from bench import cli, sweep


def main(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, error = capsys.readouterr()
    return caught.value.code, out, error


class Captured(BaseException):
    """Carries the plan that a command would have carried out."""


def plan_of(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> sweep.Plan:
    def run(plan: sweep.Plan, observer: sweep.Observer) -> bool:
        raise Captured(plan)

    monkeypatch.setattr(sweep, "run", run)
    with pytest.raises(Captured) as caught:
        cli.main(words)
    plan = caught.value.args[0]
    assert isinstance(plan, sweep.Plan)
    return plan
