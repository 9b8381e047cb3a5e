"""A report as one HTML file that needs nothing else: no network, no other file."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from bench import previews
from bench.budget import format_bytes
from bench.journal import Row
from bench.noise import of_row
from bench.report import Record
from bench.report.cells import differing, label, records
from bench.report.choice import Choice
from bench.report.configurations import Configuration, Group, groups_of, variants_shown
from bench.report.drawing import to_inline_svg
from bench.report.page import LEFT, Page
from bench.report.plots import Plot
from bench.report.recommend import Recommendation
from bench.report.timeline import timeline
from bench.spec import DEFAULT_WORKLOAD
from bench.trial import Status, Trial
from bench.workload import load_object

STATUSES: Mapping[str, str] = {
    Status.OK: "Ended well; behind it in how many rounds.",
    "flagged": "Ended well, but its figures are not those of what its name says, or something ran "
    "beside it: nothing is concluded from it. The notes say why.",
    Status.OOM: "Ran out of memory within the budget.",
    Status.IMPLIED_OOM: "Not run: a smaller batch of the same variant ran out of memory.",
    Status.UNSUPPORTED: "The device cannot do it; the row says why.",
    Status.DIVERGED: "A loss or the final error is not finite.",
    Status.CRASH: "The process failed; the row says how.",
    Status.TIMEOUT: "Took longer than it was given.",
    Status.INTERRUPTED: "Stopped by the user; runs again on resume.",
}

MOST_TIMELINES = 100

_WEB = Path(__file__).parent / "web"


def to_html(
    folder: Path,
    name: str,
    rows: Sequence[Row],
    page: Page,
    recommended: Recommendation,
    plots: Sequence[Plot],
) -> str:
    """The report of a folder.

    Args:
        folder: Where the pictures are that rows name.
        name: That the folder is called by.
        rows: Of its journal.
        page: Its result table.
        recommended: What to use.
        plots: To be shown.
    """
    cells = records(page.frame)
    groups = groups_of(rows, cells)
    loader = jinja2.FileSystemLoader(_WEB)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    filters = _filters(cells)
    return environment.get_template("report.html.j2").render(
        css=(_WEB / "report.css").read_text(),
        js=(_WEB / "report.js").read_text(),
        title=f"{rows[0].workload['name']} on {rows[0].environment['device_name']}",
        subtitle=_subtitle(name, rows, cells),
        verdict=page.verdict,
        choices=_choices(recommended),
        plots=[_plot(plot) for plot in plots if plot.name != "timeline"],
        timelines=_timelines(rows, groups, recommended.choices),
        filters=[{"name": name, "values": values} for name, values in filters.items()],
        columns=[
            {"title": " ".join(title.split()), "left": title in LEFT} for title in _titles(page)
        ],
        cells=[_cell(page, cells, place, list(filters)) for place in range(len(cells))],
        statuses=_statuses(cells),
        previews=[
            {"words": words, "pictures": pictures}
            for words, group in groups
            if (pictures := _previews(folder, group, variants_shown(groups)))
        ],
        notes=[note.replace("`", "") for note in page.notes],
        facts=_facts(rows),
        footer=f"Made by unet-bench {rows[0].environment.get('version') or ''} from {len(rows)} "
        "trials. All figures come from their journal.",
    )


def _subtitle(name: str, rows: Sequence[Row], cells: list[Record]) -> str:
    began = sorted(row.result.started_at for row in rows if row.result.started_at)
    days = " to ".join(dict.fromkeys(text[:10] for text in (began[0], began[-1]))) if began else ""
    rounds = max(cell["rounds"] for cell in cells)
    seeds = len({cell["seed"] for cell in cells})
    told = [
        name,
        days,
        f"torch {rows[0].environment['torch']}",
        f"budget {format_bytes(rows[0].trial.budget_bytes)}",
        f"{len(cells)} cells, "
        + (f"of {seeds} seeds, " if seeds > 1 else "")
        + f"{rounds} round{'s' if rounds > 1 else ''}",
    ]
    return " · ".join(filter(None, told))


def _choices(recommended: Recommendation) -> list[dict[str, Any]]:
    page = recommended.page
    lines = [place for place, bold in enumerate(page.bold) if bold]
    told = {"images/s": "images/s", "vs seed": "vs the seed's setup", "GiB": "GiB", "MSE": "MSE"}
    return [
        {
            "name": choice.configuration.label,
            "figures": [
                {"name": words, "text": page.columns[title][place]} for title, words in told.items()
            ],
            "sentence": choice.sentence,
            "command": choice.configuration.cells[0]["command"],
            "snippet": _snippet(choice.configuration.rows[0].trial),
        }
        for choice, place in zip(recommended.choices, lines, strict=True)
    ]


def _snippet(trial: Trial) -> str:
    """The same as code for another program; empty where there is none."""
    if trial.workload != DEFAULT_WORKLOAD:  # a report imports nothing that a journal names
        return ""
    workload = load_object(DEFAULT_WORKLOAD)
    try:
        return str(workload.snippet(trial.axes, trial.settings, trial.batch_size, trial.device))
    except ValueError:  # a variant of a later version
        return ""


def _plot(plot: Plot) -> dict[str, Any]:
    return {
        "name": plot.name,
        "caption": plot.caption,
        "svg": to_inline_svg(plot.figure, plot.name, plot.caption),
        "wide": len(plot.figure.axes) > 1,
    }


def _timelines(
    rows: Sequence[Row], groups: Sequence[Group], choices: Sequence[Choice]
) -> list[dict[str, Any]]:
    """Of the first round of each cell, what is recommended first."""
    shown = variants_shown(groups)
    first = [row for row in rows if row.trial.round == 0 and row.trial.variant in shown]
    chosen = [choice.configuration.rows[0] for choice in choices]
    ordered = [*chosen, *(row for row in first if all(row is not other for other in chosen))]
    settings = [{"settings": _settings(row), **row.trial.settings} for row in ordered]
    names = differing(settings) if settings else []
    found = []
    for row in ordered[:MOST_TIMELINES]:
        if samples := timeline(row):
            more = "".join(f", {name} {row.trial.settings[name]}" for name in names)
            found.append({"label": f"{row.trial.label}{more}", **samples})
    return found


def _settings(row: Row) -> str:
    return json.dumps(dict(row.trial.settings))


def _filters(cells: list[Record]) -> dict[str, list[str]]:
    """Axes, settings and the like that cells differ in -> their values, in order."""
    names = dict.fromkeys(name for cell in cells for name in json.loads(cell["axes"]))
    found: dict[str, list[str]] = {}
    for name in (*names, "batch_size", *differing(cells, "seed"), "status"):
        values = dict.fromkeys(_value(cell, name) for cell in cells)
        if len(values) > 1:
            found[name] = list(values)
    return found


def _value(cell: Record, name: str) -> str:
    return str(json.loads(cell["axes"]).get(name, cell.get(name, "")))


def _cell(page: Page, cells: list[Record], place: int, filters: Sequence[str]) -> dict[str, Any]:
    cell = cells[place]
    texts = {title: page.columns[title][place] for title in _titles(page)}
    reason = str(cell["reason"] if pd.notna(cell["reason"]) else cell["flags"])
    return {
        "label": label(cell),
        "axes": json.dumps([_value(cell, name) for name in filters]),
        "text": " ".join(filter(None, (cell["variant"], texts["status"], reason))).lower(),
        "bold": page.bold[place],
        "reason": reason,
        "command": cell["command"],
        "figures": [
            {
                "text": text,
                "sort": sort_value(text),
                "left": title in LEFT,
                "status": _class(cell) if title == "status" else "",
                "title": STATUSES[_class(cell)] if title == "status" else "",
            }
            for title, text in texts.items()
        ],
    }


def _titles(page: Page) -> list[str]:
    """The table's columns, how a cell ended beside its name."""
    variant, batch, *others = page.columns
    return [variant, batch, "status", *(title for title in others if title != "status")]


def _class(cell: Record) -> str:
    return "flagged" if cell["status"] == Status.OK and cell["flags"] else str(cell["status"])


def sort_value(text: str) -> str:
    """What a text of a table is sorted by: its first number, nothing if it has no value, or itself.

    "~1.31x" is 1.31, "[1.20, 1.35]" is 1.20, "1,024" is 1024.
    """
    number = re.match(r"[~=≤\[]*([-+]?[0-9][0-9,]*\.?[0-9]*)(?![0-9a-wyz_])", text)
    if number:
        return number[1].replace(",", "").rstrip(".")
    return "" if text in ("-", "", "not measured", "not readable") else text


def _statuses(cells: list[Record]) -> list[dict[str, str]]:
    there = {_class(cell) for cell in cells}
    return [{"name": name, "words": words} for name, words in STATUSES.items() if name in there]


def _previews(
    folder: Path, group: Sequence[Configuration], variants: Sequence[str]
) -> list[dict[str, str]]:
    """Pictures of the shown variants, each at its fastest; those that all have alike come once."""
    best: dict[str, tuple[Configuration, Mapping[str, str]]] = {}
    for one in sorted(group, key=lambda one: one.images_per_s):
        seen = next((row.result.previews for row in one.rows if row.result.previews), None)
        if one.variant in variants and seen:
            best[one.variant] = one, seen
    told = [best[variant] for variant in variants if variant in best]
    captions = dict.fromkeys(caption for _, found in told for caption in found)
    alike = [text for text in captions if len({found.get(text) for _, found in told}) == 1]
    pictures = [(caption, told[0][1][caption]) for caption in alike]
    for one, found in told:
        words = f"{one.variant}, batch {one.batch_size}, MSE {one.cells[0]['final_mse']:.1f}"
        pictures += [
            (f"{caption}: {words}", name) for caption, name in found.items() if caption not in alike
        ]
    paths = [(caption, previews.find(folder, name)) for caption, name in pictures]
    return [
        {"caption": caption, "png": base64.b64encode(path.read_bytes()).decode()}
        for caption, path in paths
        if path
    ]


def _facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the machine, the software and the question were."""
    first = rows[0]
    environment, trial = first.environment, first.trial
    known = next((row.environment["noise"] for row in rows if of_row(row)), None)
    memory = next((row.result.memory for row in rows if row.result.memory.get("mode")), {})
    told: dict[str, object] = {
        "device": environment["device_name"],
        "CPU": environment.get("cpu_model"),
        "CPUs allowed, threads": _joined(environment, "cpus_allowed", "threads"),
        "CPU flags": ", ".join(environment.get("cpu_flags") or []),
        "memory": _bytes(environment.get("memory_bytes")),
        "budget": f"{format_bytes(trial.budget_bytes)} {memory.get('mode') or ''}".strip(),
        "driver": environment.get("driver"),
        "torch": environment["torch"],
        "Triton": environment.get("triton"),
        "CUDA, cuDNN": _joined(environment, "cuda", "cudnn"),
        "Python": environment.get("python"),
        "system": environment.get("os"),
        "allocator": environment.get("malloc"),
        "environment variables": environment.get("variables"),
        "power limit": f"{limit_w:g} W" if (limit_w := environment.get("power_limit_w")) else None,
        "noise floor": f"measured {known['measured_at']}" if known else "by the scatter of rounds",
        "data": ", ".join(f"{name} {value}" for name, value in first.data.items()),
        "samples a trial": trial.samples,
        "warm-up, measured steps": f"at least {trial.warmup_steps} and {trial.measured_steps}",
        "commit": ", ".join(_distinct(row.environment["commit"] for row in rows)),
        "asked for by": "\n".join(_distinct(row.environment.get("command") for row in rows)),
    }
    return [(name, str(value)) for name, value in told.items() if value not in (None, "")]


def _joined(environment: Mapping[str, Any], *names: str) -> str:
    values = [environment.get(name) for name in names]
    return "" if values[0] is None else ", ".join(str(value) for value in values)


def _bytes(size: Any) -> str:
    return "" if size is None else format_bytes(size)


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value))
