"""Outcomes of tests, as far as the record has them for the code as it is now."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.environment import ROOT, source_fingerprint
from bench.evidence import record

STARTED = "started"


def append(folder: Path, part: str, test: str, outcome: str, **more: Any) -> None:
    """Adds a `test` line to the record."""
    record.append(folder, "test", part=part, source=source(), test=test, outcome=outcome, **more)


@cache  # a process tests the code that it began with
def source() -> str:
    """Identifies the code that is tested, the tests included."""
    return source_fingerprint(ROOT, ("bench", "kernels", "tests", "unet"))


@dataclass(frozen=True)
class Outcomes:
    """What a part's tests have come to.

    Attributes:
        selected: The names of the tests that the part has to run; `None` where it has not begun.
        lines: The last `test` line of each test that has come to its end, by its name.
        cut_off: Tests that began and did not come to their end.
    """

    selected: list[str] | None
    lines: dict[str, record.Line]
    cut_off: list[str]

    @classmethod
    def read(cls, folder: Path, part: str) -> "Outcomes":
        """Those of a part."""
        now = source()

        def lines(kind: str) -> list[record.Line]:
            found = record.read(folder, kind)
            return [line for line in found if (line["part"], line["source"]) == (part, now)]

        chosen = lines("selected")
        last = {line["test"]: line for line in lines("test")}
        return cls(
            chosen[-1]["tests"] if chosen else None,
            {name: line for name, line in last.items() if line["outcome"] != STARTED},
            [name for name, line in last.items() if line["outcome"] == STARTED],
        )

    @property
    def missing(self) -> list[str]:
        """Tests that are to run yet."""
        return [name for name in self.selected or () if name not in self.lines]

    @property
    def failed(self) -> list[record.Line]:
        """Lines of tests that failed, and of modules that could not be read."""
        return [line for line in self.lines.values() if line["outcome"] == "failed"]
