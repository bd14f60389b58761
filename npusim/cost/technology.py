"""Constants of the energy, area and price models, read from ``catalog/technology`` with their provenance."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from npusim import dtypes, yamlio
from npusim.chip import Chip, Provenance, read_described
from npusim.chip_parts import Number, Spec
from npusim.errors import InputError, Problem, Unavailable

TECHNOLOGIES = Path(__file__).parents[1] / "catalog" / "technology"
DEFAULT = "public"

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
# Numbers that a file may state as 0 for a part that a chip does without.
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class Node(Spec):
    """A process node: gate and bit-cell area, energy against 7 nm, price and defects of a wafer."""

    gate_um2: Number
    bitcell_um2: Number
    energy: Number
    wafer_usd: Number
    defects_per_cm2: Amount


class EnergyTable(Spec):
    """Joules per event at 7 nm and standing power; see the file for what each is."""

    mac_pj: dict[str, Number]
    vector_op_pj: Amount
    sram_access_pj: dict[str, Number]
    register_pj_per_byte: Amount
    on_die_pj_per_bit: Amount
    gpu_delivery_pj_per_byte: Amount
    dram_pj_per_bit: dict[str, Number]
    serdes_pj_per_bit: Amount
    host_pj_per_bit: Amount
    die_to_die_pj_per_bit: Amount
    logic_leakage_w_per_mm2: Amount
    sram_leakage_w_per_mib: Amount
    hbm_standby_w_per_stack: Amount
    dram_standby_w_per_gb: Amount
    clock_share: Share
    overhead: Number


class Clocking(Spec):
    """How voltage follows the clock; shares of the nominal figures."""

    voltage_floor: Share
    voltage_slope: Share
    lowest_clock: Share


class AreaTable(Spec):
    """Silicon area of the blocks; logic at N7."""

    mac_um2: dict[str, Number]
    mac_overhead: Number
    vector_lane_um2: Amount
    gpu_core_mm2: Amount
    register_bytes_per_mac: Amount
    register_overhead: Number
    sram_array_efficiency: Share
    sram_overhead: Number
    hbm_phy_mm2: dict[str, Number]
    hbm_stack_bytes_per_s: Number
    gddr_mm2_per_gb_per_s: Amount
    lpddr_mm2_per_gb_per_s: Amount
    host_mm2_x16_gen5: Amount
    link_mm2_per_gb_per_s: Amount
    die_to_die_mm2_per_gb_per_s: Amount
    system_mm2: Amount
    undescribed_sram_bytes_per_mac: Amount
    undescribed_memory_mm2: Amount
    undescribed_host_bytes_per_s: Number
    undescribed_clock_hz: Number
    uncore_share: Share
    reticle_mm2: Number


class PriceTable(Spec):
    """What wafers, packages and memory cost."""

    wafer_mm: Number
    edge_mm: Amount
    scribe_mm: Amount
    cluster: Number
    repairable: Share
    test_usd: Amount
    substrate_usd: Amount
    interposer_usd_per_mm2: Amount
    hbm_stack_mm2: Number
    assembly_yield: Share
    memory_usd_per_gb: dict[str, Number]


class Ownership(Spec):
    """What running a chip costs besides buying it."""

    price_over_cost: Number
    system_usd_per_chip: Amount
    lifetime_years: Number
    utilisation: Annotated[float, Field(gt=0, le=1, strict=True)]
    idle_power_share: Share
    system_w_per_chip: Amount
    pue: Annotated[float, Field(ge=1, le=10, strict=True)]
    usd_per_kwh: Amount


class Technology(Spec):
    """One set of constants. Read it with ``load_technology``."""

    format: Literal["npusim-technology/1"]
    name: str
    title: str
    sources: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    nodes: Annotated[dict[str, Node], Field(min_length=1)]
    energy: EnergyTable
    clocking: Clocking
    area: AreaTable
    price: PriceTable
    ownership: Ownership
    _provenance: dict[yamlio.Keys, Provenance] = PrivateAttr(default_factory=dict)
    _interpolated: dict[float, Node] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Technology:
        for table, name in ((self.nodes, "nodes"), (self.energy.sram_access_pj, "energy.sram_access_pj")):
            for key in table:
                if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", key):
                    raise InputError(Problem(f"{key!r} is not a number", name))
        if "other" not in self.energy.dram_pj_per_bit:
            raise InputError(Problem("needs 'other'", "energy.dram_pj_per_bit"))
        return self

    @property
    def provenance(self) -> dict[str, Provenance]:
        """Source and status of every figure, by dotted path."""
        return {yamlio.dotted(path): found for path, found in self._provenance.items()}

    def replace(self, changes: Mapping[str, object]) -> Technology:
        """Other constants: dotted path → number (``{"price.memory_usd_per_gb.hbm": 20.0}``), checked as a file is.

        Raises:
            InputError: unknown path or a value out of range.
        """
        data = self.model_dump()
        for path, value in changes.items():
            *heads, last = path.split(".")
            table: Any = data
            for head in heads:
                table = table.get(head) if isinstance(table, dict) else None
            if not isinstance(table, dict) or last not in table:
                raise InputError(Problem(f"unknown constant '{path}'", "technology"))
            table[last] = value
        return yamlio.validate(Technology, data, yamlio.Document(data, "technology"))

    def node(self, node_nm: float) -> Node:
        """The node of a feature size; between two entries interpolated on logarithmic scales.

        Raises:
            Unavailable: the size is outside the table.
        """
        found = self._interpolated.get(node_nm)
        if found is None:
            found = self._interpolated[node_nm] = self._interpolate(node_nm)
        return found

    def _interpolate(self, node_nm: float) -> Node:
        sizes = sorted((float(key), node) for key, node in self.nodes.items())
        if not sizes[0][0] <= node_nm <= sizes[-1][0]:
            raise Unavailable(
                Problem(
                    f"no constants for a node of {node_nm:g} nm",
                    "process.node_nm",
                    allowed=f"{sizes[0][0]:g} to {sizes[-1][0]:g} nm",
                )
            )
        upper = next(i for i, (size, _) in enumerate(sizes) if size >= node_nm)
        if sizes[upper][0] == node_nm:
            return sizes[upper][1]
        (below, fine), (above, coarse) = sizes[upper - 1], sizes[upper]
        part = math.log(node_nm / below) / math.log(above / below)

        def between(name: str) -> float:
            one, other = float(getattr(fine, name)), float(getattr(coarse, name))
            return float(one * (other / one) ** part) if one > 0 and other > 0 else one + part * (other - one)

        return Node(**{name: between(name) for name in Node.model_fields})

    def sram_access_j_per_byte(self, bank_bytes: float) -> float:
        """Joules to read or write one byte of a bank at 7 nm; interpolated, constant beyond the table's ends."""
        table = sorted((float(size), pj) for size, pj in self.energy.sram_access_pj.items())
        size = min(max(bank_bytes, table[0][0]), table[-1][0])
        for (below, low), (above, high) in pairwise(table):
            if size <= above:
                part = math.log(size / below) / math.log(above / below)
                return float(low * (high / low) ** part * 1e-12 / 8)
        return table[-1][1] * 1e-12 / 8

    def lane_figure(self, table: dict[str, float], rate: str) -> float:
        """Entry of a table by rate name, or of the next wider format that it lists."""
        found = dtypes.engine_rate(rate, table)
        if found is None:
            raise Unavailable(Problem(f"no constant for a {rate} multiplier", allowed=", ".join(table)))
        return found[1]


@lru_cache(maxsize=16)
def load_technology(name_or_path: str = DEFAULT) -> Technology:
    """Reads a set of constants by catalog name or path (read once a process).

    Raises:
        InputError: every problem of the file.
    """
    known = str(name_or_path).endswith((".yaml", ".yml"))
    document = yamlio.load_yaml(name_or_path if known else TECHNOLOGIES / f"{name_or_path}.yaml")
    made, provenance = read_described(Technology, document)
    made._provenance.update(provenance)
    return made


def node_nm(chip: Chip) -> float:
    """Feature size of a chip's process: as stated, or the number in the node's name (``N7``, ``SF4X``).

    Raises:
        Unavailable: the chip names no process.
    """
    process = chip.process
    if process is not None and process.node_nm is not None:
        return process.node_nm
    number = re.search(r"[0-9]+(\.[0-9]+)?", process.node) if process is not None else None
    if number is None:
        raise Unavailable(
            Problem(
                f"chip '{chip.name}' names no process node",
                "process.node_nm",
                hint="give process: {node: ..., node_nm: ...}, or --set process.node_nm=7",
            )
        )
    return float(number.group())
