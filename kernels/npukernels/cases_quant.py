"""Golden cases of the quantised products, with proven bounds.

Integers are exact, bound 0. A float product whose sums of at most 128 k start from zero and are added up after
scaling has a bound of the form ``gamma_r |X| |W|`` (Higham 2002, section 3.5), where r counts the roundings that a
term can meet: those of its own sum, at most its length; two for each chunk that follows (product, addition); one for
the product of two scales, one for the result. Weights that are scaled and rounded first and then multiplied as a
matrix are within the same form: a term meets the rounding of its weight, those of its block of k, at most its length,
and one for each block that follows.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels.cases import TINY32, U32, U64, Case, Draw, Float64, frozen, gamma, maker
from npukernels.formats import decode, encode

_CHUNK = 128
_LEAST_BLOCK, _BLOCK = 256, 384  # of k in the matrix products, of any variant


@maker("qgemm", ("int8",), m=None, n=None, k=None, a_unsigned=0, requantised=0)
def _qgemm(dtype: str, fill: str, seed: int, m: int, n: int, k: int, a_unsigned: int, requantised: int) -> Case:
    """A int8, or uint8 with ``a_unsigned=1``, B int8: exact int32. ``adversarial`` holds extremes only.

    ``requantised=1``: to int8, with zero points and a scale a column (see ``_requantised``).
    """
    if max(m * k, k * n, m * n) >= 2**31:
        raise MemoryError
    draw = Draw(seed)
    low, high = (0, 255) if a_unsigned else (-128, 127)
    zero = 131 if a_unsigned else -3  # of a requantised product
    a, b = draw.integers(low, high, m, k), draw.integers(-128, 127, k, n)
    if fill == "adversarial":
        a, b = np.where(a > (low + high) / 2, high, low).astype(float), np.where(b > 0, 127.0, -128.0)
    if fill == "realistic":  # outliers saturate
        a = np.clip(np.rint(32 * draw.activations(m, k)) + (128 if a_unsigned else 0), low, high)
        b = np.rint(48 * draw.bell(k, n))
    if fill == "integer" and requantised:  # sums so small that halves of them are ties
        a, b = np.round(a / 64) + zero - (2 if a_unsigned else 0), np.round(b / 64)
    dims = (("m", m), ("n", n), ("k", k), ("a_unsigned", a_unsigned), ("requantised", requantised))
    inputs = frozen(a.astype("uint8" if a_unsigned else "int8"), b.astype(np.int8))
    if requantised:
        return _requantised(Case("qgemm", dtype, fill, seed, dims, inputs, a @ b, np.zeros((m, n)), "int8"), zero, draw)
    frozen(expected := a @ b, bound := np.zeros((m, n)))
    return Case("qgemm", dtype, fill, seed, dims, inputs, expected, bound, out_dtype="int32")


def _requantised(case: Case, a_zero: int, draw: Draw) -> Case:
    """``saturate(round_half_even(v s[j]) + out_zero)``, v the sums without ``a_zero``; input 2 is s, the scale of B.

    ``integer``: s are 1/2 and 1/4, every step is exact and ties are frequent. Elsewhere some results saturate, and
    float32 rounds v and v s once each: results within ``2^-22 |v s|`` of a tie may be off by one, all others not.
    """
    b = case.inputs[1].astype(np.float64)
    v = case.expected - a_zero * b.sum(axis=0)
    if case.fill == "integer":
        scale = 2.0 ** -draw.integers(1, 2, b.shape[1])
    else:
        scale = (160 + 32 * draw.uniform(b.shape[1])) / np.maximum(np.abs(v).max(axis=0, initial=1), 1)
    scale = scale.astype(np.float32)
    exact = v * scale
    to_tie = np.abs(exact - np.floor(exact) - 0.5)
    bound = ((to_tie <= 2.0**-22 * np.abs(exact)) & (case.fill != "integer")).astype(np.float64)
    params = (("a_zero", a_zero), ("out_zero", 5), ("out_dtype", "int8"))
    whole = np.clip(np.rint(exact) + 5, -128, 127)
    frozen(whole, bound, scale)
    inputs = (*case.inputs, scale)
    return dataclasses.replace(case, inputs=inputs, expected=whole, bound=bound, params=params)


@maker("weight_gemm", ("int4", "int8"), m=None, n=None, k=None, group=32, asymmetric=0)
def _weight_gemm(dtype: str, fill: str, seed: int, m: int, n: int, k: int, group: int, asymmetric: int) -> Case:
    """x float32, q, scale (groups, n): ``x (scale q)``; bound of ``compute="fp32"``.

    ``asymmetric=1``: ``x (scale (q - zero))``, input 3 the zero points, (groups, n).
    """
    if max(m * k, k * n, m * n) >= 2**31:
        raise MemoryError
    draw, limit = Draw(seed), 7 if dtype == "int4" else 127
    group = max(group, 8) // 8 * 8
    groups = math.ceil(k / group)
    q = draw.integers(-limit - 1, limit, k, n)
    if fill == "integer":
        q, x = np.clip(q, -3, 3), draw.integers(-1, 1, m, k)
        scale = np.ones((groups, n))
    else:
        x = draw.activations(m, k) if fill == "realistic" else draw.uniform(m, k)
        scale = np.abs(draw.uniform(groups, n))
        if fill == "adversarial":
            x, scale = x * 2.0 ** draw.integers(-10, 10, m, k), scale * 2.0 ** draw.integers(-10, 10, groups, n)
            x = x.astype(np.float32).astype(np.float64)
    x32, scale32 = x.astype(np.float32), scale.astype(np.float32)
    zero = draw.integers(-2, 2, groups, n) if asymmetric else np.zeros((groups, n))
    at = np.arange(k) // group
    w = scale32.astype(np.float64)[at] * (q - zero[at])
    ordinary = min(k, _BLOCK) + math.ceil(k / _LEAST_BLOCK) + 2
    expected, bound = _product(x32.astype(np.float64), w, k, group, fill == "integer" and 5 * k < 2**24, ordinary)
    dims = (("m", m), ("n", n), ("k", k), ("group", group), ("asymmetric", asymmetric))
    inputs = frozen(x32, q.astype(np.int8), scale32, *([zero.astype(np.int8)] if asymmetric else []))
    frozen(expected, bound)
    return Case("weight_gemm", dtype, fill, seed, dims, inputs, expected, bound)


@maker("block_gemm", ("fp8", "fp8_e5m2", "fp6", "fp4", "nvfp4"), m=None, n=None, k=None, block=32)
def _block_gemm(dtype: str, fill: str, seed: int, m: int, n: int, k: int, block: int) -> Case:
    """Codes of A and B and of their scales, e8m0: an MX product. ``nvfp4``: fp4 with scales in fp8 and blocks of 16.

    A product of two fp8 numbers is exact in binary32, as that of powers of two is: one bound serves both.
    """
    if max(m * k, k * n, m * n) >= 2**31:
        raise MemoryError
    draw, block = Draw(seed), 16 if dtype == "nvfp4" else max(block, 1)
    blocks = math.ceil(k / block)
    element, scale = ("fp4", "fp8") if dtype == "nvfp4" else (dtype, "e8m0")
    if fill == "integer":
        a, b = encode(draw.integers(-1, 1, m, k), element), encode(draw.integers(-1, 1, k, n), element)
        spread = 0
    else:
        values = draw.bell if fill == "realistic" else draw.uniform
        a, b = encode(4 * values(m, k), element), encode(4 * values(k, n), element)
        spread = 10 if fill == "adversarial" else 2
    spread = spread // 2 if scale == "fp8" else spread  # whose powers of two go down to 2^-6
    powers = draw.integers(-spread, spread, m, blocks), draw.integers(-spread, spread, blocks, n)
    mantissas = [1 + draw.integers(0, 7 if spread and scale == "fp8" else 0, *x.shape) / 8 for x in powers]
    a_scale, b_scale = (encode(2.0**x * y, scale) for x, y in zip(powers, mantissas, strict=True))
    at = np.arange(k) // block
    left = decode(a, element).astype(np.float64) * decode(a_scale, scale)[:, at]
    right = decode(b, element).astype(np.float64) * decode(b_scale, scale)[at]
    expected, bound = _product(left, right, k, block, fill == "integer" and k < 2**24)
    dims = (("m", m), ("n", n), ("k", k), ("block", block))
    inputs, params = frozen(a, b, a_scale, b_scale), (("fmt", element), ("scale_fmt", scale), ("block", block))
    frozen(expected, bound)
    return Case("block_gemm", dtype, fill, seed, dims, inputs, expected, bound, params=params)


def _product(
    x: Float64, w: npt.NDArray[Any], k: int, group: int, exact: bool, least: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Expected product and its bound for chunks within groups of k, and of at least so many roundings a term."""
    expected = x @ w
    if exact:
        return expected, np.zeros(expected.shape)
    chunks = math.ceil(k / group) * math.ceil(min(group, max(k, 1)) / _CHUNK)
    roundings = max(min(k, group, _CHUNK) + 2 * chunks + 2, least)
    magnitude = np.abs(x) @ np.abs(w)
    relative = gamma(roundings, U32) + 2 * gamma(k, U64)
    # One underflow a product; scales are far below 2^20, so each grows by less than that.
    bound: Float64 = (relative * magnitude + (k + chunks) * TINY32 * 2.0**20) * (1 + 8 * gamma(k + 1, U64))
    return expected, bound
