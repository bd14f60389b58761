"""A table of measured rows with what was predicted for each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from npusim.accuracy.table import Array, Floats, Table

UNCALIBRATED = "uncalibrated"


@dataclass
class Predicted:
    """A table of rows with what was predicted for each; arrays of one entry per row.

    Args:
        rows: what was measured.
        keys: device, op, dtype and software of each row as they are reported.
        measured_s: seconds.
        predicted_s: seconds, nan where ``reason`` says why there is none.
        roofline_s: plain roofline of the data sheet on the same row, nan where there is none.
        low_s: lower end of the 80 % interval, nan without one.
        high_s: its upper end.
        fold_mape_pct: cross-validated error of the document that priced the row, nan without one.
        bound: ``compute``, ``memory`` or ``launch``, by the plain roofline.
        state: ``calibrated``, ``transferred`` or ``uncalibrated``.
        model: what priced the row: a family, or a fidelity.
        note: about the calibration of the row.
        chip: catalog name, ``""`` where no chip is known.
        reason: why the row is not priced, ``""`` where it is.
    """

    rows: Table
    keys: dict[str, Array]
    measured_s: Floats
    predicted_s: Floats = field(init=False)
    roofline_s: Floats = field(init=False)
    low_s: Floats = field(init=False)
    high_s: Floats = field(init=False)
    fold_mape_pct: Floats = field(init=False)
    bound: Array = field(init=False)
    state: Array = field(init=False)
    model: Array = field(init=False)
    note: Array = field(init=False)
    chip: Array = field(init=False)
    reason: Array = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.rows)
        for name in ("predicted_s", "roofline_s", "low_s", "high_s", "fold_mape_pct"):
            setattr(self, name, np.full(count, np.nan))
        for name in ("bound", "state", "model", "note", "chip", "reason"):
            setattr(self, name, np.full(count, "", dtype=object))
        self.state[:] = UNCALIBRATED

    @property
    def priced(self) -> Array:
        """Mask of the rows that have a prediction."""
        return np.isfinite(self.predicted_s)
