"""A pytest plugin that keeps each test's outcome as soon as it is known, and knows those it has.

`pytest -p bench.evidence.plugin --evidence DIR --evidence-part NAME`: tests whose outcome for the
same code is in DIR already are not run again.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from bench.evidence import record
from bench.evidence.outcomes import Outcomes, source

_DETAIL_CHARACTERS = 2000


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds this plugin's options."""
    group = parser.getgroup("evidence")
    group.addoption("--evidence", metavar="DIR", help="folder for the outcomes")
    group.addoption("--evidence-part", metavar="NAME", help="what the outcomes belong to")
    group.addoption(
        "--evidence-last",
        metavar="WORD",
        action="append",
        default=[],
        help="tests with this in their names come last; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begins to listen, if it is told where to write."""
    if config.getoption("--evidence"):
        folder, part = Path(config.getoption("--evidence")), config.getoption("--evidence-part")
        config.pluginmanager.register(_Listener(folder, part))


class _Listener:
    def __init__(self, folder: Path, part: str) -> None:
        self._folder, self._fields = folder, {"part": part, "source": source()}
        self._known = Outcomes.read(folder, part).lines

    @pytest.hookimpl(trylast=True)  # when the others have chosen by marks and names
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        names = [item.nodeid for item in items]
        record.append(self._folder, "selected", **self._fields, tests=names)
        known = [item for item in items if item.nodeid in self._known]
        items[:] = [item for item in items if item.nodeid not in self._known]
        words = config.getoption("--evidence-last")
        items.sort(key=lambda item: any(word in item.nodeid for word in words))
        config.hook.pytest_deselected(items=known)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._note(report.nodeid, "failed", 0.0, str(report.longrepr))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # What goes wrong before or after a test is its failure too.
        if report.when == "call" or not report.passed:
            self._note(report.nodeid, report.outcome, report.duration, _detail(report))

    def _note(self, name: str, outcome: str, seconds: float, detail: str) -> None:
        record.append(
            self._folder,
            "test",
            **self._fields,
            test=name,
            outcome=outcome,
            seconds=round(seconds, 3),
            detail=detail[-_DETAIL_CHARACTERS:],
        )


def _detail(report: pytest.TestReport) -> str:
    """Why a test was skipped, in words; of a failure the end of its traceback."""
    told: Any = report.longrepr
    if isinstance(told, tuple):
        return re.sub(r"^Skipped: ", "", str(told[2]))
    return report.longreprtext
