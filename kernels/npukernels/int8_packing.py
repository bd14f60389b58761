"""Constant 8-bit weights in the order the kernels read them.

Panels of 16 columns; in each, blocks of 4 k; in each, 4 bytes of column 0, 4 of column 1, and so on. All
variants read the same panels. A uint8 matrix is kept as int8, 128 less, and its zero point moves with it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import array, pointer, thread_count
from npusim.errors import InputError

Int8Array: TypeAlias = npt.NDArray[np.int8]

PANEL, QUAD = 16, 4


@dataclass(frozen=True, eq=False)
class PackedInt8:
    """An 8-bit matrix (k, n), packed; see ``prepack_int8``.

    Args:
        k: rows.
        n: columns.
        dtype: ``int8`` or ``uint8``, what it was packed from.
        panels: int8, shape (panels, k / 4 rounded up, 16, 4).
        sums: int32 (n,), column sums of what ``panels`` holds.
        small: uint8 (panels,), 1 where ``|b[p]| + |b[p + 1]| <= 128`` for all even ``p``, as of weights of 7 bits:
            their products with any uint8 fit 16 bits two by two.
    """

    k: int
    n: int
    dtype: str
    panels: Int8Array
    sums: npt.NDArray[np.int32]
    small: npt.NDArray[np.uint8]

    @functools.cached_property
    def moved_zero(self) -> npt.NDArray[np.int32]:
        """The zero points that the panels of a uint8 matrix have when its own are zero."""
        return np.full(self.n, -128, np.int32)


def prepack_int8(b: npt.NDArray[Any], *, threads: int = 1) -> PackedInt8:
    """Packs a constant matrix once, for many calls of ``qgemm``.

    Args:
        b: int8 or uint8, shape (k, n), any strides: weights kept as (n, k) are passed as ``w.T``.
        threads: threads to use, 1 to 64.

    Raises:
        InputError: bad dtype or number of dimensions, or no memory.
    """
    b = array(b, "b", ("int8", "uint8"), (2,))
    k, n = b.shape
    threads = thread_count(threads)
    shape = (math.ceil(n / PANEL), math.ceil(k / QUAD), PANEL, QUAD)
    try:
        packed = PackedInt8(k, n, b.dtype.name, _aligned(shape), np.empty(n, np.int32), np.empty(shape[0], np.uint8))
        if native.native_available():
            _pack(b, packed, threads)
        else:
            _pack_in_numpy(b, packed)
    except (MemoryError, ValueError):
        raise InputError(f"no memory to pack b {b.shape}") from None
    return packed


def unpack_int8(packed: PackedInt8) -> Int8Array:
    """The packed values as an int8 matrix (k, n): those of a uint8 matrix are 128 less."""
    panels, quads = packed.panels.shape[:2]
    matrix = packed.panels.transpose(1, 3, 0, 2).reshape(quads * QUAD, panels * PANEL)
    return np.ascontiguousarray(matrix[: packed.k, : packed.n])


def _aligned(shape: tuple[int, ...]) -> Int8Array:
    """Uninitialised memory whose every cache line holds the 64 bytes of 4 k of a panel."""
    size = math.prod(shape)
    memory = np.empty(size + 63, np.int8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + size].reshape(shape)


def _pack(b: npt.NDArray[Any], packed: PackedInt8, threads: int) -> None:
    module = native.require_native()
    address = b.__array_interface__["data"][0]
    start = pointer(b) if b.flags.c_contiguous else module.ffi.cast("void *", address)
    flip = 0x80 if b.dtype == np.uint8 else 0
    k, n = b.shape
    written = (pointer(x) for x in (packed.panels, packed.sums, packed.small))
    status = module.lib.npk_qgemm_pack(n, k, start, *b.strides, flip, *written, threads)
    native.raise_for_status(status, f"prepack_int8 {b.shape}")


def _pack_in_numpy(b: npt.NDArray[Any], packed: PackedInt8) -> None:
    panels, quads = packed.panels.shape[:2]
    padded = np.zeros((quads * QUAD, panels * PANEL), np.int8)
    signed = b if b.dtype == np.int8 else (b ^ np.uint8(0x80)).view(np.int8)
    padded[: b.shape[0], : b.shape[1]] = signed
    packed.panels[...] = padded.reshape(quads, QUAD, panels, PANEL).transpose(2, 0, 3, 1)
    packed.sums[...] = signed.sum(axis=0, dtype=np.int64).astype(np.int32)
    pairs = np.abs(packed.panels.astype(np.int16)).reshape(panels, -1, 2).sum(axis=2)
    packed.small[...] = pairs.max(axis=1, initial=0) <= 128
