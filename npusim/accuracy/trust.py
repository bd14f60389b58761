"""How far a prediction can be trusted: its state, and the range measured times had around such predictions.

``estimate``, ``explain`` and ``kperf`` price with the models of a chip file, in which nothing is fitted to measured
times: their figures are *uncalibrated*. For those npusim states the range of measured / predicted that it found for
the same kind of work on other chips (``catalog/residuals.yaml``, written by ``python -m bench.residuals``). That is no
confidence interval: it claims no coverage for the chip at hand. Whole model steps take the range of end-to-end runs,
not a sum over operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from npusim import yamlio
from npusim.calibration import State
from npusim.chip_parts import Spec
from npusim.cost import Cost
from npusim.units import show

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


class Residual(Spec):
    """Quantiles (10, 50, 90 %) of measured / predicted for one kind of work at one fidelity."""

    kind: str
    fidelity: Literal["roofline", "tile"]
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
    """

    state: State
    kind: str
    low: float
    high: float
    rows: int
    chips: tuple[str, ...]

    def to_dict(self, time_s: float) -> dict[str, Any]:
        """For JSON, with the range applied to a predicted time in seconds."""
        return {
            "state": self.state, "kind": self.kind, "measured_over_predicted_p10": self.low,
            "measured_over_predicted_p90": self.high, "range_low_s": self.low * time_s,
            "range_high_s": self.high * time_s, "rows": self.rows, "chips": list(self.chips), "coverage_claim": None,
        }  # fmt: skip


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
        fidelity: what priced it.
    """
    found = residuals()[kind, "roofline" if fidelity == "roofline" else "tile"]
    return Trust("uncalibrated", kind, found.low, found.high, found.rows, found.chips)


def trust(cost: Cost) -> Trust:
    """Trust in a cost: of the whole step, or of the kind of operator that takes most of the time."""
    if cost.workload.recipe is not None:
        return trust_of(STEP, cost.fidelity)
    longest = max(cost.ops, key=lambda item: float(np.max(item.time_s)))
    return trust_of(CLASSES[longest.op.kind], cost.fidelity)


def sentence(found: Trust, time_s: float | None = None) -> str:
    """One line for the notes of a report."""
    what = "end-to-end runs" if found.kind == STEP else f"{found.kind} kernels"
    applied = ""
    if time_s is not None:
        applied = f" (here {show(found.low * time_s, 's')} to {show(found.high * time_s, 's')})"
    return (
        f"{found.state}: nothing fitted to measured times enters the figures; measured times of {what} on "
        f"{len(found.chips)} chips were {found.low:.2g} to {found.high:.2g} times such predictions{applied}; "
        f"10 to 90 % of {found.rows} rows, no promise for this chip."
    )
