"""A test bed of PFLOPS: chips, replicas, users by Little's law, watts and racks follow from one replica."""

from __future__ import annotations

import math

import pytest

import npusim as ns
from npusim.errors import DoesNotFit, InputError
from npusim.serving.fleet import Fleet, Rooms, fleet

FAST = {"fidelity": "roofline", "requests": 500, "slo": "ttft=1s,tpot=50ms"}


@pytest.fixture(scope="module")
def bed() -> Fleet:
    return fleet("npu-2pf", "llama-3.1-8b", 155, **FAST)


def test_chips_reach_what_was_asked_for(bed: Fleet):
    peak = ns.load_chip("npu-2pf").peak_flops_per_s("fp8")[1]
    assert bed.chips == math.ceil(155e15 / peak)
    data = bed.to_dict()
    assert data["replicas"] * data["chips_per_replica"] + data["spare_chips"] == bed.chips


def test_the_fleet_is_its_replicas(bed: Fleet):
    data = bed.to_dict()
    single = fleet("npu-2pf", "llama-3.1-8b", bed.peak_flops_per_s * data["chips_per_replica"] / 1e15, tp=data["tp"],
                   **FAST).to_dict()  # fmt: skip
    assert single["replicas"] == 1
    for key in ("requests_per_s", "tokens_per_s", "users", "chips_w"):
        assert data[key] == pytest.approx(data["replicas"] * single[key])


def test_users_wait_or_think(bed: Fleet):
    data = bed.to_dict()
    t = bed.serving.run.totals
    assert data["users"] == pytest.approx(data["requests_in_flight"] + 30 * data["requests_per_s"])
    assert data["requests_in_flight"] == pytest.approx(data["replicas"] * t["in_system_s"] / t["last_arrival"], rel=0.1)
    assert bed.serving.digest.attainment >= 0.99


def test_racks_hold_the_chips_at_their_tdp(bed: Fleet):
    tdp_w = ns.load_chip("npu-2pf").power.tdp_w
    assert bed.racks == math.ceil(bed.chips / math.floor(40e3 / (1.3 * tdp_w)))
    more = fleet("npu-2pf", "llama-3.1-8b", 155, rooms=Rooms(rack_w=10e3), **FAST)
    assert more.racks > bed.racks
    assert bed.to_dict()["building_w"] == pytest.approx(1.69 * bed.to_dict()["chips_w"])


def test_a_limit_nobody_holds_serves_no_user():
    none = fleet("npu-2pf", "llama-3.1-8b", 20, fidelity="roofline", requests=100, slo="ttft=1us")
    assert none.users == 0 and none.to_dict()["tokens_per_s"] == 0 and "cannot be met" in none.verdicts[0]


def test_bad_fleets_are_refused():
    with pytest.raises(DoesNotFit, match="fewer than"):
        fleet("h100", "llama-3.1-405b", 2, **FAST)
    for more in ({"pflops": 0}, {"fmt": "fp3"}, {"arrivals": "closed:3"}, {"rooms": Rooms(pue=0.5)}):
        with pytest.raises(InputError):
            fleet("h100", "llama-3.1-8b", **{"pflops": 10, **FAST, **more})
