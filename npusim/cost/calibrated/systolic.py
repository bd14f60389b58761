"""GEMM on large systolic arrays fed from on-chip memory by a compiler (TPU).

Dimensions are rounded up to what a register holds (8 sublanes, 128 lanes) and to the array. Small problems are copied
into on-chip memory whole, multiplied, and copied back, one after the other; their reduction runs in slabs whose partial
results pass the memory again. Beyond a capacity the compiler streams windows of the operands, which overlaps copying
with multiplying but has to be filled first. Operands are float32 in memory while the array multiplies bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

_SUBLANES = 8
_ELEMENT_BYTES = {"float32(default-precision=bf16-mxu)": 4.0}
_STEEPNESS = 16  # how sharply the compiler goes over from copying to streaming


@dataclass(frozen=True)
class Systolic:
    """``systolic-gemm/1``."""

    name: str = "systolic-gemm/1"
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("matrix", 0.2, 1, 0.5, "1", "fraction of the peak of all cores, operands copied first"),
        ParameterSpec("a", 0.2, 1.3, 0.75, "1", "bandwidth of copying a, per that of main memory"),
        ParameterSpec("b", 0.2, 1.3, 0.9, "1", "bandwidth of copying b"),
        ParameterSpec("out", 0.2, 1.3, 0.75, "1", "bandwidth of copying the result"),
        ParameterSpec("launch_s", 3e-7, 3e-6, 1e-6, "s", "fixed time of the program"),
        ParameterSpec("streamed_matrix", 0.2, 1, 0.55, "1", "fraction of the peak of all cores, operands streamed"),
        ParameterSpec("dram", 0.3, 1, 0.95, "1", "fraction of the bandwidth of main memory, operands streamed"),
        ParameterSpec("stream_bytes", 1e7, 1e8, 2e7, "B", "operands and result from which they are streamed"),
        ParameterSpec("overlap", 1, 20, 5, "1", "exponent that joins array and memory: 1 adds, large is the slower"),
        ParameterSpec("partial_bytes_per_s", 2e11, 1e14, 7e12, "B/s", "partial results of a slab, out and in"),
        ParameterSpec("fill_s", 1e-8, 4e-5, 2e-5, "s", "first windows in and last ones out"),
        ParameterSpec("slab_bytes", 3e6, 2e7, 5e6, "B", "operands and result from which the reduction runs in slabs"),
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of GEMMs with columns ``m``, ``n`` and ``k``; see ``family.Family``."""
        p = parameters
        matrix = chip.core.matrix
        assert matrix is not None and chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
        rows, cols = matrix.rows or 128, matrix.cols or 128
        element = _ELEMENT_BYTES.get(dtype, 2.0)
        m, n, k = (np.asarray(dims[name], float) for name in "mnk")
        m8, k8 = _round(m, _SUBLANES), _round(k, _SUBLANES)
        wide, deep = _round(n, cols), _round(k, rows)
        flops = 2 * m8 * wide * deep
        a, b, out = element * m8 * deep, element * k8 * wide, element * m8 * wide
        peak, rate = chip.peak_flops_per_s("bf16")[1], chip.memory.bandwidth_bytes_per_s
        total = a + b + out
        compute, copies = flops / (peak * p["matrix"]), (a / p["a"] + b / p["b"] + out / p["out"]) / rate
        partial = out * (np.ceil(deep / (2 * rows)) - 1) * 2 / p["partial_bytes_per_s"]
        copied = compute + copies + _beyond(total, p["slab_bytes"]) * partial
        streamed_compute, streamed_dram = flops / (peak * p["streamed_matrix"]), total / (rate * p["dram"])
        longest = np.maximum(streamed_compute, streamed_dram)
        shortest = np.minimum(streamed_compute, streamed_dram)
        streamed = longest * (1 + (shortest / longest) ** p["overlap"]) ** (1 / p["overlap"]) + p["fill_s"]
        share = _beyond(total, p["stream_bytes"])
        busy = copied * (1 - share) + streamed * share
        bound = np.where(np.maximum(compute, streamed_compute * share) > np.maximum(copies, streamed_dram * share),
                         "matrix", "dram").astype(object)  # fmt: skip
        return Times(p["launch_s"] + busy, np.where(busy < p["launch_s"], "launch", bound))


def _round(size: np.ndarray, quantum: int) -> np.ndarray:
    return np.asarray(np.ceil(size / quantum) * quantum)


def _beyond(used: np.ndarray, capacity: float) -> np.ndarray:
    """0 well below ``capacity``, 1 well above."""
    return np.asarray(1 / (1 + (capacity / used) ** _STEEPNESS))


GEMM = Systolic()
