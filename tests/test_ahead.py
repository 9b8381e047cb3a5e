"""What makes the kernels fast, in what Triton and ptxas make of them for GPUs that are not here.

Triton compiles in a process of its own (`tests.ahead`), as it cannot where it interprets.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.ahead import CAPABILITIES, OTHERS
from tests.harness import REPOSITORY

Made = dict[str, Any]

MOST_REGISTERS = 64
"""With more, a multiprocessor has less than half of its threads under way, and nothing to do while
they wait for memory: 65,536 registers for 2,048 threads."""


@pytest.fixture(scope="module", params=[CAPABILITIES, pytest.param(OTHERS, marks=pytest.mark.slow)])
def capabilities(request: pytest.FixtureRequest) -> tuple[int, ...]:
    found: tuple[int, ...] = request.param
    return found


@pytest.fixture(scope="module")
def made(capabilities: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    cache = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.ahead", *map(str, capabilities)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(list(Path(cache).rglob("*.cubin"))) == len(done.stdout.splitlines())
    return [json.loads(line) for line in done.stdout.splitlines()]


def words_of(kernel: Made) -> set[str]:
    return set(kernel["kernel"].split())


def bytes_of(kernel: Made) -> int:
    return 4 if "fp32" in words_of(kernel) else 2


def test_every_kernel_is_made_for_every_gpu(
    made: list[Made], capabilities: tuple[int, ...]
) -> None:
    kernels = [kernel["kernel"] for kernel in made]
    assert len(set(kernels)) == 22
    for name in set(kernels):
        assert {k["capability"] for k in made if k["kernel"] == name} == set(capabilities)


def test_nothing_is_spilled_and_enough_threads_find_registers(made: list[Made]) -> None:
    for kernel in made:
        assert kernel["spilled_bytes"] == 0, kernel
        assert kernel["registers"] <= MOST_REGISTERS, kernel


def test_frames_are_loaded_as_words_and_results_stored_as_vectors(made: list[Made]) -> None:
    for kernel in made:
        words, found = words_of(kernel), dict(kernel["instructions"])
        if "to_lab" not in words:
            continue
        groups = kernel["pixels_a_thread"] // 4
        # A table's entry for each channel of a pixel; 12 bytes of a group as 3 words, twice where
        # they lie across words; and top, left and mirrored.
        table, window = 3 * 4 * groups, 3 if "windows" in words else 0
        loads = table + 3 * groups * (2 if window else 1) + window
        assert found.pop("ld.global 32") == loads, kernel
        # L, a and b of 4 pixels each; or a and b together, 16 bytes at the most.
        plane = 4 * 8 * bytes_of(kernel)
        stores = Counter({plane: 3 * groups})
        if "channels_last" in words:
            both = min(128, 2 * plane)
            stores = Counter({plane: groups}) + Counter({both: 2 * plane // both * groups})
        assert {
            int(name.split()[1]): count for name, count in found.items() if "global" in name
        } == stores, kernel


def test_pictures_are_loaded_as_vectors_and_stored_as_words(made: list[Made]) -> None:
    for kernel in made:
        if "to_rgb" not in words_of(kernel):
            continue
        groups = kernel["pixels_a_thread"] // 4
        found = {name: n for name, n in kernel["instructions"].items() if "global" in name}
        plane = 4 * 8 * bytes_of(kernel)
        assert found == {f"ld.global {plane}": 3 * groups, "st.global 32": 3 * groups}, kernel


def test_a_pixel_takes_six_special_functions_and_no_division(made: list[Made]) -> None:
    # Of which a multiprocessor does 16 in a cycle, and 128 multiplications. A power by torch's own
    # way, or a logarithm that is exact to the last bit, would take dozens of instructions.
    for kernel in made:
        pixels, found = kernel["pixels_a_thread"], kernel["instructions"]
        assert found["lg2.approx"] == found["ex2.approx"] == 3 * pixels, kernel
        assert not any(name.startswith("div") for name in found), kernel
