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


SHAPES = [(size,) * 3 for size in (*SIZES, 4096)]
SHAPES += [(127, 129, 255), (1023, 1021, 1019), (16384, 64, 64), (64, 64, 16384), (2048, 128, 2048)]
SHAPES += [(1, 4096, 4096), (8, 4096, 4096)]


@pytest.mark.parametrize("layout", ["NN", "NT"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_ratio_to_numpy(benchmark, shape, layout):
    """``NT`` has the weights as (n, k), as linear layers keep them."""
    m, n, k = shape
    case, best = nk.golden("gemm", m=m, n=n, k=k, seed=m), nk.variants("gemm")[-1]
    a, b = case.inputs
    if layout == "NT":
        b = np.asfortranarray(b)
    ours, theirs = (np.full((m, n), np.nan, dtype=np.float32) for _ in range(2))
    runners = [lambda: nk.gemm(a, b, out=ours), lambda: np.matmul(a, b, out=theirs)]
    rounds = max(5, min(2000, int(1.5e10 / (m * n * k))))

    seconds = benchmark.pedantic(_interleaved, args=(runners, rounds), rounds=1, iterations=1)

    for output in (ours, theirs):
        nk.check(output, case).raise_for_status()
    benchmark.extra_info.update(
        variant=best,
        gflops_best=2 * m * n * k / 1e9 / seconds[0].min(),
        ratio_of_best=seconds[1].min() / seconds[0].min(),
        median_ratio=float(np.median(seconds[1] / seconds[0])),
    )


def _formats(shape, layout):
    """Calls by name: 16-bit inputs, constant weights; each must be as fast as plain float32."""
    sizes = dict(zip("mnk", shape, strict=True))
    made = {d: nk.golden("gemm", **sizes, dtype=d, seed=1) for d in ("fp32", "fp16", "bf16")}
    packed, calls = nk.prepack(made["fp32"].inputs[1]), {}
    for name, case in made.items():
        a, b = case.inputs
        b = np.asfortranarray(b) if layout == "NT" else b
        calls[name] = (case, lambda a=a, b=b: nk.gemm(a, b))
    calls["prepacked"] = (made["fp32"], lambda: nk.gemm(made["fp32"].inputs[0], packed))
    return calls


@pytest.mark.parametrize("layout", ["NN", "NT"])
@pytest.mark.parametrize("shape", [(1024, 1024, 1024), *((m, 4096, 4096) for m in (1, 4, 8, 16))], ids=str)
def test_formats_against_float32(benchmark, shape, layout):
    calls = _formats(shape, layout)
    for case, run in calls.values():
        nk.check(run(), case).raise_for_status()

    runners, rounds = [run for _, run in calls.values()], max(7, min(200, int(7e9 / np.prod(shape))))
    seconds = benchmark.pedantic(_interleaved, args=(runners, rounds), rounds=1, iterations=1)

    ratios = seconds[0].min() / seconds.min(axis=1)
    benchmark.extra_info.update({f"ratio_{name}": float(r) for name, r in zip(calls, ratios, strict=True)})


@pytest.mark.parametrize("op", ["conv2d", "depthwise_conv2d", "grouped_gemm"])
def test_relatives(benchmark, op):
    if op == "grouped_gemm":
        case = nk.golden(op, rows=1024, experts=8, n=512, k=512)
        flop = 2 * 1024 * 512 * 512
    else:
        sizes = {"h": 56, "w": 56, "c": 64, **({"f": 64} if op == "conv2d" else {})}
        case = nk.golden(op, **sizes)
        flop = 2 * case.expected.size * 9 * (64 if op == "conv2d" else 1)

    out = benchmark(getattr(nk, op), *case.inputs)

    nk.check(out, case).raise_for_status()
    if benchmark.stats:
        benchmark.extra_info["gflops_best"] = flop / 1e9 / benchmark.stats.stats.min
