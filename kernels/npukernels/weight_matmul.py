"""Float activations times quantised weights, ``weight_gemm`` (W8A16, W4A16, W4A32; W4A8 on request).

``Y = X W + bias`` with ``W[p, j] = scale[g, j] (q[p, j] - zero[g, j])``, ``g = p // group``.

``compute="fp32"``, up to 3 rows: the sum over each chunk (at most 128 k, within a group) of ``x (q - zero)`` starts
from zero in binary32, and ``y = y + sum * scale``, chunks ascending; ``q - zero`` is exact. More rows are ``gemm`` of x
and of W rounded to binary32. ``compute="int8"``: every row of x is
first rounded to 8 bits by groups, ``x ~ s round(x / s)`` with ``s = max |x| / 127`` over the group; sums of a group
are then exact integers, and ``y = fl(y + fl(fl(sum) * fl(scale s)))``, groups ascending, in every variant.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import array, contiguous, output, thread_count
from npukernels.registry import kernel, select
from npukernels.shortcuts import Call, Shortcut, checked_call
from npukernels.weights import PackedWeight, by_group, integers, unpack_weight
from npusim.errors import InputError, Problem, unknown_name

Float32: TypeAlias = npt.NDArray[np.float32]

COMPUTE = ("fp32", "int8")
_SHORTCUT = Shortcut(arrays=6, options=7, written=(5,))
_VNNI = {"native", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"}


def weight_gemm(
    x: npt.NDArray[Any],
    weight: PackedWeight,
    *,
    bias: Float32 | None = None,
    compute: str = "fp32",
    out: Float32 | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Float32:
    """Product of activations and packed weights; the module text has the equations.

    Args:
        x: float32, float16 or bf16 codes (uint16), shape (m, k); 16-bit inputs are converted exactly.
        weight: from ``prepack_weight``.
        bias: float32, shape (n,).
        compute: ``fp32``, or ``int8`` to round x to 8 bits as well (4-bit weights, groups of a multiple of 32).
        out: C-contiguous float32, shape (m, n), that shares no memory with ``x``.
        variant: one of ``variants("weight_gemm")`` or, for ``int8``, of ``variants("weight_gemm_int8")``.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape or mode, or a variant that does not exist or cannot run here.
    """
    if not isinstance(weight, PackedWeight):
        raise InputError(Problem(f"weight is a {type(weight).__name__}", "weight", hint="use prepack_weight"))
    given = x, weight.codes, weight.scale, weight.zero, bias, out, *weight.sizes, compute, variant, threads
    if (done := _SHORTCUT.run(*given)) is not None:
        return done
    if compute not in COMPUTE:
        raise unknown_name("compute", str(compute), COMPUTE, "compute")
    values = activations(x)
    if values.shape[1] != weight.k:
        raise InputError(Problem(f"x has {values.shape[1]} columns", "x", allowed=f"x of shape (m, {weight.k})"))
    if compute == "int8" and (weight.bits != 4 or weight.group % 32 or weight.group > 2**16):
        allowed = "4-bit weights in groups of a multiple of 32, up to 65536"
        raise InputError(Problem(f"int8 does not fit {weight.bits} bits, group {weight.group}", "compute", allowed))
    if bias is not None:
        bias = contiguous(array(bias, "bias", ("float32",), (1,)))
        if bias.shape != (weight.n,):
            raise InputError(Problem(f"bias has shape {bias.shape}", "bias", allowed=f"({weight.n},)"))
    chosen = select("weight_gemm" if compute == "fp32" else "weight_gemm_int8", variant)
    threads = thread_count(threads)
    held = (x, weight.codes, weight.scale) if bias is None else (x, weight.codes, weight.scale, bias)
    result: Float32 = output(out, (values.shape[0], weight.n), "float32", *held)
    _SHORTCUT.keep(given, chosen.run(values, weight, bias, result, threads), result)
    return result


def activations(x: Any) -> Float32:
    """``x`` as C-contiguous float32, from float32, float16 or bf16 codes; exact."""
    x = array(x, "x", ("float32", "float16", "uint16", "bfloat16"), (2,))
    if x.dtype == np.float32:
        return contiguous(x)
    if x.dtype == np.float16:
        converted: Float32 = x.astype(np.float32, order="C")
        return converted
    codes = np.ascontiguousarray(x).view(np.uint16)
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


@kernel("weight_gemm", "ref")
def _ref(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> None:
    """``Y = fl32(X W + bias)`` in float64, rounded once."""
    with np.errstate(all="ignore"):
        out[...] = x.astype(np.float64) @ unpack_weight(weight) + (0.0 if bias is None else bias)


@kernel("weight_gemm", "c-generic", requires={"native"})
def _generic(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> Call:
    """Portable C11."""
    return _run("npk_wgemm", "NPK_GENERIC", (weight.bits,), x, weight, bias, out, threads)


@kernel("weight_gemm", "c-avx2", requires={"native", "avx2", "fma"})
def _avx2(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> Call:
    """Up to three rows decode weights in registers, more are a product that decodes as it packs; 6 x 16."""
    return _run("npk_wgemm", "NPK_AVX2", (weight.bits,), x, weight, bias, out, threads)


@kernel("weight_gemm", "c-avx512", requires={"native", "avx512f"})
def _avx512(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> Call:
    """The same, 14 x 32."""
    return _run("npk_wgemm", "NPK_AVX512", (weight.bits,), x, weight, bias, out, threads)


@kernel("weight_gemm_int8", "ref")
def _int8_ref(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> None:
    """The equations of the module text, operation by operation."""
    total = np.zeros(out.shape, np.float32)
    q = integers(weight)
    scale = by_group(weight.scale, weight.n)
    for g in range(weight.groups):
        part = slice(g * weight.group, (g + 1) * weight.group)
        codes, step = round_rows(x[:, part])
        sums = (codes @ q[part]).astype(np.float32)
        with np.errstate(all="ignore"):
            total = total + sums * (step[:, None] * scale[g])
    out[...] = total if bias is None else total + bias


@kernel("weight_gemm_int8", "c-generic", requires={"native"})
def _int8_generic(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> Call:
    """Portable C11."""
    return _run("npk_wgemm_int8", "NPK_GENERIC", (), x, weight, bias, out, threads)


@kernel("weight_gemm_int8", "c-avx2", requires={"native", "avx2"})
def _int8_avx2(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> Call:
    """vpmaddubsw of nibbles and codes, 32 k in 16 bits, which cannot overflow; 4 x 16."""
    return _run("npk_wgemm_int8", "NPK_AVX2", (), x, weight, bias, out, threads)


@kernel("weight_gemm_int8", "c-vnni", requires=_VNNI)
def _int8_vnni(x: Float32, weight: PackedWeight, bias: Float32 | None, out: Float32, threads: int) -> Call:
    """vpdpbusd of nibbles and codes, 12 x 16."""
    return _run("npk_wgemm_int8", "NPK_AVX512", (), x, weight, bias, out, threads)


def round_rows(x: Float32) -> tuple[npt.NDArray[np.float64], Float32]:
    """Integers and scales of rows rounded to 8 bits: ``x ~ codes * scale[:, None]``."""
    with np.errstate(all="ignore"):
        largest = np.fmax.reduce(np.abs(x), axis=1, initial=np.float32(0))
        useful = largest >= np.float32(2.0**-120)
        inverse = np.where(useful, np.float32(127) / largest, np.float32(0)).astype(np.float32)
        codes = np.clip(np.nan_to_num(np.rint(x * inverse[:, None])), -127, 127)
        scale = np.where(useful, largest / np.float32(127), np.float32(0)).astype(np.float32)
    scale[~np.isfinite(x).all(axis=1)] = np.nan
    return codes.astype(np.float64), scale


def _run(
    function: str,
    isa: str,
    extra: tuple[int, ...],
    x: Float32,
    weight: PackedWeight,
    bias: Float32 | None,
    out: Float32,
    threads: int,
) -> Call:
    return checked_call(
        "weight_gemm", function, native.constant(isa), *extra, x.shape[0], weight.n, weight.k, weight.group, x,
        weight.codes, weight.scale, weight.zero, bias, out, threads,
    )  # fmt: skip
