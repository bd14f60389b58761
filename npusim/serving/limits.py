"""What limits a serving run: the resource that its steps wait for, and what keeps requests out of them.

The time of steps is split by pricing two steps of mean size, one with a prompt and one without, operator by operator;
each counts for the time the run spent in steps of its kind. Decodes are taken at the mean tokens a running request has
in the cache, prompts at their mean chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npusim.cost import estimate
from npusim.serving.answer import Serving
from npusim.serving.steps import Shape, workload_of

_KEPT_OUT = {"sequences": "full_sequences_s", "tokens": "full_tokens_s", "blocks": "full_blocks_s"}


@dataclass(frozen=True)
class Limits:
    """Shares of the time that engines are busy.

    Args:
        resources: spent in operators bound by each resource, and between steps (``host``); largest first.
        prompt_steps: spent in steps with a prompt.
        kept_out: spent in steps that left somebody waiting, by what was full: ``sequences`` of a step, its ``tokens``,
            or ``blocks`` of the cache.
    """

    resources: dict[str, float]
    prompt_steps: float
    kept_out: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain types; shares of 1."""
        return {"resources": self.resources, "prompt_steps": self.prompt_steps, "kept_out": self.kept_out}


def host_gap_s(shape: Shape) -> float:
    """Between steps, as the chip file states it; a roofline knows none."""
    return 0.0 if shape.fidelity == "roofline" else shape.chip.overheads.step_s or 0.0


def limits_of(serving: Serving) -> Limits:
    """What limited a run."""
    t = serving.run.totals
    busy_s = max(t["busy_s"], 1e-12)
    shape, steps = serving.case.shape, int(t["steps"])
    past = round(t["block_s"] * shape.block_tokens / max(t["running_s"], 1e-12))
    found: dict[str, float] = {}
    with_prompt = int(t["prompt_steps"])
    others = steps - with_prompt, t["decodes"] - t["prompt_step_decodes"], 0, busy_s - t["prompt_steps_s"]
    kinds = (with_prompt, t["prompt_step_decodes"], t["prompt_tokens"], t["prompt_steps_s"]), others
    for count, decodes, tokens, spent_s in kinds:
        if count > 0:
            for name, share in _split(shape, round(tokens / count), round(decodes / count), past).items():
                found[name] = found.get(name, 0.0) + share * spent_s / busy_s
    largest = dict(sorted(found.items(), key=lambda item: -item[1]))
    return Limits(largest, t["prompt_steps_s"] / busy_s, {name: t[key] / busy_s for name, key in _KEPT_OUT.items()})


def _split(shape: Shape, prompt_tokens: int, decodes: int, past: int) -> dict[str, float]:
    """Shares of the time of one step by what bounds its operators."""
    prompts = [(prompt_tokens, 0)] if prompt_tokens else []
    work = workload_of(shape, prompts, [past] * (decodes or not prompts))
    seconds = {name: float(s) for name, s in estimate(work, shape.chip, shape.fidelity).bound_seconds.items()}
    seconds["host"] = host_gap_s(shape)
    whole = sum(seconds.values())
    return {name: s / whole for name, s in seconds.items() if s > 0}
