"""How fast is attention, per variant, against NumPy, onnxruntime and the machine's limits?

Run serially:

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 pytest bench/test_bench_attention.py

Times are of the thread's CPU, for one thread; all runners of a test take turns within one process, so that their
ratios hold on a machine whose clock is not steady. Every timed output is checked: small shapes against the
proven bound, large ones against the ``ref`` variant on a sample of rows.
"""

import time

import numpy as np
import pytest

import npukernels as nk

BEST = nk.variants("attention")[-1]
PREFILL = [(8, 2, 256, 128), (8, 2, 512, 128), (8, 2, 1024, 128), (8, 2, 2048, 128), (8, 8, 512, 64)]
DECODE = [(32, 8, 512), (32, 8, 2048), (32, 8, 8192), (32, 8, 32768), (8, 8, 32768)]


def _interleaved(runners, rounds):
    """Times every runner once per round; returns CPU seconds, shape (runner, round)."""
    seconds = np.empty((len(runners), rounds))
    for run in runners:
        run()
    for i in range(rounds):
        for j, run in enumerate(runners):
            start = time.thread_time()
            run()
            seconds[j, i] = time.thread_time() - start
    return seconds


def _operands(heads, kv_heads, seq_q, seq_kv, dim):
    rng = np.random.default_rng(1)
    shapes = (1, heads, seq_q, dim), (1, kv_heads, seq_kv, dim), (1, kv_heads, seq_kv, dim)
    return [rng.random(shape, dtype=np.float32) - np.float32(0.5) for shape in shapes]


def _numpy(q, k, v, causal):
    """Two batched products and a softmax, the heads of a group as rows of one product."""
    kv_heads, group, (seq_q, dim), seq_kv = k.shape[1], q.shape[1] // k.shape[1], q.shape[2:], k.shape[2]
    rows = q.reshape(kv_heads, group * seq_q, dim) * np.float32(dim**-0.5)
    keys, values = k[0].swapaxes(1, 2), v[0]
    hidden = np.triu(np.ones((seq_q, seq_kv), bool), 1 + seq_kv - seq_q)

    def run():
        s = rows @ keys
        if causal:
            s.reshape(kv_heads, group, seq_q, seq_kv)[:, :, hidden] = -np.inf
        s -= s.max(axis=-1, keepdims=True)
        np.exp(s, out=s)
        s /= s.sum(axis=-1, keepdims=True)
        return (s @ values).reshape(1, kv_heads * group, seq_q, dim)

    return run


def _onnxruntime(q, k, v, causal):
    """The Attention operator of opset 23; None where the packages are missing."""
    try:
        import onnxruntime as ort
        from onnx import TensorProto, helper
    except ImportError:
        return None
    names = dict(zip("qkv", (q, k, v), strict=True))
    node = helper.make_node("Attention", list(names), ["y"], is_causal=int(causal))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in names.items()]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, names)[0]


def _peers(operands, causal):
    peers = {"numpy": _numpy(*operands, causal), "onnxruntime": _onnxruntime(*operands, causal)}
    return {name: run for name, run in peers.items() if run}


def _close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6)


def _report(benchmark, names, seconds, work, unit):
    benchmark.extra_info["variant"] = BEST
    for name, times in zip(names, seconds, strict=True):
        benchmark.extra_info[f"{unit}_{name}"] = work / 1e9 / times.min()
        if name != "ours":
            benchmark.extra_info[f"ratio_to_{name}"] = times.min() / seconds[0].min()
            benchmark.extra_info[f"median_ratio_to_{name}"] = float(np.median(times / seconds[0]))


@pytest.mark.parametrize("shape", PREFILL, ids=str)
def test_prefill(benchmark, shape):
    heads, kv_heads, seq, dim = shape
    operands = _operands(heads, kv_heads, seq, seq, dim)
    out = np.full(operands[0].shape, np.nan, np.float32)
    peers = _peers(operands, causal=True)
    runners = [lambda: nk.attention(*operands, causal=True, out=out), *peers.values()]

    seconds = benchmark.pedantic(_interleaved, args=(runners, 5), rounds=1, iterations=1)

    rows = slice(None, None, max(1, seq // 8))
    for row in range(seq)[rows]:
        q, k, v = operands[0][:, :, row : row + 1], *(x[:, :, : row + 1] for x in operands[1:])
        _close(out[:, :, row : row + 1], nk.attention(q, k, v, variant="ref"))
    _report(benchmark, ["ours", *peers], seconds, 2 * heads * seq * seq * dim, "gflops")


@pytest.mark.parametrize("shape", DECODE, ids=str)
def test_decode(benchmark, shape):
    heads, kv_heads, seq_kv = shape
    operands = _operands(heads, kv_heads, 1, seq_kv, 128)
    out = np.full(operands[0].shape, np.nan, np.float32)
    peers = _peers(operands, causal=False)
    runners = [lambda: nk.attention(*operands, out=out), *peers.values()]

    seconds = benchmark.pedantic(_interleaved, args=(runners, 7), rounds=1, iterations=1)

    _close(out, nk.attention(*operands, variant="ref"))
    _report(benchmark, ["ours", *peers], seconds, operands[1].nbytes + operands[2].nbytes, "gbs")


@pytest.mark.parametrize("kv_format", ["fp32", "fp16", "int8", "fp8"])
@pytest.mark.parametrize("heads", [8, 32])
def test_decode_against_memory(benchmark, kv_format, heads):
    """The share of the bandwidth at which NumPy reads the same keys and values once (bitwise or)."""
    q, k, v = _operands(heads, 8, 1, 32768, 128)
    kind = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8, "fp8": np.uint8}[kv_format]
    if kv_format in ("int8", "fp8"):
        k, v = ((x + np.float32(0.5)) * 100 for x in (k, v))
    k, v = k.astype(kind), v.astype(kind)
    out = np.full(q.shape, np.nan, np.float32)
    words = [x.view(np.int64).ravel() for x in (k, v)]
    scale = None if kv_format in ("fp32", "fp16") else 0.01
    runners = [
        lambda: nk.attention(q, k, v, scale, scale, out=out),
        lambda: [np.bitwise_or.reduce(x) for x in words],
    ]

    seconds = benchmark.pedantic(_interleaved, args=(runners, 9), rounds=1, iterations=1)

    _close(out, nk.attention(q, k, v, scale, scale, variant="ref"))
    _report(benchmark, ["ours", "read"], seconds, k.nbytes + v.nbytes, "gbs")


@pytest.mark.parametrize("variant", [v for v in nk.variants("attention") if v != "ref"])
def test_variant(benchmark, variant):
    sizes = {"heads": 4, "kv_heads": 2, "seq_q": 128, "seq_kv": 128, "head_dim": 64, "v_head_dim": 64, "causal": 1}
    case = nk.golden("attention", **sizes)
    out = np.full(case.expected.shape, np.nan, np.float32)
    options = dict(case.params)
    nk.attention(*case.inputs, out=out, variant=variant, **options)
    benchmark.group = "attention 4/2 heads, 128 causal, d 64"

    benchmark(lambda: nk.attention(*case.inputs, out=out, variant=variant, **options))

    nk.check(out, case).raise_for_status()
    if benchmark.stats:  # absent under --benchmark-disable
        benchmark.extra_info["gflops_best"] = 2 * 4 * 128 * 128 * 64 / 1e9 / benchmark.stats.stats.min
