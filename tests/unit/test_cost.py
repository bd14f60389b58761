"""Does a Cost say what it should about times, bounds, utilisation and energy, and refuse what it cannot price?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from npusim import llm
from npusim.chip import Chip, find_chip
from npusim.cost import energy, estimate, roofline
from npusim.errors import InputError, Unavailable
from npusim.models import Model
from npusim.workload import Workload, collective, elementwise, gemm, norm, softmax

EXACT = 1e-12


class TestEstimate:
    def test_an_operator_is_a_workload_of_one(self, toy: Chip):
        op = gemm(8, 8, 8)
        assert estimate(op, toy).time_s == estimate(Workload("one", (op,)), toy).time_s

    def test_count_multiplies(self, toy: Chip):
        one, three = gemm(8, 8, 8), replace(gemm(8, 8, 8), count=3)
        assert estimate(three, toy).time_s == pytest.approx(3 * estimate(one, toy).time_s, rel=EXACT)
        assert estimate(three, toy).energy_j == pytest.approx(3 * estimate(one, toy).energy_j, rel=EXACT)

    def test_time_is_the_sum_and_the_bound_the_largest_sum(self, toy: Chip):
        # One operator bound by the array (0.5 ms against 60 us of DRAM), one by DRAM (200 us).
        ops = (gemm(1000, 1000, 1000), elementwise(10_000_000 // 2, "relu"))
        cost = estimate(Workload("w", ops), toy)
        assert cost.time_s == pytest.approx(0.5e-3 + 20e6 / 100e9, rel=EXACT)
        # Summed per resource: the array 0.5 ms, DRAM 0.26 ms.
        assert cost.lower_bound_s == pytest.approx(0.5e-3, rel=EXACT)
        assert cost.bound == "matrix"
        assert cost.bound_seconds["dram"] == pytest.approx(200e-6, rel=EXACT)
        assert sum(cost.bound_seconds.values()) == pytest.approx(cost.time_s, rel=EXACT)

    def test_unknown_fidelity(self, toy: Chip):
        with pytest.raises(InputError, match=r"unknown fidelity 'rooflin'.*did you mean 'roofline'"):
            estimate(gemm(1, 1, 1), toy, "rooflin")

    def test_an_operator_cannot_be_split(self, toy: Chip):
        with pytest.raises(InputError, match="'gemm' cannot be split over 2 chips"):
            estimate(gemm(1, 1, 1), toy, tp=2)
        assert estimate(gemm(1, 1, 1), toy, tp=1).chips == 1

    def test_tp_rebuilds_a_step(self, toy: Chip, tiny: Model):
        step = llm.decode(tiny, batch=3, context=7)
        assert estimate(step, toy, tp=2).flops == llm.decode(tiny, batch=3, context=7, tp=2).flops

    def test_no_link(self, toy: Chip, tiny: Model):
        alone = toy.model_copy(update={"link": None})
        with pytest.raises(InputError, match="link: chip 'toy' describes no link to other chips"):
            estimate(llm.decode(tiny, tp=2), alone)
        assert estimate(llm.decode(tiny), alone).time_s > 0

    def test_no_rate(self, toy: Chip):
        with pytest.raises(Unavailable, match="has no rate for fp64"):
            estimate(gemm(1, 1, 1, "fp64", "fp64"), toy)

    @pytest.mark.parametrize("op", [norm(2, 8, "fp32", "fp32"), softmax(2, 8, "fp32"), elementwise(8, "add", "fp64"),
                                    collective(8, 2, x="fp32")])  # fmt: skip
    def test_work_without_matrix_needs_no_matrix_rate(self, toy: Chip, op):
        assert estimate(op, toy).time_s > 0

    def test_a_chip_that_lacks_figures(self):
        with pytest.raises(Unavailable, match=r"memory\.bandwidth"):
            estimate(gemm(1, 1, 1, "int8", "int8", "int8"), find_chip("sapeon-x220"))

    def test_warm_operands_are_not_read_again(self, toy: Chip):
        op = gemm(100, 100, 100)
        warm = replace(op, llc=frozenset({"a", "b"}))
        assert estimate(op, toy).dram_bytes == 60_000
        assert estimate(warm, toy).dram_bytes == 20_000

    def test_collective_buffers_stay_on_chip(self, toy: Chip):
        assert estimate(collective(1_000_000, 4), toy).dram_bytes == 0

    def test_no_work_takes_no_time_and_divides_by_nothing(self, toy: Chip):
        # One chip has nobody to send to; without a vector unit and levels nothing is left.
        bare = toy.model_copy(update={"levels": {}, "core": toy.core.model_copy(update={"vector": None})})
        cost = estimate(collective(1000, 1), bare)
        assert (cost.time_s, cost.bound, cost.mfu, cost.mbu) == (0.0, "none", 0.0, 0.0)
        assert cost.table()[0]["share"] == 0.0


class TestUtilisation:
    def test_mfu(self, toy: Chip):
        assert estimate(gemm(1000, 1000, 1000), toy).mfu == pytest.approx(1, rel=EXACT)
        # 2e6 FLOP / (20.04 us · 4 TFLOP/s).
        assert estimate(gemm(1, 1000, 1000), toy).mfu == pytest.approx(2e6 / (20.04e-6 * 4e12), rel=EXACT)
        assert estimate(norm(10, 10), toy).mfu == 0

    def test_mfu_of_mixed_formats_weighs_each_at_its_peak(self, toy: Chip):
        both = Workload("w", (gemm(1000, 1000, 1000), gemm(1000, 1000, 1000, "fp8", "fp8", "fp8")))
        assert estimate(both, toy).mfu == pytest.approx(1, rel=EXACT)

    def test_mbu_counts_weights_and_cache_only(self, toy: Chip):
        # 2 MB of weights in 20.04 us at 100 GB/s.
        assert estimate(gemm(1, 1000, 1000), toy).mbu == pytest.approx(2e6 / (20.04e-6 * 100e9), rel=EXACT)


class TestArrays:
    def test_bound_is_elementwise(self, toy: Chip):
        cost = estimate(gemm(np.array([1, 1000]), 1000, 1000), toy)
        assert cost.bound.tolist() == ["dram", "matrix"]
        assert cost.ops[0].bound.tolist() == ["dram", "matrix"]

    def test_shapes_broadcast(self, toy: Chip, tiny: Model):
        cost = estimate(llm.decode(tiny, batch=np.array([[1], [2], [3]]), context=np.array([5, 6])), toy)
        for value in (cost.time_s, cost.lower_bound_s, cost.mfu, cost.mbu, cost.energy_j, cost.flops, cost.dram_bytes):
            assert np.shape(value) == (3, 2)

    def test_a_table_needs_scalars(self, toy: Chip):
        with pytest.raises(InputError, match="a table needs scalar dimensions; price one shape at a time"):
            estimate(gemm(np.array([1, 2]), 1, 1), toy).table()


def test_table(toy: Chip, tiny: Model):
    cost = estimate(llm.decode(tiny, batch=3, context=7), toy)
    table = cost.table()
    assert [row["op"] for row in table] == [op.name for op in cost.workload.ops]
    assert sum(row["time_s"] for row in table) == pytest.approx(cost.time_s, rel=EXACT)
    assert sum(row["share"] for row in table) == pytest.approx(1, rel=EXACT)
    assert sum(row["flops"] for row in table) == cost.flops
    assert sum(row["operand_bytes"] for row in table) == cost.workload.bytes()


class TestEnergy:
    def test_none_without_a_tdp(self, toy: Chip):
        silent = toy.model_copy(update={"power": toy.power.model_copy(update={"tdp_w": None})})
        assert energy.energies(silent) is None
        assert estimate(gemm(1, 1, 1), silent).energy_j is None

    def test_stated_figures_are_used(self, toy: Chip):
        chip = toy.replace({"power.idle": "60 W", "power.dram_byte": "100 pJ", "power.link_byte": "7 pJ",
                            "power.flop_j.bf16": "2 pJ"})  # fmt: skip
        cost = estimate(gemm(1, 1000, 1000), chip)
        assert cost.energy_j == pytest.approx(2e6 * 2e-12 + 2.004e6 * 100e-12 + 20.04e-6 * 60, rel=EXACT)
        sent = estimate(collective(1_000_000, 4), chip)  # 3 MB sent in 0.3 ms
        assert sent.energy_j == pytest.approx(3e6 * 7e-12 + 0.3e-3 * 60, rel=EXACT)

    def test_dram_energy_follows_the_kind(self, toy: Chip):
        kinds = {
            kind: energy.energies(toy.replace({"memory.kind": kind})) for kind in ("hbm2", "hbm3e", "gddr6", "lpddr5")
        }
        joules = {kind: e.dram_byte_j for kind, e in kinds.items() if e is not None}
        assert joules["hbm3e"] < joules["hbm2"] < joules["gddr6"] == joules["lpddr5"]

    def test_all_chips_count(self, toy: Chip, tiny: Model):
        step = llm.decode(tiny, tp=2)
        cost = estimate(step, toy)
        one = sum(op.energy_j for op in cost.ops if op.energy_j is not None)
        constants = energy.energies(toy)
        assert constants is not None
        assert cost.energy_j == pytest.approx(2 * (one + constants.static_w * cost.time_s), rel=EXACT)


class TestDramBytes:
    # Weights 10 · 10 · 2 B; input and output 15 · 10 · 2 B each.
    @pytest.mark.parametrize(("capacity", "passing"), [(0.0, 800), (250.0, 200 + 2 * 50), (300.0, 200), (1e9, 200)])
    def test_intermediates_pass_by_what_exceeds_the_chip(self, capacity: float, passing: float):
        assert roofline.dram_bytes(gemm(15, 10, 10).inner(), capacity) == passing

    def test_arrays(self):
        op = gemm(np.array([10, 1000]), 10, 10).inner()
        assert roofline.dram_bytes(op, 1000.0).tolist() == [200, 200 + 2 * 19_000]
