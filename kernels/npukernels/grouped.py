"""``grouped_gemm``: the rows of every group times the matrix of that group, as in mixture-of-experts layers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from npukernels.arguments import Array, array, output, thread_count
from npukernels.matmul import gemm
from npukernels.registry import kernel, select
from npusim.errors import InputError, Problem


def grouped_gemm(
    x: Array,
    w: Array,
    offsets: Any,
    *,
    out: Array | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Array:
    """``out[i] = X[i] W[e]`` for the rows ``offsets[e] <= i < offsets[e + 1]`` of expert e.

    Args:
        x: float32, (rows, k), rows sorted by expert.
        w: float32, (experts, k, n), any strides.
        offsets: integers, (experts + 1,), from 0 to rows, never falling; an expert may have no row.
        out: float32, C-contiguous, (rows, n), apart from the inputs.
        variant: one of ``variants("grouped_gemm")``.
        threads: 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array. Every row has the bits that ``gemm`` gives it.

    Raises:
        InputError: bad dtype, shape, offsets or ``out``.
    """
    x, w = array(x, "x", ("float32",), (2,)), array(w, "w", ("float32",), (3,))
    if x.shape[1] != w.shape[1]:
        raise InputError(
            Problem(f"x {x.shape} and w {w.shape} do not match", "w", allowed=f"(experts, {x.shape[1]}, n)")
        )
    ends = np.asarray(offsets)
    whole = ends.dtype.kind in "iu" and ends.shape == (w.shape[0] + 1,)
    if not whole or ends[0] != 0 or ends[-1] != x.shape[0] or (np.diff(ends.astype(np.int64)) < 0).any():
        raise InputError(
            Problem(
                "offsets are not the first rows of the experts",
                "offsets",
                allowed=f"{w.shape[0] + 1} integers from 0 to {x.shape[0]}, never falling",
            )
        )
    result = output(out, (x.shape[0], w.shape[2]), "float32", x, w)
    select("grouped_gemm", variant).run(x, w, ends.tolist(), result, thread_count(threads))
    return result


def _register(variant: str, requires: set[str]) -> None:
    @kernel("grouped_gemm", variant, requires=requires)
    def _run(x: Array, w: Array, offsets: list[int], out: Array, threads: int) -> None:
        for expert, (start, end) in enumerate(itertools.pairwise(offsets)):
            if start < end:
                gemm(x[start:end], w[expert], out=out[start:end], variant=variant, threads=threads)


_register("ref", set())
_register("numba", set())
_register("c-generic", {"native"})
_register("c-avx2", {"native", "avx2", "fma", "f16c"})
_register("c-avx512", {"native", "avx512f", "f16c"})
