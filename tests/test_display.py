import io

import pytest
from rich.console import Console

from bench.display import BarDisplay, LineDisplay
from bench.trial import Status
from tests.harness import row_of, toy_trial

# rich would take the first for a style and fall over the second.
REASONS = ["RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0", "not in [/tmp/a.so]"]


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("display_class", [BarDisplay, LineDisplay])
def test_a_reason_is_shown_as_it_is(
    display_class: type[BarDisplay] | type[LineDisplay], reason: str
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=display_class is BarDisplay, width=60)
    row = row_of(toy_trial(), Status.CRASH)
    row.result.reason = reason
    with display_class(console) as display:
        display.preparing(64, 64)
        display.begin([row.trial], [row])
        display.trial(row.trial)
        display.phase("first_step")
        display.row(row)
    assert f"none b4: crash, {reason}" in screen.getvalue()
    assert "1 of 2 trials are done already." in screen.getvalue()
