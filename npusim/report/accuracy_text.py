"""Predicted against measured as text."""

from __future__ import annotations

import math

from npusim.accuracy.score import Score
from npusim.accuracy.validation import Group, Validation, Worst
from npusim.report.text import columns
from npusim.units import show

HEADERS = (
    *("device", "op", "dtype", "software", "state", "rows", "priced", "mean", "median", "bias"),
    *("rank", "<=10 %", "<=25 %", "roofline", "80 %"),
)
STATES = {"calibrated": "calibrated", "transferred": "transferred", "uncalibrated": "uncalibrated"}


def text(found: Validation) -> str:
    """The table of groups, the total, what was not priced, and what the states mean."""
    rows = [_row(group) for group in found.groups]
    lines = columns(HEADERS, rows, right=range(5, len(HEADERS)))
    lines += ["", *_total(found)]
    if found.unpriced:
        lines += ["", "Not priced:"]
        lines += columns(["reason", "rows"], [[why, str(n)] for why, n in found.unpriced.items()], right=(1,))
    return "\n".join([*lines, "", *_notes(found)])


def _row(group: Group) -> list[str]:
    own = group.overall
    return [
        group.device, group.op, _short(group.dtype), _short(group.software), group.state, str(group.rows),
        str(group.priced), percent(own.mape_pct), percent(own.mdape_pct), percent(own.bias_pct, signed=True),
        "-" if math.isnan(own.spearman) else f"{own.spearman:.3f}", percent(own.within_10_pct, 0),
        percent(own.within_25_pct, 0), percent(group.roofline.mape_pct),
        percent(group.interval_coverage_pct, 0),
    ]  # fmt: skip


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def percent(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """``12.3 %``, or ``-`` for what is not defined."""
    if math.isnan(value):
        return "-"
    return f"{value:{'+' if signed else ''}.{digits}f} %"


def _total(found: Validation) -> list[str]:
    def line(name: str, own: Score) -> str:
        return (
            f"{name}: mean error {percent(own.mape_pct)}, median {percent(own.mdape_pct)}, "
            f"bias {percent(own.bias_pct, signed=True)}, {percent(own.within_25_pct, 0)} of rows within 25 %"
        )

    head = f"{found.priced} of {found.rows} rows priced."
    return [head, line("npusim", found.overall), line("Plain roofline", found.roofline)] if found.priced else [head]


def _notes(found: Validation) -> list[str]:
    states = {group.state for group in found.groups if group.priced}
    notes = ["Error of a row: predicted / measured − 1. The plain roofline takes data-sheet peaks and cold operands."]
    if "calibrated" in states:
        notes.append("calibrated: constants fitted on this chip; rows that were fitted flatter the error.")
    if "transferred" in states:
        notes.append(
            "transferred: constants learned on chips of its class, or on another stack or format of this chip."
        )
    if "uncalibrated" in states:
        notes.append(f"uncalibrated: the {found.fidelity} model without fitted constants; no interval is claimed.")
    warm = sorted({group.software for group in found.groups if group.residency == "llc"})
    if warm:
        notes.append(f"Operands taken as found in the cache (repeated loops): {', '.join(warm)}.")
    fast = [g for g in found.groups if g.faster_than_roofline_pct >= 1]
    if fast:
        most = max(fast, key=lambda g: g.faster_than_roofline_pct)
        notes.append(
            f"Measured faster than the cold roofline: at least 1 % of the rows in {len(fast)} groups, most in "
            f"{most.device} {most.op} {most.dtype} ({percent(most.faster_than_roofline_pct, 0)})."
        )
    if found.other:
        notes.append(f"{len(found.other)} CSV files hold no rows of a known schema.")
    return ["Notes", *(f"- {note}" for note in notes)]


def worst(row: Worst, why: str) -> str:
    """One row with a large error, and why the model says what it says."""
    return (
        f"\n{row.error_pct:+.0f} %  {row.device} {row.op} {row.dtype} {row.software}: {row.shape}\n"
        f"  predicted {show(row.predicted_s, 's')}, measured {show(row.measured_s, 's')}, "
        f"plain roofline {show(row.roofline_s, 's')} ({row.state})\n  {row.file}:{row.line}\n  {why}"
    )
