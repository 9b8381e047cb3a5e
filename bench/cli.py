"""Every command; decides what is printed, and how the program exits."""

import json
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import (
    arguments,
    doctor,
    journal,
    kernel_times,
    noise,
    planning,
    search,
    spec,
    stopping,
    sweep,
)
from bench.arguments import DEFAULT_PRESETS, NOISE_PRESETS
from bench.budget import DEFAULT_BUDGET_BYTES
from bench.display import LineDisplay, make_display
from bench.environment import describe_host, has_gpu
from bench.events import JsonDisplay, discard
from bench.monitor import nvml_describe
from bench.output import (
    Output,
    print_line,
    print_page,
    print_written,
    render,
    write_page,
    write_tables,
)
from bench.predict import Prediction, Predictor, experiment
from bench.runner import Runner
from bench.trial import Status, Trial

if TYPE_CHECKING:
    from bench.report.page import Page

EXIT_FAILED, EXIT_MISTAKE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 130


def main(words: Sequence[str] | None = None) -> None:
    """Runs a command and exits.

    With 0 fine, 1 failed, 2 the caller's mistake, 3 inconclusive where asked to be strict, 130
    interrupted.
    """
    errors = Output(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        options = arguments.parse(list(sys.argv[1:] if words is None else words))
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
    except ValueError as error:
        errors.print(f"unet-bench: {error}", markup=False, highlight=False, soft_wrap=True)
        code = EXIT_MISTAKE
    except KeyboardInterrupt:
        errors.print("unet-bench: interrupted")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        discard(sys.stdout)
        code = 0
    except OSError as error:  # no permission, no space: the machine's answer to what was asked
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"unet-bench: {where}{error.strerror}", markup=False, soft_wrap=True)
        discard(sys.stdout)  # it may be what is full
        code = EXIT_MISTAKE
    sys.exit(code)


def _load(options: Namespace) -> spec.SweepSpec:
    overrides = arguments.overrides(options)
    presets = NOISE_PRESETS if options.command == "doctor" else DEFAULT_PRESETS
    on_gpu = has_gpu() and overrides.get("device") != ["cpu"]
    return spec.load(presets[on_gpu] if options.source is None else options.source, overrides)


def _sweep(options: Namespace) -> int:
    asked = _load(options)
    rows, code = _measure(options, asked, asked.name)
    if code == 0 and not any(row.result.status is Status.OK for row in rows):
        return EXIT_FAILED
    return code


def _trial(options: Namespace) -> int:
    overrides = arguments.overrides(options)
    if any(text.startswith("batch_size=") for text in options.sets):
        raise ValueError("--set batch_size: expected once, as --batch-size")
    asked = spec.load(None, overrides | {"variants": [options.variant]})
    if asked.variants != (asked.workload.parse_variant(options.variant),):
        raise ValueError(
            f"--set: expected no axes beside the variant {options.variant!r}, which names them all"
        )
    if (cells := len(asked.trials("cpu", 1)) // asked.one("rounds")) > 1:
        raise ValueError(f"--set: expected one cell, got {cells}; see `sweep` for more")
    rows, code = _measure(options, asked, "trial")
    if code == 0:
        # The folder may hold others' rows too.
        result = next(
            row.result
            for row in reversed(rows)
            if row.trial in asked.trials(row.trial.device, row.trial.budget_bytes)
        )
        if result.status is Status.UNSUPPORTED:
            raise ValueError(f"{options.variant}: {result.reason}")
        if result.status is not Status.OK:
            return EXIT_FAILED
    return code


def _measure(options: Namespace, asked: spec.SweepSpec, name: str) -> tuple[list[journal.Row], int]:
    """Runs the sweep, then prints and writes its tables."""
    console = Output(stderr=options.json)
    plan = _plan_to_run(options, asked, name)
    folder = plan.folder
    watched = options.command == "sweep"
    with make_display(console, sys.stdout if options.json and watched else None) as display:
        complete = sweep.run(plan, display)
        rows = journal.read(folder)
        page = _page(rows, folder) if rows else None
        written = write_tables(folder, page) if page else {}
        if isinstance(display, JsonDisplay):
            display.send("table", cells=json.loads(written.get("json", "[]")))
    if options.json and options.command == "trial":
        sys.stdout.write(written.get("json", ""))
    elif page and not options.json and options.command != "doctor":  # which asked for noise
        print_page(console, page)
        print_written(console, folder, written)
    if not complete:
        print_line(console, f"Interrupted. To go on: the same command with --out {folder}", "bold")
    return rows, 0 if complete else EXIT_INTERRUPTED


def _plan_to_run(options: Namespace, asked: spec.SweepSpec, name: str) -> sweep.Plan:
    if options.retry and options.out is None:
        raise ValueError("--retry: expected --out with the folder of an earlier sweep")
    return sweep.Plan(
        spec=asked,
        folder=_folder(options, name),
        timeout_s=arguments.timeout_s(options.timeout),
        retry=arguments.retry(options.retry),
        command=["unet-bench", *sys.argv[1:]],
        predict=options.command == "sweep" and options.predict,
    )


def _max_batch(options: Namespace) -> int:
    limits, overrides = arguments.limits(options), arguments.overrides(options)
    if options.variants:
        overrides["variants"] = options.variants
    source = None if "workload" in overrides else "max-batch"
    asked = spec.load(source, {"rounds": [str(search.LEAST_ROUNDS)]} | overrides)
    for name, values in asked.grid.items():
        if len(values) > 1:
            raise ValueError(f"--set {name}={','.join(map(str, values))}: expected one value")
    if (rounds := asked.one("rounds")) < search.LEAST_ROUNDS:
        raise ValueError(f"rounds {rounds}: expected at least {search.LEAST_ROUNDS}, to certify")
    plan = _plan_to_run(options, asked, "max-batch")
    folder = plan.folder
    console = Output(stderr=options.json)
    samples = asked.one("samples") if "samples" in overrides else None
    try:
        found = search.run(plan, limits, samples, LineDisplay(console))
    except (search.InterruptedSearchError, KeyboardInterrupt):
        how = f"the same command with --out {folder}"
        print_line(console, f"Interrupted. To go on: {how}", "bold")
        return EXIT_INTERRUPTED
    page = _page(journal.read(folder), folder)
    written = write_tables(folder, page)
    write_page(_max_batch_page(page, folder), "json" if options.json else "table")
    print_written(console, folder, written)
    names = map(asked.workload.variant_name, asked.variants)
    return 0 if all(name in found and found[name].batch_size for name in names) else EXIT_FAILED


def _max_batch_page(page: "Page", folder: Path) -> "Page":
    from bench.report.cells import records
    from bench.report.max_batch import max_batch

    return max_batch(records(page.frame), search.read(folder))


def _folder(options: Namespace, name: str) -> Path:
    """Where to write: what `--out` says, or a new folder."""
    if options.out == "":
        raise ValueError("--out '': expected a folder")
    now = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path(options.out or f"results/local/{now}_{name}")


def _page(rows: list[journal.Row], folder: Path) -> "Page":
    # pandas takes most of a second to import, which `plan` and `--help` need not pay.
    from bench.report.frame import cell_frame
    from bench.report.tables import page

    found = page(cell_frame(rows))
    if run := stopping.last(folder):
        found.notes.append(run.sentence)
    return found


def _plan(options: Namespace) -> int:
    asked = _load(options)
    rows = journal.read_if_any(Path(options.out)) if options.out else []
    if rows:
        trials = asked.trials_like(rows[0].trial)
        journal.check_same_question(rows[0].trial, trials[0], options.out)
    else:
        trials = asked.trials(asked.one("device"), asked.budget_bytes or DEFAULT_BUDGET_BYTES)
    console = Output(stderr=options.json)
    predictions = (
        _predictions(asked, trials, partial(print_line, console)) if options.predict else {}
    )
    if options.json:
        for trial in trials:
            told = {"key": trial.key, **trial.to_json()}
            if prediction := predictions.get(experiment(trial)):
                told["predicted"] = prediction.to_json(trial.batch_size)
            sys.stdout.write(json.dumps(told) + "\n")
        return 0
    for line in planning.lines(asked, trials, rows, options.out):
        print_line(console, line)
    if predictions:
        from bench.report.predicted import predicted

        print_page(console, predicted(trials, predictions))
    return 0


def _predictions(
    asked: spec.SweepSpec, trials: list[Trial], note: Callable[[str], None]
) -> dict[str, Prediction]:
    device = trials[0].device
    if device == "auto":
        device = "cuda" if has_gpu() else "cpu"
    with Runner(asked.workload.task, sweep.DEFAULT_TIMEOUT_S) as runner:
        if device == "cpu" or has_gpu():
            for name, reason in sweep.unsupported(asked, runner, device).items():
                note(f"{name} cannot run here: {reason}.")
        return Predictor(runner, asked.workload, device).of_trials(trials, note)


def _report(options: Namespace) -> int:
    style = arguments.style(options)
    lengths = {name: arguments.run_length(options, name) for name in ("images", "epochs")}
    if options.view == kernel_times.VIEW:
        write_page(kernel_times.page(kernel_times.read(options.folder)), style)
        return 0
    page = _page(journal.read(options.folder), options.folder)
    if options.view == search.VIEW:
        page = _max_batch_page(page, options.folder)
    elif options.view is not None:
        from bench.report import views

        page = views.page(page.frame, options.view, **lengths)
    elif any(length is not None for length in lengths.values()):
        raise ValueError("--images and --epochs: expected with --view compiled-vs-eager")
    write_page(page, style)
    return 0


def _compare(options: Namespace) -> int:
    from bench.report.compare import MEMORY, QUALITY, SPEED, Gate, compare
    from bench.report.sides import Side, by_variant

    style, margin = arguments.style(options), spec.parse_share("--margin", options.margin)
    gates = [
        Gate(f"--{option}", figure, spec.parse_share(f"--{option}", text))
        for option, figure in zip(arguments.GATES, (SPEED, MEMORY, QUALITY), strict=True)
        if (text := getattr(options, option.replace("-", "_"))) is not None
    ]
    asked = 1 if options.variants else 2
    if len({folder.resolve() for folder in options.folders}) != asked:
        beside = "one folder beside --variants" if asked == 1 else "two that differ, or --variants"
        raise ValueError(f"compare {' '.join(map(str, options.folders))}: expected {beside}")
    if options.variants:
        sides = by_variant(journal.read(options.folders[0]), options.variants)
    else:
        sides = [Side(str(folder), journal.read(folder)) for folder in options.folders]
    there, here = sides
    drift = None if options.drift is None else spec.parse_share("--drift", options.drift)
    found = compare(there, here, margin, drift, gates, options.ignore)
    write_page(found.page, style)
    console = Output(stderr=style != "table")
    for text in found.failed:
        print_line(console, f"Failed: {text}", style="bold red")
    for text in found.undecided:
        print_line(console, f"Not shown: {text}", style="bold")
    if found.failed:
        return EXIT_FAILED
    undecided = bool(found.undecided) if gates else found.inconclusive
    return EXIT_INCONCLUSIVE if options.strict and undecided else 0


def _doctor(options: Namespace) -> int:
    if options.noise:
        return _noise(options)
    arguments.check_nothing_measured(options)
    asked = spec.load(None, {"device": [options.device or "auto"]})
    with Runner(asked.workload.task, sweep.DEFAULT_TIMEOUT_S) as runner:
        found = runner.ask("bench.worker:probe", {"device": asked.one("device")})["environment"]
    device, note, free_bytes = (found.pop(name) for name in ("device", "note", "free_bytes"))
    environment = describe_host(["unet-bench", *sys.argv[1:]]) | found
    uuid = environment["gpu_uuid"]
    findings = doctor.examine(device, note, free_bytes, nvml_describe(uuid) if uuid else None)
    known = noise.read(environment)
    disturbing = [finding for finding in findings if finding.state is doctor.State.DISTURBS]
    if options.json:
        told = {"environment": environment, "noise": known}
        told["findings"] = [vars(finding) for finding in findings]
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        console = Output()
        print_line(console, doctor.machine(environment))
        for finding in findings:
            print_line(console, finding.line, "bold yellow" if finding in disturbing else None)
        if known:
            from bench.report.noise import noise_page

            print_line(
                console, f"The noise floor of this environment, measured at {known['measured_at']}:"
            )
            print_page(console, noise_page(known))
        else:
            print_line(console, "The noise floor of this environment is not known (--noise).")
    return EXIT_FAILED if disturbing else 0


def _noise(options: Namespace) -> int:
    from bench.report.noise import noise_page

    asked = _load(options)
    if (rounds := asked.one("rounds")) < noise.LEAST_PROCESSES:
        raise ValueError(f"rounds {rounds}: expected at least {noise.LEAST_PROCESSES}")
    rows, code = _measure(options, asked, "noise")
    if code:
        return code
    asked_keys = {trial.key for trial in asked.trials_like(rows[0].trial)}
    described = noise.describe([row for row in rows if row.trial.key in asked_keys])
    if not described["cells"]:
        raise ValueError(
            f"no cell ended well {noise.LEAST_PROCESSES} times; the same command with --out "
            f"{options.out or 'DIR'} goes on"
        )
    page = noise_page(described)
    write_page(page, "json" if options.json else "table")
    console = Output(stderr=options.json)
    if noise.is_hopeless(described):
        print_line(
            console, "Not kept: something else ran on this machine; see `doctor`.", "bold red"
        )
        return EXIT_FAILED
    path = noise.write(rows[0].environment, described)
    print_line(
        console, f"Kept, until that file is deleted, for what is measured from now on: {path}"
    )
    return EXIT_FAILED if any(page.bold) else 0


def _kernels(options: Namespace) -> int:
    rounds = arguments.whole("--rounds", options.rounds)
    asked = spec.load(None, {"device": [options.device or "auto"]})
    folder = None if options.out is None else _folder(options, "kernels")
    if folder is not None:
        kernel_times.check_free(folder)
    found = kernel_times.measure(
        asked.workload.task, asked.one("device"), rounds, ["unet-bench", *sys.argv[1:]]
    )
    written = kernel_times.write(folder, found) if folder else None
    page = kernel_times.page(found)
    if options.json:
        sys.stdout.write(json.dumps(found | {"table": json.loads(render(page, "json"))}) + "\n")
    else:
        write_page(page, "table")
    if written:
        print_line(Output(stderr=options.json), f"Written: {written}")
    return 0


def _evidence(options: Namespace) -> int:
    from bench.evidence import gather, page, record
    from bench.evidence.plan import load

    plan = load(options.source)
    limit_s = arguments.limit_s(options.minutes, 2 * gather.RESERVE_S)
    console, folder = Output(), _folder(options, "evidence")
    with record.locked(folder):
        outcomes = gather.gather(
            plan, folder, limit_s, partial(print_line, console), partial(page.write, plan, folder)
        )
    print_line(console, page.summary(plan, folder))
    print_line(console, f"Written: {folder / page.FILE_NAME}")
    if gather.Outcome.OUT_OF_TIME in outcomes.values():
        how = f"--out {shlex.quote(str(folder))}"
        print_line(console, f"Not complete. To go on: the same command with {how}", "bold")
    faults = any(part.faults(folder) for part in plan.parts)
    return EXIT_FAILED if faults or gather.Outcome.FAILED in outcomes.values() else 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "sweep": _sweep,
    "plan": _plan,
    "max-batch": _max_batch,
    "trial": _trial,
    "report": _report,
    "compare": _compare,
    "doctor": _doctor,
    "kernels": _kernels,
    "evidence": _evidence,
}
