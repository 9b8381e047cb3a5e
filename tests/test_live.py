import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from bench.growing import GrowingTable, Line
from bench.monitor import Reading
from bench.report.frame import cell_frame
from bench.report.tables import to_markdown
from bench.trial import Status
from tests.displays import Clock, Stage, failed, measured, reading, trials
from tests.harness import BUDGET_BYTES, toy_trial
from tests.toy import SETTINGS


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stage(clock: Clock) -> Iterator[Stage]:
    stage = Stage(clock)
    with stage.display:
        yield stage


def test_the_trial_under_way(stage: Stage, clock: Clock) -> None:
    to_do = trials(4)
    clock.now_s += 100  # nothing of the sweep
    stage.display.begin(to_do[1:], [measured(to_do[0], duration_s=60.0)])
    clock.now_s += 5
    stage.display.trial(to_do[1])
    assert "~3:00 left" in stage.terminal.screen()[0]  # three like the one that is done
    clock.now_s += 0.2
    stage.display.phase("compiling")
    assert stage.terminal.screen()[1].startswith("compiling")
    clock.now_s += 9.8
    stage.display.phase("warming_up")
    overall, trial, figures, *_ = stage.terminal.screen()
    assert overall.startswith("overall")
    assert "1/4  rows" in overall
    assert "0:15 elapsed" in overall
    assert "~2:50 left" in overall
    assert trial.startswith("warming up")
    assert "0:10 elapsed" in trial
    assert "~0:50 left" in trial
    assert figures == "none b5"
    stage.display.reading(reading(step=8))
    clock.now_s += 10
    stage.display.reading(reading(step=28))
    overall, trial, figures, *_ = stage.terminal.screen()
    assert " 28/128  steps" in trial
    assert "~0:50 left" in trial  # 100 steps at 2 a second
    assert "~2:50 left" in overall
    assert figures == "none b5  148.2 images/s  0.50 of 1 GiB  97 % busy"


def test_memory_that_is_nearly_gone_is_marked(stage: Stage) -> None:
    stage.display.begin(trials(1), [])
    stage.display.trial(trials(1)[0])
    styles = []
    for share in (0.5, 0.95):
        stage.display.reading(Reading(1, None, share * BUDGET_BYTES, None))
        part = next(part for part in stage.segments()[2] if "GiB" in part.text)
        styles.append(part.style.color.name if part.style and part.style.color else None)
    assert styles == [None, "yellow"]


def test_a_card_s_memory_is_not_shown_as_part_of_a_trial_s_budget(stage: Stage) -> None:
    stage.display.begin(trials(1), [])
    stage.display.trial(trials(1)[0])
    for own, shown in (
        (0.5 * BUDGET_BYTES, "0.50 of 1 GiB"),
        (None, "7.00 GiB in use on the card"),
    ):
        stage.display.reading(Reading(1, None, own, None, 7 * BUDGET_BYTES))
        (part,) = [part for part in stage.segments()[2] if "GiB" in part.text]
        assert part.text.strip() == shown
        assert part.style is None or part.style.color is None


def test_nothing_is_guessed_before_there_is_a_row(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(2), [])
    stage.display.trial(trials(2)[0])
    clock.now_s += 2
    stage.display.reading(reading(step=1))
    assert "left" not in stage.screen()


def test_a_row_is_done_when_it_has_ended(stage: Stage) -> None:
    stage.display.begin(trials(1), [])
    stage.display.trial(trials(1)[0])
    stage.display.reading(reading(step=trials(1)[0].steps))
    assert "0/1  rows" in stage.lines()[0]
    stage.display.row(measured(trials(1)[0]))
    assert "1/1  rows" in stage.lines()[0]


def test_time_goes_on_while_nothing_else_does(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(1), [])
    stage.display.trial(trials(1)[0])
    stage.display.phase("compiling")
    for _ in range(160):  # 40 s
        clock.now_s += 0.25
        stage.display.reading(Reading(0, None, None, None))
    assert re.search(r"compiling .* 0:(39|40) elapsed", stage.screen())


def test_frames_are_counted(stage: Stage, clock: Clock) -> None:
    clock.now_s += 100  # before the first of them
    for done in range(1, 601):
        clock.now_s += 0.01
        stage.display.preparing(done, 1200)
    assert re.search(r"preparing .* 5\d\d/1200  frames  0:0\d elapsed  ~0:0\d left", stage.screen())
    stage.display.begin(trials(1), [])
    clock.now_s += 1
    stage.display.trial(trials(1)[0])
    assert "preparing" not in stage.screen()


def test_rows_show_the_figures_of_the_final_table(stage: Stage) -> None:
    row = measured(toy_trial(), 77.7)
    stage.display.begin([], [row])
    titles, _, figures = (re.split(r"\s{2,}", line.strip()) for line in stage.lines()[-3:])
    final = [
        [text.strip(" *") for text in line.strip("|").split("|")]
        for line in to_markdown(cell_frame([row])).splitlines()
        if line.startswith("|")
    ]
    table = dict(zip(final[0], final[2], strict=True))
    shown = dict(zip(titles, figures, strict=True))
    assert set(shown) >= {"variant", "images/s", "step ms", "peak GiB", "budget %", "util %", "MSE"}
    assert shown == {title: table[title] for title in shown}


def test_the_fastest_row_is_marked(stage: Stage) -> None:
    a, b, c, d = trials(4)
    other = toy_trial(settings={**SETTINGS, "size": 128}, batch_size=9)
    rows = [measured(a, 10.0), measured(b, 30.0), measured(c, 20.0), failed(d), measured(other, 5)]
    stage.display.begin([], rows)
    marked = [
        line[0].text.split()[1]
        for line in stage.segments()
        if line and line[0].style and line[0].style.bold and line[0].style.color
    ]
    assert marked == ["5", "9"]  # one of each settings, by batch size
    crashed = next(line for line in stage.segments() if line and "crash" in line[0].text)
    assert crashed[0].style == stage.console.get_style("red")


def test_what_differs_has_a_column(stage: Stage) -> None:
    first = measured(toy_trial())
    stage.display.begin([toy_trial(round=1)], [first])
    heading = next(line for line in stage.lines() if "variant" in line)
    assert "round" in heading
    assert "seed" not in heading


@pytest.mark.parametrize("width", [5, 20, 33, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [1, 2, 6, 12, 40])
def test_it_fits(width: int, height: int, clock: Clock) -> None:
    stage = Stage(clock, width, height)
    rows = [measured(trial, 1000.0 + trial.batch_size) for trial in trials(30)]
    rows[3] = failed(trials(30)[3], reason="größer als 8 GiB " * 10)
    rows[5] = failed(trials(30)[5], Status.IMPLIED_OOM)
    with stage.display:
        stage.display.preparing(3, 1200)
        stage.display.begin(trials(60)[30:], rows)
        stage.display.trial(trials(31)[30])
        clock.now_s += 100
        stage.display.reading(reading())
        lines = stage.lines()
        assert len(lines) <= max(0, height - 1)
        assert max(map(len, lines), default=0) <= width
        # Blanks at an end would be wrapped by a terminal that becomes narrower.
        ends = [line[-1].text for line in stage.segments() if line]
        assert width < 20 or ends == [text.rstrip() for text in ends]
    assert stage.terminal.lines[-1] == []


def test_a_narrow_terminal_keeps_what_matters(clock: Clock) -> None:
    stage = Stage(clock, 20, 16)
    stage.display.begin(trials(2)[1:], [measured(toy_trial(samples=640), 99.9)])
    stage.display.trial(trials(2)[1])
    stage.display.phase("measuring")
    stage.display.reading(reading())
    assert stage.lines() == [
        "overall         1/2",
        "measuring    40/128",
        "none b5",
        "148.2 images/s",
        "0.50 of 1 GiB",
        "97 % busy",
        "",
        "variant  images/s",
        "─────────────────",
        "none         99.9",
    ]


def test_the_least_telling_columns_go_first(clock: Clock) -> None:
    headings = []
    for width in (100, 60, 50, 42, 35):
        stage = Stage(clock, width)
        stage.display.begin([], [measured(toy_trial())])
        headings.append(re.split(r"\s{2,}", stage.lines()[-3]))
    figures = ["images/s", "step ms", "peak GiB", "budget %", "util %", "MSE"]
    assert headings == [
        ["variant", "batch", *figures],
        ["variant", "batch", *(name for name in figures if name != "budget %")],
        ["variant", "batch", "images/s", "peak GiB", "util %", "MSE"],
        ["variant", "batch", "images/s", "peak GiB", "MSE"],
        ["variant", "batch", "images/s", "MSE"],
    ]


def test_a_reason_needs_room(clock: Clock) -> None:
    row = failed(toy_trial(), reason="a\treason\nof \x1b[31mmany words")
    ends = []
    for more in (40, 16, 15):
        stage = Stage(clock)
        stage.display.begin([], [row])
        width = len(stage.lines()[-2])
        stage.resize(width + more, 20)
        ends.append(stage.lines()[-1][width:])
    assert ends == ["  a reason of  [31mmany words", "  a reason of  …", ""]


def test_more_rows_than_lines(clock: Clock) -> None:
    stage = Stage(clock, 80, 14)
    rows = [measured(trial, 100.0 - abs(trial.batch_size - 6)) for trial in trials(30)]
    stage.display.begin([], rows)
    _, _, _, _, *shown, last = stage.lines()
    assert [int(line.split()[1]) for line in shown] == [6, *range(34 - len(shown) + 1, 34)]
    assert last == f"and {30 - len(shown)} rows before"
    assert len(stage.lines()) == 13


@pytest.mark.parametrize("size", [(60, 30), (30, 30), (140, 30), (100, 12), (45, 10), (200, 50)])
def test_resizing_leaves_nothing_behind(size: tuple[int, int], stage: Stage, clock: Clock) -> None:
    stage.display.note("A note.")
    rows = [failed(trial, reason="for a long reason " * 4) for trial in trials(12)]
    stage.display.begin(trials(14)[12:], rows)
    stage.display.trial(trials(14)[12])
    clock.now_s += 1
    stage.display.reading(reading())
    before = stage.terminal.screen()
    assert before == ["A note.", *stage.lines()]
    stage.resize(*size)
    clock.now_s += 0.01
    stage.display.reading(reading())  # drawn at once
    assert stage.terminal.screen()[-len(stage.lines()) :] == stage.lines()
    above = stage.terminal.screen()[: -len(stage.lines())]
    assert above == ["A note."][: len(above)]
    stage.resize(max(20, size[0] // 2), size[1])
    stage.display.note("Another note.")
    assert stage.terminal.screen()[-len(stage.lines()) - 1 :] == ["Another note.", *stage.lines()]
    assert stage.screen().count("overall") == 1


@pytest.mark.parametrize("width", [100, 50])
def test_nothing_remains_at_the_end_but_notes(width: int, clock: Clock) -> None:
    stage = Stage(clock)
    with stage.display:
        stage.display.note("A note.")
        stage.display.begin(trials(2)[1:], [failed(toy_trial(), reason="why " * 30)])
        stage.display.trial(trials(2)[1])
        stage.display.row(failed(trials(2)[1]))
        stage.resize(width, 30)
    assert stage.terminal.screen() == ["A note."]


def test_it_is_drawn_once_a_second(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(1), [])
    clock.now_s += 1
    stage.display.trial(trials(1)[0])
    before = stage.terminal.writes
    for _ in range(400):  # 100 s
        clock.now_s += 0.25
        stage.display.reading(reading())
    assert 95 <= stage.terminal.writes - before <= 101


def test_trials_without_a_run_are_not_drawn_one_by_one(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(100), [])
    before = stage.terminal.writes
    for trial in trials(100):
        clock.now_s += 0.001
        stage.display.trial(trial)
        stage.display.row(failed(trial, Status.IMPLIED_OOM))
    assert stage.terminal.writes - before <= 2
    clock.now_s += 0.25
    stage.display.reading(reading())  # but the last state is
    assert "100/100" in stage.screen()


def test_the_table_is_made_once_a_row(
    stage: Stage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    render = GrowingTable._render

    def counted(table: GrowingTable, console: Console, width: int, height: int) -> list[Line]:
        made.append(height)
        return render(table, console, width, height)

    monkeypatch.setattr(GrowingTable, "_render", counted)
    stage.display.begin(trials(10)[5:], [measured(trial) for trial in trials(5)])
    clock.now_s += 1
    stage.display.trial(trials(6)[5])
    for number in range(40):
        clock.now_s += 1
        stage.display.reading(Reading(number, 10.0, 1e8, 97.3))
    assert len(made) == 1 + 1  # before the trial there is more room


def test_there_is_something_to_see_before_anything_is_known(stage: Stage) -> None:
    assert stage.screen() == "starting"


def test_what_comes_out_of_order_is_no_error(clock: Clock) -> None:
    stage = Stage(clock)
    with stage.display:
        stage.display.reading(reading())
        stage.display.phase("starting")
        stage.display.begin([], [])
        clock.now_s += 2
        stage.display.reading(reading())
    assert stage.screen() == ""
