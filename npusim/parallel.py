"""How a model spreads over chips: memory per chip, and the smallest number of chips that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from npusim import dtypes, units
from npusim.chip import Chip
from npusim.errors import DoesNotFit
from npusim.llm import NORM_FORMAT, Precision, ceil_div
from npusim.models import Layer, Model
from npusim.ops import Dim, smaller

DEGREES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes one chip must hold.

    Args:
        weights_bytes: its share of the weights.
        kv_bytes: KV cache of all sequences.
        activations_bytes: live activations of one prefill chunk.
    """

    weights_bytes: float
    kv_bytes: Dim
    activations_bytes: float

    @property
    def total_bytes(self) -> Dim:
        """Sum of the parts."""
        return self.weights_bytes + self.kv_bytes + self.activations_bytes


def _bytes(elements: Dim, fmt: str) -> Dim:
    return elements * dtypes.bits(fmt) / 8


@lru_cache(maxsize=256)
def weights_bytes(model: Model, fmt: Precision) -> float:
    """Bytes of all weights of a model: matrices in the weight format, embedding table and vectors in bf16.

    A head that is tied to the embedding is a second copy when the weight format differs from the table's.
    """
    count = model.params()
    routed = sum(
        n * (layer.ffn.params(model.hidden) - layer.ffn.active_params(model.hidden)) for layer, n in model.blocks
    )
    head = model.vocab * model.hidden if model.lm_head else 0
    tied_here = head if model.tied_embeddings and dtypes.get(fmt.weights).bits == dtypes.bits(NORM_FORMAT) else 0
    matrices = count.matmul + routed  # count.matmul holds the head and the active experts
    shared_copy = head if model.tied_embeddings else 0
    vectors = count.total - (matrices - shared_copy)  # embedding table, norms, biases
    return float(_bytes(matrices - tied_here, fmt.weights) + _bytes(vectors, NORM_FORMAT))


def stage_share(model: Model, pp: int) -> float:
    """Share of the layers in the fullest of ``pp`` stages."""
    layers = sum(count for _, count in model.blocks)
    return ceil_div(layers, pp) / layers if layers % pp else 1 / pp


def weights_per_chip(model: Model, fmt: Precision, tp: int = 1, ep: int = 1, pp: int = 1) -> float:
    """Bytes of the weights a chip of the fullest stage holds: an even part of each of its layers.

    With ``ep`` > 1 its part of the routed experts, and 1/``tp`` of all else, which every attention group holds.
    """
    whole = weights_bytes(model, fmt)
    if ep == 1:
        return whole / tp * stage_share(model, pp)
    routed = float(_bytes(sum(n * layer.ffn.routed_params(model.hidden) for layer, n in model.blocks), fmt.weights))
    return ((whole - routed) / tp + routed / ep) * stage_share(model, pp)


def kv_width(layer: Layer, tp: int) -> int:
    """Elements per token that one of ``tp`` chips caches of a layer; KV heads are replicated beyond their number."""
    a = layer.attention
    return a.kv_elements_per_token if a.kind == "mla" else ceil_div(a.kv_heads, tp) * (a.head_dim + a.v_head_dim)


def kv_bytes(model: Model, fmt: Precision, tokens: Dim, tp: int) -> Dim:
    """KV-cache bytes per chip of one sequence of ``tokens`` tokens."""
    if not model.causal:
        return 0
    elements = sum(
        n * kv_width(layer, tp) * smaller(tokens, layer.attention.window or tokens) for layer, n in model.blocks
    )
    return _bytes(elements, fmt.kv)


def activation_bytes(model: Model, fmt: Precision, chunk_tokens: int, tp: int, ep: int = 1) -> float:
    """Live activations per chip of a prefill chunk: the residual stream, its normed copy, and the widest pair
    of neighbouring tensors inside a layer (projections in the stream format, their consumers' inputs in the
    activation format)."""
    widest = 0.0
    for layer, _ in model.blocks:
        a, f = layer.attention, layer.ffn
        heads, kv_heads = ceil_div(a.heads, tp), ceil_div(a.kv_heads, tp)
        qkv = heads * a.head_dim + kv_heads * (a.head_dim + a.v_head_dim)
        inner = (
            ceil_div(f.intermediate * max(f.experts_per_token, 1), ep)
            if ep > 1 and f.experts
            else (ceil_div(f.intermediate, tp) * max(f.experts_per_token, 1))
        )
        inner += ceil_div(f.shared_intermediate, tp)
        up = (2 if f.gated else 1) * inner
        widest = max(
            widest,
            _bytes(qkv, fmt.stream) + _bytes(heads * a.v_head_dim, fmt.activations),
            _bytes(up, fmt.stream) + _bytes(inner, fmt.activations),
        )
    stream = _bytes(model.hidden, fmt.stream) + _bytes(model.hidden, fmt.activations)
    return float(chunk_tokens * (stream + widest))


def footprint(
    model: Model,
    fmt: Precision,
    *,
    sequences: Dim,
    tokens: Dim,
    tp: int = 1,
    chunk_tokens: int = 8192,
    ep: int = 1,
    pp: int = 1,
) -> Footprint:
    """Memory one chip needs for ``sequences`` sequences of ``tokens`` tokens each.

    Args:
        model: the network.
        fmt: number formats.
        sequences: in the cache, on all chips together.
        tokens: of each of them.
        tp: chips that split attention and dense layers.
        chunk_tokens: new tokens of a step.
        ep: chips that share the routed experts; more than ``tp``: ``ep / tp`` groups share the sequences.
        pp: stages that split the layers.
    """
    return Footprint(
        weights_per_chip(model, fmt, tp, ep, pp),
        ceil_div(sequences, max(ep // tp, 1)) * kv_bytes(model, fmt, tokens, tp) * stage_share(model, pp),
        activation_bytes(model, fmt, chunk_tokens, tp, ep),
    )


def usable_bytes(chip: Chip) -> float:
    """Memory a chip offers a model: ``memory.usable`` × capacity."""
    assert chip.memory is not None
    return chip.memory.usable * chip.memory.capacity_bytes


def smallest_degree(model: Model, fmt: Precision, chip: Chip, *, tokens: int, chunk_tokens: int = 8192) -> int:
    """Smallest tensor-parallel degree that holds the weights and one sequence of ``tokens`` tokens.

    Raises:
        DoesNotFit: not even 64 chips do (or one, for a chip without links); says by how much they fall short.
    """
    degrees = DEGREES if chip.link is not None else DEGREES[:1]
    short = 0.0
    for tp in degrees:
        need = footprint(model, fmt, sequences=1, tokens=tokens, tp=tp, chunk_tokens=chunk_tokens).total_bytes
        short = need - usable_bytes(chip)
        if short <= 0:
            return tp
    what = f"{degrees[-1]} chips" if len(degrees) > 1 else "one chip (its file describes no link to others)"
    raise DoesNotFit(
        f"{model.name} ({fmt.weights} weights) with one sequence of {tokens} tokens does not fit {what} of "
        f"{chip.name}: short by {units.show(short, 'B')} per chip; usable {units.show(usable_bytes(chip), 'B')}",
        short,
    )


def largest_batch(
    model: Model, fmt: Precision, chip: Chip, *, tokens: int, tp: int, limit: int = 1024, chunk_tokens: int = 8192
) -> int:
    """Largest number of sequences of ``tokens`` tokens that fits beside the weights, at most ``limit`` (0: none)."""
    fixed = footprint(model, fmt, sequences=0, tokens=tokens, tp=tp, chunk_tokens=chunk_tokens).total_bytes
    one = kv_bytes(model, fmt, tokens, tp)
    room = usable_bytes(chip) - fixed
    if room < 0:
        return 0
    return limit if one == 0 else int(min(limit, room // one))
