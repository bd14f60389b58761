"""From an operator and its mapping to a program of tasks (``npusim.cost.program``).

A core has four queues: loads, stores, the matrix engine and the vector unit (the engine's own queue when the two do
not overlap). Tiles are dealt to cores in contiguous runs as the tile model deals them (``csrc/sim/tile.c``), a step's
operands are loaded when the buffer of an earlier step is free, and data that several cores need passes main memory
as often as that model says. Edge tiles have their real size here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from npusim import _sim, dtypes
from npusim.chip import Chip
from npusim.cost import tile
from npusim.cost.program import CODES, MAX_TASKS, Builder, Ints, Program, Queue, check_tasks
from npusim.cost.roofline import Work, passing_bytes
from npusim.mapping import GemmMapping
from npusim.ops import Operand
from npusim.workload import Op

ACCUMULATOR_BYTES = 4
# Tensors start at multiples of this in main memory.
ALIGNMENT = 1 << 20
# Element-wise passes are cut into at least this many pieces a core, so that loads, compute and stores overlap.
PIECES, LEAST_PIECE_BYTES = 8, 4096


@dataclass(frozen=True, slots=True)
class _Cores:
    """Numbers of the queues: arrays by core."""

    count: int
    load: Ints
    store: Ints
    matrix: Ints
    vector: Ints


def lower(op: Op, chip: Chip, work: Work, mapping: GemmMapping | None = None, most_tasks: float = MAX_TASKS) -> Program:
    """The program of one run of ``op`` (scalar dimensions) under ``mapping``, else the one the tile search chooses.

    Raises:
        InputError: the operator does not fit the chip's memories, or needs more than ``most_tasks`` tasks.
    """
    if op.kind in tile.MATRIX_KINDS:
        return _gemm(op, chip, work, mapping, most_tasks)
    if op.kind == "attention":
        from npusim.cost.lowering_attention import attention

        return attention(op, chip, work, most_tasks)
    if op.kind == "collective":
        return _collective(op, chip, work)
    return _stream(op, chip, work)


def start(chip: Chip) -> tuple[Builder, _Cores]:
    """A builder with the queues of the chip's cores, and their numbers."""
    figures = tile.machine(chip)
    assert chip.cores is not None
    separate = chip.core.vector is not None and chip.core.vector.overlaps_matrix
    names = ("load", "store", "matrix", "vector") if separate else ("load", "store", "matrix")
    queues = [
        Queue(name, core, core if name in ("load", "store") else -1) for core in range(chip.cores) for name in names
    ]
    numbers = np.arange(len(queues)).reshape(chip.cores, len(names)).T
    cores = _Cores(chip.cores, numbers[0], numbers[1], numbers[2], numbers[-1])
    rates = np.full(chip.cores, figures.core_bytes_per_s)
    builder = Builder(tuple(queues), rates, figures.shared_bytes_per_s, figures.core_bytes)
    return builder, cores


class Space:
    """Addresses in main memory: tensors one after the other."""

    def __init__(self) -> None:
        self._next = 0

    def tensor(self, size_bytes: float) -> int:
        """Address of a new tensor."""
        address, self._next = self._next, self._next + int(-(-size_bytes // ALIGNMENT) + 1) * ALIGNMENT
        return address


# -- matrix products ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Output tiles in the order in which they are dealt: coordinates, sizes, cores."""

    group: Ints
    part: Ints  # of the reduction
    row: Ints
    col: Ints
    m: Ints
    n: Ints
    core: Ints
    turn: Ints  # position in the run of its core
    panel: Ints  # how many panels its core has begun before
    place: Ints  # position in its core's run of this panel


def _tiles(groups: int, m: int, n: int, found: tile.GemmTime, cores: int) -> _Tiles:
    t = found.mapping
    rows, cols = -(-m // t.tm), -(-n // t.tn)
    inner = rows if t.keep == "b" else cols
    number = np.arange(groups * t.split * rows * cols)
    along, across = number % inner, number // inner
    outer = cols if t.keep == "b" else rows
    row, col = (along, across % outer) if t.keep == "b" else (across % outer, along)
    waves = -(-number.size // cores)
    core, turn = number // waves, number % waves
    first = core * waves // inner  # panel of the core's first tile
    panel = across - first
    place = np.where(panel > 0, along, turn)
    return _Tiles(
        across // outer // t.split, across // outer % t.split, row, col, np.minimum(t.tm, m - row * t.tm),
        np.minimum(t.tn, n - col * t.tn), core, turn, panel, place,
    )  # fmt: skip


def _gemm(op: Op, chip: Chip, work: Work, mapping: GemmMapping | None, most_tasks: float) -> Program:
    found = tile.chosen(op, chip, work, mapping)
    assert found is not None
    return _Gemm(op, chip, work, found, most_tasks).program()


class _Gemm:
    """Lowers one GEMM under one mapping."""

    def __init__(self, op: Op, chip: Chip, work: Work, found: tile.GemmTime, most_tasks: float = MAX_TASKS) -> None:
        groups, m, n, k, *cold, vector_s = (float(c) for c in tile.gemm_columns(op, chip, work))
        self.groups, self.m, self.n, self.k = (int(np.ceil(size)) for size in (groups, m, n, k))
        self.cold, self.vector_s, self.map = cold, vector_s, found.mapping
        self.a_bytes, self.b_bytes, self.out_bytes = (dtypes.bits(operand.fmt) / 8 for operand in op.operands)
        self.figures = tile.machine(chip)
        self.unit = tile.c_chip(tile.engine(chip, op.matrix_format), self.figures)
        self.clock_hz = float(self.unit.clock_hz)
        self.build, self.cores = start(chip)
        self.depth = -(-self.k // self.map.split)
        self.steps = -(-self.depth // self.map.tk)
        tiles = self.groups * self.map.split * -(-self.m // self.map.tm) * -(-self.n // self.map.tn)
        check_tasks(3 * tiles * self.steps, most_tasks)
        self.t = _tiles(self.groups, self.m, self.n, found, self.cores.count)
        step = np.arange(self.steps)
        part_k = np.clip(self.k - self.t.part * self.depth, 0, self.depth)
        # Elements of the reduction in each step of each tile: tiles × steps.
        self.ks = np.clip(part_k[:, None] - step * self.map.tk, 0, self.map.tk)
        self.space = Space()

    def program(self) -> Program:
        """Loads and matrix steps, then what happens to finished tiles."""
        t = self.t
        compute_s = self._compute_s()
        a_block, b_block = self._a_blocks(), self._b_blocks()
        first_a = (self.map.keep != "a") | (t.place == 0)
        first_b = (self.map.keep != "b") | (t.place == 0)
        some = self.ks > 0
        a_bytes = t.m[:, None] * self.ks * self.a_bytes * first_a[:, None]
        b_bytes = t.n[:, None] * self.ks * self.b_bytes * first_b[:, None]
        setup = self.figures.transfer_s
        # One row per step: load a, load b, matrix step; queues run their tasks in this order.
        work = np.array([CODES["load a"], CODES["load b"], CODES["matmul"]])
        queue = np.stack([self.cores.load[t.core], self.cores.load[t.core], self.cores.matrix[t.core]], axis=-1)
        delay = np.stack([np.where(a_bytes > 0, setup, 0.0), np.where(b_bytes > 0, setup, 0.0), compute_s], axis=-1)
        size = np.stack([a_bytes, b_bytes, np.zeros_like(a_bytes)], axis=-1)
        block = np.stack([np.where(a_bytes > 0, a_block, -1), np.where(b_bytes > 0, b_block, -1),
                          np.full_like(a_block, -1)], axis=-1)  # fmt: skip

        def row(of_steps: np.ndarray, of_vector: np.ndarray | float) -> np.ndarray:
            """A tile's row of tasks: its steps, then its vector work, which may share the engine's queue."""
            flat = np.broadcast_to(of_steps, size.shape).reshape(len(t.core), -1)
            return np.column_stack([flat, np.broadcast_to(of_vector, len(t.core))])

        share = t.m * t.n / (self.groups * self.m * self.n * self.map.split)
        vector_s = self.vector_s * self.cores.count * share
        tasks = self.build.tasks(row(work, CODES["vector"]), row(queue[:, None, :], self.cores.vector[t.core]),
                                 row(delay, vector_s), row(size, 0.0), row(block, -1))  # fmt: skip
        load_a, load_b, mac = np.moveaxis(tasks[:, :-1].reshape(size.shape), -1, 0)
        self._order(load_a, load_b, mac, some)
        self._hold(load_a, load_b, mac, a_bytes, b_bytes)
        self._finish(mac, tasks[:, -1])
        return self.build.program()

    def _compute_s(self) -> np.ndarray:
        """Seconds of every step; edge tiles make for few different sizes."""
        sizes = np.stack(np.broadcast_arrays(self.t.m[:, None], self.t.n[:, None], self.ks), axis=-1).reshape(-1, 3)
        unique, inverse = np.unique(sizes, axis=0, return_inverse=True)
        cycles = [_sim.lib.nps_tile_cycles(self.unit, *row) if row[2] else 0.0 for row in unique.tolist()]
        return (np.array(cycles)[inverse.ravel()] / self.clock_hz).reshape(self.ks.shape)

    def _a_blocks(self) -> np.ndarray:
        """Blocks of a that pass main memory: row-major, so a tile is a run per row."""
        t, c = self.t, self.cold[0]
        rows = int(t.row.max()) + 1
        run = min(int(t.turn.max()) + 1, rows if self.map.keep == "b" else int(t.col.max()) + 1)
        a_once = self.groups * self.m * self.k * self.a_bytes
        if self.map.keep == "b":
            again = t.panel if a_once > self.figures.shared_bytes else np.zeros_like(t.panel)
        else:
            active = min(len(t.core), self.cores.count)
            live = active * self.map.tm * self.depth * self.a_bytes
            held = self.map.keep == "a" or live <= self.figures.shared_bytes or run == 1
            again = np.zeros_like(t.place) if held else t.place
        origin = self.space.tensor(a_once)
        at = (
            origin
            + ((t.group * self.m + t.row * self.map.tm) * self.k * self.a_bytes)[:, None]
            + self._k0() * self.a_bytes
        )
        size = t.m[:, None] * self.ks * self.a_bytes * c
        return self._shared((t.group, t.part, t.row, again), size, at, self.ks * self.a_bytes, self.k * self.a_bytes)

    def _b_blocks(self) -> np.ndarray:
        """Blocks of b: weights lie tile by tile, in one run each."""
        t, c = self.t, self.cold[1]
        b_once = self.groups * self.k * self.n * self.b_bytes
        again = t.panel if self.map.keep != "b" and b_once > self.figures.shared_bytes else np.zeros_like(t.panel)
        origin = self.space.tensor(b_once)
        before = t.group * self.k * self.n + t.col * self.map.tn * self.k
        at = origin + (before[:, None] + self._k0() * t.n[:, None]) * self.b_bytes
        size = t.n[:, None] * self.ks * self.b_bytes * c
        return self._shared((t.group, t.part, t.col, again), size, at, size, size)

    def _k0(self) -> np.ndarray:
        """First element of the reduction of every step."""
        return np.asarray(self.t.part[:, None] * self.depth + np.arange(self.steps) * self.map.tk)

    def _shared(
        self, key: tuple[Ints, ...], size: np.ndarray, at: np.ndarray, run: np.ndarray, stride: ArrayLike
    ) -> np.ndarray:
        """One block per step for all tiles of equal key; tiles × steps block numbers."""
        packed = np.zeros_like(key[0])
        for column in key:
            packed = packed * (int(column.max()) + 1) + column
        _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
        steps = np.broadcast_to(np.asarray(stride, dtype=float), size.shape)
        numbers = self.build.blocks(size[first], at[first], np.ceil(run[first]), np.ceil(steps[first]))
        return np.asarray(numbers[inverse.ravel()])

    def _order(self, load_a: Ints, load_b: Ints, mac: Ints, some: np.ndarray) -> None:
        """A step needs its operands; a load needs the buffer that an earlier step frees."""
        t, build, keep = self.t, self.build, self.map.keep
        build.after(mac, load_a, some)
        build.after(mac, load_b, some)
        depth = self.figures.buffers
        for name, load in (("a", load_a), ("b", load_b)):
            if name == keep:  # its panel is loaded once, each step's share when the last tile before is done with it
                source = np.arange(len(t.core)) - t.place
                build.after(mac, load[source], some & (t.place > 0)[:, None])
                build.after(load[1:], mac[:-1], ((t.place == 0) & (t.turn > 0))[1:, None])
                continue
            flat, steps = load.ravel(), mac.ravel()
            turn = (t.turn[:, None] * self.steps + np.arange(self.steps)).ravel()
            build.after(flat[depth:], steps[:-depth], turn[depth:] >= depth)

    def _hold(self, load_a: Ints, load_b: Ints, mac: Ints, a_bytes: np.ndarray, b_bytes: np.ndarray) -> None:
        """Operands from their load to their last use, accumulators from the first step to the last."""
        t, build = self.t, self.build
        core = np.broadcast_to(t.core[:, None], mac.shape)
        # Where a panel is kept, the last tile that uses it frees it.
        ends = np.append(np.flatnonzero(t.place[1:] == 0), len(t.place) - 1)
        last = ends[np.searchsorted(ends, np.arange(len(t.place)))]
        for name, load, size in (("a", load_a, a_bytes), ("b", load_b, b_bytes)):
            build.hold(core, load, mac[last] if self.map.keep == name else mac, size)
        build.hold(t.core, mac[:, 0], mac[:, -1], t.m * t.n * ACCUMULATOR_BYTES)

    def _finish(self, mac: Ints, vector: Ints) -> None:
        """Vector work, store of the tile, and the sum of a split reduction."""
        t, build, cores, setup = self.t, self.build, self.cores, self.figures.transfer_s
        split = self.map.split > 1
        last = mac[:, -1]
        build.after(vector, last)
        out_bytes = t.m * t.n * (ACCUMULATOR_BYTES if split else self.out_bytes)
        name = "store partial" if split else "store"
        origin = self.space.tensor(self.groups * self.m * self.n * self.out_bytes)
        at = origin + ((t.group * self.m + t.row * self.map.tm) * self.n + t.col * self.map.tn) * self.out_bytes
        cold = t.m * t.n * self.out_bytes * self.cold[2]
        run, stride = np.ceil(t.n * self.out_bytes), np.ceil(self.n * self.out_bytes)
        block: Ints = np.full(len(t.core), -1) if split else build.blocks(cold, at, run, stride, write=True)
        store = build.tasks(CODES[name], cores.store[t.core], setup, out_bytes, block)
        build.after(store, vector)
        build.hold(t.core, last, store, t.m * t.n * self.out_bytes)
        # The staged result leaves before the next tile's is staged.
        build.after(last[1:], store[:-1], t.turn[1:] > 0)
        if split:
            self._merge(store, cold, at, run, stride)

    def _merge(self, store: Ints, cold: np.ndarray, at: np.ndarray, run: np.ndarray, stride: float) -> None:
        """The core that made a tile's first part adds the others to it and stores the sum."""
        t, build, setup = self.t, self.build, self.figures.transfer_s
        spread = store.reshape(self.groups, self.map.split, -1)
        first = np.arange(len(t.core)).reshape(spread.shape)[:, 0].ravel()
        parts = self.map.split * (t.m * t.n)[first] * ACCUMULATOR_BYTES
        core = t.core[first]
        load = build.tasks(CODES["load partials"], self.cores.load[core], setup, parts)
        build.after(load.reshape(self.groups, 1, -1), spread)
        block = build.blocks(cold[first], at[first], run[first], stride, write=True)
        final = build.tasks(CODES["store"], self.cores.store[core], setup, (t.m * t.n)[first] * self.out_bytes, block)
        build.after(final, load)


# -- element-wise passes and collectives --------------------------------------------------------------------------


def cold_bytes(op: Op, operand: Operand, chip: Chip) -> float:
    """Bytes of an operand that pass main memory; a collective's stay where they are."""
    return 0.0 if op.kind == "collective" else float(passing_bytes(op, operand, chip.sram_bytes))


def _stream(op: Op, chip: Chip, work: Work) -> Program:
    """Reads pieces, works on them in the vector unit, writes them."""
    build, cores = start(chip)
    figures, space = tile.machine(chip), Space()
    per_core = float(op.bytes()) / cores.count
    fit = figures.core_bytes / (figures.buffers + 1)
    pieces = int(max(np.ceil(per_core / fit), min(PIECES, np.ceil(per_core / LEAST_PIECE_BYTES)), 1))
    count = cores.count * pieces
    core = np.repeat(np.arange(cores.count), pieces)
    reads = [operand for operand in op.operands if not operand.write and operand.bytes > 0]
    writes = [operand for operand in op.operands if operand.write and operand.bytes > 0]

    def sides(operands: list[Operand], write: bool) -> tuple[float, Ints]:
        cold = sum(cold_bytes(op, operand, chip) for operand in operands)
        at = space.tensor(cold) + np.arange(count) * (cold / count)
        size = np.full(count, cold / count)
        return sum(float(x.bytes) for x in operands) / count, build.blocks(size, at, size, size, write=write)

    (in_bytes, in_block), (out_bytes, out_block) = sides(reads, False), sides(writes, True)
    setup = figures.transfer_s
    vector_s = float(work.seconds.get("vector", 0.0)) / pieces
    work_codes = np.array([CODES["read"], CODES["vector"], CODES["store"]])
    queue = np.stack([cores.load[core], cores.vector[core], cores.store[core]], axis=-1)
    delay = np.array([setup if reads else 0.0, vector_s, setup if writes else 0.0])
    block = np.stack([in_block, np.full(count, -1), out_block], axis=-1)
    tasks = build.tasks(work_codes, queue, delay, np.array([in_bytes, 0.0, out_bytes]), block)
    read, vector, write = tasks.T
    build.after(vector, read)
    build.after(write, vector)
    # A piece's buffer holds its input and its output until it is stored.
    turn, depth = np.tile(np.arange(pieces), cores.count), figures.buffers
    build.after(read[depth:], write[:-depth], turn[depth:] >= depth)
    build.hold(core, read, write, max(in_bytes, out_bytes))
    return build.program()


def _collective(op: Op, chip: Chip, work: Work) -> Program:
    """One task on the links: bytes at their rate and the latency of every hop."""
    priced = tile.price(op, chip, work)
    figures = tile.machine(chip)
    build = Builder((Queue("link", -1, -1),), np.zeros(0), figures.shared_bytes_per_s, figures.core_bytes)
    build.tasks(CODES["transfer"], 0, float(priced.time_s) - (chip.overheads.launch_s or 0.0))
    return build.program()
