"""Largest elements of rows, ``topk``, and the routing of tokens to experts that is made of it, ``route``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.activations import sigmoid
from npukernels.arguments import Array, array, thread_count
from npukernels.norms import softmax
from npukernels.registry import kernel, select
from npukernels.rowargs import INSTRUCTION_SETS, as_rows
from npukernels.shortcuts import Call, Shortcut, checked_call, quick
from npusim.errors import InputError, Problem

_ROUTE = Shortcut(arrays=1, options=5, written=())
_TOPK = Shortcut(arrays=1, options=3, written=())

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Routing:
    """Which expert computes which token.

    Args:
        weights: float32 (tokens, k), what each expert's result is multiplied by.
        experts: int64 (tokens, k), descending by score, equal scores by index.
        order: int64 (tokens k,), the pairs ``token k + slot`` sorted by expert, then by token: the rows of a grouped
            GEMM are ``x[order // k]``.
        offsets: int64 (experts + 1,), where each expert's rows begin in ``order``.
    """

    weights: Array
    experts: Indices
    order: Indices
    offsets: Indices


def topk(x: Array, k: int, *, variant: str | None = None, threads: int = 1) -> tuple[Array, Indices]:
    """The k largest elements of every row, descending.

    Args:
        x: float32, shape (..., n); rows may lie apart when it is 2-D. NaN ranks above all numbers.
        k: how many, from 0 to n.
        variant: one of ``variants("topk")``; by default the fastest.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Returns:
        Values, float32, and indices, int64, both (..., k); equal values are in the order of their indices.

    Raises:
        InputError: bad dtype, shape or k, or a variant that does not exist or cannot run here.
    """
    given = x, k, variant, threads
    if (done := _TOPK.run(*given)) is not None:
        return done  # type: ignore[return-value]  # both
    x = array(x, "x", ("float32",))
    _check_count(k, x)
    run = select("topk", variant).run
    values, indices = np.empty((*x.shape[:-1], k), np.float32), np.empty((*x.shape[:-1], k), np.int64)
    made = run(x, int(k), values, indices, thread_count(threads))
    _TOPK.keep(given, made, values, indices)
    return values, indices


def _check_count(k: Any, x: Array) -> None:
    """Raises InputError when ``k`` is no number of elements of a row."""
    if x.ndim == 0 or isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 0 <= k <= x.shape[-1]:
        allowed = f"0 to {x.shape[-1]}" if x.ndim else "an array of at least 1 dimension"
        raise InputError(Problem(f"no {k!r} largest of rows of shape {x.shape}"[:120], "k", allowed=allowed))


def route(
    logits: Array,
    k: int,
    *,
    scoring: str = "softmax",
    renormalize: bool = True,
    variant: str | None = None,
    threads: int = 1,
) -> Routing:
    """Routes tokens to their k best experts: score, top-k, renormalise, sort by expert.

    Args:
        logits: float32, shape (tokens, experts).
        k: experts a token, from 0 to experts.
        scoring: ``softmax`` over the experts, or ``sigmoid`` of each.
        renormalize: whether the weights of a token are divided by their sum.
        variant: of ``topk`` and the scoring; by default the fastest.
        threads: threads to use, 1 to 64.

    Returns:
        See ``Routing``.

    Raises:
        InputError: bad dtype, shape, k or scoring, or a variant that does not exist or cannot run here.
    """
    given = logits, k, scoring, renormalize, variant, threads
    if (done := _ROUTE.run(*given)) is not None:
        weights, experts, order, offsets = done
        return quick(Routing, weights=weights, experts=experts, order=order, offsets=offsets)
    logits = array(logits, "logits", ("float32",), (2,))
    if scoring not in ("softmax", "sigmoid"):
        problem = Problem(f"scoring is {scoring!r}"[:100], "scoring", allowed="'softmax' or 'sigmoid'")
        raise InputError(problem)
    chosen = select("topk", variant)
    _check_count(k, logits)
    if chosen.in_c and logits.size and k:
        made, parts = _route_c(chosen.variant, logits, int(k), scoring, bool(renormalize), thread_count(threads))
        _ROUTE.keep(given, made, *parts)
        return Routing(*parts)
    score = softmax if scoring == "softmax" else sigmoid
    weights, experts = topk(score(logits, variant=variant, threads=threads), k, variant=variant, threads=threads)
    if renormalize:
        with np.errstate(invalid="ignore"):
            weights /= weights.sum(axis=1, keepdims=True)
    pairs = experts.ravel()
    order = np.argsort(pairs, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(pairs, minlength=logits.shape[1]))))
    return Routing(weights, experts, order.astype(np.int64), offsets.astype(np.int64))


def _route_c(
    variant: str, logits: Array, k: int, scoring: str, renormalize: bool, threads: int
) -> tuple[Call, tuple[Array, Indices, Indices, Indices]]:
    """All of ``route`` in one call of C, which adds the weights of a token in order."""
    x, rows, columns, apart = as_rows(logits)
    weights, chosen = np.empty((rows, k), np.float32), np.empty((rows, k), np.int64)
    order, offsets = np.empty(rows * k, np.int64), np.empty(columns + 1, np.int64)
    made = checked_call(
        "route", "npk_route", native.constant(INSTRUCTION_SETS[variant][0]), scoring == "sigmoid", renormalize, rows,
        columns, k, x, apart, weights, chosen, order, offsets, threads,
    )  # fmt: skip
    return made, (weights, chosen, order, offsets)


@kernel("topk", "ref")
def _ref(x: Array, k: int, values: Array, indices: Indices, threads: int) -> None:
    """A stable sort by NaN first, then by descending value."""
    order = np.lexsort((-x, ~np.isnan(x)), axis=-1)[..., :k]
    indices[...] = order
    values[...] = np.take_along_axis(x, order, axis=-1)


def _compiled(isa: str) -> Callable[[Any, int, Array, Indices, int], Call]:
    code = native.constant(isa)

    def run(x: Any, k: int, values: Array, indices: Indices, threads: int) -> Call:
        x, rows, columns, apart = as_rows(x)
        return checked_call("topk", "npk_topk", code, rows, columns, k, x, apart, values, indices, threads)

    return run


for _variant, (_isa, _requires) in INSTRUCTION_SETS.items():
    kernel("topk", _variant, requires=_requires)(_compiled(_isa))
