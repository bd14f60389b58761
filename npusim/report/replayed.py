"""A replayed mapping as text and as a JSON object."""

from __future__ import annotations

from typing import Any

from npusim.chip import Chip
from npusim.cost.replay import Replay
from npusim.report.text import columns
from npusim.units import show

_MEANING = {"execute": "the array", "dma": "loads and stores", "host": "the host issuing tiles"}
_MOVED = {
    "loaded": "loaded into the scratchpad",
    "stored": "stored from the accumulator",
    "llc": "missed the cache",
    "dram": "passed main memory",
}
_FITTED = "constants fitted to cycle-exact runs of one RTL, 10 % mean error on others (docs/gemmini.md)"


def to_dict(r: Replay, chip: Chip) -> dict[str, Any]:
    """The JSON object: plain types, units in the keys."""
    return {
        "chip": chip.name,
        "mapping": str(r.nest),
        "cycles": r.cycles,
        "time_s": r.time_s,
        "bound": r.bound,
        "tiles": r.tiles,
        "tile_changes": dict(r.tile_changes),
        "busy_cycles": dict(r.busy_cycles),
        "bytes": dict(r.bytes),
        "notes": [*r.notes, _FITTED],
    }


def render(r: Replay, chip: Chip) -> str:
    """The replay as text."""
    changes = ", ".join(f"{name} {count:,}" for name, count in r.tile_changes.items())
    busy = [[name, f"{cycles:,.0f}", f"{cycles / r.cycles:.1%}"] for name, cycles in r.busy_cycles.items()]
    moved = [[_MOVED[name], show(size, "B")] for name, size in r.bytes.items()]
    return "\n".join(
        [
            f"{r.nest}",
            f"on {chip.title} ({chip.name}): {r.cycles:,.0f} cycles, {show(r.time_s, 's', 4)}, "
            f"bound by {_MEANING[r.bound]}",
            f"{r.tiles:,} tiles; their contents change: {changes}",
            "",
            *columns(["queue", "busy cycles", "of all"], busy, right=(1, 2)),
            "",
            *columns(["bytes", ""], moved, right=(1,)),
            "",
            "Notes",
            *(f"- {note}" for note in (*r.notes, _FITTED)),
        ]
    )
