"""Measures this CPU: clock, rates of its instruction sets, bandwidth of its memories, cost of a call.

Every figure is the best of many short samples taken in turn (``host_clock``), with the distance of the median from
the best as spread. Rates are measured on one core and, where cores share something, on all of them at once.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import npukernels as nk
from npukernels import probes
from npusim.accuracy.host_clock import Clock, Timing, best_of
from npusim.accuracy.host_facts import Cache, Facts, read_facts
from npusim.errors import InputError, Problem

CYCLE_STEPS = 40_000
COMPUTE_STEPS = 4_000
TEAM_STEPS = 200_000  # of every thread when all cores work: long enough that starting them does not show
STREAM_BYTES = 1 << 20  # a sample passes over at least this much
# Main memory is measured over a block so much larger than the last cache that little of it stays there.
BEYOND_CACHE = 8
MOST_BYTES = 1 << 30
FEATURE = {"generic": frozenset(), "avx2": frozenset({"avx2"}), "avx512": frozenset({"avx512f", "avx512bw"})}


@dataclass(frozen=True)
class Figure:
    """A measured number: the best seen, and how far the median lay from it, as a share."""

    value: float
    spread: float


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


def measure_machine(seconds: float = 12.0, *, clock: Clock | None = None, facts: Facts | None = None) -> Machine:
    """Measures this CPU in about ``seconds``.

    Args:
        seconds: budget of all samples together.
        clock: seconds since any moment, for tests.
        facts: what is known of the machine (None: ask it).

    Raises:
        InputError: the C extension is not built.
    """
    if not nk.native_available():
        what = f"the C extension does not load: {nk.native_problem()}"
        raise InputError(Problem(what, hint="build it with 'pip install -e .'; it holds the loops that measure"))
    facts = facts or read_facts()
    sizes = footprints(facts.caches, facts.memory_bytes)
    best = instruction_sets()[-1]
    tasks = _tasks(best, sizes, probes.buffer(max(sizes.values())))
    measured = _measure(tasks, seconds * 0.8, clock)
    with ThreadPoolExecutor(facts.cores) as pool:
        team = _team_tasks(best, sizes, facts.cores, pool)
        together = _measure(team, seconds * 0.2, clock)
    return Machine(
        facts,
        best,
        measured[("clock", "")],
        {key: figure for key, figure in measured.items() if key[1] in probes.COMPUTE},
        together[("team", "fma")],
        {key: figure for key, figure in measured.items() if key[1] in probes.STREAMS},
        {name: figure for (name, loop), figure in together.items() if loop == "read"},
        sizes,
        Figure(1 / measured[("call", "")].value, measured[("call", "")].spread),
    )


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets of the probes that this CPU has, slowest first."""
    present = set(nk.cpu_features())
    return tuple(name for name in probes.INSTRUCTION_SETS if FEATURE[name] <= present)


Task = tuple[float, Callable[[], object]]  # work of one run, and the run


def _measure(tasks: dict[tuple[str, str], Task], seconds: float, clock: Clock | None) -> dict[tuple[str, str], Figure]:
    """Work per second of every task."""
    runs = [run for _, run in tasks.values()]
    timings: list[Timing] = best_of(runs, seconds) if clock is None else best_of(runs, seconds, clock)
    return {
        key: Figure(work / timing.best_s, timing.spread)
        for (key, (work, _)), timing in zip(tasks.items(), timings, strict=True)
    }


def _tasks(best: str, sizes: Mapping[str, int], memory: Any) -> dict[tuple[str, str], Task]:
    """What one core is asked."""
    tasks: dict[tuple[str, str], Task] = {
        ("clock", ""): (CYCLE_STEPS, lambda: probes.cycles(CYCLE_STEPS)),
        ("call", ""): (1.0, _small_call()),
    }
    for instructions in instruction_sets():
        for loop in probes.COMPUTE:
            work = probes.compute(instructions, loop, COMPUTE_STEPS)
            if work:
                tasks[(instructions, loop)] = (work, _compute(instructions, loop, COMPUTE_STEPS))
    for name, size in sizes.items():
        for loop, (reads, writes) in probes.STREAMS.items():
            part = size // 2 if reads and writes else size
            source, target = memory[:part], memory[size - part : size]
            passes = max(1, STREAM_BYTES // size)
            work = probes.stream(best, loop, source, target, passes)
            if work:
                tasks[(name, loop)] = (work, _stream(best, loop, source, target, passes))
    return tasks


def _compute(instructions: str, loop: str, steps: int) -> Callable[[], object]:
    return lambda: probes.compute(instructions, loop, steps)


def _stream(instructions: str, loop: str, source: Any, target: Any, passes: int) -> Callable[[], object]:
    return lambda: probes.stream(instructions, loop, source, target, passes)


def _small_call() -> Callable[[], object]:
    a, b, out = np.ones((1, 8), np.float32), np.ones((8, 1), np.float32), np.empty((1, 1), np.float32)
    return lambda: nk.gemm(a, b, out=out)


def _team_tasks(best: str, sizes: Mapping[str, int], cores: int, pool: Any) -> dict[tuple[str, str], Task]:
    """What all cores are asked at once: each thread has memory of its own, of its share of the footprint."""

    def together(run: Callable[[Any], object], parts: list[Any]) -> Callable[[], object]:
        return lambda: list(pool.map(run, parts))

    work = probes.compute(best, "fma", TEAM_STEPS) * cores
    fma = together(lambda _: probes.compute(best, "fma", TEAM_STEPS), list(range(cores)))
    tasks: dict[tuple[str, str], Task] = {("team", "fma"): (work, fma)}
    for name in list(sizes)[-2:]:  # the last cache and main memory are what cores share
        parts = [probes.buffer(_blocks(sizes[name] // cores)) for _ in range(cores)]
        passes = max(1, (16 << 20) // sizes[name])
        work = float(sum(part.nbytes for part in parts) * passes)
        tasks[(name, "read")] = (work, together(_reader(best, passes), parts))
    return tasks


def _reader(best: str, passes: int) -> Callable[[Any], object]:
    return lambda part: probes.stream(best, "read", part, None, passes)
