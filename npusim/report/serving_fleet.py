"""What ``npusim serve --fleet-pflops`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npusim import units
from npusim.report import format


def render(data: Mapping[str, Any], serving: str) -> str:
    """The fleet's answer, and the run of one replica behind it.

    Args:
        data: ``Fleet.to_dict()``.
        serving: the text of the run.
    """
    replica, number = data["replica"], format.number
    spare = f", {data['spare_chips']} chips spare" if data["spare_chips"] else ""
    slo = replica["slo"] or {}
    limits = ", ".join(f"{key.removesuffix('_s').upper()} {1e3 * slo[key]:g} ms" for key in slo if key != "attainment")
    held = f"{100 * slo['attainment']:.4g}% of them within {limits}" if slo else "without limits"
    shape = f"tp {data['tp']}" + "".join(f", {name} {data[name]}" for name in ("pp", "ep") if data[name] > 1)
    lines = [
        f"{units.show(data['fleet_flops_per_s'], 'FLOP/s', 4)} ({data['fleet_precision']}, dense) of {replica['chip']} "
        f"serving {replica['model']} ({replica['precision']})",
        *(f"VERDICT: {text}" for text in data["verdicts"]),
        "",
        f"chips        {data['chips']} at {units.show(data['chip_peak_flops_per_s'], 'FLOP/s', 4)} each: "
        f"{data['replicas']} replicas of {data['chips_per_replica']} ({shape}){spare}",
        f"users        {number(data['users'])} with {data['think_s']:g} s between an answer and the next request; "
        f"{number(data['requests_in_flight'])} requests in flight",
        f"load         {number(data['requests_per_s'])} requests/s, {number(data['tokens_per_s'])} output tokens/s, "
        f"{held}",
    ]
    if data["chips_w"] is not None:
        lines.append(
            f"power        {units.show(data['chips_w'], 'W')} of chips, {units.show(data['building_w'], 'W')} of the "
            f"building (servers x {data['node_overhead']:g}, PUE {data['pue']:g}, both assumed)"
        )
    if data["racks"] is not None:
        lines.append(f"racks        {data['racks']} of {data['rack_w'] / 1e3:g} kW (assumed), filled at the chips' TDP")
    lines += ["", "One replica:", serving, "note: replicas share nothing and are loaded evenly (assumed)."]
    return "\n".join(lines)
