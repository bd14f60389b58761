"""How a K-Perf result is read: rows by chip and case, the conditions that stand for the rest, operators.

Every report shows the same selection, made by these rules:

* reference length: the input/output pair of the suite closest to 2048/2048 (logarithmically);
* levels: the smallest concurrency, the one closest to 16, and ``max`` (or the largest).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npusim.chip import Chip
from npusim.cost import Cost
from npusim.kperf_steps import panels
from npusim.kperf_suite import KPerf, chip_labels

Row = dict[str, Any]
REFERENCE_TOKENS = 2048
REFERENCE_CONCURRENCY = 16


@dataclass(frozen=True)
class ChipRows:
    """A chip of the result, how reports call it, and its rows."""

    label: str
    chip: Chip
    rows: tuple[Row, ...]

    def case(self, model: str, precision: str) -> list[Row]:
        """Rows of one model and precision, in suite order."""
        return [row for row in self.rows if row["model"] == model and row["precision"] == precision]


def by_chip(kperf: KPerf) -> list[ChipRows]:
    """The result split by chip: every chip has the same number of rows, in the order of the chips."""
    size = len(kperf.rows) // max(len(kperf.chips), 1)
    pairs = enumerate(zip(chip_labels(kperf.chips), kperf.chips, strict=True))
    return [ChipRows(label, chip, kperf.rows[i * size : (i + 1) * size]) for i, (label, chip) in pairs]


def unique(rows: Iterable[Row], key: str) -> list[Any]:
    """Values of a column in order of first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def reference_length(rows: Iterable[Row]) -> tuple[int, int]:
    """The (input, output) pair that stands for all: the one closest to 2048/2048."""

    def distance(pair: tuple[int, int]) -> float:
        return sum(abs(math.log(tokens / REFERENCE_TOKENS)) for tokens in pair)

    return min(dict.fromkeys((row["input_tokens"], row["output_tokens"]) for row in rows), key=distance)


def levels(rows: Iterable[Row]) -> list[str]:
    """The concurrency levels that stand for all: smallest, closest to 16, and ``max`` or the largest."""
    names = [str(name) for name in unique(rows, "concurrency_level")]
    counts = sorted({int(name) for name in names if name != "max"})
    top = "max" if "max" in names else str(counts[-1])
    low = str(counts[0]) if counts else top
    between = [count for count in counts if str(count) not in (low, top)]
    middle = [str(min(between, key=lambda count: abs(math.log(count / REFERENCE_CONCURRENCY))))] if between else []
    return list(dict.fromkeys([low, *middle, top]))


def middle_level(rows: Iterable[Row]) -> str:
    """The concurrency level in the middle of ``levels``."""
    chosen = levels(rows)
    return chosen[len(chosen) // 2]


def headline(rows: Sequence[Row]) -> list[Row]:
    """Rows of one case at the reference length and the chosen levels."""
    length = reference_length(rows)
    by_level = {row["concurrency_level"]: row for row in rows if _length(row) == length}
    return [by_level[name] for name in levels(rows) if name in by_level]


def at_reference(rows: Sequence[Row]) -> list[Row]:
    """Rows with figures of one case at the reference length, by rising concurrency, each once."""
    length = reference_length(rows)
    found = {row["concurrency"]: row for row in rows if row["fits"] and _length(row) == length}
    return [found[count] for count in sorted(found)]


def by_input(rows: Sequence[Row]) -> list[Row]:
    """Rows with figures of one case, one per input length, by rising length (TTFT depends on nothing else)."""
    found: dict[int, Row] = {}
    for row in rows:
        if row["fits"]:
            found.setdefault(row["input_tokens"], row)
    return [found[tokens] for tokens in sorted(found)]


def _length(row: Row) -> tuple[int, int]:
    return row["input_tokens"], row["output_tokens"]


# -- what is inside a step --------------------------------------------------------------------------


@dataclass(frozen=True)
class Operator:
    """An operator in one phase of one row, all its runs together; decode figures are means over the steps."""

    name: str
    kind: str
    rate: str
    bound: str
    share: float  # of the phase's time
    time_s: float
    flops: float
    dram_bytes: float


@dataclass(frozen=True)
class Phase:
    """Prefill or decode of one row: its operators, and seconds by the resource that bounds them."""

    name: str
    row: Row
    operators: tuple[Operator, ...]
    bound_seconds: dict[str, float]

    @property
    def title(self) -> str:
        """``prefill, 2048 tokens`` or ``decode, C = 16``."""
        if self.name == "prefill":
            return f"prefill, {self.row['input_tokens']} tokens"
        return f"decode, C = {self.row['concurrency']}"


def phase(kperf: KPerf, chip: ChipRows, row: Row, name: str) -> Phase | None:
    """What is inside the prefill or the mean decode step of a row; None where it has no such phase."""
    costs = kperf.costs.get((row["chip"], row["model"], row["precision"]))
    if costs is None or not row["fits"] or (name == "decode" and row["output_tokens"] == 1):
        return None
    fitting = [other for other in chip.case(row["model"], row["precision"]) if other["fits"]]
    cost = costs[name == "decode"]
    index = next(i for i, other in enumerate(fitting) if other is row)
    weight = panels(np.array([row["output_tokens"] - 1]))[1][0] if name == "decode" else None
    return Phase(name, row, _operators(cost, index, weight), _bound_seconds(cost, index, weight))


def _at(value: Any, index: int, weight: np.ndarray | None) -> float:
    """One row of a vectorised figure; for decode its mean over the growing context."""
    array = np.asarray(value, dtype=float)
    one = array[index % array.shape[0]] if array.ndim else array
    return float(one) if weight is None else float(np.sum(np.broadcast_to(one, weight.shape) * weight))


def _operators(cost: Cost, index: int, weight: np.ndarray | None) -> tuple[Operator, ...]:
    total = _at(cost.time_s, index, weight)
    found = []
    for op in cost.ops:
        seconds = {name: _at(value, index, weight) for name, value in op.seconds.items()}
        slowest = max(seconds, key=lambda name: seconds[name]) if seconds else "none"
        time_s = _at(op.time_s, index, weight)
        share = time_s / total if total else 0.0
        found.append(Operator(op.op.name, op.op.kind, op.rate, slowest if time_s else "none", share,
                              time_s, _at(op.flops, index, weight), _at(op.dram_bytes, index, weight)))  # fmt: skip
    return tuple(found)


def _bound_seconds(cost: Cost, index: int, weight: np.ndarray | None) -> dict[str, float]:
    seconds = {name: _at(value, index, weight) for name, value in cost.bound_seconds.items()}
    return {name: value for name, value in seconds.items() if value > 0}


def nearest_fitting(rows: Sequence[Row], level: str) -> Row | None:
    """The row at the reference length and ``level``, else the one with figures that comes closest."""
    length = reference_length(rows)
    fitting = [row for row in rows if row["fits"]]
    if not fitting:
        return None
    wanted = next(
        (row["concurrency"] for row in rows if row["concurrency_level"] == level and _length(row) == length), 1
    )

    def distance(row: Row) -> float:
        terms = ((row["input_tokens"], length[0]), (row["output_tokens"], length[1]), (row["concurrency"], wanted))
        return sum(abs(math.log(a / b)) for a, b in terms)

    return min(fitting, key=distance)


@dataclass(frozen=True)
class Figure:
    """A figure of a chip with where it comes from; ``status`` adds ``default`` to the catalog's words."""

    path: str
    value: object
    source: str
    status: str
    note: str = ""
    key: str = "npusim"


def figures(chip: Chip) -> list[Figure]:
    """Every figure of a chip in the order of its file, sources in full."""
    stated_as_assumed = chip.assumptions()
    found = []
    for path, value in chip.paths().items():
        where = chip.provenance(*path.split("."))
        if where.source == "this file" and path not in stated_as_assumed:
            found.append(_unstated(chip, path, value))
            continue
        source = "; ".join(chip.sources.get(key, key) for key in where.source.split(", "))
        found.append(Figure(path, value, source, where.status, where.note, where.source))
    return found


def _unstated(chip: Chip, path: str, value: object) -> Figure:
    """A figure the file does not state: what follows from others, or the schema's default."""
    if path == "memory.bandwidth" and chip.memory is not None and chip.memory.geometry_bandwidth:
        return Figure(path, value, "stacks × channels × channel_bits × pin_rate / 8", "derived", key="this file")
    return Figure(path, value, "npusim", "default", "not stated by the file")
