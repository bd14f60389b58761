"""Timing on a machine that others use too: the best of many short samples, taken in turn.

A core of a shared machine flips between full and half speed for seconds at a time. Tasks that are timed one after
the other carry whatever the machine did meanwhile; here every round visits every task, so each gets samples from
the whole span, and its fastest is the machine undisturbed. How far the median lies above it is reported as spread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]

# A sample repeats a quick task so often that reading the clock does not show.
SAMPLE_S = 1e-4
MOST_REPEATS = 1000
MOST_ROUNDS = 40
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds per run of one task.

    Args:
        best_s: fastest sample.
        median_s: median sample.
        samples: how many there were.
    """

    best_s: float
    median_s: float
    samples: int

    @property
    def spread(self) -> float:
        """How far the median lies above the best, as a share of the best."""
        return self.median_s / self.best_s - 1


def best_of(
    tasks: Sequence[Callable[[], object]],
    seconds: float,
    clock: Clock = time.thread_time,
    wall: Clock = time.perf_counter,
) -> list[Timing]:
    """Times every task in turn for about ``seconds`` altogether.

    Each visit runs a task once to bring its data back into the caches, then times it.

    Args:
        tasks: what to run.
        seconds: budget; every task gets at least ``LEAST_ROUNDS`` samples even if that takes longer.
        clock: of the samples. The processor time of the calling thread, the default, leaves out what other
            processes take; it is right for tasks on one thread only.
        wall: of the budget.
    """
    start = wall()
    repeats = [_repeats(task, clock) for task in tasks]
    samples: list[list[float]] = [[] for _ in tasks]
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and wall() - start > seconds:
            break
        for task, count, found in zip(tasks, repeats, samples, strict=True):
            task()
            found.append(_timed(task, count, clock))
    return [_timing(found) for found in samples]


def _repeats(task: Callable[[], object], clock: Clock) -> int:
    """How often a task runs in one sample; its first run, which may compile or allocate, does not count."""
    task()
    once = _timed(task, 1, clock)
    return max(1, min(MOST_REPEATS, math.ceil(SAMPLE_S / max(once, 1e-9))))


def _timed(task: Callable[[], object], count: int, clock: Clock) -> float:
    begin = clock()
    for _ in range(count):
        task()
    return (clock() - begin) / count


def _timing(samples: list[float]) -> Timing:
    # A clock too coarse to see a task would make it infinitely fast.
    ordered = sorted(max(sample, 1e-12) for sample in samples)
    return Timing(ordered[0], ordered[len(ordered) // 2], len(ordered))
