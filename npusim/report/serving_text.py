"""What ``npusim serve`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

_LATENCIES = (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("ITL", "itl_s"), ("end to end", "e2e_s"), ("queue", "queue_s"))
_BARS = " ▁▂▃▄▅▆▇█"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{1e3 * value:.4g}"


def sparkline(values: Any, width: int = 60) -> str:
    """A row of bars: values averaged into at most ``width`` groups, the largest at full height."""
    values = [float(v) for v in values]
    if not values:
        return ""
    groups = min(width, len(values))
    edges = [round(i * len(values) / groups) for i in range(groups + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges) if b > a]
    top = max(means)
    return "".join(_BARS[round(8 * m / top)] if top > 0 else _BARS[0] for m in means)


_KEPT_OUT = {"sequences": "places among the sequences of a step (--max-sequences)",
             "tokens": "tokens of a step (--max-tokens)",
             "blocks": "blocks of the KV cache"}  # fmt: skip
_TELLING = 0.05  # shares below are not worth a word


def answer(data: Mapping[str, Any]) -> list[str]:
    """What was asked, in the first lines: does it hold, at which rate, on which chips and why, what limits it.

    Args:
        data: ``Serving.to_dict()``, with ``limits``.
    """
    lines = [f"VERDICT: {text}" for text in data["verdicts"]]
    if data["slo"]:
        asked = f"{100 * data['slo']['attainment']:.4g}%"
        served = f"served: {data['requests_per_s']:.4g} requests/s, {data['attainment']:.1%} of them within the SLO"
        lines.append(f"{served} (asked: {asked}): {_limits(data)}")
    else:
        lines.append(f"served: {data['requests_per_s']:.4g} requests/s, {data['tokens_per_s']:.5g} output tokens/s")
    if data["highest_rate_per_s"] is not None:
        held = "holds the SLO" if data["slo"] else "can be sustained"
        lines.append(f"highest rate: {data['highest_rate_per_s']:.4g} requests/s {held}")
    return [*lines, *_chosen(data["choice"], _shape(data["placement"])), _limited(data["limits"])]


def _limits(data: Mapping[str, Any]) -> str:
    """The SLO beside what the asked share of requests got."""
    keys = [key for key in ("ttft_s", "tpot_s", "e2e_s") if key in data["slo"]]
    return ", ".join(
        f"{key.removesuffix('_s').upper()} p99 {_ms(data[key]['p99'])} of {_ms(data['slo'][key])} ms" for key in keys
    )


def _limited(limits: Mapping[str, Any]) -> str:
    """What steps wait for, and what requests wait for."""
    resources = [f"{name} {share:.0%}" for name, share in limits["resources"].items() if share >= _TELLING]
    line = f"limited by: {', '.join(resources)} of the time in steps"
    waits = [f"{_KEPT_OUT[name]} {share:.0%}" for name, share in limits["kept_out"].items() if share >= _TELLING]
    return line + (f"; requests wait for {' and '.join(waits)} of it" if waits else "")


def _shape(place: Mapping[str, Any]) -> str:
    shared = f", ep {place['ep']}" if place["ep"] > 1 else ""
    shape = f"tp {place['tp']}, pp {place['pp']}{shared}, {_count(place['replicas'], 'replica')}"
    return shape + (f" ({place['prefill_replicas']} prefill)" if place["prefill_replicas"] else "")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _chosen(choice: Mapping[str, Any] | None, shape: str) -> list[str]:
    """Which placement was chosen and why, in a line."""
    if choice is None:
        return []
    line = f"chosen: {shape}; {choice['reason']}"
    if len(choice["tried"]) > 1:
        second = choice["tried"][1]
        line += f"; best of {len(choice['tried'])}, next tp {second['tp']}, pp {second['pp']}"
        line += f", ep {second['ep']}" if second["ep"] > 1 else ""
    if choice["does_not_fit"]:
        line += f"; {len(choice['does_not_fit'])} do not fit"
    return [line]


def render(data: Mapping[str, Any], over_time: Mapping[str, Any], notes: list[str]) -> str:
    """The answer of one serving run as text.

    Args:
        data: ``Serving.to_dict()``, with ``limits``.
        over_time: ``Serving.over_time()``.
        notes: what a reader must know of the chip's figures.
    """
    place = data["placement"]
    left_out = f" ({data['skipped_requests']} too long, left out)" if data["skipped_requests"] else ""
    lines = [
        f"{data['model']} ({data['precision']}) on {place['chips']} x {data['chip']} ({_shape(place)})",
        *answer(data),
        "",
        f"steps priced at {data['fidelity']}"
        + (f", busiest expert at {data['imbalance_pct']:g} % of the mean" if data["imbalance_pct"] != 100 else ""),
        f"{_count(data['requests'], 'request')}{left_out} in {data['duration_s']:.4g} s, {data['steps']} steps of "
        f"{data['mean_batch']:.3g} sequences on average",
        "",
        f"{'ms':<12}{'mean':>10}{'p50':>10}{'p90':>10}{'p95':>10}{'p99':>10}",
    ]
    for title, key in _LATENCIES:
        row = data[key]
        lines.append(f"{title:<12}" + "".join(f"{_ms(row[q]):>10}" for q in ("mean", "p50", "p90", "p95", "p99")))
    lines += ["", f"throughput   {data['requests_per_s']:.4g} requests/s, {data['tokens_per_s']:.5g} output tokens/s"]
    if data["slo"]:
        good = f"{data['goodput_requests_per_s']:.4g} requests/s, {data['goodput_tokens_per_s']:.5g} output tokens/s"
        lines.append(f"goodput      {good} of the requests that meet the SLO")
    lines.append(f"engines      {data['utilisation']:.0%} busy; {data['mean_running']:.3g} requests run and "
                 f"{data['mean_waiting']:.3g} wait on average")  # fmt: skip
    lines.append(
        f"KV cache     {data['kv_occupancy']:.1%} of {data['kv_tokens_per_engine']} tokens per engine; "
        f"{data['preemptions']} preemptions, {data['cached_tokens']} cached tokens reused"
    )
    if data["avg_power_w"] is not None:
        lines.append(f"power        {data['avg_power_w']:.4g} W, {data['energy_per_request_j']:.4g} J per request, "
                     f"{data['tokens_per_j']:.4g} tokens/J")  # fmt: skip
    lines += ["", f"waiting      {sparkline(over_time['waiting'])}", f"running      {sparkline(over_time['running'])}",
              f"KV cache     {sparkline(over_time['kv_occupancy'])}"]  # fmt: skip
    lines += ["", *(f"note: {text}" for text in notes)]
    return "\n".join(lines).rstrip()
