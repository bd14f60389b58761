"""The dimensions of measured rows by name: columns first, then ``key=value`` pairs of ``extra``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from npusim.accuracy.table import Floats, Table


class RowDims(Mapping[str, Floats]):
    """What a model of an operator may ask of rows: arrays of float64, nan where a row has no value.

    A name is a column (``m``, ``head_dim``, ``bytes``) or a numeric key of ``extra`` (``window``, ``topk``, ``tp``);
    one that no row has is not in the mapping. ``skew`` is the exponent of a power-law ``dist`` of tokens over experts,
    0 for a balanced one. ``latency_us`` and other measured figures are left out.
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
            texts = self.rows.extra("dist")
            values = {text: _skew(text) for text in set(texts)}
            return np.array([values[text] for text in texts], dtype=np.float64)
        return self.rows.extra_number(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.rows.numbers if name not in self.MEASURED)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def or_else(self, name: str, default: float) -> Floats:
        """Values of ``name`` with ``default`` where a row has none."""
        values = self.get(name)
        return np.full(len(self.rows), default) if values is None else np.where(np.isnan(values), default, values)


def _skew(text: str) -> float:
    """Exponent at the end of ``power_law_1.2``; nan for no text, 0 without an exponent."""
    try:
        return float(text.rpartition("_")[2])
    except ValueError:
        return 0.0 if text else float("nan")
