"""Matrix products, ``gemm`` and ``prepack``, and their variants.

The variants differ in speed and rounding only; each is within the bound that ``golden`` proves.
``ref`` accumulates in float64. The ``c-*`` variants are one C driver with a micro-kernel per
instruction set (csrc/gemm). docs/kernels-gemm.md has the order of summation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import formats, native
from npukernels.arguments import (
    WRITABLE,
    Array,
    array,
    checked_output,
    floats,
    operand,
    thread_count,
)
from npukernels.registry import kernel, select
from npukernels.shortcuts import Call, Shortcut, call, checked_call
from npusim.errors import InputError, Problem

AnyArray: TypeAlias = npt.NDArray[Any]

KINDS = ("float32", "float16", "uint16")
FORMATS = {"fp32": "float32", "fp16": "float16", "bf16": "uint16"}

_GEMM = Shortcut(arrays=3, options=3, written=(2,))
_PACKED = Shortcut(arrays=3, options=5, written=(2,))

_F32 = np.dtype(np.float32)
_DTYPES = tuple(np.dtype(name) for name in KINDS)  # dtype.name takes microseconds; comparing dtypes does not
_C_NAMES = ("NPK_GEMM_F32", "NPK_GEMM_FP16", "NPK_GEMM_BF16")
_C_TYPES = {dtype: native.constant(name) for dtype, name in zip(_DTYPES, _C_NAMES, strict=True)}


@dataclass(frozen=True, eq=False)
class Packed:
    """A constant right-hand side in the order in which one variant reads it; see ``prepack``.

    Args:
        variant: the variant of ``gemm`` that reads it.
        shape: (k, n) of the matrix, or that of the weights of ``conv2d``.
        data: its elements, float32; for variants without an order of their own, the matrix.
    """

    variant: str
    shape: tuple[int, ...]
    data: Array


def gemm(
    a: AnyArray,
    b: AnyArray | Packed,
    *,
    out: AnyArray | None = None,
    out_dtype: str | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> AnyArray:
    """Matrix product ``C[..., i, j] = sum over p of A[..., i, p] B[..., p, j]``, summed in float32.

    Args:
        a: shape (..., m, k), any strides: float32, float16, or bfloat16 as uint16 codes.
        b: shape (..., k, n), any strides (pass ``w.T`` for weights of shape (n, k)), formats as
            ``a``, or what ``prepack`` made. Leading dimensions broadcast as in ``numpy.matmul``.
        out: shape (..., m, n), any strides; it must not share memory with ``a`` or ``b``.
        out_dtype: ``fp32``, ``fp16`` or ``bf16``; by default the format of ``out``, or ``fp32``.
            Sums of 16-bit outputs are rounded once, to nearest even.
        variant: one of ``variants("gemm")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result has the same bits for any number (``ref``
            leaves threading to NumPy).

    Returns:
        ``out``, or a new C-contiguous array. With k = 0 it is zero.

    Raises:
        InputError: bad dtype, shape or ``out``, or a variant that does not exist or cannot run here.
    """
    if type(b) is Packed:
        return _gemm_packed(a, b, out, out_dtype, variant, threads)
    given = a, b, out, out_dtype, variant, threads
    if (done := _GEMM.run(*given)) is not None:
        return done
    chosen = select("gemm", variant)
    threads = thread_count(threads)
    a, b = _factor(a, "a"), _factor(b, "b")
    if a.shape[-1] != b.shape[-2]:
        raise _mismatch(a, b.shape)
    result = _output(out, out_dtype, _product_shape(a, b), a, b, in_c=chosen.in_c)
    _GEMM.keep(given, chosen.run(a, b, result, threads), result)
    return result if out is None else out


def prepack(b: AnyArray, *, variant: str | None = None) -> Packed:
    """Puts constant weights into the order in which ``gemm`` reads them, so that it need not do so at every call.

    Args:
        b: shape (k, n), any strides: float32, float16, or bfloat16 as uint16 codes; or the weights of ``conv2d`` with
            one group, float32, (kernel height, kernel width, channels, filters).
        variant: the variant of ``gemm`` or ``conv2d`` that will read it; by default the fastest, or
            ``NPUKERNELS_VARIANT``.

    Returns:
        What ``gemm`` takes as ``b``, or ``conv2d`` as ``w``, with the same bits as result (but where ``gemm`` would
        compute dot products along memory: docs/kernels-gemm.md). It holds a copy.

    Raises:
        InputError: bad dtype or shape, an unknown variant, or no memory.
    """
    b = _factor(b, "b")
    if b.ndim == 4 and b.dtype == _F32:
        packed = prepack(b.reshape(math.prod(b.shape[:3]), b.shape[3]), variant=variant)
        return Packed(packed.variant, b.shape, packed.data)
    if b.ndim != 2:
        what = f"b has {b.ndim} dimensions, shape {b.shape}, dtype {b.dtype}"
        raise InputError(Problem(what, "b", allowed="expected 2 dimensions, or 4 in float32"))
    chosen, shape = select("gemm", variant).variant, (b.shape[0], b.shape[1])
    if chosen not in _ISA:
        return Packed(chosen, shape, as_float32(b).copy())
    lib = native.require_native().lib
    isa = _ISA[chosen]
    count = lib.npk_gemm_packed_size(isa, shape[1], shape[0])
    data = floats(1, count if count >= 0 else 2**62)[0]
    checked_call("prepack", "npk_gemm_pack", isa, shape[1], shape[0], _C_TYPES[b.dtype], *operand(b), data)
    data.flags.writeable = False
    return Packed(chosen, shape, data)


def _gemm_packed(
    a: AnyArray, b: Packed, out: AnyArray | None, out_dtype: str | None, variant: str | None, threads: Any
) -> AnyArray:
    given = a, b.data, out, b.variant, b.shape, out_dtype, variant, threads
    if (done := _PACKED.run(*given)) is not None:
        return done
    if variant is not None and select("gemm", variant).variant != b.variant:
        what = f"b is packed for variant {b.variant!r}, not {variant!r}"
        raise InputError(Problem(what, "variant", allowed=b.variant, hint=f"prepack(b, variant={variant!r})"))
    if b.variant not in _ISA and len(b.shape) == 2:
        return gemm(a, b.data, out=out, out_dtype=out_dtype, variant=b.variant, threads=threads)
    a, threads = _factor(a, "a"), thread_count(threads)
    if len(b.shape) != 2 or a.shape[-1] != b.shape[0]:
        raise _mismatch(a, b.shape)
    result = _output(out, out_dtype, (*a.shape[:-1], b.shape[1]), a, b.data)
    rows = a if a.ndim == 2 else a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
    if result.ndim == 2 and (result.dtype == _F32 or result.strides[1] == result.itemsize or result.size == 0):
        _PACKED.keep(given, _packed_product(rows, b, result, threads), result)
    else:
        flat = np.empty((rows.shape[0], b.shape[1]), result.dtype)
        _packed_product(rows, b, flat, threads)
        result[...] = flat.reshape(result.shape)
    return result


def _packed_product(a: AnyArray, b: Packed, out: AnyArray, threads: int) -> Call:
    (m, k), n = a.shape, b.shape[1]
    made = call(
        "npk_gemm_packed", _ISA[b.variant], m, n, k, _C_TYPES[a.dtype], *operand(a), b.data, _C_TYPES[out.dtype],
        *operand(out), threads,
    )  # fmt: skip
    if made.status:
        native.raise_for_status(made.status, f"gemm {a.shape} x {b.shape}")
    return made


def as_float32(x: AnyArray) -> Array:
    """The values of a matrix in any format of ``gemm``, exact; ``x`` itself when it is float32."""
    values: Array = formats.decode(x, "bf16") if x.dtype == np.uint16 else x.astype(np.float32, copy=False)
    return values


def rounded(x: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """``x`` in the format that ``dtype`` stands for, to nearest even; overflow is infinite."""
    if dtype == np.uint16:
        codes: AnyArray = formats.encode(x, "bf16", saturate=False)
        return codes
    with np.errstate(over="ignore", invalid="ignore"):
        converted: AnyArray = x.astype(dtype)
    return converted


def _factor(x: Any, name: str) -> AnyArray:
    """``x`` when it is an array of at least 2 dimensions in a format of gemm; ``ml_dtypes`` become codes."""
    if type(x) is np.ndarray and x.ndim >= 2 and x.dtype in _C_TYPES:
        return x  # the common case, without the cost of a message
    if isinstance(x, np.ndarray) and x.dtype.name == "bfloat16":
        x = x.view(np.uint16)
    factor = array(x, name, KINDS)
    if factor.ndim < 2:
        problem = f"{name} has {factor.ndim} dimensions, shape {factor.shape}"
        raise InputError(Problem(problem, name, allowed="at least 2 dimensions"))
    return factor


def _mismatch(a: AnyArray, b_shape: tuple[int, ...]) -> InputError:
    return InputError(
        Problem(f"a {a.shape} and b {b_shape} do not match", "b", allowed=f"b of shape ({a.shape[-1]}, n)")
    )


def _product_shape(a: AnyArray, b: AnyArray) -> tuple[int, ...]:
    if a.ndim == b.ndim == 2:
        return (a.shape[0], b.shape[1])
    try:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        problem = Problem(f"leading dimensions of a {a.shape} and b {b.shape} do not broadcast", "b")
        raise InputError(problem) from None
    return (*lead, a.shape[-2], b.shape[-1])


def _strided(x: AnyArray) -> bool:
    """Whether C reads the matrix where it is, through its strides."""
    return x.dtype is _F32 and x.ndim == 2 and x.flags.aligned


def _output(
    out: Any, out_dtype: str | None, shape: tuple[int, ...], a: AnyArray, b: AnyArray, *, in_c: bool = False
) -> AnyArray:
    """A new array, or ``out`` checked; of plain matrices the C side, where that runs, checks what they share."""
    if out is None and out_dtype is None:
        return floats(*shape)
    if type(out) is np.ndarray and out_dtype is None and out.dtype in _C_TYPES and out.shape == shape:
        writable = out.flags.num & WRITABLE == WRITABLE
        if in_c and writable and _strided(a) and _strided(b) and out.dtype is _F32:
            return out  # C looks for shared memory
        if writable and not (np.may_share_memory(out, a) or np.may_share_memory(out, b)):
            return out
    if out_dtype is not None and out_dtype not in FORMATS:
        raise InputError(Problem(f"out_dtype is {out_dtype!r}"[:100], "out_dtype", allowed=", ".join(FORMATS)))
    if out is None:
        return floats(*shape, dtype=FORMATS[out_dtype or "fp32"])
    if isinstance(out, np.ndarray) and out.dtype.name == "bfloat16":
        out = out.view(np.uint16)
    kinds = KINDS if out_dtype is None and isinstance(out, np.ndarray) and out.dtype.name in KINDS else None
    return checked_output(out, shape, a, b, kinds=kinds or (FORMATS[out_dtype or "fp32"],))


@kernel("gemm", "ref")
def _ref(a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> None:
    """``C = fl(A B)`` with the product in float64, rounded once."""
    if not out.size:
        return
    try:
        with np.errstate(all="ignore"):
            product = as_float32(a).astype(np.float64) @ as_float32(b).astype(np.float64)
            out[...] = rounded(product, out.dtype)
    except MemoryError:
        raise InputError(f"no memory for float64 copies of {a.shape} and {b.shape}") from None


@functools.cache
def _numba_product() -> Callable[[Array, Array, Array], None]:
    """Compiles the product at its first use, for numba is slow to import."""
    from numba import njit

    block = 256

    @njit(nogil=True)
    def product(a: Array, b: Array, c: Array) -> None:
        (m, k), n = a.shape, b.shape[1]
        for pc in range(0, k, block):
            for jc in range(0, n, block):
                for i in range(m):
                    row = c[i, jc : jc + block]
                    for p in range(pc, min(pc + block, k)):
                        x, line = a[i, p], b[p, jc : jc + block]
                        for j in range(row.size):
                            row[j] += x * line[j]

    compiled: Callable[[Array, Array, Array], None] = product
    return compiled


@kernel("gemm", "numba")
def _numba(a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> None:
    """Rows of C in float32, a block of B at a time; one thread."""
    if out.size == 0 or a.shape[-1] == 0:
        out[...] = 0
        return
    product, lead = _numba_product(), out.shape[:-2]
    a32, b32 = as_float32(a), as_float32(b)
    left, right = np.broadcast_to(a32, (*lead, *a.shape[-2:])), np.broadcast_to(b32, (*lead, *b.shape[-2:]))
    for index in np.ndindex(lead):
        sums = np.zeros(out.shape[-2:], np.float32)
        product(np.ascontiguousarray(left[index]), np.ascontiguousarray(right[index]), sums)
        out[index] = rounded(sums, out.dtype)


_ISA = {name: native.constant(f"NPK_{name[2:].upper()}") for name in ("c-generic", "c-avx2", "c-avx512")}


@kernel("gemm", "c-generic", requires={"native"})
def _generic(a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> Call | None:
    """Portable C11, 4 x 8 tile."""
    return _native(_ISA["c-generic"], a, b, out, threads)


@kernel("gemm", "c-avx2", requires={"native", "avx2", "fma", "f16c"})
def _avx2(a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> Call | None:
    """6 x 16 tile of fused multiply-adds."""
    return _native(_ISA["c-avx2"], a, b, out, threads)


@kernel("gemm", "c-avx512", requires={"native", "avx512f", "f16c"})
def _avx512(a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> Call | None:
    """14 x 32 tile of fused multiply-adds."""
    return _native(_ISA["c-avx512"], a, b, out, threads)


def _native(isa: int, a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> Call | None:
    """The call of C when one did it all."""
    if not (a.dtype is b.dtype is out.dtype is _F32 and a.ndim == b.ndim == 2):
        return _native_batch(isa, a, b, out, threads)
    m, k = a.shape
    made = call("npk_sgemm", isa, m, b.shape[1], k, *operand(a), *operand(b), *operand(out), threads)
    if made.status == native.constant("NPK_EALIAS"):
        checked_output(out, out.shape, a, b)  # C looks at ranges of addresses; between their elements there may be room
        fresh = floats(*out.shape)
        _native(isa, a, b, fresh, threads)
        out[...] = fresh
        return None
    if made.status:
        native.raise_for_status(made.status, f"gemm {a.shape} x {b.shape}")
    return made


def _native_batch(isa: int, a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> Call | None:
    """Any formats and leading dimensions: the innermost of these is a loop in C, the others loop here."""
    if out.size == 0:
        return None
    lead = out.shape[:-2]
    if lead:
        a, b = (np.broadcast_to(_readable(x), (*lead, *x.shape[-2:])) for x in (a, b))
    else:
        a, b = _readable(a), _readable(b)
    target = out
    if out.itemsize == 2 and out.shape[-1] > 1 and out.strides[-1] != 2:
        target = np.empty(out.shape, out.dtype)
    if len(lead) <= 1:
        made = _one_batch(isa, a, b, target, threads)
    else:
        made = None
        for index in np.ndindex(lead[:-1]):
            _one_batch(isa, a[index], b[index], target[index], threads)
    if target is not out:
        out[...] = target
        return None
    return made


def _readable(x: AnyArray) -> AnyArray:
    """``x``, or a copy when its elements are not on steps of their own size."""
    aligned = x.flags.aligned and not any(step % x.itemsize for step in x.strides)
    return x if aligned else np.array(x, order="C")


def _one_batch(isa: int, a: AnyArray, b: AnyArray, out: AnyArray, threads: int) -> Call:
    stack = out.ndim == 3
    batch, (m, k), n = out.shape[0] if stack else 1, a.shape[-2:], b.shape[-1]

    def pieces(x: AnyArray) -> tuple[int, AnyArray, int, int, int]:
        steps = [stride // x.itemsize for stride in x.strides]
        columns = 1 if x.shape[-1] <= 1 else steps[-1]
        return _C_TYPES[x.dtype], x, steps[0] if stack else 0, steps[-2], columns

    made = call("npk_gemm", isa, batch, m, n, k, *pieces(a), *pieces(b), *pieces(out), threads)
    if made.status:
        native.raise_for_status(made.status, f"gemm {a.shape} x {b.shape}")
    return made
