"""Replay of a mapping given by hand on a weight-stationary array with a DMA, tile by tile, in closed form.

The machine is Gemmini's (Genc et al., DAC 2021; its loop state machines ``LoopConv`` and ``LoopMatmul``). The
host issues one instruction a tile; the state machine unrolls it into loads, computes and stores on three
queues. Two tiles are in flight: while one computes, the next loads, but only after the tile before has been
stored and retired. In steady state a tile takes

    period = max(execute, store + load, host)

and the whole nest (tiles − 1) · period + load + execute + store + host of one tile.

* *execute*: every weight block (one array full) is preloaded once and passed over by all output pixels of the
  tile, in computes of at most ``rows`` pixels of one image row; 1 pixel a cycle, a preload costs the array at
  least ``rows`` cycles, and a preload-compute pair leaves the queue only every ``issue_cycles``.
* *load*: every row of a tile (one input pixel, or one weight row) is a request of whole bus beats; the bus
  sustains a beat every ``beat_cycles`` from the L2 cache. Lines that miss it come at ``llc_line_cycles`` or,
  from DRAM, ``dram_line_cycles``. Tiles are loaded again at every tile loop, as the state machine does.
* *store*: a beat for each accumulator row; a line that misses is fetched and later written back: two lines.
* *caches*: the lines of a level's re-use, from the innermost loop outwards, hit with the probability of
  random replacement (see ``hit_rate``); rows strided by a power of two only use some of the sets. Operands
  were touched by an earlier run: what fits a cache is warm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from npusim import dtypes
from npusim.calibration import find
from npusim.chip import Chip
from npusim.cost.loop_nest import RELEVANT, Extents, LoopNest, check, extents_of, parse_mapping
from npusim.errors import InputError, Problem, Unavailable
from npusim.workload import Op

OPERANDS = ("w", "x", "out")


@dataclass(frozen=True, slots=True)
class GemminiCosts:
    """What no data sheet states: constants fitted to cycle-exact RTL runs, and the memory behind the chip.

    They are measurements of one RTL and SoC, so they are no part of the chip file, which holds what its sources
    state, but of the calibration document ``gemmini--firesim--replay--int8``; docs/gemmini.md has the errors.

    Args:
        issue_cycles: between two preload-compute pairs of the execute queue.
        beat_cycles: per bus beat of a load that hits the L2 cache, and per stored accumulator row.
        llc_line_cycles: per cache line that misses the L2 cache.
        dram_line_cycles: per cache line that misses the last-level cache too.
        conv_tile_cycles: host cycles to issue the loop instructions of one convolution tile.
        gemm_tile_cycles: the same for a GEMM, which has fewer arguments.
        cache_ways: associativity of the L2 cache.
        llc_bytes: last-level cache in front of the DRAM model.
    """

    issue_cycles: float
    beat_cycles: float
    llc_line_cycles: float
    dram_line_cycles: float
    conv_tile_cycles: float
    gemm_tile_cycles: float
    cache_ways: int
    llc_bytes: int


def gemmini_costs() -> GemminiCosts:
    """The constants of the catalog's calibration document."""
    document = find("gemmini", "FireSim", "replay", "int8")
    assert document is not None, "the catalog holds it"
    values = document.values()
    whole = {name: int(values.pop(name)) for name in ("cache_ways", "llc_bytes")}
    return GemminiCosts(**values, **whole)


@dataclass(frozen=True, slots=True)
class Machine:
    """The figures of the chip a replay needs, in bytes and cycles."""

    rows: int
    cols: int
    bus_bytes: float
    line_bytes: int
    cache_bytes: float
    clock_hz: float


@dataclass(frozen=True, slots=True)
class Replay:
    """One mapping on one chip.

    Args:
        nest: the mapping.
        cycles: from the first load to the last store.
        time_s: cycles at the chip's clock.
        tiles: tiles run.
        busy_cycles: of ``load``, ``execute``, ``store`` and ``host``, each of the whole nest.
        bytes: ``loaded`` into the scratchpad, ``stored`` from the accumulator, and through ``llc`` and ``dram``.
        tile_changes: how often the tile of each operand differs from the one before.
        bound: the longest part of a steady tile: ``execute``, ``dma`` or ``host``.
        notes: what the mapping asks beyond the chip's memories.
    """

    nest: LoopNest
    cycles: float
    time_s: float
    tiles: int
    busy_cycles: Mapping[str, float]
    bytes: Mapping[str, float]
    tile_changes: Mapping[str, int]
    bound: str
    notes: tuple[str, ...]


def replay(op: Op, mapping: str | LoopNest, chip: Chip, costs: GemminiCosts | None = None) -> Replay:
    """Prices ``op`` under a mapping given by hand.

    Args:
        op: a GEMM or a convolution.
        mapping: text (see ``npusim.cost.loop_nest``) or a parsed nest.
        chip: a chip with one weight-stationary array, a DMA bus and a cache.
        costs: constants of the microarchitecture; Gemmini's when None.

    Raises:
        InputError: the mapping is malformed, does not cover the operator, or asks for a larger array.
        Unavailable: the chip lacks a figure.
    """
    nest = parse_mapping(mapping) if isinstance(mapping, str) else mapping
    extents, machine = extents_of(op), machine_of(chip)
    check(nest, extents)
    chip.peak_flops_per_s(op.matrix_format)
    for dim, limit, side in (("C", machine.rows, "rows"), ("K", machine.cols, "columns")):
        if nest.spatial(dim) > limit:
            raise InputError(Problem(f"{dim}{nest.spatial(dim)}X on {limit} {side}", "mapping", allowed=f"≤ {limit}"))
    return _Run(op, nest, extents, machine, costs or gemmini_costs()).result(chip)


def machine_of(chip: Chip) -> Machine:
    """The figures a replay needs. Raises Unavailable, naming each that is missing."""
    matrix = chip.core.matrix if chip.core else None
    caches = [level for level in chip.levels.values() if level.managed == "cache" and level.scope == "chip"]
    bus = None if chip.dma is None else chip.dma.bytes_per_cycle
    line = None if chip.dma is None else chip.dma.alignment_bytes
    missing = [
        name
        for name, present in (
            ("one weight-stationary systolic array", _one_array(chip)),
            ("dma.bytes_per_cycle", bus),
            ("dma.alignment", line),
            ("a cache of scope chip", caches),
            ("clock", chip.clock_hz),
        )
        if not present
    ]
    if missing:
        raise Unavailable(Problem(f"{chip.name} cannot replay a mapping: it lacks {', '.join(missing)}", "mapping"))
    assert matrix and matrix.rows and matrix.cols and bus and line and chip.clock_hz
    return Machine(matrix.rows, matrix.cols, bus, int(line), caches[0].capacity_bytes, chip.clock_hz)


def _one_array(chip: Chip) -> bool:
    matrix = chip.core.matrix if chip.core else None
    if matrix is None or matrix.engine != "systolic":
        return False
    return matrix.dataflow == "ws" and matrix.arrays == 1 and chip.cores == 1


def ceil_div(x: int, y: int) -> int:
    """⌈x / y⌉ of integers."""
    return -(-x // y)


@dataclass(frozen=True, slots=True)
class Rows:
    """How a box of an operand lies in memory: ``count`` runs of ``size`` bytes, ``stride`` bytes apart."""

    count: int
    size: int
    stride: int

    def lines(self, line: int) -> int:
        """Cache lines the runs touch."""
        if self.stride and self.stride < line:
            return ceil_div(self.count * self.stride, line)
        return self.count * ceil_div(self.size, line)

    def sets(self, line: int, sets: int) -> int:
        """Cache sets the runs can use: a stride of 2^k lines skips all but one set in 2^k."""
        if self.count == 1 or self.stride % line or self.stride // line <= ceil_div(self.size, line):
            return sets
        return min(sets, sets // math.gcd(self.stride // line, sets) * ceil_div(self.size, line))


@lru_cache(maxsize=65536)
def hit_rate(pressure: float) -> float:
    """Share of hits when ``pressure`` times the capacity is used in turn, over and over.

    Of F lines in turn, F (1 − h) miss between two uses of one of them; with random replacement among C lines it
    survives each with 1 − 1/C, so h = exp(−(F / C) (1 − h)): 1 up to the capacity, then falling.

    >>> hit_rate(1.0), round(hit_rate(2.0), 3)
    (1.0, 0.203)
    """
    if pressure <= 1:
        return 1.0
    hits = 0.0
    for _ in range(200):
        hits = math.exp(-pressure * (1 - hits))
    return hits


class _Run:
    """The working state of one replay: sizes of a tile, and the counts that follow from them."""

    def __init__(self, op: Op, nest: LoopNest, extents: Extents, machine: Machine, costs: GemminiCosts) -> None:
        self.nest, self.extents, self.machine, self.costs = nest, extents, machine, costs
        self.sizes = extents.sizes
        names = ("a", "b", "out")
        self.element = {o: dtypes.bits(op.formats[f]) / 8 for o, f in zip(("x", "w", "out"), names, strict=True)}
        self.tile, self.loops = self._tiles()
        self.tiles = math.prod(count for _, count in self.loops)
        self.stored_tiles = math.prod(count for dim, count in self.loops if dim in RELEVANT["out"])

    def _tiles(self) -> tuple[dict[str, int], list[tuple[str, int]]]:
        """Tile extents and the loops over tiles; the GEMM state machine counts tiles in whole blocks."""
        tile = self.nest.tile
        if not self.extents.gemm:
            return tile, [(loop.dim, loop.count) for loop in self.nest.outer]
        for dim, block in (("P", self.machine.rows), ("C", self.machine.rows), ("K", self.machine.cols)):
            tile[dim] = min(max(tile[dim] // block, 1) * block, self.sizes[dim])
        order = dict.fromkeys([loop.dim for loop in self.nest.outer] + list("PCK"))
        counts = [(dim, ceil_div(self.sizes[dim], tile[dim])) for dim in order]
        return tile, [(dim, count) for dim, count in counts if count > 1]

    # -- one tile ------------------------------------------------------------------------------------------

    def execute(self) -> float:
        """Cycles of the array on one tile."""
        t, rows = self.tile, self.machine.rows
        blocks = ceil_div(t["C"], rows) * ceil_div(t["K"], self.machine.cols) * t["R"] * t["S"]
        computes = t["N"] * t["Q"] * ceil_div(t["P"], rows)
        pixels = t["N"] * t["Q"] * t["P"]
        preload = max(rows - min(t["P"], rows), 0)
        return blocks * max(self.costs.issue_cycles * computes, preload + pixels)

    def input_box(self, box: Mapping[str, int]) -> tuple[int, int]:
        """Input rows and columns under a box of outputs, halo included."""
        s = self.extents.stride
        return (box["Q"] - 1) * s + box["S"], (box["P"] - 1) * s + box["R"]

    def beats(self) -> float:
        """Bus beats of the loads of one tile: each pixel and each weight row starts a request of its own."""
        t, bus = self.tile, self.machine.bus_bytes
        rows, cols = self.input_box(t)
        inputs = t["N"] * rows * cols * math.ceil(t["C"] * self.element["x"] / bus)
        return inputs + t["R"] * t["S"] * t["C"] * math.ceil(t["K"] * self.element["w"] / bus)

    def accumulator_rows(self) -> int:
        """Accumulator rows stored with one output tile."""
        t = self.tile
        return t["N"] * t["P"] * t["Q"] * ceil_div(t["K"], self.machine.cols)

    # -- lines through the caches --------------------------------------------------------------------------

    def rows(self, operand: str, box: Mapping[str, int]) -> Rows:
        """How the box of an operand lies in memory: weights [S][R][C][K], images [N][rows][columns][channels]."""
        size, whole = self.element[operand], self.sizes
        if operand == "w":
            count = box["C"] * box["R"] * box["S"]
            row = math.ceil(box["K"] * size)
            return Rows(1, count * row, 0) if box["K"] >= whole["K"] else Rows(count, row, math.ceil(whole["K"] * size))
        channel = "K" if operand == "out" else "C"
        high, wide = (box["Q"], box["P"]) if operand == "out" else self.input_box(box)
        width = self.input_box(whole)[1] if operand == "x" else whole["P"]
        pixel = math.ceil(whole[channel] * size)
        if box[channel] >= whole[channel]:
            return Rows(box["N"] * high, wide * pixel, pixel * width)
        return Rows(box["N"] * high * wide, math.ceil(box[channel] * size), pixel)

    def lines(self, operand: str, box: Mapping[str, int]) -> int:
        """Cache lines under a box of an operand."""
        return self.rows(operand, box).lines(self.machine.line_bytes)

    def pressure(self, operand: str, box: Mapping[str, int], capacity: float, conflicts: bool) -> float:
        """Lines in use over lines there are; for one operand alone over those of the sets it can reach."""
        line = self.machine.line_bytes
        used = sum(self.lines(o, box) for o in OPERANDS) * line / capacity
        if not conflicts:
            return used
        ways = self.costs.cache_ways
        sets = max(int(capacity / line / ways), 1)
        return max(used, self.lines(operand, box) / (ways * self.rows(operand, box).sets(line, sets)))

    def misses(self, operand: str, capacity: float, conflicts: bool) -> float:
        """Lines of an operand that miss a cache in the whole nest.

        From the innermost tile loop outwards: what one trip used is still there in the next with the hit
        rate of everything the trip touched; otherwise the trips add up. Partial sums stay in the
        accumulator, so loops of a reduction move no outputs.
        """
        box = dict(self.tile)
        missed = float(self.lines(operand, box))
        for dim, count in reversed(self.loops):
            wider = box | {dim: min(box[dim] * count, self.sizes[dim])}
            if operand != "out" or dim in RELEVANT["out"]:
                hits = hit_rate(self.pressure(operand, box, capacity, conflicts))
                growth = min(self.lines(operand, wider) / self.lines(operand, box), count)
                missed *= growth * hits + count * (1 - hits)
            box = wider
        return missed * (1 - hit_rate(self.pressure(operand, box, capacity, False)))  # warm from an earlier run

    # -- the whole -----------------------------------------------------------------------------------------

    def result(self, chip: Chip) -> Replay:
        """All of it, priced."""
        c, tiles = self.costs, self.tiles
        llc = {o: self.misses(o, self.machine.cache_bytes, True) for o in OPERANDS}
        dram = {o: min(self.misses(o, c.llc_bytes, True), llc[o]) for o in OPERANDS}
        line_cycles = {o: llc[o] * c.llc_line_cycles + dram[o] * (c.dram_line_cycles - c.llc_line_cycles) for o in llc}
        stored_rows = self.accumulator_rows() * self.stored_tiles
        busy = {
            "load": max(self.beats() * c.beat_cycles * tiles, line_cycles["w"] + line_cycles["x"]),
            "execute": self.execute() * tiles,
            "store": max(stored_rows * c.beat_cycles, 2 * line_cycles["out"]),
            "host": (c.gemm_tile_cycles if self.extents.gemm else c.conv_tile_cycles) * tiles,
        }
        steady = {"execute": busy["execute"], "dma": busy["load"] + busy["store"], "host": busy["host"]}
        bound = max(steady, key=lambda name: steady[name])
        cycles = steady[bound] * (tiles - 1) / tiles + sum(busy.values()) / tiles
        line = self.machine.line_bytes
        moved = self._moved_bytes() | {
            "llc": (llc["w"] + llc["x"] + 2 * llc["out"]) * line,
            "dram": (dram["w"] + dram["x"] + 2 * dram["out"]) * line,
        }
        changes = {o: self.nest.tile_changes(o) for o in OPERANDS}
        notes = self._notes(chip)
        return Replay(self.nest, cycles, cycles / self.machine.clock_hz, tiles, busy, moved, changes, bound, notes)

    def _input_bytes(self) -> float:
        """Bytes loaded for one tile."""
        t = self.tile
        rows, cols = self.input_box(t)
        weights = t["R"] * t["S"] * t["C"] * t["K"] * self.element["w"]
        return weights + t["N"] * rows * cols * t["C"] * self.element["x"]

    def _outputs(self) -> int:
        """Elements of one output tile."""
        return self.tile["N"] * self.tile["P"] * self.tile["Q"] * self.tile["K"]

    def _moved_bytes(self) -> dict[str, float]:
        stored = self._outputs() * self.element["out"] * self.stored_tiles
        return {"loaded": self._input_bytes() * self.tiles, "stored": stored}

    def _notes(self, chip: Chip) -> tuple[str, ...]:
        """Tiles that do not fit twice: the chip could not overlap them as the replay does."""
        needs = {"scratchpad": self._input_bytes(), "accumulator": 4 * self._outputs()}  # 32-bit partial sums
        return tuple(
            f"a tile needs {need / 1024:.1f} KiB of the {name}, more than half of its "
            f"{chip.levels[name].capacity_bytes / 1024:.0f} KiB: no room for the next tile"
            for name, need in needs.items()
            if name in chip.levels and 2 * need > chip.levels[name].capacity_bytes
        )
