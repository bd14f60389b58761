"""Numbers as a person reads them: the unit of each column, three significant digits, ``-`` for nothing."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from npusim import units
from npusim.accuracy import trust
from npusim.kperf_suite import COLUMNS, LOAD_COLUMNS

NOTHING = "-"
# Unit shown → factor from SI.
SCALE = {"ms": 1e3, "%": 100.0, "GB": 1e-9}
_ALL = trust.with_columns((*COLUMNS, *LOAD_COLUMNS))
HEADING = {key: heading for key, heading, _, _ in _ALL}
UNIT = {key: unit for key, _, unit, _ in _ALL}
DEFINITION = {key: text for key, _, _, text in _ALL}
STATE_KEYS = ("state_prefill", "state_decode")
TEXT_KEYS = frozenset(
    {"chip", "model", "precision", "bound_prefill", "bound_decode", "mlperf_limits_met", "note", *STATE_KEYS}
)
COUNT_KEYS = frozenset({"tp", "input_tokens", "output_tokens", "concurrency"})


def full_name(key: str) -> str:
    """Heading and unit that stand alone, as on an axis: ``Throughput per chip, tokens/s``."""
    heading = HEADING[key]
    if heading.startswith("per "):
        heading = f"{HEADING['tokens_per_s']} {heading}"
    return f"{heading}, {UNIT[key]}" if UNIT[key] else heading


def shown(key: str, value: Any) -> Any:
    """The value of a column in the unit of its heading (``ttft_s`` in ms); None stays None."""
    if value is None or key in TEXT_KEYS or key in COUNT_KEYS:
        return value
    return float(value) * SCALE.get(UNIT[key], 1.0)


def number(value: float | None) -> str:
    """Three significant digits, all digits of the integer part, thousands separated; ``-`` for None.

    >>> number(22604.4), number(3.1315), number(0.01234), number(None)
    ('22,604', '3.13', '0.0123', '-')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e9 or size < 1e-4:
        return f"{value:.2e}"
    rounded = float(f"{size:.3g}")  # 9.999 rounds to 10.0, not 10.00
    decimals = max(0, 2 - math.floor(math.log10(rounded) + 1e-9))
    return f"{value:,.{decimals}f}"


def cell(key: str, value: Any) -> str:
    """One cell of a K-Perf row as text, without the unit."""
    if value is None or value == "":
        return NOTHING if key != "note" else ""
    if key == "mlperf_limits_met":
        return ", ".join(map(str, value)) if value else "none"
    if key in TEXT_KEYS:
        return str(value)
    if key in COUNT_KEYS:
        return str(int(value))
    in_unit = float(shown(key, value))
    return f"{in_unit:.1f}" if UNIT[key] == "%" else number(in_unit)


def interval(row: Mapping[str, Any], phase: str) -> str:
    """Low to high end of the measured times expected of ``ttft`` or ``tpot``, without the unit; ``-`` for none."""
    low, high = row.get(f"{phase}_low_s"), row.get(f"{phase}_high_s")
    if low is None or high is None:
        return NOTHING
    return f"{cell(f'{phase}_low_s', low)} – {cell(f'{phase}_high_s', high)}"


def states(row: Mapping[str, Any]) -> str:
    """States of the two intervals of a row, once where they are the same."""
    return "/".join(dict.fromkeys(str(row[key]) for key in STATE_KEYS if row.get(key))) or NOTHING


def bound(row: Mapping[str, Any], phase: str) -> str | None:
    """Resource that bounds a phase of a row; None where there is no such phase (no figures, or O = 1)."""
    if phase == "decode" and row["output_tokens"] == 1:
        return None
    found = row[f"bound_{phase}"]
    return None if found is None else str(found)


def value(row: Mapping[str, Any], key: str) -> Any:
    """A row's figure, with a decode bound only where there are decode steps."""
    return bound(row, key.removeprefix("bound_")) if key.startswith("bound_") else row[key]


def lengths(row: Mapping[str, Any]) -> str:
    """Input/output tokens as ``2048/2048``."""
    return f"{row['input_tokens']}/{row['output_tokens']}"


def concurrency(row: Mapping[str, Any]) -> str:
    """Concurrency, marked where it is the largest that fits."""
    count = str(int(row["concurrency"]))
    return f"max {count}" if row.get("concurrency_level") == "max" else count


def ratio(factor: float | None) -> str:
    """A ratio as ``1.25x``; ``-`` for None."""
    return NOTHING if factor is None else f"{number(factor)}x"


def chips(count: int) -> str:
    """``1 chip``, ``4 chips``."""
    return f"{count} chip" if count == 1 else f"{count} chips"


# Last key of a chip figure's path → unit of its SI value; tables (peak.fp8) go by their own key.
_FIGURE_UNIT = {
    "clock": "Hz", "bandwidth": "B/s", "pin_rate": "bit/s", "setup": "s", "latency": "s", "launch": "s", "step": "s",
    "tdp": "W", "idle": "W", "dram_byte": "J", "sram_byte": "J", "link_byte": "J", "flop": "J", "peak": "FLOP/s",
}  # fmt: skip
_PLAIN_UNIT = {
    "die": "mm²", "node_nm": "nm", "channel_bits": "bit", "bytes_per_cycle": "B/cycle", "flops_per_cycle": "FLOP/cycle",
    "rates": "per lane and cycle",
}  # fmt: skip


def figure(path: str, value: object) -> str:
    """A chip figure in readable units, by its path: ``figure("memory.bandwidth", 4.8e12) == "4.8 TB/s"``."""
    keys = path.split(".")
    name = keys[-2] if len(keys) > 1 and keys[-2] in ("peak", "flops_per_cycle", "flop", "rates") else keys[-1]
    if isinstance(value, (list, tuple)):
        return " × ".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if name in ("capacity", "alignment"):
        return binary_bytes(value) if keys[0] != "memory" else units.show(value, "B", 4)
    if name in _FIGURE_UNIT:
        return units.show(float(value), _FIGURE_UNIT[name], 5)
    if name == "usable":
        return f"{value:.0%}"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return f"{text} {_PLAIN_UNIT[name]}" if name in _PLAIN_UNIT else text


def binary_bytes(value: float) -> str:
    """Bytes of an on-chip memory: in KiB, MiB or GiB."""
    for scale, prefix in ((2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki")):
        if value >= scale:
            return f"{value / scale:.4g} {prefix}B"
    return f"{value:g} B"


def plain(text: object) -> str:
    """Text for a terminal: control characters (line breaks, escape codes) become ``?``."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def columns_of(text: str) -> int:
    """Terminal columns a text takes: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Pads to a width in terminal columns; ``right`` aligns to the right."""
    space = " " * max(width - columns_of(text), 0)
    return space + text if right else text + space
