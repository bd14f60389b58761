"""Prefill attention: many new tokens a sequence (``attention-prefill/1``, ``mla-prefill/1``).

A block computes ``tile_m`` query rows of one head against the keys they see, ``tile_n`` at a time (FlashAttention-2,
Dao 2023). Tiles wholly above the causal diagonal, or wholly left of the sliding window, are skipped:

    rows   = ceil(new / tile_m) blocks of each head; of each KV head, with group · new rows, when heads are packed:
             always, never, or for single tokens without a window (FlashAttention-2 in vLLM)
    tiles  = Σ over blocks of ceil(keys the block sees / tile_n)
    tile   = 4 · tile_m · tile_n · head_dim / (engine(head_dim) · peak / cores)
    cores  = max(all tiles / cores, longest block) + tail · longest block · (1 − filled)
    memory = query, key, value and output bytes, from DRAM or the cache
    time   = launch_us + (coresᵖ + memoryᵖ)^(1/p) + kv_passes · KV bytes/DRAM + q_passes · query bytes/DRAM

The passes are the kernels a stack runs before: rotary embedding, writing the cache, quantising it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.attention_machine import (
    US,
    Machine,
    cached_fraction,
    column,
    element_bytes,
    formats,
    machine,
    p_sum,
    strongest,
)
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

EVERY = 1e6  # packing up to this many tokens: always


@dataclass(frozen=True)
class PrefillShape:
    """Columns of prefill rows."""

    batch: np.ndarray
    heads: np.ndarray
    kv_heads: np.ndarray
    key_dim: np.ndarray
    value_dim: np.ndarray
    new: np.ndarray  # query tokens
    keys: np.ndarray  # keys the last query sees
    window: np.ndarray  # 0: none
    causal: np.ndarray  # 1 or 0
    query_bytes: float  # of an element
    cache_bytes: float
    splits: np.ndarray  # parts the keys are split into
    packed: np.ndarray  # nan: the library's own choice


def prefill_shape(dims: Dims, dtype: str, causal: float = 1.0) -> PrefillShape:
    """Columns of ordinary prefill rows."""
    query, cache = formats(dtype)
    heads = column(dims, "heads", 1)
    head_dim = column(dims, "head_dim", 128)
    new = column(dims, "seq_q", 1)
    return PrefillShape(
        batch=column(dims, "batch", 1),
        heads=heads,
        kv_heads=column(dims, "kv_heads", heads),
        key_dim=head_dim,
        value_dim=head_dim,
        new=new,
        keys=np.maximum(column(dims, "seq_kv", new), new),
        window=column(dims, "window", 0),
        causal=column(dims, "causal", causal),
        query_bytes=element_bytes(query),
        cache_bytes=element_bytes(cache),
        splits=column(dims, "splits", 1),
        packed=column(dims, "pack_gqa", np.nan),
    )


def visited_tiles(s: PrefillShape, rows: np.ndarray, tile_n: float, skip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Key tiles all blocks of a head visit together, and the most that one block visits.

    Block i (of ``rows`` query tokens) sees the keys up to its last query and, with a window that the kernel
    ``skip``s outside of, not before its first query minus the window. On average a partly covered tile adds half.

    Args:
        s: the rows.
        rows: query tokens a block covers.
        tile_n: keys of a tile.
        skip: whether tiles outside the window are skipped.
    """
    blocks = np.ceil(s.new / rows)
    past = s.keys - s.new
    every = np.ceil(s.keys / tile_n)
    # Keys of the last query of block i: past + (i + 1) · rows; rounded up to tiles half a tile more where rows < tile.
    mean_keys = past + np.minimum((blocks + 1) / 2 * rows, s.new)
    seen = blocks * np.minimum(mean_keys / tile_n + 0.5 * np.maximum(1 - rows / tile_n, 0), every)
    total = np.where(s.causal > 0, seen, blocks * every)
    longest = every.copy()
    if skip:
        window = np.where(s.window > 0, s.window, np.inf)
        first = np.clip(np.ceil((window - past) / rows), 0, blocks)  # first block with keys left of its window
        left = blocks - first
        middle = past + (first + blocks - 1) / 2 * rows
        with np.errstate(invalid="ignore"):
            skipped = np.where(left > 0, left * np.maximum((middle - window) / tile_n - 0.5, 0), 0.0)
        total = total - skipped
        longest = np.minimum(longest, np.ceil((window + rows) / tile_n) + 0.5)
    return np.maximum(total, blocks), np.maximum(longest, 1)


@dataclass(frozen=True)
class AttentionPrefill:
    """Family ``attention-prefill/1``.

    Asks ``window``, ``causal``, ``splits`` and ``pack_gqa`` of ``extra`` (absent: none, causal, 1, the parameter).
    """

    name: str = "attention-prefill/1"
    causal: float = 1.0
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("launch_us", 0.5, 120, 10, "us", "launch of the kernels"),
        ParameterSpec("engine_64", 0.01, 1, 0.4, "1", "sustained fraction of the matrix engine, head_dim ≤ 64"),
        ParameterSpec("engine_128", 0.01, 1, 0.6, "1", "the same at head_dim 128"),
        ParameterSpec("engine_256", 0.01, 1, 0.6, "1", "the same at head_dim ≥ 256"),
        ParameterSpec("block_us", 0.005, 40, 1, "us", "prologue and epilogue of a block"),
        ParameterSpec("tail", 0.02, 3, 1, "1", "last wave, in longest blocks"),
        ParameterSpec("dram", 0.1, 1, 0.8, "1", "sustained fraction of DRAM bandwidth"),
        ParameterSpec("cache", 1, 10, 3, "1", "rate of the cache over DRAM bandwidth"),
        ParameterSpec("q_passes", 0.01, 20, 0.5, "1", "further passes over query and output, at DRAM peak"),
        ParameterSpec("kv_passes", 0.01, 20, 0.5, "1", "further passes over keys and values, at DRAM peak"),
        ParameterSpec("token_ns", 0.001, 100, 1, "ns", "per new token, on one core: indices, positions, scales"),
        ParameterSpec("overlap", 1, 8, 2.5, "1", "exponent p of the sum of core time and memory time"),
        ParameterSpec("tile_m", 16, 512, 128, "rows", "query rows of a block", log=False),
        ParameterSpec("tile_n", 16, 256, 64, "keys", "keys of a tile", log=False),
        ParameterSpec("packed_upto", 0, EVERY, 0, "tokens", "heads share a block up to this many tokens", log=False),
        ParameterSpec("window_skips", 0, 1, 1, "1", "1: tiles outside a sliding window are skipped", log=False),
        ParameterSpec("tile_shrinks", 0, 1, 0, "1", "1: short sequences get smaller tiles", log=False),
    )
    menus: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "tile_m": (128.0, 64.0, 256.0),
        "packed_upto": (0.0, EVERY, 1.0),
        "window_skips": (1.0, 0.0),
        "tile_n": (64.0, 128.0),
    }

    def shape(self, dims: Dims, dtype: str) -> PrefillShape:
        """Columns of the rows this family prices."""
        return prefill_shape(dims, dtype, self.causal)

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of prefill rows; see ``Family.seconds``."""
        return prefill_times(machine(chip, formats(dtype)[0]), self.shape(dims, dtype), parameters)


def engine_fraction(head_dim: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    """Sustained fraction of the engine: interpolated between 64, 128 and 256 in the logarithm of head_dim."""
    known = np.log([p["engine_64"], p["engine_128"], p["engine_256"]])
    return np.asarray(np.exp(np.interp(np.log2(head_dim), [6.0, 7.0, 8.0], known)))


def core_seconds(m: Machine, s: PrefillShape, p: Mapping[str, float]) -> np.ndarray:
    """Time of the cores: blocks spread over them, and the tail of the last wave."""
    own = (s.new <= p["packed_upto"]) & ((p["packed_upto"] > 1) | (s.window <= 0))
    packed = np.where(np.isnan(s.packed), own, s.packed >= 0.5)
    rows = np.where(packed, np.maximum(p["tile_m"] * s.kv_heads / s.heads, 1), p["tile_m"])
    heads = s.batch * np.where(packed, s.kv_heads, s.heads)
    tiles, longest = visited_tiles(s, rows, p["tile_n"], p["window_skips"] >= 0.5)
    width = (s.key_dim + s.value_dim) / 2
    flops = 4 * p["tile_m"] * p["tile_n"] * width
    if p["tile_shrinks"] >= 0.5:
        flops = flops * _used(rows, s.new) * _used(np.full(len(rows), p["tile_n"]), s.keys)
    tile_s = flops / (engine_fraction(width, p) * m.matrix_flops / m.cores)
    blocks = heads * np.ceil(s.new / rows) * s.splits
    block_s = longest / s.splits * tile_s + p["block_us"] * US
    total = heads * tiles * tile_s + blocks * p["block_us"] * US
    waiting = 1 - 1 / np.maximum(blocks / m.cores, 1)
    return np.asarray(np.maximum(total / m.cores, block_s) + p["tail"] * block_s * waiting / 2)


def _used(tile: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Share of a tile's edge that a sequence needs, in powers of two from 16."""
    return np.asarray(np.minimum(2 ** np.ceil(np.log2(np.maximum(length, 16))) / tile, 1))


def prefill_times(m: Machine, s: PrefillShape, p: Mapping[str, float]) -> Times:
    """The formulas of the module's head."""
    cores = core_seconds(m, s, p)
    query = s.batch * s.new * s.heads * (s.key_dim + s.value_dim) * s.query_bytes
    visible = np.where(s.window > 0, np.minimum(s.keys, s.new + s.window), s.keys)
    cache = s.batch * s.kv_heads * visible * (s.key_dim + s.value_dim) * s.cache_bytes
    kept = cached_fraction(query + cache, 0.7 * m.cache_bytes, 4.0)
    memory = (query + cache) * ((1 - kept) / p["dram"] + kept / p["cache"]) / m.dram_bytes
    fresh = np.where(s.causal > 0, s.new / s.keys, 1.0)
    passes = (p["q_passes"] * query + p["kv_passes"] * cache * fresh) / m.dram_bytes
    tokens = p["token_ns"] * 1e-9 * s.batch * s.new / m.cores
    launch = p["launch_us"] * US + np.where(s.splits > 1, p.get("combine_us", 0.0) * US, 0.0)
    time = launch + passes + tokens + p_sum(p["overlap"], cores, memory)
    return Times(time, strongest({"matrix": cores, "dram": memory + passes, "launch": launch + tokens}))


@dataclass(frozen=True)
class MlaPrefill(AttentionPrefill):
    """Family ``mla-prefill/1``: keys of ``qk_nope + rope`` and values of ``v`` elements, expanded per head.

    Asks ``qk_nope``, ``rope`` and ``v`` of ``extra`` (128, 64 and 128 when absent).
    """

    name: str = "mla-prefill/1"
    menus: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "tile_shrinks": (1.0, 0.0),
        "tile_m": (128.0, 64.0, 256.0),
        "tile_n": (64.0, 128.0),
    }

    def shape(self, dims: Dims, dtype: str) -> PrefillShape:
        """Columns of MLA prefill rows; the expanded keys and values are in the query's format."""
        query, _ = formats(dtype)
        heads = column(dims, "heads", 1)
        new = column(dims, "seq_q", 1)
        return PrefillShape(
            batch=column(dims, "batch", 1),
            heads=heads,
            kv_heads=heads,
            key_dim=column(dims, "qk_nope", 128) + column(dims, "rope", 64),
            value_dim=column(dims, "v", 128),
            new=new,
            keys=np.maximum(column(dims, "seq_kv", new), new),
            window=np.zeros(len(new)),
            causal=np.ones(len(new)),
            query_bytes=element_bytes(query),
            cache_bytes=element_bytes(query),
            splits=np.ones(len(new)),
            packed=np.zeros(len(new)),
        )


def _chunked() -> tuple[ParameterSpec, ...]:
    """Parameters of a kernel alone: no passes before it, but a second kernel that combines split keys."""
    none = {
        name: ParameterSpec(name, 0, 0, 0, unit, "not part of these rows", log=False)
        for name, unit in (("q_passes", "1"), ("kv_passes", "1"), ("token_ns", "ns"))
    }
    combine = ParameterSpec("combine_us", 0.05, 50, 5, "us", "combining the parts of split keys")
    return (*(none.get(spec.name, spec) for spec in AttentionPrefill.parameters), combine)


ATTENTION_PREFILL = AttentionPrefill()
ATTENTION_CHUNKED = AttentionPrefill(name="attention-chunked/1", parameters=_chunked())
ATTENTION_ENCODER = AttentionPrefill(name="attention-encoder/1", causal=0.0)
MLA_PREFILL = MlaPrefill()
