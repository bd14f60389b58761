"""What a chip costs to make, and what its tokens cost.

Every price is an assumption of ``catalog/technology/public.yaml``, stated there with its source and status; the
structure of the sums is what this module claims. Wafers, packages, memory and test make the cost of one packaged chip;
its price, its share of a system, electricity and utilisation make the cost of a million tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from npusim.chip import Chip
from npusim.cost.area import Area, area_mm2, hbm_stacks
from npusim.cost.technology import Ownership, PriceTable, Technology, load_technology, node_nm
from npusim.errors import InputError, Problem
from npusim.ops import Dim

_SECONDS_PER_YEAR = 365.25 * 86400.0
_J_PER_KWH = 3.6e6
_MM2_PER_CM2 = 100.0


@dataclass(frozen=True)
class Price:
    """What one packaged chip costs to make.

    Args:
        parts: USD by part: dies, memory, package, test, assembly (what fails while it is put together).
        total_usd: their sum.
        die_mm2: area of one compute die that was priced.
        stated_area: whether that is the area the chip file states instead of the modelled one.
        dies_per_wafer: whole dies on a wafer.
        die_yield: share of them that work.
    """

    parts: dict[str, float]
    total_usd: float
    die_mm2: float
    stated_area: bool
    dies_per_wafer: float
    die_yield: float


@dataclass(frozen=True)
class TokenCost:
    """Cost of a million tokens in USD and the energy of one token, elementwise over array arguments."""

    usd: Dim
    capex_usd: Dim
    electricity_usd: Dim
    j_per_token: Dim


def dies_per_wafer(die_mm2: float, prices: PriceTable) -> float:
    """Whole dies on a wafer: pi r² / A - 2 pi r / sqrt(2 A), r without the edge, A with the scribe line.

    The second term counts dies cut by the edge (de Vries, "Investigation of gross die per wafer formulas", IEEE TSM
    2005, equation 6). At least 0; a fraction, not an integer, so that a sweep sees a smooth figure.
    """
    radius = prices.wafer_mm / 2 - prices.edge_mm
    area = (math.sqrt(die_mm2) + prices.scribe_mm) ** 2
    return max(math.pi * radius**2 / area - 2 * math.pi * radius / math.sqrt(2 * area), 0.0)


def die_yield(die_mm2: float, defects_per_cm2: float, prices: PriceTable) -> float:
    """Share of good dies, negative binomial: (1 + A D (1 - repairable) / a) ^ -a (Cunningham 1990, equation 12).

    With the clustering parameter a → infinity this is Poisson's exp(-A D).
    """
    faults = die_mm2 / _MM2_PER_CM2 * defects_per_cm2 * (1 - prices.repairable)
    return float((1 + faults / prices.cluster) ** -prices.cluster)


def chip_cost_usd(chip: Chip, technology: Technology | None = None, area: Area | None = None) -> Price:
    """Cost of one packaged chip with its memory.

    A product as its file describes it is priced at the stated die area; a design and any variant at the modelled one,
    which follows what was changed.

    Args:
        chip: the chip.
        technology: constants; default: ``catalog/technology/public.yaml``.
        area: its area, where it is already known.

    Raises:
        Unavailable: no process node is known.
        InputError: not one die of that size fits a wafer.
    """
    constants = technology or load_technology()
    prices, found = constants.price, area or area_mm2(chip, constants)
    trust = found.stated_mm2 is not None and chip.category != "design" and not chip.overrides
    die = found.stated_mm2 / found.dies if trust and found.stated_mm2 is not None else found.die_mm2
    node = constants.node(node_nm(chip))
    whole, good = dies_per_wafer(die, prices), die_yield(die, node.defects_per_cm2, prices)
    if whole <= 0:
        raise InputError(Problem(f"a die of {die:.0f} mm2 does not fit a wafer", "area.die"))
    stacks = hbm_stacks(chip, constants.area)
    parts = {
        "dies": found.dies * node.wafer_usd / (whole * good),
        "memory": _memory_usd(chip, prices),
        "package": prices.substrate_usd,
        "test": prices.test_usd,
    }
    placed = 0.0
    if stacks or found.dies > 1:
        parts["package"] += prices.interposer_usd_per_mm2 * (found.dies * die + stacks * prices.hbm_stack_mm2)
        placed = found.dies + stacks
    parts["assembly"] = sum(parts.values()) * (prices.assembly_yield**-placed - 1)
    return Price(parts, sum(parts.values()), die, trust, whole, good)


def _memory_usd(chip: Chip, prices: PriceTable) -> float:
    if chip.memory is None or chip.memory.kind.lower() == "sram":
        return 0.0
    kind = chip.memory.kind.lower()
    table = prices.memory_usd_per_gb
    per_gb = next((usd for name, usd in table.items() if kind.startswith(name)), table.get("other", 0.0))
    return chip.memory.capacity_bytes / 1e9 * per_gb


def usd_per_mtoken(
    tokens_per_s: Dim,
    chip_usd: Dim,
    power_w: Dim,
    chips: Dim = 1,
    ownership: Ownership | None = None,
) -> TokenCost:
    """Cost of a million output tokens. All arguments broadcast.

    capex = chips (chip_usd price_over_cost + system_usd_per_chip), spent over the tokens of the lifetime at the
    utilisation; electricity = (power of chips and their share of the system) x PUE x tariff, a share of it also while
    the system waits.

    Args:
        tokens_per_s: output tokens per second of the system, while it works.
        chip_usd: cost of one packaged chip (``chip_cost_usd(chip).total_usd``).
        power_w: power of all its chips while it works.
        chips: how many it has.
        ownership: assumptions; default: those of ``catalog/technology/public.yaml``.

    Raises:
        InputError: a throughput that is not positive.
    """
    if not np.all(np.asarray(tokens_per_s) > 0):
        raise InputError(Problem("a throughput must be positive", "tokens_per_s"))
    own = ownership or load_technology().ownership
    working_s = own.lifetime_years * _SECONDS_PER_YEAR * own.utilisation
    mtokens = tokens_per_s * working_s / 1e6
    capex = chips * (chip_usd * own.price_over_cost + own.system_usd_per_chip) / mtokens
    waiting = own.idle_power_share * (1 - own.utilisation) / own.utilisation
    facility_w = (power_w + chips * own.system_w_per_chip) * (1 + waiting) * own.pue
    j_per_token = facility_w / tokens_per_s
    electricity = 1e6 * j_per_token / _J_PER_KWH * own.usd_per_kwh
    return TokenCost(capex + electricity, capex, electricity, j_per_token)
