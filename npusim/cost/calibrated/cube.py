"""GEMM on cube cores behind a large shared cache (Ascend): tiles over cores, warm weights, vector quantisation.

A core makes output tiles of tm × tn, with the reduction split over cores when there are few tiles. Four resources
overlap: the cube, the port from the shared cache to a core, main memory, and a latency per step of the reduction. Loops
that rotate a few copies of the weights find them in the cache when the copies fit; weights that exceed it are read
again for every row of tiles. Rows a large power of two apart fall into the same memory channels.

* ``cube-gemm/1``: operands in the format they are multiplied in. The library runs shapes with few tiles in two phases
  (partial products, then a vector pass), which takes a time of its own.
* ``cube-quantised-gemm/1``: activations are quantised per token and results rescaled by the vector cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npusim import dtypes
from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

_EDGES = (16, 32, 64, 128, 256)
_SPLITS = (1, 2, 4, 8)
_ACCUMULATORS = 32768  # fp32 results in the accumulator of a core (128 KiB)
_TALL_TILES = 1024  # rows from which the library takes tiles 256 high
_LIBRARY_TILE = 128
_STRIDE_BYTES = 32768  # rows this far apart (or a multiple) meet in the same channels
_COPIES = 6  # weights rotated by the measuring loop
_STEEPNESS = 6  # of the hit rate of cyclic accesses around the capacity
_VECTOR_FORMATS = {"w8a8_dynamic": "int8"}
MENU = np.array([(m, n, s) for m in _EDGES for n in _EDGES for s in _SPLITS if m * n <= _ACCUMULATORS], float)

_CORE = (
    ParameterSpec("matrix", 0.3, 1, 0.95, "1", "sustained fraction of the cube's peak"),
    ParameterSpec("cache_bytes_per_s", 1e12, 2e13, 5e12, "B/s", "shared cache to all cores"),
    ParameterSpec("dram", 0.5, 1.1, 0.8, "1", "fraction of the main memory's bandwidth"),
    ParameterSpec("cache_share", 0.2, 2, 0.9, "1", "fraction of the cache that rotated weights can use"),
    ParameterSpec("launch_s", 1e-6, 2.5e-5, 6e-6, "s", "fixed time of the kernel"),
    ParameterSpec("step_s_per_kib", 1e-9, 5e-6, 5e-7, "s/KiB", "latency of a core's loop per KiB of a row of operands"),
    ParameterSpec("overlap", 1, 20, 4, "1", "exponent that joins resources: 1 adds them, large is the slowest one"),
    ParameterSpec("stride", 1, 3, 1.3, "1", "slowdown of rows that meet in the same memory channels"),
)  # fmt: skip
_PLAIN = (
    ParameterSpec("reread_share", 0.02, 5, 0.4, "1", "fraction of the cache below which weights are not read again"),
    ParameterSpec("split_s", 1e-8, 2e-5, 2e-7, "s", "per further core that shares a reduction"),
    ParameterSpec("two_phase_s", 3e-6, 2e-5, 1e-5, "s", "least time of the kernel in two phases"),
)
_QUANTISED = (
    ParameterSpec("quantise_bytes_per_s", 5e10, 2e13, 4e11, "B/s", "activations through the vector cores"),
    ParameterSpec("rescale_per_s", 1e9, 5e11, 8e9, "1/s", "results of one tile rescaled by one core"),
    ParameterSpec("quantise_s", 1e-7, 5e-5, 1.8e-5, "s", "latency of the vector pass once all its rows are busy"),
)
_FILLING_ROWS = 64  # rows at which the vector pass reaches half its latency


@dataclass(frozen=True)
class Cube:
    """Both families; ``quantised`` adds the vector work."""

    name: str
    parameters: tuple[ParameterSpec, ...]
    quantised: bool

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of GEMMs with columns ``m``, ``n`` and ``k``; see ``family.Family``."""
        p = parameters
        m, n, k = (np.asarray(dims[name], float) for name in "mnk")
        fmt = _VECTOR_FORMATS.get(dtype, dtypes.ALIASES.get(dtype, dtype))
        element = dtypes.bits(fmt) / 8
        peak = chip.peak_flops_per_s(dtypes.get(fmt).rate)[1]
        assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None and chip.cores is not None
        capacity = max(level.capacity_bytes for level in chip.levels.values() if level.scope != "core")
        tm, tn, split = (MENU[:, i][:, None] for i in range(3))
        tiles = np.ceil(m / tm) * np.ceil(n / tn) * split
        waves = np.ceil(tiles / chip.cores)
        depth = k / split
        stride = np.where((k * element) % _STRIDE_BYTES == 0, p["stride"], 1.0)
        port_rate = p["cache_bytes_per_s"] / chip.cores
        matrix = waves * 2 * tm * tn * np.ceil(depth / 16) * 16 / (peak / chip.cores * p["matrix"])
        port = waves * (tm + tn) * depth * element / port_rate * stride
        step = waves * depth * element / 1024 * p["step_s_per_kib"] * stride
        weights, others = n * k * element, m * k * element + m * n * 2
        cold = 1 - _hit(_COPIES * weights, p["cache_share"] * capacity, _STEEPNESS)
        again = 1 - _hit(weights, p["reread_share"] * capacity, 2) if not self.quantised else 0.0
        moved = weights * (cold + (np.ceil(m / tm) - 1) * again) + others * cold
        dram = moved / (p["dram"] * chip.memory.bandwidth_bytes_per_s) * (1 + stride) / 2
        parts = [np.maximum(matrix, step), port, dram]
        fixed = np.where(split > 1, 2 * m * n * 4 * split / p["cache_bytes_per_s"], 0.0)
        if self.quantised:
            tile = np.minimum(m, tm) * np.minimum(n, tn) / p["rescale_per_s"]
            parts.append(waves * tile)
            fixed = fixed + tile + p["quantise_s"] * m / (m + _FILLING_ROWS) + m * k / p["quantise_bytes_per_s"]
        else:
            fixed = fixed + p["split_s"] * (split - 1)
        stack = np.stack(np.broadcast_arrays(*parts))
        time = p["launch_s"] + fixed + _joined(stack, p["overlap"])
        time = np.where(_refused(m, n, k, element, tm, tn, split, tiles > chip.cores), np.inf, time)
        best = np.argmin(time, axis=0)[None]
        found = np.take_along_axis(time, best, axis=0)[0]
        share = np.take_along_axis(stack, np.broadcast_to(best, (len(stack), *best.shape)), axis=1)[:, 0]
        bound = np.array(["matrix", "cache", "dram", "vector"], dtype=object)[np.argmax(share, axis=0)]
        bound = np.where(share.max(axis=0) < p["launch_s"], "launch", bound)
        if not self.quantised:
            found = np.where(_two_phases(m, n), np.maximum(found, p["two_phase_s"]), found)
        return Times(found, bound)


def _hit(used: np.ndarray, capacity: float, steepness: int) -> np.ndarray:
    """Share of hits when ``used`` bytes pass in turn through ``capacity`` bytes."""
    return np.asarray(1 / (1 + (used / capacity) ** steepness))


def _joined(parts: np.ndarray, overlap: float) -> np.ndarray:
    longest = parts.max(axis=0)
    return np.asarray(longest * np.sum((parts / longest) ** overlap, axis=0) ** (1 / overlap))


def _refused(
    m: np.ndarray, n: np.ndarray, k: np.ndarray, element: float, tm: np.ndarray, tn: np.ndarray, split: np.ndarray,
    full: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Tiles and splits the library does not choose."""
    thin = m < 16
    shared = (k / split < 256) | (thin & ((n > 512) | (k * element >= _STRIDE_BYTES))) | full
    padded = (tm >= 2 * m) & (tm > 16)
    high = (tm > _LIBRARY_TILE) & (m < _TALL_TILES)
    return np.asarray(((split > 1) & shared) | padded | ((tn < 64) & thin) | high)


def _two_phases(m: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Shapes with so few library tiles that partial products are made first and added later."""
    tiles = np.ceil(m / _LIBRARY_TILE) * np.ceil(n / _LIBRARY_TILE)
    thin = (m > 2) & (m < 16)
    return np.asarray(((m >= _LIBRARY_TILE) & (tiles <= 8)) | ((thin | (m == _LIBRARY_TILE)) & (tiles <= 16)))


GEMM = Cube("cube-gemm/1", (*_CORE, *_PLAIN), False)
QUANTISED_GEMM = Cube("cube-quantised-gemm/1", (*_CORE, *_QUANTISED), True)
