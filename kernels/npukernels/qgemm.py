"""Matrix product of 8-bit integers, ``qgemm``: exact sums, then one named rule of requantisation.

``v[i, j] = sum over p of (A[i, p] - a_zero) (B[p, j] - b_zero[j]) + bias[j]`` is exact in every variant.
The outputs made of it are exact too, in the sense that every variant applies the same roundings:

* ``int32``: ``v``.
* ``float32``: ``fl(fl(v) * fl(a_scale[i] * b_scale[j])) + bias[j]``, every operation rounded to binary32 once.
* ``int8``, ``uint8`` with ``rounding="half_even"``: ``saturate(rint(fl(fl(v) * s[j])) + out_zero)`` with
  ``s[j] = fl(a_scale b_scale[j] / out_scale)``, ties to even, as ONNX QLinearMatMul has it.
* with ``rounding="tosa"`` or ``"tosa_double"``: ``saturate(apply_scale_32(v, multiplier[j], shift[j]) + out_zero)``
  of the TOSA 1.0 specification, single or double rounding, with ``multiplier`` and ``shift`` from ``tosa_scale``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import array, contiguous, output, thread_count
from npukernels.int8_packing import PackedInt8, prepack_int8, unpack_int8
from npukernels.registry import kernel, select
from npukernels.rescale import Rescale, finish, make_rescale
from npukernels.shortcuts import Call, Held, Shortcut, call
from npusim.errors import InputError, Problem

_QGEMM = Shortcut(arrays=10, options=9, written=(9,))

Any8: TypeAlias = npt.NDArray[Any]

_S32_MAX = 2**31 - 1
_SAFE_K = _S32_MAX // 255**2  # sums of so many products cannot leave int32


def qgemm(
    a: Any8,
    b: Any8 | PackedInt8,
    *,
    a_zero: int = 0,
    b_zero: int | Any8 = 0,
    a_scale: float | Any8 = 1.0,
    b_scale: float | Any8 = 1.0,
    bias: Any8 | None = None,
    out_dtype: str = "int32",
    out_scale: float = 1.0,
    out_zero: int = 0,
    rounding: str = "half_even",
    out: Any8 | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Any8:
    """Integer matrix product with zero points, scales and requantisation; the module text has the equations.

    Args:
        a: int8 or uint8, shape (m, k).
        b: int8 or uint8, shape (k, n), or what ``prepack_int8`` made of it.
        a_zero: zero point of ``a``, in its range.
        b_zero: zero point of ``b``, in its range; a number, or int32 of shape (n,).
        a_scale: scale of ``a``, positive; float32 of shape (m,) is allowed when the output is float32.
        b_scale: scale of ``b``, positive; a number, or float32 of shape (n,).
        bias: shape (n,), int32 (added to the sums), or float32 when the output is float32.
        out_dtype: ``int32`` (takes no scales), ``float32``, ``int8`` or ``uint8``.
        out_scale: scale of an int8 or uint8 output, positive.
        out_zero: zero point of an int8 or uint8 output.
        rounding: ``half_even``, ``tosa`` or ``tosa_double``.
        out: C-contiguous array of ``out_dtype``, shape (m, n), that shares no memory with the inputs.
        variant: one of ``variants("qgemm")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result is the same for any number.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape, zero point or scale, a ``k`` for which a sum could leave the range of
            int32, or a variant that does not exist or cannot run here.
    """
    given: tuple[Any, ...] | None = None
    if type(b) is PackedInt8:
        options = b.k, b.n, b.dtype, out_dtype, out_scale, out_zero, rounding, variant, threads
        given = a, b.panels, b.sums, b.small, a_zero, b_zero, a_scale, b_scale, bias, out, *options
        if (done := _QGEMM.run(*given)) is not None:
            return done
    x, a = a, _left(a)
    m, k = a.shape
    n = _columns(b, k)
    chosen = select("qgemm", variant)
    threads = thread_count(threads)
    result = _result(out, (m, n), out_dtype, (x, b.panels if isinstance(b, PackedInt8) else b))
    packed = b if isinstance(b, PackedInt8) else prepack_int8(b, threads=threads)
    zeros = _zero_points(a, packed, a_zero, b_zero)
    rescale = make_rescale(m, n, out_dtype, a_scale, b_scale, bias, out_scale, out_zero, rounding)
    if k > _SAFE_K or rescale.bias is not None:
        _refuse_overflow(a, packed, zeros, rescale)
    chosen.run(a, packed, zeros, rescale, result, threads)
    if given is not None and chosen.variant in _ISA:
        made = _given_call(_ISA[chosen.variant], given, a, packed, zeros, rescale, result, threads)
        _QGEMM.keep(given, made, result)
    return result


class ZeroPoints(NamedTuple):
    """Zero points as the kernels take them.

    Args:
        a: of A.
        b: int32 (n,) of B as packed, i.e. 128 less for a uint8 B; None where all are zero.
        reach: the largest distance of an int8 number from a zero point of B.
    """

    a: int
    b: npt.NDArray[np.int32] | None
    reach: int = 128


@kernel("qgemm", "ref")
def _ref(a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale, out: Any8, threads: int) -> None:
    """``V = (A - za) (B - zb) + bias`` in int64, then ``rescale.finish``."""
    left = a.astype(np.int64) - zeros.a
    right = unpack_int8(b).astype(np.int64) - (0 if zeros.b is None else zeros.b)
    finish(left @ right, rescale, out)


@kernel("qgemm", "numba")
def _numba(a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale, out: Any8, threads: int) -> None:
    """The same sums by loops that numba compiles; int32 modulo 2^32."""
    from npukernels.qgemm_numba import sums

    zero = np.zeros(b.n, np.int32) if zeros.b is None else zeros.b
    finish(sums(a, unpack_int8(b), np.int32(zeros.a), zero).astype(np.int64), rescale, out)


@kernel("qgemm", "c-generic", requires={"native"})
def _generic(a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale, out: Any8, threads: int) -> None:
    """Portable C11, 4 x 16 tile."""
    _qgemm("NPK_GENERIC", a, b, zeros, rescale, out, threads)


@kernel("qgemm", "c-avx2", requires={"native", "avx2"})
def _avx2(a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale, out: Any8, threads: int) -> None:
    """4 x 16 tiles of vpmaddwd on 16-bit numbers, or of vpmaddubsw where the weights allow it."""
    _qgemm("NPK_AVX2", a, b, zeros, rescale, out, threads)


@kernel("qgemm", "c-vnni", requires={"native", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"})
def _vnni(a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale, out: Any8, threads: int) -> None:
    """14 x 32 tile of vpdpbusd; a signed A is moved by 128."""
    _qgemm("NPK_AVX512", a, b, zeros, rescale, out, threads)


def _qgemm(isa: str, a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale, out: Any8, threads: int) -> None:
    made = call(
        "npk_qgemm", native.constant(isa), a.shape[0], b.n, b.k, a, a.shape[1], a.dtype == _S8, b.panels, b.sums,
        b.small, zeros.a, zeros.b, rescale.bias, native.constant(rescale.kind), rescale.row_scale, rescale.scale,
        rescale.float_bias, rescale.shift, rescale.double_round, rescale.zero, out, threads,
    )  # fmt: skip
    if made.status:
        native.raise_for_status(made.status, f"qgemm {a.shape} x {(b.k, b.n)}")


def _given_call(
    isa: int, given: tuple[Any, ...], a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale, out: Any8,
    threads: int,
) -> Call | None:  # fmt: skip
    """What C does for later calls like this one: it checks and converts the arrays of scales and zero points too."""
    b_zero, a_scale, b_scale, bias = given[5:9]
    arrays = [x for x in given[5:9] if isinstance(x, np.ndarray)]
    if any(x.ndim != 1 or contiguous(x) is not x for x in arrays):
        return None
    vectors = [x if isinstance(x, np.ndarray) else None for x in (b_zero, a_scale, b_scale)]
    zero = 0 if vectors[0] is not None else int(b_zero)
    scales = [1.0 if isinstance(x, np.ndarray) else float(np.float32(x)) for x in (a_scale, b_scale, given[14])]
    zero_kind = 0 if vectors[0] is None else {"int32": 4, "uint8": 1}.get(vectors[0].dtype.name, 0)
    rule = (
        native.constant(rescale.kind), rescale.double_round, b.dtype == "int8", zero_kind, zeros.a, zero,
        rescale.zero, *scales,
    )  # fmt: skip
    real = rescale.float_bias is not None
    return Call(
        0, "npk_qgemm_given", (isa, Held(native.require_native().ffi.new("npk_qgemm_rule *", rule)), a.shape[0], b.n,
        b.k, a, a.shape[1], a.dtype == _S8, b.panels, b.sums, b.small, *vectors, None if real else bias,
        bias if real else None, out, threads),
    )  # fmt: skip


def _columns(b: Any, k: int) -> int:
    """Number of columns of ``b``, checked against ``k``."""
    if isinstance(b, PackedInt8):
        rows, n = b.k, b.n
    else:
        rows, n = array(b, "b", ("int8", "uint8"), (2,)).shape
    if rows != k:
        raise InputError(Problem(f"b has {rows} rows, a has {k} columns", "b", allowed=f"b of shape ({k}, n)"))
    return n


_S8 = np.dtype("int8")
_NO_ZEROS = ZeroPoints(0, None)
_ISA = {"c-generic": native.constant("NPK_GENERIC"), "c-avx2": native.constant("NPK_AVX2")}
_ISA["c-vnni"] = native.constant("NPK_AVX512")


def _left(a: Any) -> Any8:
    return contiguous(array(a, "a", ("int8", "uint8"), (2,)))


def _result(out: Any, shape: tuple[int, int], name: Any, inputs: tuple[Any8, ...]) -> Any8:
    if not isinstance(name, str) or name not in ("int32", "float32", "int8", "uint8"):
        raise InputError(Problem(f"out_dtype is {name!r}"[:100], "out_dtype", allowed="int32, float32, int8 or uint8"))
    return output(out, shape, name, *inputs)


def _zero_points(a: Any8, b: PackedInt8, a_zero: Any, b_zero: Any) -> ZeroPoints:
    if type(a_zero) is int and type(b_zero) is int and a_zero == b_zero == 0:
        return _NO_ZEROS if b.dtype == "int8" else ZeroPoints(0, b.moved_zero, 255)
    left = _whole(a_zero, "a_zero", "int8" if a.dtype == _S8 else "uint8")
    shift = 128 if b.dtype == "uint8" else 0
    if isinstance(b_zero, np.ndarray) and b_zero.ndim:
        kinds = ("int32", "int8", "uint8")
        values = array(b_zero, "b_zero", kinds, (1,)).astype(np.int32)
        if values.shape != (b.n,):
            raise InputError(Problem(f"b_zero has shape {values.shape}", "b_zero", allowed=f"({b.n},)"))
        for value in (values.min(initial=0), values.max(initial=0)):
            _whole(value, "b_zero", b.dtype)
        moved = values - np.int32(shift)
        reach = max(127 - int(moved.min(initial=0)), int(moved.max(initial=0)) + 128)
        return ZeroPoints(left, moved if moved.any() else None, reach)
    right = _whole(b_zero, "b_zero", b.dtype) - shift
    reach = max(127 - right, right + 128)
    return ZeroPoints(left, np.full(b.n, right, np.int32) if right else None, reach)


def _whole(value: Any, name: str, dtype: str) -> int:
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise InputError(Problem(f"{name} is {value!r}"[:100], name, allowed=f"an integer from {low} to {high}"))
    return int(value)


def _refuse_overflow(a: Any8, b: PackedInt8, zeros: ZeroPoints, rescale: Rescale) -> None:
    """Refuses a k for which some operands of these dtypes and zero points would leave the range of int32."""
    low, high = (-128, 127) if a.dtype == _S8 else (0, 255)
    largest_a = max(high - zeros.a, zeros.a - low)
    bias = 0 if rescale.bias is None or not rescale.bias.size else int(np.abs(rescale.bias.astype(np.int64)).max())
    if b.k * largest_a * zeros.reach + bias > _S32_MAX:
        limit = max(0, (_S32_MAX - bias) // (largest_a * zeros.reach))
        raise InputError(
            Problem(f"k = {b.k} is so long that a sum could exceed int32", "a", allowed=f"k <= {limit} here")
        )
