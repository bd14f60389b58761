"""The row loops in numba, compiled at their first use; importing this module does not import numba."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

# Sums may be split into partial sums and multiply-adds fused; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz"}


@functools.cache
def compiled(name: str) -> Callable[..., Any]:
    """The machine code of the loop ``name``."""
    import numba

    if name == "layernorm":
        function: Any = _layernorm(*(numba.njit(fastmath=FASTMATH)(sums) for sums in (_sum, _sums_about)))
        return cast(Callable[..., Any], numba.njit(function))
    return cast(Callable[..., Any], numba.njit(fastmath=FASTMATH)(_LOOPS[name]))


def _sum(row: Any) -> Any:
    total = np.float32(0)
    for j in range(row.size):
        total += row[j]
    return total


def _sums_about(row: Any, mean: Any) -> Any:
    """Sums of the deviations from ``mean`` and of their squares."""
    rest, square = np.float32(0), np.float32(0)
    for j in range(row.size):
        d = row[j] - mean
        rest += d
        square += d * d
    return rest, square


def _layernorm(sum_of: Any, sums_about: Any) -> Callable[..., None]:
    """The loop over ``sum_of`` and ``sums_about``. As csrc/rows/template.h it corrects the mean in the second pass,
    and the correction must not be merged into the mean: sums may be reordered, but not this subtraction."""

    def layernorm(x: Any, weight: Any, bias: Any, eps: Any, out: Any) -> None:
        rows, n = x.shape
        for i in range(rows):
            mean = np.float32(sum_of(x[i]) / n)
            total, square = sums_about(x[i], mean)
            rest = total / n
            variance = max(square / n - rest * rest, 0.0)
            correction = np.float32(rest)
            scale = np.float32(1.0 / math.sqrt(variance + eps))
            for j in range(n):
                out[i, j] = ((x[i, j] - mean) - correction) * scale * weight[j] + bias[j]

    return layernorm


def _rmsnorm(x: Any, weight: Any, eps: Any, out: Any) -> None:
    rows, n = x.shape
    for i in range(rows):
        total = np.float32(0)
        for j in range(n):
            total += x[i, j] * x[i, j]
        scale = np.float32(1.0 / math.sqrt(total / n + eps))
        for j in range(n):
            out[i, j] = x[i, j] * scale * weight[j]


def _softmax(x: Any, log: Any, out: Any) -> None:
    rows, n = x.shape
    for i in range(rows):
        top = x[i, 0]
        for j in range(n):
            top = max(top, x[i, j])
        total = np.float32(0)
        for j in range(n):
            power = math.exp(np.float32(x[i, j] - top))
            total += power
            if not log:
                out[i, j] = power
        if log:
            log_total = np.float32(math.log(total))
            for j in range(n):
                out[i, j] = (x[i, j] - top) - log_total
        else:
            scale = np.float32(1.0 / total)
            for j in range(n):
                out[i, j] *= scale


_LOOPS: dict[str, Any] = {"rmsnorm": _rmsnorm, "softmax": _softmax}
