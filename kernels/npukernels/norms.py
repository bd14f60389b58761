"""Normalisations of rows: ``layernorm``, ``rmsnorm``, ``softmax``.

Inputs are float32, float16 or bf16 (uint16 codes), outputs of the same format, weights float32; sums are float32.
The C variants (csrc/rows) read a row two or three times while it is in cache; 16-bit formats are converted in
registers and rounded once. Squares are taken in float32: numbers beyond 2^63 overflow, as on an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import pointer, thread_count
from npukernels.registry import kernel, select
from npukernels.rowargs import (
    INSTRUCTION_SETS,
    Rows,
    as_rows,
    c_type,
    narrow,
    positive,
    rows_argument,
    rows_output,
    vector,
    widen,
)
from npusim.errors import InputError, Problem

Float64 = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32] | None


def layernorm(
    x: Rows,
    weight: Vector = None,
    bias: Vector = None,
    *,
    eps: float = 1e-5,
    out: Rows | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Rows:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axis (Ba et al., arXiv 1607.06450).

    Args:
        x: float32, float16 or bf16 codes, shape (..., n); read in place when it is C-contiguous or 2-D with contiguous
            rows, else copied.
        weight: float32, shape (n,); None for 1.
        bias: float32, shape (n,); None for 0.
        eps: added to the variance, above zero.
        out: C-contiguous array like ``x``; it may be ``x`` itself.
        variant: one of ``variants("layernorm")``; by default the fastest.
        threads: threads to use, 1 to 64; the result has the same bits for any number (``ref``, ``numba``: one thread).

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape or ``out``, or a variant that does not exist or cannot run here.
    """
    x = rows_argument(x, "x")
    weight, bias = vector(weight, "weight", x.shape[-1]), vector(bias, "bias", x.shape[-1])
    run = select("layernorm", variant).run
    result = rows_output(out, x, weight, bias)
    run(x, weight, bias, positive(eps, "eps"), result, thread_count(threads))
    return result


def rmsnorm(
    x: Rows,
    weight: Vector = None,
    *,
    eps: float = 1e-6,
    residual: Rows | None = None,
    out: Rows | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Rows:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis (Zhang and Sennrich, arXiv 1910.07467).

    Args:
        x: as of ``layernorm``.
        weight: float32, shape (n,); None for 1.
        eps: added to the mean square, above zero.
        residual: C-contiguous array like ``x``, not ``x`` itself. It becomes ``x + residual``, rounded to its format,
            and that is normalised instead of ``x``: one pass over memory for the two steps of a decoder layer.
        out: as of ``layernorm``.
        variant: as of ``layernorm``.
        threads: as of ``layernorm``.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape, ``residual`` or ``out``, or a variant that does not exist or cannot run here.
    """
    x = rows_argument(x, "x")
    weight = vector(weight, "weight", x.shape[-1])
    run = select("rmsnorm", variant).run
    if residual is not None:
        residual = _residual(residual, x, weight)
    result = rows_output(out, x, weight)
    if residual is not None and np.may_share_memory(result, residual):
        raise InputError(Problem("out shares memory with residual", "out", allowed="memory of its own"))
    run(x, weight, positive(eps, "eps"), residual, result, thread_count(threads))
    return result


def _residual(residual: Any, x: Rows, weight: Vector) -> Rows:
    """``residual`` when it can be added to, in place. Raises InputError otherwise."""
    checked = rows_argument(residual, "residual")
    if checked.shape != x.shape or checked.dtype != x.dtype:
        allowed = f"{x.dtype} {x.shape}"
        raise InputError(Problem(f"residual is {checked.dtype} {checked.shape}", "residual", allowed=allowed))
    flags = checked.flags
    if not (flags.writeable and flags.c_contiguous and flags.aligned):
        problem = Problem(
            "residual is read-only or not contiguous", "residual", allowed="a writeable C-contiguous array"
        )
        raise InputError(problem)
    if np.may_share_memory(checked, x) or (weight is not None and np.may_share_memory(checked, weight)):
        raise InputError(Problem("residual shares memory with an input", "residual", allowed="memory of its own"))
    return checked


def softmax(
    x: Rows,
    *,
    log: bool = False,
    out: Rows | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Rows:
    """``exp(x - max) / sum(exp(x - max))`` over the last axis, or its logarithm.

    Args:
        x: as of ``layernorm``. A row with NaN or +infinity, or only -infinity, becomes NaN.
        log: whether to return ``x - max - log(sum(exp(x - max)))``.
        out: as of ``layernorm``.
        variant: as of ``layernorm``.
        threads: as of ``layernorm``.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape or ``out``, or a variant that does not exist or cannot run here.
    """
    x = rows_argument(x, "x")
    run = select("softmax", variant).run
    result = rows_output(out, x)
    run(x, bool(log), result, thread_count(threads))
    return result


def layernorm_reference(x: Float64, weight: Vector, bias: Vector, eps: float) -> Float64:
    """The equation of ``layernorm`` in float64."""
    centred = x - x.mean(axis=-1, keepdims=True)
    y: Float64 = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)
    return y * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


def rmsnorm_reference(x: Float64, weight: Vector, eps: float) -> Float64:
    """The equation of ``rmsnorm`` in float64."""
    y: Float64 = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)
    return y * (1.0 if weight is None else weight)


def softmax_reference(x: Float64, log: bool) -> Float64:
    """The equation of ``softmax`` in float64."""
    shifted = x - x.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=-1, keepdims=True)
    result: Float64 = shifted - np.log(total) if log else powers / total
    return result


@kernel("layernorm", "ref")
def _layernorm_ref(x: Rows, weight: Vector, bias: Vector, eps: float, out: Rows, threads: int) -> None:
    if out.size:
        with np.errstate(all="ignore"):
            narrow(layernorm_reference(widen(x), weight, bias, eps), out)


@kernel("rmsnorm", "ref")
def _rmsnorm_ref(x: Rows, weight: Vector, eps: float, residual: Rows | None, out: Rows, threads: int) -> None:
    if out.size:
        with np.errstate(all="ignore"):
            narrow(rmsnorm_reference(widen(_joined(x, residual)), weight, eps), out)


@kernel("softmax", "ref")
def _softmax_ref(x: Rows, log: bool, out: Rows, threads: int) -> None:
    if out.size:
        with np.errstate(all="ignore"):
            narrow(softmax_reference(widen(x), log), out)


def _joined(x: Rows, residual: Rows | None) -> Rows:
    """``x``, or ``residual`` after ``x`` has been added to it in float32 and rounded to its format."""
    if residual is None:
        return x
    total = widen(x).astype(np.float32) + widen(residual).astype(np.float32)
    narrow(total.astype(np.float64), residual)
    return residual


def _by_numba(loop: Callable[..., Any], x: Rows, out: Rows, *parameters: Any) -> None:
    """Runs a loop over float32 rows; 16-bit formats are widened and narrowed around it."""
    rows, columns = (x.size // x.shape[-1] if x.size else 0), x.shape[-1]
    wide = x if x.dtype == np.float32 else widen(x).astype(np.float32)
    result = out if out.dtype == np.float32 else np.empty(out.shape, np.float32)
    loop(np.ascontiguousarray(wide).reshape(rows, columns), *parameters, result.reshape(rows, columns))
    if result is not out:
        narrow(result.astype(np.float64), out)


@kernel("layernorm", "numba")
def _layernorm_numba(x: Rows, weight: Vector, bias: Vector, eps: float, out: Rows, threads: int) -> None:
    from npukernels.numba_rows import compiled

    n = x.shape[-1]
    ones = np.ones(n, np.float32) if weight is None else weight
    _by_numba(compiled("layernorm"), x, out, ones, np.zeros(n, np.float32) if bias is None else bias, np.float32(eps))


@kernel("rmsnorm", "numba")
def _rmsnorm_numba(x: Rows, weight: Vector, eps: float, residual: Rows | None, out: Rows, threads: int) -> None:
    from npukernels.numba_rows import compiled

    ones = np.ones(x.shape[-1], np.float32) if weight is None else weight
    _by_numba(compiled("rmsnorm"), _joined(x, residual), out, ones, np.float32(eps))


@kernel("softmax", "numba")
def _softmax_numba(x: Rows, log: bool, out: Rows, threads: int) -> None:
    from npukernels.numba_rows import compiled

    _by_numba(compiled("softmax"), x, out, log)


def _pointer(x: Rows | None) -> object:
    return native.require_native().ffi.NULL if x is None else pointer(x)


def _register(variant: str, isa: str, requires: tuple[str, ...]) -> None:
    """The C variants for one instruction set."""

    @kernel("layernorm", variant, requires=requires)
    def layernorm_c(x: Rows, weight: Vector, bias: Vector, eps: float, out: Rows, threads: int) -> None:
        lib, type_ = native.require_native().lib, c_type(x)
        x, (source, rows, columns, apart) = as_rows(x)
        parameters = _pointer(weight), _pointer(bias), eps, pointer(out), threads
        _checked(lib.npk_layernorm(getattr(lib, isa), type_, rows, columns, source, apart, *parameters), x)

    @kernel("rmsnorm", variant, requires=requires)
    def rmsnorm_c(x: Rows, weight: Vector, eps: float, residual: Rows | None, out: Rows, threads: int) -> None:
        lib, type_ = native.require_native().lib, c_type(x)
        x, (source, rows, columns, apart) = as_rows(x)
        parameters = _pointer(weight), eps, _pointer(residual), pointer(out), threads
        _checked(lib.npk_rmsnorm(getattr(lib, isa), type_, rows, columns, source, apart, *parameters), x)

    @kernel("softmax", variant, requires=requires)
    def softmax_c(x: Rows, log: bool, out: Rows, threads: int) -> None:
        lib, type_ = native.require_native().lib, c_type(x)
        x, (source, rows, columns, apart) = as_rows(x)
        _checked(lib.npk_softmax(getattr(lib, isa), type_, log, rows, columns, source, apart, pointer(out), threads), x)


def _checked(status: int, x: Rows) -> None:
    if status:
        native.raise_for_status(status, f"rows of {x.shape}")


for _variant, (_isa, _requires) in INSTRUCTION_SETS.items():
    _register(_variant, _isa, _requires)
