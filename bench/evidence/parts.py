"""The parts of evidence: the command that each runs, and whether there is anything left to do."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench import journal, spec
from bench.environment import ROOT
from bench.evidence import record
from bench.evidence.outcomes import Outcomes, append
from bench.journal import Row
from bench.trial import Status, rate_text


@dataclass(frozen=True)
class Ended:
    """How a part's program ended.

    Attributes:
        in_time: Whether it ended by itself.
        how: In words, if it did not end well.
        answer: The last line it printed that is a JSON object; empty if there was none.
        last_line: The last line it printed that is not empty.
    """

    in_time: bool
    how: str | None
    answer: str
    last_line: str


@dataclass(frozen=True)
class Part(ABC):
    """A part of the evidence: a program of its own, so that whatever happens to it ends it alone.

    Attributes:
        name: What it is called.
        minutes: Its share of the time, relative to the others'.
    """

    name: str
    minutes: float

    @abstractmethod
    def command(self, folder: Path, machine: record.Line, limit_s: float) -> list[str]:
        """The command line.

        Args:
            folder: Where the evidence is.
            machine: The `machine` line of the record.
            limit_s: Seconds until it is stopped.
        """

    @abstractmethod
    def left(self, folder: Path) -> int | None:
        """How many tests, trials or the like are left to do; `None` where it has not begun."""

    def faults(self, folder: Path) -> list[str]:  # noqa: ARG002
        """What was found to be wrong, in words; what is only missing is no fault."""
        return []

    def news(self, line: str) -> str | None:
        """What is worth telling of a line that the command printed."""
        return line

    def keep(self, folder: Path, ended: "Ended") -> None:  # noqa: B027 (some write all themselves)
        """Adds to the record what only its end tells."""


@dataclass(frozen=True)
class Suite(Part):
    """Tests of the checkout, chosen by a pytest mark expression.

    Attributes:
        mark: The expression.
        paths: Where to look for tests.
        last: Tests whose names hold one of these words come last.
    """

    mark: str
    paths: tuple[str, ...]
    last: tuple[str, ...]

    def command(self, folder: Path, machine: record.Line, limit_s: float) -> list[str]:  # noqa: ARG002
        """See `Part`."""
        return [
            *(sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")),
            # The project's own options ask for plugins that a bare machine may not have.
            *("-o", "addopts=", "-p", "no:cacheprovider", "--continue-on-collection-errors"),
            *("-q", "--tb=short", "-p", "bench.evidence.plugin", f"--evidence={folder}"),
            *(f"--evidence-part={self.name}", *(f"--evidence-last={word}" for word in self.last)),
            # Those are for pytest-benchmark, and the kernel has a part of its own.
            *(f"--ignore={ROOT / 'tests' / 'benchmarks'}", "-m", self.mark, *self.paths),
        ]

    def left(self, folder: Path) -> int | None:
        """See `Part`."""
        found = Outcomes.read(folder, self.name)
        return None if found.selected is None else len(found.missing)

    def faults(self, folder: Path) -> list[str]:
        """See `Part`."""
        found = Outcomes.read(folder, self.name)
        nothing = [f"no test matches {self.mark!r}"] if found.selected == [] else []
        return nothing + [f"{line['test']} failed" for line in found.failed]

    def keep(self, folder: Path, ended: Ended) -> None:
        """A test in which the process ended has failed, or it would end the next one too."""
        if ended.in_time:
            for test in Outcomes.read(folder, self.name).cut_off:
                detail = f"the process ended in it: {ended.how}"
                append(folder, self.name, test, "failed", seconds=0.0, detail=detail)


@dataclass(frozen=True)
class Answer(Part):
    """A program whose one line of JSON is what it found, kept as a line of the record."""

    kind: ClassVar[str]
    """Of that line."""

    def left(self, folder: Path) -> int | None:
        """See `Part`."""
        return 0 if self.found(folder) else None

    def found(self, folder: Path) -> record.Line | None:
        """The line; `None` if there is none yet."""
        lines = record.read(folder, self.kind)
        return next((line for line in reversed(lines) if line["part"] == self.name), None)

    def news(self, line: str) -> str | None:
        """See `Part`."""
        return None if line.startswith("{") else line

    def keep(self, folder: Path, ended: Ended) -> None:
        """See `Part`."""
        if ended.answer:
            record.append(folder, self.kind, part=self.name, **self.told(json.loads(ended.answer)))

    def told(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What is kept of an answer."""
        return answer


@dataclass(frozen=True)
class Budget(Answer):
    """The audit of the memory budget.

    Attributes:
        budget: A size such as `8GiB`; empty for the default.
    """

    budget: str
    kind = "budget"

    def command(self, folder: Path, machine: record.Line, limit_s: float) -> list[str]:  # noqa: ARG002
        """See `Part`."""
        found = machine["environment"]
        return [
            *(sys.executable, "-P", "-m", "bench.evidence.audit", found["device"]),
            *(found["gpu_uuid"] or "", str(machine["free_bytes"]), self.budget),
        ]

    def faults(self, folder: Path) -> list[str]:
        """See `Part`."""
        wrong = {
            "refused": "the budget is not enforced",
            "recognized": "the refusal is not recognized as out of memory",
            "recovered": "the process cannot go on after the refusal",
        }
        found = self.found(folder)
        return [words for name, words in wrong.items() if found and not found[name]]


@dataclass(frozen=True)
class Kernels(Answer):
    """The Lab kernel beside what others offer.

    Attributes:
        rounds: Of each, in turn.
    """

    rounds: int
    kind = "kernels"

    def command(self, folder: Path, machine: record.Line, limit_s: float) -> list[str]:  # noqa: ARG002
        """See `Part`."""
        device = machine["environment"]["device"]
        return [
            *(sys.executable, "-P", "-m", "bench", "kernels", "--json"),
            *(f"--device={device}", f"--rounds={self.rounds}"),
        ]

    def told(self, answer: dict[str, Any]) -> dict[str, Any]:
        """See `Answer`; the table is made anew from the rest."""
        return {"found": {name: value for name, value in answer.items() if name != "table"}}


@dataclass(frozen=True)
class Sweep(Part):
    """A sweep whose rows go into the folder's one journal, so that no cell is measured twice.

    Attributes:
        preset: A preset or a TOML file.
        values: What `--set` says of it.
        view: Of `bench.report.views`, to show it in; `None` for the result table.
        rivals: If there are any, the fastest variant of these sweeps is measured too.
    """

    preset: str
    values: Mapping[str, Sequence[str]]
    view: str | None
    rivals: tuple["Sweep", ...]

    def command(self, folder: Path, machine: record.Line, limit_s: float) -> list[str]:  # noqa: ARG002
        """See `Part`."""
        words = [sys.executable, "-P", "-m", "bench", "sweep", self.preset, "--json"]
        values = self._values(journal.read_if_any(folder)) | {
            "previews": ["0"],  # files, of which a few are to be carried
            "time_limit_s": [str(max(1, int(limit_s)))],
        }
        for name, texts in values.items():
            words += ["--set", f"{name}={','.join(texts)}"]
        return [*words, f"--out={folder}"]

    def news(self, line: str) -> str | None:
        """See `Part`; events are those of `bench.events.JsonDisplay`."""
        try:
            event = json.loads(line)
        except ValueError:
            return line
        if event.get("event") == "note":
            return str(event["text"])
        if event.get("event") != "row":
            return None
        found = event["reason"] or f"{rate_text(event['images_per_s'])} images/s"
        return f"[{event['done']}/{event['total']}] {event['label']}: {event['status']}, {found}"

    def left(self, folder: Path) -> int | None:
        """See `Part`."""
        rows = journal.read_if_any(folder)
        ended = {row.trial.key for row in rows if row.result.status is not Status.INTERRUPTED}
        return len(self.keys(rows) - ended) if rows else None

    def keys(self, rows: Sequence[Row]) -> set[str]:
        """The keys of its trials, whether they have rows yet or not."""
        asked = spec.load(self.preset, self._values(rows))
        return {trial.key for trial in asked.trials_like(rows[0])}

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Its own among all rows of the folder."""
        keys = self.keys(rows) if rows else set()
        return [row for row in rows if row.trial.key in keys]

    def _values(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        values = {name: list(texts) for name, texts in self.values.items()}
        fastest = self._fastest(rows)
        if fastest is not None and fastest not in values.get("variants", []):
            values.setdefault("variants", []).append(fastest)
        return values

    def _fastest(self, rows: Sequence[Row]) -> str | None:
        """The fastest variant of the rivals, as far as they have been measured."""
        keys = {key for rival in self.rivals if rows for key in rival.keys(rows)}
        measured = [row for row in rows if row.trial.key in keys]
        if not measured:
            return None
        from bench.report.frame import cell_frame  # pandas: not before it is needed

        frame: Any = cell_frame(measured)
        return next(iter(frame.loc[frame["fastest"], "variant"]), None)
