"""Plans: what a sweep varies, what it prices, and what a design has to keep to.

Format ``npusim-plan/1``::

    format: npusim-plan/1
    chip: npu-2pf
    fidelity: tile
    parameters:
      chip.memory.stacks: [4, 6, 8]
      chip.levels.l1.capacity: {from: 2 MiB, to: 8 MiB, count: 4}
      chip.clock: {from: 0.6 GHz, to: 1.2 GHz, count: 5, scale: log}
      serving.batch: [1, 16, 64]
    derived:
      chip.memory.capacity: chip.memory.stacks * 36e9
    constraints: ["area <= 800 mm2", "tpot <= 20 ms"]
    workloads:
      - {model: llama-3.1-8b, precision: fp8, phase: decode, context: [2048, 8192]}
    suite: {name: kperf-2025, models: [llama-3.1-8b], precisions: [fp8]}

``docs/sweeps.md`` explains every key. Quantities become SI numbers here.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from npusim import yamlio
from npusim.chip import Chip, load_chip
from npusim.errors import InputError, Problem, Unavailable, unknown_name
from npusim.sizing.cases import MODEL_FIELDS, SERVING, Case, check_case, suite_cases
from npusim.sizing.expressions import Expression
from npusim.sizing.quantities import Constraint, constraint, contradiction, number

MAX_POINTS = 20_000_000
MAX_VALUES = 1_000_000
Values = tuple[Any, ...]
_CASE_NUMBERS = tuple(f"serving.{name}" for name in ("batch", "context", "prompt", "page"))


class _Range(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    start: Any = Field(alias="from")
    to: Any
    count: Annotated[int, Field(ge=1, le=MAX_VALUES, strict=True)] | None = None
    step: Any = None
    scale: Literal["linear", "log"] = "linear"


class _Workload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    phase: Literal["prefill", "decode"] = "decode"
    precision: str = "bf16"
    batch: Any = 1
    context: Any = 2048
    prompt: Any = 2048
    page: Any = None
    tp: Any = 1


class _Suite(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "kperf-2025"
    models: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    tp: int | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["npusim-plan/1"]
    name: str = ""
    chip: str
    fidelity: Literal["roofline", "tile"] = "tile"
    power: Literal["tdp", "bottom-up", "capped"] = "tdp"
    parameters: dict[str, Any] = {}
    derived: dict[str, Any] = {}
    constraints: tuple[Any, ...] = ()
    workloads: tuple[_Workload, ...] = ()
    suite: _Suite | None = None


@dataclass(frozen=True)
class Design:
    """One chip variant: the parameters that make it, and the changes to the base chip's figures."""

    parameters: tuple[tuple[str, Any], ...]
    changes: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Args:
        name: for reports.
        chip: the base chip.
        fidelity: ``roofline`` or ``tile``.
        power: how power is modelled, one of ``bill.POWER``; K-Perf rows know no ``bottom-up``.
        parameters: name → values, SI.
        derived: name → expression, in the order they are evaluated.
        constraints: what designs and points have to keep to.
        workloads: model steps, each a mapping of lists.
        suite: K-Perf rows besides: arguments of ``suite_cases``.
        data: the plain data it was made of, for workers and for the content hash.
    """

    name: str
    chip: Chip
    fidelity: str
    power: str
    parameters: dict[str, Values]
    derived: dict[str, Expression]
    constraints: tuple[Constraint, ...]
    workloads: tuple[dict[str, Any], ...]
    suite: dict[str, Any] | None
    data: dict[str, Any] = field(repr=False)

    @cached_property
    def _of_design(self) -> set[str]:
        """Names that chip figures depend on."""
        names = {name for name in (*self.parameters, *self.derived) if name.startswith("chip.")}
        for name in reversed(list(self.derived)):
            if name in names:
                names |= self.derived[name].names
        return names

    @cached_property
    def design_axes(self) -> dict[str, Values]:
        """Parameters that make chips."""
        return {name: values for name, values in self.parameters.items() if name in self._of_design}

    @cached_property
    def case_axes(self) -> dict[str, Values]:
        """Parameters of models and serving."""
        return {name: values for name, values in self.parameters.items() if name not in self._of_design}

    @property
    def design_count(self) -> int:
        """Chips of the grid."""
        return math.prod(len(values) for values in self.design_axes.values())

    @property
    def points(self) -> int:
        """Points of the grid: chips × cases."""
        return self.design_count * len(self.cases)

    def design(self, assignment: Mapping[str, Any]) -> Design:
        """The design of one assignment of ``design_axes`` (or of any values for them)."""
        known: dict[str, Any] = {f"chip.{path}": value for path, value in self.base_figures.items()} | dict(assignment)
        changes = {name: value for name, value in assignment.items() if name.startswith("chip.")}
        for name, expression in self.derived.items():
            if name in self._of_design:
                known[name] = expression.value(known)
                if name.startswith("chip."):
                    changes[name] = known[name]
        return Design(
            tuple(assignment.items()), tuple((name.removeprefix("chip."), value) for name, value in changes.items())
        )

    @cached_property
    def base_figures(self) -> dict[str, object]:
        """Figures of the base chip by path."""
        return self.chip.paths()

    def designs(self) -> Iterator[Design]:
        """All designs of the grid, in order."""
        for values in itertools.product(*self.design_axes.values()):
            yield self.design(dict(zip(self.design_axes, values, strict=True)))

    def build(self, design: Design) -> Chip:
        """The chip of a design. Raises InputError when its figures contradict one another."""
        return self.chip.replace(dict(design.changes)) if design.changes else self.chip

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """What every design is priced on, in order."""
        found: list[Case] = []
        for values in itertools.product(*self.case_axes.values()):
            known: dict[str, Any] = dict(zip(self.case_axes, values, strict=True))
            for name, expression in self.derived.items():
                if name in self._of_design:
                    continue
                mixed = sorted(used for used in expression.names if used in self._of_design or used[:5] == "chip.")
                if mixed:
                    what = f"'{name}' is the same for every chip, so it cannot depend on '{mixed[0]}'"
                    raise InputError(
                        Problem(what, "derived", allowed="parameters of models and serving, and names of your own")
                    )
                known[name] = expression.value(known)
            found += self._cases_of(known)
        return tuple(dict.fromkeys(found))

    def _cases_of(self, known: Mapping[str, Any]) -> Iterator[Case]:
        model = tuple((name[6:], value) for name, value in known.items() if name.startswith("model."))
        serving = {name[8:]: value for name, value in known.items() if name.startswith("serving.")}
        for work in self.workloads:
            merged = {key: (value,) for key, value in serving.items()}
            lists = {key: merged.get(key, values) for key, values in work.items()}
            length = "context" if work["phase"][0] == "decode" else "prompt"
            keys = ["model", "precision", "tp", "page", "batch", length]
            for model_name, precision, tp, page, batch, tokens in itertools.product(*(lists[key] for key in keys)):
                yield check_case(
                    Case("step", str(model_name), model, str(precision), work["phase"][0], tp, batch, tokens, page)
                )
        if self.suite is not None:
            yield from suite_cases(model=model, **self.suite)


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Reads a plan file. Raises InputError with every problem as ``file:line:col: path: message``."""
    return _make(yamlio.load_yaml(path))


def make_plan(data: Mapping[str, Any]) -> Plan:
    """A plan from plain data, as the file holds it (``format`` may be left out)."""
    plain = {"format": "npusim-plan/1", **data}
    return _make(yamlio.Document(plain, "plan"))


def _make(document: yamlio.Document) -> Plan:
    read = yamlio.validate(_File, document.data, document)
    chip = load_chip(read.chip).require(read.fidelity)
    problems: list[Problem] = []
    parameters: dict[str, Values] = {}
    for name, given in read.parameters.items():
        try:
            parameters[name] = parameter_values(name, given, chip)
        except InputError as error:
            problems += [document.problem(("parameters", name), p.message, p.allowed, p.hint) for p in error.problems]
    derived = _derived(read.derived, parameters, chip, document, problems)
    constraints = _constraints(read.constraints, parameters, derived, document, problems)
    if not read.workloads and read.suite is None:
        problems.append(document.problem((), "nothing to price", "'workloads' or a 'suite' of K-Perf rows"))
    if read.suite is not None and read.power == "bottom-up":
        problems.append(document.problem(("power",), "K-Perf rows have no bottom-up power", "capped, or tdp"))
    if problems:
        raise InputError(problems)
    plan = Plan(
        read.name or chip.name, chip, read.fidelity, read.power, parameters, derived, constraints,
        tuple(_workload(work) for work in read.workloads), read.suite.model_dump() if read.suite else None,
        dict(document.data),
    )  # fmt: skip
    _check_size(plan, document)
    try:
        if not plan.cases:
            raise InputError(Problem("nothing to price: a list of a workload is empty"))
        plan.build(next(plan.designs()))
    except Unavailable:
        raise
    except InputError as error:
        key = "workloads" if not error.problems[0].path.startswith("chip.") else "parameters"
        raise InputError([document.problem((key,), p.message, p.allowed, p.hint) for p in error.problems]) from None
    return plan


def _listed(value: Any) -> Values:
    return _values(value) if isinstance(value, (list, tuple, dict)) else (value,)


def _workload(work: _Workload) -> dict[str, Any]:
    return {key: _listed(value) for key, value in work.model_dump().items()}


def _plain(value: Any) -> Any:
    """A value of a list: quantities as SI numbers, words as they are."""
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, str) and re.match(r"\s*[+-]?\.?\d", value):
        try:
            return number(value)
        except InputError:
            return value  # a word that begins with a digit; whoever takes it says what is wrong
    if isinstance(value, str):
        return value
    raise InputError(Problem(f"{str(value)[:60]!r} is not a value", allowed="a number, a quantity or a name"))


def _values(given: Any) -> Values:
    """All values of a list, a range or a single value; never none."""
    if isinstance(given, dict):
        spec = yamlio.validate(_Range, given, yamlio.Document(given, ""))
        return _range_values(spec)
    values = tuple(dict.fromkeys(_plain(value) for value in (given if isinstance(given, (list, tuple)) else (given,))))
    if not values:
        raise InputError(Problem("an empty list of values", allowed="at least one value"))
    return values


def _range_values(spec: _Range) -> Values:
    low, high = number(spec.start, "from"), number(spec.to, "to")
    if low > high:
        raise InputError(Problem(f"an empty range: from {spec.start} to {spec.to}", allowed="'from' at most 'to'"))
    if (spec.count is None) == (spec.step is None):
        raise InputError(Problem("a range needs 'count' or 'step'", allowed="one of the two"))
    if spec.scale == "log" and (low <= 0 or spec.step is not None):
        raise InputError(Problem("a logarithmic range needs 'from' above 0, and 'count'"))
    if spec.step is not None:
        step = number(spec.step, "step")
        if step <= 0 or (high - low) / step > MAX_VALUES:
            raise InputError(Problem(f"a step of {spec.step}", allowed=f"above 0, at most {MAX_VALUES} values"))
        values = [low + i * step for i in range(math.floor((high - low) / step * (1 + 1e-12)) + 1)]
    else:
        last = max((spec.count or 1) - 1, 1)
        ratio = high / low if spec.scale == "log" else 0.0
        share = [i / last for i in range(spec.count or 1)]
        values = [low * ratio**s if spec.scale == "log" else low + (high - low) * s for s in share]
        if spec.count and spec.count > 1:
            values[-1] = high
    whole = isinstance(low, int) and isinstance(high, int) and isinstance(number(spec.step or 0), int)
    return tuple(dict.fromkeys(round(value) if whole else value for value in values))


def parameter_values(name: str, given: Any, chip: Chip) -> Values:
    """Values of one parameter, from a list, a range or a single one. Raises InputError when it cannot take them."""
    values = _values(given)
    _check_parameter(name, given, values, chip)
    return values


def _check_parameter(name: str, given: Any, values: Values, chip: Chip) -> None:
    head, _, rest = name.partition(".")
    if head == "chip":
        raw = list(given) if isinstance(given, (list, tuple)) else [values[0], values[-1]]
        if isinstance(given, dict):
            raw += [given["from"], given["to"]]
        for value in raw[:100]:
            chip.replace({rest: value})
    elif head == "model":
        if rest not in MODEL_FIELDS:
            raise unknown_name("model parameter", name, [f"model.{key}" for key in MODEL_FIELDS])
    elif head == "serving":
        if rest not in SERVING:
            raise unknown_name("serving parameter", name, [f"serving.{key}" for key in SERVING])
    elif rest:
        known = [f"chip.{path}" for path in chip.paths()]
        known += [f"model.{key}" for key in MODEL_FIELDS] + [f"serving.{key}" for key in SERVING]
        raise unknown_name("parameter", name, known)
    elif not name.isidentifier():
        raise InputError(Problem(f"{name[:40]!r} is not a name", allowed="letters, digits and _"))


def _derived(
    given: Mapping[str, Any], parameters: Mapping[str, Values], chip: Chip, document: yamlio.Document,
    problems: list[Problem],
) -> dict[str, Expression]:  # fmt: skip
    """Expressions, each after those it uses."""
    found: dict[str, Expression] = {}
    figures = {f"chip.{path}" for path in chip.paths()}
    for name, text in given.items():
        try:
            if name in parameters:
                raise InputError(Problem(f"'{name}' is a parameter too", allowed="one of the two"))
            found[name] = Expression(str(text))
            head, _, rest = name.partition(".")
            if (head == "model" and rest not in MODEL_FIELDS) or (head == "serving" and rest not in SERVING):
                _check_parameter(name, text, (), chip)
            known = set(parameters) | set(given) | (figures if head == "chip" or not rest else set())
            for used in sorted(found[name].names - known):
                raise unknown_name("parameter", used, known)
        except InputError as error:
            problems += [document.problem(("derived", name), p.message, p.allowed, p.hint) for p in error.problems]
    ordered: dict[str, Expression] = {}
    while len(ordered) < len(found):
        ready = [name for name, e in found.items() if name not in ordered and not (e.names & set(found)) - set(ordered)]
        if not ready:
            stuck = sorted(set(found) - set(ordered))
            problems.append(document.problem(("derived", stuck[0]), f"these need one another: {', '.join(stuck)}"))
            return {}
        ordered.update((name, found[name]) for name in ready)
    return ordered


def _constraints(
    given: tuple[Any, ...], parameters: Mapping[str, Values], derived: Mapping[str, Expression],
    document: yamlio.Document, problems: list[Problem],
) -> tuple[Constraint, ...]:  # fmt: skip
    found: list[Constraint] = []
    for index, text in enumerate(given):
        try:
            named = [name for name in (*parameters, *derived) if name.startswith("chip.")]
            made = constraint(text, (*named, *(name for name in parameters if name in _CASE_NUMBERS)))
            values = parameters.get(made.metric, ())
            if values and not any(_keeps(made, value) for value in values):
                raise InputError(
                    Problem(
                        f"contradictory: '{made.text}' and parameter '{made.metric}' "
                        f"(from {min(values)} to {max(values)})", allowed="at least one value inside",
                    )
                )  # fmt: skip
            found.append(made)
        except InputError as error:
            problems += [document.problem(("constraints", index), p.message, p.allowed, p.hint) for p in error.problems]
    pair = contradiction(tuple(found))
    if pair is not None:
        index = next(i for i, text in enumerate(given) if str(text).strip() == pair[1].text)
        problems.append(
            document.problem(
                ("constraints", index), f"contradictory: '{pair[0].text}' and '{pair[1].text}'", "one of them"
            )
        )
    return tuple(found)


def _keeps(made: Constraint, value: Any) -> bool:
    return isinstance(value, (int, float)) and made.holds(float(value))


def _check_size(plan: Plan, document: yamlio.Document) -> None:
    """Refuses a grid before anything enumerates it."""
    lists = [math.prod(len(values) for values in work.values()) for work in plan.workloads]
    cases = math.prod(len(values) for values in plan.case_axes.values()) * max(sum(lists), 1)
    points = plan.design_count * cases
    if points <= MAX_POINTS:
        return
    sizes = sorted(((len(values), name) for name, values in plan.parameters.items()), reverse=True)
    largest = ", ".join(f"{name} ({count})" for count, name in sizes[:3])
    raise InputError(
        document.problem(
            ("parameters",),
            f"a grid of {points:.3g} points ({plan.design_count:.3g} chips x {cases:.3g} cases)",
            f"at most {MAX_POINTS:.0e}",
            f"take fewer values where there are most: {largest}; or let 'npusim size --vary ...' search it",
        )
    )
