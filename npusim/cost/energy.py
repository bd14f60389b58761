"""A simple, documented energy model (to be refined; every constant here is an assumption).

A chip draws a static share of its TDP whenever it works (clocks, leakage, idle lanes), plus energy per
event. The share is the one constant chosen from measurements: of 0.20, 0.30, 0.40, 0.45 and 0.50, the
value near the published idle/maximum ratio of TPU v4 (90/192 W) that also fits 40 published power rows
of A100 and H100 (``docs/published.md`` prints the error). Events:

* DRAM: pJ per bit by memory kind, device plus PHY (O'Connor et al., MICRO 2017 for HBM2: 3.9 pJ/bit;
  later generations from secondary public specifications), and 1 pJ/bit for moving it across the die.
* links: 5 pJ/bit (112G SerDes class).
* matrix FLOPs: what is left of the TDP when the engine runs at its peak and DRAM streams at full rate,
  divided by that peak. So the modelled power never exceeds the TDP at roofline, and every format draws
  the same power at its own peak. Vector work and moving operands on chip are part of that figure.

A chip file may state its own joules under ``power:`` (the sum is then its own responsibility). Without a
TDP there is no power figure at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from npusim.chip import Chip
from npusim.ops import Dim

STATIC_SHARE = 0.45  # of the TDP, while working
ON_DIE_J_PER_BYTE = 8 * 1.0e-12
LINK_J_PER_BYTE = 8 * 5.0e-12
DRAM_J_PER_BYTE = {  # device + 0.6 pJ/bit PHY
    "hbm2": 8 * 4.5e-12,
    "hbm2e": 8 * 4.5e-12,
    "hbm3": 8 * 3.85e-12,
    "hbm3e": 8 * 3.35e-12,
    "hbm4": 8 * 3.1e-12,
    "sram": 8 * 0.3e-12,
}
DRAM_OTHER_J_PER_BYTE = 8 * 6.0e-12  # GDDR, LPDDR, DDR: 4 to 8 pJ/bit


@dataclass(frozen=True, slots=True)
class Energies:
    """Energy constants of one chip: static power in W, joules per byte, joules per FLOP by rate name."""

    static_w: float
    sram_byte_j: float
    dram_byte_j: float
    link_byte_j: float
    flop_j: dict[str, float]

    def op_j(self, fmt: str, flops: Dim, operand_bytes: Dim, dram_bytes: Dim, link_bytes: Dim) -> Dim:
        """Dynamic joules of one operator; ``operand_bytes`` pass the on-chip memories once."""
        moved = operand_bytes * self.sram_byte_j + dram_bytes * self.dram_byte_j + link_bytes * self.link_byte_j
        return flops * self.flop_j.get(fmt, 0.0) + moved


def energies(chip: Chip) -> Energies | None:
    """Energy constants of ``chip``, or None when it states no TDP."""
    power, memory = chip.power, chip.memory
    if power.tdp_w is None or memory is None:
        return None
    static = max(STATIC_SHARE * power.tdp_w, power.idle_w or 0.0)
    bandwidth = float(memory.bandwidth_bytes_per_s or 0)
    dram = power.dram_byte_j
    if dram is None:
        dram = _memory_byte_j(memory.kind)
        # Generic constants must not burn more than the chip may draw: leave a tenth for arithmetic.
        dram = min(dram, max(0.9 * power.tdp_w - static, 0.0) / bandwidth)
    link = power.link_byte_j if power.link_byte_j is not None else LINK_J_PER_BYTE
    engine_w = max(power.tdp_w - static - dram * bandwidth, 0.0)
    flop = {name: power.flop_j.get(name, engine_w / peak) for name, peak in chip.peaks_flops_per_s.items()}
    # Without a figure of its own, moving operands on chip is part of the joules per FLOP.
    return Energies(static, power.sram_byte_j or 0.0, dram, link, flop)


def _memory_byte_j(kind: str) -> float:
    kind = kind.lower()
    if kind == "sram":  # on the die already
        return DRAM_J_PER_BYTE[kind]
    return DRAM_J_PER_BYTE.get(kind, DRAM_OTHER_J_PER_BYTE) + ON_DIE_J_PER_BYTE
