"""Tile and cycle serve every operator on every chip of the catalog that is described for them."""

import pytest

import npusim as ns
from npusim.chip import Chip, chip_names, find_chip
from npusim.cost import estimate
from npusim.errors import InputError
from npusim.workload import Op

CHIPS = [name for name in chip_names() if not find_chip(name).missing("tile")]
OPS = (
    lambda fmt: ns.gemm(m=96, n=200, k=136, a=fmt, b=fmt, out=fmt, bias=True),
    lambda fmt: ns.experts(32, 2, 8, 64, 96, a=fmt, b=fmt, out=fmt),
    lambda fmt: ns.conv2d(1, 14, 14, 16, 32, 3, 3, a=fmt, b=fmt, out=fmt),
    lambda fmt: ns.attention(2, 8, 2, 64, 48, 80, q=fmt, kv=fmt, out=fmt),
    lambda fmt: ns.attention(2, 8, 2, 64, 1, 300, q=fmt, kv=fmt, out=fmt, page=16),
    lambda fmt: ns.norm(64, 512, x=fmt, out=fmt),
    lambda fmt: ns.softmax(64, 100, x=fmt, out=fmt),
)


def op_for(chip: Chip, make) -> Op:
    return make("int8" if "bf16" not in chip.peaks_flops_per_s and "int8" in chip.peaks_flops_per_s else "bf16")


@pytest.mark.parametrize("name", CHIPS)
def test_every_operator_runs(name: str):
    chip = find_chip(name)
    for make in OPS:
        op = op_for(chip, make)
        tile, cycle = (estimate(op, chip, fidelity) for fidelity in ("tile", "cycle"))
        for cost in (tile, cycle):
            assert cost.time_s >= cost.lower_bound_s * (1 - 1e-12), (op.kind, cost.fidelity)
            assert 0 <= cost.mfu <= 1
        assert cycle.dram_bytes >= estimate(op, chip).dram_bytes * (1 - 1e-12)
        # Operators of a microsecond are mostly latencies, which the closed form counts once per buffer.
        assert 0.2 * tile.time_s < cycle.time_s < 3 * tile.time_s + 5e-6, op.kind


def test_most_of_the_catalog_is_described():
    assert len(CHIPS) >= 50


def test_a_chip_without_the_figures_says_which():
    with pytest.raises(InputError, match=r"core\.vector"):
        estimate(ns.gemm(m=8, n=8, k=8), "rebel-quad", "cycle")
