"""Calibration documents of chip classes: what a chip nobody measured gets from chips of its kind.

The constants of a family are fractions of data-sheet figures, counts and microseconds, so one set of them serves
several chips. A class with several measured chips gets the constants that fit all of them, and the error of leaving
each chip out in turn. A class with one measured chip gets that chip's constants; how well they transfer cannot be
measured there, so its residuals are widened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from npusim.accuracy.calibrating import Group
from npusim.accuracy.fitting import Search, residual_quantiles
from npusim.accuracy.operator_fits import dims_of, settled
from npusim.calibration import FORMAT, Calibration, CrossValidation, Parameter, Residuals, stack
from npusim.cost.calibrated.family import Family

CLASS_ROWS = 300  # of each chip in a fit; each chip weighs the same
# Residuals of a class known from one chip only are this much wider than that chip's own.
WIDENING = 1.6


@dataclass(frozen=True)
class Member:
    """A measured chip of a class: its rows and the document fitted to them."""

    group: Group
    document: Calibration


class _Pooled:
    """Rows of several chips, priced by one family under one set of parameters."""

    def __init__(self, members: Sequence[Member], family: Family, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.family, self.members = family, members
        self.dims, self.latency_s = [], []
        for member in members:
            count = len(member.group.rows)
            chosen = np.sort(rng.permutation(count)[:CLASS_ROWS])
            rows = member.group.rows.select(chosen)
            self.dims.append(dims_of(rows))
            self.latency_s.append(np.asarray(rows.column("latency_us"), float) * 1e-6)
        self.member = np.concatenate([np.full(len(t), i) for i, t in enumerate(self.latency_s)])
        self.all_s = np.concatenate(self.latency_s)

    def predict(self, rows: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
        """Seconds of pooled rows, which are sorted by chip."""
        parts = []
        for index, member in enumerate(self.members):
            inside = rows[self.member[rows] == index] - int(np.searchsorted(self.member, index))
            if len(inside):
                dims = {name: column[inside] for name, column in self.dims[index].items()}
                group = member.group
                parts.append(self.family.seconds(group.chip, group.dtype, dims, values).time_s)
        return np.concatenate(parts)

    def bounds(self, values: Mapping[str, float]) -> np.ndarray:
        """What bounds each pooled row."""
        return np.concatenate(
            [
                self.family.seconds(m.group.chip, m.group.dtype, dims, values).bound
                for m, dims in zip(self.members, self.dims, strict=True)
            ]
        )

    def fit(self, rows: np.ndarray, choices: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Best parameters over the discrete choices and starts of the members."""
        best: tuple[float, dict[str, float]] | None = None
        for values in choices:
            fixed = {spec.name: values[spec.name] for spec in self.family.parameters if not spec.log}
            search = Search(self.family.parameters, self.predict, self.all_s, None, fixed, len(rows), 0)
            found = search.run(rows, values)[0]
            found = settled(self.family, found, lambda each: self.predict(rows, each))
            error = float(np.mean(np.abs(np.log(self.predict(rows, found) / self.all_s[rows]))))
            if best is None or error < best[0]:
                best = error, found
        assert best is not None
        return best[1]


def fit_class(
    name: str, members: Sequence[Member], family: Family, seed: int = 0
) -> tuple[Calibration, dict[str, float]]:
    """The document of class ``name``, and the error in percent of each member when it was left out.

    Args:
        name: one of ``calibration.chip_classes``.
        members: measured chips with rows of one stack, operator and dtype; one is enough.
        family: the family of their documents.
        seed: of the sample of rows.
    """
    if len(members) == 1:
        return _single(name, members[0]), {}
    pooled = _Pooled(members, family, seed)
    everything = np.arange(len(pooled.all_s))
    choices = [member.document.values() for member in members]
    full = pooled.fit(everything, choices)
    predicted, found = np.empty(len(everything)), []
    for index in range(len(members)):
        left = pooled.member == index
        others = [values for i, values in enumerate(choices) if i != index]
        found.append(pooled.fit(everything[~left], others))
        predicted[left] = pooled.predict(everything[left], found[-1])
    ratio = np.log(pooled.all_s / predicted)
    error = 100 * np.expm1(-ratio)
    each = {
        member.group.chip.name: float(np.mean(np.abs(error[pooled.member == index])))
        for index, member in enumerate(members)
    }
    parameters = {
        spec.name: Parameter(
            value=full[spec.name],
            low=min(full[spec.name], *(values[spec.name] for values in found)),
            high=max(full[spec.name], *(values[spec.name] for values in found)),
            unit=spec.unit,
        )
        for spec in family.parameters
    }
    tested = CrossValidation(
        folds=len(members),
        by="device",
        mape_pct=float(np.mean(np.abs(error))),
        mdape_pct=float(np.median(np.abs(error))),
        bias_pct=float(np.mean(error)),
    )
    base = _base(name, members)
    document = base | {
        "parameters": parameters,
        "cross_validation": tested,
        "residuals": residual_quantiles(ratio, np.full(len(ratio), "all")),
    }
    return Calibration(**document), each


def _base(name: str, members: Sequence[Member]) -> dict[str, object]:
    first = members[0].document
    return {
        "format": FORMAT,
        "scope": "class",
        "chip": name,
        "software": stack(first.software),
        "op": first.op,
        "dtype": first.dtype,
        "family": first.family,
        "rows": sum(member.document.rows for member in members),
        "source": first.source,
        "residency": first.residency,
        "chips": tuple(member.group.chip.name for member in members),
    }


def _single(name: str, member: Member) -> Calibration:
    own = member.document
    pooled = own.residuals["all"]
    values = {q: getattr(pooled, q) * WIDENING for q in ("q05", "q10", "q90", "q95")}
    wide = Residuals(rows=pooled.rows, q50=pooled.q50, **_ordered(values, pooled.q50))
    note = f"learned on one chip: residuals are those of its own shapes, {WIDENING:g} times as wide"
    document = _base(name, [member]) | {
        "parameters": own.parameters,
        "cross_validation": own.cross_validation,
        "residuals": {"all": wide},
        "notes": (note,),
    }
    return Calibration(**document)


def _ordered(values: dict[str, float], middle: float) -> dict[str, float]:
    return {name: min(v, middle) if name < "q50" else max(v, middle) for name, v in values.items()}
