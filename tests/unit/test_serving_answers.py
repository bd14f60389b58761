"""Questions put to ``ns.serve``: latencies, verdicts, highest rates, chips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import npusim as ns
from npusim.chip import Chip, load_chip
from npusim.errors import DoesNotFit, InputError
from npusim.kperf_steps import panels
from npusim.models import Model
from npusim.serving.answer import mean_rate, sustainable_rate
from npusim.serving.engine import Rules
from npusim.serving.load import load_trace
from npusim.serving.placement import Placement, cache_blocks

FAST = {"fidelity": "roofline", "precision": "fp8"}


def serve(**more: object) -> ns.serving.answer.Serving:  # type: ignore[name-defined]
    return ns.serve("h100", "llama-3.1-8b", **{**FAST, "requests": 400, "chips": 1, **more})


def test_one_request_alone_takes_what_its_steps_take():
    result = serve(arrivals="closed:1", requests=1, input=2000, output=100, keep=True)
    row = result.records[0]
    first = ns.estimate(ns.prefill("llama-3.1-8b", prompt=2000, weights="fp8", activations="fp8", kv="fp8"), "h100")
    assert row["first"] - row["arrival"] == pytest.approx(float(first.time_s), rel=0.02)  # and sampling
    middle, weight = panels(np.array([99]))
    step = ns.estimate(ns.decode("llama-3.1-8b", batch=1, context=2000 + middle, weights="fp8", activations="fp8",
                                 kv="fp8"), "h100")  # fmt: skip
    tpot = (row["last"] - row["first"]) / 99
    assert tpot == pytest.approx(float((step.time_s * weight).sum()), rel=0.02)


def test_closed_loop_agrees_with_the_k_perf_metric():
    """K-Perf's closed loop prefills C prompts one by one, then decodes; a long run of an engine mixes them."""
    table = ns.kperf("h100", models=["llama-3.1-8b"], precisions=["fp8"], tp=1)
    row = next(r for r in table.rows if (r["input_tokens"], r["output_tokens"], r["concurrency"]) == (1000, 1000, 16))
    result = serve(arrivals="closed:16", input=1000, output=1000, requests=320)
    assert result.to_dict()["tokens_per_s"] == pytest.approx(row["tokens_per_s"], rel=0.06)


def test_energy_and_power_are_between_idle_and_the_limit():
    data = serve(arrivals="closed:64").to_dict()
    tdp = load_chip("h100").power.tdp_w
    assert tdp is not None and 0.4 * tdp < data["avg_power_w"] <= tdp
    assert data["tokens_per_j"] == pytest.approx(data["tokens_per_s"] / data["avg_power_w"], rel=1e-9)


def test_series_and_totals_agree():
    result = serve(arrivals="poisson:20")
    data, over = result.to_dict(), result.over_time()
    width = np.diff(np.append(over["time_s"], result.run.totals["now"]))
    assert np.sum(over["tokens_per_s"] * width) == pytest.approx(result.digest.output_tokens)
    assert np.sum(over["busy"] * width) / data["duration_s"] == pytest.approx(data["utilisation"])
    assert over["kv_occupancy"].max() <= 1


def test_overload_is_named_with_the_rate_that_can_be_sustained():
    result = serve(arrivals="poisson:400", requests=3000)
    assert len(result.verdicts) == 1 and "overload" in result.verdicts[0]
    rate = sustainable_rate(result.case, result.source)
    assert f"{rate:.4g} requests/s can be served" in result.verdicts[0]
    assert not serve(arrivals=f"poisson:{0.8 * rate}", requests=3000).verdicts


def test_an_slo_nobody_can_meet_says_why():
    result = serve(slo="ttft=1us")
    assert "cannot be met at any rate" in result.verdicts[0] and "TTFT" in result.verdicts[0]
    result = serve(slo="ttft=10s,tpot=1us")
    assert "TPOT" in result.verdicts[0]


def test_highest_rate_holds_and_a_higher_one_does_not():
    limits = "ttft=200ms,tpot=15ms"
    found = serve(slo=limits, find_rate=True, requests=2000).highest_rate_per_s
    assert found is not None
    assert not serve(slo=limits, arrivals=f"poisson:{found}", requests=4000).verdicts
    assert serve(slo=limits, arrivals=f"poisson:{1.1 * found}", requests=4000).verdicts


def test_the_fewest_chips_are_found():
    load = {"arrivals": "poisson:150", "slo": "ttft=300ms,tpot=20ms", "requests": 3000, "chips": "auto"}
    result = serve(**load)
    chips = result.case.place.chips
    assert chips > 1 and not result.verdicts
    assert serve(**{**load, "chips": chips - 1}).verdicts


def test_chips_are_split_as_well_as_they_can_be():
    auto = serve(chips=4, arrivals="closed:8", requests=200).to_dict()
    best = max(serve(chips=4, tp=tp, arrivals="closed:8", requests=200).to_dict()["tokens_per_s"] for tp in (1, 2, 4))
    assert auto["tokens_per_s"] == pytest.approx(best)


def test_the_choice_is_the_best_of_what_fits_and_says_why():
    """8 H100, 70B in fp8 (70 GB of weights): one chip alone does not hold it beside the cache of a long request."""
    given = {"arrivals": "poisson:5", "slo": "ttft=2s,tpot=20ms", "requests": 200, "input": 2000, **FAST}
    result = ns.serve("h100", "llama-3.3-70b", chips=8, **given)
    data = result.to_dict()
    tried, place = data["choice"]["tried"], data["placement"]
    splits = [(one["tp"], one["pp"], one["replicas"]) for one in tried + data["choice"]["does_not_fit"]]
    assert len(splits) == len(set(splits)) == 10 and all(tp * pp * n == 8 for tp, pp, n in splits)
    best = max(one["requests_per_s"] for one in tried)
    near = [one for one in tried if one["requests_per_s"] >= 0.99 * best]
    assert splits[0] == (place["tp"], place["pp"], place["replicas"])
    assert tried[0] in near and tried[0]["tpot_s"] <= 1.01 * min(one["tpot_s"] for one in near)
    assert "holds the SLO" in data["choice"]["reason"] and min(one["requests_per_s"] for one in tried) < 0.99 * best
    slow = ns.serve("h100", "llama-3.3-70b", chips=8, **{**given, "slo": None}).to_dict()["choice"]
    assert "lowest TPOT" in slow["reason"] and slow["tried"][0]["tp"] == 8


def test_an_imbalance_of_experts_slows_the_steps():
    def tpot(**more: object) -> float:
        rules = Rules(max_tokens=128, max_sequences=8)
        return ns.serve("h100", "gpt-oss-20b", chips=1, requests=20, input=128, output=64, arrivals="closed:8",
                        rules=rules, **more).to_dict()["tpot_s"]["mean"]  # fmt: skip

    even = tpot()
    assert tpot(imbalance_pct=100) == even < tpot(imbalance_pct=800)
    with pytest.raises(InputError, match="imbalance"):
        tpot(imbalance_pct=801)
    with pytest.raises(InputError, match="no experts"):
        serve(imbalance_pct=120)
    with pytest.raises(InputError, match="no effect"):
        tpot(imbalance_pct=200, fidelity="roofline")


def test_more_ways_to_serve():
    base = serve(arrivals="poisson:15").to_dict()
    split = serve(arrivals="poisson:15", chips="auto", disaggregate=(1, 1)).to_dict()
    assert split["itl_s"]["p99"] < base["itl_s"]["p99"]  # no prompt delays a decode
    shared = serve(arrivals="poisson:15", prefix=(2, 512)).to_dict()
    assert shared["cached_tokens"] > 0.9 * 400 * 512
    assert shared["ttft_s"]["mean"] < base["ttft_s"]["mean"]
    quick = serve(arrivals="poisson:15", rules=Rules(draft_tokens=3, accepted_tokens=2.5)).to_dict()
    assert 2 < base["tpot_s"]["mean"] / quick["tpot_s"]["mean"] < 3  # smaller batches, too
    stages = serve(arrivals="poisson:15", chips=2, tp=1, pp=2).to_dict()
    assert stages["placement"]["pp"] == 2 and stages["kv_tokens_per_engine"] > base["kv_tokens_per_engine"]


def test_cache_blocks_are_what_the_weights_leave(toy: Chip, tiny: Model):
    """Toy chip: 10 GB, all usable. Tiny model in bf16: 2 layers × 1 KV head × (4 + 4) × 2 B = 32 B a token."""
    from npusim import parallel
    from npusim.llm import precision

    rules, fmt = Rules(max_tokens=64, max_sequences=8), precision("bf16")
    fixed = parallel.footprint(tiny, fmt, sequences=0, tokens=1, chunk_tokens=64).total_bytes
    assert cache_blocks(tiny, toy, fmt, Placement(), rules) == int((10e9 - fixed) // (16 * 32))


def test_a_draft_model_takes_time_and_memory():
    plain = Rules(draft_tokens=3, accepted_tokens=2.5)
    drafted = replace(plain, draft_model="llama-3.1-8b")
    load = {"input": 256, "output": 64, "requests": 50, "chips": 4, "tp": 4, "fidelity": "roofline"}
    free, paid = (ns.serve("h100", "llama-3.3-70b", rules=rules, **load).to_dict() for rules in (plain, drafted))
    assert 1.1 < paid["tpot_s"]["mean"] / free["tpot_s"]["mean"] < 1.6  # three passes of an eighth of the weights
    assert paid["kv_tokens_per_engine"] < free["kv_tokens_per_engine"]
    wrong = (("llama-2-70b", "llama-3.1-8b", "cannot draft"), ("llama-3.3-70b", "bert-large", "encoder"),
             ("llama-3.3-70b", "no-such-model", "no-such-model"))  # fmt: skip
    for model, draft, says in wrong:
        with pytest.raises(InputError, match=says):
            ns.serve("h100", model, rules=replace(plain, draft_model=draft), **load)
    with pytest.raises(InputError, match="drafts no tokens"):
        Rules(draft_model="llama-3.1-8b")


def test_real_traces_run_end_to_end(shared: Path):
    folder = shared / "data" / "measured" / "serving_traces"
    code = ns.serve("h100", "llama-3.1-8b", trace=folder / "azure_2023_code.csv.gz", chips=1, **FAST)
    assert code.run.totals["finished"] == 8819 and not code.verdicts
    mooncake = folder / "mooncake_synthetic_trace.csv.gz"
    with pytest.raises(InputError, match="beyond the 131072 positions"):
        ns.serve("h200", "llama-3.1-8b", trace=mooncake, chips=8, **FAST)
    kept = ns.serve("h200", "llama-3.1-8b", trace=mooncake, chips=8, tp=1, skip_long=True, **FAST)
    assert kept.skipped and kept.run.totals["finished"] + kept.skipped == 3993
    assert kept.run.totals["cached_tokens"] > 0  # its prompts share prefixes
    assert mean_rate(load_trace(mooncake)) > 1


BAD = [
    ({"requests": 0}, "requests"),
    ({"chips": 0}, "chips"),
    ({"chips": 3, "tp": 2}, "multiple"),
    ({"chips": "many"}, "auto"),
    ({"tp": 0}, "tp"),
    ({"input": 200_000}, "beyond the 131072 positions"),
    ({"input": "lognormal:90000,cv=2"}, "positions"),
    ({"seed": -1}, "seed"),
    ({"disaggregate": (0, 2)}, "replicas prefill"),
    ({"fidelity": "cycle"}, "roofline, tile"),
    ({"precision": "bf17"}, "precision"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_questions_are_refused(given: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        serve(**given)


@pytest.mark.parametrize("change", [{"max_tokens": 0}, {"max_sequences": 0}, {"policy": "lifo"}, {"block_tokens": 0},
                                    {"accepted_tokens": 2.0}, {"unit_tokens": 3}, {"max_tokens": 5}])  # fmt: skip
def test_bad_rules_are_refused(change: dict[str, object]):
    with pytest.raises(InputError):
        replace(Rules(), **change)


def test_what_does_not_fit_is_said():
    with pytest.raises(DoesNotFit, match="does not fit 1 x h100"):
        ns.serve("h100", "llama-3.3-70b", chips=1, fidelity="roofline")
    with pytest.raises(DoesNotFit, match="longest request"):
        ns.serve("rtx-4090", "llama-3.1-8b", chips=1, input=100_000, fidelity="roofline")
    assert ns.serve("h100", "llama-3.3-70b", requests=50, fidelity="roofline").case.place.tp == 2


def test_records_are_kept_on_request_only():
    with pytest.raises(InputError, match="not kept"):
        _ = serve().records
