"""Decode attention: one new token a sequence against its cached keys and values (``attention-decode/1``).

A block (one CTA on a core) serves ``pack`` query heads of one KV head and streams their keys and values once. With
few blocks the history is split over several of them and a second kernel combines the parts (split-KV, "flash
decoding": Dao et al. 2023). Seconds of a row:

    blocks = batch · kv_heads · ceil(group / pack)
    splits = clip(fill · cores / blocks, 1, history / chunk)
    block  = block_us + head_us · heads_in_block · head_dim/128 + max(stream, products)
    cores  = waves(blocks · splits / cores) · block, between whole waves (tail = 1) and balanced ones (tail = 0)
    memory = KV bytes + query and output bytes, from DRAM or, when they fit, from the cache
    time   = launch_us + (coresᵖ + memoryᵖ)^(1/p) + combine_us [splits > 1]

The history of a sliding window ends at the window. Derivation and residuals: docs/calibration-attention.md.
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

UNLIMITED = 1024.0  # group limit that never binds


@dataclass(frozen=True)
class DecodeShape:
    """Columns of decode rows, and bytes of an element of the cache and of the query."""

    batch: np.ndarray
    heads: np.ndarray
    kv_heads: np.ndarray
    key_dim: np.ndarray  # elements of a cached key (of the whole cached vector with MLA)
    value_dim: np.ndarray  # of a value; with MLA a part of the same vector
    history: np.ndarray  # tokens a query sees
    windowed: np.ndarray
    token_bytes: np.ndarray  # of one token of one KV head in the cache
    query_bytes: float


def decode_shape(dims: Dims, dtype: str) -> DecodeShape:
    """Columns of ordinary (multi-head or grouped) decode rows."""
    query, cache = formats(dtype)
    heads = column(dims, "heads", 1)
    head_dim = column(dims, "head_dim", 128)
    window = column(dims, "window", 0)
    history = column(dims, "seq_kv", 1)
    return DecodeShape(
        batch=column(dims, "batch", 1),
        heads=heads,
        kv_heads=column(dims, "kv_heads", heads),
        key_dim=head_dim,
        value_dim=head_dim,
        history=np.where(window > 0, np.minimum(history, window), history),
        windowed=window > 0,
        token_bytes=2 * head_dim * element_bytes(cache),
        query_bytes=element_bytes(query),
    )


@dataclass(frozen=True)
class AttentionDecode:
    """Family ``attention-decode/1``. Asks ``window`` of ``extra`` (0 or absent: the whole history)."""

    name: str = "attention-decode/1"
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("launch_us", 0.5, 80, 8, "us", "launch of the kernel and everything before its blocks start"),
        ParameterSpec("block_us", 0.05, 30, 2, "us", "prologue and epilogue of a block"),
        ParameterSpec("head_us", 0.0005, 5, 0.05, "us", "further per query head of 128 elements in a block"),
        ParameterSpec("stream", 0.05, 8, 1.2, "1", "rate one block streams at, in shares of DRAM bandwidth / cores"),
        ParameterSpec("products", 0.001, 1, 0.15, "1", "sustained fraction of the matrix engine on packed heads"),
        ParameterSpec("dram", 0.1, 1, 0.85, "1", "sustained fraction of DRAM bandwidth"),
        ParameterSpec("cache", 1, 10, 3, "1", "rate of the cache over DRAM bandwidth"),
        ParameterSpec("resident", 0.05, 1.5, 0.7, "1", "share of the cache that keeps operands between runs"),
        ParameterSpec("fill", 0.1, 8, 1, "1", "blocks per core the splitting of the history aims at"),
        ParameterSpec("chunk", 16, 8192, 160, "tokens", "shortest part of the history a block is given"),
        ParameterSpec("tail", 0.02, 1, 0.7, "1", "share of a partly filled last wave that is lost"),
        ParameterSpec("combine_us", 0.05, 30, 2, "us", "combining the parts of a split history"),
        ParameterSpec("overlap", 1, 8, 2.5, "1", "exponent p of the sum of core time and memory time"),
        ParameterSpec("scalar_us", 0.05, 30, 1, "us", "block_us of blocks of a single head"),
        ParameterSpec("pack", 1, 128, 64, "heads", "query heads of a KV head that share a block", log=False),
        ParameterSpec("group_limit", 1, UNLIMITED, UNLIMITED, "heads", "largest group that is packed", log=False),
        ParameterSpec("window_packs", 0, 1, 1, "1", "1: heads are packed under a sliding window too", log=False),
        ParameterSpec("single_splits", 0, 1, 1, "1", "1: blocks of a single head split the history too", log=False),
    )
    # Choices of the library rather than rates: tried, not differentiated.
    menus: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "single_splits": (1.0, 0.0),
        "group_limit": (UNLIMITED, 32.0),
        "pack": (64.0, 16.0, 1.0, 128.0),
        "window_packs": (1.0, 0.0),
    }

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of decode rows; see ``Family.seconds``."""
        return decode_times(machine(chip, formats(dtype)[0]), decode_shape(dims, dtype), parameters)


def decode_times(m: Machine, s: DecodeShape, p: Mapping[str, float]) -> Times:
    """The formulas of the module's head."""
    group = s.heads / s.kv_heads
    single = (group == 1) | (group > p["group_limit"]) | (s.windowed & (p["window_packs"] < 0.5))
    pack = np.where(single, 1.0, p["pack"])
    per_kv_head = np.ceil(group / pack)
    blocks = s.batch * s.kv_heads * per_kv_head
    splits = np.clip(p["fill"] * m.cores / blocks, 1, np.maximum(s.history / p["chunk"], 1))
    if p["single_splits"] < 0.5:
        splits = np.where(single, 1.0, splits)
    in_block = np.minimum(group, pack)
    part = s.history / splits
    stream = part * s.token_bytes / (p["stream"] * m.dram_bytes / m.cores)
    # Rows of a tile are padded to a power of two, as the instruction wants them.
    tile_rows = 2 ** np.ceil(np.log2(in_block))
    flops = 2 * part * tile_rows * (s.key_dim + s.value_dim)
    products = flops / (p["products"] * m.matrix_flops / m.cores)
    fixed = np.where(single, p["scalar_us"], p["block_us"]) * US
    fixed = fixed + p["head_us"] * US * in_block * s.value_dim / 128
    even = blocks * splits / m.cores
    waves = np.maximum(even + p["tail"] * (np.ceil(even) - even), 1)
    cores = waves * (fixed + np.maximum(stream, products))
    cache = s.batch * s.kv_heads * s.history * s.token_bytes
    io = s.batch * s.heads * (s.key_dim + s.value_dim) * s.query_bytes
    kept = cached_fraction(cache + io, p["resident"] * m.cache_bytes)
    dram_s = (cache + io) * (1 - kept) / (p["dram"] * m.dram_bytes)
    cache_s = (cache * np.maximum(per_kv_head, kept) + io) / (p["cache"] * m.dram_bytes)
    memory = np.maximum(dram_s, cache_s)
    launch = p["launch_us"] * US + p["combine_us"] * US * np.clip(splits - 1, 0, 1)
    time = launch + p_sum(p["overlap"], cores, memory)
    waves_fixed = cores * fixed / (fixed + np.maximum(stream, products))
    bound = strongest(
        {
            "launch": launch + waves_fixed,
            "dram": dram_s,
            "cache": np.maximum(cache_s, np.where(stream >= products, cores - waves_fixed, 0)),
            "matrix": np.where(products > stream, cores - waves_fixed, 0),
        }
    )
    return Times(time, bound)


def mla_decode_shape(dims: Dims, dtype: str) -> DecodeShape:
    """Columns of MLA decode rows: every head reads the one compressed vector of a token (DeepSeek-V2)."""
    query, cache = formats(dtype)
    heads = column(dims, "heads", 1)
    value = column(dims, "kv_lora", 512)
    width = value + column(dims, "rope", 64)
    return DecodeShape(
        batch=column(dims, "batch", 1),
        heads=heads,
        kv_heads=np.ones_like(heads),
        key_dim=width,
        value_dim=value,
        history=column(dims, "seq_kv", 1),
        windowed=np.zeros(len(heads), dtype=bool),
        token_bytes=width * element_bytes(cache),
        query_bytes=element_bytes(query),
    )


@dataclass(frozen=True)
class MlaDecode(AttentionDecode):
    """Family ``mla-decode/1``: as ``attention-decode/1`` on the compressed cache.

    Asks ``kv_lora`` and ``rope`` of ``extra`` (512 and 64 when absent).
    """

    name: str = "mla-decode/1"
    menus: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "pack": (64.0, 128.0, 16.0, 1.0),
        "single_splits": (1.0, 0.0),
    }

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of MLA decode rows; see ``Family.seconds``."""
        return decode_times(machine(chip, formats(dtype)[0]), mla_decode_shape(dims, dtype), parameters)


ATTENTION_DECODE = AttentionDecode()
MLA_DECODE = MlaDecode()
