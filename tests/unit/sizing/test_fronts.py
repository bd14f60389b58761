"""The Pareto set against the definition, pair by pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from npusim.sizing.fronts import knee, nearest, pareto

VALUES = st.one_of(st.integers(0, 4).map(float), st.floats(-1e6, 1e6), st.just(float("nan")))
TABLES = st.integers(1, 4).flatmap(
    lambda width: arrays.arrays(float, st.tuples(st.integers(0, 40), st.just(width)), elements=VALUES)
)


def dominated(table: np.ndarray, i: int) -> bool:
    pairs = [list(zip(row, table[i], strict=True)) for row in table]
    return any(all(a <= b for a, b in row) and any(a < b for a, b in row) for row in pairs)


@given(TABLES)
def test_the_front_is_what_no_row_dominates(table: np.ndarray):
    valid = [i for i in range(len(table)) if not np.isnan(table[i]).any()]
    clean = table[valid]
    assert pareto(table).tolist() == [i for place, i in enumerate(valid) if not dominated(clean, place)]


def test_a_large_front_of_many_objectives():
    table = np.random.default_rng(3).normal(size=(1500, 3)).round(1)
    dominates = (table[:, None] <= table[None]).all(-1) & (table[:, None] < table[None]).any(-1)
    assert pareto(table).tolist() == np.flatnonzero(~dominates.any(axis=0)).tolist()


def test_the_knee_is_in_the_bend():
    assert knee([[0, 10], [1, 2], [5, 1], [10, 0]]) == 1
    assert knee([[3, 3]]) == 0


def test_nearest_is_by_ratio_and_leaves_out_what_is_unknown():
    assert nearest([[10, 1], [2, 2], [np.nan, 1], [1.1, 1]], [1, 1], 5) == [3, 1, 0]
