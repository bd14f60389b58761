"""The charts of the page as inline SVG; each returns None when the result holds nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from npusim import units
from npusim.kperf_suite import KPerf
from npusim.report import compare, format, view
from npusim.report.svg import FONT, Canvas, Plot, Scale, compact, log_range, overlap, text_width

SMALL = (560.0, 340.0)
WIDE = (720.0, 430.0)
LEGEND_LINE = 20.0
# Resource → colour slot; on-chip levels take the remaining ones in turn.
RESOURCE_SLOT = {"matrix": 0, "dram": 1, "vector": 2, "link": 3}
ROOF_LABELS = 150.0  # pixels right of the roofline plot
SAME_PLACE = 8.0  # pixels within which operators share a label
LABELLED_SHARE = 0.03  # operators with less of a phase's time carry a tooltip only


@dataclass(frozen=True)
class Entry:
    """A legend entry: its text, colour slot, marker shape and dash pattern (None: no line)."""

    text: str
    slot: int
    shape: int
    dash: int | None = None


@dataclass(frozen=True)
class Point:
    """A point with what its tooltip says."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Series:
    """A line with markers."""

    entry: Entry
    points: tuple[Point, ...]


def legend_height(entries: Sequence[Entry], width: float) -> float:
    """Height that ``draw_legend`` takes."""
    return LEGEND_LINE * (1 + max((line for line, _, _ in _flow(entries, width)), default=0))


def _flow(entries: Sequence[Entry], width: float) -> list[tuple[int, float, Entry]]:
    """Line and x of each legend entry, wrapped to the width."""
    placed, line, x = [], 0, 58.0
    for entry in entries:
        need = 34 + text_width(entry.text) + 12
        if x + need > width and x > 58.0:
            line, x = line + 1, 58.0
        placed.append((line, x, entry))
        x += need
    return placed


def draw_legend(canvas: Canvas, entries: Sequence[Entry]) -> None:
    """Draws legend entries at the top, in as many lines as they need."""
    for line, x, entry in _flow(entries, canvas.width):
        y = 14 + line * LEGEND_LINE
        if entry.dash is not None:
            canvas.line(x, y - 4, x + 26, y - 4, f"line s{entry.slot} d{entry.dash}")
        canvas.marker(x + 13, y - 4, entry.shape, f"fill f{entry.slot}")
        canvas.text(x + 32, y, entry.text)


def lines(series: Sequence[Series], names: tuple[str, str], label: str, x_ticks: Sequence[float] = (),
          size: tuple[float, float] = SMALL) -> str | None:  # fmt: skip
    """Lines with markers on two logarithmic axes."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    points = [point for one in drawn for point in one.points]
    x, y = log_range([p.x for p in points], 1.15), log_range([p.y for p in points])
    entries = [one.entry for one in drawn]
    ticks = [tick for tick in x_ticks if x[0] <= tick <= x[1]]
    plot = Plot.make(size, x, y, names, top=legend_height(entries, size[0]) + 6, x_ticks=ticks)
    draw_legend(plot.canvas, entries)
    for one in drawn:
        pixels = [(plot.x(p.x), plot.y(p.y)) for p in one.points]
        plot.canvas.polyline(pixels, f"line s{one.entry.slot} d{one.entry.dash}")
        for (px, py), point in zip(pixels, one.points, strict=True):
            plot.canvas.marker(px, py, one.entry.shape, f"fill f{one.entry.slot}", point.title)
    return plot.canvas.render(label)


def _series(chips: Sequence[view.ChipRows], model: str, pick: Callable[[Sequence[view.Row]], list[view.Row]],
            x_key: str, y_key: str) -> list[Series]:  # fmt: skip
    """One line per chip and precision: colour and marker say the precision, the dashes the chip."""
    found = []
    for dash, chip in enumerate(chips):
        for slot, precision in enumerate(view.unique(chip.rows, "precision")):
            rows = pick(chip.case(model, precision))
            name = f"{precision}, {format.chips(rows[0]['tp'])}" if rows else precision
            label = f"{chip.label} {name}" if len(chips) > 1 else name
            points = tuple(_point(row, x_key, y_key, label) for row in rows if row[x_key] and row[y_key])
            found.append(Series(Entry(label, slot % 6, slot, dash % 4), points))
    return found


def _point(row: view.Row, x_key: str, y_key: str, label: str) -> Point:
    where = f"{label}, {format.lengths(row)}, C = {format.concurrency(row)}"
    seen = "; ".join(f"{format.HEADING[key]} {format.cell(key, row[key])} {format.UNIT[key]}"
                     for key in ("ttft_s", "tpot_s", "tokens_per_s_per_chip", "tokens_per_s_per_user"))  # fmt: skip
    return Point(format.shown(x_key, row[x_key]), format.shown(y_key, row[y_key]), f"{where}: {seen}")


def throughput(chips: Sequence[view.ChipRows], model: str) -> str | None:
    """Throughput per chip against concurrency at the reference length."""
    series = _series(chips, model, view.at_reference, "concurrency", "tokens_per_s_per_chip")
    return lines(series, ("concurrent requests", "tokens/s per chip"),
                 f"Throughput per chip against concurrency, {model}", _level_ticks(chips))  # fmt: skip


def pareto(chips: Sequence[view.ChipRows], model: str) -> str | None:
    """Throughput per chip against speed per user at the reference length."""
    series = _series(chips, model, view.at_reference, "tokens_per_s_per_user", "tokens_per_s_per_chip")
    return lines(
        series, ("tokens/s per user", "tokens/s per chip"), f"Throughput per chip against speed per user, {model}"
    )


def ttft(chips: Sequence[view.ChipRows], model: str) -> str | None:
    """Time to first token against input length."""
    series = _series(chips, model, view.by_input, "input_tokens", "ttft_s")
    ticks = sorted({float(row["input_tokens"]) for chip in chips for row in chip.rows})
    return lines(series, ("input tokens", "TTFT, ms"), f"Time to first token against input length, {model}", ticks)


def efficiency(chips: Sequence[view.ChipRows], model: str) -> str | None:
    """Output tokens per joule against concurrency at the reference length."""
    series = _series(chips, model, view.at_reference, "concurrency", "tokens_per_j")
    return lines(
        series,
        ("concurrent requests", "tokens/J"),
        f"Tokens per joule against concurrency, {model}",
        _level_ticks(chips),
    )


def _level_ticks(chips: Sequence[view.ChipRows]) -> list[float]:
    names = {row["concurrency_level"] for chip in chips for row in chip.rows}
    return sorted(float(name) for name in names if name != "max") if len(names) > 2 else []


# -- roofline ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roof:
    """A flat roof: the formats that share a peak."""

    formats: tuple[str, ...]
    flops_per_s: float
    used: bool


def roofs(chip: view.ChipRows, phases: Iterable[view.Phase]) -> list[Roof]:
    """The chip's peaks, formats of equal rate together, highest first."""
    used = {op.rate for one in phases for op in one.operators if op.flops > 0}
    groups: dict[float, list[str]] = {}
    for name, peak in chip.chip.peaks_flops_per_s.items():
        groups.setdefault(peak, []).append(name)
    return [Roof(tuple(names), peak, bool(used & set(names))) for peak, names in sorted(groups.items(), reverse=True)]


def slopes(chip: view.ChipRows) -> list[tuple[str, float, bool]]:
    """Memory slopes: name, bytes/s, whether it is the main memory."""
    memory = chip.chip.memory
    assert memory is not None and memory.bandwidth_bytes_per_s is not None
    found = [(memory.kind.upper(), memory.bandwidth_bytes_per_s, True)]
    for name, level in chip.chip.levels.items():
        bandwidth = chip.chip.level_bandwidth_bytes_per_s(level)
        if bandwidth is not None:
            found.append((name.upper(), bandwidth, False))
    return found


def roofline(chip: view.ChipRows, phases: Sequence[view.Phase]) -> str | None:
    """The chip's roofline with the operators of some phases on it."""
    operators = [(one, op) for one in phases for op in one.operators if op.flops > 0 and op.time_s > 0]
    if not operators:
        return None
    tops, memory = roofs(chip, phases), slopes(chip)
    used = [roof for roof in tops if roof.used] or tops[:1]
    ridges = [roof.flops_per_s / memory[0][1] for roof in used]
    x = log_range([*(op.flops / op.dram_bytes for _, op in operators if op.dram_bytes), *(r * 3 for r in ridges)], 1.6)
    low = min(op.flops / op.time_s for _, op in operators)
    y = (min(low / 2, used[-1].flops_per_s / 20), tops[0].flops_per_s * 2.2)
    entries = [Entry(one.title, index, index) for index, one in enumerate(phases)]
    plot = Plot.make(WIDE, x, y, ("FLOP per byte of main-memory traffic", "FLOP/s of one chip"),
                     top=legend_height(entries, WIDE[0]) + 6, right=ROOF_LABELS)  # fmt: skip
    draw_legend(plot.canvas, entries)
    dots = _dots(plot, operators, [one.name for one in phases])
    _draw_slopes(plot, memory, tops[0].flops_per_s, used[0].flops_per_s)
    _draw_roofs(plot, tops, memory)
    _draw_dots(plot, dots)
    return plot.canvas.render(f"Roofline of {chip.label} with operators of {' and '.join(one.title for one in phases)}")


def _draw_roofs(plot: Plot, tops: Sequence[Roof], memory: Sequence[tuple[str, float, bool]]) -> None:
    c, right, bottom = plot.canvas, plot.area[2], plot.area[3]
    steepest = max(bandwidth for _, bandwidth, _ in memory)
    label_y = -math.inf
    for index, roof in enumerate(roof for roof in tops if roof.flops_per_s >= plot.y.low):
        at = plot.y(roof.flops_per_s)
        start = plot.x(roof.flops_per_s / steepest)
        c.line(start, at, right, at, "roof" if roof.used else "roof faint")
        c.taken.append((start, at - 2, right, at + 2))
        label_y = max(at + 4, label_y + FONT + 2)  # close roofs must not share a line of text
        text = f"{'/'.join(roof.formats)} {units.show(roof.flops_per_s, 'FLOP/s')}"
        c.text(right + 6, label_y, text, "" if roof.used else "faint")
        if roof.used:
            ridge = roof.flops_per_s / memory[0][1]
            c.line(plot.x(ridge), at, plot.x(ridge), bottom, "ridge")
            text, y = f"ridge {format.number(ridge)} FLOP/B", bottom - 6 - index * (FONT + 3)
            c.text(plot.x(ridge) + 4, y, text, "faint")
            c.reserve(plot.x(ridge) + 4, y, text)


def _draw_slopes(plot: Plot, memory: Sequence[tuple[str, float, bool]], top: float, used: float) -> None:
    left, up, right, bottom = plot.area
    angle = -math.degrees(math.atan2((bottom - up) / math.log10(plot.y.high / plot.y.low),
                                     (right - left) / math.log10(plot.x.high / plot.x.low)))  # fmt: skip
    for name, bandwidth, main in memory:
        start = max(plot.x.low, plot.y.low / bandwidth)
        end = min(top / bandwidth, plot.x.high)
        if end <= start * 1.05:
            continue  # reaches the roof left of the plot
        plot.canvas.line(
            plot.x(start),
            plot.y(start * bandwidth),
            plot.x(end),
            plot.y(end * bandwidth),
            "roof" if main else "roof level",
        )
        text = f"{name} {units.show(bandwidth, 'B/s', 4)}"
        low, high = plot.x(start), plot.x(min(end, used / bandwidth))
        first = 0.06 if main else 0.25
        for part in (first, first + 0.1, first + 0.2, first + 0.35, first + 0.5):
            if _text_along(plot, text, bandwidth, low + part * (high - low), angle, high):
                break


def _text_along(plot: Plot, text: str, bandwidth: float, start: float, angle: float, limit: float) -> bool:
    """Writes along a slope, above it, from x = ``start``; False when it would pass ``limit`` or cover something."""
    length = text_width(text)
    across, rise = length * math.cos(math.radians(angle)), length * math.sin(math.radians(angle))
    if start + across > limit:
        return False
    left, _, right, _ = plot.area
    value = plot.x.low * (plot.x.high / plot.x.low) ** ((start - left) / (right - left))
    y = plot.y(value * bandwidth)
    along = [(start + across * step / 8, y + rise * step / 8) for step in range(9)]
    letters = [(px - 10, py - 20, px + 8, py) for px, py in along]
    if any(overlap(letter, other) for letter in letters for other in plot.canvas.taken):
        return False
    plot.canvas.taken += letters
    plot.canvas.text(start - 4, y - 5, text, "faint", rotate=angle)
    return True


@dataclass(frozen=True)
class Dot:
    """An operator on the roofline plot."""

    x: float
    y: float
    radius: float
    slot: int
    phase: str
    operator: view.Operator


def _dots(plot: Plot, operators: Sequence[tuple[view.Phase, view.Operator]], order: Sequence[str]) -> list[Dot]:
    """Where the operators sit, largest first; their boxes are taken before any label is placed."""
    dots = []
    for phase, op in sorted(operators, key=lambda item: -item[1].share):
        # Nothing from main memory: as far right as the plot goes.
        intensity = op.flops / op.dram_bytes if op.dram_bytes else math.inf
        radius = max(20 * math.sqrt(op.share), 2.5)
        dot = Dot(plot.x(intensity), plot.y(op.flops / op.time_s), radius, order.index(phase.name), phase.name, op)
        plot.canvas.taken.append((dot.x - radius, dot.y - radius, dot.x + radius, dot.y + radius))
        dots.append(dot)
    return dots


def _draw_dots(plot: Plot, dots: Sequence[Dot]) -> None:
    for dot in dots:
        op = dot.operator
        intensity = format.number(op.flops / op.dram_bytes) if op.dram_bytes else "unlimited"
        title = (f"{dot.phase} {op.name} ({op.rate}): {op.share:.1%} of the phase, bound by {op.bound}, "
                 f"{intensity} FLOP/B, {units.show(op.flops / op.time_s, 'FLOP/s')}")  # fmt: skip
        # A square of the same area as the circle.
        plot.canvas.marker(dot.x, dot.y, dot.slot, f"dot f{dot.slot}", title, dot.radius * (0.886 if dot.slot else 1.0))
    left = list(dots)
    while left:
        first = left[0]
        group = [d for d in left if d.slot == first.slot and math.hypot(d.x - first.x, d.y - first.y) < SAME_PLACE]
        left = [d for d in left if d not in group]
        share = sum(d.operator.share for d in group)
        if share >= LABELLED_SHARE:
            more = f" +{len(group) - 1} more" if len(group) > 1 else ""
            text = f"{short_name(first.operator.name)}{more}, {share:.0%}"
            plot.canvas.label(first.x, first.y, text, f"t{first.slot}", max(d.radius for d in group) + 3, plot.area)


def short_name(name: str) -> str:
    """An operator's name without the part that all layers share."""
    return name.removeprefix("layers.")


# -- bars and ratios -----------------------------------------------------------------------------------


def bounds(phases: Sequence[view.Phase]) -> str | None:
    """Per phase, the share of time in operators that each resource bounds, as stacked bars."""
    shown = [one for one in phases if sum(one.bound_seconds.values()) > 0]
    if not shown:
        return None
    slots = _slots(shown)
    entries = [Entry(name, slot, 1) for name, slot in slots.items()]
    left, bar, pitch = 168.0, 20.0, 30.0
    width = 560.0
    top = legend_height(entries, width) + 10
    canvas = Canvas(width, top + pitch * len(shown) + 4)
    draw_legend(canvas, entries)
    scale = Scale(0.0, 1.0, left, width - 84, log=False)
    for index, one in enumerate(shown):
        y, total = top + index * pitch, sum(one.bound_seconds.values())
        canvas.text(left - 8, y + 15, one.title, "", "end")
        canvas.text(width - 76, y + 15, f"{format.number(total * 1e3)} ms")
        done = 0.0
        for name in slots:
            share = one.bound_seconds.get(name, 0.0) / total
            if share <= 0:
                continue
            x0, x1 = scale(done), scale(done + share)
            canvas.add(
                "rect",
                f"bar f{slots[name]}",
                f"{one.title}: {name} bounds {share:.1%} of the time",
                x=x0,
                y=y,
                width=x1 - x0,
                height=bar,
            )
            if x1 - x0 > 40:
                canvas.text((x0 + x1) / 2, y + 14.5, f"{share:.0%}", "in", "middle")
            done += share
    spoken = [f"{one.title} mostly {max(one.bound_seconds, key=one.bound_seconds.__getitem__)}" for one in shown]
    return canvas.render("Share of time by the resource that bounds it: " + "; ".join(spoken))


def _slots(phases: Sequence[view.Phase]) -> dict[str, int]:
    """Resources in a fixed order with their colours."""
    names = dict.fromkeys(name for one in phases for name in one.bound_seconds)
    known = [name for name in RESOURCE_SLOT if name in names]
    other = sorted(name for name in names if name not in RESOURCE_SLOT)
    return {name: RESOURCE_SLOT[name] for name in known} | {name: 4 + index % 2 for index, name in enumerate(other)}


RATIO_METRICS = ("tokens_per_s_per_chip", "tokens_per_j")


def ratios(kperf: KPerf) -> str | None:
    """Throughput per chip and efficiency of every further chip relative to the first, at the largest level."""
    chips = view.by_chip(kperf)
    top = view.levels(kperf.rows)[-1]
    joined = [one for one in compare.headline(kperf) if one.condition[4] == top]
    entries, dots = [], []
    for chip in range(1, len(chips)):
        for shape, metric in enumerate(RATIO_METRICS):
            entry = Entry(
                f"{chips[chip].label}: {format.UNIT[metric]}{' per chip' if not shape else ''}",
                (2 * chip + shape - 2) % 6,
                shape,
            )
            found = [(index, factor) for index, one in enumerate(joined) if (factor := one.ratio(metric, chip))]
            if found:
                entries.append(entry)
            dots += [(index, factor, entry) for index, factor in found]
    if not dots:
        return None
    return _dot_plot(
        [f"{one.condition[0]}, {one.condition[1]}" for one in joined], dots, entries, f"ratio to {chips[0].label}"
    )


def _dot_plot(
    names: Sequence[str], dots: Sequence[tuple[int, float, Entry]], entries: Sequence[Entry], axis: str
) -> str:
    pitch, left = 24.0, min(max(map(text_width, names)) + 16, 300.0)
    top = legend_height(entries, WIDE[0]) + 8
    canvas = Canvas(WIDE[0], top + pitch * len(names) + 46)
    draw_legend(canvas, entries)
    bottom = top + pitch * len(names)
    x = Scale(*log_range([1.0, *(factor for _, factor, _ in dots)], 1.2), left, WIDE[0] - 20)
    for tick in x.ticks():
        canvas.line(x(tick), top, x(tick), bottom, "grid")
        canvas.text(x(tick), bottom + 16, f"{compact(tick)}x", "tick", "middle")
    canvas.line(x(1.0), top, x(1.0), bottom, "axis")
    canvas.text((left + WIDE[0] - 20) / 2, bottom + 36, axis, "name", "middle")
    for index, name in enumerate(names):
        canvas.text(left - 8, top + pitch * index + 16, name, "", "end")
    for index, factor, entry in dots:
        canvas.marker(
            x(factor),
            top + pitch * index + 12,
            entry.shape,
            f"fill f{entry.slot}",
            f"{names[index]}: {entry.text} {format.ratio(factor)}",
        )
    return canvas.render(f"{axis}, by model and precision")
