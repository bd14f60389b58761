"""How far a prediction can be trusted: its state, and the range measured times had around such predictions.

Operators that a calibration document prices have the 80 % interval of its residuals. A model step has the interval
of runs that were measured as a whole (``step/1``), where there are some of its stack. Everything else is
*uncalibrated*: nothing is fitted to measured times. For that npusim states the range of measured / predicted that it
found for the same kind of work on other chips (``catalog/residuals.yaml``, written by ``python -m bench.residuals``).
That is no confidence interval: it claims no coverage for the chip at hand. Whole model steps take the range of
end-to-end runs, not a sum over operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from npusim import yamlio
from npusim.calibration import State
from npusim.chip_parts import Spec
from npusim.cost import Cost, OpCost
from npusim.units import show

if TYPE_CHECKING:
    from npusim.cost.calibrated.step_time import StepTime

RESIDUALS = Path(__file__).parents[1] / "catalog" / "residuals.yaml"
# Kind of an operator → class of its residuals.
CLASSES = {
    "gemm": "gemm",
    "conv2d": "gemm",
    "experts": "experts",
    "attention": "attention",
    "norm": "vector",
    "softmax": "vector",
    "elementwise": "vector",
    "embedding": "vector",
    "collective": "collective",
}
STEP = "end_to_end"
COVERAGE = 0.8  # of the intervals of documents
_NOTHING = "nothing fitted to measured times enters the figures"


class Residual(Spec):
    """Quantiles (10, 50, 90 %) of measured / predicted for one kind of work at one fidelity."""

    kind: str
    fidelity: Literal["roofline", "tile", "calibrated"]  # calibrated: operators by documents, summed
    rows: int = Field(ge=1)
    low: float = Field(gt=0)
    middle: float = Field(gt=0)
    high: float = Field(gt=0)
    chips: tuple[str, ...]


class Residuals(Spec):
    """The file ``catalog/residuals.yaml``."""

    format: Literal["npusim-residuals/1"]
    residuals: tuple[Residual, ...]


@dataclass(frozen=True)
class Trust:
    """State of a prediction and the range of measured / predicted for its kind of work.

    Args:
        state: ``calibrated``, ``transferred`` or ``uncalibrated``.
        kind: class of work the range is of.
        low: tenth percentile of measured / predicted.
        high: ninetieth percentile.
        rows: measured rows behind it.
        chips: chips they were measured on.
        document: the calibration whose residuals these are; ``""`` for a class of uncalibrated predictions.
        expected_s: measured time the document expects of a whole step, what lies between operators included.
        fold_mape_pct: cross-validated error of the document.
        fitted: documents priced operators, but none describes the step.
    """

    state: State
    kind: str
    low: float
    high: float
    rows: int
    chips: tuple[str, ...]
    document: str = ""
    expected_s: float | None = None
    fold_mape_pct: float | None = None
    fitted: bool = False

    def to_dict(self, time_s: float) -> dict[str, Any]:
        """For JSON, with the range applied to a predicted time in seconds."""
        return {
            "state": self.state, "kind": self.kind, "measured_over_predicted_p10": self.low,
            "measured_over_predicted_p90": self.high, "range_low_s": self.low * time_s,
            "range_high_s": self.high * time_s, "rows": self.rows, "chips": list(self.chips),
            "coverage_claim": COVERAGE if self.document else None, **self._document(),
        }  # fmt: skip

    def _document(self) -> dict[str, Any]:
        if not self.document:
            return {}
        expected = {} if self.expected_s is None else {"expected_measured_s": self.expected_s}
        return {"document": self.document, "cross_validated_mape_pct": self.fold_mape_pct, **expected}


@lru_cache(maxsize=1)
def residuals() -> dict[tuple[str, str], Residual]:
    """Residuals by (kind, fidelity)."""
    document = yamlio.load_yaml(RESIDUALS)
    found = yamlio.validate(Residuals, document.data, document)
    return {(one.kind, one.fidelity): one for one in found.residuals}


def trust_of(kind: str, fidelity: str) -> Trust:
    """Trust in an uncalibrated prediction; the cycle model shares the tile model's range.

    Args:
        kind: a value of ``CLASSES``, or ``STEP``.
        fidelity: what priced it, or ``calibrated`` for a sum in which documents priced operators.
    """
    found = residuals().get((kind, fidelity)) or residuals()[kind, "tile"]
    fitted = fidelity == "calibrated"
    return Trust("uncalibrated", kind, found.low, found.high, found.rows, found.chips, fitted=fitted)


def trust(cost: Cost) -> Trust:
    """Trust in a cost with scalar dimensions: of the whole step, or of the operator that takes most of the time."""
    if cost.step is not None:
        return _of_step(cost, cost.step)
    documented = any(item.document for item in cost.ops)
    if cost.workload.recipe is not None:
        return trust_of(STEP, "calibrated" if documented else cost.fidelity)
    longest = max(cost.ops, key=lambda item: float(np.max(item.time_s)))
    if len(cost.ops) == 1 and documented:
        return of_operator(longest, cost)
    return trust_of(STEP, "calibrated") if documented else trust_of(CLASSES[longest.op.kind], cost.fidelity)


def of_operator(item: OpCost, cost: Cost) -> Trust:
    """Trust in one operator of a cost."""
    if cost.calibration is None or not item.document or item.low_s is None or item.high_s is None:
        return trust_of(CLASSES[item.op.kind], cost.fidelity)
    time_s = float(item.time_s) or 1.0
    document = cost.calibration.calibrations.document(item.document.partition(", ")[0])
    return Trust(
        item.state, "operator", float(item.low_s) / time_s, float(item.high_s) / time_s, document.rows,
        document.chips or (document.chip,), item.document, None, document.cross_validation.mape_pct,
    )  # fmt: skip


def _of_step(cost: Cost, step: StepTime) -> Trust:
    document, time_s = step.match.calibration, float(cost.time_s)
    return Trust(
        step.match.state, STEP, float(step.low_s) / time_s, float(step.high_s) / time_s, document.rows,
        document.chips or (document.chip,), document.name, float(step.time_s), document.cross_validation.mape_pct,
    )  # fmt: skip


# Columns of a K-Perf table with calibrations, in order: key, heading, unit shown, what it is.
COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    (
        "state_prefill",
        "TTFT state",
        "",
        "what the interval of TTFT is of: calibrated, transferred, or uncalibrated runs",
    ),
    ("ttft_low_s", "TTFT, low", "ms", "10 % of measured prefills are faster (residuals of end-to-end runs)"),
    ("ttft_high_s", "TTFT, high", "ms", "10 % of measured prefills are slower"),
    ("state_decode", "TPOT state", "", "what the interval of TPOT is of"),
    ("tpot_low_s", "TPOT, low", "ms", "10 % of measured decode steps are faster (residuals of end-to-end runs)"),
    ("tpot_high_s", "TPOT, high", "ms", "10 % of measured decode steps are slower"),
)
DECODE_KEYS = frozenset(key for key, *_ in COLUMNS[3:])  # nothing without a decode step
COLUMNS_NOTE = (
    "TTFT and TPOT are sums of operators, priced by calibrations where there are some; their low and high ends are of "
    "steps measured as a whole, host and gaps included: a calibrated or transferred interval holds 80 % of measured "
    "times, an uncalibrated one is the range of runs on other chips and promises nothing."
)


def with_columns(columns: tuple[tuple[str, str, str, str], ...]) -> tuple[tuple[str, str, str, str], ...]:
    """The columns of a K-Perf table with ``COLUMNS`` behind the times they belong to."""
    at = [key for key, *_ in columns].index("tpot_s") + 1
    return (*columns[:at], *COLUMNS, *columns[at:])


def row_columns(first: Cost, step: Cost, mean: Callable[[Any], np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """``COLUMNS`` of K-Perf rows.

    Args:
        first: the prefill.
        step: decode steps, (rows, panels).
        mean: averages a figure of ``step`` over the panels.
        rows: how many.
    """
    before, after = step_interval(first), step_interval(step)
    found = {
        "state_prefill": before.state, "ttft_low_s": before.low_s, "ttft_high_s": before.high_s,
        "state_decode": after.state.reshape(rows, -1)[:, 0], "tpot_low_s": mean(after.low_s),
        "tpot_high_s": mean(after.high_s),
    }  # fmt: skip
    return {key: np.broadcast_to(value, (rows,)) for key, value in found.items()}


@dataclass(frozen=True)
class Interval:
    """Where measured times of a step are expected, elementwise: 80 % interval, or range of a class (uncalibrated)."""

    low_s: np.ndarray
    high_s: np.ndarray
    state: np.ndarray


def step_interval(cost: Cost) -> Interval:
    """The interval of a model step whose dimensions may be arrays."""
    fallback = trust_of(STEP, "calibrated" if any(item.document for item in cost.ops) else cost.fidelity)
    total = np.asarray(cost.time_s, float)
    low, high = fallback.low * total, fallback.high * total
    state = np.full(total.shape, fallback.state, dtype=object)
    if cost.step is not None:
        known = np.broadcast_to(np.isfinite(cost.step.low_s), total.shape)
        low, high = np.where(known, cost.step.low_s, low), np.where(known, cost.step.high_s, high)
        state = np.where(known, cost.step.match.state, state)
    return Interval(np.asarray(low), np.asarray(high), np.asarray(state))


def sentence(found: Trust, time_s: float | None = None) -> str:
    """One line for the notes of a report."""
    if found.document:
        return _document_sentence(found, time_s)
    what = "end-to-end runs" if found.kind == STEP else f"{found.kind} kernels"
    applied = ""
    if time_s is not None:
        applied = f" (here {show(found.low * time_s, 's')} to {show(found.high * time_s, 's')})"
    how = "operators by calibrations, not the step as a whole" if found.fitted else _NOTHING
    return (
        f"{found.state}: {how}; measured times of {what} on "
        f"{len(found.chips)} chips were {found.low:.2g} to {found.high:.2g} times such predictions{applied}; "
        f"10 to 90 % of {found.rows} rows, no promise for this chip."
    )


def _document_sentence(found: Trust, time_s: float | None) -> str:
    range_s = "" if time_s is None else f": {show(found.low * time_s, 's')} to {show(found.high * time_s, 's')}"
    behind = f"({found.rows} rows of {', '.join(found.chips)}, cross-validated error {found.fold_mape_pct:.1f} %)"
    if found.expected_s is None:
        return f"{found.state}: 80 % interval of measured times{range_s}, by {found.document} {behind}."
    return (
        f"{found.state}: a measured step of this kind takes {show(found.expected_s, 's')}, 80 % interval{range_s}, by "
        f"{found.document} {behind}; the sum of operators above leaves out what lies between them."
    )
