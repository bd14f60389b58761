"""Shapes of a replica: which are weighed, which are left out, and what is said when none holds the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

import npusim as ns
from npusim.chip import Chip, load_chip
from npusim.errors import DoesNotFit, InputError, Problem
from npusim.llm import precision
from npusim.models import load_model
from npusim.serving import choice
from npusim.serving.answer import Case
from npusim.serving.choice import Asked
from npusim.serving.engine import VLLM, Pool, Rules
from npusim.serving.fleet import fleet
from npusim.serving.placement import Placement
from npusim.serving.scenarios import scenario
from npusim.serving.steps import UNFITTED

FAST = {"fidelity": "roofline", "precision": "fp8", "requests": 100}


def case(chip: str | Chip, model: str, context: int = 2048, rules: Rules = VLLM) -> Case:
    hardware = load_chip(chip) if isinstance(chip, str) else chip
    return Case(load_model(model), hardware, "fp8", precision("fp8"), Placement(), rules, "roofline", UNFITTED, context)


def small(chip: str, size: float) -> Chip:
    return load_chip(chip).replace({"memory.capacity": size, "memory.usable": 1.0})


def shapes(cases: list[Case]) -> list[tuple[int, int, int]]:
    return [(one.place.tp, one.place.pp, one.place.ep) for one in cases]


def test_every_shape_is_weighed_once_the_smallest_first():
    dense = Asked().replicas(case("h100", "llama-3.1-8b"))  # 32 layers
    assert len(dense) == len(set(dense)) == 7 * 4 and all(place.ep == 1 for place in dense)
    assert [place.replica_chips for place in dense] == sorted(place.replica_chips for place in dense)
    mixture = Asked().replicas(case("h100", "qwen3-30b-a3b"))
    assert {(p.tp, p.ep) for p in mixture if p.ep > 1} >= {(1, 2), (2, 2), (1, 8), (8, 8), (1, 64), (8, 64)}
    assert {p.pp for p in mixture if p.ep == 8} == {1, 2, 4, 8} and len(mixture) == len(set(mixture))
    # 8 experts: no more chips than that share them.
    assert max(p.ep for p in Asked().replicas(case("h100", "mixtral-8x7b"))) == 8


def test_what_is_asked_for_is_what_is_weighed():
    one = case("h100", "deepseek-v3")
    assert {(p.tp, p.pp, p.ep) for p in Asked(tp=8).replicas(one)} == {(8, 1, 1)}
    assert {(p.tp, p.pp, p.ep) for p in Asked(tp=8, ep=16).replicas(one)} == {(8, 1, 16)}
    assert {(p.pp, p.ep) for p in Asked(pp=2).replicas(one)} == {(2, 1)}
    assert {(p.tp, p.pp, p.ep) for p in Asked(ep=16).replicas(one)} == {
        (tp, pp, 16) for tp in (1, 2, 4, 8) for pp in (1, 2, 4, 8)
    }
    assert {p.pp for p in Asked().replicas(one)} == {1, 2, 4, 8}
    for asked in (Asked(ep=3), Asked(tp=3, ep=8), Asked(ep=512)):
        with pytest.raises(InputError, match="ep"):
            asked.replicas(one)


@pytest.mark.parametrize("sizes", [{"tp": 0}, {"pp": 0}, {"ep": 0}, {"ep": -4}])
def test_sizes_that_make_no_sense_are_refused_everywhere(sizes: dict[str, int]):
    for ask in (lambda: scenario("h100", "mixtral-8x7b", "offline", **sizes),
                lambda: fleet("h100", "mixtral-8x7b", 155, **sizes),
                lambda: ns.serve("h100", "mixtral-8x7b", **sizes)):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(sizes))):
            ask()


def test_stages_hold_what_tensor_parallelism_does_not():
    """405 GB of weights on chips of 5 GB: 64 that split the layers lack room, two stages of them do not."""
    one = case(small("h100", 5e9), "llama-3.1-405b")
    found = choice.fitting(one, Asked().replicas(one))
    assert shapes(found)[0] == (64, 2, 1)
    with pytest.raises(DoesNotFit):
        choice.fitting(one, Asked(pp=1).replicas(one))
    served = ns.serve(one.chip, "llama-3.1-405b", arrivals="closed:4", **FAST)
    assert served.case.place == Placement(64, 2)


def test_no_placement_says_what_lacks_where_least_does():
    one = case(small("h100", 0.2e9), "llama-3.1-405b")
    places = Asked().replicas(one)
    lacking = []
    for place in places:
        with pytest.raises(DoesNotFit) as caught:
            choice.fitting(one, [place])
        lacking.append(caught.value.short_bytes)
    with pytest.raises(DoesNotFit, match="short by") as caught:
        choice.fitting(one, places)
    assert caught.value.short_bytes == min(lacking) > 0


def test_chips_that_no_link_joins_are_left_out(monkeypatch: pytest.MonkeyPatch):
    one = case("h100", "qwen3-30b-a3b")

    def joined(function: str, size: float, ranks: int, chip: Chip) -> float:
        if ranks > 2:
            raise InputError(Problem("no second level", "link"))
        return 0.0

    monkeypatch.setattr("npusim.serving.choice.op_seconds", joined)
    found = choice.fitting(one, Asked().replicas(one))
    assert set(shapes(found)) == {(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 2)}
    with pytest.raises(InputError, match="no second level"):
        choice.fitting(one, Asked(tp=4).replicas(one))


def test_a_chip_without_links_stands_alone():
    one = replace(case("h100", "llama-3.1-8b"), chip=load_chip("h100").model_copy(update={"link": None}))
    assert shapes(choice.fitting(one, Asked().replicas(one))) == [(1, 1, 1)]
    for asked in (Asked(tp=2), Asked(pp=2)):
        with pytest.raises(InputError, match="no link"):
            choice.fitting(one, asked.replicas(one))


def test_what_cannot_be_priced_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """Say attention fits no core when four chips split it: the others are still weighed, and the best is taken."""
    price = Case.pool

    def pool(self: Case) -> Pool:
        if self.place.tp == 4:
            raise InputError(Problem("no attention block fits a core's memory", "levels"))
        return price(self)

    monkeypatch.setattr(Case, "pool", pool)
    load = {"arrivals": "poisson:4", **FAST}
    for chips in (4, "auto"):
        choice_made = ns.serve("h100", "llama-3.1-8b", chips=chips, **load).to_dict()["choice"]
        assert choice_made["tried"] and all(one["tp"] != 4 for one in choice_made["tried"])
    with pytest.raises(InputError, match="no attention block"):
        ns.serve("h100", "llama-3.1-8b", chips=4, tp=4, **load)


def test_of_as_many_chips_the_quickest_is_taken():
    """A load that four chips serve: more than one split does, and the one with the lowest TPOT is the answer."""
    load = {"arrivals": "poisson:150", "slo": "ttft=300ms,tpot=20ms", **FAST, "requests": 3000}
    result = ns.serve("h100", "llama-3.1-8b", chips="auto", **load)
    tried = result.to_dict()["choice"]["tried"]
    sizes = [max(one["tp"], one["ep"]) * one["pp"] * one["replicas"] for one in tried]
    assert result.case.place.chips == sizes[0] == min(sizes)
    assert tried[0]["tpot_s"] <= 1.01 * min(
        one["tpot_s"] for one, size in zip(tried, sizes, strict=True) if size == sizes[0]
    )


@pytest.mark.parametrize("slo", ["ttft=1us,tpot=40ms", "ttft=1s,tpot=1us"])
def test_what_nobody_holds_is_answered_by_what_comes_closest(slo: str):
    result = ns.serve("h100", "llama-3.1-8b", chips="auto", slo=slo, **FAST)
    assert "comes closest" in result.choice.reason and result.case.place.pp == 1
    name = "ttft" if slo.startswith("ttft=1us") else "tpot"
    reached = getattr(result.digest, name).at(0.5)
    for tp in (1, 2, 4):
        fewer = ns.serve("h100", "llama-3.1-8b", chips=tp, tp=tp, arrivals="poisson:0.1", slo=slo, **FAST)
        assert getattr(fewer.digest, name).at(0.5) >= 0.999 * reached


def test_a_mixture_on_four_chips_weighs_shared_experts():
    data = ns.serve("h100", "gpt-oss-20b", chips=4, arrivals="closed:128", **FAST).to_dict()
    tried = data["choice"]["tried"]
    assert {(1, 4), (4, 4), (1, 2), (2, 2)} <= {(one["tp"], one["ep"]) for one in tried}
    assert tried[0]["tokens_per_s"] == max(one["tokens_per_s"] for one in tried)
    for one in tried:
        assert max(one["tp"], one["ep"]) * one["pp"] * one["replicas"] == 4


def test_promising_keeps_the_plain_splits():
    one = case("h100", "qwen3-30b-a3b")
    cases = choice.few(choice.fitting(one, Asked().replicas(one)))
    source = ns.serve("h100", "qwen3-30b-a3b", chips=1, arrivals="poisson:5", **FAST).source
    kept = shapes(choice.promising(cases, source, None))
    assert [shape for shape in shapes(cases) if shape[1:] == (1, 1)] == kept[:4] and len(kept) == 6
