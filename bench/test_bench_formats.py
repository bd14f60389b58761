"""How fast are casts, quantisation and its inverse, per variant, in cache and from memory?

    pytest bench/test_bench_formats.py

Each result carries Gelement/s and the fraction of the measured rate at which as many bytes are copied. Every timed
output is compared with ``npukernels.formats`` or the ``ref`` variant. Other libraries: ``python -m bench.peers --op
casts``.
"""

import numpy as np
import pytest

import npukernels as nk
from bench import peaks
from npukernels import formats
from npukernels.casts import code_dtype

SIZES = {"L2": 1 << 16, "L3": 1 << 20, "DRAM": 1 << 24}
CASTS = ("fp8", "fp8_e5m2", "bf16", "fp16", "fp6", "fp4")
BEST = nk.variants("cast")[-1]
VARIANTS = tuple(v for v in nk.variants("cast") if v != "ref")
# All variants where they differ most, the best one everywhere.
GRID = [(v, level) for v in VARIANTS for level in SIZES if v == BEST or level == "L2"]
QUANTISED = ("int8", "int4", "fp8", "mxfp8", "mxfp6", "mxfp4", "mxint8", "nvfp4")
FIRST = slice(0, 1 << 16)  # elements that are compared


@pytest.fixture(scope="module")
def real():
    numbers = np.random.default_rng(0).standard_normal(max(SIZES.values()), np.float32)
    return lambda level: numbers[: SIZES[level]]


def _work(size, source_bytes, target_bytes):
    return peaks.Work(copied_bytes=float(source_bytes + target_bytes), unit="Gelement/s", amount=float(size))


@pytest.mark.parametrize(("variant", "level"), GRID)
@pytest.mark.parametrize("name", CASTS)
def test_encode(benchmark, real, name, variant, level):
    x = real(level)
    benchmark.group = f"fp32 to {name}, {level}"
    out = np.empty(x.shape, code_dtype(formats.FORMATS[name]))
    benchmark(lambda: nk.cast(x, name, out=out, variant=variant))
    assert np.array_equal(out[FIRST].view(np.uint8), formats.encode(x[FIRST], name).view(np.uint8))
    peaks.record(benchmark, _work(x.size, x.nbytes, out.nbytes))


@pytest.mark.parametrize(("variant", "level"), GRID)
@pytest.mark.parametrize("name", CASTS)
def test_decode(benchmark, real, name, variant, level):
    x = real(level)
    benchmark.group = f"{name} to fp32, {level}"
    codes, out = nk.cast(x, name), np.empty_like(x)
    benchmark(lambda: nk.cast(codes, "fp32", source=name, out=out, variant=variant))
    assert np.array_equal(out[FIRST], formats.decode(codes[FIRST], name))
    peaks.record(benchmark, _work(x.size, codes.nbytes, out.nbytes))


@pytest.mark.parametrize("level", ["L2", "L3"])
@pytest.mark.parametrize("name", QUANTISED)
def test_quantize(benchmark, real, name, level):
    """Scales are found first, by tensor or block."""
    x = real(level).reshape(-1, 1024)
    q = benchmark(lambda: nk.quantize(x, name))
    expected = nk.quantize(x[: 1 << 6], name, variant="ref") if name.startswith("mx") else None
    if expected is None:  # scales of whole tensors
        expected = nk.quantize(x, name, variant="ref")
    assert np.array_equal(q.codes[: len(expected.codes)], expected.codes)
    peaks.record(benchmark, _work(x.size, x.nbytes, q.codes.nbytes))


@pytest.mark.parametrize("level", ["L2", "L3"])
@pytest.mark.parametrize("name", QUANTISED)
def test_dequantize(benchmark, real, name, level):
    x = real(level).reshape(-1, 1024)
    q, out = nk.quantize(x, name), np.empty_like(x)
    benchmark(lambda: nk.dequantize(q, out=out))
    assert np.array_equal(out, nk.dequantize(q, variant="ref"))
    peaks.record(benchmark, _work(x.size, q.codes.nbytes, out.nbytes))


@pytest.mark.parametrize("level", SIZES)
def test_quantize_with_given_scale(benchmark, real, level):
    x, scale = real(level), np.float32(0.05)
    q = benchmark(lambda: nk.quantize(x, "int8", scale=scale, zero=3))
    assert np.array_equal(q.codes[FIRST], nk.quantize(x[FIRST], "int8", scale=scale, zero=3, variant="ref").codes)
    peaks.record(benchmark, _work(x.size, x.nbytes, x.size))
