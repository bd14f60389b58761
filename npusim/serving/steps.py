"""How long a step takes: any batch of prompt chunks and decodes, each with its own context, by table look-up.

A step is cut into parts that depend on few numbers: everything but attention on the step's new tokens, logits and
sampling on the rows that make a token, and attention on each sequence's new and past tokens. Attention of a batch is
one fused kernel over sequences of different lengths: each sequence takes its share of the time that as many like it
would take together, and the kernel is launched once. The parts are priced by ``npusim.cost.estimate``; between nodes
the table is linear. At its nodes a uniform batch costs what ``estimate`` says.

Multi-head latent attention has two more parts: absorbed projections of decodes, and the expansion of a prompt's
latents. Weights fetched ahead during attention count as for the shortest context, which errs on the slow side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npusim import _sim, dtypes
from npusim.chip import Chip
from npusim.cost import estimate
from npusim.cost.result import OpCost
from npusim.errors import InputError, Problem
from npusim.llm import Precision, ceil_div, decode, prefill
from npusim.models import Model
from npusim.serving.documented import Kernels, of_prompts, of_step
from npusim.workload import Op, Workload, softmax

COARSE, FINE = 8, 32  # nodes an octave of the axes of tokens; csrc/sim/serving_price.c counts alike
PREFILL_BATCHES = 8  # 1 ... 8 prompts in a step; more of them have the share of the last
QUANTUM = 16  # tokens: edges of tiles, where time goes up by steps, are multiples
EXACT_TOKENS = 1024  # below, the tile search finds odd mappings at single numbers of tokens: all are priced
Floats = np.ndarray
Ints = np.ndarray


@dataclass(frozen=True, slots=True)
class Constants:
    """What a fit against measured requests may change; without one the chip file alone speaks.

    Args:
        compute: sustained fraction of the on-chip rates (matrix and vector engines, caches).
        memory: sustained fraction of the main-memory bandwidth the cost model grants.
        attention: sustained fraction of both in attention kernels, on top.
        host_s: host gap per step; None: the chip file's.
        exchange_s: host time of an exchange between chips, for each chip beyond the first.
        sequence_s: host time of a sequence that makes a token: sampling and bookkeeping.
        usable: share of the chip's memory that weights, a step and the cache fill; None: the chip file's.
        kernels: calibration documents that price operators; None: the cost model does.
    """

    compute: float = 1.0
    memory: float = 1.0
    attention: float = 1.0
    host_s: float | None = None
    exchange_s: float = 0.0
    sequence_s: float = 0.0
    usable: float | None = None
    kernels: Kernels | None = None

    def sized(self, chip: Chip) -> Chip:
        """The chip with the share of its memory that is used."""
        if self.usable is None or chip.memory is None:
            return chip
        return chip.model_copy(update={"memory": chip.memory.model_copy(update={"usable": self.usable})})


UNFITTED = Constants()


@dataclass(frozen=True, slots=True)
class Shape:
    """What the steps of an engine are made of.

    Args:
        model: the network.
        chip: the hardware of each of ``tp`` × ``pp`` chips.
        fmt: number formats.
        tp: tensor-parallel chips.
        pp: pipeline stages; a batch passes them one after the other.
        fidelity: ``"roofline"`` or ``"tile"``.
        max_tokens: new tokens of a step at most.
        max_sequences: sequences of a step at most.
        max_context: tokens of a sequence at most.
        block_tokens: tokens per block of the paged cache.
        draft_tokens: speculative tokens that a decode verifies.
        imbalance_pct: load of the busiest expert in percent of the mean; every expert takes as long as it does.
    """

    model: Model
    chip: Chip
    fmt: Precision
    tp: int = 1
    pp: int = 1
    fidelity: str = "tile"
    max_tokens: int = 2048
    max_sequences: int = 256
    max_context: int = 131072
    block_tokens: int = 16
    draft_tokens: int = 0
    imbalance_pct: float = 100.0

    def formats(self) -> dict[str, str]:
        """Keyword arguments of ``prefill`` and ``decode``."""
        return {"weights": self.fmt.weights, "activations": self.fmt.activations, "kv": self.fmt.kv}


def node_values(high: int, per_octave: int = COARSE) -> Ints:
    """Nodes of an axis from 0 to the first one above ``high``: integers of few significant bits."""
    values = list(range(2 * per_octave))
    while values[-1] <= high:
        index = len(values)
        shift = index // per_octave - 1
        values.append((index - shift * per_octave) << shift)
    return np.array(values, dtype=np.int64)


def node_bound(count: int) -> int:
    """Largest number that an axis of ``count`` coarse nodes reaches."""
    shift = max((count - 1) // COARSE - 1, 0)
    return ((count - 1 - shift * COARSE) << shift) - 1


def edge_values(high: int) -> Ints:
    """Nodes of a dense axis from 1 to ``high``: all up to 1024, then both sides of multiples of 32, 64, ..."""
    edges, width = [0], QUANTUM
    while edges[-1] < high:
        edges.append(min(edges[-1] + width, high))
        width = max(QUANTUM, (edges[-1] // 1024) * 2 * QUANTUM)
    both = np.array(edges)[:, None] + [0, 1]
    return np.unique(np.clip(np.append(both, np.arange(1, EXACT_TOKENS + 1)), 1, high))


def _few_values(high: int) -> Ints:
    """Nodes of the axis of sequences: all up to 16, then both sides of the multiples of 8."""
    edges = np.arange(8, high + 8, 8)[:, None] + [0, 1]
    return np.unique(np.clip(np.append(edges, np.arange(1, 17)), 1, high))


@dataclass(frozen=True)
class _Part:
    """Operators priced at the nodes of an axis (or of several): one array per resource and operator."""

    ops: tuple[OpCost, ...]
    shape: tuple[int, ...]
    launch_s: float = 0.0  # of each run of each operator, to be left out

    def seconds(self, c: Constants, attention: bool = False) -> Floats:
        """Time under the constants; without any, what ``estimate`` says."""
        more = c.attention if attention else 1.0
        total = np.zeros(self.shape)
        for cost in self.ops:
            slowest = np.zeros(self.shape)
            for name, busy in cost.seconds.items():
                if name == "overhead":
                    continue
                share = c.memory if name == "dram" else 1.0 if name == "link" else c.compute
                slowest = np.maximum(slowest, np.asarray(busy) / (share * more))
            total = total + slowest + cost.seconds.get("overhead", 0.0) - self.launch_s * cost.count
        return total

    def joules(self) -> Floats:
        """Dynamic energy of one chip; 0 without a power description."""
        total = np.zeros(self.shape)
        for cost in self.ops:
            if cost.energy_j is not None:
                total = total + cost.energy_j
        return total

    def pairs(self, c: Constants, attention: bool = False) -> Floats:
        """Seconds and joules, last axis 2."""
        return np.stack([self.seconds(c, attention), self.joules()], axis=-1)


class StepTimes:
    """The priced parts of the steps of one engine; ``table`` turns them into what the simulation looks up."""

    def __init__(self, shape: Shape) -> None:
        if not shape.model.causal:
            raise InputError(Problem(f"'{shape.model.name}' is an encoder: it serves no token by token", "model"))
        if shape.fidelity not in ("roofline", "tile"):
            raise InputError(
                Problem(f"steps are not priced at {shape.fidelity!r}", "fidelity", allowed="roofline, tile")
            )
        shape.chip.require(shape.fidelity)
        self.shape = shape
        self.contexts = node_values(shape.max_context)
        self.chunks = node_values(shape.max_tokens)
        self.sequences = _few_values(shape.max_sequences)
        self.reaches = node_values(shape.max_context + shape.draft_tokens, FINE)
        rows = shape.max_sequences * (1 + shape.draft_tokens)
        self.common_nodes, self.common = self._along(_common_ops, shape.max_tokens)
        self.head_nodes, self.head = self._along(_head_ops, rows)
        self.absorbed_nodes, self.absorbed = self._along(_absorbed_ops, shape.max_tokens)
        self.expanded = self._price(_expanded_ops(shape, np.maximum(self.contexts, 1)), self.contexts.shape)
        self.launch_s = 0.0 if shape.fidelity == "roofline" else shape.chip.overheads.launch_s or 0.0
        self.decode = self._decode_part()
        self.prefill = self._prefill_part()

    def _price(self, ops: list[Op], shape: tuple[int, ...], launch_s: float = 0.0) -> _Part:
        if not ops:
            return _Part((), shape)
        return _Part(estimate(Workload("part", tuple(ops)), self.shape.chip, self.shape.fidelity).ops, shape, launch_s)

    def _along(self, build: Callable[[Shape, Ints], list[Op]], high: int) -> tuple[Ints, _Part]:
        """The operators of ``build`` at the nodes of a dense axis."""
        nodes = edge_values(high)
        return nodes, self._price(build(self.shape, nodes), nodes.shape)

    def _attention(self, batch: Any, new: Any, past: Any, shape: tuple[int, ...], absorb: bool) -> _Part:
        s = self.shape
        kinds: dict[str, Any] = {**s.formats(), "tp": s.tp, "page": s.block_tokens}
        if absorb and s.draft_tokens == 0:
            step = decode(s.model, batch=batch, context=past, **kinds)
        else:
            step = prefill(s.model, batch=batch, prompt=new, past=past, **kinds)
        return self._price([op for op in step.ops if op.kind == "attention"], shape, self.launch_s)

    def _decode_part(self) -> _Part:
        """Sequences × intervals × both ends: past tokens such that past + new − 1 are the interval's."""
        past = np.maximum(_ends(self.reaches) - self.shape.draft_tokens, 0)[None]
        shape = (len(self.sequences), *past.shape[1:])
        return self._attention(self.sequences[:, None, None], 1 + self.shape.draft_tokens, past, shape, True)

    def _prefill_part(self) -> _Part:
        """Prompts × intervals × both ends × past tokens: new tokens such that new − 1 are the interval's."""
        batch = np.arange(1, PREFILL_BATCHES + 1)[:, None, None, None]
        new, past = 1 + _ends(self.chunks)[None, :, :, None], self.contexts[None, None, None, :]
        return self._attention(batch, new, past, (len(batch), *new.shape[1:3], past.size), False)

    def _hop_s(self, tokens: Floats) -> Floats:
        """Seconds to hand the residual stream from stage to stage."""
        s = self.shape
        if s.pp == 1:
            return np.zeros(len(tokens))
        link = s.chip.link
        if link is None:
            raise InputError(Problem(f"chip '{s.chip.name}' describes no link, so it cannot be a stage", "pp"))
        size = tokens * s.model.hidden * dtypes.bits(s.fmt.stream) / 8
        return np.asarray((s.pp - 1) * (size / link.bandwidth_bytes_per_s + (link.latency_s or 0.0)))

    def table(self, constants: Constants = UNFITTED, swap_block_s: float = 0.0) -> StepTable:
        """The table under the constants.

        Args:
            constants: sustained fractions and host gap.
            swap_block_s: seconds to move one block of the cache to the host or back.
        """
        s, c = self.shape, constants
        rows = s.max_sequences * (1 + s.draft_tokens)
        common = _dense(self.common_nodes, self.common.pairs(c), s.max_tokens)
        common[:, 0] += self._hop_s(np.arange(s.max_tokens + 1))
        decodes = _dense(self.sequences, self.decode.pairs(c, True), s.max_sequences)
        shares = decodes / np.maximum(np.arange(s.max_sequences + 1), 1)[:, None, None, None]
        prefill_pairs = self.prefill.pairs(of_prompts(s, c), True) / np.arange(1, PREFILL_BATCHES + 1).reshape(
            -1, 1, 1, 1, 1
        )
        host_s = constants.host_s
        if host_s is None:
            host_s = 0.0 if s.fidelity == "roofline" else s.chip.overheads.step_s or 0.0
        launches = sum(cost.count for cost in self.decode.ops)
        table = StepTable(
            draft_tokens=s.draft_tokens,
            common=common,
            head=_dense(self.head_nodes, self.head.pairs(c), rows),
            absorbed=_dense(self.absorbed_nodes, self.absorbed.pairs(c), s.max_tokens),
            expanded=_extended(self.contexts, self.expanded.pairs(c)),
            decode=shares,
            prefill=prefill_pairs,
            launch_s=launches * self.launch_s,
            host_s=host_s,
            swap_block_s=swap_block_s,
        )
        return of_step(table, s, c)


@dataclass(frozen=True)
class StepTable:
    """Seconds and joules of steps as arrays; see ``nps_step_table`` in csrc/sim/serving.h for their axes.

    Args:
        common: all but attention, by tokens.
        head: logits and sampling, by rows.
        absorbed: what only decodes do, by their tokens.
        expanded: what only prompts do, by new and past tokens, at the nodes of an axis.
        decode: one decode's share, by sequences, intervals of past tokens and their two ends.
        prefill: one prompt's share, by prompts, intervals of new tokens and their ends, past.
        launch_s: attention kernels of a step.
        host_s: host gap per step.
        swap_block_s: one block to the host or back.
        draft_tokens: speculative tokens a decode verifies.
    """

    common: Floats
    head: Floats
    absorbed: Floats
    expanded: Floats
    decode: Floats
    prefill: Floats
    launch_s: float
    host_s: float
    swap_block_s: float = 0.0
    draft_tokens: int = 0

    def c_table(self) -> tuple[Any, list[Floats]]:
        """The C struct, and the arrays it points into, which must live as long as it does."""
        names = ("common", "head", "absorbed", "expanded", "decode", "prefill")
        arrays = {name: np.ascontiguousarray(getattr(self, name), dtype=np.float64) for name in names}
        c = _sim.ffi.new("nps_step_table *")
        c.tokens, c.rows, c.sequences = len(self.common) - 1, len(self.head) - 1, len(self.decode) - 1
        c.prefill_batches, c.chunks, _, c.contexts = self.prefill.shape[:4]
        c.longest = node_bound(self.prefill.shape[3])
        c.reaches, c.query = self.decode.shape[1], 1 + self.draft_tokens
        c.launch_s, c.host_s, c.swap_block_s = self.launch_s, self.host_s, self.swap_block_s
        for name, array in arrays.items():
            setattr(c, name, _sim.ffi.from_buffer(array))
        return c, list(arrays.values())

    def price(
        self, prefills: Sequence[tuple[int, int]] = (), decodes: Sequence[int] = (), rows: int | None = None
    ) -> tuple[float, float]:
        """Seconds and joules of one step.

        Args:
            prefills: (new, past) tokens of each prompt chunk.
            decodes: past tokens of each decode.
            rows: sequences that make a token (default: all of them).
        """
        c, _keep = self.c_table()
        self._check(c, prefills, decodes)
        new, past = (np.array([pair[i] for pair in prefills], dtype=np.int64) for i in (0, 1))
        contexts, out = np.array(decodes, dtype=np.int64), np.zeros(2)
        count = len(prefills) + int(c.query) * len(decodes) if rows is None else rows
        buffers = [_sim.ffi.from_buffer(array) for array in (new, past, contexts, out)]
        _sim.lib.nps_serving_price(c, len(new), buffers[0], buffers[1], len(contexts), buffers[2], count, buffers[3])
        return float(out[0]), float(out[1])

    def _check(self, c: Any, prefills: Sequence[tuple[int, int]], decodes: Sequence[int]) -> None:
        """Raises InputError for a batch beyond the axes."""
        tokens = sum(new for new, _ in prefills) + len(decodes) * int(c.query)
        longest = max([new + past for new, past in prefills] + [past + 1 for past in decodes], default=0)
        least = min([0, *(past for _, past in prefills), *decodes, *(new - 1 for new, _ in prefills)])
        rows = len(prefills) + len(decodes) * int(c.query)
        beyond = tokens > c.tokens or len(decodes) > c.sequences or rows > c.rows or longest > c.longest
        if beyond or least < 0:
            allowed = f"{c.tokens} tokens, {c.sequences} sequences of {c.longest} tokens"
            raise InputError(Problem("the batch is beyond the step table", "batch", allowed=allowed))


def direct(shape: Shape, prefills: Sequence[tuple[int, int]] = (), decodes: Sequence[int] = ()) -> float:
    """Seconds of one step priced by ``estimate`` itself, without a table: what the table is tested against.

    All sequences of a kind must be alike; every one of them makes a token.
    """
    tokens = sum(new for new, _ in prefills) + len(decodes) * (1 + shape.draft_tokens)
    ops = [*_common_ops(shape, tokens), *_head_ops(shape, len(prefills) + len(decodes) * (1 + shape.draft_tokens))]
    kinds: dict[str, Any] = {**shape.formats(), "tp": shape.tp, "page": shape.block_tokens}
    attentions: list[Op] = []
    if prefills:
        new, past = prefills[0]
        step = prefill(shape.model, batch=len(prefills), prompt=new, past=past, **kinds)
        attentions += [op for op in step.ops if op.kind == "attention"]
        ops += _expanded_ops(shape, sum(sum(pair) for pair in prefills))
    if decodes:
        step = decode(shape.model, batch=len(decodes), context=decodes[0], **kinds)
        attentions += [op for op in step.ops if op.kind == "attention"]
        ops += _absorbed_ops(shape, len(decodes))
    cost = estimate(Workload("step", (*ops, *attentions)), shape.chip, shape.fidelity)
    twice = bool(prefills) and bool(decodes)
    launch_s = 0.0 if shape.fidelity == "roofline" else shape.chip.overheads.launch_s or 0.0
    fused = sum(op.count for op in attentions) / 2 * launch_s if twice else 0.0
    host_s = 0.0 if shape.fidelity == "roofline" else shape.chip.overheads.step_s or 0.0
    return float(cost.time_s) - fused + host_s


def workload_of(shape: Shape, prefills: Sequence[tuple[int, int]], decodes: Sequence[int]) -> Workload:
    """The operators of one step as a workload, for its timeline; decodes run at their mean context.

    Args:
        shape: the engine.
        prefills: (new, past) tokens of each prompt chunk.
        decodes: past tokens of each decode.
    """
    tokens = sum(new for new, _ in prefills) + len(decodes) * (1 + shape.draft_tokens)
    kinds: dict[str, Any] = {**shape.formats(), "tp": shape.tp, "page": shape.block_tokens}
    ops = _common_ops(shape, tokens)
    for new, past in prefills:
        step = prefill(shape.model, batch=1, prompt=new, past=past, **kinds)
        ops += [op for op in step.ops if op.kind == "attention"]
        ops += _expanded_ops(shape, new + past)
    if decodes:
        step = decode(shape.model, batch=len(decodes), context=round(sum(decodes) / len(decodes)), **kinds)
        ops += [op for op in step.ops if op.kind == "attention"]
        ops += _absorbed_ops(shape, len(decodes))
    return Workload("step", (*ops, *_head_ops(shape, len(prefills) + len(decodes) * (1 + shape.draft_tokens))))


# -- the operators of a part -----------------------------------------------------------------------------------


def _step(s: Shape, tokens: Any) -> Workload:
    return decode(s.model, batch=tokens, context=0, tp=s.tp, **s.formats())


_HEAD = ("final_norm", "lm_head")
_DECODE_ONLY = ("attn.absorb_q", "attn.absorb_v")


def _is(op: Op, names: tuple[str, ...]) -> bool:
    return op.name.partition(".")[2] in names if op.name.startswith("layers") else op.name in names


def _common_ops(s: Shape, tokens: Any) -> list[Op]:
    """All but attention, logits and what only one kind of sequence does."""
    ops = [op for op in _step(s, tokens).ops if op.kind != "attention" and not _is(op, (*_HEAD, *_DECODE_ONLY))]
    skew = {"imbalance_pct": s.imbalance_pct}
    return [replace(op, dims={**op.dims, **skew}) if op.kind == "experts" else op for op in ops]


def _head_ops(s: Shape, rows: Any) -> list[Op]:
    """Logits of the rows that make a token, and sampling: a softmax over the vocabulary."""
    ops = [op for op in _step(s, rows).ops if _is(op, _HEAD)]
    return [*ops, softmax(rows, ceil_div(s.model.vocab, s.tp), s.fmt.stream, s.fmt.stream, name="sample").inner()]


def _absorbed_ops(s: Shape, tokens: Any) -> list[Op]:
    """Multi-head latent attention: projections that decodes absorb into query and output."""
    return [op for op in _step(s, tokens).ops if _is(op, _DECODE_ONLY)]


def _expanded_ops(s: Shape, tokens: Any) -> list[Op]:
    """Multi-head latent attention: keys and values of all tokens of a prompt, expanded from their latents."""
    step = prefill(s.model, batch=1, prompt=tokens, tp=s.tp, **s.formats())
    return [op for op in step.ops if _is(op, ("attn.kv_b",))]


def _ends(nodes: Ints) -> Ints:
    """First and last integer of every interval between nodes."""
    return np.stack([nodes[:-1], nodes[1:] - 1], axis=-1)


def _dense(nodes: Ints, values: Floats, high: int) -> Floats:
    """Values at 0 ... ``high`` along the first axis, linear between nodes; nothing costs nothing."""
    at = np.arange(high + 1)
    after = np.clip(np.searchsorted(nodes, at), 1, max(len(nodes) - 1, 1)) if len(nodes) > 1 else np.zeros_like(at)
    before = np.maximum(after - 1, 0)
    width = np.maximum(nodes[after] - nodes[before], 1)
    share = ((at - nodes[before]) / width).reshape(-1, *(1,) * (values.ndim - 1))
    dense = np.asarray(values[before] + share * (values[after] - values[before]))
    dense[0] = 0.0
    return dense


_OCTAVES_BEYOND = 16


def _extended(nodes: Ints, pairs: Floats) -> Floats:
    """Pairs at the nodes of a much longer axis, along the last slope: many prompts may be expanded in one step."""
    beyond = node_values(int(nodes[-1]) << _OCTAVES_BEYOND)
    slope = (pairs[-1] - pairs[-2]) / (nodes[-1] - nodes[-2])
    more = pairs[-1] + (beyond[len(nodes) :, None] - nodes[-1]) * slope
    extended = np.concatenate([pairs, more])
    extended[0] = 0.0
    return extended


_PRICED: list[StepTimes] = []  # the last few; descriptions of chips compare, but have no hash
_KEPT = 8


def step_times(shape: Shape) -> StepTimes:
    """The priced parts of one engine's steps; a shape is priced once. Raises InputError for an encoder."""
    stage = replace(shape, pp=1)  # stages only add hops between them
    found = next((known for known in _PRICED if known.shape == stage), None)
    if found is None:
        found = StepTimes(stage)
        _PRICED.insert(0, found)
        del _PRICED[_KEPT:]
    staged = copy(found)
    staged.shape = shape
    return staged
