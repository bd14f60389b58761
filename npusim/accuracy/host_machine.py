"""Measures this CPU: clock, rates of its instruction sets, bandwidth of its memories, cost of a call.

Every figure is the best of many short samples taken in turn (``host_clock``), with the distance of the median from
the best as spread. Rates are measured on one core and, where cores share something, on all of them at once.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import npukernels as nk
from npukernels import probes
from npusim.accuracy.host_clock import Timing
from npusim.accuracy.host_facts import Cache, Facts, read_facts
from npusim.errors import InputError, Problem

# Long enough that the call from Python, a microsecond or two, does not show.
CYCLE_STEPS = 400_000
COMPUTE_STEPS = 100_000
SLOW_STEPS = 8_000
SLOW = ("rsqrt", "fma-chain")
TEAM_SAMPLES = 5
TEAM_STEPS = 200_000  # of every thread when all cores work: long enough that starting them does not show
STREAM_BYTES = 1 << 24  # a sample passes over at least this much
# Main memory is measured over a block so much larger than the last cache that little of it stays there.
BEYOND_CACHE = 8
MOST_BYTES = 1 << 30
# Multiples of the last cache over which reading is timed, to see how much of it this process holds.
SWEEP = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
FEATURE = {"generic": frozenset(), "avx2": frozenset({"avx2"}), "avx512": frozenset({"avx512f", "avx512bw"})}


@dataclass(frozen=True)
class Figure:
    """A measured number: the best seen, and how far the median lay from it, as a share."""

    value: float
    spread: float


@dataclass(frozen=True)
class Residency:
    """How one core reads beyond its own caches.

    A set of S bytes is read from the last cache of C bytes to a share min(1, sqrt(kept_share C / S)), the rest from
    main memory: random replacement and other users of the cache smooth its edge.

    Args:
        cache_bytes_per_s: from the last cache.
        dram_bytes_per_s: from main memory.
        kept_share: of the last cache that holds this process's data.
    """

    cache_bytes_per_s: float
    dram_bytes_per_s: float
    kept_share: float


def residency(curve: Mapping[int, float], capacity: int) -> Residency:
    """The residency that explains read rates best, by least squares of relative error.

    Args:
        curve: bytes per second by bytes passed over, all beyond the core's own caches.
        capacity: of the last cache, bytes.
    """
    sizes, rates = np.array(list(curve), float), np.array(list(curve.values()))
    best, least = Residency(rates.max(), rates.min(), 0.5), np.inf
    for kept_share in np.linspace(0.2, 1.0, 17):
        kept = np.minimum(1.0, np.sqrt(kept_share * capacity / sizes))
        # rate * (kept / cache + (1 - kept) / dram) = 1 is linear in the two inverses.
        shares = np.stack([kept, 1 - kept], axis=1) * rates[:, None]
        inverse, *_ = np.linalg.lstsq(shares, np.ones(len(rates)), rcond=None)
        error = float(np.sum((shares @ inverse - 1) ** 2))
        if error < least and inverse[0] > 0 and inverse[1] > inverse[0]:
            best, least = Residency(float(1 / inverse[0]), float(1 / inverse[1]), float(kept_share)), error
    return best


@dataclass(frozen=True)
class Machine:
    """This CPU, measured.

    Args:
        facts: what the system says.
        instructions: the best instruction set this CPU has.
        clock_hz: cycles per second of one busy core, from integer additions that wait for each other.
        rates: operations per second of one core by (instruction set, loop of ``probes.COMPUTE``).
        team_rate: multiply-add operations per second of all cores at once, best instruction set.
        bandwidth: bytes per second of one core by (memory, loop of ``probes.STREAMS``); a copy counts what it reads
            and what it writes. Memories are ``l1``, ``l2``, ... and ``dram``.
        team_bandwidth: bytes per second that all cores read at once, by memory.
        footprints: bytes each memory was measured over.
        residency: what one core reads from beyond its own caches.
        call_s: seconds of a call of the kernel library that computes next to nothing.
        date: when, ISO 8601.
    """

    facts: Facts
    instructions: str
    clock_hz: Figure
    rates: Mapping[tuple[str, str], Figure]
    team_rate: Figure
    bandwidth: Mapping[tuple[str, str], Figure]
    team_bandwidth: Mapping[str, Figure]
    footprints: Mapping[str, int]
    residency: Residency
    call_s: Figure
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())


def footprints(caches: tuple[Cache, ...], memory_bytes: int) -> dict[str, int]:
    """Bytes to pass over for each memory: well inside it, and beyond the one before."""
    found: dict[str, int] = {}
    before = 0
    for cache in caches:
        inside = cache.capacity_bytes // 2
        if inside > before:
            found[f"l{cache.level}"] = _blocks(max(inside, 2 * before) if 3 * before < cache.capacity_bytes else inside)
        before = cache.capacity_bytes
    room = memory_bytes // 8 or MOST_BYTES
    found["dram"] = _blocks(max(min(BEYOND_CACHE * before, MOST_BYTES, room), 2 * before))
    return found


def _blocks(size: int) -> int:
    return max(size // (2 * probes.BLOCK_BYTES), 1) * 2 * probes.BLOCK_BYTES


class Probes:
    """What a machine is asked on one core, so that it can be asked in turn with other tasks.

    Args:
        facts: what is known of the machine (None: ask it).

    Raises:
        InputError: the C extension is not built.
    """

    def __init__(self, facts: Facts | None = None) -> None:
        if not nk.native_available():
            what = f"the C extension does not load: {nk.native_problem()}"
            raise InputError(Problem(what, hint="build it with 'pip install -e .'; it holds the loops that measure"))
        self.facts = facts or read_facts()
        self.sizes = footprints(self.facts.caches, self.facts.memory_bytes)
        self.best = instruction_sets()[-1]
        memory = probes.buffer(max(self.sizes.values()))
        last = self.facts.caches[-1].capacity_bytes
        sweep = [_blocks(int(factor * last)) for factor in SWEEP]
        private = max((c.capacity_bytes for c in self.facts.caches[:-1]), default=0)
        self.sweep = [size for size in sweep if 3 * private < size < len(memory)] + [len(memory)]
        self.tasks = _tasks(self.best, self.sizes, self.sweep, memory)

    @property
    def runs(self) -> list[Callable[[], object]]:
        """The tasks, to be timed on one thread."""
        return [run for _, run in self.tasks.values()]

    def machine(self, timings: Sequence[Timing], team_seconds: float) -> Machine:
        """The machine that the timings of ``runs`` describe; measures all cores at once as well.

        Args:
            timings: in the order of ``runs``.
            team_seconds: budget for what all cores are asked together.
        """
        measured = _figures(self.tasks, timings)
        together = _team(self.best, self.sizes, self.facts.cores, team_seconds)
        curve = {size: measured[("sweep", str(size))].value for size in self.sweep}
        call = measured[("call", "")]
        return Machine(
            self.facts,
            self.best,
            measured[("clock", "")],
            {key: figure for key, figure in measured.items() if key[1] in probes.COMPUTE},
            together["fma"],
            {key: figure for key, figure in measured.items() if key[1] in probes.STREAMS},
            {name: figure for name, figure in together.items() if name != "fma"},
            self.sizes,
            residency(curve, self.facts.caches[-1].capacity_bytes),
            Figure(1 / call.value, call.spread),
        )


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets of the probes that this CPU has, slowest first."""
    present = set(nk.cpu_features())
    return tuple(name for name in probes.INSTRUCTION_SETS if FEATURE[name] <= present)


Task = tuple[float, Callable[[], object]]  # work of one run, and the run


def _figures(tasks: dict[tuple[str, str], Task], timings: Sequence[Timing]) -> dict[tuple[str, str], Figure]:
    """Work per second of every task."""
    return {
        key: Figure(work / timing.best_s, timing.spread)
        for (key, (work, _)), timing in zip(tasks.items(), timings, strict=True)
    }


def _tasks(best: str, sizes: Mapping[str, int], sweep: list[int], memory: Any) -> dict[tuple[str, str], Task]:
    """What one core is asked."""
    tasks: dict[tuple[str, str], Task] = {
        ("clock", ""): (CYCLE_STEPS, lambda: probes.cycles(CYCLE_STEPS)),
        ("call", ""): (1.0, _small_call()),
    }
    for instructions in instruction_sets():
        for loop in probes.COMPUTE:
            steps = SLOW_STEPS if loop in SLOW else COMPUTE_STEPS
            work = probes.compute(instructions, loop, steps)
            if work:
                tasks[(instructions, loop)] = (work, _compute(instructions, loop, steps))
    for name, size in sizes.items():
        for loop, (reads, writes) in probes.STREAMS.items():
            part = size // 2 if reads and writes else size
            source, target = memory[:part], memory[size - part : size]
            passes = max(1, STREAM_BYTES // size)
            work = probes.stream(best, loop, source, target, passes)
            if work:
                tasks[(name, loop)] = (work, _stream(best, loop, source, target, passes))
    for size in sweep:
        tasks[("sweep", str(size))] = (float(size), _stream(best, "read", memory[:size], None, 1))
    return tasks


def _compute(instructions: str, loop: str, steps: int) -> Callable[[], object]:
    return lambda: probes.compute(instructions, loop, steps)


def _stream(instructions: str, loop: str, source: Any, target: Any, passes: int) -> Callable[[], object]:
    return lambda: probes.stream(instructions, loop, source, target, passes)


def _small_call() -> Callable[[], object]:
    a, b, out = np.ones((1, 8), np.float32), np.ones((8, 1), np.float32), np.empty((1, 1), np.float32)
    return lambda: nk.gemm(a, b, out=out)


def _team(best: str, sizes: Mapping[str, int], cores: int, seconds: float) -> dict[str, Figure]:
    """What all cores reach at once: multiply-adds, and reading from the memories that they share."""
    found = {}
    shared = list(sizes)[-2:]  # the last cache and main memory
    with ThreadPoolExecutor(cores) as pool:
        alone: list[Callable[[], float]] = [lambda: probes.compute(best, "fma", TEAM_STEPS)] * cores
        found["fma"] = _together(alone, pool, seconds / 3)
        for name in shared:
            parts = [probes.buffer(_blocks(sizes[name] // cores)) for _ in range(cores)]
            passes = max(1, (16 << 20) // sizes[name])
            found[name] = _together([_reader(best, part, passes) for part in parts], pool, seconds / 3)
    return found


def _together(work: Sequence[Callable[[], float]], pool: ThreadPoolExecutor, seconds: float) -> Figure:
    """Work per second of one call a thread, all begun together; a thread counts its own processor time."""
    barrier = threading.Barrier(len(work))

    def timed(run: Callable[[], float]) -> float:
        barrier.wait()
        begin = time.thread_time()
        done = run()
        return done / max(time.thread_time() - begin, 1e-12)

    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < TEAM_SAMPLES or (time.perf_counter() < end and len(samples) < 10 * TEAM_SAMPLES):
        samples.append(sum(pool.map(timed, work)))
    samples.sort()
    best = samples[-1]
    return Figure(best, best / samples[len(samples) // 2] - 1)


def _reader(best: str, part: Any, passes: int) -> Callable[[], float]:
    return lambda: probes.stream(best, "read", part, None, passes)
