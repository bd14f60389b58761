"""What ``npusim validate --engine`` prints, and what a serving answer says of its constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean, median
from typing import Any

from npusim.serving.throughput import Scored, grouped


def calibration_line(found: Mapping[str, Any] | None) -> list[str]:
    """How far the constants of an answer had to reach, in a line.

    Args:
        found: ``npusim.serving.constants.described``; None where the chip file alone speaks.
    """
    if found is None:
        return []
    if found["state"] == "uncalibrated":
        return ["uncalibrated: no measured kernels or runs of this chip or its classes; the chip file alone speaks"]
    line = f"{found['state']}: kernels of {found['kernels']}"
    if found["error_pct"] is None:
        return [line + "; no measured runs say what its host time is"]
    return [
        f"{line}, host time of {found['program']}; throughput of measured runs in that state was off by "
        f"{found['error_pct']:g} % on average (docs/serving-accuracy.md)"
    ]


def to_dict(scores: Iterable[Scored], skipped: Mapping[str, int]) -> dict[str, Any]:
    """Plain types, units in the keys."""
    groups = []
    for (kind, chip, model, program), members in grouped(scores):
        errors = [one.error_pct for one in members if one.error_pct is not None]
        rows = [
            {"label": one.seen.label, "chips": one.seen.chips, "precision": one.seen.precision,
             "input_tokens": one.seen.input, "output_tokens": one.seen.output, "batch": one.seen.batch,
             "measured_tokens_per_s": one.seen.tokens_per_s, "predicted_tokens_per_s": one.tokens_per_s,
             "error_pct": one.error_pct, "state": one.state, "reason": one.reason or None}
            for one in members
        ]  # fmt: skip
        groups.append({
            "kind": kind, "chip": chip, "model": model, "program": program or None, "runs": len(members),
            "predicted": len(errors), "mean_error_pct": fmean(errors) if errors else None,
            "mape_pct": fmean(map(abs, errors)) if errors else None,
            "mdape_pct": median(map(abs, errors)) if errors else None,
            "states": sorted({one.state for one in members if one.error_pct is not None}), "rows": rows,
        })  # fmt: skip
    return {"groups": groups, "skipped": dict(skipped)}


def render(data: Mapping[str, Any], top: int = 0) -> str:
    """The scores as text.

    Args:
        data: ``to_dict``.
        top: how many of the worst runs to list.
    """
    lines = [f"{'run':<14}{'chip':<14}{'model':<18}{'program':<14}{'runs':>5}{'mean %':>8}{'abs %':>7}"
             f"{'median %':>9}  state"]  # fmt: skip
    for group in data["groups"]:
        head = f"{group['kind']:<14}{group['chip']:<14}{group['model']:<18}{group['program'] or '-':<14}"
        if group["mape_pct"] is None:
            lines.append(f"{head}{group['runs']:>5}  not predicted: {group['rows'][0]['reason']}")
            continue
        lines.append(f"{head}{group['predicted']:>5}{group['mean_error_pct']:>+8.1f}{group['mape_pct']:>7.1f}"
                     f"{group['mdape_pct']:>9.1f}  {', '.join(group['states'])}")  # fmt: skip
    lines += [f"{count} rows left out: {reason}" for reason, count in sorted(data["skipped"].items())]
    rows = [(group, row) for group in data["groups"] for row in group["rows"] if row["error_pct"] is not None]
    for group, row in sorted(rows, key=lambda pair: -abs(pair[1]["error_pct"]))[:top]:
        load = group["kind"] if row["batch"] is None else f"batch {row['batch']}"
        lengths = f" {row['input_tokens']}/{row['output_tokens']}" if row["input_tokens"] else ""
        what = f"{group['model']}{lengths}, {load}, on {row['chips']} x {group['chip']}"
        figures = f"{row['measured_tokens_per_s']:.5g} tokens/s measured, {row['predicted_tokens_per_s']:.5g} predicted"
        lines.append(f"{row['error_pct']:+.1f} %: {what}: {figures}")
    return "\n".join(lines)
