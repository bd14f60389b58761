"""The step table against direct pricing: exact where it has nodes, close elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from npusim.chip import load_chip
from npusim.errors import InputError
from npusim.llm import precision
from npusim.models import load_model
from npusim.serving.steps import (
    COARSE,
    FINE,
    Constants,
    Shape,
    StepTimes,
    direct,
    edge_values,
    node_bound,
    node_values,
    step_times,
)

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
    table = times.table()
    for prefills, decodes in (([(256, 0)], []), ([(128, 512)], []), ([(32, 64)] * 2, []), ([(32, 64)] * 3, []),
                              ([], [0]), ([], [1024]),
                              ([], [2048] * 16), ([], [640] * 64), ([(48, 256)], [1024] * 16)):  # fmt: skip
        price, _ = table.price(prefills, decodes)
        assert price == pytest.approx(direct(times.shape, prefills, decodes), rel=1e-9), (prefills, decodes)


def test_between_nodes_within_a_percent(times: StepTimes):
    """The mean within 0.2 %, 95 % of batches within 1 %, none beyond 3 %."""
    random, table, errors = np.random.default_rng(5), times.table(), []
    for _ in range(40):
        decodes = [int(random.integers(0, 4000))] * int(random.integers(0, 64))
        prompts = 1 if not decodes else int(random.integers(0, 3))
        prefills = [(int(random.integers(1, 200)), int(random.integers(0, 3000)))] * prompts
        errors.append(abs(table.price(prefills, decodes)[0] / direct(times.shape, prefills, decodes) - 1))
    assert np.mean(errors) <= 0.002
    assert np.quantile(errors, 0.95) <= 0.01
    assert max(errors) <= 0.03


def test_a_mixed_batch_is_the_sum_of_its_shares(times: StepTimes):
    """Decodes of different contexts cost the mean of the uniform batches; no sequence is free."""
    table = times.table()
    mixed = table.price((), [512, 1024, 2048, 2048])[0]
    uniform = [table.price((), [c] * 4)[0] for c in (512, 1024, 2048, 2048)]
    assert mixed == pytest.approx(np.mean(uniform), rel=1e-12)
    assert table.price((), [512] * 3)[0] < table.price((), [512] * 3 + [513])[0] * (1 + 1e-9)


def test_energy_is_that_of_the_operators(times: StepTimes):
    from npusim.cost import energy, estimate
    from npusim.llm import decode
    from npusim.workload import softmax

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


def test_axes():
    assert node_values(40)[-1] >= 40 and np.all(np.diff(node_values(10**6)) > 0)
    for per_octave in (COARSE, FINE):
        nodes = node_values(5000, per_octave)
        assert nodes[: 2 * per_octave].tolist() == list(range(2 * per_octave))
        assert np.max(np.diff(nodes) / np.maximum(nodes[:-1], per_octave)) <= 1 / per_octave
    assert [node_bound(len(node_values(high))) >= high for high in (1, 15, 16, 17, 100, 4096, 10**6)] == [True] * 7
    assert node_bound(len(node_values(4096))) == node_values(4096)[-1] - 1
    assert edge_values(500).tolist() == list(range(1, 501))
    assert {537, 1024, 1088, 1089, 3000} <= set(edge_values(3000).tolist())


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
