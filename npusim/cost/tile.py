"""Tile fidelity: each operator at the best mapping of a menu, priced by a closed-form pipeline.

A matrix multiplication is cut into output tiles that cores make in steps along the reduction; loads,
compute and stores of neighbouring steps overlap as far as the buffers of a core's memory allow. Edges are
rounded up everywhere (arrays, instruction shapes, waves of tiles over cores). The menu of tile edges holds
2^i and 3·2^i times the engine's edge, and the edges that cut a dimension evenly into few tiles or
over the cores; the search tries all combinations with every split of the reduction and every residency
(``csrc/sim/tile.c``). Attention is a fused loop over blocks of keys with an online softmax (Dao et al.,
FlashAttention, arXiv 2205.14135), its query heads packed per KV head, its keys split over cores when
there are too few rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from npusim import _sim, dtypes
from npusim.chip import Chip
from npusim.chip_parts import Level, Memory
from npusim.cost import dram, dram_spec
from npusim.cost.collectives import op_seconds
from npusim.cost.roofline import Priced, Work, passing_bytes, slowest
from npusim.errors import InputError, Problem
from npusim.mapping import KEEPS, GemmMapping
from npusim.ops import NO_WINDOW, Dim, Operand, conv_gemm, expert_ranks, read_width, shared_by, visible_pairs
from npusim.ops import active_experts as reached
from npusim.workload import Op

_ENGINES = {"systolic": _sim.lib.NPS_SYSTOLIC, "dot": _sim.lib.NPS_DOT, "tensorcore": _sim.lib.NPS_TENSORCORE}
_DATAFLOWS = {"os": _sim.lib.NPS_DATAFLOW_OS, "ws": _sim.lib.NPS_DATAFLOW_WS, "is": _sim.lib.NPS_DATAFLOW_IS}
MATRIX_KINDS = ("gemm", "experts", "conv2d")
UNLIMITED = 1e300  # a bandwidth nobody described
Menu = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class GemmTime:
    """Time of a GEMM under its best mapping.

    Args:
        time_s: from the first load to the last store.
        seconds: busy time per resource (``matrix``, ``port``, ``shared``, ``dram``).
        dram_bytes: bytes that pass main memory, re-reads included.
        waves: output tiles of the busiest core.
        mapping: the mapping.
        candidates: how many were tried.
    """

    time_s: float
    seconds: dict[str, float]
    dram_bytes: float
    waves: float
    mapping: GemmMapping
    candidates: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The figures of a chip that the tile model uses.

    Args:
        core_level: name and description of the memory that holds a core's tiles (None: a share of the shared one).
        shared_level: name of the largest memory that cores share.
        core_bytes: capacity of the core's memory, per core.
        core_bytes_per_s: rate at which one core's memory is filled.
        shared_bytes: capacity that all cores share.
        shared_bytes_per_s: its bandwidth, all cores together.
        dram_bytes_per_s: main memory bandwidth that streams reach.
        transfer_s: set-up of a transfer.
        latency_s: of main memory, from a request to its first data; 0 without a timing table.
        buffers: copies of a step's operands.
    """

    core_level: str | None
    shared_level: str | None
    core_bytes: float
    core_bytes_per_s: float
    shared_bytes: float
    shared_bytes_per_s: float
    dram_bytes_per_s: float
    transfer_s: float
    latency_s: float
    buffers: int


# Tiles and weights lie in long runs that interleave over all channels: one sequential stream.
STREAM_RUN_BYTES = 16384


def stream_efficiency(chip: Chip) -> float | None:
    """Share of the pin bandwidth that long sequential reads reach on the chip's DRAM, simulated; None when no
    timing table describes its memory."""  # fmt: skip
    assert chip.memory is not None
    return _stream_efficiency(chip.memory)


@lru_cache(maxsize=1024)
def _stream_efficiency(memory: Memory) -> float | None:
    if not dram_spec.described(memory):
        return None
    device, devices = dram_spec.memory_of(memory)
    share = dram.efficiency(device, STREAM_RUN_BYTES, stride_bytes=STREAM_RUN_BYTES, devices=devices)
    return float(share)


@lru_cache(maxsize=1024)
def memory_latency_s(memory: Memory) -> float:
    """Seconds from a request to a closed bank until its data has arrived, tRCD + tCL + burst; 0 without timings."""
    if not dram_spec.described(memory):
        return 0.0
    device, _ = dram_spec.memory_of(memory)
    return float(dram.simulate(device, [0]).time_s)


# The last chips asked about: a chip is frozen, and an estimate asks for every operator.
_MACHINES: dict[int, tuple[Chip, Machine]] = {}


def machine(chip: Chip) -> Machine:
    """The figures of ``chip`` that the tile model uses. Raises Unavailable when it lacks some."""
    kept = _MACHINES.get(id(chip))
    if kept is None or kept[0] is not chip:
        if len(_MACHINES) >= 16:
            _MACHINES.clear()
        kept = _MACHINES[id(chip)] = (chip, _read_machine(chip))
    return kept[1]


def _read_machine(chip: Chip) -> Machine:
    chip.require("tile")
    assert chip.memory is not None and chip.cores is not None
    local = {name: level for name, level in chip.levels.items() if level.scope == "core"}
    outer = {name: level for name, level in chip.levels.items() if level.scope != "core"}
    shared = sum(level.capacity_bytes * chip.level_instances(level) for level in outer.values())
    # Of several memories of a core the largest holds the operands; accumulators have their own.
    name = max(local, key=lambda key: local[key].capacity_bytes) if local else None
    core: Level | None = local[name] if name else None
    port = chip.level_bandwidth_bytes_per_s(core) if core else None
    common = max(outer, key=lambda key: outer[key].capacity_bytes) if outer else None
    rate = chip.level_bandwidth_bytes_per_s(outer[common]) if common else None
    return Machine(
        core_level=name,
        shared_level=common,
        core_bytes=core.capacity_bytes if core else shared / chip.cores,
        core_bytes_per_s=port / chip.cores if port else UNLIMITED,
        shared_bytes=shared,
        shared_bytes_per_s=rate or UNLIMITED,
        dram_bytes_per_s=float(chip.memory.bandwidth_bytes_per_s or 0) * (stream_efficiency(chip) or 1.0),
        transfer_s=chip.dma.setup_s or 0.0 if chip.dma else 0.0,
        latency_s=memory_latency_s(chip.memory),
        buffers=core.buffers if core else 2,
    )


@dataclass(frozen=True, slots=True)
class Engine:
    """The matrix engine of one core in one format, as the search takes it."""

    engine: str
    dataflow: str
    overlap: bool
    rows: int
    cols: int
    arrays: int
    lanes: int
    shape: tuple[int, int, int]
    macs: float  # per core and cycle
    cores: int
    clock_hz: float


def engine(chip: Chip, fmt: str) -> Engine:
    """The engine of ``chip`` at the rate that ``fmt`` runs at. Raises Unavailable when it has none."""
    rate, _ = chip.peak_flops_per_s(fmt)
    matrix = chip.core.matrix
    assert matrix is not None and chip.cores is not None and chip.clock_hz is not None
    return Engine(
        matrix.engine, matrix.dataflow, matrix.overlap, matrix.rows or 1, matrix.cols or 1, matrix.arrays,
        matrix.lanes or 1, matrix.shape or (1, 1, 1), matrix.flops_per_cycle[rate] / 2, chip.cores, chip.clock_hz,
    )  # fmt: skip


def c_chip(unit: Engine, figures: Machine) -> Any:
    """Engine and memories as the C model takes them."""
    c = _sim.ffi.new("nps_tile_chip *")
    c.engine, c.dataflow = _ENGINES[unit.engine], _DATAFLOWS[unit.dataflow]
    c.overlap, c.buffers = int(unit.overlap), figures.buffers
    c.rows, c.cols, c.arrays, c.lanes = unit.rows, unit.cols, unit.arrays, unit.lanes
    c.sm, c.sn, c.sk = unit.shape
    c.macs, c.cores, c.clock_hz = unit.macs, unit.cores, unit.clock_hz
    c.core_bytes, c.core_bytes_per_s = figures.core_bytes, figures.core_bytes_per_s
    c.shared_bytes, c.shared_bytes_per_s = figures.shared_bytes, figures.shared_bytes_per_s
    c.dram_bytes_per_s = figures.dram_bytes_per_s
    c.transfer_s, c.latency_s = figures.transfer_s, figures.latency_s
    return c


def tile_cycles(chip: Chip, fmt: str, tm: int, tn: int, tk: int) -> float:
    """Cycles one core takes for a tile of tm × tn × tk in ``fmt``, operands at hand.

    Systolic arrays as in ``npusim.cost.systolic`` (with folds overlapped when the engine does), dot
    engines ⌈tm·tn / lanes⌉ · ⌈tk / width⌉, tensor cores by whole instructions.
    """
    return float(_sim.lib.nps_tile_cycles(c_chip(engine(chip, fmt), machine(chip)), tm, tn, tk))


def dram_share(chip: Chip, run_bytes: Dim, scattered: bool, write_share: Dim) -> Dim:
    """Share of the pin bandwidth that an operator's accesses reach in the chip's DRAM; 1 without a timing table.

    Args:
        chip: the hardware.
        run_bytes: contiguous bytes.
        scattered: runs lie anywhere, not one after the other.
        write_share: share of the bytes that are written.
    """
    assert chip.memory is not None
    if stream_efficiency(chip) is None:
        return 1.0
    if not np.ndim(run_bytes):  # sorting single numbers is much faster than sorting pairs
        parts, inverse = np.unique(np.asarray(write_share, float), return_inverse=True)
        found = [_share(chip.memory, float(run_bytes), scattered, part) for part in parts.tolist()]
        return _plain(np.array(found)[inverse].reshape(np.shape(write_share)))
    sizes = np.broadcast_arrays(run_bytes, write_share)
    pairs, inverse = np.unique(np.stack([np.ravel(x) for x in sizes], axis=1), axis=0, return_inverse=True)
    shares = [_share(chip.memory, run, scattered, part) for run, part in pairs.tolist()]
    return _plain(np.array(shares)[inverse.ravel()].reshape(sizes[0].shape))


@lru_cache(maxsize=2**16)
def _share(memory: Memory, run_bytes: float, scattered: bool, write_share: float) -> float:
    device, devices = dram_spec.memory_of(memory)
    stride = 0.0 if scattered else run_bytes
    return float(dram.efficiency(device, run_bytes, stride_bytes=stride, write_share=write_share, devices=devices))


# -- the menu ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=2**14)
def _edges(size: int, quantum: int, parts: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Tile edges for a dimension, large to small: quantum · 2^i and · 3·2^i, even cuts into few or over the cores."""
    grid = [quantum * factor << i for i in range(12) for factor in (1, 3)]
    found = {min(size, edge) for edge in grid if edge <= max(most, quantum)}
    # A small dimension is cut to suit the cores; of a large one the grid is fine enough.
    few = 24 if size <= 512 else 4
    for part in (*range(1, few + 1), *parts):
        edge = math.ceil(size / part)
        if edge <= most:
            found.add(edge)
            found.add(min(size, math.ceil(edge / quantum) * quantum))
    return tuple(sorted(found, reverse=True))


def quanta(chip: Chip) -> tuple[int, int, int]:
    """Edges (m, n, k) below which the engine wastes work."""
    matrix = chip.core.matrix
    assert matrix is not None
    if matrix.engine == "systolic":
        rows, cols = matrix.rows or 1, matrix.cols or 1
        return {"os": (rows, cols, 1), "ws": (1, cols, rows), "is": (cols, 1, rows)}[matrix.dataflow]
    return (matrix.shape or (1, 1, 1)) if matrix.engine == "tensorcore" else (1, 16, matrix.width or 1)


def default_menu(chip: Chip, m: int, n: int, k: int) -> Menu:
    """The documented menu for one GEMM: tile edges along m, n and k, and splits of k."""
    assert chip.cores is not None
    cores = chip.cores
    qm, qn, qk = (max(q, 8) for q in quanta(chip))
    near = tuple(p for p in {cores, math.isqrt(cores), cores // 2, cores // 4, 2 * math.isqrt(cores)} if p > 4)
    tms = _edges(m, qm, near, 4096)
    tns = _edges(n, qn, near, 4096)
    tks = _edges(k, 8, (), 8192)
    splits = [s for s in (1, 2, 4, 8, 16, 32, 64) if s == 1 or (s <= cores and k // s >= qk)]
    return tms, tns, tks, splits


def gemm_time(chip: Chip, fmt: str, groups: float, m: float, n: float, k: float, bytes_per: tuple[float, float, float],
              cold: tuple[float, float, float] = (1.0, 1.0, 1.0), vector_s: float = 0.0,
              menu: Menu | None = None, keep: str | None = None) -> GemmTime:  # fmt: skip
    """Best mapping of ``groups`` GEMMs out[m,n] = a[m,k] b[k,n].

    Args:
        chip: the hardware.
        fmt: rate name of the engine.
        groups: independent GEMMs.
        m: rows of a (may be an average over groups).
        n: columns of b.
        k: reduction.
        bytes_per: bytes per element of a, b, out.
        cold: share of a, b, out that passes main memory.
        vector_s: vector work that runs beside.
        menu: lists of tile edges (m, n, k) and splits instead of the documented menu.
        keep: the operand that has to stay in a core (None: whatever is best).

    Raises:
        InputError: no candidate fits the core's memory.
    """
    edges = menu or default_menu(chip, *map(math.ceil, (m, n, k)))
    shape = (groups, m, n, k, *bytes_per, *cold, vector_s)
    found = _search(engine(chip, fmt), machine(chip), tuple(map(float, shape)), tuple(map(tuple, edges)), keep)
    if found is None:
        what = f"no tile of a {m:g} x {n:g} x {k:g} GEMM fits a core's memory of '{chip.name}'"
        raise InputError(Problem(f"{what} ({machine(chip).core_bytes:g} bytes)", "levels"))
    return found


@lru_cache(maxsize=2**16)
def _search(
    unit: Engine, figures: Machine, shape: tuple[float, ...], edges: tuple[tuple[int, ...], ...], keep: str | None
) -> GemmTime | None:
    """Runs the compiled search; identical searches are done once."""
    c, g, best = c_chip(unit, figures), _sim.ffi.new("nps_tile_gemm *"), _sim.ffi.new("nps_tile_result *")
    g.groups, g.m, g.n, g.k = shape[:4]
    g.a_bytes, g.b_bytes, g.out_bytes = shape[4:7]
    g.a_cold, g.b_cold, g.out_cold, g.vector_s = shape[7:]
    g.only_keep = 0 if keep is None else 1 + KEEPS.index(keep)
    lists = [np.array(list(column), np.int64) for column in edges]
    pointers = [x for column in lists for x in (len(column), _sim.ffi.from_buffer(column))]
    if _sim.lib.nps_tile_search(c, g, *pointers, best) != 0:
        return None
    seconds: dict[str, float] = {"matrix": best.compute_s, "port": best.port_s, "shared": best.shared_s}
    seconds["dram"] = best.dram_s
    mapping = GemmMapping(int(best.tm), int(best.tn), int(best.tk), int(best.split), KEEPS[best.keep])
    return GemmTime(best.time_s, seconds, best.dram_bytes, best.waves, mapping, int(best.candidates))


# -- operators --------------------------------------------------------------------------------------------


def price(op: Op, chip: Chip, work: Work, mapping: GemmMapping | None = None) -> Priced:
    """Time of one run of ``op``; ``work`` is its roofline work. Elementwise over array dimensions.

    ``mapping`` takes the place of the search for a matrix operator.

    Raises:
        InputError: the operator does not fit the chip's memories.
    """
    if op.kind in MATRIX_KINDS:
        priced = _matrix(op, chip, work, mapping)
    elif op.kind == "attention":
        priced = _attention(op, chip, work)
    else:
        priced = _stream(op, chip, work)
    figures = machine(chip)
    names = {"port": figures.core_level or "port", "shared": figures.shared_level or "shared"}
    seconds = dict(work.seconds)
    for resource, busy in priced.seconds.items():
        name = names.get(resource, resource)
        seconds[name] = np.maximum(seconds.get(name, 0.0), busy)
    # Levels that the pipeline does not model (accumulators) still bound it.
    time_s = np.maximum(priced.time_s, slowest(work.seconds.values()))
    return Priced(time_s + (chip.overheads.launch_s or 0.0), seconds, priced.dram_bytes)


def _stream(op: Op, chip: Chip, work: Work) -> Priced:
    """Vector operators, gathers and collectives: the slowest resource, after the first data has arrived."""
    figures = machine(chip)
    latency: Dim = 2 * figures.transfer_s + np.where(np.asarray(work.dram_bytes) > 0, figures.latency_s, 0.0)
    if op.kind == "collective":
        sent = Operand("x", op.dims["elements"], op.formats["x"], "act").bytes
        link_s = op_seconds(op.function, sent, op.dims["chips"], chip)
        return Priced(slowest((*work.seconds.values(), link_s)), {"link": link_s}, work.dram_bytes)
    written = sum(passing_bytes(op, operand, chip.sram_bytes) for operand in op.operands if operand.write)
    share = dram_share(chip, STREAM_RUN_BYTES, False, np.clip(written / np.maximum(work.dram_bytes, 1), 0, 1))
    dram_s = work.seconds["dram"] / share
    return Priced(slowest((*work.seconds.values(), dram_s)) + latency, {"dram": dram_s}, work.dram_bytes)


def gemm_shape(op: Op) -> tuple[Dim, Dim, Dim, Dim]:
    """(groups, m, n, k) of a matrix operator; m of routed experts is the average over those reached."""
    d = op.dims
    if op.kind == "conv2d":
        return (d["groups"], *conv_gemm(op))
    if op.kind == "experts":
        groups = reached(d["tokens"], d["experts"], d["top_k"])
        # Every expert is given as many rows as the busiest one.
        rows = d["tokens"] * d["top_k"] / groups * d["imbalance_pct"] / 100
        return shared_by(groups, expert_ranks(op)), rows, d["n"], d["k"]
    return d["groups"], d["m"], d["n"], d["k"]


def _cold_share(op: Op, on_chip: float) -> tuple[Dim, Dim, Dim]:
    """Bytes of each operand that pass main memory, by those of its matrix.

    The implicit matrix of a convolution repeats input pixels; a bias comes with the weights, beyond their matrix.
    """
    groups, m, n, k = gemm_shape(op)
    sizes = (groups * m * k, groups * n * k, groups * m * n)
    a, b, out = (
        passing_bytes(op, operand, on_chip) / (size * (dtypes.bits(operand.fmt) / 8))
        for operand, size in zip(op.operands, sizes, strict=True)
    )
    return a, b, out


def gemm_columns(op: Op, chip: Chip, work: Work) -> list[Dim]:
    """groups, m, n, k, cold shares of a, b and out, vector seconds: what one search depends on."""
    groups, m, n, k = gemm_shape(op)
    return [groups, m, n, k, *_cold_share(op, chip.sram_bytes), work.seconds.get("vector", 0.0)]


def op_gemm(op: Op, chip: Chip, columns: list[float], mapping: GemmMapping | None = None) -> GemmTime:
    """A matrix operator under ``mapping``, else under the best one, for one set of ``gemm_columns``."""
    groups, m, n, k, *cold, vector_s = columns
    a, b, out = (dtypes.bits(operand.fmt) / 8 for operand in op.operands)
    menu, keep = None, None
    if mapping is not None:
        edges = (min(mapping.tm, math.ceil(m)), min(mapping.tn, math.ceil(n)), min(mapping.tk, math.ceil(k)))
        menu, keep = ([edges[0]], [edges[1]], [edges[2]], [mapping.split]), mapping.keep
    shape = (groups, m, n, k, (a, b, out), (cold[0], cold[1], cold[2]), vector_s)
    return gemm_time(chip, op.matrix_format, *shape, menu, keep)


def chosen(op: Op, chip: Chip, work: Work, mapping: GemmMapping | None = None) -> GemmTime | None:
    """What the search chose for a matrix operator with scalar dimensions; None for other kinds."""
    if op.kind not in MATRIX_KINDS:
        return None
    return op_gemm(op, chip, [float(column) for column in gemm_columns(op, chip, work)], mapping)


def _matrix(op: Op, chip: Chip, work: Work, mapping: GemmMapping | None) -> Priced:
    columns = np.broadcast_arrays(*(np.asarray(column, float) for column in gemm_columns(op, chip, work)))
    unique, inverse = np.unique(np.stack([c.ravel() for c in columns], axis=1), axis=0, return_inverse=True)
    found = np.empty((len(unique), 6))
    for index, row in enumerate(unique):
        best = op_gemm(op, chip, row.tolist(), mapping)
        found[index] = (best.time_s, *best.seconds.values(), best.dram_bytes)
    shape = columns[0].shape
    time_s, matrix, port, shared, dram, moved = (_plain(found[inverse.ravel(), i].reshape(shape)) for i in range(6))
    return Priced(time_s, {"matrix": matrix, "dram": dram, "port": port, "shared": shared}, moved)


def _plain(value: np.ndarray) -> Dim:
    return float(value) if value.ndim == 0 else value


# Blocks of the attention loop: rows of queries × keys.
_BLOCKS = [(rows, keys) for rows in (16, 32, 64, 128, 256, 512) for keys in (32, 64, 128, 256, 512)]
_ATTENTION_RESOURCES = ("matrix", "vector", "port", "shared", "dram")


def _attention(op: Op, chip: Chip, work: Work) -> Priced:
    """The fastest block sizes of a fused attention loop, elementwise."""
    table = _block_table(op, chip, work)
    fastest = np.argmin(table[:, 0], axis=0)  # ties: the first of the menu
    best = np.take_along_axis(table, fastest[None, None], axis=0)[0]
    time_s, moved, *busy = (_plain(part) for part in best)
    return Priced(time_s, dict(zip(_ATTENTION_RESOURCES, busy, strict=True)), moved)


def fitting_blocks(op: Op, chip: Chip, query_rows: float = math.inf) -> list[tuple[int, int]]:
    """Blocks of the menu that fit a core, up to those that hold ``query_rows``. Raises InputError for none."""
    figures = machine(chip)
    # One block that holds every row is as good as any larger one.
    enough = min((rows for rows, _ in _BLOCKS if rows >= query_rows), default=_BLOCKS[-1][0])
    blocks = [block for block in _BLOCKS if block[0] <= enough and _block_fits(op, chip, figures, *block)]
    if not blocks:
        raise InputError(Problem(f"no attention block fits a core's memory of '{chip.name}'", "levels"))
    return blocks


def _query_rows(op: Op) -> float:
    d = op.dims
    return float(np.max(d["heads"] / d["kv_heads"] * d["seq_q"]))


def _block_table(op: Op, chip: Chip, work: Work) -> np.ndarray:
    """``_blocked`` of every block that fits: blocks × figures × shape of the dimensions."""
    figures = machine(chip)
    unit = c_chip(engine(chip, op.matrix_format), figures)
    dims = [*op.dims.values(), *work.seconds.values(), work.dram_bytes]
    shape = np.broadcast_shapes(*(np.shape(size) for size in dims))
    # Blocks are one more dimension before the others.
    blocks = np.array(fitting_blocks(op, chip, _query_rows(op)), float).T.reshape(2, -1, *([1] * len(shape)))
    key_dim, value_dim = (float(np.max(op.dims[name])) for name in ("head_dim", "v_head_dim"))
    cycles = [
        _sim.lib.nps_tile_cycles(unit, rows, keys, key_dim) + _sim.lib.nps_tile_cycles(unit, rows, value_dim, keys)
        for rows, keys in blocks.reshape(2, -1).T.tolist()
    ]
    rate = cache_bytes_per_s(op, chip)
    parts = _blocked(op, chip, figures, rate, work, np.array(cycles).reshape(blocks[0].shape), *blocks)
    whole = (blocks.shape[1], *shape)
    return np.stack([np.broadcast_to(part, whole) for part in parts], axis=1)


def attention_block(op: Op, chip: Chip, work: Work) -> tuple[int, int]:
    """Query rows and keys of the fastest block, for scalar dimensions."""
    return fitting_blocks(op, chip, _query_rows(op))[int(np.argmin(_block_table(op, chip, work)[:, 0]))]


def _block_fits(op: Op, chip: Chip, figures: Machine, rows: int, keys: int) -> bool:
    """Queries, accumulator and scores in fp32, buffered keys and values in the cache's format."""
    key_dim, value_dim = (float(np.max(op.dims[name])) for name in ("head_dim", "v_head_dim"))
    width = float(np.max(read_width(op.dims)))
    # The engine makes the next block's scores while the vector unit works on this one's.
    assert chip.core.vector is not None
    scores = 2 * keys if chip.core.vector.hides_softmax else keys
    stationary = 4 * rows * (key_dim + value_dim + scores)
    return stationary + figures.buffers * keys * width * _cache_bytes(op) <= figures.core_bytes


def _cache_bytes(op: Op) -> float:
    return dtypes.bits(op.formats["kv"]) / 8


def _blocked(
    op: Op, chip: Chip, figures: Machine, rate: Dim, work: Work, cycles: np.ndarray, rows: np.ndarray, keys: np.ndarray
) -> tuple[Dim, ...]:
    """(time, main-memory bytes, busy seconds of ``_ATTENTION_RESOURCES``) with blocks of rows × keys.

    ``cycles`` are the engine's for both products of one step.

    Query heads that share a KV head are rows of one matrix. A core takes a block of rows through its keys;
    when there are fewer blocks than cores, several cores share the keys of a block and merge once.
    """
    assert chip.cores is not None and chip.clock_hz is not None and chip.core.vector is not None
    d = op.dims
    value_dim, token_bytes = float(np.max(d["v_head_dim"])), read_width(d) * _cache_bytes(op)
    packed = d["heads"] / d["kv_heads"]
    blocks = np.ceil(packed * d["seq_q"] / rows)
    groups = d["batch"] * d["kv_heads"]
    items = groups * blocks
    steps = np.ceil(_reach(op, rows / packed, items <= chip.cores) / keys)
    split = np.clip(np.floor(chip.cores / items), 1, steps)
    rounds = np.ceil(items * split / chip.cores) * np.ceil(steps / split)

    matrix_s, vector_s = rounds * cycles / chip.clock_hz, rounds * softmax_s(chip, rows * keys)
    busy = np.maximum(matrix_s, vector_s) if chip.core.vector.hides_softmax else matrix_s + vector_s

    step_bytes = keys * token_bytes
    # One pass of a group's keys through the shared memory serves the blocks in flight; the next finds what it holds.
    passes = np.ceil(blocks / readers(chip))
    again = np.maximum(_average_reach(op) * token_bytes - figures.shared_bytes, 0.0)
    moved = work.dram_bytes + groups * (passes - 1) * again
    loaded = items * split * np.ceil(steps / split) * step_bytes
    port_s, dram_s = rounds * step_bytes / figures.core_bytes_per_s, moved / rate
    shared_s = np.maximum(loaded, op.bytes()) / figures.shared_bytes_per_s
    active = np.minimum(items * split, chip.cores)
    wait = figures.transfer_s + figures.latency_s
    first = wait + step_bytes * active / rate
    # A buffer is asked for, filled and used before it is asked for again.
    filling = np.maximum(port_s, dram_s)
    turns = (rounds * wait + filling + matrix_s + vector_s) / figures.buffers
    busy = np.maximum(busy, np.where(rounds > 1, turns, 0.0))
    last = cycles / chip.clock_hz + figures.transfer_s
    merge = figures.transfer_s + split * rows * value_dim * 4 / figures.core_bytes_per_s
    rest = slowest((port_s, shared_s, dram_s, work.seconds.get("vector", 0.0)))
    time_s = np.maximum(first + busy, figures.transfer_s + rest + last) + np.where(split > 1, merge, 0.0)
    return time_s, moved, matrix_s, vector_s, port_s, shared_s, dram_s


def readers(chip: Chip) -> int:
    """Cores that one pass over a cache serves: all behind a shared memory; without one each reads for itself."""
    assert chip.cores is not None
    return chip.cores if machine(chip).shared_level else 1


def cache_bytes_per_s(op: Op, chip: Chip) -> Dim:
    """Rate at which the KV cache is read: pages lie anywhere, a cache in one piece is a stream."""
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    page = op.dims["page"]
    paged = np.asarray(page) < NO_WINDOW
    if not paged.any():
        return machine(chip).dram_bytes_per_s
    run = np.minimum(page * op.dims["kv_width"] * _cache_bytes(op), float(1 << 20))
    return chip.memory.bandwidth_bytes_per_s * dram_share(chip, run, True, 0.0)


def _average_reach(op: Op) -> Dim:
    """Keys a query sees, on average."""
    d = op.dims
    return visible_pairs(d["seq_q"], d["past"] + d["seq_q"], d["window"], bool(np.all(d["causal"]))) / d["seq_q"]


def _reach(op: Op, positions: Dim, lone: Dim) -> Dim:
    """Keys a block of ``positions`` query positions visits: the average, or the most where every core has one block."""
    d = op.dims
    total = d["past"] + d["seq_q"]
    causal, average = bool(np.all(d["causal"])), _average_reach(op)
    block = np.minimum(positions, d["seq_q"])
    most = np.minimum(total, d["window"] + block) if causal else total
    # Inside a block the last row sees up to block/2 keys more than the average one.
    return np.where(lone, most, np.minimum(average + block / 2, most))


def softmax_s(chip: Chip, scores: Dim) -> Dim:
    """Vector seconds of one core for the online softmax of ``scores``: 3 adds and 1 exponential each."""
    assert chip.cores is not None
    total: Dim = 0.0
    for function, count in (("add", 3), ("exp", 1)):
        rate = chip.vector_ops_per_s(function)
        total += count * scores * chip.cores / rate if rate else 0.0
    return total
