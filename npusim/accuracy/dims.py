"""The dimensions of measured rows by name: columns first, then ``key=value`` pairs of ``extra``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from npusim.accuracy.table import Floats, Table

# Words of ``extra`` as numbers: name → (key, what its values mean by a part of their spelling).
_WORDS: Mapping[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    "eager": ("kernel", (("eager", 1.0), ("", 0.0))),
    "fidelity_passes": ("fidelity", (("LoFi", 1.0), ("HiFi2", 2.0), ("HiFi3", 3.0), ("HiFi4", 4.0))),
    "a_in_dram": ("in0", (("DRAM", 1.0), ("L1", 0.0))),
    "untuned": ("cfg", (("out-of-box", 1.0), ("tuned", 0.0))),
    "host_dispatch": ("trace", (("False", 1.0), ("True", 0.0))),
}


def _worded(rows: Table, name: str) -> Floats:
    key, meanings = _WORDS[name]
    texts = rows.extra(key)
    known = {text: next((v for part, v in meanings if part in text), np.nan) for text in set(texts) if text}
    return np.array([known.get(text, np.nan) for text in texts], dtype=np.float64)


class RowDims(Mapping[str, Floats]):
    """What a model of an operator may ask of rows: arrays of float64, nan where a row has no value.

    A name is a column (``m``, ``head_dim``, ``bytes``) or a numeric key of ``extra`` (``window``, ``topk``, ``tp``),
    or ``skew``, the exponent of a power-law ``dist`` of tokens over experts (0 for a balanced one);
    one that no row has is not in the mapping. ``latency_us`` and other measured figures are left out.
    """

    MEASURED = frozenset({"latency_us", "latency_ms", "latency_s", "ttft_ms", "tpot_ms", "throughput_tok_s", "cycles"})

    def __init__(self, rows: Table) -> None:
        self.rows = rows
        self._found: dict[str, Floats] = {}

    def __getitem__(self, name: str) -> Floats:
        if name in self.MEASURED:
            raise KeyError(name)
        if name not in self._found:
            self._found[name] = self._read(name)
        values = self._found[name]
        if name not in self.rows.numbers and np.isnan(values).all():
            raise KeyError(name)
        return values

    def _read(self, name: str) -> Floats:
        if name in self.rows.numbers:
            return self.rows.column(name)
        if name == "skew":
            return skew_of(self.rows)
        return _worded(self.rows, name) if name in _WORDS else self.rows.extra_number(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.rows.numbers if name not in self.MEASURED)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def or_else(self, name: str, default: float) -> Floats:
        """Values of ``name`` with ``default`` where a row has none."""
        values = self.get(name)
        return np.full(len(self.rows), default) if values is None else np.where(np.isnan(values), default, values)


def skew_of(rows: Table) -> Floats:
    """Exponent of a power-law ``dist`` of tokens over experts, 0 for a balanced one, nan where a row states none."""
    distribution = rows.extra("dist")
    exponents = {text: _exponent(text) for text in set(distribution)}
    return np.array([exponents[text] for text in distribution], dtype=np.float64)


def _exponent(text: str) -> float:
    """``power_law_1.2`` → 1.2; other names are even, an empty one says nothing."""
    number = re.search(r"power_law_(\d+(?:\.\d+)?)$", text)
    return float(number[1]) if number else 0.0 if text else np.nan
