"""Steps whose operators are priced by calibration documents: what those add to the tables of the chip file alone.

What depends on a step's tokens is priced by documents at nodes of their own, linear between them: intervals are halved
until their middles are within ``TOLERANCE``. Attention of decodes keeps the fine structure of its table, and the
difference between documents and chip file is priced at fewer nodes and added. Attention of prompts has one factor
instead, the mean ratio over a grid of lengths: it is a small part of a step, and its axes are not the table's alone.
Exchanges between chips and sequences also take host time that no kernel shows (``Constants.exchange_s``,
``sequence_s``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from npusim.calibration import State
from npusim.cost import estimate
from npusim.cost.result import Cost, OpCost
from npusim.llm import decode, prefill
from npusim.workload import Op, Workload

if TYPE_CHECKING:
    from npusim.serving.steps import Constants, Shape, StepTable

EXACT, EDGE, COARSE = 32, 32, 128  # tokens: all nodes up to the first, then both sides of multiples
TOLERANCE = 0.004  # of the documented time, in the middle of an interval between nodes
_GRID_NEW, _GRID_PAST = (128, 512, 2048, 8192), (0, 1024, 8192)
Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which calibration documents price the operators of steps.

    Args:
        calibration: as for ``estimate``: ``auto``, a file, a folder, or the name of a document.
        software: whose kernels; empty: no document prices most of a step, the chip file alone speaks.
        state: how far documents and constants had to reach.
        program: the serving program whose host time is in the constants.
        error_pct: mean absolute error of throughput of measured runs in that state; None where none were scored.
    """

    calibration: str
    software: str
    state: State = "uncalibrated"
    program: str = ""
    error_pct: float | None = None


def typical_step(shape: Shape, sequences: int = 64, context: int = 1024) -> Workload:
    """A decode step, by which a stack of kernels is chosen and judged."""
    inside = min(context, shape.max_context)
    kinds: dict[str, Any] = {**shape.formats(), "tp": shape.tp, "ep": shape.ep}
    return decode(shape.model, batch=sequences, context=inside, **kinds)


def nodes_of(high: int) -> Array:
    """Nodes from 1 to ``high`` of an axis of tokens."""
    fine = np.arange(0, min(high, 1024) + EDGE, EDGE)
    coarse = np.arange(1024, high + COARSE, COARSE)
    both = np.concatenate([fine, coarse])[:, None] + [0, 1]
    return np.unique(np.clip(np.append(both, np.arange(1, EXACT + 1)), 1, high))


def _seconds(cost: OpCost, c: Constants, more: float) -> Any:
    """Time of an operator under the constants; without any, what ``estimate`` says."""
    slowest: Any = 0.0
    for name, busy in cost.seconds.items():
        if name != "overhead":
            share = c.memory if name == "dram" else 1.0 if name == "link" else c.compute
            slowest = np.maximum(slowest, np.asarray(busy) / (share * more))
    return slowest + cost.seconds.get("overhead", 0.0)


def _priced(ops: list[Op], shape: Shape, kernels: Kernels | None) -> Cost:
    named: dict[str, Any] = {}
    if kernels is not None:
        named = {"calibration": kernels.calibration, "software": kernels.software}
    return estimate(Workload("part", tuple(ops)), shape.chip, shape.fidelity, **named)


def operator_seconds(work: Workload, shape: Shape, c: Constants) -> list[tuple[OpCost, float]]:
    """The operators of one step, and the seconds each takes by the documents, or else the chip file, all repetitions
    together.
    """
    kernels = c.kernels if c.kernels is not None and c.kernels.software else None
    ops = _priced(list(work.ops), shape, kernels).ops
    return [(op, float(_seconds(op, c, c.attention if op.op.kind == "attention" else 1.0))) for op in ops]


def _both(ops: list[Op], shape: Shape, c: Constants, more: float = 1.0) -> tuple[Any, Any]:
    """Seconds by the documents, and by the chip file alone."""
    found = []
    for kernels in (c.kernels, None):
        priced = _priced(ops, shape, kernels)
        found.append(sum(_seconds(cost, c, more) for cost in priced.ops))
    return found[0], found[1]


def _along(build: Callable[[Shape, Any], list[Op]], high: int, shape: Shape, c: Constants) -> Array:
    """Seconds of the operators of ``build`` by the documents at 0 ... ``high``."""
    if not build(shape, 1):
        return np.zeros(high + 1)

    def price(at: Array) -> Array:
        costs = _priced(build(shape, at), shape, c.kernels).ops
        return np.broadcast_to(np.asarray(sum(_seconds(cost, c, 1.0) for cost in costs)), at.shape)

    nodes = nodes_of(high)
    values, fresh = price(nodes), nodes[:-1]  # first nodes of intervals whose middle was not looked at
    while True:
        left = np.flatnonzero(np.isin(nodes[:-1], fresh) & (np.diff(nodes) > 1))
        if not len(left):
            break
        middles = (nodes[left] + nodes[left + 1]) // 2
        found = price(middles)
        bent = np.abs(found - np.interp(middles, nodes, values)) > TOLERANCE * found
        fresh = np.append(nodes[left[bent]], middles[bent])
        order = np.argsort(np.append(nodes, middles[bent]))
        nodes = np.append(nodes, middles[bent])[order]
        values = np.append(values, found[bent])[order]
    dense: Array = np.interp(np.arange(high + 1), np.append(0, nodes), np.append(0.0, values))
    return dense


def _attention(step: Workload) -> list[Op]:
    return [op for op in step.ops if op.kind == "attention"]


def _decodes(shape: Shape, c: Constants, table: StepTable) -> Array:
    """What documents add to a decode's share, by sequences, intervals of past tokens and their ends."""
    from npusim.serving.steps import FINE, node_values

    most, intervals = len(table.decode) - 1, table.decode.shape[1]
    ends = node_values(shape.max_context + shape.draft_tokens, FINE)
    past = np.maximum(np.stack([ends[:-1], ends[1:] - 1], axis=-1) - shape.draft_tokens, 0)[:intervals]
    some = np.unique(np.append(np.arange(1, min(most, 8) + 1), np.geomspace(1, most, 40).astype(np.int64)))
    kinds: dict[str, Any] = {**shape.formats(), "tp": shape.tp, "ep": shape.ep, "page": shape.block_tokens}
    batch = some[:, None, None]
    if shape.draft_tokens:
        step = prefill(shape.model, batch=batch, prompt=1 + shape.draft_tokens, past=past[None], **kinds)
    else:
        step = decode(shape.model, batch=batch, context=past[None], **kinds)
    documented, alone = _both(_attention(step), shape, c, c.attention)
    shares = np.broadcast_to((documented - alone) / batch, (len(some), *past.shape))
    at = np.arange(most + 1)
    after = np.clip(np.searchsorted(some, at), 1, max(len(some) - 1, 1)) if len(some) > 1 else np.zeros_like(at)
    before = np.maximum(after - 1, 0)
    weight = np.clip((at - some[before]) / np.maximum(some[after] - some[before], 1), 0, 1)[:, None, None]
    added: Array = shares[before] + weight * (shares[after] - shares[before])
    added[0] = 0.0
    return added


_KEPT = 8
_LAST: list[tuple[Any, Any]] = []  # descriptions of chips compare, but have no hash


def _once(what: str, shape: Shape, c: Constants, compute: Callable[[], Any]) -> Any:
    """What was computed for the same engine before, of the last few."""
    key = (what, replace(shape, pp=1), c.kernels, c.compute, c.memory, c.attention)
    for known, found in _LAST:
        if known == key:
            return found
    _LAST.insert(0, (key, compute()))
    del _LAST[_KEPT:]
    return _LAST[0][1]


def _parts(shape: Shape, c: Constants, table: StepTable) -> tuple[Array, Array, Array]:
    """``common`` and ``head`` by documents, and what those add to ``decode``."""
    from npusim.serving.steps import _common_ops, _head_ops

    common, head = (
        _along(build, len(part) - 1, shape, c) for build, part in ((_common_ops, table.common), (_head_ops, table.head))
    )
    return common, head, _decodes(shape, c, table)


def of_prompts(shape: Shape, c: Constants) -> Constants:
    """The constants with which attention of prompts takes as long as by the documents, in the geometric mean."""
    if c.kernels is None or not c.kernels.software:
        return c
    ratio = _once("prompts", shape, c, lambda: _prompt_ratio(shape, c))
    return replace(c, attention=c.attention / ratio)


def _prompt_ratio(shape: Shape, c: Constants) -> float:
    """Time of prompts' attention by documents over that of the chip file, in the geometric mean."""
    new = np.unique(np.minimum(_GRID_NEW, shape.max_tokens))[:, None]
    past = np.unique(np.minimum(_GRID_PAST, max(shape.max_context - 1, 0)))[None, :]
    kinds: dict[str, Any] = {**shape.formats(), "tp": shape.tp, "ep": shape.ep, "page": shape.block_tokens}
    ops = _attention(prefill(shape.model, batch=1, prompt=new, past=past, **kinds))
    documented, alone = _both(ops, shape, c, c.attention)
    return float(np.exp(np.mean(np.log(np.asarray(documented) / alone))))


def of_step(table: StepTable, shape: Shape, c: Constants) -> StepTable:
    """The table with what documents and host time per exchange and sequence add.

    Args:
        table: of the chip file alone, without hops between stages.
        shape: the engine.
        c: its constants.
    """
    if c.kernels is not None and c.kernels.software:
        common, head, added = _once("parts", shape, c, lambda: _parts(shape, c, table))
        parts = {"common": common, "head": head, "decode": np.maximum(table.decode[..., 0] + added, 0.0)}
        for name, seconds in parts.items():
            part = getattr(table, name).copy()
            part[..., 0] = seconds
            table = replace(table, **{name: part})
    if c.sequence_s:
        head = table.head.copy()
        head[:, 0] += c.sequence_s * np.arange(len(head))
        table = replace(table, head=head)
    if c.exchange_s and shape.tp > 1:
        count = sum(op.count for op in typical_step(shape, 1).ops if op.kind == "collective")
        table = replace(table, host_s=table.host_s + count * (shape.tp - 1) * c.exchange_s)
    return table
