"""Measuring the machine: sizes, residency, and figures out of timings."""

import numpy as np
import pytest

import npukernels as nk
from npukernels import probes
from npusim.accuracy.host_clock import Timing
from npusim.accuracy.host_facts import Cache
from npusim.accuracy.host_machine import Probes, Residency, footprints, residency
from tests.unit.accuracy.host_machines import CACHES, facts


def test_each_memory_is_measured_within_itself():
    sizes = footprints(CACHES, 16 << 30)
    assert list(sizes) == ["l1", "l2", "l3", "dram"]
    before = 0
    for cache in CACHES:
        assert before < sizes[f"l{cache.level}"] < cache.capacity_bytes
        before = cache.capacity_bytes
    assert sizes["dram"] == 8 * before
    assert all(size % (2 * probes.BLOCK_BYTES) == 0 for size in sizes.values())


@pytest.mark.parametrize("memory", [0, 1 << 28, 1 << 34])
def test_main_memory_is_never_smaller_than_twice_the_last_cache(memory):
    assert footprints(CACHES, memory)["dram"] >= 2 * CACHES[-1].capacity_bytes
    assert footprints((Cache(1, 1 << 30, 1),), memory)["dram"] <= 2 << 30


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
def test_residency_is_found_from_rates(kept):
    capacity = 32 << 20
    sizes = capacity * np.array([0.125, 0.25, 0.5, 1, 2, 4, 8])
    share = np.minimum(1, np.sqrt(kept * capacity / sizes))
    curve = {int(size): 1 / (s / 60e9 + (1 - s) / 15e9) for size, s in zip(sizes, share, strict=True)}
    found = residency(curve, capacity)
    assert found.cache_bytes_per_s == pytest.approx(60e9, rel=0.01)
    assert found.dram_bytes_per_s == pytest.approx(15e9, rel=0.01)
    assert found.kept_share == pytest.approx(kept, abs=0.01)


def test_rates_that_make_no_sense_still_give_a_residency():
    found = residency({1 << 20: 10e9, 1 << 30: 20e9}, 1 << 25)  # memory faster than the cache
    assert isinstance(found, Residency)
    assert 0 < found.dram_bytes_per_s <= found.cache_bytes_per_s


@pytest.mark.skipif(not nk.native_available(), reason="the extension is not built")
def test_figures_come_from_the_timings():
    small = (Cache(1, 16 << 10, 1), Cache(2, 64 << 10, 1))
    asked = Probes(facts(cores=2, caches=small, memory_bytes=1 << 24))
    machine = asked.machine([Timing(1e-3, 1.5e-3, 5)] * len(asked.runs), 0.0)
    work = {key: amount for key, (amount, _) in asked.tasks.items()}
    best = machine.instructions
    assert machine.clock_hz.value == pytest.approx(work[("clock", "")] * 1e3)
    assert machine.clock_hz.spread == pytest.approx(0.5)
    assert machine.rates[(best, "fma")].value == pytest.approx(work[(best, "fma")] * 1e3)
    assert machine.bandwidth[("l1", "read")].value == pytest.approx(work[("l1", "read")] * 1e3)
    assert machine.call_s.value == pytest.approx(1e-3)
    assert set(machine.team_bandwidth) == {"l2", "dram"}
    assert all(figure.value > 0 for figure in machine.team_bandwidth.values())
    for run in asked.runs:
        run()
