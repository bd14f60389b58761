"""The step table against direct pricing: exact where it has nodes, close elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from npusim.chip import load_chip
from npusim.cost import estimate
from npusim.errors import InputError
from npusim.llm import decode, precision
from npusim.models import load_model
from npusim.serving.steps import (
    FINE,
    TOLERANCE,
    Constants,
    Shape,
    StepTimes,
    direct,
    node_values,
    refined,
    step_times,
)
from npusim.workload import softmax

CASES = [("rtx-4090", "llama-3.1-8b", "bf16", 1, "tile"), ("npu-2pf", "llama-3.1-8b", "fp8", 1, "tile"),
         ("h100", "llama-3.3-70b", "fp8", 4, "roofline"), ("h200", "deepseek-v2-lite", "bf16", 1, "roofline"),
         ("h100", "gpt-oss-20b", "bf16", 1, "roofline")]  # fmt: skip


def shape(chip: str, model: str, fmt: str, tp: int, fidelity: str, **more: int) -> Shape:
    size = {"max_tokens": 512, "max_sequences": 64, "max_context": 4096} | more
    return Shape(load_model(model), load_chip(chip), precision(fmt), tp, 1, fidelity, **size)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def times(request: pytest.FixtureRequest) -> StepTimes:
    return step_times(shape(*request.param))


def test_nodes_are_exact(times: StepTimes):
    """Numbers of tokens and rows that are nodes, ends of intervals of past tokens; attention of prompts anywhere."""
    table, random = times.table(), np.random.default_rng(7)
    ends = np.append(node_values(3900)[:-1], node_values(3900)[1:] - 1)
    common, head, absorbed, expanded = (
        set(part.nodes.tolist()) for part in (times.common, times.head, times.absorbed, times.expanded)
    )
    checked = 0
    for _ in range(4000):
        decodes = [int(random.choice(ends))] * int(random.integers(0, 65))
        new = int(random.integers(1, 513 - len(decodes)))
        total = int(random.choice(list(expanded - {new})))
        rows, fits = len(decodes) + 1, total < 4096 and total > new
        if not fits or rows not in head or len(decodes) not in {0, *absorbed} or new + len(decodes) not in common:
            continue
        step = [(new, total - new)], decodes
        assert table.price(*step)[0] == pytest.approx(direct(times.shape, *step), rel=1e-9), step
        checked += 1
        if checked == 12:
            return
    pytest.fail(f"only {checked} steps of nodes found")


def test_a_uniform_batch_costs_what_estimate_says(times: StepTimes):
    """The whole step by ``estimate``, and the sampling it leaves out."""
    s, table = times.shape, times.table()
    kinds = {**s.formats(), "tp": s.tp, "page": s.block_tokens}
    for rows, past in ((1, 0), (8, 1000), (64, 3999)):
        step = estimate(decode(s.model, batch=rows, context=past, **kinds), s.chip, s.fidelity)
        sample = softmax(rows, -(-s.model.vocab // s.tp), s.fmt.stream, s.fmt.stream).inner()
        whole = float(step.time_s) + float(estimate(sample, s.chip, s.fidelity).time_s)
        assert table.price((), [past] * rows)[0] == pytest.approx(whole, rel=TOLERANCE)


def test_a_mixed_batch_is_the_sum_of_its_shares(times: StepTimes):
    """Decodes of different contexts cost the mean of the uniform batches; no sequence is free."""
    table = times.table()
    mixed = table.price((), [512, 1024, 2048, 2048])[0]
    uniform = [table.price((), [c] * 4)[0] for c in (512, 1024, 2048, 2048)]
    assert mixed == pytest.approx(np.mean(uniform), rel=1e-12)
    assert table.price((), [512] * 3)[0] < table.price((), [512] * 3 + [513])[0] * (1 + 1e-9)


def test_energy_is_that_of_the_operators(times: StepTimes):
    from npusim.cost import energy

    s = times.shape
    work = decode(s.model, batch=16, context=1024, tp=s.tp, page=s.block_tokens, **s.formats())
    cost = estimate(work, s.chip, s.fidelity)
    sample = estimate(softmax(16, -(-s.model.vocab // s.tp), s.fmt.stream, s.fmt.stream).inner(), s.chip, s.fidelity)
    assert energy.energies(s.chip) is not None
    expected = sum(c.energy_j for c in (*cost.ops, *sample.ops))
    # What is fetched ahead during attention counts as for a short one: not more than one per cent here.
    assert times.table().price((), [1024] * 16)[1] == pytest.approx(expected, rel=0.01)


def test_constants_scale_what_they_name():
    times = step_times(shape(*CASES[0]))
    plain = times.table()
    slow_memory = times.table(Constants(memory=0.5))
    # A small decode step waits for main memory; a long prompt for the engine.
    assert slow_memory.price((), [64])[0] == pytest.approx(2 * plain.price((), [64])[0], rel=0.03)
    assert times.table(Constants(compute=0.5)).price([(512, 0)])[0] > 1.7 * plain.price([(512, 0)])[0]
    assert times.table(Constants(host_s=0.5)).price((), [64])[0] > 0.5
    gain = times.table(Constants(attention=0.5)).price((), [4000] * 64)[0] - plain.price((), [4000] * 64)[0]
    alone = plain.price((), [4000] * 64)[0] - plain.price((), [0] * 64)[0]
    assert gain == pytest.approx(alone, rel=0.1)


def test_a_pipeline_adds_its_hops_and_speculation_its_tokens():
    one, two = (StepTimes(Shape(load_model("llama-3.1-8b"), load_chip("h100"), precision("fp8"), 1, pp, "roofline",
                                64, 8, 512)).table() for pp in (1, 2))  # fmt: skip
    link = load_chip("h100").link
    assert link is not None
    hop = 8 * 4096 * 2 / link.bandwidth_bytes_per_s + (link.latency_s or 0.0)
    assert two.price((), [100] * 8)[0] - one.price((), [100] * 8)[0] == pytest.approx(hop, rel=1e-6)
    drafts = StepTimes(Shape(load_model("llama-3.1-8b"), load_chip("h100"), precision("fp8"), 1, 1, "roofline", 64, 8,
                             512, draft_tokens=3)).table()  # fmt: skip
    ratio = drafts.price((), [100] * 8)[0] / one.price((), [100] * 8)[0]
    assert 1 < ratio < 1.5  # four tokens each, but the weights pass once


def test_a_draft_model_adds_its_own_steps():
    """One pass over prompts and decodes, and one over the decodes for each further token; no host gap of its own."""
    size = {"max_tokens": 600, "max_sequences": 16, "max_context": 4096}
    small = Shape(load_model("llama-3.1-8b"), load_chip("h100"), precision("fp8"), 4, **size)
    large = replace(small, model=load_model("llama-3.3-70b"), draft_tokens=3)
    free, both, alone = (StepTimes(s).table() for s in (large, replace(large, draft=small.model), small))
    host_s = alone.host_s
    for prefills, contexts in (([], [1000] * 16), ([(512, 100)], [9] * 8), ([(7, 0), (300, 64)], [])):
        passes = [alone.price(prefills, contexts)]
        if contexts:
            passes += [alone.price([], [past + k for past in contexts]) for k in (1, 2)]
        for index, gap in ((0, host_s * len(passes)), (1, 0.0)):
            added = sum(one[index] for one in passes) - gap
            found = both.price(prefills, contexts)[index] - free.price(prefills, contexts)[index]
            assert found == pytest.approx(added, rel=1e-3)  # its longer context moves the nodes a little
        said = direct(replace(large, draft=small.model), prefills, contexts)
        assert both.price(prefills, contexts)[0] == pytest.approx(said, rel=0.01)


def test_axes():
    assert node_values(40)[-1] >= 40 and np.all(np.diff(node_values(10**6)) > 0)
    nodes = node_values(5000)
    assert nodes[: 2 * FINE].tolist() == list(range(2 * FINE))
    assert np.max(np.diff(nodes) / np.maximum(nodes[:-1], FINE)) <= 1 / FINE


def test_refinement_finds_every_jump():
    """Within the tolerance at all integers, of a function that goes up by ramps and jumps."""
    random = np.random.default_rng(3)
    growth = np.where(random.random(6000) < 0.01, random.random(6000), 1e-4)
    growth[500:900] = 0
    curve = 5 + np.cumsum(growth)
    looked = []

    def price(nodes: np.ndarray) -> np.ndarray:
        looked.extend(nodes.tolist())
        return np.vstack([curve[nodes - 1], -curve[nodes - 1]])

    nodes, values = refined(price, 6000)
    assert nodes[0] == 1 and nodes[-1] == 6000 and len(set(looked)) == len(looked) == len(nodes) < 1500
    assert np.array_equal(values, [curve[nodes - 1], -curve[nodes - 1]])
    at = np.arange(1, 6001)
    assert np.max(np.abs(np.interp(at, nodes, values[0]) / curve - 1)) <= TOLERANCE
    assert refined(price, 1)[0].tolist() == [1] and refined(price, 2)[0].tolist() == [1, 2]


@pytest.mark.parametrize(("prefills", "decodes"), [([(513, 0)], []), ([], [0] * 65), ([], [5000]), ([(1, -1)], []),
                                                   ([(0, 5)], [])])  # fmt: skip
def test_batches_beyond_the_table_are_refused(prefills: list[tuple[int, int]], decodes: list[int]):
    with pytest.raises(InputError, match="beyond the step table"):
        step_times(shape(*CASES[4])).table().price(prefills, decodes)


def test_what_is_not_priced():
    with pytest.raises(InputError, match="encoder"):
        StepTimes(shape("h100", "bert-large", "bf16", 1, "roofline"))
    with pytest.raises(InputError, match="roofline, tile"):
        StepTimes(shape("h100", "llama-3.1-8b", "bf16", 1, "cycle"))
