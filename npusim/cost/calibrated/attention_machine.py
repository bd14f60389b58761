"""What the calibrated attention and vector models read of a chip, and the shape columns they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npusim import dtypes
from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims

US = 1e-6
# Exponentials per matrix FLOP where a chip file describes no vector unit: 16 results beside 4096 FLOP a cycle.
_EXP_PER_FLOP = 16 / 4096


@dataclass(frozen=True)
class Machine:
    """Figures of one chip.

    Args:
        cores: cores that work independently.
        matrix_flops: dense peak of the operands' format, FLOP/s.
        exp_per_s: exponentials per second of the vector units together.
        dram_bytes: peak bandwidth of main memory, bytes/s.
        cache_bytes: capacity of the chip-wide cache, bytes (1 when there is none).
    """

    cores: float
    matrix_flops: float
    exp_per_s: float
    dram_bytes: float
    cache_bytes: float


def machine(chip: Chip, operand_format: str | None) -> Machine:
    """Figures of ``chip`` for operands of ``operand_format`` (None: the matrix engine is not used).

    Raises:
        Unavailable: the engine has no rate for the format.
    """
    chip.require()
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    matrix = (
        max(chip.peaks_flops_per_s.values()) if operand_format is None else chip.peak_flops_per_s(operand_format)[1]
    )
    shared = [level.capacity_bytes for level in chip.levels.values() if level.scope == "chip"]
    return Machine(
        cores=float(chip.cores or 1),
        matrix_flops=matrix,
        exp_per_s=chip.vector_ops_per_s("exp") or _EXP_PER_FLOP * matrix,
        dram_bytes=chip.memory.bandwidth_bytes_per_s,
        cache_bytes=max(shared, default=1.0),
    )


def formats(dtype: str) -> tuple[str, str]:
    """Formats of the query and of the KV cache: ``bfloat16/kv_fp8`` → ``("bf16", "fp8")``."""
    query, _, cache = dtype.lower().partition("/")
    first = dtypes.ALIASES.get(query, query)
    second = cache.removeprefix("kv_")
    return first, dtypes.ALIASES.get(second, second) or first


def element_bytes(name: str) -> float:
    """Bytes of one element of a format."""
    return dtypes.bits(name) / 8


def column(dims: Dims, name: str, default: float | np.ndarray) -> np.ndarray:
    """A column as float64 with ``default`` where it is absent or empty."""
    if name not in dims:
        rows = len(next(iter(dims.values())))
        return np.broadcast_to(np.asarray(default, float), (rows,)).astype(float)
    values = np.asarray(dims[name], float)
    return np.where(np.isnan(values), default, values)


def p_sum(p: float, *times: np.ndarray) -> np.ndarray:
    """Times that overlap imperfectly: (Σ tᵖ)^(1/p), the maximum for p → ∞ and the sum for p = 1."""
    largest = np.maximum.reduce(times)
    scaled = [np.asarray(t / np.maximum(largest, 1e-30)) ** p for t in times]
    return np.asarray(largest * np.add.reduce(scaled) ** (1 / p))


def cached_fraction(touched: np.ndarray, capacity: float, sharpness: float = 6.0) -> np.ndarray:
    """Share of the bytes a repeated operation finds in the cache.

    Repeating an operation walks its operands in the same order, so under LRU nothing is left of them once they
    exceed the capacity: a steep step, 1 / (1 + (touched / capacity)^sharpness).
    """
    return np.asarray(1 / (1 + np.minimum(touched / capacity, 1e6) ** sharpness))


def strongest(times: Mapping[str, np.ndarray]) -> np.ndarray:
    """Name of the largest of several times, per row."""
    names = np.array(list(times), dtype=object)
    return np.asarray(names[np.argmax(np.stack(list(times.values())), axis=0)])
