"""What the command `kernels` measures, and the file that keeps it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.doctor import machine
from bench.environment import describe_host
from bench.runner import Runner
from bench.sweep import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from bench.report.page import Page

FILE_NAME = "kernels.json"
VIEW = "kernels"
SCHEMA = 1

Record = dict[str, Any]
"""`schema`, `at` (ISO 8601, UTC), `environment` (as in the journal) and `cases`, as
`bench.side_by_side` sends them."""

_CASES = "kernels.peers:cases"


def measure(task: str, device: str, rounds: int, command: list[str]) -> Record:
    """Times the Lab kernel beside what others offer, in a process of its own.

    Args:
        task: See `Runner`.
        device: As on the command line.
        rounds: Of each way, in turn.
        command: The command line that asked for this.

    Raises:
        ValueError: The device is not there, or the kernel cannot be had on it.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    with Runner(task, DEFAULT_TIMEOUT_S) as runner:
        found = runner.ask("bench.worker:probe", {"device": device})["environment"]
        request = {"cases": _CASES, "device": found["device"], "rounds": rounds}
        cases = runner.ask("bench.side_by_side:measure", request)["cases"]
    return {
        "schema": SCHEMA,
        "at": at,
        "environment": describe_host(command) | found,
        "cases": cases,
    }


def check_free(folder: Path) -> None:
    """Raises `ValueError` if a folder holds a record already, which would be lost."""
    if (folder / FILE_NAME).exists():
        raise ValueError(f"--out {folder}: it holds a {FILE_NAME} already; expected another folder")


def write(folder: Path, record: Record) -> Path:
    """Keeps a record in a folder, which is made when needed; tells the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    path.write_text(json.dumps(record) + "\n")
    return path


def read(folder: Path) -> Record:
    """The record of a folder.

    Raises:
        ValueError: There is none.
    """
    path = folder / FILE_NAME
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: expected a {FILE_NAME} in it, as `kernels --out` writes"
        ) from None
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path}: expected it as `kernels --out` writes it, of schema {SCHEMA}")
    return found


def page(record: Record) -> "Page":
    """The table of a record."""
    from bench.report.side_by_side import side_by_side  # pandas: not before it is needed

    return side_by_side(record["cases"], machine(record["environment"]))
