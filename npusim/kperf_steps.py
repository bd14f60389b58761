"""The steps of K-Perf rows, and the average over a growing context."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from npusim.cost import as_workload
from npusim.llm import Precision, decode, prefill
from npusim.models import Model
from npusim.workload import Workload

# Decode steps are averaged over the growing context by this many (odd-length) panels per output.
PANELS = 32


def panels(steps: np.ndarray, most: int = PANELS) -> tuple[np.ndarray, np.ndarray]:
    """Splits 1..N into contiguous panels of odd length, whose midpoints are then integers.

    The mean over a panel of a function that is linear on it equals its value at the midpoint, so the
    average over a growing context is exact except in the panels where a bound changes.

    Args:
        steps: N for each row, integers ≥ 0, shape (rows,).
        most: panels per row at most (one more when parity needs it).

    Returns:
        (midpoints, weights), both (rows, most + 1): weights are panel lengths / N, 0 for unused panels.
    """
    n = np.asarray(steps, dtype=np.int64)[:, None]
    count = np.minimum(n, most)
    count += (n - count) % 2  # as many odd numbers as N's parity allows
    base = np.where(count > 0, n // np.maximum(count, 1), 0)
    base -= (base + 1) % 2  # largest odd length that fits every panel
    extra = (n - base * count) // 2  # panels that are longer by two
    index = np.arange(most + 1)[None, :]
    per_panel, more = extra // np.maximum(count, 1), extra % np.maximum(count, 1)
    length = np.where(index < count, base + 2 * (per_panel + (index < more)), 0)
    end = np.cumsum(length, axis=1)
    middle = np.maximum(end - length // 2, 1)
    return middle, length / np.maximum(n, 1)


@dataclass(frozen=True)
class Works:
    """Steps of some rows: prefill and decode, weights of the decode's panels, and FLOPs and bytes of either of them on
    one chip."""

    steps: tuple[Workload, Workload]
    weight: np.ndarray
    useful: tuple[Any, ...]


@lru_cache(maxsize=32)
def steps_of(
    model: Model, fmt: Precision, tp: int, inputs: tuple[int, ...], outputs: tuple[int, ...], c: tuple[int, ...]
) -> Works:
    """What does not depend on the chip; a sweep asks for it once per chip."""
    kinds: dict[str, Any] = {"weights": fmt.weights, "activations": fmt.activations, "kv": fmt.kv, "tp": tp}
    prompts = np.array(inputs)
    middle, weight = panels(np.array(outputs) - 1)
    first = prefill(model, batch=1, prompt=prompts, **kinds)
    step = decode(model, batch=np.array(c)[:, None], context=prompts[:, None] + middle, **kinds)
    # Of the unsharded model: ceilings and replication of tensor parallelism are not useful work.
    alone = [as_workload(work, 1) for work in (first, step)]
    useful = tuple(figure for work in alone for figure in (work.flops, work.bytes("weight", "kv")))
    return Works((first, step), weight, useful)
