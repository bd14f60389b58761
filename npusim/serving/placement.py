"""Models on chips: what an engine is made of, how much cache it has, and how many engines there are.

An engine is the chips that work on one batch: ``tp`` that split every layer, or ``ep`` that share the routed experts,
in groups of ``tp`` that split attention (see ``npusim.llm``); sequences and their cache are then spread evenly over the
groups. With ``pp`` stages, ``pp`` batches are under way at a time, each with its own share of the cache: that is ``pp``
engines, whose steps pass the stages one after the other and wait for each other there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

from npusim import parallel, units
from npusim.chip import Chip
from npusim.errors import DoesNotFit, InputError, Problem
from npusim.llm import Precision
from npusim.models import Model, load_model
from npusim.serving.engine import Pool, Rules, Window
from npusim.serving.steps import Constants, Shape, step_times


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model lies on chips.

    Args:
        tp: chips that split each layer.
        pp: stages that split the layers.
        replicas: copies of the whole model.
        prefill_replicas: that many of them only prefill and hand over to the rest; 0: all do both.
        ep: chips that share the routed experts, a multiple of ``tp``; 1: they are split by ``tp`` too.
    """

    tp: int = 1
    pp: int = 1
    replicas: int = 1
    prefill_replicas: int = 0
    ep: int = 1

    @property
    def width(self) -> int:
        """Chips of one stage."""
        return max(self.tp, self.ep)

    @property
    def groups(self) -> int:
        """Attention groups of one stage, each with its own sequences."""
        return self.width // self.tp

    @property
    def replica_chips(self) -> int:
        """Chips of one copy of the model."""
        return self.width * self.pp

    @property
    def chips(self) -> int:
        """Chips in all."""
        return self.replica_chips * self.replicas

    @property
    def engines(self) -> int:
        """Batches under way at a time."""
        return self.pp * self.replicas

    def check(self) -> None:
        """Raises InputError for sizes that make no sense."""
        for name in ("tp", "pp", "replicas", "ep"):
            if not 1 <= getattr(self, name) <= 4096:
                raise InputError(Problem(f"{getattr(self, name)}", name, allowed="1 to 4096"))
        if self.prefill_replicas and not 0 < self.prefill_replicas < self.replicas:
            message = f"{self.prefill_replicas} of {self.replicas} replicas prefill"
            raise InputError(Problem(message, "disaggregate", allowed="at least one of each kind"))


@dataclass(frozen=True, slots=True)
class Tried:
    """A placement that was weighed.

    Args:
        place: where the model lies.
        requests_per_s: highest rate that holds the SLO, or the sustainable one; None: not looked for.
        tokens_per_s: output tokens under the load of requests that meet the SLO.
        tpot_s: median TPOT under the load (of one-token requests: the end-to-end time).
    """

    place: Placement
    requests_per_s: float | None
    tokens_per_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Why a placement was taken.

    Args:
        reason: in words.
        tried: what was weighed, the best first; empty when nothing had to be compared.
        left_out: placements that do not hold the model and its longest request.
    """

    reason: str
    tried: tuple[Tried, ...] = ()
    left_out: tuple[Placement, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, units in the keys."""

        def sizes(place: Placement) -> dict[str, int]:
            return {"tp": place.tp, "pp": place.pp, "ep": place.ep, "replicas": place.replicas}

        tried = [{**sizes(t.place), "requests_per_s": t.requests_per_s, "tokens_per_s": t.tokens_per_s,
                  "tpot_s": t.tpot_s} for t in self.tried]  # fmt: skip
        return {"reason": self.reason, "tried": tried, "does_not_fit": [sizes(place) for place in self.left_out]}


def window_of(model: Model, tp: int) -> Window:
    """What the model's sliding windows save of the cache; with several lengths, all count as the longest."""
    parts = [(layer.attention.window, count * parallel.kv_width(layer, tp)) for layer, count in model.blocks]
    windows = [window for window, _ in parts if window]
    if not windows:
        return Window()
    inside, whole = sum(size for window, size in parts if window), sum(size for _, size in parts)
    return Window(max(windows), inside // gcd(inside, whole), whole // gcd(inside, whole))


VOCABULARY_PADDING = 0.01  # by which models with the same tokens may differ


def draft_of(model: Model, rules: Rules) -> Model | None:
    """The model that drafts tokens. Raises InputError for one that cannot draft for this model."""
    if not rules.draft_model:
        return None
    draft = load_model(rules.draft_model)
    if not draft.causal:
        raise InputError(Problem(f"'{draft.name}' is an encoder: it drafts no tokens", "draft_model"))
    if abs(draft.vocab - model.vocab) > VOCABULARY_PADDING * model.vocab:
        what = f"{draft.name} knows {draft.vocab} tokens, {model.name} {model.vocab}: it cannot draft for it"
        raise InputError(Problem(what, "draft_model"))
    return draft


def cache_blocks(model: Model, chip: Chip, fmt: Precision, place: Placement, rules: Rules) -> int:
    """Blocks of the KV cache of one engine: what weights and a step's activations leave of the usable memory.

    A block holds its tokens in every layer of all stages; each of ``pp`` batches has its share of every stage's memory.

    Raises:
        DoesNotFit: not even the weights fit, or no block.
    """
    fixed = parallel.footprint(
        model, fmt, sequences=0, tokens=1, tp=place.tp, ep=place.ep, pp=place.pp, chunk_tokens=rules.max_tokens
    ).total_bytes
    share = place.pp * parallel.stage_share(model, place.pp)  # of the fullest stage
    token = float(parallel.kv_bytes(model, fmt, 1, place.tp)) * share
    draft = draft_of(model, rules)
    if draft is not None:  # every stage and attention group has all of it, and its cache of all batches under way
        fixed += parallel.footprint(
            draft, fmt, sequences=0, tokens=1, tp=place.tp, chunk_tokens=rules.max_tokens
        ).total_bytes
        token += float(parallel.kv_bytes(draft, fmt, 1, place.tp)) * place.pp
    room, block = parallel.usable_bytes(chip) - float(fixed), rules.block_tokens * token
    blocks = int(room // block) if room > 0 else 0
    if blocks < 1:
        raise DoesNotFit(
            f"{model.name} ({fmt.weights} weights) does not fit {place.replica_chips} x {chip.name}: short by "
            f"{units.show(max(block - room, 1.0), 'B')} per chip; usable "
            f"{units.show(parallel.usable_bytes(chip), 'B')}",
            block - room,
        )
    return blocks * place.groups


def pool_of(shape: Shape, place: Placement, rules: Rules, constants: Constants, blocks: int) -> Pool:
    """The engines of a placement. Raises InputError when the chip lacks the link or host port that is asked for."""
    chip, token_bytes = shape.chip, float(parallel.kv_bytes(shape.model, shape.fmt, 1, shape.tp))
    swap_s = 0.0
    if rules.preemption == "swap":
        host = chip.host.bandwidth_bytes_per_s if chip.host is not None else None
        if not host:
            raise InputError(Problem(f"chip '{chip.name}' describes no bandwidth to its host", "preemption"))
        swap_s = rules.block_tokens * token_bytes / (host * place.groups)
    draft = draft_of(shape.model, rules)
    if draft is not None and (draft.max_positions or shape.max_context) < shape.max_context:
        what = f"{draft.name} has {draft.max_positions} positions, the longest request {shape.max_context}"
        raise InputError(Problem(what, "draft_model"))
    table = step_times(replace(shape, draft=draft)).table(constants, swap_s)
    window, share = window_of(shape.model, shape.tp), parallel.stage_share(shape.model, place.pp)
    if not place.prefill_replicas:
        return Pool(table, blocks, place.engines, stages=place.pp, stage_share=share, window=window)
    if chip.link is None:
        raise InputError(Problem(f"chip '{chip.name}' describes no link to hand the cache over", "disaggregate"))
    return Pool(
        table,
        blocks,
        place.engines,
        place.prefill_replicas * place.pp,
        table,
        blocks,
        token_bytes,
        chip.link.bandwidth_bytes_per_s * place.groups,
        chip.link.latency_s or 0.0,
        place.pp,
        share,
        window,
    )
