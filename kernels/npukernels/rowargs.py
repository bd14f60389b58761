"""What the ops on rows share: number formats, operands as rows, and outputs that may be the input itself."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import formats, native
from npukernels.arguments import ORDERED, WRITABLE, array, output
from npusim.errors import InputError, Problem

Rows: TypeAlias = npt.NDArray[Any]

_NDARRAY = np.ndarray  # found in one step, an attribute of the module in two
_F32 = np.dtype(np.float32)

# The constant that stands for an array's number format in C. By dtype, as ``dtype.name`` takes microseconds.
C_TYPES = {
    np.dtype(np.float32): native.constant("NPK_FP32"),
    np.dtype(np.uint16): native.constant("NPK_BF16"),
    np.dtype(np.float16): native.constant("NPK_FP16"),
}

# Of the C variants: the constant of the instruction set, and what it needs.
INSTRUCTION_SETS = {
    "c-generic": ("NPK_GENERIC", ("native",)),
    "c-avx2": ("NPK_AVX2", ("native", "avx2", "fma", "f16c")),
    "c-avx512": ("NPK_AVX512", ("native", "avx512f")),
}


def rows_argument(value: Any, name: str) -> Rows:
    """``value`` as an array of float32, float16 or bf16 codes (uint16; a bfloat16 array is seen as its codes).

    Raises:
        InputError: it is not one, or has no dimension.
    """
    if type(value) is _NDARRAY and value.dtype in C_TYPES and value.ndim:
        return value  # the common case, without the cost of a message
    if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16":
        value = value.view(np.uint16)
    x = array(value, name, ("float32", "float16", "uint16"))
    if x.ndim == 0:
        raise InputError(Problem(f"{name} has 0 dimensions", name, allowed="expected at least 1 dimension"))
    return x.view(np.ndarray)


def vector(value: Any, name: str, size: int) -> Rows | None:
    """``value`` as a contiguous float32 vector of ``size`` elements; None stays None. Raises InputError otherwise."""
    if value is None:
        return None
    plain = type(value) is _NDARRAY and value.dtype is _F32 and value.shape == (size,)
    if plain and value.flags.num & ORDERED == ORDERED:
        return value  # type: ignore[no-any-return]  # the common case, without the cost of a message
    x = array(value, name, ("float32",), (1,))
    if x.size != size:
        raise InputError(Problem(f"{name} has {x.size} elements", name, allowed=f"expected {size}"))
    return x if x.flags.c_contiguous and x.flags.aligned else np.array(x)


def positive(value: Any, name: str) -> float:
    """``value`` as a finite float above zero. Raises InputError otherwise."""
    if type(value) is float and 0 < value < math.inf:
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise InputError(Problem(f"{name} is {value!r}"[:100], name, allowed="a number above 0"))
    if not 0 < value < math.inf:
        raise InputError(Problem(f"{name} is {value!r}", name, allowed="a finite number above 0"))
    return float(value)


def rows_output(in_c: bool, out: Any, x: Rows, *others: Rows | None) -> Rows:
    """A new array like ``x``, or ``out``, which may be ``x`` itself when that is C-contiguous.

    Args:
        in_c: whether ``as_rows`` and a C function will take the arrays; these look for shared memory themselves.
        out: what the caller gave.
        x: the input that ``out`` is like.
        others: further inputs; None are skipped.

    Raises:
        InputError: wrong dtype, shape or layout, read-only, or sharing memory with an input other than as a whole.
    """
    if in_c and type(out) is _NDARRAY and out.dtype == x.dtype and out.shape == x.shape:
        flags: int = out.flags.num
        if flags & WRITABLE == WRITABLE:
            return out
    present = [x, *(other for other in others if other is not None)]
    if isinstance(out, np.ndarray) and out.dtype.name == "bfloat16":
        out = out.view(np.uint16)
    return output(out, x.shape, x.dtype.name, *(other for other in present if not same(out, other)))


def same(out: Any, x: Rows) -> bool:
    """Whether ``out`` is the very elements of ``x``, in order."""
    return (
        isinstance(out, np.ndarray)
        and out.dtype == x.dtype
        and out.shape == x.shape
        and out.strides == x.strides
        and (out is x or out.__array_interface__["data"] == x.__array_interface__["data"])
    )


def as_rows(x: Rows, out: Rows | None = None) -> tuple[Rows, int, int, int]:
    """``x`` seen as rows: an array that starts where ``x`` does, rows, columns, elements from row to row.

    Read in place when it is C-contiguous, or 2-D with contiguous aligned rows; else copied.

    Raises:
        InputError: it is copied, so that C cannot see that ``out`` shares its memory.
    """
    columns = x.shape[-1]
    if x.flags.num & ORDERED != ORDERED:
        size = x.itemsize
        apart = x.strides[0] if x.ndim == 2 else 1
        if x.ndim != 2 or x.strides[1] != size or apart % size or not x.flags.aligned or not x.size:
            if out is not None and np.may_share_memory(out, x):
                native.raise_for_status(native.require_native().lib.NPK_EALIAS, "")
            x = np.array(x, order="C")
        else:
            return x, x.shape[0], columns, apart // size
    return x, x.size // columns if columns else 0, columns, columns


def widen(x: Rows) -> npt.NDArray[np.float64]:
    """The numbers that ``x`` holds, in float64, in C order, so that NumPy sums them alike for any layout."""
    return (formats.decode(x, "bf16") if x.dtype == np.uint16 else x).astype(np.float64, order="C")


def narrow(x: npt.NDArray[np.float64], out: Rows) -> None:
    """Rounds ``x`` once, to the number format of ``out``."""
    with np.errstate(over="ignore", under="ignore"):
        out[...] = formats.encode(x, "bf16", saturate=False) if out.dtype == np.uint16 else x
