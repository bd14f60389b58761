"""Collectives on described topologies: the algorithms' steps and bytes, their time, and the fastest of them.

Latency and bandwidth per chip (Hockney's α–β model) as in Thakur, Rabenseifner and Gropp, "Optimization of
Collective Communication Operations in MPICH", IJHPCA 19(1), 2005, and Patarasuk and Yuan, "Bandwidth optimal
all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009. ``bytes`` are of the whole tensor: what an
all-reduce leaves on every chip, what an all-gather collects, what all chips of an all-to-all hold together.

The bandwidth of a link description is per direction and chip, summed over its links. A ring runs in all
edge-disjoint directions the topology has: all of a switch, a torus or a ring, the lines of an open mesh once.
Direct links to each chip of a node reach as many peers as take part. Groups larger than a node go through its
second level, where each chip has the bandwidth that ``link.node`` states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from npusim.chip import Chip
from npusim.errors import InputError, Problem, unknown_name
from npusim.ops import COLLECTIVES, Dim

Array = np.ndarray
# Dimensions a mesh or torus of so many chips is folded into: as square as they come.
_GRIDS = ("mesh", "torus")
_POINT_TO_POINT = ("switch", "all-to-all")


@dataclass(frozen=True, slots=True)
class Network:
    """What a collective runs on.

    Args:
        ranks: chips that take part.
        topology: of the links between them.
        bytes_per_s: per chip and direction, all links together.
        latency_s: of one step.
        node_chips: chips of a node, which the links join; None: any number.
        node_bytes_per_s: per chip to other nodes.
        node_latency_s: of one step to another node.
    """

    ranks: int
    topology: str
    bytes_per_s: float
    latency_s: float = 0.0
    node_chips: int | None = None
    node_bytes_per_s: float | None = None
    node_latency_s: float = 0.0

    @property
    def nodes(self) -> int:
        """Nodes the ranks fill; a last one may be partly empty."""
        return 1 if self.node_chips is None else -(-self.ranks // self.node_chips)

    @property
    def rate(self) -> float:
        """Bytes per second of one chip that a neighbour exchange inside the node uses."""
        if self.topology == "all-to-all" and self.node_chips is not None and self.node_chips > 1:
            return self.bytes_per_s * min(self.ranks - 1, self.node_chips - 1) / (self.node_chips - 1)
        if self.topology == "mesh" and self.ranks > 2:
            return self.bytes_per_s / 2  # an open mesh has a ring, not two disjoint ones in each dimension
        return self.bytes_per_s

    @property
    def inner(self) -> Network:
        """One node."""
        assert self.node_chips is not None
        return replace(self, ranks=min(self.ranks, self.node_chips))

    @property
    def outer(self) -> Network:
        """One chip of each node: what the second level joins."""
        assert self.node_bytes_per_s is not None
        return Network(self.nodes, "switch", self.node_bytes_per_s, self.node_latency_s)


def network(chip: Chip, ranks: int) -> Network:
    """The links of ``ranks`` chips.

    Raises:
        InputError: the chip describes no links, or no second level for more chips than a node has.
    """
    link = chip.link
    if link is None:
        raise InputError(Problem(f"chip '{chip.name}' describes no link to other chips", "link"))
    node = link.node
    if node is None or node.bandwidth_bytes_per_s is None:
        # Without a second level the links are taken to join any number of chips.
        joined = node.chips if node is not None and ranks <= node.chips else None
        return Network(ranks, link.topology, link.bandwidth_bytes_per_s, link.latency_s or 0.0, joined)
    return Network(
        ranks, link.topology, link.bandwidth_bytes_per_s, link.latency_s or 0.0, node.chips,
        node.bandwidth_bytes_per_s, node.latency_s or link.latency_s or 0.0,
    )  # fmt: skip


# -- distances -----------------------------------------------------------------------------------------------------


def mean_hops(topology: str, ranks: int) -> float:
    """Mean number of links between two chips of all ordered pairs, a chip and itself included (0)."""
    if topology in _POINT_TO_POINT:
        return (ranks - 1) / ranks
    if topology == "ring":
        return (ranks * ranks // 4) / ranks
    down = _rows(ranks)
    across = ranks // down
    if topology == "torus":
        return (down * down // 4) / down + (across * across // 4) / across
    return (down * down - 1) / (3 * down) + (across * across - 1) / (3 * across)


def _rows(ranks: int) -> int:
    return max(side for side in range(1, math.isqrt(ranks) + 1) if ranks % side == 0)


def _most_hops(topology: str, ranks: int) -> int:
    if topology in _POINT_TO_POINT:
        return min(ranks - 1, 1)
    if topology == "ring":
        return ranks // 2
    down = _rows(ranks)
    across = ranks // down
    return down // 2 + across // 2 if topology == "torus" else down + across - 2


# -- algorithms inside one level -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Steps on the critical path, and bytes through the busiest chip per byte of the tensor."""

    steps: float
    volume: float


def _ring_all_reduce(net: Network) -> Cost:
    return Cost(2 * (net.ranks - 1), 2 * (net.ranks - 1) / net.ranks)


def _ring_pass(net: Network) -> Cost:
    return Cost(net.ranks - 1, (net.ranks - 1) / net.ranks)


def _halving_doubling(net: Network) -> Cost:
    """Recursive halving, then doubling; ranks beyond a power of two hand their tensor to a partner before and after."""
    levels = math.floor(math.log2(net.ranks))
    power = 2**levels
    extra = 0 if power == net.ranks else 1
    return Cost(2 * levels + 2 * extra, 2 * (power - 1) / power + 2 * extra)


def _tree_all_reduce(net: Network) -> Cost:
    levels = math.ceil(math.log2(net.ranks))
    return Cost(2 * levels, 2 * levels)


def _one_shot(net: Network) -> Cost:
    """Everybody sends the whole tensor to everybody."""
    return Cost(1, net.ranks - 1)


def _two_shot(net: Network) -> Cost:
    """Each chip reduces its part from all others at once, then sends it to all."""
    return Cost(2, 2 * (net.ranks - 1) / net.ranks)


def _direct_pass(net: Network) -> Cost:
    return Cost(1, (net.ranks - 1) / net.ranks)


def _pairwise(net: Network) -> Cost:
    """All-to-all: every pair exchanges 1/p² of the tensor, over as many links as lie between."""
    return Cost(_most_hops(net.topology, net.ranks), mean_hops(net.topology, net.ranks) / net.ranks)


def _doubling_gather(net: Network) -> Cost:
    return Cost(math.ceil(math.log2(net.ranks)), (net.ranks - 1) / net.ranks)


def _send(net: Network) -> Cost:
    return Cost(1, 1.0)


def _tree_broadcast(net: Network) -> Cost:
    levels = math.ceil(math.log2(net.ranks))
    return Cost(levels, levels)


def _scatter_gather(net: Network) -> Cost:
    """Broadcast of long tensors: scatter by halves, then a ring all-gather."""
    return Cost(math.ceil(math.log2(net.ranks)) + net.ranks - 1, 2 * (net.ranks - 1) / net.ranks)


Algorithm = Callable[[Network], Cost]
# function → algorithms of any topology, and those that need a path between every pair at full rate.
ALGORITHMS: dict[str, tuple[dict[str, Algorithm], dict[str, Algorithm]]] = {
    "all_reduce": (
        {"ring": _ring_all_reduce},
        {"halving-doubling": _halving_doubling, "tree": _tree_all_reduce, "one-shot": _one_shot, "two-shot": _two_shot},
    ),
    "all_gather": ({"ring": _ring_pass}, {"direct": _direct_pass, "doubling": _doubling_gather}),
    "reduce_scatter": ({"ring": _ring_pass}, {"direct": _direct_pass, "halving": _doubling_gather}),
    "all_to_all": ({"pairwise": _pairwise}, {}),
    "send": ({"direct": _send}, {}),
    "broadcast": ({"scatter-gather": _scatter_gather}, {"tree": _tree_broadcast}),
}


def algorithms(function: str, net: Network) -> dict[str, Algorithm]:
    """The algorithms of ``function`` that run on this topology. Raises InputError for an unknown function."""
    if function not in ALGORITHMS:
        raise unknown_name("collective", function, ALGORITHMS)
    anywhere, paired = ALGORITHMS[function]
    return {**anywhere, **(paired if net.topology in _POINT_TO_POINT else {})}


def time_s(function: str, algorithm: str, size: Dim, net: Network) -> Dim:
    """Seconds of one collective inside one level of a network.

    Args:
        function: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``send`` or ``broadcast``.
        algorithm: a key of ``algorithms``.
        size: bytes of the whole tensor.
        net: one level; second levels are not looked at.
    """
    if net.ranks < 2:
        return size * 0.0
    cost = algorithms(function, net)[algorithm](net)
    # Pairwise exchanges load every link of the topology; what is left of a mesh's ring is no limit there.
    rate = net.bytes_per_s if algorithm == "pairwise" and net.topology in _GRIDS else net.rate
    return cost.steps * net.latency_s + cost.volume * size / rate


# -- several levels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """The fastest algorithm of a collective: its seconds and its name (``hierarchical`` across nodes)."""

    time_s: float
    algorithm: str


def fastest(function: str, size: float, net: Network) -> Chosen:
    """The fastest algorithm for a tensor of ``size`` bytes.

    Raises:
        InputError: an unknown function, or more ranks than a node holds without a second level.
    """
    if net.ranks < 2:
        return Chosen(0.0, "none")
    if net.nodes > 1:
        return Chosen(_hierarchical(function, size, net), "hierarchical")
    found = [Chosen(float(time_s(function, name, size, net)), name) for name in algorithms(function, net)]
    return min(found, key=lambda chosen: chosen.time_s)


def _hierarchical(function: str, size: float, net: Network) -> float:
    """Inside every node, then between nodes chip by chip, then inside again, as the function asks.

    Every chip of a node carries its part of the tensor to its partners in the other nodes.
    """
    inner, outer = net.inner, net.outer
    part = size / inner.ranks

    def inside(name: str, of: float) -> float:
        return fastest(name, of, inner).time_s

    def between(name: str, of: float) -> float:
        return fastest(name, of, outer).time_s

    if function == "all_reduce":
        return inside("reduce_scatter", size) + between("all_reduce", part) + inside("all_gather", size)
    if function == "all_gather":
        return between("all_gather", part) + inside("all_gather", size)
    if function == "reduce_scatter":
        return inside("reduce_scatter", size) + between("reduce_scatter", part)
    if function == "all_to_all":
        # First to the partner that stands for the target in the own node, then to the target's node.
        return inside("all_to_all", size / outer.ranks) + between("all_to_all", part)
    if function == "broadcast":
        return inside("broadcast", size) + between("broadcast", part)
    return between("send", size)


def hops_s(size: Dim, stages: int, width: int, chip: Chip) -> Dim:
    """Seconds to hand ``size`` bytes from chip to chip through all stages of a pipeline.

    Stages of ``width`` chips fill node after node: as many hops as there are further nodes leave one.

    Raises:
        InputError: the chip describes no links.
    """
    if stages == 1:
        return size * 0.0
    net = network(chip, stages * width)
    between = min(stages, net.nodes) - 1
    inside = (stages - 1 - between) * (size / net.bytes_per_s + net.latency_s)
    return inside + (between * (size / net.outer.bytes_per_s + net.outer.latency_s) if between else 0.0)


def volume_bound(function: str, ranks: int) -> float:
    """Bytes some chip has to send per byte of the tensor, whatever the algorithm; see ``npusim.ops.COLLECTIVES``."""
    return float(COLLECTIVES[function](ranks))


def op_seconds(function: str, size: Dim, chips: Dim, chip: Chip) -> Dim:
    """Seconds of a collective operator, elementwise over arrays of sizes and chips."""
    sizes, counts = np.broadcast_arrays(np.asarray(size, float), np.asarray(chips))
    nets = {int(count): network(chip, int(count)) for count in np.unique(counts)}
    flat = [
        fastest(function, float(s), nets[int(c)]).time_s for s, c in zip(sizes.ravel(), counts.ravel(), strict=True)
    ]
    found = np.array(flat).reshape(sizes.shape)
    return found if found.ndim else float(found)
