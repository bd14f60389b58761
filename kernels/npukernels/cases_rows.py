"""Golden cases of the ops on rows and of single elements, each with the bound of any correct binary32 kernel.

``u`` is the unit roundoff 2^-24 and ``gamma_k = k u / (1 - k u)`` bounds k roundings; both, and the bound of a sum in
any order, are those of Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 4.2. The
exponential may err by ``ULP["exp"]`` units in the last place, of at most ``2 u`` each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels.activations import (
    GELU_TANH_ULP,
    GELU_TANH_ULP_PER_Y,
    REFERENCES,
    ULP,
    gelu_tanh_argument,
)
from npukernels.cases import TINY32, U32, Case, Draw, Float64, frozen, gamma, maker
from npukernels.norms import layernorm_reference, rmsnorm_reference, softmax_reference
from npukernels.rotary import rope_cache, rope_pairs

LAYERNORM_EPS, RMSNORM_EPS = 1e-5, 1e-6


def _case(
    op: str, fill: str, seed: int, dims: dict[str, int], inputs: tuple[Any, ...], expected: Float64, bound: Float64
) -> Case:
    # The bound is computed in floating point too: the factor covers its own rounding and that of the reference.
    expected, bound = frozen(expected, bound * (1 + 1e-6) + TINY32)
    return Case(op, "fp32", fill, seed, tuple(dims.items()), frozen(*inputs), expected, bound)


def _matrix(draw: Draw, fill: str, rows: int, n: int, spread: float, offset: float = 0.0) -> npt.NDArray[np.float32]:
    """``uniform`` in ±4, ``integer`` in ±8, ``realistic`` activations, ``adversarial`` in offset ± spread."""
    if rows * n >= 2**31:
        raise MemoryError
    if fill == "integer":
        return draw.integers(-8, 8, rows, n).astype(np.float32)
    if fill == "realistic":
        return draw.activations(rows, n).astype(np.float32)
    x = draw.uniform(rows, n)
    return (4 * x if fill == "uniform" else offset + spread * x).astype(np.float32)


def _vector(draw: Draw, fill: str, n: int, spread: float) -> npt.NDArray[np.float32]:
    """As ``_matrix``, but ``realistic`` within ±8: outliers of activations meet no exponential before a norm."""
    if fill == "realistic":
        return (4 * draw.bell(n)).astype(np.float32)
    return np.asarray(_matrix(draw, fill, 1, n, spread)[0])


@maker("layernorm", ("fp32",), rows=None, n=None)
def _layernorm(dtype: str, fill: str, seed: int, rows: int, n: int) -> Case:
    draw = Draw(seed)
    x = _matrix(draw, fill, rows, n, 1.0, offset=1e4)
    weight, bias = draw.uniform(n).astype(np.float32), draw.uniform(n).astype(np.float32)
    wide = x.astype(np.float64)
    expected = layernorm_reference(wide, weight, bias, LAYERNORM_EPS) if x.size else wide
    bound = layernorm_bound(wide, weight, bias, LAYERNORM_EPS) if x.size else wide.copy()
    return _case("layernorm", fill, seed, {"rows": rows, "n": n}, (x, weight, bias), expected, bound)


def layernorm_bound(x: Float64, weight: Any, bias: Any, eps: float) -> Float64:
    """Largest elementwise error of a correct two-pass layernorm in binary32.

    With A the mean of |x|, the computed mean is off by at most ``delta = gamma_{n+1} A``, and a deviation d by
    ``D = delta + 2 u (|d| + delta)``. The mean of squares about the wrong mean is ``v + delta^2``, and carries n + 4
    roundings: relative to ``v + eps`` it is off by ``rho = (delta^2 + gamma_{n+4} (v + delta^2)) / (v + eps)``, so that
    its inverse root is by ``e = (1 - rho)^(-1/2) - 1``; in no case is it above ``eps^(-1/2)``, since the computed
    variance is not negative. Then come ``gamma_4`` for the sum with eps, the root, the division and the product
    with d, and ``gamma_2`` for weight and bias.
    """
    n = x.shape[-1]
    delta = gamma(n + 1, U32) * np.abs(x).mean(axis=-1, keepdims=True)
    d = np.abs(x - x.mean(axis=-1, keepdims=True))
    variance = np.mean(d**2, axis=-1, keepdims=True)
    rho = (delta**2 + gamma(n + 4, U32) * (variance + delta**2)) / (variance + eps)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_rho = np.where(rho < 1, 1 / np.sqrt(1 - rho), np.inf)
    largest = np.minimum(by_rho, np.sqrt((variance + eps) / eps)) * (1 + gamma(4, U32))
    scale = 1 / np.sqrt(variance + eps)
    reach = (d + delta + 2 * U32 * (d + delta)) * np.maximum(largest, 1)
    # At most `reach - d` above, and as much below: (1 + rho)^(-1/2) is nearer to 1 than (1 - rho)^(-1/2).
    error = scale * np.abs(weight) * (reach - d)
    total: Float64 = error + gamma(2, U32) * (scale * np.abs(weight) * reach + np.abs(bias)) + 3 * TINY32
    return total


@maker("rmsnorm", ("fp32",), rows=None, n=None)
def _rmsnorm(dtype: str, fill: str, seed: int, rows: int, n: int) -> Case:
    """Bound: the sum of squares has n + 1 roundings, all terms positive; its inverse root half of them, to first order;
    six more for the sum with eps (which float32 rounds as well), the root, the division and two products."""
    draw = Draw(seed)
    x = _matrix(draw, fill, rows, n, 2.0**10)
    if fill == "adversarial":
        x = (x * 2.0 ** draw.integers(-20, 0, rows, n)).astype(np.float32)
    weight = draw.uniform(n).astype(np.float32)
    expected = rmsnorm_reference(x.astype(np.float64), weight, RMSNORM_EPS) if x.size else x.astype(np.float64)
    relative = (1 - gamma(n + 1, U32)) ** -0.5 * (1 + gamma(6, U32)) - 1
    bound = relative * np.abs(expected) + 2 * TINY32
    return _case("rmsnorm", fill, seed, {"rows": rows, "n": n}, (x, weight), expected, bound)


@maker("softmax", ("fp32",), rows=None, n=None)
def _softmax(dtype: str, fill: str, seed: int, rows: int, n: int) -> Case:
    x = _matrix(Draw(seed), fill, rows, n, 100.0)
    wide = x.astype(np.float64)
    expected = softmax_reference(wide, False) if x.size else wide
    bound = softmax_bound(wide) if x.size else wide.copy()
    return _case("softmax", fill, seed, {"rows": rows, "n": n}, (x,), expected, bound)


def softmax_bound(x: Float64) -> Float64:
    """Largest elementwise error of a correct softmax in binary32.

    The rounding of ``x_i - max`` is a relative error ``|x_i - max| u`` of its exponential, which adds ``2 u`` for each
    ULP: ``e_i``. The sum is off by ``W = sum_j y_j e_j + gamma_n``, relatively, and by n underflows. Dividing by it, or
    multiplying by its inverse, costs two roundings: ``(1 + e_i) (1 + gamma_2) / (1 - W) - 1``.
    """
    n = x.shape[-1]
    y = softmax_reference(x, False)
    e = np.expm1(np.abs(x - x.max(axis=-1, keepdims=True)) * U32) + 2 * ULP["exp"] * U32
    off = (y * e).sum(axis=-1, keepdims=True) + gamma(n, U32) + n * TINY32
    bound: Float64 = y * ((1 + e) * (1 + gamma(2, U32)) / (1 - off) - 1) + 4 * TINY32
    return bound


def ulp_of(y: Float64) -> Float64:
    """The distance of binary32 numbers at ``y``."""
    return np.spacing(np.minimum(np.abs(y), 3e38).astype(np.float32)).astype(np.float64)


def activation_bound(op: str, x: Float64) -> Float64:
    """A constant number of ULP, which csrc/common/vmath.h states and a test holds the functions to; not a proof.

    For gelu's tanh form the argument y of the exponential carries four roundings, which become ``3 |y|`` ULP.
    """
    ulp = GELU_TANH_ULP + GELU_TANH_ULP_PER_Y * np.abs(gelu_tanh_argument(x)) if op == "gelu_tanh" else ULP[op]
    bound: Float64 = ulp * ulp_of(REFERENCES[op](x))
    return bound


def _register(op: str) -> None:
    @maker(op, ("fp32",), n=None)
    def make(dtype: str, fill: str, seed: int, n: int) -> Case:
        x = _vector(Draw(seed), fill, n, 86.0)
        wide = x.astype(np.float64)
        return _case(op, fill, seed, {"n": n}, (x,), REFERENCES[op](wide), activation_bound(op, wide))


for _op in REFERENCES:
    _register(_op)


@maker("swiglu", ("fp32",), n=None)
def _swiglu(dtype: str, fill: str, seed: int, n: int) -> Case:
    """Bound: that of silu times |up|, and one rounding of the product."""
    draw = Draw(seed)
    gate, up = (_vector(draw, fill, n, 60.0) for _ in range(2))
    wide, factor = gate.astype(np.float64), up.astype(np.float64)
    expected = REFERENCES["silu"](wide) * factor
    bound = (1 + U32) * activation_bound("silu", wide) * np.abs(factor) + U32 * np.abs(expected) + TINY32
    return _case("swiglu", fill, seed, {"n": n}, (gate, up), expected, bound)


@maker("rope", ("fp32",), tokens=None, heads=1, dim=None)
def _rope(dtype: str, fill: str, seed: int, tokens: int, heads: int, dim: int) -> Case:
    """Pairs of halves. Bound: ``gamma_2 (|x1 cos| + |x2 sin|)`` and two underflows; the tables are inputs."""
    draw = Draw(seed)
    rotary = dim // 2 * 2
    x = _matrix(draw, fill, tokens, heads * dim, 2.0**10).reshape(tokens, heads, dim)
    cosines, sines = rope_cache(2 * tokens, rotary)
    positions = draw.integers(0, max(2 * tokens - 1, 0), tokens).astype(np.int64)
    c, s = (table.astype(np.float64)[positions][:, None, :] for table in (cosines, sines))
    first, second = rope_pairs(rotary // 2, False)
    expected, terms = x.astype(np.float64), np.zeros(x.shape)
    x1, x2 = expected[..., first].copy(), expected[..., second].copy()
    expected[..., first], expected[..., second] = x1 * c - x2 * s, x2 * c + x1 * s
    terms[..., first], terms[..., second] = np.abs(x1 * c) + np.abs(x2 * s), np.abs(x2 * c) + np.abs(x1 * s)
    dims = {"tokens": tokens, "heads": heads, "dim": dim}
    bound = gamma(2, U32) * terms + 2 * TINY32
    return _case("rope", fill, seed, dims, (x, positions, cosines, sines), expected, bound)
