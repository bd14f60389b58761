"""Laws that hold on every serving run, whatever the workload."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import npusim as ns
from npusim.errors import InputError
from npusim.serving.engine import BATCHING, POLICIES, PREEMPTION, Pool, Rules, Run, Window, simulate
from npusim.serving.load import Synthetic, Trace, chunk_of, parse_arrivals, parse_lengths
from npusim.serving.metrics import Digest, Slo
from npusim.serving.steps import StepTable
from tests.conftest import SOAK
from tests.differential.serving_oracle import Formula
from tests.serving_tables import linear_table

FORMULA = Formula()


def source(arrivals: str = "poisson:20", count: int = 800, seed: int = 1, **more: object) -> Synthetic:
    return Synthetic(parse_arrivals(arrivals), parse_lengths("uniform:1-300", ""), parse_lengths("uniform:1-60", ""),
                     count, seed, **more)  # fmt: skip


def served(requests: Synthetic | Trace, rules: Rules, blocks: int = 60, **pool: Any) -> tuple[Run, np.ndarray]:
    parts: list[np.ndarray] = []
    table = linear_table(FORMULA, rules)
    engines = Pool(table, blocks, decode_table=table, decode_blocks=blocks, kv_token_bytes=1.0,
                   transfer_bytes_per_s=1e6, stage_share=1 / pool.get("stages", 1), **pool)  # fmt: skip
    run = simulate(requests, engines, rules, parts.append, log=True)
    rows = np.concatenate(parts)
    return run, rows[np.argsort(rows["id"])]


SMALL = Rules(max_tokens=256, max_sequences=16)
CASES = [
    (source(), SMALL, {}),
    (source("closed:30"), SMALL, {}),
    (source("gamma:15,cv=3"), replace(SMALL, preemption="swap"), {}),
    (source(users=5), replace(SMALL, policy="fair"), {"engines": 3}),
    (source(prefix_groups=3, prefix_tokens=128), replace(SMALL, unit_tokens=16), {}),
    (source(), replace(SMALL, batching="prefill-first", policy="shortest"), {"engines": 2}),
    (source(), replace(SMALL, draft_tokens=3, accepted_tokens=2.4), {}),
    (source("poisson:8"), SMALL, {"engines": 3, "prefill_engines": 1}),
    (source("closed:50"), replace(SMALL, policy="priority", reserve_prompt=True), {}),
    (source(), SMALL, {"engines": 4, "stages": 2}),
    (source("closed:40"), SMALL, {"window": Window(24, 3, 4)}),
    (source("closed:40"), replace(SMALL, preemption="swap", reserve_prompt=True), {"window": Window(100, 1, 1)}),
    (source("poisson:8"), SMALL, {"engines": 6, "prefill_engines": 2, "stages": 2, "window": Window(50, 1, 3)}),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_laws(case):
    requests, rules, pool = case
    run, rows = served(requests, rules, **pool)
    t = run.totals
    # Nobody is lost or served twice, and nothing is left.
    assert rows["id"].tolist() == list(range(requests.count))
    assert t["arrived"] == t["finished"] == requests.count and t["live"] == t["waiting"] == t["running"] == 0
    assert t["output_tokens"] == rows["output"].sum()
    assert run.gaps.sum() + requests.count == t["output_tokens"]
    # Little: requests in the system, over time, are their sojourns.
    assert t["in_system_s"] == pytest.approx(np.sum(rows["last"] - rows["arrival"]), rel=1e-9)
    # Moments follow one another.
    assert np.all(rows["arrival"] <= rows["seen"]) and np.all(rows["seen"] <= rows["admitted"])
    assert np.all(rows["admitted"] < rows["first"]) and np.all(rows["first"] <= rows["last"])
    # Blocks: those in use, counted two ways, those kept for others and the rest are all there are.
    assert t["blocks_used"] == t["blocks_counted"] == 0
    assert t["blocks_cached"] + t["blocks_unused"] == t["blocks_total"]
    assert np.all(run.steps["blocks"] <= t["blocks_total"] / pool.get("engines", 1))
    # Prompts are computed once, unless they were found or given up; who was given up also computes its last token so.
    again = t["recomputed_tokens"] + t["preemptions"]
    assert t["prompt_tokens"] + t["cached_tokens"] >= rows["input"].sum()
    assert t["prompt_tokens"] <= rows["input"].sum() + again
    # The series add up to the totals.
    assert run.series.sum(axis=0) == pytest.approx(
        [
            t["running_s"],
            t["waiting_s"],
            t["block_s"],
            t["busy_s"],
            t["output_tokens"],
            t["joules"],
            t["steps"],
            *(run.steps[name].sum() for name in ("decodes", "prefills", "tokens", "prompt_tokens")),
        ],
        rel=1e-9,
    )
    assert t["joules"] == run.steps["tokens"].sum()  # a joule a token
    assert run.steps["tokens"].max() <= rules.max_tokens
    assert (run.steps["prefills"] + run.steps["decodes"]).max() <= rules.max_sequences
    assert np.sum(run.steps["end"] - run.steps["start"]) == pytest.approx(t["busy_s"], rel=1e-9)


# -- pipelines ---------------------------------------------------------------------------------------------------


def pipeline(loop: str, lengths: tuple[str, str], stages: int) -> tuple[Run, np.ndarray]:
    """A closed loop on four batches, in one pipeline of four stages or each on an engine of its own."""
    requests = Synthetic(parse_arrivals(loop), *(parse_lengths(text, "") for text in lengths), 200, 3)
    return served(requests, SMALL, 400, engines=4, stages=stages)


def test_equal_batches_leave_no_bubbles():
    """Four alike: after the first round, each finds its next stage just left."""
    coupled, own = (pipeline("closed:4", ("64", "200"), stages)[0].totals["now"] for stages in (4, 1))
    assert own < coupled < 1.01 * own


def test_a_batch_alone_passes_without_waiting():
    coupled, own = (pipeline("closed:1", ("uniform:1-300", "uniform:1-60"), stages) for stages in (4, 1))
    assert coupled[0].totals["now"] == pytest.approx(own[0].totals["now"], rel=1e-9)


def test_unequal_batches_wait_for_the_slowest():
    """No stage works on two batches at a time, and every step takes at least its own time."""
    run, _ = pipeline("closed:24", ("uniform:1-300", "uniform:1-60"), 4)
    steps = run.steps[np.argsort(run.steps["end"], kind="stable")]
    table = linear_table(FORMULA, SMALL)
    own = []
    for step in steps:
        inside = run.shares[(run.shares["step"] == step["step"]) & (run.shares["engine"] == step["engine"])]
        own.append(price_of(table, inside))
    stage = np.array(own) / 4
    spans = steps["end"] - steps["start"]
    assert np.all(spans >= 4 * stage * (1 - 1e-6))
    # The last stage hands out one batch after the other.
    assert np.all(np.diff(steps["end"]) >= stage[1:] * (1 - 1e-6))
    bubbles = spans.sum() / (4 * stage.sum()) - 1
    assert 0.05 < bubbles < 1.5


def price_of(table: StepTable, inside: np.ndarray) -> float:
    """Seconds of a step by the table, logits left out: one new token on a past is taken as a decode."""
    decodes = inside[(inside["new_tokens"] == 1) & (inside["past"] > 0)]
    prompts = inside[(inside["new_tokens"] > 1) | (inside["past"] == 0)]
    pairs = list(zip(prompts["new_tokens"].tolist(), prompts["past"].tolist(), strict=True))
    return table.price(pairs, decodes["past"].tolist(), 0)[0]


# -- windows -----------------------------------------------------------------------------------------------------


def test_windows_make_room():
    """Three quarters of the cache lie in layers that see 24 tokens: more requests run at a time, and fewer give way."""
    plain, saved = (served(source("closed:40"), SMALL, window=window)[0].totals
                    for window in (Window(), Window(24, 3, 4)))  # fmt: skip
    assert saved["running_s"] / saved["now"] > 1.3 * plain["running_s"] / plain["now"]
    assert saved["preemptions"] < plain["preemptions"] and saved["now"] < plain["now"]


def test_an_engine_holds_what_its_windows_allow():
    """60 blocks of 16 hold 960 tokens; all but a quarter of each token beyond the window and a step is given back."""
    long = Trace(chunk_of(np.array([0.0]), np.array([2000]), np.array([30])))
    with pytest.raises(InputError, match="out of range"):
        served(long, SMALL)
    run, rows = served(long, SMALL, window=Window(64, 3, 4))
    assert rows["output"][0] == 30 and run.totals["preemptions"] == 0
    assert run.steps["blocks"].max() <= 60


def test_an_engine_never_idles_while_somebody_is_there():
    requests = source("poisson:3", 400)
    run, rows = served(requests, SMALL)
    order = np.argsort(rows["arrival"])
    busy, until = 0.0, 0.0
    for arrival, last in zip(rows["arrival"][order], rows["last"][order], strict=True):
        busy += max(last - max(arrival, until), 0.0)
        until = max(until, last)
    assert 0 < busy < run.totals["now"]
    assert run.totals["busy_s"] == pytest.approx(busy, rel=1e-9)


def test_latencies_add_up_and_goodput_is_part_of_throughput():
    requests, table = source("poisson:30"), linear_table(FORMULA, SMALL)
    _, rows = served(requests, SMALL, blocks=400)
    ttft, e2e = rows["first"] - rows["arrival"], rows["last"] - rows["arrival"]
    tpot = (rows["last"] - rows["first"]) / np.maximum(rows["output"] - 1, 1)
    digest = Digest(Slo(ttft_s=float(np.quantile(ttft, 0.7)), tpot_s=float(np.quantile(tpot, 0.8))))
    run = simulate(requests, Pool(table, 400), SMALL, digest)
    assert ttft + (rows["output"] - 1) * tpot == pytest.approx(e2e, rel=1e-9)
    data = digest.to_dict(run.totals["now"])
    assert 0 < data["goodput_requests_per_s"] < data["requests_per_s"]
    assert data["goodput_tokens_per_s"] <= data["tokens_per_s"]
    assert digest.slo is not None
    good = (ttft <= digest.slo.ttft_s) & ((tpot <= digest.slo.tpot_s) | (rows["output"] == 1))
    assert data["attainment"] == good.mean()
    assert data["ttft_s"]["p90"] == np.sort(ttft)[math.ceil(0.9 * len(ttft)) - 1]


@pytest.mark.parametrize("batching", BATCHING)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("preemption", PREEMPTION)
def test_same_seed_same_bytes(batching: str, policy: str, preemption: str):
    rules = replace(SMALL, batching=batching, policy=policy, preemption=preemption)
    (run, rows), (again, same) = (served(source(users=3), rules) for _ in range(2))
    assert rows.tobytes() == same.tobytes() and run.steps.tobytes() == again.steps.tobytes()
    assert run.totals == again.totals and run.series.tobytes() == again.series.tobytes()
    _, other = served(source(users=3, seed=2), rules)
    assert other.tobytes() != rows.tobytes()


def test_how_requests_are_handed_over_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    run, rows = served(source(count=900), SMALL)
    parts = [np.concatenate([getattr(c, name) for c in source(count=900).chunks()])
             for name in ("arrival_s", "input_tokens", "output_tokens")]  # fmt: skip
    monkeypatch.setattr("npusim.serving.load.CHUNK", 7)
    again, same = served(Trace(chunk_of(*parts)), SMALL)
    assert rows.tobytes() == same.tobytes()
    assert run.steps.tobytes() == again.steps.tobytes()


def test_memory_grows_with_requests_in_flight_only():
    run, _ = served(source("poisson:2", 3000), SMALL)
    assert run.totals["most_live"] < 40


@pytest.mark.parametrize(("arrival", "input", "output"), [
    ([-1.0], [5], [5]), ([1.0, 0.5], [5, 5], [5, 5]), ([math.nan], [5], [5]), ([math.inf], [5], [5]), ([0.0], [0], [5]),
    ([0.0], [5], [0]), ([0.0], [4000], [4000]), ([0.0], [2**62], [2**62]), ([0.0], [900], [200]),
])  # fmt: skip
def test_requests_out_of_range_are_refused(arrival: list[float], input: list[int], output: list[int]):
    columns = (np.array(arrival), np.array(input), np.array(output))
    with pytest.raises(InputError, match=r"out of range|more blocks"):
        served(Trace(chunk_of(*columns)), SMALL)


# -- queues whose waiting times are known --------------------------------------------------------------------------

CUSTOMERS = 400_000 if SOAK else 60_000
ALONE = Rules(max_tokens=16384, max_sequences=1, block_tokens=16)


def waiting_s(rate: float, lengths: str, formula: Formula, seed: int) -> tuple[float, float]:
    """Mean time in the queue and the half width of its 99.7 % interval, from batch means."""
    requests = Synthetic(parse_arrivals(f"poisson:{rate}"), parse_lengths(lengths, ""), parse_lengths(1, ""), CUSTOMERS,
                         seed)  # fmt: skip
    parts: list[np.ndarray] = []
    simulate(requests, Pool(linear_table(formula, ALONE, 16384), 2000), ALONE, parts.append)
    rows = np.concatenate(parts)
    waits = (rows["admitted"] - rows["arrival"])[np.argsort(rows["id"])][CUSTOMERS // 20 :]
    means = waits[: len(waits) // 40 * 40].reshape(40, -1).mean(axis=1)
    return float(waits.mean()), float(3 * means.std(ddof=1) / math.sqrt(40))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_deterministic_service_waits_as_m_d_1(load: float):
    """W = ρ S / (2 (1 − ρ)) (Pollaczek-Khinchine with service of no variance)."""
    service = Formula(step_s=0.01, token_s=0.0, row_s=0.0, prefill_s=0.0, past_s=0.0)
    mean, half = waiting_s(load / 0.01, "64", service, 3)
    assert abs(mean - load * 0.01 / (2 * (1 - load))) <= half
    assert half < 0.15 * mean


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_exponential_service_waits_as_m_m_1(load: float):
    """W = ρ S / (1 − ρ); lengths are geometric with mean 1000, which is exponential to 0.1 %."""
    service = Formula(step_s=0.0, token_s=1e-5, row_s=0.0, prefill_s=0.0, past_s=0.0)
    mean, half = waiting_s(load / 0.01, "exponential:1000", service, 4)
    assert abs(mean - load * 0.01 / (1 - load)) <= half
    assert half < 0.2 * mean


def test_no_moment_holds_more_than_there_are():
    for users in (3, 8):
        run = ns.serve("h100", "llama-3.1-8b", fidelity="roofline", arrivals=f"closed:{users}", requests=300, chips=1)
        series = run.over_time()
        assert (series["running"] + series["waiting"]).max() <= users * (1 + 1e-9)
        assert series["busy"].max() <= 1 + 1e-9 and series["kv_occupancy"].max() <= 1
