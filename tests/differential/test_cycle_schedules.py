"""Schedules of random operators on random chips, replayed by the independent checker; and that it sees faults."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from npusim.chip import Chip
from npusim.cost import cycle
from npusim.cost.program import Program
from npusim.workload import attention, gemm
from tests.conftest import SOAK
from tests.differential.cycle_cases import (
    FIXED,
    base,
    forced,
    lowered,
    random_attention,
    random_chip,
    random_gemm,
    random_op,
)
from tests.differential.cycle_checker import violations

CASES = 10_000 if SOAK else 300
SHARDS = 10
MOST_TASKS = 20_000


def check(ran: cycle.Timeline, chip: Chip) -> list[str]:
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    return violations(ran, chip.memory.bandwidth_bytes_per_s, chip.memory.kind != FIXED)


def draw(rng: random.Random) -> tuple[Program, Chip]:
    while True:
        chip, kind = random_chip(rng), rng.random()
        if kind < 0.25:
            program = forced(random_gemm(rng), chip, rng)
        else:
            program = lowered(random_attention(rng) if kind < 0.4 else random_op(rng), chip)
        if program is not None and program.tasks <= MOST_TASKS:
            return program, chip


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_schedules_are_legal(shard: int):
    for case in range(CASES // SHARDS):
        rng = random.Random(f"{shard} {case}")
        program, chip = draw(rng)
        assert chip.memory is not None
        assert check(cycle.run(program, chip.memory), chip) == [], (shard, case)


@pytest.mark.parametrize("buffers", [1, 2, 3])
@pytest.mark.parametrize("overlap", [True, False])
def test_long_attention_runs_at_any_number_of_buffers(buffers: int, overlap: bool):
    chip = base().replace({"levels.l1.buffers": buffers, "core.vector.overlaps_matrix": overlap, "memory.kind": FIXED,
                           "cores": 2, "levels.l1.capacity": float(64 * 1024)})  # fmt: skip
    program = lowered(attention(1, 4, 2, 64, 1, 3000), chip)
    assert program is not None and chip.memory is not None
    assert check(cycle.run(program, chip.memory), chip) == []


# -- faults ---------------------------------------------------------------------------------------------------


def run_of(kind: str) -> tuple[cycle.Timeline, Chip]:
    """A timeline with full queues: several steps, tiles and cores, one port for load and store."""
    chip = base(shared=True).replace({"memory.kind": kind, "cores": 2, "levels.l1.capacity": float(64 * 1024)})
    program = lowered(gemm(200, 150, 700), chip)
    assert program is not None and chip.memory is not None
    return cycle.run(program, chip.memory), chip


def first(condition: np.ndarray) -> int:
    """The middle one of the tasks that meet the condition."""
    found = np.flatnonzero(condition)
    return int(found[len(found) // 2])


def moved(values: np.ndarray, index: object, to: object) -> np.ndarray:
    changed = values.copy()
    changed[index] = to
    return changed


def end_early(ran: cycle.Timeline, what: str) -> cycle.Timeline:
    """A task ends at half its time, dependents as they were."""
    computes = (ran.program.bytes == 0) & (ran.program.delay_s > 0)
    task = first(computes if what == "compute" else ran.program.bytes > 0)
    return replace(ran, end_s=moved(ran.end_s, task, (ran.begin_s[task] + ran.end_s[task]) / 2))


def swap(ran: cycle.Timeline) -> cycle.Timeline:
    """Two compute tasks of a queue change places."""
    matrix = np.flatnonzero((ran.program.queue == 2) & (ran.program.delay_s > 0))
    pair, turned = matrix[3:5], matrix[3:5][::-1]
    return replace(ran, **{n: moved(getattr(ran, n), pair, getattr(ran, n)[turned])
                           for n in ("start_s", "begin_s", "end_s")})  # fmt: skip


def ahead(ran: cycle.Timeline) -> cycle.Timeline:
    """A compute task runs, for its time, before what it needs has ended."""
    later = np.repeat(np.arange(ran.program.tasks), np.diff(ran.program.first_dep))
    computes = (ran.program.bytes == 0) & (ran.program.delay_s > 0)
    edge = first(computes[later])
    task, by = later[edge], ran.start_s[later[edge]] - ran.begin_s[ran.program.deps[edge]]
    return replace(ran, **{n: moved(getattr(ran, n), task, getattr(ran, n)[task] - by)
                           for n in ("start_s", "begin_s", "end_s")})  # fmt: skip


def without_setup(ran: cycle.Timeline) -> cycle.Timeline:
    task = first((ran.program.bytes > 0) & (ran.program.delay_s > 0))
    return replace(ran, start_s=moved(ran.start_s, task, ran.begin_s[task]))


def block_early(ran: cycle.Timeline) -> cycle.Timeline:
    """A block arrives before it was asked for."""
    block = first(ran.block_begin_s > 0)
    return replace(ran, block_end_s=moved(ran.block_end_s, block, ran.block_begin_s[block] / 2))


def block_instant(ran: cycle.Timeline) -> cycle.Timeline:
    """Blocks take no time to speak of."""
    some = ran.block_begin_s >= 0
    return replace(ran, block_end_s=np.where(some, ran.block_begin_s + 1e-12, ran.block_end_s))


def block_late(ran: cycle.Timeline) -> cycle.Timeline:
    """A block arrives after the tasks that need it have ended."""
    block = first(ran.block_end_s > 0)
    return replace(ran, block_end_s=moved(ran.block_end_s, block, ran.makespan_s))


def block_unasked(ran: cycle.Timeline) -> cycle.Timeline:
    block = first(ran.block_begin_s > 0)
    return replace(ran, block_begin_s=moved(ran.block_begin_s, block, ran.block_begin_s[block] * 0.99))


def block_bytes(ran: cycle.Timeline) -> cycle.Timeline:
    return replace(ran, dram_bytes=ran.dram_bytes / 2)


def less_memory(ran: cycle.Timeline) -> cycle.Timeline:
    return replace(ran, program=replace(ran.program, core_bytes=ran.program.core_bytes / 4))


def makespan(ran: cycle.Timeline) -> cycle.Timeline:
    return replace(ran, makespan_s=ran.makespan_s * 1.01)


def fabric(ran: cycle.Timeline) -> cycle.Timeline:
    return replace(ran, fabric_busy_s=ran.fabric_busy_s * 0.9)


def slower_fabric(ran: cycle.Timeline) -> cycle.Timeline:
    """The recorded run of a fabric that was faster than the program says."""
    slow = replace(ran.program, fabric_bytes_per_s=ran.program.fabric_bytes_per_s / 10)
    busy = ran.fabric_busy_s * 10
    return replace(ran, program=slow, fabric_busy_s=busy)


def slower_port(ran: cycle.Timeline) -> cycle.Timeline:
    return replace(ran, program=replace(ran.program, port_bytes_per_s=ran.program.port_bytes_per_s / 10))


FAULTS: dict[str, tuple[Callable[[cycle.Timeline], cycle.Timeline], str]] = {
    "compute ends early": (lambda ran: end_early(ran, "compute"), "another time than its task takes"),
    "transfer ends early": (lambda ran: end_early(ran, "transfer"), "so soon|before block"),
    "swapped": (swap, "out of order"),
    "ahead": (ahead, "starts before task"),
    "without set-up": (without_setup, "set-up"),
    "block early": (block_early, "ends before it is asked for"),
    "block instant": (block_instant, "memory cannot have moved"),
    "block late": (block_late, "that it needs"),
    "block unasked": (block_unasked, "not asked for"),
    "block bytes": (block_bytes, "passed memory"),
    "less memory": (less_memory, "holds"),
    "makespan": (makespan, "makespan"),
    "fabric": (fabric, "fabric is busy"),
    "slower fabric": (slower_fabric, "fabric cannot"),
    "slower port": (slower_port, "port . cannot"),
}


@pytest.mark.parametrize("kind", [FIXED, "hbm3"])
def test_the_runs_that_faults_are_planted_in_are_legal(kind: str):
    ran, chip = run_of(kind)
    assert check(ran, chip) == []


@pytest.mark.parametrize("kind", [FIXED, "hbm3"])
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_reported(fault: str, kind: str):
    ran, chip = run_of(kind)
    plant, words = FAULTS[fault]
    found = check(plant(ran), chip)
    with pytest.raises(AssertionError, match=words):
        assert found == [], "\n".join(found)


def test_a_dropped_dependency_is_reported():
    """Dependencies that bind, left out of the run and kept in the check."""
    ran, chip = run_of(FIXED)
    p, caught = ran.program, 0
    later = np.repeat(np.arange(p.tasks), np.diff(p.first_dep))
    binding = np.flatnonzero(ran.start_s[later] == ran.end_s[p.deps])[::7]
    assert binding.size > 5 and chip.memory is not None
    for edge in binding:
        counts = np.diff(p.first_dep)
        counts[later[edge]] -= 1
        loose = replace(p, first_dep=np.concatenate(([0], np.cumsum(counts))), deps=np.delete(p.deps, edge))
        wrong = replace(cycle.run(loose, chip.memory), program=p)
        caught += any("starts before task" in line for line in check(wrong, chip))
    # A dependency that the queue's own order implies changes nothing.
    assert caught >= binding.size // 2
