"""How fast are the parts of a mixture of experts: top-k, routing, grouped products?

    pytest bench/test_bench_experts.py

Each result carries its rate and the fraction of the measured peak: multiply-adds, or reading all weights or logits
where that takes longer. Every timed output is checked.
"""

import numpy as np
import pytest

import npukernels as nk
from bench import peaks

TOPK = [(1, 128, 8), (256, 128, 8), (4096, 64, 6), (16, 32768, 8)]
# tokens (times experts each), experts, n, k
GROUPED = [(64, 8, 512, 512), (1024, 8, 512, 512), (256, 64, 1024, 256)]


@pytest.mark.parametrize("shape", TOPK, ids=str)
@pytest.mark.parametrize("variant", [v for v in nk.variants("topk") if v != "ref"])
def test_topk(benchmark, variant, shape):
    rows, n, k = shape
    case = nk.golden("topk", rows=rows, n=n, k=k)
    benchmark.group = f"topk {shape}"
    _, indices = benchmark(lambda: nk.topk(*case.inputs, k, variant=variant))
    assert np.array_equal(indices, case.expected)
    peaks.record(benchmark, peaks.Work(read_bytes=float(case.inputs[0].nbytes), unit="GB/s"))


@pytest.mark.parametrize("shape", TOPK[:3], ids=str)
def test_route(benchmark, shape):
    tokens, experts, k = shape
    case = nk.golden("route", tokens=tokens, experts=experts, k=k)
    found = benchmark(lambda: nk.route(*case.inputs, k))
    dense = np.zeros((tokens, experts), np.float32)
    np.put_along_axis(dense, found.experts, found.weights, axis=1)
    nk.check(dense, case).raise_for_status()
    peaks.record(benchmark, peaks.Work(read_bytes=float(case.inputs[0].nbytes), unit="GB/s"))


@pytest.mark.parametrize("shape", GROUPED, ids=str)
@pytest.mark.parametrize("variant", [v for v in nk.variants("grouped_gemm") if v != "ref"])
def test_grouped_gemm(benchmark, variant, shape):
    rows, experts, n, k = shape
    case = nk.golden("grouped_gemm", rows=rows, experts=experts, n=n, k=k)
    out = np.full((rows, n), np.nan, np.float32)
    benchmark.group = f"grouped_gemm {shape}"
    benchmark(lambda: nk.grouped_gemm(*case.inputs, out=out, variant=variant))
    nk.check(out, case).raise_for_status()
    _, w, offsets = case.inputs
    used = int((np.diff(offsets) > 0).sum()) * w[0].nbytes
    peaks.record(benchmark, peaks.Work(2.0 * rows * n * k, read_bytes=float(used)))
