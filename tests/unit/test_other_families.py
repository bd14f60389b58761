"""Calibrated families of accelerators, collectives and steps: laws that hold whatever is fitted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import npusim as ns
from npusim.cost.calibrated.family import BOUNDS, Family, family
from npusim.cost.calibrated.step import COLUMNS, STEP

GEMMS = (
    ("cube-gemm/1", "ascend-910b", "bf16"),
    ("cube-quantised-gemm/1", "ascend-910b", "w8a8_dynamic"),
    ("systolic-gemm/1", "tpu-v4", "float32(default-precision=bf16-mxu)"),
    ("grid-gemm/1", "wormhole-n150", "bfloat8_b"),
)
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")


def start(model: Family) -> dict[str, float]:
    return {spec.name: spec.start for spec in model.parameters}


def column(*values: float) -> np.ndarray:
    return np.array(values, float)


@pytest.mark.parametrize(("name", "chip", "dtype"), GEMMS)
class TestGemms:
    def test_time_is_above_the_data_sheet(self, name: str, chip: str, dtype: str):
        """No fraction above 1 of the cube, array or grid, so the peak is a bound."""
        model, machine = family(name), ns.load_chip(chip)
        fmt = {"w8a8_dynamic": "int8", "bfloat8_b": "fp8"}.get(dtype, "bf16")
        m, n, k = (
            np.repeat(column(1, 64, 1000, 8192), 4),
            np.tile(column(256, 640, 4096, 8192), 4),
            column(*[4096] * 16),
        )
        parameters = start(model) | {"matrix": 1.0}
        times = model.seconds(machine, dtype, {"m": m, "n": n, "k": k}, parameters)
        assert np.all(times.time_s >= 2 * m * n * k / machine.peak_flops_per_s(fmt)[1])
        assert set(times.bound) <= set(BOUNDS)

    def test_larger_products_take_longer(self, name: str, chip: str, dtype: str):
        model, machine = family(name), ns.load_chip(chip)
        for grown in "mnk":
            dims = {axis: column(2048, 4096, 8192) if axis == grown else column(4096, 4096, 4096) for axis in "mnk"}
            times = model.seconds(machine, dtype, dims, start(model)).time_s
            assert np.all(np.diff(times) > 0)

    def test_rows_do_not_see_each_other(self, name: str, chip: str, dtype: str):
        model, machine = family(name), ns.load_chip(chip)
        dims = {"m": column(1, 300, 5000), "n": column(256, 7168, 4096), "k": column(16384, 512, 4096)}
        together = model.seconds(machine, dtype, dims, start(model)).time_s
        alone = [
            model.seconds(machine, dtype, {a: v[i : i + 1] for a, v in dims.items()}, start(model)).time_s[0]
            for i in range(3)
        ]
        assert np.array_equal(together, alone)

    def test_start_lies_inside_the_bounds(self, name: str, chip: str, dtype: str):
        for spec in family(name).parameters:
            assert 0 < spec.low <= spec.start <= spec.high
            if spec.name in ("matrix", "streamed_matrix"):
                assert spec.high <= 1


def test_rows_a_power_of_two_apart_are_slower_on_a_cube():
    model, chip = family("cube-gemm/1"), ns.load_chip("ascend-910b")
    dims = {"m": column(128, 128), "n": column(1024, 1024), "k": column(16384, 16384 + 256)}
    times = model.seconds(chip, "bf16", dims, start(model) | {"stride": 2.0}).time_s
    assert times[0] > times[1]


def test_dispatch_and_fidelity_of_a_grid():
    model, chip = family("grid-gemm/1"), ns.load_chip("wormhole-n150")
    dims = {axis: column(*[2048] * 4) for axis in "mnk"}
    dims |= {"host_dispatch": column(1, 0, 0, 0), "fidelity_passes": column(1, 1, 2, 4)}
    times = model.seconds(chip, "bfloat8_b", dims, start(model))
    assert times.time_s[0] == pytest.approx(start(model)["dispatch_s"])
    assert times.bound[0] == "launch"
    assert np.all(np.diff(times.time_s[1:]) > 0)


@pytest.mark.parametrize("function", COLLECTIVES)
class TestCollectives:
    def test_grows_with_bytes_and_from_a_launch(self, function: str):
        model, chip = family(f"collective-{function}/1"), ns.load_chip("h100")
        size = np.geomspace(8, 1e10, 60)
        times = model.seconds(chip, "half", {"ranks": np.full(60, 8.0), "bytes": size}, start(model))
        assert times.time_s[0] >= start(model)["launch_s"]
        over = start(model)["threshold_bytes"] * 8  # a library may change its protocol too late: time falls there
        for regime in (size < over / 2, size > over * 2):
            assert np.all(np.diff(times.time_s[regime]) > 0)
        assert times.bound[0] == "launch"
        assert times.bound[-1] == "link"

    def test_large_buffers_reach_the_bus_bandwidth(self, function: str):
        model, chip = family(f"collective-{function}/1"), ns.load_chip("h100")
        parameters = start(model) | {"bandwidth": 1.0, "sharing": 1.0}
        times = model.seconds(chip, "half", {"ranks": column(2, 8), "bytes": column(1e12, 1e12)}, parameters).time_s
        share = {"all_reduce": column(1, 1.75), "send": column(1, 1)}.get(function, column(0.5, 0.875))
        assert chip.link is not None
        assert times == pytest.approx(share * 1e12 / chip.link.bandwidth_bytes_per_s, rel=1e-3)

    def test_nodes_and_eager_launches_cost_time(self, function: str):
        model, chip = family(f"collective-{function}/1"), ns.load_chip("v100-pcie-16gb")
        dims = {"ranks": column(*[8] * 3), "bytes": column(*[1e8] * 3)}
        dims |= {"nodes": column(1, 2, 1), "eager": column(0, 0, 1)}
        one, two, eager = model.seconds(chip, "half", dims, start(model)).time_s
        assert two > one
        assert eager == pytest.approx(one + start(model)["eager_s"])


def run(**changes: float) -> dict[str, np.ndarray]:
    plain = dict.fromkeys(COLUMNS, 1.0) | {"weights": 1e10, "caches": 1e9, "memory": 8e10, "steps": 100.0}
    return {name: column(value) for name, value in (plain | changes).items()}


def step_seconds(dims: Mapping[str, np.ndarray], **changes: float) -> float:
    return float(STEP.seconds(ns.load_chip("h100"), "fp16", dims, start(STEP) | changes).time_s[0])


def test_a_step_at_its_peaks_is_the_summed_work():
    nothing = {name: 0.0 for name in ("step_s", "layer_s", "sequence_s", "request_s", "exchange_s")}
    found = step_seconds(run(), matrix=1.0, dram=1.0, attention=1.0, link=1.0, **nothing)
    assert found == pytest.approx(101 * (1 + 1 + 1))  # weights or multiplying, attention, link


def test_first_token_and_steps_add_up_to_a_request():
    first, later = run(steps=0.0), run(prefills=0.0)
    assert step_seconds(first) + step_seconds(later) == pytest.approx(step_seconds(run()))


def test_caches_beyond_the_memory_run_in_waves():
    bound = {"sequences": 8.0, "prefill_matrix": 0.0, "decode_matrix": 0.0, "exchanges": 0.0}
    alone = {"attention": 1.0, "link": 1.0}
    fits = step_seconds(run(**bound), **alone)
    assert step_seconds(run(**bound, caches=1.08e11), **alone) - fits == pytest.approx(
        101 / start(STEP)["dram"], rel=0.01
    )
    assert step_seconds(run(**bound, caches=4e10), **alone) == pytest.approx(fits)
