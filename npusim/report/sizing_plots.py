"""Charts of a board: objectives against each other, all designs as lines over parallel axes, and tornados."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from npusim.report import sizing_view as view
from npusim.report.plots import Entry, draw_legend, legend_height
from npusim.report.sizing_view import Board, Item, Swing
from npusim.report.svg import Canvas, Plot, Scale, compact, log_range, text_width
from npusim.sizing.quantities import HIGHER_IS_BETTER

SIZE = (820.0, 520.0)
MOST_LINES = 400  # designs drawn as lines; the front always is
ENTRIES = {
    "design": Entry("keeps to every limit", 5, 0),
    "missed": Entry("misses a limit", 3, 3),
    "front": Entry("front", 0, 0, 0),
    "choice": Entry("chosen", 1, 2),
    "chip": Entry("existing chip", 2, 1),
    "chip_missed": Entry("existing chip that misses a limit", 4, 1),
}


@dataclass(frozen=True)
class Drawing:
    """A chart and what it says to those who cannot see it."""

    canvas: Canvas
    label: str

    def element(self) -> str:
        """For a page."""
        return self.canvas.render(self.label)

    def document(self) -> str:
        """A file of its own."""
        return self.canvas.document(self.label)


def all_of(board: Board) -> dict[str, Drawing]:
    """Every chart there is something to draw in, by file name."""
    found = {"pareto": pareto(board), "parallel": parallel(board)}
    found |= {f"tornado-{name}": tornado(board, name) for name in tornado_metrics(board)}
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def tornado_metrics(board: Board) -> list[str]:
    """Metrics worth a tornado: the objectives, then latency, cost and area, as far as anything moves them."""
    names = dict.fromkeys([*board.objectives, "tpot_loaded_s", "tpot_s", "ttft_s", "time_s", "cost_usd"])
    return [name for name in names if view.tornado_rows(board, name)][:4]


def _role(board: Board, index: int, item: Item) -> str:
    if item.existing:
        return "chip" if item.feasible else "chip_missed"
    if index == board.choice:
        return "choice"
    return "front" if "front" in item.marks else "design" if item.feasible else "missed"


# -- objectives ------------------------------------------------------------------------------------------


def pareto(board: Board) -> Drawing | None:
    """The first two objectives against each other, within the range of what keeps to every limit; None without two."""
    if len(board.objectives) < 2:
        return None
    keys = board.objectives[:2]
    points = [
        (index, item, [view.shown(key, item.metrics[key] or 0.0) for key in keys])
        for index, item in enumerate(board.items)
        if all((item.metrics.get(key) or 0.0) > 0 for key in keys)
    ]
    if not points:
        return None
    near = [where for _, item, where in points if item.feasible or item.existing] or [where for *_, where in points]
    front = [where for _, item, where in points if "front" in item.marks] or near
    ranges = [_near([w[axis] for w in front], [w[axis] for w in near]) for axis in range(2)]
    points = [p for p in points if all(low <= v <= high for v, (low, high) in zip(p[2], ranges, strict=True))]
    roles = [_role(board, index, item) for index, item, _ in points]
    entries = [entry for role, entry in ENTRIES.items() if role in roles]
    better = [f"{view.heading(key)} ({'more' if key in HIGHER_IS_BETTER else 'less'} is better)" for key in keys]
    top = legend_height(entries, SIZE[0]) + 8
    plot = Plot.make(SIZE, ranges[0], ranges[1], (better[0], better[1]), top=top)
    draw_legend(plot.canvas, entries)
    line = sorted((plot.x(w[0]), plot.y(w[1])) for _, item, w in points if "front" in item.marks)
    plot.canvas.polyline(line, "line s0 d0")
    labels = []
    order = list(ENTRIES)
    for (_, item, where), role in sorted(zip(points, roles, strict=True), key=lambda pair: _layer(order, pair[1])):
        x, y = plot.x(where[0]), plot.y(where[1])
        entry = ENTRIES[role]
        small = role in ("design", "missed")
        plot.canvas.marker(x, y, entry.shape, f"{'dot' if small else 'fill'} f{entry.slot}", _tip(board, item),
                           3.0 if small else 5.0)  # fmt: skip
        if not small:
            plot.canvas.taken.append((x - 6, y - 6, x + 6, y + 6))
            labels.append((x, y, item, role))
    _label_points(plot, labels)
    return Drawing(plot.canvas, f"{board.title}: {view.heading(keys[0])} against {view.heading(keys[1])}")


def _near(front: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """An axis around the front and what lies within a factor of two of it."""
    low, high = min(front) / 2, max(front) * 2
    return log_range([value for value in values if low <= value <= high], 1.08)


def _layer(order: Sequence[str], role: str) -> int:
    """What misses a limit lies at the bottom, the choice on top."""
    return {"missed": -2, "design": -1, "choice": len(order)}.get(role, order.index(role))


def _label_points(plot: Plot, labels: Sequence[tuple[float, float, Item, str]]) -> None:
    """Names where there is room: the choice and the knee first, then existing chips, then the front."""
    rank = {"choice": 0, "chip": 2, "chip_missed": 2, "front": 3}
    for x, y, item, role in sorted(
        labels, key=lambda one: (1 if "knee" in one[2].marks else rank[one[3]], one[2].name)
    ):
        number = item.name.removeprefix("design ")
        name = item.name if item.existing else ("chosen" if role == "choice" else number)
        if "knee" in item.marks:
            name = f"{name}, knee"
        plot.canvas.label(x, y, name, "halo" if role == "choice" else "faint halo", 9.0, plot.area)


def _tip(board: Board, item: Item) -> str:
    """What a tooltip says of a design."""
    told = [
        f"{view.short_path(path, board.parameters)} {view.parameter(path, value)}"
        for path, value in item.parameters.items()
    ]
    told += [f"{view.heading(name)}: {view.cell(name, item.metrics.get(name))}" for name in board.table_metrics()[:6]]
    if item.violated:
        told.append("misses " + "; ".join(item.violated[:3]))
    return f"{item.name}{f' ({item.note})' if item.note else ''}: " + ", ".join(told)


# -- parallel axes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    name: str
    at: Callable[[Item], float | None]  # 0 (bottom) to 1 (top)
    ticks: tuple[tuple[float, str], ...]
    choices: bool = False  # a few values


def parallel(board: Board) -> Drawing | None:
    """One vertical axis per parameter and objective, one line per design; better is always up for objectives."""
    lines = [(index, item) for index, item in enumerate(board.designs) if item.metrics]
    axes = [axis for path in board.parameters if (axis := _parameter_axis(board, path))]
    axes += [axis for name in board.objectives if (axis := _metric_axis(board, name))]
    if len(axes) < 2 or not lines:
        return None
    step = max(len(lines) // MOST_LINES, 1)
    kept = [(i, item) for n, (i, item) in enumerate(lines) if n % step == 0 or item.marks or i == board.choice]
    roles = {index: _role(board, index, item) for index, item in kept}
    shown = [ENTRIES[name] for name in ("missed", "design", "front", "choice") if name in roles.values()]
    entries = [Entry(e.text, e.slot, e.shape, 0) for e in shown]
    width, bottom, top = SIZE[0], SIZE[1] - 40.0, legend_height(entries, SIZE[0]) + 34.0
    canvas = Canvas(width, SIZE[1])
    draw_legend(canvas, entries)
    scale = Scale(-0.03, 1.03, bottom, top, log=False)
    left, right = 70.0, width - 76.0
    places = [left + (right - left) * n / (len(axes) - 1) for n in range(len(axes))]
    for index, item in sorted(kept, key=lambda pair: _layer(list(ENTRIES), roles[pair[0]])):
        # Choices of a few values would all lie on each other: every design is off by a little of its own.
        off = ((index * 0.618034) % 1 - 0.5) * 0.04 if roles[index] in ("design", "missed") else 0.0
        values = [at if (at := axis.at(item)) is None or not axis.choices else at + off for axis in axes]
        points = [(x, scale(v)) for x, v in zip(places, values, strict=True) if v is not None]
        role = roles[index]
        look = {"missed": "ghost", "design": "thin"}.get(role, "line d0")
        canvas.add("polyline", f"{look} s{ENTRIES[role].slot}", _tip(board, item), fill="none",
                   points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))  # fmt: skip
    for n, (x, axis) in enumerate(zip(places, axes, strict=True)):
        _draw_axis(canvas, x, (top, bottom), axis, scale, stagger=n % 2 == 1)
    return Drawing(canvas, f"{board.title}: {len(kept)} designs over {', '.join(axis.name for axis in axes)}")


def _draw_axis(
    canvas: Canvas, x: float, ends: tuple[float, float], axis: _Axis, scale: Scale, *, stagger: bool
) -> None:
    canvas.line(x, ends[0], x, ends[1], "axis")
    for share, text in axis.ticks:
        y = scale(share)
        width = text_width(text)
        canvas.add("rect", "plate", x=x + 4.0, y=y - 8.0, width=width + 4.0, height=15.0)
        canvas.text(x + 6, y + 4, text, "tick")
        canvas.line(x - 3, y, x + 3, y, "axis")
    # Neighbouring names are long: every second one goes a line lower.
    canvas.text(x, ends[1] + (34.0 if stagger else 18.0), axis.name, "name", "middle")


def _parameter_axis(board: Board, path: str) -> _Axis | None:
    values = list(dict.fromkeys(item.parameters[path] for item in board.designs if path in item.parameters))
    if len(values) < 2:
        return None
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        values.sort()
    where = {value: n / (len(values) - 1) for n, value in enumerate(values)}  # evenly: values are choices
    every = max(math.ceil(len(values) / 9), 1)
    ticks = tuple(
        (share, view.parameter(path, value)) for n, (value, share) in enumerate(where.items()) if n % every == 0
    )
    return _Axis(
        view.short_path(path, board.parameters), lambda item: where.get(item.parameters.get(path)), ticks, True
    )


def _metric_axis(board: Board, name: str) -> _Axis | None:
    feasible = [item for item in board.designs if item.feasible] or list(board.designs)
    values = [view.shown(name, value) for item in feasible if (value := item.metrics.get(name)) and value > 0]
    if not values or max(values) == min(values):
        return None
    low, high = min(values), max(values)
    scale = Scale(low, high, *((0.0, 1.0) if name in HIGHER_IS_BETTER else (1.0, 0.0)))

    def at(item: Item) -> float | None:
        value = item.metrics.get(name)
        return scale(view.shown(name, value)) if value and value > 0 else None

    ticks = [(scale(value), compact(value)) for value in scale.ticks() if low <= value <= high]
    if len(ticks) < 2:
        ticks = [(scale(low), f"{low:.3g}"), (scale(high), f"{high:.3g}")]
    return _Axis(view.heading(name), at, tuple(ticks))


# -- tornado ---------------------------------------------------------------------------------------------


def tornado(board: Board, name: str) -> Drawing | None:
    """How a metric of the choice changes at the two ends of every figure, the largest change first."""
    rows = view.tornado_rows(board, name)
    if not rows:
        return None
    names = [_swing_name(board, swing) for swing in rows]
    left, pitch, bar = min(max(map(text_width, names)) + 16, 330.0), 24.0, 14.0
    entries = [Entry("at the lower value", 5, 1), Entry("at the higher value", 1, 1)]
    top = legend_height(entries, SIZE[0]) + 8
    canvas = Canvas(SIZE[0], top + pitch * len(rows) + 46)
    draw_legend(canvas, entries)
    changes = [[(ratio - 1) * 100 if ratio is not None else 0.0 for ratio in swing.ratios[name]] for swing in rows]
    most = max(abs(change) for pair in changes for change in pair) * 1.05
    x = Scale(-most, most, left, SIZE[0] - 96.0, log=False)
    bottom = top + pitch * len(rows)
    for tick in x.ticks():
        canvas.line(x(tick), top, x(tick), bottom, "grid")
        canvas.text(x(tick), bottom + 16, f"{tick:+g} %" if tick else "0", "tick", "middle")
    for row, (swing, label, pair) in enumerate(zip(rows, names, changes, strict=True)):
        y = top + pitch * row
        canvas.text(left - 8, y + 16, label, "", "end")
        _bars(canvas, x, y + 5, bar, pair, label)
        canvas.text(SIZE[0] - 88, y + 16, f"{swing.elasticity[name]:+.2f}" if name in swing.elasticity else "", "faint")
    canvas.line(x(0.0), top, x(0.0), bottom, "axis")
    canvas.text(
        (left + SIZE[0] - 96) / 2, bottom + 36, f"change of {view.heading(name)}; right: elasticity", "name", "middle"
    )
    return Drawing(canvas, f"Change of {view.heading(name)} with every figure: largest {names[0]}")


def _bars(canvas: Canvas, x: Scale, y: float, height: float, pair: Sequence[float], label: str) -> None:
    """Both bars; where they go the same way each has half the height."""
    same = pair[0] * pair[1] > 0
    for n, (change, slot) in enumerate(zip(pair, (5, 1), strict=True)):
        if not change:
            continue
        ends = sorted((x(0.0), x(change)))
        lower, tall = (n * height / 2, height / 2) if same else (0.0, height)
        canvas.add("rect", f"bar f{slot}", f"{label}: {change:+.2f} %", x=ends[0], y=y + lower,
                   width=max(ends[1] - ends[0], 0.5), height=tall)  # fmt: skip


def _swing_name(board: Board, swing: Swing) -> str:
    ends = [view.parameter(swing.path, value) for value in swing.ends]
    name = swing.path.removeprefix("chip.")
    return (
        name
        if not board.step.startswith("the least")
        else f"{view.short_path(name, board.parameters)} {ends[0]} to {ends[1]}"
    )
