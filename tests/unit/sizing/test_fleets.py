"""Sizing with figures that follow others, fleets of services in shares, numbers of chips, and other constants."""

from __future__ import annotations

from dataclasses import replace

import pytest

import npusim as ns
from npusim.cost.area import area_mm2
from npusim.cost.technology import load_technology
from npusim.errors import InputError
from npusim.sizing.sizes import limit, parse_derived, size
from npusim.sizing.targets import Judge, parse_target, pinned

SMALL = "llama-3.1-8b fp8 1000/200 tpot<=3ms concurrency>=16"
LARGE = "llama-3.3-70b fp8 1000/200 tpot<=30ms concurrency>=4"
QUIET = {"neighbours": False, "inverse": False, "sensitivity": False, "fidelity": "roofline"}


def judge(*texts: str, **changes: object) -> Judge:
    return Judge(tuple(map(parse_target, texts)), fidelity="roofline", **changes)


def test_derived_figures_follow_in_order():
    derived = {"cores": "32 * size", "memory.stacks": "2 * size", "memory.capacity": "memory.stacks * 36e9"}
    found = size("npu-2pf", SMALL, vary={"size": [1, 2]}, derived=derived, **QUIET)
    for index, times in enumerate((1, 2)):
        chip = found.design(index)
        assert (chip.cores, chip.memory.stacks, chip.memory.capacity_bytes) == (32 * times, 2 * times, times * 72e9)
    assert found.to_dict()["derived"] == derived


@pytest.mark.parametrize(
    ("vary", "derived", "told"),
    [
        ({"size": [1, 2]}, {}, "unknown chip figure 'size'"),
        ({"cores": [1, 2]}, {"cores": "64"}, "varied too"),
        ({}, {"cores": "coers * 2"}, "unknown parameter 'coers'"),
        ({}, {"memory.stakcs": "2"}, "did you mean 'memory.stacks'"),
        ({}, {"cores": "__import__('os')"}, "unknown function|not arithmetic"),
        ({"size": []}, {"cores": "size"}, "empty list"),
    ],
)
def test_bad_derived_figures_are_named(vary: dict, derived: dict, told: str):
    with pytest.raises(InputError, match=told):
        size("npu-2pf", SMALL, vary=vary, derived=derived, **QUIET)


def test_a_design_whose_expression_has_no_value_fails_alone():
    found = size("npu-2pf", SMALL, vary={"size": [0, 2]}, derived={"memory.stacks": "6 // size"}, **QUIET)
    assert [item.verdict.feasible for item in found.candidates] == [False, True]
    assert "has no value" in found.candidates[0].verdict.violated[0]


def test_expressions_of_the_command_line_are_read():
    assert parse_derived("chip.cores = 2*a") == ("cores", "2*a")
    for text in ("cores", "=2", "cores="):
        with pytest.raises(InputError, match="PATH=EXPRESSION"):
            parse_derived(text)


def test_a_fleet_adds_up_costs_joules_and_chip_seconds_of_its_tokens():
    chip = ns.load_chip("npu-2pf")
    mixed = judge(f"{SMALL} share=3", f"{LARGE} share=1").judge(chip)
    one, other = mixed.by_target
    tokens = (3e6, 1e6)
    usd = sum(n / 1e6 * m["usd_per_mtoken"] for n, m in zip(tokens, (one, other), strict=True))
    joules = sum(n / m["tokens_per_j"] for n, m in zip(tokens, (one, other), strict=True))
    seconds = sum(n / m["tokens_per_s_per_chip"] for n, m in zip(tokens, (one, other), strict=True))
    assert mixed.metrics["usd_per_mtoken"] == pytest.approx(usd / 4)
    assert mixed.metrics["tokens_per_j"] == pytest.approx(4e6 / joules)
    assert mixed.metrics["tokens_per_s_per_chip"] == pytest.approx(4e6 / seconds)
    worst = judge(f"{SMALL} share=3", LARGE).judge(chip)  # no share, no mix
    assert worst.metrics["usd_per_mtoken"] == max(one["usd_per_mtoken"], other["usd_per_mtoken"])


@pytest.mark.parametrize("share", ["0", "-1", "many"])
def test_shares_are_above_zero(share: str):
    with pytest.raises(InputError):
        parse_target(f"{SMALL} share={share}")


def test_a_service_takes_the_fewest_chips_that_keep_its_limits():
    chip = ns.load_chip("npu-2pf").replace({"memory.stacks": 2, "memory.capacity": 72e9})
    alone = judge(f"{SMALL} tp=1").judge(chip)
    assert not alone.feasible
    free = judge(SMALL).judge(chip)
    assert free.feasible and free.by_target[0]["chips"] == 2
    never = judge(SMALL.replace("3ms", "1us")).judge(chip)
    assert not never.feasible and never.by_target[0]["chips"] == 1
    assert [t.tp for t in pinned(judge(SMALL), free).targets] == [2]


def test_dies_can_be_limited():
    found = size("npu-2pf", SMALL, vary={"area.dies": [1, 2, 4]}, limits=[limit("die", "800 mm2")], **QUIET)
    assert [item.verdict.feasible for item in found.candidates] == [False, True, True]
    assert found.candidates[0].verdict.violated == ("die <= 800 mm2",)


def test_other_constants_change_what_they_are_about():
    base, chip = load_technology(), ns.load_chip("npu-2pf").replace({"area.dies": 4})
    dear = base.replace({f"nodes.{key}.wafer_usd": 1e5 for key in base.nodes})
    plain, changed = (judge(SMALL, technology=one).judge(chip).metrics for one in (base, dear))
    assert changed["cost_usd"] > plain["cost_usd"] and changed["usd_per_mtoken"] > plain["usd_per_mtoken"]
    assert changed["tpot_s"] == plain["tpot_s"] and changed["area_mm2"] == plain["area_mm2"]
    large = base.replace({"area.uncore_share": 0.63})
    assert area_mm2(chip, large).total_mm2 == pytest.approx(area_mm2(chip).total_mm2 * 0.47 / 0.37)
    assert load_technology() == base  # what is changed is a copy
    hungry = judge(SMALL, technology=base.replace({"energy.overhead": 4.5}))
    assert hungry.judge(chip).metrics["tokens_per_j"] < plain["tokens_per_j"]
    none = replace(hungry, technology=None).judge(chip).metrics
    assert none == plain


@pytest.mark.parametrize("path", ["price.none", "nodes.99.energy", "price.memory_usd_per_gb.hbm.x"])
def test_unknown_constants_are_refused(path: str):
    with pytest.raises(InputError, match="unknown constant"):
        load_technology().replace({path: 1.0})


def test_constants_out_of_range_are_refused():
    with pytest.raises(InputError):
        load_technology().replace({"area.uncore_share": 1.5})
