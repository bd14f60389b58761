"""How fast are the quantised products, per variant, and against onnxruntime where it is installed?

Run serially: ``pytest bench/test_bench_qgemm.py``. Each result carries GOP/s, and the fraction of the rate that this
CPU reaches on a product that fits its caches (192 x 512 x 512). Every timed output is checked. The comparisons time
peer and own kernel in turn within one process. onnxruntime's AVX2 kernel for u8 x s8 saturates pairs of products at
16 bits: the share of its outputs that are wrong is reported beside its speed.
"""

import time

import numpy as np
import pytest

import npukernels as nk

SHAPES = [(64, 64, 64), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (127, 129, 255)]
SHAPES += [(1, 4096, 4096), (16, 4096, 4096), (128, 4096, 4096)]
WEIGHTS = [(1, 4096, 4096), (8, 4096, 4096), (128, 4096, 4096)]
BEST = nk.variants("qgemm")[-1]


def _qgemm_case(m, n, k, dtype):
    case = nk.golden("qgemm", m=m, n=n, k=k, a_unsigned=int(dtype == "uint8"), dtype="int8", seed=k)
    a, b = case.inputs
    return case, a, b, nk.prepack_int8(b), np.empty((m, n), np.int32)


def _best(run, rounds):
    seconds = np.empty(rounds)
    for i in range(rounds):
        start = time.perf_counter()
        run()
        seconds[i] = time.perf_counter() - start
    return float(seconds.min())


@pytest.fixture(scope="module")
def cached_rate():
    _, a, _, packed, out = _qgemm_case(192, 512, 512, "uint8")
    return 2 * 192 * 512 * 512 / _best(lambda: nk.qgemm(a, packed, out=out), 30)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", [v for v in nk.variants("qgemm") if v.startswith("c-")])
def test_qgemm(benchmark, cached_rate, variant, shape):
    if variant == "c-generic" and shape[0] * shape[1] * shape[2] > 2**28:
        pytest.skip("seconds per call")
    case, a, _, packed, out = _qgemm_case(*shape, "uint8")
    benchmark.group = f"qgemm {shape}"

    benchmark(lambda: nk.qgemm(a, packed, out=out, variant=variant))

    assert np.array_equal(out, case.expected)
    if benchmark.stats:
        rate = 2 * np.prod(shape) / benchmark.stats.stats.min
        benchmark.extra_info.update(gops_best=rate / 1e9, of_cached_rate=rate / cached_rate)


@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_weight_gemm(benchmark, compute, shape):
    m, n, k = shape
    case = nk.golden("weight_gemm", m=m, n=n, k=k, group=128, dtype="int4", seed=1)
    x, q, scale = case.inputs
    weight, out = nk.prepack_weight(q, scale, group=128), np.empty((m, n), np.float32)
    benchmark.group = f"weight_gemm {shape}"

    benchmark(lambda: nk.weight_gemm(x, weight, compute=compute, out=out))

    if compute == "fp32":
        assert (np.abs(out - case.expected) <= case.bound).all()
    else:
        assert np.array_equal(out, nk.weight_gemm(x, weight, compute=compute, variant="c-generic"))
    if benchmark.stats:
        seconds = benchmark.stats.stats.min
        benchmark.extra_info.update(gflops_best=2 * m * n * k / seconds / 1e9, weight_gb_s=n * k / 2 / seconds / 1e9)


def _session(node, inputs, output, constants):
    ort, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    make, tensors = onnx.helper, [onnx.numpy_helper.from_array(x, name) for name, x in constants.items()]
    values = [make.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(d), None) for name, d in inputs]
    result = make.make_tensor_value_info("y", onnx.helper.np_dtype_to_tensor_dtype(np.dtype(output)), None)
    domains = [make.make_opsetid("", 17), make.make_opsetid("com.microsoft", 1)]
    model = make.make_model(make.make_graph([node], "g", values, [result], tensors), opset_imports=domains)
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _interleaved(runners, rounds):
    seconds = np.empty((len(runners), rounds))
    for i in range(rounds):
        for j, run in enumerate(runners):
            start = time.perf_counter()
            run()
            seconds[j, i] = time.perf_counter() - start
    return seconds


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_qgemm_ratio_to_onnxruntime(benchmark, dtype, shape):
    onnx = pytest.importorskip("onnx")
    case, a, b, packed, out = _qgemm_case(*shape, dtype)
    node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    session = _session(node, [("a", np.dtype(dtype))], "int32", {"b": b})
    peer = []
    runners = [lambda: nk.qgemm(a, packed, out=out), lambda: peer.append(session.run(None, {"a": a})[0])]

    rounds = max(3, min(300, int(1e9 / np.prod(shape))))
    seconds = benchmark.pedantic(_interleaved, args=(runners, rounds), rounds=1, iterations=1)

    assert np.array_equal(out, case.expected)
    best = seconds.min(axis=1)
    benchmark.extra_info.update(
        variant=BEST,
        gops_best=2 * np.prod(shape) / best[0] / 1e9,
        ratio_of_best=best[1] / best[0],
        median_ratio=float(np.median(seconds[1] / seconds[0])),
        peer_wrong=float((peer[-1] != case.expected).mean()),
    )


@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize(("compute", "level"), [("fp32", 0), ("int8", 4)])
def test_weight_gemm_ratio_to_onnxruntime(benchmark, compute, level, group, shape):
    onnx = pytest.importorskip("onnx")
    m, n, k = shape
    rng = np.random.default_rng(1)
    codes, scale = rng.integers(0, 16, (k, n), np.uint8), rng.random((k // group, n), dtype=np.float32)
    weight = nk.prepack_weight((codes - np.uint8(8)).view(np.int8), scale, group=group)
    nibbles = codes.T.reshape(n, k // group, group)
    constants = {"b": nibbles[..., ::2] | nibbles[..., 1::2] << 4, "s": np.ascontiguousarray(scale.T).ravel()}
    attributes = dict(domain="com.microsoft", K=k, N=n, bits=4, block_size=group, accuracy_level=level)
    node = onnx.helper.make_node("MatMulNBits", ["a", "b", "s"], ["y"], **attributes)
    session = _session(node, [("a", np.dtype("float32"))], "float32", constants)
    x, out, peer = rng.standard_normal((m, k)).astype(np.float32), np.empty((m, n), np.float32), []
    runners = [
        lambda: nk.weight_gemm(x, weight, compute=compute, out=out),
        lambda: peer.append(session.run(None, {"a": x})[0]),
    ]

    rounds = max(3, min(40, int(3e9 / np.prod(shape))))
    seconds = benchmark.pedantic(_interleaved, args=(runners, rounds), rounds=1, iterations=1)

    assert np.abs(out - peer[-1]).max() <= 0.02 * np.abs(out).max()
    best = seconds.min(axis=1)
    benchmark.extra_info.update(
        gflops_best=2 * m * n * k / best[0] / 1e9,
        ratio_of_best=best[1] / best[0],
        median_ratio=float(np.median(seconds[1] / seconds[0])),
    )
