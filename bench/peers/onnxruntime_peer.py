"""onnxruntime: models of one node, inputs and output bound to memory, weights constant where they are for us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.peers.problem import Array, Peer, Problem, Runner

MICROSOFT = "com.microsoft"


def _version() -> str:
    import onnx
    import onnxruntime  # type: ignore[import-untyped]

    return f"{onnxruntime.__version__} (onnx {onnx.__version__})"


def _node(
    kind: str,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    shape: tuple[int, ...],
    dtype: Any = np.float32,
    *,
    domain: str = "",
    order: tuple[str, ...] = (),
    opset: int = 21,
    outputs: tuple[str, ...] = ("y",),
    **attributes: Any,
) -> Runner:
    """A session of one node.

    Args:
        kind: operator.
        inputs: given at every run.
        constants: known when the session is made, so that they may be prepacked.
        shape: of the output.
        dtype: of the output.
        domain: of the operator.
        order: of the operator's inputs, empty for one that is not given; by default inputs, then constants.
        opset: of the standard operators.
        outputs: of the operator, those after the first are ignored.
        **attributes: of the operator.
    """
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    node = helper.make_node(kind, list(order or (*inputs, *constants)), list(outputs), domain=domain, **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in inputs.items()}
    values = [helper.make_tensor_value_info(name, kinds[name], x.shape) for name, x in inputs.items()]
    result = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
    tensors = [numpy_helper.from_array(np.ascontiguousarray(x), name) for name, x in constants.items()]
    graph = helper.make_graph([node], "g", values, [result], tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding, out = session.io_binding(), np.empty(shape, dtype)
    for name, x in inputs.items():
        binding.bind_cpu_input(name, x)
    binding.bind_output("y", "cpu", 0, np.dtype(dtype), out.shape, out.ctypes.data)

    def run(held: Mapping[str, Array] = inputs) -> None:  # keeps the bound inputs alive
        session.run_with_iobinding(binding)

    return Runner(run, lambda _: out)


def _gemm(p: Problem) -> Mapping[str, Runner]:
    a, b = p.inputs["a"], p.inputs["b"]
    shape = (a.shape[0], b.shape[1])
    if p.options["layout"] == "NT":
        return {"": _node("Gemm", {"a": a, "b": b.T}, {}, shape, transB=1)}
    return {"": _node("MatMul", {"a": a, "b": b}, {}, shape)}


def _gemm_packed(p: Problem) -> Mapping[str, Runner]:
    a, b = p.inputs["a"], p.inputs["b"]
    return {"": _node("MatMul", {"a": a}, {"b": b}, (a.shape[0], b.shape[1]))}


def _qgemm(p: Problem) -> Mapping[str, Runner]:
    a, b = p.inputs["a"], p.inputs["b"]
    return {"": _node("MatMulInteger", {"a": a}, {"b": b}, (a.shape[0], b.shape[1]), np.int32)}


def _weight_gemm(p: Problem) -> Mapping[str, Runner]:
    x, q, scale = p.inputs.values()
    (k, n), group = q.shape, p.options["group"]
    codes = (q + 8).astype(np.uint8).T.reshape(n, k // group, group)
    nibbles = codes[..., ::2] | codes[..., 1::2] << 4
    level = 4 if p.options["compute"] == "int8" else 0
    attributes = dict(K=k, N=n, bits=4, block_size=group, accuracy_level=level)
    constants = {"b": nibbles, "s": np.ascontiguousarray(scale.T).ravel()}
    return {f"level {level}": _node("MatMulNBits", {"a": x}, constants, (len(x), n), domain=MICROSOFT, **attributes)}


def _attention(p: Problem) -> Mapping[str, Runner]:
    q, k, v = (p.inputs[name] for name in "qkv")
    causal = p.options["causal"]
    found = {"": _node("Attention", {"q": q, "k": k, "v": v}, {}, q.shape, opset=23, is_causal=int(causal))}
    if causal:
        found["gqa"] = _grouped_query(q, k, v)
    return found


def _grouped_query(q: Array, k: Array, v: Array) -> Runner:
    """GroupQueryAttention on a prompt without a past; heads lie beside each other in its rows."""
    heads, kv_heads, length = q.shape[1], k.shape[1], q.shape[2]
    operands = {"q": q, "k": k, "v": v}
    rows = {name: np.ascontiguousarray(x[0].swapaxes(0, 1)).reshape(1, length, -1) for name, x in operands.items()}
    constants = {"last": np.array([length - 1], np.int32), "total": np.array([length], np.int32)}
    runner = _node(
        "GroupQueryAttention",
        rows,
        constants,
        rows["q"].shape,
        domain=MICROSOFT,
        order=("q", "k", "v", "", "", "last", "total"),
        outputs=("y", "present_key", "present_value"),
        num_heads=heads,
        kv_num_heads=kv_heads,
    )
    return Runner(runner.run, lambda y: runner.read(y).reshape(1, length, heads, -1).swapaxes(1, 2))


def _rows(kind: str, *, domain: str = "", **attributes: Any) -> Callable[[Problem], Mapping[str, Runner]]:
    def make(p: Problem) -> Mapping[str, Runner]:
        x = p.inputs["x"]
        weights = {name: w for name, w in p.inputs.items() if name != "x"}
        return {"": _node(kind, {"x": x}, weights, x.shape, domain=domain, opset=20, **attributes)}

    return make


def _rope(p: Problem) -> Mapping[str, Runner]:
    x, positions, cosines, sines = p.inputs.values()
    tokens, heads = x.shape[:2]
    inputs = {"x": x.reshape(1, tokens, -1), "positions": positions.reshape(1, -1).astype(np.int64)}
    constants = {"cosines": cosines, "sines": sines}
    return {"": _node("RotaryEmbedding", inputs, constants, (1, tokens, x[0].size), domain=MICROSOFT, num_heads=heads)}


def _conv(p: Problem) -> Mapping[str, Runner]:
    """Channels first, the only order that it has."""
    x, w = p.inputs["x"], p.inputs["w"]
    image, pad = np.ascontiguousarray(x.transpose(0, 3, 1, 2)), p.options["padding"]
    weight = {"w": w.transpose(3, 2, 0, 1)}
    shape = (x.shape[0], w.shape[3], *x.shape[1:3])
    runner = _node("Conv", {"x": image}, weight, shape, pads=[pad] * 4, group=p.options["groups"])
    return {"": Runner(runner.run, lambda y: runner.read(y).transpose(0, 2, 3, 1))}


PEER = Peer(
    "onnxruntime",
    _version,
    {
        "gemm": _gemm,
        "gemm packed": _gemm_packed,
        "qgemm": _qgemm,
        "weight_gemm": _weight_gemm,
        "attention": _attention,
        "layernorm": _rows("LayerNormalization", axis=-1),
        "rmsnorm": _rows("SimplifiedLayerNormalization", axis=-1, epsilon=1e-6),
        "softmax": _rows("Softmax", axis=-1),
        "gelu": _rows("Gelu"),
        "gelu_tanh": _rows("Gelu", approximate="tanh"),
        "silu": _rows("QuickGelu", domain=MICROSOFT, alpha=1.0),
        "rope": _rope,
        "conv2d": _conv,
    },
)
