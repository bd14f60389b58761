"""Checks of array arguments, shared by all ops: one clear InputError instead of a crash in C."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels.native import require_native
from npusim.errors import InputError, Problem

Array: TypeAlias = npt.NDArray[np.float32]

MAX_THREADS = 64

_F32 = np.dtype(np.float32)
_NDARRAY = np.ndarray

# Bits of ``ndarray.flags.num``, which costs one look where each name costs two: C-contiguous and aligned; C-contiguous,
# aligned and writeable.
ORDERED, WRITABLE = 0x101, 0x501

# Work limit of the exact overlap search; a pair it cannot decide counts as overlapping.
_OVERLAP_WORK = 100_000


def matrix(value: Any, name: str) -> Array:
    """Returns ``value`` when it is a 2-D float32 array. Raises InputError otherwise."""
    if not isinstance(value, np.ndarray):
        raise _bad(name, f"is a {type(value).__name__}", "a NumPy array")
    if isinstance(value, np.ma.MaskedArray):
        raise _bad(name, "is a masked array", "a plain NumPy array", "use .filled()")
    if value.dtype != np.float32:
        raise _bad(name, f"has dtype {value.dtype}", "float32", f"{name}.astype('float32')")
    if value.ndim != 2:
        raise _bad(name, f"has {value.ndim} dimensions, shape {value.shape}", "2 dimensions")
    return value


def array(value: Any, name: str, kinds: tuple[str, ...], dims: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
    """Returns ``value`` when it is a NumPy array of an allowed dtype and number of dimensions.

    Args:
        value: what the caller gave.
        name: of the argument, for the message.
        kinds: allowed dtype names (``float32``, ``uint8``).
        dims: allowed numbers of dimensions; None for any.

    Raises:
        InputError: it is not.
    """
    if type(value) is not _NDARRAY:  # the common case needs no further look
        if not isinstance(value, np.ndarray):
            raise _bad(name, f"is a {type(value).__name__}", "a NumPy array")
        if isinstance(value, np.ma.MaskedArray):
            raise _bad(name, "is a masked array", "a plain NumPy array", "use .filled()")
    if _native_name(value.dtype) not in kinds:
        raise _bad(name, f"has dtype {value.dtype}", " or ".join(kinds), f"{name}.astype('{kinds[0]}')")
    if dims is not None and value.ndim not in dims:
        allowed = " or ".join(map(str, dims))
        raise _bad(name, f"has {value.ndim} dimensions, shape {value.shape}", f"{allowed} dimensions")
    return value


@functools.cache
def _native_name(dtype: np.dtype[Any]) -> str:
    """Its name, empty in foreign byte order. NumPy makes it anew at every look, longer than a small kernel takes."""
    return dtype.name if dtype.isnative else ""


def output(out: Any, shape: tuple[int, ...], dtype: str, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A new C-contiguous array when ``out`` is None, else ``out`` when a kernel may write its result there.

    Raises:
        InputError: wrong type, dtype or shape, read-only, not C-contiguous, overlapping an input, or no memory.
    """
    if out is None:
        return floats(*shape, dtype=dtype)
    result = array(out, "out", (dtype,))
    if result.shape != shape:
        raise _bad("out", f"has shape {result.shape}", f"{shape}")
    flags = result.flags
    if not flags.writeable:
        raise _bad("out", "is read-only", "a writeable array")
    if not (flags.c_contiguous and flags.aligned):
        raise _bad("out", f"is not C-contiguous and aligned (strides {result.strides})", "a C-contiguous array")
    for x in inputs:
        if np.may_share_memory(result, x):
            raise _bad("out", "shares memory with an input", "memory of its own", "pass a copy of the input")
    return result


def contiguous(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``x`` itself when it is C-contiguous and aligned, else a copy that is."""
    return x if x.flags.num & ORDERED == ORDERED else np.array(x, order="C")


def pointer(x: npt.NDArray[Any]) -> object:
    """What C needs of a C-contiguous array (NULL when it is empty). The caller keeps ``x`` alive."""
    ffi = require_native().ffi
    return ffi.from_buffer(x) if x.size else ffi.NULL


def thread_count(threads: Any) -> int:
    """Returns ``threads`` as an int from 1 to 64. Raises InputError otherwise."""
    if type(threads) is int and 0 < threads <= MAX_THREADS:
        return threads
    integral = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not integral or not 1 <= threads <= MAX_THREADS:
        raise _bad("threads", f"is {threads!r}"[:100], f"an integer from 1 to {MAX_THREADS}")
    return int(threads)


def floats(*shape: int, dtype: str | np.dtype[Any] = _F32) -> npt.NDArray[Any]:
    """An uninitialised C-contiguous array. Raises InputError when it cannot be had."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        problem = "exceeds the address space" if size > sys.maxsize else "does not fit the memory"
        raise _bad("out", f"of shape {shape} {problem}", "fewer elements") from None


def checked_output(
    out: Any, shape: tuple[int, ...], *inputs: npt.NDArray[Any], kinds: tuple[str, ...] = ("float32",)
) -> npt.NDArray[Any]:
    """Returns ``out`` when a kernel may write its result there; its strides may be any.

    Raises:
        InputError: wrong type, dtype (not one of ``kinds``) or shape, read-only, or overlapping an input or itself.
    """
    result = array(out, "out", kinds)
    if result.shape != shape:
        raise _bad("out", f"has shape {result.shape}", f"{shape}")
    flags = result.flags
    if not flags.writeable:
        raise _bad("out", "is read-only", "a writeable array")
    if not flags.aligned or (not flags.c_contiguous and any(stride % out.itemsize for stride in result.strides)):
        raise _bad("out", f"is not aligned to its elements (strides {result.strides})", "an aligned array")
    if not flags.c_contiguous and _overlaps_itself(result):
        raise _bad("out", f"overlaps itself (strides {result.strides})", "distinct elements")
    for x in inputs:
        if _overlap(result, x):
            raise _bad("out", "shares memory with an input", "memory of its own", "pass a copy of the input")
    return result


def operand(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int, int]:
    """What C needs of a matrix of 4- or 2-byte elements: where it starts, and the strides in elements.

    The array is ``x`` itself, or a copy when the elements are not on steps of their own size (a field of packed
    records).
    """
    rows, cols = x.strides
    size = x.itemsize
    if (rows | cols) % size or not x.flags.aligned:
        return operand(x.copy())
    return x, rows // size, cols // size


def _overlap(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
    if not np.may_share_memory(x, y):
        return False
    try:
        # The stub allows only the two named limits.
        return bool(np.shares_memory(x, y, max_work=_OVERLAP_WORK))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(x: npt.NDArray[Any]) -> bool:
    """Whether two elements may share memory: sufficient for no is that rows do not reach each other."""
    steps = sorted((abs(stride), size) for stride, size in zip(x.strides, x.shape, strict=True) if size > 1)
    if not steps or 0 in x.shape:
        return False
    reach = x.itemsize
    for stride, size in steps:
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def _bad(name: str, what: str, allowed: str, hint: str = "") -> InputError:
    return InputError(Problem(f"{name} {what}", name, allowed=f"expected {allowed}", hint=hint))
