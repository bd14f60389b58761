"""``size``: which of many variants of a chip reaches a service target at the least cost, and what the target needs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from npusim.chip import Chip, chip_names, find_chip, load_chip
from npusim.errors import DoesNotFit, InputError, NpuError, Problem, unknown_name
from npusim.sizing import answers, fronts
from npusim.sizing.bill import POWER
from npusim.sizing.expressions import Expression
from npusim.sizing.plan import Values, parameter_values
from npusim.sizing.quantities import HIGHER_IS_BETTER, Constraint, metric
from npusim.sizing.targets import Judge, Judgement, check_limits, parse_target, pinned

GRID = 2_000  # designs; larger spaces are searched
NEIGHBOURS = 8


@dataclass(frozen=True)
class Candidate:
    """One design that was judged.

    Args:
        parameters: chip path → value.
        verdict: its metrics, and the limits it violates.
    """

    parameters: dict[str, Any]
    verdict: Judgement


@dataclass(frozen=True)
class Neighbour:
    """An existing chip on the same axes.

    Args:
        name: in the catalog.
        title: as its makers write it.
        fidelity: the model that priced it: its description may only allow ``roofline``.
        verdict: its metrics, and the limits it violates.
    """

    name: str
    title: str
    fidelity: str
    verdict: Judgement


@dataclass(frozen=True)
class Sizing:
    """Result of ``size``.

    Args:
        chip: the base chip.
        judge: targets and limits.
        objectives: metrics in the order of importance; those of ``HIGHER_IS_BETTER`` are maximised.
        space: parameter → values.
        derived: figure → expression of parameters and figures.
        method: ``grid``, ``nsga2`` or ``tpe``.
        candidates: every design that was judged.
        front: indices of feasible designs that no other beats in every objective.
        knee: index of the one in the bend of the front; None without a front.
        best: index of the feasible design with the best first objective; None when none is feasible.
        neighbours: existing chips, nearest first.
        least: inverse answers for the best design (the base chip when none is feasible), on as many chips as it takes.
        sensitivities: of the same design.
    """

    chip: Chip
    judge: Judge
    objectives: tuple[str, ...]
    space: dict[str, Values]
    method: str
    candidates: tuple[Candidate, ...]
    front: tuple[int, ...]
    knee: int | None
    best: int | None
    neighbours: tuple[Neighbour, ...]
    least: tuple[answers.Least, ...]
    sensitivities: tuple[answers.Sensitivity, ...]
    derived: Mapping[str, Expression] = field(default_factory=dict)

    def design(self, index: int | None) -> Chip:
        """The chip of a candidate; the base chip for None."""
        return self.chip if index is None else varied(self.chip, self.candidates[index].parameters, self.derived)

    def axes(self, verdict: Judgement) -> list[float]:
        """Objectives of a verdict as costs: what is maximised is negated; nan where unknown."""
        return costs(verdict, self.objectives)

    def require_any(self) -> None:
        """Raises DoesNotFit when no design reaches the targets; says what is in the way most often."""
        if self.best is None:
            counts: dict[str, int] = {}
            for item in self.candidates:
                for text in item.verdict.violated:
                    counts[text] = counts.get(text, 0) + 1
            worst = sorted(counts.items(), key=lambda pair: -pair[1])[:3]
            told = "; ".join(f"{text} (fails in {count})" for text, count in worst)
            raise DoesNotFit(f"none of {len(self.candidates)} designs reaches the target: {told}")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: plain types, stable keys, units in the keys."""
        return {
            "chip": self.chip.name,
            "targets": [target.text for target in self.judge.targets],
            "limits": [limit.text for limit in self.judge.limits],
            "fidelity": self.judge.fidelity,
            "power": self.judge.power,
            "objectives": list(self.objectives),
            "space": {name: list(values) for name, values in self.space.items()},
            "derived": {name: expression.text for name, expression in self.derived.items()},
            "method": self.method,
            "designs": [_told(item.verdict, parameters=item.parameters) for item in self.candidates],
            "front": list(self.front),
            "knee": self.knee,
            "best": self.best,
            "existing_chips": [
                _told(n.verdict, name=n.name, title=n.title, fidelity=n.fidelity) for n in self.neighbours
            ],
            "least": [asdict(item) for item in self.least],
            "sensitivities": [asdict(item) for item in self.sensitivities],
        }


def _told(verdict: Judgement, **more: Any) -> dict[str, Any]:
    return more | {
        "feasible": verdict.feasible, "violated": list(verdict.violated), "bound": verdict.bound,
        "metrics": verdict.metrics,
    }  # fmt: skip


def costs(verdict: Judgement, objectives: Sequence[str]) -> list[float]:
    """Objectives as figures to minimise, nan where unknown."""
    found = []
    for name in objectives:
        value = verdict.metrics.get(name)
        found.append(math.nan if value is None else -value if name in HIGHER_IS_BETTER else value)
    return found


def varied(chip: Chip, parameters: Mapping[str, Any], derived: Mapping[str, Expression] | None = None) -> Chip:
    """The chip with parameters replaced, and then what is derived of them, in order.

    A parameter that is no figure of the chip exists for the expressions only.
    """
    figures = chip.paths()
    changes = {path: value for path, value in parameters.items() if path in figures or "." in path}
    known = figures | dict(parameters)
    for path, expression in (derived or {}).items():
        known[path] = expression.value(known)
        if path in figures or "." in path:
            changes[path] = known[path]
    return chip.replace(changes) if changes else chip


def parse_vary(text: str, chip: Chip) -> tuple[str, Values]:
    """Reads ``memory.stacks=4,6,8`` or ``memory.bandwidth=4TB/s..9TB/s:6`` (``:6:log`` for a logarithmic range).

    Raises:
        InputError: not of this form, an unknown figure, or values it cannot take.
    """
    path, equals, rest = text.partition("=")
    path = path.strip().removeprefix("chip.")
    if not equals or not rest.strip():
        raise InputError(
            Problem(f"{text[:80]!r} is not PATH=VALUES", "--vary", allowed="PATH=4,6,8 or PATH=4TB/s..9TB/s:6[:log]")
        )
    ends = re.fullmatch(r"\s*(.+?)\s*\.\.\s*([^:]+?)\s*(?::\s*(\d{1,6}))?\s*(?::\s*(log|linear))?\s*", rest)
    given: Any = [word.strip() for word in rest.split(",") if word.strip()]
    if ends:
        given = {"from": ends[1], "to": ends[2], "count": int(ends[3] or 9), "scale": ends[4] or "linear"}
    return path, _parameter(path, given, chip)


def _parameter(path: str, given: Any, chip: Chip) -> Values:
    """Values of a chip figure, or of a name that only expressions use."""
    figure = path in chip.paths() or not path.isidentifier()
    return parameter_values(f"chip.{path}" if figure else path, given, chip)


def parse_derived(text: str) -> tuple[str, str]:
    """Reads ``memory.capacity=memory.stacks*36e9``. Raises InputError when there is no ``=``."""
    path, equals, rest = text.partition("=")
    if not equals or not path.strip() or not rest.strip():
        raise InputError(Problem(f"{text[:80]!r} is not PATH=EXPRESSION", "--derive", allowed="PATH=EXPRESSION"))
    return path.strip().removeprefix("chip."), rest.strip()


def size(
    chip: Chip | str, target: str | Sequence[str], *, vary: Mapping[str, Any] | Sequence[str] = (),
    derived: Mapping[str, str] | None = None,
    limits: Sequence[Constraint] = (), objectives: Sequence[str] = ("cost",), fidelity: str = "tile",
    power: str = "capped", trials: int = 300, seed: int = 0, neighbours: bool = True, inverse: bool = True,
    sensitivity: bool = True, progress: Callable[[int, int], None] | None = None,
) -> Sizing:  # fmt: skip
    """Sizes a chip for one or several service targets.

    Args:
        chip: the base chip, a name or path.
        target: services in words, all of which have to be reached (``targets.EXAMPLE``).
        vary: ``PATH=VALUES`` texts, or path → values or range as in a plan.
        derived: figures that follow others: path → arithmetic of parameters, figures and the expressions before it.
        limits: on area, cost, power and any other metric.
        objectives: metrics to improve, the most important first.
        fidelity: ``tile`` or ``roofline``.
        power: how it is modelled, one of ``bill.POWER``.
        trials: designs to judge where the space is larger than ``GRID``.
        seed: of that search; equal seeds give equal results.
        neighbours: judge the chips of the catalog too.
        inverse: answer the inverse questions.
        sensitivity: compute elasticities.
        progress: called with (designs judged, designs in all).

    Raises:
        InputError: names, values or limits that cannot be.
    """
    base = (chip if isinstance(chip, Chip) else load_chip(chip)).require(fidelity)
    targets = tuple(parse_target(text) for text in ([target] if isinstance(target, str) else target))
    if not targets:
        raise InputError(Problem("no target", "--target"))
    if power not in POWER:
        raise unknown_name("power model", power, POWER, "--power")
    check_limits((*limits, *(limit for one in targets for limit in one.limits)))
    names = tuple(dict.fromkeys(metric(name, "--minimise") for name in objectives)) or ("cost_usd",)
    space = _space(vary, base)
    judge = Judge(targets, tuple(limits), fidelity, power)
    follow = _expressions(derived or {}, space, base)
    candidates, method = _candidates(base, judge, names, space, follow, trials, seed, progress)
    table = np.array([costs(item.verdict, names) for item in candidates])
    table[[not item.verdict.feasible for item in candidates]] = np.nan
    front = fronts.pareto(table)
    known = np.flatnonzero(~np.isnan(table[:, 0]))
    best = int(known[np.lexsort(table[known].T[::-1])][0]) if known.size else None
    bend = int(front[fronts.knee(table[front])]) if front.size else None
    chosen = base if best is None else varied(base, candidates[best].parameters, follow)
    anchor = None if best is None else candidates[best].verdict
    fixed = pinned(judge, anchor) if anchor else judge
    return Sizing(
        base, judge, names, space, method, tuple(candidates), tuple(int(i) for i in front), bend, best,
        _neighbours(judge, names, anchor or judge.judge(base)) if neighbours else (),
        tuple(answers.least(fixed, knob) for knob in answers.knobs(chosen)) if inverse else (),
        tuple(answers.sensitivities(fixed, chosen)) if sensitivity else (), follow,
    )  # fmt: skip


def _space(vary: Mapping[str, Any] | Sequence[str], chip: Chip) -> dict[str, Values]:
    if isinstance(vary, Mapping):
        return {
            path: _parameter(path, given, chip)
            for path, given in ((key.removeprefix("chip."), given) for key, given in vary.items())
        }
    found: dict[str, Values] = {}
    for text in vary:
        path, values = parse_vary(text, chip)
        if path in found:
            raise InputError(Problem(f"'{path}' is given twice", "--vary"))
        found[path] = values
    return found


def _expressions(derived: Mapping[str, str], space: Mapping[str, Values], chip: Chip) -> dict[str, Expression]:
    """Checked expressions. Raises InputError for unknown names and for parameters nothing would use."""
    found: dict[str, Expression] = {}
    figures = chip.paths()
    for path, text in derived.items():
        if path in space:
            raise InputError(Problem(f"'{path}' is varied too", "--derive", allowed="one of the two"))
        if path not in figures and not path.isidentifier():
            raise unknown_name("chip figure", path, figures, "--derive")
        found[path] = Expression(str(text))
        for name in sorted(found[path].names - {*figures, *space, *(key for key in found if key != path)}):
            raise unknown_name("parameter", name, [*space, *figures], "--derive")
    used = set[str]().union(*(expression.names for expression in found.values()))
    for name in space:
        if name not in figures and name not in used:
            raise unknown_name("chip figure", name, figures, "--vary")
    return found


def _judged(base: Chip, judge: Judge, parameters: dict[str, Any], derived: Mapping[str, Expression]) -> Candidate:
    try:
        return Candidate(parameters, judge.judge(varied(base, parameters, derived)))
    except NpuError as error:
        return Candidate(parameters, Judgement({}, (), (str(error),), ""))


def _candidates(
    base: Chip, judge: Judge, objectives: tuple[str, ...], space: dict[str, Values],
    derived: Mapping[str, Expression], trials: int, seed: int, progress: Callable[[int, int], None] | None,
) -> tuple[list[Candidate], str]:  # fmt: skip
    """Designs that are judged: all of a small space, else those a search proposes."""
    total = math.prod(len(values) for values in space.values())
    if total > GRID:
        from npusim.sizing.search import search

        return search(space, lambda p: _judged(base, judge, p, derived), objectives, trials, seed, progress)
    found = []
    for values in itertools.product(*space.values()):
        found.append(_judged(base, judge, dict(zip(space, values, strict=True)), derived))
        if progress:
            progress(len(found), total)
    return found, "grid"


def _neighbours(judge: Judge, objectives: tuple[str, ...], anchor: Judgement) -> tuple[Neighbour, ...]:
    """Chips of the catalog at the best fidelity they are described for, nearest to ``anchor`` first."""
    found = []
    for name in chip_names():
        chip = find_chip(name)
        fidelity = judge.fidelity if not chip.missing(judge.fidelity) else "roofline"
        if chip.missing(fidelity):
            continue
        try:
            verdict = Judge(judge.targets, judge.limits, fidelity, judge.power, judge.technology).judge(chip)
        except NpuError:
            continue
        found.append(Neighbour(name, chip.title, fidelity, verdict))
    table = np.array([[item.verdict.metrics.get(name) or np.nan for name in objectives] for item in found])
    point = [anchor.metrics.get(name) or np.nan for name in objectives]
    return tuple(found[i] for i in fronts.nearest(table, point, NEIGHBOURS))


def limit(metric_name: str, value: Any, at_most: bool = True) -> Constraint:
    """A limit from an option of the command line. Raises InputError for a value with another unit."""
    from npusim.sizing.quantities import number

    name = metric(metric_name)
    sign = "<=" if at_most else ">="
    return Constraint(name, at_most, float(number(value, f"--max-{metric_name}")), f"{metric_name} {sign} {value}")


def labels(parameters: Mapping[str, Any], paths: Iterable[str] = ()) -> str:
    """Parameters in a line."""
    return ", ".join(f"{path} = {value:.6g}" if isinstance(value, float) else f"{path} = {value}"
                     for path, value in parameters.items() if not paths or path in paths)  # fmt: skip
