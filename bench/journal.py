"""The journal: one JSON line per trial, appended and synced, never rewritten.

Every line stands alone: `schema`, `key`, `trial`, `workload`, `data`, `environment`, and the
fields of `TrialResult`. A later line of the same key replaces an earlier one for readers.
"""

import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.environment import COMPARABLE
from bench.trial import Status, Trial, TrialResult

SCHEMA = 1
FILE_NAME = "journal.jsonl"

PER_FOLDER = ("workload", "samples", "warmup_steps", "measured_steps", "device", "budget_bytes")
"""Fields of a trial that are the same in all rows of a folder, or they could not be compared."""


_KINDS: Mapping[str, type] = {
    field.name: type(field.default_factory())
    for field in fields(TrialResult)
    if field.default_factory is not MISSING
}
"""Of a result's fields: `list` or `dict`."""


@dataclass(frozen=True)
class Row:
    """One journal line: a trial, its circumstances and its result.

    Attributes:
        trial: What was asked.
        workload: `name` and `plain` (the variant that speed-ups refer to).
        data: Provenance of the training data.
        environment: What the machine and the software were.
        result: What was found.
    """

    trial: Trial
    workload: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: TrialResult

    def to_line(self) -> str:
        """The row as one line of JSON, with its newline; values that are not finite are null."""
        line = {
            "schema": SCHEMA,
            "key": self.trial.key,
            "trial": self.trial.to_json(),
            "workload": dict(self.workload),
            "data": dict(self.data),
            "environment": dict(self.environment),
            **asdict(self.result),
        }
        return json.dumps(_finite(line), separators=(",", ":"), allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, line: Any) -> "Row":
        """The inverse of `to_line`, from the parsed line.

        Raises:
            ValueError: Another schema, or fields are missing, unknown or of another kind.
        """
        rest = dict(line) if isinstance(line, dict) else {}
        schema = rest.pop("schema", None)
        if schema != SCHEMA:
            raise ValueError(f"schema {schema!r}: expected {SCHEMA}")
        try:
            rest.pop("key")
            trial = Trial.from_json(rest.pop("trial"))
            workload, data = rest.pop("workload"), rest.pop("data")
            environment = rest.pop("environment")
            result = TrialResult(**rest)
            result.status = Status(result.status)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a row of schema {SCHEMA}: {error}") from None
        row = cls(trial, workload, data, environment, result)
        held = {name: getattr(result, name) for name in _KINDS}
        held |= {"workload": workload, "data": data, "environment": environment}
        held |= {"axes": trial.axes, "settings": trial.settings}
        kinds = {name: _KINDS.get(name, dict) for name in held}
        wrong = [name for name, value in held.items() if not isinstance(value, kinds[name])]
        if wrong:
            words = ", ".join(f"{name} {json.dumps(held[name])[:40]}" for name in wrong)
            raise ValueError(f"not a row of schema {SCHEMA}: {words}: expected arrays or objects")
        return row

    @property
    def circumstances(self) -> dict[str, Any]:
        """What must be the same in every row of a folder, by name."""
        trial = self.trial.to_json()
        return (
            {name: trial[name] for name in PER_FOLDER}
            | {f"data.{name}": value for name, value in self.data.items()}
            | {f"environment.{name}": self.environment.get(name) for name in COMPARABLE}
        )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def check_comparable(row: Row, other: Row, where: str) -> None:
    """Refuses to mix what cannot be compared.

    Args:
        row: A row that is there already.
        other: The row to be added.
        where: The journal, for the message.

    Raises:
        ValueError: Naming the first key that differs, and both values.
    """
    for name, (there, here) in differences(row, other).items():
        check_equal(name, there, here, where)


def differences(row: Row, other: Row) -> dict[str, tuple[Any, Any]]:
    """What keeps two rows from being compared: name -> its value in the one and the other."""
    there, here = row.circumstances, other.circumstances
    return {
        name: (there.get(name), here.get(name))
        for name in there | here
        if there.get(name) != here.get(name)
    }


def check_same_question(trial: Trial, other: Trial, where: str) -> None:
    """As `check_comparable`, as far as it can be told before anything is measured."""
    there, here = trial.to_json(), other.to_json()
    for name in PER_FOLDER:
        check_equal(name, there[name], here[name], where)


def check_equal(name: str, there: object, here: object, where: str) -> None:
    """Raises `ValueError` naming a key that differs, and both values."""
    if there != here:
        raise ValueError(
            f"{where}: {name} is {there!r} there and {here!r} here; "
            "rows that cannot be compared need another folder (--out)"
        )


def read(folder: Path) -> list[Row]:
    """All rows of a folder's journal, the last of each key, in the order they first appeared.

    A torn last line (the writer was killed) is passed over.

    Raises:
        ValueError: There is no journal, or a line in it is not a row.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ValueError(f"{folder}: expected a folder with a {FILE_NAME} in it")
    rows: dict[str, Row] = {}
    for number, line in enumerate(_whole_lines(path.read_bytes()), start=1):
        try:
            row = Row.from_json(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error.msg}") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        rows[row.trial.key] = row
    return list(rows.values())


def read_if_any(folder: Path) -> list[Row]:
    """As `read`, of a folder that may not have a journal yet."""
    return read(folder) if (folder / FILE_NAME).exists() else []


def is_torn(folder: Path) -> bool:
    """Whether the last line of a folder's journal is not whole, and passed over by `read`."""
    content = (folder / FILE_NAME).read_bytes()
    return bool(content) and not content.endswith(b"\n")


def _whole_lines(content: bytes) -> list[bytes]:
    return content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]


class Journal:
    """A folder's journal, open for appending and locked against a second writer.

    Use as a context manager. The lock is the kernel's, so it ends with the process, however
    that ends.

    Raises:
        ValueError: The folder cannot be made or written, is in use, or holds a broken journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, mode=0o666)
        except OSError as error:
            raise ValueError(f"--out {folder}: {error.strerror}") from None
        try:
            self._lock()
            self._cut_torn_line()
            _sync_folder(folder)
            self.rows = {row.trial.key: row for row in read(folder)}
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def append(self, row: Row) -> None:
        """Writes a row to disk, whole or not at all, and returns when it is there.

        Raises:
            ValueError: It cannot be written (the disk is full, say). What was written before
                stays as it was.
        """
        end = os.fstat(self._fd).st_size
        line = row.to_line().encode()
        try:
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, end)
            raise ValueError(
                f"{self.path}: {error.strerror}; the rows before {row.trial.label} are safe"
            ) from None
        self.rows[row.trial.key] = row

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--out {self.folder}: another sweep is writing there") from None

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._fd, whole)


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name as durable as its content."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
