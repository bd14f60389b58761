"""Sweeps. Bars: 10^5 chip x (batch, context) points of an 8B and of a 70B decode step in 120 s at tile and 10 s at
roofline on one core; a K-Perf study of 2 000 chips in 10 min on two cores; 2 GiB.

The K-Perf benchmark prices some chips and reports the time of 2 000 (``study_s``, two cores). CPU seconds are those of
one core, whatever else the machine does.
"""

from __future__ import annotations

import resource
import time

import pytest

from npusim.sizing.evaluation import Pricer
from npusim.sizing.plan import make_plan
from npusim.sizing.sweeps import sweep

GRID = {
    "chip": "npu-2pf",
    "parameters": {
        "chip.memory.pin_rate": {"from": "6 Gbit/s", "to": "12 Gbit/s", "count": 10},
        "chip.levels.l1.capacity": {"from": "2 MiB", "to": "8 MiB", "count": 10},
        "chip.clock": {"from": "0.7 GHz", "to": "1.2 GHz", "count": 10},
        "serving.batch": [1, 2, 4, 8, 16, 32, 64, 128, 192, 256],
    },
    "workloads": [
        {"model": model, "precision": "fp8", "context": {"from": 512, "to": 32768, "count": 10}}
        for model in ("llama-3.1-8b", "llama-3.3-70b")
    ],
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("fidelity", ["roofline", "tile"])
def test_decode_grid(benchmark, fidelity: str):
    """1 000 chips x 100 (batch, context) points, for both models."""
    start = time.process_time()
    found = benchmark.pedantic(lambda: sweep(GRID | {"fidelity": fidelity}), rounds=1)
    benchmark.extra_info["cpu_s"] = time.process_time() - start
    benchmark.extra_info["peak_mib"] = peak_mib()
    assert found.metrics["time_s"].shape == (1000, 200)


@pytest.mark.parametrize("fidelity", ["roofline", "tile"])
def test_kperf_study(benchmark, fidelity: str):
    """Chips on all 576 rows of the default suite."""
    axes = {"chip.clock": {"from": 0.8e9, "to": 1.0e9, "count": 4}, "chip.levels.l1.capacity": ["3 MiB", "4 MiB"]}
    plan = make_plan({"chip": "npu-2pf", "fidelity": fidelity, "parameters": axes, "suite": {}})
    pricer, designs = Pricer(plan), list(plan.designs())
    pricer.outcome(designs[0])
    start = time.process_time()
    benchmark.pedantic(lambda: [pricer.outcome(design) for design in designs[1:]], rounds=1)
    cpu_s = (time.process_time() - start) / (len(designs) - 1)
    benchmark.extra_info["study_s"] = 2000 * cpu_s / 2
    benchmark.extra_info["peak_mib"] = peak_mib()
