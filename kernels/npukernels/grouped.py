"""``grouped_gemm``: the rows of every group times the matrix of that group, as in mixture-of-experts layers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import Array, array, contiguous, output, thread_count
from npukernels.matmul import gemm
from npukernels.registry import kernel, select
from npukernels.rowargs import INSTRUCTION_SETS
from npukernels.shortcuts import Call, Shortcut
from npusim.errors import InputError, Problem

_SHORTCUT = Shortcut(arrays=4, options=2, written=(3,))


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
    given = x, w, offsets, out, variant, threads
    if (done := _SHORTCUT.run(*given)) is not None:
        return done
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
    chosen, threads = select("grouped_gemm", variant), thread_count(threads)
    chosen.run(x, w, ends.tolist(), result, threads)
    in_place = w.flags.aligned and not any(step % 4 for step in w.strides)
    if chosen.variant in INSTRUCTION_SETS and ends.dtype == np.int64 and in_place:
        made = _call(chosen.variant, contiguous(x), w, contiguous(ends), result, threads)
        _SHORTCUT.keep(given, made, result)
    return result


def _call(variant: str, x: Array, w: Array, offsets: npt.NDArray[np.int64], out: Array, threads: int) -> Call:
    """What C does for later calls like this one, all groups at once."""
    (groups, k, n), steps = w.shape, [step // 4 for step in w.strides]
    isa = native.constant(INSTRUCTION_SETS[variant][0])
    return Call(0, "npk_grouped_gemm", (isa, groups, x.shape[0], n, k, x, w, *steps, offsets, out, threads))


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
