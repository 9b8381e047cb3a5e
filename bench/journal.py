"""The journal: one JSON line per trial, appended and synced, never rewritten.

Every line stands alone: `schema`, `key`, `trial`, `workload`, `data`, `environment`, and the
fields of `TrialResult`. A later line of the same key replaces an earlier one for readers.
"""

import contextlib
import fcntl
import gc
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from bench import schema
from bench.environment import COMPARABLE
from bench.errors import UserError
from bench.trial import Status, Trial, TrialResult

SCHEMA = 1
FILE_NAME = "journal.jsonl"

PER_FOLDER = ("workload", "samples", "warmup_steps", "measured_steps", "device", "budget_bytes")
"""Fields of a trial that are the same in all rows of a folder, or they could not be compared."""

_AT_ONCE = 256
"""Lines that are checked together: enough to save time, and few enough to hold in memory twice."""


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
            UserError: It is not what `journal.schema.json` describes, or contradicts itself.
        """
        if (found := line.get("schema") if isinstance(line, dict) else None) != SCHEMA:
            raise UserError(f"schema {found!r}: expected {SCHEMA}")
        if wrong := _schema()([line]):
            raise UserError(f"not a row of schema {SCHEMA}: {wrong.lstrip('.: ')}")
        return cls._of_checked(line)

    @classmethod
    def _of_checked(cls, line: dict[str, Any]) -> "Row":
        """As `from_json`, of a line that fits the schema."""
        rest = dict(line)
        rest.pop("schema")
        key, trial = rest.pop("key"), Trial.from_json(rest.pop("trial"))
        if key != trial.key:
            raise UserError(f"key {key}: expected {trial.key}, the hash of its trial")
        workload, data, environment = map(rest.pop, ("workload", "data", "environment"))
        result = TrialResult(**(rest | {"status": Status(rest["status"])}))
        if wrong := _contradiction(result):
            raise UserError(f"not a row of schema {SCHEMA}: {wrong}")
        return cls(trial, workload, data, environment, result)

    @property
    def circumstances(self) -> dict[str, Any]:
        """What must be the same in every row of a folder, by name."""
        return (
            {name: getattr(self.trial, name) for name in PER_FOLDER}
            # By name: those of another version of the workload tell other things apart.
            | {"settings": ", ".join(self.trial.settings)}
            | {f"data.{name}": value for name, value in self.data.items()}
            | {f"environment.{name}": self.environment.get(name) for name in COMPARABLE}
        )


@cache
def _schema() -> schema.Check:
    """The check of `journal.schema.json`."""
    return schema.load(Path(__file__).with_name("journal.schema.json"))


def _contradiction(result: TrialResult) -> str | None:
    """What of a good result does not fit the rest of it, which no schema can say."""
    if result.status is not Status.OK:
        return None
    steps, window, began = len(result.step_phase_s), result.window, result.phase_at_s
    if len(result.step_samples) != steps:
        return (
            f"step_samples: {len(result.step_samples)} items, expected {steps} as in step_phase_s"
        )
    if not window[0] < window[1] <= steps:
        return f"window {window}: expected a range within {steps} steps"
    if began["training"] <= began["measuring"]:
        return f"phase_at_s: training at {began['training']}, expected it after measuring"
    return None


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
        UserError: Naming the first key that differs, and both values.
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
    """Raises `UserError` naming a key that differs, and both values."""
    if there != here:
        raise UserError(
            f"{where}: {name} is {there!r} there and {here!r} here; "
            "rows that cannot be compared need another folder (--out)"
        )


def read(folder: Path) -> list[Row]:
    """All rows of a folder's journal, the last of each key, in the order they first appeared.

    A torn last line (the writer was killed) is passed over.

    Raises:
        UserError: There is no journal, there is no row in it, a line in it is not a row, or two
            rows cannot be compared.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError(f"{folder}: expected a folder with a {FILE_NAME} in it")
    if rows := read_if_any(folder):
        return rows
    raise UserError(f"{path}: the journal holds no rows yet")


def read_if_any(folder: Path) -> list[Row]:
    """As `read`, of a folder that may not have a journal yet, or none with rows."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    found: dict[str, tuple[int, Row]] = {}
    first = 1
    with path.open("rb") as file, _no_collection():
        whole = (line for line in file if line.endswith(b"\n"))
        while lines := list(islice(whole, _AT_ONCE)):
            for number, row in enumerate(_rows(lines, path, first), start=first):
                found[row.trial.key] = number, row
            first += len(lines)
    rows = list(found.values())
    for line, reference in rows[:1]:
        common = reference.circumstances
        for number, row in rows:
            if row.circumstances != common:
                name, (there, here) = next(iter(differences(reference, row).items()))
                raise UserError(
                    f"{path}, line {number}: {name} is {here!r}, and {there!r} in line {line}; "
                    f"rows that cannot be compared need another folder (--out)"
                )
    return [row for _, row in rows]


def _rows(lines: Sequence[bytes], path: Path, first: int) -> Iterator[Row]:
    """The rows of lines; the schema is checked for all at once, which takes a fraction of the time.

    Args:
        lines: Some of the journal.
        path: The journal, for the message.
        first: The number of the first of these lines.
    """
    number = first
    try:
        parsed = []
        for number, line in enumerate(lines, start=first):  # noqa: B007 (told below)
            parsed.append(_parse(line))
        make = Row.from_json if _schema()(parsed) else Row._of_checked
        for number, one in enumerate(parsed, start=first):  # noqa: B007 (likewise)
            yield make(one)
    except UserError as error:
        raise UserError(f"{path}, line {number}: {error}") from None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Rows hold no cycles: a search for some, as they grow and afterwards, takes a third."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _not_json(name: str) -> None:
    raise UserError(f"not JSON: {name}")


_DECODER = json.JSONDecoder(parse_constant=_not_json)
"""Of NaN and Infinity too, JSON knows nothing."""


def _parse(line: bytes) -> Any:
    """A line as JSON types."""
    try:
        found = _DECODER.decode(line.decode())
        # Half of a surrogate pair is no text, and cannot be printed.
        if rb"\ud" in line or rb"\uD" in line:
            found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {error.msg}") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}") from None
    return found


def is_torn(folder: Path) -> bool:
    """Whether the last line of a folder's journal is not whole, and passed over by `read`."""
    with (folder / FILE_NAME).open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


class Journal:
    """A folder's journal, open for appending and locked against a second writer.

    Use as a context manager. The lock is the kernel's, so it ends with the process, however
    that ends.

    Raises:
        UserError: The folder cannot be made or written, is in use, or holds a broken journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, mode=0o666)
        except OSError as error:
            raise UserError(f"--out {folder}: {error.strerror}") from None
        try:
            lock(self._fd, self.path, f"--out {folder}: another sweep is writing there")
            self._cut_torn_line()
            _sync_folder(folder)
            self.rows = {row.trial.key: row for row in read_if_any(folder)}
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def append(self, row: Row) -> Row:
        """Writes a row to disk, whole or not at all, and returns when it is there.

        Returns:
            The row as it was written: a result that could not be read again (a workload may return
            anything as its quality) is a crash that says so.

        Raises:
            UserError: It cannot be written (the disk is full, say). What was written before
                stays as it was.
        """
        try:
            Row.from_json(_parse(row.to_line().encode()))
        except UserError as error:
            reason = f"what it returned cannot be recorded: {error}"
            row = replace(row, result=TrialResult(Status.CRASH, reason))
            Row.from_json(_parse(row.to_line().encode()))  # or it was not the result
        end = os.fstat(self._fd).st_size
        line = row.to_line().encode()
        try:
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, end)
            raise UserError(
                f"{self.path}: {error.strerror}; the rows before {row.trial.label} are safe"
            ) from None
        self.rows[row.trial.key] = row
        return row

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._fd, whole)


def lock(fd: int, path: Path, in_use: str) -> None:
    """Locks an open file against other writers, until it is closed.

    Raises:
        UserError: Another one has it, which `in_use` says; or the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(in_use) from None
    except OSError as error:  # ENOLCK, ENOSYS: some network file systems
        raise UserError(
            f"{path} cannot be locked: {error.strerror}; expected --out with a folder on a local "
            "disk, or a network file system with locks"
        ) from None


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name as durable as its content."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
