"""What was found, on a page for people: Markdown, from the record and the journal alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import journal, kernel_times
from bench.budget import format_bytes
from bench.errors import UserError
from bench.evidence import record
from bench.evidence.gather import Outcome
from bench.evidence.outcomes import Outcomes
from bench.evidence.parts import Answer, Budget, Kernels, Part, Suite, Sweep
from bench.evidence.plan import Plan
from bench.journal import Row
from bench.report import tables, views
from bench.report.frame import OUTSIDE_GIT, cell_frame
from bench.report.page import NOT_MEASURED, NOT_READABLE

FILE_NAME = "evidence.md"


def write(plan: Plan, folder: Path) -> None:
    """Writes the page into the folder, whole or not at all."""
    new = folder / f"{FILE_NAME}.new"
    new.write_text(render(plan, folder), errors="backslashreplace")
    new.replace(folder / FILE_NAME)


def render(plan: Plan, folder: Path) -> str:
    """The page."""
    machines = record.read(folder, "machine")
    rows = journal.read_if_any(folder)
    device = machines[-1]["environment"]["device_name"] if machines else NOT_MEASURED
    sections = [
        f"# Evidence: {device}",
        summary(plan, folder),
        "## machine",
        *(_machine(machines) if machines else [NOT_MEASURED]),
    ]
    for part in plan.parts:
        sentence, body = _found(part, folder, rows)
        sections += [f"## {part.name}", *(body or [sentence])]
    return "\n\n".join(sections) + "\n"


def summary(plan: Plan, folder: Path) -> str:
    """One table: each part, how it stands, and the sentence that follows from it."""
    rows = journal.read_if_any(folder)
    spent_s: Counter[str] = Counter()
    last: dict[str, record.Line] = {}
    for line in record.read(folder, "part"):
        spent_s[line["name"]] += line["seconds"]
        last[line["name"]] = line
    lines = []
    for part in plan.parts:
        done = part.left(folder) == 0
        state = Outcome.DONE if done else last.get(part.name, {}).get("outcome", "not begun")
        sentence, _ = _found(part, folder, rows)
        if state == Outcome.FAILED:
            sentence += f" ({last[part.name]['reason']})"
        texts = (part.name, state, f"{spent_s[part.name]:.0f}", sentence)
        lines.append(f"| {' | '.join(_cell(text) for text in texts)} |")
    return "\n".join(["| part | state | s | found |", "|:--|:--|--:|:--|", *lines])


Found = tuple[str, list[str]]
"""A sentence, and the paragraphs of a section, which hold it too."""


def _found(part: Part, folder: Path, rows: Sequence[Row]) -> Found:
    if isinstance(part, Suite):
        return _tests(Outcomes.read(folder, part.name))
    if isinstance(part, Sweep):
        return _sweep(part, folder, rows)
    found = part.found(folder) if isinstance(part, Answer) else None
    if found and isinstance(part, Budget):
        return _budget(found, part.faults(folder))
    if found and isinstance(part, Kernels):
        page = kernel_times.page(found["found"], str(folder / record.FILE_NAME))
        return page.verdict, [page.to_markdown().strip()]
    return NOT_MEASURED, []


def _sweep(part: Sweep, folder: Path, rows: Sequence[Row]) -> Found:
    own = part.rows(rows)
    if not own:
        return NOT_MEASURED, []
    frame = cell_frame(own)
    try:
        page = views.page(frame, part.view) if part.view else tables.page(frame)
    except UserError as error:  # as yet there is nothing for this view to show
        return f"{NOT_MEASURED}: {error}", []
    left = part.left(folder)
    notes = [f"Trials that are {NOT_MEASURED} yet: {left}."] if left else []
    return page.verdict, [*notes, page.to_markdown().strip()]


def _tests(found: Outcomes) -> Found:
    if found.selected is None:
        return NOT_MEASURED, []
    if not found.selected and not found.failed:
        return "No test matches.", []
    counts = Counter(line["outcome"] for line in found.lines.values())
    words = [f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped")]
    if found.missing:
        words.append(f"{len(found.missing)} not run")
    sentence = ", ".join(words) + "."
    sections = [sentence]
    sections += [f"failed: `{line['test']}`\n\n{_quoted(line['detail'])}" for line in found.failed]
    skipped = Counter(
        line["detail"] for line in found.lines.values() if line["outcome"] == "skipped"
    )
    if skipped:
        sections.append("\n".join(f"- skipped: {n} x {why}" for why, n in skipped.most_common()))
    return sentence, sections


def _budget(found: Mapping[str, Any], faults: Sequence[str]) -> Found:
    budget, process = found["budget_bytes"], found["process_bytes"]
    outside = found.get("device_rise_bytes") if process is None else process
    taken = format_bytes(found["taken_bytes"])
    sentence = f"{'Refused' if found['refused'] else 'Not refused'} after {taken} in blocks, "
    sentence += f"within a budget of {format_bytes(budget)}; "
    if outside is None:
        sentence += f"what the whole process had is {NOT_READABLE}."
    else:
        side = "over" if outside > budget else "under"
        sentence += (
            f"the whole process had {format_bytes(outside)}, {format_bytes(abs(budget - outside))} "
            f"{side} the budget."
        )
    names = [name for name in found if name not in ("schema", "kind", "part", "at")]
    sentence = " ".join([sentence, *(f"Fault: {fault}." for fault in faults)])
    return sentence, [sentence, _table({name: found[name] for name in names})]


def _machine(machines: Sequence[record.Line]) -> list[str]:
    machine = machines[-1]
    code = dict.fromkeys(line["environment"]["commit"] or OUTSIDE_GIT for line in machines)
    calls = f"Calls: {len(machines)}, the last one at {machine['at']}. Commit: {', '.join(code)}."
    # What is none in an environment is not there; of a card it is not readable.
    figures = {name: value for name, value in machine["environment"].items() if value is not None}
    figures |= {"free_bytes": machine["free_bytes"]}
    figures |= {f"card.{name}": value for name, value in (machine["card"] or {}).items()}
    figures |= {f"doctor.{name}": line for name, line in machine["doctor"].items()}
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [calls, _table(figures | {"packages": packages})]


def _table(figures: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_cell(_text(name, value))} |" for name, value in figures.items()]
    return "\n".join(["| what | |", "|:--|:--|", *lines])


def _text(name: str, value: object) -> str:
    if value is None:
        return NOT_READABLE
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value} ({format_bytes(value)})"
    return str(value)


def _cell(text: str) -> str:
    return " ".join(_printable(text).replace("|", "\\|").split())


def _quoted(text: str) -> str:
    return "\n".join(f"    {_printable(line)}" for line in text.splitlines())


def _printable(text: str) -> str:
    """Control characters by their escapes."""
    return "".join(c if c.isprintable() or c.isspace() else repr(c)[1:-1] for c in text)
