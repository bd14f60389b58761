"""Numbers as people write them in plans and targets: with any unit npusim knows, or plain SI."""

from __future__ import annotations

import re
from dataclasses import dataclass

from npusim import units
from npusim.errors import InputError, Problem, did_you_mean, unknown_name

_UNITS = {unit: dimension for dimension, table in units.UNITS.items() for unit in table}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def number(text: object, path: str = "") -> float | int:
    """SI value of a plain number or of a string with any known unit.

    Raises:
        InputError: neither.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return text
    match = _NUMBER.fullmatch(text) if isinstance(text, str) and len(text) < 200 else None
    if match is None:
        raise InputError(
            Problem(f"{str(text)[:60]!r} is not a number", path, allowed="a number, with or without a unit")
        )
    digits, unit = match.groups()
    if not unit:
        return int(digits) if re.fullmatch(r"[+-]?\d{1,18}", digits) else float(digits)
    if unit not in _UNITS:
        hint = did_you_mean(unit, _UNITS)
        raise InputError(
            Problem(f"unknown unit {unit!r}"[:80], path, allowed="a unit such as TB/s, MiB, W, ms", hint=hint)
        )
    return units.parse(str(text), _UNITS[unit], path)


# Metrics by name: what a design or one of its points is judged by. The unit is in the name.
DESIGN_METRICS = {
    "area_mm2": "silicon of one chip, all dies",
    "die_mm2": "one compute die",
    "cost_usd": "one packaged chip",
    "tdp_w": "power limit of one chip",
    "sram_bytes": "on-chip memory",
    "dram_bytes_per_s": "main-memory bandwidth",
    "memory_capacity_bytes": "main memory",
    "peak_flops_per_s": "dense peak of the fastest format",
}
POINT_METRICS = {
    "time_s": "of the step",
    "lower_bound_s": "that no schedule beats",
    "ttft_s": "prefill of one prompt",
    "tpot_s": "mean decode step",
    "tpot_loaded_s": "decode step while others prefill",
    "tokens_per_s": "all chips together",
    "tokens_per_s_per_user": "tokens_per_s / requests",
    "tokens_per_s_per_chip": "tokens_per_s / chips",
    "tokens_per_j": "output tokens per joule",
    "usd_per_mtoken": "per million tokens: chips over their life, and energy",
    "energy_j": "of the step, all chips",
    "avg_power_w": "all chips",
    "power_w": "one chip",
    "mfu": "of the matrix peak",
    "mbu": "of the memory bandwidth",
    "memory_bytes": "needed per chip",
    "chips": "tensor-parallel chips",
}
METRICS = DESIGN_METRICS | POINT_METRICS
ALIASES = {
    "area": "area_mm2",
    "die": "die_mm2",
    "cost": "cost_usd",
    "power": "power_w",
    "memory": "memory_bytes",
    "time": "time_s",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "throughput": "tokens_per_s",
    "energy": "energy_j",
    "efficiency": "tokens_per_j",
    "sram": "sram_bytes",
    "bandwidth": "dram_bytes_per_s",
    "tdp": "tdp_w",
    "peak": "peak_flops_per_s",
}
HIGHER_IS_BETTER = {
    "tokens_per_s",
    "tokens_per_s_per_user",
    "tokens_per_s_per_chip",
    "tokens_per_j",
    "mfu",
    "mbu",
    "peak_flops_per_s",
    "dram_bytes_per_s",
    "memory_capacity_bytes",
}


def metric(name: str, path: str = "", more: tuple[str, ...] = ()) -> str:
    """The metric's full name. Raises InputError with the closest known one."""
    full = ALIASES.get(name, name)
    if full not in METRICS and full not in more:
        raise unknown_name("metric", name, [*METRICS, *ALIASES, *more], path)
    return full


@dataclass(frozen=True, slots=True)
class Constraint:
    """``metric <= limit`` or ``metric >= limit``; ``text`` as it was written."""

    metric: str
    at_most: bool
    limit: float
    text: str

    def holds(self, value: float | None) -> bool:
        """Whether a value keeps to it; a value that does not exist does not."""
        if value is None or value != value:
            return False
        return value <= self.limit if self.at_most else value >= self.limit


_CONSTRAINT = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|<|>|=)\s*(.+?)\s*")


def constraint(text: object, more: tuple[str, ...] = (), path: str = "") -> Constraint:
    """Reads ``area <= 800 mm2``. Names are metrics, their short forms, or one of ``more``.

    Raises:
        InputError: not of this form, an unknown name or unit.
    """
    match = _CONSTRAINT.fullmatch(text) if isinstance(text, str) and len(text) < 300 else None
    if match is None or match[2] == "=":
        raise InputError(
            Problem(f"{str(text)[:80]!r} is not a constraint", path, allowed="METRIC <= VALUE or METRIC >= VALUE")
        )
    return Constraint(metric(match[1], path, more), "<" in match[2], float(number(match[3], path)), str(text).strip())


def contradiction(constraints: tuple[Constraint, ...]) -> tuple[Constraint, Constraint] | None:
    """Two constraints that no value can keep to at once, if there are such."""
    for low in constraints:
        for high in constraints:
            if low.metric == high.metric and not low.at_most and high.at_most and low.limit > high.limit:
                return low, high
    return None
