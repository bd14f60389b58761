"""Why an operator takes what it takes, on chips where the answer is known."""

from __future__ import annotations

import json

import pytest

import npusim as ns
from npusim.chip import Chip, load_chip
from npusim.errors import InputError
from npusim.explanation import explain, sensitivities
from npusim.report import explained
from npusim.workload import Workload, gemm

BIG = gemm(2000, 2000, 2000)


def test_a_compute_bound_gemm_wants_clock_or_cores(toy: Chip):
    found = explain(BIG, toy)
    assert found.op.bound == "matrix"
    assert found.step_sensitivities[0].path in ("clock", "cores")
    assert found.step_sensitivities[0].speedup == pytest.approx(1.25, rel=0.05)
    memory = next(s for s in found.step_sensitivities if s.path == "memory.bandwidth")
    assert memory.speedup < 1.02


def test_a_memory_bound_gemv_wants_bandwidth(toy: Chip):
    found = explain(gemm(1, 4000, 4000), toy)
    assert found.op.bound == "dram"
    assert found.step_sensitivities[0].path == "memory.bandwidth"
    assert found.step_sensitivities[0].speedup == pytest.approx(1.25, rel=0.02)
    assert found.step_sensitivities[0].after == 1.25 * found.step_sensitivities[0].before


def test_a_tiny_operator_wants_a_shorter_launch(toy: Chip):
    slow = toy.replace({"overheads.launch": "100 us"})
    found = explain(gemm(8, 8, 8), slow)
    assert found.op.bound == "overhead"
    assert found.step_sensitivities[0].path == "overheads.launch"
    assert found.overhead_s > 99e-6


def test_utilisation_is_the_product_of_its_causes(toy: Chip):
    found = explain(BIG, toy)
    product = found.tile_utilisation * found.edge_utilisation * found.wave_utilisation
    # The product prices every step as a whole tile; the last, shorter step of a reduction makes the true figure better.
    assert product <= found.compute_utilisation * (1 + 1e-9)
    assert product == pytest.approx(found.compute_utilisation, rel=0.1)
    assert 0 < found.compute_utilisation <= 1


def test_an_array_that_is_too_large_is_seen(toy: Chip):
    """10 × 10 outputs on an array of 20 × 25: a quarter of it, at most, does useful work."""
    found = explain(gemm(10, 10, 4000), toy.replace({"cores": 1}))
    assert found.tile_utilisation < 0.5


def test_an_operator_can_be_named():
    chip, step = load_chip("npu-2pf"), ns.decode("llama-3.1-8b", batch=4, context=1000)
    found = explain(step, chip, "layers.ffn.up")
    assert found.op.op.name == "layers.ffn.up" and found.op.count == 32
    longest = explain(step, chip)
    assert float(longest.op.time_s) == max(float(item.time_s) for item in longest.cost.ops)
    with pytest.raises(InputError, match=r"did you mean 'layers\.ffn\.up'"):
        explain(step, chip, "layers.ffn.upp")
    with pytest.raises(InputError, match="scalar dimensions"):
        explain(ns.decode("llama-3.1-8b", batch=[1, 2]), chip)


def test_roofline_has_no_mapping(toy: Chip):
    found = explain(BIG, toy, fidelity="roofline")
    assert found.mapping is None and found.tile_utilisation is None
    assert found.compute_utilisation == pytest.approx(1)


def test_no_figure_made_better_makes_it_slower(toy: Chip):
    """Cores are not a law (waves); everything else is, at fixed menus."""
    for name in ("npu-2pf", "h100", "tpu-v4"):
        step = ns.decode("llama-3.1-8b", batch=16, context=2000)
        for s in sensitivities(step, load_chip(name)):
            assert s.speedup >= 0.97 if s.path == "cores" else s.speedup >= 1 - 1e-9, (name, s)


def test_text_and_json(toy: Chip):
    found = explain(Workload("w", (BIG,)), toy)
    text = explained.render(found)
    assert "bound by matrix" in text and "Mapping: output tiles of" in text and "One figure better by a quarter" in text
    data = json.loads(json.dumps(explained.to_dict(found), allow_nan=False))
    assert data["op_time_s"] >= data["op_roofline_s"] and data["mapping"]["tm"] == found.mapping.tm
