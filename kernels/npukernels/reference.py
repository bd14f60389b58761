"""Matrix products as accelerators sum them: narrow accumulators, chunks of K, scales a block at a time.

Answers "is my difference explained by my accumulator?": ``hypotheses`` computes the product under each
way of summing that hardware uses and sorts them by how far an output is from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels.matmul import KINDS, as_float32
from npusim.errors import InputError, Problem

Float64 = npt.NDArray[np.float64]

# Mantissa bits and smallest exponent. fp22 (1 + 8 + 13 bits) is what fp8 tensor cores were measured to
# accumulate in: DeepSeek-V3 Technical Report, 2024, section 3.3.2.
ACCUMULATORS: dict[str, tuple[int, int]] = {
    "fp16": (10, -14),
    "bf16": (7, -126),
    "fp22": (13, -126),
    "fp32": (23, -126),
    "fp64": (52, -1022),
}
ORDERS = ("sequential", "pairwise", "reverse")
ROUNDINGS = ("nearest", "truncate")


def gemm(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    *,
    accumulate: str = "fp32",
    chunk: int = 0,
    order: str = "sequential",
    rounding: str = "nearest",
    outer: str | None = None,
    round_every: str = "add",
    a_scale: npt.NDArray[Any] | None = None,
    b_scale: npt.NDArray[Any] | None = None,
) -> Float64:
    """``C = A B`` with a settable accumulator.

    K is cut into chunks; a chunk is summed in the ``accumulate`` format, multiplied by its scales, and
    added to the total, which is kept in the ``outer`` format. Products are exact in float64, where they
    enter an adder (for fp32 inputs and less; so every sum is a fused multiply-add).

    Args:
        a: (m, k), float32, float16, bfloat16 codes, or float64 (for decoded fp8, fp6, fp4).
        b: (k, n), alike.
        accumulate: ``fp16``, ``bf16``, ``fp22``, ``fp32`` or ``fp64``, of the sums within a chunk.
        chunk: terms of a chunk; 0 for all of K.
        order: ``sequential``, ``reverse`` or ``pairwise`` (a balanced tree) within a chunk; chunks are
            added up in sequence.
        rounding: ``nearest`` (ties to even) or ``truncate`` (towards zero, as some adders do).
        outer: format of the total over chunks; by default ``accumulate``.
        round_every: ``add``, or ``chunk`` for a unit that sums a chunk exactly and rounds once.
        a_scale: (m, chunks) factors of the chunks of A's rows; needs ``chunk``.
        b_scale: (chunks, n) factors of the chunks of B's columns; needs ``chunk``.

    Returns:
        (m, n) float64, each a number of the ``outer`` format.

    Raises:
        InputError: an unknown name, a bad chunk, or shapes that do not match.
    """
    left, right = _values(a, "a"), _values(b, "b")
    if left.shape[1] != right.shape[0]:
        raise InputError(Problem(f"a {left.shape} and b {right.shape} do not match", "b"))
    total_format = outer or accumulate
    _known(accumulate, "accumulate", tuple(ACCUMULATORS))
    _known(total_format, "outer", tuple(ACCUMULATORS))
    _known(order, "order", ORDERS)
    _known(rounding, "rounding", ROUNDINGS)
    _known(round_every, "round_every", ("add", "chunk"))
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 0:
        raise InputError(Problem(f"chunk is {chunk!r}"[:100], "chunk", allowed="an integer of at least 0"))
    k = left.shape[1]
    length = chunk or max(k, 1)
    chunks = -(-k // length)
    scales = _scales(a_scale, b_scale, (left.shape[0], right.shape[1]), chunks)
    inner = "fp64" if round_every == "chunk" else accumulate
    total = np.zeros((left.shape[0], right.shape[1]))
    with np.errstate(all="ignore"):
        for index in range(chunks):
            part = slice(index * length, min((index + 1) * length, k))
            total_of_chunk = round_to(
                _chunk_sum(left[:, part], right[part], inner, order, rounding), accumulate, rounding
            )
            total = round_to(total + total_of_chunk * scales[index], total_format, rounding)
    return total


def round_to(x: Float64, fmt: str, rounding: str = "nearest") -> Float64:
    """``x`` rounded to an accumulator format; beyond its range infinite (or the largest number, if truncating)."""
    mantissa, least = ACCUMULATORS[fmt]
    if fmt == "fp64":
        return x
    _, exponent = np.frexp(x)
    step = np.ldexp(1.0, np.maximum(exponent - 1, least) - mantissa)
    rounded: Float64 = (np.rint(x / step) if rounding == "nearest" else np.trunc(x / step)) * step
    largest = (2.0 - 2.0**-mantissa) * 2.0 ** (1 - least)
    beyond = np.abs(rounded) > largest
    limit = np.inf if rounding == "nearest" else largest
    rounded = np.where(beyond & np.isfinite(x), np.copysign(limit, x), rounded)
    return np.where(np.isfinite(x), rounded, x)


@dataclass(frozen=True)
class Hypothesis:
    """One way of summing, and how far the output is from what it gives.

    Args:
        settings: keyword arguments of ``gemm``.
        identical: share of elements that are equal in every bit, once rounded to the output's format.
        error: largest absolute difference.
    """

    settings: dict[str, Any]
    identical: float
    error: float


def hypotheses(
    output: npt.NDArray[Any], a: npt.NDArray[Any], b: npt.NDArray[Any], chunks: tuple[int, ...] = (0, 32, 128)
) -> list[Hypothesis]:
    """Every combination of accumulator, chunk, order and rounding, the closest to ``output`` first.

    Args:
        output: (m, n) float32 or float16, what the device computed.
        a: (m, k), what it computed it from.
        b: (k, n).
        chunks: lengths of chunks to try.

    Raises:
        InputError: as ``gemm``, or an output of another shape.
    """
    if not isinstance(output, np.ndarray) or output.shape != (a.shape[0], b.shape[1]):
        raise InputError(Problem("output is not an array of shape (m, n)", "output"))
    found = []
    for accumulate in ("fp16", "bf16", "fp22", "fp32"):
        for chunk in chunks:
            for order in ORDERS:
                for rounding in ROUNDINGS:
                    settings = {"accumulate": accumulate, "chunk": chunk, "order": order, "rounding": rounding}
                    expected = gemm(a, b, accumulate=accumulate, chunk=chunk, order=order, rounding=rounding)
                    with np.errstate(over="ignore"):
                        same = float(np.mean(expected.astype(output.dtype) == output)) if output.size else 1.0
                    error = float(np.max(np.abs(expected - output.astype(np.float64)), initial=0.0))
                    found.append(Hypothesis(settings, same, error))
    return sorted(found, key=lambda h: (-h.identical, h.error))


def _chunk_sum(a: Float64, b: Float64, fmt: str, order: str, rounding: str) -> Float64:
    steps = range(a.shape[1])
    if order == "pairwise":
        return _tree(a, b, 0, a.shape[1], fmt, rounding)
    total = np.zeros((a.shape[0], b.shape[1]))
    for p in steps if order == "sequential" else reversed(steps):
        total = round_to(total + a[:, p : p + 1] * b[p], fmt, rounding)
    return total


def _tree(a: Float64, b: Float64, start: int, end: int, fmt: str, rounding: str) -> Float64:
    if end - start == 1:
        return round_to(a[:, start:end] * b[start], fmt, rounding)
    middle = (start + end + 1) // 2
    left, right = _tree(a, b, start, middle, fmt, rounding), _tree(a, b, middle, end, fmt, rounding)
    return round_to(left + right, fmt, rounding)


def _values(x: Any, name: str) -> Float64:
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.name not in (*KINDS, "float64"):
        raise InputError(Problem(f"{name} is not a matrix of floats", name, allowed="float64, " + ", ".join(KINDS)))
    return x if x.dtype == np.float64 else as_float32(x).astype(np.float64)


def _known(value: Any, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(Problem(f"{name} is {value!r}"[:100], name, allowed=", ".join(allowed)))


def _scales(a_scale: Any, b_scale: Any, shape: tuple[int, int], chunks: int) -> Float64:
    """(chunks, m, n) factors of the chunk sums."""
    rows = np.ones((shape[0], chunks)) if a_scale is None else np.asarray(a_scale, np.float64)
    cols = np.ones((chunks, shape[1])) if b_scale is None else np.asarray(b_scale, np.float64)
    if rows.shape != (shape[0], chunks) or cols.shape != (chunks, shape[1]):
        allowed = f"a_scale ({shape[0]}, {chunks}), b_scale ({chunks}, {shape[1]})"
        raise InputError(Problem(f"scales of shape {rows.shape} and {cols.shape}", "a_scale", allowed=allowed))
    product: Float64 = rows.T[:, :, None] * cols[:, None, :]
    return product
