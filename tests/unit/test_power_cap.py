"""Bottom-up energy and the clock under a power limit: by hand on a chip with round figures, and what fails."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import npusim as ns
from npusim.chip import Chip, chip_names, find_chip
from npusim.cli import cli
from npusim.cost.area import area_mm2
from npusim.cost.joules import joules
from npusim.cost.money import chip_cost_usd, usd_per_mtoken
from npusim.cost.power import at_power_limit, capped, energy_parts, voltage
from npusim.cost.technology import load_technology
from npusim.errors import InputError, NpuError, Unavailable
from npusim.report import silicon

LAW = load_technology().clocking


@pytest.fixture
def seven(toy: Chip) -> Chip:
    """The toy chip at 7 nm, where energies scale by 1."""
    return toy.replace({"process.node": "N7"})


def test_voltage_by_hand():
    """Half the clock needs 1 - 0.5 / 2 of the voltage; below 0.3 of the clock the floor of 0.65 holds."""
    assert voltage(1.0, LAW) == 1.0
    assert voltage(0.5, LAW) == 0.75
    assert voltage(0.1, LAW) == 0.65
    assert list(voltage(np.array([1.0, 0.3, 0.0]), LAW)) == pytest.approx([1.0, 0.65, 0.65])


def test_constants_of_the_toy_by_hand(seven: Chip):
    """bf16: 0.59 pJ a MAC x 1.5. Its 20 x 25 arrays read an activation (2 B) per 25 MACs and move 8 B of sums per 20;
    the nearest memory is 1 MiB, 14 pJ per 8 bytes."""
    found = joules(seven)
    assert found.flop_j["bf16"] == pytest.approx(0.59e-12 / 2 * 1.5)
    assert found.operand_flop_j["bf16"] == pytest.approx((2 / 25 + 8 / 20) * 14e-12 / 8 / 2 * 1.5)
    assert found.operand_flop_j["fp8"] == pytest.approx((1 / 25 + 8 / 40) * 14e-12 / 8 / 2 * 1.5)
    assert found.vector_op_j == pytest.approx(3.4e-12 * 1.5)
    assert found.level_byte_j["l1"] == pytest.approx(14e-12 / 8)
    assert found.fabric_byte_j == pytest.approx(8e-12)
    assert found.dram_byte_j == pytest.approx(3.85 * 8e-12)
    assert found.leakage_w == pytest.approx(0.04 * area_mm2(seven).total_mm2 + 4 * 0.008)
    assert found.interfaces_w == pytest.approx(2 * 8e-12 * (31.5e9 * 5.5 + 10e9 * 5.0) + 3.0)
    engine_w = 8e12 * (found.flop_j["fp8"] + found.operand_flop_j["fp8"])
    assert found.clock_w == pytest.approx(
        0.20 * max(engine_w, 4e12 * (found.flop_j["bf16"] + found.operand_flop_j["bf16"]))
    )


def test_parts_of_a_gemm_by_hand(seven: Chip):
    """1000 x 1000 x 1000 in bf16: 2 GFLOP, 6 MB from DRAM and through the core memories, 0.5 ms of matrix work."""
    cost, found = ns.estimate(ns.gemm(1000, 1000, 1000), seven), joules(seven)
    parts = energy_parts(cost)
    assert parts["matrix"] == pytest.approx(2e9 * found.flop_j["bf16"])
    assert parts["operands"] == pytest.approx(2e9 * found.operand_flop_j["bf16"])
    assert parts["dram"] == pytest.approx(6e6 * found.dram_byte_j)
    assert parts["l1"] == pytest.approx(6e6 * found.level_byte_j["l1"])
    assert parts["vector"] == parts["link"] == 0
    assert parts["leakage"] == pytest.approx(found.leakage_w * 5e-4)
    assert parts["clock"] == pytest.approx(found.clock_w * 5e-4)


def test_a_gpu_pays_for_loading_bytes(seven: Chip):
    gpu = seven.model_copy(update={"category": "gpu"})
    assert joules(gpu).fabric_byte_j - joules(seven).fabric_byte_j == pytest.approx(80e-12)


def test_stated_joules_take_precedence(seven: Chip):
    stated = joules(seven.replace({"power.flop_j": {"bf16": "2 pJ"}, "power.dram_byte": "50 pJ", "power.idle": "20 W"}))
    assert stated.flop_j["bf16"] == 2e-12
    assert stated.operand_flop_j["bf16"] == 0
    assert stated.dram_byte_j == 50e-12
    assert stated.leakage_w + stated.interfaces_w == pytest.approx(20)


def test_the_tdp_family_gives_the_energy_of_the_default_model(toy: Chip):
    for op in (ns.gemm(1000, 1000, 1000), ns.gemm(1, 1000, 1000)):
        cost = ns.estimate(op, toy)
        assert sum(energy_parts(cost, "tdp").values()) == pytest.approx(cost.energy_j, rel=1e-12)


def test_below_the_limit_nothing_changes(seven: Chip):
    cost = ns.estimate(ns.gemm(1000, 1000, 1000), seven)
    found = capped(cost, 1000.0)
    assert found.clock_share == 1
    assert not found.binds
    assert found.time_s == cost.time_s
    assert found.energy_j == pytest.approx(sum(energy_parts(cost).values()))


def test_a_compute_bound_gemm_settles_where_its_power_is_the_limit(seven: Chip):
    cost = ns.estimate(ns.gemm(1000, 1000, 1000), seven)
    power_w = capped(cost, 1000.0).power_w
    found = capped(cost, 0.8 * power_w)
    assert found.power_w == pytest.approx(0.8 * power_w, rel=1e-9)
    assert found.time_s == pytest.approx(cost.time_s / found.clock_share)


def test_a_memory_bound_gemm_gives_up_clock_before_time(seven: Chip):
    cost = ns.estimate(ns.gemm(1, 4000, 4000), seven)
    free = capped(cost, 1000.0)
    found = capped(cost, 0.97 * free.power_w)
    assert found.clock_share < 1
    assert found.time_s == cost.time_s
    assert found.parts["dram"] == free.parts["dram"]


def test_memory_that_alone_draws_too_much_makes_pauses(seven: Chip):
    """A copy has next to no core work: the clock falls to its floor, then the average is kept by pausing."""
    chip = seven.replace({"power.dram_byte": "5 nJ"})
    cost = ns.estimate(ns.gemm(1, 4000, 4000), chip)
    found = capped(cost, 60.0)
    assert found.clock_share == LAW.lowest_clock
    assert found.power_w == pytest.approx(60.0)
    assert found.time_s > 1.5 * cost.time_s
    assert sum(op.time_s for op in found.ops) == pytest.approx(found.time_s)


def test_prefill_and_decode_settle_at_different_clocks():
    chip, model = ns.load_chip("npu-2pf"), ns.load_model("llama-3.3-70b")
    first = capped(ns.estimate(ns.prefill(model, batch=1, prompt=2048, weights="fp8", activations="fp8"), chip))
    step = capped(ns.estimate(ns.decode(model, batch=64, context=2048, weights="fp8", kv="fp8"), chip))
    assert first.clock_share != step.clock_share
    assert max(first.power_w, step.power_w) <= chip.power.tdp_w * (1 + 1e-9)


def test_the_capped_cost_is_a_cost(seven: Chip):
    cost = ns.estimate(ns.gemm(1000, 1000, 1000), seven)
    slow = at_power_limit(cost, 0.8 * capped(cost, 1e3).power_w)
    assert slow.time_s == slow.power.time_s > cost.time_s
    assert slow.energy_j == slow.power.energy_j
    assert slow.mfu == pytest.approx(cost.mfu * cost.time_s / slow.time_s)
    assert sum(op.time_s for op in slow.ops) == pytest.approx(slow.time_s)
    assert slow.bound == "matrix"


@pytest.mark.parametrize("limit", [0.0, -5.0, 1.0])
def test_limits_that_cannot_be_met_say_why(seven: Chip, limit: float):
    with pytest.raises(Unavailable, match=r"power limit|without any work"):
        capped(ns.estimate(ns.gemm(10, 10, 10), seven), limit)


def test_unknown_families_and_missing_figures_are_named(toy: Chip):
    cost = ns.estimate(ns.gemm(10, 10, 10), toy)
    with pytest.raises(InputError, match="energy family"):
        energy_parts(cost, "top-down")
    with pytest.raises(Unavailable, match="process node"):
        capped(cost)


def test_every_chip_has_positive_constants_or_says_why_not():
    priced = 0
    for name in chip_names():
        try:
            found = joules(find_chip(name))
        except NpuError as error:
            assert "process" in str(error)
            continue
        priced += 1
        assert min(found.flop_j.values(), default=1) > 0
        assert found.leakage_w > 0
        assert found.interfaces_w > 0
    assert priced >= 60


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_estimate_says_the_clock_and_where_the_joules_go():
    shown = run("estimate", "npu-2pf", "gemm:m=8192,n=8192,k=8192,a=fp8,b=fp8", "--power-cap")
    assert "clock lowered to" in shown
    assert "bottom-up energy: matrix" in shown


def test_json_of_estimate_carries_the_power_object_only_when_asked():
    arguments = ("estimate", "npu-2pf", "gemm:m=8192,n=8192,k=8192,a=fp8,b=fp8", "--json")
    plain, limited = json.loads(run(*arguments)), json.loads(run(*arguments, "--power-cap"))
    assert "power" not in plain
    power = limited["power"]
    assert set(power) == {"family", "limit_w", "clock_share", "power_w_per_chip", "parts_j_per_chip"}
    assert sum(power["parts_j_per_chip"].values()) == pytest.approx(limited["energy_j"])
    assert limited["time_s"] > plain["time_s"]


def test_kperf_rows_carry_the_clocks_only_when_asked():
    kinds = {"models": ["llama-3.1-8b"], "precisions": ["fp8"]}
    plain, limited = (ns.kperf("npu-2pf", power_cap=cap, **kinds) for cap in (False, True))
    assert "clock_share_decode" not in plain.fitting[0]
    for before, after in zip(plain.fitting, limited.fitting, strict=True):
        assert 0 < after["clock_share_decode"] <= 1
        assert after["avg_power_w"] <= after["tp"] * 500 * (1 + 1e-9)
        assert after["ttft_s"] >= before["ttft_s"]
        assert after["tpot_s"] >= before["tpot_s"]
        cost = chip_cost_usd(find_chip("npu-2pf")).total_usd
        assert after["usd_per_mtoken"] == pytest.approx(
            usd_per_mtoken(after["tokens_per_s"], cost, after["avg_power_w"], after["tp"]).usd
        )
    assert any("bottom-up" in note for note in limited.notes)


def test_the_catalog_shows_area_cost_and_power():
    one_die = find_chip("npu-2pf").replace({"area.dies": 1})
    shown = run("catalog", "show", "npu-2pf")
    assert "Modelled area" in shown
    assert "exceeds the exposure field" not in shown
    assert "exceeds the exposure field" in silicon.render(silicon.to_dict(one_die))[0]
    data = json.loads(run("catalog", "show", "a100", "--json"))["silicon"]
    assert data["area_stated_mm2"] == 826
    assert sum(data["cost_parts_usd"].values()) == pytest.approx(data["cost_usd"])
    assert "no process node" in run("catalog", "show", "trainium2")
