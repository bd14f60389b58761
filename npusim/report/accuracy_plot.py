"""Predicted against measured as a picture: one mark per cell of rows, and error bars per group."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

from npusim.accuracy.validation import Group, Validation
from npusim.errors import InputError, Problem
from npusim.report.plots import Entry, draw_legend
from npusim.report.svg import Canvas, Plot, Scale, log_range, text_width

SIZE = (720.0, 640.0)
BEYOND = 30.0  # predictions further off than this lie on the edge
CELLS = 120  # of each axis: rows of one state in one cell share a mark
SHOWN_GROUPS = 40
STATES = ("calibrated", "transferred", "uncalibrated")
ROW, LEFT = 20.0, 380.0


@dataclass(frozen=True)
class Cell:
    """Rows that fall on the same place: where, how many, and which operations."""

    x: float
    y: float
    count: int
    what: str


def check_suffix(path: str) -> None:
    """Raises InputError for a file that is neither .svg nor .html."""
    if not path.endswith((".svg", ".html")):
        raise InputError(
            Problem(f"cannot write a plot to {path!r}", "--plot", allowed="a file that ends in .svg or .html")
        )


def write(found: Validation, path: str | os.PathLike[str]) -> None:
    """Writes the scatter (.svg), or scatter and error bars (.html). Raises InputError when it cannot."""
    check_suffix(str(path))
    drawn = scatter(found)
    if str(path).endswith(".svg"):
        content = drawn.document("Predicted against measured time")
    else:
        bars = errors(found).document("Mean error of each group")
        body = f"{drawn.document('Predicted against measured time')}\n{bars}"
        content = f'<!doctype html><meta charset="utf-8"><title>Predicted against measured</title>\n{body}'
    try:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(f"cannot write {str(path)!r}: {reason}", "--plot")) from None


def scatter(found: Validation) -> Canvas:
    """Predicted over measured microseconds, logarithmic; lines at equality and a factor of 1.25 to each side."""
    measured, predicted, states, ops = _points(found)
    if not len(measured):
        raise InputError(Problem("no row could be priced, so there is nothing to plot", "--plot"))
    low, high = log_range(_ends(measured))
    limits = (low, high)
    reach = log_range([low, high, *_ends(np.clip(predicted, low / BEYOND, high * BEYOND))], 1.0)
    shown = [state for state in STATES if state in set(states.tolist())]
    entries = [Entry(f"{state}, {int((states == state).sum())} rows", slot, slot) for slot, state in enumerate(shown)]
    plot = Plot.make(SIZE, limits, reach, ("measured, µs (lines: equal, and 25 % off)", "predicted, µs"), top=34.0)
    draw_legend(plot.canvas, entries)
    for slot, state in enumerate(shown):
        mask = states == state
        for cell in _cells(measured[mask], np.clip(predicted[mask], *reach), ops[mask], limits, reach):
            title = f"{cell.count} {state} rows near {cell.x:.3g} µs measured, {cell.y:.3g} µs predicted: {cell.what}"
            size = 1.2 + 0.7 * min(np.log10(cell.count), 3.0)
            plot.canvas.marker(plot.x(cell.x), plot.y(cell.y), slot, f"fill f{slot}", title, float(size))
    for factor, dash in ((1.0, "axis"), (1.25, "axis d1"), (0.8, "axis d1")):
        ends = [max(low, reach[0] / factor), min(high, reach[1] / factor)]
        (x1, y1), (x2, y2) = ((plot.x(x), plot.y(x * factor)) for x in ends)
        plot.canvas.line(x1, y1, x2, y2, dash)
    return plot.canvas


def _points(found: Validation) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measured and predicted microseconds, state and operation of every priced row."""
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for table in found.tables:
        at = table.priced & (table.predicted_s > 0)
        for column, values in zip(
            columns, (1e6 * table.measured_s, 1e6 * table.predicted_s, table.state, table.keys["op"]), strict=True
        ):
            column.append(values[at])
    a, b, c, d = (np.concatenate(column) for column in columns)
    return a, b, c, d


def _ends(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _cells(
    x: np.ndarray, y: np.ndarray, ops: np.ndarray, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> list[Cell]:
    place = [
        np.floor((np.log(v) - np.log(low)) / (np.log(high) - np.log(low)) * CELLS).astype(int)
        for v, (low, high) in ((x, x_limits), (y, y_limits))
    ]
    code = place[0] * (CELLS + 1) + place[1]
    order = np.argsort(code, kind="stable")
    found = []
    for part in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        names = Counter(ops[part].tolist()).most_common(3)
        what = ", ".join(f"{name} {count}" for name, count in names)
        found.append(Cell(float(np.median(x[part])), float(np.median(y[part])), len(part), what))
    return found


def errors(found: Validation) -> Canvas:
    """Mean absolute error of the largest groups as bars, the plain roofline's as a mark."""
    groups = [group for group in found.groups if group.priced]
    groups = sorted(groups, key=lambda g: -g.priced)[:SHOWN_GROUPS]
    canvas = Canvas(LEFT + 420.0, 56.0 + ROW * len(groups) + 10)
    states = [state for state in STATES if any(group.state == state for group in groups)]
    entries = [Entry(state, slot, 1) for slot, state in enumerate(states)]
    draw_legend(canvas, [*entries, Entry("plain roofline", 5, 3)])
    scale = Scale(0.0, 100.0, LEFT, LEFT + 360.0, log=False)
    for tick in scale.ticks():
        canvas.line(scale(tick), 44, scale(tick), 50 + ROW * len(groups), "grid")
        canvas.text(scale(tick), 40, f"{tick:g} %", "tick", "middle")
    for index, group in enumerate(groups):
        _bar(canvas, 50 + ROW * index, group, scale, states.index(group.state))
    return canvas


def _bar(canvas: Canvas, y: float, group: Group, scale: Scale, slot: int) -> None:
    name = f"{group.device} {group.op} {group.dtype} {group.software}"
    title = f"{name}: mean error {group.overall.mape_pct:.1f} % of {group.priced} rows, {group.state}; "
    title += f"plain roofline {group.roofline.mape_pct:.1f} %"
    while text_width(name) > LEFT - 44:
        name = name[:-2].rstrip("…") + "…"
    canvas.text(LEFT - 8, y + 13, name, "", "end")
    width = scale(group.overall.mape_pct) - scale.start
    canvas.add("rect", f"bar f{slot}", title, x=scale.start, y=y + 2, width=max(width, 0.5), height=ROW - 6)
    canvas.marker(scale(group.roofline.mape_pct), y + ROW / 2 - 1, 3, "fill f5", title)
