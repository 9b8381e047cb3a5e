"""Ways of the same thing, timed in turn; and the command that does so with the Lab kernel."""

import json
import time
from itertools import groupby

import pytest
import torch

from bench.side_by_side import LEAST_S, in_turn
from tests.commands import main

CPU = torch.device("cpu")


def test_every_way_is_measured_once_a_round_and_every_second_round_runs_backwards() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        time.sleep(LEAST_S)  # so that one call is a measurement

    calls = {name: lambda name=name: call(name) for name in "abc"}
    seconds = in_turn(calls, 4, CPU)
    tried = 2 * 3  # to see how long they take
    assert "".join(order)[tried:] == "abccbaabccba"
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 4)
    assert all(value >= LEAST_S for values in seconds.values() for value in values)


def test_what_is_quick_is_repeated_and_told_for_one_call() -> None:
    order: list[str] = []

    def quick() -> None:
        order.append("quick")
        time.sleep(LEAST_S / 10)

    def slow() -> None:
        order.append("slow")
        time.sleep(LEAST_S)

    seconds = in_turn({"quick": quick, "slow": slow}, 1, CPU)
    runs = [len(list(group)) for name, group in groupby(order[4:]) if name == "quick"]
    assert runs[0] > 1
    assert seconds["quick"][0] < seconds["slow"][0] / 2


def test_the_command_holds_the_kernel_against_its_peers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, error = main(["kernels", "--device", "cpu", "--rounds", "2", "--json"], capsys)
    assert code == 0, error
    lines = json.loads(out)
    assert {line["case"] for line in lines} == {"training batch", "1080p"}
    for case in ("training batch", "1080p"):
        own = {line["by"]: line for line in lines if line["case"] == case}
        assert {"unet-bench", "reference", "scikit-image", "copy"} <= own.keys()
        assert own["unet-bench"]["ratio"] == 1
        assert own["copy"]["copy_percent"] == 100
        assert own["copy"]["max_error"] is None
        assert 0 < own["unet-bench"]["max_error"] < 1e-3
        for line in own.values():
            assert line["ratio"] * line["mpixel_per_s"] == pytest.approx(
                own["unet-bench"]["mpixel_per_s"]
            )


def test_without_a_compiler_the_reference_is_not_passed_off_as_the_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, out, error = main(["kernels", "--device", "cpu", "--rounds", "1"], capsys)
    assert (code, out) == (2, "")
    assert "the Lab kernel of a CPU needs a C++ compiler" in error.splitlines()[-1]


def test_no_rounds_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = main(["kernels", "--rounds", "0"], capsys)
    assert code == 2
    assert "--rounds '0': expected a whole number from 1 on" in error
