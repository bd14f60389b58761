"""What a neural network is: layers, widths and counts, with nothing about weights or chips.

A ``Model`` is a frozen description from which exact parameter counts, KV-cache sizes and workloads are
derived. ``load_model`` makes one from a catalog name, a Hugging Face ``config.json`` or one of our YAML
files; ``npusim.importers.hf_config`` holds the reader of the configuration fields themselves.

Counts follow the parameter tensors of the public Hugging Face model classes (weights, biases, norm
gains, learned positions); buffers such as rotary tables or expert-selection corrections are not counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from npusim import yamlio
from npusim.errors import InputError, Problem, Unavailable, did_you_mean, unknown_name

CATALOG = Path(__file__).parent / "catalog" / "models"

Matrix = tuple[str, int, int]
"""A weight matrix as (name, input features, output features)."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention block.

    Args:
        kind: ``"gqa"`` (multi-head and multi-query included) or ``"mla"`` (multi-head latent attention,
            DeepSeek-V2, arXiv 2405.04434, section 2.1).
        heads: query heads.
        kv_heads: key/value heads; divides ``heads``.
        head_dim: q·k width per head (MLA: the part without plus the part with rotary embedding).
        v_head_dim: value width per head.
        window: sliding window in tokens, None for full attention.
        qkv_bias: biases on q, k, v (MLA: on the two down-projections).
        o_bias: bias on the output projection.
        qk_norm: a norm gain of ``head_dim`` for q and one for k, shared by the heads.
        sinks: one learned sink logit per head.
        rope: rotary embedding applied; False for layers without positions and absolute-position models.
        q_lora_rank: MLA, width of the compressed query; None for a direct projection.
        kv_lora_rank: MLA, width of the compressed key/value that is cached.
        rope_head_dim: MLA, rotary part of ``head_dim``, cached once for all heads.

    Raises:
        InputError: the numbers contradict each other.
    """

    kind: str
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    sinks: bool = False
    rope: bool = True
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    rope_head_dim: int | None = None

    def __post_init__(self) -> None:
        """Checks that the numbers go together."""
        if self.kind not in ("gqa", "mla"):
            raise InputError(Problem(f"attention kind {self.kind!r}", allowed="one of: gqa, mla"))
        if min(self.heads, self.kv_heads, self.head_dim, self.v_head_dim) < 1 or self.heads % self.kv_heads:
            raise InputError(
                Problem(
                    f"attention with {self.heads} heads of {self.head_dim}, {self.kv_heads} key/value heads",
                    allowed="positive sizes, heads a multiple of kv_heads",
                )
            )
        if self.kind == "mla" and not 0 < self._rope_dim < self.head_dim:
            raise InputError(Problem(f"rope_head_dim {self.rope_head_dim}", allowed="1 .. head_dim - 1"))
        if self.kind == "mla" and self._kv_rank < 1:
            raise InputError(Problem(f"kv_lora_rank {self.kv_lora_rank}", allowed="at least 1 for mla"))

    @property
    def _rope_dim(self) -> int:
        return self.rope_head_dim or 0

    @property
    def _kv_rank(self) -> int:
        return self.kv_lora_rank or 0

    @property
    def kv_elements_per_token(self) -> int:
        """Elements cached per token and layer: keys and values, or the MLA latent plus its rotary key."""
        if self.kind == "mla":
            return self._kv_rank + self._rope_dim
        return self.kv_heads * (self.head_dim + self.v_head_dim)

    def matrices(self, hidden: int) -> tuple[Matrix, ...]:
        """Weight matrices of the block for activations of width ``hidden``, in order of use."""
        o = ("o", self.heads * self.v_head_dim, hidden)
        if self.kind == "gqa":
            k_width, v_width = self.kv_heads * self.head_dim, self.kv_heads * self.v_head_dim
            return (("q", hidden, self.heads * self.head_dim), ("k", hidden, k_width), ("v", hidden, v_width), o)
        q_width = self.heads * self.head_dim
        if self.q_lora_rank is None:
            q: tuple[Matrix, ...] = (("q", hidden, q_width),)
        else:
            q = (("q_a", hidden, self.q_lora_rank), ("q_b", self.q_lora_rank, q_width))
        up_width = self.heads * (self.head_dim - self._rope_dim + self.v_head_dim)
        return (*q, ("kv_a", hidden, self._kv_rank + self._rope_dim), ("kv_b", self._kv_rank, up_width), o)

    def params(self, hidden: int) -> int:
        """Parameters: matrices, biases, q/k (or latent) norms and sinks."""
        total = _elements(self.matrices(hidden)) + (hidden if self.o_bias else 0)
        total += self.heads if self.sinks else 0
        total += 2 * self.head_dim if self.qk_norm else 0
        if self.kind == "gqa":
            width = self.heads * self.head_dim + self.kv_elements_per_token
            return total + (width if self.qkv_bias else 0)
        # Both latents are normalised before they are projected up; biases sit on the down-projections.
        q_rank = self.q_lora_rank or 0
        total += q_rank + self._kv_rank
        return total + (q_rank + self.kv_elements_per_token if self.qkv_bias else 0)


@dataclass(frozen=True, slots=True)
class Ffn:
    """The feed-forward part of a layer.

    Args:
        kind: ``"dense"`` or ``"moe"`` (a router picks ``experts_per_token`` of ``experts``).
        intermediate: inner width (moe: of one expert).
        gated: two input projections, one passed through the activation (SwiGLU, GeGLU).
        activation: ``"silu"``, ``"gelu"``, ``"gelu_tanh"`` or ``"relu"``.
        bias: biases on every projection (of every expert).
        experts: routed experts, 0 when dense.
        experts_per_token: routed experts a token visits.
        shared_intermediate: total inner width of the experts every token visits.
        router_bias: one router bias per expert.

    Raises:
        InputError: the numbers contradict each other.
    """

    kind: str
    intermediate: int
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    experts: int = 0
    experts_per_token: int = 0
    shared_intermediate: int = 0
    router_bias: bool = False

    def __post_init__(self) -> None:
        """Checks that the numbers go together."""
        if self.kind not in ("dense", "moe"):
            raise InputError(Problem(f"ffn kind {self.kind!r}", allowed="one of: dense, moe"))
        if self.intermediate < 1 or self.shared_intermediate < 0:
            raise InputError(Problem(f"ffn of width {self.intermediate}", allowed="at least 1"))
        if self.kind == "moe" and not 1 <= self.experts_per_token <= self.experts:
            message = f"{self.experts_per_token} of {self.experts} experts per token"
            raise InputError(Problem(message, allowed="1 .. experts"))

    def matrices(self, hidden: int, width: int | None = None) -> tuple[Matrix, ...]:
        """Weight matrices of one dense block or one expert of inner width ``width`` (default: own)."""
        inner = self.intermediate if width is None else width
        names = ("gate", "up") if self.gated else ("up",)
        return (*((name, hidden, inner) for name in names), ("down", inner, hidden))

    def _block(self, hidden: int, width: int) -> int:
        bias = (2 if self.gated else 1) * width + hidden if self.bias else 0
        return _elements(self.matrices(hidden, width)) + bias

    def _total(self, hidden: int, routed: int) -> int:
        if self.kind == "dense":
            return self._block(hidden, self.intermediate)
        router = hidden * self.experts + (self.experts if self.router_bias else 0)
        shared = self._block(hidden, self.shared_intermediate) if self.shared_intermediate else 0
        return router + shared + routed * self._block(hidden, self.intermediate)

    def params(self, hidden: int) -> int:
        """All parameters: router, shared and routed experts."""
        return self._total(hidden, self.experts)

    def active_params(self, hidden: int) -> int:
        """Parameters one token meets: router, shared experts and ``experts_per_token`` routed ones."""
        return self._total(hidden, self.experts_per_token)

    def routed_params(self, hidden: int) -> int:
        """Parameters of the routed experts."""
        return self.experts * self._block(hidden, self.intermediate)

    def matmul_params(self, hidden: int) -> int:
        """Matrix elements one token is multiplied with (``active_params`` less the biases)."""
        own = replace(self, bias=False, router_bias=False)
        return own.active_params(hidden)


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer.

    Args:
        attention: its attention block.
        ffn: its feed-forward block.
        norms: norms over the hidden width.
        norm: ``"rmsnorm"`` (a gain) or ``"layernorm"`` (a gain and a shift).
        parallel: attention and feed-forward read the same normed input (GPT-J).
    """

    attention: Attention
    ffn: Ffn
    norms: int = 2
    norm: str = "rmsnorm"
    parallel: bool = False

    def norm_params(self, hidden: int) -> int:
        """Parameters of the hidden-width norms."""
        return self.norms * _norm_params(self.norm, hidden)

    def params(self, hidden: int) -> int:
        """All parameters of the layer."""
        return self.attention.params(hidden) + self.ffn.params(hidden) + self.norm_params(hidden)

    def active_params(self, hidden: int) -> int:
        """Parameters one token meets."""
        return self.attention.params(hidden) + self.ffn.active_params(hidden) + self.norm_params(hidden)

    def matmul_params(self, hidden: int) -> int:
        """Matrix elements one token is multiplied with."""
        return _elements(self.attention.matrices(hidden)) + self.ffn.matmul_params(hidden)


@dataclass(frozen=True, slots=True)
class ParamCount:
    """Parameter counts of a model.

    Args:
        total: every parameter once (a tied lm_head is the embedding).
        embedding: the token embedding table.
        lm_head: the output projection when it is a matrix of its own, else 0.
        active: parameters one token can meet (``experts_per_token`` of the routed experts).
        active_without_input_embedding: ``active`` less the embedding table when it only gathers rows.
        matmul: matrix elements multiplied per token: attention, active experts, router, patch embedding
            and the lm_head even when tied. A pooler or classifier acts once per sequence: not in it.
    """

    total: int
    embedding: int
    lm_head: int
    active: int
    active_without_input_embedding: int
    matmul: int


@dataclass(frozen=True, slots=True)
class Model:
    """A network as the workload builder needs it.

    Args:
        name: catalog name, or the name of the file's folder.
        title: name as its makers write it.
        hidden: width of the residual stream.
        vocab: rows of the token embedding; 0 for a vision model.
        blocks: (layer, count) pairs; identical layers are merged, so their order is not kept.
        tied_embeddings: the lm_head is the embedding table.
        causal: decoder (has a KV cache); False for encoders.
        lm_head: logits over the vocabulary are computed.
        lm_head_bias: one bias per vocabulary entry (GPT-J).
        max_positions: longest sequence in tokens, None when not stated.
        final_norm: a norm after the last layer.
        norm: kind of the norms outside the layers, as in ``Layer``.
        position_rows: rows of a learned position table (OPT keeps two spare rows; ViT counts the class token).
        type_rows: rows of a segment table (BERT).
        embedding_norm: a norm on the sum of the embeddings (BERT).
        class_tokens: learned tokens put before the sequence (ViT: 1).
        patch_inputs: values per image patch (channels × height × width), 0 when there are no patches.
        pooler: a hidden × hidden projection with bias on the first token (BERT, bare ViT).
        classes: outputs of a classifier with bias, 0 for none.
        family: Hugging Face ``model_type``.
        quantization: ``quant_method`` of the file's ``quantization_config``, None when unquantised.
        source: where the figures were read.
        derived: (field, how) for each figure that is arithmetic or a class default, not read in a file.
        notes: remarks worth printing beside a result.
    """

    name: str
    title: str
    hidden: int
    vocab: int
    blocks: tuple[tuple[Layer, int], ...]
    tied_embeddings: bool
    causal: bool = True
    lm_head: bool = True
    lm_head_bias: bool = False
    max_positions: int | None = None
    final_norm: bool = True
    norm: str = "rmsnorm"
    position_rows: int = 0
    type_rows: int = 0
    embedding_norm: bool = False
    class_tokens: int = 0
    patch_inputs: int = 0
    pooler: bool = False
    classes: int = 0
    family: str = ""
    quantization: str | None = None
    source: tuple[str, ...] = ()
    derived: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(count for _, count in self.blocks)

    @property
    def moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(layer.ffn.kind == "moe" for layer, _ in self.blocks)

    @property
    def kv_elements_per_token(self) -> int:
        """Elements the cache grows by per token while every window still has room; 0 for encoders."""
        return self.kv_elements(1)

    def kv_elements(self, context: int) -> int:
        """Elements held in the KV cache of one sequence of ``context`` tokens; windows cap their layers."""
        if not self.causal:
            return 0
        return sum(
            count * layer.attention.kv_elements_per_token * min(context, layer.attention.window or context)
            for layer, count in self.blocks
        )

    def parts(self) -> dict[str, int]:
        """Parameters by part of the network; the values add up to ``params().total``."""
        hidden, norm = self.hidden, _norm_params(self.norm, self.hidden)
        return {
            "embedding": self.vocab * hidden,
            "positions": (self.position_rows + self.type_rows + self.class_tokens) * hidden,
            "patches": (self.patch_inputs + 1) * hidden if self.patch_inputs else 0,
            "attention": self._sum(lambda layer: layer.attention.params(hidden)),
            "ffn": self._sum(lambda layer: layer.ffn.params(hidden)),
            "norms": self._sum(lambda layer: layer.norm_params(hidden)),
            "outer_norms": (int(self.final_norm) + int(self.embedding_norm)) * norm,
            "pooler": (hidden + 1) * hidden if self.pooler else 0,
            "classifier": (hidden + 1) * self.classes,
            "lm_head": self.vocab * hidden if self.lm_head and not self.tied_embeddings else 0,
            "lm_head_bias": self.vocab if self.lm_head and self.lm_head_bias else 0,
        }

    def params(self) -> ParamCount:
        """Exact parameter counts; see ``ParamCount``."""
        hidden, parts = self.hidden, self.parts()
        total = sum(parts.values())
        active = total - parts["ffn"] + self._sum(lambda layer: layer.ffn.active_params(hidden))
        matmul = self._sum(lambda layer: layer.matmul_params(hidden)) + self.patch_inputs * hidden
        return ParamCount(
            total=total,
            embedding=parts["embedding"],
            lm_head=parts["lm_head"],
            active=active,
            active_without_input_embedding=active - (0 if self.tied_embeddings else parts["embedding"]),
            matmul=matmul + (self.vocab * hidden if self.lm_head else 0),
        )

    def _sum(self, of: Callable[[Layer], int]) -> int:
        return sum(count * of(layer) for layer, count in self.blocks)


def _elements(matrices: tuple[Matrix, ...]) -> int:
    return sum(rows * cols for _, rows, cols in matrices)


def _norm_params(kind: str, width: int) -> int:
    return 2 * width if kind == "layernorm" else width


# --- the catalog and files ------------------------------------------------------------------------------

_KEYS = ("name", "title", "aliases", "status", "source", "missing", "derived", "notes", "config")
_STATUSES = ("seen", "partial")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """What a model file says besides the architecture.

    Args:
        name: what users type.
        title: name as its makers write it.
        status: ``"seen"`` (every needed field was read) or ``"partial"`` (listed, not loadable).
        missing: for a partial entry, what was not found.
        aliases: other spellings, matched without regard to case.
        source: where the figures were read.
        derived: (field, how) for figures that are arithmetic or class defaults.
        notes: remarks.
    """

    name: str
    title: str
    status: str
    missing: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    derived: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def load_model(name_or_path: str | os.PathLike[str]) -> Model:
    """Loads a model.

    Args:
        name_or_path: a catalog name or alias (any case); or the path of a Hugging Face ``config.json``,
            of a folder that holds one, or of a model YAML file. The catalog is asked first.

    Raises:
        Unavailable: the entry is known but lacks figures, which are named.
        InputError: unknown name, unreadable file, or mistakes in the file (all of them at once).
    """
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str):
        file = _catalog_file(text)
        if file is not None:
            return _from_catalog(file)
        if not os.path.exists(text) and not text.lower().endswith((".json", ".yaml", ".yml")):
            raise unknown_name("model", text[:100], model_names())
    if os.path.isdir(text):
        text = os.path.join(text, "config.json")
    if text.lower().endswith((".yaml", ".yml")):
        return _from_yaml(text)
    return _from_json(text)


def parse_config(config: Mapping[str, Any], name: str, where: str = "") -> Model:
    """Makes a Model of the fields of a Hugging Face ``config.json``.

    Args:
        config: the fields; keys that do not matter here are ignored.
        name: name of the model.
        where: file to print in messages.

    Raises:
        InputError: with one Problem per mistake.
    """
    return _reader()(config, name, where)


def model_names() -> tuple[str, ...]:
    """Names of the catalog, sorted; the file name is the name."""
    return tuple(sorted(path.stem for path in CATALOG.glob("*.yaml")))


def model_entries() -> tuple[ModelEntry, ...]:
    """Every catalog entry, sorted by name, loadable or not."""
    return tuple(_read_entry(yamlio.load_yaml(CATALOG / f"{name}.yaml")) for name in model_names())


def _reader() -> Callable[..., Model]:
    from npusim.importers.hf_config import read_config  # the reader needs the types above

    return read_config


def _catalog_file(name: str) -> Path | None:
    wanted = name.strip().lower()
    # The index is only built when the name is no file name: that saves reading every file.
    return CATALOG / f"{wanted}.yaml" if wanted in _name_set() else _alias_index().get(wanted)


@lru_cache(maxsize=1)
def _name_set() -> frozenset[str]:
    return frozenset(model_names())


@lru_cache(maxsize=1)
def _alias_index() -> dict[str, Path]:
    return {alias.lower(): CATALOG / f"{e.name}.yaml" for e in model_entries() for alias in (*e.aliases, e.title)}


@lru_cache(maxsize=256)
def _from_catalog(path: Path) -> Model:
    return _from_yaml(str(path))


def _from_yaml(path: str) -> Model:
    document = yamlio.load_yaml(path)
    entry = _read_entry(document)
    if entry.status == "partial":
        missing = "; ".join(entry.missing)
        raise Unavailable(Problem(f"model '{entry.name}' is unavailable: missing {missing}", file=document.file))
    model = _reader()(document.data["config"], entry.name, document.file, document.at, ("config",))
    derived = dict(model.derived) | dict(entry.derived)
    return replace(
        model,
        title=entry.title,
        source=entry.source,
        derived=tuple(derived.items()),
        notes=(*model.notes, *entry.notes),
    )


def _from_json(path: str) -> Model:
    document = yamlio.load_json(path)
    where = Path(path)
    name = where.resolve().parent.name if where.name.lower() == "config.json" else where.stem
    return replace(_reader()(document.data, name or "model", path, document.at), source=(path,))


def _read_entry(document: yamlio.Document) -> ModelEntry:
    data = document.data
    if not isinstance(data, dict):
        raise InputError(document.problem((), "not a model file", f"a mapping with keys: {', '.join(_KEYS)}"))
    problems = [
        document.problem((key,), f"unknown key {key!r}"[:120], f"known: {', '.join(_KEYS)}", did_you_mean(key, _KEYS))
        for key in data
        if key not in _KEYS
    ]
    problems += [p for key in _KEYS if (p := _key_problem(document, key, data.get(key))) is not None]
    if data.get("status") == "partial" and not data.get("missing"):
        problems.append(document.problem(("missing",), "a partial entry names what is missing"))
    if problems:
        raise InputError(problems)
    lists = {key: tuple(data.get(key) or ()) for key in ("missing", "aliases", "source", "notes")}
    derived = tuple((data.get("derived") or {}).items())
    return ModelEntry(data["name"], data.get("title") or data["name"], data["status"], derived=derived, **lists)


def _key_problem(document: yamlio.Document, key: str, value: Any) -> Problem | None:
    """What is wrong with a top-level value of a model file, if anything."""
    required = key in ("name", "status", "source", "config")
    if value is None:
        return document.problem((key,), f"{key} is missing", "required") if required else None
    if key in ("name", "title", "status"):
        if not isinstance(value, str) or not value.strip():
            return document.problem((key,), f"{key} is {value!r}"[:120], "a text")
        if key == "status" and value not in _STATUSES:
            return document.problem((key,), f"status {value!r}"[:120], f"one of: {', '.join(_STATUSES)}")
    elif key in ("derived", "config"):
        if not isinstance(value, dict):
            return document.problem((key,), f"{key} is not a mapping", "key: value pairs")
        if key == "derived" and not all(isinstance(how, str) for how in value.values()):
            return document.problem((key,), "derived holds something else than text", "field: how it was found")
    elif not isinstance(value, list) or not all(isinstance(item, str) for item in value) or (required and not value):
        return document.problem((key,), f"{key} is not a list of texts", "a list of texts")
    return None
