"""The compiled serving engine against a readable one (``serving_oracle.py``), step by step on random workloads."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from npusim.serving.engine import BATCHING, POLICIES, PREEMPTION, ROUTING, Pool, Rules, Window, simulate
from npusim.serving.load import Trace, chunk_of
from tests.conftest import SOAK
from tests.differential.serving_oracle import Formula, Request, System
from tests.serving_tables import linear_table

CASES = 500 if SOAK else 60


def draw(seed: int) -> tuple[Rules, Formula, dict[str, Any], list[Request]]:
    """A random workload that visits every feature: short of blocks, shared prefixes, several engines, transfers."""
    random = np.random.default_rng(seed)
    block = int(random.choice([1, 4, 16]))
    unit = block * int(random.choice([0, 1, 2, 4]))
    draft = int(random.choice([0, 0, 3]))
    rules = Rules(
        max_tokens=int(random.choice([16, 64, 300])), max_sequences=int(random.choice([1, 4, 12, 12])),
        block_tokens=block, batching=str(random.choice(BATCHING)), policy=str(random.choice(POLICIES)),
        preemption=str(random.choice(PREEMPTION)), routing=str(random.choice(ROUTING)),
        chunked=bool(random.random() < 0.8), reserve_prompt=bool(random.random() < 0.2), unit_tokens=unit,
        draft_tokens=draft, accepted_tokens=1 + float(random.random()) * draft,
    )  # fmt: skip
    engines = int(random.choice([1, 1, 1, 2, 4]))
    prefill = int(random.integers(1, engines)) if engines > 1 and random.random() < 0.5 else 0
    stages = int(random.choice([1, 1, 2, 3]))
    engines, prefill = engines * stages, prefill * stages
    longest = 1.0 if stages == 1 else float(random.choice([1.0, 1.1, 1.5])) / stages
    window = int(random.choice([0, 1, 9, 40]))
    share = Fraction(int(random.integers(0, 7)), 6)
    n = int(random.integers(1, 60))
    times = np.cumsum(random.exponential(float(random.choice([0.0003, 0.003, 0.03, 0.3])), n))
    inputs = random.integers(1, int(random.choice([30, 120])), n)
    outputs = random.integers(1, int(random.choice([40, 120])), n)
    groups = random.integers(0, 3, n)
    requests = []
    for i in range(n):
        shared = min(int(inputs[i]), int(random.integers(1, 120))) // unit if unit else 0
        own = (int(inputs[i]) // unit if unit else 0) - shared
        ids = [1000 * int(groups[i]) + k for k in range(shared)] + [10**6 + 1000 * i + k for k in range(own)]
        requests.append(Request(i, float(times[i]), int(inputs[i]), int(outputs[i]), int(random.integers(0, 4)),
                                float(random.integers(0, 3)), tuple(ids)))  # fmt: skip
    least = -(-(int((inputs + outputs).max()) + draft) // block) + 1
    blocks = int(least * random.choice([1, 1, 1.5, 3, 20]))
    loop = int(random.integers(1, 20)) if random.random() < 0.3 else 0
    drafts = Formula(5e-4, 2e-6, 3e-7, 1e-8, 1e-7, 1e-9) if draft and random.random() < 0.7 else None
    pool = {"blocks": blocks, "engines": engines, "prefill_engines": prefill, "concurrency": loop, "stages": stages,
            "stage_share": longest,
            "window": window, "window_share": share, "draft": drafts}  # fmt: skip
    return rules, Formula(), pool, requests


@pytest.mark.parametrize("seed", range(CASES))
def test_same_steps_as_the_readable_engine(seed: int):
    rules, formula, pool, requests = draw(seed)
    token_s, transfer_s = 1e-5, 2e-4
    table = linear_table(formula, rules, draft=pool["draft"])
    ends = np.cumsum([len(r.ids) for r in requests])
    trace = Trace(
        chunk_of(
            np.array([r.arrival for r in requests]), np.array([r.input for r in requests]),
            np.array([r.output for r in requests]), user=np.array([r.user for r in requests]),
            priority=np.array([r.priority for r in requests]), hash_ends=ends,
            hashes=np.array([key for r in requests for key in r.ids], dtype=np.int64),
        ), unit_tokens=rules.unit_tokens, concurrency=int(pool["concurrency"]), users=4,
    )  # fmt: skip
    parts: list[np.ndarray] = []
    engines = Pool(table, int(pool["blocks"]), int(pool["engines"]), int(pool["prefill_engines"]), table,
                   int(pool["blocks"]), 1.0, 1 / token_s, transfer_s, int(pool["stages"]), float(pool["stage_share"]),
                   Window(int(pool["window"]), pool["window_share"].numerator, pool["window_share"].denominator),
                   )  # fmt: skip
    run = simulate(trace, engines, rules, parts.append, log=True)
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows["id"])]

    oracle = System(requests, rules, formula, transfer_token_s=token_s, transfer_s=transfer_s, **pool)
    expected = oracle.run()

    shares: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for share in run.shares:
        key = (int(share["engine"]), int(share["step"]))
        shares.setdefault(key, []).append((int(share["request"]), int(share["new_tokens"]), int(share["past"])))
    theirs = {(engine, step): (start, seconds, batch) for engine, step, start, seconds, batch in oracle.steps}
    for step in run.steps:
        key = (int(step["engine"]), int(step["step"]))
        start, seconds, batch = theirs[key]
        assert sorted(shares[key]) == batch, key
        assert step["start"] == pytest.approx(start, rel=1e-9, abs=1e-12)
        assert step["end"] - step["start"] == pytest.approx(seconds, rel=1e-6)
    assert len(run.steps) == len(theirs)
    assert [r.id for r in expected] == rows["id"].tolist()
    for name in ("preemptions", "cached", "engine"):
        assert [getattr(r, name) for r in expected] == rows[name].tolist(), name
    for name in ("arrival", "seen", "admitted", "first", "last"):
        assert rows[name] == pytest.approx([getattr(r, name) for r in expected], rel=1e-9, abs=1e-12), name


def visited(seed: int) -> set[str]:
    """What happens in a workload, as the readable engine tells it."""
    rules, formula, pool, requests = draw(seed)
    lengths = {r.id: r.input for r in requests}
    system = System(requests, rules, formula, transfer_token_s=1e-5, transfer_s=2e-4, **pool)
    done = system.run()
    found = {rules.batching, rules.policy, f"stages {pool['stages']}"}
    if any(r.preemptions for r in done):
        found |= {rules.preemption, f"gives way {rules.policy}"}
        found |= {"gives way with prefixes"} if rules.unit_tokens else set()
        found |= {"gives way after a draft"} if rules.draft_tokens else set()
        found |= {"gives way in a pool that hands over"} if pool["prefill_engines"] else set()
    parts = [new < lengths[i] for *_, batch in system.steps for i, new, past in batch if past == 0]
    mixed = [{past < lengths[i] for i, _, past in batch} for *_, batch in system.steps]
    return found | {name for name, is_so in {
        "prefix found": any(r.cached for r in done),
        "hands over": pool["prefill_engines"] and len(done) > 1,
        "closed loop": bool(pool["concurrency"]),
        "speculates": rules.draft_tokens and any(r.output > 2 for r in done),
        "prompts split": rules.chunked and any(parts),
        "prompts whole": not rules.chunked,
        "prompts beside decodes": any(len(kinds) == 2 for kinds in mixed),
        "waits": any(r.admitted > r.seen for r in done),
        "window": pool["window"] and pool["window_share"] and not rules.unit_tokens,
    }.items() if is_so}  # fmt: skip


def test_random_workloads_visit_every_feature():
    """Otherwise the comparison would prove less than it says: how many of the workloads do each of these."""
    counts = Counter(name for seed in range(CASES) for name in visited(seed))
    names = [*BATCHING, *POLICIES, *PREEMPTION, *(f"gives way {policy}" for policy in POLICIES),
             "gives way with prefixes", "gives way after a draft", "gives way in a pool that hands over",
             "prefix found", "hands over", "closed loop", "speculates", "prompts split", "prompts whole",
             "prompts beside decodes", "waits", "window", "stages 1", "stages 2", "stages 3"]  # fmt: skip
    rare = {name: counts[name] for name in names if counts[name] < max(CASES // 60, 1)}
    assert not rare, counts
