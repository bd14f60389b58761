"""Laws of the CPU's closed forms."""

import numpy as np
import pytest

from npusim.accuracy.host_chip import render
from npusim.accuracy.host_shapes import SUBJECTS
from npusim.chip import read_chip
from npusim.cost.calibrated import cpu
from npusim.cost.calibrated.family import BOUNDS, family
from tests.unit.accuracy.host_machines import machine

FAMILIES = sorted({subject.family for subject in SUBJECTS})
PRODUCT = {"m": 65.0, "n": 384.0, "k": 512.0}
ATTENTION = {"batch": 1.0, "heads": 8.0, "kv_heads": 2.0, "head_dim": 128.0, "seq_q": 64.0, "seq_kv": 512.0}


@pytest.fixture(scope="module")
def chip(tmp_path_factory):
    file = tmp_path_factory.mktemp("chip") / "chip.yaml"
    file.write_text(render(machine()))
    return read_chip(file)


def start(name):
    return {spec.name: spec.start for spec in family(name).parameters}


def seconds(chip, name, dims, changes=(), dtype="fp32"):
    columns = {key: np.atleast_1d(np.asarray(value, float)) for key, value in dims.items()}
    return family(name).seconds(chip, dtype, columns, start(name) | dict(changes))


def shape(name):
    return ATTENTION if "attention" in name else PRODUCT


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_few_and_physical(name):
    specs = family(name).parameters
    assert len({spec.name for spec in specs}) == len(specs) <= 13
    for spec in specs:
        assert spec.low <= spec.start <= spec.high
        assert spec.meaning
        assert spec.low > 0 or not spec.log
        if spec.name.endswith("share") or spec.name in ("fraction", "overlap"):
            assert spec.high == 1.0


@pytest.mark.parametrize("name", FAMILIES)
def test_more_work_takes_longer(name, chip):
    for key in shape(name):
        if key == "kv_heads":
            continue
        sizes = shape(name)[key] * np.array([8.0, 16.0, 32.0])
        dims = {other: np.full(3, value) for other, value in shape(name).items()} | {key: sizes}
        if key == "seq_q":
            dims["seq_kv"] = dims["seq_kv"] + sizes
        times = seconds(chip, name, dims).time_s
        assert (np.diff(times) >= 0).all(), key
        assert times[-1] > times[0] or key == "k"


@pytest.mark.parametrize("name", FAMILIES)
def test_each_cost_counts(name, chip):
    base = seconds(chip, name, shape(name)).time_s
    for spec in family(name).parameters:
        if spec.unit == "s":
            more = seconds(chip, name, shape(name), {spec.name: 2 * spec.start}).time_s
            assert more >= base, spec.name
        elif spec.name.endswith("share") or spec.name in ("fraction", "overlap"):
            assert seconds(chip, name, shape(name), {spec.name: 1.0}).time_s <= base * (1 + 1e-12), spec.name
    assert seconds(chip, name, shape(name), {"call_s": 1.0}).time_s > 1.0


@pytest.mark.parametrize("name", FAMILIES)
def test_bounds_are_named(name, chip):
    found = seconds(chip, name, {key: [1.0, value, 40 * value] for key, value in shape(name).items()})
    assert set(found.bound.tolist()) <= set(BOUNDS)
    assert found.bound[0] == "launch"


def test_tiles_share_their_last_rows():
    steps, tiles = cpu._tile_steps(np.array([1.0, 6.0, 7.0, 12.0, 13.0]), 6, 1.0)
    assert steps.tolist() == [1, 6, 7, 12, 13]
    assert tiles.tolist() == [1, 1, 2, 2, 3]
    steps, _ = cpu._tile_steps(np.array([1.0, 7.0]), 6, 3.0)  # 4 + 3 rows: none is below the least
    assert steps.tolist() == [3, 7]


def test_columns_are_rounded_up_to_tiles(chip):
    times = seconds(
        chip, "cpu-gemm/1", {"m": [100.0] * 3, "n": [33.0, 47.0, 49.0], "k": [200.0] * 3}, {"pack_s": 2e-11}
    ).time_s
    assert times[1] == pytest.approx(times[0], rel=0.02)
    assert times[2] > 1.2 * times[1]


def test_what_the_core_holds_costs_no_memory(chip):
    p = start("cpu-vector/1")
    tiny, large = np.array([1e3]), np.array([1e9])
    assert cpu.memory_seconds(chip, tiny, tiny, p) < 1e-9
    read = cpu.memory_seconds(chip, large, 0 * large, p)
    assert read > 1e9 / 40e9
    assert cpu.memory_seconds(chip, 0 * large, large, p) <= read * (1 + 1e-12)  # stores pass by the caches
    some, small = (
        np.array([12e6]),
        chip.replace({"levels.l3.capacity": 16e6}),
    )  # lines are read before they are overwritten
    assert cpu.memory_seconds(small, 0 * some, some, p) > cpu.memory_seconds(small, some, 0 * some, p)


def test_half_the_last_cache_costs_more_beyond_it(chip):
    p = start("cpu-vector/1")
    read = np.array([30e6, 300e6])
    small = cpu.memory_seconds(chip.replace({"levels.l3.capacity": 16e6}), read, 0 * read, p)
    assert (small > cpu.memory_seconds(chip, read, 0 * read, p)).all()
