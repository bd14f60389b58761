"""Why a row takes what it takes: its operators explained at the model's fidelity."""

from __future__ import annotations

import numpy as np

from npusim.accuracy import pricing
from npusim.accuracy.devices import formats_of
from npusim.accuracy.rows import Rows
from npusim.accuracy.validation import Worst
from npusim.chip import load_chip
from npusim.cost import estimate
from npusim.errors import NpuError
from npusim.explanation import explain
from npusim.units import show
from npusim.workload import Op


def explain_row(worst: Worst, fidelity: str = "tile") -> str:
    """One or two sentences on the operator of a row: bound, mapping, and the figure that would help most.

    They come from the uncalibrated model, whatever priced the row: a calibration has no mapping.
    """
    try:
        ops = operators(worst)
        if not ops:
            return "not a kernel row: there is no operator to explain"
        chip = load_chip(worst.chip)
        usable = fidelity if not chip.missing(fidelity) else "roofline"
        longest = max(ops, key=lambda op: float(estimate(op, chip, usable).time_s))
        e = explain(longest, chip, fidelity=usable)
    except NpuError as error:
        return str(error).splitlines()[0]
    parts = [f"{usable}: {show(float(e.op.time_s), 's')}, bound by {e.op.bound}, roofline {show(e.bound_s, 's')}"]
    if e.mapping is not None:
        split = f", split {e.mapping.split}" if e.mapping.split > 1 else ""
        parts.append(f"tiles {e.mapping.tm} x {e.mapping.tn} x {e.mapping.tk}{split}")
    if e.wave_utilisation is not None:
        parts.append(f"cores used in the waves {e.wave_utilisation:.0%}")
    if e.op_sensitivities and e.op_sensitivities[0].speedup > 1.01:
        best = e.op_sensitivities[0]
        parts.append(f"{best.path} +25 % makes it {best.speedup:.2f} x as fast")
    return "; ".join(parts)


def operators(worst: Worst) -> tuple[Op, ...]:
    """The operators of a kernel row with scalar dimensions; empty for rows of other tables."""
    if not isinstance(worst.table, Rows):
        return ()
    row = worst.table.select(np.array([worst.row]))
    formats = formats_of(worst.dtype)
    if formats is None:
        return ()
    shapes = pricing.Shapes(row, worst.op, formats)
    if not len(shapes.table):
        return ()
    ops = shapes.scalar_ops()
    return tuple(map(pricing.warm, ops)) if pricing.residency_of(worst.software) == "llc" else ops
