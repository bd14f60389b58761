"""Fused attention of alike sequences in compiled form, for prices at every step of an engine.

The formulas are those of ``npusim.cost`` (roofline and tile), written once more in ``csrc/sim/attention.c`` for single
sets of sequences, new and past tokens; what does not depend on those is worked out here. Tests hold both to 1e-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from npusim import _sim, dtypes
from npusim.chip import Chip
from npusim.cost import energy, roofline, tile
from npusim.llm import decode, prefill
from npusim.models import Model
from npusim.ops import read_width
from npusim.workload import Op


def attention_ops(model: Model, absorb: bool, batch: Any, new: Any, past: Any, **kinds: Any) -> list[Op]:
    """The attention operators of a step.

    Args:
        model: the network.
        absorb: as a decode does it, which differs with latent caches.
        batch: sequences.
        new: new tokens of each.
        past: past tokens of each.
        kinds: formats, ``tp`` and ``page`` as ``npusim.llm.decode`` takes them.
    """
    if absorb:
        step = decode(model, batch=batch, context=past, **kinds)
        return [replace(op, dims={**op.dims, "seq_q": new}) for op in step.ops if op.kind == "attention"]
    step = prefill(model, batch=batch, prompt=new, past=past, **kinds)
    return [op for op in step.ops if op.kind == "attention"]


class Attention:
    """The attention operators of one kind of sequence on one chip.

    Args:
        first: the operators for one sequence with one new token and no past.
        second: the same with one past token.
        chip: the hardware.
        fidelity: ``"roofline"`` or ``"tile"``.
        groups: chips of their own each, over which a batch is spread evenly.

    Raises:
        InputError: the chip cannot run them.
    """

    def __init__(self, first: Sequence[Op], second: Sequence[Op], chip: Chip, fidelity: str, groups: int = 1) -> None:
        self.launches = sum(op.count for op in first)
        self.ops: Any = _sim.ffi.new(f"nps_attention[{len(first)}]")
        for c, bare, op in zip(self.ops, first, second, strict=True):
            _describe(c, bare, op, chip)
            c.groups = groups
            if fidelity == "tile":
                _describe_tiles(c, op, chip)

    def sustained(self, compute: float, memory: float) -> Any:
        """The operators as C structs, at fractions of the on-chip rates and of main memory."""
        ops: Any = _sim.ffi.new(f"nps_attention[{len(self.ops)}]")
        for index, plain in enumerate(self.ops):
            ops[index] = plain
            ops[index].compute, ops[index].memory = compute, memory
        return ops


def prices(ops: Any, batch: Any, new: Any, past: Any) -> np.ndarray:
    """Seconds and joules (last axis) of each of some steps of alike sequences, launches left out.

    Args:
        ops: the operators, as ``Attention.sustained`` makes them.
        batch: sequences; an array, as the others.
        new: new tokens of each.
        past: past tokens of each.
    """
    columns = [np.ascontiguousarray(x, dtype=float) for x in np.broadcast_arrays(batch, new, past)]
    out = np.empty((*columns[0].shape, 2))
    buffers = [_sim.ffi.from_buffer(x) for x in (*columns, out)]
    _sim.lib.nps_attention_prices(ops, len(ops), columns[0].size, *buffers)
    return out


def _describe(c: Any, bare: Op, op: Op, chip: Chip) -> None:
    """What a roofline needs: work of a score, of a row, of a token, and the rates."""
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    d = op.dims
    c.count, c.compute, c.memory = op.count, 1.0, 1.0
    c.heads, c.kv_heads, c.value_dim, c.window = d["heads"], d["kv_heads"], d["v_head_dim"], d["window"]
    c.read_bytes = read_width(d) * dtypes.bits(op.formats["kv"]) / 8
    rows = [operand for operand in op.operands if operand.name != "kv_read"]
    c.past_bytes = sum(operand.bytes for operand in op.operands if operand.name == "kv_read")
    for index, operand in enumerate(rows):
        c.token_bytes[index] = operand.bytes
        c.spills[index] = operand.role == "act" or operand.name in op.llc
    c.chip_bytes = chip.sram_bytes
    work, less = roofline.work(op, chip), roofline.work(bare, chip)
    rate, c.flops_per_s = chip.peak_flops_per_s(op.matrix_format)
    c.pair_flops = (work.flops - less.flops) / d["heads"]
    score_s, one_s = (w.seconds.get("vector", 0.0) for w in (work, less))
    c.pair_vector_s = (score_s - one_s) / d["heads"]
    c.row_vector_s = one_s / d["heads"] - c.pair_vector_s
    rates = [chip.level_bandwidth_bytes_per_s(level) for level in chip.levels.values()]
    c.byte_s = max((1 / rate for rate in rates if rate is not None), default=0.0)
    c.dram_bytes_per_s = chip.memory.bandwidth_bytes_per_s
    constants = energy.energies(chip)
    if constants is not None:
        c.flop_j, c.byte_j = constants.op_j(rate, 1, 0, 0, 0), constants.sram_byte_j
        c.dram_byte_j = constants.dram_byte_j


def _describe_tiles(c: Any, op: Op, chip: Chip) -> None:
    """Blocks that fit a core, and what a core takes for a step with each."""
    assert chip.cores is not None and chip.clock_hz is not None and chip.core.vector is not None
    figures = tile.machine(chip)
    unit = tile.c_chip(tile.engine(chip, op.matrix_format), figures)
    key_dim, value_dim = float(op.dims["head_dim"]), float(op.dims["v_head_dim"])
    blocks = tile.fitting_blocks(op, chip)
    c.blocks, c.overlap = len(blocks), chip.core.vector.hides_softmax
    for index, (rows, keys) in enumerate(blocks):
        cycles = [
            _sim.lib.nps_tile_cycles(unit, rows, keys, key_dim),
            _sim.lib.nps_tile_cycles(unit, rows, value_dim, keys),
        ]
        c.rows[index], c.keys[index] = rows, keys
        c.block_s[index] = sum(cycles) / chip.clock_hz
        c.softmax_s[index] = tile.softmax_s(chip, rows * keys)
    c.cores, c.readers, c.buffers = chip.cores, tile.readers(chip), figures.buffers
    c.cache_bytes_per_s = tile.cache_bytes_per_s(op, chip)
    c.core_bytes_per_s = figures.core_bytes_per_s
    c.shared_bytes, c.shared_bytes_per_s = figures.shared_bytes, figures.shared_bytes_per_s
    c.transfer_s, c.latency_s = figures.transfer_s, figures.latency_s
