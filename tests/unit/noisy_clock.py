"""Simulated timings with the noise of a shared machine, as measured on one.

The clock drifts (a random walk), runs at half speed for some rounds in a row (another tenant), and within a
timing a burst of other work slows some of the runs; see docs/kernels-checking.md.
"""

import numpy as np

from npusim.regression import order

RUNS = 20  # of the benchmark, in one timing


def machine_speed(rng, timings):
    """How much longer everything takes, timing by timing."""
    drift = np.cumsum(rng.normal(0, 0.01, timings))
    slow, half_speed = rng.random() < 0.15, np.zeros(timings, dtype=bool)
    for i in range(timings):
        slow = rng.random() > 1 / 6 if slow else rng.random() < 0.03
        half_speed[i] = slow
    return np.exp(drift) * np.where(half_speed, rng.uniform(1.8, 2.1), 1.0)


def runs(rng, seconds, speed):
    """The runs of one timing."""
    times = seconds * speed * (1 + rng.exponential(0.01, RUNS))
    if rng.random() < 0.3:
        start = rng.integers(0, RUNS)
        times[start : start + rng.integers(1, RUNS)] *= rng.uniform(1.2, 3)
    if rng.random() < 0.1:
        times *= rng.uniform(1.05, 1.5)
    return times


def interleaved(seed, ratio, rounds=10):
    """Shortest times of both sides, shape (rounds, 2) each; B takes ``ratio`` times as long as A."""
    rng = np.random.default_rng(seed)
    speed = machine_speed(rng, 4 * rounds)
    return in_order(lambda side, place: runs(rng, 1e-3 * (ratio if side else 1), speed[place]).min(), rounds)


def in_order(timing, rounds):
    """``timing(side, place)`` for every place of the schedule, by side."""
    sides = [np.empty((rounds, 2)), np.empty((rounds, 2))]
    for number in range(rounds):
        for place, side in enumerate(order(number)):
            nth = order(number)[:place].count(side)
            sides[side][number, nth] = timing(side, 4 * number + place)
    return sides


def one_after_the_other(seed, ratio, timings=20):
    """All runs of A, then all runs of B, with what the machine does in between."""
    rng = np.random.default_rng(seed)
    speed = machine_speed(rng, 2 * timings)
    parts = [runs(rng, 1e-3 * (ratio if i >= timings else 1), v) for i, v in enumerate(speed)]
    return np.concatenate(parts[:timings]), np.concatenate(parts[timings:])
