"""Casts between float32 and the codes of narrower floating-point formats, ``cast``.

All variants give the same bits: those of ``formats.encode`` and ``formats.decode``. The ``c-*`` variants are
one template (csrc/formats/codec_simd.h) on vectors of 4, 8 and 16 lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels import formats, native
from npukernels.arguments import array, contiguous, output, thread_count
from npukernels.cases import Case, Draw, frozen, maker
from npukernels.formats import Codes, FloatFormat
from npukernels.registry import kernel, select
from npukernels.shortcuts import Call, Shortcut, call
from npusim.errors import InputError, Problem

_CAST = Shortcut(arrays=2, options=5, written=(1,))

CASTS = tuple(name for name, f in formats.FORMATS.items() if isinstance(f, FloatFormat))

# What an array of another library calls the formats; the names are those of ml_dtypes.
_DTYPE_NAMES = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8_e5m2",
    "float6_e2m3fn": "fp6",
    "float6_e3m2fn": "fp6_e3m2",
    "float4_e2m1fn": "fp4",
}


def cast(
    x: npt.NDArray[Any],
    to: str,
    *,
    source: str | None = None,
    saturate: bool | None = None,
    out: npt.NDArray[Any] | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> npt.NDArray[Any]:
    """Converts between number formats, rounding to nearest, ties to even, once.

    Args:
        x: float32 of any shape, or codes: float16, an ml_dtypes array, or unsigned integers with ``source``.
        to: ``fp32``, ``fp16``, ``bf16``, ``fp8`` (e4m3fn), ``fp8_e5m2``, ``fp6`` (e2m3), ``fp6_e3m2``, ``fp4``.
        source: format of the codes ``x``; by default what its dtype says.
        saturate: what overflow does; see ``formats.encode``.
        out: C-contiguous array of the result's shape and dtype that shares no memory with ``x``.
        variant: one of ``variants("cast")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array of the shape of ``x``: float32, float16 for fp16, uint16 for bf16, else uint8.

    Raises:
        InputError: unknown format, a dtype without a format, bad ``out``, or a variant that cannot run here.
    """
    arguments = x, out, to, source, saturate, variant, threads
    if (done := _CAST.run(*arguments)) is not None:
        return done
    run = select("cast", variant).run
    threads = thread_count(threads)
    target = None if _is_fp32(to) else _float_format(to, "to")
    given = _source_format(x, source)
    if given is None and target is None:
        raise InputError(Problem("x is float32 already", "to", allowed="a format narrower than fp32"))
    if given is None:
        assert target is not None
        values = contiguous(array(x, "x", ("float32",)))
        result = output(out, values.shape, code_dtype(target), values)
        made = run(target, True, values, result, target.saturates if saturate is None else bool(saturate), threads)
        _CAST.keep(arguments, made, result)
        return result
    codes = contiguous(formats.as_codes(x, given))
    if target is None:
        result = output(out, codes.shape, "float32", codes)
        made = run(given, False, codes, result, False, threads)
        if given.bits == 8 * codes.itemsize:  # else a code may be out of range
            _CAST.keep(arguments, made, result)
        return result
    result = output(out, codes.shape, code_dtype(target), codes)
    wide = np.empty(codes.shape, np.float32)
    run(given, False, codes, wide, False, threads)
    run(target, True, wide, result, target.saturates if saturate is None else bool(saturate), threads)
    return result


def code_dtype(f: FloatFormat) -> str:
    """Name of the NumPy dtype that codes of ``f`` travel as."""
    return "float16" if f.name == "fp16" else "uint16" if f.bits == 16 else "uint8"


def _is_fp32(name: str) -> bool:
    return str(name).lower() in ("fp32", "float32", "f32", "float")


def _float_format(name: str, path: str) -> FloatFormat:
    f = formats.get_format(name, path)
    if not isinstance(f, FloatFormat):
        allowed = f"known: fp32, {', '.join(CASTS)}"
        raise InputError(Problem(f"{f.name} has no cast", path, allowed=allowed, hint="use quantize"))
    return f


def _source_format(x: Any, source: str | None) -> FloatFormat | None:
    """The format of codes; None for float32."""
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        array(x, "x", ("float32",))
    if source is not None:
        return None if _is_fp32(source) else _float_format(source, "source")
    if x.dtype == np.float32:
        return None
    if x.dtype.name not in _DTYPE_NAMES:
        hint = "name the format of codes: source=" if x.dtype.kind == "u" else ""
        raise InputError(Problem(f"x has dtype {x.dtype}", "x", allowed="float32 or codes", hint=hint))
    return _float_format(_DTYPE_NAMES[x.dtype.name], "x")


@kernel("cast", "ref")
def _ref(f: FloatFormat, encode: bool, x: Codes, out: Codes, saturate: bool, threads: int) -> None:
    """The definition: ``formats.encode`` and ``formats.decode``."""
    out[...] = formats.encode(x, f.name, saturate) if encode else formats.decode(x, f.name)


@kernel("cast", "c-generic", requires={"native"})
def _generic(f: FloatFormat, encode: bool, x: Codes, out: Codes, saturate: bool, threads: int) -> Call:
    """Portable C11, four lanes."""
    return _cast("NPK_GENERIC", f, encode, x, out, saturate, threads)


@kernel("cast", "c-avx2", requires={"native", "avx2"})
def _avx2(f: FloatFormat, encode: bool, x: Codes, out: Codes, saturate: bool, threads: int) -> Call:
    """Eight lanes."""
    return _cast("NPK_AVX2", f, encode, x, out, saturate, threads)


@kernel("cast", "c-avx512", requires={"native", "avx512f"})
def _avx512(f: FloatFormat, encode: bool, x: Codes, out: Codes, saturate: bool, threads: int) -> Call:
    """Sixteen lanes."""
    return _cast("NPK_AVX512", f, encode, x, out, saturate, threads)


def _cast(isa: str, f: FloatFormat, encode: bool, x: Codes, out: Codes, saturate: bool, threads: int) -> Call:
    name, level = native.constant(f"NPK_FMT_{f.name.upper()}"), native.constant(isa)
    if encode:
        made = call("npk_encode", level, name, saturate, x.size, x, out, threads)
    else:
        made = call("npk_decode", level, name, x.size, x, out, threads)
    if made.status:
        native.raise_for_status(made.status, f"cast of {x.size} elements")
    return made


@maker("cast", CASTS, m=None, n=None)
def _case(dtype: str, fill: str, seed: int, m: int, n: int) -> Case:
    """float32 to ``dtype``: the one nearest number, exactly.

    ``integer`` draws small integers; ``adversarial`` ties between neighbours and the float32 to either side of
    them, from the subnormals up, and in formats that saturate what overflows; ``uniform`` numbers of every
    binade of the format.
    """
    f = _float_format(dtype, "dtype")
    draw = Draw(seed)
    if fill == "integer":
        x = draw.integers(-4, 4, m, n)
    elif fill == "adversarial":
        x = _ties(f, draw, m, n)
    elif fill == "realistic":
        x = draw.activations(m, n)
    else:
        x = draw.uniform(m, n) * 2.0 ** draw.integers(f.emin - 1, min(f.emax, 126), m, n)
    x32 = x.astype(np.float32)
    rounded = formats.decode(formats.encode(x32, dtype), dtype).astype(np.float64)
    inputs, expected, bound = frozen(x32, rounded, np.zeros((m, n)))
    out_dtype = "float16" if dtype == "fp16" else dtype
    return Case(
        "cast", dtype, fill, seed, (("m", m), ("n", n)), (inputs,), expected, bound, out_dtype, (("to", dtype),)
    )


def _ties(f: FloatFormat, draw: Draw, m: int, n: int) -> npt.NDArray[np.float64]:
    numbers = formats.decode(np.arange(f.max_code + 1).astype("uint16" if f.bits == 16 else "uint8"), f.name)
    at = draw.integers(0, f.max_code - 1, m, n).astype(np.int64)
    ties = ((numbers[at].astype(np.float64) + numbers[at + 1]) / 2).astype(np.float32)
    near = (ties.view(np.int32) + draw.integers(-1, 1, m, n).astype(np.int32)).view(np.float32)
    beyond = 2.0 * f.max if f.saturates else f.max
    magnitude = np.where(draw.integers(0, 7, m, n) == 0, beyond, near.astype(np.float64))
    return magnitude * (2 * draw.integers(0, 1, m, n) - 1)
