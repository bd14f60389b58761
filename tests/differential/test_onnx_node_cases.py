"""Do our kernels give what the ONNX backend tests expect? Goldens that we did not write.

Each node case of an operator we have a kernel for runs through every variant of that kernel that this machine has.
What an operator asks for that no kernel of ours has is skipped by name, with the reason.
"""

import importlib
import os
import warnings

import numpy as np
import pytest

import npukernels as nk
from npukernels.registry import ENV_VARIANT
from tests.differential.onnx_adapters import ADAPTERS, Unsupported

onnx = pytest.importorskip("onnx")

# The kernel whose variants an operator runs through, by its name in the registry.
KERNELS = {
    "MatMul": "gemm",
    "Gemm": "gemm",
    "MatMulInteger": "qgemm",
    "QLinearMatMul": "qgemm",
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
    "LayerNormalization": "layernorm",
    "RMSNormalization": "rmsnorm",
    "Softmax": "softmax",
    "RotaryEmbedding": "rope",
    "Attention": "attention",
    "Gelu": "gelu",
    "Swish": "silu",
    "Conv": "conv2d",
}

# Cases that no kernel is meant for.
SKIPPED = {
    "quantizelinear_uint16": "16-bit codes",
    "quantizelinear_int16": "16-bit codes",
    "quantizelinear_uint2": "2-bit codes",
    "quantizelinear_int2": "2-bit codes",
    "quantizelinear_float4e2m1": "fp4 without blocks",
    "dequantizelinear_uint16": "16-bit codes",
    "dequantizelinear_int16": "16-bit codes",
    "dequantizelinear_uint2": "2-bit codes",
    "dequantizelinear_int2": "2-bit codes",
    "dequantizelinear_float4e2m1": "fp4 without blocks",
}


def node_cases():
    """Cases of one node each, by name. Only the modules of our operators are imported: all of them take long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case import node

        for op_type in ADAPTERS:
            importlib.import_module(f"onnx.backend.test.case.node.{op_type.lower()}")
    found = {}
    for case in node._NodeTestCases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in ADAPTERS:
            found[case.name.removeprefix("test_")] = case
    return found


CASES = node_cases()


def variants_of(op_type):
    kernel = KERNELS[op_type]
    return nk.variants(kernel) if kernel in nk.ops() else ("absent",)


RUNS = [(name, v) for name, case in CASES.items() for v in variants_of(case.model.graph.node[0].op_type)]


def test_there_are_cases_of_every_operator():
    counts = dict.fromkeys(ADAPTERS, 0)
    for case in CASES.values():
        counts[case.model.graph.node[0].op_type] += 1
    assert min(counts.values()) > 0 and sum(counts.values()) > 150, counts
    assert set(CASES) >= set(SKIPPED)


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_node_case(name, variant, monkeypatch):
    case = CASES[name]
    (node,) = case.model.graph.node
    chosen = ADAPTERS[node.op_type]
    if name in SKIPPED:
        pytest.skip(f"{name}: {SKIPPED[name]}")
    if chosen.missing():
        pytest.skip(f"{name}: npukernels has no {', '.join(chosen.missing())}")
    monkeypatch.setitem(os.environ, ENV_VARIANT, variant)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {key: v.decode() if isinstance(v, bytes) else v for key, v in attributes.items()}
    for given, expected in case.data_sets:
        by_name = dict(zip((i.name for i in case.model.graph.input), map(as_array, given), strict=True))
        inputs = [by_name.get(key) for key in node.input]
        try:
            outputs = chosen.run(inputs, attributes)
        except Unsupported as reason:
            pytest.skip(f"{name}: {reason}")
        stored = dict(zip((o.name for o in case.model.graph.output), map(as_array, expected), strict=True))
        compare(node, outputs, stored, case)


def as_array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def compare(node, outputs, stored, case):
    compared = 0
    for key, ours in zip(node.output, outputs, strict=False):
        if key not in stored or ours is None:
            continue
        theirs = stored[key]
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if theirs.dtype.name == "bfloat16":  # ONNX rounds every intermediate result to bf16, we only the last
            np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), rtol=2.0**-6)
        elif theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=case.rtol, atol=case.atol)
        else:  # integers, and codes of narrow formats
            np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32))
        compared += 1
    assert compared
