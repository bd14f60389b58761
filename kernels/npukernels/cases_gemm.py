"""Golden cases of convolutions and grouped products; each element is a dot product, bounded as in ``gemm_bound``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from npukernels.cases import TINY32, U32, U64, Case, Draw, Float64, frozen, gamma, maker
from npukernels.convolution import Geometry, conv2d_float64


def dot_bound(terms: int, expected: Float64, magnitude: Float64) -> Float64:
    """Largest error of sums of ``terms`` products whose absolute values sum to ``magnitude``.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., (3.13), for any order of summation;
    plus the final rounding, underflow, and the error of the float64 reference, as ``gemm_bound`` has them.
    """
    relative = gamma(terms, U32) + gamma(terms, U64)
    rounded = U32 * (np.abs(expected) + gamma(terms, U64) * magnitude)
    total: Float64 = (relative * magnitude + rounded + terms * TINY32) * (1 + 4 * gamma(terms, U64) + 8 * U64)
    return total


def _fill(draw: Draw, fill: str, terms: int, *shape: int, weights: bool = False) -> Float64:
    """Uniform numbers, integers whose sums binary32 holds, activations or weights, or magnitudes over 2^±10."""
    if fill == "integer":
        largest = min(32, int((2**24 / max(terms, 1)) ** 0.5))
        return draw.integers(-largest, largest, *shape)
    if fill == "realistic":
        return (
            draw.bell(*shape) * 2.0**-5
            if weights
            else draw.activations(math.prod(shape[:-1]), shape[-1]).reshape(shape)
        )
    values = draw.uniform(*shape)
    return values * 2.0 ** draw.integers(-10, 10, *shape) if fill == "adversarial" else values


def _case(
    op: str, fill: str, seed: int, sizes: dict[str, int], terms: int, inputs: tuple[Any, ...],
    compute: Callable[..., Float64],
) -> Case:  # fmt: skip
    """``compute`` takes the inputs in float64; given their absolute values it yields the magnitude."""
    expected = compute(*inputs)
    bound = np.zeros(expected.shape)
    if fill != "integer":
        bound = dot_bound(terms, expected, compute(*(np.abs(x) for x in inputs)))
    expected, bound = frozen(expected, bound)
    return Case(op, "fp32", fill, seed, tuple(sizes.items()), frozen(*inputs), expected, bound)


@maker("conv2d", ("fp32",), n=1, h=None, w=None, c=None, f=None, kh=3, kw=3, stride=1, padding=0, dilation=1, groups=1)
def _conv2d(dtype: str, fill: str, seed: int, **sizes: int) -> Case:
    n, h, w, c, f, kh, kw, stride, padding, dilation, groups = sizes.values()
    draw, terms = Draw(seed), kh * kw * (c // groups)
    x = _fill(draw, fill, terms, n, h, w, c).astype(np.float32)
    weights = _fill(draw, fill, terms, kh, kw, c // groups, f, weights=True).astype(np.float32)
    geometry: Geometry = ((stride, stride), (padding, padding), (dilation, dilation))
    return _case("conv2d", fill, seed, sizes, terms, (x, weights), lambda a, b: conv2d_float64(a, b, geometry, groups))


@maker("depthwise_conv2d", ("fp32",), n=1, h=None, w=None, c=None, kh=3, kw=3, stride=1, padding=0, dilation=1)
def _depthwise(dtype: str, fill: str, seed: int, **sizes: int) -> Case:
    n, h, w, c, kh, kw, stride, padding, dilation = sizes.values()
    draw, terms = Draw(seed), kh * kw
    x = _fill(draw, fill, terms, n, h, w, c).astype(np.float32)
    weights = _fill(draw, fill, terms, kh, kw, c, weights=True).astype(np.float32)
    geometry: Geometry = ((stride, stride), (padding, padding), (dilation, dilation))

    def compute(a: Any, b: Any) -> Float64:
        result: Float64 = conv2d_float64(a, b[:, :, None, :], geometry, c)
        return result

    return _case("depthwise_conv2d", fill, seed, sizes, terms, (x, weights), compute)


@maker("grouped_gemm", ("fp32",), rows=None, experts=None, n=None, k=None)
def _grouped(dtype: str, fill: str, seed: int, rows: int, experts: int, n: int, k: int) -> Case:
    draw = Draw(seed)
    x = _fill(draw, fill, k, rows, k).astype(np.float32)
    w = _fill(draw, fill, k, experts, k, n, weights=True).astype(np.float32)
    cuts = np.sort(draw.integers(0, rows, max(experts - 1, 0))).astype(np.int64)
    offsets = np.concatenate([[0], cuts, [rows]]) if experts else np.zeros(1, np.int64)

    def compute(a: Any, b: Any, ends: Any) -> Float64:
        parts = [a[s:e].astype(np.float64) @ m.astype(np.float64) for s, e, m in zip(ends, ends[1:], b, strict=False)]
        return np.concatenate([np.zeros((0, n)), *parts])

    sizes = {"rows": rows, "experts": experts, "n": n, "k": k}
    return _case("grouped_gemm", fill, seed, sizes, k, (x, w, offsets), compute)
