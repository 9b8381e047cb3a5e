"""Renders the tables of README.md anew, each by the command that stands above it.

A table begins with `<!-- report ARGUMENTS -->` or `<!-- recommend ARGUMENTS -->`, which are those
of that command of `unet-bench`, and ends with `<!-- end -->`. With `--check` nothing is written,
and a table that differs is a failure.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"(<!-- ((?:report|recommend) .+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(match: re.Match[str]) -> str:
    """A table with its marks, as the command gives it now."""
    command = [sys.executable, "-m", "bench", *shlex.split(match[2]), "--format", "md"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return match[1] + done.stdout + match[3]


def main() -> None:
    """See the module."""
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = TABLE.sub(render, before)
    if sys.argv[1:] == ["--check"]:
        sys.exit(before != after)
    readme.write_text(after)


if __name__ == "__main__":
    main()
