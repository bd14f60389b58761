"""Roofline: per operator, the slowest of its resources, each at its peak.

Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009, extended to every resource of the chip:
matrix engine, vector unit by function class, each on-chip memory level, DRAM and links. Latencies,
overheads and imperfect overlap belong to the other fidelities; here time is work / peak, so every
figure is a bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from npusim.chip import Chip
from npusim.errors import InputError, Problem
from npusim.ops import Dim, Operand, link_bytes
from npusim.workload import Op, Workload


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of an operator asks of one chip.

    Args:
        seconds: time per resource at its peak.
        flops: matrix FLOPs.
        rate: name of the engine rate used; empty without FLOPs.
        dram_bytes: bytes to and from main memory.
        link_bytes: bytes sent to other chips.
    """

    seconds: dict[str, Dim]
    flops: Dim
    rate: str
    dram_bytes: Dim
    link_bytes: Dim


@dataclass(frozen=True, slots=True)
class Priced:
    """One run of an operator: time, busy seconds per resource, main-memory bytes."""

    time_s: Dim
    seconds: dict[str, Dim]
    dram_bytes: Dim


def dram_bytes(op: Op, on_chip_bytes: float) -> Dim:
    """Compulsory main-memory bytes of an operator.

    Weights, KV cache and graph inputs and outputs pass once. A tensor between operators (or one that a
    repeated measurement finds on chip) passes only by what exceeds the on-chip capacity.
    """
    return sum(passing_bytes(op, operand, on_chip_bytes) for operand in op.operands)


def passing_bytes(op: Op, operand: Operand, on_chip_bytes: float) -> Dim:
    """Bytes of one operand that must pass main memory; see ``dram_bytes``."""
    if operand.role != "act" and operand.name not in op.llc:
        waiting = operand.role == "weight" and np.any(np.asarray(op.prefetched) > 0)
        return operand.bytes * (1 - op.prefetched) if waiting else operand.bytes
    excess = operand.bytes - on_chip_bytes
    return np.maximum(excess, 0.0) if isinstance(excess, np.ndarray) else max(excess, 0)


def slowest(seconds: Iterable[Dim]) -> Dim:
    """Elementwise maximum, 0 of nothing."""
    return reduce(np.maximum, seconds, np.float64(0.0))


def work(op: Op, chip: Chip) -> Work:
    """Work of one run of ``op`` on ``chip``. Raises InputError when the chip lacks what the op needs."""
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    flops, sent = op.flops, link_bytes(op)
    # Work without matrix FLOPs needs no matrix rate.
    rate, peak = chip.peak_flops_per_s(op.matrix_format) if np.any(np.asarray(flops) > 0) else ("", math.inf)
    # A collective's buffers are the neighbouring operators' tensors: they stay where they are.
    main = 0 if op.kind == "collective" else dram_bytes(op, chip.sram_bytes)
    seconds: dict[str, Dim] = {"matrix": flops / peak, "dram": main / chip.memory.bandwidth_bytes_per_s}
    vector = _vector_seconds(op, chip)
    if vector is not None:
        seconds["vector"] = vector
    passing = op.bytes()
    for name, level in chip.levels.items():
        bandwidth = chip.level_bandwidth_bytes_per_s(level)
        if bandwidth is not None:
            seconds[name] = passing / bandwidth
    if op.kind == "collective":
        seconds["link"] = sent / _link_bandwidth(chip)
    return Work(seconds, flops, rate, main, sent)


def _vector_seconds(op: Op, chip: Chip) -> Dim | None:
    total: Dim = 0
    for function, ops in op.vector_ops.items():
        rate = chip.vector_ops_per_s(function)
        if rate is None:
            return None
        total = total + ops / rate
    return total


def _link_bandwidth(chip: Chip) -> float:
    if chip.link is None:
        raise InputError(
            Problem(
                f"chip '{chip.name}' describes no link to other chips, so it cannot be one of several",
                "link",
                hint="use tp=1 or give link.bandwidth",
            )
        )
    return chip.link.bandwidth_bytes_per_s


def lower_bound(workload: Workload, works: list[Work]) -> Dim:
    """Seconds no schedule of these operators can beat: the largest, over resources, of the summed work.

    Operators hand whole tensors on; fusing two of them could avoid what a large tensor spills in between.
    """
    totals: dict[str, Dim] = {}
    for op, item in zip(workload.ops, works, strict=True):
        for resource, seconds in item.seconds.items():
            totals[resource] = totals.get(resource, 0) + op.count * seconds
    bound = slowest(totals.values())
    return bound if np.ndim(bound) else float(bound)
