"""Collectives: bounds and laws of every algorithm on every topology."""

from __future__ import annotations

import math

import numpy as np
import pytest

import npusim as ns
from npusim.cost.collectives import (
    ALGORITHMS,
    Network,
    algorithms,
    fastest,
    mean_hops,
    network,
    op_seconds,
    time_s,
    volume_bound,
)
from npusim.errors import InputError
from npusim.ops import COLLECTIVES
from npusim.workload import collective

TOPOLOGIES = ("all-to-all", "ring", "mesh", "torus", "switch")
RATE, LATENCY = 1e10, 1e-6


def net(ranks: int, topology: str = "switch", **more) -> Network:
    return Network(ranks, topology, RATE, LATENCY, **more)


def test_every_function_has_algorithms():
    assert set(ALGORITHMS) == set(COLLECTIVES)


@pytest.mark.parametrize("function", sorted(COLLECTIVES))
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 8, 16])
def test_no_algorithm_beats_the_bytes_it_must_move(function: str, topology: str, ranks: int):
    described = net(ranks, topology)
    for size in (1.0, 1e6, 1e9):
        bound = volume_bound(function, ranks) * size / RATE
        for name in algorithms(function, described):
            assert time_s(function, name, size, described) >= bound + LATENCY * 0.99
        assert fastest(function, size, described).time_s >= bound


def test_a_ring_all_reduce_moves_twice_all_but_one_part():
    assert time_s("all_reduce", "ring", 8e9, Network(8, "ring", 1e9)) == pytest.approx(2 * 7 / 8 * 8)
    assert time_s("all_reduce", "ring", 0.0, net(8, "ring")) == pytest.approx(14 * LATENCY)


def test_the_fastest_changes_with_size():
    eight = net(8)
    assert fastest("all_reduce", 8.0, eight).algorithm == "one-shot"
    assert fastest("all_reduce", 1e8, eight).algorithm == "two-shot"
    assert fastest("all_reduce", 1e8, net(8, "ring")).algorithm == "ring"


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    for ranks in (2, 4, 8):
        parts = sum(time_s(f, "ring", 1e8, net(ranks, "ring")) for f in ("reduce_scatter", "all_gather"))
        assert time_s("all_reduce", "ring", 1e8, net(ranks, "ring")) == pytest.approx(parts)


def test_direct_links_add_up_with_the_peers():
    times = [fastest("all_reduce", 1e9, net(p, "all-to-all", node_chips=8)).time_s for p in (2, 8)]
    assert times[0] / times[1] == pytest.approx((1 / (1 / 7)) / (2 * 7 / 8), rel=0.01)


@pytest.mark.parametrize("function", sorted(COLLECTIVES))
def test_more_bytes_latency_or_less_bandwidth_never_help(function: str):
    base = fastest(function, 1e7, net(8)).time_s
    assert fastest(function, 2e7, net(8)).time_s > base
    assert fastest(function, 1e7, Network(8, "switch", RATE, 2 * LATENCY)).time_s > base
    assert fastest(function, 1e7, Network(8, "switch", RATE / 2, LATENCY)).time_s > base


@pytest.mark.parametrize("function", sorted(set(COLLECTIVES) - {"send"}))
def test_a_slow_second_level_costs_time(function: str):
    flat = fastest(function, 1e8, net(16))
    nodes = fastest(function, 1e8, net(16, node_chips=8, node_bytes_per_s=RATE / 10, node_latency_s=5e-6))
    assert nodes.algorithm == "hierarchical"
    assert nodes.time_s > flat.time_s
    one = fastest(function, 1e8, net(8, node_chips=8, node_bytes_per_s=RATE / 10))
    assert one.algorithm != "hierarchical"


def test_hierarchical_all_reduce_by_hand():
    """2 nodes of 4: 3/4 inside, 2·1/2 of a quarter between, 3/4 inside."""
    described = Network(8, "ring", 1e9, 0.0, 4, 1e8, 0.0)
    assert fastest("all_reduce", 1e9, described).time_s == pytest.approx(0.75 + 0.25 / 0.1 + 0.75)


def test_distances():
    assert mean_hops("ring", 4) == pytest.approx((0 + 1 + 2 + 1) / 4)
    assert mean_hops("torus", 16) == pytest.approx(2 * (0 + 1 + 2 + 1) / 4)
    assert mean_hops("mesh", 4) == pytest.approx((0 + 1 + 1 + 2) / 4)
    assert mean_hops("switch", 4) == pytest.approx(3 / 4)


def test_operators_are_elementwise_and_above_the_roofline():
    chip = ns.load_chip("h100")
    sizes, counts = np.array([1e3, 1e6, 1e9]), np.array([2, 8])[:, None]
    found = op_seconds("all_reduce", sizes, counts, chip)
    assert found.shape == (2, 3)
    assert found[1, 2] == op_seconds("all_reduce", 1e9, 8, chip)
    elements = np.array([1000, 10**6, 10**9])
    for function in COLLECTIVES:
        op = collective(elements, 8, function)
        tile, roofline = (ns.estimate(op, chip, name).time_s for name in ("tile", "roofline"))
        assert np.all(tile >= roofline * (1 - 1e-12))


def test_more_chips_than_the_levels_describe():
    """Without a second level the links join any number; with one, nodes are counted."""
    chip = ns.load_chip("ascend-910b")
    assert network(chip, 8).nodes == 1
    assert network(chip, 16).nodes == 2
    assert math.isinf(float(network(ns.load_chip("rebel-quad"), 4).node_chips or math.inf))


def test_unknown_functions_and_missing_links():
    with pytest.raises(InputError, match="collective"):
        algorithms("gossip", net(4))
    chip = ns.load_chip("gemmini")
    with pytest.raises(InputError, match="link"):
        network(chip, 2)
