import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import cli, spec
from bench.journal import FILE_NAME, read
from bench.report.disturbance import BUSY_FLAG
from bench.trial import Status, Trial
from tests.commands import main, plan_of
from unet.workload import COLORIZATION

TOY = """\
workload = "tests.toy:TOY"
device = "cpu"
budget = "1GiB"
samples = 64
warmup_steps = 1
measured_steps = 2
"""
# Steps that are long enough for a busy machine to disturb them little.
MIXED = TOY + 'sleep_ms = 20\nbatch_size = [4, 8]\nfault = ["none", "raise", "nan"]\n'

SMALL_TRIAL = shlex.split(
    "--set workload=tests.toy:TOY --set samples=64 --set warmup_steps=1 --set measured_steps=2 "
    "--device cpu --budget 1GiB"
)

DRAWN = re.compile("[\x1b\r\u2501\u2578\u257a]")  # escape codes, and what bars are drawn with


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


@pytest.fixture(scope="module")
def mixed(
    tmp_path_factory: pytest.TempPathFactory,
) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """A sweep with good and bad rows, in `results` below the folder."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "toy.toml").write_text(MIXED)
    repository = Path(__file__).parent.parent
    return folder, run_bench(["sweep", "toy.toml", "--out", "results"], folder, repository)


Mixed = tuple[Path, "subprocess.CompletedProcess[str]"]


# plan.


PLAN_SCRIPT = """
import subprocess, sys
subprocess.Popen = None  # whoever starts a process fails
from bench.cli import main
try:
    main(["plan", "quick", "--rounds", "2", "--set", "precision=fp32,bf16"])
finally:
    assert "torch" not in sys.modules
    assert "pandas" not in sys.modules
"""


def test_plan_lists_all_cells_and_starts_nothing(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAN_SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository), "UNET_BENCH_CACHE": str(tmp_path / "c")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    *lines, last = done.stdout.splitlines()
    quick = spec.load("quick", {"precision": ["fp32", "bf16"]})
    variants = [quick.workload.variant_name(axes) for axes in quick.variants]
    sizes, samples = quick.grid["batch_size"], quick.one("samples")
    labels = {f"{v} b{size}{r}" for v in variants for size in sizes for r in ("", " round 1")}
    assert {re.split(r"\s{2,}", line.strip())[1] for line in lines} == labels
    assert len(lines) == len(labels) == 48
    assert last.startswith(
        f"48 trials of colorization on auto within 8 GiB, {samples} samples each"
    )
    assert "image_size=64" in last


def test_plan_as_json_is_one_trial_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = main(
        shlex.split(
            "plan quick --json --set variants=fp32,bf16,fp16 --set batch_size=2,4 --budget 2GiB"
        ),
        capsys,
    )
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 6
    for item in found:
        key = item.pop("key")
        assert Trial.from_json(item).key == key
        assert item["budget_bytes"] == 2**31


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["trial", "-h"]])
def test_help_is_no_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = main(arguments, capsys)
    assert (code, error) == (0, "")
    assert "usage: unet-bench" in out


# sweep.


def test_a_sweep_goes_on_after_bad_rows_and_ends_well(mixed: Mixed) -> None:
    folder, done = mixed
    assert (done.returncode, done.stderr) == (0, "")
    found = [(row.trial.variant, row.result.status) for row in read(folder / "results")]
    assert (
        found
        == [
            ("none", Status.OK),
            ("raise", Status.CRASH),
            ("nan", Status.DIVERGED),
        ]
        * 2
    )


def verdict(results: Path) -> str:
    """How the sentence below a table begins; on a busy machine it calls nothing the fastest."""
    records = json.loads((results / "table.json").read_text())
    sound = [record for record in records if record["status"] == "ok" and not record["flags"]]
    return "Fastest here: none at batch " if sound else "Nothing is called fastest here: "


def test_a_sweep_writes_its_table_in_every_format(mixed: Mixed) -> None:
    folder, done = mixed
    results = folder / "results"
    names = {"journal.jsonl", "runs.jsonl", "table.md", "table.csv", "table.json"}
    assert {path.name for path in results.iterdir() if path.is_file()} == names
    records = json.loads((results / "table.json").read_text())
    with (results / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [record["status"] for record in records] == [line["status"] for line in lines]
    assert len(records) == 6
    for record, line in zip(records, lines, strict=True):
        if record["status"] == "ok":
            assert float(line["images_per_s"]) == pytest.approx(record["images_per_s"])
    assert verdict(results) in (results / "table.md").read_text()
    for name in names - {"runs.jsonl"}:
        assert f"results/{name}" in done.stdout.splitlines()[-1]


def test_a_sweep_ends_with_the_table_and_a_verdict(mixed: Mixed) -> None:
    folder, done = mixed
    lines = done.stdout.splitlines()
    assert lines[-2].startswith(verdict(folder / "results"))
    (head,) = [line for line in lines if "images/s" in line and "variant" in line]
    table = lines[lines.index(head) + 2 :][:6]
    assert [line.split()[0] for line in table] == ["none", "raise", "nan"] * 2
    statuses = [line.removesuffix(", flagged").split()[-1] for line in map(str.strip, table)]
    assert statuses == ["ok", "crash", "diverged"] * 2  # whatever else this machine did
    assert "raise b4, raise b8: crash: RuntimeError: the task is broken" in lines


def test_what_is_piped_is_plain_text(mixed: Mixed) -> None:
    folder, done = mixed
    assert not DRAWN.search(done.stdout)
    for path in filter(Path.is_file, (folder / "results").iterdir()):
        assert not DRAWN.search(path.read_text())
    progress = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [re.split("[],]", line)[0] for line in progress] == [f"[{n}/6" for n in range(1, 7)]


def test_a_report_repeats_the_tables_the_sweep_wrote(
    mixed: Mixed, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, done = mixed
    results = folder / "results"
    for style in ("md", "csv", "json"):
        code, out, _ = main(["report", str(results), "--format", style], capsys)
        assert code == 0
        assert out == (results / f"table.{style}").read_text()
    code, out, _ = main(["report", str(results)], capsys)
    assert code == 0
    assert out in done.stdout


def test_a_sweep_without_a_good_row_has_failed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(TOY + 'batch_size = 4\nfault = ["raise", "unsupported"]\n')
    done = run_bench(["sweep", "toy.toml", "--out", "results"], tmp_path, repository)
    assert done.returncode == 1
    assert "Nothing was measured here: no row ended well." in done.stdout
    assert (tmp_path / "results" / "table.md").is_file()


@pytest.mark.parametrize("style", ["table", "md", "csv", "json"])
def test_a_reader_who_has_seen_enough_is_no_error(
    style: str, mixed: Mixed, repository: Path
) -> None:
    folder, _ = mixed
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "report", "results", "--format", style],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


# trial.


def test_a_trial_as_json_prints_nothing_else(repository: Path, tmp_path: Path) -> None:
    arguments = ["trial", "none+sweet", "--batch-size", "4", *SMALL_TRIAL, "--json"]
    done = run_bench(arguments, tmp_path, repository)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)
    assert (cell["variant"], cell["batch_size"], cell["status"]) == ("none+sweet", 4, "ok")
    assert cell["images_per_s"] > 0
    assert not DRAWN.search(done.stderr)
    # Without --out it goes to a folder of its own below the current one.
    (folder,) = (tmp_path / "results" / "local").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}_trial", folder.name)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    (row,) = read(folder)
    assert cell["images_per_s"] == pytest.approx(row.result.images_per_s)


def test_a_trials_exit_code_is_its_own_whatever_the_folder_holds(
    repository: Path, tmp_path: Path
) -> None:
    def code(variant: str) -> int:
        words = ["trial", variant, "--batch-size", "4", *SMALL_TRIAL, "--out", "results"]
        done = run_bench(words, tmp_path, repository)
        if variant == "unsupported":
            assert done.stderr == "unet-bench: unsupported: cpu cannot do this\n"
        return done.returncode

    # The last is done already, and its row is not the folder's last.
    assert [code(variant) for variant in ("raise", "unsupported", "raise")] == [1, 2, 1]
    statuses = [row.result.status for row in read(tmp_path / "results")]
    assert statuses == [Status.CRASH, Status.UNSUPPORTED]


# What a sweep is asked to do.


def test_a_folder_of_frames_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sweep", "quick", "--data", str(tmp_path)]
    for number in range(40):
        (tmp_path / f"{number}.png").touch()
    more = ["--set", "gap=0", "--set", "batch_size=4"]
    refusing = plan_of([*words, *more], monkeypatch).spec.settings()
    skipping = plan_of([*words, *more, "--skip-bad-frames"], monkeypatch).spec.settings()
    assert [(s["data"], s["bad_frames"]) for s in (*refusing, *skipping)] == [
        (str(tmp_path), "refuse"),
        (str(tmp_path), "skip"),
    ]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["sweep", "--device", "cpu"], "quick"),
        (["sweep", "quick"], "quick"),
        (["sweep", "own.toml"], "own"),
        (["trial", "fp32", "--batch-size", "4"], "trial"),
    ],
    ids=" ".join,
)
def test_results_go_to_a_dated_local_folder(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").touch()
    folder = plan_of(words, monkeypatch).folder
    assert re.fullmatch(rf"results/local/\d{{8}}-\d{{6}}_{name}", str(folder))
    assert not (tmp_path / "results").exists()


def test_the_options_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "sweep --out there --timeout 2.5 --retry crash --retry oom --rounds 3 --device cuda:1 "
        "--budget 2GiB --data drive --set batch_size=3 --set precision=fp16"
    )
    plan = plan_of(words.split(), monkeypatch)
    assert plan.folder == Path("there")
    assert plan.timeout_s == 2.5
    assert plan.retry == {Status.CRASH, Status.OOM}
    assert plan.spec.budget_bytes == 2**31
    found = plan.spec.trials(plan.spec.one("device"), 2**31)
    assert {(t.device, t.batch_size, t.axes["precision"]) for t in found} == {("cuda:1", 3, "fp16")}
    assert {t.round for t in found} == {0, 1, 2}


def test_a_trial_asks_for_exactly_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["trial", "channels_last+bf16", "--batch-size", "7", "--set", "width=9"]
    asked = plan_of(words, monkeypatch).spec
    (trial,) = asked.trials("cpu", 2**33)
    assert (trial.variant, trial.batch_size, trial.round) == ("bf16+channels_last", 7, 0)
    assert trial.settings == {**COLORIZATION.settings, "width": 9}


# On a GPU.

SMALL_UNET = shlex.split(
    "--set image_size=32 --set width=8 --set depth=2 --set frames=60 --set gap=3 "
    "--set samples=120 --set warmup_steps=2 --set measured_steps=10"
)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "variant",
    [
        "fp32",
        "tf32+channels_last",
        "fp16+fused+blocks",
        "bf16+channels_last+cudnn-benchmark",
        "fp32+compile",
        "fp32+reduce-overhead",
    ],
)
def test_a_short_trial_runs_on_cuda(variant: str, repository: Path, tmp_path: Path) -> None:
    import torch

    from unet.apply import unsupported
    from unet.variant import Variant

    if (reason := unsupported(Variant.parse(variant), torch.device("cuda"))) is not None:
        pytest.skip(reason)
    words = ["trial", variant, "--batch-size", "8", "--device", "cuda", "--json", *SMALL_UNET]
    if "reduce-overhead" in variant:  # a smaller last batch, for which the graphs are let go
        words += ["--set", "samples=124"]
    done = run_bench([*words, "--out", "results"], tmp_path, repository)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)
    assert (cell["variant"], cell["status"]) == (variant, "ok")
    assert cell["images_per_s"] > 0
    assert 0 < cell["peak_memory_gib"] < cell["budget_gib"]
    assert 0 < cell["final_mse"] < 10 * cell["mean_color_mse"]  # hardly trained, but no nonsense
    (row,) = read(tmp_path / "results")
    if row.result.memory["context_bytes"] is None:  # as where there is no NVML
        assert cell["budget_percent"] is None
    else:
        assert 0 < cell["budget_percent"] <= 100
    assert row.trial.device == "cuda:0"
    assert row.environment["cuda"]
    assert all(len(step) == 4 and min(step) > 0 for step in row.result.step_phase_s)
    assert None not in row.result.losses
    assert (cell["flags"] or "") in ("", BUSY_FLAG)
    if "reduce-overhead" in variant:
        assert row.result.compilation["cudagraph_inputs"] > 0
        assert row.result.compilation["cudagraph_skips"] == 0
    assert {sample["phase"] for sample in row.result.monitor} >= {"measuring", "training"}


def test_a_closed_pipe_does_not_end_a_sweep(tmp_path: Path, repository: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(
        'workload = "tests.toy:TOY"\nvariants = ["none", "none+sweet"]\nbatch_size = [2, 4]\n'
        "samples = 200\nsleep_ms = 5\n"
    )
    done = subprocess.run(  # noqa: S602 (the pipe is what is tested)
        f"{sys.executable} -m bench sweep {file} --out {tmp_path / 'out'} | head -1",
        shell=True,
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert len((tmp_path / "out" / FILE_NAME).read_text().splitlines()) == 4
    assert (tmp_path / "out" / "table.md").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_may_not_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / FILE_NAME).touch()
    import bench.report.tables  # noqa: F401 (nobody may not read the interpreter's files)

    os.seteuid(65534)
    try:
        for command in (["report", str(closed)], ["sweep", "--out", str(closed)]):
            with pytest.raises(SystemExit) as ended:
                cli.main(command)
            assert ended.value.code == 2
            assert len(capsys.readouterr().err.splitlines()) == 1
    finally:
        os.seteuid(0)
