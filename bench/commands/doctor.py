"""The command `doctor`."""

import json
import shlex
import sys
from argparse import Namespace
from typing import Any

from bench import arguments, doctor, noise, spec, sweep
from bench.commands import EXIT_FAILED
from bench.commands.measuring import load, measure
from bench.environment import describe_host
from bench.errors import UserError
from bench.nvml import nvml_describe
from bench.output import Output, print_line, print_page, write_page
from bench.runner import Runner


def run(options: Namespace) -> int:
    """Tells what on this machine would disturb a measurement."""
    if options.noise:
        return _noise(options)
    arguments.check_nothing_measured(options)
    asked = spec.load(None, {"device": ["auto" if options.device is None else options.device]})
    with Runner(asked.workload.task, sweep.DEFAULT_TIMEOUT_S) as runner:
        found = runner.probe(asked.one("device"))
    environment = describe_host(["unet-bench", *sys.argv[1:]]) | found.environment
    uuid = environment["gpu_uuid"]
    card = nvml_describe(uuid) if uuid else None
    threads = environment["threads"]
    findings = doctor.examine(found.device, found.note, found.free_bytes, threads, card)
    known = noise.read(environment)
    disturbing = [finding for finding in findings if finding.state is doctor.State.DISTURBS]
    if options.json:
        told: dict[str, Any] = {"environment": environment, "noise": known}
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

    asked = load(options)
    if (rounds := asked.one("rounds")) < noise.LEAST_PROCESSES:
        raise UserError(f"rounds {rounds}: expected at least {noise.LEAST_PROCESSES}")
    rows, code = measure(options, asked, "noise")
    if code:
        return code
    asked_keys = {trial.key for trial in asked.trials_like(rows[0])}
    described = noise.describe([row for row in rows if row.trial.key in asked_keys])
    if not described["cells"]:
        raise UserError(
            f"no cell ended well {noise.LEAST_PROCESSES} times; the same command with --out "
            f"{shlex.quote(options.out or 'DIR')} goes on"
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
