"""Area, cost and peak power of a chip, as shown by ``npusim catalog show``."""

from __future__ import annotations

from typing import Any

from npusim.chip import Chip
from npusim.cost.area import area_mm2
from npusim.cost.joules import joules
from npusim.cost.money import chip_cost_usd
from npusim.errors import InputError, Unavailable
from npusim.report.text import columns


def to_dict(chip: Chip) -> dict[str, Any]:
    """Modelled area by block, cost of the packaged chip, and power at its peaks; ``missing`` says why there is none."""
    try:
        area, watts = area_mm2(chip), joules(chip)
        price = chip_cost_usd(chip, area=area)
    except (Unavailable, InputError) as error:
        return {"missing": error.problems[0].message}
    return {
        "missing": None,
        "area_mm2": area.total_mm2,
        "area_blocks_mm2": dict(area.blocks),
        "area_guessed": list(area.guessed),
        "area_stated_mm2": area.stated_mm2,
        "dies": area.dies,
        "die_mm2": area.die_mm2,
        "manufacturable": area.manufacturable,
        "cost_usd": price.total_usd,
        "cost_parts_usd": dict(price.parts),
        "priced_die_mm2": price.die_mm2,
        "priced_at_stated_area": price.stated_area,
        "die_yield": price.die_yield,
        "dies_per_wafer": price.dies_per_wafer,
        "standing_w": watts.standing_w,
        "peak_power_w": {
            rate: watts.standing_w + peak * (watts.flop_j[rate] + watts.operand_flop_j[rate])
            for rate, peak in chip.peaks_flops_per_s.items()
        },
    }


def render(data: dict[str, Any]) -> list[str]:
    """The same as text."""
    if data["missing"] is not None:
        return [f"Area, cost and bottom-up power: not modelled, {data['missing']}"]
    total = data["area_mm2"]
    rows = [[name, f"{mm2:.1f}", f"{mm2 / total:.1%}"] for name, mm2 in data["area_blocks_mm2"].items() if mm2]
    stated = f", the file states {data['area_stated_mm2']:.0f}" if data["area_stated_mm2"] is not None else ""
    dies = f" on {data['dies']} dies" if data["dies"] > 1 else ""
    lines = [f"Modelled area {total:.0f} mm2{dies}{stated}"]
    if not data["manufacturable"]:
        lines[0] += f"; a die of {data['die_mm2']:.0f} mm2 exceeds the exposure field"
    if data["area_guessed"]:
        lines.append(f"  assumed, because the file does not state them: {', '.join(data['area_guessed'])}")
    lines += columns(["block", "mm2", "share"], rows, right=(1, 2))
    parts = ", ".join(f"{name} {usd:.0f}" for name, usd in data["cost_parts_usd"].items())
    which = "stated" if data["priced_at_stated_area"] else "modelled"
    lines += [
        "",
        f"Cost to make {data['cost_usd']:.0f} USD: {parts}; {which} die of {data['priced_die_mm2']:.0f} mm2, "
        f"{data['dies_per_wafer']:.0f} on a wafer, yield {data['die_yield']:.0%}",
        f"Bottom-up power before any cap: standing {data['standing_w']:.0f} W; engine at its peak "
        + ", ".join(f"{rate} {watts:.0f} W" for rate, watts in data["peak_power_w"].items()),
        "All of it rests on assumed constants: docs/power-area-cost.md.",
    ]
    return lines
