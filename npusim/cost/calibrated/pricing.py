"""Operators of a workload priced by calibration documents: which document, its time and interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npusim.calibration import Calibration, Calibrations, Match, State, dtype_key, stack
from npusim.chip import Chip
from npusim.cost.calibrated.family import family
from npusim.cost.calibrated.rows import Row, blocks_of, row_of, rows_of
from npusim.cost.roofline import Work, slowest
from npusim.errors import NpuError
from npusim.ops import Dim
from npusim.workload import Op, Workload

# Stacks whose kernels are those of another one, timed by a profiler.
_KERNELS_OF = {"vllm/sarathi-pytorch-cuda-profiler": "vllm"}
# Formats of the same width and engine rate: a document of one prices the other, as transferred.
_TWINS = {"bf16": "fp16", "fp16": "bf16"}
_RANK: dict[State, int] = {"calibrated": 0, "transferred": 1, "uncalibrated": 2}
# What bounds a row of a family → the resource of a cost that is busy all that time.
_RESOURCES = {"matrix": "matrix", "dram": "dram", "vector": "vector", "link": "link"}


@dataclass(frozen=True)
class Calibrated:
    """One run of an operator as a document prices it; figures are elementwise over array dimensions.

    Args:
        time_s: seconds, at least the lower bound of the operator.
        low_s: lower end of the 80 % interval.
        high_s: its upper end.
        seconds: seconds per resource; what bounds the time is busy all along.
        state: ``calibrated`` or ``transferred``.
        document: name of the document.
        note: what the document was fitted on when it is not of just this operator and software.
    """

    time_s: Dim
    low_s: Dim
    high_s: Dim
    seconds: dict[str, Dim]
    state: State
    document: str
    note: str


def kernels_of(software: str) -> str:
    """The stack whose kernels a spelling of software runs.

    >>> kernels_of("vllm-0.24.0"), kernels_of("vllm/sarathi-pytorch-cuda-profiler")
    ('vllm', 'vllm')
    """
    return _KERNELS_OF.get(stack(software), stack(software))


# -- documents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Documents:
    """Documents that may price the operators of a chip, for one software stack ("" where nothing is known).

    Args:
        calibrations: which may be used.
        chip: the hardware.
        software: whose kernels.
        chosen: the software was not named but chosen.
    """

    calibrations: Calibrations
    chip: Chip
    software: str
    chosen: bool = False

    def match(self, row: Row) -> tuple[Match, str] | None:
        """The document for a row and the dtype spelling it is priced as; None without one.

        Documents are of these formats or of the twin format (bf16 for fp16), as transferred; of this chip before its
        class, of this software before other software. A class as wide as the category (all NPUs) counts when it was
        learned on several chips: one chip alone says nothing of such a class.
        """
        found: list[tuple[tuple[bool, bool, bool, int], Match, str]] = []
        for index, spelling in enumerate(row.dtypes):
            for spelled in filter(None, (spelling, _twin(spelling))):
                match = self.calibrations.match(self.chip, self.software, row.op, spelled)
                if match is None or dtype_key(match.calibration.dtype) != dtype_key(spelled):
                    continue
                document, twin = match.calibration, spelled != spelling
                if document.chip == self.chip.category and len(document.chips) < 2:
                    continue
                other = kernels_of(document.software) not in ("any", kernels_of(self.software))
                if other and not row.any_software:
                    continue
                found.append(((document.scope == "class", other, twin, index), match, spelling))
        if not found:
            return None
        (*_, twin, _), match, spelling = min(found, key=lambda entry: entry[0])
        if twin:
            note = f"fitted on {match.calibration.dtype} rows of {match.calibration.software}"
            match = replace(match, state="transferred", note=match.note if match.state == "transferred" else note)
        return self._of_changed(match), spelling

    def _of_changed(self, match: Match) -> Match:
        """A chip with changed figures is not the one that was measured."""
        if not self.chip.overrides or match.state != "calibrated":
            return match
        return replace(match, state="transferred", note=f"measured on {self.chip.name} as it is; figures were changed")


def _twin(spelling: str) -> str | None:
    parts = spelling.split("/")
    swapped = [f"kv_{_TWINS.get(p[3:], p[3:])}" if p.startswith("kv_") else _TWINS.get(p, p) for p in parts]
    found = "/".join(swapped)
    return None if found == spelling else found


def documents_for(
    workload: Workload, chip: Chip, calibrations: Calibrations, software: str | None, weights: Sequence[float],
    whole: Callable[[Documents], bool],
) -> Documents:  # fmt: skip
    """The documents for a workload on a chip.

    Without a named software its kernels are those of one stack: the one with documents of this chip (failing that, of
    its classes) for most of the time; of several, one whose steps were measured as a whole, then the smaller error.

    Args:
        workload: what is priced.
        chip: the hardware.
        calibrations: which documents may be used.
        software: a spelling, or None.
        weights: of each operator, about its time.
        whole: whether documents describe the step as a whole.

    Raises:
        InputError: no document of any chip is of this software.
    """
    if software is not None:
        return Documents(calibrations, chip, calibrations.check_software(software))
    rows = [row for row in rows_of(workload.ops) if row is not None]
    rows += [block.row for block in blocks_of(workload.ops)]
    best = Documents(calibrations, chip, "", chosen=True)
    most = (0.0, False, -np.inf)
    for name in calibrations.stacks_of(chip, (row.op for row in rows)):
        own = Documents(calibrations, chip, name, chosen=True)
        found = [
            (match.calibration, sum(weights[i] for i in members)) for members, match in _matches(workload.ops, own)
        ]
        same = [(document, w) for document, w in found if kernels_of(document.software) == kernels_of(name)]
        share = round(sum(w for _, w in same) / max(sum(weights), 1e-30), 1)  # within a tenth they are equal
        score = (share, whole(own), -sum(w * document.cross_validation.mape_pct for document, w in same))
        if share > 0 and score > most:
            best, most = own, score
    return best


def _matches(ops: Sequence[Op], documents: Documents) -> Iterator[tuple[tuple[int, ...], Match]]:
    """Positions of operators with the document that prices them, together or alone."""
    taken: set[int] = set()
    for block in blocks_of(ops):
        found = documents.match(block.row)
        if found is not None:
            taken.update(block.members)
            yield block.members, found[0]
    for at, row in enumerate(rows_of(ops)):
        if row is not None and at not in taken and (found := documents.match(row)) is not None:
            yield (at,), found[0]


# -- prices -----------------------------------------------------------------------------------------------------------


def prices(ops: Sequence[Op], works: Sequence[Work], documents: Documents) -> list[Calibrated | None]:
    """One run of each operator of a step by documents; None for those that none prices.

    What was measured as one row is priced once, and shared out as the operators' times at the chip's peaks.

    Args:
        ops: the operators.
        works: what each asks of the chip.
        documents: what may price them.
    """
    found: dict[int, Calibrated | None] = {}
    for block in blocks_of(ops):
        found |= _block(block.members, block.row, [works[i] for i in block.members], documents)
    for at, (op, row) in enumerate(zip(ops, rows_of(ops), strict=True)):
        if at not in found:
            found[at] = price(op, row, documents, works[at].seconds)
    return [found[at] for at in range(len(ops))]


def _block(members: Sequence[int], row: Row, works: Sequence[Work], documents: Documents) -> dict[int, Calibrated]:
    """Shares of a row by position; nothing where no document prices it."""
    match = documents.match(row)
    at_peak: dict[str, Dim] = {}
    for work in works:
        for name, seconds in work.seconds.items():
            at_peak[name] = at_peak.get(name, 0.0) + seconds
    whole = None if match is None else _by_document(*match, row, documents.chip, at_peak)
    if whole is None:
        return {}
    alone = np.broadcast_arrays(*(np.asarray(slowest(work.seconds.values())) for work in works))
    together = np.sum(alone, axis=0)
    return {at: _share(whole, part / together) for at, part in zip(members, alone, strict=True)}


def _share(whole: Calibrated, part: Dim) -> Calibrated:
    """A part of a row: of its time, its interval and what its resources do."""
    return replace(
        whole, time_s=whole.time_s * part, low_s=whole.low_s * part, high_s=whole.high_s * part,
        seconds={name: seconds * part for name, seconds in whole.seconds.items()},
    )  # fmt: skip


def price(op: Op, row: Row | None, documents: Documents, at_peak: Mapping[str, Dim]) -> Calibrated | None:
    """One run of an operator by its document; None where there is none or it does not apply to this chip.

    Args:
        op: the operator.
        row: its row.
        documents: what may price it.
        at_peak: seconds per resource at its peak: the time is never below the longest of them.
    """
    if row is None:
        return None
    new = np.asarray(row.dims.get("seq_q", 1))
    if row.op == "attention_prefill" and np.any(new == 1):
        return _price_mixed(op, documents, at_peak, new == 1)
    found = documents.match(row)
    return None if found is None else _by_document(*found, row, documents.chip, at_peak)


def _price_mixed(op: Op, documents: Documents, at_peak: Mapping[str, Dim], decodes: np.ndarray) -> Calibrated | None:
    """Attention of which some shapes have one new token: those are decode kernels."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in op.dims.values()))
    single = np.broadcast_to(decodes, shape)
    parts = []
    for mask in (single, ~single):
        inside = replace(op, dims={key: np.broadcast_to(value, shape)[mask] for key, value in op.dims.items()})
        peak = {name: np.broadcast_to(value, shape)[mask] for name, value in at_peak.items()}
        priced = price(inside, row_of(inside), documents, peak)
        if priced is None:
            return None
        parts.append((mask, priced))

    def join(figures: list[Dim]) -> Dim:
        out = np.empty(shape)
        for (mask, _), figure in zip(parts, figures, strict=True):
            out[mask] = figure
        return out

    (_, first), (_, second) = parts
    names = dict.fromkeys([*first.seconds, *second.seconds])
    return Calibrated(
        join([p.time_s for _, p in parts]), join([p.low_s for _, p in parts]), join([p.high_s for _, p in parts]),
        {name: join([p.seconds.get(name, 0.0) for _, p in parts]) for name in names},
        max(first.state, second.state, key=lambda state: _RANK[state]),
        f"{first.document}, {second.document}", "; ".join(filter(None, (first.note, second.note))),
    )  # fmt: skip


def _by_document(
    match: Match, spelling: str, row: Row, chip: Chip, at_peak: Mapping[str, Dim]
) -> Calibrated | None:  # fmt: skip
    document = match.calibration
    shape = np.broadcast_shapes(*(np.shape(value) for value in (*row.dims.values(), *at_peak.values())))
    flat = {key: np.broadcast_to(np.asarray(value, float), shape).reshape(-1) for key, value in row.dims.items()}
    try:
        times = family(document.family).seconds(chip, spelling, flat, document.values())
    except (NpuError, KeyError):  # a figure the chip lacks, or a dimension the family asks of other rows
        return None
    seconds = np.asarray(times.time_s, float)
    if not np.all(np.isfinite(seconds) & (seconds > 0)):
        return None
    bounds = np.asarray(times.bound, dtype=object)
    low, high = factors(document, bounds)
    floor = np.max([np.broadcast_to(np.asarray(value, float), shape).reshape(-1) for value in at_peak.values()], axis=0)
    seconds = np.maximum(seconds, floor)

    def back(values: np.ndarray) -> Dim:
        return values.reshape(shape) if shape else float(values[0])

    busy = _busy(bounds.reshape(shape), back(seconds), at_peak)
    return Calibrated(
        back(seconds), back(seconds * low), back(seconds * high), busy, match.state, document.name, match.note
    )


def factors(document: Calibration, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors on predicted times that bound 80 % of the measured ones, by what bounds each row."""
    found = {name: document.interval_factors(str(name)) for name in set(bounds.tolist())}
    low, high = (np.array([found[name][side] for name in bounds.tolist()]) for side in (0, 1))
    return low, high


def _busy(bound: np.ndarray, time_s: Dim, at_peak: Mapping[str, Dim]) -> dict[str, Dim]:
    """Seconds per resource: what bounds a shape is busy all its time, the others as long as at their peaks.

    A cache that bounds counts as the on-chip level; a launch is nobody's time.
    """
    level = next((name for name in reversed(list(at_peak)) if name not in _RESOURCES), "dram")
    seconds: dict[str, Dim] = {}
    for name, value in at_peak.items():
        families = {key for key, resource in {**_RESOURCES, "cache": level}.items() if resource == name}
        mask = np.isin(bound, list(families))
        seconds[name] = np.where(mask, time_s, value) if np.any(mask) else value
    longest = np.max(np.broadcast_arrays(*(np.asarray(value, float) for value in seconds.values())), axis=0)
    rest = np.maximum(np.asarray(time_s) - longest, 0.0)
    seconds["overhead"] = rest
    return seconds
