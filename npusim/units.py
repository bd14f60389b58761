"""Quantities with units: strings at the file boundary, SI numbers inside.

``parse("4.8 TB/s", "bandwidth") == 4.8e12``. Decimal prefixes are powers of 1000 (``GB`` = 10^9
bytes), binary ones powers of 1024 (``MiB`` = 2^20). ``Gb`` is refused for capacity and bandwidth
because half of the field means bytes by it; ``Gbit`` says density and pin rate.
"""

from __future__ import annotations

import math
import re

from npusim.errors import InputError, Problem, did_you_mean

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}


def _units(base: str, *prefixes: dict[str, float]) -> dict[str, float]:
    return {prefix + base: scale for table in prefixes for prefix, scale in table.items()}


# One table per dimension: every spelling that is understood, with its SI value.
UNITS: dict[str, dict[str, float]] = {
    "capacity": _units("B", _DECIMAL, _BINARY),
    "bandwidth": _units("B/s", _DECIMAL, _BINARY),
    "pin_rate": _units("bit/s", _DECIMAL),
    "density": {unit: scale / 8 for unit, scale in _units("bit", _DECIMAL, _BINARY).items()},
    "frequency": _units("Hz", {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}),
    "time": _units("s", _SMALL),
    "compute": _units("FLOPS", _DECIMAL) | _units("FLOP/s", _DECIMAL) | _units("OPS", _DECIMAL),
    "power": _units("W", {"": 1.0, "m": 1e-3, "k": 1e3}),
    "energy": _units("J", _SMALL),
    "area": {"mm2": 1.0, "mm²": 1.0, "cm2": 100.0},
    "money": {"USD": 1.0, "$": 1.0},
}

_EXAMPLES = {
    "capacity": "'144 GB' or '64 MiB'",
    "bandwidth": "'4.8 TB/s' or '820 GiB/s'",
    "pin_rate": "'9.6 Gbit/s'",
    "density": "'16 Gbit'",
    "frequency": "'1.4 GHz'",
    "time": "'2 us'",
    "compute": "'2 PFLOPS' or '512 TOPS'",
    "power": "'600 W'",
    "energy": "'0.3 pJ'",
    "area": "'653 mm2'",
    "money": "'0.10 USD'",
}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S.*?)?\s*")


def parse(text: object, dimension: str, path: str = "") -> float:
    """Parses a quantity with its unit.

    Args:
        text: for example ``"4.8 TB/s"``.
        dimension: a key of ``UNITS``.
        path: named in the error.

    Returns:
        The value in SI units (bytes, bytes/s, hertz, seconds, FLOP/s, watts, joules; mm² for area).

    Raises:
        InputError: no number, no unit, an unknown or ambiguous unit, or a negative or infinite value.
    """
    wanted = f"write a number with a unit such as {_EXAMPLES[dimension]}"
    shown = repr(text) if len(repr(text)) < 80 else repr(text)[:77] + "..."
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) and len(text) < 200 else None
    if match is None:
        raise InputError(Problem(f"{shown} is not a {dimension.replace('_', ' ')}", path, allowed=wanted))
    number, unit = match.groups()
    if unit is None:
        raise InputError(Problem(f"{shown} has no unit", path, allowed=wanted))
    scale = UNITS[dimension].get(unit)
    if scale is None:
        raise InputError(
            Problem(
                f"unit {unit!r} of {shown} is not a unit of {dimension.replace('_', ' ')}",
                path,
                allowed=wanted,
                hint=_unit_hint(unit, dimension),
            )
        )
    value = float(number) * scale
    if not math.isfinite(value) or value < 0:
        raise InputError(Problem(f"{shown} is out of range", path, allowed="a finite value of at least 0"))
    return value


def _unit_hint(unit: str, dimension: str) -> str:
    if dimension in ("capacity", "bandwidth") and re.fullmatch(r"[kKMGTP]?i?b(ps|/s)?", unit):
        return "lower-case 'b' is ambiguous: write 'B' for bytes or 'bit' for bits"
    return did_you_mean(unit, UNITS[dimension])


_PREFIXES = (
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "u"),
    (1e-9, "n"),
    (1e-12, "p"),
)


def show(value: float, unit: str, digits: int = 3) -> str:
    """Formats an SI value for a person: ``show(4.8e12, "B/s") == "4.8 TB/s"``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    scale, prefix = next((p for p in _PREFIXES if abs(value) >= p[0] * 0.9995), _PREFIXES[-1])
    return f"{value / scale:.{digits}g} {prefix}{unit}"
