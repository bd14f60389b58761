"""How often do the verdicts of ``bench.ab`` err on this machine? ``python -m bench.ab_study``.

A/A trials time the same work on both sides, the others eleven products against ten. Issue 4 wants at most 2 alarms in
100 A/A trials, and at least 38 of 40 true regressions found. For contrast: the same with all of A before all of B.
"""

from __future__ import annotations

import time

import numpy as np

from npusim.regression import Timing, order, paired, stored

ROUNDS, RUNS = 10, 10
A, B = (np.random.default_rng(seed).standard_normal((96, 96)).astype(np.float32) for seed in (0, 1))
OUT = np.empty((96, 96), np.float32)


def timings(products: int) -> list[float]:
    """Seconds of a few runs, sorted; a run is a number of small products."""
    found = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(products):
            np.matmul(A, B, out=OUT)
        found.append(time.perf_counter() - start)
    return sorted(found)


def interleaved(products: tuple[int, int]) -> str:
    """One trial as ``bench.ab`` makes it."""
    sides: tuple[list[list[float]], ...] = ([], [])
    for number in range(ROUNDS):
        row: tuple[list[float], list[float]] = ([], [])
        for side in order(number):
            row[side].append(timings(products[side])[0])
        for side in (0, 1):
            sides[side].append(row[side])
    return paired("", *(np.array(side) for side in sides)).verdict


def one_after_the_other(products: tuple[int, int]) -> str:
    """One trial of as many timings, as two stored records have them."""
    records = [sorted(t for _ in range(2 * ROUNDS) for t in timings(count)) for count in products]
    base, current = (Timing(r[0], r[len(r) // 4]) for r in records)
    return stored("", base, current).verdict


if __name__ == "__main__":
    for trial in (interleaved, one_after_the_other):
        alarms = sum(trial((10, 10)) != "same" for _ in range(100))
        slower, faster = (
            sum(trial(p) == v for _ in range(40)) for p, v in (((10, 11), "slower"), ((11, 10), "faster"))
        )
        print(f"{trial.__name__}: A/A alarms {alarms}/100, +10 % found {slower}/40, -10 % found {faster}/40")
