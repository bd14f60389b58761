"""Fused expert layers of mixture-of-experts models (``moe/1``): route, gather, two grouped GEMMs, weighted sum.

``m`` tokens of ``k`` elements choose ``topk`` of ``experts``; a rank holds ``experts / ep`` of them, each ``n / tp``
wide. Seconds of a row:

    pairs   = m · topk / ep · hot                           (token-expert pairs of this rank)
    reached = held · (1 − (1 − topk/experts)^(m · spread))  (experts at least one token chose)
    tiles   = reached · ceil(pairs / reached / tile_m) · ceil(columns / tile_n), for both GEMMs
    cores   = tiles / cores · tile time, at least one tile
    memory  = weights of the reached experts + activations of the pairs, from DRAM
    time    = launch_us + (coresᵖ + memoryᵖ)^(1/p) + passes · m · topk · k · 2 B / DRAM + expert_us · held / cores

A skewed choice (``skew`` > 0: power law) loads the hottest rank ``hot`` = 1 + imbalance · √(2 ln ep / held) times the
mean (expected maximum of ep sums of held terms) and reaches fewer experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.attention_machine import US, column, element_bytes, machine, p_sum, strongest
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

# dtype spelling → (format of the multiplication, format of the weights)
FORMATS: dict[str, tuple[str, str]] = {
    "bfloat16": ("bf16", "bf16"), "bf16": ("bf16", "bf16"), "float16": ("fp16", "fp16"),
    "bfloat16_or_unclear": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"), "fp8_block": ("fp8", "fp8"), "nvfp4": ("nvfp4", "nvfp4"),
    "int4_wo": ("bf16", "int4"), "int8_wo": ("bf16", "int8"), "w4a16_mxfp4": ("bf16", "mxfp4"),
    "w4a8_mxfp4_mxfp8": ("fp8", "mxfp4"), "w4afp8": ("fp8", "int4"), "w8a8_dynamic": ("int8", "int8"),
}  # fmt: skip


@dataclass(frozen=True)
class MoeFamily:
    """Family ``moe/1``. Asks ``topk``, ``experts``, ``tp``, ``ep`` and ``skew`` (0: balanced) of ``extra``."""

    name: str = "moe/1"
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("launch_us", 1, 300, 25, "us", "launch of the kernels of a layer"),
        ParameterSpec("engine", 0.01, 1, 0.5, "1", "sustained fraction of the matrix engine on full tiles"),
        ParameterSpec("dram", 0.05, 1, 0.75, "1", "sustained fraction of DRAM bandwidth"),
        ParameterSpec("tile_us", 0.005, 30, 0.5, "us", "prologue and epilogue of a tile"),
        ParameterSpec("passes", 0.01, 30, 1, "1", "passes over the pairs' activations: gather, quantise, sum"),
        ParameterSpec("local_passes", 0.01, 30, 1, "1", "passes over the activations of this rank's pairs"),
        ParameterSpec("expert_us", 0.001, 30, 0.2, "us", "per expert held, on one core: sorting, offsets"),
        ParameterSpec("imbalance", 0.01, 10, 1.5, "1", "load of the hottest rank under a power law"),
        ParameterSpec("chance", 0.01, 10, 1, "1", "excess of the busiest rank over the mean, in Poisson deviations"),
        ParameterSpec("spread", 0.05, 1, 0.5, "1", "experts a skewed choice reaches, in tokens of an even one"),
        ParameterSpec("overlap", 1, 8, 3, "1", "exponent p of the sum of core time and memory time"),
        ParameterSpec("tile_m", 8, 256, 64, "rows", "tokens of a tile", log=False),
        ParameterSpec("tile_n", 16, 256, 128, "columns", "columns of a tile", log=False),
        ParameterSpec("gated", 2, 3, 3, "1", "weight matrices of an expert", log=False),
    )
    menus: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "tile_m": (64.0, 16.0, 128.0),
        "tile_n": (128.0, 64.0),
        "gated": (3.0, 2.0),
    }

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of expert layers; see ``Family.seconds``."""
        p = parameters
        engine_format, weight_format = FORMATS.get(dtype.lower(), ("bf16", "bf16"))
        m = machine(chip, engine_format)
        tokens, hidden = column(dims, "m", 1), column(dims, "k", 1)
        topk, experts = column(dims, "topk", 1), column(dims, "experts", 1)
        ep = column(dims, "ep", 1)
        width = np.maximum(column(dims, "n", 1) / column(dims, "tp", 1), 1)
        skewed = column(dims, "skew", 0)
        held = np.maximum(experts / ep, 1)
        peak_load = 1 + p["imbalance"] * skewed**2 * np.sqrt(2 * np.log(np.maximum(ep, 1)) / held)
        mean = tokens * topk / ep
        # The busiest of ep ranks also has the largest of ep Poisson counts.
        chance = np.sqrt(2 * np.log(np.maximum(ep, 1)) * mean)
        busiest = np.minimum(mean * peak_load + p["chance"] * chance, mean * ep)
        pairs = np.maximum(np.where(skewed > 0, busiest, mean), 1)
        even = pairs * ep / topk * np.where(skewed > 0, p["spread"], 1)
        reached = np.clip(held * -np.expm1(even * np.log1p(-np.minimum(topk / experts, 0.999))), 1, held)
        reached = np.minimum(reached, pairs)
        row_tiles = reached * np.ceil(pairs / reached / p["tile_m"])
        up = (p["gated"] - 1) * width
        tiles = row_tiles * (np.ceil(up / p["tile_n"]) + np.ceil(hidden / p["tile_n"]))
        rows = np.minimum(p["tile_m"], 2 ** np.ceil(np.log2(np.maximum(pairs / reached, 16))))
        flops = 2 * row_tiles * rows * hidden * width * p["gated"]
        busy = flops / (p["engine"] * m.matrix_flops) + np.ceil(tiles / m.cores) * p["tile_us"] * US
        weights = reached * p["gated"] * width * hidden * element_bytes(weight_format)
        activations = pairs * (2 * hidden + p["gated"] * width) * 2.0
        memory = (weights + activations) / (p["dram"] * m.dram_bytes)
        passes = (p["passes"] * tokens * topk + p["local_passes"] * pairs) * hidden * 2.0 / m.dram_bytes
        launch = p["launch_us"] * US + p["expert_us"] * US * held / m.cores
        time = launch + passes + p_sum(p["overlap"], busy, memory)
        return Times(time, strongest({"matrix": busy, "dram": memory + passes, "launch": launch}))


MOE = MoeFamily()
