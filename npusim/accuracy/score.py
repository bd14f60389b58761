"""How far predictions are from measurements: the figures of every table and of the scoreboard.

The error of a row is predicted / measured − 1, in percent of the measured time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from npusim.accuracy.table import Array, Floats

SIZES = ((20e-6, "below 20 us"), (200e-6, "20 to 200 us"), (math.inf, "above 200 us"))


@dataclass(frozen=True)
class Score:
    """Figures of some rows.

    Args:
        rows: how many were scored.
        mape_pct: mean absolute percentage error.
        mdape_pct: median absolute percentage error.
        bias_pct: mean signed percentage error; negative: predicted too fast.
        spearman: rank correlation, nan for fewer than three rows or equal values.
        within_10_pct: share of rows whose error is at most 10 %, in percent.
        within_25_pct: the same for 25 %.
    """

    rows: int
    mape_pct: float
    mdape_pct: float
    bias_pct: float
    spearman: float
    within_10_pct: float
    within_25_pct: float

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, None for what is not defined."""
        return {name: plain(value) for name, value in asdict(self).items()}


def score(predicted_s: Floats, measured_s: Floats) -> Score:
    """Scores predictions of the same rows; both in seconds, all finite."""
    if not len(measured_s):
        return Score(0, *[math.nan] * 6)
    error = 100 * (predicted_s / measured_s - 1)
    size = np.abs(error)
    return Score(
        len(measured_s),
        float(np.mean(size)),
        float(np.median(size)),
        float(np.mean(error)),
        spearman(predicted_s, measured_s),
        float(100 * np.mean(size <= 10)),
        float(100 * np.mean(size <= 25)),
    )


def by_class(predicted_s: Floats, measured_s: Floats, classes: Array) -> dict[str, Score]:
    """Scores per class, in the order of their names."""
    return {
        str(name): score(predicted_s[classes == name], measured_s[classes == name])
        for name in sorted(set(classes.tolist()))
    }


def size_classes(measured_s: Floats) -> Array:
    """The class of ``SIZES`` each measured time falls into."""
    edges = [edge for edge, _ in SIZES[:-1]]
    names = np.array([name for _, name in SIZES], dtype=object)
    found: Array = names[np.searchsorted(edges, measured_s, side="right")]
    return found


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation with average ranks for ties; nan when it is not defined."""
    if len(x) < 3:
        return math.nan
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm else math.nan


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse.ravel()], dtype=float)


def coverage_pct(measured_s: Floats, low_s: Floats, high_s: Floats) -> float:
    """Share of measured times inside their interval, of the rows that have one; nan for none."""
    known = np.isfinite(low_s) & np.isfinite(high_s)
    if not known.any():
        return math.nan
    inside = (measured_s >= low_s) & (measured_s <= high_s)
    return float(100 * np.mean(inside[known]))


def plain(value: float | int) -> float | int | None:
    """A number for JSON: rounded to 4 decimals, None where it is not defined."""
    if isinstance(value, int):
        return value
    return round(float(value), 4) if math.isfinite(value) else None


def table(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Scores by name for JSON."""
    return {name: found.to_dict() for name, found in scores.items()}
