"""Pictures of where time goes: the timeline of one operator, and what bounds each operator of a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from npusim.cost import Cost, trace_events
from npusim.cost.program import WORK, Floats
from npusim.cost.trace_events import Run
from npusim.errors import InputError, Problem
from npusim.report.format import binary_bytes
from npusim.report.plots import RESOURCE_SLOT, Entry, draw_legend, legend_height, short_name
from npusim.report.svg import Canvas, Scale, compact, text_width
from npusim.units import show

WIDTH, LEFT, RIGHT = 960.0, 112.0, 20.0
ROW, BAR, GAP, STRIP = 17.0, 13.0, 7.0, 64.0
SLOT = {"load": 1, "matrix": 0, "vector": 2, "store": 4, "link": 3}
RESOURCES = np.array(list(WORK.values()))
SHOWN_CORES = 4
# Operators beyond the longest this many share a bar.
SHOWN_OPERATORS = 40


@dataclass(frozen=True)
class Slices:
    """Pieces of a row, in pixels: runs of tasks of one kind that are too close to tell apart."""

    begin: Floats
    end: Floats
    busy: Floats  # pixels of a piece in which a task runs
    tasks: Floats


def merged(begin: Floats, end: Floats) -> Slices:
    """Joins what lies less than a pixel apart, as long as pieces or gaps are thinner than a pixel themselves.

    Args:
        begin: pixels at which the tasks of a row begin, ascending.
        end: pixels at which they end; tasks do not overlap.
    """
    if not len(begin):
        nothing = np.zeros(0)
        return Slices(nothing, nothing, nothing, nothing)
    thin = (end - begin) < 1.0
    # A new piece where a gap can be seen, or between two tasks that are wide enough to stand alone.
    fresh = np.concatenate(([True], (begin[1:] - end[:-1] >= 1.0) | ~(thin[1:] | thin[:-1])))
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(begin)) - 1
    busy = np.asarray(np.add.reduceat(end - begin, first), float)
    return Slices(begin[first], end[last], busy, np.asarray(last - first + 1.0))


# -- one operator -------------------------------------------------------------------------------------------


def timeline(run: Run, title: str, cores: int = SHOWN_CORES) -> str:
    """The timeline of one operator as an SVG file: queues of the first cores, DRAM bandwidth, core memory.

    Args:
        run: the operator's run.
        title: what the picture says it is.
        cores: how many cores to show.
    """
    ran = run.ran
    all_queues = ran.program.queues
    queues = [i for i, queue in enumerate(all_queues) if queue.core < cores]
    queues.sort(key=lambda i: (all_queues[i].core, trace_events.QUEUE_ORDER.index(all_queues[i].name)))
    done = {RESOURCES[code] for code in np.unique(ran.program.work)}
    kinds = [kind for kind in SLOT if kind in done]
    entries = [Entry(kind, SLOT[kind], 1) for kind in kinds]
    top = 26 + legend_height(entries, WIDTH)
    groups = len({all_queues[i].core for i in queues})
    rows_end = top + ROW * len(queues) + GAP * groups
    canvas = Canvas(WIDTH, rows_end + 2 * (STRIP + 26) + 48)
    canvas.text(LEFT - 54, 16, title)
    body = Canvas(WIDTH, canvas.height)
    draw_legend(body, entries)
    canvas.parts += [f'<g transform="translate(0 22)">{"".join(body.parts)}</g>']
    x = Scale(0.0, max(ran.makespan_s * 1e6, 1e-6), LEFT, WIDTH - RIGHT, log=False)
    strips = rows_end + 22
    _time_axis(canvas, x, top, strips + 2 * STRIP + 26)
    y, core = top, all_queues[queues[0]].core
    for i in queues:
        queue = all_queues[i]
        y, core = (y + GAP, queue.core) if queue.core != core else (y, core)
        _queue_row(canvas, x, y, run, i)
        y += ROW
    _bandwidth_strip(canvas, x, strips, run)
    _memory_strip(canvas, x, strips + STRIP + 26, run)
    return canvas.document(f"Timeline of {title}")


def _time_axis(canvas: Canvas, x: Scale, top: float, bottom: float) -> None:
    for tick in x.ticks():
        canvas.line(x(tick), top, x(tick), bottom, "grid")
        canvas.text(x(tick), bottom + 16, compact(tick), "tick", "middle")
    canvas.line(x.start, bottom, x.end, bottom, "axis")
    canvas.text((x.start + x.end) / 2, bottom + 36, "time, µs", "name", "middle")


def _queue_row(canvas: Canvas, x: Scale, y: float, run: Run, index: int) -> None:
    """One queue: a bar for each task; where tasks are too thin, a bar that is the paler the more of it is idle."""
    ran = run.ran
    queue = ran.program.queues[index]
    where = "chip" if queue.core < 0 else f"core {queue.core}"
    canvas.text(LEFT - 8, y + BAR - 2.5, f"{where} {queue.name}", "", "end")
    canvas.line(LEFT, y + BAR, WIDTH - RIGHT, y + BAR, "grid")
    mine = np.flatnonzero((ran.program.queue == index) & (RESOURCES[ran.program.work] != ""))
    mine = mine[np.argsort(ran.begin_s[mine], kind="stable")]
    scale = (x.end - x.start) / x.high * 1e6
    for kind in np.unique(RESOURCES[ran.program.work[mine]]):
        tasks = mine[RESOURCES[ran.program.work[mine]] == kind]
        found = merged(x.start + ran.begin_s[tasks] * scale, x.start + ran.end_s[tasks] * scale)
        for begin, end, busy, count in zip(found.begin, found.end, found.busy, found.tasks, strict=True):
            width = max(end - begin, 0.5)
            many = f"{int(count)} tasks, busy {busy / width:.0%}" if count > 1 else "1 task"
            span = f"{(begin - x.start) / scale * 1e6:.3f} to {(end - x.start) / scale * 1e6:.3f} µs"
            faded = {"fill_opacity": f"{max(busy / width, 0.15):.2f}"} if count > 1 and busy < 0.95 * width else {}
            cut = {"stroke_width": 0.5} if width < 6 else {}
            canvas.add("rect", f"f{SLOT[str(kind)]}" + ("" if width < 6 else " bar"), f"{where} {kind}: {many}, {span}",
                       x=float(begin), y=y, width=float(width), height=BAR, **faded, **cut)  # fmt: skip


def _bandwidth_strip(canvas: Canvas, x: Scale, top: float, run: Run) -> None:
    edges, rate = trace_events.dram_bandwidth(run.ran, run.dram_bytes_per_s, bins=200)
    peak = run.dram_bytes_per_s
    name = f"DRAM bandwidth; peak {show(peak, 'B/s', 4)}, mean {np.mean(rate) / peak:.0%} of it"
    _strip(canvas, x, top, edges * 1e6, rate / peak, name, 1)


def _memory_strip(canvas: Canvas, x: Scale, top: float, run: Run) -> None:
    edges, most = trace_events.fullest(run.ran, bins=200)
    room = run.ran.program.core_bytes
    name = f"memory of the fullest core; {binary_bytes(room)}, at most {np.max(most, initial=0.0) / room:.0%} taken"
    _strip(canvas, x, top, edges * 1e6, most / room, name, 3)


def _strip(canvas: Canvas, x: Scale, top: float, edges: Floats, share: Floats, name: str, slot: int) -> None:
    """A filled curve of shares of a peak; its name above."""
    bottom = top + STRIP
    y = Scale(0.0, 1.0, bottom, top, log=False)
    canvas.text(LEFT, top - 6, name, "faint")
    for value in (0.0, 0.5, 1.0):
        canvas.line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid")
        canvas.text(LEFT - 8, y(value) + 4, f"{value:.0%}", "tick", "end")
    canvas.line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis")
    points = [(x(0.0), bottom)]
    for left, right, value in zip(edges[:-1], edges[1:], share, strict=True):
        points += [(x(left), y(value)), (x(right), y(value))]
    points.append((x(edges[-1]), bottom))
    canvas.add("polygon", f"dot f{slot}", name, points=" ".join(f"{a:.1f},{b:.1f}" for a, b in points))


# -- a step -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """An operator of the step: shares of 1."""

    name: str
    share: float
    time_s: float
    bounds: dict[str, float]
    matrix: float
    dram: float


def utilisation(cost: Cost) -> str:
    """What bounds each operator of a step, and how busy matrix engine and DRAM are meanwhile, as an SVG file.

    Args:
        cost: a workload with scalar dimensions, priced at any fidelity.

    Raises:
        InputError: array dimensions.
    """
    if np.ndim(cost.time_s):
        raise InputError(Problem("a plot needs scalar dimensions", hint="price one shape at a time"))
    rows = list(_rows(cost))
    slots = _bound_slots(rows)
    entries = [Entry(f"bound by {name}", slot, 1) for name, slot in slots.items()]
    left = min(max(text_width(row.name) for row in rows) + 20, 240.0)
    top = 26 + legend_height(entries, WIDTH) + 24
    canvas = Canvas(WIDTH, top + 24 * len(rows) + 10)
    canvas.text(
        58, 16, f"{cost.workload.name} on {cost.chip.title}, {cost.fidelity}: {show(float(cost.time_s), 's', 4)}"
    )
    body = Canvas(WIDTH, canvas.height)
    draw_legend(body, entries)
    canvas.parts += [f'<g transform="translate(0 22)">{"".join(body.parts)}</g>']
    wide = (WIDTH - left - 4 * 70) / 2
    first = Scale(0.0, 1.0, left, left + wide, log=False)
    matrix = Scale(0.0, 1.0, left + wide + 140, left + wide * 1.5 + 140, log=False)
    dram = Scale(0.0, 1.0, matrix.end + 60, matrix.end + 60 + wide / 2, log=False)
    for scale, name in ((first, "share of the step's time"), (matrix, "matrix engine busy"), (dram, "DRAM busy")):
        canvas.text(scale.start, top - 9, name, "name")
        for tick in (0.0, 0.5, 1.0):
            canvas.line(scale(tick), top - 3, scale(tick), top + 24 * len(rows), "grid")
    for index, row in enumerate(rows):
        _operator(canvas, top + 24 * index, row, slots, (first, matrix, dram))
    return canvas.document(f"What bounds {cost.workload.name} on {cost.chip.title}")


def _rows(cost: Cost) -> Iterator[_Row]:
    """The whole step, then its operators; those beyond the longest ``SHOWN_OPERATORS`` together."""
    total = float(cost.time_s)

    def row(name: str, time_s: float, bounds: dict[str, float], matrix_s: float, dram_s: float) -> _Row:
        shares = {key: value / total for key, value in bounds.items()} if total else {}
        per = 1 / time_s if time_s else 0.0
        return _Row(
            name, time_s / total if total else 0.0, time_s, shares, min(matrix_s * per, 1), min(dram_s * per, 1)
        )

    def busy(key: str, ops: list[int]) -> float:
        return sum(float(cost.ops[i].seconds.get(key, 0.0)) for i in ops)

    def together(name: str, ops: list[int]) -> _Row:
        bounds: dict[str, float] = {}
        for i in ops:
            bounds[str(cost.ops[i].bound)] = bounds.get(str(cost.ops[i].bound), 0.0) + float(cost.ops[i].time_s)
        return row(name, sum(bounds.values()), bounds, busy("matrix", ops), busy("dram", ops))

    everything = list(range(len(cost.ops)))
    whole = {name: float(seconds) for name, seconds in cost.bound_seconds.items()}
    yield row("whole step", total, whole, busy("matrix", everything), busy("dram", everything))
    longest = sorted(everything, key=lambda i: -float(cost.ops[i].time_s))[:SHOWN_OPERATORS]
    for i in sorted(longest):
        yield together(short_name(cost.ops[i].op.name), [i])
    if rest := sorted(set(everything) - set(longest)):
        yield together(f"{len(rest)} shorter ones", rest)


def _bound_slots(rows: list[_Row]) -> dict[str, int]:
    """Resources in a fixed order with their colours."""
    names = {name for row in rows for name in row.bounds}
    other = sorted(names - set(RESOURCE_SLOT))
    known = {name: slot for name, slot in RESOURCE_SLOT.items() if name in names}
    return known | {name: 4 + index % 2 for index, name in enumerate(other)}


def _operator(canvas: Canvas, y: float, row: _Row, slots: dict[str, int], scales: tuple[Scale, Scale, Scale]) -> None:
    first, matrix, dram = scales
    name = row.name
    while text_width(name) > first.start - 16:
        name = name[:-2].rstrip("…") + "…"
    canvas.text(first.start - 8, y + 14, name, "", "end")
    done = 0.0
    for resource, slot in slots.items():
        share = row.bounds.get(resource, 0.0)
        if share > 0:
            title = f"{row.name}: {share:.1%} of the step, bound by {resource}"
            _bar(canvas, first(done), first(done + share), y, f"bar f{slot}", title)
            done += share
    text = f"{row.share:.1%}, {show(row.time_s, 's')}"
    canvas.text(first.end + 8, y + 14, text)
    for scale, value, slot, what in ((matrix, row.matrix, 0, "matrix engine"), (dram, row.dram, 1, "DRAM")):
        _bar(canvas, scale.start, scale(value), y, f"bar f{slot}", f"{row.name}: {what} busy {value:.1%} of its time")
        canvas.text(scale.end + 8, y + 14, f"{value:.0%}")


def _bar(canvas: Canvas, start: float, end: float, y: float, cls: str, title: str) -> None:
    if end > start:
        canvas.add("rect", cls, title, x=start, y=y + 2, width=end - start, height=17.0)
