"""Energy from the bottom up: events × joules by level, format and node, and the power that flows anyway.

An event's joules come from one family of constants (Jouppi et al., ISCA 2021, 7 nm) scaled to the chip's node; memory
and link energies from their own sources (``catalog/technology/public.yaml``). Parts of an operator:

* ``matrix``: multiply-accumulates in their format;
* ``operands``: what feeds them from the nearest memory, by the engine's reuse: a systolic array reads an activation
  for a whole row of it and moves a partial sum once per column, a tensor core reads both tiles of an instruction from
  registers, a dot engine reads the stationary operand for every product;
* ``vector``: element-wise operations; each on-chip level by the bytes that pass it; ``fabric``: main-memory bytes
  across the die (and through a GPU's load instructions); ``dram``; ``link``.

Standing power: ``leakage`` of logic and memories, ``clock`` (tree and ungated pipelines, while the chip works) and
``interfaces`` (SerDes that never sleep, DRAM standby).
"""

from __future__ import annotations

from dataclasses import dataclass

from npusim import dtypes
from npusim.chip import Chip
from npusim.cost import energy
from npusim.cost.area import Area, area_mm2, hbm_stacks, host_bytes_per_s, own_link
from npusim.cost.result import OpCost
from npusim.cost.technology import Technology, load_technology, node_nm
from npusim.errors import Problem, Unavailable, unknown_name
from npusim.ops import Dim

FAMILIES = ("bottom-up", "tdp")
# Parts that slow down and save with the core clock; the others keep their own clocks and voltages.
FIXED_PARTS = ("dram", "link")

_PJ = 1e-12
_ACCUMULATOR_BYTES = 8.0  # read and write of an fp32 partial sum


@dataclass(frozen=True)
class Joules:
    """Energy constants of one chip at its nominal clock and voltage.

    Args:
        family: ``bottom-up`` or ``tdp``.
        flop_j: joules per FLOP of the multipliers, by rate name.
        operand_flop_j: joules per FLOP of feeding them, by rate name.
        vector_op_j: joules per vector operation.
        level_byte_j: joules per byte that passes an on-chip level.
        fabric_byte_j: joules per main-memory byte across the die.
        dram_byte_j: joules per main-memory byte.
        link_byte_j: joules per byte sent, beyond what the links draw anyway.
        leakage_w: flows always, falls with the voltage.
        clock_w: flows while the chip works, falls with clock and voltage.
        interfaces_w: flows always, whatever the core clock.
    """

    family: str
    flop_j: dict[str, float]
    operand_flop_j: dict[str, float]
    vector_op_j: float
    level_byte_j: dict[str, float]
    fabric_byte_j: float
    dram_byte_j: float
    link_byte_j: float
    leakage_w: float
    clock_w: float
    interfaces_w: float

    @property
    def standing_w(self) -> float:
        """Power that flows at the nominal clock without any event."""
        return self.leakage_w + self.clock_w + self.interfaces_w

    def parts(self, cost: OpCost, chip: Chip) -> dict[str, Dim]:
        """Dynamic joules of all runs of an operator by part."""
        vector_ops: Dim = sum(cost.op.vector_ops.values())
        parts: dict[str, Dim] = {
            "matrix": cost.flops * self.flop_j.get(cost.rate, 0.0),
            "operands": cost.flops * self.operand_flop_j.get(cost.rate, 0.0),
            "vector": cost.count * vector_ops * self.vector_op_j,
        }
        for name, byte_j in self.level_byte_j.items():
            parts[name] = level_bytes(cost, chip, name) * byte_j
        parts["fabric"] = cost.dram_bytes * self.fabric_byte_j
        parts["dram"] = cost.dram_bytes * self.dram_byte_j
        parts["link"] = cost.link_bytes * self.link_byte_j
        return parts


def level_bytes(cost: OpCost, chip: Chip, level: str) -> Dim:
    """Bytes of an operator through an on-chip level: by its busy time where that is known, else each operand once."""
    bandwidth = chip.level_bandwidth_bytes_per_s(chip.levels[level])
    busy = cost.seconds.get(level)
    if bandwidth is None or busy is None:
        return cost.count * cost.op.bytes()
    return busy * bandwidth


def joules(chip: Chip, family: str = "bottom-up", technology: Technology | None = None) -> Joules:
    """Energy constants of ``chip``.

    Args:
        chip: the chip; joules it states itself under ``power:`` take precedence.
        family: ``bottom-up`` (events at public constants) or ``tdp`` (derived from the TDP, ``npusim.cost.energy``).
        technology: constants of the bottom-up family.

    Raises:
        InputError: unknown family.
        Unavailable: no process node, or no TDP for the ``tdp`` family.
    """
    if family == "tdp":
        return _from_tdp(chip)
    if family != "bottom-up":
        raise unknown_name("energy family", family, FAMILIES)
    return _from_events(chip, technology or load_technology())


def _from_events(chip: Chip, constants: Technology) -> Joules:
    table, power = constants.energy, chip.power
    node = constants.node(node_nm(chip)).energy
    flop: dict[str, float] = {}
    feed: dict[str, float] = {}
    for rate in chip.peaks_flops_per_s:
        if rate in power.flop_j:
            flop[rate], feed[rate] = power.flop_j[rate], 0.0
        else:
            multiplier = constants.lane_figure(table.mac_pj, rate) * _PJ / 2
            flop[rate] = multiplier * node * table.overhead
            feed[rate] = _feed_j(chip, rate, constants) * node * table.overhead
    engine_w = max(((flop[rate] + feed[rate]) * peak for rate, peak in chip.peaks_flops_per_s.items()), default=0.0)
    kind = chip.memory.kind.lower() if chip.memory is not None else "other"
    dram = table.dram_pj_per_bit.get(kind, table.dram_pj_per_bit["other"]) * 8 * _PJ
    leakage, interfaces = _standing_w(chip, area_mm2(chip, constants), constants)
    return Joules(
        family="bottom-up",
        flop_j=flop,
        operand_flop_j=feed,
        vector_op_j=table.vector_op_pj * _PJ * node * table.overhead,
        level_byte_j={name: power.sram_byte_j or _level_j(chip, name, constants) * node for name in chip.levels},
        fabric_byte_j=_fabric_j(chip, kind, node, constants),
        dram_byte_j=power.dram_byte_j or dram,
        link_byte_j=power.link_byte_j or 0.0,
        leakage_w=leakage,
        clock_w=table.clock_share * engine_w,
        interfaces_w=interfaces,
    )


def _from_tdp(chip: Chip) -> Joules:
    constants = energy.energies(chip)
    if constants is None:
        raise Unavailable(Problem(f"chip '{chip.name}' states no TDP", "power.tdp", hint="use the bottom-up family"))
    levels = dict.fromkeys(chip.levels, 0.0)
    if constants.sram_byte_j and levels:
        levels[next(iter(levels))] = constants.sram_byte_j
    return Joules(
        "tdp", dict(constants.flop_j), dict.fromkeys(constants.flop_j, 0.0), 0.0, levels, 0.0, constants.dram_byte_j,
        constants.link_byte_j, 0.0, 0.0, constants.static_w,
    )  # fmt: skip


def _feed_j(chip: Chip, rate: str, constants: Technology) -> float:
    """Joules per FLOP at 7 nm to bring operands to the multipliers and to keep partial sums.

    A narrower format reduces over a longer row in the same step, so a row of operands has the same bytes in all.
    """
    matrix = chip.core.matrix
    size = dtypes.bits(rate) / 8 if rate in dtypes.FORMATS else 1.0
    deeper = 2.0 / size if size < 2.0 else 1.0
    register = constants.energy.register_pj_per_byte * _PJ
    if matrix is None or matrix.engine == "tensorcore":
        m, n, k = matrix.shape if matrix is not None and matrix.shape is not None else (16, 8, 16)
        return (size * (1 / m + 1 / n) + _ACCUMULATOR_BYTES / (k * deeper)) * register / 2
    if matrix.engine == "dot":
        return (size + _ACCUMULATOR_BYTES / ((matrix.width or 1) * deeper)) * register / 2
    bank = min((level.capacity_bytes for level in chip.levels.values() if level.scope == "core"), default=2.0**20)
    per_mac = size / (matrix.cols or 1) + _ACCUMULATOR_BYTES / ((matrix.rows or 1) * deeper)
    return per_mac * constants.sram_access_j_per_byte(bank) / 2


def _level_j(chip: Chip, name: str, constants: Technology) -> float:
    """Joules per byte of an on-chip level at 7 nm; what is shared also crosses the die."""
    level = chip.levels[name]
    across = 0.0 if level.scope == "core" else constants.energy.on_die_pj_per_bit * 8 * _PJ
    return constants.sram_access_j_per_byte(level.capacity_bytes) + across


def _fabric_j(chip: Chip, memory: str, node: float, constants: Technology) -> float:
    """Joules per main-memory byte across the die; on a GPU also what its cores spend to load it."""
    across = 0.0 if memory == "sram" else constants.energy.on_die_pj_per_bit * 8 * node
    loaded = constants.energy.gpu_delivery_pj_per_byte if chip.category == "gpu" else 0.0
    return (across + loaded) * _PJ


def _standing_w(chip: Chip, area: Area, constants: Technology) -> tuple[float, float]:
    """Leakage and always-on interfaces in W; a stated idle power is divided between them as they would be."""
    table = constants.energy
    total = area.stated_mm2 if area.stated_mm2 is not None and not chip.overrides else area.total_mm2
    leakage = total * table.logic_leakage_w_per_mm2 + chip.sram_bytes / 2**20 * table.sram_leakage_w_per_mib
    link = own_link(chip, constants.area)
    interfaces = 2 * 8 * _PJ * host_bytes_per_s(chip, constants.area) * table.host_pj_per_bit
    if link is not None:
        interfaces += 2 * 8 * _PJ * link.bandwidth_bytes_per_s * table.serdes_pj_per_bit
    if chip.die_to_die is not None:
        interfaces += 8 * _PJ * (chip.die_to_die.bandwidth_bytes_per_s or 0.0) * table.die_to_die_pj_per_bit
    stacks = hbm_stacks(chip, constants.area)
    capacity = chip.memory.capacity_bytes / 1e9 if chip.memory is not None else 0.0
    interfaces += stacks * table.hbm_standby_w_per_stack if stacks else capacity * table.dram_standby_w_per_gb
    if chip.power.idle_w is not None:
        scale = chip.power.idle_w / (leakage + interfaces)
        return leakage * scale, interfaces * scale
    return leakage, interfaces
