"""Predicted against measured, class by class; writes ``docs/accuracy.md`` and the figures of the regression gate.

    python -m bench.accuracy [MEASURED_FOLDER] [--out FILE] [--thin N] [--gate]

``--gate`` also writes ``tests/accuracy_gate.json``: the error of a fixed sample of each class, which the test suite
compares with. Run it after a change that is meant to change errors, and say so in the changelog.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from bench.accuracy_classes import CLASSES, AccuracyClass
from bench.accuracy_page import document
from bench.accuracy_results import MEASURED, ROOT, measure
from npusim.accuracy.rows import load_measured
from npusim.accuracy.score import score
from npusim.accuracy.table import Table
from npusim.accuracy.validation import validate

GATE = ROOT / "tests" / "accuracy_gate.json"
SAMPLE_ROWS = 240  # of each class


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
    given.out.write_text(document(measure(given.folder, thin=given.thin), given.thin, given.folder), encoding="utf-8")
    print(f"wrote {given.out}")
    if given.gate:
        figures = {"shared": gate_figures(given.folder), "own": own_figures()}
        GATE.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {GATE}")


if __name__ == "__main__":
    main()
