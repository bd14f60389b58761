"""How fast is attention, per variant and format of keys and values?

    pytest bench/test_bench_attention.py

Each result carries GFLOP/s (prefill) or GB/s of keys and values (decode) and the fraction of the measured peak:
multiply-adds, or reading keys and values where that takes longer. Every timed output is checked: against the proven
bound, or the ``ref`` variant. Other libraries: ``python -m bench.peers --op attention``.
"""

import numpy as np
import pytest

import npukernels as nk
from bench import peaks

VARIANTS = [v for v in nk.variants("attention") if v != "ref"]
PREFILL = [(8, 2, 256, 128), (8, 2, 512, 128), (8, 2, 1024, 128), (8, 2, 2048, 128), (8, 8, 512, 64)]
DECODE = [(32, 8, 512), (32, 8, 2048), (32, 8, 8192), (32, 8, 32768), (8, 8, 32768)]
KEPT = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8, "fp8": np.uint8}


def _operands(heads, kv_heads, queries, keys, dim):
    rng = np.random.default_rng(1)
    shapes = (1, heads, queries, dim), (1, kv_heads, keys, dim), (1, kv_heads, keys, dim)
    return [rng.random(shape, np.float32) - np.float32(0.5) for shape in shapes]


def _close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6)


def _prefill_work(heads, keys, dim, k, v):
    return peaks.Work(2.0 * heads * keys * keys * dim, read_bytes=float(k.nbytes + v.nbytes))


def _decode_work(q, k, v):
    read = float(k.nbytes + v.nbytes)
    return peaks.Work(4.0 * q.size * k.shape[2], read_bytes=read, unit="GB/s", amount=read)


@pytest.mark.parametrize("shape", PREFILL, ids=str)
def test_prefill(benchmark, shape):
    heads, kv_heads, length, dim = shape
    q, k, v = _operands(heads, kv_heads, length, length, dim)
    out = np.full(q.shape, np.nan, np.float32)

    benchmark(lambda: nk.attention(q, k, v, causal=True, out=out))

    for row in range(length)[:: max(1, length // 8)]:
        seen = slice(row + 1)
        _close(
            out[:, :, row : row + 1], nk.attention(q[:, :, row : row + 1], k[:, :, seen], v[:, :, seen], variant="ref")
        )
    peaks.record(benchmark, _prefill_work(heads, length, dim, k, v))


@pytest.mark.parametrize("shape", DECODE, ids=str)
def test_decode(benchmark, shape):
    heads, kv_heads, keys = shape
    operands = _operands(heads, kv_heads, 1, keys, 128)
    out = np.full(operands[0].shape, np.nan, np.float32)

    benchmark(lambda: nk.attention(*operands, out=out))

    _close(out, nk.attention(*operands, variant="ref"))
    peaks.record(benchmark, _decode_work(*operands))


@pytest.mark.parametrize("kv_format", KEPT)
@pytest.mark.parametrize("heads", [8, 32])
def test_decode_by_format(benchmark, kv_format, heads):
    q, k, v = _operands(heads, 8, 1, 8192, 128)
    if kv_format in ("int8", "fp8"):  # fp8: any codes below that of NaN
        k, v = ((x + np.float32(0.5)) * 100 for x in (k, v))
    k, v = k.astype(KEPT[kv_format]), v.astype(KEPT[kv_format])
    scale = 0.01 if kv_format in ("int8", "fp8") else None
    out = np.full(q.shape, np.nan, np.float32)

    benchmark(lambda: nk.attention(q, k, v, scale, scale, out=out))

    _close(out, nk.attention(q, k, v, scale, scale, variant="ref"))
    peaks.record(benchmark, _decode_work(q, k, v))


@pytest.mark.parametrize("page", [16, 64])
def test_paged_decode(benchmark, page):
    """One token of 4 sequences whose pages are shuffled."""
    rng = np.random.default_rng(2)
    length = 2048
    pages = 4 * length // page
    k, v = (rng.random((pages, page, 8, 128), np.float32) - np.float32(0.5) for _ in range(2))
    q = rng.random((4, 32, 1, 128), np.float32) - np.float32(0.5)
    table = rng.permutation(pages).astype(np.int32).reshape(4, -1)
    lengths, out = np.full(4, length, np.int32), np.full(q.shape, np.nan, np.float32)

    benchmark(lambda: nk.paged_attention(q, k, v, table, lengths, out=out))

    _close(out, nk.paged_attention(q, k, v, table, lengths, variant="ref"))
    read = float(k.nbytes + v.nbytes)
    peaks.record(benchmark, peaks.Work(4.0 * q.size * length, read_bytes=read, unit="GB/s", amount=read))


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(benchmark, variant, window):
    sizes = {"heads": 4, "kv_heads": 2, "seq_q": 128, "seq_kv": 128, "head_dim": 64, "v_head_dim": 64, "causal": 1}
    case = nk.golden("attention", **sizes, **({"window": window} if window else {}))
    out = np.full(case.expected.shape, np.nan, np.float32)
    options = dict(case.params)
    nk.attention(*case.inputs, out=out, variant=variant, **options)  # numba compiles
    benchmark.group = f"attention 4/2 heads, 128 causal, d 64, window {window}"

    benchmark(lambda: nk.attention(*case.inputs, out=out, variant=variant, **options))

    nk.check(out, case).raise_for_status()
    pairs = sum(min(row + 1, window or 128) for row in range(128))
    peaks.record(benchmark, peaks.Work(4.0 * 4 * pairs * 64))
