"""The scores of the serving engine: which runs count, and that the fit finds the host times behind them."""

from __future__ import annotations

import pytest

from bench.serving_accuracy import OUT, Batch, Result, batch_of, figures, fitted_host, program_errors
from bench.serving_accuracy_page import document
from npusim.calibration import State
from npusim.chip import load_chip
from npusim.models import load_model
from npusim.serving.constants import load_programs
from npusim.serving.steps import Constants
from npusim.serving.throughput import Observation, Scored


def test_the_fit_finds_the_host_times_behind_the_runs():
    true = (2e-3, 5e-6, 4e-5)
    shapes = [
        (steps, exchanges, sequences) for steps in (128, 1024) for exchanges in (0, 65, 195) for sequences in (1, 64)
    ]
    runs = [
        Batch("h100", "x", 0.0, 0.01 * steps, steps, exchanges, sequences) for steps, exchanges, sequences in shapes
    ]
    measured = [Batch("h100", "x", run.seconds(true), *(run.engine_s, run.steps, run.exchanges, run.sequences))
                for run in runs]  # fmt: skip
    assert fitted_host(measured) == pytest.approx(true, rel=0.02)


def test_a_run_without_host_time_is_what_the_engine_took_less_it():
    seen = Observation(load_chip("h100"), load_model("llama-3.1-8b"), "bf16", 2, 1000.0, 128, 128, 4, "vllm")
    batch = batch_of(Scored(seen, 900.0, steps=128, seconds=2.0), Constants(host_s=1e-3, sequence_s=1e-5))
    assert batch.measured_s == pytest.approx(4 * 128 / 1000.0)
    assert batch.engine_s == pytest.approx(2.0 - 128 * (1e-3 + 4e-5))
    assert batch.exchanges == 65  # two for each of 32 layers, one after the embedding


def test_the_page_names_every_group_and_what_is_kept_aside():
    seen = Observation(load_chip("h100"), load_model("llama-3.1-8b"), "fp8", 1, 100.0, 128, 128, software="trtllm")
    lost = Observation(load_chip("h200"), load_model("llama-3.1-8b"), "fp8", 1, 100.0, scenario="offline", label="1 x")
    found = [Result("vendor", Scored(seen, 150.0), Scored(seen, 110.0, "calibrated"), -12.0),
             Result("MLPerf v4.1", Scored(lost, None), Scored(lost, None, reason="does not fit"))]  # fmt: skip
    rows = figures(found)
    first = rows["vendor, llama-3.1-8b, h100"]
    assert (first["alone"], first["auto"], first["aside"]) == (pytest.approx(50), pytest.approx(10), 12.0)
    text = document(found, rows, {"trtllm": {"calibrated": 5.66, "transferred": 11.0}})
    assert "| vendor, llama-3.1-8b, h100 | 1 of 1 | 50.0 | +10.0 | **10.0** | 10.0 | **12.0** | calibrated |" in text
    assert "0 of 1" in text and "does not fit" in text and "| trtllm | 5.7 | 11.0 |" in text


def test_answers_quote_the_errors_of_the_page():
    for name, program in load_programs().programs.items():
        quoted = program.errors_pct
        assert f"| {name} | {quoted.calibrated:.1f} | {quoted.transferred:.1f} |" in OUT.read_text()


def test_errors_of_a_program_are_those_of_its_fit_and_of_chips_left_out():
    def result(source: str, chip: str, program: str, state: State, error: float, aside: float | None) -> Result:
        batch = 4 if source == "llm_inference_bench" else None
        seen = Observation(load_chip(chip), load_model("llama-3.1-8b"), "bf16", 1, 100.0, 128, 128, batch, program)
        scored = Scored(seen, 100.0 + error, state, steps=128, seconds=1.0)
        return Result(source, scored, scored, aside)

    found = [
        result("llm_inference_bench", "h100", "vllm", "transferred", 4.0, -10.0),
        result("llm_inference_bench", "h100", "vllm", "transferred", -6.0, 20.0),
        result("llm_inference_bench", "mi250", "vllm", "transferred", 60.0, None),  # took no part in the fit
        result("vendor", "h100", "trtllm", "calibrated", -2.0, None),
        result("MLPerf v4.1", "h200", "trtllm", "transferred", 8.0, None),
        result("MLPerf v4.1", "h100", "trtllm", "calibrated", 30.0, None),
    ]
    assert program_errors(found) == {
        "vllm": {"calibrated": pytest.approx(5.0), "transferred": pytest.approx(15.0)},
        "trtllm": {"calibrated": pytest.approx(2.0), "transferred": pytest.approx(8.0)},
    }
