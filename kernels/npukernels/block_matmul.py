"""Block-scaled matrix product, ``block_gemm``: fp8 x fp8, MX and NVFP4 emulated in float32.

With D = decoded elements and ``g = p // block``:

``C[i, j] = alpha * sum over g of a_scale[i, g] b_scale[g, j] * (sum over p in g of D(A)[i, p] D(B)[p, j])``

Products of two 8-bit or narrower floats are exact in binary32. The compiled variants sum each chunk (at most 128 k,
within a block) from zero, then ``c = c + sum * fl(b_scale a_scale)``, chunks ascending, and multiply by ``alpha``
last. ``ref`` computes in float64 and rounds once.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import array, output, pointer, thread_count
from npukernels.formats import decode
from npukernels.registry import kernel, select
from npusim.errors import InputError, Problem

Float32: TypeAlias = npt.NDArray[np.float32]


def block_gemm(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    a_scale: npt.NDArray[Any],
    b_scale: npt.NDArray[Any],
    *,
    fmt: str = "fp8",
    b_fmt: str | None = None,
    scale_fmt: str | None = None,
    block: int = 32,
    columns: int = 1,
    alpha: float = 1.0,
    out: Float32 | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Float32:
    """Product of two matrices of narrow floats with one scale a block; the module text has the equation.

    Args:
        a: codes of ``fmt``, one element each, shape (m, k).
        b: codes of ``b_fmt``, shape (k, n).
        a_scale: shape (m, blocks), or one that broadcasts to it, e.g. (1, 1) for a scale of the whole tensor.
        b_scale: shape (blocks, ceil(n / columns)), or one that broadcasts to it.
        fmt: format of ``a``, a name of ``npukernels.formats``.
        b_fmt: format of ``b``; by default that of ``a``.
        scale_fmt: ``e8m0`` (MX) or ``fp8`` (NVFP4) when scales are codes; by default they are float32.
        block: k that share a scale: 32 in MX, 16 in NVFP4, 128 in fp8 training recipes.
        columns: columns of ``b`` that share a scale: 128 with ``block=128`` gives scales of 128 x 128 tiles.
        alpha: scale of the whole result, such as the product of NVFP4's tensor scales.
        out: C-contiguous float32, shape (m, n), that shares no memory with the inputs.
        variant: one of ``variants("block_gemm")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Raises:
        InputError: bad dtype, shape, format or block, or a variant that does not exist or cannot run here.
    """
    given = (a, b, a_scale, b_scale)
    left, right = _decoded(a, "a", fmt), _decoded(b, "b", fmt if b_fmt is None else b_fmt)
    (m, k), (rows, n) = left.shape, right.shape
    if rows != k:
        raise InputError(Problem(f"b has {rows} rows, a has {k} columns", "b", allowed=f"b of shape ({k}, n)"))
    block, columns = _count(block, "block"), _count(columns, "columns")
    blocks = math.ceil(k / block)
    a_scale = _scales(a_scale, "a_scale", scale_fmt, (m, blocks))
    tiles = _scales(b_scale, "b_scale", scale_fmt, (blocks, math.ceil(n / columns)))
    b_scale = np.ascontiguousarray(tiles[:, np.arange(n) // columns])
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.floating)):
        raise InputError(Problem(f"alpha is {alpha!r}"[:100], "alpha", allowed="a number"))
    run = select("block_gemm", variant).run
    threads = thread_count(threads)
    result: Float32 = output(out, (m, n), "float32", *given)
    run(left, right, a_scale, b_scale, block, float(alpha), result, threads)
    return result


@kernel("block_gemm", "ref")
def _ref(
    a: Float32, b: Float32, a_scale: Float32, b_scale: Float32, block: int, alpha: float, out: Float32, threads: int
) -> None:
    """``C = fl32(alpha (A a_scale) (B b_scale))`` in float64: ``a_scale b_scale`` of a block is common to it."""
    group = np.arange(a.shape[1]) // block
    with np.errstate(all="ignore"):
        left = a.astype(np.float64) * a_scale[:, group]
        right = b.astype(np.float64) * b_scale[group]
        out[...] = alpha * (left @ right)


@kernel("block_gemm", "c-generic", requires={"native"})
def _generic(*call: Any) -> None:
    """Portable C11."""
    _run("NPK_GENERIC", *call)


@kernel("block_gemm", "c-avx2", requires={"native", "avx2", "fma"})
def _avx2(*call: Any) -> None:
    """6 x 16 tile of fused multiply-adds."""
    _run("NPK_AVX2", *call)


@kernel("block_gemm", "c-avx512", requires={"native", "avx512f"})
def _avx512(*call: Any) -> None:
    """14 x 16 tile of fused multiply-adds."""
    _run("NPK_AVX512", *call)


def _run(
    isa: str,
    a: Float32,
    b: Float32,
    a_scale: Float32,
    b_scale: Float32,
    block: int,
    alpha: float,
    out: Float32,
    threads: int,
) -> None:
    lib = native.require_native().lib
    (m, k), n = a.shape, b.shape[1]
    operands = (pointer(x) for x in (a, b, a_scale, b_scale, out))
    status = lib.npk_block_gemm(getattr(lib, isa), m, n, k, block, *operands, threads)
    native.raise_for_status(status, f"block_gemm {a.shape} x {b.shape}")
    if alpha != 1.0:
        with np.errstate(all="ignore"):
            np.multiply(out, np.float32(alpha), out=out)


def _decoded(codes: Any, name: str, fmt: str) -> Float32:
    if not isinstance(codes, np.ndarray) or codes.ndim != 2:
        raise InputError(Problem(f"{name} is not a matrix of codes", name, allowed="a 2-D NumPy array"))
    return np.ascontiguousarray(decode(codes, fmt))


def _scales(scale: Any, name: str, fmt: str | None, shape: tuple[int, int]) -> Float32:
    if fmt is None:
        values = array(scale, name, ("float32",))
    elif not isinstance(scale, np.ndarray):
        raise InputError(Problem(f"{name} is not an array of codes", name, allowed="a NumPy array"))
    else:
        values = decode(scale, fmt)
    try:
        return np.ascontiguousarray(np.broadcast_to(values, shape))
    except ValueError:
        raise InputError(Problem(f"{name} has shape {values.shape}", name, allowed=f"{shape}")) from None


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 < value < 2**40:
        raise InputError(Problem(f"{name} is {value!r}"[:100], name, allowed="a positive integer"))
    return int(value)
