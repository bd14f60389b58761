"""MLPerf scenarios: the reported figure follows from the run, limits are held and tight, every model is known."""

from __future__ import annotations

import numpy as np
import pytest

from npusim.errors import InputError
from npusim.models import load_model
from npusim.serving.answer import at_rate
from npusim.serving.load import parse_lengths
from npusim.serving.scenarios import SCENARIOS, load_scenarios, scenario, within

QUICK = {"fidelity": "roofline", "samples": 1500, "chips": 1}


def test_every_benchmark_names_models_and_lengths_that_exist():
    for spec in load_scenarios().benchmarks.values():
        for model in spec.models:
            positions = load_model(model).max_positions
            longest = parse_lengths(spec.input, "").longest + parse_lengths(spec.output, "").longest
            assert positions is None or longest <= positions


def test_mean_lengths_are_the_data_sets():
    spec = load_scenarios().benchmarks["llama2-70b"]
    drawn = parse_lengths(spec.output, "").draw(np.random.default_rng(0), 100_000)
    assert drawn.max() <= 1024
    assert drawn.mean() == pytest.approx(293, rel=0.02)  # tokens/s over samples/s of the v4.1 logs


def test_offline_is_output_tokens_over_time():
    result = scenario("h100", "llama-3.1-8b", "offline", **QUICK)
    run = result.serving
    assert result.valid and result.unit == "tokens/s"
    assert result.value == pytest.approx(run.digest.output_tokens / run.run.totals["now"])
    assert run.digest.count == 1500


@pytest.mark.parametrize("name", ["server", "interactive"])
def test_limits_are_held_and_tight(name: str):
    result = scenario("h100", "llama-3.1-8b", name, **QUICK)
    assert result.valid and result.limits is not None
    assert within(result.serving.digest, result.limits)
    faster = at_rate(result.serving.source, 1.1 * result.rate_per_s)
    _, digest = result.serving.case.run(faster)
    offline = scenario("h100", "llama-3.1-8b", "offline", **QUICK)
    assert result.value <= offline.value
    assert not within(digest, result.limits) or result.value > 0.8 * offline.value


def test_interactive_asks_for_more_than_server():
    few = {"fidelity": "roofline", "samples": 1000, "chips": 8}
    server, interactive = (scenario("h100", "llama-3.1-405b", name, **few) for name in ("server", "interactive"))
    assert 0 < interactive.value <= server.value


def test_single_stream_is_the_90th_percentile_of_lone_requests():
    result = scenario("h100", "llama-3.1-8b", "singlestream", fidelity="roofline", samples=100, chips=1, keep=True)
    rows = result.serving.records
    assert result.value == pytest.approx(np.sort(rows["last"] - rows["arrival"])[89])
    assert np.all(rows["arrival"][1:] >= rows["last"][:-1] - 1e-12)  # one after the other


def test_limits_nobody_can_meet_are_not_valid():
    slow = scenario("jetson-orin", "llama-3.1-8b", "interactive", precision="bf16", samples=50, chips=1,
                    fidelity="roofline")  # fmt: skip
    assert not slow.valid and slow.value == 0
    assert "not valid at any rate" in slow.verdicts[0]
    assert slow.to_dict()["verdicts"]


def test_the_same_seed_gives_the_same_answer():
    one, two = (scenario("h100", "llama-3.1-8b", "server", **QUICK).to_dict() for _ in range(2))
    assert one == two


@pytest.mark.parametrize(("model", "name", "more"), [("llama-3.1-8b", "offlin", {}), ("phi-4", "offline", {}),
                                                    ("mixtral-8x7b", "interactive", {}),
                                                    ("llama-3.1-8b", "server", {"benchmark": "gptj"})])  # fmt: skip
def test_unknown_names_are_refused(model: str, name: str, more: dict[str, str]):
    with pytest.raises(InputError):
        scenario("h100", model, name, chips=1, **more)
    assert "offline" in SCENARIOS
