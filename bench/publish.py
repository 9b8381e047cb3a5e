"""Whether a folder is fit to be published, what it is then called, and what goes there."""

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import journal, kernel_times, noise, previews, search, stopping
from bench.environment import CODE, ROOT, source_of
from bench.errors import UserError
from bench.journal import Row
from bench.output import write_files
from bench.stats import LEAST_ROUNDS
from bench.stopping import Stop
from bench.trial import Status

ABOUT = "about.md"
"""Of a published folder: what it shows, in a sentence or two."""

MOST_LETTERS = 60
"""Of a theme."""

PLOTS = "plots"
"""The folder in it that is rendered."""

NAME = re.compile(r"(\d{4}-\d{2}-\d{2})_([a-z0-9.-]+)_torch-([0-9][^_]*)_([a-z0-9-]+)")
"""Date, device, torch and theme of a published folder."""

_RECORDS = (journal.FILE_NAME, stopping.FILE_NAME, search.FILE_NAME, kernel_times.FILE_NAME)
_NO_WORDS = ("r", "tm", "processor", "cpu", "with", "graphics")


def check(folder: Path) -> None:
    """Refuses a folder that is not fit to be published.

    Raises:
        UserError: It is not complete, not of one environment and one clean commit, or its noise
            floor is not known; naming what is missing.
    """
    if reasons := list(_reasons(folder)):
        raise UserError(f"{folder}: cannot be published: {'; '.join(reasons)}")


def _reasons(folder: Path) -> Iterator[str]:
    if kernel_times.is_all_there_is(folder):
        record = kernel_times.read(folder)
        kernel_times.page(record, str(folder / kernel_times.FILE_NAME))  # or tells what is amiss
        yield from _provenance([record["environment"]])
        rounds = min(len(s) for case in record["cases"] for s in case["seconds"].values())
        if rounds < LEAST_ROUNDS:
            yield f"every way was timed {rounds} times, {LEAST_ROUNDS} are needed (--rounds)"
        return
    rows = journal.read(folder)
    if not any(row.result.status is Status.OK for row in rows):
        yield "no trial ended well"
        return
    yield from _lacks(folder, rows)
    yield from _provenance([row.environment for row in rows])
    if not (folder / search.FILE_NAME).exists():  # which tells of batch sizes, and not of speed
        yield from _noises(rows)


def _lacks(folder: Path, rows: Sequence[Row]) -> Iterator[str]:
    """What of the sweep is missing."""
    run = stopping.last(folder)
    if journal.is_torn(folder):
        yield "the last line of its journal is not whole; the same command with --out completes it"
    if run is None:
        yield f"nothing tells that it is complete: it has no {stopping.FILE_NAME}, as sweeps write"
        return
    if run.stopped_by in (Stop.INTERRUPTED, Stop.MAX_TIME):
        how = "was interrupted" if run.stopped_by is Stop.INTERRUPTED else "ran out of time"
        again = f"the same command with --out {shlex.quote(str(folder))}"
        yield f"its last run {how}; {again} completes it"
    if (folder / search.FILE_NAME).exists():
        return  # a search repeats what it certifies, and nothing else
    rounds: dict[str, set[int]] = {}
    for row in rows:
        if row.result.status is not Status.INTERRUPTED:
            rounds.setdefault(row.trial.cell.key, set()).add(row.trial.round)
    most = max(rounds.values(), key=len)
    for row in rows:
        if (found := rounds.get(row.trial.cell.key, set())) != most:
            yield f"{row.trial.cell.label} has {len(found)} rounds, others have {len(most)}"
            return


def _provenance(environments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What keeps a reader from finding the code that was measured with."""
    if any(environment["dirty"] for environment in environments):
        yield "measured with uncommitted changes"
    known = {environment["commit"] or environment.get("source") for environment in environments}
    if len(known) > 1:
        yield f"rows come from several commits: {', '.join(sorted(map(str, known)))}"
    if not all(map(is_committed, environments)):
        yield "measured outside git, and no commit here has that code"


def _noises(rows: Sequence[Row]) -> Iterator[str]:
    """Cells of which nothing tells what equal ones would differ by."""
    rounds: dict[tuple[str, str, int], int] = {}
    for row in rows:
        if row.result.status is Status.OK and noise.of_row(row) is None:
            place = json.dumps(dict(row.trial.settings)), row.trial.variant, row.trial.batch_size
            rounds[place] = rounds.get(place, 0) + 1
    for (_, variant, batch_size), count in rounds.items():
        if count < LEAST_ROUNDS:
            yield (
                f"the noise floor of {variant} b{batch_size} is not known: rounds are {count}, and "
                f"{LEAST_ROUNDS} are needed, or before it `doctor --noise` with these settings, "
                f"batch size, samples and steps"
            )
            return


def is_committed(environment: Mapping[str, Any], root: Path = ROOT) -> bool:
    """Whether the code that was measured with is a commit's.

    A copy of a checkout, as a lent machine has it, knows no commit: there the code itself tells.
    """
    if environment["commit"]:
        return environment["dirty"] is False
    command = ["git", "rev-list", "HEAD", "--", *CODE]
    try:
        done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        sources = [source_of(commit, root) for commit in done.stdout.split()]
    except (OSError, subprocess.CalledProcessError):
        return False
    return environment.get("source") in sources


def name_of(folder: Path, theme: str | None) -> str:
    """What a folder is called when it is published.

    Args:
        folder: To be published.
        theme: The last part; `None` for what the command line says that made it.

    Raises:
        UserError: The theme has other characters than such a name has.
    """
    if kernel_times.is_all_there_is(folder):
        record = kernel_times.read(folder)
        environment, at, told = record["environment"], record["at"], "kernels"
    else:
        rows = journal.read(folder)
        environment = rows[0].environment
        at = max(row.result.started_at or "" for row in rows)
        told = _theme(stopping.last(folder))
    theme = told if theme is None else theme
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", theme) or len(theme) > MOST_LETTERS:
        raise UserError(
            f"--name {theme!r}: expected small letters, digits and single hyphens, at most "
            f"{MOST_LETTERS} of them"
        )
    torch = re.sub("[^a-z0-9.]", "-", str(environment["torch"]).partition("+")[0])
    day = (at or datetime.now(UTC).isoformat())[:10]
    return f"{day}_{device_slug(environment)}_torch-{torch}_{theme}"


def _theme(run: stopping.Run | None) -> str:
    words = shlex.split(run.command)[1:] if run else []
    sources = [word for word in words[1:2] if not word.startswith("-")]
    if words[:1] == ["sweep"]:
        return Path(sources[0]).stem if sources else "quick"
    return "noise" if "--noise" in words else (words or ["sweep"])[0]


def device_slug(environment: Mapping[str, Any]) -> str:
    """A device in a folder's name, such as `intel-xeon-2-cores` or `nvidia-geforce-rtx-4060`."""
    words = re.findall("[a-z0-9]+", str(environment["device_name"]).lower())
    kept = [word for word in words if word not in _NO_WORDS]
    if environment.get("gpu_uuid") is None:
        kept.append(f"{environment['cpus_allowed']}-cores")
    return "-".join(kept)


def publish(folder: Path, to: Path, theme: str | None, about: str | None) -> tuple[Path, bool]:
    """Puts a folder among the published ones, or renders one that is there anew.

    Args:
        folder: What a sweep or `kernels --out` has written; or a published folder.
        to: The folder of published folders.
        theme: See `name_of`.
        about: What it shows; `None` leaves what is known.

    Returns:
        The published folder, and whether it was not there before.

    Raises:
        UserError: It is not fit for that, or another one has its name.
    """
    again = folder.resolve().parent == to.resolve() and NAME.fullmatch(folder.resolve().name)
    if again and theme is not None:
        raise UserError(f"--name {theme}: {folder} is published already, and keeps its name")
    if not again:
        check(folder)
    target = folder if again else to / name_of(folder, theme)
    if target.exists() and not again:
        raise UserError(f"{target}: is there already; --name gives it another name")
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to {to}: expected a folder; {error.strerror}") from None
    with tempfile.TemporaryDirectory(dir=to, prefix=".publishing-") as name:
        new = Path(name) / "folder"
        _copy(folder, new)
        if about is not None:
            (new / ABOUT).write_text(about.strip() + "\n")
        render(new, target.name)
        if again:
            shutil.move(target, Path(name) / "old")
        new.rename(target)
    return target, not again


def _copy(folder: Path, new: Path) -> None:
    """What was recorded; of a published folder also what somebody has put beside it."""
    if NAME.fullmatch(folder.resolve().name):
        shutil.copytree(folder, new, ignore=shutil.ignore_patterns(PLOTS))
        return
    new.mkdir()
    for name in _RECORDS:
        if (folder / name).is_file():
            shutil.copy(folder / name, new)
    if kernel_times.is_all_there_is(folder):
        return
    names = {name for row in journal.read(folder) for name in row.result.previews.values()}
    for path in filter(None, (previews.find(folder, name) for name in sorted(names))):
        (new / previews.FOLDER).mkdir(exist_ok=True)
        shutil.copy(path, new / previews.FOLDER)


def render(folder: Path, name: str) -> None:
    """Writes all that is made of what a published folder records."""
    from bench.report.published import files

    write_files(folder, files(folder, name))
