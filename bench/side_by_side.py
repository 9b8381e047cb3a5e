"""What does the same in several ways, timed in turn: in a child process, which has torch."""

import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import torch

from bench.worker import Events
from bench.workload import load_object

LEAST_S = 0.05
"""One measurement repeats a call for as long as this at least, so that the clock is fine enough."""

Call = Callable[[], object]


def measure(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Times the cases of a catalogue.

    Args:
        request: `cases` (as `module:attribute` of what gives those of a device; see
            `kernels.peers.Case` for what one has), `device` and `rounds`.
        pipe: Gets `{"cases": ...}`: of each its `name`, what else it tells, and the `seconds` of
            its calls by name, one for each round; or `{"error": ...}`.
    """
    device, found = torch.device(request["device"]), []
    try:
        cases = load_object(request["cases"])(device)
    except ValueError as error:
        Events(pipe).send({"error": str(error)})
        return
    for case in cases:
        seconds = in_turn(case.calls, request["rounds"], device)
        found.append({"name": case.name, **case.told, "seconds": seconds})
    Events(pipe).send({"cases": found})


def in_turn(calls: Mapping[str, Call], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds that each call takes, one for each round.

    In a round each is measured once, so that a drift of the machine meets all alike; every second
    round runs backwards.
    """
    repeats = {name: _repeats(call, device) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            seconds[name].append(_seconds(calls[name], repeats[name], device))
    return seconds


def _repeats(call: Call, device: torch.device) -> int:
    """How often a call is repeated in a measurement, by trying it; the first one is warm-up."""
    _seconds(call, 1, device)
    return max(1, round(LEAST_S / _seconds(call, 1, device)))


def _seconds(call: Call, repeats: int, device: torch.device) -> float:
    _synchronize(device)
    began_s = time.perf_counter()
    for _ in range(repeats):
        call()
    _synchronize(device)
    return (time.perf_counter() - began_s) / repeats


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
