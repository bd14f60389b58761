"""``validate``: predicted against measured, per device, operation, dtype and software."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from npusim.accuracy import pricing, score
from npusim.accuracy.end_to_end import apply_steps
from npusim.accuracy.other_tables import predict_collectives, predict_rtl, predict_vision
from npusim.accuracy.plain_end_to_end import predict_end_to_end
from npusim.accuracy.predicted import Predicted
from npusim.accuracy.prediction import KEYS, chip_argument, groups, predict_kernels
from npusim.accuracy.rows import CollectiveRows, EndToEndRows, Measured, Rows, RtlRows, VisionRows, load_measured
from npusim.accuracy.score import Score
from npusim.accuracy.table import Array, Table
from npusim.calibration import Calibration, Calibrations
from npusim.chip import Chip
from npusim.cost import FIDELITIES
from npusim.errors import InputError, Problem, unknown_name


@dataclass(frozen=True)
class Group:
    """Figures of the rows of one device, operation, dtype and software.

    Args:
        device: spelling of the rows.
        op: operation.
        dtype: spelling of the rows.
        software: stack they were measured with.
        chip: catalog name, ``""`` when the device is unknown.
        state: ``calibrated``, ``transferred``, ``uncalibrated``: that of most of its rows.
        states: priced rows per state.
        model: family or fidelity that priced them.
        note: about the calibration.
        residency: ``cold`` or ``llc``: where a measured loop finds its operands.
        rows: how many rows there are.
        overall: figures of the priced ones.
        roofline: figures of the plain roofline on the same rows.
        faster_than_roofline_pct: share of the priced rows measured faster than the cold roofline.
        interval_coverage_pct: share of measured times inside the 80 % interval; nan without intervals.
        fold_mape_pct: mean error of the documents on shapes they were not fitted on, nan without documents.
        by_bound: figures by ``compute``, ``memory``, ``launch``.
        by_size: figures by measured time.
        variants: figures by ``window`` and ``kernel`` of ``extra``, when there are several.
    """

    device: str
    op: str
    dtype: str
    software: str
    chip: str
    state: str
    states: dict[str, int]
    model: str
    note: str
    residency: str
    rows: int
    overall: Score
    roofline: Score
    faster_than_roofline_pct: float
    interval_coverage_pct: float
    fold_mape_pct: float
    by_bound: dict[str, Score]
    by_size: dict[str, Score]
    variants: dict[str, Score]

    @property
    def priced(self) -> int:
        """Rows that have a prediction."""
        return self.overall.rows

    def to_dict(self) -> dict[str, Any]:
        """One flat object: keys of the group, then figures."""
        figures = self.overall.to_dict()
        figures.pop("rows")
        return {
            "device": self.device, "op": self.op, "dtype": self.dtype, "software": self.software,
            "chip": self.chip, "state": self.state, "states": self.states, "model": self.model, "note": self.note,
            "residency": self.residency, "rows": self.rows, "priced": self.priced, **figures,
            "roofline_mape_pct": score.plain(self.roofline.mape_pct),
            "roofline_mdape_pct": score.plain(self.roofline.mdape_pct),
            "roofline_bias_pct": score.plain(self.roofline.bias_pct),
            "faster_than_cold_roofline_pct": score.plain(self.faster_than_roofline_pct),
            "interval_coverage_pct": score.plain(self.interval_coverage_pct),
            "cross_validated_mape_pct": score.plain(self.fold_mape_pct),
            "by_bound": score.table(self.by_bound), "by_size": score.table(self.by_size),
            "variants": score.table(self.variants),
        }  # fmt: skip


@dataclass(frozen=True)
class Worst:
    """A row with a large error: where it stands in its file, what it is, and both times."""

    file: str
    line: int
    device: str
    op: str
    dtype: str
    software: str
    shape: str
    measured_s: float
    predicted_s: float
    roofline_s: float
    state: str
    chip: str
    table: Table
    row: int

    @property
    def error_pct(self) -> float:
        """Predicted / measured − 1, percent."""
        return 100 * (self.predicted_s / self.measured_s - 1)

    def to_dict(self) -> dict[str, Any]:
        """Figures by name."""
        names = ("file", "line", "device", "op", "dtype", "software", "shape", "state")
        times = {name: score.plain(1e6 * getattr(self, f"{name}_s")) for name in ("measured", "predicted", "roofline")}
        return {
            **{name: getattr(self, name) for name in names},
            **{f"{name}_us": value for name, value in times.items()},
            "error_pct": score.plain(self.error_pct),
        }


@dataclass(frozen=True)
class Validation:
    """What ``validate`` found.

    Args:
        tables: rows with their predictions.
        fidelity: model of the rows without a calibration.
        calibration: what was asked: ``auto``, ``none``, or a document.
        other: CSV files of a folder that hold no rows of a known schema.
    """

    tables: tuple[Predicted, ...]
    fidelity: str
    calibration: str
    other: tuple[str, ...] = ()

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Figures per (device, operation, dtype, software), in the order of the rows."""
        return tuple(group for table in self.tables for group in _groups(table))

    @cached_property
    def unpriced(self) -> dict[str, int]:
        """Rows without a prediction, by reason, most first."""
        counted = Counter(str(reason) for table in self.tables for reason in table.reason[~table.priced])
        return dict(counted.most_common())

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(len(table.rows) for table in self.tables)

    @property
    def priced(self) -> int:
        """Rows with a prediction."""
        return int(sum(table.priced.sum() for table in self.tables))

    @cached_property
    def overall(self) -> Score:
        """Figures of all priced rows together."""
        return self._pooled("predicted_s")

    @cached_property
    def roofline(self) -> Score:
        """Figures of the plain roofline on the same rows."""
        return self._pooled("roofline_s")

    def _pooled(self, name: str) -> Score:
        parts = [(getattr(t, name)[_both(t)], t.measured_s[_both(t)]) for t in self.tables]
        predicted, measured = (np.concatenate(side) for side in zip(*parts, strict=True))
        return score.score(predicted, measured)

    def worst(self, count: int) -> list[Worst]:
        """The row of each group with the largest factor between prediction and measurement, largest first."""
        found: list[tuple[float, Predicted, int]] = []
        for table in self.tables:
            for _, which in groups([table.keys[name] for name in KEYS]):
                at = which[table.priced[which] & (table.predicted_s[which] > 0)]
                if len(at):
                    factor = np.abs(np.log(table.predicted_s[at] / table.measured_s[at]))
                    found.append((float(factor.max()), table, int(at[factor.argmax()])))
        found.sort(key=lambda item: -item[0])
        return [_worst(table, row) for _, table, row in found[:count]]

    def to_dict(self) -> dict[str, Any]:
        """The object ``npusim validate --json`` prints."""
        return {
            "fidelity": self.fidelity,
            "calibration": self.calibration,
            "rows": self.rows,
            "priced": self.priced,
            "overall": self.overall.to_dict(),
            "roofline": self.roofline.to_dict(),
            "groups": [group.to_dict() for group in self.groups],
            "unpriced": self.unpriced,
            "files_without_rows": list(self.other),
        }

    def json(self) -> str:
        """``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)


def validate(
    rows: Table | Measured | str | Sequence[str],
    chip: Chip | str | None = None,
    calibration: str | Calibration = "auto",
    fidelity: str = "tile",
) -> Validation:
    """Compares predictions with measured rows.

    Args:
        rows: rows that were loaded, or paths of CSV files and folders.
        chip: price all rows on this chip; default: the one whose name or alias each row's device is.
        calibration: ``"auto"`` (documents of the catalog), ``"none"``, or a document or its path.
        fidelity: model of rows that no document prices.

    Raises:
        InputError: unreadable rows, an unknown fidelity or chip, or no rows at all.
    """
    if fidelity not in FIDELITIES:
        raise unknown_name("fidelity", fidelity, FIDELITIES)
    measured = rows if isinstance(rows, (Table, Measured)) else load_measured(rows)
    tables = measured.tables() if isinstance(measured, Measured) else [measured]
    if not any(len(table) for table in tables):
        raise InputError(Problem("no measured rows", allowed="CSV files with the columns of docs/validation.md"))
    override, documents = chip_argument(chip), Calibrations(calibration)
    found = tuple(_predict(table, override, documents, fidelity) for table in tables if len(table))
    asked = calibration if isinstance(calibration, str) else calibration.name
    return Validation(found, fidelity, asked, measured.other if isinstance(measured, Measured) else ())


def _predict(table: Table, override: Chip | None, documents: Calibrations, fidelity: str) -> Predicted:
    if isinstance(table, Rows):
        return predict_kernels(table, override, documents, fidelity)
    if isinstance(table, CollectiveRows):
        return predict_collectives(table, override, documents, fidelity)
    if isinstance(table, EndToEndRows):
        return apply_steps(predict_end_to_end(table, override, fidelity), override, documents)
    if isinstance(table, RtlRows):
        return predict_rtl(table, override)
    assert isinstance(table, VisionRows)
    return predict_vision(table, override)


def _both(table: Predicted) -> Array:
    """Rows that have a prediction and a roofline: both are scored on the same ones."""
    return table.priced & np.isfinite(table.roofline_s)


def _groups(table: Predicted) -> Iterator[Group]:
    for key, which in groups([table.keys[name] for name in KEYS]):
        yield _group(table, key, which)


def _group(table: Predicted, key: tuple[str, ...], which: Array) -> Group:
    device, op, dtype, software = key
    at = which[table.priced[which]]
    measured, predicted, naive = table.measured_s[at], table.predicted_s[at], table.roofline_s[at]
    known = np.isfinite(naive)
    states = dict(Counter(str(state) for state in table.state[at]).most_common())
    state = next(iter(states), "uncalibrated")
    first = at[table.state[at] == state][0] if len(at) else which[0]
    return Group(
        device, op, dtype, software, str(table.chip[first]), state, states, str(table.model[first]),
        str(table.note[first]), pricing.residency_of(software), len(which), score.score(predicted, measured),
        score.score(naive[known], measured[known]),
        float(100 * np.mean(measured[known] < naive[known])) if known.any() else float("nan"),
        score.coverage_pct(measured, table.low_s[at], table.high_s[at]),
        _mean(table.fold_mape_pct[at]),
        score.by_class(predicted, measured, table.bound[at]),
        score.by_class(predicted, measured, score.size_classes(measured)),
        _variants(table, at, predicted, measured),
    )  # fmt: skip


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _variants(table: Predicted, at: Array, predicted: Array, measured: Array) -> dict[str, Score]:
    """Figures by sliding window and kernel of ``extra``: rows that differ in them are different measurements."""
    if "extra" not in table.rows.text:
        return {}
    rows = table.rows.select(at)
    window, kernel = rows.extra("window"), rows.extra("kernel")
    names = np.array([_variant(*pair) for pair in zip(window, kernel, strict=True)], dtype=object)
    found = score.by_class(predicted, measured, names)
    return found if 1 < len(found) <= MAX_VARIANTS else {}


MAX_VARIANTS = 50  # profilers that list thousands of generated kernel names are not split


def _variant(window: str, kernel: str) -> str:
    parts = [f"window={window}"] if window not in ("", "0") else []
    return " ".join([*parts, f"kernel={kernel}"] if kernel else parts)


def _worst(table: Predicted, row: int) -> Worst:
    file, line = table.rows.origin.where(row)
    device, op, dtype, software = (str(table.keys[name][row]) for name in KEYS)
    return Worst(
        file, line, device, op, dtype, software, shape_text(table.rows, row), float(table.measured_s[row]),
        float(table.predicted_s[row]), float(table.roofline_s[row]), str(table.state[row]), str(table.chip[row]),
        table.rows, row,
    )  # fmt: skip


def shape_text(rows: Table, row: int) -> str:
    """Dimensions of a row as ``m=16 n=4096 k=4096``."""
    measured = {"latency_us", "latency_ms", "latency_s", "cycles", "auto_cycles", "ttft_ms", "tpot_ms", "fps"}
    parts = []
    for name in rows.numbers:
        value = float(rows.column(name)[row])
        if name not in measured and np.isfinite(value):
            parts.append(f"{name}={value:g}")
    if "model" in rows.text:
        parts.insert(0, str(rows.column("model")[row]))
    return " ".join(parts)
