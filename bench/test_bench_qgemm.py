"""How fast are the quantised products, per variant?

    pytest bench/test_bench_qgemm.py

Each result carries its rate and the fraction of the measured peak (``bench.peaks``): the fastest loop over 8-bit
products or multiply-adds, or reading the weights where that takes longer. Every timed output is checked. Other
libraries: ``python -m bench.peers --op qgemm,weight_gemm``.
"""

import numpy as np
import pytest

import npukernels as nk
from bench import peaks
from bench.peers.problem import cycled, repeated

SHAPES = [(64, 64, 64), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (127, 129, 255)]
SHAPES += [(1, 4096, 4096), (16, 4096, 4096), (128, 4096, 4096)]
WEIGHTS = [(1, 4096, 4096), (8, 4096, 4096), (128, 4096, 4096)]
BLOCKS = [(1, 1024, 1024), (64, 1024, 1024), (512, 512, 512)]
# Number format, format of scales, block along k, width of a scale of B
BLOCK_FORMATS = {
    "fp8 by tiles": ("fp8", None, 128, 128),
    "mxfp8": ("fp8", "e8m0", 32, 1),
    "mxfp6": ("fp6", "e8m0", 32, 1),
    "mxfp4": ("fp4", "e8m0", 32, 1),
    "nvfp4": ("fp4", "fp8", 16, 1),
}


def _compiled(op):
    return [v for v in nk.variants(op) if v.startswith("c-")]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", _compiled("qgemm"))
def test_qgemm(benchmark, variant, shape):
    if variant == "c-generic" and np.prod(shape) > 2**28:
        pytest.skip("seconds per call")
    m, n, k = shape
    case = nk.golden("qgemm", m=min(m, 64), n=n, k=k, a_unsigned=1, dtype="int8", seed=k)
    a, packed, out = cycled(case.inputs[0], m), nk.prepack_int8(case.inputs[1]), np.full((m, n), -1, np.int32)
    benchmark.group = f"qgemm {shape}"

    benchmark(lambda: nk.qgemm(a, packed, out=out, variant=variant))

    repeated(case, m).check(out)
    peaks.record(benchmark, peaks.product(*shape, 1.0, "dot8", "GOP/s"))


@pytest.mark.parametrize("out_dtype", ["int8", "uint8", "float32"])
def test_requantised(benchmark, out_dtype):
    """The end of a quantised layer: scales and bias by channel, zero points."""
    case = nk.golden("qgemm", m=64, n=512, k=512, dtype="int8")
    (a, b), rng = case.inputs, np.random.default_rng(0)
    packed, scales, bias = nk.prepack_int8(b), rng.random(512, np.float32) + 0.5, np.arange(512, dtype=np.int32)
    options = {"a_zero": 3, "a_scale": 0.1, "b_scale": scales, "bias": bias, "out_dtype": out_dtype}
    options |= {} if out_dtype == "float32" else {"out_scale": 200.0, "out_zero": 5}

    out = benchmark(lambda: nk.qgemm(a, packed, **options))

    assert np.array_equal(out, nk.qgemm(a, packed, variant="ref", **options))
    peaks.record(benchmark, peaks.product(64, 512, 512, 1.0, "dot8", "GOP/s"))


@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize(("bits", "compute"), [(4, "fp32"), (4, "int8"), (8, "fp32")])
def test_weight_gemm(benchmark, bits, compute, group, shape):
    m, n, k = shape
    case = nk.golden("weight_gemm", m=min(m, 8), n=n, k=k, group=group, dtype=f"int{bits}", seed=1)
    x, (q, scale) = cycled(case.inputs[0], m), case.inputs[1:]
    weight, out = nk.prepack_weight(q, scale, bits=bits, group=group), np.full((m, n), np.nan, np.float32)
    benchmark.group = f"weight_gemm {bits} bits {shape}"

    benchmark(lambda: nk.weight_gemm(x, weight, compute=compute, out=out))

    if compute == "fp32":
        repeated(case, m).check(out)
    else:  # rounds activations: no golden case, but the same bits in every variant
        assert np.array_equal(out[-1:], nk.weight_gemm(x[-1:], weight, compute=compute, variant="c-generic"))
    peaks.record(benchmark, peaks.product(*shape, bits / 8, "fma" if compute == "fp32" else "dot8"))


def _block_operands(shape, name):
    """Codes, scales and options of ``block_gemm``."""
    m, n, k = shape
    fmt, scale_fmt, block, columns = BLOCK_FORMATS[name]
    rng = np.random.default_rng(k)
    a, b = (nk.cast(rng.standard_normal(s, np.float32), fmt) for s in ((m, k), (k, n)))
    scales = [rng.random(s, np.float32) + 0.5 for s in ((m, k // block), (k // block, n // columns))]
    if scale_fmt == "fp8":
        scales = [nk.cast(s, "fp8") for s in scales]
    elif scale_fmt == "e8m0":
        scales = [rng.integers(125, 130, s.shape).astype(np.uint8) for s in scales]
    options = {"fmt": fmt, "block": block, "columns": columns}
    return (a, b, *scales), options | ({"scale_fmt": scale_fmt} if scale_fmt else {})


@pytest.mark.parametrize("shape", BLOCKS, ids=str)
@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("variant", _compiled("block_gemm"))
def test_block_gemm(benchmark, variant, name, shape):
    m, n, k = shape
    operands, options = _block_operands(shape, name)
    out = np.full((m, n), np.nan, np.float32)
    benchmark.group = f"block_gemm {name} {shape}"

    benchmark(lambda: nk.block_gemm(*operands, **options, out=out, variant=variant))

    a, b, a_scale, b_scale = operands
    few = (a[-2:], b, a_scale[-2:], b_scale)
    assert np.allclose(out[-2:], nk.block_gemm(*few, **options, variant="ref"), rtol=1e-5, atol=1e-5 * k)
    peaks.record(benchmark, peaks.product(m, n, k, 1.0))


def test_mx_within_its_bound(benchmark):
    """The golden case of the block-scaled product."""
    case = nk.golden("block_gemm", m=64, n=512, k=512, dtype="fp8")
    options = {"fmt": "fp8", "scale_fmt": "e8m0", "block": 32}
    out = benchmark(lambda: nk.block_gemm(*case.inputs, **options))
    nk.check(out, case).raise_for_status()
    peaks.record(benchmark, peaks.product(64, 512, 512, 1.0))
