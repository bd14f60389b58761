"""Speed of the cycle model.

Bars: GEMM 2048³ on a 128×128 array with DRAM ≤ 1 s, BERT-large forward ≤ 2 s, ≥ 5 M events/s.

``test_ratio_to_scalesim`` compares with the CPU seconds SCALE-Sim took on the same layers (golden runs).
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest

import npusim as ns
from npusim.chip import load_chip
from npusim.cost import cycle, roofline
from npusim.cost.lowering import lower
from npusim.cost.systolic import array_run

# One core of a 128 × 128 weight-stationary array at 1 GHz with 614 GB/s of HBM2: the chip on which ONNXim took
# 526 949 cycles and 39 CPU seconds for a 2048³ GEMM.
ONE_CORE = """
format: npusim-chip/1
name: one-core
title: One 128 x 128 array
clock: 1 GHz
cores: 1
core:
  matrix: {engine: systolic, rows: 128, cols: 128, dataflow: ws, flops_per_cycle: {fp16: 32768}}
  vector: {lanes: 128, rates: {add: 1, exp: 0.25}}
levels:
  scratchpad: {scope: core, capacity: 32 MiB, bytes_per_cycle: 1024}
memory: {kind: hbm2, capacity: 16 GB, stacks: 2, channels: 8, channel_bits: 128, pin_rate: 2.4 Gbit/s}
"""
SHARED = Path(__file__).parents[2] / "shared" / "data" / "golden" / "scalesim.csv"


@pytest.fixture
def one_core(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text(ONE_CORE)
    return load_chip(str(file))


def test_gemm_2048(benchmark, one_core):
    op = ns.gemm(m=2048, n=2048, k=2048, a="fp16", b="fp16", out="fp16")
    work = roofline.work(op, one_core)
    ran = benchmark(lambda: cycle.timeline(op, one_core, work))
    benchmark.extra_info["cycles"] = ran.makespan_s * one_core.clock_hz
    assert 2048**3 / 128**2 <= ran.makespan_s * one_core.clock_hz < 600_000


def test_events_per_second(benchmark):
    """The event loop alone, the program being there."""
    chip = ns.load_chip("npu-2pf")
    op = ns.gemm(m=4096, n=4096, k=4096, a="fp8", b="fp8")
    program = lower(op, chip, roofline.work(op, chip))
    start, events = time.process_time(), 0

    def run():
        nonlocal events
        events += cycle.run(program, chip.memory).events

    benchmark(run)
    benchmark.extra_info["events_per_s"] = events / (time.process_time() - start)


def test_bert_large_forward(benchmark):
    chip, step = ns.load_chip("npu-2pf"), ns.prefill("bert-large", prompt=512)
    cost = benchmark.pedantic(lambda: ns.estimate(step, chip, "cycle"), rounds=3)
    assert cost.time_s >= cost.lower_bound_s


@pytest.mark.skipif(not SHARED.exists(), reason="needs the golden runs of SCALE-Sim in ../shared")
def test_ratio_to_scalesim(benchmark):
    """All golden layers in one call per dataflow, at equal cycles, against the peer's CPU seconds."""
    with SHARED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["M"] and row["cpu_s"]]
    layers = [(*(int(row[key]) for key in ("M", "N", "K", "rows", "cols")), row["dataflow"]) for row in rows]

    def run():
        return [array_run(m, n, k, rows=r, cols=c, dataflow=flow).cycles for m, n, k, r, c, flow in layers]

    start = time.process_time()
    cycles = benchmark.pedantic(run, rounds=5)
    ours = (time.process_time() - start) / 5
    exact = sum(
        int(c) - 1 == int(row["compute_cycles"]) - int(row["stall_cycles"]) for c, row in zip(cycles, rows, strict=True)
    )
    benchmark.extra_info |= {
        "layers": len(rows),
        "equal": exact,
        "ratio": sum(float(row["cpu_s"]) for row in rows) / ours,
    }
