"""A slow, readable second implementation of the serving engine, to be compared with the compiled one.

It is written as SimPy processes over plain lists: whole blocks are counted anew at every question, waiting requests
are sorted at every step, the prefix cache is a dictionary. Step times come from a formula, not from a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

import simpy


@dataclass
class Request:
    id: int
    arrival: float
    input: int
    output: int
    user: int = 0
    priority: float = 0.0
    ids: tuple[int, ...] = ()
    computed: int = 0
    generated: int = 0
    chunk: int = 0
    reserved: int = 0  # tokens it has blocks for
    fresh: int = 0  # of these, tokens that are computed now
    held: list[int] = field(default_factory=list)  # prefix ids it uses
    filed: int = 0
    swapped: int = 0
    credit: float = 0.0
    preemptions: int = 0
    cached: int = 0
    engine: int = 0
    seen: float = -1.0
    admitted: float = -1.0
    first: float = -1.0
    last: float = 0.0

    @property
    def target(self) -> int:
        return self.input + self.generated

    @property
    def decodes(self) -> bool:
        return self.generated > 0 and self.target == self.computed + 1


@dataclass(frozen=True)
class Formula:
    """Seconds of a step."""

    step_s: float = 5e-3
    token_s: float = 2e-5
    row_s: float = 3e-6
    decode_s: float = 1e-7  # per past token of a decode
    prefill_s: float = 1e-6  # per new token of a prompt
    past_s: float = 1e-8  # per past token of a prompt
    swap_s: float = 1e-4  # per block

    def seconds(
        self, batch: list[Request], swapped_blocks: int, drafted: int = 0, draft: Formula | None = None
    ) -> float:
        """Of a step; with ``draft``, also of the model that makes ``drafted`` tokens of every decode before it."""
        time = self.step_s + swapped_blocks * self.swap_s
        for r in batch:
            time += self.token_s * r.chunk
            if r.decodes:
                time += self.decode_s * r.computed + self.row_s * r.chunk
            else:
                time += self.prefill_s * r.chunk + self.past_s * r.computed
                time += self.row_s * (r.computed + r.chunk == r.target)
        if draft is None:
            return time
        prompts = [r for r in batch if not r.decodes]
        decodes = [r for r in batch if r.decodes]
        time += draft.seconds(prompts, 0) + (drafted - 1) * draft.step_s * bool(decodes)
        for r in decodes:
            time += drafted * (draft.token_s + draft.row_s)
            time += sum(draft.decode_s * (r.computed + k) for k in range(drafted))
        return time


class Engine:
    """One engine: its waiting and running requests, and its blocks."""

    def __init__(self, system: System, number: int, blocks: int, role: str) -> None:
        self.system, self.number, self.blocks, self.role = system, number, blocks, role
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.sending: list[Request] = []
        self.files: dict[int, int] = {}  # prefix id → users, in order of last use of those without
        self.served: dict[int, float] = {}
        self.swapped_blocks = 0
        self.assigned = 0
        self.step = 0
        self.link_free = 0.0
        self.busy = False

    # -- blocks --

    def need(self, tokens: int, fresh: int) -> int:
        """Blocks of these tokens, less those that only layers with a window kept and none of the fresh ones sees."""
        size, window = self.system.rules.block_tokens, self.system.window
        unseen = 0
        if window:
            seen_from = tokens - fresh - (window - 1)  # the first of the fresh tokens sees itself and those before
            unseen = sum((k + 1) * size <= seen_from for k in range(ceil(tokens / size)))
        return ceil(tokens / size) - int(unseen * self.system.window_share)

    def own_blocks(self, r: Request) -> int:
        return max(self.need(r.reserved, r.fresh) - len(r.held) * self.system.unit_blocks, 0)

    def free(self) -> int:
        """Blocks nobody uses, those of idle prefixes included."""
        used = sum(self.own_blocks(r) for r in [*self.running, *self.sending])
        return self.blocks - used - self.system.unit_blocks * sum(users > 0 for users in self.files.values())

    def make_room(self) -> None:
        """Gives up idle prefixes, least recently used first, until everything fits."""
        used = sum(self.own_blocks(r) for r in [*self.running, *self.sending])
        while self.blocks - used < len(self.files) * self.system.unit_blocks:
            del self.files[next(key for key, users in self.files.items() if users == 0)]

    def grow(self, r: Request, tokens: int, fresh: int) -> bool:
        more = self.need(tokens, fresh) - len(r.held) * self.system.unit_blocks - self.own_blocks(r)
        kept = not self.system.window or (self.system.rules.reserve_prompt and not r.decodes)
        if more <= 0 and kept:
            return True
        if more > self.free():
            return False
        r.reserved, r.fresh = tokens, fresh
        self.make_room()
        return True

    def release(self, r: Request) -> None:
        r.reserved, r.fresh, r.filed = 0, 0, 0
        for key in reversed(r.held):
            self.files[key] -= 1
            if not self.files[key]:
                self.files[key] = self.files.pop(key)  # to the end: used last
        r.held = []

    # -- who is served --

    def key(self, r: Request) -> tuple[float, ...]:
        policy = self.system.rules.policy
        return {"priority": (r.priority, r.id), "shortest": (r.input, r.id)}.get(policy, (r.id,))

    def next_waiting(self) -> Request | None:
        if not self.waiting:
            return None
        rows = self.waiting
        if self.system.rules.policy == "fair":
            least = min({r.user for r in rows}, key=lambda user: (self.served.get(user, 0.0), user))
            rows = [r for r in rows if r.user == least]
        return min(rows, key=self.key)

    def wait(self, r: Request) -> None:
        if self.system.rules.policy == "fair" and all(other.user != r.user for other in self.waiting):
            others = [self.served.get(other.user, 0.0) for other in self.waiting]
            if others:
                self.served[r.user] = max(self.served.get(r.user, 0.0), min(others))
        self.waiting.append(r)

    def preempt(self, r: Request) -> None:
        self.running.remove(r)
        if self.system.rules.preemption == "swap":
            r.swapped = r.computed
            self.swapped_blocks += self.need(r.computed, 0)
        else:
            r.computed = 0
        r.chunk = 0
        r.preemptions += 1
        self.release(r)
        self.wait(r)

    def wanted(self, r: Request) -> int:
        need = r.target - r.computed
        return min(need + self.system.rules.draft_tokens, r.output - r.generated) if r.decodes else need

    def serve_running(self, budget: int, prompts: bool, decodes: bool) -> tuple[int, bool]:
        preempted = False
        for r in list(self.running):
            if r not in self.running or budget <= 0 or not (decodes if r.decodes else prompts):
                continue
            n = min(self.wanted(r), budget)
            while r in self.running and not self.grow(r, r.computed + n, n):
                worst = self.running[-1]
                if self.system.rules.policy == "priority":
                    worst = max(self.running, key=self.key)
                budget += worst.chunk
                self.preempt(worst)
                preempted = True
            if r in self.running:
                r.chunk = n
                budget -= n
        return budget, preempted

    def admit(self, r: Request, budget: int) -> int:
        """Tokens it gets, 0 when it has to wait."""
        rules, unit = self.system.rules, self.system.unit
        hits = 0
        if not r.computed and not r.swapped and unit:
            most = min((r.input - 1) // unit, len(r.ids))
            while hits < most and r.ids[hits] in self.files:
                hits += 1
        start = r.swapped or r.computed or hits * unit
        n = min(r.target - start, budget)
        if not rules.chunked and n < r.target - start and budget < rules.max_tokens:
            return 0
        idle = sum(self.files[key] == 0 for key in r.ids[:hits])
        last = r.target if rules.reserve_prompt else start + n
        fresh = min(last - start, rules.max_tokens)
        blocks = self.need(last, fresh) - hits * self.system.unit_blocks
        if blocks > self.free() - idle * self.system.unit_blocks:
            return 0
        self.waiting.remove(r)
        self.running.append(r)
        for key in r.ids[:hits]:
            self.files[key] += 1
            r.held.append(key)
        r.filed, r.computed, r.chunk = hits, start, n
        self.swapped_blocks += self.need(start, 0) if r.swapped else 0
        r.swapped = 0
        assert self.grow(r, last, fresh)
        if r.admitted < 0:
            r.admitted, r.cached = self.system.env.now, hits * unit
            self.served[r.user] = self.served.get(r.user, 0.0) + r.input
        return n

    def admit_waiting(self, budget: int) -> int:
        while budget > 0 and len(self.running) < self.system.rules.max_sequences:
            r = self.next_waiting()
            n = self.admit(r, budget) if r else 0
            if not n:
                break
            budget -= n
        return budget

    def schedule(self) -> list[Request]:
        budget = most = self.system.rules.max_tokens
        if self.system.rules.batching == "decode-first":
            budget, preempted = self.serve_running(budget, True, True)
            if not preempted:
                self.admit_waiting(budget)
        else:
            budget, preempted = self.serve_running(budget, True, False)
            if not preempted:
                budget = self.admit_waiting(budget)
            if budget == most:
                self.serve_running(budget, False, True)
        return [r for r in self.running if r.chunk]

    # -- steps --

    def start(self) -> None:
        if self.busy or not (self.running or self.waiting):
            return
        for r in self.waiting:
            r.seen = self.system.env.now if r.seen < 0 else r.seen
        batch = self.schedule() or self.schedule()
        if not batch:
            assert self.sending  # they hold the blocks until they have left
            return
        rules = self.system.rules
        seconds = self.system.formula.seconds(batch, self.swapped_blocks, rules.draft_tokens, self.system.draft)
        shares = sorted((r.id, r.chunk, r.computed) for r in batch)
        self.system.env.process(self.run(seconds, self.step, shares))
        self.swapped_blocks = 0
        self.step += 1
        self.busy = True

    def run(self, seconds: float, step: int, shares: list[Any]) -> Any:
        """The batch passes the stages of its pipeline; each serves one batch at a time, first come, first served."""
        begin, env = self.system.env.now, self.system.env
        stages = self.system.pipelines[self.number // len(self.system.pipelines[0])]
        for stage in stages:
            with stage.request() as turn:
                yield turn
                yield env.timeout(seconds * self.system.stage_share)
        self.system.steps.append((self.number, step, begin, env.now - begin, shares))
        self.busy = False
        for r in [r for r in self.running if r.chunk]:
            self.progress(r)
        self.system.changed()

    def progress(self, r: Request) -> None:
        rules, now = self.system.rules, self.system.env.now
        if r.decodes:
            tokens = 1
            if rules.draft_tokens:
                r.credit += rules.accepted_tokens
                whole = int(r.credit)
                r.credit -= whole
                tokens = min(whole, r.chunk, r.output - r.generated)
            r.computed += tokens
        else:
            r.computed += r.chunk
            tokens = int(r.computed == r.target)
        self.file(r)
        r.chunk = 0
        if tokens:
            r.first = now if not r.generated else r.first
            r.last, r.generated = now, r.generated + tokens
            self.served[r.user] = self.served.get(r.user, 0.0) + 2 * tokens
        if r.generated == r.output:
            self.running.remove(r)
            self.release(r)
            self.assigned -= 1
            self.system.done.append(r)
        elif tokens and self.role == "prefill":
            self.running.remove(r)
            self.sending.append(r)
            self.system.env.process(self.send(r))

    def file(self, r: Request) -> None:
        unit = self.system.unit
        while unit and r.filed < len(r.ids) and (r.filed + 1) * unit <= min(r.computed, r.input):
            key = r.ids[r.filed]
            if key not in self.files:
                self.files[key] = 1
                r.held.append(key)
            r.filed += 1

    def send(self, r: Request) -> Any:
        system = self.system
        begin = max(system.env.now, self.link_free)
        unseen = max(r.computed - (system.window - 1), 0) if system.window else 0
        tokens = r.computed - float(unseen * system.window_share)
        self.link_free = begin + tokens * system.transfer_token_s + system.transfer_s
        yield system.env.timeout(self.link_free - system.env.now)
        self.sending.remove(r)
        self.release(r)
        self.assigned -= 1
        system.join(r, system.engines[system.prefill_engines :])
        system.changed()


class System:
    """All engines, the arrivals, and what came of them."""

    def __init__(self, requests: list[Request], rules: Any, formula: Formula, *, blocks: int, engines: int = 1,
                 prefill_engines: int = 0, concurrency: int = 0, transfer_token_s: float = 0.0,
                 transfer_s: float = 0.0, stages: int = 1, stage_share: float = 1.0, window: int = 0,
                 window_share: Fraction = Fraction(0), draft: Formula | None = None) -> None:  # fmt: skip
        self.env = simpy.Environment()
        self.rules, self.formula, self.draft = rules, formula, draft
        self.unit = rules.unit_tokens
        self.unit_blocks = rules.unit_tokens // rules.block_tokens
        self.prefill_engines, self.concurrency = prefill_engines, concurrency
        self.transfer_token_s, self.transfer_s = transfer_token_s, transfer_s
        self.window, self.window_share = (0, window_share) if self.unit else (window, window_share)
        self.stage_share = stage_share
        self.pipelines = [[simpy.Resource(self.env) for _ in range(stages)] for _ in range(engines // stages)]
        roles = ["prefill" if k < prefill_engines else "any" for k in range(engines)]
        self.engines = [Engine(self, k, blocks, role) for k, role in enumerate(roles)]
        self.coming = list(requests)
        self.done: list[Request] = []
        self.steps: list[Any] = []
        self.turn = 0
        self.entered = 0
        self.pending = False

    def join(self, r: Request, engines: list[Engine]) -> None:
        if self.rules.routing == "round-robin":
            chosen = engines[self.turn % len(engines)]
            self.turn += 1
        else:
            chosen = min(engines, key=lambda e: e.assigned)
        chosen.assigned += 1
        r.engine = chosen.number
        chosen.wait(r)

    def enter(self, r: Request) -> None:
        r.arrival = self.env.now
        self.entered += 1
        self.join(r, self.engines[: self.prefill_engines or None])

    def changed(self) -> None:
        """New steps begin when everything else of this moment has happened."""
        if not self.pending:
            self.pending = True
            self.env.process(self.settle())

    def settle(self) -> Any:
        yield self.env.timeout(0)
        self.pending = False
        while self.concurrency and self.coming and self.entered - len(self.done) < self.concurrency:
            self.enter(self.coming.pop(0))
        for engine in self.engines:
            engine.start()

    def arrivals(self) -> Any:
        while self.coming:
            yield self.env.timeout(max(self.coming[0].arrival - self.env.now, 0.0))
            self.enter(self.coming.pop(0))
            self.changed()

    def run(self) -> list[Request]:
        if self.concurrency:
            self.changed()
        else:
            self.env.process(self.arrivals())
        self.env.run()
        return sorted(self.done, key=lambda r: r.id)
