"""The compiled event loop against the Python oracle: every time of every task and block, exactly."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim.chip_parts import Memory
from npusim.cost import cycle
from npusim.cost.program import Program
from tests.conftest import SOAK
from tests.differential.cycle_cases import FIXED, forced, lowered, random_chip, random_gemm, random_op, random_program
from tests.differential.cycle_oracle import Oracle


def agree(program: Program, memory: Memory) -> cycle.Timeline:
    ran = cycle.run(program, memory)
    assert memory.bandwidth_bytes_per_s is not None
    oracle = Oracle(program, memory.bandwidth_bytes_per_s)
    for name in ("start", "begin", "end", "block_begin", "block_end"):
        ours, theirs = getattr(ran, f"{name}_s"), np.array(getattr(oracle, name))
        assert np.array_equal(ours, theirs), (name, np.flatnonzero(ours != theirs)[:5])
    assert ran.makespan_s == max(oracle.end, default=0.0)
    return ran


def memory(bandwidth: float) -> Memory:
    return Memory(kind=FIXED, capacity=1e9, bandwidth=bandwidth)


@given(st.randoms(use_true_random=False), st.sampled_from([1.0, 0.7, 1e12]))
def test_random_programs(rng: random.Random, bandwidth: float):
    agree(random_program(rng), memory(bandwidth))


@pytest.mark.parametrize("seed", range(50))
def test_seeded_programs(seed: int):
    rng = random.Random(seed)
    for _ in range(200 if SOAK else 20):
        agree(random_program(rng), memory(rng.choice((1.0, 2.5))))


@pytest.mark.parametrize("seed", range(400 if SOAK else 60))
def test_lowered_operators(seed: int):
    rng = random.Random(1000 + seed)
    chip = random_chip(rng, FIXED)
    program = lowered(random_op(rng), chip)
    while program is None or program.tasks > 4000:
        program = lowered(random_op(rng), chip)
    assert chip.memory is not None
    ran = agree(program, chip.memory)
    assert ran.makespan_s > 0


def test_forced_mappings():
    rng, seen = random.Random(3), 0
    while seen < (400 if SOAK else 40):
        chip = random_chip(rng, FIXED)
        program = forced(random_gemm(rng), chip, rng)
        if program is None:
            continue
        assert chip.memory is not None
        agree(program, chip.memory)
        seen += 1
