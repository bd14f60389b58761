"""The power limit against a plain re-derivation: one operator at a time, scanning clocks, no shared code.

It takes only times, bytes and the joules per event from the package; voltage, stretching, standing power and the search
for the clock are written here again.
"""

from __future__ import annotations

import numpy as np
import pytest

import npusim as ns
from npusim.chip import find_chip
from npusim.cost.joules import Joules, joules
from npusim.cost.power import capped

CASES = [
    ("npu-2pf", ns.gemm(8192, 8192, 8192, a="fp8", b="fp8"), 400.0),
    ("npu-2pf", ns.gemm(16, 8192, 8192, a="fp8", b="fp8"), 300.0),
    ("npu-2pf", ns.attention(batch=8, heads=64, kv_heads=8, head_dim=128, seq_q=1, seq_kv=8192), 320.0),
    ("rngd", ns.gemm(2048, 4096, 4096), 120.0),
    ("a100", ns.gemm(4096, 4096, 4096), 300.0),
    ("h100", ns.norm(rows=8192, cols=8192), 300.0),
]


def seconds(op, share: float) -> float:
    """The slowest resource, the core's own stretched, plus what no resource explains."""
    before = max((s for name, s in op.seconds.items() if name != "overhead"), default=0.0)
    after = max(
        (s if name in ("dram", "link") else s / share for name, s in op.seconds.items() if name != "overhead"),
        default=0.0,
    )
    return float(op.time_s - before + after)


def watts(cost: ns.Cost, found: Joules, share: float) -> tuple[float, float]:
    """Average power of one chip, and the time of the step."""
    squared = max(0.65, 1 - 0.5 * (1 - share)) ** 2
    core = other = time_s = 0.0
    for op in cost.ops:
        time_s += seconds(op, share)
        core += float(op.flops) * (found.flop_j.get(op.rate, 0) + found.operand_flop_j.get(op.rate, 0))
        core += op.count * float(sum(op.op.vector_ops.values())) * found.vector_op_j
        for name, level in cost.chip.levels.items():
            rate = cost.chip.level_bandwidth_bytes_per_s(level)
            passed = op.seconds[name] * rate if rate and name in op.seconds else op.count * op.op.bytes()
            core += float(passed) * found.level_byte_j[name]
        core += float(op.dram_bytes) * found.fabric_byte_j
        other += float(op.dram_bytes) * found.dram_byte_j + float(op.link_bytes) * found.link_byte_j
    standing = squared * (found.leakage_w + share * found.clock_w) + found.interfaces_w
    return (core * squared + other) / time_s + standing, time_s


@pytest.mark.parametrize(("name", "op", "limit"), CASES, ids=[f"{name}-{op.kind}-{w:g}" for name, op, w in CASES])
@pytest.mark.parametrize("fidelity", ["roofline", "tile"])
def test_scanning_the_clock_finds_the_same(name: str, op: ns.Op, limit: float, fidelity: str):
    cost = ns.estimate(op, find_chip(name), fidelity)
    found, constants = capped(cost, limit), joules(cost.chip)
    scan = np.linspace(0.1, 1.0, 901)
    allowed = [share for share in scan if watts(cost, constants, share)[0] <= limit]
    assert allowed, "the case must be settled by the clock alone"
    best = max(allowed)
    assert found.clock_share == pytest.approx(best, abs=1.1e-3)
    power_w, time_s = watts(cost, constants, float(found.clock_share))
    assert found.power_w == pytest.approx(power_w, rel=1e-9)
    assert found.time_s == pytest.approx(time_s, rel=1e-12)
