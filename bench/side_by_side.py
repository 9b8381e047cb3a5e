"""What does the same in several ways, timed in turn: in a child process, which has torch."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import torch

from bench.worker import Events, one_line
from bench.workload import load_object

LEAST_S = 0.05
"""One measurement repeats a call for as long as this at least, so that the clock is fine enough."""

Call = Callable[[], object]


def measure(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Times the cases of a catalogue.

    Args:
        request: `cases` (as `module:attribute` of what gives those of a device; see
            `kernels.peers.Case` for what one has), `device` and `rounds`.
        pipe: Gets `{"cases": ...}`, of each `name`, `pixels`, `note` (what a reader must know),
            `ours` and `copy` (two ways' names), `threads`, and by the name of a way `seconds` (of
            its calls, one for each round), `errors` (how far off its result is) and `failed` (why
            it has none); or `{"error": ...}`.
    """
    device = torch.device(request["device"])
    try:
        cases = load_object(request["cases"])(device)
        found = [_measured(case, request["rounds"], device) for case in cases]
    except ValueError as error:
        Events(pipe).send({"error": str(error)})
    else:
        Events(pipe).send({"cases": found})


def _measured(case: Any, rounds: int, device: torch.device) -> dict[str, Any]:
    """One case. A way that fails ends nothing; without ours, and the copy, there is no case.

    Raises:
        ValueError: One of these has failed.
    """
    ours, *_, copy = case.calls
    failed: dict[str, str] = {}
    errors: dict[str, float] = {}
    for way, call in case.calls.items():
        if way != copy:
            with _told(failed, way):
                errors[way] = case.error(call())
    good = {way: call for way, call in case.calls.items() if way not in failed}
    seconds = in_turn(good, rounds, device, failed)
    for way in (ours, copy):
        if way in failed:
            raise ValueError(f"{case.name}, {way}: {failed[way]}")
    told = {"name": case.name, "pixels": case.pixels, "note": case.note(list(seconds))}
    told |= {"ours": ours, "copy": copy, "threads": torch.get_num_threads(), "seconds": seconds}
    return told | {"errors": {way: errors.get(way) for way in seconds}, "failed": failed}


@contextmanager
def _told(failed: dict[str, str], name: str) -> Iterator[None]:
    """Makes a line of whatever happens."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (others' code may fail in any way)
        failed[name] = one_line(error)


def in_turn(
    calls: Mapping[str, Call], rounds: int, device: torch.device, failed: dict[str, str]
) -> dict[str, list[float]]:
    """Seconds that each call takes, one for each round.

    In a round each is measured once, so that a drift of the machine meets all alike; every second
    round runs backwards. What fails is put into `failed`, with the reason, and left out.
    """
    repeats: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        with _told(failed, name):
            repeats[name] = _repeats(call, device)
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            if name not in failed:
                with _told(failed, name):
                    seconds[name].append(_seconds(calls[name], repeats[name], device))
    return {name: values for name, values in seconds.items() if name not in failed}


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
