"""Speed of the main job. Bars: whole default suite of one chip ≤ 2 s CPU, 10^5 decode points ≤ 2 s CPU,
``npusim --help`` ≤ 0.3 s CPU. CPU seconds are stored beside the wall times of pytest-benchmark."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np

import npusim as ns


def cpu_of(run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def test_default_suite_of_one_chip(benchmark):
    """4 models × 3 precisions × 8 lengths × 6 concurrencies."""
    chip = ns.load_chip("rebel-quad")
    ns.kperf(chip)
    benchmark.extra_info["cpu_s"] = cpu_of(lambda: ns.kperf(chip))
    benchmark.extra_info["rows"] = len(benchmark(lambda: ns.kperf(chip)).rows)


def test_hundred_thousand_decode_points(benchmark):
    """One vectorised roofline call over 10^5 (batch, context) points."""
    chip, model = ns.load_chip("rebel-quad"), ns.load_model("llama-3.3-70b")
    batch, context = np.meshgrid(np.arange(1, 401), np.arange(1, 100_001, 400))

    def price():
        step = ns.decode(model, batch=batch, context=context, weights="fp8", activations="fp8", kv="fp8")
        return ns.estimate(step, chip).time_s

    benchmark.extra_info["cpu_s"] = cpu_of(price)
    assert benchmark(price).size == 100_000


def test_help(benchmark):
    """Start-up of the command line, in CPU seconds of the child."""

    def run():
        subprocess.run([sys.executable, "-m", "npusim", "--help"], check=True, capture_output=True)

    run()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    benchmark.extra_info["cpu_s"] = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    benchmark(run)
