"""Compute cycles and operand accesses of one GEMM on one systolic array, in closed form.

An array of ``rows`` × ``cols`` processes out[M,N] = a[M,K] b[K,N] in folds. What stays in the array names
the dataflow (Samajdar et al., "A systematic methodology for characterizing scalability of DNN accelerators
using SCALE-Sim", ISPASS 2020, section III; the forms agree with every stall-free run of that simulator):

* ``os``, outputs stay: a fold streams K operands through skewed edges, then drains: K + rows + cols − 2.
* ``ws``, weights stay: a fold loads ``rows`` of weights, streams M rows of inputs: M + 2·rows + cols − 2.
* ``is``, inputs stay: as ``ws`` with N in place of M.

SCALE-Sim prints the index of the last cycle, one less than the count that is given here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from npusim.errors import unknown_name
from npusim.ops import Dim
from npusim.workload import dim

# dataflow → (dimension along rows, dimension along columns, dimension that streams, weight of rows in a fold)
_FOLDS: dict[str, tuple[str, str, str, int]] = {
    "os": ("m", "n", "k", 1),
    "ws": ("k", "n", "m", 2),
    "is": ("k", "m", "n", 2),
}


@dataclass(frozen=True, slots=True)
class ArrayRun:
    """One GEMM on one array; integers (exact), or float64 arrays for array dimensions.

    Args:
        cycles: compute cycles, fill and drain of every fold included.
        folds: how often the array is filled.
        a_reads: elements of ``a`` read from the memory beside the array.
        b_reads: elements of ``b`` read.
        out_writes: results and partial sums written.
        utilisation: MACs / (cycles × rows × cols).
    """

    cycles: Dim
    folds: Dim
    a_reads: Dim
    b_reads: Dim
    out_writes: Dim
    utilisation: Dim


def array_run(m: Dim, n: Dim, k: Dim, *, rows: Dim, cols: Dim, dataflow: str = "os") -> ArrayRun:
    """Cycles and accesses of out[m,n] = a[m,k] b[k,n] on a ``rows`` × ``cols`` array.

    Args:
        m: rows of a (integers or integer arrays, which broadcast).
        n: columns of b.
        k: reduction length.
        rows: height of the array.
        cols: width of the array.
        dataflow: ``os``, ``ws`` or ``is``.

    Raises:
        InputError: a dimension out of [1, 2^40] or an unknown dataflow.
    """
    if dataflow not in _FOLDS:
        raise unknown_name("dataflow", dataflow, _FOLDS)
    sizes = {"m": dim("m", m), "n": dim("n", n), "k": dim("k", k)}
    height, width = dim("rows", rows), dim("cols", cols)
    down, across, streamed, row_weight = _FOLDS[dataflow]
    row_folds, col_folds = ceil_div(sizes[down], height), ceil_div(sizes[across], width)
    folds = row_folds * col_folds
    cycles = folds * (sizes[streamed] + row_weight * height + width - 2)
    macs = sizes["m"] * sizes["n"] * sizes["k"]
    # An operand is read again for every fold of the dimension that it does not have.
    fold_of = {down: row_folds, across: col_folds, streamed: 1}
    return ArrayRun(
        cycles=cycles,
        folds=folds,
        a_reads=sizes["m"] * sizes["k"] * fold_of["n"],
        b_reads=sizes["k"] * sizes["n"] * fold_of["m"],
        out_writes=sizes["m"] * sizes["n"] * fold_of["k"],
        utilisation=macs / (cycles * height * width),
    )


def systolic_cycles(m: Dim, n: Dim, k: Dim, *, rows: Dim, cols: Dim, dataflow: str = "os") -> Dim:
    """Compute cycles of one GEMM on one systolic array; see ``array_run``.

    >>> systolic_cycles(128, 128, 128, rows=128, cols=128, dataflow="ws")
    510
    """
    return array_run(m, n, k, rows=rows, cols=cols, dataflow=dataflow).cycles


def ceil_div(x: Dim, y: Dim) -> Dim:
    """⌈x / y⌉, exact for integers of any size and for arrays up to 2^53."""
    return -np.floor_divide(-x, y) if isinstance(x, np.ndarray) or isinstance(y, np.ndarray) else -(-x // y)
