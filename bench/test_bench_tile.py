"""Speed of the tile model. Bars: ≥ 10^7 candidates/s per core, 70B decode step ≤ 20 ms warm, K-Perf suite ≤ 20 s."""

from __future__ import annotations

import itertools
import time

import npusim as ns
from npusim.cost import tile


def test_mapping_search(benchmark):
    """Candidates per second over GEMMs that were never searched before."""
    chip, sizes, tried = ns.load_chip("npu-2pf"), itertools.count(1500), 0

    def search():
        nonlocal tried
        tried += tile.gemm_time(chip, "bf16", 1, next(sizes), 57344, 8192, (2, 2, 2)).candidates

    start = time.process_time()
    benchmark(search)
    benchmark.extra_info["candidates_per_s"] = tried / (time.process_time() - start)


def test_decode_step_of_70b_warm(benchmark):
    chip = ns.load_chip("npu-2pf")
    step = ns.decode("llama-3.3-70b", batch=64, context=4096, weights="fp8", activations="fp8", kv="fp8")
    ns.estimate(step, chip, "tile")
    assert benchmark(lambda: ns.estimate(step, chip, "tile")).time_s > 0


def test_default_suite(benchmark):
    start = time.process_time()
    result = benchmark.pedantic(lambda: ns.kperf("npu-2pf", fidelity="tile"), rounds=1)
    benchmark.extra_info["cpu_s"] = time.process_time() - start
    assert len(result.rows) == 576
