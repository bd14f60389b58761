"""Class parameters: what to expect of a chip nobody has measured, learned from other chips of its class.

One set of parameters is fitted to all chips of a class that were measured with the same software stack, operator
and dtype, each chip with the same weight. How far such a set may be trusted is measured by leaving whole chips
out: their residuals make the intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from npusim import calibration as documents
from npusim.accuracy import fitting
from npusim.accuracy.calibrating import RESIDENCY, Group, document, fit_group, has_menus, key_of
from npusim.accuracy.class_fits import Member, fit_class
from npusim.accuracy.dims import RowDims
from npusim.calibration import Calibration, CrossValidation, Parameter, Provenance, Residuals
from npusim.cost.calibrated.family import Family, alternatives

MAX_ROWS = 150  # of each chip
# Where a class has one measured chip, nothing was left out: its residuals are spread by what leaving chips out
# did to classes that have several (docs/calibration.md).
LONE_SPREAD = 1.6


@dataclass(frozen=True)
class LeftOut:
    """How well the other chips of a class predict one of them.

    Args:
        chip: the chip that was left out.
        log_ratio: ln(measured / predicted) of its rows.
        bound: what bounds each row.
    """

    chip: str
    log_ratio: np.ndarray
    bound: np.ndarray

    @property
    def mape_pct(self) -> float:
        """Mean absolute percentage error."""
        return float(100 * np.mean(np.abs(np.expm1(-self.log_ratio))))


def sampled(group: Group, most: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Dimensions and measured seconds of at most ``most`` rows of a group."""
    rows = group.rows
    if len(rows) > most:
        rows = rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False)))
    return dict(RowDims(rows)), np.asarray(rows.column("latency_us"), float) * 1e-6


def fit_together(groups: list[Group], most: int = MAX_ROWS, seed: int = 0) -> dict[str, float]:
    """One set of parameters for several chips, equally many rows of each.

    Raises:
        NotConverged: no alternative of the family converged.
    """
    model = groups[0].model
    parts = [(group, *sampled(group, most, seed)) for group in groups]
    measured = np.concatenate([seconds for _, _, seconds in parts])
    weights = np.concatenate([np.full(len(seconds), 1 / len(seconds)) for _, _, seconds in parts]) * most

    def predict(rows: np.ndarray, values: object) -> np.ndarray:
        assert isinstance(values, dict)
        each = [group.model.seconds(group.chip, group.dtype, dims, values).time_s for group, dims, _ in parts]
        return np.asarray(np.concatenate(each)[rows])

    everything = np.arange(len(measured))
    searches = [
        fitting.Search(model.parameters, predict, measured, weights, held, len(measured), seed)
        for held in alternatives(model, groups[0].dtype, groups[0].residency)
    ]
    search, first = fitting.promising(searches, everything, 1)
    values, converged, _ = search.run(everything, first)
    if not converged:
        raise fitting.NotConverged("the fit did not converge: no calibration is written")
    return values


def leave_out(groups: list[Group]) -> list[LeftOut]:
    """Every chip predicted by parameters learned on the others."""
    found = []
    for group in groups:
        values = fit_together([other for other in groups if other is not group])
        dims, seconds = sampled(group, 8 * MAX_ROWS)
        times = group.model.seconds(group.chip, group.dtype, dims, values)
        found.append(LeftOut(group.chip.name, np.log(seconds / times.time_s), times.bound))
    return found


def classes(groups: Iterable[Group]) -> Iterator[tuple[str, list[Group]]]:
    """(class name, its measured chips) for every stack, operator and dtype; of a chip's versions the largest."""
    pools: dict[tuple[str, ...], dict[str, Group]] = {}
    for group in groups:
        stack = documents.stack(group.software)
        for name in documents.chip_classes(group.chip):
            pool = pools.setdefault((group.op, documents.dtype_key(group.dtype), stack, name), {})
            old = pool.get(group.chip.name)
            if old is None or len(group.rows) > len(old.rows):
                pool[group.chip.name] = group
    for key, pool in pools.items():
        yield key[-1], list(pool.values())


def class_document(name: str, groups: list[Group], known: dict[tuple[str, ...], Calibration]) -> Calibration:
    """The document of a class; families with discrete choices take those of their members.

    Args:
        name: the class.
        groups: its measured chips, one group each.
        known: documents of single chips by (chip, software, op, dtype), so that a lone chip is not fitted twice.

    Raises:
        NotConverged: the fit did not converge.
    """
    first = groups[0]
    if has_menus(first.model):
        return fit_class(name, [Member(group, known[key_of(group)]) for group in groups], first.model)[0]
    if len(groups) == 1:
        return lone_document(name, known[key_of(first)])
    values = fit_together(groups)
    left = leave_out(groups)
    ratio = np.concatenate([each.log_ratio for each in left])
    bound = np.concatenate([each.bound for each in left])
    error = 100 * np.expm1(-ratio)
    worst = max(left, key=lambda each: each.mape_pct)
    singly = {
        spec.name: [known[key_of(group)].values()[spec.name] for group in groups] for spec in first.model.parameters
    }
    return Calibration(
        format=documents.FORMAT,
        scope="class",
        chip=name,
        software=documents.stack(first.software),
        op=first.op,
        dtype=documents.dtype_key(first.dtype),
        family=first.model.name,
        parameters=_parameters(first.model, values, singly),
        rows=sum(len(group.rows) for group in groups),
        source=_source(groups),
        residency=RESIDENCY[first.residency],
        chips=tuple(group.chip.name for group in groups),
        cross_validation=CrossValidation(
            folds=len(groups),
            by="device",
            mape_pct=float(np.mean(np.abs(error))),
            mdape_pct=float(np.median(np.abs(error))),
            bias_pct=float(np.mean(error)),
        ),
        residuals=fitting.residual_quantiles(ratio, bound),
        notes=(f"worst chip left out: {worst.chip}, {worst.mape_pct:.1f} %",),
    )


def lone_document(name: str, own: Calibration) -> Calibration:
    """The document of a class with one measured chip: that chip's parameters, its residuals spread about the median."""
    return own.model_copy(
        update={
            "scope": "class",
            "chip": name,
            "software": documents.stack(own.software),
            "chips": (own.chip,),
            "residuals": {key: _spread(each) for key, each in own.residuals.items()},
            "notes": (f"one chip of the class was measured, none left out: interval spread by {LONE_SPREAD}",),
        }
    )


def _spread(found: Residuals) -> Residuals:
    ends = {q: found.q50 + LONE_SPREAD * (getattr(found, q) - found.q50) for q in ("q05", "q10", "q90", "q95")}
    return found.model_copy(update=ends)


def _parameters(model: Family, values: dict[str, float], singly: dict[str, list[float]]) -> dict[str, Parameter]:
    """Values of the class; the interval is the range of its chips, each fitted alone."""
    return {
        spec.name: Parameter(
            value=values[spec.name],
            low=min(values[spec.name], *singly[spec.name]),
            high=max(values[spec.name], *singly[spec.name]),
            unit=spec.unit,
        )
        for spec in model.parameters
    }


def _source(groups: list[Group]) -> Provenance:
    sources = [group.source() for group in groups]
    datasets = sorted({source.dataset for source in sources})
    return Provenance(dataset=", ".join(datasets), what="; ".join(source.what for source in sources))


def class_documents(groups: list[Group], fitted: Iterable[Calibration]) -> Iterator[Calibration | str]:
    """Documents of every class of the groups; a line of text for those whose fit did not converge.

    Args:
        groups: what was measured.
        fitted: documents of single chips; missing ones are fitted.
    """
    known: dict[tuple[str, ...], Calibration] = {key_of(each): each for each in fitted}
    for group in groups:
        if key_of(group) not in known:
            try:
                known[key_of(group)] = document(group, fit_group(group))
            except fitting.NotConverged as error:
                yield f"{group.chip.name} {group.software} {group.op} {group.dtype}: {error}"
    usable = [group for group in groups if key_of(group) in known]
    seen: dict[tuple[str, ...], Calibration] = {}
    for name, members in classes(usable):
        # Nested classes often have the same members: one fit serves them all.
        made_of = tuple(part for member in members for part in key_of(member))
        try:
            if made_of not in seen:
                seen[made_of] = class_document(name, members, known)
        except fitting.NotConverged as error:
            yield f"class {name}, {members[0].software} {members[0].op} {members[0].dtype}: {error}"
            continue
        yield seen[made_of].model_copy(update={"chip": name})
