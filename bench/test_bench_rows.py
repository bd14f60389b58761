"""How fast are the ops on rows and elements, per variant, against copying the same bytes?

    pytest bench/test_bench_rows.py

Each result carries GB/s (bytes read and written once) and the fraction of the measured rate of a copy of as many bytes;
every timed output is checked against its bound. Other libraries: ``python -m bench.peers --op rows``.
"""

import dataclasses

import numpy as np
import pytest

import npukernels as nk
from bench import peaks
from bench.peers.problem import cycled, repeated

SHAPES = [(1, 4096), (16, 4096), (128, 1024), (2048, 4096)]
NORMS = ("layernorm", "rmsnorm", "softmax")
ELEMENTS = ("exp", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "swiglu")


def _operands(op, rows, n):
    """A golden case of at most 16 rows, repeated, and its judge."""
    few = min(rows, 16)
    if op in NORMS:
        case = nk.golden(op, rows=few, n=n)
        return (cycled(case.inputs[0], rows), *case.inputs[1:]), repeated(case, rows)
    case = nk.golden(op, n=few * n)
    expected, bound, *inputs = (np.reshape(x, (few, n)) for x in (case.expected, case.bound, *case.inputs))
    case = dataclasses.replace(case, inputs=tuple(inputs), expected=expected, bound=bound)
    return [cycled(x, rows) for x in inputs], repeated(case, rows)


def _measure(benchmark, op, shape, variant=None):
    inputs, judge = _operands(op, *shape)
    out = np.full(shape, np.nan, np.float32)
    options = {"approximate": "tanh"} if op == "gelu_tanh" else {}
    function = getattr(nk, op.removesuffix("_tanh"))
    benchmark.group = f"{op} {shape}"
    benchmark(lambda: function(*inputs, **options, out=out, variant=variant))
    judge.check(out)
    peaks.record(benchmark, peaks.moved(sum(x.nbytes for x in inputs if x.ndim > 1), out.nbytes))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", [*NORMS, *ELEMENTS])
def test_rows(benchmark, op, shape):
    _measure(benchmark, op, shape)


@pytest.mark.parametrize(("op", "variant"), [(op, v) for op in NORMS for v in nk.variants(op) if v != "ref"])
def test_variants(benchmark, op, variant):
    _measure(benchmark, op, (128, 1024), variant)


def test_fused_residual(benchmark):
    """``rmsnorm`` that adds to the residual in place first: two arrays read, two written."""
    rng = np.random.default_rng(0)
    x, residual, weight = (rng.standard_normal(s, np.float32) for s in ((128, 4096), (128, 4096), (4096,)))
    held, out = residual.copy(), np.empty_like(x)
    x *= np.float32(2**-30)  # so small that the sum stays as it is however often it is timed
    benchmark(lambda: nk.rmsnorm(x, weight, residual=held, out=out))
    assert np.allclose(held, residual, rtol=1e-6, atol=1e-6)
    assert np.allclose(out, nk.rmsnorm(held, weight, variant="ref"), rtol=1e-5, atol=1e-6)
    peaks.record(benchmark, peaks.moved(2 * x.nbytes, 2 * out.nbytes))


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "pairs"])
@pytest.mark.parametrize("tokens", [64, 2048])
@pytest.mark.parametrize("variant", [v for v in nk.variants("rope") if v != "ref"])
def test_rope(benchmark, variant, tokens, interleaved):
    """32 heads of 128."""
    case = nk.golden("rope", tokens=64, heads=32, dim=128)
    x, positions, cosines, sines = (*(cycled(v, tokens) for v in case.inputs[:2]), *case.inputs[2:])
    out = np.full(x.shape, np.nan, np.float32)
    benchmark.group = f"rope {tokens} tokens"
    benchmark(lambda: nk.rope(x, positions, cosines, sines, interleaved=interleaved, out=out, variant=variant))
    if interleaved:
        last = x[-2:], positions[-2:], cosines, sines
        expected = nk.rope(*last, interleaved=True, variant="ref")
        assert np.allclose(out[-2:], expected, rtol=1e-5, atol=1e-6)
    else:
        repeated(case, tokens).check(out)
    peaks.record(benchmark, peaks.moved(x.nbytes, out.nbytes))
