"""The compiled kernel's file: which one it is, and that nobody else's is loaded."""

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernels import native
from kernels.cache import COMPILED, compiled_folder_problem

SOURCE = "int rgb_to_lab(void) { return MARK; } int lab_to_rgb(void) { return MARK; }"

OURS, STRANGE, BROKEN = 1, 2, 3


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Libraries with the kernel's functions, which return numbers; the last lacks one."""
    folder = tmp_path_factory.mktemp("libraries")
    compiler = shutil.which("gcc") or shutil.which("g++")
    assert compiler is not None
    found = {}
    for mark in (OURS, STRANGE, BROKEN):
        found[mark] = folder / f"{mark}.so"
        source = SOURCE.partition("}")[0] + "}" if mark == BROKEN else SOURCE
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", f"-DMARK={mark}"]
        subprocess.run([*command, "-o", str(found[mark])], input=source, text=True, check=True)
    return found


class Machine:
    """Compiles by copying, and counts."""

    def __init__(self, cache: Path, libraries: dict[int, Path]) -> None:
        self.libraries = libraries
        self.compiled = 0
        self.folder = cache / COMPILED

    def compile(self, compiler: str, folder: Path) -> Path:
        self.compiled += 1
        return Path(shutil.copy(self.libraries[OURS], folder / "lab.so"))

    def load(self) -> Any:
        """As a new process does."""
        return native._load.__wrapped__()

    def plant(self, mark: int, mode: int = 0o600) -> Path:
        """Puts a library where the kernel is looked for."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "lab-planted.so"
        shutil.copy(self.libraries[mark], path)
        path.chmod(mode)
        return path


@pytest.fixture
def machine(tmp_path: Path, libraries: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path, libraries)
    monkeypatch.setenv("UNET_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_compile", found.compile)
    monkeypatch.setattr(native, "library_name", lambda compiler: "lab-planted.so")
    return found


def is_another_users(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:  # the file stays ours, and we become somebody else
        own = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: own + 1)


def test_it_is_kept_for_other_processes_whatever_the_umask(machine: Machine) -> None:
    before = os.umask(0)
    try:
        assert machine.load().rgb_to_lab() == OURS
        assert machine.load().rgb_to_lab() == OURS
    finally:
        os.umask(before)
    assert machine.compiled == 1
    assert [path.name for path in machine.folder.iterdir()] == ["lab-planted.so"]
    assert compiled_folder_problem() is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_to_is_not_loaded_but_made_anew(
    machine: Machine, mode: int
) -> None:
    path = machine.plant(STRANGE, mode)
    assert machine.load().rgb_to_lab() == OURS
    assert machine.compiled == 1
    assert path.stat().st_mode & 0o022 == 0


def test_another_users_file_is_not_loaded_but_made_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine.plant(STRANGE)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away within a folder of its own")
    is_another_users(path, monkeypatch)
    assert machine.load().rgb_to_lab() == OURS
    assert path.stat().st_uid == 0


def test_a_link_is_not_followed(machine: Machine) -> None:
    path = machine.plant(STRANGE)
    path.unlink()
    path.symlink_to(machine.libraries[STRANGE])
    assert machine.load().rgb_to_lab() == OURS
    assert not path.is_symlink()


def spoil_mode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o777)


def spoil_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.parametrize("spoil", [spoil_mode, spoil_link, is_another_users])
def test_from_a_folder_that_others_can_write_to_nothing_is_loaded_and_one_line_says_so(
    machine: Machine,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = machine.plant(STRANGE)
    content = path.read_bytes()
    spoil(machine.folder, monkeypatch)
    with pytest.warns(RuntimeWarning, match=str(machine.folder)) as told:
        assert machine.load().rgb_to_lab() == OURS
    (warning,) = told
    assert len(str(warning.message).splitlines()) == 1
    assert path.read_bytes() == content
    assert (compiled_folder_problem() or "").startswith(str(machine.folder))


def test_a_cache_that_cannot_be_written_costs_a_compilation(machine: Machine) -> None:
    machine.folder.touch()
    with pytest.warns(RuntimeWarning, match=str(machine.folder)):
        assert machine.load().rgb_to_lab() == OURS


@pytest.mark.parametrize("fault", ["cut", "empty", "another"])
def test_what_is_kept_and_damaged_is_made_anew(machine: Machine, fault: str) -> None:
    path = machine.plant(BROKEN if fault == "another" else OURS)
    if fault != "another":
        os.truncate(path, 100 if fault == "cut" else 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        library = machine.load()
        assert (library.rgb_to_lab(), library.lab_to_rgb()) == (OURS, OURS)
        assert machine.load().lab_to_rgb() == OURS
    assert machine.compiled == 1


def test_an_empty_variable_is_no_compiler(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "")
    assert machine.load().rgb_to_lab() == OURS


def test_each_processor_compiler_source_and_flag_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cxx"

    def name(version: str = "1") -> str:
        compiler.write_text(f"#!/bin/sh\necho compiler {version}\n")
        compiler.chmod(0o700)
        return native.library_name(str(compiler))

    names = [name(), name("2")]
    assert name() == names[0]
    for attribute, value in (
        ("_cpu", lambda: "flags: another processor's"),
        ("_source", lambda: "another source"),
        ("FLAGS", (*native.FLAGS, "-g")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(native, attribute, value)
            names.append(name())
    assert len(set(names)) == len(names) == 5
