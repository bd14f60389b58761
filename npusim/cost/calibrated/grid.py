"""GEMM on a grid of cores that keep operands in local memories and multicast them over a network (Tenstorrent).

Every core makes one block of the output. Per tile of 32 × 32 × 32 it unpacks two operand tiles from its local memory
and multiplies them in as many passes as the math fidelity asks; the two engines alternate, so their times join as a root
of squares. Operands come from main memory, or lie in local memories already. Untuned programs cut the output into larger
blocks, which leaves cores idle, and reach less of the memory's bandwidth. Without a recorded trace the host dispatches
each operation, and the longer of the two times counts.

Besides m, n and k it reads, where rows have them, ``fidelity_passes`` (1 LoFi … 4 HiFi4), ``a_in_dram`` and ``untuned`` (1
or 0), ``host_dispatch`` (1 without a trace), ``grid_rows`` and ``grid_cols``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npusim import dtypes
from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

_TILE = 32
_UNTUNED_BLOCK = 256
# Bytes per element (blocks of 16 share an exponent byte) and passes at the vendor's fidelity for speed.
_FORMATS = {"bfloat16": (2.0, 2.0), "bfloat8_b": (1.0625, 1.0), "bfloat4_b": (0.5625, 1.0)}


@dataclass(frozen=True)
class Grid:
    """``grid-gemm/1``."""

    name: str = "grid-gemm/1"
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("matrix", 0.3, 1, 0.92, "1", "sustained fraction of the matrix engine"),
        ParameterSpec("unpack_bytes_per_s", 2e10, 3e11, 1e11, "B/s", "operand tiles into the engine, per core"),
        ParameterSpec("dram", 0.1, 1, 0.4, "1", "fraction of the main memory's bandwidth"),
        ParameterSpec("multicast_bytes_per_s", 2e9, 4e11, 1e11, "B/s", "row and column operands into a core"),
        ParameterSpec("launch_s", 5e-7, 2e-5, 8e-6, "s", "fixed time of the program"),
        ParameterSpec("overlap", 1, 20, 4, "1", "exponent that joins engine and memory: 1 adds, large is the slower"),
        ParameterSpec("untuned", 1, 10, 1.2, "1", "slowdown of the memory path of an untuned program"),
        ParameterSpec("dispatch_s", 5e-5, 1e-3, 3.3e-4, "s", "host time of an operation without a trace"),
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of GEMMs; see ``family.Family`` and the module."""
        p = parameters
        m, n, k = (np.asarray(dims[name], float) for name in "mnk")
        element, passes = _FORMATS.get(dtype, (2.0, 2.0))
        assert chip.cores is not None and chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
        rows = math.isqrt(chip.cores)
        passes = _or(dims, "fidelity_passes", m, passes)
        down, across = _or(dims, "grid_rows", m, rows), _or(dims, "grid_cols", m, chip.cores // rows)
        untuned = _or(dims, "untuned", m, 0.0) > 0
        least = np.where(untuned, _UNTUNED_BLOCK, _TILE)
        block_m = np.maximum(np.ceil(m / _TILE / down) * _TILE, least)
        block_n = np.maximum(np.ceil(n / _TILE / across) * _TILE, least)
        rate = chip.peak_flops_per_s(dtypes.get("fp8").rate)[1] / chip.cores / passes
        compute = 2 * block_m * block_n * k / (rate * p["matrix"])
        unpack = block_m * block_n * k / _TILE * 2 * element / p["unpack_bytes_per_s"]
        engine = np.sqrt(compute**2 + unpack**2)
        streamed = k * n + np.where(_or(dims, "a_in_dram", m, 1.0) > 0, m * k + m * n, 0.0)
        memory = streamed * element / (p["dram"] * chip.memory.bandwidth_bytes_per_s)
        network = (block_m + block_n) * k * element / p["multicast_bytes_per_s"]
        feed = (memory + network) * np.where(untuned, p["untuned"], 1.0)
        longest = np.maximum(engine, feed)
        joined = longest * (1 + (np.minimum(engine, feed) / longest) ** p["overlap"]) ** (1 / p["overlap"])
        time = p["launch_s"] + joined
        dispatched = (_or(dims, "host_dispatch", m, 0.0) > 0) & (time < p["dispatch_s"])
        bound = np.where(engine > feed, "matrix", np.where(memory > network, "dram", "cache")).astype(object)
        return Times(
            np.where(dispatched, p["dispatch_s"], time),
            np.where(dispatched | (joined < p["launch_s"]), "launch", bound),
        )


def _or(dims: Dims, name: str, like: np.ndarray, default: float) -> np.ndarray:
    """A column of the rows, ``default`` where they do not say."""
    found = dims.get(name)
    if found is None:
        return np.full(like.shape, default)
    values = np.asarray(found, float)
    return np.where(np.isnan(values), default, values)


GEMM = Grid()
