"""The energy model never lets a catalog chip draw more than its TDP, and treats all chips alike."""

from __future__ import annotations

import pytest

import npusim as ns
from npusim.chip import chip_names, find_chip
from npusim.cost.energy import STATIC_SHARE, energies

READY = [name for name in chip_names() if not find_chip(name).missing() and find_chip(name).power.tdp_w]


def test_there_are_chips_with_a_tdp():
    assert len(READY) >= 40


@pytest.mark.parametrize("name", READY)
def test_power_stays_within_the_tdp(name: str):
    """Every precision the chip can run, a memory-bound and a compute-bound row of an 8B model."""
    suite = ns.load_suite().model_copy(update={"lengths": ((128, 128), (2048, 128)), "concurrency": (1, "max")})
    chip = find_chip(name)
    precisions = ["bf16", "fp8", "int8"]
    rows = ns.kperf(chip, suite=suite, models=["llama-3.1-8b"], precisions=precisions).rows
    for row in rows:
        if row["fits"]:
            assert STATIC_SHARE * chip.power.tdp_w <= row["avg_power_w"] / row["tp"]
            # Links are outside the budget that the joules per FLOP are derived from.
            assert row["avg_power_w"] / row["tp"] <= chip.power.tdp_w * (1.02 if row["tp"] > 1 else 1 + 1e-9)


def test_no_catalog_chip_brings_joules_of_its_own():
    """Chips compare like with like: one model prices them all."""
    for name in READY:
        power = find_chip(name).power
        assert not power.flop_j and power.dram_byte_j is None and power.sram_byte_j is None


def test_stated_joules_are_charged(toy):
    plain = energies(toy)
    stated = energies(toy.replace({"power.sram_byte": "10 pJ"}))
    assert plain.sram_byte_j == 0
    extra = ns.estimate(ns.gemm(100, 100, 100), toy.replace({"power.sram_byte": "10 pJ"})).energy_j
    assert extra - ns.estimate(ns.gemm(100, 100, 100), toy).energy_j == pytest.approx(60_000 * 10e-12)
    assert stated.flop_j == plain.flop_j
