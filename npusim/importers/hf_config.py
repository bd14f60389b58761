"""Reads Hugging Face ``config.json`` fields into ``npusim.models.Model``.

Each family is one row of ``FAMILIES``: which keys it has, which biases and norms, how sliding windows and
experts are laid over the layers. Rows and defaults follow the configuration and modelling classes of
transformers 5.23.0 (and, for ``exaone``, the code published with EXAONE-3.5). A key that is absent from a
config.json means the default of its class, because the library writes only what differs; such a value
is used for flags and windows and recorded in ``Model.derived``. Sizes must be given: a wrong guess there would
be a wrong count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from npusim.errors import InputError, Problem, did_you_mean
from npusim.importers.hf_fields import ARITHMETIC, CLASS_DEFAULT, Fields, shown
from npusim.models import Attention, Ffn, Layer, Model
from npusim.yamlio import Keys, Position, dotted

MAX_LAYERS = 2**16

ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip

# Spellings of one field: the first is the name used in messages, the others are attribute maps of the classes.
HIDDEN = ("hidden_size", "n_embd")
LAYERS = ("num_hidden_layers", "num_layers", "n_layer")
HEADS = ("num_attention_heads", "n_head")
POSITIONS = ("max_position_embeddings", "n_positions")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
PER_TOKEN = ("num_experts_per_tok", "experts_per_token")
SHARED = ("n_shared_experts", "num_shared_experts")
WIDTH = ("intermediate_size",)


# --- what differs between families ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """How sliding windows are laid over the layers when the file has no ``layer_types``.

    Args:
        slides: ``"never"``, ``"all"``, ``"period"`` (each ``period``-th layer is full) or ``"from"`` (layers
            from ``max_window_layers`` on slide).
        width: class default of ``sliding_window``.
        switch: key that must be true for any window to exist.
        period: class default of the period.
        keys: keys that may hold the period, an integer or a pattern such as ``LLLG``.
    """

    slides: str = "never"
    width: int | None = None
    switch: str = ""
    period: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Moe:
    """Where the experts are.

    Args:
        sparse: (fields, layers) → one boolean per layer, True where it routes.
        width: key of the inner width of one expert.
        first_dense: class default of ``first_k_dense_replace``.
        router_bias: the router has a bias.
    """

    sparse: Callable[[Fields, int, Moe], list[bool]]
    width: str = "moe_intermediate_size"
    first_dense: int = 0
    router_bias: bool = False


Flag = bool | tuple[str, bool]
"""A constant, or (key, class default)."""


@dataclass(frozen=True, slots=True)
class Family:
    """One model family; the defaults are those of a Llama-like decoder.

    Args:
        architectures: class names accepted in ``architectures``.
        tied: class default of ``tie_word_embeddings``.
        mla: multi-head latent attention.
        head_dim: class default; None means hidden_size / heads.
        kv_heads: ``"given"`` (required), ``"heads"`` (defaults to the heads) or ``"same"`` (no such key).
        qkv_bias: biases on q, k and v.
        o_bias: bias on the attention output.
        mlp_bias: biases in the feed-forward part.
        qk_norm: norms on q and k.
        sinks: learned attention sinks.
        rope: rotary embedding.
        nope_on_full: when windows are used, full layers have no rotary embedding.
        gated: gated feed-forward part.
        activation: class default.
        ffn_keys: spellings of the dense inner width.
        norms: hidden-width norms per layer.
        norm: their kind.
        parallel: attention and feed-forward in parallel.
        window: sliding windows.
        moe: experts.
        outer: (fields, hidden, architecture) → further ``Model`` arguments.
        defaults: class defaults of sizes that published files of the family leave out.
    """

    architectures: tuple[str, ...]
    tied: bool = False
    mla: bool = False
    head_dim: int | None = None
    kv_heads: str = "given"
    qkv_bias: Flag = False
    o_bias: Flag = False
    mlp_bias: Flag = False
    qk_norm: bool = False
    sinks: bool = False
    rope: bool = True
    nope_on_full: bool = False
    gated: bool = True
    activation: str = "silu"
    ffn_keys: tuple[str, ...] = WIDTH
    norms: int = 2
    norm: str = "rmsnorm"
    parallel: bool = False
    window: Window = Window()
    moe: Moe | None = None
    outer: Callable[[Fields, int, str], dict[str, Any]] | None = None
    defaults: tuple[tuple[str, int], ...] = ()


def _every_layer(fields: Fields, layers: int, moe: Moe) -> list[bool]:
    return [True] * layers


def _after_first(fields: Fields, layers: int, moe: Moe) -> list[bool]:
    """Dense layers first, then experts in each ``moe_layer_freq``-th layer; an explicit list wins."""
    spelled: dict[str, Mapping[Any, bool]] = {
        "mlp_layer_types": {"dense": False, "sparse": True},
        "is_moe_layer": {False: False, True: True},
    }
    for key, meaning in spelled.items():
        listed = fields.choices(key, layers, meaning)
        if listed is not None:
            return listed
    first = fields.optional("first_k_dense_replace", "first_last_k_dense_replace", absent=moe.first_dense, low=0)
    step = fields.optional("moe_layer_freq") or 1
    return [layer >= (first or 0) and layer % step == 0 for layer in range(layers)]


def _stepped(fields: Fields, layers: int, moe: Moe) -> list[bool]:
    """Experts in each ``decoder_sparse_step``-th layer unless listed in ``mlp_only_layers``."""
    step = fields.optional("decoder_sparse_step", absent=1) or 1
    dense = fields.config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(item) is int and 0 <= item < layers for item in dense):
        fields.report("mlp_only_layers", f"mlp_only_layers is {shown(dense)}", "a list of layer numbers from 0")
        dense = []
    skipped = set(dense)
    return [layer not in skipped and (layer + 1) % step == 0 for layer in range(layers)]


def _outer_bert(fields: Fields, hidden: int, architecture: str) -> dict[str, Any]:
    """BertModel with its pooler, whatever head the file names: the encoder is what is simulated."""
    fields.fixed("position_embedding_type", "absolute")
    fields.fixed("is_decoder", False)
    rows = fields.integer(*POSITIONS)
    types = fields.integer("type_vocab_size")
    return {
        "position_rows": rows, "type_rows": types, "embedding_norm": True, "final_norm": False, "pooler": True,
        "causal": False, "lm_head": False,
    }  # fmt: skip


def _outer_opt(fields: Fields, hidden: int, architecture: str) -> dict[str, Any]:
    """The position table has two spare rows; the pre-norm variant has a norm after the last layer."""
    fields.fixed("word_embed_proj_dim", hidden)
    fields.fixed("layer_norm_elementwise_affine", True)
    removed = fields.config.get("_remove_final_layer_norm") is True
    final = fields.flag("do_layer_norm_before", True) and not removed
    return {"position_rows": fields.integer(*POSITIONS) + 2, "final_norm": final}


def _outer_gptj(fields: Fields, hidden: int, architecture: str) -> dict[str, Any]:
    return {"lm_head_bias": True}


def _outer_vit(fields: Fields, hidden: int, architecture: str) -> dict[str, Any]:
    """Patch embedding, one class token, learned positions; a classifier or, for the bare class, a pooler."""
    image, patch = _pair(fields, "image_size"), _pair(fields, "patch_size")
    channels = fields.integer("num_channels")
    if all(patch) and any(size < edge for size, edge in zip(image, patch, strict=True)):
        fields.report("patch_size", "patch_size is larger than image_size", "at least one patch")
    patches = (image[0] // max(patch[0], 1)) * (image[1] // max(patch[1], 1))
    classifier = architecture == "ViTForImageClassification"
    fields.fixed("pooler_output_size", hidden)
    return {
        "vocab": 0, "position_rows": patches + 1, "max_positions": patches + 1, "class_tokens": 1,
        "patch_inputs": channels * patch[0] * patch[1], "classes": _labels(fields) if classifier else 0,
        "pooler": not classifier, "causal": False, "lm_head": False, "tied_embeddings": False,
    }  # fmt: skip


def _pair(fields: Fields, name: str) -> tuple[int, int]:
    value = fields.config.get(name)
    if isinstance(value, list) and len(value) == 2:
        part = Fields({f"{name}[{i}]": item for i, item in enumerate(value)}, fields.where, fields.at, fields.prefix)
        found = part.integer(f"{name}[0]"), part.integer(f"{name}[1]")
        fields.problems += part.problems
        return found
    side = fields.integer(name)
    return side, side


def _labels(fields: Fields) -> int:
    """Classes of a classifier: ``num_labels``, or the length of ``id2label`` as published files have it."""
    names = fields.config.get("id2label")
    if "num_labels" not in fields.config and isinstance(names, dict) and names:
        return len(names)
    return fields.integer("num_labels")


_BIASES: dict[str, Any] = {"qkv_bias": ("attention_bias", False), "o_bias": ("attention_bias", False)}
_ALL_BIASES: dict[str, Any] = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}
_LAYERNORM: dict[str, Any] = {"norm": "layernorm", "gated": False, "kv_heads": "same"}
_QWEN_WINDOW = Window("from", 4096, switch="use_sliding_window")
_EXAONE_WINDOW = Window("period", 4096, period=4, keys=("sliding_window_pattern",))
_GEMMA3 = Family(
    ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    tied=True, head_dim=256, qk_norm=True, activation="gelu_pytorch_tanh", norms=4, **_BIASES,
    window=Window("period", 4096, period=6, keys=("sliding_window_pattern", "_sliding_window_pattern")),
    defaults=(("vocab_size", 262208), ("num_attention_heads", 8), ("num_key_value_heads", 4)),
)  # fmt: skip
_BERT_HEADS = ("Model", "ForMaskedLM", "ForPreTraining", "ForQuestionAnswering", "ForSequenceClassification",
               "ForTokenClassification")  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType({
    "llama": Family(("LlamaForCausalLM",), kv_heads="heads", mlp_bias=("mlp_bias", False), **_BIASES),
    "mistral": Family(("MistralForCausalLM",), window=Window("all", 4096)),
    "mixtral": Family(("MixtralForCausalLM",), window=Window("all"), moe=Moe(_every_layer, "intermediate_size")),
    "qwen2": Family(("Qwen2ForCausalLM",), qkv_bias=True, window=_QWEN_WINDOW),
    "qwen3": Family(("Qwen3ForCausalLM",), head_dim=128, qk_norm=True, window=_QWEN_WINDOW, **_BIASES),
    "qwen3_moe": Family(
        ("Qwen3MoeForCausalLM",), qk_norm=True, **_BIASES, moe=Moe(_stepped),
        window=Window("all", 4096, switch="use_sliding_window"),
    ),
    "gemma2": Family(
        ("Gemma2ForCausalLM",), tied=True, head_dim=256, activation="gelu_pytorch_tanh", norms=4, **_BIASES,
        window=Window("period", 4096, period=2),
    ),
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "phi3": Family(("Phi3ForCausalLM",), kv_heads="heads", window=Window("all")),
    "gptj": Family(
        ("GPTJForCausalLM",), **_LAYERNORM, mlp_bias=True, activation="gelu_new", norms=1, parallel=True,
        ffn_keys=("n_inner", "intermediate_size"), outer=_outer_gptj,
    ),
    "opt": Family(
        ("OPTForCausalLM",), **_LAYERNORM, tied=True, rope=False, activation="relu", outer=_outer_opt,
        qkv_bias=("enable_bias", True), o_bias=("enable_bias", True), mlp_bias=("enable_bias", True),
        ffn_keys=("ffn_dim", "intermediate_size"),
    ),
    "exaone": Family(("ExaoneForCausalLM",), tied=True, kv_heads="heads"),
    "exaone4": Family(("Exaone4ForCausalLM",), qk_norm=True, nope_on_full=True, window=_EXAONE_WINDOW),
    "exaone_moe": Family(
        ("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"), qk_norm=True, nope_on_full=True, window=_EXAONE_WINDOW,
        moe=Moe(_after_first, first_dense=1),
    ),
    "solar_open": Family(
        ("SolarOpenForCausalLM",), head_dim=128, qkv_bias=("attention_bias", False), moe=Moe(_after_first),
    ),
    "gpt_oss": Family(
        ("GptOssForCausalLM",), head_dim=64, qkv_bias=("attention_bias", True), o_bias=("attention_bias", True),
        mlp_bias=True, sinks=True, window=Window("period", 128, period=2),
        moe=Moe(_every_layer, "intermediate_size", router_bias=True),
    ),
    "deepseek_v2": Family(
        ("DeepseekV2ForCausalLM",), mla=True, kv_heads="heads", moe=Moe(_after_first), **_BIASES,
        mlp_bias=("mlp_bias", False),
    ),
    "deepseek_v3": Family(
        ("DeepseekV3ForCausalLM",), mla=True, kv_heads="heads", moe=Moe(_after_first, first_dense=3), **_BIASES,
    ),
    "bert": Family(
        tuple(f"Bert{head}" for head in _BERT_HEADS), **_LAYERNORM, **_ALL_BIASES, tied=True, rope=False,
        activation="gelu", outer=_outer_bert,
    ),
    "vit": Family(
        ("ViTForImageClassification", "ViTModel"), **_LAYERNORM, qkv_bias=("qkv_bias", True), o_bias=True,
        mlp_bias=True, rope=False, activation="gelu", outer=_outer_vit,
    ),
})  # fmt: skip


# --- reading --------------------------------------------------------------------------------------------


def read_config(
    config: object,
    name: str,
    where: str = "",
    at: Callable[[Keys], Position] | None = None,
    prefix: Keys = (),
) -> Model:
    """Makes a Model of configuration fields.

    Args:
        config: the fields, as in a Hugging Face ``config.json``; other keys are ignored.
        name: name of the model.
        where: file to print in messages.
        at: position (line, column) of a key path in that file.
        prefix: key path of ``config`` inside the file.

    Raises:
        InputError: with one Problem per mistake.
    """
    if not isinstance(config, Mapping):
        kind = "empty" if config is None else f"a {type(config).__name__}"
        raise InputError(Problem(f"the configuration is {kind}", dotted(prefix), where, allowed="a mapping of fields"))
    fields = Fields(config, where, at, prefix)
    family_name, architecture = _family(fields)
    family, notes = FAMILIES[family_name], []
    if isinstance(config.get("text_config"), Mapping) and family_name == "gemma3":
        # The outer file may state the tie; the library's outer class defaults to the same as the inner.
        inner = {"tie_word_embeddings": config.get("tie_word_embeddings"), **config["text_config"]}
        fields = Fields(inner, where, at, (*prefix, "text_config"))
        notes.append("language model only: the vision tower is not counted")
    fields.defaults = dict(family.defaults)
    arguments = _arguments(fields, family, architecture)
    fields.stop_if_wrong()
    return Model(
        name=name, title=name, family=family_name, quantization=_quantization(config),
        derived=tuple(fields.derived.items()), notes=tuple(notes), **arguments,
    )  # fmt: skip


def _family(fields: Fields) -> tuple[str, str]:
    """The family's key and the architecture's name (the family's first when the file has none)."""
    model_type, listed = fields.config.get("model_type"), fields.config.get("architectures")
    names = [item for item in listed if isinstance(item, str)] if isinstance(listed, list) else []
    known = {arch: key for key, family in FAMILIES.items() for arch in family.architectures}
    if isinstance(model_type, str) and model_type in FAMILIES:
        accepted = FAMILIES[model_type].architectures
        if not names:
            return model_type, accepted[0]
        if names[0] in accepted:
            return model_type, names[0]
        # A different head or a different network would be counted wrongly, so it is not guessed.
        message = f"architecture {shown(names[0])} is not understood for model_type '{model_type}'"
        allowed = f"one of: {', '.join(accepted)}"
        fields.report("architectures", message, allowed, did_you_mean(names[0], accepted))
    elif model_type is None and names and names[0] in known:
        return known[names[0]], names[0]
    else:
        key = "model_type" if model_type is not None or not names else "architectures"
        given = model_type if key == "model_type" else names[0]
        fields.report(
            key, f"{key} is missing" if given is None else f"{key} {shown(given)} is not understood", _understood(),
            did_you_mean(given, FAMILIES if key == "model_type" else known) if isinstance(given, str) else "",
        )  # fmt: skip
    raise InputError(fields.problems)


def _understood() -> str:
    required = (HIDDEN[0], LAYERS[0], HEADS[0], "num_key_value_heads", WIDTH[0], "vocab_size")
    architectures = dict.fromkeys(arch for family in FAMILIES.values() for arch in family.architectures)
    return (
        f"model_type one of: {', '.join(FAMILIES)} (architectures {', '.join(architectures)}) "
        f"with fields {', '.join(required)}, ..."
    )


def _quantization(config: Mapping[str, Any]) -> str | None:
    section = config.get("quantization_config")
    method = section.get("quant_method") if isinstance(section, Mapping) else None
    return method[:40] if isinstance(method, str) else None


def _arguments(fields: Fields, family: Family, architecture: str) -> dict[str, Any]:
    """Arguments of ``Model`` that come from the fields; problems are in ``fields``."""
    hidden = fields.integer(*HIDDEN)
    layers = fields.integer(*LAYERS, high=MAX_LAYERS)
    vision = family.outer is _outer_vit
    common = {
        "hidden": hidden,
        "vocab": 0 if vision else fields.integer("vocab_size"),
        "tied_embeddings": False if vision else fields.flag("tie_word_embeddings", family.tied),
        "max_positions": None if vision else fields.optional(*POSITIONS),
        "norm": family.norm,
    }
    common |= family.outer(fields, hidden, architecture) if family.outer else {}
    attention = _attention(fields, family, hidden)
    ffns = _ffns(fields, family, hidden, layers)
    windows = _windows(fields, family.window, layers)
    fields.stop_if_wrong()
    nope = family.nope_on_full and any(windows)
    runs = Counter(zip(windows, ffns, strict=True))  # keeps the order in which each kind first appears
    blocks = tuple(
        (
            Layer(
                Attention(**attention, window=window, rope=family.rope and not (nope and window is None)),
                ffn, family.norms, family.norm, family.parallel,
            ),
            count,
        )
        for (window, ffn), count in runs.items()
    )  # fmt: skip
    return common | {"blocks": blocks}


def _flag(fields: Fields, flag: Flag) -> bool:
    return flag if isinstance(flag, bool) else fields.flag(*flag)


def _attention(fields: Fields, family: Family, hidden: int) -> dict[str, Any]:
    """Arguments of ``Attention`` common to all layers."""
    heads = fields.integer(*HEADS)
    made: dict[str, Any] = {
        "kind": "mla" if family.mla else "gqa",
        "heads": heads,
        "kv_heads": _kv_heads(fields, family, heads),
        "qkv_bias": _flag(fields, family.qkv_bias),
        "o_bias": _flag(fields, family.o_bias),
        "qk_norm": family.qk_norm,
        "sinks": family.sinks,
    }
    if family.mla:
        rope, nope = fields.integer("qk_rope_head_dim"), fields.integer("qk_nope_head_dim")
        if "q_lora_rank" not in fields.config:
            # null means a direct projection; its absence would decide between two networks.
            fields.report("q_lora_rank", "q_lora_rank is missing", "an integer, or null for no query compression")
        return made | {
            "head_dim": nope + rope, "v_head_dim": fields.integer("v_head_dim"), "rope_head_dim": rope,
            "q_lora_rank": fields.optional("q_lora_rank"), "kv_lora_rank": fields.integer("kv_lora_rank"),
        }  # fmt: skip
    head_dim = _head_dim(fields, family, hidden, heads)
    return made | {"head_dim": head_dim, "v_head_dim": head_dim}


def _kv_heads(fields: Fields, family: Family, heads: int) -> int:
    key = "num_key_value_heads"
    if family.kv_heads == "same":
        if heads:
            fields.fixed(key, heads)
        return heads
    if family.kv_heads == "given":
        found: int | None = fields.integer(key)
    else:
        found = fields.optional(key)
    if found is None:
        fields.derived[key] = ARITHMETIC
        return heads
    if found and heads % found:
        fields.report(key, f"{key} {found} does not divide num_attention_heads {heads}", "a divisor of it")
    return found


def _head_dim(fields: Fields, family: Family, hidden: int, heads: int) -> int:
    """Width of one head: the key, the class default, or hidden / heads."""
    if family.head_dim is not None:  # these classes have no null: the width is a number of its own
        present = "head_dim" in fields.config
        return fields.integer("head_dim") if present else fields.optional("head_dim", absent=family.head_dim) or 0
    found = fields.optional("head_dim") if family.kv_heads != "same" else None
    if found is not None:
        return found
    if heads and hidden and hidden % heads:
        fields.report(HEADS[0], f"{HEADS[0]} {heads} does not divide hidden_size {hidden}",
                      "a divisor of it, or an explicit head_dim")  # fmt: skip
        return 0
    fields.derived["head_dim"] = ARITHMETIC
    derived = hidden // heads if heads else 0
    if family.kv_heads == "same" and derived:
        fields.fixed("head_dim", derived)
    return derived


def _windows(fields: Fields, window: Window, layers: int) -> list[int | None]:
    """The sliding window of each layer, None where attention is full."""
    listed = fields.choices("layer_types", layers, {"full_attention": False, "sliding_attention": True})
    if window.slides == "never" and not (listed and any(listed)):
        return [None] * layers  # such classes ignore a stray sliding_window
    before = len(fields.problems)
    on = fields.flag(window.switch, False) if window.switch else True
    width = fields.optional("sliding_window", absent=window.width) if on else None
    if listed is None:
        listed = _sliding(fields, window, layers) if width is not None else [False] * layers
    elif any(listed) and width is None and len(fields.problems) == before:
        fields.report("sliding_window", "layer_types has sliding layers but there is no window",
                      f"an integer sliding_window{f' and {window.switch} true' if window.switch else ''}")  # fmt: skip
    return [width if slides else None for slides in listed]


def _sliding(fields: Fields, window: Window, layers: int) -> list[bool]:
    """Which layers slide according to the family's rule."""
    if window.slides == "from":
        first = fields.optional("max_window_layers", absent=28, low=0) or 0
        return [layer >= first for layer in range(layers)]
    if window.slides == "all":
        return [True] * layers
    key = fields.find(window.keys)
    pattern = fields.config[key] if key else None
    if isinstance(pattern, str) and key:
        if not pattern or set(pattern) - {"L", "G"} or len(pattern) > MAX_LAYERS:
            fields.report(key, f"{key} is {shown(pattern)}", "an integer, or letters L (sliding) and G (full)")
            return [False] * layers
        # With a lettered pattern the last layer is always full (documentation of Exaone4Config).
        return [pattern[layer % len(pattern)] == "L" and layer != layers - 1 for layer in range(layers)]
    if window.keys and pattern is None:
        fields.derived[window.keys[0]] = CLASS_DEFAULT
    period = fields.integer(key) if key and pattern is not None else window.period
    return [bool((layer + 1) % period) for layer in range(layers)] if period else [False] * layers


def _ffns(fields: Fields, family: Family, hidden: int, layers: int) -> list[Ffn]:
    """The feed-forward part of each layer (any stand-in where a problem was reported)."""
    shape: dict[str, Any] = {
        "gated": family.gated,
        "activation": _activation(fields, family),
        "bias": _flag(fields, family.mlp_bias),
    }
    sparse = family.moe.sparse(fields, layers, family.moe) if family.moe else [False] * layers
    # With an unreadable number of layers the usual kind of the family is still read, to report its mistakes.
    has_sparse = any(sparse) if layers else family.moe is not None
    has_dense = not all(sparse) if layers else family.moe is None
    width = _dense_width(fields, family, hidden) if has_dense else 0
    dense = routed = Ffn("dense", width or 1, **shape)
    if family.moe and has_sparse:
        routed = _moe(fields, family.moe, shape) or dense
    return [routed if is_sparse else dense for is_sparse in sparse]


def _dense_width(fields: Fields, family: Family, hidden: int) -> int:
    inner = family.ffn_keys[0]
    if inner == "n_inner" and fields.config.get(inner) is None:
        # GPTJConfig: null means four times the hidden width.
        fields.derived[inner] = ARITHMETIC
        fields.fixed("intermediate_size", 4 * hidden)
        return 4 * hidden
    return fields.integer(*family.ffn_keys)


def _moe(fields: Fields, moe: Moe, shape: Mapping[str, Any]) -> Ffn | None:
    experts, picked = fields.integer(*EXPERTS), fields.integer(*PER_TOKEN)
    width = fields.integer(moe.width)
    shared = 0
    if moe.width != "intermediate_size" and moe.sparse is not _stepped:
        if fields.find(SHARED) is None:
            fields.report(SHARED[0], f"{SHARED[0]} is missing", "an integer, 0 or null for none")
        shared = fields.optional(*SHARED, low=0) or 0
    if experts and picked > experts:
        fields.report(PER_TOKEN[0], f"{PER_TOKEN[0]} {picked} is more than the {experts} experts", f"1 to {experts}")
        return None
    if not (experts and picked and width):
        return None
    return Ffn(
        "moe", width, **shape, experts=experts, experts_per_token=picked, shared_intermediate=shared * width,
        router_bias=moe.router_bias,
    )  # fmt: skip


def _activation(fields: Fields, family: Family) -> str:
    """The activation in our spelling; ``hidden_activation`` wins because Gemma files carry a stale ``hidden_act``."""
    names = ("hidden_activation", "activation_function", "hidden_act")
    key = next((name for name in names if fields.config.get(name) is not None), None)
    if key is None:
        fields.derived["hidden_act"] = CLASS_DEFAULT
        return ACTIVATIONS[family.activation]
    value = fields.config[key]
    if not isinstance(value, str) or value not in ACTIVATIONS:
        hint = did_you_mean(value, ACTIVATIONS) if isinstance(value, str) else ""
        fields.report(key, f"{key} is {shown(value)}", f"one of: {', '.join(ACTIVATIONS)}", hint)
        return ACTIVATIONS[family.activation]
    return ACTIVATIONS[value]
