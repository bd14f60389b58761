"""What a chip costs to make and what its tokens cost: by hand, in the limits, and as laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npusim.chip import chip_names, find_chip
from npusim.cost.money import chip_cost_usd, die_yield, dies_per_wafer, usd_per_mtoken
from npusim.cost.technology import load_technology
from npusim.errors import InputError, Unavailable

PRICES = load_technology().price


def test_dies_per_wafer_by_hand():
    """10 mm x 10 mm with 0.1 mm scribe on a radius of 147 mm: 67886.7 / 102.01 - 923.6 / 14.28 = 665.5 - 64.7."""
    assert dies_per_wafer(100.0, PRICES) == pytest.approx(665.49 - 64.66, abs=0.05)


def test_a_die_as_big_as_the_wafer_leaves_none():
    assert dies_per_wafer(70_000.0, PRICES) == 0


def test_yield_by_hand():
    """A100: 8.26 cm2 x 0.09 x half unrepaired = 0.3717 faults; (1 + 0.3717 / 3) ^ -3 = 0.7044."""
    assert die_yield(826.0, 0.09, PRICES) == pytest.approx((1 + 0.3717 / 3) ** -3)


def test_without_clustering_the_yield_is_poissons():
    loose = PRICES.model_copy(update={"cluster": 1e9, "repairable": 0.0})
    assert die_yield(500.0, 0.2, loose) == pytest.approx(math.exp(-1.0), rel=1e-6)


def test_more_area_and_more_defects_yield_less():
    assert die_yield(100, 0.1, PRICES) > die_yield(200, 0.1, PRICES) > die_yield(200, 0.2, PRICES)
    assert die_yield(300, 0.0, PRICES) == 1


def test_parts_of_an_a100_by_hand():
    price = chip_cost_usd(find_chip("a100"))
    assert price.stated_area
    assert price.die_mm2 == 826
    side = math.sqrt(826) + 0.1
    whole = math.pi * 147**2 / side**2 - 2 * math.pi * 147 / math.sqrt(2 * side**2)
    assert price.dies_per_wafer == pytest.approx(whole)
    assert price.parts["dies"] == pytest.approx(9346 / (whole * (1 + 0.3717 / 3) ** -3))
    assert price.parts["memory"] == 80 * 15
    assert price.parts["package"] == pytest.approx(80 + 0.40 * (826 + 5 * 121))
    before = sum(usd for name, usd in price.parts.items() if name != "assembly")
    assert price.parts["assembly"] == pytest.approx(before * (0.98**-6 - 1))
    assert price.total_usd == pytest.approx(sum(price.parts.values()))


def test_a_variant_is_priced_at_its_modelled_area():
    chip = find_chip("a100")
    assert not chip_cost_usd(chip.replace({"cores": 54})).stated_area
    assert not chip_cost_usd(find_chip("npu-2pf")).stated_area  # a design's own figure is a claim, not a die


def test_a_cheap_package_needs_no_interposer():
    price = chip_cost_usd(find_chip("t4"))
    assert price.parts["package"] == 80
    assert price.parts["assembly"] == 0


def test_smaller_dies_cost_less_than_one_big_one():
    whole = find_chip("rebel-quad").replace({"area.dies": 1})
    split = find_chip("rebel-quad").replace({"area.dies": 4})
    assert chip_cost_usd(split).parts["dies"] < chip_cost_usd(whole).parts["dies"]


def test_a_die_no_wafer_holds_is_refused():
    huge = find_chip("npu-2pf").replace({"levels.l2.capacity": "64 GiB"})
    with pytest.raises(InputError, match="does not fit a wafer"):
        chip_cost_usd(huge)


def test_every_chip_of_the_catalog_has_a_cost_or_says_why_not():
    for name in chip_names():
        try:
            price = chip_cost_usd(find_chip(name))
        except Unavailable as error:
            assert "process" in str(error)
        else:
            assert price.total_usd == pytest.approx(sum(price.parts.values()))
            assert 0 < price.die_yield <= 1


def test_a_million_tokens_by_hand():
    """Chip 2000 USD x 2.5 + 3000 of the system = 8000 over 1000 tokens/s x 0.6 x 4 years = 75738 Mtoken;
    (500 + 100) W x 1.2 (waiting) x 1.3 = 936 W over 1000 tokens/s = 0.936 J, at 0.10 USD per 3.6 MJ."""
    found = usd_per_mtoken(1000.0, 2000.0, 500.0)
    mtokens = 1000 * 0.6 * 4 * 365.25 * 86400 / 1e6
    assert found.capex_usd == pytest.approx(8000 / mtokens)
    assert found.j_per_token == pytest.approx(0.936)
    assert found.electricity_usd == pytest.approx(1e6 * 0.936 / 3.6e6 * 0.10)
    assert found.usd == pytest.approx(found.capex_usd + found.electricity_usd)


def test_token_costs_broadcast():
    tokens, watts = np.array([[100.0], [200.0]]), np.array([300.0, 400.0, 500.0])
    found = usd_per_mtoken(tokens, 1000.0, watts, chips=2)
    assert found.usd.shape == (2, 3)
    assert found.usd[1, 2] == pytest.approx(usd_per_mtoken(200.0, 1000.0, 500.0, 2).usd)
    assert np.all(found.usd[0] == 2 * found.usd[1])  # twice the throughput, half the cost


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_throughput_must_be_positive(rate: float):
    with pytest.raises(InputError, match="must be positive"):
        usd_per_mtoken(rate, 1000.0, 500.0)
