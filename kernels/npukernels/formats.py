"""Number formats in NumPy: the codes of every format, rounding to them, and packing.

One rule serves all floating-point formats (IEEE 754-2019, 3.4; OCP 8-bit Floating Point Specification
(OFP8) v1.0, section 5; OCP Microscaling Formats (MX) v1.0, section 5.3). With m mantissa bits, bias b
and smallest exponent ``emin = 1 - b``, the number ``x`` of exponent ``E = max(floor(log2 |x|), emin)``
is rounded to ``q = rint(|x| / 2^(E - m))`` steps, ties to even, and has the magnitude code
``(E - emin) 2^m + q``: a mantissa that rounds up to 2^(m+1) carries into the exponent by itself, and
subnormals are the case ``E = emin``. A code beyond the largest finite one is an overflow.

What the specifications leave open: NaN becomes the quiet NaN without payload, keeping its sign, in both
directions; formats that have no NaN (fp6, fp4, integers) encode it as +0, and always saturate.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npusim import dtypes
from npusim.errors import InputError, Problem, unknown_name

Codes: TypeAlias = npt.NDArray[Any]
Float32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format: sign, exponent, mantissa, from the highest bit to the lowest.

    Args:
        name: canonical name.
        exponent_bits: width of the exponent field.
        mantissa_bits: width of the mantissa field.
        bias: what is subtracted from the exponent field.
        max_code: magnitude code of the largest finite number.
        inf_code: magnitude code of infinity; None when the format has none.
        nan_code: magnitude code that NaN is encoded as; None when the format has none.
        saturates: whether overflow gives the largest finite number unless the caller says otherwise.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    max_code: int
    inf_code: int | None = None
    nan_code: int | None = None
    saturates: bool = True

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def sign_code(self) -> int:
        """Code of minus zero."""
        return 1 << (self.bits - 1)

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite number."""
        return (self.max_code >> self.mantissa_bits) - self.bias

    @property
    def max(self) -> float:
        """The largest finite number."""
        fraction = self.max_code & ((1 << self.mantissa_bits) - 1)
        return float(2.0**self.emax * (1 + fraction / 2**self.mantissa_bits))


@dataclass(frozen=True)
class IntFormat:
    """An integer format, two's complement when it is signed.

    Args:
        name: canonical name.
        bits: bits of one element.
        signed: whether it holds negative numbers.
    """

    name: str
    bits: int
    signed: bool = True

    @property
    def low(self) -> int:
        """The smallest number."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest number."""
        return (1 << (self.bits - self.signed)) - 1


@dataclass(frozen=True)
class ScaleFormat:
    """E8M0: a power of two, code c stands for 2^(c - 127); no sign, no zero, NaN is 255 (MX v1.0, 5.4.1)."""

    name: str = "e8m0"
    bits: int = 8


AnyFormat: TypeAlias = FloatFormat | IntFormat | ScaleFormat

FORMATS: dict[str, AnyFormat] = {
    f.name: f
    for f in (
        FloatFormat("fp16", 5, 10, 15, 0x7BFF, 0x7C00, 0x7E00, saturates=False),
        FloatFormat("bf16", 8, 7, 127, 0x7F7F, 0x7F80, 0x7FC0, saturates=False),
        FloatFormat("fp8", 4, 3, 7, 0x7E, None, 0x7F),
        FloatFormat("fp8_e5m2", 5, 2, 15, 0x7B, 0x7C, 0x7E),
        FloatFormat("fp6", 2, 3, 1, 0x1F),
        FloatFormat("fp6_e3m2", 3, 2, 3, 0x1F),
        FloatFormat("fp4", 2, 1, 1, 0x7),
        ScaleFormat(),
        IntFormat("int8", 8),
        IntFormat("int4", 4),
        IntFormat("uint8", 8, signed=False),
        IntFormat("uint4", 4, signed=False),
    )
}


def get_format(name: str, path: str = "fmt") -> AnyFormat:
    """Returns the element format called ``name``: ``fp8`` is e4m3fn, ``fp6`` is e2m3.

    Raises:
        InputError: no such format, or one without codes of its own.
    """
    key = str(name).lower()
    key = dtypes.ALIASES.get(key, key)
    if key not in FORMATS:
        raise unknown_name("number format", str(name), FORMATS, path)
    return FORMATS[key]


def encode(x: npt.ArrayLike, fmt: str, saturate: bool | None = None) -> Codes:
    """Rounds real numbers to the nearest of ``fmt``, ties to even, in one rounding.

    Args:
        x: real numbers of any shape; what float64 holds is rounded from exactly.
        fmt: number format.
        saturate: whether what exceeds the largest finite number, infinity too, becomes that number
            (OFP8 "SAT"); if not, it becomes infinity, or NaN in fp8 e4m3 ("NONSAT"). By default True
            for fp8 and e8m0, False for fp16 and bf16. fp6, fp4 and integers always saturate.

    Returns:
        Codes in the shape of ``x``, one element each: float16 for fp16, uint16 for bf16, int8 for
        int8 and int4, else uint8.

    Raises:
        InputError: unknown format, or ``x`` is not an array of real numbers.
    """
    f = get_format(fmt)
    values = _real(x)
    if isinstance(f, IntFormat):
        kind = np.int8 if f.signed else np.uint8
        rounded = np.rint(np.where(np.isnan(values), 0.0, values))
        return np.asarray(np.clip(rounded, f.low, f.high).astype(kind))
    if isinstance(f, ScaleFormat):
        return _encode_scale(values, saturate is None or bool(saturate))
    codes = _encode_float(values, f, f.saturates if saturate is None else bool(saturate))
    return codes.view(np.float16) if f.name == "fp16" else codes


def decode(codes: npt.ArrayLike, fmt: str) -> Float32:
    """The numbers that ``codes`` stand for, exactly.

    Args:
        codes: one element each, as ``encode`` returns them; an array of another type of the same width
            (float16, ml_dtypes) is read by its bits.
        fmt: their number format.

    Returns:
        float32 in the shape of ``codes``.

    Raises:
        InputError: unknown format, a wrong width, or codes that need more bits than the format has.
    """
    f = get_format(fmt)
    if isinstance(f, IntFormat):
        return as_codes(codes, f).astype(np.float32)
    table: Float32 = _table(f.name)
    return np.asarray(table[as_codes(codes, f)])


def as_codes(codes: npt.ArrayLike, f: AnyFormat) -> Codes:
    """``codes`` as an integer array of the storage type of ``f``; a view where the width allows it.

    Raises:
        InputError: a wrong width, or a code out of the range of the format.
    """
    array, kind = np.asarray(codes), _storage(f)
    if array.dtype.itemsize == kind.itemsize and not array.dtype.hasobject and array.dtype.isnative:
        array = array.view(kind)
    elif array.dtype.kind not in "iu":
        raise _bad("codes", f"have dtype {array.dtype}", f"{kind} for {f.name}")
    if f.bits == 8 * kind.itemsize and array.dtype == kind:
        return array
    low, high = (f.low, f.high) if isinstance(f, IntFormat) else (0, (1 << f.bits) - 1)
    if array.size and (array.min() < low or array.max() > high):
        raise _bad("codes", f"of {f.name} are outside its {f.bits} bits", f"{low} to {high}")
    return array.astype(kind, copy=False)


def pack(codes: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint8]:
    """Packs codes of 4 or 6 bits along the last axis, the first element in the lowest bits.

    Two 4-bit codes take a byte and four 6-bit codes three bytes (little-endian); missing codes at the
    end are 0.

    Args:
        codes: integers, shape (..., n); only the lowest ``bits`` of each are taken.
        bits: 4, 6 or 8.

    Returns:
        uint8, shape (..., ceil(n / 2)), (..., 3 ceil(n / 4)) or (..., n).

    Raises:
        InputError: other ``bits``, no axis, or codes that are not integers.
    """
    array = np.asarray(codes)
    per_group, group_bytes = _group(bits)
    if array.dtype.kind not in "iu" or array.ndim == 0:
        raise _bad("codes", f"are {array.dtype} in {array.ndim} dimensions", "integers in at least 1 dimension")
    low = array.astype(np.uint8) & np.uint8((1 << bits) - 1)  # the cast keeps the low bits of negative codes
    *outer, n = low.shape
    groups = -(-n // per_group)
    padded = np.zeros((*outer, groups * per_group), np.uint8)
    padded[..., :n] = low
    words = np.zeros((*outer, groups), np.uint32)
    for i in range(per_group):
        words |= padded[..., i::per_group].astype(np.uint32) << np.uint32(i * bits)
    parts = [(words >> np.uint32(8 * i)).astype(np.uint8) for i in range(group_bytes)]
    return np.stack(parts, axis=-1).reshape(*outer, groups * group_bytes)


def unpack(packed: npt.ArrayLike, bits: int, count: int, *, signed: bool = False) -> Codes:
    """Undoes ``pack``.

    Args:
        packed: uint8, shape (..., bytes).
        bits: 4, 6 or 8.
        count: codes along the last axis.
        signed: whether codes are two's complement (int4).

    Returns:
        uint8, or int8 when signed, shape (..., count).

    Raises:
        InputError: other ``bits``, a wrong dtype, or fewer or more bytes than ``count`` codes take.
    """
    array = np.asarray(packed)
    per_group, group_bytes = _group(bits)
    if array.dtype != np.uint8 or array.ndim == 0:
        raise _bad("packed", f"is {array.dtype} in {array.ndim} dimensions", "uint8 in at least 1 dimension")
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
        raise _bad("count", f"is {count!r}"[:100], "an integer of at least 0")
    groups = -(-int(count) // per_group)
    if array.shape[-1] != groups * group_bytes:
        raise _bad("packed", f"has {array.shape[-1]} bytes a row", f"{groups * group_bytes} for {count} codes")
    grouped = array.reshape(*array.shape[:-1], groups, group_bytes).astype(np.uint32)
    words = np.zeros(grouped.shape[:-1], np.uint32)
    for i in range(group_bytes):
        words |= grouped[..., i] << np.uint32(8 * i)
    mask = np.uint32((1 << bits) - 1)
    parts = [(words >> np.uint32(i * bits) & mask).astype(np.uint8) for i in range(per_group)]
    codes = np.stack(parts, axis=-1).reshape(*array.shape[:-1], groups * per_group)[..., : int(count)]
    if not signed:
        return codes
    spare = np.uint8(8 - bits)  # shifting up and back down copies the sign into the spare bits
    extended: Codes = (codes << spare).view(np.int8) >> spare.astype(np.int8)
    return extended


def _encode_float(values: npt.NDArray[np.float64], f: FloatFormat, saturate: bool) -> Codes:
    """Sign and magnitude codes by the rule at the top of this module."""
    magnitude = np.abs(values)
    finite = np.isfinite(magnitude)
    inside = np.where(finite, magnitude, 0.0)
    exponent = np.where(inside > 0, np.frexp(inside)[1].astype(np.int64) - 1, f.emin)
    exponent = np.maximum(exponent, f.emin)
    # Beyond the next binade everything overflows alike; the limit keeps the code within int64.
    exponent = np.minimum(exponent, f.emax + 2)
    steps = np.rint(np.ldexp(np.minimum(inside, 2.0 ** (f.emax + 2)), f.mantissa_bits - exponent))
    code = ((exponent - f.emin) << f.mantissa_bits) + steps.astype(np.int64)
    beyond = f.inf_code or f.nan_code or f.max_code  # what the format has, in this order
    code = np.where((code > f.max_code) | ~finite, f.max_code if saturate else beyond, code)
    code |= np.where(np.signbit(values), f.sign_code, 0)
    nan = np.isnan(values)
    if f.nan_code is None:
        code[nan] = 0
    else:
        code = np.where(nan, (code & f.sign_code) | f.nan_code, code)
    return code.astype(_storage(f))


def _encode_scale(values: npt.NDArray[np.float64], saturate: bool) -> Codes:
    """The nearest power of two, ties up (no code is even: all significands are 1); NaN unless positive."""
    fraction, exponent = np.frexp(np.where(np.isfinite(values), values, 1.0))
    code = exponent.astype(np.int64) - 1 + 127
    code += fraction >= 0.75
    code = np.where(np.isposinf(values) | (code > 254), 254 if saturate else 255, np.maximum(code, 0))
    return np.asarray(np.where(values > 0, code, 255).astype(np.uint8))


@functools.cache
def _table(name: str) -> Float32:
    """The number of every code, by definition; NaN is quiet without payload and keeps the sign."""
    f = FORMATS[name]
    code = np.arange(1 << f.bits, dtype=np.int64)
    if isinstance(f, ScaleFormat):
        values = np.where(code == 255, np.nan, np.ldexp(1.0, code - 127)).astype(np.float32)
    else:
        assert isinstance(f, FloatFormat)
        magnitude = code & (f.sign_code - 1)
        field, mantissa = magnitude >> f.mantissa_bits, magnitude & ((1 << f.mantissa_bits) - 1)
        significand = mantissa + np.where(field > 0, 1 << f.mantissa_bits, 0)
        exponent = np.maximum(field, 1) - f.bias - f.mantissa_bits
        values64 = np.ldexp(significand.astype(np.float64), exponent)
        values64[magnitude > f.max_code] = np.nan
        if f.inf_code is not None:
            values64[magnitude == f.inf_code] = np.inf
        with np.errstate(over="ignore"):
            values = np.copysign(values64, np.where(code & f.sign_code, -1.0, 1.0)).astype(np.float32)
    values.flags.writeable = False
    return values


def _storage(f: AnyFormat) -> np.dtype[Any]:
    if isinstance(f, IntFormat):
        return np.dtype(np.int8 if f.signed else np.uint8)
    return np.dtype(np.uint16 if f.bits == 16 else np.uint8)


def _real(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(x)
    if array.dtype.kind not in "fiu" or isinstance(x, np.ma.MaskedArray):
        raise _bad("x", f"has dtype {array.dtype}", "real numbers in a plain array", "decode codes first")
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return array.astype(np.float64)


def _group(bits: int) -> tuple[int, int]:
    """Codes and bytes of the smallest whole number of bytes."""
    groups = {4: (2, 1), 6: (4, 3), 8: (1, 1)}
    if bits not in groups:
        raise _bad("bits", f"is {bits!r}"[:100], "4, 6 or 8")
    return groups[bits]


def _bad(name: str, what: str, allowed: str, hint: str = "") -> InputError:
    return InputError(Problem(f"{name} {what}", name, allowed=f"expected {allowed}", hint=hint))
