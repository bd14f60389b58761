"""The float64 reference of attention, and its numba variant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels.attention_problem import Attention

Array: TypeAlias = npt.NDArray[Any]

# Keys between two rescalings of the numba variant.
BLOCK = 128


def reference(problem: Attention, out: Array) -> None:
    """Row by row over exactly the keys that the row sees, in float64.

    Args:
        problem: what to compute.
        out: float32 (batch, heads, seq_q, v_head_dim), overwritten.
    """
    out[...] = 0
    batch, heads, seq_q, head_dim = problem.q.shape
    kv_heads = problem.v.shape[2]
    if not out.size:
        return
    group = heads // kv_heads
    for b in range(batch):
        keys, values = problem.tokens(b)
        # (kv_heads, group, ...): the heads that share keys, so that each is one product.
        queries = problem.q[b].reshape(kv_heads, group, seq_q, head_dim).astype(np.float64)
        result = out[b].reshape(kv_heads, group, seq_q, out.shape[3])
        for i in range(seq_q):
            first, end = problem.visible(len(keys), i)
            if first >= end:
                continue
            with np.errstate(all="ignore"):
                scores = problem.scale * (queries[:, :, i] @ keys[first:end].transpose(1, 2, 0))
                weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
                total = weights @ values[first:end].transpose(1, 0, 2)
                result[:, :, i] = total / weights.sum(axis=-1, keepdims=True)


def compiled(problem: Attention, out: Array) -> None:
    """Online softmax in float32 over blocks of 128 keys; numba compiles it at the first call.

    Args:
        problem: what to compute.
        out: float32 (batch, heads, seq_q, v_head_dim), overwritten.
    """
    if not out.size:
        return
    scale = np.float32(problem.scale)
    for b in range(problem.q.shape[0]):
        with np.errstate(all="ignore"):
            keys, values = (np.ascontiguousarray(x, dtype=np.float32) for x in problem.tokens(b))
        ranges = np.array([problem.visible(len(keys), i) for i in range(problem.q.shape[2])], dtype=np.int64)
        _sequence()(np.ascontiguousarray(problem.q[b]), keys, values, ranges, scale, out[b])


@functools.cache
def _sequence() -> Callable[..., None]:
    """The compiled loops over one sequence."""
    import numba

    @numba.njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True)
    def sequence(q: Array, keys: Array, values: Array, ranges: Array, scale: Any, out: Array) -> None:
        heads, seq_q, head_dim = q.shape
        group, width = heads // keys.shape[1], values.shape[2]
        total, scores = np.empty(width, np.float32), np.empty(BLOCK, np.float32)
        for h in range(heads):
            for i in range(seq_q):
                largest, weights = np.float32(-np.inf), np.float32(0)
                total[:] = 0
                for begin in range(ranges[i, 0], ranges[i, 1], BLOCK):
                    end, before = min(begin + BLOCK, ranges[i, 1]), largest
                    for t in range(begin, end):
                        score = np.float32(0)
                        for p in range(head_dim):
                            score += q[h, i, p] * scale * keys[t, h // group, p]
                        scores[t - begin] = score
                        largest = max(largest, score)
                    shrink = np.exp(before - largest)  # what was summed so far, against the new maximum
                    weights *= shrink
                    total *= shrink
                    for t in range(begin, end):
                        weight = np.exp(scores[t - begin] - largest)
                        weights += weight
                        for c in range(width):
                            total[c] += weight * values[t, h // group, c]
                for c in range(width):
                    out[h, i, c] = total[c] / weights if weights != 0 else np.float32(0)

    return sequence
