"""A serving run as a trace that Perfetto opens: requests, engines and counters, with the chip inside one step.

Process 3 holds the requests in as few lanes as need be, each with its waiting, prefill and decoding nested in it;
process 4 the steps of every engine and counters of the whole. With a step, its operators follow on the tracks of
``npusim.cost.trace_events``: each operator once, however often it repeats, from where the step begins.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from npusim.cost import trace_events
from npusim.cost.trace_events import TICK_US, meta, piece, ticks
from npusim.errors import InputError, Problem
from npusim.serving.answer import Serving
from npusim.serving.steps import Shape, workload_of

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
    runs = [] if step is None else chip_runs(serving, step)
    case = serving.case
    title = f"{case.model.name} on {case.place.chips} x {case.chip.name}"
    return trace_events.save(path, title, _events(serving, rows, runs))


def batch_of(serving: Serving, step: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Prompt chunks, as (new, past) tokens, and the past tokens of the decodes of a step. Raises InputError."""
    steps = serving.run.steps
    if not 0 <= step < len(steps):
        raise InputError(Problem(f"{step}", "--step", allowed=f"0 to {len(steps) - 1}"))
    one, shares = steps[step], serving.run.shares
    inside = shares[(shares["step"] == one["step"]) & (shares["engine"] == one["engine"])]
    prompts = serving.records["input"][inside["request"]]
    query = 1 + serving.case.rules.draft_tokens
    decoding = (inside["past"] >= prompts) & (inside["new_tokens"] <= query)
    prefills = list(zip(inside["new_tokens"][~decoding].tolist(), inside["past"][~decoding].tolist(), strict=True))
    return prefills, inside["past"][decoding].tolist()


def chip_runs(serving: Serving, step: int) -> list[trace_events.Run]:
    """The operators of a step at cycle fidelity, from where the step begins."""
    prefills, decodes = batch_of(serving, step)
    c = serving.case
    shape = Shape(c.model, c.chip, c.fmt, c.place.tp, c.place.pp, c.fidelity, block_tokens=c.rules.block_tokens,
                  draft_tokens=c.rules.draft_tokens, imbalance_pct=c.imbalance_pct, ep=c.place.ep)  # fmt: skip
    begin_s = float(serving.run.steps[step]["start"])
    runs = trace_events.simulate(workload_of(shape, prefills, decodes), c.chip)
    return [replace(run, begin_s=begin_s + run.begin_s) for run in runs]


def _events(serving: Serving, rows: np.ndarray, runs: list[trace_events.Run]) -> Iterator[str]:
    for pid, name in ((REQUESTS, "requests"), (ENGINES, "engines")):
        yield meta("process_name", pid, 0, name=name)
        yield meta("process_sort_index", pid, 0, sort_index=pid - 10)  # above the chip
    yield from _requests(rows)
    yield from _steps(serving.run.steps)
    yield from _counters(serving)
    if runs:
        cores = max((queue.core + 1 for run in runs for queue in run.ran.program.queues), default=0)
        yield from trace_events.events(runs, min(cores, trace_events.FEW_CORES))


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


def _requests(rows: np.ndarray) -> Iterator[str]:
    """A slice for each request, its parts nested in it."""
    order = np.argsort(rows["arrival"], kind="stable")
    rows = rows[order]
    at = {name: ticks(rows[name]) for name in ("arrival", "admitted", "first", "last")}
    lane = lanes(at["arrival"], np.maximum(at["last"], at["arrival"] + 1)) + 1
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
