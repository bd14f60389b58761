"""What ``npusim serve --scenario`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render(data: Mapping[str, Any], serving: str) -> str:
    """The figure that MLPerf reports, its limits, and the run behind it.

    Args:
        data: ``ScenarioResult.to_dict()``.
        serving: the text of the run.
    """
    found = f"{data['tokens_per_s']:.5g} tokens/s" if "tokens_per_s" in data else f"{1e3 * data['latency_s']:.4g} ms"
    lines = [f"MLPerf {data['benchmark']} {data['scenario']}: {found} ({data['metric']})"]
    limits, run = data["limits"], data["serving"]
    if limits:
        at = "valid" if data["valid"] else "NOT VALID"
        p99 = [f"p99 {name.upper()} {_ms(run[f'{name}_s']['p99'])} ms of {_ms(limits[f'{name}_s'])} ms"
               for name in ("ttft", "tpot")]  # fmt: skip
        lines.append(f"{at} at {data['rate_per_s']:.4g} requests/s: {', '.join(p99)}")
    lines += [f"VERDICT: {text}" for text in data["verdicts"]]
    lines += ["", serving, *(f"note: {text}" for text in data["notes"])]
    return "\n".join(lines)


def _ms(value_s: float | None) -> str:
    return "-" if value_s is None else f"{1e3 * value_s:.4g}"
