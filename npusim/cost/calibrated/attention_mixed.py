"""Mixed batches: a chunk of one prompt beside decoding sequences in one kernel (``attention-mixed/1``).

A kernel for sequences of unequal length gives every sequence blocks of ``tile_m`` query rows of one head; a decoding
sequence fills one row of its block and streams its history as fast as one block can (Agrawal et al., Sarathi-Serve,
OSDI 2024, describe the batches). Seconds:

    decode  = n_decode · heads · (block_us + history · bytes / (stream · DRAM / cores))
    chunk   = tiles of the chunk as in ``attention-prefill/1``
    cores   = max((decode + chunk) / cores, longest block) + tail · longest block / 2
    memory  = histories, once a KV head from DRAM and once a query head from the cache
    time    = launch_us + (coresᵖ + memoryᵖ)^(1/p)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.attention_machine import (
    US,
    cached_fraction,
    column,
    element_bytes,
    formats,
    machine,
    p_sum,
    strongest,
)
from npusim.cost.calibrated.attention_prefill import PrefillShape, visited_tiles
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times


@dataclass(frozen=True)
class AttentionMixed:
    """Family ``attention-mixed/1``. Asks ``prefill_chunk``, ``kv_prefill``, ``n_decode``, ``kv_decode``."""

    name: str = "attention-mixed/1"
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("launch_us", 0.5, 80, 8, "us", "launch of the kernel"),
        ParameterSpec("engine", 0.01, 1, 0.5, "1", "sustained fraction of the matrix engine on the chunk"),
        ParameterSpec("block_us", 0.005, 30, 1, "us", "prologue and epilogue of a block"),
        ParameterSpec("stream", 0.02, 8, 1, "1", "rate one block streams at, in shares of DRAM bandwidth / cores"),
        ParameterSpec("tail", 0.02, 3, 1, "1", "last wave, in longest blocks"),
        ParameterSpec("dram", 0.1, 1, 0.8, "1", "sustained fraction of DRAM bandwidth"),
        ParameterSpec("cache", 1, 20, 4, "1", "rate of the cache over DRAM bandwidth"),
        ParameterSpec("overlap", 1, 8, 2.5, "1", "exponent p of the sum of core time and memory time"),
        ParameterSpec("tile_m", 16, 256, 64, "rows", "query rows of a block", log=False),
        ParameterSpec("tile_n", 16, 256, 64, "keys", "keys of a tile", log=False),
    )
    menus: ClassVar[Mapping[str, tuple[float, ...]]] = {"tile_m": (64.0, 128.0), "tile_n": (64.0, 128.0)}

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of mixed batches; see ``Family.seconds``."""
        p = parameters
        query, cache = formats(dtype)
        m = machine(chip, query)
        heads, head_dim = column(dims, "heads", 1), column(dims, "head_dim", 128)
        kv_heads = column(dims, "kv_heads", heads)
        new, past = column(dims, "prefill_chunk", 0), column(dims, "kv_prefill", 0)
        steps, history = column(dims, "n_decode", 0), column(dims, "kv_decode", 0)
        token = 2 * head_dim * element_bytes(cache)
        chunk = _chunk_shape(np.maximum(new, 1), past, heads, kv_heads, head_dim, element_bytes(query))
        rows = np.full(len(new), p["tile_m"])
        tiles, longest = visited_tiles(chunk, rows, p["tile_n"], True)
        tile_s = 4 * p["tile_m"] * p["tile_n"] * head_dim / (p["engine"] * m.matrix_flops / m.cores)
        some = new > 0
        blocks = heads * np.ceil(new / p["tile_m"])
        chunk_s = np.where(some, heads * tiles * tile_s, 0) + blocks * p["block_us"] * US
        step_s = p["block_us"] * US + history * token / (p["stream"] * m.dram_bytes / m.cores)
        step_s = np.where(steps > 0, step_s, 0)
        block = np.maximum(np.where(some, longest * tile_s + p["block_us"] * US, 0), step_s)
        total = (chunk_s + steps * heads * step_s) / m.cores
        waiting = 1 - 1 / np.maximum((blocks + steps * heads) / m.cores, 1)
        cores = np.maximum(total, block) + p["tail"] * block * waiting / 2
        kv = (steps * history + np.where(some, new + past, 0)) * kv_heads * token
        io = (steps + new) * heads * head_dim * 2 * element_bytes(query)
        kept = cached_fraction(kv + io, m.cache_bytes)
        dram_s = (kv + io) * (1 - kept) / (p["dram"] * m.dram_bytes)
        cache_s = (steps * history * heads * token + io) / (p["cache"] * m.dram_bytes)
        launch = np.full(len(new), p["launch_us"] * US)
        time = launch + p_sum(p["overlap"], cores, np.maximum(dram_s, cache_s))
        return Times(time, strongest({"matrix": cores, "dram": dram_s, "cache": cache_s, "launch": launch}))


def _chunk_shape(
    new: np.ndarray, past: np.ndarray, heads: np.ndarray, kv_heads: np.ndarray, head_dim: np.ndarray, size: float
) -> PrefillShape:
    one, none = np.ones_like(new), np.zeros_like(new)
    return PrefillShape(one, heads, kv_heads, head_dim, head_dim, new, new + past, none, one, size, size, one, none)


ATTENTION_MIXED = AttentionMixed()
