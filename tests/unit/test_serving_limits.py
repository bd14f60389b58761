"""What a run says limits it is what its load makes it."""

from __future__ import annotations

import pytest

import npusim as ns
from npusim.serving.engine import Rules
from npusim.serving.limits import Limits, host_gap_s, limits_of


def limits(**more: object) -> Limits:
    given = {"fidelity": "roofline", "precision": "fp8", "requests": 150, "chips": 1, **more}
    return limits_of(ns.serve("h100", "llama-3.1-8b", **given))  # type: ignore[arg-type]


def test_decodes_wait_for_memory_and_prompts_for_the_matrix_units():
    """Decoding one token reads all weights: 8 GB at 3.35 TB/s; a prompt of 2000 tokens is 250 times over the ridge."""
    decodes = limits(input=16, output=500, arrivals="closed:4")
    assert next(iter(decodes.resources)) == "dram" and decodes.resources["dram"] > 0.9
    assert decodes.prompt_steps < 0.1
    prompts = limits(input=2000, output=1, arrivals="closed:4")
    assert next(iter(prompts.resources)) == "matrix" and prompts.prompt_steps == pytest.approx(1)
    for found in (decodes, prompts):
        assert sum(found.resources.values()) == pytest.approx(1)


def test_what_was_full_is_what_was_small():
    few = limits(arrivals="closed:64", rules=Rules(max_sequences=8)).kept_out
    assert few["sequences"] > 0.8 and few["tokens"] < 0.2 and few["blocks"] == 0
    short = limits(arrivals="closed:200", output=8, rules=Rules(max_tokens=256)).kept_out
    assert short["tokens"] > 0.8 and short["blocks"] == 0
    given = {"fidelity": "roofline", "precision": "bf16", "requests": 150, "chips": 1, "arrivals": "closed:64"}
    crowded = limits_of(ns.serve("rtx-4090", "llama-3.1-8b", input=300, output=1500, **given)).kept_out
    assert crowded["blocks"] > 0.5 and crowded["sequences"] == 0
    alone = limits(arrivals="closed:1", requests=5)
    assert sum(alone.kept_out.values()) == 0


def test_the_gap_between_steps_counts_as_the_host():
    served = ns.serve("npu-2pf", "exaone-4.0-1.2b", precision="fp8", arrivals="closed:1", requests=2, input=40,
                      output=20,
                      chips=1)  # fmt: skip
    found = limits_of(served)
    steps = served.run.totals["steps"]
    assert host_gap_s(served.case.shape) > 0
    assert found.resources["host"] == pytest.approx(
        host_gap_s(served.case.shape) * steps / served.run.totals["busy_s"], rel=0.05
    )
    assert "host" not in limits(requests=5).resources  # a roofline knows no gap
