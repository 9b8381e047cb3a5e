"""Plans of evidence: what they hold, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cli, spec
from bench.evidence.parts import Budget, Suite, Sweep
from bench.evidence.plan import load, plan_names
from tests.commands import main

PLANS = "expected one of gpu, rehearsal, or a .toml file"


def values(part: Sweep) -> dict[str, tuple[object, ...]]:
    return dict(spec.load(part.preset, part.values).grid)


def test_a_gpus_plan_has_its_parts_the_most_valuable_first_within_eight_minutes() -> None:
    plan = load("gpu")
    assert plan.device == "cuda"
    assert [part.name for part in plan.parts] == [
        *("tests", "budget", "kernels", "ladder", "largest-batch", "color"),
        *("compiled-vs-eager", "slow-tests"),
    ]
    assert sum(part.minutes for part in plan.parts) == 8
    marks = [part.mark for part in plan.parts if isinstance(part, Suite)]
    assert marks == ["gpu and not slow", "gpu and slow"]
    for part in plan.parts:
        if isinstance(part, Sweep):
            grid, width = values(part), 16 if part.name == "color" else 64
            assert (grid["image_size"], grid["width"], grid["device"]) == (
                (256,),
                (width,),
                ("cuda",),
            )


def test_what_is_tuned_comes_last() -> None:
    plan = load("gpu")
    *earlier, last = [part for part in plan.parts if isinstance(part, Sweep)]
    assert [axes["compile"] for axes in spec.load(last.preset, last.values).variants][-1] == (
        "max-autotune"
    )
    for part in earlier:
        variants = spec.load(part.preset, part.values).variants
        assert "max-autotune" not in {axes["compile"] for axes in variants}


def test_the_default_sweep_of_a_gpu_can_go_on_in_the_same_folder() -> None:
    whole = spec.load("gpu-8gb", {})
    sweeps = [part for part in load("gpu").parts if isinstance(part, Sweep)]
    for part in sweeps:
        own = values(part)
        for name in ("samples", "warmup_steps", "measured_steps", "device", "budget"):
            assert own[name] == whole.grid[name], name
        # A folder may hold several widths, but no two kinds of frames.
        (settings,) = spec.load(part.preset, part.values).settings()
        (expected,) = whole.settings()
        assert settings | {"width": 64} == expected


def test_a_rehearsal_has_the_parts_of_a_gpus_plan() -> None:
    kinds = [(type(part), part.name) for part in load("gpu").parts]
    assert [(type(part), part.name) for part in load("rehearsal").parts] == kinds[:-1]
    assert plan_names() == ["gpu", "rehearsal"]


def test_the_plans_seed_and_the_fastest_climb_from_the_ladders_batch() -> None:
    sweeps = [part for part in load("gpu").parts if isinstance(part, Sweep)]
    ladder, largest, *_ = sweeps
    assert largest.rivals == (ladder,)
    assert values(largest)["batch_size"] == (16, 32, 64, 128)
    assert values(ladder)["batch_size"] == (16,)


def test_a_plan_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[[part]]\nkind = "budget"\nname = "memory"\nminutes = 0.5\n')
    plan = load(str(path))
    assert (plan.name, plan.device) == ("own", "auto")
    assert plan.parts == (Budget("memory", 0.5, ""),)


SWEEP = 'kind = "sweep"\nminutes = 1\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected at least one [[part]]"),
        ("x = 1", "unknown name 'x': expected one of device, budget, set, part"),
        ("device = 3", "device 3: expected a text"),
        ('budget = "lots"', "memory size 'lots': expected a number and a unit"),
        ("part = [1]", "part 1: kind '': expected one of tests, budget, kernels, sweep"),
        ('[[part]]\nkind = "test"', "part 1: kind 'test': did you mean 'tests'?"),
        ('[[part]]\nkind = "budget"', "part 1: minutes 0: expected a number above 0"),
        ('[[part]]\nkind = "budget"\nminutes = nan', "part 1: minutes nan: expected a number"),
        ('[[part]]\nkind = "budget"\nminutes = true', "part 1: minutes True: expected a number"),
        ('[[part]]\nkind = "budget"\nminutes = "1"', "part 1: minutes '1': expected a number"),
        ('[[part]]\nkind = "budget"\nminutes = 1\nmark = "x"', "part 1: unknown name 'mark'"),
        (
            '[[part]]\nkind = "kernels"\nminutes = 1\nrounds = 0',
            "part 1: rounds 0: expected a whole",
        ),
        ('[[part]]\nkind = "kernels"\nminutes = 1\nrounds = 1.5', "part 1: rounds 1.5: expected a"),
        (
            2 * '[[part]]\nkind = "budget"\nminutes = 1\n',
            "part 2: name 'budget': expected another, there is such a part already",
        ),
        (
            '[[part]]\nkind = "tests"\nminutes = 1\npaths = ["/nowhere"]',
            "part 1: /nowhere: no such tests; expected a checkout",
        ),
        (f"[[part]]\n{SWEEP}", "part 1: preset missing: expected one of batch-amp, color"),
        (f'[[part]]\n{SWEEP}preset = "quik"', "part 1: preset 'quik': did you mean 'quick'?"),
        (
            f'[[part]]\n{SWEEP}preset = "quick"\nview = "leder"',
            "part 1: view 'leder': did you mean 'ladder'?",
        ),
        (
            f'[[part]]\n{SWEEP}preset = "quick"\nset = {{ batch_sise = 4 }}',
            "part 1: --set: unknown name 'batch_sise': did you mean 'batch_size'?",
        ),
        ("[[part", "not TOML: "),
    ],
)
def test_a_mistake_in_a_plan_is_one_line_that_names_the_file(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    code, out, error = main(["evidence", str(path), "--out", str(tmp_path / "out")], capsys)
    assert (code, out) == (2, "")
    assert error.startswith(f"unet-bench: {path}: {expected}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


Refuses = Callable[[str], str]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "evidence rehersal",
            f"plan 'rehersal': did you mean 'rehearsal'? {PLANS}",
        ),
        ("evidence nowhere.toml", "nowhere.toml: no such file"),
        ("evidence --minutes soon", "--minutes 'soon': expected a number from 0.67 to 10080"),
        ("evidence --minutes 0.1", "--minutes '0.1': expected a number from 0.67 to 10080"),
        ("evidence --minutes inf", "--minutes 'inf': expected a number from 0.67 to 10080"),
        ("evidence --minutes 1e9", "--minutes '1e9': expected a number from 0.67 to 10080"),
        ("evidence --minutes=-8", "--minutes '-8': expected a number from 0.67 to 10080"),
        ("evidence --minute 3", "evidence: unexpected '--minute': did you mean '--minutes'?"),
    ],
)
def test_a_mistake_is_one_line(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = main(words.split(), capsys)
    assert (code, out, error) == (2, "", error)
    assert error.startswith(f"unet-bench: {expected}")
    assert error.count("\n") == 1


def test_out_must_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    words = ["evidence", "rehearsal", "--out", str(tmp_path / "file")]
    assert main(words, capsys)[2] == f"unet-bench: --out {tmp_path / 'file'}: File exists\n"
    assert main(["evidence", "rehearsal", "--out", ""], capsys)[2] == (
        "unet-bench: --out '': expected a folder\n"
    )
    assert "evidence" in cli.COMMANDS
