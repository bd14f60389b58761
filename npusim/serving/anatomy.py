"""What one step of a run is made of, in the order in which it happens; the parts are together as long as the step.

The engine took the step's length from its table (``npusim.serving.steps``). Here the operators are priced one by one,
by calibration documents where the run was, and scaled by what the table interpolates (``Anatomy.scale``, near 1).
What is no operator has parts of its own: the host's gap, its work for each sequence, the hand-over between stages, the
passes of the model that drafts, and what a step waits for beyond its own work (other batches on the stages, blocks
that are swapped).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from npusim.models import Model
from npusim.serving.answer import Case
from npusim.serving.documented import operator_seconds
from npusim.serving.placement import draft_of
from npusim.serving.steps import Constants, Shape, StepTable, step_times, workload_of
from npusim.workload import Op

Prompts = Sequence[tuple[int, int]]
HOST_GAP = "host gap"


@dataclass(frozen=True)
class Part:
    """A piece of a step.

    Args:
        name: what happens.
        seconds: how long; of a whole, the sum over what is inside.
        op: the operator, when it is one.
        bound: the resource that bounds it.
        inside: what it consists of, in order.
    """

    name: str
    seconds: float
    op: Op | None = None
    bound: str = ""
    inside: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Anatomy:
    """A step.

    Args:
        parts: in order; together as long as the step.
        scale: operators' time in the step over what they are priced at one by one.
    """

    parts: tuple[Part, ...]
    scale: float


@dataclass(frozen=True)
class _Pass:
    """One run through a model: its engine, its share of the step, its batch, and what is no operator of it."""

    shape: Shape
    seconds: float
    prefills: Prompts
    decodes: Sequence[int]
    host_s: float = 0.0
    sequences_s: float = 0.0
    hop_s: float = 0.0


def anatomy(case: Case, prefills: Prompts, decodes: Sequence[int], rows: int, length_s: float) -> Anatomy:
    """The parts of a step.

    Args:
        case: what served.
        prefills: (new, past) tokens of each prompt chunk.
        decodes: past tokens of each decode.
        rows: rows that make a token or verify one.
        length_s: of the step, as it was logged.
    """
    shape, table = case.shape, case.pool().table
    own_s, waits_s = table.price(prefills, decodes, rows)[0], 0.0
    # Steps wait for those before them on the stages, and for blocks that are swapped.
    if shape.pp > 1 or case.rules.preemption == "swap":
        waits_s = max(length_s - own_s, 0.0)
    tokens = sum(new for new, _ in prefills) + len(decodes) * (1 + shape.draft_tokens)
    drafts = _drafts(shape, draft_of(case.model, case.rules), table, prefills, decodes, rows)
    target = _Pass(shape, length_s - waits_s - sum(one.seconds for one in drafts), prefills, decodes, table.host_s,
                   rows * case.constants.sequence_s, float(step_times(shape).hop_s(np.array(tokens))))  # fmt: skip
    parts: list[Part] = []
    for number, one in enumerate(drafts, 1):
        inside, _ = _parts(one, case.constants)
        parts.append(Part(f"draft pass {number} of {len(drafts)}", one.seconds, inside=tuple(inside)))
    verified, scale = _parts(target, case.constants)
    if drafts:  # the host prepares the step before anything is drafted
        parts = [part for part in verified if part.name == HOST_GAP] + parts
        verified = [part for part in verified if part.name != HOST_GAP]
    return Anatomy((*parts, *verified, *_some("waiting for stages or swapped blocks", waits_s)), scale)


def _drafts(
    shape: Shape, model: Model | None, table: StepTable, prefills: Prompts, decodes: Sequence[int], rows: int
) -> list[_Pass]:
    """The passes of the model that drafts, as the table counts them: with the prompts once, then decodes alone."""
    drafting = replace(shape, draft=model).drafting()
    if drafting is None or table.draft is None:
        return []
    count, query = len(decodes), 1 + shape.draft_tokens
    prompt_rows = rows - count * query
    found = []
    for number in range(shape.draft_tokens if decodes else 1):
        batch, longer = [] if number else prefills, [past + number for past in decodes]
        seconds = table.draft.price(batch, longer, count + (0 if number else prompt_rows))[0]
        found.append(_Pass(drafting, seconds, batch, longer, table.draft.host_s))
    return found


def _some(name: str, seconds: float) -> list[Part]:
    return [Part(name, seconds)] if seconds > 0 else []


def _parts(one: _Pass, constants: Constants) -> tuple[list[Part], float]:
    """The parts of a pass, and the scale of its operators."""
    work = workload_of(one.shape, one.prefills, one.decodes)
    priced = operator_seconds(work, one.shape, constants)
    beside_s = one.host_s + one.sequences_s + one.hop_s
    scale = max(one.seconds - beside_s, 0.0) / max(sum(float(seconds) for _, seconds in priced), 1e-12)
    parts = _some(HOST_GAP, one.host_s)
    for prefix, group in groupby(priced, lambda pair: _prefix(pair[0].op.name)):
        ops = [Part(cost.op.name, float(seconds) * scale, cost.op, str(cost.bound)) for cost, seconds in group]
        parts += _layers(ops) if prefix else ops
    parts += _some("sampling on the host", one.sequences_s) + _some("hand-over between stages", one.hop_s)
    return parts, scale


def _prefix(name: str) -> str:
    """Of operators of repeated layers: which layers."""
    return name.partition(".")[0] if name.startswith("layers") else ""


def _layers(ops: list[Part]) -> list[Part]:
    """Layers one after the other; operators come with the time of all layers."""
    first = ops[0].op
    count = 1 if first is None else first.count
    once = tuple(replace(one, name=one.name.partition(".")[2], seconds=one.seconds / count) for one in ops)
    seconds = sum(one.seconds for one in once)
    name = _prefix(ops[0].name)
    return [Part(f"{name} {number} of {count}", seconds, inside=once) for number in range(1, count + 1)]
