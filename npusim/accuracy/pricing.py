"""Times of measured rows without a calibration: the plain roofline (R0), and the tile or cycle model.

Rows are priced as arrays: each distinct shape once, whatever the number of rows and software stacks it was measured
with. A shape that cannot be priced gets a reason instead of a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from npusim import dtypes
from npusim.accuracy.devices import Formats
from npusim.accuracy.dims import RowDims
from npusim.accuracy.operations import Operation, operation
from npusim.accuracy.rows import Rows
from npusim.accuracy.table import Array, Floats
from npusim.chip import Chip
from npusim.cost import estimate, roofline
from npusim.errors import InputError, NpuError, Problem
from npusim.workload import Op, Workload

LAUNCH_S = 3e-6  # what starting a kernel costs on the devices measured; roofline times below it are launch-bound
MAX_CYCLE_SHAPES = 500  # the cycle model runs one shape at a time

# Where the operands of a measured loop are found: what the source says, or what its rows show. First match on the
# software; everything else is cold. The share of rows faster than the cold roofline stands beside each group.
RESIDENCY: tuple[tuple[str, str, str], ...] = (
    (r"vllm-ascend", "llc", "six rotated weights fit the 192 MB cache; small ones run above the memory bandwidth"),
    (r"cutlass-profiler", "llc", "the profiler repeats one problem; small weights stay in the cache"),
    (r"jax-xprof", "llc", "small matrices stay in the on-chip memory between repeats"),
    (r"eager-profiler", "llc", "two thirds of the element-wise rows are faster than the cold roofline"),
    (r"ttnn|tt-metal", "llc", "operands lie in L1 where the configuration says so; one problem repeated"),
    (r"trtllm|vllm|sglang", "cold", "weight copies are rotated until they exceed the cache"),
)


def residency_of(software: str) -> str:
    """``"cold"`` (operands come from main memory) or ``"llc"`` (found in the last-level cache)."""
    return next((where for pattern, where, _ in RESIDENCY if re.search(pattern, software.lower())), "cold")


@dataclass(frozen=True)
class Plain:
    """Plain roofline of rows: the longer of FLOPs / data-sheet peak and bytes / memory bandwidth, operands cold.

    Args:
        time_s: seconds, nan where a row has a ``reason`` not to be priced.
        bound: ``compute``, ``memory``, or ``launch`` where the roofline takes less than a launch (``LAUNCH_S``).
        reason: why a row is not priced, ``""`` where it is.
    """

    time_s: Floats
    bound: Array
    reason: Array


def _with_engine(chip: Chip, fmt: str, engine: str) -> Chip:
    rates = chip.core.matrix.flops_per_cycle if chip.core.matrix else chip.peak
    found = dtypes.engine_rate(dtypes.get(engine).rate, dict(rates))
    if found is None:
        return chip
    table = "core.matrix.flops_per_cycle" if chip.core.matrix else "peak"
    return chip.replace({f"{table}.{dtypes.get(fmt).rate}": found[1]})


def chip_for(chip: Chip, formats: Formats) -> Chip:
    """The chip as it runs these formats: with the rate of another engine where the spelling names one."""
    return _with_engine(chip, formats.a, formats.engine) if formats.engine else chip


class Shapes:
    """Rows of one operation and one set of formats as distinct shapes."""

    def __init__(self, rows: Rows, op: str, formats: Formats) -> None:
        self.formats = formats
        self.reason = np.full(len(rows), "", dtype=object)
        dims = RowDims(rows)
        k = dims["k"]
        found = operation(op, bool(np.any(k >= 1)))
        self.names: list[str] = []
        self.table = np.empty((0, 0))
        self.inverse = np.zeros(0, dtype=np.intp)
        self.at = np.zeros(0, dtype=np.intp)
        if found is None:
            self.reason[:] = f"{_NO_OPERATOR} computes '{op}'"
            return
        self.operation: Operation = found
        columns = {name: dims.get(name, np.full(len(rows), np.nan)) for name in found.needs}
        complete = np.all([values >= _LEAST.get(name, 1) for name, values in columns.items()], axis=0)
        lacking = [name for name, values in columns.items() if not np.all(values >= _LEAST.get(name, 1))]
        self.reason[~complete] = f"'{op}' rows without {', '.join(lacking)}"
        columns.update({name: dims.or_else(name, default) for name, default in found.uses.items()})
        self.names = list(columns)
        self.at = np.flatnonzero(complete)
        if len(self.at):
            stacked = np.stack([columns[name][self.at] for name in self.names], axis=1)
            self.table, inverse = np.unique(stacked, axis=0, return_inverse=True)
            self.inverse = inverse.ravel()

    def ops(self, which: Array) -> tuple[Op, ...]:
        """Operators of some of the shapes, their dimensions arrays. Raises InputError when one is out of range."""
        columns = self.table[which]
        return self.operation.build({name: columns[:, i] for i, name in enumerate(self.names)}, self.formats)

    def scalar_ops(self) -> tuple[Op, ...]:
        """Operators of the first shape, their dimensions plain numbers."""
        ops = self.ops(np.array([0]))
        return tuple(replace(op, dims={name: _scalar(value) for name, value in op.dims.items()}) for op in ops)

    def each(self, price: Callable[[tuple[Op, ...]], tuple[Floats, Array]]) -> tuple[Floats, Array, Array]:
        """(seconds, bound, reason) of every row by pricing each shape once.

        Shapes are priced together as far as they can be; ``price`` takes operators with array dimensions.
        """
        count = len(self.table)
        seconds, bound = np.full(count, np.nan), np.full(count, "", dtype=object)
        reason = np.full(count, "", dtype=object)
        # An attention kernel is causal or not as a whole and has one size of heads, so these split the shapes.
        whole = [index for index, name in enumerate(self.names) if name in _OF_A_KERNEL]
        kinds, kind = np.unique(self.table[:, whole], axis=0, return_inverse=True) if whole else ([0], np.zeros(count))
        for number in range(len(kinds) if count else 0):
            self._price(np.flatnonzero(kind.ravel() == number), price, seconds, bound, reason)
        out = np.full(len(self.reason), np.nan), np.full(len(self.reason), "", dtype=object), self.reason.copy()
        for target, found in zip(out, (seconds, bound, reason), strict=True):
            target[self.at] = found[self.inverse]
        return out

    def _price(
        self, which: Array, price: Callable[[tuple[Op, ...]], tuple[Floats, Array]], seconds: Floats, bound: Array,
        reason: Array,
    ) -> None:  # fmt: skip
        try:
            seconds[which], bound[which] = price(self.ops(which))
        except NpuError as error:
            if len(which) == 1 or any(text in str(error) for text in _OF_THE_CHIP):
                reason[which] = str(error).splitlines()[0][:160]
                return
            half = len(which) // 2  # one shape out of range does not cost the others their price
            self._price(which[:half], price, seconds, bound, reason)
            self._price(which[half:], price, seconds, bound, reason)


_OF_THE_CHIP = ("unavailable", "has no rate")
_NO_OPERATOR = "no operator of npusim"


def has_shape(reason: Array) -> Array:
    """Rows whose dimensions are complete and in range: only the chip or npusim lacks something, if anything."""
    elsewhere = (*_OF_THE_CHIP, _NO_OPERATOR)
    return np.array([not text or any(part in text for part in elsewhere) for text in reason], dtype=bool)


def _scalar(value: object) -> int:
    return int(np.asarray(value).reshape(-1)[0])


_OF_A_KERNEL = ("causal", "head_dim", "kv_lora", "rope", "qk_nope", "v")
_LEAST = {"kv_prefill": 0.0, "kv_decode": 0.0}  # histories may be empty


def plain_roofline(shapes: Shapes, chip: Chip) -> Plain:
    """R0 of every row: what a reader of the data sheet would write down."""

    return Plain(*shapes.each(lambda ops: roofline_of(ops, chip)))


def uncalibrated(shapes: Shapes, chip: Chip, fidelity: str, residency: str) -> tuple[Floats, Array, Array]:
    """(seconds, resource that bounds, reason) of every row by a model of npusim without fitted constants.

    Args:
        shapes: the rows.
        chip: the hardware.
        fidelity: ``"roofline"``, ``"tile"`` or ``"cycle"``.
        residency: ``"llc"`` lets every operand that fits the chip's caches be found there.
    """
    if fidelity == "cycle" and len(shapes.table) > MAX_CYCLE_SHAPES:
        problem = f"{len(shapes.table)} shapes are too many for the cycle fidelity"
        raise InputError(
            Problem(problem, "fidelity", allowed=f"at most {MAX_CYCLE_SHAPES} of one kind", hint="use tile")
        )

    def price(ops: tuple[Op, ...]) -> tuple[Floats, Array]:
        ready = tuple(warm(op) for op in ops) if residency == "llc" else ops
        cost = estimate(Workload("rows", ready), chip, fidelity)
        return np.asarray(cost.time_s, float), np.asarray(cost.bound, object)

    return shapes.each(price)


def warm(op: Op) -> Op:
    """The operator with every operand that fits found in the last-level cache."""
    return replace(op, llc=frozenset(operand.name for operand in op.operands))


def _total(parts: list[Array]) -> Floats:
    return np.asarray(sum(np.asarray(part, dtype=float) for part in parts), dtype=float)


def roofline_of(ops: tuple[Op, ...], chip: Chip) -> tuple[Floats, Array]:
    """Plain roofline seconds of operators one after the other, and its class (see ``Plain``)."""
    works = [roofline.work(op, chip) for op in ops]
    compute = _total([work.seconds["matrix"] for work in works])
    memory = _total([work.seconds["dram"] for work in works])
    seconds = np.maximum(compute, memory)
    bound = np.where(seconds < LAUNCH_S, "launch", np.where(compute > memory, "compute", "memory"))
    return seconds, bound.astype(object)
