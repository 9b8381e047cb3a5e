"""The shell entry point, with a stand-in for Python that notes what it is asked to install."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

# Answers as an interpreter would, makes a "virtual environment" with a copy of itself, and notes
# installations. While the file exists: with `broken` pip fails, with `no_ensurepip` making an
# environment fails before pip is in it, and with `cut_off` everything is killed at that moment.
STAND_IN = """#!/bin/sh
home={home}
case "$1 $2" in
    "-c import sys; sys.exit"*)
        [ ! -e $home/interrupted ] || {{ kill -INT $PPID; exit 1; }}
        exit 0 ;;
    "-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
        [ ! -e $home/no_ensurepip ] || exit 1
        [ ! -e $home/cut_off ] || kill -KILL $PPID $$
        : >"$4/bin/pip" ;;
    "-m pip") [ -e "${{0%/*}}/pip" ] || {{ echo "No module named pip" >&2; exit 1; }}
        [ ! -e $home/broken ] || exit 1
        for last; do :; done
        echo "$last" >>$home/installs ;;
    *) echo "ran $*" ;;
esac
"""


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Path:
    """A bare checkout, with the stand-in as the only Python."""
    checkout = tmp_path / "check out"
    checkout.mkdir()
    for name in ("run_bench.sh", "pyproject.toml"):
        shutil.copy(repository / name, checkout)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "readlink", "dirname", "grep", "cksum", "mkdir", "cp", "mv", "rm", "sh"):
        programs.joinpath(name).symlink_to(str(shutil.which(name)))
    executable(programs / "python3", STAND_IN.format(home=tmp_path))
    return checkout


def run(checkout: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "run_bench.sh"), *arguments],
        env={"PATH": str(checkout.parent / "bin"), **environ},
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def installs(checkout: Path) -> list[str]:
    log = checkout.parent / "installs"
    return log.read_text().split() if log.exists() else []


def test_without_arguments_it_runs_the_default_sweep(checkout: Path) -> None:
    assert run(checkout).stdout.strip() == "ran -P -m bench sweep"


def test_an_interrupt_while_it_looks_at_python_leaves_the_environment_alone(checkout: Path) -> None:
    run(checkout)
    kept = checkout / ".venv" / "kept"
    kept.touch()
    (checkout.parent / "interrupted").touch()
    done = run(checkout)
    assert (done.returncode, done.stdout) == (130, "")
    assert kept.exists()
    assert len(installs(checkout)) == 1


def test_arguments_are_passed_on_as_they_are(checkout: Path) -> None:
    done = run(checkout, "trial", "bf16", "--set", "a=b c")
    assert done.stdout.strip() == "ran -P -m bench trial bf16 --set a=b c"


def test_it_installs_once_and_again_when_the_project_changes(checkout: Path) -> None:
    for _ in range(2):
        run(checkout, "plan")
    assert installs(checkout) == ["."]
    with (checkout / "pyproject.toml").open("a") as project:
        project.write("# another dependency\n")
    for _ in range(2):
        run(checkout, "plan")
    assert installs(checkout) == [".", "."]


def test_the_test_command_adds_its_tools_once(checkout: Path) -> None:
    run(checkout, "plan")
    for _ in range(2):
        assert run(checkout, "test", "-x").stdout.strip() == "ran -m pytest -x"
    run(checkout, "plan")
    assert installs(checkout) == [".", ".[dev]"]


def test_evidence_runs_tests_and_so_has_their_tools(checkout: Path) -> None:
    assert run(checkout, "evidence").stdout.strip() == "ran -P -m bench evidence"
    assert installs(checkout) == [".[dev]"]


def test_a_failed_installation_is_told_and_taken_up_again(checkout: Path) -> None:
    broken = checkout.parent / "broken"
    broken.touch()
    done = run(checkout, "plan")
    assert done.returncode == 2
    assert "installation failed" in done.stderr
    broken.unlink()
    assert run(checkout, "plan").stdout.strip() == "ran -P -m bench plan"


def test_an_environment_that_cannot_be_made_is_told_and_taken_up_again(checkout: Path) -> None:
    flaw = checkout.parent / "no_ensurepip"
    flaw.touch()
    done = run(checkout, "plan")
    assert done.returncode == 2
    assert "cannot make a virtual environment (on Debian: apt install python3-venv)" in done.stderr
    assert not (checkout / ".venv").exists()
    flaw.unlink()
    assert run(checkout, "plan").stdout.strip() == "ran -P -m bench plan"


def test_an_environment_cut_off_in_the_making_is_made_anew_and_then_kept(checkout: Path) -> None:
    flaw = checkout.parent / "cut_off"
    flaw.touch()
    assert run(checkout, "plan").returncode < 0
    assert (checkout / ".venv" / "bin" / "python").exists()
    flaw.unlink()
    done = run(checkout, "plan")
    assert done.stdout.strip() == "ran -P -m bench plan"
    assert "Making " in done.stderr
    assert run(checkout, "plan").stderr == ""


def test_a_missing_or_old_python_is_told(checkout: Path) -> None:
    executable(checkout.parent / "bin" / "python3", "#!/bin/sh\necho Python 3.9.2\nexit 1\n")
    done = run(checkout, "plan")
    assert done.returncode == 2
    assert "needs Python 3.11 or newer; found Python 3.9.2" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_interpreter_that_has_everything_is_used_as_it_is(
    repository: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(repository / "run_bench.sh"), "plan", "quick", "--set", "precision=fp32,bf16"],
        env={**os.environ, "UNET_BENCH_PYTHON": sys.executable},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "24 trials of colorization" in done.stdout


def test_an_interpreter_that_is_not_there_is_told(checkout: Path) -> None:
    done = run(checkout, "plan", UNET_BENCH_PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert "UNET_BENCH_PYTHON=/nowhere/python: no such program" in done.stderr


def test_it_works_through_a_link_from_elsewhere(checkout: Path) -> None:
    link = checkout.parent / "run_bench.sh"
    link.symlink_to(checkout / "run_bench.sh")
    assert run(checkout.parent, "plan", PATH=str(checkout.parent / "bin")).stdout == (
        "ran -P -m bench plan\n"
    )
    assert not (checkout.parent / ".venv").exists()
