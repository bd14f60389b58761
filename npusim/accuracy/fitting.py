"""Fitting a calibrated model to measured rows, and saying how well it predicts shapes it has not seen.

The loss is soft-l1 of the log ratio of measured and predicted time (a factor of two too fast weighs as much as
one too slow, outliers weigh linearly), minimised by bounded trust-region least squares from several starts
(Branch, Coleman and Li, SIAM J. Sci. Comput. 21, 1999, as SciPy implements it). Folds leave whole shapes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npusim.calibration import CrossValidation, Parameter, Residuals
from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, Family, ParameterSpec
from npusim.errors import Finding, InputError, Problem

SCALE = 0.1  # log ratios beyond ±10 % begin to weigh linearly
SHAPE = ("m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv", "ranks", "bytes")
QUANTILES = (0.05, 0.1, 0.5, 0.9, 0.95)
DIFFERENCE = 2e-3  # of a parameter's range: far enough to step over the kinks of a search over tiles
MAX_EVALUATIONS = 60
FOLD_EVALUATIONS = 12  # a fold starts where the fit of all rows ended
SCREEN_ROWS, SCREEN_EVALUATIONS = 300, 10  # how long a starting point is followed before it is judged
# A quantile needs rows on both sides of it; below this a residual group is not listed.
MIN_GROUP_ROWS = 40
Predict = Callable[[np.ndarray, Mapping[str, float]], np.ndarray]


class NotConverged(Finding):
    """A fit did not converge; nothing is written."""


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    Args:
        parameters: value per name, from all rows.
        intervals: 80 % interval per name, from the folds.
        converged: the optimiser met its tolerance from at least one start.
        predicted_s: predictions of every row by the fit that did not see its shape, seconds.
        bound: what bounds each row.
        fold: fold of each row.
        log_ratio: ln(measured / out-of-fold prediction).
    """

    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    converged: bool
    predicted_s: np.ndarray
    bound: np.ndarray
    fold: np.ndarray
    log_ratio: np.ndarray

    @property
    def mape_pct(self) -> float:
        """Mean absolute percentage error of the out-of-fold predictions."""
        return float(100 * np.mean(np.abs(np.expm1(-self.log_ratio))))

    def cross_validation(self) -> CrossValidation:
        """Errors for the document, in percent."""
        error = 100 * np.expm1(-self.log_ratio)
        return CrossValidation(
            folds=int(self.fold.max()) + 1,
            by="shape",
            mape_pct=float(np.mean(np.abs(error))),
            mdape_pct=float(np.median(np.abs(error))),
            bias_pct=float(np.mean(error)),
        )

    def document_parameters(self, family: Family) -> dict[str, Parameter]:
        """Parameters with their units and intervals, cut at the plausible bounds, for the document."""
        found = {}
        for spec in family.parameters:
            value, (low, high) = self.parameters[spec.name], self.intervals[spec.name]
            low, high = min(max(low, spec.low), value), max(min(high, spec.high), value)
            found[spec.name] = Parameter(value=value, low=low, high=high, unit=spec.unit)
        return found

    def residuals(self, groups: np.ndarray | None = None) -> dict[str, Residuals]:
        """Residual quantiles, pooled as ``all`` and per group with enough rows (by default the bound)."""
        return residual_quantiles(self.log_ratio, self.bound if groups is None else groups)

    def require_converged(self) -> Fit:
        """Returns the fit itself. Raises NotConverged when the optimiser did not meet its tolerance."""
        if not self.converged:
            raise NotConverged("the fit did not converge: no calibration is written")
        return self


def residual_quantiles(log_ratio: np.ndarray, groups: np.ndarray) -> dict[str, Residuals]:
    """Quantiles of ln(measured / predicted): ``all``, and each group with at least ``MIN_GROUP_ROWS`` rows."""
    found = {"all": _quantiles(log_ratio)}
    for group in sorted(set(groups.tolist())):
        chosen = log_ratio[groups == group]
        if len(chosen) >= MIN_GROUP_ROWS:
            found[str(group)] = _quantiles(chosen)
    return found


def _quantiles(log_ratio: np.ndarray) -> Residuals:
    q05, q10, q50, q90, q95 = (float(q) for q in np.quantile(log_ratio, QUANTILES))
    return Residuals(rows=len(log_ratio), q05=q05, q10=q10, q50=q50, q90=q90, q95=q95)


def shape_folds(dims: Dims, rows: int, folds: int, seed: int) -> np.ndarray:
    """Fold of each row; rows of equal shape share one. Deterministic in ``seed``."""
    columns = [np.nan_to_num(np.asarray(dims[name], float), nan=-1.0) for name in SHAPE if name in dims]
    table = np.stack([np.broadcast_to(column, rows) for column in columns], axis=1)
    _, shape = np.unique(table, axis=0, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(shape.max()) + 1)
    return np.asarray(order[shape.ravel()] % folds)


def fit(
    family: Family,
    chip: Chip,
    dtype: str,
    dims: Dims,
    latency_s: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
    starts: int = 3,
    max_rows: int = 4000,
    fixed: Mapping[str, float] | None = None,
    alternatives: Sequence[Mapping[str, float]] = ({},),
    weights: np.ndarray | None = None,
) -> Fit:
    """Fits the parameters of ``family`` to measured rows, with cross-validation over shapes.

    Args:
        family: the model.
        chip: the hardware the rows were measured on.
        dtype: dtype spelling of the rows.
        dims: columns of the rows.
        latency_s: measured seconds, positive.
        folds: parts of the shapes; each is predicted by a fit of the others.
        seed: of folds, starts and subsampling.
        starts: starting points that are looked at; folds start from what the fit of all rows found.
        max_rows: a fit uses at most this many rows (a random sample); every row is predicted.
        fixed: parameters that are not fitted.
        alternatives: sets of further fixed parameters (discrete choices); the one with the smallest loss is taken.
        weights: weight of each row's residual.

    Raises:
        InputError: too few rows or times that are not positive.
    """
    latency_s = np.asarray(latency_s, float)
    _check(latency_s, family, folds)
    columns = {name: np.asarray(column) for name, column in dims.items()}

    def predict(rows: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        return family.seconds(chip, dtype, {n: c[rows] for n, c in columns.items()}, parameters).time_s

    everything = np.arange(len(latency_s))
    fold = shape_folds(columns, len(latency_s), folds, seed)
    searches = []
    for choice in alternatives:
        held = {**(fixed or {}), **choice}
        searches.append(Search(family.parameters, predict, latency_s, weights, held, max_rows, seed))
    search, first = promising(searches, everything, starts)
    full, converged, _ = search.run(everything, first)
    predicted = np.empty(len(latency_s))
    found = []
    for index in range(folds):
        out = np.flatnonzero(fold == index)
        values, _, _ = search.run(np.flatnonzero(fold != index), full, FOLD_EVALUATIONS)
        predicted[out] = predict(out, values)
        found.append(values)
    times = family.seconds(chip, dtype, columns, full)
    spans = {s.name: _interval(s, full[s.name], [values[s.name] for values in found]) for s in family.parameters}
    return Fit(full, spans, converged, predicted, times.bound, fold, np.log(latency_s / predicted))


def _check(latency_s: np.ndarray, family: Family, folds: int) -> None:
    needed = max(2 * folds, 2 * len(family.parameters))
    if len(latency_s) < needed:
        what = f"{len(latency_s)} rows are too few to fit {len(family.parameters)} parameters of {family.name}"
        raise InputError(Problem(what, allowed=f"at least {needed}"))
    if not (np.isfinite(latency_s) & (latency_s > 0)).all():
        raise InputError(Problem("measured times must be positive", "latency_us"))


def _interval(spec: ParameterSpec, value: float, folded: list[float]) -> tuple[float, float]:
    """80 % interval by the jackknife over folds: ±1.28 · sqrt((K−1)/K · Σ(θ_k − θ̄)²) (Efron and Stein 1981).

    On the scale the parameter is fitted on, within its bounds.
    """
    inner = np.array([_inner(spec, each) for each in folded])
    spread = 1.2816 * float(np.sqrt((len(folded) - 1) * np.var(inner)))
    ends = (value * np.exp(-spread), value * np.exp(spread)) if spec.log else (value - spread, value + spread)
    return min(max(float(ends[0]), spec.low), value), max(min(float(ends[1]), spec.high), value)


def promising(searches: Sequence[Search], rows: np.ndarray, starts: int) -> tuple[Search, dict[str, float] | None]:
    """The search and the starting point to follow: of each search the best of ``starts`` points is looked at."""
    if len(searches) == 1 and starts <= 1:
        return searches[0], None
    looked = [(*search.screen(rows, starts), search) for search in searches]
    _, first, search = min(looked, key=lambda each: each[0])
    return search, first


class Search:
    """Bounded robust least squares on log ratios.

    Args:
        specs: parameters with their bounds.
        predict: seconds of the rows with these indices under these parameters.
        latency_s: measured seconds of all rows.
        weights: of the rows' residuals (None: all equal).
        fixed: parameters that stay as given.
        max_rows: rows of one fit.
        seed: of sampling and starts.
    """

    def __init__(
        self,
        specs: tuple[ParameterSpec, ...],
        predict: Predict,
        latency_s: np.ndarray,
        weights: np.ndarray | None = None,
        fixed: Mapping[str, float] | None = None,
        max_rows: int = 4000,
        seed: int = 0,
    ) -> None:
        self.predict, self.latency_s, self.weights = predict, latency_s, weights
        self.fixed = {spec.name: spec.low for spec in specs if spec.low == spec.high} | dict(fixed or {})
        self.specs = [spec for spec in specs if spec.name not in self.fixed]
        self.max_rows, self.seed = max_rows, seed

    def run(
        self, rows: np.ndarray, first: Mapping[str, float] | None = None, evaluations: int | None = None
    ) -> tuple[dict[str, float], bool, float]:
        """Fits ``rows`` from ``first``: best parameters, whether the fit converged, and its loss."""
        rng = np.random.default_rng(self.seed)
        if len(rows) > self.max_rows:
            rows = np.sort(rng.choice(rows, self.max_rows, replace=False))
        found = self._solve(self._point(first or {}), rows, evaluations or MAX_EVALUATIONS)
        return self._values(found.x), found.status > 0, float(found.cost)

    def screen(self, rows: np.ndarray, starts: int) -> tuple[float, dict[str, float]]:
        """The most promising of ``starts`` points: its loss after a few steps on a few rows, and where they led."""
        rng = np.random.default_rng(self.seed)
        if len(rows) > SCREEN_ROWS:
            rows = np.sort(rng.choice(rows, SCREEN_ROWS, replace=False))
        start = self._point({})
        points = [start, *(start + rng.uniform(-0.3, 0.3, len(start)) for _ in range(starts - 1))]
        best = min((self._solve(at, rows, SCREEN_EVALUATIONS) for at in points), key=lambda found: found.cost)
        return float(best.cost), self._values(best.x)

    def _point(self, values: Mapping[str, float]) -> np.ndarray:
        """Parameters between 1 and 2, each on its own scale, so that one difference step suits all of them."""
        return np.array([self._scaled(s, values.get(s.name, self._start(s))) for s in self.specs])

    def _solve(self, at: np.ndarray, rows: np.ndarray, evaluations: int) -> Any:
        from scipy.optimize import least_squares  # the ``calibrate`` extra: only fitting needs it

        return least_squares(
            lambda x: self._residuals(x, rows),
            np.clip(at, 1.001, 1.999),
            bounds=(1.0, 2.0),
            loss="soft_l1",
            f_scale=SCALE,
            diff_step=DIFFERENCE,
            ftol=1e-4,
            xtol=1e-6,
            gtol=1e-8,
            max_nfev=evaluations,
        )

    def _start(self, spec: ParameterSpec) -> float:
        """Where a fit begins; a launch a little below the fastest rows."""
        if spec.name == "launch":
            return float(np.clip(0.8 * np.quantile(self.latency_s, 0.01), spec.low, spec.high))
        return spec.start

    @staticmethod
    def _scaled(spec: ParameterSpec, value: float) -> float:
        low, high = _inner(spec, spec.low), _inner(spec, spec.high)
        return 1 + (_inner(spec, value) - low) / (high - low)

    def _values(self, x: np.ndarray) -> dict[str, float]:
        found = dict(self.fixed)
        for spec, scaled in zip(self.specs, x, strict=True):
            low, high = _inner(spec, spec.low), _inner(spec, spec.high)
            inner = low + (float(scaled) - 1) * (high - low)
            # exp(log(high)) may end one bit outside
            found[spec.name] = min(max(float(np.exp(inner)) if spec.log else inner, spec.low), spec.high)
        return found

    def _residuals(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        ratio = np.log(self.predict(rows, self._values(x)) / self.latency_s[rows])
        ratio = np.nan_to_num(ratio, nan=20.0, posinf=20.0, neginf=-20.0)
        return np.asarray(ratio if self.weights is None else ratio * np.sqrt(self.weights[rows]))


def _inner(spec: ParameterSpec, value: float) -> float:
    return float(np.log(value)) if spec.log else float(value)
