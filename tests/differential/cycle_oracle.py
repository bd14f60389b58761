"""A slow event simulation of a cycle ``Program``, written from the rules in the header of ``csrc/sim/cycle.h``.

Nothing is shared with the model but the description of the program; main memory is one server of a fixed rate.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from npusim.cost.program import Program

END, BEGIN = 0, 1  # ends come before begins


@dataclass
class _Queue:
    port: int
    waiting: deque[int]  # not issued, in order
    issued: deque[int] = field(default_factory=deque)  # transfers that did not begin
    busy: bool = False


class Oracle:
    """Runs a program; ``start``, ``begin``, ``end`` by task and ``block_begin``, ``block_end`` by block."""

    def __init__(self, program: Program, dram_bytes_per_s: float) -> None:
        n, blocks = program.tasks, len(program.blocks.bytes)
        self.program, self.dram_bytes_per_s = program, dram_bytes_per_s
        self.start, self.begin, self.end = [-1.0] * n, [-1.0] * n, [-1.0] * n
        self.block_begin, self.block_end = [-1.0] * blocks, [-1.0] * blocks
        self.fabric_free, self.dram_free = 0.0, 0.0
        self.port_free = [0.0] * len(program.port_bytes_per_s)
        self.needs = [set[int]() for _ in range(n)]
        self.wanted_by = [set[int]() for _ in range(n)]
        for task in range(n):
            for needed in program.deps[program.first_dep[task] : program.first_dep[task + 1]].tolist():
                self.needs[task].add(needed)
                self.wanted_by[needed].add(task)
        order = [[task for task in range(n) if program.queue[task] == q] for q in range(len(program.queues))]
        self.queues = [_Queue(queue.port, deque(order[q])) for q, queue in enumerate(program.queues)]
        self.events: list[tuple[float, int, int]] = []
        self.now = 0.0
        self._run()

    def _run(self) -> None:
        for queue in self.queues:
            self._issue(queue)
        while self.events:
            self.now, kind, task = heapq.heappop(self.events)
            (self._end if kind == END else self._begin)(task)

    def _moves(self, task: int) -> bool:
        return bool(self.program.bytes[task] > 0 or self.program.block[task] >= 0)

    def _at(self, time: float, kind: int, task: int) -> None:
        heapq.heappush(self.events, (float(time), kind, task))

    def _issue(self, queue: _Queue) -> None:
        """Issues what may be: a compute queue one task at a time, a transfer queue all whose needs have ended."""
        while queue.waiting and not self.needs[queue.waiting[0]]:
            computes = queue.port < 0
            if computes and queue.busy:
                return
            task = queue.waiting.popleft()
            self.start[task] = self.now
            if computes:
                queue.busy = True
                self.begin[task] = self.now
                self._at(self.now + self.program.delay_s[task], END, task)
            elif self._moves(task):
                queue.issued.append(task)
                self._begin_next(queue)
            else:
                self.begin[task] = self.now
                self._at(self.now, END, task)

    def _begin_next(self, queue: _Queue) -> None:
        """Lets the next issued transfer move data once its set-up is over, if none of the queue moves."""
        if queue.busy or not queue.issued:
            return
        queue.busy = True
        task = queue.issued.popleft()
        self._at(max(self.now, self.start[task] + self.program.delay_s[task]), BEGIN, task)

    def _begin(self, task: int) -> None:
        p, bytes_, block = self.program, float(self.program.bytes[task]), int(self.program.block[task])
        port = self.queues[p.queue[task]].port
        self.begin[task] = self.now
        self.fabric_free = max(self.now, self.fabric_free) + bytes_ / p.fabric_bytes_per_s
        self.port_free[port] = max(self.now, self.port_free[port]) + bytes_ / float(p.port_bytes_per_s[port])
        done = max(self.fabric_free, self.port_free[port])
        if block >= 0:
            if self.block_begin[block] < 0:
                self.block_begin[block] = self.now
                self.dram_free = max(self.now, self.dram_free) + float(p.blocks.bytes[block]) / self.dram_bytes_per_s
                self.block_end[block] = self.dram_free
            done = max(done, self.block_end[block])
        self._at(done, END, task)

    def _end(self, task: int) -> None:
        queue = self.queues[self.program.queue[task]]
        self.end[task] = self.now
        ready = []
        for later in sorted(self.wanted_by[task]):
            self.needs[later].discard(task)
            if not self.needs[later]:
                ready.append(later)
        for later in ready:
            other = self.queues[self.program.queue[later]]
            if other.waiting and other.waiting[0] == later:
                self._issue(other)
        if queue.port < 0:
            queue.busy = False
            self._issue(queue)
        elif self._moves(task):
            queue.busy = False
            self._begin_next(queue)
