"""Weights of the next operator, fetched into free on-chip memory while main memory idles.

A chip says with ``dma.prefetch`` that it does so. What an operator leaves of its time on main memory, and of the
memory its cores share, the weights of the matrix product after it may use; that product then finds a share of its
weights on chip. At the boundary of repeated layers nothing is fetched ahead, which errs on the slow side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from npusim.chip import Chip
from npusim.cost import tile
from npusim.cost.roofline import Priced
from npusim.ops import Dim
from npusim.workload import Op


def ahead(op: Op, before: Op, priced: Priced, chip: Chip) -> tuple[Op, Dim]:
    """``op`` with the share of its weights that comes while ``before`` runs, and those bytes.

    Args:
        op: the operator that follows.
        before: the one that runs first.
        priced: what ``before`` takes.
        chip: the hardware.
    """
    weights: Dim = sum(operand.bytes for operand in op.operands if operand.role == "weight")
    if op.kind != "gemm" or op.count != before.count or not np.any(np.asarray(weights) > 0):
        return op, 0.0
    figures = tile.machine(chip)
    idle_s = np.maximum(priced.time_s - priced.seconds["dram"], 0.0)
    in_use = sum(operand.bytes for operand in before.operands if operand.role != "weight")
    room = np.maximum(figures.shared_bytes - in_use, 0.0)
    fetched = np.minimum(np.minimum(idle_s * figures.dram_bytes_per_s, room), weights)
    return replace(op, prefetched=fetched / weights), fetched
