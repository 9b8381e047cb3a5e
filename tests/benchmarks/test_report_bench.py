"""How long the page of a large journal takes, as a user waits for it."""

import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from tests.harness import REPOSITORY
from tests.test_html import large, write


def test_a_page_of_a_thousand_rows(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    write(tmp_path, large(1000))
    command = [sys.executable, "-m", "bench", "report", str(tmp_path), "--html"]
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        subprocess.run,
        (command,),
        {"cwd": REPOSITORY, "check": True, "capture_output": True},
        rounds=5,
    )
    benchmark.extra_info["bytes"] = (tmp_path / "report.html").stat().st_size
