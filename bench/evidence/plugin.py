"""A pytest plugin that keeps each test's outcome as soon as it is known, and knows those it has.

`pytest -p bench.evidence.plugin --evidence DIR --evidence-part NAME`: tests whose outcome for the
same code is in DIR already are not run again.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.evidence import record
from bench.evidence.outcomes import STARTED, Outcomes, append, source

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
        help="tests with this in their names come last; may be repeated, the very last one last",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begins to listen, if it is told where to write."""
    if config.getoption("--evidence"):
        folder, part = Path(config.getoption("--evidence")), config.getoption("--evidence-part")
        config.pluginmanager.register(_Listener(folder, part))


class _Listener:
    def __init__(self, folder: Path, part: str) -> None:
        self._folder, self._part = folder, part
        self._before = Outcomes.read(folder, part)

    @pytest.hookimpl(trylast=True)  # when the others have chosen by marks and names
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        names = [item.nodeid for item in items]
        record.append(self._folder, "selected", part=self._part, source=source(), tests=names)
        known = [item for item in items if item.nodeid in self._before.lines]
        config.hook.pytest_deselected(items=known)
        words = config.getoption("--evidence-last")

        def place(item: pytest.Item) -> tuple[bool, int]:
            named = [number for number, word in enumerate(words) if word in item.nodeid]
            # What has taken all the time before may do so again.
            return item.nodeid in self._before.cut_off, max(named, default=-1)

        items[:] = sorted((item for item in items if item not in known), key=place)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._note(report.nodeid, "failed", 0.0, str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        append(self._folder, self._part, nodeid, STARTED)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # What goes wrong before or after a test is its failure too.
        if report.when == "call" or not report.passed:
            self._note(report.nodeid, report.outcome, report.duration, _detail(report))

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if not _cuda_works():
            item.session.shouldstop = "CUDA is broken in this process"

    def _note(self, name: str, outcome: str, seconds: float, detail: str) -> None:
        tail = detail[-_DETAIL_CHARACTERS:]
        append(self._folder, self._part, name, outcome, seconds=round(seconds, 3), detail=tail)


def _cuda_works() -> bool:
    """Whether what one test did to CUDA leaves it usable for the next, which it may not."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _detail(report: pytest.TestReport) -> str:
    """Why a test was skipped, in words; of a failure the end of its traceback."""
    told: Any = report.longrepr
    if isinstance(told, tuple):
        return re.sub(r"^Skipped: ", "", str(told[2]))
    return report.longreprtext
