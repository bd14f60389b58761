"""Die area from a chip description: modelled blocks, and one share of the die that no block explains.

    die = (matrix + registers + vector + sram + dram + host + link + die_to_die + system) / (1 - uncore share)

Logic scales with the gate area of the node (N7 = 1), memories with its bit cell, interfaces not at all: they are
analogue. The uncore share holds the fabric, DMA, caches and control that a description does not list, spare cores, and
what a floor plan loses. Constants and their sources: ``catalog/technology/public.yaml``; the error on public dies:
``docs/power-area-cost.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from npusim.chip import Chip
from npusim.chip_parts import Link
from npusim.cost.technology import AreaTable, Technology, load_technology, node_nm

_MIB = 2.0**20
_BITS_PER_MIB = 8 * _MIB
_REFERENCE_NM = 7.0
_GEN5_X16_BYTES_PER_S = 63e9
_UM2_PER_MM2 = 1e6
# A vector unit's own lanes do these; they are no matrix formats of an engine.
_VECTOR_FORMATS = ("fp32", "fp64")


@dataclass(frozen=True)
class Area:
    """Silicon of one chip.

    Args:
        blocks: mm² by block and ``uncore``, all dies together.
        total_mm2: their sum.
        dies: compute dies of the package.
        reticle_mm2: the largest die a scanner can expose.
        stated_mm2: what the chip file states for all its dies; None without a figure.
        guessed: blocks that stand for parts the description does not state.
    """

    blocks: dict[str, float]
    total_mm2: float
    dies: int
    reticle_mm2: float
    stated_mm2: float | None
    guessed: tuple[str, ...]

    @property
    def die_mm2(self) -> float:
        """Area of one die."""
        return self.total_mm2 / self.dies

    @property
    def manufacturable(self) -> bool:
        """Whether one die fits the exposure field."""
        return self.die_mm2 <= self.reticle_mm2


def area_mm2(chip: Chip, technology: Technology | None = None) -> Area:
    """Area of ``chip`` by block.

    Args:
        chip: the chip; figures it lacks are completed as the technology file says, and named in ``guessed``.
        technology: constants; default: ``catalog/technology/public.yaml``.

    Raises:
        Unavailable: no process node is known, or it is outside the table.
    """
    constants = technology or load_technology()
    blocks, guessed = modelled_blocks(chip, constants)
    modelled = sum(blocks.values())
    share = constants.area.uncore_share
    blocks["uncore"] = modelled * share / (1 - share)
    stated = chip.area.die_mm2 * chip.area.dies if chip.area is not None and chip.area.die_mm2 is not None else None
    return Area(blocks, sum(blocks.values()), _dies(chip), constants.area.reticle_mm2, stated, guessed)


def modelled_blocks(chip: Chip, technology: Technology) -> tuple[dict[str, float], tuple[str, ...]]:
    """mm² of every block that is modelled, all dies together, and the blocks that stand for unstated parts."""
    table = technology.area
    node, reference = technology.node(node_nm(chip)), technology.node(_REFERENCE_NM)
    logic = node.gate_um2 / reference.gate_um2
    mib_mm2 = node.bitcell_um2 * _BITS_PER_MIB / _UM2_PER_MM2 / table.sram_array_efficiency * table.sram_overhead
    macs = macs_per_cycle(chip, technology)
    sram_bytes = chip.sram_bytes or table.undescribed_sram_bytes_per_mac * _int8_macs(macs)
    blocks = {
        "matrix": matrix_um2(macs, technology) * logic / _UM2_PER_MM2,
        "registers": _register_bytes(chip, macs, table) / _MIB * mib_mm2 * table.register_overhead,
        "vector": _vector_mm2(chip, table) * logic,
        "sram": sram_bytes / _MIB * mib_mm2,
        "dram": _dram_mm2(chip, table),
        "host": _host_mm2(chip, table),
        "link": _link_mm2(chip, table),
        "die_to_die": _die_to_die_mm2(chip, table),
        "system": table.system_mm2 * _dies(chip),
    }
    unstated = {"sram": not chip.sram_bytes, "dram": chip.memory is None, "host": chip.host is None}
    unstated["matrix"] = chip.clock_hz is None
    return blocks, tuple(name for name, lacking in unstated.items() if lacking)


def macs_per_cycle(chip: Chip, technology: Technology) -> dict[str, float]:
    """Multiply-accumulates per cycle of the whole chip by rate name, without the vector unit's formats."""
    clock = chip.clock_hz or technology.area.undescribed_clock_hz
    return {rate: peak / 2 / clock for rate, peak in chip.peaks_flops_per_s.items() if rate not in _VECTOR_FORMATS}


def matrix_um2(macs: dict[str, float], technology: Technology) -> float:
    """Area of an engine at N7: its formats share the multipliers, so the most demanding of them decides."""
    table = technology.area
    return max((n * technology.lane_figure(table.mac_um2, rate) for rate, n in macs.items()), default=0.0) * (
        table.mac_overhead
    )


def _int8_macs(macs: dict[str, float]) -> float:
    """MACs per cycle at 8 bits: as listed, or twice those at 16 bits."""
    eight = [macs[rate] for rate in ("int8", "fp8") if rate in macs]
    sixteen = [2 * macs[rate] for rate in ("bf16", "fp16") if rate in macs]
    return max([*eight, *sixteen], default=0.0)


def _register_bytes(chip: Chip, macs: dict[str, float], table: AreaTable) -> float:
    """Operand registers that feed tensor cores and dot engines; a systolic array passes operands on."""
    if chip.core.matrix is None or chip.core.matrix.engine == "systolic":
        return 0.0
    widest = max((macs[rate] for rate in ("bf16", "fp16") if rate in macs), default=_int8_macs(macs) / 2)
    return table.register_bytes_per_mac * widest


def _vector_mm2(chip: Chip, table: AreaTable) -> float:
    if chip.category == "gpu":
        return table.gpu_core_mm2 * (chip.cores or 0)
    lanes = chip.core.vector.lanes * (chip.cores or 1) if chip.core.vector is not None else 0
    return lanes * table.vector_lane_um2 / _UM2_PER_MM2


def _dram_mm2(chip: Chip, table: AreaTable) -> float:
    memory = chip.memory
    if memory is None:
        return table.undescribed_memory_mm2
    kind, bandwidth = memory.kind.lower(), memory.bandwidth_bytes_per_s or 0.0
    if kind == "sram":
        return 0.0
    if kind.startswith("hbm"):
        return hbm_stacks(chip, table) * table.hbm_phy_mm2.get(kind, table.hbm_phy_mm2["hbm3"])
    per_gb = table.lpddr_mm2_per_gb_per_s if kind.startswith("lp") else table.gddr_mm2_per_gb_per_s
    return bandwidth / 1e9 * per_gb


def hbm_stacks(chip: Chip, table: AreaTable) -> float:
    """HBM stacks of the package, as stated or by their bandwidth; 0 for other memories."""
    memory = chip.memory
    if memory is None or not memory.kind.lower().startswith("hbm"):
        return 0.0
    return memory.stacks or math.ceil((memory.bandwidth_bytes_per_s or 0.0) / table.hbm_stack_bytes_per_s)


def host_bytes_per_s(chip: Chip, table: AreaTable) -> float:
    """Host interface bandwidth per direction, assumed where none is stated."""
    stated = chip.host.bandwidth_bytes_per_s if chip.host is not None else None
    return stated or table.undescribed_host_bytes_per_s


def _host_mm2(chip: Chip, table: AreaTable) -> float:
    return table.host_mm2_x16_gen5 * math.sqrt(host_bytes_per_s(chip, table) / _GEN5_X16_BYTES_PER_S)


def own_link(chip: Chip, table: AreaTable) -> Link | None:
    """The links to other chips, None when their traffic goes over the host interface."""
    link = chip.link
    if link is None:
        return None
    over_host = link.topology == "switch" and link.bandwidth_bytes_per_s <= 1.01 * host_bytes_per_s(chip, table)
    return None if over_host else link


def _link_mm2(chip: Chip, table: AreaTable) -> float:
    link = own_link(chip, table)
    return link.bandwidth_bytes_per_s / 1e9 * table.link_mm2_per_gb_per_s if link is not None else 0.0


def _die_to_die_mm2(chip: Chip, table: AreaTable) -> float:
    """Both ends of the links between the dies of a package."""
    fabric = chip.die_to_die
    bandwidth = (fabric.bandwidth_bytes_per_s or 0.0) if fabric is not None else 0.0
    return bandwidth / 1e9 * table.die_to_die_mm2_per_gb_per_s


def _dies(chip: Chip) -> int:
    return chip.area.dies if chip.area is not None else 1
