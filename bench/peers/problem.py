"""What is timed: one op on one shape, with operands, our call, and the judge of an output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import npukernels as nk
from bench.peaks import Work
from npusim.errors import Finding

Array = npt.NDArray[Any]
SAMPLED = 64  # rows of a large output that are judged


@dataclass(frozen=True)
class Judge:
    """Judges some rows of an output.

    The operands of a large problem repeat the rows of a small golden case, so that its proof covers them: computing
    a large case in float64 would take far longer than the timing.

    Args:
        case: golden case whose ``expected`` holds the rows of ``index``.
        index: which rows of the output.
        axis: of the rows.
    """

    case: nk.Case
    index: npt.NDArray[np.int64]
    axis: int = 0

    def part(self, output: Array) -> Array:
        """The rows of an output that are judged."""
        rows = np.asarray(output).reshape(self._shape(output))
        return np.ascontiguousarray(np.take(rows, self.index, self.axis))

    def check(self, output: Array) -> None:
        """Raises ``Finding`` where an element is beyond the proven bound."""
        found = nk.check(self.part(output), self.case)
        if found.verdict != "PASS":
            raise Finding(str(found))

    def error(self, output: Array) -> float:
        """Distance from the exact result as a share of its length, infinite where it is not finite."""
        got = self.part(output).astype(np.float64)
        distance = float(np.linalg.norm((got - self.case.expected).ravel()))
        return distance / float(np.linalg.norm(self.case.expected.ravel())) if np.isfinite(distance) else float("inf")

    def _shape(self, output: Array) -> tuple[int, ...]:
        shape = list(self.case.expected.shape)
        shape[self.axis] = -1
        return tuple(shape)


def repeated(case: nk.Case, rows: int, axis: int = 0) -> Judge:
    """Judge of an output whose ``rows`` rows are those of ``case`` over and over."""
    index = np.unique(np.linspace(0, rows - 1, min(rows, SAMPLED)).round().astype(np.int64))
    at = index % case.expected.shape[axis]
    expected, bound = (np.take(x, at, axis) for x in (case.expected, case.bound))
    return Judge(dataclasses.replace(case, expected=expected, bound=bound), index, axis)


def cycled(x: Array, rows: int, axis: int = 0) -> Array:
    """``rows`` rows that are those of ``x`` over and over."""
    return np.ascontiguousarray(np.take(x, np.arange(rows) % x.shape[axis], axis))


@dataclass(frozen=True)
class Problem:
    """One op on one shape.

    Args:
        op: what adapters know it by.
        group: shape class whose bar counts it.
        shape: as printed.
        work: what it cannot avoid.
        inputs: operands by name, as NumPy arrays.
        ours: our call; returns its output.
        judge: of outputs.
        check: raises where our output is wrong; None: ``judge.check``.
        options: what else adapters need to know.
        tolerance: distance up to which a peer's output counts as the same result.
    """

    op: str
    group: str
    shape: str
    work: Work
    inputs: Mapping[str, Array]
    ours: Callable[[], Array]
    judge: Judge
    check: Callable[[Array], None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-3

    def verify(self, output: Array) -> None:
        """Raises where our output is wrong."""
        (self.check or self.judge.check)(output)

    def right(self, output: Array) -> bool:
        """Whether a peer computed the same, as far as its way of computing allows."""
        return self.judge.error(output) <= self.tolerance


@dataclass(frozen=True)
class Runner:
    """A peer's call on one problem.

    Args:
        run: the call; what it returns goes to ``read``.
        read: makes a NumPy array of it.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Array] = np.asarray


Maker = Callable[[Problem], Mapping[str, Runner]]


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Args:
        name: as printed.
        load: imports it, holds it to one thread and returns its version; raises ImportError where it is missing.
        offers: by op, what makes its runners; keys are names of the ways it has, empty for its only one.
    """

    name: str
    load: Callable[[], str]
    offers: Mapping[str, Maker]
