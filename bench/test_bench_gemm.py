"""How fast are float products, per variant and per shape?

    pytest bench/test_bench_gemm.py

Each result carries GFLOP/s and the fraction of the measured peak (``bench.peaks``: multiply-adds, or reading B where
that takes longer); every timed output is checked against the proven bound. Other libraries: ``python -m bench.peers``.
"""

import os

import numpy as np
import pytest

import npukernels as nk
from bench import peaks
from bench.peers.problem import cycled, repeated

CUBES = [(size,) * 3 for size in (64, 128, 256, 512, 1024, 2048)]
SHAPES = [(127, 129, 255), (1023, 1021, 1019), (16384, 64, 64), (64, 64, 16384), (2048, 128, 2048)]
SHAPES += [(1, 4096, 4096), (8, 4096, 4096)]
VARIANTS = tuple(v for v in nk.variants("gemm") if v != "ref")
SLOW = ("numba", "c-generic")


def _name(shape):
    return "x".join(map(str, shape))


def _operands(shape, dtype="fp32"):
    """A golden case of at most 64 rows, repeated, and its judge."""
    m, n, k = shape
    case = nk.golden("gemm", m=min(m, 64), n=n, k=k, dtype=dtype, seed=m)
    return cycled(case.inputs[0], m), case.inputs[1], np.full((m, n), np.nan, np.float32), repeated(case, m)


def _measure(benchmark, shape, run, out, judge, weight_bytes=4.0):
    benchmark(run)
    judge.check(out)
    peaks.record(benchmark, peaks.product(*shape, weight_bytes))


@pytest.mark.parametrize("shape", CUBES, ids=_name)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gemm(benchmark, variant, shape):
    if variant in SLOW and shape[0] > 512 and not os.environ.get("NPUSIM_SOAK"):
        pytest.skip("seconds per call; set NPUSIM_SOAK to run it")
    a, b, out, judge = _operands(shape)
    benchmark.group = f"gemm {_name(shape)}"
    _measure(benchmark, shape, lambda: nk.gemm(a, b, out=out, variant=variant), out, judge)


@pytest.mark.parametrize("layout", ["NN", "NT", "prepacked"])
@pytest.mark.parametrize("shape", SHAPES, ids=_name)
def test_layouts(benchmark, shape, layout):
    """``NT`` has the weights as (n, k), as linear layers keep them."""
    a, b, out, judge = _operands(shape)
    weights = {"NN": b, "NT": np.asfortranarray(b), "prepacked": nk.prepack(b)}[layout]
    _measure(benchmark, shape, lambda: nk.gemm(a, weights, out=out), out, judge)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("shape", [(256,) * 3, (1024,) * 3, *((m, 4096, 4096) for m in (1, 4, 8, 16))], ids=_name)
def test_formats(benchmark, shape, dtype):
    """16-bit operands must be about as fast as float32."""
    a, b, out, judge = _operands(shape, dtype)
    benchmark.group = f"gemm {_name(shape)} by format"
    _measure(benchmark, shape, lambda: nk.gemm(a, b, out=out), out, judge, 4.0 if dtype == "fp32" else 2.0)
