"""Predictions that calibration documents enter: states, intervals, bounds, arrays, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import npusim as ns
from npusim import calibration as documents
from npusim.accuracy import trust
from npusim.accuracy.fitting import residual_quantiles
from npusim.calibration import Calibration, Calibrations
from npusim.chip import load_chip
from npusim.cost.calibrated import rows, step_time
from npusim.cost.calibrated.family import OPERATORS
from npusim.errors import InputError
from npusim.kperf_suite import Suite, kperf
from npusim.report import cost_table, explained, files, table

H100 = "h100--trtllm-1.3.0rc20--gemm--bf16"
BATCHES = np.array([1, 3, 16, 64, 100, 700])


def gemm_document(**changes: object) -> Calibration:
    return documents.load_calibration(documents.CATALOG / f"{H100}.yaml").model_copy(update=changes)


def test_an_operator_with_a_document_is_calibrated():
    cost = ns.estimate(ns.gemm(4096, 4096, 4096), "h100", calibration="auto", software="trtllm")
    (item,) = cost.ops
    assert (cost.fidelity, item.state, item.document) == ("tile", "calibrated", H100)
    assert item.bound == "matrix"
    low, high = gemm_document().interval_factors("matrix")
    assert (item.low_s, item.high_s) == pytest.approx((low * item.time_s, high * item.time_s))
    found = trust.trust(cost)
    assert (found.state, found.document) == ("calibrated", H100)
    assert found.to_dict(cost.time_s)["coverage_claim"] == 0.8
    assert found.to_dict(cost.time_s)["range_low_s"] == pytest.approx(item.low_s)


def test_none_changes_nothing():
    step = ns.decode("llama-3.1-8b", batch=4, context=100)
    plain, none = ns.estimate(step, "h100"), ns.estimate(step, "h100", calibration="none")
    assert plain.fidelity == none.fidelity == "roofline"
    assert plain.table() == none.table()
    assert "state" not in plain.table()[0]
    assert all(item.state == "uncalibrated" and not item.document for item in plain.ops)


def test_no_operator_beats_its_roofline():
    """A document whose parameters promise the impossible is held to the bound."""
    doc = gemm_document()
    fast = {name: p.model_copy(update={"value": p.low}) for name, p in doc.parameters.items()}
    fast["dram_share"] = doc.parameters["dram_share"].model_copy(update={"value": 5.0, "high": 5.0})
    fast["matrix_share"] = doc.parameters["matrix_share"].model_copy(update={"value": 5.0, "high": 5.0})
    fast["fill"] = doc.parameters["fill"].model_copy(update={"value": 1e4, "high": 1e4})
    op = ns.gemm(8192, 8192, 8192)
    cost = ns.estimate(op, "h100", calibration=doc.model_copy(update={"parameters": fast}))
    assert cost.ops[0].document == H100
    assert cost.time_s == pytest.approx(ns.estimate(op, "h100").time_s)
    for name in ("h100", "a100", "ascend-910b", "h200", "tpu-v4"):
        step = ns.estimate(ns.decode("llama-3.1-8b", batch=BATCHES, context=900), name, calibration="auto")
        assert np.all(step.time_s >= step.lower_bound_s * (1 - 1e-12))
        assert all(np.all(np.asarray(item.time_s) >= 0) for item in step.ops)


@pytest.mark.parametrize("software", ["trtllm", "vllm-0.24.0"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_arrays_equal_scalars(phase: str, software: str):
    def step(batch: object, tokens: object) -> ns.Workload:
        if phase == "decode":
            return ns.decode("llama-3.1-8b", batch=batch, context=tokens, tp=2)
        return ns.prefill("llama-3.1-8b", batch=batch, prompt=tokens, tp=2)

    tokens = np.array([1, 17, 128, 900, 4000, 31])
    both = ns.estimate(step(BATCHES, tokens), "h100", calibration="auto", software=software)
    for index, (batch, count) in enumerate(zip(BATCHES.tolist(), tokens.tolist(), strict=True)):
        one = ns.estimate(step(batch, count), "h100", calibration="auto", software=software)
        assert one.time_s == pytest.approx(both.time_s[index], rel=1e-12)
        for item, many in zip(one.ops, both.ops, strict=True):
            assert item.time_s == pytest.approx(np.broadcast_to(many.time_s, 6)[index], rel=1e-12)
            if item.low_s is not None:
                assert item.low_s == pytest.approx(np.broadcast_to(many.low_s, 6)[index], rel=1e-12)


def test_an_interval_covers_what_its_residuals_say():
    """Times drawn from the residuals a document was made of lie in its interval four times of five."""
    ratios = np.random.default_rng(3).normal(0.02, 0.1, 4000)
    residuals = residual_quantiles(ratios, np.full(4000, "matrix", dtype=object))
    cost = ns.estimate(ns.gemm(4096, 4096, 4096), "h100", calibration=gemm_document(residuals=residuals))
    measured = cost.ops[0].time_s * np.exp(ratios)
    inside = (measured >= cost.ops[0].low_s) & (measured <= cost.ops[0].high_s)
    assert 0.79 <= inside.mean() <= 0.81


def test_states():
    op = ns.gemm(64, 4096, 4096)

    def state(op: ns.Op, chip: object, software: str | None = None) -> str:
        return ns.estimate(op, chip, calibration="auto", software=software).ops[0].state

    assert state(op, "h100", "sglang") == "calibrated"
    assert state(op, "h200", "sglang") == "transferred"
    assert state(ns.gemm(64, 4096, 4096, "fp16", "fp16", "fp16"), "h100", "trtllm") == "transferred"
    assert state(op, load_chip("h100").replace({"memory.bandwidth": 4e12}), "trtllm") == "transferred"
    assert state(ns.gemm(64, 4096, 4096, "mxfp8", "mxfp8"), "h100", "trtllm") == "uncalibrated"
    assert state(ns.norm(64, 4096), "h100", "trtllm") == "uncalibrated"  # other software's launches say nothing
    assert state(ns.conv2d(1, 56, 56, 64, 64, 3, 3), "h100") == "uncalibrated"


@pytest.mark.parametrize("chip", ["rebel-quad", "npu-2pf"])
def test_a_chip_of_no_measured_class_stays_uncalibrated(chip: str):
    cost = ns.estimate(ns.decode("llama-3.1-8b", batch=4, context=100), chip, calibration="auto")
    assert {item.state for item in cost.ops} == {"uncalibrated"}
    assert cost.step is None
    assert f"{chip}: no calibration of this chip or of its classes" in cost.remarks[0]
    assert cost.time_s == ns.estimate(cost.workload, chip, cost.fidelity).time_s
    assert any(note == cost.remarks[0] for note in cost_table.workload_notes(cost))


def test_a_step_has_the_interval_of_whole_runs():
    step = ns.decode("llama-3.1-8b", batch=16, context=1024, weights="fp16", activations="fp16", kv="fp16")
    cost = ns.estimate(step, "h100", calibration="auto", software="vllm")
    assert cost.step is not None
    assert cost.step.match.calibration.name == "h100--vllm--request--fp16"
    low, high = cost.step.match.calibration.interval_factors("matrix")
    assert (cost.step.low_s, cost.step.high_s) == pytest.approx((low * cost.step.time_s, high * cost.step.time_s))
    found = trust.trust(cost)
    assert (found.kind, found.state, found.expected_s) == (trust.STEP, "calibrated", cost.step.time_s)
    assert found.high * cost.time_s == pytest.approx(cost.step.high_s)
    assert found.high * cost.time_s != pytest.approx(sum(item.high_s or item.time_s for item in cost.ops))


def test_steps_nobody_measured_as_a_whole_take_the_range_of_sums():
    for step in (
        ns.prefill("llama-3.1-8b", prompt=512),
        ns.decode("llama-3.1-8b", batch=step_time.MOST_SEQUENCES + 1, context=512),
        ns.decode("llama-3.1-8b", batch=4, context=512, weights="fp8", activations="fp8", kv="fp8"),
    ):
        cost = ns.estimate(step, "h100", calibration="auto", software="vllm")
        found = trust.trust(cost)
        assert (cost.step, found.state, found.fitted) == (None, "uncalibrated", True)
        assert "operators by calibrations" in trust.sentence(found)
        assert found.to_dict(1.0)["coverage_claim"] is None


def test_every_row_name_has_a_family():
    ops = [
        ns.gemm(8, 8, 8), ns.attention(1, 8, 2, 64, 1, 9), ns.attention(1, 8, 2, 64, 9, 9), ns.norm(8, 8),
        ns.attention(1, 8, 8, 64, 9, 9, causal=False), ns.norm(8, 8, function="layernorm"), ns.softmax(8, 8),
        ns.embedding(8, 8), *(ns.elementwise(64, name) for name in rows._ELEMENTWISE),
        ns.attention(1, 8, 1, 576, 1, 9, v_head_dim=512), ns.attention(1, 8, 8, 192, 9, 9, v_head_dim=128),
    ]  # fmt: skip
    assert {row.op for op in ops if (row := rows.row_of(op, 8))} <= set(OPERATORS)
    assert rows.row_of(ns.elementwise(64)) is None  # nobody says how long its rows are
    assert set(rows.ROWS) < set(ns.workload.OPS)


def test_bad_names_are_refused(tmp_path: Path):
    op = ns.gemm(8, 8, 8)
    with pytest.raises(InputError, match="did you mean 'auto'"):
        ns.estimate(op, "h100", calibration="autoo")
    with pytest.raises(InputError, match=f"did you mean '{H100}'"):
        ns.estimate(op, "h100", calibration=H100[:-1] + "7")
    with pytest.raises(InputError, match="did you mean 'trtllm'"):
        ns.estimate(op, "h100", calibration="auto", software="trllm")
    with pytest.raises(InputError, match="none are allowed"):
        ns.estimate(op, "h100", software="vllm")
    with pytest.raises(InputError, match=r"missing\.yaml"):
        ns.estimate(op, "h100", calibration=str(tmp_path / "missing.yaml"))
    with pytest.raises(InputError, match="power limit"):
        kperf("h100", models=["llama-3.1-8b"], precisions=["bf16"], power_cap=True, calibration="auto")


def test_a_file_prices_what_it_is_of(tmp_path: Path):
    path = documents.save(gemm_document(software="mine"), tmp_path)
    step = ns.decode("llama-3.1-8b", batch=4, context=100)
    cost = ns.estimate(step, "h100", calibration=str(path))
    assert {item.document for item in cost.ops if item.op.kind == "gemm"} == {path.stem}
    assert {item.state for item in cost.ops if item.op.kind == "gemm"} == {"calibrated"}
    assert {item.state for item in cost.ops if item.op.kind != "gemm"} == {"uncalibrated"}
    assert not any(item.document for item in ns.estimate(step, "a100", calibration=str(path)).ops)
    assert Calibrations(str(path)).check_software("mine") == "mine"


def test_reports_show_states_and_intervals():
    suite = Suite(
        format="npusim-suite/1", name="small", models=("llama-3.1-8b",), precisions=("bf16",),
        lengths=((128, 64), (128, 1)), concurrency=(4,),
    )  # fmt: skip
    result = kperf("h100", suite=suite, calibration="auto", software="vllm")
    long, single = result.rows
    assert (result.fidelity, long["state_prefill"], long["state_decode"]) == ("tile", "uncalibrated", "transferred")
    assert long["tpot_low_s"] < long["tpot_high_s"]
    assert single["state_decode"] is None
    assert single["tpot_low_s"] is None
    text = table.render(result, 200)
    assert "TPOT measured" in text
    assert "uncalibrated/transferred" in text
    assert b",tpot_low_s," in files.to_csv(result)
    assert b'"state_decode": "transferred"' in files.to_json(result)
    assert b">transferred</small>" in files.to_html(result)
    assert "TPOT measured" not in table.render(kperf("h100", suite=suite), 200)


def test_an_explanation_names_the_document():
    found = ns.explain(ns.gemm(4096, 4096, 4096), load_chip("h100"), calibration="auto", software="trtllm")
    assert found.mapping is None
    assert f"by {H100}" in explained.render(found)
    assert explained.to_dict(found)["op_trust"]["state"] == "calibrated"
    assert found.step_sensitivities[0].speedup > 1.1
