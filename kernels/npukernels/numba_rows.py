"""The row loops in numba, compiled at their first use; importing this module does not import numba."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

# Sums may be split into partial sums and multiply-adds fused; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz"}


@functools.cache
def compiled(name: str) -> Callable[..., Any]:
    """The machine code of the loop ``name``."""
    import numba

    function: Callable[..., Any] = numba.njit(fastmath=FASTMATH)(_LOOPS[name])
    return function


def _layernorm(x: Any, weight: Any, bias: Any, eps: Any, out: Any) -> None:
    """Two passes, the second of which also corrects the mean; see csrc/rows/template.h."""
    rows, n = x.shape
    for i in range(rows):
        total = np.float32(0)
        for j in range(n):
            total += x[i, j]
        mean = np.float32(total / n)
        rest, square = np.float32(0), np.float32(0)
        for j in range(n):
            d = x[i, j] - mean
            rest += d
            square += d * d
        rest = np.float32(rest / n)
        variance = max(square / n - float(rest) * float(rest), 0.0)
        scale = np.float32(1.0 / math.sqrt(variance + eps))
        for j in range(n):
            out[i, j] = ((x[i, j] - mean) - rest) * scale * weight[j] + bias[j]


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


_LOOPS = {"layernorm": _layernorm, "rmsnorm": _rmsnorm, "softmax": _softmax}
