"""PNG files of our own SVG drawings, by Matplotlib: what ``svg.Canvas`` writes, in the light colours."""

from __future__ import annotations

import io
import math
import re
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree  # reads nothing but what svg.Canvas wrote

from npusim.report.svg import FONT, asset

DPI = 144
_NS = "{http://www.w3.org/2000/svg}"
Style = dict[str, str]


@lru_cache(maxsize=1)
def _rules() -> tuple[tuple[str, frozenset[str], Style], ...]:
    """(tag, classes, declarations) of the charts' style sheet, colours filled in."""
    first = asset("colours.css").split("@media")[0]
    colours = dict(re.findall(r"--([\w-]+):\s*(#\w+)", first))
    found = []
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", asset("chart.css")):
        style = dict(re.findall(r"([\w-]+):\s*([^;]+?)\s*(?:;|$)", body))
        style = {key: re.sub(r"var\(--([\w-]+)\)", lambda m: colours[m[1]], value) for key, value in style.items()}
        for selector in selectors.split(","):
            last = selector.split()[-1]
            found.append((last.split(".")[0], frozenset(last.split(".")[1:]), style))
    return tuple(found)


def _style(element: Any) -> Style:
    classes = set(element.get("class", "").split())
    tag = element.tag.removeprefix(_NS)
    style: Style = {}
    for name, wanted, declared in _rules():
        if wanted <= classes and name in ("", tag) and (wanted or name):
            style |= declared
    return style | {key: element.get(key) for key in ("fill",) if element.get(key)}


def png(document: str) -> bytes:
    """The picture of ``Canvas.document``, at twice its size in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    root = ElementTree.fromstring(document)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    figure = Figure(figsize=(width / 72, height / 72), dpi=DPI, facecolor="#ffffff")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for order, element in enumerate(root.iter()):
        draw = _DRAW.get(element.tag.removeprefix(_NS))
        if draw is not None:
            draw(axes, element, _style(element), order)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _pen(style: Style) -> dict[str, Any]:
    dashes = style.get("stroke-dasharray")
    pen: dict[str, Any] = {
        "color": style.get("stroke", "none"),
        "linewidth": float(style.get("stroke-width", "1")),
        "alpha": float(style.get("stroke-opacity", "1")),
    }
    if dashes:
        pen["linestyle"] = (0, tuple(float(part) / max(pen["linewidth"], 0.5) for part in dashes.split()))
    return pen


def _patch(style: Style) -> dict[str, Any]:
    fill = style.get("fill", "#000000")
    return {
        "facecolor": (fill, float(style.get("fill-opacity", "1"))) if fill != "none" else "none",
        "edgecolor": style.get("stroke", "none"),
        "linewidth": float(style.get("stroke-width", "1")) if "stroke" in style else 0.0,
    }


def _numbers(element: Any, *names: str) -> list[float]:
    return [float(element.get(name, "0")) for name in names]


def _corners(element: Any) -> list[tuple[float, float]]:
    pairs = (point.split(",") for point in element.get("points", "").split())
    return [(float(x), float(y)) for x, y in pairs]


def _line(axes: Any, element: Any, style: Style, order: int) -> None:
    x1, y1, x2, y2 = _numbers(element, "x1", "y1", "x2", "y2")
    axes.plot([x1, x2], [y1, y2], zorder=order, scalex=False, scaley=False, **_pen(style))


def _polyline(axes: Any, element: Any, style: Style, order: int) -> None:
    points = _corners(element)
    if points:
        axes.plot(*zip(*points, strict=True), zorder=order, scalex=False, scaley=False, **_pen(style))


def _rect(axes: Any, element: Any, style: Style, order: int) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = _numbers(element, "x", "y", "width", "height")
    axes.add_patch(Rectangle((x, y), width, height, zorder=order, **_patch(style)))


def _circle(axes: Any, element: Any, style: Style, order: int) -> None:
    from matplotlib.patches import Circle

    x, y, radius = _numbers(element, "cx", "cy", "r")
    axes.add_patch(Circle((x, y), radius, zorder=order, **_patch(style)))


def _polygon(axes: Any, element: Any, style: Style, order: int) -> None:
    from matplotlib.patches import Polygon

    axes.add_patch(Polygon(_corners(element), closed=True, zorder=order, **_patch(style)))


def _text(axes: Any, element: Any, style: Style, order: int) -> None:
    from matplotlib.patheffects import withStroke

    x, y = _numbers(element, "x", "y")
    turned = re.match(r"rotate\((-?[\d.]+)", element.get("transform", ""))
    angle = -float(turned[1]) if turned else 0.0
    side = {"middle": "center", "end": "right"}.get(element.get("text-anchor", ""), "left")
    # A literal dollar sign would start a formula.
    halo = [withStroke(linewidth=3, foreground=style["stroke"])] if "paint-order" in style else []
    axes.text(x, y, (element.text or "").replace("$", r"\$"), fontsize=FONT * 0.92, color=style.get("fill", "#000000"),
              path_effects=halo, ha=side, va="baseline", rotation=angle % 360, rotation_mode="anchor", zorder=order,
              fontweight="bold" if math.isclose(float(style.get("font-weight", "400")), 600) else "normal")  # fmt: skip


_DRAW = {"line": _line, "polyline": _polyline, "rect": _rect, "circle": _circle, "polygon": _polygon, "text": _text}
