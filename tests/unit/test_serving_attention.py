"""Attention by its compiled formula against ``estimate``: seconds and joules, at any sustained fraction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npusim.chip import load_chip
from npusim.cost import estimate
from npusim.errors import InputError
from npusim.llm import precision
from npusim.models import load_model
from npusim.serving.attention import Attention, attention_ops, prices
from npusim.workload import Workload

CASES = [("h100", "llama-3.1-8b", "bf16", 1, "tile"), ("npu-2pf", "llama-3.3-70b", "fp8", 2, "tile"),
         ("rtx-4090", "gemma-2-9b", "w4a16", 1, "tile"), ("h100", "gpt-oss-20b", "bf16", 1, "tile"),
         ("h200", "deepseek-v2-lite", "bf16", 1, "tile"), ("gaudi3", "mistral-7b", "bf16", 1, "tile"),
         ("h100", "gpt-oss-20b", "fp8", 4, "roofline"), ("b200", "deepseek-v3", "fp8", 8, "roofline")]  # fmt: skip


@pytest.mark.parametrize("absorb", [False, True], ids=["prompts", "decodes"])
@pytest.mark.parametrize(("chip", "model", "fmt", "tp", "fidelity"), CASES)
def test_the_formula_is_that_of_estimate(chip: str, model: str, fmt: str, tp: int, fidelity: str, absorb: bool):
    network, hardware, kinds = load_model(model), load_chip(chip), _kinds(fmt, tp)
    first, second = (attention_ops(network, absorb, 1, 1, past, **kinds) for past in (0, 1))
    formula = Attention(first, second, hardware, fidelity)
    random = np.random.default_rng(11)
    batch, new, past = (np.exp(random.uniform(0, np.log(high), 300)).astype(int) for high in (600, 9000, 120_000))
    past[::7] = 0
    if absorb:
        new[::2] = 1  # the others verify drafts
    # One by one: the menu of blocks depends on the largest of the dimensions.
    costs = estimate(
        Workload("x", tuple(attention_ops(network, absorb, batch, new, past, **kinds))), hardware, fidelity
    )
    launch_s = 0.0 if fidelity == "roofline" else hardware.overheads.launch_s or 0.0
    for compute, memory in ((1.0, 1.0), (0.9, 0.6)):
        seconds: Any = 0.0
        for cost in costs.ops:
            busy = dict(cost.seconds)
            rest = busy.pop("overhead", 0.0) - launch_s * cost.count
            slowest = np.maximum(busy.pop("dram") / memory, np.max(list(busy.values()), axis=0) / compute)
            seconds = seconds + slowest + rest
        joules = sum(cost.energy_j for cost in costs.ops if cost.energy_j is not None)
        found = prices(formula.sustained(compute, memory), batch, new, past)
        np.testing.assert_allclose(found[:, 0], seconds, rtol=1e-9)
        np.testing.assert_allclose(found[:, 1], joules, rtol=1e-9)
    assert formula.launches == sum(cost.count for cost in costs.ops)


def test_a_chip_without_room_for_a_block_says_so():
    chip = load_chip("h100")
    tiny = {name: level.model_copy(update={"capacity_bytes": 2048}) for name, level in chip.levels.items()}
    ops = [attention_ops(load_model("llama-3.1-8b"), False, 1, 1, past, **_kinds("bf16", 1)) for past in (0, 1)]
    with pytest.raises(InputError, match="no attention block fits"):
        Attention(ops[0], ops[1], chip.model_copy(update={"levels": tiny}), "tile")


def _kinds(fmt: str, tp: int) -> dict[str, Any]:
    p = precision(fmt)
    return {"weights": p.weights, "activations": p.activations, "kv": p.kv, "tp": tp, "page": 16}
