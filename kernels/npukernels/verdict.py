"""Judges an output against a golden case.

PASS: every error is within the bound, ratio <= 1. The bound is proven, so no correct IEEE kernel
fails it. MARGINAL: ratio up to 4. Units that truncate instead of rounding double the unit roundoff
(Higham, section 2.1), and those that also drop a guard bit when they align their summands double it
again; such a result is what the hardware gives, but not what IEEE arithmetic gives. FAIL: more than
that, or a wrong shape or dtype, or a value that is not finite. With an integer fill the bound is
zero: exact or FAIL.

A worst-case bound grows with k and the errors of a random sum with its square root, so for long sums
a PASS of the ``uniform`` fill leaves room for a sloppy kernel; ``integer`` leaves none. ``max_ulp``
and ``nmse`` are given for reading, not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels.cases import Case, Float64
from npusim.errors import Finding

Index: TypeAlias = tuple[int, ...]

PASS, MARGINAL, FAIL = "PASS", "MARGINAL", "FAIL"
MARGINAL_RATIO = 4.0


@dataclass(frozen=True)
class Bad:
    """An element outside the bound: where, what it should be, what it is, and error / bound."""

    index: Index
    expected: float
    got: float
    ratio: float

    def __str__(self) -> str:
        values = f"expected {self.expected:.9g} got {self.got:.9g}"
        return f"{list(self.index)} {values} ({self.ratio:.3g} x bound)"


@dataclass(frozen=True)
class Check:
    """What ``check`` found.

    Args:
        verdict: PASS, MARGINAL or FAIL.
        ratio: largest error in units of the bound; infinite for a wrong shape, dtype or value.
        max_ulp: largest distance to the correctly rounded result, in representable numbers.
        nmse: sum of squared errors over sum of squared expected values.
        bad: elements outside the bound.
        first: the first of them in row-major order.
        worst: the one of largest ratio.
        cause: a guess at what went wrong; empty for PASS.
        repro: Python code that makes the case again.
    """

    verdict: str
    ratio: float
    max_ulp: float
    nmse: float
    bad: int
    first: Bad | None
    worst: Bad | None
    cause: str
    repro: str

    def __str__(self) -> str:
        numbers = f"error / bound {self.ratio:.3g}, {self.max_ulp:.3g} ulp, NMSE {self.nmse:.2g}"
        lines = [f"{self.verdict}: {numbers}"]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.first and self.worst:
            lines += [f"  {self.bad} bad, first {self.first}", f"  worst {self.worst}"]
        return "\n".join([*lines, f"  repro: {self.repro}"])

    def raise_for_status(self) -> Check:
        """Returns itself unless the verdict is FAIL. Raises Finding with the report if it is."""
        if self.verdict == FAIL:
            raise Finding(str(self))
        return self


def check(output: Any, case: Case) -> Check:
    """Judges ``output`` against ``case``.

    Args:
        output: what a kernel made of ``case.inputs``; anything else than a float32 array of the
            expected shape is a FAIL, not an exception.
        case: from ``golden``.
    """
    problem = _wrong_type(output, case)
    if problem:
        inf = float("inf")
        return Check(FAIL, inf, inf, inf, int(case.expected.size), None, None, problem, case.repro)
    got: Float64 = output.astype(np.float64)
    ratios = _ratios(got, case.expected, case.bound)
    ratio = float(ratios.max(initial=0.0))
    verdict = PASS if ratio <= 1 else MARGINAL if ratio <= MARGINAL_RATIO else FAIL
    outside = ratios > 1
    first = worst = None
    if outside.any():
        first = _bad(int(np.argmax(outside)), got, case, ratios)
        worst = _bad(int(np.argmax(ratios)), got, case, ratios)
    return Check(
        verdict=verdict,
        ratio=ratio,
        max_ulp=_max_ulp(output, case.expected),
        nmse=_nmse(got, case.expected),
        bad=int(outside.sum()),
        first=first,
        worst=worst,
        cause="" if verdict == PASS else _guess(got, outside, case),
        repro=case.repro,
    )


def _wrong_type(output: Any, case: Case) -> str:
    if not isinstance(output, np.ndarray):
        return f"wrong type: {type(output).__name__}, expected a NumPy array"
    shape = case.expected.shape
    if output.shape != shape:
        swapped = output.shape == shape[::-1]
        return f"wrong shape: {output.shape}, expected {shape}" + (", transposed" if swapped else "")
    if output.dtype != np.float32:
        return f"wrong dtype: {output.dtype}, expected float32"
    return ""


def _ratios(got: Float64, expected: Float64, bound: Float64) -> Float64:
    """Error / bound; 0 where exact, infinite where not finite or where a bound of 0 is missed."""
    error = np.abs(got - expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(error == 0, 0.0, error / bound)
    return np.where(np.isfinite(error), ratios, np.inf)


def _bad(flat: int, got: Float64, case: Case, ratios: Float64) -> Bad:
    index = tuple(int(i) for i in np.unravel_index(flat, got.shape))
    return Bad(index, float(case.expected[index]), float(got[index]), float(ratios[index]))


def _ordered(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Integers in the order of the floats, adjacent for adjacent floats, equal for both zeros."""
    bits = np.ascontiguousarray(x).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _max_ulp(output: npt.NDArray[np.float32], expected: Float64) -> float:
    if not np.isfinite(output).all():
        return float("inf")
    distance = np.abs(_ordered(output) - _ordered(expected.astype(np.float32)))
    return float(distance.max(initial=0))


def _nmse(got: Float64, expected: Float64) -> float:
    if not np.isfinite(got).all():
        return float("inf")
    error, power = float(np.sum((got - expected) ** 2)), float(np.sum(expected**2))
    return error / power if power else (0.0 if error == 0 else float("inf"))


def _guess(got: Float64, outside: npt.NDArray[np.bool_], case: Case) -> str:
    """The first explanation that accounts for every bad element."""
    if not np.isfinite(got).all():
        return f"non-finite: {int((~np.isfinite(got)).sum())} elements are NaN or infinite"
    if not got.any():
        return "not written: all elements are zero"
    for cause, ours, theirs, bound in _rearrangements(got, case):
        if ours.size and (_ratios(ours, theirs, bound) <= MARGINAL_RATIO).all():
            return cause
    return _where_it_is(outside) or _how_it_rounds(got, case)


def _rearrangements(got: Float64, case: Case) -> Iterator[tuple[str, Float64, Float64, Float64]]:
    """(cause, output, expected, bound) with the output as it would be had that happened."""
    c, e = case.expected, case.bound
    yield "sign: the output is negated", -got, c, e
    yield "accumulated twice: the output is doubled", got / 2, c, e
    if c.ndim != 2:
        return
    if c.shape[0] == c.shape[1]:
        yield "transposed", got.T, c, e
    if c.shape[0] > 2:
        yield "row shift: rows are one too low (off by one)", got[1:], c[:-1], e[:-1]
        yield "row shift: rows are one too high (off by one)", got[:-1], c[1:], e[1:]
    if c.shape[1] > 2:
        yield "column shift: columns are one too far right (off by one)", got[:, 1:], c[:, :-1], e[:, :-1]
        yield "column shift: columns are one too far left (off by one)", got[:, :-1], c[:, 1:], e[:, 1:]


def _where_it_is(outside: npt.NDArray[np.bool_]) -> str:
    """Names the region when the bad elements keep to one."""
    if outside.sum() == 1:
        return "one element"
    where = np.argwhere(outside)
    for axis, name in ((0, "row"), (1, "column")):
        if outside.ndim != 2 or outside.shape[axis] < 4:
            continue
        first, last, size = int(where[:, axis].min()), int(where[:, axis].max()), outside.shape[axis]
        if first == last:
            return f"one {name}: {first}"
        if last == size - 1 and first >= size / 2:
            return f"edge tile: only {name}s {first} to {last} of {size} are wrong"
    return ""


def _how_it_rounds(got: Float64, case: Case) -> str:
    """Small errors everywhere are those of a narrow format, large ones of a wrong algorithm."""
    nmse = _nmse(got, case.expected)
    if np.array_equal(got, _to_bf16(got)):
        return "precision: every element is a bf16 number, output rounded or accumulated in bf16"
    if nmse < 1e-3:
        return f"precision: small errors everywhere (NMSE {nmse:.1g}), inputs or sums in a narrower format"
    return "values differ everywhere: wrong operands, strides or missing terms"


def _to_bf16(x: Float64) -> Float64:
    """Drops the bits that bf16 does not hold."""
    bits = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)
