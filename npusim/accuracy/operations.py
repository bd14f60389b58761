"""What each operation of the measured rows is, in operators of npusim.

``OPERATIONS`` is the one table: spelling of the ``op`` column → the dimensions a row must have, the ones it may have
in ``extra`` with their defaults, and how the operators are built from arrays of them. Operations without an entry
are counted as not priced, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from npusim import workload
from npusim.accuracy.devices import Formats
from npusim.ops import NO_WINDOW
from npusim.workload import Op

Dims = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Operation:
    """How rows of one operation are priced.

    Args:
        build: arrays of dimensions and the formats → operators that run one after the other.
        needs: columns and keys of ``extra`` without which there is no shape.
        uses: further ones with what stands in for a missing value.
    """

    build: Callable[[Dims, Formats], tuple[Op, ...]]
    needs: tuple[str, ...]
    uses: Mapping[str, float] = field(default_factory=dict)


def _gemm(d: Dims, f: Formats) -> tuple[Op, ...]:
    return (workload.gemm(d["m"], d["n"], d["k"], f.a, f.b, f.out, groups=d["batch"]),)


def _attention(d: Dims, f: Formats) -> tuple[Op, ...]:
    """``seq_kv`` counts every key of the last query; sources differ by one there, which is left as it is."""
    kv_heads = np.where(d["kv_heads"] > 0, d["kv_heads"], d["heads"])
    window = np.where(d["window"] > 0, d["window"], NO_WINDOW)
    causal = bool(d["causal"][0])
    total = np.maximum(d["seq_kv"], d["seq_q"])
    return (
        workload.attention(
            d["batch"], d["heads"], kv_heads, d["head_dim"], d["seq_q"], total, f.a, f.kv, f.out,
            window=window, causal=causal, store=False,
        ),
    )  # fmt: skip


def _mixed(d: Dims, f: Formats) -> tuple[Op, ...]:
    """A chunk of one prompt beside decoding sequences, as one kernel computes them."""
    heads, kv_heads, head_dim = d["heads"], d["kv_heads"], d["head_dim"]
    total = d["kv_prefill"] + d["prefill_chunk"]
    chunk = workload.attention(1, heads, kv_heads, head_dim, d["prefill_chunk"], total, f.a, f.kv, f.out, store=False)
    history = np.maximum(d["kv_decode"], 1)
    steps = workload.attention(d["n_decode"], heads, kv_heads, head_dim, 1, history, f.a, f.kv, f.out, store=False)
    return chunk, steps


def _mla_decode(d: Dims, f: Formats) -> tuple[Op, ...]:
    """Absorbed form: every head reads the one compressed vector of a token (DeepSeek-V2, arXiv 2405.04434)."""
    key = d["kv_lora"] + d["rope"]
    total = np.maximum(d["seq_kv"], d["seq_q"])
    return (
        workload.attention(
            d["batch"], d["heads"], 1, key, d["seq_q"], total, f.a, f.kv, f.out,
            v_head_dim=d["kv_lora"], kv_width=key, store=False,
        ),
    )  # fmt: skip


def _mla_prefill(d: Dims, f: Formats) -> tuple[Op, ...]:
    """Keys and values of the prompt are expanded per head before this kernel."""
    total = np.maximum(d["seq_kv"], d["seq_q"])
    return (
        workload.attention(
            d["batch"], d["heads"], d["heads"], d["qk_nope"] + d["rope"], d["seq_q"], total, f.a, f.kv, f.out,
            v_head_dim=d["v"], store=False,
        ),
    )  # fmt: skip


def _moe(d: Dims, f: Formats) -> tuple[Op, ...]:
    """Fused expert MLP on one rank: gate and up projections as one, the activation inside, then down."""
    experts = np.maximum(np.round(d["experts"] / d["ep"]), 1)
    width = np.maximum(np.round(d["n"] / d["tp"]), 1)
    # Of the top_k experts of a token, 1/ep lie on this rank; tokens that have none here are not sent.
    chosen = np.maximum(np.round(d["topk"] / d["ep"]), 1)
    tokens = np.maximum(np.round(d["m"] * d["topk"] / d["ep"] / chosen), 1)
    chosen = np.minimum(chosen, experts)
    return (
        workload.experts(tokens, chosen, experts, 2 * width, d["k"], f.a, f.b, f.out, name="gate_up"),
        workload.experts(tokens, chosen, experts, d["k"], width, f.a, f.b, f.out, name="down"),
    )


def _grouped(d: Dims, f: Formats) -> tuple[Op, ...]:
    """One projection of the experts a device holds, ``tok_per_expert`` rows each."""
    return (workload.gemm(d["tok_per_expert"], d["n"], d["k"], f.a, f.b, f.out, groups=d["local_experts"]),)


def _norm(function: str) -> Callable[[Dims, Formats], tuple[Op, ...]]:
    def build(d: Dims, f: Formats) -> tuple[Op, ...]:
        return (workload.norm(d["m"] * d["batch"], d["n"], f.a, f.out, function=function),)

    return build


def _softmax(d: Dims, f: Formats) -> tuple[Op, ...]:
    return (workload.softmax(d["m"] * d["batch"], d["n"], f.a, f.out),)


def _each(function: str) -> Callable[[Dims, Formats], tuple[Op, ...]]:
    def build(d: Dims, f: Formats) -> tuple[Op, ...]:
        return (workload.elementwise(d["m"] * d["n"] * d["batch"], function, f.a, f.out),)

    return build


def _embedding(d: Dims, f: Formats) -> tuple[Op, ...]:
    return (workload.embedding(d["m"], d["n"], f.a, f.out),)


def _quantise(d: Dims, f: Formats) -> tuple[Op, ...]:
    return (workload.elementwise(d["m"] * d["k"], "quantize", "bf16", f.a),)


def _conv(d: Dims, f: Formats) -> tuple[Op, ...]:
    return (
        workload.conv2d(
            d["batch"], d["hw"], d["hw"], d["cin"], d["cout"], d["ksize"], d["ksize"], f.a, f.b, f.out,
            stride=d["stride"], padding=d["pad"],
        ),
    )  # fmt: skip


_BATCH = {"batch": 1.0}
_ATTENTION = ("batch", "heads", "head_dim", "seq_q", "seq_kv")
_MLA = ("batch", "heads", "seq_q", "seq_kv")
_MLA_WIDTHS = {"kv_lora": 512.0, "rope": 64.0, "qk_nope": 128.0, "v": 128.0}  # DeepSeek-V2 and V3
_matrix = Operation(_gemm, ("m", "n", "k"), _BATCH)
_causal = Operation(_attention, _ATTENTION, {"kv_heads": 0.0, "window": 0.0, "causal": 1.0})

# Spellings that mean the same.
_MATRICES = ("gemm", "bmm", "gate", "expert.w1", "expert.w2", "expert.w3")
_TT_MATRICES = ("Matmul", "MinimalMatmulOp", "MatmulDeviceOperation")
_ATTENTIONS = ("attention_prefill", "attention_decode", "attention_chunked_or_decode")
_LAYERNORMS = ("layernorm", "ln", "LayerNormDeviceOperation")
_SUMS = ("add", "BinaryNgDeviceOperation", "BinaryDeviceOperation")
_SIMPLE = ("addu", "mulu", "divu", "powu", "relu", "leaky_relu", "parametric_relu", "binary_step", "linear")
_SMOOTH = ("tanh", "sigmoid", "elu", "selu", "silu", "UnaryDeviceOperation")
_COPIES = ("TypecastDeviceOperation", "CopyDeviceOperation")


def _rows_of(function: str) -> Operation:
    return Operation(_each(function), ("m", "n"), _BATCH)


OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys((*_MATRICES, *_TT_MATRICES), _matrix),
    **dict.fromkeys(_ATTENTIONS, _causal),
    "attention_encoder": Operation(_attention, _ATTENTION, {"kv_heads": 0.0, "window": 0.0, "causal": 0.0}),
    "attention_mixed": Operation(
        _mixed, ("heads", "kv_heads", "head_dim", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    ),
    "mla_decode": Operation(_mla_decode, _MLA, _MLA_WIDTHS),
    "mla_prefill": Operation(_mla_prefill, _MLA, _MLA_WIDTHS),
    "moe_ffn": Operation(_moe, ("m", "n", "k", "experts", "topk"), {"tp": 1.0, "ep": 1.0}),
    **dict.fromkeys(
        ("grouped_gemm_prefill", "grouped_gemm_decode"),
        Operation(_grouped, ("n", "k", "tok_per_expert", "local_experts")),
    ),
    **dict.fromkeys(("rmsnorm", "qk_norm"), Operation(_norm("rmsnorm"), ("m", "n"), _BATCH)),
    **dict.fromkeys(_LAYERNORMS, Operation(_norm("layernorm"), ("m", "n"), _BATCH)),
    **dict.fromkeys(("softmax", "SoftmaxDeviceOperation"), Operation(_softmax, ("m", "n"), _BATCH)),
    **dict.fromkeys(_SUMS, _rows_of("add")),
    **dict.fromkeys(("mul", "div", "pow"), _rows_of("mul")),
    **dict.fromkeys(_SIMPLE, _rows_of("relu")),
    **dict.fromkeys(_SMOOTH, _rows_of("silu")),
    "gelu": _rows_of("gelu"),
    "silu_and_mul": _rows_of("swiglu"),
    "rope": _rows_of("rope"),
    **dict.fromkeys(_COPIES, _rows_of("convert")),
    **dict.fromkeys(("embedding", "EmbeddingsDeviceOperation"), Operation(_embedding, ("m", "n"))),
    **dict.fromkeys(("quant_scale_matrix", "quant_computescale"), Operation(_quantise, ("m", "k"))),
    "conv": Operation(_conv, ("batch", "hw", "cin", "cout", "ksize"), {"stride": 1.0, "pad": 0.0}),
}


def operation(name: str, has_k: bool) -> Operation | None:
    """The entry for an ``op`` spelling, or None. ``linear`` with a reduction is a GEMM, without one the identity."""
    return _matrix if name == "linear" and has_k else OPERATIONS.get(name)
