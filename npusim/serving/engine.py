"""Runs requests through engines; the loop itself is compiled (``csrc/sim/serving.c``).

The rules are vLLM's (Kwon et al., arXiv 2309.06180): a step serves at most ``max_tokens`` new tokens of at most
``max_sequences`` sequences; prompts are cut into chunks that fill what decodes leave (Agrawal et al., Sarathi-Serve,
arXiv 2403.02310); the cache is paged, and who finds no block makes the last admitted one give way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npusim import _sim
from npusim.errors import InputError, Problem, did_you_mean
from npusim.serving.load import Chunk, Source
from npusim.serving.steps import StepTable

BATCHING = ("decode-first", "prefill-first")
POLICIES = ("fcfs", "priority", "shortest", "fair")
PREEMPTION = ("recompute", "swap")
ROUTING = ("round-robin", "least-loaded")
_RECORD_COLUMNS = ("id", "user", "input", "output", "cached", "preemptions", "engine")
RECORD = np.dtype([(c, "i8") for c in _RECORD_COLUMNS]
                  + [(c, "f8") for c in ("arrival", "seen", "admitted", "first", "last", "worst_gap")])  # fmt: skip
_STEP_COLUMNS = ("engine", "step", "prefills", "decodes", "prompt_tokens", "tokens", "running", "waiting", "blocks")
STEP = np.dtype([(c, "i8") for c in _STEP_COLUMNS] + [(c, "f8") for c in ("start", "end", "joules")])
SHARE = np.dtype([(c, "i8") for c in ("step", "engine", "request", "new_tokens", "past")])
SERIES = ("running", "waiting", "blocks", "busy", "tokens", "joules", "steps", "decodes", "prompts", "new_tokens",
          "prompt_tokens")  # fmt: skip
RECORDS_AT_ONCE = 65536
MOST_STEPS, MOST_SHARES = 2_000_000, 20_000_000  # of a log: about 1 GB


@dataclass(frozen=True, slots=True)
class Rules:
    """How an engine serves.

    Args:
        max_tokens: new tokens of a step.
        max_sequences: sequences of a step.
        block_tokens: tokens per block of the cache.
        batching: ``"decode-first"`` (mixed batches) or ``"prefill-first"`` (prompts alone, while there are any).
        policy: who is admitted first: ``"fcfs"``, ``"priority"``, ``"shortest"`` prompt or ``"fair"`` by user.
        preemption: ``"recompute"`` or ``"swap"`` to the host.
        routing: engine of an arriving request: ``"round-robin"`` or ``"least-loaded"``.
        chunked: whether prompts are cut to fit the budget.
        reserve_prompt: admit a request only when its whole prompt fits the cache.
        unit_tokens: tokens per prefix id of the prefix cache, a multiple of ``block_tokens``; 0: none.
        draft_tokens: speculative tokens that a decode verifies.
        accepted_tokens: tokens a decode then emits on average.
        draft_model: catalog name or path of the model that drafts; empty: drafts cost nothing.
    """

    max_tokens: int = 2048
    max_sequences: int = 256
    block_tokens: int = 16
    batching: str = "decode-first"
    policy: str = "fcfs"
    preemption: str = "recompute"
    routing: str = "least-loaded"
    chunked: bool = True
    reserve_prompt: bool = False
    unit_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: float = 1.0
    draft_model: str = ""

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        names = {"batching": BATCHING, "policy": POLICIES, "preemption": PREEMPTION, "routing": ROUTING}
        for name, known in names.items():
            if getattr(self, name) not in known:
                given = str(getattr(self, name))
                raise InputError(Problem(f"{given!r}"[:60], name, allowed=", ".join(known),
                                         hint=did_you_mean(given, known)))  # fmt: skip
        ranges = {"max_tokens": (1, 2**20), "max_sequences": (1, 2**16), "block_tokens": (1, 2**16),
                  "draft_tokens": (0, 64), "accepted_tokens": (1, 1 + self.draft_tokens)}  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(Problem(f"{getattr(self, name)}", name, allowed=f"{low} to {high}"))
        if self.draft_model and not self.draft_tokens:
            raise InputError(Problem("a model that drafts no tokens", "draft_model", hint="draft_tokens too"))
        if self.max_sequences > self.max_tokens:
            raise InputError(Problem(f"{self.max_sequences} sequences, but only {self.max_tokens} new tokens in a step",
                                     "max_sequences", allowed=f"up to max_tokens = {self.max_tokens}"))  # fmt: skip
        if self.unit_tokens % self.block_tokens:
            raise InputError(Problem("the unit of the prefix cache is no multiple of a block", "unit_tokens"))


VLLM = Rules()  # what vLLM does when nothing is said


@dataclass(frozen=True, slots=True)
class Window:
    """Layers with a sliding window, which keep only what their next token sees.

    Args:
        tokens: that they see; 0: no layer has a window.
        parts: of the cache of a token in such layers, of ``whole``.
        whole: parts of all layers.
    """

    tokens: int = 0
    parts: int = 0
    whole: int = 1

    def blocks(self, tokens: int, fresh: int, block_tokens: int) -> int:
        """Blocks of ``tokens`` tokens, the last ``fresh`` of them new, in units of all layers."""
        gone = max(tokens - fresh - self.tokens + 1, 0) // block_tokens if self.tokens else 0
        return -(-tokens // block_tokens) - gone * self.parts // self.whole


@dataclass(frozen=True, slots=True)
class Pool:
    """The engines and what they hold.

    Args:
        table: step times of those that prefill, or of all.
        blocks: of the cache of each of them.
        engines: how many.
        prefill_engines: that many only prefill and hand over to the others; 0: all do both.
        decode_table: step times of those that decode.
        decode_blocks: of the cache of each of those.
        kv_token_bytes: cache of one token, for the transfer.
        transfer_bytes_per_s: rate at which a prefilling engine hands over.
        transfer_latency_s: per transfer.
        stages: so many engines after one another are the batches of one pipeline of as many stages.
        stage_share: of a step's time that its longest stage takes; every stage counts as that long.
        window: what sliding windows save of the cache; nothing with a prefix cache, which keeps all layers.
    """

    table: StepTable
    blocks: int
    engines: int = 1
    prefill_engines: int = 0
    decode_table: StepTable | None = None
    decode_blocks: int = 0
    kv_token_bytes: float = 0.0
    transfer_bytes_per_s: float = 1.0
    transfer_latency_s: float = 0.0
    stages: int = 1
    stage_share: float = 1.0
    window: Window = Window()


@dataclass(frozen=True)
class Run:
    """What happened.

    Args:
        totals: counts and integrals over time, by name; see ``nps_serving_totals``.
        series: per bin of ``totals["bin_s"]`` seconds: sums of ``SERIES``, bins × columns; ``running`` to ``busy``
            are times seconds, ``tokens`` and ``joules`` of steps that ended, the rest of steps that began.
        gaps: counts of gaps between tokens in logarithmic bins, 128 an octave from 2^-20 s.
        steps: rows of ``STEP``, when asked for.
        shares: rows of ``SHARE``: who was in which step, when asked for.
    """

    totals: dict[str, float]
    series: np.ndarray
    gaps: np.ndarray
    steps: np.ndarray
    shares: np.ndarray


def _config(rules: Rules, pool: Pool, source: Source, bin_s: float) -> Any:
    c = _sim.ffi.new("nps_serving_config *")
    c.engines, c.prefill_engines, c.blocks = pool.engines, pool.prefill_engines, pool.blocks
    c.decode_blocks = pool.decode_blocks
    for name in ("max_tokens", "max_sequences", "block_tokens", "chunked", "reserve_prompt", "unit_tokens",
                 "draft_tokens", "accepted_tokens"):  # fmt: skip
        setattr(c, name, getattr(rules, name))
    c.batching, c.policy = BATCHING.index(rules.batching), POLICIES.index(rules.policy)
    c.preemption, c.routing = PREEMPTION.index(rules.preemption), ROUTING.index(rules.routing)
    c.users, c.concurrency, c.bin_s = source.users, source.concurrency, bin_s
    c.kv_token_bytes, c.transfer_bytes_per_s = pool.kv_token_bytes, pool.transfer_bytes_per_s
    c.transfer_latency_s, c.stages, c.stage_share = pool.transfer_latency_s, pool.stages, pool.stage_share
    window = Window() if rules.unit_tokens else pool.window
    c.window, c.window_parts, c.cache_parts = window.tokens, window.parts, window.whole
    return c


class _Machine:
    """The compiled run and its buffers."""

    def __init__(self, rules: Rules, pool: Pool, source: Source, log: bool, bin_s: float) -> None:
        first, self._first = pool.table.c_table()
        second, self._second = (pool.decode_table or pool.table).c_table()
        self._tables = (first, second)
        raw = _sim.lib.nps_serving_new(_config(rules, pool, source, bin_s), first, second)
        if raw == _sim.ffi.NULL:
            raise InputError(Problem("the step table or the rules do not fit together", "serving"))
        self.run = _sim.ffi.gc(raw, _sim.lib.nps_serving_free)
        most = pool.engines * rules.max_sequences
        self.records = np.zeros(max(RECORDS_AT_ONCE, 2 * most), dtype=RECORD)
        self.steps = np.zeros(max(RECORDS_AT_ONCE, 2 * pool.engines) if log else 0, dtype=STEP)
        self.shares = np.zeros(max(RECORDS_AT_ONCE, 4 * most) if log else 0, dtype=SHARE)
        pointers: list[Any] = []
        for array in (self.records, self.steps, self.shares):
            pointers += [_sim.ffi.from_buffer(array) if len(array) else _sim.ffi.NULL, len(array)]
        self.check(_sim.lib.nps_serving_sinks(self.run, *pointers))

    def check(self, status: int) -> int:
        """The status, unless it is an error."""
        if status == _sim.lib.NPS_SERVING_NO_MEMORY:
            raise MemoryError("the serving simulation needs more memory")
        if status == _sim.lib.NPS_SERVING_STUCK:
            raise InputError(Problem("a request needs more blocks than an engine has", "serving"))
        if status < 0:
            allowed = "arrivals that do not go backwards, lengths that the cache holds and the step table reaches"
            raise InputError(Problem("a request is out of range", "serving", allowed=allowed))
        return status

    def push(self, c: Chunk) -> None:
        """Hands the run a chunk of requests."""
        columns = (c.arrival_s, c.input_tokens, c.output_tokens, c.user, c.priority, c.hash_ends, c.hashes)
        held = [np.ascontiguousarray(column) for column in columns]
        self.check(_sim.lib.nps_serving_push(self.run, len(c), *(_sim.ffi.from_buffer(column) for column in held)))

    def drain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Copies of what the buffers hold; they are empty then."""
        counts = np.zeros(3, dtype=np.int64)
        _sim.lib.nps_serving_drain(self.run, _sim.ffi.from_buffer(counts))
        return tuple(b[:n].copy() for b, n in zip((self.records, self.steps, self.shares), counts, strict=True))  # type: ignore[return-value]

    def result(self, steps: list[np.ndarray], shares: list[np.ndarray]) -> Run:
        """Totals and series at the end."""
        totals = _sim.ffi.new("nps_serving_totals *")
        _sim.lib.nps_serving_totals_of(self.run, totals)
        series = np.zeros((_sim.lib.NPS_SERIES_BINS, len(SERIES)))
        gaps = np.zeros(_sim.lib.NPS_GAP_BINS, dtype=np.int64)
        _sim.lib.nps_serving_series(self.run, _sim.ffi.from_buffer(series), _sim.ffi.from_buffer(gaps))
        names = [name for name, _ in _sim.ffi.typeof("nps_serving_totals").fields]
        logs = [np.concatenate(part) if part else np.zeros(0, kind)
                for part, kind in ((steps, STEP), (shares, SHARE))]  # fmt: skip
        return Run({name: getattr(totals, name) for name in names}, series, gaps, logs[0], logs[1])


def simulate(
    source: Source,
    pool: Pool,
    rules: Rules = VLLM,
    sink: Callable[[np.ndarray], None] | None = None,
    *,
    log: bool = False,
    bin_s: float = 0.01,
) -> Run:
    """Serves all requests of ``source``.

    Args:
        source: the requests.
        pool: the engines.
        rules: how they serve.
        sink: is handed the records of finished requests (rows of ``RECORD``), some at a time.
        log: keep every step and who was in it.
        bin_s: first width of the bins of the series; it doubles as time goes on.

    Raises:
        InputError: a request that can never be served.
    """
    machine = _Machine(rules, pool, source, log, bin_s)
    chunks = source.chunks()
    steps: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    lib = _sim.lib
    while True:
        status = machine.check(lib.nps_serving_run(machine.run))
        if status == lib.NPS_SERVING_WANTS_REQUESTS:
            chunk = next(chunks, None)
            if chunk is None:
                lib.nps_serving_end(machine.run)
            else:
                machine.push(chunk)
            continue
        records, some_steps, some_shares = machine.drain()
        if sink is not None and len(records):
            sink(records)
        steps, shares = [*steps, some_steps], [*shares, some_shares]
        if log and (sum(map(len, steps)) > MOST_STEPS or sum(map(len, shares)) > MOST_SHARES):
            what = f"the log of the run passes {MOST_STEPS} steps, or {MOST_SHARES} places in them"
            raise InputError(Problem(what, "log", hint="serve fewer requests"))
        if status == lib.NPS_SERVING_DONE:
            return machine.result(steps, shares)
