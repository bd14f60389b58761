"""An explanation in words and numbers."""

from __future__ import annotations

from typing import Any

from npusim.accuracy import trust
from npusim.explanation import Explanation, Sensitivity
from npusim.kperf_suite import cost_notes
from npusim.report.format import figure
from npusim.report.text import columns
from npusim.units import show


def to_dict(e: Explanation) -> dict[str, Any]:
    """The JSON object: plain types, units in the keys."""
    return {
        "chip": e.cost.chip.name, "workload": e.cost.workload.name, "fidelity": e.cost.fidelity,
        "time_s": float(e.cost.time_s), "lower_bound_s": float(e.cost.lower_bound_s), "op": e.op.op.name,
        "op_time_s": float(e.op.time_s), "op_roofline_s": e.bound_s, "op_bound": str(e.op.bound),
        "busy_s": {name: float(seconds) for name, seconds in e.op.seconds.items()},
        "mapping": None if e.mapping is None else {k: getattr(e.mapping, k) for k in e.mapping.__slots__},
        "compute_utilisation": e.compute_utilisation, "tile_utilisation": e.tile_utilisation,
        "edge_utilisation": e.edge_utilisation, "wave_utilisation": e.wave_utilisation,
        "reread": e.reread, "dram_share": e.dram_share, "dram_rows": e.dram_rows, "overhead_s": e.overhead_s,
        "step_sensitivities": [vars(s) for s in e.step_sensitivities],
        "op_sensitivities": [vars(s) for s in e.op_sensitivities],
        "trust": trust.trust(e.cost).to_dict(float(e.cost.time_s)), "notes": _notes(e), **_op_trust(e),
    }  # fmt: skip


def _op_trust(e: Explanation) -> dict[str, Any]:
    """Trust in the operator alone, where documents were allowed."""
    if e.cost.calibration is None:
        return {}
    return {"op_trust": trust.of_operator(e.op, e.cost).to_dict(float(e.op.time_s))}


def render(e: Explanation) -> str:
    """The explanation as text."""
    item, cost = e.op, e.cost
    share = float(item.time_s) / float(cost.time_s) if cost.time_s else 0.0
    lines = [
        f"{cost.workload.name} on {cost.chip.title} ({cost.chip.name}), {cost.fidelity}: "
        f"{show(float(cost.time_s), 's', 4)}",
        "",
        f"{item.op.name}: {show(float(item.time_s), 's', 4)} in {item.count} runs, {share:.1%} of the step, "
        f"bound by {item.bound}; its roofline is {show(e.bound_s, 's', 4)}.",
    ]
    if cost.calibration is not None:
        lines.append(trust.sentence(trust.of_operator(item, cost), float(item.time_s)))
    lines += [_mapping(e)] if e.mapping is not None else []
    lines += [_compute(e)] if e.compute_utilisation is not None else []
    lines += [_memory(e)]
    if e.overhead_s > 0:
        part = e.overhead_s / float(item.time_s)
        lines.append(
            f"No resource is busy for {show(e.overhead_s, 's')} ({part:.1%}): launch, set-up, first load, last store."
        )
    busy = sorted(((float(s), name) for name, s in item.seconds.items() if name != "overhead"), reverse=True)
    rows = [[name, show(s, "s"), f"{s / float(item.time_s):.1%}"] for s, name in busy if s > 0]
    lines += ["", *columns(["resource", "busy", "of its time"], rows, right=(1, 2))]
    lines += ["", "One figure better by a quarter, speedup of the step and of the operator alone:", *_knobs(e)]
    return "\n".join([*lines, "", "Notes", *(f"- {note}" for note in _notes(e))])


def _notes(e: Explanation) -> list[str]:
    cost = e.cost
    return [*cost_notes(cost), *cost.remarks, trust.sentence(trust.trust(cost), float(cost.time_s))]


def _mapping(e: Explanation) -> str:
    m = e.mapping
    assert m is not None
    kept = "nothing stays in a core" if m.keep == "nothing" else f"{m.keep} stays in a core"
    split = f", the reduction split over {m.split} cores" if m.split > 1 else ""
    return f"Mapping: output tiles of {m.tm} x {m.tn} in steps of {m.tk} along the reduction{split}; {kept}."


def _compute(e: Explanation) -> str:
    text = f"While it computes, the busiest core's engine does {e.compute_utilisation:.1%} of its peak"
    if e.tile_utilisation is not None:
        text += (
            f": {e.tile_utilisation:.1%} inside a tile (array edges, fill and drain), {e.edge_utilisation:.1%} for "
            f"tiles over the edge of the output, {e.wave_utilisation:.1%} for cores idle in the last wave"
        )
    return text + "."


def _memory(e: Explanation) -> str:
    again = f", {e.reread:.2f} times what must pass once" if e.reread > 1.005 else ", each byte once"
    share = f", at {e.dram_share:.0%} of its pin rate while it works" if e.dram_share is not None else ""
    rows = ""
    if e.dram_rows:
        total = max(sum(e.dram_rows.values()), 1)
        parts = [f"{e.dram_rows[name] / total:.1%} {name}" for name in ("hit", "closed", "conflict")]
        rows = f"; of the bursts' rows {', '.join(parts)}"
    return f"Main memory: {show(float(e.op.dram_bytes), 'B')}{again}{share}{rows}."


def _knobs(e: Explanation) -> list[str]:
    alone = {s.path: s for s in e.op_sensitivities}

    def row(s: Sensitivity) -> list[str]:
        other = alone.get(s.path)
        return [
            s.path,
            figure(s.path, s.before),
            figure(s.path, s.after),
            f"{s.speedup:.3f}",
            f"{other.speedup:.3f}" if other else "-",
        ]

    return columns(
        ["figure", "now", "better", "step", "operator"], [row(s) for s in e.step_sensitivities], right=(1, 2, 3, 4)
    )
