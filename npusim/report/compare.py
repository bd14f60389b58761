"""Two or more chips side by side: rows joined on their condition, with ratios to the first chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npusim.kperf_suite import KPerf
from npusim.report import view

# Metrics that are compared; True where more is better.
METRICS: dict[str, bool] = {
    "ttft_s": False,
    "tpot_s": False,
    "tokens_per_s": True,
    "tokens_per_s_per_user": True,
    "tokens_per_s_per_chip": True,
    "tokens_per_j": True,
}
CONDITION = ("model", "precision", "input_tokens", "output_tokens", "concurrency_level")


@dataclass(frozen=True)
class Joined:
    """One condition on every chip: ``rows`` in chip order, None where a chip has no such row."""

    condition: tuple[Any, ...]
    rows: tuple[view.Row | None, ...]

    def ratio(self, metric: str, chip: int) -> float | None:
        """Figure of chip number ``chip`` / figure of the first chip; None unless both exist."""
        return ratio(self.rows[chip], self.rows[0], metric)


def ratio(row: view.Row | None, base: view.Row | None, metric: str) -> float | None:
    """``row``'s figure / ``base``'s figure; None unless both exist."""
    if row is None or base is None or row[metric] is None or not base[metric]:
        return None
    return float(row[metric]) / float(base[metric])


def join(kperf: KPerf) -> list[Joined]:
    """Joins the chips' rows on (model, precision, input, output, concurrency level), in suite order.

    ``max`` joins with ``max``: each chip at the largest concurrency that it holds, so the concurrencies
    of such a pair may differ.
    """
    tables = [{_condition(row): row for row in chip.rows} for chip in view.by_chip(kperf)]
    conditions = dict.fromkeys(condition for table in tables for condition in table)
    return [Joined(condition, tuple(table.get(condition) for table in tables)) for condition in conditions]


def headline(kperf: KPerf) -> list[Joined]:
    """The joined rows at the reference length and the chosen concurrency levels."""
    length, levels = view.reference_length(kperf.rows), view.levels(kperf.rows)
    return [one for one in join(kperf) if one.condition[2:4] == length and one.condition[4] in levels]


def _condition(row: view.Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in CONDITION)
