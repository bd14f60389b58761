"""Classes of the scoreboard with what ``validate`` finds on their measured rows."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np

from bench.accuracy_classes import CLASSES, AccuracyClass
from npusim.accuracy.rows import Measured, load_measured
from npusim.accuracy.table import Table
from npusim.accuracy.validation import Group, Validation, validate

ROOT = Path(__file__).parents[1]
MEASURED = ROOT.parent / "shared" / "data" / "measured"
STATES = ("uncalibrated", "transferred", "calibrated")


@dataclass(frozen=True)
class Baselines:
    """Published mean errors of the naive models, weighted by rows: plain roofline and one efficiency + overhead."""

    rows: int
    r0_pct: float
    r1_pct: float


@dataclass(frozen=True)
class Result:
    """A class with the groups that belong to it.

    Args:
        kind: the class.
        groups: its groups.
        baselines: published naive figures.
    """

    kind: AccuracyClass
    groups: tuple[Group, ...]
    baselines: Baselines | None

    def mean(self, figure: str) -> float:
        """Mean of a figure over the priced rows of the groups that have it."""
        pairs = [(value(group, figure), group.priced) for group in self.groups if group.priced]
        known = [(x, n) for x, n in pairs if math.isfinite(x)]
        return float(np.average([x for x, _ in known], weights=[n for _, n in known])) if known else math.nan

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(group.rows for group in self.groups)

    @property
    def priced(self) -> int:
        """Rows with a prediction."""
        return sum(group.priced for group in self.groups)

    @property
    def state(self) -> str:
        """States of its groups."""
        found = {group.state for group in self.groups if group.priced}
        return ", ".join(state for state in STATES if state in found) or "not priced"

    @property
    def judged_pct(self) -> float:
        """The error to judge by: out of fold where documents price every row, else as it is."""
        priced = [group for group in self.groups if group.priced]
        documented = all("uncalibrated" not in g.states and math.isfinite(g.fold_mape_pct) for g in priced)
        return self.mean("fold") if priced and documented else self.mean("own")


def value(group: Group, figure: str) -> float:
    """One figure of a group by a short name."""
    return {
        "own": group.overall.mape_pct,
        "bias": group.overall.bias_pct,
        "roofline": group.roofline.mape_pct,
        "fold": group.fold_mape_pct,
        "coverage": group.interval_coverage_pct,
    }[figure]


def published(folder: Path, kind: AccuracyClass) -> Baselines | None:
    """Published naive figures of a class, or None."""
    table, pattern = kind.baseline
    found = [
        row
        for row in _baselines(folder)
        if row["table"] == table and re.fullmatch(pattern, row["group"]) and re.fullmatch(kind.device, row["device"])
    ]
    if not found:
        return None
    weights = [float(row["n"]) for row in found]
    figures = [np.average([float(row[name]) for row in found], weights=weights) for name in ("R0_MAPE", "R1_MAPE")]
    return Baselines(int(sum(weights)), float(figures[0]), float(figures[1]))


@cache
def _baselines(folder: Path) -> list[dict[str, str]]:
    with (folder / "BASELINES.csv").open() as stream:
        return list(csv.DictReader(stream))


def measure(folder: Path, classes: Sequence[AccuracyClass] = CLASSES, thin: int = 1) -> list[Result]:
    """Validates each table once, every ``thin``-th row of it, and sorts its groups into classes."""
    found: dict[tuple[str, ...], Validation] = {}
    results = []
    for kind in classes:
        if kind.files not in found:
            print(f"  {', '.join(kind.files)}", flush=True)
            found[kind.files] = validate(
                thinned(load_measured([str(folder / f) for f in kind.files]), kind.thin * thin)
            )
        groups = tuple(group for group in found[kind.files].groups if kind.holds(group))
        results.append(Result(kind, groups, published(folder, kind)))
    return results


def thinned(measured: Measured, step: int) -> Measured:
    """Every ``step``-th row of each table."""
    tables = {field.name: getattr(measured, field.name) for field in fields(measured)}
    thin = {name: t.select(np.arange(0, len(t), step)) for name, t in tables.items() if isinstance(t, Table)}
    return replace(measured, **thin)
