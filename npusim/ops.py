"""The one table of operators: what each kind is charged for.

A row of ``OPS`` gives the dimensions of a kind, its operands (and so its bytes), matrix FLOPs, the rate it
runs at and its vector work; everything npusim prices is derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from npusim import dtypes

if TYPE_CHECKING:
    from npusim.workload import Op

Dim = Any  # int or integer ndarray; results are int, float or float64 ndarray
MAX_DIM = 2**40
MAX_COUNT = 2**62  # of elements, rows or tokens: a product of dimensions
NO_WINDOW = MAX_DIM  # a sliding window that never binds


@dataclass(frozen=True)
class Operand:
    """A tensor an operator reads or writes.

    Args:
        name: its name in the operator (``a``, ``b``, ``out``).
        elements: how many elements pass.
        fmt: number format.
        role: ``weight``, ``kv`` (cache), ``io`` (input or output of the graph) or ``act`` (between
            operators, so it may stay on chip).
        write: True for an output.
    """

    name: str
    elements: Dim
    fmt: str
    role: str
    write: bool = False

    @cached_property
    def bytes(self) -> Dim:
        """Bytes including the share of scales."""
        bits = dtypes.bits(self.fmt)
        return self.elements * int(bits // 8) if bits % 8 == 0 else self.elements * bits / 8


@dataclass(frozen=True, slots=True)
class OpSpec:
    """What npusim knows of one kind of operator."""

    doc: str
    dims: Mapping[str, int | None]  # name → default (None: required)
    formats: tuple[str, ...]
    operands: Callable[[Op], tuple[Operand, ...]]
    flops: Callable[[Op], Dim]
    matrix_format: Callable[[Op], str]
    vector_ops: Callable[[Op], dict[str, Dim]]
    reference: str = ""  # kernel of npukernels that computes it
    functions: tuple[str, ...] = ()


# -- vector work ---------------------------------------------------------------------------------------
# Operations per element by function class. add: add, multiply, fused multiply-add, compare; exp: one
# transcendental; rsqrt: reciprocal or reciprocal square root; convert: change of format.

ELEMENTWISE: dict[str, tuple[int, dict[str, int]]] = {  # function → (inputs, operations per output element)
    "add": (2, {"add": 1}),
    "mul": (2, {"add": 1}),
    "relu": (1, {"add": 1}),
    "silu": (1, {"add": 2, "exp": 1, "rsqrt": 1}),  # x / (1 + e^-x)
    "gelu": (1, {"add": 6, "exp": 1, "rsqrt": 1}),  # tanh form: cubic, then tanh by e^x
    "swiglu": (2, {"add": 3, "exp": 1, "rsqrt": 1}),  # silu(gate) * up
    "geglu": (2, {"add": 7, "exp": 1, "rsqrt": 1}),
    "rope": (1, {"add": 2}),  # x cos + rot(x) sin
    "convert": (1, {"convert": 1}),
    "quantize": (1, {"add": 2, "convert": 1}),  # scale, clamp, convert
}

_NORM_OPS = {  # per element: statistics then affine; per row: the root
    "rmsnorm": ({"add": 3}, {"add": 2, "rsqrt": 1}),
    "layernorm": ({"add": 5}, {"add": 4, "rsqrt": 1}),
}

# Online softmax of attention, per visible score: running maximum, subtract (scale folded into the
# multiply-add), exponential, running sum. The division is per output element.
_SOFTMAX_SCORE = {"add": 3, "exp": 1}


def _times(table: Mapping[str, int], elements: Dim) -> dict[str, Dim]:
    return {name: ops * elements for name, ops in table.items()}


def _plus(*tables: Mapping[str, Dim]) -> dict[str, Dim]:
    total: dict[str, Dim] = {}
    for table in tables:
        for name, ops in table.items():
            total[name] = total.get(name, 0) + ops
    return total


def _none(op: Op) -> dict[str, Dim]:
    return {}


def _zero(op: Op) -> Dim:
    return 0


# -- gemm ----------------------------------------------------------------------------------------------


def _gemm_operands(op: Op) -> tuple[Operand, ...]:
    d, f = op.dims, op.formats
    g = d["groups"]
    weights = g * (d["n"] * d["k"] + d["bias"] * d["n"])
    return (
        Operand("a", g * d["m"] * d["k"], f["a"], op.role("a", "io")),
        Operand("b", weights, f["b"], op.role("b", "weight")),
        Operand("out", g * d["m"] * d["n"], f["out"], op.role("out", "io"), write=True),
    )


def _gemm_flops(op: Op) -> Dim:
    d = op.dims
    return 2 * d["groups"] * d["m"] * d["n"] * d["k"]


def _ab_format(op: Op) -> str:
    return dtypes.operand_format(op.formats["a"], op.formats["b"])


def _gemm_vector(op: Op) -> dict[str, Dim]:
    d = op.dims
    return {"add": d["bias"] * d["groups"] * d["m"] * d["n"]}


# -- experts: grouped GEMM ---------------------------------------------------------------------------------


def active_experts(tokens: Dim, experts: Dim, top_k: Dim) -> Dim:
    """Expected number of distinct experts that ``tokens`` reach under uniform routing.

    Each token picks ``top_k`` of ``experts`` without replacement, so an expert is missed by all with
    probability (1 − top_k/experts)^tokens.
    """
    return experts * (1 - (1 - top_k / experts) ** tokens)


def expert_ranks(op: Op) -> Dim:
    """Chips that share the rows of a routed ``experts`` operator evenly: all ``ep``, or one per expert that is reached
    while those are fewer (the operator is the share of a chip that has work)."""
    d = op.dims
    if isinstance(d["ep"], int) and d["ep"] == 1:
        return 1
    return np.minimum(d["ep"], active_experts(d["tokens"], d["experts"], d["top_k"]))


def shared_by(whole: Dim, ranks: Dim) -> Dim:
    """What one of ``ranks`` chips does of ``whole``; all of it, an exact integer included, for one chip."""
    return whole if isinstance(ranks, int) and ranks == 1 else whole / ranks


def _experts_operands(op: Op) -> tuple[Operand, ...]:
    d, f = op.dims, op.formats
    ranks = expert_ranks(op)
    rows = shared_by(d["tokens"] * d["top_k"], ranks)
    per_expert = d["n"] * d["k"] + d["bias"] * d["n"]
    weights = shared_by(active_experts(d["tokens"], d["experts"], d["top_k"]), ranks) * per_expert
    return (
        Operand("a", rows * d["k"], f["a"], op.role("a", "io")),
        Operand("b", weights, f["b"], op.role("b", "weight")),
        Operand("out", rows * d["n"], f["out"], op.role("out", "io"), write=True),
    )


def _experts_flops(op: Op) -> Dim:
    d = op.dims
    return shared_by(2 * d["tokens"] * d["top_k"] * d["n"] * d["k"], expert_ranks(op))


# -- attention --------------------------------------------------------------------------------------------


def smaller(x: Dim, y: Dim) -> Dim:
    """Elementwise minimum that keeps Python integers exact (NumPy's would make them int64, which wraps)."""
    return np.minimum(x, y) if isinstance(x, np.ndarray) or isinstance(y, np.ndarray) else min(x, y)


def visible_pairs(seq_q: Dim, seq_kv: Dim, window: Dim, causal: bool) -> Dim:
    """(query, key) pairs one head of one sequence computes.

    The queries are the last ``seq_q`` of ``seq_kv`` positions. Causal: Σ min(p, window) over positions
    p = seq_kv−seq_q+1 … seq_kv, in closed form. Otherwise every query sees every key.
    """
    if not causal:
        return seq_q * seq_kv

    def below(x: Dim) -> Dim:  # Σ_{p=1..x} min(p, window)
        full = smaller(x, window)
        return full * (full + 1) // 2 + (x - full) * window

    return below(seq_kv) - below(seq_kv - seq_q)


def read_width(dims: Mapping[str, Dim]) -> Dim:
    """Elements that an attention kernel reads for one token of one KV head: its key and its value.

    Where all heads share one cached vector as long as the key (absorbed latent attention), the value is part of it.
    """
    latent = (np.asarray(dims["kv_heads"]) == 1) & (np.asarray(dims["kv_width"]) == dims["head_dim"])
    return np.where(latent, dims["head_dim"], dims["head_dim"] + dims["v_head_dim"])


def _attention_operands(op: Op) -> tuple[Operand, ...]:
    d, f = op.dims, op.formats
    b, q = d["batch"], d["seq_q"]
    # Keys any of the q queries can see, less the q new ones that arrive as activations.
    cached = smaller(d["past"], d["window"] - 1)
    new = b * q * d["kv_width"]
    return (
        Operand("q", b * q * d["heads"] * d["head_dim"], f["q"], op.role("q", "io")),
        Operand("kv_new", new, f["q"], op.role("kv_new", "io")),
        Operand("kv_read", b * cached * d["kv_width"], f["kv"], op.role("kv_read", "kv")),
        Operand("kv_write", new * d["store"], f["kv"], op.role("kv_write", "kv"), write=True),
        Operand("out", b * q * d["heads"] * d["v_head_dim"], f["out"], op.role("out", "io"), write=True),
    )


def _attention_pairs(op: Op) -> Dim:
    d = op.dims
    return d["batch"] * d["heads"] * visible_pairs(d["seq_q"], d["past"] + d["seq_q"], d["window"], d["causal"])


def _attention_flops(op: Op) -> Dim:
    return 2 * _attention_pairs(op) * (op.dims["head_dim"] + op.dims["v_head_dim"])


def _attention_vector(op: Op) -> dict[str, Dim]:
    d = op.dims
    rows = d["batch"] * d["heads"] * d["seq_q"]
    return _plus(_times(_SOFTMAX_SCORE, _attention_pairs(op)), {"rsqrt": rows, "add": rows * d["v_head_dim"]})


# -- norm, softmax, elementwise ---------------------------------------------------------------------------


def _rows_operands(op: Op) -> tuple[Operand, ...]:
    elements = op.dims["rows"] * op.dims["cols"]
    return (
        Operand("x", elements, op.formats["x"], op.role("x", "io")),
        Operand("out", elements, op.formats["out"], op.role("out", "io"), write=True),
    )


def _norm_operands(op: Op) -> tuple[Operand, ...]:
    scale = op.dims["cols"] * (2 if op.function == "layernorm" else 1)
    return (*_rows_operands(op), Operand("weight", scale, "bf16", op.role("weight", "weight")))


def _norm_vector(op: Op) -> dict[str, Dim]:
    per_element, per_row = _NORM_OPS[op.function]
    rows = op.dims["rows"]
    return _plus(_times(per_element, rows * op.dims["cols"]), _times(per_row, rows))


def _softmax_vector(op: Op) -> dict[str, Dim]:
    rows, elements = op.dims["rows"], op.dims["rows"] * op.dims["cols"]
    return _plus(_times(_SOFTMAX_SCORE, elements), {"add": elements, "rsqrt": rows})


def _elementwise_operands(op: Op) -> tuple[Operand, ...]:
    inputs, _ = ELEMENTWISE[op.function]
    n = op.dims["n"]
    return (
        Operand("x", inputs * n, op.formats["x"], op.role("x", "io")),
        Operand("out", n, op.formats["out"], op.role("out", "io"), write=True),
    )


def _elementwise_vector(op: Op) -> dict[str, Dim]:
    return _times(ELEMENTWISE[op.function][1], op.dims["n"])


# -- embedding, convolution, collective -----------------------------------------------------------------------


def _embedding_operands(op: Op) -> tuple[Operand, ...]:
    elements = op.dims["tokens"] * op.dims["hidden"]
    return (
        Operand("table", elements, op.formats["table"], op.role("table", "weight")),
        Operand("out", elements, op.formats["out"], op.role("out", "io"), write=True),
    )


def conv_output(op: Op) -> tuple[Dim, Dim]:
    """Output height and width: (in + 2·padding − kernel) // stride + 1."""
    d = op.dims
    return tuple((d[f"in_{x}"] + 2 * d["padding"] - d[f"k{x}"]) // d["stride"] + 1 for x in "hw")


def conv_gemm(op: Op) -> tuple[Dim, Dim, Dim]:
    """(m, n, k) of one group's implicit GEMM: m = batch × output pixels, n = filters, k = taps."""
    d = op.dims
    out_h, out_w = conv_output(op)
    return d["batch"] * out_h * out_w, d["out_c"] // d["groups"], d["in_c"] // d["groups"] * d["kh"] * d["kw"]


def _conv_operands(op: Op) -> tuple[Operand, ...]:
    d, f = op.dims, op.formats
    m, n, k = conv_gemm(op)
    out_h, out_w = conv_output(op)
    # A stride larger than the kernel skips input pixels.
    touched = smaller(d["in_h"], out_h * d["kh"]) * smaller(d["in_w"], out_w * d["kw"])
    return (
        Operand("x", d["batch"] * touched * d["in_c"], f["a"], op.role("x", "io")),
        Operand("w", d["groups"] * n * k, f["b"], op.role("w", "weight")),
        Operand("out", m * d["out_c"], f["out"], op.role("out", "io"), write=True),
    )


def _conv_flops(op: Op) -> Dim:
    m, n, k = conv_gemm(op)
    return 2 * op.dims["groups"] * m * n * k


# Bytes each chip sends per byte of the full tensor with a ring over p chips (Thakur et al., IJHPCA 2005;
# Patarasuk and Yuan, JPDC 2009). All-to-all: each chip keeps 1/p of its share.
COLLECTIVES: dict[str, Callable[[Dim], Dim]] = {
    "all_reduce": lambda p: 2 * (p - 1) / p,
    "all_gather": lambda p: (p - 1) / p,
    "reduce_scatter": lambda p: (p - 1) / p,
    "all_to_all": lambda p: (p - 1) / p / p,
    "send": lambda p: 1,
    "broadcast": lambda p: 1,
}


def link_bytes(op: Op) -> Dim:
    """Bytes one chip sends over its links for a collective (0 for other operators).

    A ring all-reduce over p chips moves 2 (p−1)/p of the tensor through each chip.
    """
    if op.kind != "collective":
        return 0
    elements = Operand("x", op.dims["elements"], op.formats["x"], "act")
    return COLLECTIVES[op.function](op.dims["chips"]) * elements.bytes


def _collective_operands(op: Op) -> tuple[Operand, ...]:
    elements = op.dims["elements"]
    return (
        Operand("x", elements, op.formats["x"], op.role("x", "io")),
        Operand("out", elements, op.formats["x"], op.role("out", "io"), write=True),
    )


def _collective_vector(op: Op) -> dict[str, Dim]:
    reduces = op.function in ("all_reduce", "reduce_scatter")
    p = op.dims["chips"]
    return {"add": op.dims["elements"] * (p - 1) / p} if reduces else {}


def _x_format(op: Op) -> str:
    return dtypes.get(op.formats[op.spec.formats[0]]).rate


_GEMM_DIMS: dict[str, int | None] = {"m": None, "n": None, "k": None, "groups": 1, "bias": 0}
_CONV_DIMS: dict[str, int | None] = {
    "batch": 1,
    "in_h": None,
    "in_w": None,
    "in_c": None,
    "out_c": None,
    "kh": None,
    "kw": None,
    "stride": 1,
    "padding": 0,
    "groups": 1,
}
_ATTENTION_DIMS: dict[str, int | None] = {
    "batch": 1,
    "heads": None,
    "kv_heads": None,
    "head_dim": None,
    "v_head_dim": None,
    "kv_width": None,
    "seq_q": None,
    "past": 0,
    "window": NO_WINDOW,
    "causal": 1,
    "store": 1,
    "page": NO_WINDOW,
}

OPS: dict[str, OpSpec] = {
    "gemm": OpSpec(
        "out[m,n] = a[m,k] b[k,n] (+ bias), `groups` independent ones; b is the weight",
        _GEMM_DIMS,
        ("a", "b", "out"),
        _gemm_operands,
        _gemm_flops,
        _ab_format,
        _gemm_vector,
        "gemm",
    ),
    "experts": OpSpec(
        "grouped GEMM of routed experts: each token through `top_k` of `experts` matrices [k,n]",
        {
            "tokens": None,
            "top_k": None,
            "experts": None,
            "n": None,
            "k": None,
            "bias": 0,
            "imbalance_pct": 100,
            "ep": 1,
        },
        ("a", "b", "out"),
        _experts_operands,
        _experts_flops,
        _ab_format,
        _none,
        "grouped_gemm",
    ),
    "attention": OpSpec(
        "softmax(q kᵀ) v over `past` cached and `seq_q` new tokens, causal, optional sliding window",
        _ATTENTION_DIMS,
        ("q", "kv", "out"),
        _attention_operands,
        _attention_flops,
        lambda op: dtypes.get(op.formats["kv"]).rate,
        _attention_vector,
        "attention",
    ),
    "norm": OpSpec(
        "RMSNorm or LayerNorm of `rows` rows of `cols`",
        {"rows": None, "cols": None},
        ("x", "out"),
        _norm_operands,
        _zero,
        _x_format,
        _norm_vector,
        "rmsnorm",
        ("rmsnorm", "layernorm"),
    ),
    "softmax": OpSpec(
        "softmax of `rows` rows of `cols`",
        {"rows": None, "cols": None},
        ("x", "out"),
        _rows_operands,
        _zero,
        _x_format,
        _softmax_vector,
        "softmax",
    ),
    "elementwise": OpSpec(
        "a function of one or two tensors, element by element",
        {"n": None},
        ("x", "out"),
        _elementwise_operands,
        _zero,
        _x_format,
        _elementwise_vector,
        "elementwise",
        tuple(ELEMENTWISE),
    ),
    "embedding": OpSpec(
        "gather of `tokens` rows of `hidden` elements from a table",
        {"tokens": None, "hidden": None},
        ("table", "out"),
        _embedding_operands,
        _zero,
        _x_format,
        _none,
        "embedding",
    ),
    "conv2d": OpSpec(
        "2-D convolution as implicit GEMM (NHWC), `groups` groups",
        _CONV_DIMS,
        ("a", "b", "out"),
        _conv_operands,
        _conv_flops,
        _ab_format,
        _none,
        "conv2d",
    ),
    "collective": OpSpec(
        "communication of a tensor of `elements` elements between `chips` chips",
        {"elements": None, "chips": None},
        ("x",),
        _collective_operands,
        _zero,
        _x_format,
        _collective_vector,
        "",
        tuple(COLLECTIVES),
    ),
}
