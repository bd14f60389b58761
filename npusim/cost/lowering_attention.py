"""Attention as a program: the fused loop over blocks of keys that the tile model prices (``npusim.cost.tile``).

An item is a block of query rows of one KV head with its share of the visible keys. Its steps load keys and values,
multiply queries with keys, run the softmax in the vector unit and multiply with the values; where vector unit and
engine overlap, the engine makes the next step's scores before it uses this step's.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from npusim import _sim, dtypes
from npusim.chip import Chip
from npusim.cost import tile
from npusim.cost.lowering import ACCUMULATOR_BYTES, Space, cold_bytes, start
from npusim.cost.program import CODES, MAX_TASKS, Floats, Ints, Program, check_tasks
from npusim.cost.roofline import Work
from npusim.ops import read_width
from npusim.workload import Op


@dataclass(frozen=True, slots=True)
class _Items:
    """One entry per item: KV head and sequence (``group``), block of rows, share of the keys, core, first key, keys.

    Items of one group and ``sweep`` read its keys side by side.
    """

    group: Ints
    block: Ints
    part: Ints
    sweep: Ints
    rows: Ints
    core: Ints
    turn: Ints
    first: Ints
    keys: Ints


def _items(op: Op, chip: Chip, rows: int, keys: int, most_tasks: float) -> _Items:
    assert chip.cores is not None
    d = {name: int(size) for name, size in op.dims.items()}
    packed = d["heads"] // d["kv_heads"]
    all_rows, total = packed * d["seq_q"], d["past"] + d["seq_q"]
    groups, blocks = d["batch"] * d["kv_heads"], -(-all_rows // rows)
    block = np.arange(blocks)
    # Rows of a position lie together; a block sees what its last position sees, from its first one's window on.
    top = np.minimum((block + 1) * rows, all_rows)
    last = d["past"] + -(-top // packed) if d["causal"] else np.full(blocks, total)
    first = (
        np.maximum(0, d["past"] + block * rows // packed + 1 - d["window"]) if d["causal"] else np.zeros(blocks, int)
    )
    steps = -(-(last - first) // keys)
    split = int(np.clip(chip.cores // (groups * blocks), 1, max(int(steps.max()), 1)))
    check_tasks(5 * groups * blocks * int(steps.max()), most_tasks)
    number = np.arange(groups * blocks * split)
    b, part = number // split % blocks, number % split
    per_part = -(-steps // split)
    begin = first[b] + part * per_part[b] * keys
    seen = np.clip(last[b] - begin, 0, per_part[b] * keys)
    group = number // split // blocks
    # Where a pass over a cache serves many blocks, a group's run together.
    sharing = tile.readers(chip) > 1 and not _held(op, chip)
    core, turn = _dealt_by_group(group, seen, chip.cores) if sharing else _dealt(seen, chip.cores)
    sweep = _rank(group, seen) % (blocks * split) // tile.readers(chip)
    order = np.lexsort((turn, core))
    columns = (group, b, part, sweep, top[b] - b * rows, core, turn, begin, seen)
    return _Items(*(column[order] for column in columns))


def _cache_bytes(op: Op) -> float:
    """Keys and values of all groups, as the kernel reads them."""
    d = op.dims
    tokens = d["batch"] * d["kv_heads"] * (d["past"] + d["seq_q"])
    return float(tokens * read_width(d)) * dtypes.bits(op.formats["kv"]) / 8


def _held(op: Op, chip: Chip) -> bool:
    """The shared memory holds all keys and values."""
    return _cache_bytes(op) <= tile.machine(chip).shared_bytes


def _rank(group: Ints, keys: Ints) -> Ints:
    """Place of each item in the order by groups, the longest of a group first."""
    rank = np.empty_like(group)
    rank[np.lexsort((-keys, group))] = np.arange(group.size)
    return rank


def _dealt_by_group(group: Ints, keys: Ints, cores: int) -> tuple[Ints, Ints]:
    """Core and position of items: group after group, each item to the core that has the fewest keys so far."""
    core, turn = np.empty_like(group), np.empty_like(group)
    free = [(0, 0, number) for number in range(cores)]  # keys, items, core
    for item in np.argsort(_rank(group, keys)).tolist():
        load, items, number = free[0]
        core[item], turn[item] = number, items
        heapq.heapreplace(free, (load + int(keys[item]), items + 1, number))
    return core, turn


def _dealt(keys: Ints, cores: int) -> tuple[Ints, Ints]:
    """Core and position of items: the longest first, to and fro over the cores, so that causal blocks even out."""
    number = np.arange(keys.size)
    rank = np.empty_like(number)
    rank[np.argsort(-keys, kind="stable")] = number
    if keys.size <= cores:  # one each: in their own order, so that the parts of a block are neighbours
        return number, np.zeros_like(number)
    turn, place = rank // cores, rank % cores
    return np.where(turn % 2 == 0, place, cores - 1 - place), turn


def attention(op: Op, chip: Chip, work: Work, most_tasks: float = MAX_TASKS) -> Program:
    """The program of one attention operator with scalar dimensions."""
    return _Attention(op, chip, work, most_tasks).program()


class _Attention:
    def __init__(self, op: Op, chip: Chip, work: Work, most_tasks: float) -> None:
        assert chip.core.vector is not None
        self.op, self.chip, self.work = op, chip, work
        self.rows, self.keys = tile.attention_block(op, chip, work)
        self.figures = tile.machine(chip)
        self.unit = tile.c_chip(tile.engine(chip, op.matrix_format), self.figures)
        self.overlap = chip.core.vector.hides_softmax
        self.key_dim, self.value_dim = int(op.dims["head_dim"]), int(op.dims["v_head_dim"])
        self.token_bytes = float(read_width(op.dims)) * dtypes.bits(op.formats["kv"]) / 8
        self.items = _items(op, chip, self.rows, self.keys, most_tasks)
        self.split = int(self.items.part.max()) + 1
        self.build, self.cores = start(chip)
        self.space = Space()

    def program(self) -> Program:
        """Items one after the other on each core."""
        i, build, setup = self.items, self.build, self.figures.transfer_s
        steps = max(1, int(np.ceil(i.keys / self.keys).max()))
        keys = np.clip(i.keys[:, None] - np.arange(steps) * self.keys, 0, self.keys)
        qk_s, pv_s, softmax_s = self._seconds(keys)
        size = keys * self.token_bytes
        q_bytes, out_bytes, q_block, out_block, kv_cold = self._sides()
        kv_block = self._kv_blocks(keys, size, kv_cold)
        # Queues run tasks by number: a step's scores come before the values of the step before where both overlap
        # and there is a buffer for the keys of either.
        lag = 1 if self.overlap and self.figures.buffers > 1 else 0
        width = steps + lag

        def column(values: np.ndarray, late: int, idle: float = 0.0) -> Floats:
            """tiles × width, moved by ``late`` steps."""
            padded = np.full((len(i.core), width), idle, dtype=float)
            padded[:, late : late + steps] = values
            return padded

        # Queries arrive with the first step.
        opening = np.arange(width) == 0
        codes = np.array([CODES[name] for name in ("load q", "load kv", "q·kᵀ", "softmax", "p·v")])
        load_queue, matrix_queue = self.cores.load[i.core], self.cores.matrix[i.core]
        queue = np.stack([load_queue, load_queue, matrix_queue, self.cores.vector[i.core], matrix_queue], axis=-1)
        zero = np.zeros((len(i.core), width))
        delay = np.stack([zero + setup * opening, column(np.where(size > 0, setup, 0.0), 0), column(qk_s, 0),
                          column(softmax_s, 0), column(pv_s, lag)], axis=-1)  # fmt: skip
        bytes_ = np.stack([q_bytes[:, None] * opening, column(size, 0), zero, zero, zero], axis=-1)
        none = zero - 1
        block = np.stack([np.where(opening, q_block[:, None], -1), column(kv_block, 0, -1), none, none, none], axis=-1)
        tasks = build.tasks(codes, queue[:, None, :], delay, bytes_, block.astype(int))
        q, load, qk, softmax = tasks[:, 0, 0], *(tasks[:, :steps, part] for part in (1, 2, 3))
        pv = tasks[:, lag:, 4]
        self._order(q, load, qk, softmax, pv, keys > 0)
        self._hold(q, load, qk, pv, size)
        self._finish(pv, out_bytes, out_block)
        return build.program()

    def _seconds(self, keys: Ints) -> tuple[Floats, Floats, Floats]:
        """Seconds of scores, values and softmax of every step."""
        rows = np.broadcast_to(self.items.rows[:, None], keys.shape)
        unique, inverse = np.unique(np.stack([rows, keys], axis=-1).reshape(-1, 2), axis=0, return_inverse=True)
        clock_hz, cycles = float(self.unit.clock_hz), _sim.lib.nps_tile_cycles
        table = np.array([
            (cycles(self.unit, r, n, self.key_dim) / clock_hz, cycles(self.unit, r, self.value_dim, n) / clock_hz,
             tile.softmax_s(self.chip, r * n)) if n else (0.0, 0.0, 0.0)
            for r, n in unique.tolist()
        ])  # fmt: skip
        spread = table[inverse.ravel()].reshape(*keys.shape, 3)
        return spread[..., 0], spread[..., 1], spread[..., 2]

    def _sides(self) -> tuple[Floats, Floats, Ints, Ints, float]:
        """Bytes and blocks of queries (with the new keys and values) and outputs, and how much of the cache is cold."""
        cold = {operand.name: cold_bytes(self.op, operand, self.chip) for operand in self.op.operands}
        size = {operand.name: float(operand.bytes) for operand in self.op.operands}
        i = self.items
        share = i.rows / i.rows[i.part == 0].sum()
        owner = share * (i.part == 0)
        q_bytes = share * size["q"] + owner * size["kv_new"]
        out_bytes = owner * (size["out"] + size["kv_write"])

        def blocks(names: tuple[str, ...], write: bool) -> Ints:
            total = sum(cold[name] for name in names)
            at = self.space.tensor(total) + np.concatenate(([0.0], np.cumsum(owner * total)))[:-1]
            return self.build.blocks(owner * total, at, np.ceil(owner * total), np.ceil(owner * total), write=write)

        q_block, out_block = blocks(("q", "kv_new"), False), blocks(("out", "kv_write"), True)
        return q_bytes, out_bytes, q_block, out_block, cold["kv_read"]

    def _kv_blocks(self, keys: Ints, size: Floats, cold_bytes: float) -> Ints:
        """Blocks of keys and values: one for the items of a sweep; a later sweep fetches what did not stay on chip.

        Without a shared memory every item fetches for itself.
        """
        i, d = self.items, self.op.dims
        key = i.first[:, None] + np.arange(keys.shape[1]) * self.keys
        piece = (i.group[:, None] * (int(key.max()) + 1) + key).ravel()
        packed = piece * (int(i.sweep.max()) + 1) + np.broadcast_to(i.sweep[:, None], key.shape).ravel()
        # Of the items that want a piece in a sweep the one with most keys of it stands for all.
        order = np.lexsort((-size.ravel(), packed))
        _, first, inverse = np.unique(packed[order], return_index=True, return_inverse=True)
        asker = order[first]
        sizes = size.ravel()[asker]
        # The first sweep that visits a piece brings it.
        new = np.append(True, np.diff(piece[asker]) > 0)
        group_bytes = float(d["past"] + d["seq_q"]) * self.token_bytes
        again = max(group_bytes - self.figures.shared_bytes, 0.0) / group_bytes
        visited = float(sizes[new].sum())
        moved = np.where(new, sizes * (cold_bytes / visited if visited else 0.0), sizes * again)
        origin = self.space.tensor(_cache_bytes(self.op))
        at = origin + i.group[asker // keys.shape[1]] * group_bytes + key.ravel()[asker] * self.token_bytes
        # A page holds its tokens head by head.
        run = np.minimum(np.ceil(sizes), float(d["page"]) * self.token_bytes)
        made = self.build.blocks(moved, at, run, run * float(d["kv_heads"]))
        numbers = np.empty(packed.size, dtype=int)
        numbers[order] = made[inverse.ravel()]
        return np.where(size > 0, numbers.reshape(keys.shape), -1)

    def _order(self, q: Ints, load: Ints, qk: Ints, softmax: Ints, pv: Ints, some: np.ndarray) -> None:
        build, turn, depth = self.build, self.items.turn, self.figures.buffers
        build.after(qk, q[:, None], some)
        build.after(qk, load, some)
        build.after(softmax, qk, some)
        build.after(pv, softmax, some)
        steps = load.shape[1]
        place = (turn[:, None] * steps + np.arange(steps)).ravel()
        build.after(load.ravel()[depth:], pv.ravel()[:-depth], place[depth:] >= depth)
        # Two sets of scores where softmax and engine overlap; the engine's own order sees to the other case.
        build.after(qk.ravel()[2:], pv.ravel()[:-2], place[2:] >= 2)
        build.after(q[1:], qk[:-1, -1], turn[1:] > 0)

    def _hold(self, q: Ints, load: Ints, qk: Ints, pv: Ints, size: Floats) -> None:
        build, i = self.build, self.items
        build.hold(i.core, q, qk[:, -1], 4 * i.rows * self.key_dim)
        build.hold(i.core[:, None], load, pv, size)
        build.hold(i.core[:, None], qk, pv, np.where(size > 0, 4.0 * i.rows[:, None] * self.keys, 0.0))

    def _finish(self, pv: Ints, out_bytes: Floats, out_block: Ints) -> None:
        """Outputs; where several cores share the keys of a block, the first of them adds their partial results."""
        i, build, setup = self.items, self.build, self.figures.transfer_s
        split, accumulator = self.split, 4.0 * i.rows * self.value_dim
        merged = np.full(len(i.core), split > 1)
        size, block = (
            np.where(merged, ACCUMULATOR_BYTES * i.rows * self.value_dim, out_bytes),
            np.where(merged, -1, out_block),
        )
        store = build.tasks(
            CODES["store partial" if split > 1 else "store"], self.cores.store[i.core], setup, size, block
        )
        build.after(store, pv[:, -1])
        build.after(pv[1:, 0], store[:-1], i.turn[1:] > 0)
        build.hold(i.core, pv[:, 0], store, accumulator)
        if split == 1:
            return
        own = np.flatnonzero(i.part == 0)
        load = build.tasks(CODES["load partials"], self.cores.load[i.core[own]], setup, split * accumulator[own])
        build.after(load[:, None], store.reshape(-1, split))
        final = build.tasks(CODES["store"], self.cores.store[i.core[own]], setup, out_bytes[own], out_block[own])
        build.after(final, load)
