"""How a case is timed on a device that runs asynchronously.

Operands are rotated: enough copies that the last-level cache holds none of them when its turn comes again. Runs are
queued between two events of the device and divided by their number, after a warm-up; the median of several such
samples counts. Where a run takes less than its launch, the sample shows the launch, as a program would see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.device.cases import Case

WARM_UP = 3
SAMPLES = 7
SAMPLE_S = 5e-3  # runs are queued for about so long
MOST_RUNS = 2000
MOST_COPIES = 256
BEYOND_CACHE = 2.0  # operands of all copies together, of the last-level cache


class Backend(Protocol):
    """What timing needs of a framework and its device."""

    cache_bytes: int
    free_bytes: int

    def operands(self, case: Case) -> Any:
        """A new set of operands, filled with values that no kernel treats specially."""

    def runner(self, case: Case) -> Callable[[Any], object]:
        """A call that computes the case on a set of operands."""

    def elapsed_s(self, queue: Callable[[], None]) -> float:
        """Seconds the device takes for what ``queue`` launches."""


@dataclass(frozen=True)
class Sampled:
    """Seconds per run: median and best sample, and how they were taken."""

    median_s: float
    best_s: float
    samples: int
    runs: int
    copies: int


def copies_for(case: Case, cache_bytes: int, free_bytes: int) -> int:
    """Sets of operands to rotate: beyond the cache, within half of the free memory, at least one."""
    wanted = math.ceil(BEYOND_CACHE * cache_bytes / max(case.bytes, 1)) + 1
    room = int(free_bytes // 2 // max(case.bytes, 1))
    return max(1, min(wanted, room, MOST_COPIES))


def measure(case: Case, backend: Backend) -> Sampled:
    """Times one case.

    Raises:
        Exception: whatever the framework raises for a case it cannot run.
    """
    sets = [backend.operands(case) for _ in range(copies_for(case, backend.cache_bytes, backend.free_bytes))]
    run = backend.runner(case)
    turn = 0

    def queue(count: int) -> Callable[[], None]:
        def launch() -> None:
            nonlocal turn
            for _ in range(count):
                run(sets[turn % len(sets)])
                turn += 1

        return launch

    backend.elapsed_s(queue(WARM_UP))
    once = backend.elapsed_s(queue(WARM_UP)) / WARM_UP
    runs = max(1, min(MOST_RUNS, math.ceil(SAMPLE_S / max(once, 1e-9))))
    samples = sorted(backend.elapsed_s(queue(runs)) / runs for _ in range(SAMPLES))
    return Sampled(samples[SAMPLES // 2], samples[0], SAMPLES, runs, len(sets))


def row(case: Case, found: Sampled, device: str, software: str, columns: Sequence[str]) -> str:
    """One line of the row schema."""
    dims = dict(case.dims)
    spread = found.median_s / found.best_s - 1
    extra = f"method=events;copies={found.copies};runs={found.runs};samples={found.samples};spread={spread:.3f}"
    if case.op.startswith("attention"):
        extra += ";causal=1"
    sizes = [str(dims.get(name, "")) for name in columns]
    return ",".join((device, software, case.op, case.dtype, *sizes, f"{1e6 * found.median_s:.5g}", extra))
