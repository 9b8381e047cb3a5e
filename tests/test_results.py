"""What is published has the values that today's code finds in the journals.

Values, not texts: a note may be worded anew and a column may be added without any published
folder becoming wrong.
"""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from bench.journal import FILE_NAME, Row, read
from bench.publish import PLOTS, is_committed
from bench.report.document import Document
from bench.report.drawing import digest
from bench.report.frame import cell_frame
from bench.report.published import index_page, with_index
from bench.report.tables import page, to_csv
from bench.trial import Status, TrialResult
from tests.harness import row_of, toy_trial

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for path in ROOT.glob(f"results/2*/{FILE_NAME}"))


def check_table(folder: Path) -> None:
    """Holds a folder's table.csv against its journal, in the columns that the file has."""
    published = pd.read_csv(folder / "table.csv")
    rendered = pd.read_csv(io.StringIO(to_csv(cell_frame(read(folder)))))
    assert set(published) <= set(rendered)
    pd.testing.assert_frame_equal(
        rendered[list(published)], published, check_dtype=False, rtol=1e-9, atol=0
    )


def test_something_is_published() -> None:
    assert PUBLISHED


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_the_published_values_are_those_of_the_journal(folder: Path) -> None:
    check_table(folder)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_rows_come_from_committed_code(folder: Path) -> None:
    assert all(is_committed(row.environment) for row in read(folder))


DRAWN = [folder for folder in PUBLISHED if (folder / PLOTS).is_dir()]


def test_there_are_pictures() -> None:
    assert DRAWN


@pytest.mark.parametrize("folder", DRAWN, ids=lambda folder: folder.name)
def test_the_published_pictures_show_what_the_journal_holds(folder: Path) -> None:
    rows = read(folder)
    plots = Document(folder, folder.name, rows, page(cell_frame(rows))).plots
    assert {path.stem for path in (folder / PLOTS).iterdir()} == {plot.name for plot in plots}
    for plot in plots:
        shown = digest(plot.figure)
        assert shown in (folder / PLOTS / f"{plot.name}.svg").read_text()
        with Image.open(folder / PLOTS / f"{plot.name}.png") as image:
            assert image.info["Description"] == shown


def test_the_index_is_of_what_is_there() -> None:
    results = ROOT / "results"
    assert index_page(results) == with_index(index_page(results), results)


def test_every_picture_of_the_readme_is_a_published_one() -> None:
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert shown
    known = [path.relative_to(ROOT).as_posix() for one in DRAWN for path in one.glob(f"{PLOTS}/*")]
    assert set(shown) <= set(known)


def readme_is_current(root: Path) -> bool:
    command = [sys.executable, str(root / ".ci/readme.py"), "--check"]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, check=False, env=environ).returncode == 0


def test_the_readme_shows_the_tables_that_its_commands_give(tmp_path: Path) -> None:
    for name in (".ci", "bench", "unet", "kernels", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".ci").unlink()
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    readme = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(readme)
    assert readme_is_current(tmp_path)
    table = next(line for line in readme.splitlines() if line.startswith("| fp32 |"))
    (tmp_path / "README.md").write_text(readme.replace(table, table.replace("| fp32", "| fp33")))
    assert not readme_is_current(tmp_path)


# The comparison itself.


def publish(folder: Path, changes: Mapping[str, Any]) -> None:
    """A folder of two rows, whose table has other values in its first row, or other columns."""
    environment = {
        "device_name": "d",
        "torch": "2",
        "commit": "abc",
        "dirty": False,
        "cpus_allowed": 4,
    }
    good = TrialResult(
        Status.OK,
        phase_at_s={"measuring": 0.0, "training": 3.0},
        step_phase_s=[[0.1, 0.2, 0.3, 0.4]] * 3,
        step_samples=[4, 4, 4],
        window=[1, 3],
        quality={"final_mse": 100 / 3},
        monitor=[
            {"at_s": 0.0, "phase": "measuring", "cpu_s": 0.0, "rss_anon_bytes": 1},
            {"at_s": 3.0, "phase": "training", "cpu_s": 1.0, "rss_anon_bytes": 1},
        ],
    )
    failed = row_of(toy_trial(batch_size=8), Status.OOM, environment)
    fine = row_of(toy_trial(), Status.OK, environment)
    rows = [Row(fine.trial, fine.workload, fine.data, fine.environment, good), failed]
    (folder / FILE_NAME).write_text("".join(row.to_line() for row in rows))
    table = cell_frame(rows)
    for name, value in changes.items():
        if value is None:
            table = table.drop(columns=name)
        elif name in table:
            table.loc[0, name] = value
        else:
            table[name] = value
    (folder / "table.csv").write_text(to_csv(table))


@pytest.mark.parametrize(
    "changes",
    [{}, {"final_mse": 100 / 3 * (1 + 1e-12)}, {"process_gib": None, "baselines": None}],
    ids=["equal", "rounding", "fewer columns"],
)
def test_what_has_the_same_values_passes(changes: Mapping[str, Any], tmp_path: Path) -> None:
    publish(tmp_path, changes)
    assert list(pd.read_csv(tmp_path / "table.csv")["status"]) == ["ok", "oom"]
    check_table(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"final_mse": 100 / 3 * (1 + 1e-6)},
        {"status": "crash"},
        {"final_mse": float("nan")},
        {"unheard_of": 1},
    ],
    ids=["another number", "another text", "a gap", "an unknown column"],
)
def test_what_has_other_values_fails(changes: Mapping[str, Any], tmp_path: Path) -> None:
    publish(tmp_path, changes)
    with pytest.raises(AssertionError):
        check_table(tmp_path)
