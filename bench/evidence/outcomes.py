"""Outcomes of tests, as far as the record has them for the code as it is now."""

from dataclasses import dataclass
from pathlib import Path

from bench.environment import ROOT, source_fingerprint
from bench.evidence import record


def source() -> str:
    """Identifies the code that is tested, the tests included."""
    return source_fingerprint(ROOT, ("bench", "kernels", "tests", "unet"))


@dataclass(frozen=True)
class Outcomes:
    """What a part's tests have come to.

    Attributes:
        selected: The names of the tests that the part has to run; `None` where it has not begun.
        lines: The last `test` line of each test, by its name.
    """

    selected: list[str] | None
    lines: dict[str, record.Line]

    @classmethod
    def read(cls, folder: Path, part: str) -> "Outcomes":
        """Those of a part."""
        now = source()

        def lines(kind: str) -> list[record.Line]:
            found = record.read(folder, kind)
            return [line for line in found if (line["part"], line["source"]) == (part, now)]

        chosen = lines("selected")
        return cls(
            chosen[-1]["tests"] if chosen else None, {line["test"]: line for line in lines("test")}
        )

    @property
    def missing(self) -> list[str]:
        """Tests that are to run yet."""
        return [name for name in self.selected or () if name not in self.lines]

    @property
    def failed(self) -> list[record.Line]:
        """Lines of tests that failed, and of modules that could not be read."""
        return [line for line in self.lines.values() if line["outcome"] == "failed"]
