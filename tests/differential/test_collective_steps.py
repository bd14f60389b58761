"""Closed forms of collectives against a simulation that moves every part of the tensor step by step."""

from __future__ import annotations

import itertools

import pytest

from npusim.cost.collectives import Network, time_s

RATE, LATENCY = 1e9, 2e-6
Transfer = tuple[int, int, int, bool]  # from, to, part, the receiver adds it up


class Machine:
    """Chips that hold sets of contributions per part; a step sends parts at once and waits for the last."""

    def __init__(self, ranks: int, part_bytes: float, routes) -> None:
        self.held = [[{rank} for _ in range(ranks)] for rank in range(ranks)]
        self.ranks, self.part_bytes, self.routes = ranks, part_bytes, routes
        self.time = 0.0

    def step(self, transfers: list[Transfer]) -> None:
        load: dict[object, float] = {}
        for source, target, _, _ in transfers:
            for link, capacity in self.routes(source, target):
                load[link] = load.get(link, 0.0) + self.part_bytes / capacity
        self.time += LATENCY + max(load.values())
        before = [[set(part) for part in chip] for chip in self.held]
        for source, target, part, adds in transfers:
            if adds:
                self.held[target][part] |= before[source][part]
            else:
                self.held[target][part] = before[source][part]

    @property
    def reduced(self) -> bool:
        everyone = set(range(self.ranks))
        return all(part == everyone for chip in self.held for part in chip)


def port(source: int, target: int):
    """A switch: what leaves a chip and what enters one share its port."""
    return [(("out", source), RATE), (("in", target), RATE)]


def ring(p: int) -> list[list[Transfer]]:
    scatter = [[(i, (i + 1) % p, (i - s) % p, True) for i in range(p)] for s in range(p - 1)]
    gather = [[(i, (i + 1) % p, (i + 1 - s) % p, False) for i in range(p)] for s in range(p - 1)]
    return scatter + gather


def two_shot(p: int) -> list[list[Transfer]]:
    pairs = [(i, j) for i in range(p) for j in range(p) if i != j]
    return [[(i, j, j, True) for i, j in pairs], [(i, j, i, False) for i, j in pairs]]


def one_shot(p: int) -> list[list[Transfer]]:
    return [[(i, j, part, True) for i, j, part in itertools.product(range(p), repeat=3) if i != j]]


def halving_doubling(p: int) -> list[list[Transfer]]:
    """Halve the range a chip answers for while exchanging the other half, then the same way back."""
    ranges = {i: (0, p) for i in range(p)}
    halving, doubling = [], []
    distance = p // 2
    while distance:
        sends = []
        for i in range(p):
            low, high = ranges[i]
            middle = (low + high) // 2
            keep, give = ((low, middle), (middle, high)) if i & distance == 0 else ((middle, high), (low, middle))
            sends += [(i, i ^ distance, part, True) for part in range(*give)]
            ranges[i] = keep
        halving.append(sends)
        doubling.insert(0, [(j, i, part, False) for i, j, part, _ in sends])
        distance //= 2
    return halving + doubling


@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize(
    ("name", "schedule"),
    [("ring", ring), ("two-shot", two_shot), ("one-shot", one_shot), ("halving-doubling", halving_doubling)],
)
def test_all_reduce_on_a_switch(p: int, name: str, schedule):
    size = 1e6
    machine = Machine(p, size / p, port)
    for transfers in schedule(p):
        machine.step(transfers)
    assert machine.reduced
    assert time_s("all_reduce", name, size, Network(p, "switch", RATE, LATENCY)) == pytest.approx(machine.time)


@pytest.mark.parametrize("p", [3, 5, 6, 7])
def test_ring_of_any_size(p: int):
    machine = Machine(p, 1e6 / p, port)
    for transfers in ring(p):
        machine.step(transfers)
    assert machine.reduced
    assert time_s("all_reduce", "ring", 1e6, Network(p, "switch", RATE, LATENCY)) == pytest.approx(machine.time)


def loaded(p: int, routes) -> float:
    """Seconds for every pair to exchange 1/p² of a megabyte, all links sharing."""
    load: dict[object, float] = {}
    for source, target in itertools.permutations(range(p), 2):
        for share, path in routes(source, target):
            for link, capacity in path:
                load[link] = load.get(link, 0.0) + share * 1e6 / p**2 / capacity
    return max(load.values())


def around(p: int):
    """Shortest way round a ring of two directions; opposite chips use both."""

    def routes(source: int, target: int):
        ways = []
        for sign in (1, -1):
            hops = (sign * (target - source)) % p
            path = [(((source + sign * h) % p, sign), RATE / 2) for h in range(hops)]
            ways.append((hops, path))
        least = min(hops for hops, _ in ways)
        best = [path for hops, path in ways if hops == least]
        return [(1 / len(best), path) for path in best]

    return routes


@pytest.mark.parametrize("p", [3, 4, 5, 8])
def test_all_to_all_round_a_ring(p: int):
    expected = loaded(p, around(p))
    assert time_s("all_to_all", "pairwise", 1e6, Network(p, "ring", RATE)) == pytest.approx(expected)


@pytest.mark.parametrize("p", [2, 4, 7])
def test_all_to_all_over_a_switch(p: int):
    expected = loaded(p, lambda source, target: [(1.0, port(source, target))])
    assert time_s("all_to_all", "pairwise", 1e6, Network(p, "switch", RATE)) == pytest.approx(expected)
