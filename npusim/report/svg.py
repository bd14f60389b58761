"""A small SVG builder: scales, axes and marks whose colours come from the page's style sheet.

The charts are written by hand rather than by a plotting library so that they follow the reader's light
or dark theme, carry a tooltip per point and stay a few kilobytes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FONT = 12.0
GLYPH = 0.56  # mean width of a character / font size


def escape(text: object) -> str:
    """Text for element content or a quoted attribute; characters XML forbids become ``?``."""
    kept = (c if c.isprintable() or c == "\n" else "?" for c in str(text))
    return html.escape("".join(kept), quote=True)


def asset(name: str) -> str:
    """Text of a file beside this module that goes into pages and drawings."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def num(value: float) -> str:
    """A coordinate with one decimal."""
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Scale:
    """Maps values low..high onto pixels start..end, linearly or logarithmically."""

    low: float
    high: float
    start: float
    end: float
    log: bool = True

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are clamped to the edge."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, self.clamp(value)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def clamp(self, value: float) -> float:
        """The value, no further than the edges."""
        return min(max(value, self.low), self.high)

    def ticks(self) -> list[float]:
        """Round values: powers of ten and, over few decades, 1-2-5 steps; even steps where a few suffice."""
        if not self.log or self.high < 3 * self.low:
            return _linear_ticks(self.low, self.high)
        decades = math.log10(self.high / self.low)
        steps = (1, 2, 3, 5, 7) if decades <= 1 else (1, 2, 5) if decades <= 2.6 else (1, 3) if decades <= 4 else (1,)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [s * 10.0**p for p in powers for s in steps if self.low * 0.999 <= s * 10.0**p <= self.high * 1.001]


def _linear_ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_range(values: Iterable[float], pad: float = 1.25) -> tuple[float, float]:
    """Limits of a logarithmic axis around positive values, with room on both sides."""
    known = [value for value in values if value > 0 and math.isfinite(value)]
    low, high = min(known), max(known)
    if high / low < 1.5:  # a single value needs an axis too
        low, high = low / 2, high * 2
    return low / pad, high * pad


def compact(value: float) -> str:
    """A tick label: ``0.02``, ``50``, ``1024``, ``20k``, ``1M``."""
    if 1000 <= value < 10000 and value == int(value):
        return str(int(value))
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:g}{prefix}"
    return f"{value:.3g}"


Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes cover a common point."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass
class Canvas:
    """Collects SVG elements; remembers the boxes of labels so that later ones keep clear."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)

    def add(self, tag: str, cls: str = "", title: str = "", **attributes: object) -> None:
        """Adds an element; underscores in attribute names become hyphens, floats coordinates."""
        given = {"class": cls, **attributes} if cls else attributes
        shown = " ".join(
            f'{key.replace("_", "-")}="{num(v) if isinstance(v, float) else escape(v)}"' for key, v in given.items()
        )
        inside = f"><title>{escape(title)}</title></{tag}>" if title else "/>"
        self.parts.append(f"<{tag} {shown}{inside}")

    def line(self, x1: float, y1: float, x2: float, y2: float, cls: str) -> None:
        """A straight line."""
        self.add("line", cls, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2))

    def polyline(self, points: Sequence[tuple[float, float]], cls: str) -> None:
        """A line through points."""
        self.add("polyline", cls, points=" ".join(f"{num(x)},{num(y)}" for x, y in points))

    def text(self, x: float, y: float, text: str, cls: str = "", anchor: str = "start", rotate: float = 0.0) -> None:
        """A text at its base line; ``rotate`` turns it clockwise by degrees."""
        turn = f' transform="rotate({num(rotate)} {num(x)} {num(y)})"' if rotate else ""
        kind = f' class="{cls}"' if cls else ""
        where = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.parts.append(f'<text x="{num(x)}" y="{num(y)}"{kind}{where}{turn}>{escape(text)}</text>')

    def reserve(self, x: float, y: float, text: str, anchor: str = "start") -> Box:
        """Marks the box of a text as taken."""
        box = self.box(x, y, text, anchor)
        self.taken.append(box)
        return box

    def box(self, x: float, y: float, text: str, anchor: str = "start") -> Box:
        """Estimated box of a text."""
        width = text_width(text)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        return left, y - FONT, left + width, y + 3

    def label(self, x: float, y: float, text: str, cls: str, reach: float, inside: Box) -> bool:
        """Places a text beside a point where nothing is yet; False (and no text) when there is no room."""
        places = ((x + reach, y + 4, "start"), (x - reach, y + 4, "end"), (x, y - reach, "middle"),
                  (x, y + reach + FONT - 2, "middle"), (x + reach, y - reach, "start"), (x - reach, y - reach, "end"),
                  (x + reach, y + reach + 9, "start"), (x - reach, y + reach + 9, "end"))  # fmt: skip
        return self.first_free(places, text, cls, inside)

    def first_free(self, places: Iterable[tuple[float, float, str]], text: str, cls: str, inside: Box) -> bool:
        """Writes a text at the first (x, y, anchor) that is free; False when none is."""
        for px, py, anchor in places:
            box = self.box(px, py, text, anchor)
            fits = box[0] >= inside[0] and box[1] >= inside[1] and box[2] <= inside[2] and box[3] <= inside[3]
            if fits and not any(overlap(box, other) for other in self.taken):
                self.taken.append(box)
                self.text(px, py, text, cls, anchor)
                return True
        return False

    def marker(self, x: float, y: float, shape: int, cls: str, title: str = "", size: float = 4.0) -> None:
        """A marker of one of four shapes, so that series differ without colour."""
        x, y = float(x), float(y)
        if shape % 4 == 0:
            self.add("circle", cls, title, cx=x, cy=y, r=size)
        elif shape % 4 == 1:
            self.add("rect", cls, title, x=x - size, y=y - size, width=2 * size, height=2 * size)
        else:
            s, up = size * 1.3, shape % 4 == 2
            corners = (
                [(x, y - s), (x + s, y + s * 0.8), (x - s, y + s * 0.8)]
                if up
                else [(x, y - s), (x + s, y), (x, y + s), (x - s, y)]
            )
            self.add("polygon", cls, title, points=" ".join(f"{num(a)},{num(b)}" for a, b in corners))

    def render(self, label: str) -> str:
        """The SVG element; ``label`` is read to those who cannot see it."""
        size = f"0 0 {num(self.width)} {num(self.height)}"
        head = f'<svg class="chart" viewBox="{size}" role="img" aria-label="{escape(label)}">'
        return head + "".join(self.parts) + "</svg>"

    def document(self, label: str) -> str:
        """The drawing as a file of its own, with its style sheet and background."""
        style = asset("colours.css") + asset("chart.css") + ".chart { background: var(--bg); max-width: none; }"
        size = f'xmlns="http://www.w3.org/2000/svg" width="{num(self.width)}" height="{num(self.height)}"'
        body = self.render(label).replace("<svg ", f"<svg {size} ", 1)
        return body.replace(">", f"><style>{style}</style>", 1) + "\n"


def text_width(text: str) -> float:
    """Estimated width of a text at the chart's font size."""
    return len(text) * FONT * GLYPH


@dataclass
class Plot:
    """A canvas with two axes. Draw with the scales ``x`` and ``y``."""

    canvas: Canvas
    x: Scale
    y: Scale

    @property
    def area(self) -> Box:
        """The box inside the axes."""
        return self.x.start, self.y.end, self.x.end, self.y.start

    @classmethod
    def make(cls, size: tuple[float, float], x: tuple[float, float], y: tuple[float, float], names: tuple[str, str],
             *, top: float = 12.0, right: float = 14.0, x_ticks: Sequence[float] = (),
             linear: bool = False) -> Plot:  # fmt: skip
        """Axes with grid, ticks and names; ``top`` leaves room for a legend, ``right`` for labels."""
        width, height = size
        across, up = Scale(*x, 58.0, width - right, not linear), Scale(*y, height - 46.0, top, not linear)
        plot = cls(Canvas(width, height), across, up)
        plot._axes(names, x_ticks)
        return plot

    def _axes(self, names: tuple[str, str], x_ticks: Sequence[float]) -> None:
        c = self.canvas
        left, top, right, bottom = self.area
        edge = -math.inf
        for tick in x_ticks or self.x.ticks():
            at = self.x(tick)
            c.line(at, top, at, bottom, "grid")
            half = text_width(compact(tick)) / 2
            if at - half > edge + 4:  # neighbouring tick labels must not touch
                c.text(at, bottom + 16, compact(tick), "tick", "middle")
                edge = at + half
        for tick in self.y.ticks():
            at = self.y(tick)
            c.line(left, at, right, at, "grid")
            c.text(left - 6, at + 4, compact(tick), "tick", "end")
        c.line(left, bottom, right, bottom, "axis")
        c.line(left, top, left, bottom, "axis")
        c.text((left + right) / 2, bottom + 36, names[0], "name", "middle")
        c.text(14, (top + bottom) / 2, names[1], "name", "middle", rotate=-90)
