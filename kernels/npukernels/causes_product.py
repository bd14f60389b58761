"""Mistakes inside a matrix product: the product is made again with the mistake, and compared.

They apply to any case whose expected output is the product of its first two inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels import formats
from npukernels.cases import Case
from npukernels.outputs import CODES, Float64, limits

# Above this many multiply-adds a product is not made again (seconds).
_MOST_WORK = 2**31
# Sums are emulated for this many rows and columns at most.
_SAMPLE = 24


def operands(case: Case) -> tuple[Float64, Float64] | None:
    """The first two inputs as (m, k) and (k, n) matrices when their shapes make the output's, else None."""
    if len(case.inputs) < 2 or case.expected.ndim != 2:
        return None
    a, b = case.inputs[:2]
    m, n = case.expected.shape
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != m or a.size == 0:
        return None
    k = a.shape[1]
    if m * n * k > _MOST_WORK or b.shape not in ((k, n), (n, k)):
        return None
    left, right = _numbers(a, case), _numbers(b, case)
    if left is None or right is None:
        return None
    return left, right if b.shape == (k, n) else right.T


def _numbers(x: npt.NDArray[Any], case: Case) -> Float64 | None:
    if x.dtype.kind not in "fiu":
        return None
    if CODES.get(case.dtype) == x.dtype.name:
        return formats.decode(x, case.dtype).astype(np.float64)
    return x.astype(np.float64)


def _to_nearest(x: Float64, dropped: int) -> Float64:
    """Rounds to float32 numbers whose last ``dropped`` bits are zero: 16 gives bf16, 13 tf32."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    half = np.uint64(1 << (dropped - 1))
    bits += half - np.uint64(1) + ((bits >> np.uint64(dropped)) & np.uint64(1))
    kept = (bits & ~np.uint64((1 << dropped) - 1)).astype(np.uint32)
    return kept.view(np.float32).astype(np.float64)


def _fp16(x: Float64) -> Float64:
    """Rounds to binary16."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64)


def _bf16(x: Float64) -> Float64:
    return _to_nearest(x, 16)


def _tf32(x: Float64) -> Float64:
    return _to_nearest(x, 13)


# Roundings to formats narrower than float32, with their unit roundoffs; narrowest first.
NARROWER: dict[str, tuple[Callable[[Float64], Float64], float]] = {
    "bf16": (_bf16, 2.0**-8),
    "fp16": (_fp16, 2.0**-11),
    "tf32": (_tf32, 2.0**-11),
}


def guess(case: Case, got: Float64, within: float) -> str:
    """The mistake in the product that gives ``got``; empty when none does, or the case is no product.

    Args:
        case: what is judged.
        got: the output.
        within: bounds an explanation may be off by.
    """
    pair = operands(case)
    if pair is None or (np.abs(pair[0] @ pair[1] - case.expected) > within * case.bound).any():
        return ""
    k, exact = pair[0].shape[1], not case.bound.any()
    for cause, left, right in _mistakes(*pair):
        # Other operands may cancel less than the right ones, and their rounding errors are then larger.
        own = 0.0 if exact else k * 2.0**-24 * (np.abs(left) @ np.abs(right))
        if (np.abs(got - left @ right) <= within * (case.bound + own)).all():
            return cause
    return _accumulator(*pair, got, case)


def _mistakes(a: Float64, b: Float64) -> Iterator[tuple[str, Float64, Float64]]:
    (m, k), n = a.shape, b.shape[1]
    if k > 1 and n > 1:
        yield "operand layout: input 1 is read transposed", a, b.reshape(n, k).T
    if k > 1 and m > 1:
        yield "operand layout: input 0 is read transposed", a.reshape(k, m).T, b
    for dropped in sorted({1, *(k % width for width in (4, 8, 16, 32, 64, 128))} - {0}):
        if dropped < k:
            yield f"missing terms: the last {dropped} of k = {k}", a[:, :-dropped], b[:-dropped]
    if k > 1:
        yield "missing terms: the first of k", a[:, 1:], b[1:]
        even = k - k % 2
        swapped = np.arange(k)
        swapped[:even] ^= 1
        yield "swapped pairs: elements 2i and 2i + 1 along k of one input are exchanged (nibble order)", a, b[swapped]
        if k > 2:
            yield "operand shift: input 1 starts one too late along k", a, np.roll(b, -1, axis=0)
            yield "operand shift: input 1 starts one too early along k", a, np.roll(b, 1, axis=0)
    for name in ("tf32", "fp16", "bf16"):  # fp16 inputs are tf32 inputs too unless they overflow: the wider first
        narrow, _ = NARROWER[name]
        yield f"input precision: inputs rounded to {name}", narrow(a), narrow(b)


def _accumulator(a: Float64, b: Float64, got: Float64, case: Case) -> str:
    """Sums kept in a narrow format, term after term: most of a sample must agree to the last bit."""
    rows = np.unique(np.linspace(0, a.shape[0] - 1, _SAMPLE).astype(int))
    cols = np.unique(np.linspace(0, b.shape[1] - 1, _SAMPLE).astype(int))
    sample, k = got[np.ix_(rows, cols)], a.shape[1]
    for name in ("fp16", "bf16"):
        narrow, _ = NARROWER[name]
        for exact_products in (True, False):
            total = np.zeros(sample.shape)
            for p in range(k):
                term = np.outer(a[rows, p], b[p, cols])
                total = narrow(total + (term if exact_products else narrow(term)))
            if _agree(total, sample, case.out_dtype):
                return f"low-precision accumulator: the elements are sums kept in {name}, in the order of k"
    if case.out_dtype in ("int32", "float32") and case.bound.max(initial=0.0) == 0:
        for bits in (8, 16, 24):
            exact = a[rows] @ b[:, cols]
            wrapped = (exact + 2.0 ** (bits - 1)) % 2.0**bits - 2.0 ** (bits - 1)
            clipped = np.clip(exact, -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
            if np.array_equal(sample, wrapped) and not np.array_equal(exact, wrapped):
                return f"low-precision accumulator: the sums wrap around in {bits} bits"
            if np.array_equal(sample, clipped) and not np.array_equal(exact, clipped):
                return f"low-precision accumulator: the sums saturate in {bits} bits"
    return ""


def _agree(total: Float64, sample: Float64, out_dtype: str) -> bool:
    if out_dtype.startswith("int"):
        low, high = limits(out_dtype)
        total = np.clip(total, low, high)
    return bool((total == sample).mean() >= 0.9 and np.unique(sample).size > 1)
