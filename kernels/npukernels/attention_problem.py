"""One attention call as all variants take it: checked, and with one layout for whole and paged caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import formats

Array: TypeAlias = npt.NDArray[Any]

# Formats of keys and values by the NumPy dtype they travel in; the names are those of csrc/attention/api.h.
KV_FORMATS = {"float32": "F32", "float16": "F16", "uint16": "BF16", "uint8": "E4M3", "int8": "INT8"}


@dataclass(slots=True, eq=False)
class Attention:
    """What an attention kernel is given.

    Keys and values lie in blocks of tokens: token ``t`` of sequence ``b`` is row ``t % block_size`` of block
    ``table[b, t // block_size]``, or of block ``b`` without a table.

    Args:
        q: float32 (batch, heads, seq_q, head_dim).
        k: (blocks, block_size, kv_heads, head_dim).
        v: (blocks, block_size, kv_heads, v_head_dim).
        k_scale: (blocks, block_size, kv_heads), or None.
        v_scale: as ``k_scale``.
        table: int32 (batch, max_blocks), or None.
        lengths: int32 (batch,), keys of each sequence; None when all have ``seq_kv``.
        seq_kv: keys of the longest sequence.
        kv_format: value of ``KV_FORMATS``.
        causal: whether a query sees no later positions.
        window: positions a query sees; 0 for no limit.
        scale: of the scores.
    """

    q: Array
    k: Array
    v: Array
    k_scale: Array | None
    v_scale: Array | None
    table: Array | None
    lengths: Array | None
    seq_kv: int
    kv_format: str
    causal: bool
    window: int
    scale: float

    def length(self, sequence: int) -> int:
        """Keys of a sequence."""
        return self.seq_kv if self.lengths is None else int(self.lengths[sequence])

    def visible(self, length: int, query: int) -> tuple[int, int]:
        """The keys [first, end) that a query sees in a sequence of ``length`` keys."""
        position = length - self.q.shape[2] + query
        end = min(length, position + 1) if self.causal else length
        return max(0, position - self.window + 1) if self.window else 0, end

    def tokens(self, sequence: int) -> tuple[Array, Array]:
        """Keys and values of a sequence, float64, shape (tokens, kv_heads, width)."""
        with np.errstate(invalid="ignore"):  # the cast of a signalling NaN
            return self._gather(self.k, self.k_scale, sequence), self._gather(self.v, self.v_scale, sequence)

    def _gather(self, x: Array, scale: Array | None, sequence: int) -> Array:
        token = np.arange(self.length(sequence))
        block_size = x.shape[1] or 1
        block = sequence if self.table is None else self.table[sequence, token // block_size]
        rows = decode(x[block, token % block_size], self.kv_format).astype(np.float64)
        return rows if scale is None else rows * scale[block, token % block_size].astype(np.float64)[..., None]


def decode(x: Array, kv_format: str) -> Array:
    """Elements of keys or values as numbers; each is exact in float32."""
    if kv_format == "BF16":
        return formats.decode(x, "bf16")
    if kv_format == "E4M3":
        return formats.decode(x, "fp8")
    return x
