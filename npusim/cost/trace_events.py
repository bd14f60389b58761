"""The cycle fidelity's timeline as a trace that Perfetto and chrome://tracing open.

One file holds the operators of a step one after the other, each run once however often it repeats (``count`` is in
its args); operators that differ in name alone share one simulation. Process 1 holds the operators, process 2 what
belongs to the whole chip (links, DRAM bandwidth, the fullest core), one further process a core its queues and the
occupancy of its memory. Format: "Trace Event Format", Chromium project: complete events ``X``, counters ``C`` and
metadata ``M``.

``Cost.trace`` needs this in the layer of the cost models; nothing here draws or reads what is above it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npusim.chip import Chip
from npusim.cost import cycle, roofline
from npusim.cost.program import CODES, WORK, Floats, Ints, Program
from npusim.errors import InputError, Problem, unknown_name
from npusim.workload import Op, Workload

MAX_EVENTS = 2_000_000
# Cores shown where all of them would make too many events.
FEW_CORES = 8
# Values of a binned counter per operator.
BINS = 512
OPERATORS, CHIP, FIRST_CORE = 1, 2, 10  # process numbers
# Times are whole 1/1024 µs: exact in binary, so that neighbours touch and never overlap, whoever rounds them.
TICKS_PER_S = 1024 * 1e6
TICK_US = 1 / 1024
_NAMES = list(WORK)


@dataclass(frozen=True)
class Run:
    """One operator of a step and its run.

    Args:
        op: the operator.
        begin_s: where it stands in the trace, launch included.
        time_s: of one run, launch included.
        launch_s: before its first task.
        ran: the timeline.
        dram_bytes_per_s: peak of the main memory.
        stretch: how much longer all of it is drawn than it takes.
    """

    op: Op
    begin_s: float
    time_s: float
    launch_s: float
    ran: cycle.Timeline
    dram_bytes_per_s: float
    stretch: float = 1.0

    def ticks(self, times_s: Floats) -> Ints:
        """Where times of the timeline stand in the trace."""
        return ticks(self.begin_s + (self.launch_s + times_s) * self.stretch)


@dataclass(frozen=True)
class TraceFile:
    """What was written.

    Args:
        path: the file.
        events: in it.
        cores: whose tracks are in it.
        chip_cores: of the chip.
        operators: in it.
        time_s: where the last operator ends.
    """

    path: Path
    events: int
    cores: int
    chip_cores: int
    operators: int
    time_s: float


def simulate(workload: Workload, chip: Chip, name: str | None = None) -> list[Run]:
    """Runs the operators of a workload (or the one called ``name``) at cycle fidelity, one after the other.

    Raises:
        InputError: unknown operator, or array dimensions.
        Unavailable: the chip is not described for the cycle fidelity.
    """
    chip.require("cycle")
    names = [op.name for op in workload.ops]
    if name is not None and name not in names:
        raise unknown_name("operator of the workload", name, names, "--op")
    chosen = [op for op in workload.ops if name in (None, op.name)]
    if any(np.ndim(size) for op in chosen for size in op.dims.values()):
        raise InputError(Problem("a trace needs scalar dimensions", hint="trace one shape at a time"))
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    done: dict[tuple[object, ...], cycle.Timeline] = {}
    runs: list[Run] = []
    begin_s, launch_s = 0.0, chip.overheads.launch_s or 0.0
    for op in chosen:
        work, key = roofline.work(op, chip), cycle.run_key(op)
        if key not in done:
            done[key] = cycle.timeline(op, chip, work)
        time_s = cycle.time_s(done[key], work, chip)
        runs.append(Run(op, begin_s, time_s, launch_s, done[key], chip.memory.bandwidth_bytes_per_s))
        begin_s += time_s
    return runs


# -- counters -----------------------------------------------------------------------------------------------


def dram_bandwidth(ran: cycle.Timeline, peak_bytes_per_s: float, bins: int = BINS) -> tuple[Floats, Floats]:
    """Edges of equal bins (s) and the main-memory bytes per second in each.

    The run knows when each block was asked for and when its last byte had moved. Its bytes are spread evenly between
    the two, then shifted as little as needed for no bin to pass the peak and no block to end later than it did.
    """
    edges = np.linspace(0.0, ran.makespan_s, bins + 1)
    size, end = ran.program.blocks.bytes, ran.block_end_s
    if not size.size or ran.makespan_s <= 0:
        return edges, np.zeros(bins)
    width = edges[1]
    begin = np.minimum(ran.block_begin_s, end - width * 1e-3)
    rate = size / (end - begin)
    times = np.concatenate((begin, end))
    order = np.argsort(times, kind="stable")
    slope = np.cumsum(np.concatenate((rate, -rate))[order])
    times = times[order]
    spread = np.concatenate(([0.0], np.cumsum(slope[:-1] * np.diff(times))))
    evenly = np.interp(edges, times, spread, left=0.0)
    by_end = np.argsort(end)
    ended = np.concatenate(([0.0], np.cumsum(size[by_end])))[np.searchsorted(end[by_end], edges, side="right")]
    at_peak = peak_bytes_per_s * edges
    delayed = np.minimum.accumulate(evenly - at_peak) + at_peak
    latest = np.maximum.accumulate((ended - at_peak)[::-1])[::-1] + at_peak
    moved = np.maximum.accumulate(np.maximum(delayed, latest))
    return edges, np.diff(moved) / width


def occupancy(ran: cycle.Timeline, core: int) -> tuple[Floats, Floats]:
    """Times (s) at which the occupancy of a core's memory changes, and the bytes from then on."""
    holds = ran.program.holds
    mine = holds.core == core
    size = holds.bytes[mine]
    times = np.concatenate((ran.start_s[holds.taken_by[mine]], ran.end_s[holds.freed_by[mine]]))
    moments, place = np.unique(times, return_inverse=True)
    change = np.bincount(place.ravel(), weights=np.concatenate((size, -size)), minlength=len(moments))
    return moments, np.maximum(np.cumsum(change), 0.0)


def fullest(ran: cycle.Timeline, bins: int = BINS) -> tuple[Floats, Floats]:
    """Edges of equal bins (s) and, in each, the most bytes that any core holds at a moment."""
    edges, most = np.linspace(0.0, ran.makespan_s, bins + 1), np.zeros(bins)
    if ran.makespan_s <= 0:
        return edges, most
    for core in np.unique(ran.program.holds.core):
        times, held = occupancy(ran, int(core))
        bin_of = np.minimum((times / edges[1]).astype(np.int64), bins - 1)
        np.maximum.at(most, bin_of, held)
        # What a bin begins with was taken before it.
        before = np.searchsorted(times, edges[:-1], side="right") - 1
        np.maximum(most, np.where(before >= 0, held[before], 0.0), out=most)
    return edges, most


# -- events -------------------------------------------------------------------------------------------------


def count(runs: list[Run], cores: int) -> int:
    """Events of the runs with the tracks of the first ``cores`` cores; an upper bound, counters merged."""
    total = 0
    for run in runs:
        program = run.ran.program
        shown = _core_of_task(program) < cores
        total += int((shown & (program.work != CODES["none"])).sum()) + 2 * (BINS + 1) + 1
        total += 2 * int((program.holds.core < cores).sum())
    return total


def _core_of_task(program: Program) -> Ints:
    return np.array([queue.core for queue in program.queues], np.int64)[program.queue]


def events(runs: list[Run], cores: int) -> Iterator[str]:
    """The events as JSON objects: metadata first, then operator by operator."""
    yield from _metadata(runs, cores)
    for run in runs:
        args: dict[str, Any] = {"count": run.op.count, "kind": run.op.kind, "tasks": run.ran.program.tasks,
                "dims": {name: int(size) for name, size in run.op.dims.items()}}  # fmt: skip
        begin, end = ticks(np.array([run.begin_s, run.begin_s + run.time_s * run.stretch])).tolist()
        if run.stretch != 1:
            args["stretch"] = round(run.stretch, 4)
        yield piece(run.op.name, OPERATORS, 1, begin, end, args)
        yield from _tasks(run, cores)
        edges, rate = dram_bandwidth(run.ran, run.dram_bytes_per_s)
        yield from _counter("DRAM bandwidth, GB/s", CHIP, run, edges, np.append(rate / run.stretch * 1e-9, 0.0))
        edges, most = fullest(run.ran)
        yield from _counter("fullest core's memory, bytes", CHIP, run, edges, np.append(most, 0.0))
        for core in range(cores):
            yield from _counter("core memory, bytes", FIRST_CORE + core, run, *occupancy(run.ran, core))


def _metadata(runs: list[Run], cores: int) -> Iterator[str]:
    """Names and order of processes and tracks."""
    names = {OPERATORS: "operators", CHIP: "chip", **{FIRST_CORE + core: f"core {core}" for core in range(cores)}}
    for pid, name in names.items():
        yield meta("process_name", pid, 0, name=name)
        yield meta("process_sort_index", pid, 0, sort_index=pid)
    tracks = {(OPERATORS, 1): "operators"}
    for run in runs:
        for pid, tid, name in _tracks(run.ran.program):
            if pid in names:
                tracks[pid, tid] = name
    for (pid, tid), name in sorted(tracks.items()):
        yield meta("thread_name", pid, tid, name=name)
        yield meta("thread_sort_index", pid, tid, sort_index=tid)


# Order of a core's tracks, as data pass them.
QUEUE_ORDER = ("load", "matrix", "vector", "store", "link")


def _tracks(program: Program) -> list[tuple[int, int, str]]:
    """Process, track and name of each queue; a name has the same track in every program."""
    return [
        (CHIP if queue.core < 0 else FIRST_CORE + queue.core, 1 + QUEUE_ORDER.index(queue.name), queue.name)
        for queue in program.queues
    ]


def _tasks(run: Run, cores: int) -> Iterator[str]:
    """A slice for each task of the first cores, from when its data begin to move."""
    ran, program = run.ran, run.ran.program
    shown = np.flatnonzero((_core_of_task(program) < cores) & (program.work != CODES["none"]))
    tracks = _tracks(program)
    has_block = program.block[shown] >= 0
    if len(program.blocks.bytes):
        passed = np.where(has_block, program.blocks.bytes[np.maximum(program.block[shown], 0)], 0.0)
    else:
        passed = np.zeros(len(shown))
    columns = (
        program.work[shown], program.queue[shown], run.ticks(ran.begin_s[shown]),
        run.ticks(ran.end_s[shown]), program.bytes[shown], passed,
        (ran.begin_s - ran.start_s)[shown] * 1e6,
    )  # fmt: skip
    for work, queue, begin, end, size, block, waited in zip(*(column.tolist() for column in columns), strict=True):
        args = {"waited_us": round(waited, 4)}
        if size:
            args["bytes"] = size
        if block:
            args["block_bytes"] = block
        pid, tid, _ = tracks[queue]
        yield piece(_NAMES[work], pid, tid, begin, end, args)


def _counter(name: str, pid: int, run: Run, times_s: Floats, values: Floats) -> Iterator[str]:
    """Values of a counter from their times on; a value that does not change is left out."""
    if not len(values):
        return
    keep = np.concatenate(([True], np.abs(np.diff(values)) > 1e-9 * np.abs(values).max()))
    head = f'{{"ph":"C","name":{json.dumps(name)},"pid":{pid},"tid":0,"ts":'
    at = run.ticks(times_s[keep])
    for tick, value in zip(at.tolist(), values[keep].tolist(), strict=True):
        yield f'{head}{tick * TICK_US!r},"args":{{"value":{round(value, 3)!r}}}}}'


def ticks(times_s: Floats) -> Ints:
    """Times as whole ticks."""
    return np.rint(times_s * TICKS_PER_S).astype(np.int64)


def piece(name: str, pid: int, tid: int, begin: int, end: int, args: dict[str, Any]) -> str:
    """A slice of a track, in ticks."""
    where = f'"pid":{pid},"tid":{tid},"ts":{begin * TICK_US!r},"dur":{(end - begin) * TICK_US!r}'
    return f'{{"ph":"X","name":{json.dumps(name)},{where},"args":{json.dumps(args)}}}'


def meta(kind: str, pid: int, tid: int, **args: object) -> str:
    """A name or the order of a process or track."""
    return json.dumps({"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": args})


# -- the file -----------------------------------------------------------------------------------------------


def write(
    runs: list[Run], path: str | os.PathLike[str], title: str, cores: int | None = None, max_events: int | None = None
) -> TraceFile:
    """Writes runs as trace events; ``.gz`` at the end of the path compresses. A file appears whole or not at all.

    Args:
        runs: what to write.
        path: the file.
        title: what the file says it is.
        cores: how many cores to show; default: all, or the first 8 where all would pass ``max_events``.
        max_events: largest number of events; default: ``MAX_EVENTS``.

    Raises:
        InputError: too many events, no such number of cores, or a path that cannot be written.
    """
    max_events = MAX_EVENTS if max_events is None else max_events
    everything = max((queue.core + 1 for run in runs for queue in run.ran.program.queues), default=0)
    if cores is not None and cores < 1:
        raise InputError(Problem(f"{cores} cores cannot be shown", "--cores", allowed="at least 1"))
    shown = everything if cores is None else min(cores, everything)
    if cores is None and count(runs, shown) > max_events:
        shown = min(FEW_CORES, everything)
    total = count(runs, shown)
    if total > max_events:
        what = f"the trace of {shown} cores would have up to {total} events"
        raise InputError(Problem(what, allowed=f"at most {max_events}", hint="show fewer cores, or one operator"))
    written = save(path, title, events(runs, shown))
    end_s = runs[-1].begin_s + runs[-1].time_s if runs else 0.0
    return TraceFile(Path(path), written, shown, everything, len(runs), end_s)


def save(path: str | os.PathLike[str], title: str, lines: Iterable[str]) -> int:
    """Writes events, each a JSON object as text, to a trace file; returns how many. See ``write``."""
    target, written = Path(path), 0
    hidden = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        try:
            with _open(hidden, compress=target.suffix == ".gz") as stream:
                written = _stream(stream, lines, title)
            hidden.replace(target)
        finally:
            hidden.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a path no system accepts, such as one with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        what = f"cannot write the trace to {str(path)!r}: {reason}"
        hint = "give a file in a folder that exists and that you may write to"
        raise InputError(Problem(what, "--out", hint=hint)) from None
    return written


def _open(path: Path, compress: bool) -> io.TextIOBase:
    if compress:
        return gzip.open(path, "wt", encoding="utf-8", compresslevel=5)
    return path.open("w", encoding="utf-8")


def _stream(stream: io.TextIOBase, lines: Iterable[str], title: str) -> int:
    """Writes event by event; returns how many."""
    stream.write(f'{{"displayTimeUnit":"ns","otherData":{{"title":{json.dumps(title)}}},"traceEvents":[\n')
    written = 0
    for event in lines:
        stream.write(f",\n{event}" if written else event)
        written += 1
    stream.write("\n]}\n")
    return written
