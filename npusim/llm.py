"""From a model to the operators of one step, as one of ``tp`` chips runs them.

Tensor parallelism follows Megatron-LM (Shoeybi et al., arXiv 1909.08053): query, key, value, gate and
up projections are split by columns, output and down projections by rows, each pair followed by one
all-reduce of the hidden state; the vocabulary is split for the embedding and the head. Dimensions are
divided by ceiling. When ``tp`` exceeds the KV heads, KV heads are replicated.

Expert parallelism: each of ``ep`` chips holds ``experts / ep`` whole routed experts (GShard, arXiv 2006.16668). ``ep``
is a multiple of ``tp``. Equal to it, the chips that split attention hold the experts. Larger, ``ep / tp`` groups of
``tp`` chips each run attention on their share of the sequences (attention is data-parallel, as DeepSeek-V3 is served,
arXiv 2412.19437 section 3.4) and hold the experts together. A chip routes its part of its group's tokens and sends
each once to every chip that holds one of its experts (all-to-all in the activation format); the experts' weighted sums
come back the same way in the stream format. Shared experts stay split by ``tp``: the all-reduce of their partial sums
also hands out the routed ones; without shared experts an all-gather does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Any

from npusim import dtypes
from npusim.errors import InputError, Problem, unknown_name
from npusim.models import Attention, Ffn, Layer, Model, load_model
from npusim.ops import Dim
from npusim.workload import (
    Op,
    Workload,
    attention,
    collective,
    dim,
    elementwise,
    embedding,
    experts,
    gemm,
    norm,
    softmax,
)

NORM_FORMAT = "bf16"  # norms, residual stream and embedding table stay in bf16 (DESIGN 4.1)


@dataclass(frozen=True, slots=True)
class Precision:
    """Number formats of a model run: weights (head included), activations and KV cache."""

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "kv"):
            object.__setattr__(self, name, dtypes.get(getattr(self, name), name).name)

    @property
    def stream(self) -> str:
        """Format of the residual stream and of GEMM outputs: activations, but at least bf16."""
        return self.activations if dtypes.get(self.activations).element_bits >= 16 else NORM_FORMAT

    @property
    def engine(self) -> str:
        """Rate name of the matrix multiplications with weights."""
        return dtypes.operand_format(self.activations, self.weights)


PRECISIONS: dict[str, Precision] = {
    "bf16": Precision(),
    "fp16": Precision("fp16", "fp16", "fp16"),
    "fp8": Precision("fp8", "fp8", "fp8"),
    "int8": Precision("int8", "int8", "int8"),
    "w8a16": Precision("int8", "bf16", "bf16"),
    "w4a16": Precision("int4", "bf16", "bf16"),
    "w4a8": Precision("int4", "fp8", "fp8"),
    "mxfp4": Precision("mxfp4", "mxfp8", "fp8"),
    "nvfp4": Precision("nvfp4", "nvfp4", "fp8"),
}


def precision(name: str) -> Precision:
    """The named precision. Raises InputError for an unknown one."""
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS, "precision")
    return PRECISIONS[name]


def ceil_div(x: int, y: int) -> int:
    """⌈x / y⌉ for positive integers."""
    return -(-x // y)


def check_experts(model: Model, tp: int, ep: int) -> None:
    """Raises InputError when ``ep`` chips cannot hold the experts of a model whose attention is split by ``tp``."""
    if ep == 1:
        return
    if not model.moe:
        raise InputError(Problem(f"ep={ep}: '{model.name}' routes to no experts", "ep", allowed="1"))
    if ep % tp:
        raise InputError(Problem(f"ep={ep} with tp={tp}", "ep", allowed="1, or a multiple of tp"))
    for layer, _ in model.blocks:
        if layer.ffn.experts % ep:
            allowed = f"a divisor of the {layer.ffn.experts} experts of {model.name}"
            raise InputError(Problem(f"ep={ep}", "ep", allowed=allowed))


@lru_cache(maxsize=64)
def chips_visited(experts: int, top_k: int, ep: int) -> Fraction:
    """Expected number of different chips that hold the experts of a token, under uniform routing.

    A chip holds experts / ep of them, and ``top_k`` different ones are drawn: it is missed with probability
    C(experts − experts/ep, top_k) / C(experts, top_k).
    """
    return ep * (1 - Fraction(comb(experts - experts // ep, top_k), comb(experts, top_k)))


def prefill(
    model: Model | str,
    *,
    batch: Dim = 1,
    prompt: Dim = 2048,
    weights: str = "bf16",
    activations: str | None = None,
    kv: str | None = None,
    past: Dim = 0,
    page: Dim | None = None,
    tp: int = 1,
    ep: int = 1,
) -> Workload:
    """The operators that turn ``prompt`` new tokens of each of ``batch`` sequences into one logit row.

    Args:
        model: a Model or a catalog name.
        batch: sequences (integer or array).
        prompt: new tokens per sequence.
        weights: number format of the weights.
        activations: format of activations and of the KV cache's default (bf16 when not given).
        kv: format of the KV cache.
        past: tokens per sequence already in the cache (chunked prefill).
        page: tokens per page of a paged KV cache; None when a sequence's cache lies in one piece.
        tp: tensor-parallel chips; the workload is one chip's share.
        ep: chips that share the routed experts; a multiple of ``tp``, or 1 (they are split by ``tp`` too).

    Raises:
        InputError: a dimension or format out of range.
    """
    fmt = Precision(weights, activations or "bf16", kv or "bf16")
    return _step(_model(model), "prefill", fmt, batch, prompt, past, page, tp, ep)


def decode(
    model: Model | str,
    *,
    batch: Dim = 1,
    context: Dim = 2048,
    weights: str = "bf16",
    activations: str | None = None,
    kv: str | None = None,
    page: Dim | None = None,
    tp: int = 1,
    ep: int = 1,
) -> Workload:
    """One decode step: each of ``batch`` sequences with ``context`` cached tokens makes one new token.

    Arguments as ``prefill``. Raises InputError for models without a causal head.
    """
    built = _model(model)
    if not built.causal:
        raise InputError(Problem(f"'{built.name}' is an encoder: it has no decode step", hint="use prefill"))
    fmt = Precision(weights, activations or "bf16", kv or "bf16")
    return _step(built, "decode", fmt, batch, 1, context, page, tp, ep)


def _model(model: Model | str) -> Model:
    return model if isinstance(model, Model) else load_model(model)


def _step(
    model: Model, phase: str, fmt: Precision, batch: Dim, new: Dim, past: Dim, page: Dim | None, tp: int, ep: int
) -> Workload:
    tp, ep = int(dim("tp", tp)), int(dim("ep", ep))
    check_experts(model, tp, ep)
    sequences = dim("batch", batch)
    shape = _Shape(
        model, fmt, ceil_div(sequences, max(ep // tp, 1)), dim("prompt", new), dim("context", past, low=0), page, tp,
        phase == "decode", ep, sequences,
    )  # fmt: skip
    ops = [*_embed(shape), *_layers(shape), *_head(shape)]
    info = {
        "model": model.name,
        "phase": phase,
        "batch": batch,
        "prompt" if phase == "prefill" else "context": new if phase == "prefill" else past,
        "weights": fmt.weights,
        "activations": fmt.activations,
        "kv": fmt.kv,
    }
    return Workload(
        f"{model.name}:{phase}",
        tuple(ops),
        max(tp, ep),
        info | ({"tp": tp, "ep": ep} if ep > 1 else {}),
        lambda chips: _step(model, phase, fmt, batch, new, past, page, chips, ep),
        model,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """What every part of a step needs: the model, formats and sizes of this run."""

    model: Model
    fmt: Precision
    batch: Dim  # sequences of this chip's attention group
    new: Dim  # new tokens per sequence
    past: Dim  # cached tokens per sequence
    page: Dim | None  # tokens per page of the cache
    tp: int
    absorb: bool  # MLA: expansion absorbed into query and output, as decode does
    ep: int
    sequences: Dim  # of all attention groups

    @property
    def tokens(self) -> Dim:
        return self.batch * self.new

    def linear(
        self, name: str, n: int, k: int, *, m: Dim = None, groups: int = 1, bias: bool = False, out: str = ""
    ) -> Op:
        """A GEMM with weights in this run's formats, on all new tokens unless ``m`` says otherwise."""
        rows = self.tokens if m is None else m
        f = self.fmt
        return gemm(rows, n, k, f.activations, f.weights, out or f.stream, groups=groups, bias=bias, name=name).inner()

    def norm(self, name: str, rows: Dim, cols: int, kind: str) -> Op:
        return norm(rows, cols, self.fmt.stream, self.fmt.activations, function=kind, name=name).inner()

    def pointwise(self, name: str, function: str, n: Dim, out: str = "") -> Op:
        return elementwise(n, function, self.fmt.stream, out or self.fmt.stream, name=name).inner()

    def collect(self, name: str, function: str = "all_reduce") -> list[Op]:
        """A collective of the hidden state among the chips that split attention."""
        if self.tp == 1:
            return []
        return [collective(self.tokens * self.model.hidden, self.tp, function, self.fmt.stream, name=name).inner()]


def _embed(s: _Shape) -> list[Op]:
    model = s.model
    if model.patch_inputs:
        patches = s.linear("embed.patches", model.hidden, model.patch_inputs, bias=True)
        return [replace(patches, roles={**patches.roles, "a": "io"})]
    return [
        embedding(s.tokens, model.hidden, NORM_FORMAT, s.fmt.stream, name="embed").inner(),
        *s.collect("embed.all_reduce"),
    ]


def _layers(s: _Shape) -> Iterator[Op]:
    many = len(s.model.blocks) > 1
    for index, (layer, count) in enumerate(s.model.blocks):
        prefix = f"layers{index}." if many else "layers."
        for op in _layer(s, layer):
            yield replace(op, name=prefix + op.name, count=count)


def _layer(s: _Shape, layer: Layer) -> Iterator[Op]:
    hidden, tokens = s.model.hidden, s.tokens
    norms = [s.norm(f"norm{i + 1}", tokens, hidden, layer.norm) for i in range(layer.norms)]
    half = ceil_div(len(norms), 2)
    yield from norms[:half]
    yield from (_mla if layer.attention.kind == "mla" else _gqa)(s, layer.attention)
    yield from s.collect("attn.all_reduce")
    yield s.pointwise("attn.residual", "add", tokens * hidden)
    yield from norms[half:]
    yield from (_moe if layer.ffn.kind == "moe" else _dense)(s, layer.ffn)
    if s.ep > 1 and layer.ffn.kind == "moe" and not layer.ffn.shared_intermediate:
        yield from s.collect("ffn.all_gather", "all_gather")
    else:
        yield from s.collect("ffn.all_reduce")
    yield s.pointwise("ffn.residual", "add", tokens * hidden)


def _gqa(s: _Shape, a: Attention) -> Iterator[Op]:
    hidden = s.model.hidden
    heads, kv_heads = ceil_div(a.heads, s.tp), ceil_div(a.kv_heads, s.tp)
    yield s.linear("attn.qkv", heads * a.head_dim + kv_heads * (a.head_dim + a.v_head_dim), hidden, bias=a.qkv_bias)
    if a.qk_norm:
        yield s.norm("attn.qk_norm", s.tokens * (heads + kv_heads), a.head_dim, "rmsnorm")
    if a.rope:
        yield s.pointwise("attn.rope", "rope", s.tokens * (heads + kv_heads) * a.head_dim, s.fmt.activations)
    yield _attend(s, heads, kv_heads, a.head_dim, a.v_head_dim, kv_heads * (a.head_dim + a.v_head_dim), a.window)
    yield s.linear("attn.out", hidden, heads * a.v_head_dim, bias=a.o_bias)


def _attend(s: _Shape, heads: int, kv_heads: int, head_dim: int, v_head_dim: int, width: int, window: int | None) -> Op:
    op = attention(
        s.batch,
        heads,
        kv_heads,
        head_dim,
        s.new,
        s.new + s.past,
        s.fmt.stream,
        s.fmt.kv,
        s.fmt.activations,
        v_head_dim=v_head_dim,
        kv_width=width,
        window=window,
        causal=s.model.causal,
        store=s.model.causal,
        page=s.page,
        name="attn.core",
    )
    return op.inner()


def _mla(s: _Shape, a: Attention) -> Iterator[Op]:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

    Prefill expands the latent into per-head keys and values; decode absorbs the expansion into the
    query and output (section 2.1.2 there), so that all heads share one latent "key" per token.
    """
    hidden, heads = s.model.hidden, ceil_div(a.heads, s.tp)
    assert a.kv_lora_rank is not None and a.rope_head_dim is not None
    latent, rope = a.kv_lora_rank, a.rope_head_dim
    nope = a.head_dim - rope
    if a.q_lora_rank:
        yield s.linear("attn.q_a", a.q_lora_rank, hidden, bias=a.qkv_bias)
        yield s.norm("attn.q_norm", s.tokens, a.q_lora_rank, "rmsnorm")
    yield s.linear("attn.q", heads * a.head_dim, a.q_lora_rank or hidden)
    yield s.linear("attn.kv_a", latent + rope, hidden, bias=a.qkv_bias)
    yield s.norm("attn.kv_norm", s.tokens, latent, "rmsnorm")
    yield s.pointwise("attn.rope", "rope", s.tokens * (heads + 1) * rope, s.fmt.activations)
    if s.absorb:
        yield s.linear("attn.absorb_q", latent, nope, groups=heads)
        yield _attend(s, heads, 1, latent + rope, latent, latent + rope, a.window)
        yield s.linear("attn.absorb_v", a.v_head_dim, latent, groups=heads)
    else:
        # Cached tokens are cached as latents: their keys and values are expanded again.
        yield s.linear("attn.kv_b", heads * (nope + a.v_head_dim), latent, m=s.batch * (s.new + s.past))
        yield _attend(s, heads, heads, a.head_dim, a.v_head_dim, latent + rope, a.window)
    yield s.linear("attn.out", hidden, heads * a.v_head_dim, bias=a.o_bias)


def _dense(s: _Shape, f: Ffn) -> Iterator[Op]:
    yield from _mlp(s, "ffn", f, ceil_div(f.intermediate, s.tp))


def _mlp(s: _Shape, name: str, f: Ffn, width: int) -> Iterator[Op]:
    hidden = s.model.hidden
    yield s.linear(f"{name}.up", (2 if f.gated else 1) * width, hidden, bias=f.bias)
    yield s.pointwise(f"{name}.act", _activation(f), s.tokens * width, s.fmt.activations)
    yield s.linear(f"{name}.down", hidden, width, bias=f.bias)


def _activation(f: Ffn) -> str:
    base = "relu" if f.activation.startswith("relu") else "gelu" if f.activation.startswith("gelu") else "silu"
    return {"silu": "swiglu", "gelu": "geglu"}.get(base, base) if f.gated else base


def _moe(s: _Shape, f: Ffn) -> Iterator[Op]:
    hidden, fmt, tokens = s.model.hidden, s.fmt, s.sequences * s.new
    spread = s.ep > 1
    width = f.intermediate if spread else ceil_div(f.intermediate, s.tp)
    routing = ceil_div(s.tokens, s.tp) if spread else s.tokens
    pairs = ceil_div(tokens * f.experts_per_token, s.ep)  # of a token and an expert of this chip
    sizes: dict[str, Any] = {"tokens": tokens, "top_k": f.experts_per_token, "experts": f.experts, "ep": s.ep}
    kinds: dict[str, Any] = {"a": fmt.activations, "b": fmt.weights, "out": fmt.stream, "bias": f.bias}
    yield gemm(
        routing, f.experts, hidden, fmt.stream, NORM_FORMAT, fmt.stream, bias=f.router_bias, name="ffn.router"
    ).inner()
    yield softmax(routing, f.experts, fmt.stream, fmt.stream, name="ffn.route").inner()
    if spread:
        yield _exchange(s, f, "ffn.dispatch", fmt.activations)
    yield experts(n=(2 if f.gated else 1) * width, k=hidden, name="ffn.experts_up", **sizes, **kinds).inner()
    yield s.pointwise("ffn.act", _activation(f), pairs * width, fmt.activations)
    yield experts(n=hidden, k=width, name="ffn.experts_down", **sizes, **kinds).inner()
    yield s.pointwise("ffn.combine", "mul", pairs * hidden)
    if spread:
        yield _exchange(s, f, "ffn.return", fmt.stream)
        visits = chips_visited(f.experts, f.experts_per_token, s.ep)
        parts = ceil_div(tokens * visits.numerator, visits.denominator * s.ep)
        yield s.pointwise("ffn.sum", "add", parts * hidden)
    if f.shared_intermediate:
        yield from _mlp(s, "ffn.shared", f, ceil_div(f.shared_intermediate, s.tp))


def _exchange(s: _Shape, f: Ffn, name: str, fmt: str) -> Op:
    """Every token between its own chip and those that hold its experts; elements are those of all chips."""
    visits = chips_visited(f.experts, f.experts_per_token, s.ep)
    elements = ceil_div(s.sequences * s.new * s.model.hidden * visits.numerator, visits.denominator)
    return collective(elements, s.ep, "all_to_all", fmt, name=name).inner()


def _head(s: _Shape) -> Iterator[Op]:
    model = s.model
    if not model.lm_head:
        if model.final_norm:
            last = s.norm("final_norm", s.tokens, model.hidden, model.norm)
            yield replace(last, roles={**last.roles, "out": "io"})
        return
    # Only the last position of each sequence becomes logits.
    yield s.norm("final_norm", s.batch, model.hidden, model.norm)
    head = s.linear("lm_head", ceil_div(model.vocab, s.tp), model.hidden, m=s.batch)
    yield replace(head, roles={**head.roles, "out": "io"})
