"""What all commands have in common that measure: from options to rows and their tables."""

import json
import shlex
import sys
from argparse import Namespace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench import arguments, journal, spec, sweep
from bench.arguments import DEFAULT_PRESETS, NOISE_PRESETS
from bench.commands import EXIT_INTERRUPTED
from bench.display import make_display
from bench.environment import has_gpu
from bench.errors import UserError
from bench.events import JsonDisplay
from bench.output import Output, print_line, print_page, print_written, write_tables

if TYPE_CHECKING:
    from bench.report.page import Page


def load(options: Namespace) -> spec.SweepSpec:
    """What is asked for: a preset or a file, and `--set`."""
    overrides = arguments.overrides(options)
    presets = NOISE_PRESETS if options.command == "doctor" else DEFAULT_PRESETS
    on_gpu = has_gpu() and overrides.get("device") != ["cpu"]
    return spec.load(presets[on_gpu] if options.source is None else options.source, overrides)


def measure(options: Namespace, asked: spec.SweepSpec, name: str) -> tuple[list[journal.Row], int]:
    """Runs the sweep, then prints and writes its tables."""
    console = Output(stderr=options.json)
    plan = plan_to_run(options, asked, name)
    folder = plan.folder
    watched = options.command == "sweep"
    with make_display(console, sys.stdout if options.json and watched else None) as display:
        complete = sweep.run(plan, display)
        rows = journal.read_if_any(folder)
        page = table_page(rows, folder) if rows else None
        written = write_tables(folder, page) if page else {}
        if isinstance(display, JsonDisplay):
            display.send("table", cells=json.loads(written.get("json", "[]")))
    if options.json and options.command == "trial":
        sys.stdout.write(written.get("json", ""))
    elif page and not options.json and options.command != "doctor":  # which asked for noise
        print_page(console, page)
        print_written(console, folder, written)
    if not complete:
        print_line(console, f"Interrupted. To go on: {how_to_go_on(folder)}", "bold")
    return rows, 0 if complete else EXIT_INTERRUPTED


def plan_to_run(options: Namespace, asked: spec.SweepSpec, name: str) -> sweep.Plan:
    """A sweep as the options want it run."""
    if options.retry and options.out is None:
        raise UserError("--retry: expected --out with the folder of an earlier sweep")
    return sweep.Plan(
        spec=asked,
        folder=folder_of(options, name),
        timeout_s=arguments.timeout_s(options.timeout),
        retry=arguments.retry(options.retry),
        command=["unet-bench", *sys.argv[1:]],
        predict=options.command == "sweep" and options.predict,
    )


def folder_of(options: Namespace, name: str) -> Path:
    """Where to write: what `--out` says, or a new folder."""
    if options.out == "":
        raise UserError("--out '': expected a folder")
    now = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path(options.out or f"results/local/{now}_{name}")


def how_to_go_on(folder: Path) -> str:
    """The advice after an interruption, with a folder that a shell takes for one word."""
    return f"the same command with --out {shlex.quote(str(folder))}"


def table_page(rows: list[journal.Row], folder: Path) -> "Page":
    """The result table of a folder."""
    # pandas takes most of a second to import, which `plan` and `--help` need not pay.
    from bench.report.tables import folder_page

    return folder_page(rows, folder)
