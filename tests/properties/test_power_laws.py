"""Laws of energy and of the power limit, over chips, operators and limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npusim as ns
from npusim.chip import Chip, find_chip
from npusim.cost.joules import joules
from npusim.cost.power import capped, energy_parts
from npusim.cost.technology import load_technology

CHIPS = {name: find_chip(name) for name in ("npu-2pf", "rngd", "rebel-quad", "a100", "h100", "tpu-v4")}
LAW = load_technology().clocking
sizes = st.integers(1, 3).flatmap(lambda digits: st.integers(1, 10 ** (digits + 1)))
chips = st.sampled_from(sorted(CHIPS))
shares = st.floats(0.0, 1.0)


def limit_between(chip: Chip, part: float) -> float:
    """A limit from just above what the chip draws without work to 1.5 times its TDP."""
    found = joules(chip)
    least = found.leakage_w * LAW.voltage_floor**2 + found.interfaces_w
    return least * 1.01 + part * (1.5 * chip.power.tdp_w - least)


@given(chips, sizes, sizes, sizes, shares, st.sampled_from(["roofline", "tile"]))
@settings(max_examples=60)
def test_power_fits_and_capping_only_slows(name: str, m: int, n: int, k: int, part: float, fidelity: str):
    cost = ns.estimate(ns.gemm(m, n, k), CHIPS[name], fidelity)
    limit = limit_between(CHIPS[name], part)
    found = capped(cost, limit)
    assert found.power_w <= limit * (1 + 1e-9)
    assert found.time_s >= cost.time_s
    assert sum(found.parts.values()) == pytest.approx(found.power_w * found.time_s, rel=1e-9)
    if not found.binds:
        assert found.time_s == cost.time_s
    if found.time_s > cost.time_s and found.clock_share > LAW.lowest_clock:
        assert found.power_w == pytest.approx(limit, rel=1e-6)  # no slower than it must be


@given(chips, sizes, sizes, sizes, shares, shares)
@settings(max_examples=60)
def test_a_higher_limit_is_never_slower(name: str, m: int, n: int, k: int, one: float, other: float):
    cost = ns.estimate(ns.gemm(m, n, k), CHIPS[name])
    low, high = (capped(cost, limit_between(CHIPS[name], part)).time_s for part in sorted((one, other)))
    assert high <= low * (1 + 1e-9)


@given(chips, sizes, sizes, sizes)
@settings(max_examples=60)
def test_energy_sums_to_its_parts_over_operators(name: str, m: int, n: int, k: int):
    cost = ns.estimate(ns.gemm(m, n, k), CHIPS[name])
    constants = joules(CHIPS[name])
    events = sum(sum(constants.parts(op, cost.chip).values()) for op in cost.ops)
    assert sum(energy_parts(cost).values()) == pytest.approx(events + constants.standing_w * cost.time_s, rel=1e-12)


def test_half_the_clock_doubles_a_compute_bound_time_without_overheads():
    """The law of the chip file's clock and that of the regulator agree."""
    chip, op = find_chip("npu-2pf"), ns.gemm(8192, 8192, 8192)
    slow = chip.replace({"clock": chip.clock_hz / 2})
    cost = ns.estimate(op, chip)
    assert ns.estimate(op, slow).time_s == pytest.approx(2 * cost.time_s)
    found = capped(cost, 0.5 * capped(cost, 1e4).power_w)
    assert found.clock_share < 1
    assert found.time_s * found.clock_share == pytest.approx(cost.time_s)


def test_arrays_are_settled_one_by_one():
    chip, model = CHIPS["npu-2pf"], ns.load_model("llama-3.1-8b")
    batches, contexts = np.array([1, 16, 256])[:, None], np.array([128, 8192])[None, :]
    whole = capped(ns.estimate(ns.decode(model, batch=batches, context=contexts, weights="fp8"), chip))
    assert whole.time_s.shape == (3, 2)
    for i, batch in enumerate(batches[:, 0]):
        for j, context in enumerate(contexts[0]):
            one = capped(ns.estimate(ns.decode(model, batch=int(batch), context=int(context), weights="fp8"), chip))
            assert whole.time_s[i, j] == pytest.approx(one.time_s, rel=1e-12)
            assert whole.clock_share[i, j] == pytest.approx(one.clock_share, rel=1e-9)
            assert whole.power_w[i, j] == pytest.approx(one.power_w, rel=1e-9)
