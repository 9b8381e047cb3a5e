"""How long the page or the table of a large journal takes, as a user waits for it."""

import json
import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from bench.journal import FILE_NAME
from bench.trial import Trial
from tests.harness import REPOSITORY
from tests.test_html import large, write

PUBLISHED = REPOSITORY / "results/2026-11-26_intel-xeon-2-cores_torch-2.14.1_ladder"


def test_a_page_of_a_thousand_rows(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    write(tmp_path, large(1000 if benchmark.enabled else 20))
    command = [sys.executable, "-m", "bench", "report", str(tmp_path), "--html"]
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        subprocess.run,
        (command,),
        {"cwd": REPOSITORY, "check": True, "capture_output": True},
        rounds=5,
    )
    benchmark.extra_info["bytes"] = (tmp_path / "report.html").stat().st_size


def test_a_table_of_ten_thousand_rows(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Seconds are linear in rows: of 100,000 they are ten times as many."""
    line = json.loads((PUBLISHED / FILE_NAME).read_text().splitlines()[0])
    with (tmp_path / FILE_NAME).open("w") as file:
        for number in range(10_000 if benchmark.enabled else 100):
            line["trial"] |= {"seed": number // 10, "round": number % 10}
            line["key"] = Trial.from_json(line["trial"]).key
            file.write(json.dumps(line) + "\n")
    command = [sys.executable, "-m", "bench", "report", str(tmp_path)]
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        subprocess.run,
        (command,),
        {"cwd": REPOSITORY, "check": True, "capture_output": True},
        rounds=3,
    )
    benchmark.extra_info["bytes"] = (tmp_path / FILE_NAME).stat().st_size
