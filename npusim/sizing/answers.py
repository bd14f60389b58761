"""The inverse question and sensitivities of one design.

Least figure: how little of one figure of the chip still reaches the targets, everything else as it is. The answer is a
bracket of two evaluated values, one that fails and one that holds, with the limit that fails below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from npusim.chip import Chip
from npusim.errors import NpuError
from npusim.sizing.quantities import METRICS
from npusim.sizing.targets import Judge, Judgement

TOLERANCE = 1e-3  # width of the bracket
_SHAPE = ("core.matrix.rows", "core.matrix.cols", "core.matrix.arrays")
_SCALES = [2.0 ** (i / 4) for i in range(-24, 25)]  # 1/64 to 64, coarse steps


@dataclass(frozen=True)
class Least:
    """The least of one figure that reaches the targets.

    Args:
        name: the figure: ``bandwidth``, ``sram l1``, ``link``, ``peak`` ...
        path: in the chip file; with ``*`` for all formats.
        unit: of the values.
        now: its value in the design.
        state: ``found``, ``never`` (no value tried holds), or ``always`` (the least value tried holds).
        below: the largest value tried that fails, just under ``above``; None unless found.
        above: the least value that holds; the least or greatest value tried otherwise.
        binding: what fails at ``below`` (or at every value).
        bound: what bounds the decode time there.
    """

    name: str
    path: str
    unit: str
    now: float
    state: str
    below: float | None
    above: float
    binding: tuple[str, ...]
    bound: str


@dataclass(frozen=True)
class _Knob:
    name: str
    path: str
    unit: str
    now: float
    chip: Callable[[float], Chip]  # with the figure at a value


def knobs(chip: Chip) -> list[_Knob]:
    """Figures the inverse question is asked of: memory bandwidth, every on-chip level, links, peak."""

    def at(path: str) -> Callable[[float], Chip]:
        return lambda value: chip.replace({path: value})

    found = []
    if chip.memory is not None and chip.memory.bandwidth_bytes_per_s:
        found.append(_Knob("bandwidth", "memory.bandwidth", "B/s", chip.memory.bandwidth_bytes_per_s,
                           at("memory.bandwidth")))  # fmt: skip
    for name, level in chip.levels.items():
        path = f"levels.{name}.capacity"
        found.append(_Knob(f"sram {name}", path, "B", level.capacity_bytes, at(path)))
    if chip.link is not None:
        found.append(_Knob("link", "link.bandwidth", "B/s", chip.link.bandwidth_bytes_per_s, at("link.bandwidth")))
    if peaks := chip.peaks_flops_per_s:
        found.append(_Knob("peak", "peak.*", "FLOP/s", max(peaks.values()), _peak_at(chip)))
    return found


def _peak_at(chip: Chip) -> Callable[[float], Chip]:
    """All formats in proportion: the engine does more MACs per cycle at the same shape."""
    best = max(chip.peaks_flops_per_s.values())
    rates = chip.core.matrix.flops_per_cycle if chip.core.matrix is not None else chip.peak
    head = "core.matrix.flops_per_cycle" if chip.core.matrix is not None else "peak"
    return lambda value: chip.replace({f"{head}.{name}": rate * value / best for name, rate in rates.items()})


def least(judge: Judge, knob: _Knob) -> Least:
    """Brackets the least value of a figure at which every limit holds.

    Values are tried from small to large in steps of 19 %; where the first one holds, bisection narrows the step. So a
    limit that forbids large values (power, area) does not hide the answer.
    """

    def judged(value: float) -> Judgement:
        try:
            return judge.judge(knob.chip(value))
        except NpuError as error:
            return Judgement({}, (), (str(error),), "")

    below: float | None = None
    failed = Judgement({}, (), (), "")
    for scale in _SCALES:
        value = knob.now * scale
        verdict = judged(value)
        if verdict.feasible:
            break
        below, failed = value, verdict
    else:
        nearest = judged(knob.now)
        return Least(knob.name, knob.path, knob.unit, knob.now, "never", below, value, nearest.violated, nearest.bound)
    if below is None:
        return Least(knob.name, knob.path, knob.unit, knob.now, "always", None, value, (), verdict.bound)
    above = value
    while above / below > 1 + TOLERANCE:
        middle = math.sqrt(above * below)
        verdict = judged(middle)
        if verdict.feasible:
            above = middle
        else:
            below, failed = middle, verdict
    return Least(knob.name, knob.path, knob.unit, knob.now, "found", below, above, failed.violated, failed.bound)


@dataclass(frozen=True)
class Sensitivity:
    """How metrics follow one figure of the chip.

    Args:
        path: the figure.
        value: in the design, SI.
        low: the lower value tried.
        high: the higher one.
        elasticity: metric → d ln(metric) / d ln(figure), a central difference.
        at_low: metrics at the lower value, for a tornado plot.
        at_high: and at the higher one.
    """

    path: str
    value: float
    low: float
    high: float
    elasticity: dict[str, float]
    at_low: dict[str, float]
    at_high: dict[str, float]


def sensitivities(judge: Judge, chip: Chip, step: float = 0.05, paths: Iterable[str] = ()) -> list[Sensitivity]:
    """Elasticity of every metric to every figure of ``chip`` that has a number, the largest first.

    Whole numbers move by one at least. The engine's rates follow its shape (rows, columns, arrays): multipliers are
    what an array is made of. A figure that cannot move alone (another one contradicts it) is left out, and so are
    metrics that have no value.
    """
    found = []
    everything = {name for name, value in judge.judge(chip).metrics.items() if value is not None}
    for path, value in chip.paths().items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            continue
        if paths and path not in paths:
            continue
        whole = isinstance(value, int)
        low = min(round(value / (1 + step)), value - 1) if whole else value / (1 + step)
        high = max(round(value * (1 + step)), value + 1) if whole else value * (1 + step)
        try:
            down, up = (judge.judge(_moved(chip, path, end / value)).metrics for end in (low or value, high))
        except NpuError:
            continue
        pairs = {name: (down.get(name), up.get(name)) for name in METRICS if name in everything}
        known = {name: (a, b) for name, (a, b) in pairs.items() if a and b}
        if len(known) < len(everything):
            continue
        ratio = math.log(high / (low or value))
        elasticity = {name: math.log(b / a) / ratio for name, (a, b) in known.items()}
        found.append(
            Sensitivity(path, float(value), float(low or value), float(high), elasticity,
                        {name: a for name, (a, _) in known.items()}, {name: b for name, (_, b) in known.items()})
        )  # fmt: skip
    return sorted(found, key=lambda s: (-max(map(abs, s.elasticity.values()), default=0.0), s.path))


def _moved(chip: Chip, path: str, ratio: float) -> Chip:
    """The chip with one figure, and the rates that follow from it, times ``ratio``."""
    value = chip.paths()[path]
    assert isinstance(value, (int, float))
    changes: dict[str, object] = {path: round(value * ratio) if isinstance(value, int) else value * ratio}
    if path in _SHAPE and chip.core.matrix is not None:
        rates = chip.core.matrix.flops_per_cycle
        changes |= {f"core.matrix.flops_per_cycle.{name}": rate * ratio for name, rate in rates.items()}
    return chip.replace(changes)
