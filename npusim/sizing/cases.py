"""What a design is priced on: one model step or one K-Perf row each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from npusim import llm
from npusim.errors import InputError, Problem
from npusim.kperf_suite import load_suite
from npusim.models import Model, load_model
from npusim.workload import dim

SERVING = ("batch", "context", "prompt", "precision", "tp", "page")
# Fields of a model that may be varied: those of the model, of every attention block, of every feed-forward block.
_OWN = ("hidden", "vocab")
_ATTENTION = ("heads", "kv_heads", "head_dim", "v_head_dim", "window")
_FFN = ("intermediate", "experts", "experts_per_token", "shared_intermediate")
MODEL_FIELDS = ("name", "layers", *_OWN, *_ATTENTION, *_FFN)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to price on every design.

    Args:
        kind: ``step`` or ``kperf``.
        model: catalog name or path.
        changes: fields of the model that are replaced.
        precision: its name.
        phase: ``prefill``, ``decode``, or ``serve`` for K-Perf.
        tp: chips, or ``auto``: as few as hold it.
        batch: sequences; concurrency level for K-Perf (``max`` included).
        tokens: context or prompt; input tokens for K-Perf.
        page: tokens per page of the cache, None for one piece.
        output: output tokens for K-Perf.
        suite: of K-Perf rows.
    """

    kind: str
    model: str
    changes: tuple[tuple[str, Any], ...]
    precision: str
    phase: str
    tp: Any
    batch: Any
    tokens: int
    page: int | None = None
    output: int | None = None
    suite: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "changes": dict(self.changes)}


@lru_cache(maxsize=256)
def changed_model(name: str, changes: tuple[tuple[str, Any], ...]) -> Model:
    """The model with fields replaced in all its layers. Raises InputError when they contradict one another."""
    fields = dict(changes)
    model = load_model(str(fields.pop("name", name)))
    if not fields:
        return model
    for key, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(Problem(f"{value!r} is not a size", f"model.{key}", allowed="a whole number above 0"))
    layers = fields.pop("layers", None)
    if layers is not None and len(model.blocks) > 1:
        raise InputError(Problem(f"'{model.name}' has several kinds of layers", "model.layers", allowed="one kind"))
    own = {key: fields.pop(key) for key in _OWN if key in fields}
    attention = {key: value for key, value in fields.items() if key in _ATTENTION}
    ffn = {key: value for key, value in fields.items() if key in _FFN}
    blocks = tuple(
        (
            replace(layer, attention=replace(layer.attention, **attention), ffn=replace(layer.ffn, **ffn)),
            layers or count,
        )
        for layer, count in model.blocks
    )
    label = ",".join(f"{key}={value}" for key, value in changes if key != "name")
    return replace(model, name=f"{model.name}[{label}]", blocks=blocks, **own)


def check_case(case: Case) -> Case:
    """The case itself. Raises InputError for names and sizes that cannot be priced."""
    model = changed_model(case.model, case.changes)
    llm.precision(case.precision)
    dim("batch", case.batch)
    dim("tokens", case.tokens)
    if case.page is not None:
        dim("page", case.page)
    if case.tp != "auto":
        dim("tp", case.tp)
    if case.phase == "decode" and not model.causal:
        raise InputError(Problem(f"'{model.name}' is an encoder: it has no decode step", "workloads"))
    return case


def suite_cases(
    name: str, models: Sequence[str] = (), precisions: Sequence[str] = (), tp: int | None = None,
    model: tuple[tuple[str, Any], ...] = (),
) -> Iterator[Case]:  # fmt: skip
    """The rows of a K-Perf suite as cases; ``model`` are changes to every model of it."""
    suite = load_suite(name)
    for one in models or suite.models:
        for precision in precisions or suite.precisions:
            llm.precision(precision)
            changed_model(one, model)
            for inputs, outputs in suite.lengths:
                for level in suite.concurrency:
                    yield Case(
                        "kperf", one, model, precision, "serve", tp or "auto", level, inputs, None, outputs, name
                    )


def grouped(cases: Iterable[Case]) -> dict[tuple[Any, ...], list[int]]:
    """Positions of cases that one vectorised evaluation prices."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, case in enumerate(cases):
        key = (case.kind, case.model, case.changes, case.precision, case.phase, case.tp, case.page is None, case.suite)
        groups.setdefault(key, []).append(index)
    return groups
