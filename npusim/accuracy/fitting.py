"""Fitting a calibrated model to measured rows, and saying how well it predicts shapes it has not seen.

The loss is soft-l1 of the log ratio of measured and predicted time (a factor of two too fast weighs as much as
one too slow, outliers weigh linearly), minimised by bounded trust-region least squares from several starts
(Branch, Coleman and Li, SIAM J. Sci. Comput. 21, 1999, as SciPy implements it). Folds leave whole shapes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from npusim.calibration import CrossValidation, Parameter, Residuals
from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, Family, ParameterSpec
from npusim.errors import Finding, InputError, Problem

SCALE = 0.1  # log ratios beyond ±10 % begin to weigh linearly
SHAPE = ("m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv", "ranks", "bytes")
QUANTILES = (0.05, 0.1, 0.5, 0.9, 0.95)
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
        """Parameters with their intervals and units, for the document."""
        return {
            spec.name: Parameter(
                value=self.parameters[spec.name],
                low=self.intervals[spec.name][0],
                high=self.intervals[spec.name][1],
                unit=spec.unit,
            )
            for spec in family.parameters
        }

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
        starts: starting points of the first fit; folds start from what it found.
        max_rows: a fit uses at most this many rows (a random sample); every row is predicted.
        fixed: parameters that are not fitted.
        weights: weight of each row's residual.

    Raises:
        InputError: too few rows or times that are not positive.
    """
    latency_s = np.asarray(latency_s, float)
    _check(latency_s, family, folds)
    columns = {name: np.asarray(column) for name, column in dims.items()}

    def predict(rows: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        return family.seconds(chip, dtype, {n: c[rows] for n, c in columns.items()}, parameters).time_s

    search = Search(family.parameters, predict, latency_s, weights, dict(fixed or {}), max_rows, seed)
    everything = np.arange(len(latency_s))
    fold = shape_folds(columns, len(latency_s), folds, seed)
    full, converged = search.run(everything, starts)
    predicted = np.empty(len(latency_s))
    found = []
    for index in range(folds):
        out = np.flatnonzero(fold == index)
        values, _ = search.run(np.flatnonzero(fold != index), 1, full)
        predicted[out] = predict(out, values)
        found.append(values)
    times = family.seconds(chip, dtype, columns, full)
    spans = {name: _interval(value, [v[name] for v in found]) for name, value in full.items()}
    return Fit(full, spans, converged, predicted, times.bound, fold, np.log(latency_s / predicted))


def _check(latency_s: np.ndarray, family: Family, folds: int) -> None:
    needed = max(2 * folds, 2 * len(family.parameters))
    if len(latency_s) < needed:
        what = f"{len(latency_s)} rows are too few to fit {len(family.parameters)} parameters of {family.name}"
        raise InputError(Problem(what, allowed=f"at least {needed}"))
    if not (np.isfinite(latency_s) & (latency_s > 0)).all():
        raise InputError(Problem("measured times must be positive", "latency_us"))


def _interval(value: float, folded: list[float]) -> tuple[float, float]:
    """80 % interval by the jackknife over folds: ±1.28 · sqrt((K−1)/K · Σ(θ_k − θ̄)²) (Efron and Stein 1981)."""
    count = len(folded)
    spread = 1.2816 * float(np.sqrt((count - 1) * np.var(folded)))
    return value - spread, value + spread


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
        self, rows: np.ndarray, starts: int = 1, first: Mapping[str, float] | None = None
    ) -> tuple[dict[str, float], bool]:
        """Best parameters over ``starts`` starting points for these rows, and whether that fit converged."""
        from scipy.optimize import least_squares  # the ``calibrate`` extra: only fitting needs it

        rng = np.random.default_rng(self.seed)
        if len(rows) > self.max_rows:
            rows = np.sort(rng.choice(rows, self.max_rows, replace=False))
        low, high = (np.array([_inner(s, getattr(s, side)) for s in self.specs]) for side in ("low", "high"))
        start = np.array([_inner(s, (first or {}).get(s.name, s.start)) for s in self.specs])
        best, best_cost, converged = start, np.inf, False
        for attempt in range(starts):
            at = start if attempt == 0 else start + rng.uniform(-0.35, 0.35, len(start)) * (high - low)
            margin = 1e-3 * (high - low)
            result = least_squares(
                lambda x: self._residuals(x, rows),
                np.clip(at, low + margin, high - margin),
                bounds=(low, high),
                loss="soft_l1",
                f_scale=SCALE,
                x_scale=np.maximum(high - low, 1e-9),
                diff_step=1e-3,
                ftol=1e-5,
                xtol=1e-6,
                gtol=1e-8,
                max_nfev=40,
            )
            if result.cost < best_cost:
                best, best_cost = result.x, result.cost
            converged = converged or (result.status > 0 and result.cost <= best_cost)
        return self._values(best), converged

    def _values(self, x: np.ndarray) -> dict[str, float]:
        found = {s.name: float(np.exp(v)) if s.log else float(v) for s, v in zip(self.specs, x, strict=True)}
        # exp(log(high)) may end one bit outside
        return {s.name: min(max(found[s.name], s.low), s.high) for s in self.specs} | self.fixed

    def _residuals(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        ratio = np.log(self.predict(rows, self._values(x)) / self.latency_s[rows])
        ratio = np.nan_to_num(ratio, nan=20.0, posinf=20.0, neginf=-20.0)
        return np.asarray(ratio if self.weights is None else ratio * np.sqrt(self.weights[rows]))


def _inner(spec: ParameterSpec, value: float) -> float:
    return float(np.log(value)) if spec.log else float(value)
