"""Every format of the result table, rendered from the one DataFrame of cells."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pandas as pd
from rich import box
from rich.table import Table

from bench.report.frame import OUTSIDE_GIT, Record, plain_cells
from bench.trial import Status

BUSY = 1.25
"""Mean step to median step beyond which something else ran beside a trial."""

NOT_MEASURED = "not measured"
NOT_READABLE = "not readable"

_LEFT = ("variant", "status")


@dataclass(frozen=True)
class Column:
    """A column of the printed table.

    Attributes:
        name: In the DataFrame.
        title: In the heading.
        format: From a number to its text.
        absent: The text of a missing value in a row that ended well.
    """

    name: str
    title: str
    format: Callable[[float], str]
    absent: str = NOT_MEASURED

    def text(self, cell: Record) -> str:
        """What stands in the table for a cell."""
        if pd.notna(cell[self.name]):
            return self.format(float(cell[self.name]))
        if cell["status"] == Status.OK:
            return self.absent
        return NOT_MEASURED if self is COLUMNS[0] else "-"  # once in a row is enough


COLUMNS = (
    Column("images_per_s", "images/s", "{:.1f}".format),
    Column("speedup", "speedup", "{:.2f}x".format),
    Column("speedup_vs_seed", "vs seed", "{:.2f}x".format),
    Column("step_ms", "step ms", "{:.1f}".format),
    Column("peak_memory_gib", "peak GiB", "{:.2f}".format, NOT_READABLE),
    Column("budget_percent", "budget %", "{:.0f}".format, NOT_READABLE),
    Column("utilization_percent", "util %", "{:.0f}".format, NOT_READABLE),
    Column("final_mse", "MSE", "{:.1f}".format),
)
"""The columns of every workload; its baselines follow."""


Columns = dict[str, list[str]]


def _columns(cells: list[Record]) -> Columns:
    """The printed table: title -> its texts. Settings that differ between rows are shown too."""
    differing = _differing(cells, "seed")
    columns: Columns = {
        "variant": [str(cell["variant"]) for cell in cells],
        "batch": [str(cell["batch_size"]) for cell in cells],
        **{name: [str(cell[name]) for cell in cells] for name in differing},
    }
    for column in COLUMNS:
        columns[column.title] = [column.text(cell) for cell in cells]
    for figure, words in _baselines(cells).items():
        column = Column("ratio", _against(words), "{:.2f}x".format)
        ratios = [_ratio(cell["final_mse"], cell[figure]) for cell in cells]
        columns[column.title] = [
            column.text(cell | {"ratio": ratio}) for cell, ratio in zip(cells, ratios, strict=True)
        ]
    columns["status"] = [_status(cell) for cell in cells]
    return columns


def _baselines(cells: list[Record]) -> dict[str, str]:
    """What the workload can do without training: quality figure -> what it is, in words."""
    found: dict[str, str] = {}
    for cell in cells:
        found |= json.loads(cell["baselines"])
    return found


def _against(words: str) -> str:
    return f"vs {words}"


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else float("nan")


def _dispensable(cells: list[Record]) -> list[str]:
    """Titles to be left out of a narrow terminal, in this order, until the rest fits."""
    against = [_against(words) for words in _baselines(cells).values()]
    first, others = against[:1], against[:0:-1]  # the first is the one to beat, and stays longer
    middle = ("budget %", "step ms", "util %", "vs seed")
    return [*others, *middle, *first, "peak GiB", "MSE", "speedup"]


def _differing(cells: list[Record], *more: str) -> list[str]:
    """The settings (and other columns) that are not the same in all cells."""
    names = (*more, *json.loads(cells[0]["settings"]))
    return [name for name in names if len({cell[name] for cell in cells}) > 1]


def _by_settings(cells: list[Record]) -> list[tuple[str, list[Record]]]:
    """The cells that may be compared with each other, with what sets them apart, in words."""
    differing = _differing(cells)
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        words = ", ".join(f"{name} {cell[name]}" for name in differing)
        groups.setdefault(words, []).append(cell)
    return list(groups.items())


def _status(cell: Record) -> str:
    rounds = f" {cell['rounds_ok']}/{cell['rounds']}" if cell["rounds"] > 1 else ""
    return f"{cell['status']}{rounds}"


def _records(frame: pd.DataFrame) -> list[Record]:
    return cast("list[Record]", frame.to_dict("records"))


def to_rich(frame: pd.DataFrame, width: int | None) -> Table:
    """For a terminal; the fastest row is bold.

    Args:
        frame: Of `cell_frame`.
        width: Characters to a line; columns that do not fit are left out, and named below the
            table. `None` keeps all.
    """
    cells = _records(frame)
    columns = _columns(cells)
    widths = {
        title: max(map(len, (title, *texts))) + 3  # padding and rule
        for title, texts in columns.items()
    }
    hidden: list[str] = []
    for title in _dispensable(cells):
        if width is not None and sum(widths.values()) > width:
            hidden.append(title)
            del widths[title]
    caption = f"not shown for lack of width: {', '.join(hidden)}" if hidden else None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for title in widths:
        table.add_column(title, justify="left" if title in _LEFT else "right", no_wrap=True)
    for place, cell in enumerate(cells):
        shown = [columns[title][place] for title in widths]
        table.add_row(*shown, style="bold green" if cell["fastest"] else None)
    return table


def to_markdown(frame: pd.DataFrame) -> str:
    """The table, the verdict and the notes, in Markdown; the fastest row is bold."""
    cells = _records(frame)
    columns = _columns(cells)
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join(":--" if title in _LEFT else "--:" for title in columns) + "|",
    ]
    for place, cell in enumerate(cells):
        texts = [column[place] for column in columns.values()]
        shown = [f"**{text}**" for text in texts] if cell["fastest"] else texts
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join([*lines, "", verdict(frame), "", *(f"- {note}" for note in notes(frame)), ""])


def to_csv(frame: pd.DataFrame) -> str:
    """All columns under the names of the contract; what was not measured is empty."""
    return frame.to_csv(index=False)


def to_json(frame: pd.DataFrame) -> str:
    """As `to_csv`, as a list of objects; what was not measured is null."""
    records = json.loads(frame.to_json(orient="records"))
    return json.dumps(records, indent=1) + "\n"


def verdict(frame: pd.DataFrame) -> str:
    """One sentence: what is fastest, against what, and what it costs; one for each settings."""
    groups = _by_settings(_records(frame))
    return " ".join(_verdict(words, group) for words, group in groups)


def _fastest(cells: list[Record]) -> Record | None:
    return next((cell for cell in cells if cell["fastest"]), None)


def _verdict(words: str, cells: list[Record]) -> str:
    cell = _fastest(cells)
    where = f"at {words}" if words else "here"
    if cell is None:
        if any(other["rounds_ok"] for other in cells):
            return f"Nothing is called fastest {where}: no row ended well in all its rounds."
        return f"Nothing was measured {where}: no row ended well."
    same_batch = [
        plain
        for plain in plain_cells(cell, cells)
        if plain["batch_size"] == cell["batch_size"] and plain is not cell and plain["rounds_ok"]
    ]
    text = (
        f"Fastest {where}: {cell['variant']} at batch {cell['batch_size']} "
        f"with {cell['images_per_s']:.1f} images/s"
    )
    if same_batch:
        text += f", {cell['speedup']:.2f}x plain {cell['plain_variant']} at the same batch"
    if pd.notna(cell["peak_memory_gib"]):
        text += f", in {cell['peak_memory_gib']:.2f} of {cell['budget_gib']:g} GiB"
    text += f", to a final MSE of {cell['final_mse']:.1f}"
    if same_batch:
        text += f" (plain: {same_batch[0]['final_mse']:.1f})"
    return text + "."


def notes(frame: pd.DataFrame) -> list[str]:
    """What a reader must know to take the table for what it is."""
    cells = _records(frame)
    first = cells[0]
    found = [
        f"Measured on {first['device_name']}, torch {first['torch']}, budget "
        f"{first['budget_gib']:g} GiB, {first['samples']} training samples a row.",
    ]
    found += _emulation_notes(cells)
    found += _baseline_notes(cells)
    found += _seed_notes(cells)
    for cell in cells:
        slowed = cell["batch_size"] * 1000 / cell["step_ms"] / cell["images_per_s"]
        if slowed > BUSY:
            found.append(
                f"{cell['variant']} b{cell['batch_size']}: steps took {slowed:.1f}x their median "
                "on average: the machine was busy, and the row and what it is compared with say "
                "little."
            )
    if all(cell["rounds"] == 1 for cell in cells):
        found.append("One round: differences of a few percent may be noise.")
    found += _commit_notes(cells)
    found += [
        f"{cell['variant']} b{cell['batch_size']}{f' at {words}' if words else ''}: "
        f"{cell['status']}: {cell['reason']}"
        for words, group in _by_settings(cells)
        for cell in group
        if cell["status"] != Status.OK
    ]
    return found


def _emulation_notes(cells: list[Record]) -> list[str]:
    """Whether a bigger card stood in for one of the budget's size."""
    found = [
        f"Budget emulated: a card of {cell['card_gib']:.1f} GiB capped to "
        f"{cell['budget_gib']:g} GiB."
        for cell in cells
        if cell["memory_mode"] == "emulated"
    ]
    return list(dict.fromkeys(found))


def _baseline_notes(cells: list[Record]) -> list[str]:
    """What the workload's baselines were, which belong to the data and not to a variant."""
    baselines = _baselines(cells)
    found: list[str] = []
    for words, group in _by_settings(cells):
        where = f" at {words}" if words else ""
        measured = next((cell for cell in group if cell["rounds_ok"]), {})
        texts = [
            f"{measured[figure]:.1f} for {what}"
            for figure, what in baselines.items()
            if pd.notna(measured.get(figure))
        ]
        if texts:
            found.append(f"MSE without training{where}: {', '.join(texts)}.")
    return found


def _commit_notes(cells: list[Record]) -> list[str]:
    """Whether the rows come from one commit, and from nothing but it."""
    found: list[str] = []
    commits = {
        commit
        for cell in cells
        for commit in str(OUTSIDE_GIT if pd.isna(cell["commit"]) else cell["commit"]).split(",")
    }
    if len(commits) > 1:
        found.append(f"Rows come from several commits: {', '.join(sorted(commits))}.")
    if any(pd.notna(cell["dirty"]) and cell["dirty"] for cell in cells):
        found.append("Measured with uncommitted changes.")
    return found


def _seed_notes(cells: list[Record]) -> list[str]:
    """What `vs seed` refers to, and whether that is known to be the budget's edge."""
    found: list[str] = []
    for cell in cells:
        if pd.isna(cell["seed_batch_size"]):
            continue
        size = int(cell["seed_batch_size"])
        edge = (
            "the largest power of two that fits the budget"
            if any(
                plain["batch_size"] == 2 * size
                and plain["status"] in (Status.OOM, Status.IMPLIED_OOM)
                for plain in plain_cells(cell, cells)
            )
            else "the largest power of two measured here; the budget may hold a larger one"
        )
        found.append(f"vs seed: against plain {cell['plain_variant']} at batch {size}, {edge}.")
    return list(dict.fromkeys(found))
