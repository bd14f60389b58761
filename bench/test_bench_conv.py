"""How fast are convolutions, per variant?

    pytest bench/test_bench_conv.py

Each result carries GFLOP/s and the fraction of the measured peak (multiply-adds, or copying the image where that takes
longer); every timed output is checked against the proven bound.
"""

import numpy as np
import pytest

import npukernels as nk
from bench import peaks

# height, width, channels, filters, kernel, stride
CONV = [(56, 56, 64, 64, 3, 1), (28, 28, 128, 128, 3, 1), (14, 14, 256, 256, 3, 1), (56, 56, 64, 256, 1, 1)]
CONV += [(56, 56, 64, 128, 3, 2), (112, 112, 3, 32, 7, 2)]
# height, width, channels, kernel, stride
DEPTHWISE = [(112, 112, 64, 3, 1), (56, 56, 128, 3, 1), (28, 28, 256, 5, 1), (56, 56, 128, 3, 2)]


def _measure(benchmark, op, case, variant, terms, **geometry):
    x, w = case.inputs
    out = np.full(case.expected.shape, np.nan, np.float32)
    function = getattr(nk, op)
    benchmark(lambda: function(x, w, out=out, variant=variant, **geometry))
    nk.check(out, case).raise_for_status()
    peaks.record(benchmark, peaks.Work(2.0 * out.size * terms, copied_bytes=float(x.nbytes + out.nbytes)))


@pytest.mark.parametrize("shape", CONV, ids=str)
@pytest.mark.parametrize("variant", [v for v in nk.variants("conv2d") if v != "ref"])
def test_conv2d(benchmark, variant, shape):
    h, w, c, f, kernel, stride = shape
    geometry = {"stride": stride, "padding": kernel // 2}
    case = nk.golden("conv2d", h=h, w=w, c=c, f=f, kh=kernel, kw=kernel, **geometry)
    benchmark.group = f"conv2d {shape}"
    _measure(benchmark, "conv2d", case, variant, kernel**2 * c, **geometry)


@pytest.mark.parametrize("shape", DEPTHWISE, ids=str)
@pytest.mark.parametrize("variant", [v for v in nk.variants("depthwise_conv2d") if v != "ref"])
def test_depthwise_conv2d(benchmark, variant, shape):
    h, w, c, kernel, stride = shape
    geometry = {"stride": stride, "padding": kernel // 2}
    case = nk.golden("depthwise_conv2d", h=h, w=w, c=c, kh=kernel, kw=kernel, **geometry)
    benchmark.group = f"depthwise_conv2d {shape}"
    _measure(benchmark, "depthwise_conv2d", case, variant, kernel**2, **geometry)
