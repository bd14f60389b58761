"""``calibrate``: fits every (chip, software, operator, dtype) of measured rows and writes the documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from npusim import calibration as documents
from npusim.accuracy import fitting
from npusim.accuracy.dims import RowDims
from npusim.accuracy.operator_fits import by_kernel, fit_rows
from npusim.accuracy.prediction import chip_argument, chip_or_reason, groups
from npusim.accuracy.pricing import residency_of
from npusim.accuracy.rows import Rows, load_rows
from npusim.calibration import Calibration, Provenance
from npusim.chip import Chip
from npusim.cost.calibrated.family import Family, alternatives, family_of
from npusim.errors import InputError, Problem

KEY = ("device", "software", "op", "dtype")
# A fit of one alternative uses this many rows; more change the parameters by less than their intervals.
MAX_ROWS = 600
RESIDENCY: Mapping[str, Any] = {"cold": "cold", "llc": "llc"}


@dataclass(frozen=True)
class Group:
    """Rows of one chip, software, operator and dtype that a family can price."""

    chip: Chip
    software: str
    op: str
    dtype: str
    rows: Rows
    model: Family

    @property
    def latency_s(self) -> np.ndarray:
        """Measured seconds."""
        return np.asarray(self.rows.column("latency_us"), float) * 1e-6

    @property
    def residency(self) -> str:
        """Where the operands of the measured loop lie."""
        return residency_of(self.software)

    def source(self) -> Provenance:
        """Folder and file of the rows."""
        files = sorted({"/".join(Path(self.rows.origin.files[i]).parts[-2:]) for i in set(self.rows.origin.file)})
        devices = sorted(set(self.rows.column("device")))
        return Provenance(
            dataset=", ".join(files), what=f"{self.op} {self.dtype} on {', '.join(devices)}, {self.software}"
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a group: its document, or why there is none."""

    chip: str
    software: str
    op: str
    dtype: str
    rows: int
    document: Calibration | None = None
    reason: str = ""
    path: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``; errors in percent."""
        found = {name: getattr(self, name) for name in ("chip", "software", "op", "dtype", "rows", "reason", "path")}
        if self.document is not None:
            found |= self.document.cross_validation.model_dump()
            found["parameters"] = self.document.values()
        return found


def group_rows(rows: Rows, chip: Chip | str | None = None) -> Iterator[Group | Outcome]:
    """Groups of rows to fit; an Outcome with a reason for those that cannot be."""
    override = chip_argument(chip)
    for (device, software, op, dtype), which in groups([rows.column(name) for name in KEY]):
        found, reason = chip_or_reason(device, override)
        model = None if found is None else family_of(op, found.category)
        if found is None or model is None:
            reason = reason or f"no model of '{op}' can be fitted on this kind of chip"
            yield Outcome(device, software, op, dtype, len(which), reason=reason)
        else:
            parts = by_kernel(rows.select(which), software) if has_menus(model) else [(software, rows.select(which))]
            for own, part in parts:
                yield Group(found, own, op, dtype, part, model)


def has_menus(model: Family) -> bool:
    """Whether the family leaves discrete choices to be tried (attention, vector and expert operators)."""
    return bool(getattr(model, "menus", None))


def merged(found: Iterator[Group | Outcome]) -> list[Group | Outcome]:
    """Groups of one chip under several spellings of its device become one."""
    kept: dict[tuple[str, ...], Group | Outcome] = {}
    for group in found:
        if isinstance(group, Outcome):
            kept[("", group.chip, group.software, group.op, group.dtype)] = group
            continue
        key = (group.chip.name, group.software, group.op, group.dtype)
        old = kept.get(key)
        if isinstance(old, Group):
            columns = {n: np.concatenate([old.rows.column(n), group.rows.column(n)]) for n in old.rows.columns}
            origin = group.rows.origin
            file = np.concatenate([old.rows.origin.file, origin.file])
            line = np.concatenate([old.rows.origin.line, origin.line])
            group = replace(group, rows=Rows(columns, replace(origin, file=file, line=line)))
        kept[key] = group
    return list(kept.values())


def found_groups(rows: Rows, chip: Chip | str | None = None) -> list[Group]:
    """The groups of rows that a family can price."""
    return [group for group in merged(group_rows(rows, chip)) if isinstance(group, Group)]


def key_of(each: Group | Calibration) -> tuple[str, str, str, str]:
    """Chip, software, operator and dtype of a group or of the document made of it."""
    chip = each.chip if isinstance(each, Calibration) else each.chip.name
    return chip, each.software, each.op, documents.dtype_key(each.dtype)


def fit_group(group: Group, seed: int = 0) -> fitting.Fit:
    """Fits a group. Raises NotConverged or, for too few rows, InputError."""
    if has_menus(group.model):
        found = fit_rows(group.model, group.chip, group.op, group.dtype, group.rows, seed=seed)
        return found.require_converged()
    choices = alternatives(group.model, group.dtype, group.residency)
    dims: dict[str, np.ndarray] = dict(RowDims(group.rows))
    return fitting.fit(
        group.model, group.chip, group.dtype, dims, group.latency_s,
        alternatives=choices, seed=seed, max_rows=MAX_ROWS,
    ).require_converged()  # fmt: skip


def document(group: Group, found: fitting.Fit) -> Calibration:
    """The calibration document of a fit."""
    return Calibration(
        format=documents.FORMAT,
        chip=group.chip.name,
        software=group.software,
        op=group.op,
        dtype=documents.dtype_key(group.dtype),
        family=group.model.name,
        parameters=found.document_parameters(group.model),
        rows=len(group.rows),
        source=group.source(),
        residency=RESIDENCY[group.residency],
        cross_validation=found.cross_validation(),
        residuals=found.residuals(),
    )


def calibrate(
    rows: Rows | str | os.PathLike[str] | list[str],
    chip: Chip | str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Fits each (chip, software, operator, dtype) of measured rows.

    Args:
        rows: what was measured, or CSV files and folders of them.
        chip: the chip all rows were measured on; default: the one each device is called.
        out: folder the documents are written to; default: nowhere.
        progress: called with each outcome as it is there.

    Returns:
        One outcome per group: its document, or the reason why there is none (no model, too few rows, a fit that
        did not converge). Nothing is written for the latter.

    Raises:
        InputError: bad rows, an unknown chip, or no row that could be fitted.
    """
    table = rows if isinstance(rows, Rows) else load_rows(rows)
    outcomes = []
    for group in merged(group_rows(table, chip)):
        outcome = group if isinstance(group, Outcome) else _outcome(group, out)
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    if not any(outcome.document for outcome in outcomes):
        reasons = sorted({outcome.reason for outcome in outcomes})
        raise InputError(Problem("no calibration could be fitted", hint="; ".join(reasons)[:500]))
    return outcomes


def _outcome(group: Group, out: str | os.PathLike[str] | None) -> Outcome:
    made = Outcome(group.chip.name, group.software, group.op, group.dtype, len(group.rows))
    try:
        fitted = document(group, fit_group(group))
    except fitting.NotConverged as error:
        return replace(made, reason=str(error))
    except InputError as error:
        return replace(made, reason=error.problems[0].message)
    path = "" if out is None else str(documents.save(fitted, out))
    return replace(made, document=fitted, path=path)
