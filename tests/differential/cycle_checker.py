"""Replays a ``Timeline`` of the cycle model against its program and says what cannot be; shares no code with the model.

Servers (ports, fabric, fixed-rate memory) are replayed as queues in order of the recorded begins: whoever ended
sooner than such a queue could have served it is reported. DRAM channels reorder, so there the bytes that had to pass
between a request and its end are scheduled by earliest deadline, which succeeds if any schedule at the pin rate does.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np

from npusim.cost.cycle import Timeline

SLACK = 1e-9  # of the makespan: sums of doubles in another order


def violations(ran: Timeline, dram_bytes_per_s: float, channels: bool) -> list[str]:
    """What of the recorded times breaks a rule; empty for a legal schedule.

    Args:
        ran: the timeline.
        dram_bytes_per_s: pin rate of main memory.
        channels: DRAM channels were simulated (else memory is one server in order).
    """
    return [
        *_times(ran),
        *_dependencies(ran),
        *_queues(ran),
        *_servers(ran),
        *_blocks(ran),
        *(_memory_channels(ran, dram_bytes_per_s) if channels else _memory_server(ran, dram_bytes_per_s)),
        *_capacity(ran),
        *_totals(ran, channels),
    ]


def _slack(ran: Timeline) -> float:
    return SLACK * ran.makespan_s


def _ports(ran: Timeline) -> np.ndarray:
    return np.array([queue.port for queue in ran.program.queues], int)[ran.program.queue]


def _moves(ran: Timeline) -> np.ndarray:
    """Tasks that move data: of a transfer queue, with bytes or a block."""
    return (_ports(ran) >= 0) & ((ran.program.bytes > 0) | (ran.program.block >= 0))


def _times(ran: Timeline) -> list[str]:
    found = []
    for name, times in (("start", ran.start_s), ("begin", ran.begin_s), ("end", ran.end_s)):
        if not np.all(np.isfinite(times)) or np.any(times < 0):
            found.append(f"a {name} is not a time")
    bad = np.flatnonzero((ran.begin_s < ran.start_s) | (ran.end_s < ran.begin_s))
    return found + [f"task {task} ends before it begins or begins before it starts" for task in bad]


def _dependencies(ran: Timeline) -> list[str]:
    p = ran.program
    later = np.repeat(np.arange(p.tasks), np.diff(p.first_dep))
    bad = np.flatnonzero(ran.start_s[later] < ran.end_s[p.deps])
    return [f"task {later[i]} starts before task {p.deps[i]} ends" for i in bad]


def _queues(ran: Timeline) -> list[str]:
    """Compute queues run one task at a time for its delay; transfer queues issue in order and move one at a time."""
    p, slack, found, moves = ran.program, _slack(ran), list[str](), _moves(ran)
    for q, queue in enumerate(p.queues):
        mine = np.flatnonzero(p.queue == q)
        start, begin, end, delay = ran.start_s[mine], ran.begin_s[mine], ran.end_s[mine], p.delay_s[mine]
        if np.any(np.diff(start) < 0):
            found.append(f"queue {q} issues out of order")
        if queue.port < 0:
            if np.any(start[1:] < end[:-1]):
                found.append(f"queue {q} computes two tasks at once")
            if np.any(np.abs(end - start - delay) > slack) or np.any(begin != start):
                found.append(f"queue {q} computes for another time than its task takes")
            continue
        moving = moves[mine]
        if np.any(end[~moving] != start[~moving]):
            found.append(f"queue {q}: a task that moves nothing takes time")
        start, begin, end, delay = (column[moving] for column in (start, begin, end, delay))
        if np.any(begin < start + delay - slack):
            found.append(f"queue {q}: a transfer begins before its set-up is over")
        if np.any(begin[1:] < end[:-1]):
            found.append(f"queue {q} moves two transfers at once")
    return found


def _served_in_order(asked: np.ndarray, took: np.ndarray, slack: float, ended: np.ndarray) -> np.ndarray:
    """Positions that ended sooner than a server in order of ``asked`` (ties: as given) could have served them."""
    free, early = 0.0, []
    for i in np.argsort(asked, kind="stable"):
        free = max(free, float(asked[i])) + float(took[i])
        if ended[i] < free - slack:
            early.append(i)
    return np.array(early, int)


def _servers(ran: Timeline) -> list[str]:
    p, ports, slack = ran.program, _ports(ran), _slack(ran)
    groups = [("fabric", np.flatnonzero(_moves(ran)), p.fabric_bytes_per_s)]
    groups += [
        (f"port {port}", np.flatnonzero(_moves(ran) & (ports == port)), float(rate))
        for port, rate in enumerate(p.port_bytes_per_s)
    ]
    return [
        f"{name} cannot have served task {tasks[i]} so soon"
        for name, tasks, rate in groups
        for i in _served_in_order(ran.begin_s[tasks], p.bytes[tasks] / rate, slack, ran.end_s[tasks])
    ]


def _askers(ran: Timeline) -> dict[int, list[int]]:
    """Tasks that need each block."""
    users: dict[int, list[int]] = defaultdict(list)
    for task in np.flatnonzero(_moves(ran) & (ran.program.block >= 0)):
        users[int(ran.program.block[task])].append(int(task))
    return users


def _blocks(ran: Timeline) -> list[str]:
    found, users = [], _askers(ran)
    for block in range(len(ran.program.blocks.bytes)):
        begin, end = ran.block_begin_s[block], ran.block_end_s[block]
        if block not in users:
            if (begin, end) != (-1, -1):
                found.append(f"block {block} moves although nobody needs it")
            continue
        if begin != ran.begin_s[users[block]].min():
            found.append(f"block {block} is not asked for when the first task needs it")
        if end <= begin:
            found.append(f"block {block} ends before it is asked for")
        if np.any(ran.end_s[users[block]] < end):
            found.append(f"a task ends before block {block} that it needs")
    return found


def _memory_server(ran: Timeline, bytes_per_s: float) -> list[str]:
    users = _askers(ran)
    # Blocks asked for at the same time: by the first task that asks.
    blocks = np.array(sorted(users, key=lambda block: min((ran.begin_s[task], task) for task in users[block])), int)
    took = ran.program.blocks.bytes[blocks] / bytes_per_s
    early = _served_in_order(ran.block_begin_s[blocks], took, _slack(ran), ran.block_end_s[blocks])
    return [f"memory cannot have moved block {blocks[i]} so soon" for i in early]


def _memory_channels(ran: Timeline, bytes_per_s: float) -> list[str]:
    slack, found = _slack(ran), []
    blocks = sorted(_askers(ran), key=lambda block: float(ran.block_begin_s[block]))
    waiting: list[tuple[float, int, float]] = []  # end, block, seconds of work left
    now, next_ = 0.0, 0
    while waiting or next_ < len(blocks):
        if not waiting:
            now = max(now, float(ran.block_begin_s[blocks[next_]]))
        while next_ < len(blocks) and ran.block_begin_s[blocks[next_]] <= now:
            block = blocks[next_]
            heapq.heappush(
                waiting, (float(ran.block_end_s[block]), block, ran.program.blocks.bytes[block] / bytes_per_s)
            )
            next_ += 1
        end, block, left = heapq.heappop(waiting)
        until = float(ran.block_begin_s[blocks[next_]]) if next_ < len(blocks) else np.inf
        if now + left > until:
            heapq.heappush(waiting, (end, block, left - (until - now)))
            now = until
            continue
        now += left
        if now > end + slack:
            found.append(f"memory cannot have moved block {block} so soon")
    return found


def _capacity(ran: Timeline) -> list[str]:
    """Memory of each core over time; what is freed at an instant makes room for what is taken at it."""
    holds, found = ran.program.holds, []
    taken, freed = ran.start_s[holds.taken_by], ran.end_s[holds.freed_by]
    if np.any(freed < taken):
        found.append("memory is freed before it is taken")
    for core in np.unique(holds.core):
        mine = holds.core == core
        time = np.concatenate([freed[mine], taken[mine]])
        change = np.concatenate([-holds.bytes[mine], holds.bytes[mine]])
        order = np.lexsort((change, time))
        most = float(np.cumsum(change[order]).max(initial=0.0))
        if most > ran.program.core_bytes * (1 + SLACK):
            found.append(f"core {core} holds {most:g} of {ran.program.core_bytes:g} bytes")
    return found


def _totals(ran: Timeline, channels: bool) -> list[str]:
    p, slack, found = ran.program, _slack(ran), []
    if ran.makespan_s != ran.end_s.max(initial=0.0):
        found.append("the makespan is not the last end")
    if ran.makespan_s > float((ran.end_s - ran.start_s).sum()) + slack:
        found.append("the makespan exceeds the durations of all tasks")
    fabric_s = float(p.bytes[_moves(ran)].sum()) / p.fabric_bytes_per_s
    if abs(ran.fabric_busy_s - fabric_s) > slack or fabric_s > ran.makespan_s + slack:
        found.append("the fabric is busy for another time than its bytes take")
    for resource in ("matrix", "vector", "load", "store", "link"):
        if ran.busy_s(resource) > ran.makespan_s + slack:
            found.append(f"{resource} is busy for more than the makespan")
    moved = float(p.blocks.bytes[list(_askers(ran))].sum())
    short = moved > ran.dram_bytes * (1 + SLACK)
    if short or (not channels and abs(moved - ran.dram_bytes) > SLACK * moved):
        found.append(f"{ran.dram_bytes:g} bytes passed memory, the blocks are {moved:g}")
    return found
