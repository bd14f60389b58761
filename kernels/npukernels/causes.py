"""Guesses at what went wrong: each rule plays one mistake through and sees whether it gives the output.

A rule answers only when its mistake accounts for every bad element within the error bound, so that a wrong
guess is unlikely; what no rule accounts for is called unexplained. The words before the colon name the kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import causes_ops as ops
from npukernels import causes_product as products
from npukernels.cases import Case
from npukernels.outputs import Float64, is_integer, limits

# A mistake accounts for the output when it leaves errors of at most this many bounds (verdict.MARGINAL_RATIO).
WITHIN = 4.0

# Unit roundoffs: half the step from 1 to the next number.
_UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bf16": 2.0**-8,
    "fp8": 2.0**-4,
    "fp8_e5m2": 2.0**-3,
    "fp6": 2.0**-4,
    "fp6_e3m2": 2.0**-3,
    "fp4": 2.0**-2,
}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the rules look at.

    Args:
        got: the output, float64.
        raw: the output as it came.
        bad: which elements are outside the bound.
        case: what it is judged against.
    """

    got: Float64
    raw: npt.NDArray[Any]
    bad: npt.NDArray[np.bool_]
    case: Case

    @property
    def expected(self) -> Float64:
        """What the output should be."""
        return self.case.expected

    @property
    def error(self) -> Float64:
        """Output minus expected."""
        return self.got - self.expected

    @property
    def integer(self) -> bool:
        """Whether the output holds integers."""
        return is_integer(self.case.out_dtype)

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Elements that neither the output nor the expectation has at a limit of an integer format."""
        if not self.integer:
            return np.ones(self.got.shape, dtype=bool)
        low, high = limits(self.case.out_dtype)
        return (np.minimum(self.got, self.expected) > low) & (np.maximum(self.got, self.expected) < high)

    def axis_name(self, axis: int) -> str:
        """``row`` and ``column`` of a matrix, ``axis 2`` of others."""
        return ("row", "column")[axis] if self.got.ndim == 2 else f"axis {axis}"


def within(got: Float64, expected: Float64, bound: Float64) -> bool:
    """Whether ``got`` is ``expected`` up to ``WITHIN`` bounds everywhere."""
    return bool(got.size and (np.abs(got - expected) <= WITHIN * bound).all())


def guess(evidence: Evidence) -> str:
    """The first mistake that accounts for every bad element."""
    with np.errstate(all="ignore"):
        for rule in _RULES:
            cause = rule(evidence)
            if cause:
                return cause
    return "unexplained: wrong values everywhere; wrong operands, strides or missing terms"


def guess_marginal(evidence: Evidence) -> str:
    """For outputs within ``WITHIN`` bounds: where, or what hardware rounds so."""
    return _region(evidence) or (
        "rounding: errors of up to 4 bounds, as of a unit that truncates or drops guard bits (see the documentation)"
    )


# -- values that no arithmetic gives --------------------------------------------------------------------------


def _byte_order(e: Evidence) -> str:
    kind = e.raw.dtype
    if kind.itemsize == 1 or kind.name != e.case.out_dtype:
        return ""
    if within(e.raw.byteswap().astype(np.float64), e.expected, e.case.bound):
        return "byte order: the bytes of each element are in the opposite order"
    return ""


def _saturation(e: Evidence) -> str:
    """Bad only where the result is the largest or smallest number of the format."""
    low, high = limits(e.case.out_dtype)
    clipped = (e.expected == low) | (e.expected == high)
    if not (clipped & e.bad).any() or (e.bad & ~clipped).any():
        return ""
    count = int(e.bad.sum())
    if not e.integer and not np.isfinite(e.got[e.bad]).any():
        return f"non-saturating cast: {count} elements are infinite or NaN where {high:g} is expected"
    wrapped = np.abs(e.error[e.bad]) > 1
    if e.integer and wrapped.mean() > 0.9 and clipped.mean() < 0.9:
        return f"non-saturating cast: {count} elements wrapped around where {low:g} or {high:g} is expected"
    return ""


def _non_finite(e: Evidence) -> str:
    wrong = int((~np.isfinite(e.got[e.bad])).sum())
    return f"non-finite: {wrong} elements are NaN or infinite" if wrong else ""


def _not_written(e: Evidence) -> str:
    if e.got.size < 2 or not (e.got == e.got.flat[0]).all():
        return ""
    value = float(e.got.flat[0])
    return f"not written: all elements are {value:g}" if value else "not written: all elements are zero"


# -- the right values in the wrong places -----------------------------------------------------------------------


def _rearranged(e: Evidence) -> str:
    for cause, got, expected, bound in itertools.chain(_swapped_axes(e), _shifted(e), _pairs(e)):
        if within(got, expected, bound):
            return cause
    return ""


Candidate: TypeAlias = tuple[str, Float64, Float64, Float64]


def _swapped_axes(e: Evidence) -> Iterator[Candidate]:
    """The buffer as it would be had two axes changed places."""
    for i, j in itertools.combinations(range(e.got.ndim), 2):
        shape = list(e.got.shape)
        if min(shape[i], shape[j]) < 2:
            continue
        shape[i], shape[j] = shape[j], shape[i]
        last = (i, j) == (e.got.ndim - 2, e.got.ndim - 1)
        name = "transposed" if e.got.ndim == 2 else f"transposed: axes {i} and {j} are exchanged"
        yield (
            name + (": the last two axes" if last and e.got.ndim > 2 else ""),
            *_pair(e, e.got.reshape(shape).swapaxes(i, j)),
        )


def _pair(e: Evidence, got: Float64) -> tuple[Float64, Float64, Float64]:
    return got, e.expected, e.case.bound


def _shifted(e: Evidence) -> Iterator[Candidate]:
    """Everything one row, one column, or one element further on or back."""
    c, bound = e.expected, e.case.bound
    got, flat, flat_bound = e.got.ravel(), c.ravel(), bound.ravel()
    if flat.size > 3 and c.ndim > 1:
        yield "element shift: the output starts one element too late", got[1:], flat[:-1], flat_bound[:-1]
        yield "element shift: the output starts one element too early", got[:-1], flat[1:], flat_bound[1:]
    ways = {0: ("one too low", "one too high"), 1: ("one too far right", "one too far left")}
    for axis in range(c.ndim):
        if c.shape[axis] < 3:
            continue
        name = e.axis_name(axis)
        subject = f"{name}s are" if c.ndim == 2 else "it is"
        later, earlier = ways[axis] if c.ndim == 2 else ("one too far", "one too early")
        head = tuple(slice(None, -1) if i == axis else slice(None) for i in range(c.ndim))
        tail = tuple(slice(1, None) if i == axis else slice(None) for i in range(c.ndim))
        yield f"{name} shift: {subject} {later} (off by one)", e.got[tail], c[head], bound[head]
        yield f"{name} shift: {subject} {earlier} (off by one)", e.got[head], c[tail], bound[tail]


def _pairs(e: Evidence) -> Iterator[Candidate]:
    if e.got.ndim and e.got.shape[-1] >= 2 and e.got.shape[-1] % 2 == 0:
        swapped = e.got.reshape(-1, 2)[:, ::-1].reshape(e.got.shape)
        yield (
            "swapped pairs: elements 2i and 2i + 1 are exchanged, as by nibbles in the wrong order",
            *_pair(e, swapped),
        )
    if e.got.ndim and e.got.shape[-1] >= 4:
        yield "reversed: the last axis runs backwards", *_pair(e, e.got[..., ::-1])


def _permuted(e: Evidence) -> str:
    if e.got.size >= 4 and np.unique(e.expected).size > e.got.size // 2:
        order = np.argsort(e.expected, axis=None)
        got = np.sort(e.got, axis=None)
        if within(got, e.expected.ravel()[order], e.case.bound.ravel()[order]):
            return "permuted: the values are right but stand in other places"
    return ""


# -- only a part is wrong -----------------------------------------------------------------------------------------


def _region(e: Evidence) -> str:
    """Names the region when the bad elements keep to one."""
    if e.bad.sum() == 1:
        return "one element: all others are right"
    where = np.argwhere(e.bad)
    for axis, size in enumerate(e.bad.shape):
        if size < 4 or not where.size:
            continue
        name = e.axis_name(axis)
        first, last = int(where[:, axis].min()), int(where[:, axis].max())
        if first == last:
            return f"one {name}: {first}" if e.bad.ndim == 2 else f"one slice: index {first} of {name}"
        if last == size - 1 and first >= size / 2:
            plural = f"{name}s" if e.bad.ndim == 2 else f"indices of {name},"
            return f"edge tile: only {plural} {first} to {last} of {size} are wrong"
    return _inner_tile(e, where)


def _inner_tile(e: Evidence, where: npt.NDArray[np.intp]) -> str:
    """A box of at most a quarter of the output that the bad elements fill."""
    if e.bad.ndim < 2 or len(where) < 4:
        return ""
    low, high = where.min(axis=0), where.max(axis=0) + 1
    box = int(np.prod(high - low))
    if 4 * box > e.bad.size or len(where) < 0.75 * box:
        return ""
    parts = [
        f"{e.axis_name(axis)}{'s' if e.bad.ndim == 2 else ''} {low[axis]} to {high[axis] - 1}"
        for axis in range(e.bad.ndim)
        if high[axis] - low[axis] < e.bad.shape[axis]
    ]
    zero = "; all its elements are zero: not written" if not e.got[e.bad].any() else ""
    return f"inner tile: only {' and '.join(parts)} are wrong{zero}"


# -- a factor or an addend -----------------------------------------------------------------------------------------


def _along(values: Float64, axis: int | None) -> Float64:
    """Sums over all axes but ``axis``, kept for broadcasting; ``None`` sums over all."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    total: Float64 = values.sum(axis=others, keepdims=True)
    return total


def _groups(e: Evidence) -> Iterator[tuple[int | None, npt.NDArray[np.int64]]]:
    """The whole output, then each axis, with the number of telling elements that share a factor or addend."""
    telling = e.inside & (e.expected != 0)
    for axis in (None, *range(e.got.ndim)):
        counts = np.atleast_1d(_along(telling.astype(np.float64), axis).squeeze()).astype(np.int64)
        if (counts >= 3).sum() >= (1 if axis is None else 2) and (counts[counts > 0] >= 3).all():
            yield axis, counts


def _scale(e: Evidence) -> str:
    """Output over expected is one number, or one for each index of an axis."""
    roundoff = _UNIT_ROUNDOFF.get(e.case.out_dtype, 0.0)
    inside = e.inside.astype(np.float64)
    for axis, _ in _groups(e):
        power = _along(e.expected**2 * inside, axis)
        ratio = np.where(power > 0, _along(e.got * e.expected * inside, axis) / power, 1.0)
        # Both sides were rounded to the output format, and the ratio is known no better than that.
        slack = 1 + np.abs(ratio) if e.integer else 4 * roundoff * np.abs(e.got)
        tolerance = WITHIN * np.abs(ratio) * e.case.bound + slack
        fits = (np.abs(e.got - ratio * e.expected) <= tolerance) | ~e.inside
        visible = _along(np.abs(ratio * e.expected) * inside, axis) > _along(tolerance * inside, axis)
        if not fits.all() or visible.mean() < 0.5:
            continue
        off = np.abs(ratio - 1) > max(8 * roundoff, 1e-5)
        if off.mean() >= 0.5:
            return _scale_words(e, axis, ratio)
    return ""


def _scale_words(e: Evidence, axis: int | None, ratio: Float64) -> str:
    if axis is None:
        r = float(ratio.flat[0])
        if abs(r + 1) < 1e-3:
            return "sign: the output is negated"
        if abs(r - 2) < 1e-3:
            return "accumulated twice: the output is doubled"
        known = next((f"; {n} = {v:g}" for n, v in e.case.params if isinstance(v, float) and _near(v * r, 1)), "")
        left_out = next(
            (f"; input {i} is not applied" for i, v in _inputs_of_size(e, 1) if _near(float(v[0]) * r, 1)), ""
        )
        return f"scale: the output is {r:.6g} × expected everywhere (missing or wrong scale{known or left_out})"
    name = e.axis_name(axis)
    flat = ratio.ravel()
    match = next((i for i, v in _inputs_of_size(e, flat.size) if _constant(flat * v)), None)
    source = f"; input {match} is not applied" if match is not None else ""
    return (
        f"scale: each {name} has its own ratio to expected, {flat.min():.4g} to {flat.max():.4g} "
        f"(missing or wrong per-channel scale{source})"
    )


def _near(x: float, y: float) -> bool:
    return abs(x - y) <= 1e-3 * abs(y)


def _constant(x: Float64) -> bool:
    return bool(np.isfinite(x).all() and np.ptp(x) <= 1e-2 * np.abs(x).max() and x.any())


def _inputs_of_size(e: Evidence, size: int) -> Iterator[tuple[int, Float64]]:
    """Inputs of that many elements, flat, with their places."""
    for i, x in enumerate(e.case.inputs):
        if x.size == size and x.dtype.kind in "fiu" and x.ndim <= 2:
            yield i, x.ravel().astype(np.float64)


def _tolerance(e: Evidence) -> Float64:
    """What an added number may be missed by: the bound, and the rounding of the sum to the output format."""
    roundoff = _UNIT_ROUNDOFF.get(e.case.out_dtype, 0.0)
    return WITHIN * e.case.bound + (1.0 if e.integer else 0.0) + 2 * roundoff * np.abs(e.got)


def _offset(e: Evidence) -> str:
    """Output minus expected is one number, or one for each index of an axis."""
    inside = e.inside
    tolerance = _tolerance(e)
    for axis, _ in _groups(e):
        count = np.maximum(_along(inside.astype(np.float64), axis), 1)
        offset = _along(np.where(inside, e.error, 0.0), axis) / count
        if e.integer and e.case.out_dtype == "int32":
            offset = np.rint(offset)
        fits = (np.abs(e.error - offset) <= np.where(e.integer, tolerance / 2, tolerance)) | ~inside
        shown = np.abs(offset) > _along(tolerance * inside, axis) / count / (2 if e.integer else 1)
        if not fits.all() or shown.mean() < 0.5 or _hidden(e, offset):
            continue
        if axis is None:
            return (
                f"offset: the output is expected {float(offset.flat[0]):+.6g} everywhere (wrong zero point, or a bias)"
            )
        flat = offset.ravel()
        bias = next((i for i, v in _inputs_of_size(e, flat.size) if _same(-flat, v, float(tolerance.max()))), None)
        source = f"; input {bias} is left out" if bias is not None else ""
        return (
            f"offset: each {e.axis_name(axis)} is off by its own constant, {flat.min():.4g} to {flat.max():.4g} "
            f"(per-channel zero point or bias{source})"
        )
    return ""


def _hidden(e: Evidence, offset: Float64) -> bool:
    """Whether the offsets are no larger than what rounding leaves."""
    return e.integer and float(np.abs(offset).max()) < 0.75


def _same(x: Float64, y: Float64, tolerance: float) -> bool:
    return bool((np.abs(x - y) <= tolerance + 1e-6 * np.abs(y)).all())


def _sums(e: Evidence) -> str:
    """The error is a sum of z × row sums of the left operand, z × column sums of the right one, and a constant.

    ``(A - za)(B - zb) = A B - zb rowsum(A) - za colsum(B) + k za zb``: what a wrong zero point of A or B leaves.
    """
    operands = products.operands(e.case)
    if operands is None:
        return ""
    rows, cols = operands[0].sum(axis=1), operands[1].sum(axis=0)
    m, n = e.got.shape
    if min(m, n) < 3 or np.ptp(rows) == 0 or np.ptp(cols) == 0:
        return ""
    terms = np.stack([np.repeat(rows, n), np.tile(cols, m), np.ones(m * n)], axis=1)
    inside = e.inside.ravel()
    if inside.sum() < 8:
        return ""
    fit = np.linalg.lstsq(terms[inside], e.error.ravel()[inside], rcond=None)[0]
    left = np.abs(e.error.ravel() - terms @ fit)
    if not ((left <= _tolerance(e).ravel()) | ~inside).all():
        return ""
    moved = np.abs(fit[:2]) * np.array([np.ptp(rows), np.ptp(cols)])
    named = [
        f"{z:+.4g} × {what}"
        for z, what, size in zip(fit, ("row sums of input 0", "column sums of input 1"), moved, strict=False)
        if size > 2 * float(np.median(_tolerance(e)))
    ]
    return f"zero point: the error is {' '.join(named)} (zero point of the other operand)" if named else ""


# -- rounding -------------------------------------------------------------------------------------------------------


def _steps_off(e: Evidence) -> str:
    """Integers that miss by one."""
    if not e.integer or (np.abs(e.error) > 1).any() or np.abs(e.expected).mean() < 2:
        return ""
    if e.bad[e.inside].all():  # then it is an addend
        return ""
    wrong = e.error[e.bad]
    towards_zero = wrong * np.sign(e.expected[e.bad]) < 0
    if (wrong < 0).all():
        how = "all too small: rounded down instead of to nearest"
    elif towards_zero.all():
        how = "all towards zero: truncated instead of rounded to nearest"
    else:
        how = "in both directions: another rounding of ties, or an inexact scale"
    return f"rounding: {wrong.size} elements are off by one, {how}"


def _narrow(e: Evidence) -> str:
    """Small errors everywhere, by the bits the elements have."""
    power = float(np.sum(e.expected**2))
    nmse = float(np.sum(e.error**2)) / power if power else float("inf")
    if e.case.out_dtype != "float32" or nmse > 0.1:
        return ""
    if e.bad.mean() < 0.05 and e.bad.size >= 64:
        return f"unexplained: only {int(e.bad.sum())} of {e.bad.size} elements are wrong, in no single region"
    for name, (narrow, unit) in products.NARROWER.items():
        if not np.array_equal(narrow(e.got), e.got):
            continue
        if (np.abs(e.error) <= 2 * unit * np.abs(e.expected) + WITHIN * e.case.bound).all():
            return f"output precision: every element is the expected one in {name}"
        return f"low-precision accumulator: every element is a {name} number, with errors beyond one rounding"
    return f"precision: small errors everywhere (NMSE {nmse:.1g}), as of inputs, sums or a function of fewer bits"


def _product(e: Evidence) -> str:
    return products.guess(e.case, e.got, WITHIN)


def _of_the_op(e: Evidence) -> str:
    return ops.guess(e.case, e.got, WITHIN)


_RULES: tuple[Callable[[Evidence], str], ...] = (
    _byte_order,
    _saturation,
    _non_finite,
    _not_written,
    _rearranged,
    _region,
    _of_the_op,
    _steps_off,
    _scale,
    _sums,
    _offset,
    _product,
    _permuted,
    _narrow,
)
