"""Functions of single elements: ``exp``, ``tanh``, ``sigmoid``, ``silu``, ``gelu``, ``swiglu``.

Inputs are float32, float16 or bf16 (uint16 codes), outputs of the same format; 16-bit formats are converted in
registers and rounded once. The C variants (csrc/activation over csrc/common/vmath.h) share one source for all
instruction sets; their largest errors are stated there and in ``ULP`` here, and tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import thread_count
from npukernels.registry import kernel, select
from npukernels.rowargs import C_TYPES, INSTRUCTION_SETS, Rows, as_rows, narrow, rows_argument, rows_output, widen
from npukernels.shortcuts import Call, Shortcut, checked_call
from npusim.errors import InputError, Problem

_UNARY = Shortcut(arrays=2, options=3, written=(1,))
_SWIGLU = Shortcut(arrays=3, options=2, written=(2,))

Float64 = npt.NDArray[np.float64]

# Largest error of the C variants in binary32 units in the last place; gelu_tanh: see ``gelu_tanh_ulp``.
ULP = {"exp": 2.0, "tanh": 2.0, "sigmoid": 2.5, "silu": 3.0, "gelu": 4.5}

# csrc/common/vmath.h: the argument y of the exponential has four roundings, worth 3 |y| ULP of the result.
GELU_TANH_ULP, GELU_TANH_ULP_PER_Y = 4.0, 3.0
GELU_TANH_LINEAR, GELU_TANH_CUBIC = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715


def exp(x: Rows, *, out: Rows | None = None, variant: str | None = None, threads: int = 1) -> Rows:
    """``e^x``; see ``silu`` for the arguments."""
    return _unary("exp", x, out, variant, threads)


def tanh(x: Rows, *, out: Rows | None = None, variant: str | None = None, threads: int = 1) -> Rows:
    """Hyperbolic tangent; see ``silu`` for the arguments."""
    return _unary("tanh", x, out, variant, threads)


def sigmoid(x: Rows, *, out: Rows | None = None, variant: str | None = None, threads: int = 1) -> Rows:
    """``1 / (1 + e^-x)``; see ``silu`` for the arguments."""
    return _unary("sigmoid", x, out, variant, threads)


def silu(x: Rows, *, out: Rows | None = None, variant: str | None = None, threads: int = 1) -> Rows:
    """``x sigmoid(x)``, also called swish.

    Args:
        x: float32, float16 or bf16 codes, at least 1-D; C-contiguous or 2-D with contiguous rows, else it is copied.
        out: C-contiguous array like ``x``; it may be ``x`` itself.
        variant: one of ``variants("silu")``; by default the fastest.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array. -0 at -infinity, its limit.

    Raises:
        InputError: bad dtype or ``out``, or a variant that does not exist or cannot run here.
    """
    return _unary("silu", x, out, variant, threads)


def gelu(
    x: Rows, *, approximate: str = "none", out: Rows | None = None, variant: str | None = None, threads: int = 1
) -> Rows:
    """``x Phi(x)`` with the normal distribution Phi, or its tanh form; other arguments as of ``silu``.

    Args:
        x: as of ``silu``.
        approximate: ``none``, or ``tanh`` for ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``
            (Hendrycks and Gimpel, arXiv 1606.08415).
        out: as of ``silu``.
        variant: as of ``silu``.
        threads: as of ``silu``.
    """
    if approximate not in ("none", "tanh"):
        problem = Problem(f"approximate is {approximate!r}"[:100], "approximate", allowed="'none' or 'tanh'")
        raise InputError(problem)
    return _unary("gelu" if approximate == "none" else "gelu_tanh", x, out, variant, threads)


def swiglu(gate: Rows, up: Rows, *, out: Rows | None = None, variant: str | None = None, threads: int = 1) -> Rows:
    """``silu(gate) up`` (Shazeer, arXiv 2002.05202); halves of one 2-D array are read in place.

    Args:
        gate: as ``x`` of ``silu``.
        up: same shape and dtype.
        out: as of ``silu``; it may be ``gate`` or ``up`` itself.
        variant: as of ``silu``.
        threads: as of ``silu``.
    """
    given = gate, up, out, variant, threads
    if (done := _SWIGLU.run(*given)) is not None:
        return done
    gate, up = rows_argument(gate, "gate"), rows_argument(up, "up")
    if gate.shape != up.shape or gate.dtype != up.dtype:
        problem = f"gate {gate.dtype} {gate.shape} and up {up.dtype} {up.shape} differ"
        raise InputError(Problem(problem, "up", allowed="the same shape and dtype"))
    chosen = select("swiglu", variant)
    result = rows_output(chosen.in_c, out, gate, up)
    made = chosen.run(gate, up, result, thread_count(threads))
    _SWIGLU.keep(given, made, result)
    return result


def _unary(op: str, x: Rows, out: Rows | None, variant: str | None, threads: int) -> Rows:
    given = x, out, op, variant, threads
    if (done := _UNARY.run(*given)) is not None:
        return done
    x = rows_argument(x, "x")
    chosen = select(op, variant)
    result = rows_output(chosen.in_c, out, x)
    made = chosen.run(x, None, result, thread_count(threads))
    _UNARY.keep(given, made, result)
    return result


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid_reference(x: Float64) -> Float64:
    """``1 / (1 + e^-x)`` without overflow: ``e^x / (1 + e^x)`` for negative x."""
    small = np.exp(-np.abs(x))
    result: Float64 = np.where(x < 0, small, 1.0) / (1 + small)
    return np.where(np.isnan(x), x, result)


def gelu_tanh_argument(x: Float64) -> Float64:
    """``y = 2 sqrt(2/pi) (x + 0.044715 x^3)``; gelu_tanh is ``x sigmoid(y)``: 1 + tanh(t) = 2 sigmoid(2 t)."""
    return x * (GELU_TANH_LINEAR + GELU_TANH_CUBIC * x * x)


def _gated(x: Float64, gate: Float64) -> Float64:
    """``x gate``, and -0 where x is minus infinity and the gate closed."""
    return np.where(np.isneginf(x), -0.0, x * gate)


REFERENCES: dict[str, Callable[[Float64], Float64]] = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": sigmoid_reference,
    "silu": lambda x: _gated(x, sigmoid_reference(x)),
    "gelu": lambda x: _gated(x, 0.5 * _erfc(-x * math.sqrt(0.5)) if x.size else x),
    "gelu_tanh": lambda x: _gated(x, sigmoid_reference(gelu_tanh_argument(x))),
}


def _register(op: str) -> None:
    """The reference in float64, rounded once, and the C variants of ``op``."""

    @kernel(op, "ref")
    def reference(x: Rows, y: Rows | None, out: Rows, threads: int) -> None:
        with np.errstate(all="ignore"):
            equation = REFERENCES["silu" if op == "swiglu" else op]
            narrow(equation(widen(x)) * (1.0 if y is None else widen(y)), out)

    function = native.constant(f"NPK_{op.upper()}")

    def compiled(isa: str) -> Callable[[Rows, Rows | None, Rows, int], Call]:
        code = native.constant(isa)

        def run(x: Rows, y: Rows | None, out: Rows, threads: int) -> Call:
            x, rows, columns, apart = as_rows(x, out)
            second, apart_second = x, apart
            if y is not None:
                second, _, _, apart_second = as_rows(y, out)
            if apart == columns == apart_second:  # one long row
                rows, columns = 1, rows * columns
                apart = apart_second = columns
            return checked_call(
                op, "npk_activation", code, function, C_TYPES[x.dtype], rows, columns, x, apart, second, apart_second,
                out, threads,
            )  # fmt: skip

        return run

    for variant, (isa, requires) in INSTRUCTION_SETS.items():
        kernel(op, variant, requires=requires)(compiled(isa))


for _op in (*REFERENCES, "swiglu"):
    _register(_op)
