"""Measured collectives: a latency regime for small buffers, a bandwidth regime for large ones, a slow second level.

The ring of ``npusim.cost.collectives`` gives steps and bytes per chip. Libraries send small buffers with flags in every
word (NCCL calls it LL and LL128; one-shot kernels write to all peers at once): a cheap step, a part of the bandwidth.
Above a size per rank they go over to plain buffers, whose synchronisation costs a fixed time. Steps overlap in part
(trees, switches that reduce), which an exponent below 1 of their number describes. Direct links add up with the ranks;
shared buses are divided among them.

It reads ``ranks`` and ``bytes`` and, where rows have them, ``nodes`` (or ``devices_per_node``), and ``eager`` (1: launched
one by one from the host instead of recorded). ``bytes`` are of the whole buffer, as nccl-tests count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times
from npusim.errors import InputError, Problem

_STEEPNESS = 8  # how sharply libraries change the protocol around their threshold


@dataclass(frozen=True)
class Collective:
    """``collective-<function>/1``: the functions differ in the steps and bytes of their ring."""

    function: str
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("launch_s", 3e-7, 6e-5, 6e-6, "s", "fixed time of the kernel"),
        ParameterSpec("step_s", 2e-8, 6e-5, 8e-7, "s", "latency of the first step"),
        ParameterSpec("step_exponent", 0.02, 1, 0.8, "1", "1: steps add up; less: they overlap"),
        ParameterSpec("small_bandwidth", 0.01, 1, 0.4, "1", "bandwidth of small buffers per that of large ones"),
        ParameterSpec("direct", 0.005, 1, 0.1, "1", "0: small buffers go round the ring; 1: to every peer at once"),
        ParameterSpec("threshold_bytes", 2e4, 3e7, 3e5, "B", "buffer per rank at which the protocol changes"),
        ParameterSpec("sync_s", 2e-8, 1e-4, 1.5e-6, "s", "extra latency of a step of large buffers"),
        ParameterSpec("bandwidth", 0.02, 1.2, 0.7, "1", "bus bandwidth of two ranks per bandwidth of the link"),
        ParameterSpec("sharing", 0.05, 3, 1, "1", "0: links of all peers add up; 1: one rate; 2: a bus is shared"),
        ParameterSpec("eager_s", 1e-8, 1e-4, 1.5e-5, "s", "host launch of a kernel that is not recorded"),
        ParameterSpec("node_s", 5e-7, 1e-3, 2e-5, "s", "latency between two nodes"),
        ParameterSpec("node_bandwidth", 0.002, 1.5, 0.1, "1", "bandwidth between nodes per bandwidth of the link"),
        ParameterSpec("node_sharing", 0.05, 3, 1, "1", "as sharing, of the devices of a node that use its adapter"),
    )  # fmt: skip

    @property
    def name(self) -> str:
        """Name in documents."""
        return f"collective-{self.function}/1"

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of collectives; see ``family.Family`` and the module."""
        p = parameters
        ranks, size = np.asarray(dims["ranks"], float), np.asarray(dims["bytes"], float)
        peers = np.maximum(ranks - 1, 1)
        nodes = _nodes(dims, ranks)
        steps, share = _ring(self.function, np.maximum(ranks, 2))
        moved = share * size
        rate = _link_bytes_per_s(chip)
        fast = rate * p["bandwidth"] * peers ** (1 - p["sharing"])
        waits = steps ** p["step_exponent"]
        small = p["step_s"] * waits + moved * (ranks / 2) ** p["direct"] / (fast * p["small_bandwidth"])
        large = (p["step_s"] + p["sync_s"]) * waits + moved / fast
        over = 1 / (1 + (p["threshold_bytes"] * ranks / np.maximum(size, 1)) ** _STEEPNESS)
        inside = small * (1 - over) + large * over
        per_node = np.maximum(ranks / nodes, 1)
        between = p["node_s"] * np.sqrt(nodes - 1)
        between = between + moved / (rate * p["node_bandwidth"]) * per_node ** (p["node_sharing"] - 1)
        time = np.where(nodes > 1, between, inside)
        eager = np.nan_to_num(np.asarray(dims.get("eager", np.zeros(len(ranks))), float))
        bound = np.where((moved / fast > time / 2) | (nodes > 1), "link", "launch").astype(object)
        return Times(p["launch_s"] + time + p["eager_s"] * eager, bound)


def _ring(function: str, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and bytes through each chip per byte of the whole buffer, of the ring."""
    if function == "all_reduce":
        return 2 * (ranks - 1), 2 * (ranks - 1) / ranks
    if function == "send":
        return np.ones_like(ranks), np.ones_like(ranks)
    return ranks - 1, (ranks - 1) / ranks


def _nodes(dims: Dims, ranks: np.ndarray) -> np.ndarray:
    """Nodes the ranks lie on: as the rows say, else one."""
    for name in ("nodes", "devices_per_node"):
        values = dims.get(name)
        if values is not None:
            stated = np.asarray(values, float)
            nodes = stated if name == "nodes" else ranks / stated
            return np.maximum(np.where(np.isnan(nodes), 1.0, nodes), 1.0)
    return np.ones(len(ranks))


def _link_bytes_per_s(chip: Chip) -> float:
    if chip.link is not None:
        return chip.link.bandwidth_bytes_per_s
    if chip.host is not None and chip.host.bandwidth_bytes_per_s:
        return chip.host.bandwidth_bytes_per_s
    raise InputError(Problem(f"chip '{chip.name}' describes no link to other chips", "link"))


ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, SEND = (
    Collective(function) for function in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")
)
