"""How fast are casts and integer quantisation, in cache and from memory, against NumPy and ml_dtypes?

    pytest bench/test_bench_formats.py

Each result carries Gelement/s, GB/s (read plus written) and the fraction of what ``np.copyto`` of the float32
array reaches at that size in the same process. Every timed output is compared with ``npukernels.formats``.
"""

import time

import ml_dtypes
import numpy as np
import pytest

import npukernels as nk
from npukernels import formats
from npukernels.casts import code_dtype

SIZES = {"L2": 1 << 16, "L3": 1 << 20, "DRAM": 1 << 25}
CASTS = ("fp8", "fp8_e5m2", "bf16", "fp16")
ML = {"fp8": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2, "bf16": ml_dtypes.bfloat16, "fp16": np.float16}
VARIANTS = tuple(v for v in nk.variants("cast") if v != "ref")


@pytest.fixture(scope="module")
def real():
    numbers = np.random.default_rng(0).standard_normal(max(SIZES.values()), np.float32)
    return lambda level: numbers[: SIZES[level]]


def _copy_gb_per_s(x):
    out = np.empty_like(x)
    np.copyto(out, x)
    best = min(_seconds(lambda: np.copyto(out, x)) for _ in range(9))
    return 2 * x.nbytes / best / 1e9


def _seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _note(benchmark, x, code_bytes):
    if benchmark.stats:  # absent under --benchmark-disable
        best = benchmark.stats.stats.min
        gb_per_s = x.size * (4 + code_bytes) / best / 1e9
        benchmark.extra_info.update(
            gelements_per_s=x.size / best / 1e9, gb_per_s=gb_per_s, fraction_of_copy=gb_per_s / _copy_gb_per_s(x)
        )


@pytest.mark.parametrize("level", SIZES)
@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("peer", [*VARIANTS, "ml_dtypes"])
def test_encode(benchmark, real, peer, name, level):
    x = real(level)
    benchmark.group = f"fp32 to {name}, {level}"
    out = np.empty(x.shape, code_dtype(formats.FORMATS[name]))
    if peer == "ml_dtypes":
        theirs = out.view(ML[name])
        benchmark(lambda: np.copyto(theirs, x, casting="unsafe"))
    else:
        benchmark(lambda: nk.cast(x, name, out=out, variant=peer))
    part = slice(0, 1 << 16)
    assert np.array_equal(out[part].view(np.uint8), formats.encode(x[part], name).view(np.uint8))
    _note(benchmark, x, out.itemsize)


@pytest.mark.parametrize("level", SIZES)
@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("peer", [*VARIANTS, "ml_dtypes"])
def test_decode(benchmark, real, peer, name, level):
    x = real(level)
    benchmark.group = f"{name} to fp32, {level}"
    codes, out = nk.cast(x, name), np.empty_like(x)
    if peer == "ml_dtypes":
        benchmark(lambda: np.copyto(out, codes.view(ML[name])))
    else:
        benchmark(lambda: nk.cast(codes, "fp32", source=name, out=out, variant=peer))
    part = slice(0, 1 << 16)
    assert np.array_equal(out[part], formats.decode(codes[part], name))
    _note(benchmark, x, codes.itemsize)


@pytest.mark.parametrize("level", SIZES)
@pytest.mark.parametrize("peer", [*VARIANTS, "numpy"])
def test_quantize_int8(benchmark, real, peer, level):
    x = real(level)
    benchmark.group = f"fp32 to int8, {level}"
    scale = np.float32(0.05)
    if peer == "numpy":
        got = benchmark(lambda: np.clip(np.rint(x / scale) + 3, -128, 127).astype(np.int8))
    else:
        got = benchmark(lambda: nk.quantize(x, "int8", scale=scale, zero=3, variant=peer)).codes
    assert np.array_equal(got, nk.quantize(x, "int8", scale=scale, zero=3, variant="ref").codes)
    _note(benchmark, x, 1)
