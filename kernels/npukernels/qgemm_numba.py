"""Integer sums by numba; imported only when the variant runs, because numba takes seconds to load."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=False, nogil=True)
def sums(a: Any, b: Any, a_zero: Any, b_zero: Any) -> Any:
    """``sum over p of (A[i, p] - a_zero) (B[p, j] - b_zero[j])``, int32 (m, n), in the order i, p, j."""
    m, k = a.shape
    n = b.shape[1]
    out = np.zeros((m, n), np.int32)
    for i in range(m):
        row = out[i]
        for p in range(k):
            left = np.int32(a[i, p]) - a_zero
            for j in range(n):
                row[j] += left * (np.int32(b[p, j]) - b_zero[j])
    return out
