import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import cli, spec
from bench.spec import HARNESS_SETTINGS, SweepSpec
from bench.trial import Trial
from tests.toy import SETTINGS
from unet.workload import COLORIZATION

TOY = 'workload = "tests.toy:TOY"\nsamples = 64\nwarmup_steps = 1\nmeasured_steps = 2\n'


def run_bench(
    arguments: Sequence[str], folder: Path, repository: Path
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )


def load(source: str | None = "quick", **overrides: str) -> SweepSpec:
    return spec.load(source, {name: text.split(",") for name, text in overrides.items()})


def trials(sweep: SweepSpec) -> list[Trial]:
    return sweep.resolved({}).trials("cpu", 2**33)


def variants(sweep: SweepSpec, **meanings: str) -> list[str]:
    found = sweep.resolved(meanings).variants
    return [sweep.workload.variant_name(axes) for axes in found]


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> set[str]:
    return {axis for axis in first if first[axis] != second[axis]}


def test_the_presets_are_these() -> None:
    assert spec.preset_names() == [
        *("batch-amp", "color", "compiled-vs-eager", "gate", "gpu-8gb", "grid", "ladder"),
        *("max-batch", "memory", "noise", "noise-gpu", "quality", "quick"),
    ]


def test_quick_shows_each_switch_against_plain_or_against_the_best_without_it() -> None:
    quick = load()
    names = variants(quick)
    assert names[:4] == ["fp32", "fp32+channels_last", "bf16", "bf16+channels_last"]
    compiled = [axes for axes in quick.variants if axes["compile"] != "eager"]
    forgetful = [axes for axes in quick.variants if axes["checkpointing"] != "none"]
    assert [differences(quick.variants[3], axes) for axes in (*compiled, *forgetful)] == [
        {"compile"},
        {"checkpointing"},
    ]
    assert len(names) == 6
    assert len(set(quick.grid["batch_size"])) == 3
    assert quick.one("device") == "auto"
    assert len(trials(quick)) == 18


COMPILERS = "activation_budget"


def test_grid_is_the_full_product_of_all_axes_as_far_as_the_device_goes() -> None:
    grid = load("grid")
    left_out = {COMPILERS: ("keep-all",), "color": ("torch-lab",)}
    every = itertools.product(*{**grid.workload.axes, **left_out}.values())
    assert sorted(tuple(axes.values()) for axes in grid.variants) == sorted(every)
    assert len(grid.variants) == 4 * 2 * 2 * 4 * 4 * 2
    assert grid.one("unsupported") == "skip"


def test_each_step_of_the_ladder_differs_from_the_one_before_by_one_switch() -> None:
    ladder = load("ladder")
    steps = [differences(before, after) for before, after in itertools.pairwise(ladder.variants)]
    assert all(len(step) == 1 for step in steps), steps
    # And every switch has a step, but for the compiler's budget: checkpointing has one.
    assert set().union(*steps) == set(COLORIZATION.axes) - {COMPILERS}
    assert variants(ladder)[0] == "fp32"


def test_compiled_vs_eager_has_the_eager_twin_of_every_compiled_variant() -> None:
    found = [dict(axes) for axes in load("compiled-vs-eager").variants]
    compiled = [axes for axes in found if axes["compile"] != "eager"]
    assert {axes["compile"] for axes in compiled} == set(COLORIZATION.axes["compile"]) - {"eager"}
    assert all({**axes, "compile": "eager"} in found for axes in compiled)


def test_gpu_8gb_is_a_full_sized_network_that_ends_in_time() -> None:
    asked = load("gpu-8gb")
    asked = asked.resolved({"reduced": "bf16"})
    found = asked.trials(asked.one("device"), 2**33)
    assert {trial.device for trial in found} == {"cuda"}
    assert {(t.settings["image_size"], t.settings["width"]) for t in found} == {(256, 64)}
    assert 0 < asked.one("time_limit_s") <= 3600
    assert asked.budget_bytes in (None, 2**33)  # None: the device's default, which is 8 GiB
    names = variants(asked)
    assert names[0] == "fp32"
    assert {axes["precision"] for axes in asked.variants} == set(COLORIZATION.axes["precision"])
    # The first cells tell most: plain and the best there is, at the first batch size.
    assert [trial.label for trial in found[:2]] == [
        "fp32 b16",
        "bf16+channels_last+fused+compile b16",
    ]


def test_color_tries_every_way_on_what_is_otherwise_the_same_from_the_common_one_on() -> None:
    for _, group in itertools.groupby(load("color").variants, lambda axes: {**axes, "color": ""}):
        ways = [axes["color"] for axes in group]
        assert ways == ["loader-lab", "torch-lab", "fused-lab"]


@pytest.mark.parametrize("preset", spec.preset_names())
def test_a_preset_is_real_training(preset: str) -> None:
    for trial in trials(load(preset)):
        # What color costs is seen beside a light network.
        assert int(trial.settings["width"]) >= (4 if preset == "color" else 16)
        assert int(trial.settings["image_size"]) >= 64
        whole_batches = trial.samples // trial.batch_size
        assert whole_batches - 1 - trial.warmup_steps >= 20


@pytest.mark.parametrize("preset", spec.preset_names())
def test_a_file_can_say_all_that_a_preset_can(preset: str, tmp_path: Path) -> None:
    asked = load(preset)
    copy = tmp_path / "own.toml"
    copy.write_text((spec.PRESETS / f"{preset}.toml").read_text())
    assert trials(load(str(copy))) == trials(asked)
    # And so it can in other words: every name there is, each variant by all of its axes.
    words: dict[str, Any] = {name: list(values) for name, values in asked.grid.items()}
    words["variants"] = ["+".join(sorted(axes.values())) for axes in asked.variants]
    words["workload"] = asked.entry
    copy.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in words.items()))
    assert trials(load(str(copy))) == trials(asked)
    assert load(str(copy)).grid == asked.grid


@pytest.mark.parametrize("preset", spec.preset_names())
def test_all_rows_of_a_preset_train_on_as_many_samples(preset: str) -> None:
    assert len({trial.samples for trial in trials(load(preset))}) == 1


def test_batch_sizes_come_in_the_order_given_and_variants_take_turns() -> None:
    found = trials(load(batch_size="16,4", variants="fp32,bf16,fp16", rounds="2"))
    assert [(trial.round, trial.batch_size, trial.variant) for trial in found] == [
        (0, 16, "fp32"),
        (0, 16, "bf16"),
        (0, 16, "fp16"),
        (0, 4, "fp32"),
        (0, 4, "bf16"),
        (0, 4, "fp16"),
        (1, 16, "fp16"),
        (1, 16, "bf16"),
        (1, 16, "fp32"),
        (1, 4, "fp16"),
        (1, 4, "bf16"),
        (1, 4, "fp32"),
    ]


def test_of_two_variants_each_comes_first_as_often_and_each_begins_rounds() -> None:
    found = trials(load(variants="fp32,bf16,fp16,fp32+channels_last", batch_size="4", rounds="8"))
    orders = [[one.variant for one in found if one.round == number] for number in range(8)]
    assert {order[0] for order in orders} == set(orders[0])
    for one, other in itertools.combinations(orders[0], 2):
        assert sum(order.index(one) < order.index(other) for order in orders) == 4


def test_more_rounds_and_batch_sizes_keep_the_keys_of_what_is_there() -> None:
    fewer = {trial.key for trial in trials(load(batch_size="4,8"))}
    more = {trial.key for trial in trials(load(batch_size="2,4,8", rounds="2"))}
    assert fewer < more
    assert len(more) == 6 * 3 * 2  # variants, batch sizes, rounds


def test_an_axis_replaces_that_axis_in_every_listed_variant_without_duplicates() -> None:
    assert variants(load(precision="fp16", compile="eager")) == [
        "fp16",
        "fp16+channels_last",
        "fp16+channels_last+high-res",
    ]
    assert variants(load(precision="fp16,fp32", variants="fp32+channels_last,bf16")) == [
        "fp16+channels_last",
        "fp32+channels_last",
        "fp16",
        "fp32",
    ]


def test_axes_make_a_grid_where_no_variants_are_listed() -> None:
    found = load(None, precision="fp32,bf16", memory_format="contiguous,channels_last")
    assert variants(found) == ["fp32", "fp32+channels_last", "bf16", "bf16+channels_last"]
    assert variants(load(None)) == ["fp32"]


def test_a_variant_named_twice_or_with_its_defaults_is_one() -> None:
    assert variants(load(variants="bf16,bf16,bf16+contiguous,contiguous+bf16")) == ["bf16"]


def test_lists_make_grids() -> None:
    found = trials(load(image_size="32,64", width="8,16", seed="0,1", batch_size="4,4,8"))
    cells = {
        (trial.settings["image_size"], trial.settings["width"], trial.seed, trial.batch_size)
        for trial in found
    }
    assert len(cells) == 2 * 2 * 2 * 2
    assert len(found) == len({trial.key for trial in found}) == 16 * len(load().variants)


@pytest.mark.parametrize(
    "name", ["samples", "warmup_steps", "measured_steps", "rounds", "frames", "gap", "data_seed"]
)
def test_names_with_one_value_per_sweep_refuse_a_list(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} 50, 51: expected one value per sweep"):
        load(**{name: "50,51"})


@pytest.mark.parametrize("name", ["device", "budget", "split", "data"])
def test_texts_with_one_value_per_sweep_refuse_a_list(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} cpu, cuda: expected one value per sweep"):
        load(**{name: "cpu,cuda"})


def test_a_file_can_set_every_name(tmp_path: Path) -> None:
    values = {
        **HARNESS_SETTINGS,
        **COLORIZATION.settings,
        "budget": "2GiB",
        "batch_size": [2, 3],
        "seed": [5],
        "width": 7,
        "variants": ["fp16"],
        "memory_format": ["channels_last"],
        "workload": "unet.workload:COLORIZATION",
    }
    path = tmp_path / "all.toml"
    # JSON's texts, numbers and lists are TOML's too.
    path.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items()))
    found = load(str(path))
    assert found.budget_bytes == 2**31
    assert [(t.batch_size, t.seed, t.settings["width"], t.variant) for t in trials(found)] == [
        (2, 5, 7, "fp16+channels_last"),
        (3, 5, 7, "fp16+channels_last"),
    ]


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("batch_size = [4, 8]\nwidth = 8\n")
    found = load(str(path), batch_size="2")
    assert found.grid["batch_size"] == (2,)
    assert found.grid["width"] == (8,)


def test_another_workload_brings_its_own_axes_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(TOY + 'fault = ["none", "raise"]\nsleep_ms = 2\nbatch_size = 4\n')
    found = trials(load(str(path)))
    assert [trial.variant for trial in found] == ["none", "raise"]
    assert found[0].settings == {**SETTINGS, "sleep_ms": 2}
    assert found[0].workload == "tests.toy:TOY"


# Bad input, as a user types it.

PRESETS = (
    "batch-amp, color, compiled-vs-eager, gate, gpu-8gb, grid, ladder, max-batch, memory, noise, "
    "noise-gpu, quality, quick"
)

Refuses = Callable[[Sequence[str]], str]


@pytest.fixture
def refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refuses:
    """Runs a command in an empty folder; gives the one line it is refused with."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: Sequence[str]) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        out, error = capsys.readouterr()
        assert caught.value.code == 2, error
        assert error.count("\n") == 1
        assert error.endswith("\n")
        assert error.startswith("unet-bench: ")
        assert "Traceback" not in error
        assert out == ""
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return error

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "command missing: expected one of sweep, plan, trial, max-batch, report"),
        ("swep", "command 'swep': did you mean 'sweep'? expected one of sweep, plan"),
        ("Plan", "command 'Plan': did you mean 'plan'?"),
        ("plan quik", f"preset 'quik': did you mean 'quick'? expected one of {PRESETS}"),
        ("plan gpu-8bg", "preset 'gpu-8bg': did you mean 'gpu-8gb'?"),
        ("plan QUICK", "preset 'QUICK': did you mean 'quick'?"),
        ("plan ../presets/quick", f"preset '../presets/quick': expected one of {PRESETS}"),
        ("plan quick/", "preset 'quick/': did you mean 'quick'?"),
        ("plan --sett width=3", "plan: unexpected '--sett': did you mean '--set'?"),
        ("sweep --timeuot 3", "sweep: unexpected '--timeuot': did you mean '--timeout'?"),
        ("plan --timeout 3", "plan: unexpected '--timeout'"),
        ("plan --out", "--out: expected one argument"),
        ("plan quick grid", "plan: unexpected 'grid'"),
        ("plan --rounds", "--rounds: expected one argument"),
        ("plan missing.toml", "missing.toml: no such file"),
        # Names.
        ("plan --set precison=bf16", "unknown name 'precison': did you mean 'precision'?"),
        ("plan --set batch-size=4", "unknown name 'batch-size': did you mean 'batch_size'?"),
        ("plan --set Width=4", "unknown name 'Width': did you mean 'width'?"),
        ("plan --set =3", "--set '=3': expected NAME=VALUE or NAME=V1,V2"),
        ("plan --set width", "--set 'width': expected NAME=VALUE or NAME=V1,V2"),
        ("plan --set batch_size=", "--set 'batch_size=': expected NAME=VALUE or NAME=V1,V2"),
        ("plan --set batch_size=4,,8", "--set 'batch_size=4,,8': expected NAME=VALUE"),
        ("plan --set batch_size=4,", "--set 'batch_size=4,': expected NAME=VALUE"),
        # Axes and variants.
        (
            "plan --set precision=fp61",
            "precision 'fp61': did you mean 'fp16'? expected one of",
        ),
        ("plan --set precision=BF16", "precision 'BF16': did you mean 'bf16'?"),
        ("plan --set precision=int4", "precision 'int4': expected one of fp32, tf32, fp16, bf16"),
        ("plan --set memory_format=channel_last", "did you mean 'channels_last'?"),
        (
            "plan --set variants=bf61",
            "variant 'bf61' has unknown part 'bf61': did you mean 'bf16'?",
        ),
        (
            "plan --set variants=BF16",
            "variant 'BF16' has unknown part 'BF16': did you mean 'bf16'?",
        ),
        ("plan --set variants=bf16+fp32", "variant 'bf16+fp32' must choose precision once"),
        (
            "trial Bf16 --batch-size 4",
            "unknown part 'Bf16': did you mean 'bf16'?",
        ),
        ("trial bf16,fp32 --batch-size 4", "variant 'bf16,fp32' has unknown part"),
        # Numbers.
        ("plan --set batch_size=1e3", "batch_size '1e3': expected a whole number"),
        ("plan --set batch_size=4.0", "batch_size '4.0': expected a whole number"),
        ("plan --set batch_size=true", "batch_size 'true': expected a whole number"),
        ("plan --set batch_size=4=8", "batch_size '4=8': expected a whole number"),
        ("plan --set batch_size=0", "batch_size 0: expected a whole number of at least 1"),
        ("plan --set batch_size=8,-4", "batch_size -4: expected a whole number of at least 1"),
        ("plan --set samples=9999999999999999999999", "samples 9999999999999999999999: expected"),
        ("plan --set samples=0", "samples 0: expected a whole number of at least 1"),
        ("plan --set measured_steps=0", "measured_steps 0: expected a whole number of at least 1"),
        ("plan --set warmup_steps=-1", "warmup_steps -1: expected a whole number of at least 0"),
        ("plan --set seed=-1", "seed -1: expected a whole number of at least 0"),
        ("plan --set seed=4294967296", "seed 4294967296: expected a whole number of at most"),
        ("plan --rounds 0", "rounds 0: expected a whole number of at least 1"),
        ("plan --rounds two", "rounds 'two': expected a whole number"),
        ("plan --rounds 99999999999", "rounds 99999999999: expected a whole number of at most"),
        ("trial fp32 --batch-size many", "batch_size 'many': expected a whole number"),
        ("trial fp32 --batch-size 4,8", "batch_size '4,8': expected a whole number"),
        ("plan --set width=0", "width 0: expected a whole number from 1 to"),
        ("plan --set depth=-1", "depth -1: expected a whole number from 1 to"),
        ("plan --set depth=99999999999999999999", "depth 99999999999999999999: expected"),
        ("plan --set frames=99999999999999", "frames 99999999999999: expected a whole number"),
        ("plan --set image_size=0", "image_size 0: expected a whole number from 16 to"),
        ("plan --set validation_percent=51", "validation_percent 51: expected"),
        ("plan --set gap=-1", "gap -1: expected a whole number from 0 to"),
        ("plan --set split=blok", "split 'blok': expected one of block, random"),
        ("plan --set upsampling=cubic", "upsampling 'cubic': expected one of bilinear, nearest"),
        (
            "plan --data drove",
            "data 'drove': expected 'drive' or a folder of frames; drove: No such file",
        ),
        ("plan --data .", "data '.': expected at least 10 images, found 0 and 0 other files"),
        ("plan --data --rounds 2", "--data: expected one argument"),
        ("plan --skip-bad-frames=yes", "--skip-bad-frames: ignored explicit argument 'yes'"),
        ("plan --set bad_frames=skp", "bad_frames 'skp': expected one of refuse, skip"),
        ("plan --set frames=9", "frames 9: expected at least 10, or 0 for all"),
        # What a sweep may leave out.
        ("plan --set time_limit_s=-1", "time_limit_s -1: expected a whole number of at least 0"),
        ("plan --set time_limit_s=1h", "time_limit_s '1h': expected a whole number"),
        ("plan --set time_limit_s=5,6", "time_limit_s 5, 6: expected one value per sweep"),
        ("plan --set unsupported=drop", "unsupported 'drop': expected one of row, skip"),
        ("plan --set unsupported=Skip", "unsupported 'Skip': did you mean 'skip'?"),
        ("plan --set unsupported=row,skip", "unsupported row, skip: expected one value per sweep"),
        # Values that do not go together.
        ("trial fp32 --batch-size 2000", "batch_size 2000: the training set has only 990 samples"),
        (
            "trial fp32 --batch-size 4 --set image_size=16",
            "image_size 16: depth 4 needs at least 32",
        ),
        ("plan --set image_size=64,32 --set depth=4,5", "image_size 32: depth 5 needs at least 64"),
        (
            "trial fp32 --batch-size 16 --set samples=100",
            "samples 100: batch_size 16 needs at least 416",
        ),
        (
            "trial fp32 --batch-size 4 --set gap=1100",
            "frames 1200: nothing is left to train on with gap 1100",
        ),
        # Device and budget.
        ("plan --device gpu", "device 'gpu': did you mean 'cpu'? expected one of auto, cpu, cuda"),
        ("plan --device cuda:", "device 'cuda:'"),
        ("plan --device cuda:x", "device 'cuda:x'"),
        ("plan --device cuda:00", "device 'cuda:00'"),
        ("plan --device cuda:256", "device 'cuda:256'"),
        ("plan --device CPU", "device 'CPU': did you mean 'cpu'?"),
        ("plan --budget lots", "memory size 'lots': expected a number and a unit, such as 8GiB"),
        ("plan --budget 8", "memory size '8': expected a number and a unit"),
        ("plan --budget 8G", "memory size '8G': expected a number and a unit"),
        ("plan --budget 0", "memory size '0': expected a positive one, such as 8GiB"),
        ("plan --budget 0GiB", "memory size '0GiB': expected a positive one"),
        ("plan --budget 0.1B", "memory size '0.1B': expected"),
        ("plan --budget -1GiB", "--budget: expected one argument"),
        ("plan --budget=-1GiB", "memory size '-1GiB': expected a positive one"),
        ("plan --budget 8GiB,4GiB", "memory size '8GiB,4GiB': expected a number and a unit"),
        # Running.
        ("sweep --timeout 0", "--timeout '0': expected a number of seconds above 0"),
        ("sweep --timeout=-5", "--timeout '-5': expected a number of seconds above 0"),
        ("sweep --timeout soon", "--timeout 'soon': expected a number of seconds above 0"),
        ("sweep --timeout nan", "--timeout 'nan': expected a number of seconds above 0"),
        ("sweep --timeout inf", "--timeout 'inf': expected a number of seconds above 0"),
        (
            "sweep --out x --retry crashed",
            "--retry 'crashed': did you mean 'crash'? expected one of ok",
        ),
        ("sweep --retry", "--retry: expected one argument"),
        ("sweep --retry crash", "--retry: expected --out with the folder of an earlier sweep"),
        ("trial fp32", "required: --batch-size"),
        ("trial --batch-size 4", "required: VARIANT"),
        (
            "trial fp32 --batch-size 4 --set precision=bf16",
            "--set: expected no axes beside the variant",
        ),
        ("trial fp32 --batch-size 4 --set seed=0,1", "--set: expected one cell, got 2"),
        # Reports.
        ("report", "required: DIR"),
        ("report nowhere", "nowhere: expected a folder with a journal.jsonl in it"),
        ("report .", ".: expected a folder with a journal.jsonl in it"),
        ("report . --format xml", "--format 'xml': expected one of table, md, csv, json"),
        ("report . --format MD", "--format 'MD': did you mean 'md'?"),
        ("report . --fromat md", "report: unexpected '--fromat': did you mean '--format'?"),
        # Workloads.
        ("plan --set workload=nowhere:TOY", "workload 'nowhere:TOY': expected MODULE:ATTRIBUTE"),
        ("plan --set workload=tests.toy", "workload 'tests.toy': expected MODULE:ATTRIBUTE"),
        (
            "plan --set workload=tests.toy:TOI",
            "workload 'tests.toy:TOI': expected MODULE:",
        ),
        ("plan --set workload=.toy:TOY", "workload '.toy:TOY': expected MODULE:ATTRIBUTE"),
        ("plan --set workload=json:dumps", "workload 'json:dumps': expected an object as"),
        ("plan --set workload=tests.toy:Toy", "workload 'tests.toy:Toy': expected an object as"),
        ("plan --set workload=tests.toy:TOY", "quick.toml: unknown name 'image_size'"),
    ],
)
def test_a_mistake_is_one_line(refuses: Refuses, arguments: str, expected: str) -> None:
    assert expected in refuses(arguments.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plan", "--set", "batch_size=4 8"], "batch_size '4 8': expected a whole number"),
        (["plan", "--set", "variants=bf16 channels_last"], "unknown part 'bf16 channels_last'"),
        (["plan", "--set", "variants=bf16 + "], "variant 'bf16 + ' has unknown part ''"),
        (["plan", "--set", "precision=fp32, bf16"], "precision ' bf16': did you mean 'bf16'?"),
        (["trial", "fp32 b4", "--batch-size", "4"], "variant 'fp32 b4' has unknown part"),
        (["trial", "", "--batch-size", "4"], "variants '': expected a value"),
        (["trial", "fp32", "--batch-size", ""], "batch_size '': expected a value"),
        (["plan", "--budget", ""], "budget '': expected a value"),
        (["plan", "--budget", "9" * 400 + "GiB"], "memory size '999"),
        (["plan", "--device", ""], "device '': expected a value"),
        (["plan", "--set", "wi\ndth=4"], r"unknown name 'wi\ndth'"),
        (["plan", "[red]quick[/red]"], "preset '[red]quick[/red]'"),
        (["sw\neep"], r"command 'sw\neep'"),
        (["plan", ""], "preset ''"),
    ],
)
def test_blanks_and_odd_characters_are_told_in_one_line_too(
    refuses: Refuses, arguments: list[str], expected: str
) -> None:
    assert expected in refuses(arguments)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('width = 16\nvariants = ["fp32"\nbatch_size = 4\n', "not TOML: "),
        ("width = 16\nwidth = 32\n", "(at line 2"),
        ("width = 16\nbatch_size == 4\n", "(at line 2"),
        ("batchsize = 4", "unknown name 'batchsize': did you mean 'batch_size'?"),
        ("[grid]\nwidth = 4", "unknown name 'grid'"),
        ("batch_size = true", "batch_size True: expected a whole number"),
        ("batch_size = [4, false]", "batch_size False: expected a whole number"),
        ('batch_size = "4"', "batch_size '4': expected a whole number"),
        ("batch_size = 4.0", "batch_size 4.0: expected a whole number"),
        ("batch_size = nan", "batch_size nan: expected a whole number"),
        ("batch_size = []", "batch_size: expected at least one value"),
        ("batch_size = [[4]]", "batch_size [4]: expected a whole number"),
        ("batch_size = {small = 4}", "batch_size {'small': 4}: expected a whole number"),
        ("width = 1979-05-27", "width datetime.date(1979, 5, 27): expected a whole number"),
        ("image_size = true", "image_size True: expected a whole number"),
        ("samples = -1", "samples -1: expected a whole number of at least 1"),
        ("rounds = [1, 2]", "rounds 1, 2: expected one value per sweep"),
        ("variants = []", "variants: expected at least one value"),
        ("variants = [1]", "variant '1' has unknown part"),
        ('variants = ["bf61"]', "variant 'bf61' has unknown part 'bf61': did you mean 'bf16'?"),
        ("precision = []", "precision: expected at least one value"),
        ("precision = 32", "precision 32: did you mean "),
        ('precision = [["fp32"]]', "precision ['fp32']"),
        ('precision = "fp61"', "precision 'fp61': did you mean 'fp16'?"),
        ("device = 0", "device 0: expected a text"),
        ('device = "tpu"', "device 'tpu'"),
        ("time_limit_s = 1.5", "time_limit_s 1.5: expected a whole number"),
        ("time_limit_s = [1, 2]", "time_limit_s 1, 2: expected one value per sweep"),
        ("unsupported = true", "unsupported True: expected a text"),
        ('unsupported = "skipp"', "unsupported 'skipp': did you mean 'skip'?"),
        ("budget = 8", "budget 8: expected a text"),
        ('budget = "8"', "memory size '8': expected a number and a unit"),
        ('data = ["drive", "other"]', "data drive, other: expected one value per sweep"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(
    refuses: Refuses, tmp_path: Path, content: str, expected: str
) -> None:
    (tmp_path / "own.toml").write_text(content)
    message = refuses(["sweep", "own.toml", "--out", "results"])
    assert "own.toml: " in message
    assert expected in message


@pytest.mark.parametrize("entry", ["3", "true", '["unet.workload:COLORIZATION"]'])
def test_a_workload_that_is_not_one_text_is_refused(
    refuses: Refuses, tmp_path: Path, entry: str
) -> None:
    (tmp_path / "own.toml").write_text(f"workload = {entry}")
    assert "expected one text, MODULE:ATTRIBUTE" in refuses(["plan", "own.toml"])


def test_a_file_that_cannot_be_read_is_told_by_name(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(bytes(range(128, 256)))
    (tmp_path / "plain").write_text("nothing")
    assert "folder.toml: Is a directory" in refuses(["plan", "folder.toml"])
    assert "binary.toml: not TOML: " in refuses(["plan", "binary.toml"])
    assert "plain/own.toml: Not a directory" in refuses(["plan", "plain/own.toml"])


def test_an_out_folder_that_is_a_file_is_left_alone(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    assert "--out taken: expected a folder, taken is a file" in refuses(["sweep", "--out", "taken"])
    assert (tmp_path / "taken").read_text() == "precious"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("--out taken/below", "is a file"),
        ("--out results --device cuda:99", "--device cuda:99: "),
        ("--out results --budget 1MiB", "budget 1 MiB: a trial's process needs "),
    ],
)
def test_what_only_the_machine_knows_is_one_line_too(
    repository: Path, tmp_path: Path, more: str, expected: str
) -> None:
    (tmp_path / "taken").write_text("precious")
    (tmp_path / "toy.toml").write_text(TOY + 'device = "cpu"\nbatch_size = 4\n')
    done = run_bench(f"sweep toy.toml {more}".split(), tmp_path, repository)
    assert done.returncode == 2
    assert done.stderr.startswith("unet-bench: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "toy.toml"]
    assert (tmp_path / "taken").read_text() == "precious"
