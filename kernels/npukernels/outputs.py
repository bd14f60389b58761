"""Outputs of any number format as float64, and distances between them in representable numbers.

An output holds either a NumPy dtype (``float32``, ``int8``), or codes of a format NumPy does not have:
``bf16`` in uint16, ``fp8`` and narrower in uint8, one element a byte, and ``int4`` packed two a byte with the
even element in the low nibble.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import formats

Float64: TypeAlias = npt.NDArray[np.float64]
Array: TypeAlias = npt.NDArray[Any]

# Formats whose codes an output may hold, with the dtype that carries them.
CODES = {"bf16": "uint16", "fp8": "uint8", "fp8_e5m2": "uint8", "fp6": "uint8", "fp6_e3m2": "uint8", "fp4": "uint8"}
PACKED = "int4"

# Arrays of the ml_dtypes package hold the same codes under these names.
_ML_DTYPES = {
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8_e5m2",
    "float6_e2m3fn": "fp6",
    "float6_e3m2fn": "fp6_e3m2",
    "float4_e2m1fn": "fp4",
}


def carrier(out_dtype: str) -> str:
    """Name of the NumPy dtype an output of ``out_dtype`` is stored in."""
    return "uint8" if out_dtype == PACKED else CODES.get(out_dtype, out_dtype)


def carrier_shape(shape: tuple[int, ...], out_dtype: str) -> tuple[int, ...]:
    """Shape of the array that holds ``shape`` elements of ``out_dtype``."""
    return (*shape[:-1], -(-shape[-1] // 2)) if out_dtype == PACKED and shape else shape


def problem_of(output: Any, shape: tuple[int, ...], out_dtype: str) -> str:
    """Why ``output`` cannot hold ``shape`` elements of ``out_dtype``; empty when it can."""
    if not isinstance(output, np.ndarray):
        return f"wrong type: {type(output).__name__}, expected a NumPy array"
    wanted = carrier_shape(shape, out_dtype)
    if output.shape != wanted:
        swapped = output.shape == wanted[::-1]
        return f"wrong shape: {output.shape}, expected {wanted}" + (", transposed" if swapped else "")
    name = output.dtype.name
    if _ML_DTYPES.get(name, name) not in (out_dtype, carrier(out_dtype)) or not output.dtype.isnative:
        codes = f" ({out_dtype} codes)" if carrier(out_dtype) != out_dtype else ""
        return f"wrong dtype: {output.dtype}, expected {carrier(out_dtype)}{codes}"
    return ""


def decoded(output: Array, shape: tuple[int, ...], out_dtype: str) -> Float64:
    """The elements of an output that ``problem_of`` has nothing against, in float64."""
    if out_dtype == PACKED:
        nibbles = np.stack([output & 15, output >> 4], axis=-1).astype(np.int8)
        signed = np.where(nibbles > 7, nibbles - 16, nibbles).reshape(*output.shape[:-1], -1)
        return signed[..., : shape[-1]].astype(np.float64)
    if out_dtype in CODES:
        codes = np.ascontiguousarray(output).view(CODES[out_dtype]).reshape(shape)
        return formats.decode(codes, out_dtype).astype(np.float64)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return output.astype(np.float64)


def rounded(values: Float64, out_dtype: str) -> Float64:
    """``values`` as the nearest numbers that ``out_dtype`` holds; beyond its range they saturate."""
    if out_dtype in CODES:
        return formats.decode(formats.encode(values, out_dtype, saturate=True), out_dtype).astype(np.float64)
    low, high = limits(out_dtype)
    clipped = np.clip(values, low, high)
    if out_dtype.startswith("float"):
        return clipped.astype(out_dtype).astype(np.float64)
    return np.rint(clipped)


def limits(out_dtype: str) -> tuple[float, float]:
    """Smallest and largest finite number of ``out_dtype``."""
    if out_dtype in CODES:
        largest = float(np.nanmax(np.where(np.isfinite(every := _all_numbers(out_dtype)), every, np.nan)))
        return -largest, largest
    if out_dtype == PACKED:
        return -8.0, 7.0
    if out_dtype.startswith("float"):
        largest = float(np.finfo(out_dtype).max)
        return -largest, largest
    bounds = np.iinfo(out_dtype)
    return float(bounds.min), float(bounds.max)


def is_integer(out_dtype: str) -> bool:
    """Whether the elements are integers."""
    return out_dtype == PACKED or (np.dtype(carrier(out_dtype)).kind in "iu" and out_dtype not in CODES)


def max_ulp(got: Float64, expected: Float64, out_dtype: str) -> float:
    """Largest distance between two arrays, in steps from one representable number of ``out_dtype`` to the next.

    NaN where NaN is expected is distance 0; any other value that is not finite is infinitely far.
    """
    got, expected = np.atleast_1d(got), np.atleast_1d(expected)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    if not np.isfinite(got[~same]).all() or not np.isfinite(expected[~same]).all():
        return float("inf")
    if is_integer(out_dtype):
        distance = np.abs(got - np.rint(expected))
    else:
        distance = np.abs(_steps(got, out_dtype) - _steps(expected, out_dtype)).astype(np.float64)
    return float(distance[~same].max(initial=0.0))


def _steps(values: Float64, out_dtype: str) -> npt.NDArray[np.int64]:
    """Integers in the order of the numbers, adjacent for adjacent numbers, equal for both zeros."""
    finite = np.where(np.isfinite(values), values, 0.0)
    if out_dtype in CODES:
        every = _all_numbers(out_dtype)
        return np.searchsorted(np.unique(every[np.isfinite(every)]), rounded(finite, out_dtype))
    held = rounded(finite, out_dtype).astype(out_dtype)
    bits = held.view(f"int{8 * held.itemsize}").astype(np.int64)
    magnitude = bits & np.int64(2 ** (8 * held.itemsize - 1) - 1)
    return np.where(bits < 0, -magnitude, bits)


def _all_numbers(out_dtype: str) -> Float64:
    """What each code of a format decodes to."""
    carried = np.dtype(CODES[out_dtype])
    bits = {"fp6": 6, "fp6_e3m2": 6, "fp4": 4}.get(out_dtype, 8 * carried.itemsize)
    return formats.decode(np.arange(2**bits).astype(carried), out_dtype).astype(np.float64)
