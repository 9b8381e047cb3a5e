from typing import Any

import pytest

from bench.journal import Row
from bench.report.frame import THRASHING_FLAG
from bench.trial import Status
from tests.report_rows import CUDA, GIB, bad, good, measured, page_texts, row, trial, view

NAME = "memory"


def on_card(variant: str = "fp32", batch_size: int = 4, **memory: Any) -> Row:
    asked = trial(variant, batch_size, device="cuda:0")
    return row(asked, measured(10.0, batch_size, memory=CUDA | memory))


def test_a_cell_of_a_gpu_by_allocator_nvml_and_budget() -> None:
    page = view(NAME, on_card())
    (text,) = page_texts(page)
    assert text == {
        "variant": "fp32",
        "batch": "4",
        "peak GiB": "2.00",
        "first step GiB": "5.00",
        "reserved GiB": "3.00",
        "reserved, unused GiB": "1.00",
        "process GiB": "4.00",
        "first-step retries": "2",
        "retries": "0",
        "budget %": "44",
        "images/s": "10.0",
        "budget is": "emulated",
        "status": "ok",
    }
    assert page.verdict == (
        "Nearest to the budget of 8 GiB here: fp32 b4, whose process had 4.00 GiB by NVML (50 %)."
    )
    assert any(note.startswith("Reserved, unused: ") for note in page.notes)


def test_what_nvml_does_not_tell_is_not_readable() -> None:
    page = view(NAME, on_card(process_bytes=None))
    assert page_texts(page)[0]["process GiB"] == "not readable"
    assert "had 3.50 GiB by torch's allocator and the context (44 %)" in page.verdict


def test_a_cpu_has_no_such_columns_and_a_cell_that_failed_no_figures() -> None:
    page = view(NAME, good("fp32", 4, 10.0), bad("bf16", 4, Status.OOM))
    measured_, failed = page_texts(page)
    assert (measured_["peak GiB"], measured_["first step GiB"]) == ("2.00", "3.00")
    assert not {"reserved GiB", "reserved, unused GiB", "process GiB", "retries"} & set(measured_)
    assert len(page.to_rich(30).columns) < len(
        page.columns
    )  # though some have nothing to leave out
    assert (failed["peak GiB"], failed["images/s"], failed["budget is"]) == (
        "-",
        "not measured",
        "-",
    )
    assert failed["status"] == "oom"
    assert "fp32 b4, whose process had 2.00 GiB by the kernel (25 %)" in page.verdict
    assert page.bold == [True, False]
    nothing = view(NAME, bad("bf16", 4, Status.OOM))
    assert nothing.verdict == "Nothing is known of memory here: no row ended well, unflagged."


def test_the_nearest_to_the_budget_is_named_and_what_is_beyond_it_is_a_fault() -> None:
    rows = [
        on_card("fp32", process_bytes=7 * GIB),
        on_card("bf16", process_bytes=int(7.6 * GIB)),
        on_card("bf16+channels_last", process_bytes=int(7.9 * GIB), alloc_retries=9),
    ]
    page = view(NAME, *rows)
    assert page.verdict == (
        "Nearest to the budget of 8 GiB here: bf16 b4, whose process had 7.60 GiB by NVML (95 %)."
    )
    assert page.bold == [False, True, False]
    assert any(THRASHING_FLAG in note for note in page.notes)
    beyond = view(NAME, *rows, on_card("fp32", 8, process_bytes=int(8.25 * GIB)))
    assert beyond.verdict.endswith(" Fault: fp32 b8 had 0.25 GiB more than the budget by NVML.")


@pytest.mark.parametrize("gib", [7.9, 8.1])
def test_memory_of_helpers_beyond_the_budget_is_a_fault_on_a_cpu(gib: float) -> None:
    # The kernel limits each process by itself.
    page = view(NAME, row(trial(), measured(memory={"peak_bytes": int(gib * GIB)})))
    assert ("Fault: fp32 b4 had 0.10 GiB more than the budget by the kernel." in page.verdict) == (
        gib > 8
    )


# Predictions.


def predicted_row(
    variant: str, batch_size: int, predicted_gib: float, peak_gib: float, *, is_bound: bool = False
) -> Row:
    memory = {
        "peak_bytes": int(peak_gib * GIB),
        "first_step_peak_bytes": GIB,
        "predicted_bytes": int(predicted_gib * GIB),
        "predicted_first_step_bytes": GIB,
        "predicted_baseline_bytes": GIB,
        "predicted_is_bound": is_bound,
    }
    return row(trial(variant, batch_size), measured(10.0, batch_size, memory=memory))


def test_a_prediction_is_judged_by_what_comes_on_top_of_the_baseline() -> None:
    page = view(
        NAME,
        predicted_row("fp32", 4, 1.48, 1.6),  # 0.48 of 0.6
        predicted_row("fp32", 8, 3.2, 3.0),  # 2.2 of 2.0
        predicted_row("fp32+compile", 8, 3.0, 3.2, is_bound=True),
        good("bf16", 8, 10.0),
    )
    texts = page_texts(page)
    assert [text["predicted GiB"] for text in texts] == ["1.48", "3.20", "≤3.00", "not measured"]
    assert [text["error %"] for text in texts] == ["-20.0", "+10.0", "-9.1", "not measured"]
    assert (
        "Prediction errors, of what training adds: 2 eager cells -20.0 to +10.0 %, median -5.0 %; "
        "the 1 that grow by 1 GiB or more +10.0 to +10.0 %, median +10.0 %." in page.verdict
    )
    assert "Beyond the bound: fp32+compile b8." in page.verdict
    assert any(note.startswith("Predicted: ") for note in page.notes)


def test_without_predictions_nothing_is_said_of_them() -> None:
    page = view(NAME, good("fp32", 4, 10.0))
    assert "predicted GiB" not in page_texts(page)[0]
    assert "Predicted" not in page.verdict
