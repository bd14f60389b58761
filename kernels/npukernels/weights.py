"""Constant quantised weights, packed once for ``weight_gemm``.

Panels of 16 columns. 8 bits: blocks of 4 k, in each 4 bytes of column 0, of column 1, ...; 4 bits: blocks of 8 k,
in each 4 bytes of column 0, ..., whose low nibbles are k 0 to 3 and high nibbles k 4 to 7, two's complement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels.arguments import array
from npusim.errors import InputError, Problem

PANEL, BLOCK = 16, 8


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """Quantised weights ``W[p, j] = scale[g, j] (q[p, j] - zero[g, j])`` with ``g = p // group``.

    Args:
        bits: 4 or 8.
        k: rows.
        n: columns.
        group: steps of k that share scale and zero; a multiple of 8.
        codes: uint8, the packed q.
        scale: float32 (panels, groups, 16).
        zero: float32 (panels, groups, 16), or None when all are zero.
    """

    bits: int
    k: int
    n: int
    group: int
    codes: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.float32] | None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Bits, rows, columns, group."""
        return self.bits, self.k, self.n, self.group

    @property
    def groups(self) -> int:
        """Number of groups along k."""
        return math.ceil(self.k / self.group)


def prepack_weight(
    q: npt.NDArray[Any],
    scale: npt.NDArray[Any],
    zero: npt.NDArray[Any] | None = None,
    *,
    bits: int = 4,
    group: int | None = None,
) -> PackedWeight:
    """Packs quantised weights once, for many calls of ``weight_gemm``.

    Args:
        q: int8, shape (k, n), any strides; -8 to 7 for 4 bits. Unsigned 4-bit codes are passed 8 less, and so
            are their zero points.
        scale: float32, shape (ceil(k / group), n), or (n,) for one scale a column.
        zero: int8 zero points of the shape of ``scale``, in the range of q.
        bits: 4 or 8.
        group: steps of k that share a scale, a multiple of 8; by default all of k.

    Raises:
        InputError: bad dtype, shape, group or value.
    """
    q = array(q, "q", ("int8",), (2,))
    if bits not in (4, 8):
        raise InputError(Problem(f"bits is {bits!r}"[:100], "bits", allowed="4 or 8"))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    _within(q, "q", low, high)
    k, n = q.shape
    size = _group(group, k)
    groups = math.ceil(k / size)
    scales = _per_group(array(scale, "scale", ("float32",), (1, 2)), "scale", groups, n)
    if not np.isfinite(scales).all():
        raise InputError(Problem("scale is not finite", "scale", allowed="finite numbers"))
    zeros = None
    if zero is not None and np.any(zero):
        zeros = _per_group(array(zero, "zero", ("int8",), (1, 2)), "zero", groups, n)
        _within(zeros, "zero", low, high)
        zeros = _panels(zeros.astype(np.float32))
    return PackedWeight(bits, k, n, size, _codes(q, bits), _panels(scales), zeros)


def unpack_weight(weight: PackedWeight) -> npt.NDArray[np.float64]:
    """``W = scale (q - zero)`` in float64, (k, n): exact, because both factors are short."""
    return _spread(weight, by_group(weight.scale, weight.n)) * integers(weight)


def integers(weight: PackedWeight) -> npt.NDArray[np.float64]:
    """``q - zero``, (k, n)."""
    panels, blocks = weight.codes.shape[:2]
    if weight.bits == 4:
        low, high = weight.codes & 15, weight.codes >> 4
        quads = np.stack([low, high], axis=2).astype(np.int8)
        quads = np.where(quads < 8, quads, quads - 16)
        matrix = quads.transpose(1, 2, 4, 0, 3).reshape(blocks * BLOCK, panels * PANEL)
    else:
        matrix = weight.codes.view(np.int8).transpose(1, 3, 0, 2).reshape(blocks * 4, panels * PANEL)
    q = matrix[: weight.k, : weight.n].astype(np.float64)
    return q if weight.zero is None else q - _spread(weight, by_group(weight.zero, weight.n))


def by_group(values: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
    """Scales or zeros in panels, (panels, groups, 16), as (groups, n)."""
    return values.transpose(1, 0, 2).reshape(values.shape[1], values.shape[0] * PANEL)[:, :n]


def _spread(weight: PackedWeight, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(groups, n) as float64 (k, n)."""
    groups = np.arange(weight.k) // weight.group
    return values[groups].astype(np.float64)


def _codes(q: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    k, n = q.shape
    blocks, panels = math.ceil(k / BLOCK), math.ceil(n / PANEL)
    padded = np.zeros((blocks * BLOCK, panels * PANEL), np.uint8)
    padded[:k, :n] = q.view(np.uint8) if q.flags.c_contiguous else q.astype(np.int8, order="C").view(np.uint8)
    if bits == 8:
        return np.ascontiguousarray(padded.reshape(blocks * 2, 4, panels, PANEL).transpose(2, 0, 3, 1))
    halves = padded.reshape(blocks, 2, 4, panels, PANEL)
    both = (halves[:, 0] & 15) | (halves[:, 1] << 4)
    return np.ascontiguousarray(both.transpose(2, 0, 3, 1))


def _panels(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(groups, n) as (panels, groups, 16), padded with zeros."""
    groups, n = values.shape
    panels = math.ceil(n / PANEL)
    padded = np.zeros((groups, panels * PANEL), values.dtype)
    padded[:, :n] = values
    return np.ascontiguousarray(padded.reshape(groups, panels, PANEL).transpose(1, 0, 2))


def _group(group: Any, k: int) -> int:
    if group is None:
        return max(BLOCK, math.ceil(k / BLOCK) * BLOCK)
    if isinstance(group, bool) or not isinstance(group, (int, np.integer)) or not 0 < group < 2**40 or group % BLOCK:
        raise InputError(Problem(f"group is {group!r}"[:100], "group", allowed="a positive multiple of 8"))
    return int(group)


def _per_group(values: npt.NDArray[Any], name: str, groups: int, n: int) -> npt.NDArray[Any]:
    if values.ndim == 1 and groups <= 1:
        values = values[None][:groups]
    if values.shape != (groups, n):
        raise InputError(Problem(f"{name} has shape {values.shape}", name, allowed=f"({groups}, {n})"))
    return values


def _within(values: npt.NDArray[Any], name: str, low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() > high):
        raise InputError(Problem(f"{name} has values outside {low} to {high}", name, allowed=f"{low} to {high}"))
