"""Golden cases of selection and of block quantisation: ``topk``, ``route`` and ``block_quantize``.

What is selected must not hang on a rounding: the inputs of ``route`` are drawn so that the chosen experts are the
same in any arithmetic that errs by less than the bound of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels.cases import U32, Case, Draw, Float64, frozen, gamma, maker
from npukernels.cases_rows import softmax_bound
from npukernels.norms import softmax_reference
from npukernels.quantized import BLOCKS, dequantize, quantize
from npusim.errors import InputError, Problem

# Neighbouring logits of a row differ by at least this: their weights by 3 %.
GAP = 2.0**-5


def _checked(rows: int, n: int, k: int) -> None:
    if rows * n >= 2**31:
        raise MemoryError
    if k > n:
        raise InputError(Problem(f"no {k} largest of {n} elements", "k", allowed=f"0 to {n}"))


@maker("topk", ("fp32",), rows=None, n=None, k=1)
def _topk(dtype: str, fill: str, seed: int, rows: int, n: int, k: int) -> Case:
    """Indices of the k largest of each row, descending, equal values by index: exact. ``integer`` and ``adversarial``
    hold many equal values, and the latter both zeros, which are equal, and infinities."""  # fmt: skip
    _checked(rows, n, k)
    draw = Draw(seed)
    if fill == "realistic":
        x = draw.activations(rows, n)
    elif fill == "uniform":
        x = draw.uniform(rows, n)
    else:
        x = draw.integers(-3, 3, rows, n)
        if fill == "adversarial":
            x = np.where(x == 3, np.inf, np.where(x == -3, -np.inf, np.where(x == -1, -0.0, x)))
    indices = np.argsort(-x, axis=1, kind="stable")[:, :k].astype(np.float64)
    expected, bound = frozen(indices, np.zeros((rows, k)))
    dims, inputs = (("rows", rows), ("n", n), ("k", k)), frozen(x.astype(np.float32))
    return Case("topk", dtype, fill, seed, dims, inputs, expected, bound, "int64", (("k", k),))


@maker("route", ("fp32",), tokens=None, experts=None, k=1)
def _route(dtype: str, fill: str, seed: int, tokens: int, experts: int, k: int) -> Case:
    """Weight of every expert for every token (0 where it is not chosen): softmax, the k best, divided by their sum.

    A row's logits are multiples of ``GAP`` in random order; ``adversarial`` puts them far from zero, ``realistic``
    spreads them as a trained router does, ``integer`` is a whole number apart.
    """
    _checked(tokens, experts, k)
    draw = Draw(seed)
    order = np.argsort(draw.uniform(tokens, experts), axis=1).astype(np.float64)
    step = {"integer": 1.0, "realistic": 8 * GAP}.get(fill, GAP)
    logits = order * step + (2.0**10 if fill == "adversarial" else 0.0)
    expected, bound = _weights(logits, k)
    frozen(expected, bound)
    dims = (("tokens", tokens), ("experts", experts), ("k", k))
    return Case(
        "route", dtype, fill, seed, dims, frozen(logits.astype(np.float32)), expected, bound, params=(("k", k),)
    )


def _weights(logits: Float64, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Dense weights and their bound.

    A softmax y off by a relative ``r``, at most ``R`` in its row, is divided by a sum of k of them, in any order, and
    rounded: ``(1 + r) (1 + u) / ((1 - R) (1 - gamma_k)) - 1``.
    """
    if not logits.size or not k:
        return np.zeros(logits.shape), np.zeros(logits.shape)
    y = softmax_reference(logits, False)
    least = np.sort(y, axis=1)[:, -k][:, None]
    chosen = np.where(y >= least, y, 0.0)
    expected = chosen / chosen.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(chosen > 0, softmax_bound(logits) / y, 0.0)
    worst = relative.max(axis=1, keepdims=True)
    off = (1 + relative) * (1 + U32) / ((1 - worst) * (1 - gamma(k, U32))) - 1
    return expected, expected * off * (1 + 1e-6)


@maker("block_quantize", tuple(BLOCKS), m=None, n=None)
def _block_quantize(dtype: str, fill: str, seed: int, m: int, n: int) -> Case:
    """The float32 numbers that ``x`` becomes in a block format, blocks along n, exactly.

    Two codes and scales that stand for the same numbers are equally right (a scale twice as large with half the
    codes), so what is compared is what they stand for. Scales: OCP MX v1.0, 6.3; NVFP4 with one scale a tensor.
    """
    if m * n >= 2**31:
        raise MemoryError
    x = _spread(Draw(seed), fill, m, n).astype(np.float32)
    stands_for = dequantize(quantize(x, dtype, variant="ref"), variant="ref")
    expected, bound = frozen(stands_for.astype(np.float64), np.zeros((m, n)))
    dims = (("m", m), ("n", n))
    return Case("block_quantize", dtype, fill, seed, dims, frozen(x), expected, bound, params=(("fmt", dtype),))


def _spread(draw: Draw, fill: str, m: int, n: int) -> npt.NDArray[Any]:
    if fill == "realistic":
        return draw.activations(m, n)
    if fill == "integer":
        return draw.integers(-8, 8, m, n)
    x = draw.uniform(m, n)
    # Magnitudes far apart within a block: the small ones are lost, or become subnormal codes.
    return x * 2.0 ** draw.integers(-10, 10, m, n) if fill == "adversarial" else x
