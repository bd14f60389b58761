"""What a chip takes besides time: silicon, money and power. The one place of this package that asks their models."""

from __future__ import annotations

from typing import Any

import numpy as np

from npusim.chip import Chip
from npusim.cost import Cost
from npusim.cost.area import area_mm2
from npusim.cost.money import chip_cost_usd
from npusim.cost.money import usd_per_mtoken as token_cost
from npusim.cost.power import at_power_limit, energy_parts
from npusim.cost.technology import Technology
from npusim.errors import InputError

# How power and energy are modelled: as the TDP says (the figure of every table), by events and leakage, or by events
# and leakage with the clock lowered until the TDP is kept.
POWER = ("tdp", "bottom-up", "capped")


def bill(chip: Chip, technology: Technology | None = None) -> dict[str, float | None]:
    """``area_mm2``, ``die_mm2`` and ``cost_usd`` of one chip; None where its description does not allow them."""
    try:
        area = area_mm2(chip, technology)
        return {
            "area_mm2": area.total_mm2,
            "die_mm2": area.die_mm2,
            "cost_usd": chip_cost_usd(chip, technology, area).total_usd,
        }
    except InputError:
        return {"area_mm2": None, "die_mm2": None, "cost_usd": None}


def settled(cost: Cost, power: str, technology: Technology | None = None) -> Cost:
    """The cost at the clock its power allows (``capped``), else as it is. Raises Unavailable without the figures."""
    return at_power_limit(cost, technology=technology) if power == "capped" else cost


def energy_j(cost: Cost, power: str, technology: Technology | None = None) -> Any:
    """Joules of the step on all chips; None when nothing is known of them."""
    if power != "bottom-up":
        return cost.energy_j
    return sum(energy_parts(cost, technology=technology).values()) * cost.chips


def usd_per_mtoken(
    tokens_per_s: Any, cost_usd: float | None, avg_power_w: Any, chips: Any, technology: Technology | None = None
) -> Any:
    """USD per million output tokens, elementwise; None without a price or a power."""
    if tokens_per_s is None or cost_usd is None or avg_power_w is None:
        return None
    own = None if technology is None else technology.ownership
    rate = np.asarray(tokens_per_s, float)
    working = np.isfinite(rate) & (rate > 0)
    usd = token_cost(np.where(working, rate, 1.0), cost_usd, np.asarray(avg_power_w, float), chips, own).usd
    return np.where(working, usd, np.nan)
