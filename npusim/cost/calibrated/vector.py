"""Element-wise operators, norms, softmax, gathers: operators of the vector unit (``vector/1``).

``m`` rows of ``n`` elements. Kernels of norms and gated activations give each row a block, so a row of many elements
takes long even when it is alone; kernels of plain functions cut the whole tensor into equal blocks. Seconds:

    elements = pad(m, row_tile) · pad(n, column_tile)
    bytes    = traffic · elements · element size, from DRAM or, when they fit, from the cache
    block    = row_us + n · element_ns                                   (one row, alone on a core)
    cores    = max(1, m / (cores · resident_rows)) · block               (rows_are_blocks = 1)
             = elements · element_ns / cores + row_us                    (rows_are_blocks = 0)
    time     = launch_us + (coresᵖ + memoryᵖ)^(1/p)

Gathers of few rows run as one block over all of them: ``small_rows`` rows at most, ``small_us`` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.attention_machine import (
    US,
    cached_fraction,
    column,
    element_bytes,
    formats,
    machine,
    p_sum,
    strongest,
)
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

# Elements read and written per output element; rows of gated activations count the output.
TRAFFIC: dict[str, float] = {
    "add": 3, "mul": 3, "div": 3, "silu_and_mul": 3, "rmsnorm": 2, "layernorm": 2, "softmax": 2, "ln": 2,
    "pow": 2, "embedding": 2,
}  # fmt: skip
UNARY_TRAFFIC = 2.0


@dataclass(frozen=True)
class VectorFamily:
    """Family ``vector/1``. Asks ``m`` and ``n`` (``k`` where ``n`` is empty, and ``batch``) of the rows."""

    name: str = "vector/1"
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("launch_us", 0.05, 100, 3, "us", "launch of the kernel"),
        ParameterSpec("row_us", 0.001, 50, 1, "us", "latency of a block: its loads, its reductions, its stores"),
        ParameterSpec("element_ns", 1e-4, 20, 0.1, "ns", "one core's time for an element of a row"),
        ParameterSpec("resident_rows", 0.25, 32, 2, "rows", "blocks a core works on at a time"),
        ParameterSpec("dram", 0.05, 1, 0.8, "1", "sustained fraction of DRAM bandwidth"),
        ParameterSpec("cache", 1, 20, 3, "1", "rate of the cache over DRAM bandwidth"),
        ParameterSpec("resident", 0.02, 1.5, 0.6, "1", "share of the cache that keeps operands between runs"),
        ParameterSpec("overlap", 1, 8, 2, "1", "exponent p of the sum of core time and memory time"),
        ParameterSpec("small_us", 0.001, 5, 0.01, "us", "per row of the kernel for few rows"),
        ParameterSpec("small_rows", 0, 64, 0, "rows", "most rows the kernel for few rows takes", log=False),
        ParameterSpec("traffic", 1, 16, 2, "1", "elements moved per element of the output", log=False),
        ParameterSpec("row_tile", 1, 32, 1, "rows", "rows are padded to this", log=False),
        ParameterSpec("column_tile", 1, 256, 1, "elements", "columns are padded to this", log=False),
        ParameterSpec("rows_are_blocks", 0, 1, 1, "1", "1: a block a row; 0: equal blocks of elements", log=False),
    )
    menus: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "rows_are_blocks": (1.0, 0.0),
        "row_tile": (1.0, 8.0),
        "column_tile": (1.0, 128.0),
        "small_rows": (0.0, 16.0, 32.0),
    }

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of vector rows; see ``Family.seconds``."""
        p = parameters
        fmt = formats(dtype.partition("(")[0])[0]
        m = machine(chip, None)
        rows = column(dims, "m", 1) * column(dims, "batch", 1)
        columns = column(dims, "n", column(dims, "k", 1))
        padded = _pad(columns, p["column_tile"])
        elements = _pad(rows, p["row_tile"]) * padded
        moved = p["traffic"] * elements * element_bytes(fmt)
        kept = cached_fraction(moved, p["resident"] * m.cache_bytes, 4.0)
        dram_s = moved * (1 - kept) / (p["dram"] * m.dram_bytes)
        cache_s = moved * kept / (p["cache"] * m.dram_bytes)
        if p["rows_are_blocks"] >= 0.5:
            block = p["row_us"] * US + padded * p["element_ns"] * 1e-9
            cores = np.maximum(rows / (m.cores * p["resident_rows"]), 1) * block
        else:
            cores = elements * p["element_ns"] * 1e-9 / m.cores + p["row_us"] * US
        one_block = rows * p["small_us"] * US
        cores = np.where(rows <= p["small_rows"], np.maximum(one_block, cores), cores)
        time = p["launch_us"] * US + p_sum(p["overlap"], cores, dram_s + cache_s)
        launch = np.full(len(time), p["launch_us"] * US)
        return Times(time, strongest({"dram": dram_s, "cache": cache_s, "vector": cores, "launch": launch}))


def _pad(values: np.ndarray, tile: float) -> np.ndarray:
    return np.asarray(np.ceil(values / tile) * tile)


VECTOR = VectorFamily()
