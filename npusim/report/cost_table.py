"""The terminal view of one priced workload: totals, then operators."""

from __future__ import annotations

from typing import Any

from npusim.accuracy import trust
from npusim.cost import Cost
from npusim.cost.power import PowerCapped
from npusim.kperf_suite import cost_notes, fit_note
from npusim.report.text import columns
from npusim.units import show


def render(cost: Cost) -> str:
    """Renders a Cost with scalar dimensions as text."""
    shown = {key: value for key, value in cost.workload.info.items() if isinstance(value, (int, str))}
    info = ", ".join(f"{key} {value}" for key, value in shown.items() if key not in ("model", "phase"))
    title = f"{cost.workload.name} on {cost.chip.title} ({cost.chip.name})" + (
        f" x {cost.chips}" if cost.chips > 1 else ""
    )
    lines = [title, f"{cost.fidelity}; {info}" if info else cost.fidelity, ""]
    lines.append(
        f"time {show(cost.time_s, 's', 4)}, bound by {cost.bound}; no schedule of these operators beats "
        f"{show(cost.lower_bound_s, 's', 4)}"
    )
    lines.append(
        f"MFU {cost.mfu:.1%}, MBU {cost.mbu:.1%}; {show(cost.flops, 'FLOP')} and "
        f"{show(cost.dram_bytes, 'B')} of main-memory traffic per chip"
    )
    energy = cost.energy_j
    if energy is not None and cost.time_s > 0:
        lines.append(f"energy {show(energy, 'J')}, {show(energy / cost.time_s, 'W')} on average, all chips")
    lines += [_power(cost.power)] if cost.power is not None else []
    lines += [_measured(cost)] if cost.calibration is not None else []
    lines += ["", *_operators(cost), "", "Notes"]
    return "\n".join(
        [
            *lines,
            *(f"- {note}" for note in [*cost_notes(cost), *workload_notes(cost)]),
        ]
    )


def _measured(cost: Cost) -> str:
    """State of the figure and where measured times are expected."""
    found = trust.trust(cost)
    low, high = (show(factor * float(cost.time_s), "s") for factor in (found.low, found.high))
    if not found.document:
        return f"{found.state}: measured times of such predictions range from {low} to {high}"
    expected = "" if found.expected_s is None else f", {show(found.expected_s, 's')} with what lies between operators"
    return f"{found.state}{expected}; measured times, 80 % interval: {low} to {high}"


def _power(power: PowerCapped) -> str:
    """The clock that fits, and where the joules of one chip go."""
    limit = f"limit {power.limit_w:.4g} W per chip"
    clock = f"clock lowered to {power.clock_share:.1%} of nominal" if power.binds else "nominal clock"
    total = sum(power.parts.values())
    shares = sorted(((float(j), name) for name, j in power.parts.items()), reverse=True)
    parts = ", ".join(f"{name} {j / total:.0%}" for j, name in shares if j >= 0.005 * total)
    return f"{power.power_w:.4g} W per chip, {limit}: {clock}; {power.family} energy: {parts}"


def workload_notes(cost: Cost) -> list[str]:
    """What of the workload is not priced, whether a model step fits the memory, and how far its time can be trusted."""
    unpriced = cost.workload.info.get("unpriced") or {}
    listed = [f"{entry['count']} x {name} ({entry['reason']})" for name, entry in unpriced.items()]
    notes = [f"not priced: {'; '.join(listed)}."] if listed else []
    notes += [note for note in (fit_note(cost),) if note]
    return [*notes, *cost.remarks, trust.sentence(trust.trust(cost), float(cost.time_s))]


def _operators(cost: Cost) -> list[str]:
    rows = []
    for row in cost.table():
        intensity = row["flops"] / row["dram_bytes"] if row["dram_bytes"] else 0.0
        rows.append(
            [
                row["op"],
                row["kind"],
                str(row["count"]),
                show(row["time_s"], "s"),
                f"{row['share']:.1%}",
                row["bound"],
                show(row["flops"], "FLOP"),
                show(row["dram_bytes"], "B"),
                f"{intensity:.3g}" if intensity else "-",
                *_trusted(row),
            ]
        )
    headers = ["operator", "kind", "runs", "time", "share", "bound", "FLOPs", "main memory", "FLOP/B"]
    headers += ["80 % interval", "state"] if cost.calibration is not None else []
    return columns(headers, rows, right=(2, 3, 4, 6, 7, 8, 9))


def _trusted(row: dict[str, Any]) -> list[str]:
    """Interval and state of an operator, where documents were allowed."""
    if "state" not in row:
        return []
    interval = "-" if row["low_s"] is None else f"{show(row['low_s'], 's')} to {show(row['high_s'], 's')}"
    return [interval, row["state"]]
