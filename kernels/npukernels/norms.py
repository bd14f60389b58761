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
from npukernels.arguments import thread_count
from npukernels.registry import kernel, select
from npukernels.rowargs import (
    C_TYPES,
    INSTRUCTION_SETS,
    Rows,
    as_rows,
    narrow,
    positive,
    rows_argument,
    rows_output,
    vector,
    widen,
)
from npukernels.shortcuts import Call, Shortcut, checked_call
from npusim.errors import InputError, Problem

_LAYERNORM = Shortcut(arrays=4, options=3, written=(3,))
_RMSNORM = Shortcut(arrays=4, options=3, written=(2, 3))
_SOFTMAX = Shortcut(arrays=2, options=3, written=(1,))

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
    given = x, weight, bias, out, eps, variant, threads
    if (done := _LAYERNORM.run(*given)) is not None:
        return done
    x = rows_argument(x, "x")
    columns = x.shape[-1]
    if weight is not None:
        weight = vector(weight, "weight", columns)
    if bias is not None:
        bias = vector(bias, "bias", columns)
    chosen = select("layernorm", variant)
    result = rows_output(chosen.in_c, out, x, weight, bias)
    made = chosen.run(x, weight, bias, positive(eps, "eps"), result, thread_count(threads))
    _LAYERNORM.keep(given, made, result)
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
    given = x, weight, residual, out, eps, variant, threads
    if (done := _RMSNORM.run(*given)) is not None:
        return done
    x = rows_argument(x, "x")
    if weight is not None:
        weight = vector(weight, "weight", x.shape[-1])
    chosen = select("rmsnorm", variant)
    if residual is not None:
        residual = _residual(residual, x, weight)
    result = rows_output(chosen.in_c, out, x, weight)
    if residual is not None and np.may_share_memory(result, residual):
        raise InputError(Problem("out shares memory with residual", "out", allowed="memory of its own"))
    made = chosen.run(x, weight, positive(eps, "eps"), residual, result, thread_count(threads))
    _RMSNORM.keep(given, made, result)
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
    given = x, out, log, variant, threads
    if (done := _SOFTMAX.run(*given)) is not None:
        return done
    x = rows_argument(x, "x")
    chosen = select("softmax", variant)
    result = rows_output(chosen.in_c, out, x)
    made = chosen.run(x, bool(log), result, thread_count(threads))
    _SOFTMAX.keep(given, made, result)
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


def _register(variant: str, isa: str, requires: tuple[str, ...]) -> None:
    """The C variants for one instruction set."""
    code = native.constant(isa)

    @kernel("layernorm", variant, requires=requires)
    def layernorm_c(x: Rows, weight: Vector, bias: Vector, eps: float, out: Rows, threads: int) -> Call:
        x, rows, columns, apart = as_rows(x, out)
        return checked_call(
            "layernorm", "npk_layernorm", code, C_TYPES[x.dtype], rows, columns, x, apart, weight, bias, eps, out,
            threads,
        )  # fmt: skip

    @kernel("rmsnorm", variant, requires=requires)
    def rmsnorm_c(x: Rows, weight: Vector, eps: float, residual: Rows | None, out: Rows, threads: int) -> Call:
        x, rows, columns, apart = as_rows(x, out)
        return checked_call(
            "rmsnorm", "npk_rmsnorm", code, C_TYPES[x.dtype], rows, columns, x, apart, weight, eps, residual, out,
            threads,
        )  # fmt: skip

    @kernel("softmax", variant, requires=requires)
    def softmax_c(x: Rows, log: bool, out: Rows, threads: int) -> Call:
        x, rows, columns, apart = as_rows(x, out)
        return checked_call(
            "softmax", "npk_softmax", code, C_TYPES[x.dtype], log, rows, columns, x, apart, out, threads
        )


for _variant, (_isa, _requires) in INSTRUCTION_SETS.items():
    _register(_variant, _isa, _requires)
