"""How long a step takes: any batch of prompt chunks and decodes, each with its own context, by table look-up.

A step is cut into parts that depend on few numbers: everything but attention on the step's new tokens, logits and
sampling on the rows that make a token, and attention on each sequence's new and past tokens. Attention of a batch is
one fused kernel over sequences of different lengths: each sequence takes its share of the time that as many like it
would take together, and the kernel is launched once. The parts are priced by ``npusim.cost.estimate``; what a uniform
batch costs at the nodes of the tables is what ``estimate`` says.

Between nodes the tables are linear. Parts that grow with their number of tokens have nodes wherever they would
otherwise grow by more than ``TOLERANCE`` from one node to the next, so no value between is further off. Decodes have
both ends of 64 intervals an octave of past tokens, for every number of sequences. Attention of prompts, which has
edges along lines in both of its axes, has no table: the formula is evaluated (``npusim.serving.attention``).

Multi-head latent attention has two more parts: absorbed projections of decodes, and the expansion of a prompt's
latents. Weights fetched ahead during attention count as for the shortest context, which errs on the slow side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npusim import _sim, dtypes
from npusim.chip import Chip
from npusim.cost import estimate
from npusim.cost.collectives import hops_s
from npusim.cost.result import OpCost
from npusim.errors import InputError, Problem
from npusim.llm import Precision, ceil_div, decode, prefill
from npusim.models import Model
from npusim.serving.attention import Attention, attention_ops, prices
from npusim.serving.documented import Kernels, of_prompts, of_step
from npusim.workload import Op, Workload, softmax

FINE = 64  # intervals an octave of a decode's past tokens; csrc/sim/serving_price.c counts alike
SPARSE = 4  # nodes an octave from which refinement starts
TOLERANCE = 0.005  # growth of a part from one node to the next, unless they are neighbours
LONG_PROMPTS = 16  # of the longest context each, in one step: so far reaches the axis of expanded latents
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
        draft: the network that makes them, in the same formats and on the same ``tp`` chips; None: they cost nothing.
        imbalance_pct: load of the busiest expert in percent of the mean; every expert takes as long as it does.
        ep: chips that share the routed experts, with ``ep / tp`` attention groups over which a batch is spread evenly;
            the imbalance is then the busiest chip's.
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
    ep: int = 1
    draft: Model | None = None

    def drafting(self) -> Shape | None:
        """The engine of the draft model; None without one."""
        if self.draft is None:
            return None
        longest = self.max_context + self.draft_tokens
        return replace(self, model=self.draft, draft=None, draft_tokens=0, pp=1, ep=1, max_context=longest,
                       imbalance_pct=100.0)  # fmt: skip

    def formats(self) -> dict[str, str]:
        """Keyword arguments of ``prefill`` and ``decode``."""
        return {"weights": self.fmt.weights, "activations": self.fmt.activations, "kv": self.fmt.kv}


def node_values(high: int, per_octave: int = FINE) -> Ints:
    """Nodes of an axis from 0 to the first one above ``high``: integers of few significant bits."""
    values = list(range(2 * per_octave))
    while values[-1] <= high:
        index = len(values)
        shift = index // per_octave - 1
        values.append((index - shift * per_octave) << shift)
    return np.array(values, dtype=np.int64)


def refined(price: Callable[[Ints], Floats], high: int, tolerance: float = TOLERANCE) -> tuple[Ints, Floats]:
    """Nodes from 1 to ``high`` between which a function that never falls is linear within ``tolerance``; its values.

    A value between two nodes lies between theirs, and so does the straight line: halving intervals until the function
    grows by no more than ``tolerance`` over each, or nothing lies inside, bounds the error by that growth.

    Args:
        price: the function at some integers: its last axis. Of several rows the first one is looked at.
        high: the last node.
        tolerance: relative growth over an interval that is not split.
    """
    nodes = np.unique(np.clip(node_values(high, SPARSE)[1:], 1, high))
    values = price(nodes)
    while True:
        width, growth = np.diff(nodes), np.abs(np.diff(values[0]))
        split = (width > 1) & (growth > tolerance * values[0, :-1])
        if not split.any():
            return nodes, values
        middles = nodes[:-1][split] + width[split] // 2
        nodes, values = np.append(nodes, middles), np.append(values, price(middles), axis=-1)
        order = np.argsort(nodes)
        nodes, values = nodes[order], values[:, order]


@dataclass(frozen=True)
class _Part:
    """Some operators at the nodes of an axis: seconds of main memory, links and what else is slowest; what no resource
    is busy with; dynamic joules of one chip, 0 without a power description. Operators × these five × nodes."""

    nodes: Ints
    costs: Floats

    def seconds(self, c: Constants) -> Floats:
        """Time under the constants; without any, what ``estimate`` says."""
        memory, link, other, idle, _ = np.moveaxis(self.costs, 1, 0)
        return np.asarray(np.sum(np.maximum(np.maximum(memory / c.memory, other / c.compute), link) + idle, axis=0))

    def pairs(self, c: Constants) -> Floats:
        """Seconds and joules, last axis 2."""
        return np.stack([self.seconds(c), np.sum(self.costs[:, 4], axis=0)], axis=-1)


def _priced(s: Shape, ops: list[Op], nodes: Ints) -> _Part:
    costs = np.zeros((len(ops), 5, len(nodes)))
    for row, cost in zip(costs, _estimated(s, ops), strict=True):
        busy = dict(cost.seconds)
        row[3] = busy.pop("overhead", 0.0)
        row[0], row[1] = busy.pop("dram"), busy.pop("link", 0.0)
        for seconds in busy.values():
            row[2] = np.maximum(row[2], seconds)
        row[4] = 0.0 if cost.energy_j is None else cost.energy_j
    return _Part(nodes, costs)


# The shares of decodes of the last table, most of its time and memory: runs of one engine mostly follow each other.
_LAST_SHARES: list[tuple[Attention, tuple[float, float], Floats]] = []


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
        rows = shape.max_sequences * (1 + shape.draft_tokens)
        self.common = self._part(_common_ops, shape.max_tokens)
        self.head = self._part(_head_ops, rows)
        self.absorbed = self._part(_absorbed_ops, rows)
        self.expanded = self._part(_expanded_ops, LONG_PROMPTS * shape.max_context, 2 * TOLERANCE)
        self.launch_s = 0.0 if shape.fidelity == "roofline" else shape.chip.overheads.launch_s or 0.0
        self.decode, self.prefill = self._attention(True), self._attention(False)
        drafting = shape.drafting()
        self.draft = None if drafting is None else StepTimes(drafting)

    def _part(self, build: Callable[[Shape, Ints], list[Op]], high: int, tolerance: float = TOLERANCE) -> _Part:
        """The operators of ``build`` at as many nodes up to ``high`` as they need."""

        def price(nodes: Ints) -> Floats:
            part = _priced(self.shape, build(self.shape, nodes), nodes)
            return np.vstack([part.seconds(UNFITTED), part.costs.reshape(-1, len(nodes))])

        nodes, rows = refined(price, high, tolerance)
        return _Part(nodes, rows[1:].reshape(-1, 5, len(nodes)))

    def _attention(self, absorb: bool) -> Attention:
        s = self.shape
        first, second = (attention_ops(s.model, absorb, 1, 1, past, **_kinds(s)) for past in (0, 1))
        return Attention(first, second, s.chip, s.fidelity, max(s.ep // s.tp, 1))

    def _decode_shares(self, c: Constants) -> Floats:
        """Sequences × intervals × both ends × 2: past tokens such that past + new − 1 are the interval's."""
        s, key = self.shape, (c.compute * c.attention, c.memory * c.attention)
        if _LAST_SHARES and _LAST_SHARES[0][0] is self.decode and _LAST_SHARES[0][1] == key:
            return _LAST_SHARES[0][2]
        ops = self.decode.sustained(*key)
        past = np.maximum(_ends(node_values(s.max_context + s.draft_tokens)) - s.draft_tokens, 0)
        shares = np.zeros((s.max_sequences + 1, *past.shape, 2))
        for batch in range(1, s.max_sequences + 1):
            shares[batch] = prices(ops, batch, 1 + s.draft_tokens, past) / batch
        _LAST_SHARES[:] = [(self.decode, key, shares)]
        return shares

    def hop_s(self, tokens: Floats) -> Floats:
        """Seconds to hand the residual stream from stage to stage."""
        s = self.shape
        size = tokens * s.model.hidden * dtypes.bits(s.fmt.stream) / 8 / max(s.ep // s.tp, 1)
        return np.asarray(hops_s(size, s.pp, max(s.tp, s.ep), s.chip))

    def table(self, constants: Constants = UNFITTED, swap_block_s: float = 0.0) -> StepTable:
        """The table under the constants.

        Args:
            constants: sustained fractions and host gap.
            swap_block_s: seconds to move one block of the cache to the host or back.
        """
        s, c = self.shape, constants
        rows = s.max_sequences * (1 + s.draft_tokens)
        host_s, prompts = constants.host_s, of_prompts(s, c).attention
        if host_s is None:
            host_s = 0.0 if s.fidelity == "roofline" else s.chip.overheads.step_s or 0.0
        table = StepTable(
            draft_tokens=s.draft_tokens,
            common=_dense(self.common, c, s.max_tokens),
            head=_dense(self.head, c, rows),
            absorbed=_dense(self.absorbed, c, rows),
            expanded=_extended(self.expanded, c),
            decode=self._decode_shares(c),
            prefill=self.prefill.sustained(c.compute * prompts, c.memory * prompts),
            longest=s.max_context,
            launch_s=self.decode.launches * self.launch_s,
            host_s=host_s,
            swap_block_s=swap_block_s,
            draft=None if self.draft is None else self.draft.table(replace(c, host_s=0.0, sequence_s=0.0)),
        )
        table = of_step(table, s, c)
        table.common[:, 0] += self.hop_s(np.arange(s.max_tokens + 1))
        return table


@dataclass(frozen=True)
class StepTable:
    """Seconds and joules of steps as arrays; see ``nps_step_table`` in csrc/sim/serving.h for their axes.

    Args:
        common: all but attention, by tokens.
        head: logits and sampling, by rows.
        absorbed: what only decodes do, by their tokens.
        expanded: what only prompts do: new and past tokens, seconds and joules of each node; linear beyond the last.
        decode: one decode's share, by sequences, intervals of past tokens and their two ends.
        prefill: attention of prompts as C structs, see ``Attention.sustained``.
        longest: tokens of a sequence at most.
        launch_s: attention kernels of a step.
        host_s: host gap per step.
        swap_block_s: one block to the host or back.
        draft_tokens: speculative tokens a decode verifies.
        draft: steps of the model that drafts them; None: they cost nothing.
    """

    common: Floats
    head: Floats
    absorbed: Floats
    expanded: Floats
    decode: Floats
    prefill: Any
    longest: int
    launch_s: float
    host_s: float
    swap_block_s: float = 0.0
    draft_tokens: int = 0
    draft: StepTable | None = None

    def c_table(self) -> tuple[Any, list[Any]]:
        """The C struct, and what it points into, which must live as long as it does."""
        names = ("common", "head", "absorbed", "expanded", "decode")
        arrays = {name: np.ascontiguousarray(getattr(self, name), dtype=np.float64) for name in names}
        c = _sim.ffi.new("nps_step_table *")
        c.tokens, c.rows, c.sequences = len(self.common) - 1, len(self.head) - 1, len(self.decode) - 1
        c.expansions, c.reaches, c.query = len(self.expanded), self.decode.shape[1], 1 + self.draft_tokens
        c.prefill_ops, c.prefill, c.longest = len(self.prefill), self.prefill, self.longest
        c.launch_s, c.host_s, c.swap_block_s = self.launch_s, self.host_s, self.swap_block_s
        for name, array in arrays.items():
            setattr(c, name, _sim.ffi.from_buffer(array))
        kept: list[Any] = list(arrays.values())
        if self.draft is not None:
            draft, more = self.draft.c_table()
            c.draft = draft
            kept += [draft, *more]
        return c, kept

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

    Every sequence makes a token.
    """
    query = 1 + shape.draft_tokens
    verified, prompted = len(decodes) * query, sum(sum(pair) for pair in prefills)
    ops = [*_common_ops(shape, sum(new for new, _ in prefills) + verified), *_head_ops(shape, len(prefills) + verified)]
    ops += _expanded_ops(shape, prompted) if prefills else []
    ops += _absorbed_ops(shape, verified) if decodes else []
    launch_s, host_s = shape.chip.overheads.launch_s or 0.0, shape.chip.overheads.step_s or 0.0
    if shape.fidelity == "roofline":
        launch_s = host_s = 0.0
    seconds, launches = host_s, 0
    for cost in _estimated(shape, ops):
        seconds += float(cost.time_s)
    new, past = (np.array([pair[i] for pair in prefills]) for i in (0, 1))
    for absorb, batch, fresh, cached in ((False, len(prefills), new, past),
                                         (True, len(decodes), query, np.array(decodes))):  # fmt: skip
        if not batch:
            continue
        costs = _estimated(shape, attention_ops(shape.model, absorb, batch, fresh, cached, **_kinds(shape)))
        launches = sum(cost.count for cost in costs)
        shares = sum(cost.time_s - launch_s * cost.count for cost in costs) / batch
        seconds += float(np.sum(np.broadcast_to(shares, (batch,))))
    seconds += launches * launch_s
    drafting = shape.drafting()
    if drafting is not None:
        longer = [[past + k for past in decodes] for k in range(shape.draft_tokens if decodes else 1)]
        passes = [direct(drafting, () if k else prefills, contexts) - host_s for k, contexts in enumerate(longer)]
        seconds += sum(passes)
    return seconds


def workload_of(shape: Shape, prefills: Sequence[tuple[int, int]], decodes: Sequence[int]) -> Workload:
    """The operators of one step as a workload, in their order; decodes run at their mean context.

    Args:
        shape: the engine.
        prefills: (new, past) tokens of each prompt chunk.
        decodes: past tokens of each decode.
    """
    tokens = sum(new for new, _ in prefills) + len(decodes) * (1 + shape.draft_tokens)
    ops = _common_ops(shape, tokens)
    for (new, past), alike in Counter(prefills).items():  # one kernel serves those of a batch
        ops += attention_ops(shape.model, False, alike, new, past, **_kinds(shape))
    for new, past in prefills:
        ops += _expanded_ops(shape, new + past)
    if decodes:
        query, mean = 1 + shape.draft_tokens, round(sum(decodes) / len(decodes))
        ops += attention_ops(shape.model, True, len(decodes), query, mean, **_kinds(shape))
        ops += _absorbed_ops(shape, len(decodes) * query)
    ops += _head_ops(shape, len(prefills) + len(decodes) * (1 + shape.draft_tokens))
    order = _order(shape)
    return Workload("step", tuple(sorted(ops, key=lambda op: order.get(op.name, len(order)))))


def _order(s: Shape) -> dict[str, int]:
    """Places of operators in a step by their names; what only decodes do comes after what precedes it there."""
    names = [op.name for op in prefill(s.model, batch=1, prompt=1, **_kinds(s)).ops]
    before = ""
    for name in (op.name for op in _step(s, 1).ops):
        if name not in names:
            names.insert(names.index(before) + 1, name)
        before = name
    return {name: place for place, name in enumerate(names)}


# -- the operators of a part -----------------------------------------------------------------------------------


def _step(s: Shape, tokens: Any) -> Workload:
    return decode(s.model, batch=tokens, context=0, tp=s.tp, ep=s.ep, **s.formats())


_HEAD = ("final_norm", "lm_head")
_DECODE_ONLY = ("attn.absorb_q", "attn.absorb_v")


def _is(op: Op, names: tuple[str, ...]) -> bool:
    return op.name.partition(".")[2] in names if op.name.startswith("layers") else op.name in names


def _common_ops(s: Shape, tokens: Any) -> list[Op]:
    """All but attention, logits and what only one kind of sequence does."""
    ops = [op for op in _step(s, tokens).ops if op.kind != "attention" and not _is(op, (*_HEAD, *_DECODE_ONLY))]
    skew = {"imbalance_pct": s.imbalance_pct}
    skewed = [replace(op, dims={**op.dims, **skew}) if op.kind == "experts" else op for op in ops]
    if s.imbalance_pct == 100:
        return skewed
    # The busiest chip receives and sends that much more, and the others wait for it.
    return [
        replace(op, dims={**op.dims, "elements": op.dims["elements"] * s.imbalance_pct / 100})
        if op.function == "all_to_all" else op for op in skewed
    ]  # fmt: skip


def _head_ops(s: Shape, rows: Any) -> list[Op]:
    """Logits of the rows that make a token, and sampling: a softmax over the vocabulary."""
    ops = [op for op in _step(s, rows).ops if _is(op, _HEAD)]
    rows = ceil_div(rows, max(s.ep // s.tp, 1))  # of one attention group
    return [*ops, softmax(rows, ceil_div(s.model.vocab, s.tp), s.fmt.stream, s.fmt.stream, name="sample").inner()]


def _absorbed_ops(s: Shape, tokens: Any) -> list[Op]:
    """Multi-head latent attention: projections that decodes absorb into query and output."""
    return [op for op in _step(s, tokens).ops if _is(op, _DECODE_ONLY)]


def _expanded_ops(s: Shape, tokens: Any) -> list[Op]:
    """Multi-head latent attention: keys and values of all tokens of a prompt, expanded from their latents."""
    step = prefill(s.model, batch=1, prompt=ceil_div(tokens, max(s.ep // s.tp, 1)), tp=s.tp, ep=s.ep, **s.formats())
    return [op for op in step.ops if _is(op, ("attn.kv_b",))]


def _kinds(s: Shape) -> dict[str, Any]:
    """How attention is asked for."""
    return {**s.formats(), "tp": s.tp, "ep": s.ep, "page": s.block_tokens}


def _estimated(s: Shape, ops: list[Op]) -> tuple[OpCost, ...]:
    return estimate(Workload("part", tuple(ops)), s.chip, s.fidelity).ops if ops else ()


# -- axes --------------------------------------------------------------------------------------------------------


def _ends(nodes: Ints) -> Ints:
    """First and last integer of every interval between nodes."""
    return np.stack([nodes[:-1], nodes[1:] - 1], axis=-1)


def _dense(part: _Part, c: Constants, high: int) -> Floats:
    """Seconds and joules at 0 ... ``high``, linear between nodes; nothing costs nothing."""
    at, pairs = np.arange(high + 1), part.pairs(c)
    dense = np.stack([np.interp(at, part.nodes, column) for column in pairs.T], axis=-1)
    dense[0] = 0.0
    return dense


def _extended(part: _Part, c: Constants) -> Floats:
    """Nodes with their seconds and joules, from nothing to one far away: many prompts may be expanded in one step.

    Beyond the last node the growth is that of the last octave.
    """
    pairs, last = part.pairs(c), part.nodes[-1]
    half = int(np.searchsorted(part.nodes, last // 2))
    slope = (pairs[-1] - pairs[half]) / max(last - part.nodes[half], 1)
    far = last << _OCTAVES_BEYOND
    rows = np.column_stack([part.nodes, pairs])
    return np.vstack([np.zeros(3), rows, [far, *(pairs[-1] + (far - last) * slope)]])


_OCTAVES_BEYOND = 16


_PRICED: list[StepTimes] = []  # descriptions of chips compare, but have no hash
_KEPT = 32  # as many as a choice of placements weighs


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
