"""How fast are the ops on rows and elements, against copying the same bytes, NumPy and onnxruntime?

Each result carries GB/s (bytes read and written once), the share of the copy bandwidth of the same run, and the ratio
to each peer, all from interleaved rounds of the thread's CPU time; every timed output is checked against its bound.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

import npukernels as nk

SHAPES = [(1, 4096), (16, 4096), (128, 1024), (2048, 4096)]
OPS = ("layernorm", "rmsnorm", "softmax", "gelu", "gelu_tanh", "silu")


def _ours(op, case, out, variant=None):
    if op == "gelu_tanh":
        return lambda: nk.gelu(*case.inputs, approximate="tanh", out=out, variant=variant)
    return lambda: getattr(nk, op)(*case.inputs, out=out, variant=variant)


def _numpy(op, case, out):
    """The shortest float32 NumPy of the op; gelu needs erf, which NumPy lacks."""
    x, *weights = case.inputs

    def layernorm():
        d = x - x.mean(axis=-1, keepdims=True)
        np.multiply(d / np.sqrt(np.mean(d * d, axis=-1, keepdims=True) + np.float32(1e-5)), weights[0], out=out)
        np.add(out, weights[1], out=out)

    def rmsnorm():
        np.multiply(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-6)), weights[0], out=out)

    def softmax():
        np.exp(x - x.max(axis=-1, keepdims=True), out=out)
        np.divide(out, out.sum(axis=-1, keepdims=True), out=out)

    def gelu_tanh():
        t = np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x))
        np.multiply(np.float32(0.5) * x, t + np.float32(1), out=out)

    def silu():
        np.divide(x, np.float32(1) + np.exp(-x), out=out)

    return {"layernorm": layernorm, "rmsnorm": rmsnorm, "softmax": softmax, "gelu_tanh": gelu_tanh, "silu": silu}.get(
        op
    )


def _onnxruntime(op, case, out):
    """A session with its operands bound, where onnxruntime and onnx are installed."""
    try:
        import onnxruntime as ort
        from onnx import TensorProto, helper
    except ImportError:
        return None
    kind, domain, attributes = {
        "layernorm": ("LayerNormalization", "", {"axis": -1}),
        "rmsnorm": ("SimplifiedLayerNormalization", "", {"axis": -1}),
        "softmax": ("Softmax", "", {"axis": -1}),
        "gelu": ("Gelu", "", {}),
        "gelu_tanh": ("Gelu", "", {"approximate": "tanh"}),
        "silu": ("QuickGelu", "com.microsoft", {"alpha": 1.0}),
    }[op]
    names = [f"x{i}" for i in range(len(case.inputs))]
    node = helper.make_node(kind, names, ["y"], domain=domain, **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*names, "y")]
    graph = helper.make_graph([node], "g", values[:-1], values[-1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    model = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in zip(names, case.inputs, strict=True):
        binding.bind_cpu_input(name, value)
    binding.bind_output("y", "cpu", 0, np.float32, out.shape, out.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def _interleaved(runners, rounds, calls):
    """Times ``calls`` calls of every runner once per round; returns CPU seconds of a call, shape (runner, round)."""
    seconds = np.empty((len(runners), rounds))
    for i in range(rounds):
        for j, run in enumerate(runners):
            start = time.thread_time()
            for _ in range(calls):
                run()
            seconds[j, i] = (time.thread_time() - start) / calls
    return seconds


def _report(benchmark, runners, bytes_moved):
    calls = max(1, int(1e6 / bytes_moved))
    rounds = max(9, min(300, int(3e8 / (bytes_moved * calls))))
    seconds = benchmark.pedantic(_interleaved, args=([*runners.values()], rounds, calls), rounds=1, iterations=1)
    best = dict(zip(runners, seconds.min(axis=1), strict=True))
    benchmark.extra_info.update({f"gb_per_s_{name}": bytes_moved / 1e9 / s for name, s in best.items()})
    benchmark.extra_info.update(
        {f"ratio_to_{name}": float(np.median(seconds[i] / seconds[0])) for i, name in enumerate(runners) if i}
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_rows(benchmark, op, shape):
    if op in ("layernorm", "rmsnorm", "softmax"):
        case = nk.golden(op, rows=shape[0], n=shape[1])
    else:
        case = nk.golden(op, n=shape[0] * shape[1])
    ours, theirs = np.empty_like(case.inputs[0]), np.empty_like(case.inputs[0])
    runners = {
        "ours": _ours(op, case, ours),
        "copy": lambda: np.copyto(theirs, case.inputs[0]),
        "numpy": _numpy(op, case, theirs),
        "onnxruntime": _onnxruntime(op, case, theirs),
    }
    _report(benchmark, {name: run for name, run in runners.items() if run}, 2 * ours.nbytes)
    nk.check(ours, case).raise_for_status()


@pytest.mark.parametrize("tokens", [64, 2048])
def test_rope(benchmark, tokens):
    """32 heads of 128."""
    case = nk.golden("rope", tokens=tokens, heads=32, dim=128)
    x, positions, cosines, sines = case.inputs
    ours, theirs = np.empty_like(x), np.empty_like(x)

    def eager():
        c, s = cosines[positions][:, None, :], sines[positions][:, None, :]
        x1, x2 = x[..., :64], x[..., 64:]
        theirs[..., :64], theirs[..., 64:] = x1 * c - x2 * s, x2 * c + x1 * s

    runners = {
        "ours": lambda: nk.rope(*case.inputs, out=ours),
        "copy": lambda: np.copyto(theirs, x),
        "numpy": eager,
    }
    _report(benchmark, runners, 2 * x.nbytes)
    nk.check(ours, case).raise_for_status()
