"""Pictures of a serving run: requests as a Gantt chart, what batches are made of, the cache, latency against load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from npusim.report.plots import Entry, Point, Series, draw_legend, legend_height, lines
from npusim.report.serving_text import answer
from npusim.report.svg import Canvas, Plot, Scale, asset, compact, escape
from npusim.serving.answer import PROBE_REQUESTS, Serving, at_rate, sustainable_rate
from npusim.serving.engine import SERIES
from npusim.serving.limits import limits_of

SHOWN = 60  # requests of the Gantt chart
SIZE = (820.0, 260.0)
LOADS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.87, 0.93, 0.97)  # of the sustainable rate
_PARTS = (("waiting", "arrival", "admitted", 4), ("prompt", "admitted", "first", 0), ("decoding", "first", "last", 1))


@dataclass(frozen=True)
class Figure:
    """A drawing, its title and what to know about it."""

    title: str
    chart: str
    caption: str


def figures(serving: Serving, curves: bool = True) -> list[Figure]:
    """The figures of a run that kept its records; ``curves`` runs other loads too."""
    found = [
        Figure("Requests", gantt(serving), f"The {SHOWN} requests in the middle of the run, or all, by arrival."),
        Figure("Batches", batches(serving, tokens=False), "Sequences of a step; mean of the steps of each moment."),
        Figure("Batches in tokens", batches(serving, tokens=True), "New tokens of a step, likewise."),
        Figure("Requests in the system", load_over_time(serving), "Means of each moment."),
        Figure("KV cache", occupancy(serving), "Blocks in use, of all engines; kept prefixes are not counted."),
    ]
    if curves and (drawn := latency_curves(serving)):
        found.append(Figure("Latency against load", drawn,
                            "Runs of the same lengths at shares of the sustainable rate."))  # fmt: skip
    return found


def document(serving: Serving, curves: bool = True) -> str:
    """The figures as one HTML page without a request to anywhere."""
    c = serving.case
    title = f"{c.model.name} ({c.precision}) on {c.place.chips} x {c.chip.name}"
    t = serving.run.totals
    sub = f"{int(t['finished'])} requests in {t['now']:.4g} s, {int(t['steps'])} steps priced at {c.fidelity}"
    data = {**serving.to_dict(), "limits": limits_of(serving).to_dict()}
    said = "".join(f"<p>{escape(line)}</p>" for line in answer(data))
    body = "".join(
        f"<figure><h4>{escape(one.title)}</h4>{one.chart}<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in figures(serving, curves)
    )
    style = "\n".join(map(asset, ("colours.css", "chart.css", "page.css")))
    own = "body{max-width:900px;margin:1.5rem auto;padding:0 1rem} figure{margin:1.2rem 0}  .chart{max-width:none}"
    own += " body>p{margin:.3rem 0}"
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{style}{own}</style></head><body>'
            f'<h1>{escape(title)}</h1><p class="sub">{escape(sub)}</p>{said}{body}</body></html>\n')  # fmt: skip


def drawing(serving: Serving) -> str:
    """The figures under each other as one SVG file."""
    parts, y = [], 0.0
    for one in figures(serving):
        height = float(one.chart.split('viewBox="0 0 ')[1].split('"')[0].split()[1])
        placed = f'<svg x="0" y="{y:g}" width="{SIZE[0]:g}" height="{height:g}" '
        parts.append(one.chart.replace("<svg ", placed, 1))
        y += height + 12
    canvas = Canvas(SIZE[0], y, parts)
    return canvas.document("Requests, batches, cache and latencies of a serving run")


# -- charts ----------------------------------------------------------------------------------------------------


def gantt(serving: Serving) -> str:
    """Requests as bars: waiting, prompt, decoding."""
    rows = serving.records
    first = max((len(rows) - SHOWN) // 2, 0)
    rows = rows[first : first + SHOWN]
    entries = [Entry(name, slot, 1) for name, _, _, slot in _PARTS]
    pitch, top, left = 8.0, legend_height(entries, SIZE[0]) + 8, 64.0
    canvas = Canvas(SIZE[0], top + pitch * len(rows) + 44)
    draw_legend(canvas, entries)
    begin_s, end_s = float(rows["arrival"].min()), float(rows["last"].max())
    x = Scale(begin_s, max(end_s, begin_s + 1e-9), left, SIZE[0] - 16, log=False)
    bottom = top + pitch * len(rows)
    _seconds(canvas, x, top, bottom)
    for index, row in enumerate(rows):
        y = top + pitch * index
        if index % 10 == 0:
            canvas.text(left - 8, y + 8, str(int(row["id"])), "tick", "end")
        for name, start, stop, slot in _PARTS:
            a, b = x(float(row[start])), x(float(row[stop]))
            if b > a:
                words = f"request {row['id']}: {name} {1e3 * (row[stop] - row[start]):.4g} ms"
                canvas.add("rect", f"f{slot}", words, x=a, y=y + 1, width=max(b - a, 0.4), height=pitch - 2)
    canvas.text(14, (top + bottom) / 2, "request", "name", "middle", rotate=-90)
    return canvas.render("Gantt chart of requests: waiting, prompt, decoding")


def _seconds(canvas: Canvas, x: Scale, top: float, bottom: float) -> None:
    for tick in x.ticks():
        canvas.line(x(tick), top, x(tick), bottom, "grid")
        canvas.text(x(tick), bottom + 16, compact(tick), "tick", "middle")
    canvas.line(x.start, bottom, x.end, bottom, "axis")
    canvas.text((x.start + x.end) / 2, bottom + 36, "time, s", "name", "middle")


def batches(serving: Serving, tokens: bool) -> str:
    """What a step is made of over time, stacked: decodes and prompts, in sequences or in tokens."""
    edges = _edges(serving)
    sums = dict(zip(SERIES, serving.run.series[: len(edges) - 1].T, strict=True))
    parts = sums["decodes"], sums["prompts"]
    if tokens:
        parts = sums["new_tokens"] - sums["prompt_tokens"], sums["prompt_tokens"]
    # No step begins in the bins that a long one covers: they show that one.
    begun = np.maximum.accumulate(np.where(sums["steps"] > 0, np.arange(len(edges) - 1), 0))
    shown = np.where((sums["steps"] > 0) | (sums["busy"] > 0), begun, -1)
    decode, prompt = (np.where(shown >= 0, part[shown] / np.maximum(sums["steps"][shown], 1), 0.0) for part in parts)
    unit = "tokens" if tokens else "sequences"
    layers = [("decodes", decode, 1), ("prompts", prompt, 0)]
    return _stacked(edges, layers, f"{unit} of a step", f"Decodes and prompts of a step over time, in {unit}")


def load_over_time(serving: Serving) -> str:
    """Running and waiting requests over time."""
    series = serving.over_time()
    layers = [("running", series["running"], 1), ("waiting", series["waiting"], 4)]
    return _stacked(_edges(serving), layers, "requests", "Running and waiting requests over time")


def occupancy(serving: Serving) -> str:
    """Share of the cache in use over time."""
    share = 100 * serving.over_time()["kv_occupancy"]
    return _stacked(
        _edges(serving), [("in use", share, 2)], "% of the blocks", "Share of the KV cache in use over time"
    )


def _edges(serving: Serving) -> np.ndarray:
    starts = serving.over_time()["time_s"]
    return np.append(starts, serving.run.totals["now"])


def _stacked(edges: np.ndarray, layers: Sequence[tuple[str, np.ndarray, int]], name: str, label: str) -> str:
    """Steps of stacked areas, first layer below."""
    entries = [Entry(text, slot, 1) for text, _, slot in layers]
    top = max(float(sum(values for _, values, _ in layers).max()), 1e-9)  # type: ignore[union-attr]
    plot = Plot.make(SIZE, (float(edges[0]), float(edges[-1])), (0.0, 1.05 * top), ("time, s", name),
                     top=legend_height(entries, SIZE[0]) + 8, linear=True)  # fmt: skip
    draw_legend(plot.canvas, entries)
    base = np.zeros(len(edges) - 1)
    for _, values, slot in layers:
        upper = base + values
        outline = _steps(plot, edges, upper) + _steps(plot, edges, base)[::-1]
        plot.canvas.add("polygon", f"f{slot}", points=" ".join(f"{px:.1f},{py:.1f}" for px, py in outline))
        base = upper
    return plot.canvas.render(label)


def _steps(plot: Plot, edges: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    """Corners of a step function."""
    corners = zip(np.repeat(edges, 2)[1:-1].tolist(), np.repeat(values, 2).tolist(), strict=True)
    return [(plot.x(px), plot.y(py)) for px, py in corners]


def latency_curves(serving: Serving) -> str | None:
    """Percentiles of TTFT and TPOT against the rate of arrivals, with the limits of the SLO."""
    case, source = serving.case, serving.source
    top = sustainable_rate(case, source)
    if not (top > 0 and math.isfinite(top)):
        return None
    runs = [(top * share, case.run(at_rate(source, top * share, PROBE_REQUESTS))[1]) for share in LOADS]
    wanted: tuple[tuple[str, Callable[..., float], int, int], ...] = (
        ("TTFT p50", lambda d: d.ttft.at(0.5), 0, 0), ("TTFT p99", lambda d: d.ttft.at(0.99), 0, 1),
        ("TPOT p50", lambda d: d.tpot.at(0.5), 1, 0), ("TPOT p99", lambda d: d.tpot.at(0.99), 1, 1),
    )  # fmt: skip
    series = []
    for name, figure, slot, dash in wanted:
        values = [(rate, 1e3 * figure(digest)) for rate, digest in runs]
        points = tuple(Point(rate, ms, f"{name} {ms:.4g} ms at {rate:.4g} requests/s") for rate, ms in values if ms > 0)
        series.append(Series(Entry(name, slot, slot, dash), points))
    if serving.slo:
        for name, limit_s, slot in (("TTFT limit", serving.slo.ttft_s, 0), ("TPOT limit", serving.slo.tpot_s, 1)):
            if math.isfinite(limit_s):
                ends = tuple(Point(rate, 1e3 * limit_s, name) for rate in (runs[0][0], runs[-1][0]))
                series.append(Series(Entry(name, slot, 3, 2), ends))
    return lines(series, ("requests/s", "ms"), "TTFT and TPOT against the rate of arrivals",
                 size=(SIZE[0], 360.0))  # fmt: skip
