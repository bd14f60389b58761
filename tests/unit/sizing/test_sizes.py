"""Sizing: targets in words, brackets of inverse answers, elasticities, and a search that finds what a grid finds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import npusim as ns
from npusim.cost.power import at_power_limit
from npusim.errors import DoesNotFit, InputError
from npusim.kperf_suite import Suite
from npusim.sizing import answers, sizes
from npusim.sizing.sizes import limit, parse_vary, size
from npusim.sizing.targets import Judge, parse_target
from tests.conftest import SOAK

TEXT = "llama-3.1-8b fp8 1000/200 tpot<=3ms ttft<=1s concurrency>=16 tp=1"
VARY = {"memory.stacks": [2, 4, 6], "core.vector.lanes": [256, 1024]}
QUIET = {"neighbours": False, "inverse": False, "sensitivity": False, "fidelity": "roofline"}


def judge(text: str = TEXT, **changes: object) -> Judge:
    return Judge((parse_target(text),), fidelity="roofline", **changes)


def test_a_target_is_read():
    made = parse_target("llama-3.3-70b fp8 2048/1024 tpot <= 20 ms ttft<=2s concurrency>=64 tp=2 tokens_per_j>=1")
    assert (made.model, made.precision, made.inputs, made.outputs) == ("llama-3.3-70b", "fp8", 2048, 1024)
    assert (made.concurrency, made.tp) == (64, 2)
    assert [(one.metric, one.at_most, one.limit) for one in made.limits] == [
        ("tpot_s", True, pytest.approx(0.02)), ("ttft_s", True, 2.0), ("tokens_per_j", False, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("llama-3.3-70b fp8", "is not a target"),
        ("lama-3.3-70b fp8 1/1", "did you mean 'llama-3.3-70b'"),
        ("llama-3.3-70b fp9 1/1", "did you mean 'fp8'"),
        ("llama-3.3-70b fp8 2048", "INPUT/OUTPUT"),
        ("llama-3.3-70b fp8 1/1 tpott<=2ms", "did you mean 'tpot'"),
        ("llama-3.3-70b fp8 1/1 fast", "not a constraint"),
        ("llama-3.3-70b fp8 1/1 tpot<=2ms tpot>=3ms", "contradictory: 'tpot>=3ms' and 'tpot<=2ms'"),
        ("llama-3.3-70b fp8 1/1 concurrency>=0", "out of range"),
        ("llama-3.3-70b fp8 0/1", "out of range"),
    ],
)
def test_bad_targets(text: str, told: str):
    with pytest.raises(InputError, match=told):
        parse_target(text)


@pytest.mark.parametrize("outputs", [1, 2, 77, 300])
def test_metrics_are_those_of_kperf(outputs: int):
    chip = ns.load_chip("npu-2pf")
    suite = Suite(format="npusim-suite/1", name="s", models=("llama-3.1-8b",), precisions=("fp8",),
                  lengths=((999, outputs),), concurrency=(16,))  # fmt: skip
    row = ns.kperf(chip, suite=suite).rows[0]
    found = judge(f"llama-3.1-8b fp8 999/{outputs} concurrency>=16", power="tdp").judge(chip).metrics
    for name in ("ttft_s", "tpot_s", "tpot_loaded_s", "tokens_per_s", "tokens_per_j", "avg_power_w"):
        assert found.get(name) == (None if row[name] is None else pytest.approx(row[name], rel=1e-12)), name


def test_the_cap_holds_in_both_phases():
    hot = ns.load_chip("npu-2pf").replace({"power.tdp": 330.0})
    verdict = judge(power="capped").judge(hot)
    free = judge(power="bottom-up").judge(hot)
    assert verdict.metrics["power_w"] <= 330.0 * (1 + 1e-9) < free.metrics["power_w"]
    assert verdict.metrics["ttft_s"] >= free.metrics["ttft_s"]
    step = ns.prefill("llama-3.1-8b", batch=1, prompt=1000, weights="fp8", activations="fp8", kv="fp8")
    assert verdict.metrics["ttft_s"] == pytest.approx(at_power_limit(ns.estimate(step, hot)).time_s, rel=1e-12)


def test_a_grid_is_every_design_and_the_best_is_the_cheapest_that_holds():
    found = size("npu-2pf", TEXT, vary=VARY, objectives=["cost", "tpot"], **QUIET)
    assert found.method == "grid" and len(found.candidates) == 6
    feasible = [c for c in found.candidates if c.verdict.feasible]
    assert 0 < len(feasible) < 6
    cheapest = min(feasible, key=lambda c: c.verdict.metrics["cost_usd"])
    assert found.candidates[found.best].verdict.metrics["cost_usd"] == cheapest.verdict.metrics["cost_usd"]
    assert set(found.front) <= {i for i, c in enumerate(found.candidates) if c.verdict.feasible}
    assert found.best in found.front and found.knee in found.front
    direct = judge(power="capped").judge(found.design(found.best))
    assert direct.metrics == found.candidates[found.best].verdict.metrics
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["best"] == found.best


def test_nothing_that_fits_is_said_with_the_reason():
    found = size("npu-2pf", TEXT, vary=VARY, limits=[limit("area", "10 mm2")], **QUIET)
    assert found.best is None and not found.front and found.knee is None
    with pytest.raises(DoesNotFit, match=r"area <= 10 mm2 \(fails in 6\)"):
        found.require_any()


@pytest.mark.parametrize(("objectives", "method"), [(["cost"], "tpe"), (["cost", "tpot"], "nsga2")])
def test_a_search_comes_close_to_the_grid_and_repeats_itself(monkeypatch, objectives: list[str], method: str):
    pytest.importorskip("optuna")
    vary = {"memory.stacks": [2, 4, 6, 8], "core.vector.lanes": [256, 512, 1024],
            "clock": {"from": 0.5e9, "to": 1.2e9, "count": 8}}  # fmt: skip
    best = size("npu-2pf", TEXT, vary=vary, objectives=objectives, **QUIET)
    monkeypatch.setattr(sizes, "GRID", 10)
    runs = [size("npu-2pf", TEXT, vary=vary, objectives=objectives, trials=40, **QUIET) for _ in range(2)]
    assert runs[0].method == method and runs[0].to_dict() == runs[1].to_dict()
    assert len(runs[0].candidates) <= 40
    cost = [run.candidates[run.best].verdict.metrics["cost_usd"] for run in (best, runs[0])]
    assert cost[0] <= cost[1] <= 1.05 * cost[0]


@pytest.mark.parametrize("fidelity", ["roofline"] + ["tile"] * SOAK)
def test_inverse_answers_fail_below_and_hold_above(fidelity: str):
    asked = Judge((parse_target("llama-3.3-70b fp8 2048/256 tpot<=14ms ttft<=180ms concurrency>=32 tp=2"),),
                  fidelity=fidelity)  # fmt: skip
    chip = ns.load_chip("npu-2pf")
    states = {}
    for knob in answers.knobs(chip):
        found = answers.least(asked, knob)
        states[knob.name] = found.state
        if found.state == "found":
            assert found.below < found.above <= found.below * (1 + answers.TOLERANCE)
            below, above = (asked.judge(knob.chip(value)) for value in (found.below, found.above))
            assert above.feasible and not below.feasible
            assert below.violated == found.binding and found.binding
    assert states["bandwidth"] == states["peak"] == "found"


def test_an_inverse_question_without_an_answer():
    impossible = judge("llama-3.1-8b fp8 1000/200 tpot<=1us")
    chip = ns.load_chip("npu-2pf")
    found = answers.least(impossible, answers.knobs(chip)[0])
    assert found.state == "never" and found.binding == ("tpot<=1us",)
    easy = judge("llama-3.1-8b fp8 1000/200 tpot<=100s")
    assert answers.least(easy, answers.knobs(chip)[0]).state == "always"


def test_elasticities_of_a_memory_bound_step():
    chip = ns.load_chip("npu-2pf")
    found = {s.path: s for s in answers.sensitivities(judge(power="tdp"), chip)}
    pins = found["memory.pin_rate"]
    assert pins.elasticity["tpot_s"] == pytest.approx(-1, abs=0.02)
    ends = [judge(power="tdp").judge(chip.replace({"memory.pin_rate": end})).metrics for end in (pins.low, pins.high)]
    slope = math.log(ends[1]["tpot_s"] / ends[0]["tpot_s"]) / math.log(pins.high / pins.low)
    assert pins.elasticity["tpot_s"] == pytest.approx(slope, rel=1e-12)
    assert pins.at_low["tpot_s"] == ends[0]["tpot_s"]
    assert found["cores"].low == 61 and found["cores"].high == 67
    assert found["power.tdp"].elasticity["tdp_w"] == pytest.approx(1)


def test_existing_chips_are_judged_like_designs():
    found = size("npu-2pf", TEXT, neighbours=True, inverse=False, sensitivity=False, fidelity="roofline")
    names = [near.name for near in found.neighbours]
    assert names[0] == "npu-2pf" and len(names) == sizes.NEIGHBOURS
    near = found.neighbours[1]
    assert near.verdict.metrics == judge(power="capped").judge(ns.load_chip(near.name)).metrics


@pytest.mark.parametrize(
    ("text", "values"),
    [("memory.stacks=4,6", (4, 6)), ("chip.clock=1GHz..2GHz:3", (1e9, 1.5e9, 2e9)), ("cores=8..32:3:log", (8, 16, 32))],
)
def test_vary(text: str, values: tuple[float, ...]):
    assert parse_vary(text, ns.load_chip("npu-2pf"))[1] == pytest.approx(values)


@pytest.mark.parametrize("text", ["memory.stacks", "memory.stack=4", "clock=2GHz..1GHz", "clock=1 GB..2 GB"])
def test_bad_vary(text: str):
    with pytest.raises(InputError):
        parse_vary(text, ns.load_chip("npu-2pf"))


def test_the_worst_of_several_targets_counts():
    both = Judge((parse_target(TEXT), parse_target("llama-3.1-8b bf16 1000/200 tpot<=50ms")), fidelity="roofline")
    chip = ns.load_chip("npu-2pf")
    verdict = both.judge(chip)
    assert verdict.metrics["ttft_s"] == max(one["ttft_s"] for one in verdict.by_target)
    assert verdict.metrics["tokens_per_s"] == min(one["tokens_per_s"] for one in verdict.by_target)
    assert np.isfinite(verdict.metrics["usd_per_mtoken"])
