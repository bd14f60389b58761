"""Golden cases: inputs that a seed determines, the result in float64, and a proven error bound.

The generator draws raw 64-bit words of PCG64, whose stream NumPy promises to keep, and makes numbers
of them by exact arithmetic: a seed gives the same bits on every machine and NumPy version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from npukernels import formats
from npusim import dtypes
from npusim.errors import InputError, Problem, unknown_name

Float64: TypeAlias = npt.NDArray[np.float64]

FILLS = ("uniform", "integer", "adversarial", "realistic")

# Unit roundoff and the smallest positive number of binary32; unit roundoff of binary64.
U32, TINY32, U64 = 2.0**-24, 2.0**-149, 2.0**-53


@dataclass(frozen=True, eq=False)
class Case:
    """A test case of one op.

    Args:
        op: name of the op.
        dtype: canonical name of the number format.
        fill: how the inputs were drawn.
        seed: what the inputs were drawn from.
        dims: the op's sizes, as given to ``golden``.
        inputs: read-only arrays, in the order the op takes them.
        expected: the result in float64.
        bound: largest error a correct kernel can make, elementwise, float64; 0 means exact.
        out_dtype: what the output holds: a NumPy dtype name (``float32``, ``int8``), or the name of a number
            format whose codes it holds (``bf16`` in uint16; ``fp8``, ``fp8_e5m2``, ``fp6``, ``fp4`` in uint8).
        params: keyword arguments of the op that are not arrays.
    """

    op: str
    dtype: str
    fill: str
    seed: int
    dims: tuple[tuple[str, int], ...]
    inputs: tuple[npt.NDArray[Any], ...]
    expected: Float64
    bound: Float64
    out_dtype: str = "float32"
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def repro(self) -> str:
        """Python code that makes this case again, as ``case``."""
        sizes = ", ".join(f"{name}={size}" for name, size in self.dims)
        return (
            f"import npukernels as nk; case = nk.golden({self.op!r}, {sizes}, dtype={self.dtype!r}, "
            f"fill={self.fill!r}, seed={self.seed})"
        )


@dataclass(frozen=True)
class Maker:
    """How test cases of one op are made.

    Args:
        sizes: names of its sizes, each with its default; None must be given.
        dtypes: number formats it has cases in.
        make: ``make(dtype, fill, seed, **sizes)``.
    """

    sizes: Mapping[str, int | None]
    dtypes: tuple[str, ...]
    make: Callable[..., Case]


_MAKERS: dict[str, Maker] = {}

Function = TypeVar("Function", bound=Callable[..., Case])


def maker(op: str, dtypes: tuple[str, ...], **sizes: int | None) -> Callable[[Function], Function]:
    """Registers the decorated function as what makes cases of ``op``; see ``Maker``."""

    def register(function: Function) -> Function:
        _MAKERS[op] = Maker(sizes, dtypes, function)
        return function

    return register


def makers() -> Mapping[str, Maker]:
    """What makes the cases of each op."""
    return dict(sorted(_MAKERS.items()))


def golden(op: str, *, dtype: str = "fp32", fill: str = "uniform", seed: int = 0, **dims: int) -> Case:
    """Makes a test case.

    Args:
        op: ``gemm``, with sizes ``m``, ``n``, ``k``.
        dtype: number format of inputs and output; an op says which it has cases in.
        fill: ``uniform`` in (-1, 1); ``integer``, small enough that every order of summation is
            exact, so that the bound is zero; ``adversarial``, magnitudes over 2^±10 in pairs that
            almost cancel, so that the result is far below its terms; ``realistic``, bell-shaped
            activations with a few channels 16 to 64 times as large, as language models have them.
        seed: any non-negative integer.
        **dims: sizes of the op, integers of at least 0.

    Raises:
        InputError: unknown op, dtype, fill or size, or a case that does not fit the memory.
    """
    if op not in _MAKERS:
        raise unknown_name("op", str(op), _MAKERS, "op")
    if fill not in FILLS:
        raise unknown_name("fill", str(fill), FILLS, "fill")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(Problem(f"seed is {seed!r}"[:100], "seed", allowed="an integer of at least 0"))
    known = _MAKERS[op]
    name = dtypes.get(dtype, "dtype").name
    if name not in known.dtypes:
        allowed = f"known: {', '.join(known.dtypes)}"
        raise InputError(Problem(f"{op} has no golden case in {name}", "dtype", allowed=allowed))
    try:
        return known.make(name, fill, int(seed), **_sizes(op, dims))
    except MemoryError:
        raise InputError(f"a {op} case of {dims} does not fit the memory") from None


def _sizes(op: str, dims: dict[str, int]) -> dict[str, int]:
    """Checks the names, types and signs of the sizes, and reports all that is wrong at once."""
    known = _MAKERS[op].sizes
    problems = [Problem(f"{op} needs {name}", name) for name in known if known[name] is None and name not in dims]
    for name, size in dims.items():
        if name not in known:
            problems.append(Problem(f"{op} has no size {name!r}", allowed=f"known: {', '.join(known)}"))
        elif isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 0 <= size < 2**40:
            problems.append(Problem(f"{name} is {size!r}"[:100], name, allowed="an integer of at least 0"))
    if problems:
        raise InputError(problems)
    return {name: int(dims.get(name, default or 0)) for name, default in known.items()}


@maker("gemm", ("fp32", "fp16", "bf16"), m=None, n=None, k=None)
def _gemm(dtype: str, fill: str, seed: int, m: int, n: int, k: int) -> Case:
    if max(m * k, k * n, m * n) >= 2**31:
        raise MemoryError
    gamma(k, U32)  # refuses a k without a bound before anything is drawn
    draw = Draw(seed)
    if fill == "integer":
        a, b = _exact_integers(draw, m, n, k)
    elif fill == "uniform":
        a, b = draw.uniform(m, k), draw.uniform(k, n)
    elif fill == "realistic":
        a, b = draw.activations(m, k), draw.bell(k, n) * 2.0**-5
    else:
        a, b = _cancelling(draw, m, n, k)
    codes = [formats.encode(x, dtype) if dtype != "fp32" else x.astype(np.float32) for x in (a, b)]
    if dtype != "fp32":
        a, b = (formats.decode(x, dtype).astype(np.float64) for x in codes)
    expected, bound = frozen(a @ b, np.zeros((m, n)) if fill == "integer" else gemm_bound(a, b))
    dims = (("m", m), ("n", n), ("k", k))
    return Case("gemm", dtype, fill, seed, dims, frozen(*codes), expected, bound)


def gemm_bound(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Float64:
    """Largest elementwise error of a correct binary32 product of ``a`` (m, k) and ``b`` (k, n).

    ``|C - Ĉ| <= gamma_k |A| |B|`` with ``gamma_k = k u / (1 - k u)``, ``u = 2^-24``, for any order of
    summation, with or without fused multiply-adds: Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., section 3.5 (3.13). Added to it: one rounding ``u |C|`` for kernels that
    accumulate more precisely and round at the end, one underflow of each product (section 2.8), and
    the error ``gamma_k`` with ``u = 2^-53`` of the float64 reference itself.
    """
    k = a.shape[1]
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    magnitude = np.abs(a64) @ np.abs(b64)
    relative = gamma(k, U32) + gamma(k, U64)
    rounded = U32 * (np.abs(a64 @ b64) + gamma(k, U64) * magnitude)
    # The bound is computed in floating point too: the last factor covers its own rounding.
    total: Float64 = (relative * magnitude + rounded + k * TINY32) * (1 + 4 * gamma(k, U64) + 8 * U64)
    return total


def gamma(k: int, u: float) -> float:
    """``k u / (1 - k u)``, the relative error of k roundings (Higham, section 3.1). Raises InputError for huge k."""
    if k * u >= 0.5:
        raise InputError(Problem(f"k = {k} is too long for an error bound", "k", allowed="k < 2^23"))
    return k * u / (1 - k * u)


class Draw:
    """Numbers from the raw words of PCG64, float64 but exact in float32."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def integers(self, low: int, high: int, *shape: int) -> Float64:
        """Integers from ``low`` to ``high`` inclusive; the range is far below 2^32, so modulo is fair."""
        words = self._bits.random_raw(math.prod(shape)).astype(np.uint64) >> np.uint64(32)
        drawn: Float64 = (words % np.uint64(high - low + 1)).astype(np.float64) + low
        return drawn.reshape(shape)

    def uniform(self, *shape: int) -> Float64:
        """Odd multiples of 2^-24 in (-1, 1): 24 significant bits, never zero."""
        return (2 * self.integers(-(2**23), 2**23 - 1, *shape) + 1) * 2.0**-24

    def bell(self, *shape: int) -> Float64:
        """Bell-shaped around zero with variance 1/3: the sum of four uniforms in (-1/2, 1/2), 24 significant bits."""
        total: Float64 = self.integers(-(2**21), 2**21 - 1, 4, *shape).sum(axis=0)
        return total * 2.0**-22

    def activations(self, rows: int, channels: int) -> Float64:
        """Activations of a language model: ``bell`` with one channel in 128 (at least one) 16 to 64 times as large.

        The same channels stand out in every row, by 20 times and more: Dettmers et al., LLM.int8(),
        arXiv:2208.07339, section 4; Xiao et al., SmoothQuant, arXiv:2211.10438, section 3.
        """
        x = self.bell(rows, channels)
        if channels:
            outliers = self.integers(0, channels - 1, max(1, channels // 128)).astype(np.int64)
            x[:, outliers] *= 2.0 ** self.integers(4, 6, 1, outliers.size)
        return x


def _exact_integers(draw: Draw, m: int, n: int, k: int) -> tuple[Float64, Float64]:
    """Integers whose partial sums all stay within 2^24, which binary32 holds exactly."""
    if k > 2**24:
        raise InputError(Problem(f"k = {k} is too long for exact sums in float32", "k", allowed="k <= 2^24"))
    largest = min(32, int((2**24 / max(k, 1)) ** 0.5))
    return draw.integers(-largest, largest, m, k), draw.integers(-largest, largest, k, n)


def _cancelling(draw: Draw, m: int, n: int, k: int) -> tuple[Float64, Float64]:
    """Column 2p + 1 of A is minus column 2p, rows of B differ by 2^-12: pairs cancel to a small rest."""
    a = draw.uniform(m, k) * 2.0 ** draw.integers(-10, 10, m, k)
    b = draw.uniform(k, n) * 2.0 ** draw.integers(-10, 10, 1, n)
    half = k // 2
    a[:, 1 : 2 * half : 2] = -a[:, 0 : 2 * half : 2]
    # Rounded to float32, because float64 work must start from what the kernel is given.
    nearly = b[0 : 2 * half : 2] * (1 + 2.0**-12 * draw.uniform(half, n))
    b[1 : 2 * half : 2] = nearly.astype(np.float32)
    return a, b


def frozen(*arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """The arrays, made read-only."""
    for array in arrays:
        array.flags.writeable = False
    return arrays
