"""A serving run as a trace that Perfetto opens: requests, engines and counters, with the chip inside one step.

Process 3 holds the requests in as few lanes as need be, each with its waiting, prefill and decoding nested in it;
process 4 the steps of every engine and counters of the whole. With a step, its operators are nested in its slice, as
long as the run's fidelity prices them, all repetitions together; arrows lead from its requests to it, and from it to
the chip's own tracks (``npusim.cost.trace_events``): each operator once at cycle fidelity, from where the step begins.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npusim.cost import estimate, trace_events
from npusim.cost.trace_events import TICK_US, meta, piece, ticks
from npusim.errors import InputError, Problem
from npusim.serving.answer import Serving
from npusim.serving.limits import host_gap_s
from npusim.serving.steps import workload_of

REQUESTS, ENGINES = 3, 4
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
class _Step:
    """The chosen step.

    Args:
        row: of ``engine.STEP``.
        requests: numbers of those in it.
        parts: name, seconds and arguments of what it is made of, in order; together as long as the step.
        runs: its operators at cycle fidelity, from where it begins.
    """

    row: np.void
    requests: list[int]
    parts: list[tuple[str, float, dict[str, Any]]]
    runs: list[trace_events.Run]


def _chosen(serving: Serving, step: int) -> _Step:
    prefills, decodes = batch_of(serving, step)
    shape, row = serving.case.shape, serving.run.steps[step]
    work = workload_of(shape, prefills, decodes)
    begin_s, length_s = float(row["start"]), float(row["end"] - row["start"])
    runs = [replace(run, begin_s=begin_s + run.begin_s) for run in trace_events.simulate(work, shape.chip)]
    host_s = min(host_gap_s(shape), length_s)
    priced = [(op, float(op.time_s)) for op in estimate(work, shape.chip, shape.fidelity).ops]
    # The table's interpolation, and what overlaps between operators: the step need not be their sum.
    scale = (length_s - host_s) / max(sum(time_s for _, time_s in priced), 1e-12)
    parts: list[tuple[str, float, dict[str, Any]]] = [("host gap", host_s, {})] if host_s else []
    parts += [(one.op.name, time_s * scale, {"count": one.op.count, "bound": str(one.bound), "scale": round(scale, 4)})
              for one, time_s in priced]  # fmt: skip
    return _Step(row, _inside(serving, step)["request"].tolist(), parts, runs)


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
    """What the step is made of, as slices inside its own."""
    start_s, tid = float(chosen.row["start"]), int(chosen.row["engine"]) + 1
    ends_s = start_s + np.cumsum([0.0, *(time_s for _, time_s, _ in chosen.parts)])
    edges = np.minimum(ticks(ends_s), ticks(np.array(chosen.row["end"]))).tolist()
    for (name, _, args), begin, end in zip(chosen.parts, edges, edges[1:], strict=False):
        if end > begin:
            yield piece(name, ENGINES, tid, begin, end, args)


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
