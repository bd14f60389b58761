"""Cycle fidelity: an event-driven run of the mapping that the tile search chose.

The operator is lowered to tasks on per-core queues (``npusim.cost.lowering``); ``csrc/sim/cycle.c`` runs them against
core ports, a shared fabric and DRAM: channels with banks and refresh when a timing table describes the memory, else
one server at the pin rate. The run is the timeline that ``npusim trace`` writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from npusim import _sim
from npusim.chip import Chip
from npusim.chip_parts import Memory
from npusim.cost import dram, dram_spec
from npusim.cost.lowering import lower
from npusim.cost.program import WORK, Floats, Program, check_tasks
from npusim.cost.roofline import Priced, Work, slowest
from npusim.cost.roofline import work as roofline_work
from npusim.cost.tile import machine
from npusim.errors import InputError, Problem
from npusim.mapping import GemmMapping
from npusim.ops import Dim
from npusim.workload import Op

# Channels are simulated this many clocks at a time: some 20 ns. A block enters the memory up to as much late.
QUANTUM_CLOCKS = 32

# Some two minutes.
MAX_BURSTS = 500_000_000


@dataclass(frozen=True)
class Timeline:
    """When everything of a program happened, in seconds from its start.

    Args:
        program: the tasks.
        start_s: when each was issued.
        begin_s: when its data began to move (compute: as ``start_s``).
        end_s: when it ended.
        block_begin_s: when each block was first asked for.
        block_end_s: when its last data had moved.
        makespan_s: the last end.
        fabric_busy_s: seconds in which the fabric moved data.
        dram_bytes: that passed main memory (whole bursts where channels are simulated).
        events: ends, begins and DRAM commands.
        rows: bursts by what they found: ``hit``, ``closed``, ``conflict``; empty without channels.
    """

    program: Program
    start_s: Floats
    begin_s: Floats
    end_s: Floats
    block_begin_s: Floats
    block_end_s: Floats
    makespan_s: float
    fabric_busy_s: float
    dram_bytes: float
    events: int
    rows: dict[str, int]

    def busy_s(self, resource: str) -> float:
        """Busy seconds of the busiest queue whose tasks occupy ``resource`` (a value of ``WORK``)."""
        codes = [code for code, name in enumerate(WORK.values()) if name == resource]
        mine = np.isin(self.program.work, codes)
        queues = np.array([queue.core for queue in self.program.queues])[self.program.queue[mine]]
        if not mine.any():
            return 0.0
        spent = np.bincount(queues + 1, weights=(self.end_s - self.begin_s)[mine])
        return float(spent.max())

    @property
    def dram_busy_s(self) -> float:
        """Seconds in which main memory has something to move: the union of the blocks' times."""
        used = self.block_end_s >= 0
        if not used.any():
            return 0.0
        order = np.argsort(self.block_begin_s[used])
        begin, reach = self.block_begin_s[used][order], np.maximum.accumulate(self.block_end_s[used][order])
        gaps = np.maximum(begin[1:] - reach[:-1], 0.0).sum()
        return float(reach[-1] - begin[0] - gaps)


def run(program: Program, memory: Memory, server_bytes_per_s: float | None = None) -> Timeline:
    """Runs a program against a chip's main memory.

    Args:
        program: the tasks.
        memory: the main memory.
        server_bytes_per_s: what the memory streams; it is then one server at this rate, whatever describes it.

    Raises:
        InputError: too many tasks or bursts, no memory for them, or tasks that wait for each other.
    """
    check_tasks(program.tasks)
    channels = None if server_bytes_per_s else _channels(memory)
    if channels and (bursts := program.blocks.bytes.sum() / channels.burst_bytes) > MAX_BURSTS:
        what = f"{bursts:.3g} bursts of main memory are too many for the cycle model"
        raise InputError(Problem(what, allowed=f"at most {MAX_BURSTS:.3g}", hint="use the tile fidelity"))
    n, blocks = program.tasks, len(program.blocks.bytes)
    times = [np.empty(size) for size in (n, n, n, blocks, blocks)]
    c, p = _machine(program, memory, channels, server_bytes_per_s), _sim.ffi.new("nps_cycle_program *")
    columns = {
        "queue": program.queue, "delay": program.delay_s, "bytes": program.bytes, "block": program.block,
        "first_dep": program.first_dep, "deps": program.deps,
        "queue_port": np.array([queue.port for queue in program.queues], np.int32),
        "port_bytes_per_s": program.port_bytes_per_s, "block_bytes": program.blocks.bytes,
        "block_address": program.blocks.address, "block_run": program.blocks.run,
        "block_stride": program.blocks.stride, "block_write": program.blocks.write.astype(np.uint8),
        **dict(zip(("start", "begin", "end", "block_begin", "block_end"), times, strict=True)),
    }  # fmt: skip
    kept = {name: _sim.ffi.from_buffer(column) for name, column in columns.items()}
    for name, pointer in kept.items():
        setattr(p, name, pointer)
    result = _sim.ffi.new("nps_cycle_result *")
    config, layout = (channels.config, channels.map) if channels else (_sim.ffi.NULL, _sim.ffi.NULL)
    status = _sim.lib.nps_cycle_run(c, p, config, layout, result)
    if status != _sim.lib.NPS_OK:
        reasons = {_sim.lib.NPS_ENOMEM: "no memory", _sim.lib.NPS_EDEADLOCK: "tasks wait for each other in a circle"}
        raise InputError(f"the cycle model cannot run {n} tasks: {reasons.get(status, f'status {status}')}")
    rows = {"hit": result.row_hits, "closed": result.row_closed, "conflict": result.row_conflicts}
    moved = result.bursts * channels.burst_bytes if channels else float(program.blocks.bytes.sum())
    start, begin, end, block_begin, block_end = times
    return Timeline(
        program, start, begin, end, block_begin, block_end, result.makespan_s, result.fabric_busy_s, moved,
        result.events, rows if channels else {},
    )  # fmt: skip


@dataclass(frozen=True)
class _Channels:
    config: Any
    map: Any
    tick_s: float
    burst_bytes: int
    devices: int  # that take turns by pages
    device_bytes: int
    quantum_ticks: int


@lru_cache(maxsize=64)
def _channels(memory: Memory) -> _Channels | None:
    """The DRAM behind ``memory`` as the event loop takes it; None when no timing table describes its kind."""
    if not dram_spec.described(memory):
        return None
    spec, devices = dram_spec.memory_of(memory)
    slots = 1 << (devices - 1).bit_length()
    config = _sim.ffi.new("nps_dram_config *")
    for name, value in dram_spec.config_fields(spec, dram_spec.Controller(), slots).items():
        setattr(config, name, value)
    assert memory.bandwidth_bytes_per_s is not None
    # A chip may state less bandwidth than its pins: the device then runs slower as a whole.
    slower = spec.bandwidth_bytes_per_s * devices / memory.bandwidth_bytes_per_s
    per_clock = dram_spec.ticks_per_clock(spec)
    return _Channels(
        config, dram.c_map(dram.default_map(spec, devices)), spec.geometry.clock_s / per_clock * slower,
        spec.geometry.burst_bytes, 0 if slots == devices else devices, spec.geometry.capacity_bytes,
        QUANTUM_CLOCKS * per_clock,
    )  # fmt: skip


def _machine(program: Program, memory: Memory, channels: _Channels | None, server_bytes_per_s: float | None) -> Any:
    c = _sim.ffi.new("nps_cycle_machine *")
    c.tasks, c.queues, c.ports = program.tasks, len(program.queues), len(program.port_bytes_per_s)
    c.blocks, c.fabric_bytes_per_s = len(program.blocks.bytes), program.fabric_bytes_per_s
    c.dram_bytes_per_s = server_bytes_per_s or memory.bandwidth_bytes_per_s
    if channels:
        c.tick_s, c.quantum_ticks, c.burst_bytes = channels.tick_s, channels.quantum_ticks, channels.burst_bytes
        c.devices, c.device_bytes = channels.devices, channels.device_bytes
    return c


# -- operators --------------------------------------------------------------------------------------------


def timeline(op: Op, chip: Chip, work: Work, mapping: GemmMapping | None = None) -> Timeline:
    """The run of one operator with scalar dimensions, under ``mapping`` or the best one."""
    assert chip.memory is not None
    return run(lower(op, chip, work, mapping), chip.memory)


def sketch(op: Op, chip: Chip, work: Work, most_tasks: float) -> Timeline:
    """The same with main memory as one server at the rate that streams reach: without its bursts, thus quick.

    Raises:
        InputError: more than ``most_tasks`` tasks.
    """
    assert chip.memory is not None
    return run(lower(op, chip, work, None, most_tasks), chip.memory, machine(chip).dram_bytes_per_s)


def price(op: Op, chip: Chip, work: Work, mapping: GemmMapping | None = None) -> Priced:
    """Time of one run of ``op``, elementwise over array dimensions; what is equal is run once."""
    described = chip.model_dump_json()
    shape = np.broadcast_shapes(*(np.shape(size) for size in (*op.dims.values(), op.prefetched)))
    if not shape:
        return _priced(_Case((described, *run_key(op, mapping)), op, chip, work, mapping))
    dims = {name: np.broadcast_to(size, shape) for name, size in op.dims.items()}
    ready, priced = np.broadcast_to(op.prefetched, shape), []
    for index in np.ndindex(shape):
        sizes = {name: size[index].item() for name, size in dims.items()}
        one = replace(op, dims=sizes, prefetched=float(ready[index]))
        case = _Case((described, *run_key(one, mapping)), one, chip, roofline_work(one, chip), mapping)
        priced.append(_priced(case))

    def column(values: list[float]) -> Dim:
        return np.array(values, dtype=float).reshape(shape)

    return Priced(
        column([float(p.time_s) for p in priced]),
        {name: column([float(p.seconds.get(name, 0.0)) for p in priced]) for name in priced[0].seconds},
        column([float(p.dram_bytes) for p in priced]),
    )


@dataclass(frozen=True)
class _Case:
    """One run: what it depends on as a key, and the arguments themselves."""

    key: tuple[object, ...]
    op: Op = field(compare=False)
    chip: Chip = field(compare=False)
    work: Work = field(compare=False)
    mapping: GemmMapping | None = field(compare=False)


def run_key(op: Op, mapping: GemmMapping | None = None) -> tuple[object, ...]:
    """What a run on a given chip depends on: operators with equal keys have equal timelines."""
    tables = (tuple(sorted(table.items())) for table in (op.dims, op.formats, op.roles))
    return (op.kind, op.function, *tables, op.llc, float(op.prefetched), mapping)


@lru_cache(maxsize=4096)
def _priced(case: _Case) -> Priced:
    op, chip, work = case.op, case.chip, case.work
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    ran, figures = timeline(op, chip, work, case.mapping), machine(chip)
    rates = ran.program.port_bytes_per_s
    ports = np.array([queue.port for queue in ran.program.queues])[ran.program.queue]
    passed = np.bincount(ports[ports >= 0], weights=ran.program.bytes[ports >= 0], minlength=len(rates))
    seconds = {
        **work.seconds,
        "matrix": max(float(work.seconds["matrix"]), ran.busy_s("matrix")),
        "vector": max(float(work.seconds.get("vector", 0.0)), ran.busy_s("vector")),
        "dram": max(float(work.seconds["dram"]), ran.dram_bytes / chip.memory.bandwidth_bytes_per_s),
    }
    for name, busy in ((figures.core_level or "port", float(np.max(passed / rates, initial=0.0))),
                       (figures.shared_level or "shared", ran.fabric_busy_s)):  # fmt: skip
        seconds[name] = max(float(seconds.get(name, 0.0)), busy)
    return Priced(time_s(ran, work, chip), seconds, ran.dram_bytes)


def time_s(ran: Timeline, work: Work, chip: Chip) -> float:
    """Seconds of one run of the operator whose timeline this is, launch included."""
    # Levels that the timeline does not show (accumulators) still bound it.
    return max(ran.makespan_s, float(slowest(work.seconds.values()))) + (chip.overheads.launch_s or 0.0)
