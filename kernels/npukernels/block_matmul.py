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
from npukernels.arguments import array, contiguous, output, thread_count
from npukernels.formats import FloatFormat, decode, get_format
from npukernels.registry import kernel, select
from npukernels.rowargs import INSTRUCTION_SETS
from npukernels.shortcuts import Call, Held, Shortcut, call
from npusim.errors import InputError, Problem

_SHORTCUT = Shortcut(arrays=5, options=8, written=(4,))

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
    given = a, b, a_scale, b_scale, out, fmt, b_fmt, scale_fmt, block, columns, alpha, variant, threads
    if (done := _SHORTCUT.run(*given)) is not None:
        return done
    left, right = _decoded(a, "a", fmt), _decoded(b, "b", fmt if b_fmt is None else b_fmt)
    (m, k), (rows, n) = left.shape, right.shape
    if rows != k:
        raise InputError(Problem(f"b has {rows} rows, a has {k} columns", "b", allowed=f"b of shape ({k}, n)"))
    block, columns = _count(block, "block"), _count(columns, "columns")
    blocks = math.ceil(k / block)
    shapes = (m, blocks), (blocks, math.ceil(n / columns))
    rows = _scales(a_scale, "a_scale", scale_fmt, shapes[0])
    tiles = _scales(b_scale, "b_scale", scale_fmt, shapes[1])
    cols = np.ascontiguousarray(tiles[:, np.arange(n) // columns])
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.floating)):
        raise InputError(Problem(f"alpha is {alpha!r}"[:100], "alpha", allowed="a number"))
    chosen = select("block_gemm", variant)
    threads = thread_count(threads)
    result: Float32 = output(out, (m, n), "float32", *given[:4])
    chosen.run(left, right, rows, cols, block, float(alpha), result, threads)
    if chosen.variant in INSTRUCTION_SETS:
        _SHORTCUT.keep(given, _codes_call(chosen.variant, given, shapes, (m, n, k), result, threads), result)
    return result


def _codes_call(
    variant: str,
    given: tuple[Any, ...],
    shapes: tuple[tuple[int, int], tuple[int, int]],
    sizes: tuple[int, int, int],
    out: Float32,
    threads: int,
) -> Call | None:
    """What C does for later calls like this one, which decodes too; None where it cannot."""
    a, b, a_scale, b_scale, _, fmt, b_fmt, scale_fmt, block, columns, alpha, *_ = given
    formats = [get_format(fmt), get_format(fmt if b_fmt is None else b_fmt)]
    kind = {None: ("FLOAT", 4), "e8m0": ("E8M0", 1), "fp8": ("FP8", 1)}.get(scale_fmt)
    narrow = all(isinstance(f, FloatFormat) and f.bits <= 8 for f in formats)
    plain = all(x.itemsize == 1 and contiguous(x) is x for x in (a, b))
    if kind is None or not narrow or not plain or {a_scale.itemsize, b_scale.itemsize} != {kind[1]}:
        return None
    steps: list[int] = []
    for x, shape in zip((a_scale, b_scale), shapes, strict=True):
        steps += np.broadcast_to(x, shape).strides
        if not x.flags.aligned:
            return None
    if any(step % kind[1] for step in steps):
        return None
    numbers = [y for f in formats for y in (native.constant(f"NPK_FMT_{f.name.upper()}"), f.bits)]
    rule = (
        *numbers, native.constant(f"NPK_SCALE_{kind[0]}"), int(block), int(columns),
        *(step // kind[1] for step in steps), float(alpha),
    )  # fmt: skip
    held = Held(native.require_native().ffi.new("npk_block_rule *", rule))
    isa = native.constant(INSTRUCTION_SETS[variant][0])
    return Call(0, "npk_block_gemm_codes", (isa, held, *sizes, a, b, a_scale, b_scale, out, threads))


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
    (m, k), n = a.shape, b.shape[1]
    level = native.constant(isa)
    made = call("npk_block_gemm", level, m, n, k, block, a, b, a_scale, b_scale, out, threads)
    native.raise_for_status(made.status, f"block_gemm {a.shape} x {b.shape}")
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
