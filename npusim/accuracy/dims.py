"""The dimensions of measured rows by name: columns first, then ``key=value`` pairs of ``extra``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from npusim.accuracy.table import Floats, Table


class RowDims(Mapping[str, Floats]):
    """What a model of an operator may ask of rows: arrays of float64, nan where a row has no value.

    A name is a column (``m``, ``head_dim``, ``bytes``) or a numeric key of ``extra`` (``window``, ``topk``, ``tp``);
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
            known = name in self.rows.numbers
            self._found[name] = self.rows.column(name) if known else self.rows.extra_number(name)
        values = self._found[name]
        if name not in self.rows.numbers and np.isnan(values).all():
            raise KeyError(name)
        return values

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.rows.numbers if name not in self.MEASURED)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def or_else(self, name: str, default: float) -> Floats:
        """Values of ``name`` with ``default`` where a row has none."""
        values = self.get(name)
        return np.full(len(self.rows), default) if values is None else np.where(np.isnan(values), default, values)
