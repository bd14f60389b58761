"""Judges an output against a golden case.

PASS: every error is within the bound, ratio <= 1. The bound is proven, so no correct IEEE kernel
fails it. MARGINAL: ratio up to 4. Units that truncate instead of rounding double the unit roundoff
(Higham, section 2.1), and those that also drop a guard bit when they align their summands double it
again; such a result is what the hardware gives, but not what IEEE arithmetic gives. FAIL: more than
that, or a wrong shape or dtype, or a value that is not finite where a finite one is expected. Integers,
and sums of the integer fill, have a bound of zero: exact or FAIL.

A worst-case bound grows with k and the errors of a random sum with its square root, so for long sums
a PASS of the ``uniform`` fill leaves room for a sloppy kernel; ``integer`` leaves none. ``max_ulp``
and ``nmse`` are given for reading, not judged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from npukernels import causes, outputs
from npukernels.cases import Case, Float64
from npusim.errors import Finding

Index: TypeAlias = tuple[int, ...]

PASS, MARGINAL, FAIL = "PASS", "MARGINAL", "FAIL"
MARGINAL_RATIO = causes.WITHIN


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
        cause: a guess at what went wrong, its kind before the colon; empty for PASS.
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

    @property
    def kind(self) -> str:
        """The kind of cause: the words before its colon."""
        return self.cause.partition(":")[0]

    def to_dict(self) -> dict[str, Any]:
        """Every field and ``kind``; numbers that JSON does not have are None."""
        fields = asdict(self) | {"kind": self.kind}
        for bad in (fields["first"], fields["worst"]):
            if bad is not None:
                bad["index"] = list(bad["index"])
                bad.update({name: _finite(bad[name]) for name in ("expected", "got", "ratio")})
        return fields | {name: _finite(fields[name]) for name in ("ratio", "max_ulp", "nmse")}

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
        output: what a kernel made of ``case.inputs``; anything else than an array of the expected shape
            in ``case.out_dtype`` is a FAIL, not an exception.
        case: from ``golden``.
    """
    problem = outputs.problem_of(output, case.expected.shape, case.out_dtype)
    if problem:
        inf = float("inf")
        return Check(FAIL, inf, inf, inf, int(case.expected.size), None, None, problem, case.repro)
    got = outputs.decoded(output, case.expected.shape, case.out_dtype)
    ratios = _ratios(got, case.expected, case.bound)
    ratio = float(ratios.max(initial=0.0))
    verdict = PASS if ratio <= 1 else MARGINAL if ratio <= MARGINAL_RATIO else FAIL
    outside = ratios > 1
    first = worst = None
    cause = ""
    if verdict != PASS:
        first = _bad(int(np.argmax(outside)), got, case, ratios)
        worst = _bad(int(np.argmax(ratios)), got, case, ratios)
        evidence = causes.Evidence(got, output, outside, case)
        cause = causes.guess(evidence) if verdict == FAIL else causes.guess_marginal(evidence)
    return Check(
        verdict=verdict,
        ratio=ratio,
        max_ulp=outputs.max_ulp(got, case.expected, case.out_dtype),
        nmse=_nmse(got, case.expected),
        bad=int(outside.sum()),
        first=first,
        worst=worst,
        cause=cause,
        repro=case.repro,
    )


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _same(got: Float64, expected: Float64) -> Any:
    """Where the two are equal; a NaN is what a NaN should be."""
    return (got == expected) | (np.isnan(got) & np.isnan(expected))


def _ratios(got: Float64, expected: Float64, bound: Float64) -> Float64:
    """Error / bound; 0 where the same, infinite where one is not finite or where a bound of 0 is missed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.abs(got - expected) / bound
    ratios = np.where(np.isfinite(got) & np.isfinite(expected), ratios, np.inf)
    return np.where(_same(got, expected), 0.0, ratios)


def _bad(flat: int, got: Float64, case: Case, ratios: Float64) -> Bad:
    index = tuple(int(i) for i in np.unravel_index(flat, got.shape))
    return Bad(index, float(case.expected[index]), float(got[index]), float(ratios[index]))


def _nmse(got: Float64, expected: Float64) -> float:
    differs = ~_same(got, expected)
    error = got[differs] - expected[differs] if differs.any() else np.zeros(1)
    noise, power = float(np.sum(error**2)), float(np.sum(expected[np.isfinite(expected)] ** 2))
    if not math.isfinite(noise):
        return float("inf")
    return noise / power if power else (0.0 if noise == 0 else float("inf"))
