"""Single precision matrix product, ``gemm``, and its variants.

The variants differ in speed and rounding only; each is within the bound that ``golden`` proves.
``ref`` accumulates in float64. The ``c-*`` variants are one C driver with a micro-kernel per
instruction set (csrc/gemm).
"""

from __future__ import annotations

import numpy as np

from npukernels import native
from npukernels.arguments import Array, checked_output, matrix, new_output, operand, thread_count
from npukernels.registry import kernel, select
from npusim.errors import InputError, Problem


def gemm(
    a: Array,
    b: Array,
    *,
    out: Array | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Array:
    """Matrix product ``C[i, j] = sum over p of A[i, p] B[p, j]``.

    Args:
        a: float32, shape (m, k), any strides.
        b: float32, shape (k, n), any strides.
        out: float32, shape (m, n), any strides; it must not share memory with ``a`` or ``b``.
        variant: one of ``variants("gemm")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result has the same bits for any number (``ref``
            leaves threading to NumPy).

    Returns:
        ``out``, or a new C-contiguous array. With k = 0 it is zero.

    Raises:
        InputError: bad dtype, shape or ``out``, or a variant that does not exist or cannot run here.
    """
    a, b = matrix(a, "a"), matrix(b, "b")
    if a.shape[1] != b.shape[0]:
        raise InputError(
            Problem(f"a {a.shape} and b {b.shape} do not match", "b", allowed=f"b of shape ({a.shape[1]}, n)")
        )
    run = select("gemm", variant).run
    threads = thread_count(threads)
    shape = (a.shape[0], b.shape[1])
    result = new_output(*shape) if out is None else checked_output(out, shape, a, b)
    run(a, b, result, threads)
    return result


@kernel("gemm", "ref")
def _ref(a: Array, b: Array, out: Array, threads: int) -> None:
    """``C = fl32(A B)`` with the product in float64, rounded once."""
    if not out.size:
        return
    try:
        with np.errstate(all="ignore"):
            out[...] = a.astype(np.float64) @ b.astype(np.float64)
    except MemoryError:
        raise InputError(f"no memory for float64 copies of {a.shape} and {b.shape}") from None


@kernel("gemm", "c-generic", requires={"native"})
def _generic(a: Array, b: Array, out: Array, threads: int) -> None:
    """Portable C11, 4 x 8 tile."""
    _sgemm("NPK_GENERIC", a, b, out, threads)


@kernel("gemm", "c-avx2", requires={"native", "avx2", "fma"})
def _avx2(a: Array, b: Array, out: Array, threads: int) -> None:
    """6 x 16 tile of fused multiply-adds."""
    _sgemm("NPK_AVX2", a, b, out, threads)


@kernel("gemm", "c-avx512", requires={"native", "avx512f"})
def _avx512(a: Array, b: Array, out: Array, threads: int) -> None:
    """14 x 32 tile of fused multiply-adds."""
    _sgemm("NPK_AVX512", a, b, out, threads)


def _sgemm(isa: str, a: Array, b: Array, out: Array, threads: int) -> None:
    lib = native.require_native().lib
    m, k = a.shape
    n = b.shape[1]
    status = lib.npk_sgemm(getattr(lib, isa), m, n, k, *operand(a), *operand(b), *operand(out), threads)
    if status:
        native.raise_for_status(status, f"gemm {a.shape} x {b.shape}")
