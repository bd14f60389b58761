"""The loop over library tiles and splits of the GPU GEMM model, compiled by numba.

Importing this module imports numba, which takes a second; only ``gemm`` does, when it prices rows.
All quantities are SI. The formulas are explained in docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np

# Cache hits fall off around the capacity as 1 / (1 + (working set / capacity)^8).
SHARPNESS = 8
MAX_ROUNDS_SPLIT = 4  # a reduction is split only while the tiles do not fill the cores a few times over
MIN_SPLIT_STEPS = 4
TOGETHER = 128.0 * 128.0  # elements of the tiles that one core holds at a time
POWER_TAU_S = 1e-3  # time after which the power limit shows in the clock


@numba.njit(inline="always")
def _missing(used: float, capacity: float) -> float:
    """Share of a working set that passes main memory although it is used again."""
    ratio = (used / capacity) ** SHARPNESS
    return ratio / (1.0 + ratio)


@numba.njit(inline="always")
def _dram_bytes(
    m: float, n: float, k: float, g: float, active: float, tm: float, tn: float, first: float, missing: float,
    a_bytes: float, w_bytes: float,
) -> float:  # fmt: skip
    """First touches plus what the tiles in flight read again, less what the last-level cache holds.

    Tiles in flight cover a rectangle of gm × gn tiles that is as square as the matrix allows.
    """
    rows, cols = math.ceil(m / tm), math.ceil(n / tn)
    gm = max(1.0, min(rows, math.sqrt(active * tn / tm)))
    gn = max(1.0, min(cols, active / gm))
    gm = max(1.0, min(rows, active / gn))
    read = rows * cols / (gm * gn) * (gm * tm * a_bytes + gn * tn * w_bytes) * k * g
    return first + missing * max(0.0, read - g * k * (m * a_bytes + n * w_bytes))


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled, and kept on disk for the next process where a folder can be written (compiling takes seconds)."""
    try:
        return numba.njit(fastmath=True, cache=True)(function)
    except RuntimeError:  # numba found no folder to write to
        return numba.njit(fastmath=True)(function)


@_compiled
def search(
    shapes: np.ndarray, tiles: np.ndarray, splits: np.ndarray, chip: np.ndarray, p: np.ndarray, out: np.ndarray
) -> None:
    """Fastest candidate of every row.

    Args:
        shapes: rows × (m, n, k, groups, weight copies).
        tiles: candidates × (tile rows, tile columns).
        splits: parts of the reduction.
        chip: what ``gemm.figures`` returns.
        p: parameters in the order of ``gemm.PARAMETERS``.
        out: rows × (time, fixed, matrix, cache, dram, quantising), seconds, written.
    """
    cores, peak, dram, core_kflops, clock, cache, a_bytes, w_bytes, o_bytes, k_step = chip
    launch, matrix, dram_share, fill, store, step_s, split_s, overlap, droop, use, ramp, quantise, widen = p[:13]
    core_rate, port, drain = peak * matrix / cores, fill * core_kflops, store * core_kflops
    for i in range(len(shapes)):
        m, n, k, g, copies = shapes[i]
        a, w, o = g * m * k * a_bytes, g * n * k * w_bytes, g * m * n * o_bytes
        rotated = min(copies, math.ceil(cache / w))
        warm_a = _missing(a + w + o, use * cache)
        first = (a + o) * warm_a + w * _missing(a + rotated * w + o, use * cache)
        again = _missing(a + w, use * cache)
        quant = quantise * 2 * g * m * k * (warm_a / (dram_share * dram) + (1 - warm_a) / (port * cores))
        best = np.inf
        for t in range(len(tiles)):
            tm, tn = tiles[t]
            count = math.ceil(m / tm) * math.ceil(n / tn) * g
            for split in splits:
                steps = math.ceil(k / split / k_step)
                rounds = math.ceil(count * split / cores)
                if split > 1 and (steps < MIN_SPLIT_STEPS or rounds > MAX_ROUNDS_SPLIT):
                    break
                depth = steps * k_step
                fixed = launch + quant
                if split > 1:
                    fixed += split_s + g * m * n * 8 * split / (port * cores)
                tile_s = tm * tn * depth * 2 / core_rate + tn * depth * widen / clock + tm * tn * o_bytes / drain
                # Small tiles share a core and wait for their steps together.
                waits = math.ceil(rounds / min(4.0, max(1.0, TOGETHER / (tm * tn)))) * steps * step_s
                matrix_s = max(rounds * tile_s, waits)
                cache_s = rounds * (tm * a_bytes + tn * w_bytes) * depth / port
                if fixed + max(matrix_s, cache_s) >= best:
                    continue
                active = min(count * split, cores) / split
                dram_s = _dram_bytes(m, n, k, g, active, tm, tn, first, again, a_bytes, w_bytes) / (dram_share * dram)
                dram_s += ramp * (1 - math.exp(-dram_s / ramp))
                slowest = max(matrix_s, cache_s, dram_s)
                if fixed + slowest >= best:
                    continue
                total = (matrix_s / slowest) ** overlap + (cache_s / slowest) ** overlap + (dram_s / slowest) ** overlap
                time = fixed + slowest * total ** (1 / overlap)
                if time < best:
                    best = time
                    out[i, 1], out[i, 2], out[i, 3], out[i, 4], out[i, 5] = (
                        fixed - quant,
                        matrix_s,
                        cache_s,
                        dram_s,
                        quant,
                    )
        busy = 2 * g * m * n * k / (peak * matrix) / best
        out[i, 0] = best * (1 + droop * busy * (1 - math.exp(-best / POWER_TAU_S)))
