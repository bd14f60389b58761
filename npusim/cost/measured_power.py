"""Power that a driver reports while a GEMM repeats: a fitted model of one chip and of how it was sampled.

Two things make a reading: what the chip draws, and how far the reading has followed it.

    steady = min(cap, idle + active + e_dtype F + e_dram B)        F: FLOP/s, B: main-memory bytes/s, as measured
    reading = idle + (steady - idle) gain (1 - exp(-latency / lag))

A collector repeats a kernel a bounded number of times, so a short kernel is watched for a shorter window than the
sensor averages over and the reading stays near idle: the window grows with the latency, and ``lag`` is the latency at
which it equals the sensor's time constant. The power manager holds the average at the cap by lowering the clock; the
measured latency contains that already. Quantised formats include the kernel that quantises the activations: it reads
them in 16 bits and writes them narrow, then the GEMM reads them. Constants are fitted (``python -m bench.power``) and
kept as a calibration document in ``catalog/power``; nothing else of npusim uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from npusim import calibration
from npusim.calibration import Calibration

POWER = Path(__file__).parents[1] / "catalog" / "power"

# Bytes of an operand element, and whether a kernel quantises the activations first.
DTYPES: dict[str, tuple[float, bool]] = {
    "bfloat16": (2.0, False),
    "fp8": (1.0, True),
    "fp8_block": (1.0, True),
    "nvfp4": (0.5625, True),
}
# Name, lowest and highest plausible value, start, unit, meaning. All are fitted on a logarithmic scale.
PARAMETERS: tuple[tuple[str, float, float, float, str, str], ...] = (
    ("idle_w", 150, 320, 250, "W", "clocks up, nothing running"),
    ("cap_w", 900, 1000, 985, "W", "where the power manager holds the average"),
    ("active_w", 0.01, 300, 50, "W", "schedulers and clock tree while a kernel runs"),
    ("dram_byte_j", 40e-12, 180e-12, 90e-12, "J/B", "main memory, caches and fabric, per main-memory byte"),
    ("bfloat16_flop_j", 0.2e-12, 1.0e-12, 0.6e-12, "J/FLOP", "matrix work in bf16"),
    ("fp8_flop_j", 0.1e-12, 0.7e-12, 0.4e-12, "J/FLOP", "matrix work in fp8, one scale per tensor"),
    ("fp8_block_flop_j", 0.1e-12, 0.7e-12, 0.3e-12, "J/FLOP", "matrix work in fp8, a scale per block"),
    ("nvfp4_flop_j", 0.05e-12, 0.45e-12, 0.15e-12, "J/FLOP", "matrix work in nvfp4"),
    ("fast_lag_s", 1e-6, 60e-6, 10e-6, "s", "latency whose window equals the sensor's time constant"),
    ("slow_lag_s", 10e-6, 300e-6, 60e-6, "s", "the same in sessions that were sampled slowly"),
    ("slow_gain", 0.4, 1.0, 0.7, "1", "share of the step that a slowly sampled reading shows in the end"),
)
# Sessions that were sampled slowly, by what the readings show (the data do not name them): all of the block-scaled
# formats, and bf16 and fp8 from this many rows on. Shapes on both sides take the same time per FLOP but their
# readings differ by a third.
SLOW_DTYPES = ("fp8_block", "nvfp4")
SLOW_FROM_ROWS = 3840


def slow_session(dtype: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Which rows belong to sessions that were sampled slowly."""
    return np.asarray(np.isin(dtype, SLOW_DTYPES) | (np.asarray(m) >= SLOW_FROM_ROWS))


def gemm_traffic(dtype: np.ndarray, m: np.ndarray, n: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs and main-memory bytes of GEMMs: operands once, a bf16 output, and the quantisation of activations.

    Args:
        dtype: names of ``DTYPES``.
        m: rows of the activations.
        n: columns of the output.
        k: reduction.
    """
    size = np.array([DTYPES[name][0] for name in dtype])
    quantised = np.array([DTYPES[name][1] for name in dtype])
    activation = np.where(quantised, 2.0 + 2.0 * size, size)
    return 2.0 * m * n * k, m * k * activation + n * k * size + 2.0 * m * n


def steady_power_w(
    dtype: np.ndarray, m: np.ndarray, n: np.ndarray, k: np.ndarray, latency_s: np.ndarray, values: Mapping[str, float]
) -> np.ndarray:
    """What the chip draws while such GEMMs repeat, by their measured latency."""
    flops, moved = gemm_traffic(dtype, m, n, k)
    flop_j = np.array([values[f"{name}_flop_j"] for name in dtype])
    drawn = values["idle_w"] + values["active_w"] + (flop_j * flops + values["dram_byte_j"] * moved) / latency_s
    return np.asarray(np.minimum(values["cap_w"], drawn))


def reading_w(
    dtype: np.ndarray, m: np.ndarray, n: np.ndarray, k: np.ndarray, latency_s: np.ndarray, values: Mapping[str, float],
    slow: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """What the driver reports for them; arguments as ``steady_power_w``, and which rows were sampled slowly."""
    steady = steady_power_w(dtype, m, n, k, latency_s, values)
    slow = slow_session(dtype, m) if slow is None else slow
    lag = np.where(slow, values["slow_lag_s"], values["fast_lag_s"])
    followed = np.where(slow, values["slow_gain"], 1.0) * -np.expm1(-latency_s / lag)
    return np.asarray(values["idle_w"] + (steady - values["idle_w"]) * followed)


@lru_cache(maxsize=4)
def document(chip: str = "b200") -> Calibration:
    """The fitted constants of a chip. Raises InputError when the catalog has none."""
    return calibration.load_calibration(POWER / f"{chip}.yaml")
