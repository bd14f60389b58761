"""Predicted times of measured rows, with the state that says how far each may be trusted.

Kernel rows are taken group by group (device, software, op, dtype). A group with a calibration document is priced by
the document's family; the others by the model of the asked fidelity without fitted constants. Every row has a
predicted time or a reason why it has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from npusim.accuracy import limits, pricing
from npusim.accuracy.devices import Formats, chip_of, formats_of
from npusim.accuracy.dims import RowDims
from npusim.accuracy.predicted import UNCALIBRATED, Predicted
from npusim.accuracy.rows import Rows
from npusim.accuracy.table import Array
from npusim.calibration import Calibrations, Match
from npusim.chip import Chip, find_chip, load_chip
from npusim.cost.calibrated.family import Dims, family
from npusim.errors import NpuError, Unavailable

KEYS = ("device", "op", "dtype", "software")


def groups(columns: Sequence[Array]) -> Iterator[tuple[tuple[str, ...], Array]]:
    """Distinct tuples of text columns with the indices of their rows, in order of their first row."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for values in columns:
        seen: dict[str, int] = {}
        own = np.array([seen.setdefault(text, len(seen)) for text in values], dtype=np.int64)
        code = code * max(len(seen), 1) + own
        _, code = np.unique(code, return_inverse=True)
    order = np.argsort(code, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(code[order])) + 1) if len(code) else []
    for part in sorted(parts, key=lambda indices: int(indices[0])):
        yield tuple(str(values[part[0]]) for values in columns), part


def chip_or_reason(device: str, override: Chip | None) -> tuple[Chip | None, str]:
    """The chip rows of a device are priced on, or why there is none."""
    if override is not None:
        return override, ""
    name = chip_of(device)
    if name is None:
        return None, f"no chip of the catalog is called '{device}'"
    try:
        return load_chip(name), ""
    except Unavailable as error:
        return None, str(error).partition(";")[0]


def predict_kernels(rows: Rows, override: Chip | None, calibrations: Calibrations, fidelity: str) -> Predicted:
    """Prices kernel rows.

    Args:
        rows: what was measured.
        override: price every row on this chip, whatever its device is called.
        calibrations: which documents may be used.
        fidelity: model of the rows no document prices; chips that lack what it needs are priced by the roofline.
    """
    found = Predicted(rows, {name: rows.column(name) for name in KEYS}, rows.column("latency_us") * 1e-6)
    for (device, op, dtype, residency), which in _pricing_groups(rows):
        chip, reason = chip_or_reason(device, override)
        formats = formats_of(dtype)
        if chip is None or formats is None:
            found.reason[which] = reason or f"'{op}' rows without a number format"
            continue
        found.chip[which] = chip.name
        _price_group(found, which, chip, op, formats, residency, calibrations, fidelity)
    return found


def _pricing_groups(rows: Rows) -> Iterator[tuple[tuple[str, ...], Array]]:
    stacks = {text: pricing.residency_of(text) for text in set(rows.column("software"))}
    residency = np.array([stacks[text] for text in rows.column("software")], dtype=object)
    return groups([rows.column("device"), rows.column("op"), rows.column("dtype"), residency])


def _price_group(
    found: Predicted, which: Array, chip: Chip, op: str, formats: Formats, residency: str, calibrations: Calibrations,
    fidelity: str,
) -> None:  # fmt: skip
    """Prices rows of one device, operation, dtype and residency."""
    rows = found.rows.select(which)
    assert isinstance(rows, Rows)
    machine = pricing.chip_for(chip, formats)
    naive = pricing.plain_roofline(pricing.Shapes(rows, op, formats), machine)
    found.roofline_s[which], found.bound[which], found.reason[which] = naive.time_s, naive.bound, naive.reason
    left = np.ones(len(which), dtype=bool)
    dtype = str(rows.column("dtype")[0])
    shaped = np.flatnonzero(pricing.has_shape(naive.reason))
    for (software,), inside in ((key, shaped[at]) for key, at in groups([rows.column("software")[shaped]])):
        for match, part in _documents(rows.select(inside), calibrations, chip, software, op, dtype):
            at = inside[part]
            left[at] = ~apply_document(found, which[at], RowDims(rows.select(at)), chip, match, dtype)
    if left.any():
        usable = fidelity if not machine.missing(fidelity) else "roofline"
        shapes = pricing.Shapes(rows.select(left), op, formats)
        seconds, _, reason = pricing.uncalibrated(shapes, machine, usable, residency)
        at = which[left]
        found.predicted_s[at], found.reason[at] = seconds, reason
        found.model[at], found.state[at] = usable, UNCALIBRATED
    elsewhere = found.state[which] != "calibrated"
    if calibrations and elsewhere.any():
        shapes, at = pricing.Shapes(rows.select(elsewhere), op, formats), which[elsewhere]
        most = limits.slowest(op, found.state[at] == "transferred")
        limits.hold(found, at, limits.floor_s(shapes, machine), most)


def _documents(
    rows: Rows, calibrations: Calibrations, chip: Chip, software: str, op: str, dtype: str
) -> Iterator[tuple[Match, Array]]:
    """Documents for rows of one software with the indices each prices.

    A stack may have several kernels for an operation; one with a document of its own goes by that.
    """
    kernel = rows.extra("kernel")
    rest = np.ones(len(rows), dtype=bool)
    for name in sorted(set(kernel.tolist()) - {""}):
        own = calibrations.exact(chip, f"{software} kernel={name}", op, dtype)
        if own is not None:
            mask = kernel == name
            rest &= ~mask
            yield own, np.flatnonzero(mask)
    match = calibrations.match(chip, software, op, dtype) if rest.any() else None
    if match is not None:
        yield match, np.flatnonzero(rest)


def apply_document(found: Predicted, which: Array, dims: Dims, chip: Chip, match: Match, dtype: str) -> Array:
    """Prices rows by a document, with their 80 % interval; returns the mask of those it gave a time.

    Args:
        found: the table, changed in place.
        which: indices of the rows.
        dims: dimensions of those rows.
        chip: the hardware.
        match: the document and its state.
        dtype: spelling of the rows.
    """
    document = match.calibration
    try:
        times = family(document.family).seconds(chip, dtype, dims, document.values())
    except (NpuError, KeyError) as error:  # a figure the chip lacks, or a dimension no row has
        found.note[which] = f"calibration {document.name} does not apply: {str(error).splitlines()[0][:120]}"
        return np.zeros(len(which), dtype=bool)
    done: Array = np.isfinite(times.time_s) & (times.time_s > 0)
    at, seconds = which[done], np.asarray(times.time_s)[done]
    found.predicted_s[at], found.reason[at] = seconds, ""
    found.state[at], found.note[at], found.model[at] = match.state, match.note, document.family
    found.fold_mape_pct[at] = document.cross_validation.mape_pct
    bounds = np.asarray(times.bound)[done]
    for name in set(bounds.tolist()):
        low, high = document.interval_factors(str(name))
        found.low_s[at[bounds == name]] = seconds[bounds == name] * low
        found.high_s[at[bounds == name]] = seconds[bounds == name] * high
    return done


def chip_argument(chip: Chip | str | None) -> Chip | None:
    """A chip, a catalog name or a path, or None."""
    return find_chip(chip).require() if isinstance(chip, str) else chip
