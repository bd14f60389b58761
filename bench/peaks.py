"""Measured limits of one core of this CPU, and the share of them that a timed kernel reaches.

The loops are those of ``npukernels.probes`` (csrc/host) in the best instruction set that this CPU has. A limit is
measured when it is first asked for and kept for the process; who times other things in turn with it (``bench.peers``)
takes its ``probe`` instead.

    python -m bench.peaks
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from npukernels import probes
from npusim.accuracy.host_clock import best_of
from npusim.accuracy.host_facts import read_facts
from npusim.accuracy.host_machine import instruction_sets

SECONDS = 0.2  # a limit is measured for so long, at least
STEPS = 20_000  # of a loop in registers: 0.1 to 0.3 ms
PASSED_BYTES = 1 << 20  # a sample of a stream passes over at least this much
BEYOND = 4  # no block is larger than so many times the last cache: nothing would change

Probe = tuple[float, Callable[[], object]]  # work of one run (operations or bytes), and the run


@dataclass(frozen=True)
class Work:
    """What a kernel cannot avoid.

    Args:
        operations: multiplications and additions.
        loop: loop of ``probes.COMPUTE`` that does such operations fastest.
        read_bytes: read once, when what it writes is small beside it.
        copied_bytes: read and written once, both counted.
        unit: what it is reported in, ``GFLOP/s``, ``GOP/s``, ``GB/s`` or ``Gelement/s``.
        amount: how much of the unit one run does, in units and not in billions; 0: operations, or else bytes.
    """

    operations: float = 0.0
    loop: str = "fma"
    read_bytes: float = 0.0
    copied_bytes: float = 0.0
    unit: str = "GFLOP/s"
    amount: float = 0.0

    def rate(self, seconds: float) -> float:
        """What ``seconds`` a run amount to, in ``unit``."""
        return (self.amount or self.operations or self.read_bytes + self.copied_bytes) / seconds / 1e9


def product(m: int, n: int, k: int, weight_bytes: float = 4.0, loop: str = "fma", unit: str = "GFLOP/s") -> Work:
    """A product of (m, k) activations and (k, n) weights of so many bytes each, which are read once."""
    return Work(2.0 * m * n * k, loop, read_bytes=weight_bytes * k * n, unit=unit)


def moved(source_bytes: float, target_bytes: float) -> Work:
    """An op that reads and writes every byte once."""
    return Work(copied_bytes=float(source_bytes + target_bytes), unit="GB/s")


def probes_of(work: Work) -> list[tuple[float, Probe]]:
    """The limits of a piece of work: how much it asks of each, and the loop that measures it."""
    found = [(work.operations, compute_probe(work.loop))] if work.operations else []
    streams = (("read", work.read_bytes), ("copy", work.copied_bytes))
    return found + [(size, stream_probe(loop, size)) for loop, size in streams if size]


@functools.cache
def compute_probe(loop: str) -> Probe:
    """A loop in registers."""
    best = instruction_sets()[-1]
    if not probes.compute(best, loop, 1):  # AVX-512 without VNNI has no dot8
        best = instruction_sets()[-2]
    return probes.compute(best, loop, STEPS), lambda: probes.compute(best, loop, STEPS)


def stream_probe(loop: str, size: float) -> Probe:
    """Reading, or copying, ``size`` bytes (of a copy: source and target together)."""
    most = BEYOND * read_facts().caches[-1].capacity_bytes
    block = 2 * probes.BLOCK_BYTES
    return _stream_probe(loop, max(int(min(size, most)) // block, 1) * block)


@functools.cache
def _stream_probe(loop: str, size: int) -> Probe:
    memory, best, passes = _memory(size), instruction_sets()[-1], max(1, PASSED_BYTES // size)
    source, target = (memory[: size // 2], memory[size // 2 :]) if loop == "copy" else (memory, None)
    if loop == "copy" and size > read_facts().caches[-1].capacity_bytes:
        loop = "copy-past"  # what stays in no cache is better not fetched before it is written
    return probes.stream(best, loop, source, target, passes), lambda: probes.stream(best, loop, source, target, passes)


@functools.lru_cache(maxsize=1)
def _largest() -> list[Any]:
    return [probes.buffer(probes.BLOCK_BYTES)]


def _memory(size: int) -> Any:
    """One block of memory serves all streams."""
    kept = _largest()
    if kept[0].nbytes < size:
        kept[0] = probes.buffer(size)
    return kept[0][:size]


@functools.cache
def rate(work: float, run: Callable[[], object]) -> float:
    """Operations or bytes per second of a probe."""
    end, best = time.perf_counter() + SECONDS, best_of([run], SECONDS)[0].best_s
    while time.perf_counter() < end:
        best = min(best, best_of([run], SECONDS)[0].best_s)
    return work / best


def least_seconds(work: Work) -> float:
    """The time that the slowest of its limits needs for the work."""
    return max(amount / rate(*probe) for amount, probe in probes_of(work))


def record(benchmark: Any, work: Work, seconds: float | None = None) -> None:
    """Adds rate, unit and the fraction of the measured peak to a pytest-benchmark result.

    Args:
        benchmark: the fixture; nothing is added under ``--benchmark-disable``.
        work: what one timed run did.
        seconds: of one run; None for the best that the fixture timed.
    """
    if benchmark.stats:
        seconds = seconds or benchmark.stats.stats.min
        benchmark.extra_info.update(
            rate=work.rate(seconds), unit=work.unit, fraction_of_peak=least_seconds(work) / seconds
        )


def main() -> None:
    """Prints the limits."""
    print(f"{read_facts().model}, one core, {instruction_sets()[-1]}")
    for loop, text in probes.COMPUTE.items():
        if probes.compute(instruction_sets()[-1], loop, 1):
            print(f"{loop:10s} {rate(*compute_probe(loop)) / 1e9:8.1f} G/s    {text}")
    last = read_facts().caches[-1].capacity_bytes
    for size in (*(c.capacity_bytes // 2 for c in read_facts().caches), BEYOND * last):
        read, copied = (rate(*stream_probe(loop, size)) / 1e9 for loop in ("read", "copy"))
        print(f"{size / 2**20:8.3f} MiB  read {read:6.1f} GB/s, copy {copied:6.1f} GB/s (read and written)")


if __name__ == "__main__":
    main()
