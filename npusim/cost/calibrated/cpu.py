"""Kernels of npukernels on one core of a CPU: closed forms of the paths that csrc takes for a shape.

A chip file written by ``npusim host`` gives the rate of a core, its register tile (``core.matrix.shape``), its
caches and its memory; a calibration document gives what the kernels sustain of them. Operands are as the last call
left them, so a working set is read from the cache that holds it: innermost levels keep (capacity / set)^2 of it,
the last one, shared and with random replacement, the square root of that ratio.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

Array = np.ndarray
PAST_CACHES = 16 * 2**20  # bytes of a result from which row operators store past the caches
Values = Mapping[str, float]

# Blocks of csrc/gemm, csrc/qgemm, csrc/wgemm and csrc/attention.
K_BLOCK, STRIP_ROWS, SMALL_B, NARROW, WIDE = 384, 8, 64 * 64, 128, 512
INT8_ROWS, INT8_COLUMNS, INT8_K, DIRECT_ROWS = 192, 512, 512, 3
CHUNK, WEIGHT_ROWS, STREAM_ROWS, GROUP = 128, 192, 3, 128
QUERY_ROWS, DECODE_ROWS, DECODE_KEYS = 384, 8, 512
PANEL = 16  # columns of packed 8- and 4-bit weights


def _seconds(name: str, low: float, high: float, start: float, meaning: str) -> ParameterSpec:
    return ParameterSpec(name, low, high, start, "s", meaning)


CALL = _seconds("call_s", 2e-7, 1e-4, 5e-6, "one call, from Python and back")
FRACTION = ParameterSpec("fraction", 0.05, 1.0, 0.85, "1", "share of the core's peak that the inner tile sustains")
TILE = _seconds("tile_s", 1e-10, 2e-7, 1e-8, "beginning and ending one register tile")
MEMORY = (
    ParameterSpec("cache_share", 0.01, 1.0, 0.5, "1", "share of the last cache's bandwidth that one core reads"),
    ParameterSpec("dram_share", 0.01, 1.0, 0.5, "1", "share of main memory's bandwidth that one core reads"),
    ParameterSpec("kept_share", 0.1, 1.0, 0.6, "1", "share of the last cache that holds this process's data"),
    ParameterSpec("stream_share", 0.25, 1.0, 0.8, "1", "share of what one core reads that this kernel moves"),
    ParameterSpec("overlap", 0.0, 1.0, 0.6, "1", "share of the shorter of computing and reading that hides", log=False),
)


def memory_seconds(chip: Chip, read: Array, written: Array, p: Values, packed: Array | float = 0.0) -> Array:
    """Seconds for bytes to come from, and go, beyond the core's own caches.

    Args:
        chip: the hardware.
        read: bytes read.
        written: bytes written. Main memory first delivers the lines that they overwrite, unless there are so many
            that the kernels pass by the caches.
        p: parameters, those of ``MEMORY`` among them.
        packed: further bytes in use between calls.
    """
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    moved = read + written
    inside = own_share(chip, moved + packed)
    dram = chip.memory.bandwidth_bytes_per_s * p["dram_share"] * p["stream_share"]
    from_dram = (moved + np.where(written < PAST_CACHES, written, 0.0)) / dram
    shared = [level for level in chip.levels.values() if level.scope != "core"]
    if not shared:
        return np.asarray(from_dram * (1 - inside))
    last = max(shared, key=lambda level: level.capacity_bytes)
    rate = (chip.level_bandwidth_bytes_per_s(last) or dram) * p["cache_share"] * p["stream_share"]
    held = p["kept_share"] * last.capacity_bytes / (moved + packed)
    kept = np.maximum(inside, np.minimum(1.0, np.sqrt(held)))
    return np.asarray(moved * (kept - inside) / rate + (1 - kept) * from_dram)


def own_share(chip: Chip, working_set: Array) -> Array:
    """Share of a working set that stays in the core's own caches from call to call."""
    own = max((level.capacity_bytes for level in chip.levels.values() if level.scope == "core"), default=1.0)
    return np.asarray(np.minimum(1.0, (own / working_set) ** 2))


def _joined(call: float, compute: Array, memory: Array, overlap: float, name: str) -> Times:
    """Computing and reading side by side, and what bounds each row."""
    longer, shorter = np.maximum(compute, memory), np.minimum(compute, memory)
    time = call + longer + (1 - overlap) * shorter
    bound = np.where(call > longer, "launch", np.where(memory > compute, "dram", name))
    return Times(time, bound)


def core_peak(chip: Chip, fmt: str) -> float:
    """Operations per second of one core in a format."""
    return chip.peak_flops_per_s(fmt)[1] / (chip.cores or 1)


def register_tile(chip: Chip) -> tuple[int, int]:
    """Rows and columns of the register tile."""
    shape = chip.core.matrix.shape if chip.core.matrix else None
    return shape[:2] if shape else (6, 16)


def _ceil(x: Array, unit: float) -> Array:
    return np.asarray(np.ceil(x / unit))


def _tile_steps(m: Array, rows: int, least: float) -> tuple[Array, Array]:
    """Row steps per column panel and step of k, where a tile takes at least ``least`` rows' time; and tiles.

    The last two tiles share what is left: 4 + 3 rows, not 6 + 1.
    """
    full = np.maximum(np.floor(m / rows) - 1, 0.0)
    rest = m - full * rows
    two = rest > rows
    first = np.where(two, np.ceil(rest / 2), rest)
    steps = full * max(rows, least) + np.maximum(first, least) + np.where(two, np.maximum(rest - first, least), 0.0)
    return steps, full + 1 + two


class Gemm:
    """``cpu-gemm/1``: float32, or bfloat16 and binary16 widened on the way; B row-major, used as it is.

    Rows: ``m, n, k``.
    """

    name = "cpu-gemm/1"
    parameters = (
        CALL,
        FRACTION,
        TILE,
        ParameterSpec("least_rows", 1.0, 6.0, 3.0, "1", "rows of a tile below which the chain's latency shows"),
        ParameterSpec("strip_share", 0.1, 1.0, 0.9, "1", "speed of few rows against B in place, of that of tiles"),
        ParameterSpec("strip_rows", 0.1, 12.0, 3.0, "1", "rows in whose time such rows read B"),
        _seconds("pack_s", 2e-11, 5e-9, 3e-10, "packing, or widening, one element"),
        _seconds("far_s", 1e-12, 5e-9, 1e-10, "what an element costs more to pack from beyond the core's caches"),
        *MEMORY,
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Values) -> Times:
        """See ``Family.seconds``."""
        p, m, n, k = parameters, dims["m"], dims["n"], dims["k"]
        mr, nr = register_tile(chip)
        wide = dtype in ("fp32", "float32")
        size = 4.0 if wide else 2.0
        steps, tiles = _tile_steps(m, mr, p["least_rows"])
        panels, blocks = _ceil(n, nr), _ceil(k, K_BLOCK)
        step_s = 2 * nr / (core_peak(chip, "fp32") * p["fraction"])
        compute = steps * panels * k * step_s + tiles * panels * blocks * p["tile_s"]
        strips = (m <= STRIP_ROWS) & (n * k > SMALL_B)
        strip = (m / p["strip_share"] + p["strip_rows"]) * panels * k * step_s
        b_in_place = wide & ((m <= mr) | (n * k <= SMALL_B))
        a_in_place = wide & ((m <= 2 * mr) | (n <= NARROW) | ((n <= WIDE) & (k % 1024 != 0)))
        passes = _ceil(n, WIDE)
        packed = np.where(b_in_place, 0.0, n * k) + np.where(a_in_place, 0.0, m * k * passes)
        widened = np.zeros_like(packed) if wide else n * k
        outside = 1 - own_share(chip, size * (m * k + k * n) + 4 * m * n)
        packing = packed * (p["pack_s"] + outside * p["far_s"])
        compute = np.where(strips, strip + widened * p["pack_s"], compute + packing)
        memory = memory_seconds(chip, size * (m * k + k * n), 4 * m * n, p, np.where(strips, 0.0, 4.0 * packed))
        return _joined(p["call_s"], compute, memory, p["overlap"], "matrix")


class Qgemm:
    """``cpu-qgemm/1``: 8-bit integers, B packed beforehand, int32 result. Rows: ``m, n, k``."""

    name = "cpu-qgemm/1"
    parameters = (
        CALL,
        FRACTION,
        TILE,
        _seconds("expand_s", 5e-12, 2e-9, 5e-11, "widening one weight for the tiles"),
        _seconds("convert_s", 5e-12, 2e-9, 1e-10, "converting one activation"),
        _seconds("finish_s", 5e-12, 5e-9, 2e-10, "finishing one result"),
        _seconds("direct_s", 2e-12, 2e-9, 3e-11, "one product of few rows by weights as they are"),
        *MEMORY,
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Values) -> Times:
        """See ``Family.seconds``."""
        p, m, n, k = parameters, dims["m"], dims["n"], dims["k"]
        mr, nr = register_tile(chip)[0], PANEL
        columns, depth = _ceil(n, nr) * nr, _ceil(k, 4) * 4
        row_blocks, panels = _ceil(m, INT8_ROWS), columns / nr
        tiles = row_blocks * _ceil(m / row_blocks, mr) * panels * _ceil(depth, INT8_K)
        compute = 2 * m * columns * depth / (core_peak(chip, "int8") * p["fraction"]) + tiles * p["tile_s"]
        compute = compute + columns * depth * row_blocks * p["expand_s"]
        compute = compute + m * depth * _ceil(n, INT8_COLUMNS) * p["convert_s"]
        direct = m * columns * depth * p["direct_s"] + m * depth * p["convert_s"]
        compute = np.where(m <= DIRECT_ROWS, direct, compute) + m * columns * p["finish_s"]
        memory = memory_seconds(chip, m * k + columns * depth, 4 * m * n, p)
        return _joined(p["call_s"], compute, memory, p["overlap"], "matrix")


class WeightGemm:
    """``cpu-wgemm/1``: binary16 activations by packed 8- or 4-bit weights in groups of 128. Rows: ``m, n, k``."""

    name = "cpu-wgemm/1"
    parameters = (
        CALL,
        FRACTION,
        TILE,
        _seconds("decode_s", 1e-11, 5e-9, 1e-10, "decoding one weight for the tiles"),
        _seconds("stream_s", 1e-11, 5e-9, 5e-11, "one product of few rows, the weight decoded in registers"),
        _seconds("convert_s", 2e-11, 2e-8, 1e-9, "widening one activation"),
        _seconds("finish_s", 5e-12, 5e-9, 3e-10, "storing one result"),
        *MEMORY,
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Values) -> Times:
        """See ``Family.seconds``."""
        p, m, n, k = parameters, dims["m"], dims["n"], dims["k"]
        mr, nr = register_tile(chip)[0], PANEL
        columns, row_blocks = _ceil(n, nr) * nr, _ceil(m, WEIGHT_ROWS)
        tiles = row_blocks * _ceil(m / row_blocks, mr) * columns / nr * _ceil(k, CHUNK)
        tiled = 2 * m * columns * k / (core_peak(chip, "fp32") * p["fraction"]) + tiles * p["tile_s"]
        tiled = tiled + columns * k * row_blocks * p["decode_s"]
        few = m <= STREAM_ROWS
        compute = np.where(few, m * columns * k * p["stream_s"], tiled) + m * k * p["convert_s"]
        compute = compute + m * columns * p["finish_s"]
        weights = columns * k * (0.5 if dtype == "w4a16" else 1.0) + 4 * columns * _ceil(k, GROUP)
        memory = memory_seconds(chip, weights + 6 * m * k, 4 * m * n, p)
        return _joined(p["call_s"], compute, memory, p["overlap"], "matrix")


class Attention:
    """``cpu-attention/1``: causal, float32. Rows: ``batch, heads, kv_heads, head_dim, seq_q, seq_kv``."""

    name = "cpu-attention/1"
    parameters = (
        CALL,
        FRACTION,
        _seconds("unit_s", 1e-8, 1e-4, 1e-6, "one block of queries of one KV head"),
        _seconds("score_s", 2e-11, 2e-8, 5e-10, "one score: scale, mask, exponential, sum"),
        _seconds("key_s", 1e-12, 5e-9, 1e-10, "bringing one element of keys and values before a block of queries"),
        _seconds("row_s", 1e-9, 1e-5, 1e-7, "one query row: its maximum, its division"),
        ParameterSpec("least_rows", 1.0, 8.0, 2.0, "1", "query rows in whose time a lone one passes the keys"),
        *MEMORY,
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Values) -> Times:
        """See ``Family.seconds``."""
        p, d = parameters, dims["head_dim"]
        seq_q, seq_kv, groups = dims["seq_q"], dims["seq_kv"], dims["batch"] * dims["kv_heads"]
        rows = dims["heads"] / dims["kv_heads"] * seq_q
        decode = (seq_q == 1) & (rows <= DECODE_ROWS)
        blocks = np.where(decode, _ceil(seq_kv, DECODE_KEYS), _ceil(rows, QUERY_ROWS))
        # Rows see the keys before them, rounded to a register tile; keys are brought for the last row of a block.
        seen = np.where(decode, seq_kv, np.minimum(seq_kv, seq_kv - (seq_q - 1) / 2 + register_tile(chip)[1] / 2))
        share = seq_q / np.where(decode, 1.0, blocks)
        reach = np.where(decode, seq_kv, np.minimum(seq_kv, seq_kv - seq_q / 2 + share / 2))
        scores = groups * rows * seen
        lone = np.where(decode, np.maximum(rows, p["least_rows"]) / rows, 1.0)
        compute = scores * (lone * 4 * d / (core_peak(chip, "fp32") * p["fraction"]) + p["score_s"])
        compute = compute + groups * (np.where(decode, 1.0, blocks) * p["unit_s"] + rows * p["row_s"])
        visited = np.where(decode, seq_kv, blocks * reach)
        compute = compute + groups * visited * 2 * d * p["key_s"]
        memory = memory_seconds(chip, 4.0 * groups * d * (2 * seq_kv + rows), 4.0 * groups * d * rows, p)
        return _joined(p["call_s"], compute, memory, p["overlap"], "matrix")


class Vector:
    """``cpu-vector/1``: operators on rows and elements, float32 in and out. Rows: ``m, n``."""

    name = "cpu-vector/1"
    parameters = (
        CALL,
        _seconds("row_s", 1e-10, 1e-5, 3e-8, "one row: its sums"),
        _seconds("tail_s", 1e-10, 1e-5, 2e-8, "what a row that ends within a vector costs more"),
        _seconds("element_s", 1e-11, 1e-7, 3e-10, "one element from the core's own caches"),
        *MEMORY,
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Values) -> Times:
        """See ``Family.seconds``."""
        p, m, n = parameters, dims["m"], dims["n"]
        lanes = chip.core.vector.lanes if chip.core.vector else 1
        compute = m * (p["row_s"] + np.where(n % lanes > 0, p["tail_s"], 0.0)) + m * n * p["element_s"]
        memory = memory_seconds(chip, 4.0 * m * n, 4.0 * m * n, p)
        return _joined(p["call_s"], compute, memory, p["overlap"], "vector")


GEMM, QGEMM, WEIGHT_GEMM, ATTENTION, VECTOR = Gemm(), Qgemm(), WeightGemm(), Attention(), Vector()
