"""How fast is gemm, per variant, against NumPy's BLAS?

Run serially:

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 pytest bench/test_bench_gemm.py

Each result carries GFLOP/s (best and median) in ``extra_info``; every timed output is checked against
the proven bound. ``test_ratio_to_numpy`` times the best variant and NumPy in turn within one process,
which is the figure to quote on a machine whose clock is not steady.
"""

import os
import time

import numpy as np
import pytest

import npukernels as nk

SIZES = (64, 128, 256, 512, 1024, 2048)
PEERS = ("numpy", *(v for v in nk.variants("gemm") if v != "ref"))
SLOW = {("c-generic", 2048)}


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
            pytest.skip("needs threadpoolctl, or OPENBLAS_NUM_THREADS=1, to hold NumPy to one thread")
        yield
    else:
        with threadpool_limits(1):
            yield


@pytest.fixture(scope="module")
def case_of():
    cases = {}

    def make(size):
        if size not in cases:
            cases[size] = nk.golden("gemm", m=size, n=size, k=size, seed=size)
        return cases[size]

    return make


def _runner(peer, case, out):
    a, b = case.inputs
    if peer == "numpy":
        return lambda: np.matmul(a, b, out=out)
    return lambda: nk.gemm(a, b, out=out, variant=peer)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("peer", PEERS)
def test_gemm(benchmark, case_of, peer, size):
    if (peer, size) in SLOW and not os.environ.get("NPUSIM_SOAK"):
        pytest.skip("seconds per call; set NPUSIM_SOAK to run it")
    case = case_of(size)
    out = np.full((size, size), np.nan, dtype=np.float32)
    benchmark.group = f"gemm {size}"

    benchmark(_runner(peer, case, out))

    nk.check(out, case).raise_for_status()
    if benchmark.stats:  # absent under --benchmark-disable
        gflop = 2 * size**3 / 1e9
        benchmark.extra_info["gflops_best"] = gflop / benchmark.stats.stats.min
        benchmark.extra_info["gflops_median"] = gflop / benchmark.stats.stats.median


def _interleaved(runners, rounds):
    """Times every runner once per round; returns seconds, shape (runner, round)."""
    seconds = np.empty((len(runners), rounds))
    for i in range(rounds):
        for j, run in enumerate(runners):
            start = time.perf_counter()
            run()
            seconds[j, i] = time.perf_counter() - start
    return seconds


@pytest.mark.parametrize("size", SIZES)
def test_ratio_to_numpy(benchmark, case_of, size):
    case, best = case_of(size), nk.variants("gemm")[-1]
    ours, theirs = (np.full((size, size), np.nan, dtype=np.float32) for _ in range(2))
    runners = [_runner(best, case, ours), _runner("numpy", case, theirs)]
    rounds = max(7, min(2000, int(1.5e10 / size**3)))

    seconds = benchmark.pedantic(_interleaved, args=(runners, rounds), rounds=1, iterations=1)

    for output in (ours, theirs):
        nk.check(output, case).raise_for_status()
    benchmark.extra_info.update(
        variant=best,
        gflops_best=2 * size**3 / 1e9 / seconds[0].min(),
        ratio_of_best=seconds[1].min() / seconds[0].min(),
        median_ratio=float(np.median(seconds[1] / seconds[0])),
    )
