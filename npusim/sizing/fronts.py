"""Designs that no other beats in every objective, and the one in the bend of their front."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def pareto(costs: ArrayLike) -> np.ndarray:
    """Rows that no other row dominates: is at most as large everywhere and smaller somewhere. All are minimised.

    In lexicographic order a row can only be dominated by one before it, so it is compared with the front so far.

    Args:
        costs: (rows, objectives); rows with nan are on no front.

    Returns:
        Their indices, ascending. Equal rows are all on the front or all off it.
    """
    table = np.asarray(costs, dtype=float)
    valid = np.flatnonzero(~np.isnan(table).any(axis=1))
    order = valid[np.lexsort(table[valid].T[::-1])] if valid.size else valid
    front = np.empty((0, table.shape[1]))
    kept: list[int] = []
    for index in order:
        row = table[index]
        if bool(((front <= row).all(axis=1) & (front < row).any(axis=1)).any()):
            continue
        kept.append(int(index))
        front = np.vstack([front, row])
    return np.array(sorted(kept), dtype=int)


def knee(costs: ArrayLike) -> int:
    """Row of a front that is nearest to the best of every objective, each scaled to its range on the front."""
    table = np.asarray(costs, dtype=float)
    low, high = table.min(axis=0), table.max(axis=0)
    scaled = (table - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin((scaled**2).sum(axis=1)))


def nearest(costs: ArrayLike, point: ArrayLike, count: int) -> list[int]:
    """Rows nearest to a point by ratio (distance of logarithms), nearest first; rows with nan are left out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.sqrt((np.log(np.asarray(costs, float) / np.asarray(point, float)) ** 2).sum(axis=1))
    order = np.argsort(distance, kind="stable")
    return [int(i) for i in order[:count] if np.isfinite(distance[i])]
