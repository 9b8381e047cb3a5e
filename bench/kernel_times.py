"""What the command `kernels` measures, and the file that keeps it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import journal
from bench.doctor import machine
from bench.environment import describe_host
from bench.errors import UserError
from bench.runner import Runner
from bench.sweep import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from bench.report.page import Page

FILE_NAME = "kernels.json"
VIEW = "kernels"
SCHEMA = 1

MOST_ROUNDS = 100

Record = dict[str, Any]
"""`schema`, `at` (ISO 8601, UTC), `environment` (as in the journal) and `cases`, as
`bench.side_by_side` sends them."""

_CASES = "kernels.peers:cases"


def check_rounds(name: str, rounds: int) -> int:
    """Raises `UserError` for so many rounds that nobody would wait for them."""
    if not 1 <= rounds <= MOST_ROUNDS:
        raise UserError(f"{name} {rounds}: expected a whole number from 1 to {MOST_ROUNDS}")
    return rounds


def measure(
    task: str, device: str, rounds: int, command: list[str], note: Callable[[str], None]
) -> Record:
    """Times the Lab kernel beside what others offer, in a process of its own.

    Args:
        task: See `Runner`.
        device: As on the command line.
        rounds: Of each way, in turn.
        command: The command line that asked for this.
        note: Is told what the user should know of the device.

    Raises:
        UserError: The device is not there, or the kernel cannot be had on it.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    with Runner(task, DEFAULT_TIMEOUT_S) as runner:
        found = runner.probe(device)
        if found.note:
            note(found.note)
        request = {"cases": _CASES, "device": found.device, "rounds": rounds}
        cases = runner.ask("bench.side_by_side:measure", request)["cases"]
    return {
        "schema": SCHEMA,
        "at": at,
        "environment": describe_host(command) | found.environment,
        "cases": cases,
    }


def make_room(folder: Path) -> None:
    """Makes a folder where a record can be written.

    Raises:
        UserError: It cannot be made or written, or holds a record already, which would be lost.
    """
    if (folder / FILE_NAME).exists():
        raise UserError(f"--out {folder}: it holds a {FILE_NAME} already; expected another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _new(folder).touch()
        _new(folder).unlink()
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from None


def write(folder: Path, record: Record) -> Path:
    """Keeps a record in a folder, whole or not at all; tells the file."""
    new, path = _new(folder), folder / FILE_NAME
    new.write_text(json.dumps(record) + "\n")
    return new.replace(path)


def _new(folder: Path) -> Path:
    return folder / f"{FILE_NAME}.new"


def is_all_there_is(folder: Path) -> bool:
    """Whether a folder holds a record, and no journal."""
    return (folder / FILE_NAME).exists() and not (folder / journal.FILE_NAME).exists()


def read(folder: Path) -> Record:
    """The record of a folder.

    Raises:
        UserError: There is none.
    """
    path = folder / FILE_NAME
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder}: expected a {FILE_NAME} in it, as `kernels --out` writes"
        ) from None
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UserError(f"{path}: expected it as `kernels --out` writes it, of schema {SCHEMA}")
    return found


def page(record: Record, where: str) -> "Page":
    """The table of a record.

    Args:
        record: See `Record`.
        where: It is kept, for the message.

    Raises:
        UserError: Something is missing in it.
    """
    from bench.report.side_by_side import side_by_side  # pandas: not before it is needed

    try:
        return side_by_side(record["cases"], machine(record["environment"]))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{where}: expected it as `kernels` writes it: {type(error).__name__} {error}"
        ) from None
