"""What becomes of exact integer sums: the rules of requantisation, and their reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels.arguments import array, contiguous
from npusim.errors import InputError, Problem, unknown_name

ROUNDINGS = ("half_even", "tosa", "tosa_double")


@dataclass(frozen=True)
class Rescale:
    """A rule of requantisation, checked and in the form the kernels take.

    Args:
        kind: name of the C constant, ``NPK_QOUT_...``.
        bias: int32 (n,), added to the sums; or None.
        row_scale: float32 (m,), scales of rows; or None for one.
        scale: float32 (n,), or int32 (n,) TOSA multipliers; None for int32 outputs.
        float_bias: float32 (n,), added to a float32 output; or None.
        shift: int32 (n,), TOSA shifts; or None.
        double_round: TOSA double rounding.
        zero: zero point of the output.
    """

    kind: str
    bias: npt.NDArray[np.int32] | None = None
    row_scale: npt.NDArray[np.float32] | None = None
    scale: npt.NDArray[Any] | None = None
    float_bias: npt.NDArray[np.float32] | None = None
    shift: npt.NDArray[np.int32] | None = None
    double_round: bool = False
    zero: int = 0


_PLAIN = Rescale("NPK_QOUT_S32")


def tosa_scale(scale: float) -> tuple[int, int]:
    """Multiplier and shift of ``apply_scale_32`` nearest to a real scale.

    ``scale ~ multiplier * 2^-shift`` with ``2^30 <= multiplier < 2^31``, which has a relative error of at most
    2^-31; the shift must lie from 2 to 62 (TOSA 1.0, section 1.9).

    Raises:
        InputError: not a positive number from 2^-32 up to 2^29.
    """
    if not 2.0**-32 <= scale < 2.0**29:
        raise InputError(Problem(f"scale is {scale!r}"[:100], "scale", allowed="from 2^-32 up to 2^29 for TOSA"))
    mantissa, exponent = math.frexp(scale)
    multiplier, shift = round(mantissa * 2**31), 31 - exponent
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift - 1
    return multiplier, shift


def apply_scale_32(
    value: npt.NDArray[np.int64], multiplier: Any, shift: Any, *, double_round: bool = False
) -> npt.NDArray[np.int64]:
    """``(value * multiplier + 2^(shift - 1)) >> shift``, the fixed-point rule of TOSA 1.0.

    With ``double_round`` and ``shift > 31``, 2^30 is added for values of at least zero and subtracted for others.

    Args:
        value: integers in the range of int32.
        multiplier: from 0 to 2^31 - 1, broadcast against ``value``.
        shift: from 2 to 62, broadcast against ``value``.
        double_round: see above.
    """
    shift = np.asarray(shift, np.int64)
    rounding = np.int64(1) << (shift - 1)
    if double_round:
        extra = np.where(value >= 0, np.int64(1) << 30, -(np.int64(1) << 30))
        rounding = rounding + np.where(shift > 31, extra, 0)
    result: npt.NDArray[np.int64] = (value * np.asarray(multiplier, np.int64) + rounding) >> shift
    return result


def make_rescale(
    m: int,
    n: int,
    out_dtype: str,
    a_scale: Any,
    b_scale: Any,
    bias: Any,
    out_scale: Any,
    out_zero: Any,
    rounding: str,
) -> Rescale:
    """Checks the arguments of ``qgemm`` that concern its output. Raises InputError when they do not fit."""
    plain = out_dtype == "int32" and bias is None and type(a_scale) is type(b_scale) is type(out_scale) is float
    if plain and a_scale == b_scale == out_scale == 1.0 and out_zero == 0 and rounding == "half_even":
        return _PLAIN
    if rounding not in ROUNDINGS:
        raise unknown_name("rounding", str(rounding), ROUNDINGS, "rounding")
    if out_dtype == "int32":
        if any(isinstance(s, np.ndarray) or s != 1.0 for s in (a_scale, b_scale, out_scale)) or out_zero != 0:
            raise InputError(Problem("an int32 output takes no scales", "out_dtype", allowed="float32, int8 or uint8"))
        if bias is None:
            return _PLAIN
        return Rescale("NPK_QOUT_S32", bias=_bias(bias, n, "int32"))
    if out_dtype == "float32":
        if out_scale != 1.0 or out_zero != 0:
            raise InputError(Problem("a float32 output has no out_scale and out_zero", "out_scale"))
        return _to_float(m, n, a_scale, b_scale, bias)
    low, high = (-128, 127) if out_dtype == "int8" else (0, 255)
    if isinstance(out_zero, bool) or not isinstance(out_zero, (int, np.integer)) or not low <= out_zero <= high:
        allowed = f"an integer from {low} to {high}"
        raise InputError(Problem(f"out_zero is {out_zero!r}"[:100], "out_zero", allowed=allowed))
    real = _scale(b_scale, "b_scale", n).astype(np.float64)
    real = real * float(_scale(a_scale, "a_scale", None)[0]) / float(_scale(out_scale, "out_scale", None)[0])
    return _to_int8(n, out_dtype, real, _bias(bias, n, "int32"), int(out_zero), rounding)


def finish(sums: npt.NDArray[np.int64], rescale: Rescale, out: npt.NDArray[Any]) -> None:
    """Writes what ``rescale`` makes of exact sums (m, n) into ``out``."""
    if rescale.bias is not None:
        sums = sums + rescale.bias
    if rescale.kind == "NPK_QOUT_S32":
        out[...] = sums.astype(np.int32)
        return
    scale: Any = rescale.scale
    if rescale.kind == "NPK_QOUT_F32":
        rows = np.float32(1) if rescale.row_scale is None else rescale.row_scale[:, None]
        with np.errstate(over="ignore"):
            out[...] = sums.astype(np.float32) * (rows * scale)
            if rescale.float_bias is not None:
                out += rescale.float_bias
        return
    if rescale.shift is None:
        rounded = np.rint(np.clip(sums.astype(np.float32) * scale, -1024, 1024)).astype(np.int64)
    else:
        rounded = apply_scale_32(sums, scale, rescale.shift, double_round=rescale.double_round)
    limits = np.iinfo(out.dtype)
    out[...] = np.clip(rounded + rescale.zero, limits.min, limits.max)


def _to_float(m: int, n: int, a_scale: Any, b_scale: Any, bias: Any) -> Rescale:
    rows = None
    if isinstance(a_scale, np.ndarray) and a_scale.ndim:
        rows = _scale(a_scale, "a_scale", m)
    else:
        one = _scale(a_scale, "a_scale", None)[0]
        rows = None if one == 1 else np.full(m, one, np.float32)
    columns = _scale(b_scale, "b_scale", n)
    whole = isinstance(bias, np.ndarray) and bias.dtype == np.int32
    integer, real = (_bias(bias, n, "int32"), None) if whole else (None, _bias(bias, n, "float32"))
    return Rescale("NPK_QOUT_F32", bias=integer, row_scale=rows, scale=columns, float_bias=real)


def _to_int8(n: int, dtype: str, real: npt.NDArray[Any], bias: Any, zero: int, rounding: str) -> Rescale:
    letter = "S8" if dtype == "int8" else "U8"
    if rounding == "half_even":
        return Rescale(f"NPK_QOUT_{letter}", bias=bias, scale=real.astype(np.float32), zero=zero)
    pairs = np.array([tosa_scale(float(s)) for s in real], np.int32).reshape(n, 2)
    multiplier, shift = (np.ascontiguousarray(pairs[:, i]) for i in (0, 1))
    double = rounding == "tosa_double"
    return Rescale(f"NPK_QOUT_TOSA_{letter}", bias=bias, scale=multiplier, shift=shift, double_round=double, zero=zero)


def _bias(bias: Any, n: int, dtype: str) -> Any:
    if bias is None:
        return None
    values = contiguous(array(bias, "bias", (dtype,), (1,)))
    if values.shape != (n,):
        raise InputError(Problem(f"bias has shape {values.shape}", "bias", allowed=f"({n},)"))
    return values


def _scale(value: Any, name: str, size: int | None) -> npt.NDArray[np.float32]:
    """Positive finite float32 scales of shape (size,); (1,) when ``size`` is None."""
    if isinstance(value, np.ndarray) and value.ndim and size is not None:
        scales = contiguous(array(value, name, ("float32",), (1,)))
        if scales.shape != (size,):
            raise InputError(Problem(f"{name} has shape {scales.shape}", name, allowed=f"({size},)"))
    else:
        number = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
        if isinstance(number, bool) or not isinstance(number, (int, float, np.floating)):
            raise InputError(Problem(f"{name} is {number!r}"[:100], name, allowed="a positive number"))
        with np.errstate(over="ignore"):
            scales = np.full(1 if size is None else size, number, np.float32)
    if scales.size and not (np.isfinite(scales).all() and (scales > 0).all()):
        raise InputError(Problem(f"{name} is not positive and finite in float32", name, allowed="positive numbers"))
    return scales
