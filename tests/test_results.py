"""What is published is what the journals say."""

from pathlib import Path

import pytest

from bench.journal import FILE_NAME, read
from bench.report.frame import cell_frame
from bench.report.tables import to_csv, to_json, to_markdown

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for path in ROOT.glob(f"results/2*/{FILE_NAME}"))


def test_something_is_published() -> None:
    assert PUBLISHED


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_tables_are_rendered_from_the_journal(folder: Path) -> None:
    cells = cell_frame(read(folder))
    assert (folder / "table.md").read_text() == to_markdown(cells)
    assert (folder / "table.csv").read_text() == to_csv(cells)
    assert (folder / "table.json").read_text() == to_json(cells)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_rows_come_from_committed_code(folder: Path) -> None:
    for row in read(folder):
        assert row.environment["commit"]
        assert row.environment["dirty"] is False


def test_the_readme_shows_a_published_table_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("<!-- table of ")[1]
    name, _, rest = shown.partition(" -->\n")
    table, _, _ = rest.partition("<!-- end -->")
    assert table.strip() == (ROOT / "results" / name / "table.md").read_text().strip()
