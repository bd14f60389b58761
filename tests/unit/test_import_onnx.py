"""ONNX graphs built here against FLOPs and bytes worked out by hand, and against ONNX's own node cases."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npusim.errors import InputError
from npusim.importers.onnx_graph import FREE, LOWER, import_onnx
from npusim.ops import ELEMENTWISE
from npusim.workload import Workload

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")
FLOAT, INT64, INT8, FP16 = 1, 7, 3, 10
Shapes = dict[str, Sequence[int | str]]


def weight(name: str, *shape: int, kind: int = FLOAT) -> Any:
    """An initializer without payload: it must not be needed."""
    tensor = onnx.TensorProto()
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(shape)
    tensor.raw_data = bytes(math.prod(shape) * {FLOAT: 4, INT64: 8, INT8: 1, FP16: 2}[kind])
    return tensor


def numbers(name: str, *values: int) -> Any:
    return helper.make_tensor(name, INT64, [len(values)], values)


def build(
    nodes: Sequence[Any], inputs: Shapes, outputs: Sequence[str], weights: Sequence[Any] = (), *, opset: int = 23,
    kinds: dict[str, int] | None = None, domains: Sequence[str] = (),
) -> Any:  # fmt: skip
    kinds = kinds or {}
    ins = [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), list(shape)) for n, shape in inputs.items()]
    outs = [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), None) for name in outputs]
    graph = helper.make_graph(list(nodes), "net", ins, outs, list(weights))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture
def load(tmp_path: Path):
    def call(
        nodes: Sequence[Any], inputs: Shapes, outputs: Sequence[str], weights: Sequence[Any] = (), *,
        how: dict[str, Any] | None = None, **more: Any,
    ) -> Workload:  # fmt: skip
        file = tmp_path / "net.onnx"
        file.write_bytes(build(nodes, inputs, outputs, weights, **more).SerializeToString())
        return import_onnx(file, **(how or {}))

    return call


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


# -- whole networks ------------------------------------------------------------------------------------------


def test_mlp(load):
    net = load(
        [node("Gemm", "x w1 b1", "h", transB=1), node("Relu", "h", "r"), node("MatMul", "r w2", "y")],
        {"x": ["batch", 8]}, ["y"], [weight("w1", 16, 8), weight("b1", 16), weight("w2", 16, 4)],
        how={"dims": {"batch": 5}},
    )  # fmt: skip

    assert [op.kind for op in net.ops] == ["gemm", "elementwise", "gemm"]
    assert net.flops == 2 * 5 * 8 * 16 + 2 * 5 * 16 * 4
    assert net.bytes("weight") == 4 * (8 * 16 + 16 + 16 * 4)
    assert net.bytes("io") == 4 * (5 * 8 + 5 * 4)
    assert net.bytes("act") == 4 * (5 * 16) * 4  # h and r, each written and read
    assert net.info["unpriced"] == {}
    assert net.info["dims"] == {"batch": 5}


def test_residual_block(load):
    net = load(
        [
            node("Conv", "x w1", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("BatchNormalization", "a s s s v", "n"), node("Relu", "n", "r"),
            node("Conv", "r w2", "b", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Conv", "x w3", "d", strides=[2, 2]),
            node("Add", "b d", "sum"), node("Relu", "sum", "out"), node("GlobalAveragePool", "out", "p"),
            node("Flatten", "p", "f"), node("Gemm", "f fc", "y"),
        ],
        {"x": [2, 16, 8, 8]}, ["y"],
        [weight("w1", 32, 16, 3, 3), weight("w2", 32, 32, 3, 3), weight("w3", 32, 16, 1, 1), weight("fc", 32, 10),
         weight("s", 32), weight("v", 32)],
    )  # fmt: skip

    pixels = 2 * 4 * 4
    assert net.flops == 2 * pixels * 32 * (16 * 9 + 32 * 9 + 16) + 2 * 2 * 32 * 10
    weights = 32 * 16 * 9 + 32 * 32 * 9 + 32 * 16 + 32 * 10
    assert net.bytes("weight") == 4 * weights
    # x is read whole by the 3×3 convolution and every second pixel of it by the 1×1 one.
    assert net.bytes("io") == 4 * (2 * 16 * 64 + 2 * 16 * 16 + 2 * 10)
    assert [op.function for op in net.ops if op.kind == "elementwise"] == ["relu", "relu", "add", "relu", "relu"]
    assert net.info["free"] == {"Flatten": 1}


def bert_attention() -> tuple[list[Any], list[Any]]:
    nodes, weights = [], [numbers("heads", 1, 12, 4, 8), numbers("joined", 1, 12, 32), weight("scale", 1)]
    for name in "qkv":
        nodes += [
            node("MatMul", f"x w{name}", f"{name}0"), node("Add", f"{name}0 b{name}", f"{name}1"),
            node("Reshape", f"{name}1 heads", f"{name}2"),
            node("Transpose", f"{name}2", name, perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]  # fmt: skip
        weights += [weight(f"w{name}", 32, 32), weight(f"b{name}", 32)]
    nodes += [
        node("MatMul", "q k", "s0"), node("Div", "s0 scale", "s1"), node("Softmax", "s1", "s"),
        node("MatMul", "s v", "o0"), node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]),
        node("Reshape", "o1 joined", "o2"), node("MatMul", "o2 wo", "o3"), node("Add", "o3 x", "o4"),
        node("LayerNormalization", "o4 g b", "y"),
    ]  # fmt: skip
    return nodes, [*weights, weight("wo", 32, 32), weight("g", 32), weight("b", 32)]


def test_attention_out_of_products(load):
    nodes, weights = bert_attention()

    net = load(nodes, {"x": [1, 12, 32]}, ["y"], weights)

    assert net.flops == 4 * 2 * 12 * 32 * 32 + 2 * (2 * 4 * 12 * 12 * 8)
    assert net.info["free"] == {"Reshape": 4, "Transpose": 4}
    scores = next(op for op in net.ops if op.kind == "gemm" and op.dims["groups"] == 4)
    assert {o.name: o.role for o in scores.operands} == {"a": "act", "b": "act", "out": "act"}
    (soft,) = (op for op in net.ops if op.kind == "softmax")
    assert (soft.dims["rows"], soft.dims["cols"]) == (4 * 12, 12)
    (norm,) = (op for op in net.ops if op.kind == "norm")
    assert (norm.function, norm.dims["rows"], norm.dims["cols"], norm.role("out", "")) == ("layernorm", 12, 32, "io")
    bias, residual = (op for op in net.ops if op.name in ("q1", "o4"))
    assert bias.bytes() == 2 * 4 * 12 * 32  # the bias row is not counted
    assert residual.bytes() == 3 * 4 * 12 * 32


def test_attention_operator_with_groups_of_queries(load):
    shapes = {"q": [2, 8, 16, 64], "k": [2, 2, 16, 64], "v": [2, 2, 16, 32]}
    (op,) = load([node("Attention", "q k v", "y", is_causal=1)], shapes, ["y"]).ops

    assert op.kind == "attention"
    assert op.flops == 2 * 2 * 8 * (16 * 17 // 2) * (64 + 32)
    elements = {o.name: o.elements for o in op.operands}
    assert elements == {"q": 2 * 8 * 16 * 64, "kv_new": 2 * 2 * 16 * 96, "kv_read": 0, "kv_write": 0,
                        "out": 2 * 8 * 16 * 32}  # fmt: skip


def test_attention_operator_over_a_cache(load):
    shapes = {"q": [1, 1, 512], "k": [1, 1, 128], "v": [1, 1, 128], "pk": [1, 2, 99, 64], "pv": [1, 2, 99, 64]}
    attention = node("Attention", "q k v  pk pv".replace("  ", " "), "y nk nv", q_num_heads=8, kv_num_heads=2)
    attention.input.insert(3, "")
    (op,) = load([attention], shapes, ["y", "nk", "nv"]).ops

    assert (op.dims["past"], op.dims["seq_q"], op.dims["heads"], op.dims["kv_heads"]) == (99, 1, 8, 2)
    assert op.flops == 2 * 8 * 100 * 128
    assert op.bytes("kv") == 4 * (99 + 1) * 2 * 128


def test_cross_attention_with_more_and_with_fewer_keys(load):
    for keys, kinds in ((20, ["attention"]), (5, ["gemm", "softmax", "gemm"])):
        shapes = {"q": [1, 4, 10, 16], "k": [1, 2, keys, 16], "v": [1, 2, keys, 16]}
        net = load([node("Attention", "q k v", "y")], shapes, ["y"])
        assert [op.kind for op in net.ops] == kinds
        assert net.flops == 2 * 4 * 10 * keys * 32
        assert not net.bytes("kv")


def test_causal_mask_hides_keys_past_the_last_query(load):
    shapes = {"q": [1, 1, 4, 8], "k": [1, 1, 9, 8], "v": [1, 1, 9, 8]}
    net = load([node("Attention", "q k v", "y", is_causal=1)], shapes, ["y"])
    assert net.flops == 2 * 10 * 16


# -- products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([3, 4], [4, 5]),
        ([4], [4, 5]),
        ([3, 4], [4]),
        ([4], [4]),
        ([2, 3, 4], [4, 5]),
        ([3, 4], [7, 4, 5]),
        ([2, 8, 3, 4], [2, 8, 4, 5]),
        ([2, 8, 3, 4], [2, 1, 4, 5]),
        ([2, 1, 3, 4], [1, 8, 4, 5]),
        ([6, 1, 3, 4], [8, 4, 5]),
    ],
)
def test_matmul_counts_every_operand_once(load, a: list[int], b: list[int]):
    (op,) = load([node("MatMul", "a b", "y")], {"a": a, "b": b}, ["y"]).ops

    product = np.matmul(np.zeros(a), np.zeros(b))
    assert op.flops == 2 * product.size * 4
    elements = {o.name: o.elements for o in op.operands}
    assert elements == {"a": math.prod(a), "b": math.prod(b), "out": product.size}
    assert op.bytes("io") == op.bytes()


def test_constant_left_side_is_the_weight(load):
    (op,) = load([node("MatMul", "w x", "y")], {"x": [8, 5]}, ["y"], [weight("w", 3, 8)]).ops
    assert (op.dims["m"], op.dims["n"], op.dims["k"]) == (5, 3, 8)
    assert op.bytes("weight") == 4 * 24


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_transposed(load, trans_a: int, trans_b: int):
    shapes = {"a": [4, 3] if trans_a else [3, 4], "b": [5, 4] if trans_b else [4, 5], "c": [3, 5]}
    net = load([node("Gemm", "a b c", "y", transA=trans_a, transB=trans_b)], shapes, ["y"])
    assert net.flops == 2 * 3 * 4 * 5
    assert [op.kind for op in net.ops] == ["gemm", "elementwise"]  # a whole matrix is added, not a bias


@pytest.mark.parametrize(
    ("equation", "a", "b", "flops"),
    [("bhid,bhjd->bhij", [2, 3, 4, 5], [2, 3, 6, 5], 2 * 2 * 3 * 4 * 5 * 6), ("ij,jk->ki", [2, 3], [3, 4], 48),
     ("i,j->ij", [2], [3], 12)],
)  # fmt: skip
def test_einsum(load, equation: str, a: list[int], b: list[int], flops: int):
    net = load([node("Einsum", "a b", "y", equation=equation)], {"a": a, "b": b}, ["y"])
    assert net.flops == flops


def test_integer_products(load):
    kinds = {"a": INT8, "y": 6, "x": INT8, "c": 6}
    net = load(
        [node("MatMulInteger", "a b", "y"), node("ConvInteger", "x w", "c")], {"a": [3, 4], "x": [1, 2, 5, 5]},
        ["y", "c"], [weight("b", 4, 5, kind=INT8), weight("w", 3, 2, 3, 3, kind=INT8)], kinds=kinds,
    )  # fmt: skip
    product, conv = net.ops
    assert product.matrix_format == conv.matrix_format == "int8"
    assert product.bytes() == 12 + 20 + 4 * 15
    assert conv.flops == 2 * 9 * 3 * 18


# -- convolutions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "w", "attributes", "kind"),
    [
        ([2, 6, 9, 9], [4, 6, 3, 3], {}, "conv2d"),
        ([2, 6, 9, 9], [4, 6, 3, 3], {"pads": [1, 1, 1, 1], "strides": [2, 2]}, "conv2d"),
        ([2, 6, 9, 9], [4, 6, 3, 3], {"pads": [0, 0, 1, 1], "strides": [2, 2]}, "conv2d"),
        ([2, 6, 9, 8], [4, 6, 3, 2], {"pads": [1, 0, 1, 0]}, "conv2d"),
        ([2, 6, 9, 9], [4, 6, 3, 3], {"dilations": [2, 2]}, "conv2d"),
        ([2, 6, 9, 9], [4, 6, 3, 3], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "conv2d"),
        ([2, 6, 9, 9], [4, 6, 3, 3], {"strides": [2, 1]}, "gemm"),
        ([2, 6, 9, 9], [6, 1, 3, 3], {"group": 6}, "conv2d"),
        ([2, 6, 9, 9], [4, 3, 3, 3], {"group": 2}, "conv2d"),
        ([2, 6, 9], [4, 6, 3], {}, "conv2d"),
        ([2, 6, 9], [4, 6, 3], {"pads": [1, 1], "strides": [2]}, "conv2d"),
        ([2, 6, 9], [4, 6, 3], {"dilations": [3]}, "conv2d"),
        ([2, 6, 5, 5, 5], [4, 6, 3, 3, 3], {"pads": [1] * 6}, "gemm"),
    ],
)
def test_convolution_keeps_flops_weights_and_output(load, x, w, attributes: dict[str, Any], kind: str):
    (op,) = load([node("Conv", "x w", "y", **attributes)], {"x": x}, ["y"], [weight("w", *w)]).ops

    spatial = range(len(x) - 2)
    strides = attributes.get("strides", [1] * len(spatial))
    reach = [(w[2 + i] - 1) * attributes.get("dilations", [1] * 3)[i] + 1 for i in spatial]
    pads = attributes.get("pads", [0] * 2 * len(spatial))
    out = [(x[2 + i] + pads[i] + pads[len(spatial) + i] - reach[i]) // strides[i] + 1 for i in spatial]
    if "auto_pad" in attributes:
        out = [-(-x[2 + i] // strides[i]) for i in spatial]
    pixels = x[0] * math.prod(out) * w[0]
    assert op.kind == kind
    assert op.flops == 2 * pixels * math.prod(w[1:])
    assert op.bytes("weight") == 4 * math.prod(w)
    assert [o.elements for o in op.operands if o.write] == [pixels]


def test_transposed_convolution(load):
    (op,) = load([node("ConvTranspose", "x w", "y", strides=[2, 2])], {"x": [1, 6, 4, 4]}, ["y"],
                 [weight("w", 6, 3, 2, 2)]).ops  # fmt: skip
    assert op.flops == 2 * 16 * 6 * 3 * 4
    assert op.bytes("weight") == 4 * 6 * 3 * 4


# -- formats, roles, folding -------------------------------------------------------------------------------------


def test_formats_given_in_place_of_the_files(load):
    nodes, weights = bert_attention()
    net = load(nodes, {"x": [1, 12, 32]}, ["y"], weights, how={"weights": "int8", "activations": "fp8"})
    first = net.ops[0]
    assert first.formats == {"a": "fp8", "b": "int8", "out": "fp8"}
    assert first.bytes("weight") == 32 * 32


def test_dequantised_weights_keep_their_stored_format(load):
    net = load(
        [node("DequantizeLinear", "w s", "d"), node("Transpose", "d", "t"), node("MatMul", "x t", "y")],
        {"x": [3, 8]}, ["y"], [weight("w", 4, 8, kind=INT8), weight("s", 1)],
    )  # fmt: skip
    (op,) = net.ops
    assert op.matrix_format == "fp32"
    assert net.info["folded"] == {"DequantizeLinear": 1, "Transpose": 1}
    assert op.formats["b"] == "int8"
    assert op.bytes("weight") == 32


def test_folded_constants_are_weights(load):
    nodes = [node("Cast", "w", "c", to=FLOAT), node("MatMul", "x c", "y")]
    (op,) = load(nodes, {"x": [3, 8]}, ["y"], [weight("w", 8, 4, kind=FP16)], how={"activations": "bf16"}).ops
    assert op.formats == {"a": "bf16", "b": "fp32", "out": "bf16"}
    assert op.role("b", "") == "weight"
    (op,) = load(nodes, {"x": [3, 8]}, ["y"], [weight("w", 8, 4, kind=FP16)], how={"weights": "int4"}).ops
    assert op.formats == {"a": "fp32", "b": "int4", "out": "fp32"}


def test_an_embedding_reads_the_rows_it_gathers(load):
    (op,) = load([node("Gather", "table ids", "y")], {"ids": [2, 7]}, ["y"], [weight("table", 1000, 64)],
                 kinds={"ids": INT64}).ops  # fmt: skip
    assert op.kind == "embedding"
    assert op.bytes("weight") == 14 * 64 * 4 == op.bytes("io")


def test_what_is_computed_from_shapes_is_folded(load):
    net = load(
        [node("Shape", "x", "s"), node("Gather", "s zero", "b"), node("Concat", "b rest", "to", axis=0),
         node("Reshape", "x to", "r"), node("MatMul", "r w", "y")],
        {"x": ["n", 4, 4]}, ["y"], [numbers("zero", 0), numbers("rest", 16), weight("w", 16, 2)],
        how={"dims": {"n": 3}},
    )  # fmt: skip
    (op,) = net.ops
    assert (op.dims["m"], op.dims["k"]) == (3, 16)
    assert net.info["folded"] == {"Shape": 1, "Gather": 1, "Concat": 1}
    assert op.role("a", "") == "io"  # a view of an input is that input


def test_a_view_of_an_output_is_that_output(load):
    nodes = [node("MatMul", "x w", "h"), node("Reshape", "h to", "r"), node("Identity", "r", "y")]
    (op,) = load(nodes, {"x": [4, 8]}, ["y"], [weight("w", 8, 6), numbers("to", 24)]).ops
    assert op.role("out", "") == "io"


def test_copies_are_priced(load):
    (op,) = load([node("Concat", "a b", "y", axis=0)], {"a": [3, 4], "b": [5, 4]}, ["y"]).ops
    assert (op.kind, op.function, op.dims["n"]) == ("elementwise", "convert", 32)


def test_variadic_sums_count_each_further_operand(load):
    (op,) = load([node("Sum", "a b c", "y")], {n: [3, 4] for n in "abc"}, ["y"]).ops
    assert (op.function, op.count, op.dims["n"]) == ("add", 2, 12)


def test_scalar_operands_are_not_traffic(load):
    (op,) = load([node("Mul", "x s", "y")], {"x": [10, 10]}, ["y"], [weight("s", 1)]).ops
    assert op.bytes() == 2 * 400
    assert op.vector_ops == {"add": 100}


@pytest.mark.parametrize(("opset", "rows", "cols"), [(12, 2, 12), (13, 6, 4)])
def test_softmax_axis_changed_its_meaning(load, opset: int, rows: int, cols: int):
    axis = {"axis": 1} if opset == 12 else {}
    (op,) = load([node("Softmax", "x", "y", **axis)], {"x": [2, 3, 4]}, ["y"], opset=opset).ops
    assert (op.dims["rows"], op.dims["cols"]) == (rows, cols)


def test_empty_tensors_cost_nothing(load):
    net = load(
        [node("Concat", "past x", "all", axis=0), node("Relu", "past", "none"), node("MatMul", "all w", "y")],
        {"past": ["p", 4], "x": [3, 4]}, ["y", "none"], [weight("w", 4, 4)], how={"dims": {"p": 0}},
    )  # fmt: skip
    assert [op.kind for op in net.ops] == ["elementwise", "gemm"]
    assert net.info["free"] == {"Relu (empty)": 1}


# -- what has no price ---------------------------------------------------------------------------------------------


def test_unknown_operators_are_counted_with_their_reason(load):
    branch = helper.make_graph([node("Relu", "x", "z")], "b", [], [helper.make_tensor_value_info("z", FLOAT, [4])])
    net = load(
        [node("Mystery", "x", "m", domain="com.example"), node("Mystery", "x", "m2", domain="com.example"),
         node("If", "c", "i", then_branch=branch, else_branch=branch), node("NonZero", "x", "nz"),
         node("Cast", "nz", "f", to=FLOAT), node("Relu", "x", "y")],
        {"x": [4], "c": []}, ["y", "m", "i", "f"], kinds={"c": 9}, domains=["com.example"],
    )  # fmt: skip
    assert [op.name for op in net.ops] == ["y"]
    unpriced = net.info["unpriced"]
    assert unpriced["com.example.Mystery"] == {"count": 2, "reason": "a custom operator or a function of the model"}
    assert "subgraphs" in unpriced["If"]["reason"]
    assert "no operator" in unpriced["NonZero"]["reason"]
    assert "not known before the run" in unpriced["Cast"]["reason"]


def test_every_node_is_accounted_for(load):
    nodes, weights = bert_attention()
    net = load(nodes, {"x": [1, 12, 32]}, ["y"], weights)
    info = net.info
    skipped = (
        sum(info["free"].values()) + sum(info["folded"].values()) + sum(u["count"] for u in info["unpriced"].values())
    )
    assert len(net.ops) + skipped == len(nodes)


def test_the_tables_name_operators_of_onnx():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert set(LOWER) - known <= {"Silu"} | {"SwiGLU", "TensorScatter", "Swish", "RotaryEmbedding"}
    assert set(FREE) <= known
    assert not set(FREE) & set(LOWER)
    from npusim.importers.onnx_graph import FUNCTIONS

    assert set(FUNCTIONS.values()) <= set(ELEMENTWISE)


# -- symbolic dimensions, the package ----------------------------------------------------------------------------


def test_unbound_dimensions_are_named(load):
    with pytest.raises(InputError, match=r"without a value: batch, seq"):
        load([node("Relu", "x", "y")], {"x": ["batch", "seq", 4]}, ["y"])


def test_unknown_dimension_gets_the_closest(load):
    with pytest.raises(InputError, match="did you mean 'batch'"):
        load([node("Relu", "x", "y")], {"x": ["batch"]}, ["y"], how={"dims": {"batch": 1, "bacth": 2}})


def test_a_dimension_without_a_name(load):
    net = load([node("Relu", "x", "y")], {"x": [None, 4]}, ["y"], how={"dims": {"x.0": 6}})  # type: ignore[list-item]
    assert net.ops[0].dims["n"] == 24


@pytest.mark.parametrize("value", [-1, 2**41, 1.5, "4", True, None])
def test_bad_dimension_values(load, value: Any):
    with pytest.raises(InputError, match=r"dims\.batch"):
        load([node("Relu", "x", "y")], {"x": ["batch"]}, ["y"], how={"dims": {"batch": value}})


def test_unknown_format(load):
    with pytest.raises(InputError, match="did you mean"):
        load([node("Relu", "x", "y")], {"x": [4]}, ["y"], how={"weights": "bf61"})


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install onnx"):
        import_onnx(tmp_path / "net.onnx")


# -- ONNX's own cases ----------------------------------------------------------------------------------------------

CASES = ("MatMul", "Gemm", "Conv", "Softmax", "LayerNormalization", "RMSNormalization", "Attention", "Einsum",
         "MatMulInteger", "QLinearMatMul", "QLinearConv", "ConvInteger", "ConvTranspose", "Relu", "Add")  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            from onnx.backend.test.case.node import collect_testcases

            found = collect_testcases(None)
    except (ImportError, AttributeError):
        pytest.skip("this version of the onnx package carries no node cases")
    return [c for c in found if c.model is not None and [n.op_type for n in c.model.graph.node] in [[k] for k in CASES]]


def expected_flops(case: Any) -> int | None:
    """FLOPs from the shapes of the case's own arrays; None when the count is not a closed form of them."""
    proto = case.model.graph.node[0]
    given, made = case.data_sets[0]
    arrays = dict(zip([n for n in proto.input if n], given, strict=True))
    ins = [np.shape(arrays[name]) if name else () for name in proto.input]
    out = math.prod(np.shape(made[0]))
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    match proto.op_type:
        case "MatMul" | "MatMulInteger" | "QLinearMatMul":
            return 2 * out * int(ins[0][-1])
        case "Gemm":
            return 2 * out * int(ins[0][0 if attributes.get("transA") else 1])
        case "Conv" | "ConvInteger":
            return 2 * out * math.prod(ins[1][1:])
        case "QLinearConv":
            return 2 * out * math.prod(ins[3][1:])
        case "ConvTranspose":
            return 2 * math.prod(ins[0]) * math.prod(ins[1][1:])
        case "Attention":
            return attention_flops(attributes, ins)
        case "Einsum":
            return None
    return 0


def attention_flops(attributes: dict[str, Any], ins: list[tuple[int, ...]]) -> int | None:
    """2 FLOPs per query row, key row and column of K and of V; None when a mask by position hides pairs."""
    if any(attributes.get(key, -1) not in (-1, 0) for key in ("is_causal", "left_window_size", "right_window_size")):
        return None
    if attributes.get("right_window_size", -1) == 0 or attributes.get("left_window_size", -1) == 0:
        return None
    q, k, v = ins[:3]
    past = ins[4][2] if len(ins) > 4 and ins[4] else 0
    if len(q) == 4:
        return 2 * q[0] * q[1] * q[2] * (past + k[2]) * (k[3] + v[3])
    heads, kv_heads = attributes["q_num_heads"], attributes["kv_num_heads"]
    return 2 * q[0] * heads * q[1] * (past + k[1]) * (k[2] + v[2]) // kv_heads


def test_node_cases_import_with_the_flops_of_their_arrays(cases: list[Any], tmp_path: Path):
    file, wrong, counted = tmp_path / "case.onnx", [], 0
    for case in cases:
        file.write_bytes(case.model.SerializeToString())
        net = import_onnx(file)
        wanted = expected_flops(case)
        counted += 1
        if net.info["unpriced"] and case.model.graph.node[0].op_type != "Einsum":
            wrong.append((case.name, net.info["unpriced"]))
        elif wanted is not None and net.flops != wanted:
            wrong.append((case.name, net.flops, wanted))
        elif any(count != 1 for count in (op.count for op in net.ops)):
            wrong.append((case.name, "count"))
    assert not wrong
    assert counted > 150


def test_whole_networks_of_the_package():
    """Multiply-accumulates of published networks at 224 × 224 (torchvision and the papers' tables)."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    if not folder.is_dir():
        pytest.skip("this version of the onnx package carries no whole networks")
    giga_macs = {"resnet50": 4.09, "vgg19": 19.63, "densenet121": 2.83, "squeezenet": 0.35}
    for name, macs in giga_macs.items():
        net = import_onnx(os.fspath(folder / f"light_{name}.onnx"))
        assert net.flops / 2e9 == pytest.approx(macs, rel=0.01)
        assert not net.info["unpriced"]
