"""Predicted against measured, class by class; writes ``docs/accuracy.md`` and the figures of the regression gate.

    python -m bench.accuracy [MEASURED_FOLDER] [--out FILE] [--thin N] [--gate]

``--gate`` also writes ``tests/accuracy_gate.json``: the error of a fixed sample of each class, which the test suite
compares with. Run it after a change that is meant to change errors, and say so in the changelog.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np

from bench.accuracy_classes import CLASSES, PEERS, AccuracyClass
from npusim.accuracy.rows import Measured, load_measured
from npusim.accuracy.score import score
from npusim.accuracy.table import Table
from npusim.accuracy.validation import Group, Validation, validate

ROOT = Path(__file__).parents[1]
MEASURED = ROOT.parent / "shared" / "data" / "measured"
GATE = ROOT / "tests" / "accuracy_gate.json"
SAMPLE_ROWS = 240  # of each class
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
        """The error to judge by: out of fold where documents state it for every group, else as it is."""
        priced = [group for group in self.groups if group.priced]
        all_folds = priced and all(math.isfinite(group.fold_mape_pct) for group in priced)
        return self.mean("fold") if all_folds else self.mean("own")


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


# -- the page ------------------------------------------------------------------------------------------------


def document(results: Sequence[Result], thin: int = 1) -> str:
    """The scoreboard as Markdown."""
    return (
        "\n".join([*_intro(results, thin), *_classes(results), *_behind(results), *_peers(), *_groups(results)]) + "\n"
    )


def _intro(results: Sequence[Result], thin: int) -> list[str]:
    rows, priced = sum(r.rows for r in results), sum(r.priced for r in results)
    return [
        "# Accuracy: predicted against measured",
        "",
        "Generated by `python -m bench.accuracy` from measured tables; do not edit. How rows are priced and what the",
        "states mean: [validation.md](validation.md).",
        "",
        *([f"A preview: every {thin}th row of each table.", ""] if thin > 1 else []),
        f"{priced:,} of {rows:,} rows priced. Errors are mean absolute percentage errors of the time. *out of fold*:",
        "on shapes the calibration was not fitted on (five folds over shapes); *as fitted*: with the document of",
        "the catalog on all rows, which flatters calibrated classes; for an uncalibrated class nothing was fitted",
        "and it is what the user gets. R0 is the plain roofline with data-sheet peaks on the same rows, R1 one",
        "efficiency and one overhead fitted on a fifth of the rows (published with the data). *floor*: gradient",
        "boosting on shape features in the same folds, a black box that knows no chip.",
        "",
    ]


def _classes(results: Sequence[Result]) -> list[str]:
    lines = [
        "## Classes",
        "",
        "| class | rows | state | out of fold | as fitted | bias | target | met | R0 | R1 | floor | in 80 % interval |",
        "|---|---:|---|---:|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for r in results:
        target = r.kind.target_pct
        met = "" if target is None else "yes" if r.judged_pct <= target else "**no**"
        lines.append(
            f"| {r.kind.name} | {r.rows:,} | {r.state} | {_pct(r.mean('fold'))} | {_pct(r.mean('own'))} "
            f"| {_pct(r.mean('bias'), True)} | {'' if target is None else f'≤ {target:g} %'} | {met} "
            f"| {_pct(r.mean('roofline'))} | {_pct(r.baselines.r1_pct if r.baselines else math.nan)} "
            f"| {r.kind.floor} | {_pct(r.mean('coverage'))} |"
        )
    return [*lines, ""]


def _pct(figure: float, signed: bool = False) -> str:
    return "" if math.isnan(figure) else f"{figure:{'+' if signed else ''}.1f} %"


def _behind(results: Sequence[Result]) -> list[str]:
    behind = [r for r in results if r.baselines and r.priced and r.judged_pct > r.baselines.r1_pct]
    missed = [r for r in results if r.kind.target_pct is not None and r.priced and r.judged_pct > r.kind.target_pct]
    unpriced = [r for r in results if r.priced < r.rows]
    return [
        "## Where npusim is worse",
        "",
        *_list("Worse than one efficiency and one overhead (R1)", behind),
        *_list("Target missed", missed),
        "Rows without a prediction: "
        + (", ".join(f"{r.rows - r.priced:,} of {r.kind.name}" for r in unpriced) or "none")
        + ".",
        "",
    ]


def _list(title: str, found: Sequence[Result]) -> list[str]:
    names = "; ".join(f"{r.kind.name} ({r.judged_pct:.1f} %, {r.state})" for r in found)
    return [f"{title}: {names or 'none'}.", ""]


def _peers() -> list[str]:
    lines = [
        "## Published errors of other tools",
        "",
        "As their authors state them, or as computed from their files; mostly on other rows than ours, so they set a",
        "scale and no ranking. Tools that interpolate profiles of the same GPU cannot be asked about a chip that",
        "nobody has measured.",
        "",
        "| tool | on what | error | source |",
        "|---|---|---|---|",
    ]
    return [*lines, *(f"| {peer.who} | {peer.what} | {peer.error} | {peer.source} |" for peer in PEERS), ""]


def _groups(results: Sequence[Result]) -> list[str]:
    lines = [
        "## Devices and software stacks",
        "",
        "| class | device | op | dtype | software | state | model | rows | priced | out of fold | as fitted | median "
        "| bias | rank | R0 | faster than cold roofline |",
        "|---|---|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        for g in r.groups:
            rank = "" if math.isnan(g.overall.spearman) else f"{g.overall.spearman:.3f}"
            lines.append(
                f"| {r.kind.name} | {g.device} | {g.op} | {g.dtype} | {g.software} | {g.state} | {g.model} | {g.rows} "
                f"| {g.priced} | {_pct(g.fold_mape_pct)} | {_pct(g.overall.mape_pct)} | {_pct(g.overall.mdape_pct)} "
                f"| {_pct(g.overall.bias_pct, True)} | {rank} | {_pct(g.roofline.mape_pct)} "
                f"| {_pct(g.faster_than_roofline_pct)} |"
            )
    return lines


# -- the regression gate -------------------------------------------------------------------------------------


def sample(table: Table, keep: np.ndarray, most: int = SAMPLE_ROWS) -> Table:
    """Every so-many-th of the rows that are kept: the same ones in every run."""
    at = np.flatnonzero(keep)
    step = max(len(at) // most, 1)
    return table.select(at[::step][:most])


def gate_figures(folder: Path, classes: Iterable[AccuracyClass] = CLASSES) -> dict[str, float]:
    """Mean error of a fixed sample of each class, percent."""
    figures = {}
    for kind in classes:
        errors = [_sample_errors(table, kind) for table in _tables(folder, kind.files)]
        joined = np.concatenate(errors) if errors else np.zeros(0)
        if len(joined):
            figures[kind.name] = round(float(np.mean(np.abs(joined))), 3)
    return figures


@cache
def _tables(folder: Path, files: tuple[str, ...]) -> list[Table]:
    return load_measured([str(folder / file) for file in files]).tables()


def _sample_errors(table: Table, kind: AccuracyClass) -> np.ndarray:
    """Signed errors in percent of the sampled rows of one class."""
    keep = np.ones(len(table), dtype=bool)
    patterns = (("device", kind.device), ("op", kind.op), ("dtype", kind.dtype), ("software", kind.software))
    for column, pattern in patterns:
        if column in table.text:
            known = {text: bool(re.fullmatch(pattern, text)) for text in set(table.column(column))}
            keep &= np.array([known[text] for text in table.column(column)])
    if not keep.any():
        return np.zeros(0)
    (found,) = validate(sample(table, keep)).tables
    at = found.priced
    return np.asarray(100 * (found.predicted_s[at] / found.measured_s[at] - 1), dtype=float)


def own_rows() -> list[Path]:
    """Rows we measured ourselves and keep in the repository."""
    return sorted((ROOT / "bench" / "device").rglob("*.csv"))


def own_figures() -> dict[str, float]:
    """Mean error of each of our own files, percent."""
    figures = {}
    for path in own_rows():
        for table in validate([str(path)]).tables:
            at = table.priced
            if at.any():
                name = f"{path.relative_to(ROOT).as_posix()} {table.rows.kind}"
                figures[name] = round(score(table.predicted_s[at], table.measured_s[at]).mape_pct, 3)
    return figures


def main() -> None:
    """Writes the page, and with ``--gate`` the figures of the regression gate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", type=Path, default=MEASURED)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "accuracy.md")
    parser.add_argument("--thin", type=int, default=1, metavar="N", help="every Nth row only: a quick preview")
    parser.add_argument("--gate", action="store_true", help="also write the figures the test suite compares with")
    given = parser.parse_args()
    given.out.write_text(document(measure(given.folder, thin=given.thin), given.thin), encoding="utf-8")
    print(f"wrote {given.out}")
    if given.gate:
        figures = {"shared": gate_figures(given.folder), "own": own_figures()}
        GATE.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {GATE}")


if __name__ == "__main__":
    main()
