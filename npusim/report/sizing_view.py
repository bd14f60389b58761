"""What the reports of a sweep and of a sizing show: one board of designs, existing chips, sensitivities and the choice.

A sweep is read as a sizing is: a design's metrics are the worst over its cases, the front is over the objectives, the
choice is the knee. Its tornado holds the neighbours of the choice in the grid, that of a sizing its ±5 % steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npusim import units
from npusim.chip import Chip
from npusim.errors import InputError, Problem
from npusim.kperf_suite import KPerf, kperf
from npusim.report import format
from npusim.sizing import fronts
from npusim.sizing.quantities import HIGHER_IS_BETTER, METRICS, metric
from npusim.sizing.sizes import Sizing
from npusim.sizing.sweeps import Sweep

# Metric → heading, unit, factor from SI.
SHOWN = {
    "usd_per_mtoken": ("Cost", "USD/Mtoken", 1.0),
    "tokens_per_j": ("Efficiency", "tokens/J", 1.0),
    "tokens_per_s_per_chip": ("Throughput", "tokens/s per chip", 1.0),
    "tokens_per_s": ("Throughput", "tokens/s", 1.0),
    "tokens_per_s_per_user": ("Speed", "tokens/s per user", 1.0),
    "ttft_s": ("TTFT", "ms", 1e3),
    "tpot_s": ("TPOT", "ms", 1e3),
    "tpot_loaded_s": ("TPOT loaded", "ms", 1e3),
    "time_s": ("Time", "ms", 1e3),
    "lower_bound_s": ("Lower bound", "ms", 1e3),
    "energy_j": ("Energy", "J", 1.0),
    "power_w": ("Power", "W per chip", 1.0),
    "avg_power_w": ("Power", "W", 1.0),
    "chips": ("Chips", "", 1.0),
    "area_mm2": ("Area", "mm²", 1.0),
    "die_mm2": ("Die", "mm²", 1.0),
    "cost_usd": ("Chip cost", "USD", 1.0),
    "tdp_w": ("TDP", "W", 1.0),
    "mfu": ("MFU", "%", 100.0),
    "mbu": ("MBU", "%", 100.0),
    "memory_bytes": ("Memory needed", "GB per chip", 1e-9),
    "memory_capacity_bytes": ("Memory", "GB", 1e-9),
    "sram_bytes": ("SRAM", "MiB", 1 / 2**20),
    "dram_bytes_per_s": ("Bandwidth", "TB/s", 1e-12),
    "peak_flops_per_s": ("Peak", "PFLOP/s", 1e-15),
}
TABLE = ("usd_per_mtoken", "tokens_per_j", "tokens_per_s_per_chip", "time_s", "ttft_s", "tpot_s", "tpot_loaded_s",
         "power_w", "chips", "die_mm2", "area_mm2", "cost_usd")  # fmt: skip
TORNADO_ROWS = 14
MOVED = 0.002  # metrics that move less are not drawn
MAX_MODELS = 6  # whose K-Perf rows are shown


@dataclass(frozen=True)
class Item:
    """A design or an existing chip.

    Args:
        name: ``design 12``, or a catalog name.
        existing: whether it is an existing chip.
        parameters: what varies, SI; empty for existing chips.
        metrics: SI, by name.
        violated: limits it misses.
        bound: what bounds most of its time.
        marks: ``front``, ``knee``, ``best``.
        note: the fidelity of an existing chip.
    """

    name: str
    existing: bool
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    violated: tuple[str, ...]
    bound: str
    marks: tuple[str, ...] = ()
    note: str = ""

    @property
    def feasible(self) -> bool:
        """Whether it keeps to every limit."""
        return not self.violated


@dataclass(frozen=True)
class Swing:
    """How metrics of the choice follow one figure: two other values of it, and every metric there as a ratio."""

    path: str
    ends: tuple[float, float]
    ratios: Mapping[str, tuple[float | None, float | None]]
    elasticity: Mapping[str, float]


@dataclass(frozen=True)
class Board:
    """All that a report shows.

    Args:
        title: of the page.
        subtitle: how it was made.
        objectives: metrics of the axes, the most important first.
        asked: targets, cases and limits in words.
        parameters: what varies, in order.
        items: designs in order, then existing chips.
        choice: index of the design that is described closely; None when none is feasible.
        chip: that design, or the base chip.
        swings: its sensitivities, the largest first.
        step: what the ends of the swings are, in words.
        least: inverse answers as (figure, now, answer, what fails below).
        kperf: K-Perf rows of the choice, None where it cannot be priced.
        notes: what to know before quoting anything.
    """

    title: str
    subtitle: str
    objectives: tuple[str, ...]
    asked: tuple[str, ...]
    parameters: tuple[str, ...]
    items: tuple[Item, ...]
    choice: int | None
    chip: Chip
    swings: tuple[Swing, ...]
    step: str
    least: tuple[tuple[str, str, str, str], ...]
    kperf: KPerf | None
    notes: tuple[str, ...]

    @property
    def designs(self) -> tuple[Item, ...]:
        """Without existing chips."""
        return tuple(item for item in self.items if not item.existing)

    def table_metrics(self) -> list[str]:
        """Objectives first, then what is known of any item."""
        names = dict.fromkeys([*self.objectives, *TABLE])
        return [name for name in names if any(item.metrics.get(name) is not None for item in self.items)]


NOTES = (
    "Predictions of a model, not measurements; times are uncalibrated unless a note says otherwise.",
    "Area, energy and prices are public or assumed constants with errors of their own (docs/power-area-cost.md): trust "
    "ratios between variants more than absolute figures.",
    "Areas are modelled; existing chips are priced at the die area their makers state, designs at the modelled one.",
)


def heading(name: str) -> str:
    """``Cost, USD/Mtoken``; a name that is not known as it is."""
    if name not in SHOWN:
        return name
    text, unit, _ = SHOWN[name]
    return f"{text}, {unit}" if unit else text


def shown(name: str, value: float) -> float:
    """A metric in the unit of its heading."""
    return value * SHOWN[name][2] if name in SHOWN else value


def cell(name: str, value: float | None) -> str:
    """A metric as text in the unit of its heading."""
    if value is not None and name == "chips":
        return str(int(value))
    return format.NOTHING if value is None else format.number(shown(name, value))


def parameter(path: str, value: Any) -> str:
    """A parameter's value as text with its unit."""
    path = path.removeprefix("chip.")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6 and "." not in path:
        return str(int(value))
    return format.figure(path, value)


def short_path(path: str, paths: Sequence[str] = ()) -> str:
    """The last parts of a path that tell it from the others."""
    parts = path.removeprefix("chip.").split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[-count:])
        if sum(other.removeprefix("chip.").split(".")[-count:] == parts[-count:] for other in paths) <= 1:
            return name
    return ".".join(parts)


# -- of a sizing -----------------------------------------------------------------------------------------


def of_sizing(found: Sizing) -> Board:
    """The board of a sizing; K-Perf rows of the best design are priced here."""
    designs = []
    for index, item in enumerate(found.candidates):
        marks = (("front", index in found.front), ("knee", index == found.knee), ("best", index == found.best))
        designs.append(
            Item(f"design {index}", False, item.parameters, item.verdict.metrics, item.verdict.violated,
                 item.verdict.bound, tuple(name for name, on in marks if on))
        )  # fmt: skip
    chips = [
        Item(n.name, True, {}, n.verdict.metrics, n.verdict.violated, n.verdict.bound, (), n.fidelity)
        for n in found.neighbours
    ]
    swings = []
    at = found.candidates[found.best].verdict.metrics if found.best is not None else {}
    for one in found.sensitivities:
        ratios = {name: (_ratio(one.at_low.get(name), at.get(name)), _ratio(one.at_high.get(name), at.get(name)))
                  for name in one.elasticity}  # fmt: skip
        swings.append(Swing(one.path, (one.low, one.high), ratios, one.elasticity))
    judge = found.judge
    chosen = found.design(found.best)
    services = [(t.model, t.precision) for t in judge.targets]
    about = (f"{len(found.candidates)} designs ({found.method})", f"fidelity {judge.fidelity}", f"power {judge.power}")
    return Board(
        f"Sizing {found.chip.title}", " · ".join(about), found.objectives,
        tuple([f"Target: {t.text}" for t in judge.targets] + [f"Limit: {limit.text}" for limit in judge.limits]),
        tuple(found.space), (*designs, *chips), found.best, chosen, tuple(swings),
        "5 % (whole figures by one) either way",
        tuple(_least(one) for one in found.least), _kperf_of(chosen, services, judge.fidelity, judge.power), NOTES,
    )  # fmt: skip


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _least(one: Any) -> tuple[str, str, str, str]:
    value = units.show(one.above, one.unit, 4)
    now = units.show(one.now, one.unit, 4)
    if one.state == "found" and one.below is not None:
        fails = f"{units.show(one.below, one.unit, 4)} fails: {'; '.join(one.binding)} (bound by {one.bound})"
        return f"{one.name} ({one.path})", now, f"{value} holds", fails
    if one.state == "always":
        return f"{one.name} ({one.path})", now, f"{value} still holds", "does not bind"
    return f"{one.name} ({one.path})", now, "none", f"no value up to {value} helps: {'; '.join(one.binding)}"


def _kperf_of(chip: Chip, services: Sequence[tuple[str, str]], fidelity: str, power: str) -> KPerf | None:
    """K-Perf rows of the chip for the models and precisions of the question; None where it has none."""
    models = list(dict.fromkeys(model for model, _ in services))[:MAX_MODELS]
    precisions = list(dict.fromkeys(precision for _, precision in services))
    try:
        return kperf(chip, models=models, precisions=precisions, fidelity=fidelity, power_cap=power != "tdp")
    except InputError:
        return None


# -- of a sweep ------------------------------------------------------------------------------------------


def of_sweep(found: Sweep, objectives: Sequence[str] = ()) -> Board:
    """The board of a sweep.

    Args:
        found: its results.
        objectives: metrics of the axes; default: cost per token or time against cost of the chip, whatever is known.

    Raises:
        InputError: an unknown objective, or none that any design has a figure of.
    """
    items = [_of_design(found, d) for d in range(len(found.designs))]
    names = tuple(metric(name, "--objective") for name in objectives) or _known_objectives(items)
    table = np.array([_costs(item, names) for item in items])
    table[[not item.feasible for item in items]] = np.nan
    front = fronts.pareto(table)
    bend = int(front[fronts.knee(table[front])]) if front.size else None
    for index in front.tolist():
        marks = ("front", "knee", "best") if index == bend else ("front",)
        one = items[index]
        items[index] = Item(one.name, False, one.parameters, one.metrics, one.violated, one.bound, marks)
    plan = found.plan
    chip = plan.build(found.designs[bend]) if bend is not None else plan.chip
    services = [(case.model, case.precision) for case in found.cases if not case.changes]
    failed = int((found.status == "failed").sum())
    about = (f"{len(items)} designs x {len(found.cases)} cases", f"{failed} failed", f"fidelity {plan.fidelity}",
             f"power {plan.power}")  # fmt: skip
    causal = _kperf_of(chip, services, plan.fidelity, plan.power) if services else None
    return Board(
        f"Sweep {plan.name}", " · ".join(about), names,
        tuple([f"Constraint: {limit.text}" for limit in plan.constraints] + _cases(found)), tuple(plan.design_axes),
        tuple(items), bend, chip, _grid_swings(items, bend, tuple(plan.design_axes)),
        "the least and the greatest other value in the grid", (), causal,
        (*NOTES, "Metrics of a design are the worst over all cases; the choice is the knee of the front."),
    )  # fmt: skip


def _of_design(found: Sweep, d: int) -> Item:
    """A design's worst case of every metric, and what it violates in any of them."""
    name, parameters = f"design {d}", dict(found.designs[d].parameters)
    if found.status[d] != "done":
        return Item(name, False, parameters, {}, (found.messages[d] or "failed",), "")
    metrics: dict[str, float | None] = {key: _plain(values[d]) for key, values in found.design_metrics.items()}
    for key, values in found.metrics.items():
        known = values[d][np.isfinite(values[d])]
        worst = None if not known.size else float(known.min() if key in HIGHER_IS_BETTER else known.max())
        metrics[key] = worst
    violated = [] if found.fits[d].all() else ["does not fit the memory"]
    for limit in found.plan.constraints:
        values = found.metric(limit.metric)[d]
        held = values <= limit.limit if limit.at_most else values >= limit.limit
        if not held.all():
            violated.append(limit.text)
    bounds = [bound for bound in found.bounds[d].tolist() if bound]
    return Item(name, False, parameters, metrics, tuple(violated), max(set(bounds), key=bounds.count) if bounds else "")


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _known_objectives(items: Sequence[Item]) -> tuple[str, ...]:
    def known(name: str) -> bool:
        return any(item.metrics.get(name) is not None for item in items)

    first = [name for name in ("usd_per_mtoken", "tpot_s", "ttft_s", "time_s") if known(name)][:1]
    second = [name for name in ("tokens_per_j", "cost_usd", "area_mm2", "tdp_w") if known(name)][:1]
    if not first + second:
        raise InputError(Problem("no design has a figure to compare by", "--objective"))
    return tuple(first + second)


def _costs(item: Item, names: Sequence[str]) -> list[float]:
    values = [item.metrics.get(name) for name in names]
    return [math.nan if value is None else -value if name in HIGHER_IS_BETTER else value
            for name, value in zip(names, values, strict=True)]  # fmt: skip


def _cases(found: Sweep) -> list[str]:
    models = dict.fromkeys(f"{case.phase} of {case.model} in {case.precision}" for case in found.cases)
    return [f"Cases: {text}" for text in list(models)[:20]]


def _grid_swings(items: Sequence[Item], choice: int | None, paths: Sequence[str]) -> tuple[Swing, ...]:
    """Designs of the grid that differ from the choice in one figure only: the least and the greatest value of it."""
    if choice is None:
        return ()
    base = items[choice]
    found = []
    for path in paths:
        rest = {key: value for key, value in base.parameters.items() if key != path}
        line = [item for item in items if item.metrics and isinstance(item.parameters[path], (int, float))
                and {key: value for key, value in item.parameters.items() if key != path} == rest]  # fmt: skip
        line.sort(key=lambda item: float(item.parameters[path]))
        if len(line) < 2:
            continue
        low, high = line[0], line[-1]
        ends = (float(low.parameters[path]), float(high.parameters[path]))
        ratios = {name: (_ratio(low.metrics.get(name), value), _ratio(high.metrics.get(name), value))
                  for name in METRICS if (value := base.metrics.get(name))}  # fmt: skip
        apart = math.log(ends[1] / ends[0]) if ends[0] > 0 else 0.0
        elasticity = {name: math.log(b / a) / apart for name, (a, b) in ratios.items() if a and b and apart}
        found.append(Swing(path, ends, ratios, elasticity))
    return tuple(found)


def tornado_rows(board: Board, name: str) -> list[Swing]:
    """Swings that move a metric, the largest first."""

    def size(swing: Swing) -> float:
        return max((abs(r - 1) for r in swing.ratios.get(name, ()) if r is not None), default=0.0)

    rows = sorted(
        (swing for swing in board.swings if size(swing) > MOVED), key=lambda swing: (-size(swing), swing.path)
    )
    return rows[:TORNADO_ROWS]
