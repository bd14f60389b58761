"""Reads ONNX graphs into ``npusim.workload.Workload``: headers only.

The file is walked field by field; payloads of weights are skipped over, never read, and external data is never
opened. What is left goes through the shape inference of the ``onnx`` package (strict, so contradictory shapes are
an error), and each node is lowered (``LOWER``, ``FUNCTIONS``):

* Nodes whose inputs are all constants are folded (``info["folded"]``), as every compiler does; so are ``Shape``
  and what is computed from it. A dequantised constant keeps its stored format: it is converted on the way in.
* Reshapes, transposes, slices, splits and broadcasts are free (``info["free"]``): engines and DMA address strided
  operands. Concatenation, general gathers, scatters, padding and resizing are copies, priced as a ``convert`` pass.
* A batched product that broadcasts folds the broadcast dimension into m or n, so its operands are counted once.
* conv2d has one stride and symmetric padding. Other padding and dilation keep FLOPs, weights and output exact, the
  input being the (out − 1)·stride + kernel pixels a dense window covers; unequal strides, 3-D and transposed ones
  become the equivalent gemm, whose input is the unfolded (im2col) matrix. The bias of a convolution is not charged.
* Element-wise functions take the nearest row of ``ELEMENTWISE``; a broadcast operand is not counted as traffic.
  Reductions and pooling are one pass over their input and charge as much output.
* Attention takes npusim's attention operator; a mask, a soft cap and a score output are not charged.
* Everything else is counted by name, with the reason, in ``info["unpriced"]``.

64-bit integers count as 32 bits and 4-bit ones as ``int4`` with its group scales.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from npusim import dtypes, workload
from npusim.errors import InputError, Problem
from npusim.importers.onnx_file import bind, check_location, check_order, infer, plain, read
from npusim.ops import MAX_DIM
from npusim.workload import Op, Workload

FORMATS = {
    1: "fp32", 2: "int8", 3: "int8", 4: "int16", 5: "int16", 6: "int32", 7: "int32", 9: "int8", 10: "fp16",
    11: "fp64", 12: "int32", 13: "int32", 16: "bf16", 17: "fp8", 18: "fp8", 19: "fp8_e5m2", 20: "fp8_e5m2",
    21: "int4", 22: "int4", 23: "fp4", 24: "fp8", 25: "int4", 26: "int4", 27: "fp6", 28: "fp6",
}  # fmt: skip
_FLOATS = {1, 10, 11, 16, 17, 18, 19, 20, 23, 27, 28}


# -- shapes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph.

    Args:
        name: its name.
        dims: None when they are not known before the run.
        fmt: number format, "" for text and complex numbers.
        role: ``weight`` (a constant), ``io`` or ``act``.
        constant_fmt: the format it has when it turns out to be a constant.
    """

    name: str
    dims: tuple[int, ...] | None
    fmt: str
    role: str = "act"
    constant_fmt: str = "fp32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions. Raises _Unpriced when they are not known, or when npusim has no such format."""
        if self.dims is None:
            raise _Unpriced(f"the shape of '{plain(self.name)}' is not known before the run")
        if not self.fmt:
            raise _Unpriced("npusim has no format for text or complex numbers")
        return self.dims

    @property
    def elements(self) -> int:
        """Number of elements, exact."""
        return math.prod(self.shape)


class _Unpriced(Exception):
    """Why a node has no price."""


class _Graph:
    """The values of a graph, each with shape, format and role.

    Raises:
        InputError: sizes out of range, or external data outside the model's folder.
    """

    def __init__(self, model: Any, file: str, weights: str | None, activations: str | None) -> None:
        self.weights, self.activations = weights, activations
        self.values: dict[str, Value] = {}
        graph, self.file = model.graph, file
        problems: list[Problem] = []
        for info in (*graph.value_info, *graph.input, *graph.output):
            kind = info.type.tensor_type
            known = kind.HasField("shape") and all(d.WhichOneof("value") == "dim_value" for d in kind.shape.dim)
            dims = tuple(d.dim_value for d in kind.shape.dim) if known else None
            self._add(info.name, dims, kind.elem_type, "act", problems)
        for tensor in graph.initializer:
            self._add(tensor.name, tuple(tensor.dims), tensor.data_type, "weight", problems)
            problems += check_location(tensor, file)
        constant = {tensor.name for tensor in graph.initializer}
        self._roles({v.name for v in graph.input} - constant, "io")
        written = {v.name for v in graph.output}
        for node in reversed(graph.node):  # a view of an output is that output
            if node.op_type in FREE and node.input and set(node.output) & written:
                written.add(node.input[0])
        self._roles(written - constant, "io")
        if problems:
            raise InputError(problems[:20])

    def _add(self, name: str, dims: tuple[int, ...] | None, kind: int, role: str, problems: list[Problem]) -> None:
        if dims is not None and (any(not 0 <= d <= MAX_DIM for d in dims) or math.prod(dims) > MAX_DIM):
            shown = " × ".join(str(d) for d in dims[:8])
            problems.append(Problem(f"a tensor of {shown}", plain(name), self.file, allowed="0 to 2^40 elements"))
        own = FORMATS.get(kind, "")
        constant, other = (given if given and kind in _FLOATS else own for given in (self.weights, self.activations))
        self.values[name] = Value(name, dims, constant if role == "weight" else other, role, constant)

    def _roles(self, names: Iterable[str], role: str) -> None:
        for name in names:
            self.values[name] = replace(self.values.get(name, Value(name, None, "fp32")), role=role)

    def value(self, name: str) -> Value:
        """The value called ``name``; one without a known shape when nothing is known of it."""
        return self.values.get(name) or Value(name, None, "fp32")


# -- lowering ----------------------------------------------------------------------------------------------


class Node:
    """A node with its values and attributes."""

    def __init__(self, proto: Any, graph: _Graph, opset: int, onnx: Any) -> None:
        self.kind = proto.op_type
        self.opset = opset
        self.name = plain(proto.name or next(filter(None, proto.output), "") or proto.op_type)
        self.ins = [graph.value(name) if name else None for name in proto.input]
        self.outs = [graph.value(name) if name else None for name in proto.output]
        self.graphs = any(a.type in (5, 10) for a in proto.attribute)
        self._attributes = {a.name: a for a in proto.attribute}
        self._onnx = onnx

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        found = self._attributes.get(name)
        return default if found is None else self._onnx.helper.get_attribute_value(found)

    def maybe(self, index: int) -> Value | None:
        """Input ``index``, None when it is left out."""
        return self.ins[index] if index < len(self.ins) else None

    def x(self, index: int = 0) -> Value:
        """Input ``index``."""
        found = self.maybe(index)
        if found is None:
            raise _Unpriced(f"input {index} is missing")
        return found

    @property
    def y(self) -> Value:
        """The first output."""
        if not self.outs or self.outs[0] is None:
            raise _Unpriced("it has no output")
        return self.outs[0]

    def axis(self, default: int, rank: int) -> int:
        """The attribute ``axis``, counted from the front."""
        axis = int(self.attr("axis", default))
        if not -rank <= axis < rank:
            raise _Unpriced(f"axis {axis} of {rank} dimensions")
        return axis % rank


def _with(op: Op, **roles: str) -> Op:
    return replace(op, roles=roles)


def _product(name: str, a: Value, b: Value, out: Value) -> list[Op]:
    """MatMul with NumPy's broadcasting; a constant left side is transposed to the right (out ᵀ = bᵀ aᵀ)."""
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    (m, k), n, groups = left[-2:], right[-1], 1
    rank = max(len(left), len(right))
    for x, y in zip((1,) * (rank - len(left)) + left[:-2], (1,) * (rank - len(right)) + right[:-2], strict=True):
        if x == y:
            groups *= x
        else:
            m, n = m * x, n * y
    if a.role == "weight" and b.role != "weight":
        m, n, a, b = n, m, b, a
    op = workload.gemm(m, n, k, a.fmt, b.fmt, out.fmt, groups=groups, name=name)
    return [_with(op, a=a.role, b=b.role, out=out.role)]


def _matmul(node: Node) -> list[Op]:
    second = 3 if node.kind == "QLinearMatMul" else 1
    return _product(node.name, node.x(0), node.x(second), node.y)


def _gemm(node: Node) -> list[Op]:
    a, b, c, out = node.x(0), node.x(1), node.maybe(2), node.y
    m, k = reversed(a.shape) if node.attr("transA", 0) else a.shape
    n = b.shape[0 if node.attr("transB", 0) else 1]
    bias = c is not None and c.elements in (1, n)
    op = workload.gemm(m, n, k, a.fmt, b.fmt, out.fmt, bias=bias, name=node.name)
    added = [] if c is None or bias else [_pass(node, "add", m * n, c, out)]
    return [_with(op, a=a.role, b=b.role, out=out.role), *added]


def _einsum(node: Node) -> list[Op]:
    """A product of two tensors: letters in both and the result are groups, in both only k, in one m or n."""
    equation = node.attr("equation", b"").decode("ascii", "replace").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    plain = arrow and len(terms) == 2 == len(node.ins) and all(len(set(t)) == len(t) for t in (*terms, result))
    if not plain or not (left + result).replace(",", "").isalpha():
        raise _Unpriced("only products of two tensors with plain, explicit indices")
    a, b = node.x(0), node.x(1)
    sizes = dict(zip(terms[0] + terms[1], (*a.shape, *b.shape), strict=False))
    one, two, out = set(terms[0]), set(terms[1]), set(result)
    if (one ^ two) - out or len(terms[0] + terms[1]) != len(a.shape) + len(b.shape):
        raise _Unpriced("it sums an index of one tensor")
    size = [math.prod(sizes[i] for i in group) for group in (one - two, two - one, (one & two) - out, one & two & out)]
    m, n, k, groups = size
    op = workload.gemm(m, n, k, a.fmt, b.fmt, node.y.fmt, groups=groups, name=node.name)
    return [_with(op, a=a.role, b=b.role, out=node.y.role)]


def _conv(node: Node) -> list[Op]:
    """See the module's docstring for padding, dilation and strides that conv2d does not have."""
    x, w, y = node.x(0), node.x(3 if node.kind == "QLinearConv" else 1), node.y
    groups, spatial = int(node.attr("group", 1)), len(x.shape) - 2
    kernel, out = w.shape[2:], y.shape[2:]
    strides = node.attr("strides") or [1] * spatial
    if groups < 1 or min(strides) < 1 or spatial < 1:
        raise _Unpriced("group and strides must be at least 1")
    if spatial == 1 and node.kind != "ConvTranspose":
        kernel, out, strides = (*kernel, 1), (*out, 1), [strides[0]] * 2
    if node.kind == "ConvTranspose":
        taps = w.shape[1] * math.prod(kernel)
        sizes = (x.shape[0] * math.prod(x.shape[2:]), taps, x.shape[1] // groups)
    elif len(kernel) == 2 and len(set(strides)) == 1:
        return [_conv2d(node, x, w, y, kernel, out, int(strides[0]), groups)]
    else:
        sizes = (x.shape[0] * math.prod(out), w.shape[0] // groups, w.shape[1] * math.prod(kernel))
    op = workload.gemm(*sizes, x.fmt, w.fmt, y.fmt, groups=groups, name=node.name)
    return [_with(op, a=x.role, b=w.role, out=y.role)]


def _conv2d(
    node: Node, x: Value, w: Value, y: Value, kernel: tuple[int, ...], out: tuple[int, ...], stride: int, groups: int
) -> Op:
    size = tuple(x.shape[2:]) if len(x.shape) == 4 else (x.shape[2], 1)
    pads = node.attr("pads") or [0] * 4
    dilated = any(d != 1 for d in node.attr("dilations") or ())
    padding = int(pads[0]) if len(set(pads)) == 1 and (len(x.shape) == 4 or pads[0] == 0) else 0
    fits = all(
        (i + 2 * padding - k) // stride + 1 == o for i, k, o in zip(size, kernel, out, strict=True)
    )  # auto_pad, uneven pads and dilation do not
    if dilated or not fits:
        size, padding = tuple((o - 1) * stride + k for o, k in zip(out, kernel, strict=True)), 0
    (in_h, in_w), (kh, kw) = size, kernel
    op = workload.conv2d(
        x.shape[0], in_h, in_w, x.shape[1], w.shape[0], kh, kw, x.fmt, w.fmt, y.fmt, stride=stride, padding=padding,
        groups=groups, name=node.name,
    )  # fmt: skip
    return _with(op, x=x.role, w=w.role, out=y.role)


def _attention(node: Node) -> list[Op]:
    """Attention of opset 23 and later.

    A causal mask without a past is aligned at the first key, so keys past the last query are never seen.
    """
    q, k, v, past, y = node.x(0), node.x(1), node.x(2), node.maybe(4), node.y
    (batch, heads, seq_q, width), (_, kv_heads, new, _), v_width = _split_heads(node, q, k, v)
    before = past.shape[2] if past is not None else 0
    causal = bool(node.attr("is_causal", 0))
    total = seq_q if causal and not before and new > seq_q else before + new
    if total < seq_q:
        return _long_queries(node, batch * heads, kv_heads * batch, seq_q, total, width, v_width)
    left, right = int(node.attr("left_window_size", -1)), int(node.attr("right_window_size", -1))
    window = left + 1 if left >= 0 and (causal or right == 0) else None
    op = workload.attention(
        batch, heads, kv_heads, width, seq_q, total, q.fmt, (past or k).fmt, y.fmt, v_head_dim=v_width, window=window,
        causal=causal or right == 0, store=past is not None or any(node.outs[1:3]), name=node.name,
    )  # fmt: skip
    cache = {} if past is not None else {"kv_read": k.role}
    return [_with(op, q=q.role, kv_new=k.role, out=y.role, **cache)]


def _split_heads(node: Node, q: Value, k: Value, v: Value) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """(batch, heads, length, width) of q and k, and the width of v."""
    if len(q.shape) == 4:
        return q.shape, k.shape, v.shape[3]
    heads, kv_heads = int(node.attr("q_num_heads", 0)), int(node.attr("kv_num_heads", 0))
    if heads < 1 or kv_heads < 1 or len(q.shape) != 3:
        raise _Unpriced("3-D queries need q_num_heads and kv_num_heads")
    (batch, seq_q, hidden), (_, new, kv_hidden) = q.shape, k.shape
    return (batch, heads, seq_q, hidden // heads), (batch, kv_heads, new, kv_hidden // kv_heads), v.shape[2] // kv_heads


def _long_queries(node: Node, heads: int, kv_heads: int, seq_q: int, keys: int, width: int, v_width: int) -> list[Op]:
    """More queries than keys: two products and a softmax, all pairs computed."""
    q, k, v, y = node.x(0), node.x(1), node.x(2), node.y
    rows = heads // max(kv_heads, 1) * seq_q
    scores = workload.gemm(rows, keys, width, q.fmt, k.fmt, y.fmt, groups=kv_heads, name=node.name)
    soft = workload.softmax(heads * seq_q, keys, y.fmt, y.fmt, name=node.name)
    mixed = workload.gemm(rows, v_width, keys, y.fmt, v.fmt, y.fmt, groups=kv_heads, name=node.name)
    return [
        _with(scores, a=q.role, b=k.role, out="act"),
        _with(soft, x="act", out="act"),
        _with(mixed, a="act", b=v.role, out=y.role),
    ]


def _norm(node: Node) -> list[Op]:
    x, y = node.x(0), node.y
    function = "rmsnorm" if node.kind == "RMSNormalization" else "layernorm"
    if node.kind in ("LayerNormalization", "RMSNormalization"):
        cols = math.prod(x.shape[node.axis(-1, len(x.shape)) :])
    elif node.kind == "LpNormalization":
        cols = x.shape[node.axis(-1, len(x.shape))]
    else:
        cols = x.elements // x.shape[0] // int(node.attr("num_groups", x.shape[1]))
    op = workload.norm(x.elements // cols, cols, x.fmt, y.fmt, function=function, name=node.name)
    return [_with(op, x=x.role, out=y.role)]


def _softmax(node: Node) -> list[Op]:
    x, y, old = node.x(0), node.y, node.opset < 13
    axis = node.axis(1 if old else -1, len(x.shape))
    cols = math.prod(x.shape[axis:]) if old else x.shape[axis]
    op = workload.softmax(x.elements // cols, cols, x.fmt, y.fmt, name=node.name)
    return [_with(op, x=x.role, out=y.role)]


def _gather(node: Node) -> list[Op]:
    """Rows of a constant table are an embedding; other gathers are copies."""
    table, y = node.x(0), node.y
    if table.role != "weight" or node.axis(0, len(table.shape)) != 0 or len(table.shape) < 2:
        return _copy(node)
    hidden = table.elements // table.shape[0]
    op = workload.embedding(y.elements // hidden, hidden, table.fmt, y.fmt, name=node.name)
    return [_with(op, table=table.role, out=y.role)]


def _pass(node: Node, function: str, n: int, x: Value, out: Value) -> Op:
    op = workload.elementwise(n, function, x.fmt, out.fmt, name=node.name)
    return _with(op, x=x.role, out=out.role)


def _elementwise(node: Node) -> list[Op]:
    """Functions of one or more tensors; a chain of additions counts once per further operand."""
    y, given = node.y, [value for value in node.ins if value is not None]
    function, n = FUNCTIONS[node.kind], node.y.elements
    if node.kind == "Where":
        given = given[1:]
    if not given:
        raise _Unpriced("it has no input")
    x = max((value for value in given if value.dims is not None), key=lambda v: v.elements, default=given[0])
    chain = len(given) - 1 if node.kind in ("Sum", "Mean", "Max", "Min") and len(given) > 2 else 1
    if function in ("add", "mul") and 2 * sum(value.elements for value in given) < 3 * n:
        function = "relu"  # one full operand and as much work
    return [replace(_pass(node, function, n, x, y), count=chain)]


def _reduce(node: Node) -> list[Op]:
    return [_pass(node, "relu", node.x(0).elements, node.x(0), node.y)]


def _copy(node: Node) -> list[Op]:
    moved = [value for value in node.ins if value is not None and value.dims is not None] or [node.x(0)]
    return [_pass(node, "convert", node.y.elements, max(moved, key=lambda v: v.elements), node.y)]


def _each(names: str, value: Any) -> dict[str, Any]:
    """``value`` for each of the names."""
    return dict.fromkeys(names.split(), value)


FUNCTIONS: dict[str, str] = {  # ONNX operator → nearest function of ELEMENTWISE
    **_each(
        "Relu LeakyRelu PRelu Abs Neg Sign Floor Ceil Round Not Clip ThresholdedRelu HardSigmoid HardSwish Shrink "
        "BatchNormalization CumSum IsNaN IsInf BitwiseNot", "relu",
    ),
    **_each(
        "Sigmoid Tanh Erf Exp Log Sqrt Reciprocal Softplus Softsign Mish Elu Celu Selu Swish Silu Sin Cos Tan Sinh "
        "Cosh Asin Acos Atan Asinh Acosh Atanh Pow", "silu",
    ),
    **_each(
        "Add Sub Min Max Mean Sum And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Mod BitwiseAnd BitwiseOr "
        "BitwiseXor BitShift Where", "add",
    ),
    **_each("Mul Div", "mul"),
    **_each("Cast CastLike DequantizeLinear", "convert"),
    **_each("QuantizeLinear DynamicQuantizeLinear", "quantize"),
    "Gelu": "gelu", "SwiGLU": "swiglu", "RotaryEmbedding": "rope",
}  # fmt: skip

STORED = _each("DequantizeLinear Reshape Squeeze Unsqueeze Flatten Identity Slice Split Expand Transpose", True)

FREE = _each(
    "Reshape Squeeze Unsqueeze Flatten Identity Dropout Slice Split Expand Transpose Shape Size Constant "
    "ConstantOfShape",
    True,
)

LOWER: dict[str, Callable[[Node], list[Op]]] = {
    **_each("MatMul MatMulInteger QLinearMatMul", _matmul),
    **_each("Conv ConvInteger QLinearConv ConvTranspose", _conv),
    **_each("LayerNormalization RMSNormalization InstanceNormalization GroupNormalization LpNormalization", _norm),
    **_each("Softmax LogSoftmax Hardmax", _softmax),
    **dict.fromkeys(FUNCTIONS, _elementwise),
    **_each(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare ArgMax ArgMin MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool LRN",
        _reduce,
    ),
    **_each(
        "Concat GatherElements GatherND Scatter ScatterElements ScatterND TensorScatter Tile Pad DepthToSpace "
        "SpaceToDepth Resize Upsample ReverseSequence OneHot Trilu CenterCropPad", _copy,
    ),
    "Gemm": _gemm, "Einsum": _einsum, "Attention": _attention, "Gather": _gather,
}  # fmt: skip


class _Lowering:
    """Operators of a graph, and what became of the nodes that are none."""

    def __init__(self, model: Any, graph: _Graph, onnx: Any) -> None:
        self.ops: list[Op] = []
        self.free: Counter[str] = Counter()
        self.folded: Counter[str] = Counter()
        self.unpriced: dict[str, dict[str, Any]] = {}
        opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        for proto in model.graph.node:
            node = Node(proto, graph, opset, onnx)
            name = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
            try:
                self._lower(node, proto, plain(name), graph)
            except _Unpriced as reason:
                self._skip(plain(name), str(reason))
            except InputError as error:
                raise InputError(
                    [replace(p, path=f"{node.name} ({plain(name)})", file=graph.file) for p in error.problems]
                ) from None
            except (ValueError, IndexError, TypeError, ZeroDivisionError, AttributeError):
                self._skip(plain(name), "its attributes or shapes are not those of the operator")

    def _skip(self, name: str, reason: str) -> None:
        entry = self.unpriced.setdefault(name, {"count": 0, "reason": reason})
        entry["count"] += 1

    def _lower(self, node: Node, proto: Any, name: str, graph: _Graph) -> None:
        if node.graphs:
            raise _Unpriced("operators with subgraphs are not unrolled")
        if name != node.kind:
            raise _Unpriced("a custom operator or a function of the model")
        given = [value for value in node.ins if value is not None]
        known = node.kind in ("Constant", "Shape", "Size") or (given and all(v.role == "weight" for v in given))
        if known and (node.kind in LOWER or node.kind in FREE or node.kind in ("Range", "EyeLike")):
            self.folded[node.kind] += 1
            for value in filter(None, node.outs):
                fmt = given[0].fmt if node.kind in STORED else value.constant_fmt
                graph.values[value.name] = replace(value, role="weight", fmt=fmt)
        elif node.kind in FREE:
            self.free[node.kind] += 1
            for value in filter(None, node.outs):
                if given and value.role == "act":
                    graph.values[value.name] = replace(value, role=given[0].role)
        elif node.kind not in LOWER:
            raise _Unpriced("npusim has no operator for it")
        elif any(v.dims is not None and 0 in v.dims for v in (node.y, *(given if "MatMul" in node.kind else ()))):
            self.free[f"{node.kind} (empty)"] += 1
        else:
            self.ops += LOWER[node.kind](node)


def import_onnx(
    path: str | os.PathLike[str],
    *,
    dims: Mapping[str, int] | None = None,
    weights: str | None = None,
    activations: str | None = None,
) -> Workload:
    """Reads an ONNX model as a workload of one chip.

    Args:
        path: the ``.onnx`` file. Weights are skipped, external data is never opened.
        dims: values of symbolic dimensions by name; one without a name is called ``INPUT.AXIS``.
        weights: number format of floating-point weights in place of the file's.
        activations: number format of floating-point activations in place of the file's.

    Returns:
        A Workload. ``info`` has ``unpriced`` (operator → count and reason), ``free`` and ``folded`` (counts).

    Raises:
        InputError: the ``onnx`` package is missing; the file is not a model; a symbolic dimension has no value;
            shapes contradict each other; a tensor has more than 2^40 elements; external data outside the folder.
    """
    try:
        import onnx
        import onnx.shape_inference
    except ImportError:
        hint = "pip install onnx"
        raise InputError(Problem("reading ONNX needs the 'onnx' package", file=str(path), hint=hint)) from None
    formats = [dtypes.get(f, k).name if f else None for f, k in ((weights, "weights"), (activations, "activations"))]
    file = str(path)
    model = read(path, onnx)
    check_order(model.graph, file)
    bind(model, dims or {}, file)
    graph = _Graph(infer(model, onnx, file), file, *formats)
    done = _Lowering(model, graph, onnx)
    title = plain(model.graph.name) or Path(file).stem
    info = {
        "model": title, "phase": "graph", "source": Path(file).name, "dims": dict(dims or {}),
        "unpriced": done.unpriced, "free": dict(done.free), "folded": dict(done.folded),
    }  # fmt: skip
    if not done.ops and not done.unpriced:
        raise InputError(Problem("the graph computes nothing at run time", file=file))
    return Workload(title, tuple(done.ops), info=info)
