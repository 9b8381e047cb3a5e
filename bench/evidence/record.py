"""What an evidence folder holds beside the journal: one JSON object a line, appended and synced.

Every line has `schema`, `at` (ISO 8601, UTC) and `kind`:

- `machine`: `environment` (as in the journal), `card` (of `NvmlDevice.describe`; null without a
  GPU), `packages` (their versions) and `free_bytes`; one for each call of the command.
- `part`: `name`, `command`, `seconds`, `outcome` (`done`, `out of time`, `failed`) and `reason`;
  one for each time that a part ran.
- `selected`: `part`, `source` and `tests`, the names of those that are to run.
- `test`: `part`, `source`, `test` (its name), `outcome` (`passed`, `failed`, `skipped`), `seconds`
  and `detail`.
- `budget`: `part`, and what `bench.evidence.audit.audit` found.
- `kernels`: `part`, and `found`, see `bench.kernel_times.Record`.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.journal import lock

FILE_NAME = "evidence.jsonl"
SCHEMA = 1

Line = dict[str, Any]


def append(folder: Path, kind: str, **found: Any) -> None:
    """Adds a line."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"schema": SCHEMA, "at": at, "kind": kind, **found}).encode() + b"\n"
    with (folder / FILE_NAME).open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:  # a writer that was killed may have left a line torn
            file.seek(end - 1)
            line = line if file.read() == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path, kind: str) -> list[Line]:
    """All lines of a kind, oldest first; none where there is no file. A torn line is passed over.

    Raises:
        UserError: A line of another schema.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        schema = line.get("schema") if isinstance(line, dict) else None
        if schema != SCHEMA:
            raise UserError(f"{path}, line {number}: schema {schema!r}: expected {SCHEMA}")
        if line.get("kind") == kind:
            found.append(line)
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second command out of the folder, which is made when needed.

    Raises:
        UserError: It cannot be made or written, or another command is at work there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / FILE_NAME).open("ab")
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from None
    with file:
        in_use = f"--out {folder}: another command is at work there"
        lock(file.fileno(), folder / FILE_NAME, in_use)
        yield
