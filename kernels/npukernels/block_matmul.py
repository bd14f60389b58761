"""Block-scaled matrix product, ``block_gemm``: fp8 x fp8, MX and NVFP4 emulated in float32.

With D = decoded elements and ``g = p // block``:

``C[i, j] = alpha * sum over g of a_scale[i, g] b_scale[g, j] * (sum over p in g of D(A)[i, p] D(B)[p, j])``

Products of two 8-bit or narrower floats are exact in binary32. The compiled variants sum each chunk (at most 128 k,
within a block) from zero, then ``c = c + sum * fl(b_scale a_scale)``, chunks ascending, and multiply by ``alpha``
last. ``ref`` computes in float64 and rounds once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import array, contiguous, output, thread_count
from npukernels.formats import FloatFormat, as_codes, decode, get_format
from npukernels.registry import kernel, select
from npukernels.rowargs import INSTRUCTION_SETS
from npukernels.shortcuts import Call, Held, Shortcut, checked_call
from npusim.errors import InputError, Problem

_SHORTCUT = Shortcut(arrays=5, options=8, written=(4,))

# Scales that C reads as they are stored, by the name of their format.
_SCALE_KINDS = {None: "NPK_SCALE_FLOAT", "e8m0": "NPK_SCALE_E8M0", "fp8": "NPK_SCALE_FP8"}

Float32: TypeAlias = npt.NDArray[np.float32]


class BlockProduct(NamedTuple):
    """A product as the kernels take it, the arguments of ``block_gemm``."""

    a: npt.NDArray[Any]  # codes, C-contiguous, (m, k)
    b: npt.NDArray[Any]  # (k, n)
    a_scale: npt.NDArray[Any]  # a view of shape (m, blocks)
    b_scale: npt.NDArray[Any]  # (blocks, ceil(n / columns))
    fmt: str
    b_fmt: str
    scale_fmt: str | None
    block: int
    columns: int
    alpha: float


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
    given = a, b, a_scale, b_scale, out, fmt, b_fmt, scale_fmt, block, columns, alpha, variant, threads
    if (done := _SHORTCUT.run(*given)) is not None:
        return done
    (left, fmt), (right, b_fmt) = _codes(a, "a", fmt), _codes(b, "b", fmt if b_fmt is None else b_fmt)
    (m, k), (rows, n) = left.shape, right.shape
    if rows != k:
        raise InputError(Problem(f"b has {rows} rows, a has {k} columns", "b", allowed=f"b of shape ({k}, n)"))
    block, columns = _count(block, "block"), _count(columns, "columns")
    blocks = math.ceil(k / block)
    x_scale, kind = _scales(a_scale, "a_scale", scale_fmt, (m, blocks))
    w_scale, kind = _scales(b_scale, "b_scale", scale_fmt, (blocks, math.ceil(n / columns)))
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.floating)):
        raise InputError(Problem(f"alpha is {alpha!r}"[:100], "alpha", allowed="a number"))
    chosen = select("block_gemm", variant)
    threads = thread_count(threads)
    result: Float32 = output(out, (m, n), "float32", *given[:4])
    product = BlockProduct(left, right, x_scale, w_scale, fmt, b_fmt, kind, block, columns, float(alpha))
    _SHORTCUT.keep(given, chosen.run(product, result, threads), result)
    return result


@kernel("block_gemm", "ref")
def _ref(p: BlockProduct, out: Float32, threads: int) -> None:
    """``C = fl32(alpha (A a_scale) (B b_scale))`` in float64: ``a_scale b_scale`` of a block is common to it."""
    a_scale, b_scale = (x if p.scale_fmt is None else decode(x, p.scale_fmt) for x in (p.a_scale, p.b_scale))
    group, column = np.arange(p.a.shape[1]) // p.block, np.arange(p.b.shape[1]) // p.columns
    with np.errstate(all="ignore"):
        left = decode(p.a, p.fmt).astype(np.float64) * a_scale[:, group]
        right = decode(p.b, p.b_fmt).astype(np.float64) * b_scale[group][:, column]
        out[...] = p.alpha * (left @ right)


@kernel("block_gemm", "c-generic", requires={"native"})
def _generic(*product: Any) -> Call:
    """Portable C11."""
    return _run("c-generic", *product)


@kernel("block_gemm", "c-avx2", requires={"native", "avx2", "fma"})
def _avx2(*product: Any) -> Call:
    """6 x 16 tile of fused multiply-adds."""
    return _run("c-avx2", *product)


@kernel("block_gemm", "c-avx512", requires={"native", "avx512f"})
def _avx512(*product: Any) -> Call:
    """14 x 16 tile of fused multiply-adds."""
    return _run("c-avx512", *product)


def _run(variant: str, p: BlockProduct, out: Float32, threads: int) -> Call:
    formats = [native.constant(f"NPK_FMT_{name.upper()}") for name in (p.fmt, p.b_fmt)]
    steps = [step // x.itemsize for x in (p.a_scale, p.b_scale) for step in x.strides]
    kind = native.constant(_SCALE_KINDS[p.scale_fmt])
    rule = native.require_native().ffi.new(
        "npk_block_rule *", (*formats, kind, p.block, p.columns, *steps, p.alpha)
    )  # fmt: skip
    isa = native.constant(INSTRUCTION_SETS[variant][0])
    sizes = (p.a.shape[0], p.b.shape[1], p.a.shape[1])
    scales = p.a_scale, p.b_scale
    return checked_call("block_gemm", "npk_block_gemm", isa, Held(rule), *sizes, p.a, p.b, *scales, out, threads)


def _codes(codes: Any, name: str, fmt: str) -> tuple[npt.NDArray[Any], str]:
    """Codes as C reads them, and their format; integers, which it does not know, are exact in fp16."""
    if not isinstance(codes, np.ndarray) or codes.ndim != 2:
        raise InputError(Problem(f"{name} is not a matrix of codes", name, allowed="a 2-D NumPy array"))
    f = get_format(fmt)
    stored = contiguous(as_codes(codes, f))
    return (stored, f.name) if isinstance(f, FloatFormat) else (decode(stored, fmt).astype(np.float16), "fp16")


def _scales(scale: Any, name: str, fmt: str | None, shape: tuple[int, int]) -> tuple[npt.NDArray[Any], str | None]:
    """Scales as C reads them, seen in their full shape, and their format; None for float32."""
    if fmt is None:
        values = array(scale, name, ("float32",))
    elif not isinstance(scale, np.ndarray):
        raise InputError(Problem(f"{name} is not an array of codes", name, allowed="a NumPy array"))
    else:
        fmt = get_format(fmt).name
        values = as_codes(scale, get_format(fmt)) if fmt in _SCALE_KINDS else decode(scale, fmt)
    if not values.flags.aligned or any(step % values.itemsize for step in values.strides):
        values = values.copy()
    try:
        return np.broadcast_to(values, shape), fmt if fmt in _SCALE_KINDS else None
    except ValueError:
        raise InputError(Problem(f"{name} has shape {values.shape}", name, allowed=f"{shape}")) from None


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 < value < 2**40:
        raise InputError(Problem(f"{name} is {value!r}"[:100], name, allowed="a positive integer"))
    return int(value)
