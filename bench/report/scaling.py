"""What tasks tell of their loss scaling, and of what they do not do on a device."""

import json
from collections.abc import Sequence

from bench.journal import Row
from bench.report import Record

COUNTS = ("skipped_steps",)
NUMBERS = ("loss_scale",)
ABSENT: Record = {"skipped_steps": None, "loss_scale": None, "caveats": "[]"}


def of_row(row: Row) -> Record:
    """Of one trial that ended well; see `bench.workload.Task.facts`.

    Returns:
        `skipped_steps` (steps of the measured window that updated no weights) and `loss_scale` (at
        the end), `None` without loss scaling; `caveats`, as JSON.
    """
    facts, window = row.result.facts, range(*row.result.window)
    found = ABSENT | {"caveats": json.dumps(facts.get("caveats", []))}
    if "skipped_steps" in facts:
        found["skipped_steps"] = sum(step in window for step in facts["skipped_steps"])
        found["loss_scale"] = facts.get("loss_scale")
    return found


def of_rounds(records: Sequence[Record]) -> Record:
    """Of the rounds of a cell: the most steps, the smallest scale, all caveats."""
    sentences = (sentence for record in records for sentence in json.loads(record["caveats"]))
    return {
        "skipped_steps": max(_known(records, "skipped_steps"), default=None),
        "loss_scale": min(_known(records, "loss_scale"), default=None),
        "caveats": json.dumps(list(dict.fromkeys(sentences))),
    }


def _known(records: Sequence[Record], name: str) -> list[float]:
    return [record[name] for record in records if record[name] is not None]
