"""Limits of predictions that were not fitted on the chip at hand.

Constants learned elsewhere, and models that were never fitted, can be far off on a chip of another kind. Whatever
prices a row, it cannot be faster than the engine's peak or than the memory that has to deliver its operands; and
kernels that libraries ship are hardly ever more than some tens of times slower than the plain roofline.
"""

from __future__ import annotations

import numpy as np

from npusim.accuracy.predicted import Predicted
from npusim.accuracy.pricing import Shapes
from npusim.accuracy.table import Array, Floats
from npusim.chip import Chip
from npusim.cost import roofline
from npusim.workload import Op

# Operands that fit the last-level cache may be read from it: on the devices measured, up to this many times as fast
# as from main memory (one row in a thousand of repeated kernels takes less than an eighth of the cold roofline).
CACHE_SPEEDUP = 8.0
# Measured / plain roofline above which a prediction is not believed: of the measured rows 0 to 0.3 % of GEMMs, vector
# operators and, within a node, collectives exceed theirs; of attention and expert layers 1 to 7 % exceed 30, and only
# constants learned from such kernels may predict it.
SLOWEST = 30.0
SLOWEST_COLLECTIVE = 15.0
SLOWEST_IRREGULAR = 100.0
IRREGULAR = ("attention", "mla", "moe")
SHORTEST_S = 10e-6  # a roofline below this says nothing about the time of a kernel


def last_level_bytes(chip: Chip) -> float:
    """Capacity of the largest on-chip level over all its instances, bytes."""
    return max((level.capacity_bytes * chip.level_instances(level) for level in chip.levels.values()), default=0.0)


def floor_s(shapes: Shapes, chip: Chip) -> Floats:
    """The time no kernel can beat, seconds: peak of the engine, and bytes that do not fit on the chip."""
    bandwidth = chip.memory.bandwidth_bytes_per_s if chip.memory is not None else None
    cache = last_level_bytes(chip)

    def price(ops: tuple[Op, ...]) -> tuple[Floats, Array]:
        works = [roofline.work(op, chip) for op in ops]
        compute, memory = (
            np.asarray(sum(np.asarray(work.seconds[name], float) for work in works)) for name in ("matrix", "dram")
        )
        fits = memory * (bandwidth or 0.0) <= cache
        least = np.maximum(compute, np.where(fits, memory / CACHE_SPEEDUP, memory))
        return least, np.full(least.shape, "", dtype=object)

    return shapes.each(price)[0]


def slowest(op: str, transferred: Array) -> Floats:
    """Largest believed factor over the plain roofline.

    Args:
        op: spelling of the rows.
        transferred: where constants learned on other chips price the row.
    """
    learned = SLOWEST_IRREGULAR if op.startswith(IRREGULAR) else SLOWEST
    return np.where(transferred, learned, SLOWEST)


def hold(found: Predicted, which: Array, least: Floats, factor: Floats) -> None:
    """Cuts predictions that were not fitted on their chip to their limits, and their intervals by the same factor.

    Args:
        found: the table, changed in place.
        which: indices of rows.
        least: shortest plausible seconds of each.
        factor: largest believed factor over the plain roofline.
    """
    seconds = found.predicted_s[which]
    most = factor * np.maximum(found.roofline_s[which], SHORTEST_S)
    # fmin and fmax pass over a limit that is not known (nan).
    cut = np.fmin(np.fmax(seconds, least), np.fmax(most, least))
    far = np.isfinite(seconds) & (found.state[which] != "calibrated") & (cut != seconds)
    at, change = which[far], cut[far] / np.maximum(seconds[far], np.finfo(float).tiny)
    found.predicted_s[at] = cut[far]
    for name in ("low_s", "high_s"):
        getattr(found, name)[at] *= change
    for note, row in zip(found.note[at], at, strict=True):
        found.note[row] = f"{note}; cut to what the hardware allows" if note else "cut to what the hardware allows"
