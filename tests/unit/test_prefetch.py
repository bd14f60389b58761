"""Weights fetched ahead, paged caches, unbalanced experts: what changes, and what must not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npusim as ns
from npusim.chip import Chip, find_chip
from npusim.cost import estimate, prefetch, roofline
from npusim.cost.roofline import Priced
from npusim.workload import Workload


def test_what_fits_the_idle_time_is_fetched_ahead(toy: Chip):
    """100 GB/s at the toy's efficiency, 10 µs of which memory idles 6: 6 µs of weights, if shared memory has room."""
    before, op = ns.gemm(m=64, n=64, k=64, name="one"), ns.gemm(m=64, n=1000, k=1000, name="two")
    chip = toy.replace({"memory.kind": "fixed rate"})
    priced = Priced(10e-6, {"dram": 4e-6}, 0.0)
    # No memory that cores share: nothing can be kept.
    assert prefetch.ahead(op, before, priced, chip)[1] == 0
    shared = find_chip("npu-2pf")
    ready, fetched = prefetch.ahead(op, before, priced, shared)
    assert fetched == 2_000_000  # all of the weights: 6 µs are worth 39 MB
    assert ready.prefetched == 1
    weights = next(operand for operand in ready.operands if operand.role == "weight")
    assert roofline.passing_bytes(ready, weights, 0) == 0
    _, part = prefetch.ahead(op, before, Priced(4.1e-6, {"dram": 4e-6}, 0.0), shared)
    assert 0 < part < 2_000_000
    assert part == pytest.approx(0.1e-6 * 7.0656e12, rel=0.2)  # 0.1 µs at most of the pin rate


@settings(max_examples=25)
@given(st.integers(1, 64), st.integers(1, 2048), st.sampled_from(["fp8", "bf16"]))
def test_prefetch_moves_the_same_bytes_and_obeys_the_bound(batch: int, context: int, fmt: str):
    chip = find_chip("npu-2pf")
    step = ns.decode("llama-3.1-8b", batch=batch, context=context, weights=fmt)
    plain = estimate(step, chip, "tile")
    ahead = estimate(step, chip.replace({"dma.prefetch": True}), "tile")
    assert ahead.time_s >= ahead.lower_bound_s
    assert ahead.dram_bytes == pytest.approx(plain.dram_bytes, rel=0.05)
    assert ahead.dram_bytes >= plain.workload.bytes("weight") * (1 - 1e-12)


def test_an_operator_after_another_of_a_different_count_gets_nothing():
    chip = find_chip("npu-2pf")
    first, second = ns.gemm(m=512, n=512, k=512, name="a"), replace(ns.gemm(m=1, n=4096, k=4096, name="b"), count=3)
    _, fetched = prefetch.ahead(second, first, Priced(1.0, {"dram": 0.0}, 0.0), chip)
    assert fetched == 0


def test_smaller_pages_never_read_faster():
    chip = find_chip("npu-2pf")
    # One KV head: a page of 1 token is 512 bytes.
    pages = [1, 4, 16, 64, 256, None]
    times = [float(estimate(ns.attention(64, 8, 1, 128, 1, 8192, page=page), chip, "tile").time_s) for page in pages]
    assert all(a >= b * (1 - 1e-9) for a, b in itertools.pairwise(times))
    assert times[0] > 1.2 * times[-1]


def test_pages_reach_the_step():
    step = ns.decode("llama-3.1-8b", batch=4, context=1000, page=16)
    assert {op.dims["page"] for op in step.ops if op.kind == "attention"} == {16}
    assert {op.dims["page"] for op in step.recipe(2).ops if op.kind == "attention"} == {16}


def test_the_busiest_expert_sets_the_pace():
    chip = find_chip("npu-2pf")

    def time_s(pct: int) -> float:
        return float(estimate(ns.experts(4096, 8, 64, 2048, 2048, imbalance_pct=pct), chip, "tile").time_s)

    assert time_s(100) < time_s(150) < time_s(300)
    with pytest.raises(ns.InputError, match="imbalance"):
        ns.experts(4096, 8, 64, 2048, 2048, imbalance_pct=50)


def test_roofline_knows_nothing_of_either():
    chip = find_chip("npu-2pf")
    even, skewed = (ns.experts(64, 2, 8, 256, 256, imbalance_pct=p) for p in (100, 400))
    assert estimate(even, chip).time_s == estimate(skewed, chip).time_s
    step = Workload("x", (ns.gemm(m=8, n=8, k=8), ns.gemm(m=8, n=8, k=8)))
    assert estimate(step, chip).time_s == estimate(step, chip.replace({"dma.prefetch": True})).time_s


def test_arrays_and_scalars_agree():
    chip = find_chip("npu-2pf").replace({"dma.prefetch": True})
    batch = np.array([1, 16])
    together = estimate(ns.decode("llama-3.1-8b", batch=batch, context=512, weights="fp8"), chip, "tile").time_s
    alone = [
        estimate(ns.decode("llama-3.1-8b", batch=b, context=512, weights="fp8"), chip, "tile").time_s for b in (1, 16)
    ]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)
