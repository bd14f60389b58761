"""Laws of a replay, over random nests: bytes are never lost, and a better chip is never slower."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

import npusim as ns
from npusim.cost.replay import replay

CHIP = ns.load_chip("gemmini")
INT8 = {"a": "int8", "b": "int8", "out": "int8"}
SMALL = st.integers(1, 6)


@st.composite
def cases(draw) -> tuple[ns.Op, str]:
    """A convolution or GEMM with a nest that covers it: tile and outer count of each dimension, any order outside."""
    gemm = draw(st.booleans())
    dims = "PCK" if gemm else "RSPQCK"
    outer = {d: draw(SMALL) for d in dims}
    tile = {d: draw(st.integers(1, 3) if d in "RS" else st.integers(1, 20)) for d in dims}
    size = {d: outer[d] * tile[d] * (16 if d in "CK" else 1) for d in dims}
    order = draw(st.permutations(dims))
    inner = " ".join(f"{d}{tile[d]}" for d in dims)
    nest = f"L3[WIO] {' '.join(f'{d}{outer[d]}' for d in order)} - L2[WI] K16X - L1[O] {inner} C16X - L0[W] N1"
    if gemm:
        return ns.gemm(size["P"], size["K"], size["C"], **INT8), nest
    s = draw(st.integers(1, 2))
    high, wide = (size["Q"] - 1) * s + size["S"], (size["P"] - 1) * s + size["R"]
    return ns.conv2d(1, high, wide, size["C"], size["K"], size["S"], size["R"], stride=s, **INT8), nest


@given(cases())
def test_time_covers_every_queue_and_bytes_every_operand(case):
    op, nest = case
    run = replay(op, nest, CHIP)
    assert all(run.cycles >= busy * (1 - 1e-12) for busy in run.busy_cycles.values())
    assert run.cycles <= sum(run.busy_cycles.values()) * (1 + 1e-12)
    loaded = sum(operand.bytes for operand in op.operands if not operand.write)
    assert run.bytes["loaded"] >= loaded
    assert run.bytes["stored"] >= next(o.bytes for o in op.operands if o.write)
    assert 0 <= run.bytes["dram"] <= run.bytes["llc"] * (1 + 1e-12)
    assert run.busy_cycles["execute"] >= op.flops / 512 * (1 - 1e-12)
    assert all(
        1 <= changes <= math.prod(loop.count for loop in run.nest.outer) for changes in run.tile_changes.values()
    )


@given(cases(), st.sampled_from(["dma.bytes_per_cycle", "levels.l2.capacity"]), st.integers(1, 4))
def test_a_better_chip_is_never_slower(case, path, doublings):
    op, nest = case
    before = 16.0 if path.startswith("dma") else 524288.0
    better = CHIP.replace({path: before * 2**doublings})
    assert replay(op, nest, better).cycles <= replay(op, nest, CHIP).cycles * (1 + 1e-9)
