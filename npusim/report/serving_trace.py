"""A serving run as a trace that Perfetto opens: requests, engines and counters, with the chip inside one step.

Process 3 holds the requests in as few lanes as need be, each with its waiting, prefill and decoding nested in it;
process 4 the steps of every engine and counters of the whole. With a step, what it is made of is nested in its slice
(``npusim.serving.anatomy``): layers, their operators, and what is no operator, together exactly as long. Arrows
lead from its requests to it, and from it to the chip's own tracks (``npusim.cost.trace_events``), where each operator's
tasks are drawn in the slice where it first stands: a run at cycle fidelity with main memory at the rate that streams
reach, stretched to the slice (``stretch`` in the operator's arguments).
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npusim.chip import Chip
from npusim.cost import cycle, roofline, trace_events
from npusim.cost.trace_events import TICK_US, meta, piece, ticks
from npusim.errors import InputError, Problem
from npusim.serving.anatomy import Part, anatomy
from npusim.serving.answer import Serving

REQUESTS, ENGINES = 3, 4
MOST_TASKS = 800_000  # of an operator whose tasks are drawn: about a second
_PARTS = (("queue", "arrival", "admitted"), ("prefill", "admitted", "first"), ("decode", "first", "last"))


def write(serving: Serving, path: str | os.PathLike[str], step: int | None = None) -> int:
    """Writes the trace of a run that kept its records and its log; returns the number of events.

    Args:
        serving: the run (``serve(..., keep=True, log=True)``).
        path: the file; ``.gz`` compresses.
        step: number of the step, in the order of the run, whose chip timeline is nested.

    Raises:
        InputError: no such step, too many events, or a path that cannot be written.
        Unavailable: the chip is not described for the cycle fidelity (only with ``step``).
    """
    rows = serving.records
    total = 4 * len(rows) + len(serving.run.steps) + 4 * 512
    if total > trace_events.MAX_EVENTS:
        what = f"the trace would have {total} events"
        hint = "serve fewer --requests"
        raise InputError(Problem(what, "--perfetto", allowed=f"at most {trace_events.MAX_EVENTS}", hint=hint))
    chosen = None if step is None else _chosen(serving, step)
    case = serving.case
    title = f"{case.model.name} on {case.place.chips} x {case.chip.name}"
    return trace_events.save(path, title, _events(serving, rows, chosen))


def batch_of(serving: Serving, step: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Prompt chunks, as (new, past) tokens, and the past tokens of the decodes of a step. Raises InputError."""
    inside = _inside(serving, step)
    prompts = serving.records["input"][inside["request"]]
    query = 1 + serving.case.rules.draft_tokens
    decoding = (inside["past"] >= prompts) & (inside["new_tokens"] <= query)
    prefills = list(zip(inside["new_tokens"][~decoding].tolist(), inside["past"][~decoding].tolist(), strict=True))
    return prefills, inside["past"][decoding].tolist()


def _inside(serving: Serving, step: int) -> np.ndarray:
    """Rows of ``engine.SHARE``: who is in a step. Raises InputError."""
    steps = serving.run.steps
    if not 0 <= step < len(steps):
        raise InputError(Problem(f"{step}", "--step", allowed=f"0 to {len(steps) - 1}"))
    one, shares = steps[step], serving.run.shares
    mine: np.ndarray = shares[(shares["step"] == one["step"]) & (shares["engine"] == one["engine"])]
    return mine


@dataclass(frozen=True)
class _Slice:
    """A part of the chosen step in ticks of the trace."""

    part: Part
    begin: int
    end: int
    depth: int  # 1: right in the step


@dataclass(frozen=True)
class _Step:
    """The chosen step.

    Args:
        row: of ``engine.STEP``.
        requests: numbers of those in it.
        slices: what it is made of, a part before what is inside it; at each depth together as long as the step, or
            as the part that holds them.
        scale: of its operators, see ``npusim.serving.anatomy``.
        runs: its operators on the chip, each where it first stands in the step and as long.
    """

    row: np.void
    requests: list[int]
    slices: list[_Slice]
    scale: float
    runs: list[trace_events.Run]


def _chosen(serving: Serving, step: int) -> _Step:
    prefills, decodes = batch_of(serving, step)
    row, inside, case = serving.run.steps[step], _inside(serving, step), serving.case
    query = 1 + case.rules.draft_tokens
    # A prompt whose last chunk this is makes a token.
    ends = inside["past"] + inside["new_tokens"] >= serving.records["input"][inside["request"]]
    rows = len(decodes) * query + int(ends.sum()) - len(decodes)
    found = anatomy(case, prefills, decodes, rows, float(row["end"] - row["start"]))
    begin, end = (int(ticks(np.array(row[name]))) for name in ("start", "end"))
    slices = list(_slices(found.parts, begin, end, 1))
    return _Step(row, inside["request"].tolist(), slices, found.scale, _runs(slices, case.chip))


def _slices(parts: Sequence[Part], begin: int, end: int, depth: int) -> Iterator[_Slice]:
    """Parts in ticks from ``begin``; the last one ends at ``end``."""
    spent_s = np.cumsum([0.0, *(part.seconds for part in parts)])
    edges = np.minimum(begin + ticks(spent_s), end)
    edges[-1] = end
    for part, first, last in zip(parts, edges.tolist(), edges[1:].tolist(), strict=False):
        yield _Slice(part, first, last, depth)
        if part.inside:
            yield from _slices(part.inside, first, last, depth + 1)


def _runs(slices: Sequence[_Slice], chip: Chip) -> list[trace_events.Run]:
    """Each different operator on the chip, where it stands first. Those of too many tasks are left out."""
    chip.require("cycle")
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    peak, launch_s = chip.memory.bandwidth_bytes_per_s, chip.overheads.launch_s or 0.0
    runs: list[trace_events.Run] = []
    seen: set[tuple[object, ...]] = set()
    for one in slices:
        op = one.part.op
        if op is None or one.end == one.begin or (key := (op.name, *cycle.run_key(op))) in seen:
            continue
        seen.add(key)
        work = roofline.work(op, chip)
        try:
            ran = cycle.sketch(op, chip, work, MOST_TASKS)
        except InputError:
            continue
        time_s = cycle.time_s(ran, work, chip)
        stretch = (one.end - one.begin) / trace_events.TICKS_PER_S / time_s
        runs.append(trace_events.Run(op, one.begin / trace_events.TICKS_PER_S, time_s, launch_s, ran, peak, stretch))
    return runs


def _events(serving: Serving, rows: np.ndarray, chosen: _Step | None) -> Iterator[str]:
    for pid, name in ((REQUESTS, "requests"), (ENGINES, "engines")):
        yield meta("process_name", pid, 0, name=name)
        yield meta("process_sort_index", pid, 0, sort_index=pid - 10)  # above the chip
    rows = rows[np.argsort(rows["arrival"], kind="stable")]
    at = {name: ticks(rows[name]) for name in ("arrival", "admitted", "first", "last")}
    lane = lanes(at["arrival"], np.maximum(at["last"], at["arrival"] + 1)) + 1
    yield from _requests(rows, at, lane)
    yield from _steps(serving.run.steps)
    if chosen is not None:
        yield from _nested(chosen)
        yield from _arrows(chosen, dict(zip(rows["id"].tolist(), lane.tolist(), strict=True)))
    yield from _counters(serving)
    if chosen is not None:
        cores = max((queue.core + 1 for run in chosen.runs for queue in run.ran.program.queues), default=0)
        yield from trace_events.events(chosen.runs, min(cores, trace_events.FEW_CORES))


def _nested(chosen: _Step) -> Iterator[str]:
    """What the step is made of, as slices inside its own, and once more in one row above the chip's tracks."""
    tid = int(chosen.row["engine"]) + 1
    drawn = {int(ticks(np.array(run.begin_s))) for run in chosen.runs}
    for one in chosen.slices:
        if one.end == one.begin:
            continue
        part = one.part
        args: dict[str, Any] = {"bound": part.bound, "scale": round(chosen.scale, 4)} if part.op else {}
        if part.op is not None and part.op.kind == "attention":
            args |= {name: int(part.op.dims[name]) for name in ("batch", "seq_q", "past")}
        yield piece(part.name, ENGINES, tid, one.begin, one.end, args)
        if not part.inside and one.begin not in drawn:
            yield piece(part.op.name if part.op else part.name, trace_events.OPERATORS, 1, one.begin, one.end, args)


def _arrows(chosen: _Step, lane: dict[int, int]) -> Iterator[str]:
    """From each request in the step to the step, and from there to the chip's operators."""
    ts = int(ticks(np.array(chosen.row["start"]))) * TICK_US
    engine = (ENGINES, int(chosen.row["engine"]) + 1)
    ways = [((REQUESTS, lane[request]), engine, "in step") for request in chosen.requests]
    ways += [(engine, (trace_events.OPERATORS, 1), "on the chip")] if chosen.runs else []
    for number, (begin, end, name) in enumerate(ways, 1):
        for kind, (pid, tid) in (("s", begin), ("f", end)):
            yield json.dumps({"ph": kind, "id": number, "name": name, "cat": "step", "pid": pid, "tid": tid, "ts": ts,
                              **({"bp": "e"} if kind == "f" else {})})  # fmt: skip


def lanes(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """A lane for each interval, as few as there are at a time; intervals come in the order of their beginning."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    found = np.zeros(len(begin), dtype=np.int64)
    for index, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        while busy and busy[0][0] <= first:
            heapq.heappush(free, heapq.heappop(busy)[1])
        found[index] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (last, int(found[index])))
    return found


def _requests(rows: np.ndarray, at: dict[str, np.ndarray], lane: np.ndarray) -> Iterator[str]:
    """A slice for each request, its parts nested in it."""
    for tid in range(1, int(lane.max(initial=0)) + 1):
        yield meta("thread_name", REQUESTS, tid, name=f"lane {tid}")
        yield meta("thread_sort_index", REQUESTS, tid, sort_index=tid)
    for i, row in enumerate(rows):
        args: dict[str, Any] = {name: int(row[name]) for name in ("input", "output", "engine", "preemptions", "cached")}
        args["ttft_ms"] = round(1e3 * float(row["first"] - row["arrival"]), 4)
        yield piece(f"request {row['id']}", REQUESTS, int(lane[i]), int(at["arrival"][i]), int(at["last"][i]), args)
        for name, first, last in _PARTS:
            if at[last][i] > at[first][i]:
                yield piece(name, REQUESTS, int(lane[i]), int(at[first][i]), int(at[last][i]), {})


def _steps(steps: np.ndarray) -> Iterator[str]:
    """A slice for each step of each engine."""
    for engine in np.unique(steps["engine"]).tolist():
        yield meta("thread_name", ENGINES, engine + 1, name=f"engine {engine}")
        yield meta("thread_sort_index", ENGINES, engine + 1, sort_index=engine + 1)
    begin, end = ticks(steps["start"]), ticks(steps["end"])
    for i, row in enumerate(steps):
        name = "mixed" if row["prefills"] and row["decodes"] else "prefill" if row["prefills"] else "decode"
        keys = ("prefills", "decodes", "prompt_tokens", "running", "waiting", "blocks")
        args: dict[str, Any] = {"step": i, **{key: int(row[key]) for key in keys}}
        yield piece(f"{name} step", ENGINES, int(row["engine"]) + 1, int(begin[i]), int(end[i]), args)


def _counters(serving: Serving) -> Iterator[str]:
    """Running and waiting requests and the cache in use, over time."""
    series = serving.over_time()
    times = ticks(series["time_s"]).tolist()
    for key, name, scale in (("running", "running requests", 1.0), ("waiting", "waiting requests", 1.0),
                             ("kv_occupancy", "KV cache in use, %", 100.0)):  # fmt: skip
        for tick, value in zip(times, series[key].tolist(), strict=True):
            yield json.dumps({"ph": "C", "name": name, "pid": ENGINES, "tid": 0, "ts": tick * TICK_US,
                              "args": {"value": round(scale * value, 4)}})  # fmt: skip
