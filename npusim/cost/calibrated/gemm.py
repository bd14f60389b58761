"""GEMM on GPUs as a library runs it: the fastest of a menu of tiles, in a dozen physical parameters.

``gpu-gemm/1``: out[m,n] = a[m,k] w[n,k], ``batch`` of them (nan: one). For each candidate tile and split of the
reduction it adds what is fixed (launch, merging of splits, quantisation of activations) to what overlaps (matrix
engine with the epilogue of each tile, filling of the cores from the cache, main memory), and takes the fastest.
docs/calibration.md derives every term and says what was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from npusim import dtypes
from npusim.calibration import dtype_key
from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times
from npusim.errors import InputError

P = ParameterSpec
PARAMETERS = (
    P("launch", 3e-7, 1e-4, 2.5e-6, "s", "fixed time of a call as the measuring loop sees it"),
    P("matrix_share", 0.2, 1.0, 0.9, "1", "sustained share of the matrix peak"),
    P("dram_share", 0.2, 1.0, 0.85, "1", "sustained share of the main-memory bandwidth"),
    P(
        "fill",
        2.0,
        64.0,
        15.0,
        "B/kFLOP",
        "bytes the cache delivers to a core while its engine could do 1024 16-bit FLOP",
    ),
    P("store", 0.5, 64.0, 4.0, "B/kFLOP", "the same for a tile's epilogue, which does not overlap with its products"),
    P("k_step", 1e-9, 2e-6, 5e-8, "s", "time of one step along k that no more engines or bandwidth would shorten"),
    P("split", 1e-7, 3e-5, 2.5e-6, "s", "fixed time of merging a split reduction"),
    P("overlap", 1.0, 20.0, 5.0, "1", "exponent of the norm that joins overlapping resources; large: perfect overlap"),
    P("power_droop", 1e-3, 0.7, 0.15, "1", "relative slow-down under full load once the power limit acts"),
    P("cache_use", 0.1, 1.5, 0.7, "1", "share of the last-level cache that keeps operands between uses"),
    P("dram_ramp", 1e-8, 2e-5, 1e-6, "s", "time main memory loses before it streams at its sustained rate"),
    P("quantise", 1e-3, 30.0, 2.0, "1", "passes over bf16 activations before the product (0.001: none)"),
    P("widen", 1e-5, 2.0, 1e-5, "cycles", "cycles of one core to widen one element of quantised weights"),
    P("weight_copies", 1.0, 1e6, 1.0, "1", "sets of weights the measuring loop rotates; 1: always the same"),
    P("menu", 0.0, 1.0, 0.0, "1", "tile menu of the library: 0 edges are powers of two, 1 multiples of 16", log=False),
)
SPLITS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


@dataclass(frozen=True)
class Operands:
    """What a dtype spelling means for a GEMM: engine rate, bytes per element, and work beside the product."""

    rate: str
    a: float
    w: float
    out: float
    quantises: bool = False
    widens: bool = False


def _narrow(rate: str, a: float, w: float | None = None, out: float = 2.0) -> Operands:
    return Operands(rate, a, a if w is None else w, out, quantises=True)


def _weights(w: float) -> Operands:
    return Operands("fp16", 2.0, w, 2.0, widens=True)


# Scales count: one fp32 per 128 activations (blocks of fp8), fp8 per 16 (nvfp4), fp16 per 128 (int4 weights).
_SPELLINGS: dict[str, Operands] = {
    "fp8": _narrow("fp8", 1.0),
    "fp8_block": _narrow("fp8", 1.0 + 4 / 128, 1.0),
    "mxfp8": _narrow("fp8", 1.0 + 1 / 32),
    "nvfp4": _narrow("fp4", 0.5 + 1 / 16),
    "mxfp4": _narrow("fp4", 0.5 + 1 / 32),
    "sq": _narrow("int8", 1.0),
    "w8a8": _narrow("int8", 1.0),
    "w8a8_dynamic": _narrow("int8", 1.0),
    "w8a8_int8": Operands("int8", 1.0, 1.0, 2.0),
    "w8a8_float8_e4m3fn": Operands("fp8", 1.0, 1.0, 2.0),
    "w8a8_float8_e4m3fnuz": Operands("fp8", 1.0, 1.0, 2.0),
    "fp4": Operands("fp4", 0.5625, 0.5625, 2.0),
    "int8_wo": _weights(1.0),
    "w8a16": _weights(1.0),
    "int4_wo": _weights(0.5 + 2 / 128),
    "w4a16": _weights(0.5 + 2 / 128),
    "bfloat16_or_unclear": Operands("bf16", 2.0, 2.0, 2.0),
}


def operands(dtype: str) -> Operands | None:
    """What ``dtype`` means, or None for a spelling this model does not know."""
    key = dtype_key(dtype)
    if key in _SPELLINGS:
        return _SPELLINGS[key]
    try:
        plain = dtypes.get(key)
    except InputError:
        return None
    return Operands(plain.rate, plain.bits / 8, plain.bits / 8, plain.bits / 8)


@lru_cache(maxsize=4)
def menu(index: int) -> np.ndarray:
    """Tiles (rows, columns) of a library: 64 to 256 by 16 to 256, either way round, at most 192 · 256 elements.

    0: powers of two, as warp-level instructions (mma.sync) and older libraries have them. 1: one edge a multiple
    of 16, as warp-group instructions (wgmma, tcgen05) allow.
    """
    short: tuple[int, ...]
    if index == 0:
        short, most = (16, 32, 64, 128, 256), 128 * 256
    else:
        short, most = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256), 192 * 256
    found = {(long, edge) for long in (64, 128, 256) for edge in short if long * edge <= most}
    both = found | {(edge, long) for long, edge in found}
    # Large tiles first: they are often best, and a good candidate early prunes the rest.
    return np.array(sorted(both, key=lambda tile: (-tile[0] * tile[1], tile)), dtype=float)


def figures(chip: Chip, dtype: str) -> np.ndarray | None:
    """What the model reads of a chip, or None when the chip or the dtype lacks something it needs.

    Returns:
        cores, FLOP/s in this format, DRAM bytes/s, kFLOP per second of one core in 16-bit formats, clock in Hz,
        bytes of the last-level cache, bytes of an element of a, w and out, step along k in elements.
    """
    what, memory = operands(dtype), chip.memory
    if what is None or memory is None or not (memory.bandwidth_bytes_per_s and chip.cores and chip.clock_hz):
        return None
    outer = [each.capacity_bytes * chip.level_instances(each) for each in chip.levels.values() if each.scope != "core"]
    try:
        _, peak = chip.peak_flops_per_s(what.rate)
    except InputError:
        return None
    # Graphics boards halve some rates by product segment, and chips cut for export theirs; the widest rate a core has,
    # in 16-bit products, is what its memories were built for.
    widths = {"fp16": 1, "bf16": 1, "int8": 2, "fp8": 2, "fp32": 1}
    balance = max(
        (rate / widths[name] for name, rate in chip.peaks_flops_per_s.items() if name in widths), default=peak
    )
    step = 128 / what.a  # libraries step along k by one line of 128 bytes
    core = balance / chip.cores / 1024
    sizes = (memory.bandwidth_bytes_per_s, core, chip.clock_hz, max(outer, default=1.0), what.a, what.w, what.out, step)
    return np.array((chip.cores, peak, *sizes), dtype=float)


class GpuGemm:
    """The family ``gpu-gemm/1``. ``weight_copies`` in ``dims`` overrides the parameter of that name."""

    name = "gpu-gemm/1"
    parameters = PARAMETERS

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of rows with m, n, k and batch; nan where the chip cannot be priced."""
        from npusim.cost.calibrated.gemm_search import search

        m, n, k = (np.asarray(dims[name], float) for name in "mnk")
        chip_figures = figures(chip, dtype)
        if chip_figures is None:
            return Times(np.full(len(m), np.nan), np.full(len(m), "launch", dtype=object))
        values = np.array([parameters[spec.name] for spec in PARAMETERS])
        groups = np.asarray(dims.get("batch", np.ones(len(m))), float)
        copies = np.asarray(dims.get("weight_copies", np.full(len(m), parameters["weight_copies"])), float)
        shapes = np.stack([m, n, k, np.where(groups >= 1, groups, 1.0), copies], axis=1)
        good = np.isfinite(shapes).all(axis=1) & (shapes > 0).all(axis=1)
        out = np.full((len(m), 6), np.nan)
        part = np.zeros((int(good.sum()), 6))
        tiles = menu(round(parameters["menu"]))
        search(np.ascontiguousarray(shapes[good]), tiles, SPLITS, chip_figures, values, part)
        out[good] = part
        return Times(out[:, 0], _bounds(out))

    def alternatives(self, dtype: str, residency: str) -> tuple[dict[str, float], ...]:
        """Both menus; passes over activations and widening of weights only where the dtype means them."""
        what = operands(dtype)
        # The loops of serving stacks rotate up to five sets of weights, as many as it takes to exceed the cache.
        fixed = {"weight_copies": 5.0 if residency == "cold" else 1.0}
        if what is None or not what.quantises:
            fixed["quantise"] = 1e-3
        if what is None or not what.widens:
            fixed["widen"] = 1e-5
        return tuple({**fixed, "menu": index} for index in (0.0, 1.0))


def _bounds(out: np.ndarray) -> np.ndarray:
    """What takes longest; rows of which the fixed time is most are bound by the launch."""
    parts = np.nan_to_num(out[:, [1, 2, 3, 4, 5]])
    names = np.array(["launch", "matrix", "cache", "dram", "vector"], dtype=object)
    found: np.ndarray = names[np.argmax(parts, axis=1)]
    return found


GPU_GEMM = GpuGemm()
