"""The command `plan`."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import journal, planning, spec, support, sweep
from bench.budget import DEFAULT_BUDGET_BYTES
from bench.commands.measuring import load
from bench.environment import has_gpu
from bench.errors import UserError
from bench.output import Output, print_line, print_page
from bench.predict import Prediction, Predictor, experiment
from bench.runner import Runner
from bench.trial import Trial


def run(options: Namespace) -> int:
    """Lists every cell of a sweep and runs nothing."""
    asked = load(options)
    console = Output(stderr=options.json)
    note = partial(print_line, console)
    if options.out == "":
        raise UserError("--out '': expected a folder")
    rows = sweep.earlier_rows(Path(options.out)) if options.out else []
    if rows:
        trials = asked.trials_like(rows[0])
        journal.check_same_question(rows[0].trial, trials[0], options.out)
    else:
        asked = _as_on_device(asked, note)
        trials = asked.trials(asked.one("device"), asked.budget_bytes or DEFAULT_BUDGET_BYTES)
    predictions = _predictions(asked, trials, note) if options.predict else {}
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


def _as_on_device(asked: spec.SweepSpec, note: Callable[[str], None]) -> spec.SweepSpec:
    """The sweep as its device has it: words resolved, and without variants that are left out.

    Where the device is not here, words mean the best that there is, and nothing is left out.
    """
    if not asked.preferences and asked.one("unsupported") != "skip":
        return asked
    with Runner(asked.workload.task, sweep.DEFAULT_TIMEOUT_S) as runner:
        try:
            device = runner.probe(asked.one("device")).device
        except UserError as error:
            best = asked.workload.preferences
            for axis, word in sorted(asked.preferences):
                note(f"{axis} {word!r} is planned as {best[axis][word][0]}: {error}.")
            if asked.one("unsupported") == "skip":
                note(f"What the device does not support is planned too: {error}.")
            return asked.resolved({})
        resolved = asked.resolved(support.resolve(asked, runner, device, note))
        return support.supported(resolved, runner, device, note)


def _predictions(
    asked: spec.SweepSpec, trials: list[Trial], note: Callable[[str], None]
) -> dict[str, Prediction]:
    device = trials[0].device
    if device == "auto":
        device = "cuda" if has_gpu() else "cpu"
    with Runner(asked.workload.task, sweep.DEFAULT_TIMEOUT_S) as runner:
        if device == "cpu" or has_gpu():
            for name, reason in support.unsupported(asked, runner, device).items():
                note(f"{name} cannot run here: {reason}.")
        return Predictor(runner, asked.workload, device).of_trials(trials, note)
