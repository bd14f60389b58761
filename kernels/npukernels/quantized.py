"""Quantised tensors: integers with scale and zero point, OCP MX blocks and NVFP4, ``quantize`` and ``dequantize``.

Every variant gives the same bits. With the scale ``s`` and zero point ``z`` of an element,

    integers  q = clip(rint(x / s) + z),   x' = (q - z) s      (ONNX QuantizeLinear, DequantizeLinear)
    floats    q = encode(x / s),           x' = decode(q) s

each operation rounded to float32, ties to even. How a scale follows from the data:

- int8, int4 symmetric: largest magnitude / 127 (or 7); asymmetric: (max - min) / 255 (or 15) with 0 inside
  the range, and ``z = clip(rint(low - min / s))``, so that 0 is a code; fp8: largest magnitude / 448 (57344).
- MX (OCP Microscaling Formats v1.0, 6.3): ``s = 2^(floor(log2 largest) - emax)`` with emax of the element
  format, stored as E8M0, per 32 elements; elements saturate; mxint8 elements are multiples of 2^-6 (5.3.4).
- NVFP4: a float32 scale of the tensor, ``t = largest / (448 6)``, and per 16 elements the e4m3 number nearest to
  ``largest of the block / 6 / t``; ``s`` is their product.

What MX leaves open: a block of zeros has the smallest scale; NaN or infinity in a block makes its scale NaN.
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
from npukernels.arguments import array, contiguous, output, pointer, thread_count
from npukernels.cases import Case, Draw, frozen, maker
from npukernels.formats import Codes, Float32, FloatFormat, IntFormat
from npukernels.registry import kernel, select
from npukernels.rowargs import INSTRUCTION_SETS
from npukernels.shortcuts import Call, Held, Shortcut, quick
from npusim import dtypes
from npusim.errors import InputError, Problem, unknown_name

_QUANTIZE = Shortcut(arrays=1, options=8, written=())
_DEQUANTIZE = Shortcut(arrays=4, options=6, written=(3,))
_ISA = {name: native.constant(isa) for name, (isa, _) in INSTRUCTION_SETS.items()}

Int32: TypeAlias = npt.NDArray[np.int32]

# Block formats: element format and elements that share a scale.
BLOCKS = {
    "mxfp8": ("fp8", 32),
    "mxfp8_e5m2": ("fp8_e5m2", 32),
    "mxfp6": ("fp6", 32),
    "mxfp6_e3m2": ("fp6_e3m2", 32),
    "mxfp4": ("fp4", 32),
    "mxint8": ("int8", 32),
    "nvfp4": ("fp4", 16),
}
SCALED = ("int8", "int4", "uint8", "uint4", "fp8", "fp8_e5m2")

_SMALLEST_SCALE = np.float32(2.0**-126)  # keeps 0 / 0 and subnormal scales away
_ROW = 1 << 15  # elements of a row when all share one scale: the unit that threads take


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantised tensor.

    Args:
        fmt: ``int8``, ``int4``, ``uint8``, ``uint4``, ``fp8``, ``fp8_e5m2``, or a block format (``mxfp4``).
        codes: in the tensor's shape, one element each: int8, or uint8.
        scale: float32 of shape () per tensor, (channels,) per channel, or the tensor's shape with
            ``ceil(n / group)`` along ``axis``; uint8 codes (e8m0 for MX, e4m3 for NVFP4) in block formats.
        zero: zero points, int32 in the shape of ``scale``; None when they are 0.
        axis: the channel axis, or the axis that groups divide; None per tensor.
        group: elements that share a scale; None per tensor or channel.
        tensor_scale: NVFP4's scale of the whole tensor.
    """

    fmt: str
    codes: Codes
    scale: npt.NDArray[Any]
    zero: Int32 | None = None
    axis: int | None = None
    group: int | None = None
    tensor_scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.codes.shape

    @property
    def element(self) -> FloatFormat | IntFormat:
        """Format of the codes."""
        return _element(self.fmt)

    @property
    def scale_values(self) -> Float32:
        """What each scale multiplies by, float32."""
        if self.fmt == "nvfp4":
            return np.asarray(formats.decode(self.scale, "fp8") * np.float32(self.tensor_scale))
        if self.fmt in BLOCKS:
            values = formats.decode(self.scale, "e8m0")
            return np.asarray(values * np.float32(2.0**-6)) if self.fmt == "mxint8" else values
        return self.scale

    def packed(self) -> npt.NDArray[np.uint8]:
        """The codes as memory holds them: 4- and 6-bit codes packed along the last axis."""
        return formats.pack(np.atleast_1d(self.codes), self.element.bits)


@dataclass(frozen=True)
class Layout:
    """Where the scale of an element is: see npk_quantize_int in csrc/formats/api.h.

    Args:
        blocks: times the pattern of scales starts again.
        length: elements of a block.
        cols: elements of a row.
        steps: of the scale, per block, row and column.
    """

    blocks: int
    length: int
    cols: int
    steps: tuple[int, int, int]


def quantize(
    x: Float32,
    fmt: str,
    *,
    axis: int | None = None,
    group: int | None = None,
    symmetric: bool = True,
    scale: npt.ArrayLike | None = None,
    zero: npt.ArrayLike | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Quantized:
    """Quantises a tensor.

    Args:
        x: float32, any shape and strides.
        fmt: see ``Quantized``.
        axis: the channel axis: one scale a channel. With ``group``, and in block formats, the axis that
            groups divide (the last by default); a last group may be shorter. Else one scale for all.
        group: elements that share a scale; block formats have their own.
        symmetric: integers without zero point, within ± the largest code when the scale is derived.
        scale: scales to use instead of those derived from ``x``, positive; not for block formats.
        zero: zero points that go with ``scale``.
        variant: one of ``variants("quantize")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Raises:
        InputError: bad dtype, axis, group, scale or zero point; NaN or infinity where no scale can express
            it; or a variant that does not exist or cannot run here.
    """
    given = x, fmt, axis, group, symmetric, scale, zero, variant, threads
    if (done := _QUANTIZE.run(*given)) is not None:
        codes, stored, *points = done
        name, at, size = _resolved(fmt, codes.shape, axis, group)
        return quick(
            Quantized, fmt=name, codes=codes, scale=stored, zero=points[0] if points else None, axis=at, group=size,
            tensor_scale=1.0,
        )  # fmt: skip
    x = array(x, "x", ("float32",))
    name = _format_name(fmt)
    chosen, threads = select("quantize", variant), thread_count(threads)
    run, element = chosen.run, _element(name)
    axis, group = _granularity(name, x.shape, axis, group)
    if name in BLOCKS:
        if scale is not None or zero is not None or not symmetric:
            raise InputError(Problem(f"{name} derives its scales", "scale", allowed="no scale, zero or symmetric"))
        stored, tensor_scale = _block_scales(name, x, axis, group)
        q = Quantized(name, np.empty(0, np.uint8), stored, None, axis, group, tensor_scale)
    else:
        used, zeros = _scales(element, x, axis, group, symmetric, scale, zero)
        q = Quantized(name, np.empty(0, np.uint8), used, zeros, axis, group)
    codes = _apply(run, contiguous(x), q, "int8" if element.name in ("int8", "int4") else "uint8", None, threads)
    q = Quantized(name, codes, q.scale, q.zero, axis, group, q.tensor_scale)
    derived = scale is None and name != "nvfp4" and contiguous(x) is x
    tensor = _tensor(chosen.variant, q) if derived else None
    if tensor is not None:
        parts = [codes, q.scale] if q.zero is None else [codes, q.scale, q.zero]
        arguments = *tensor, x, codes, q.scale, q.zero, threads
        _QUANTIZE.keep(given, Call(0, "npk_quantize_tensor", arguments), *parts)
    return q


@functools.lru_cache(maxsize=256)
def _resolved(fmt: str, shape: tuple[int, ...], axis: Any, group: Any) -> tuple[str, int | None, int | None]:
    name = _format_name(fmt)
    return name, *_granularity(name, shape, axis, group)


def dequantize(q: Quantized, *, out: Float32 | None = None, variant: str | None = None, threads: int = 1) -> Float32:
    """The real numbers of a quantised tensor, float32.

    Args:
        q: from ``quantize``, or put together by hand.
        out: float32, C-contiguous, the tensor's shape, sharing no memory with the codes.
        variant: one of ``variants("dequantize")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Raises:
        InputError: parts that do not fit together, bad ``out``, or a variant that cannot run here.
    """
    if not isinstance(q, Quantized):
        raise InputError(Problem(f"q is a {type(q).__name__}", "q", allowed="expected a Quantized"))
    given = q.codes, q.scale, q.zero, out, q.fmt, q.axis, q.group, q.tensor_scale, variant, threads
    if (done := _DEQUANTIZE.run(*given)) is not None:
        return done
    chosen, threads = select("dequantize", variant), thread_count(threads)
    name = _format_name(q.fmt)
    codes = contiguous(formats.as_codes(q.codes, _element(name)))
    axis, group = _granularity(name, codes.shape, q.axis, q.group)
    dtype = "uint8" if name in BLOCKS else "float32"
    array(q.scale, "scale", (dtype,))
    _same_shape("scale", q.scale, scale_shape(codes.shape, axis, group))
    if q.zero is not None:
        _same_shape("zero", array(q.zero, "zero", ("int32",)), q.scale.shape)
    q = Quantized(name, codes, q.scale, q.zero, axis, group, q.tensor_scale)
    result = _apply(chosen.run, codes, q, "float32", out, threads)
    tensor = _tensor(chosen.variant, q)
    if tensor is not None:
        arguments = *tensor, codes, q.scale, q.zero, result, threads
        _DEQUANTIZE.keep(given, Call(0, "npk_dequantize_tensor", arguments), result)
    return result


def _tensor(variant: str, q: Quantized) -> tuple[int, Held] | None:
    """Instruction set and ``npk_tensor`` for C functions that do the whole of an op; None where they cannot."""
    parts = [q.codes, q.scale] if q.zero is None else [q.codes, q.scale, q.zero]
    if variant not in _ISA or any(contiguous(part) is not part or not part.size for part in parts):
        return None
    if q.group is not None and q.axis != q.codes.ndim - 1:
        return None
    layout, element, block = _layout(q.shape, q.axis, q.group), q.element, q.fmt in BLOCKS
    real = isinstance(element, FloatFormat)
    kind = "FLOAT" if not block else "FP8" if q.fmt == "nvfp4" else "E8M0"
    values = {
        "blocks": layout.blocks, "len": layout.length, "cols": layout.cols, "scales": q.scale.size,
        **dict(zip(("sb", "sr", "sc"), layout.steps, strict=True)),
        "element": native.constant(f"NPK_FMT_{element.name.upper()}" if real else "NPK_ELEMENT_INT"),
        "bits": element.bits, "scale_kind": native.constant(f"NPK_SCALE_{kind}"),
        "factor": 2.0**-6 if q.fmt == "mxint8" else q.tensor_scale,
    }  # fmt: skip
    if isinstance(element, FloatFormat):
        values |= {"emax": element.emax, "largest": element.max}
    else:
        values |= {"low": _low(q.fmt, element), "high": element.high, "largest": element.high}
    return _ISA[variant], Held(native.require_native().ffi.new("npk_tensor *", values))


def scale_shape(shape: tuple[int, ...], axis: int | None, group: int | None) -> tuple[int, ...]:
    """Shape of the scales of a tensor of ``shape``; see ``Quantized``."""
    if axis is None:
        return ()
    if group is None:
        return (shape[axis],)
    return (*shape[:axis], -(-shape[axis] // group), *shape[axis + 1 :])


def _apply(run: Callable[..., None], x: Codes, q: Quantized, dtype: str, out: Any, threads: int) -> npt.NDArray[Any]:
    """Runs a kernel with the groups along the last axis, where it wants them."""
    result = output(out, x.shape, dtype, x)
    scale = np.ascontiguousarray(q.scale_values)
    zero = np.zeros(scale.shape, np.int32) if q.zero is None else np.ascontiguousarray(q.zero)
    if q.axis is None or q.group is None or q.axis == x.ndim - 1:
        layout = _layout(x.shape, q.axis, q.group)
        run(q, layout, x, scale, zero, result, threads)
        return result
    moved = [np.ascontiguousarray(np.moveaxis(part, q.axis, -1)) for part in (x, scale, zero)]
    there = np.empty(moved[0].shape, dtype)
    run(q, _layout(there.shape, there.ndim - 1, q.group), *moved, there, threads)
    result[...] = np.moveaxis(there, -1, q.axis)
    return result


def _layout(shape: tuple[int, ...], axis: int | None, group: int | None) -> Layout:
    if axis is None:
        size = math.prod(shape)
        return Layout(1, size, max(1, min(size, _ROW)), (0, 0, 0))
    outer, n, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if group is not None:  # always along the last axis here
        return Layout(outer, n, group, (-(-n // group), 1, 0))
    if inner == 1:
        return Layout(outer, n, max(1, n), (0, 0, 1))
    return Layout(outer, n * inner, max(1, inner), (0, 1, 0))


def spread(values: npt.NDArray[Any], layout: Layout, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """``values``, one a scale, repeated to one an element."""
    block, row, col = layout.steps
    flat, rows = values.reshape(-1), -(-layout.length // layout.cols)
    if not layout.blocks * layout.length:
        return np.empty(shape, values.dtype)
    # Repeated by strides of 0; the row may be longer than the rest of its block.
    strides = tuple(step * flat.itemsize for step in (block, row, col))
    repeated = np.lib.stride_tricks.as_strided(flat, (layout.blocks, rows, layout.cols), strides, writeable=False)
    return repeated.reshape(layout.blocks, rows * layout.cols)[:, : layout.length].reshape(shape)


@kernel("quantize", "ref")
def _quantize_ref(
    q: Quantized, layout: Layout, x: Float32, scale: Float32, zero: Int32, out: Codes, threads: int
) -> None:
    """The equations at the top of this module."""
    element = q.element
    with np.errstate(all="ignore"):
        steps = x / _divisor(spread(scale, layout, x.shape))
    if isinstance(element, FloatFormat):
        out[...] = formats.encode(steps, element.name, True)
    else:
        zeros = spread(zero, layout, x.shape)
        whole = np.rint(np.where(np.isnan(steps), 0, steps)).astype(np.float64)
        out[...] = np.clip(whole + zeros, _low(q.fmt, element), element.high)


@kernel("dequantize", "ref")
def _dequantize_ref(
    q: Quantized, layout: Layout, codes: Codes, scale: Float32, zero: Int32, out: Float32, threads: int
) -> None:
    """The equations at the top of this module."""
    values = formats.decode(codes, q.element.name)
    if isinstance(q.element, IntFormat):
        values = values - spread(zero, layout, codes.shape).astype(np.float32)
    with np.errstate(all="ignore"):
        out[...] = values * spread(scale, layout, codes.shape)


def _divisor(scale: Float32) -> Float32:
    """A scale of 0 stands for a block of zeros: what it divides becomes 0."""
    return np.where(scale == 0, np.float32(np.inf), scale)


def _compiled(variant: str, isa: str, requires: set[str]) -> None:
    """Registers both ops for one instruction set; floats pass through the cast of the same name."""

    def quantize_c(
        q: Quantized, layout: Layout, x: Float32, scale: Float32, zero: Int32, out: Codes, threads: int
    ) -> None:
        element, lib = q.element, native.require_native().lib
        if isinstance(element, FloatFormat):
            with np.errstate(all="ignore"):
                steps = x / _divisor(spread(scale, layout, x.shape))
            select("cast", variant).run(element, True, steps, out, True, threads)
            return
        status = lib.npk_quantize_int(
            getattr(lib, isa), layout.blocks, layout.length, layout.cols, pointer(x), pointer(scale), pointer(zero),
            *layout.steps, _low(q.fmt, element), element.high, pointer(out), threads,
        )  # fmt: skip
        native.raise_for_status(status, f"quantize {x.shape}")

    def dequantize_c(
        q: Quantized, layout: Layout, codes: Codes, scale: Float32, zero: Int32, out: Float32, threads: int
    ) -> None:
        element, lib = q.element, native.require_native().lib
        if isinstance(element, FloatFormat):
            select("cast", variant).run(element, False, codes, out, False, threads)
            with np.errstate(all="ignore"):
                np.multiply(out, spread(scale, layout, codes.shape), out=out)
            return
        status = lib.npk_dequantize_int(
            getattr(lib, isa), layout.blocks, layout.length, layout.cols, pointer(codes), pointer(scale),
            pointer(zero), *layout.steps, element.signed, pointer(out), threads,
        )  # fmt: skip
        native.raise_for_status(status, f"dequantize {codes.shape}")

    kernel("quantize", variant, requires)(quantize_c)
    kernel("dequantize", variant, requires)(dequantize_c)


_compiled("c-generic", "NPK_GENERIC", {"native"})
_compiled("c-avx2", "NPK_AVX2", {"native", "avx2"})
_compiled("c-avx512", "NPK_AVX512", {"native", "avx512f"})


def _low(fmt: str, element: IntFormat) -> int:
    """The smallest code: MX leaves -128 unused, which keeps mxint8 symmetric (v1.0, 5.3.4)."""
    return -127 if fmt == "mxint8" else element.low


def _format_name(fmt: str) -> str:
    key = str(fmt).lower()
    key = dtypes.ALIASES.get(key, key)
    if key not in BLOCKS and key not in SCALED:
        raise unknown_name("quantised format", str(fmt), (*SCALED, *BLOCKS), "fmt")
    return key


def _element(name: str) -> FloatFormat | IntFormat:
    element = formats.get_format(BLOCKS[name][0] if name in BLOCKS else name)
    assert isinstance(element, (FloatFormat, IntFormat))
    return element


def _granularity(name: str, shape: tuple[int, ...], axis: Any, group: Any) -> tuple[int | None, int | None]:
    """Checked axis and group. Raises InputError when they do not fit the shape or the format."""
    if name in BLOCKS:
        if group is not None and group != BLOCKS[name][1]:
            raise InputError(Problem(f"group is {group!r}"[:100], "group", allowed=f"{BLOCKS[name][1]} in {name}"))
        group = BLOCKS[name][1]
    if group is not None:
        if isinstance(group, bool) or not isinstance(group, (int, np.integer)) or not 1 <= group < 2**31:
            raise InputError(Problem(f"group is {group!r}"[:100], "group", allowed="an integer of at least 1"))
        group, axis = int(group), -1 if axis is None else axis
    if axis is None:
        return None, None
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -len(shape) <= axis < len(shape):
        allowed = f"an axis of shape {shape}"
        raise InputError(Problem(f"axis is {axis!r}"[:100], "axis", allowed=allowed))
    return int(axis) % len(shape), group


def _extremes(x: Float32, axis: int | None, group: int | None) -> tuple[Float32, Float32]:
    """Least and largest of each share of a scale, 0 included, in the scale's shape."""
    if axis is None:
        return np.asarray(x.min(initial=0)), np.asarray(x.max(initial=0))
    if group is None:
        others = tuple(i for i in range(x.ndim) if i != axis)
        return x.min(axis=others, initial=0), x.max(axis=others, initial=0)
    moved = np.moveaxis(x, axis, -1)
    groups = -(-moved.shape[-1] // group)
    padded = np.zeros((*moved.shape[:-1], groups * group), np.float32)
    padded[..., : moved.shape[-1]] = moved
    grouped = padded.reshape(*moved.shape[:-1], groups, group)
    pair = grouped.min(axis=-1, initial=0), grouped.max(axis=-1, initial=0)
    return np.moveaxis(pair[0], -1, axis), np.moveaxis(pair[1], -1, axis)


def _largest(x: Float32, axis: int | None, group: int | None) -> Float32:
    low, high = _extremes(x, axis, group)
    return np.maximum(-low, high)


def _block_scales(name: str, x: Float32, axis: int | None, group: int | None) -> tuple[Codes, float]:
    """Stored scales of a block format, and the scale of the tensor."""
    largest = _largest(x, axis, group)
    finite = np.isfinite(largest)
    if name == "nvfp4":
        whole = np.float32(max(largest[finite].max(initial=0) / np.float32(448 * 6), _SMALLEST_SCALE))
        with np.errstate(all="ignore"):
            codes = formats.encode(largest / np.float32(6) / whole, "fp8", True)
        return np.where(finite, codes, 0x7F).astype(np.uint8), float(whole)
    element = formats.get_format(BLOCKS[name][0])
    emax = element.emax if isinstance(element, FloatFormat) else 0
    positive = np.where(finite & (largest > 0), largest, np.float32(2.0**-149))
    exponent = np.frexp(positive)[1].astype(np.int64) - 1 - emax
    code = np.clip(exponent, -127, 127) + 127
    return np.where(finite, np.where(largest > 0, code, 0), 255).astype(np.uint8), 1.0


def _scales(
    element: FloatFormat | IntFormat, x: Float32, axis: int | None, group: int | None, symmetric: bool,
    scale: npt.ArrayLike | None, zero: npt.ArrayLike | None,
) -> tuple[Float32, Int32 | None]:  # fmt: skip
    """Scales and zero points, given or derived."""
    if scale is None:
        if zero is not None:
            raise InputError(Problem("zero is given without scale", "zero", allowed="both, or neither"))
        return _derived(element, x, axis, group, symmetric)
    shape = scale_shape(x.shape, axis, group)
    given = np.asarray(scale)
    if given.dtype.kind not in "fiu":
        raise InputError(Problem(f"scale has dtype {given.dtype}", "scale", allowed="real numbers"))
    with np.errstate(over="ignore"):
        used = given.astype(np.float32)
    _same_shape("scale", used, shape)
    if not (np.isfinite(used) & (used > 0)).all():
        raise InputError(Problem("scale is not positive and finite", "scale", allowed="positive float32 numbers"))
    return used, None if zero is None else _zero_points(element, np.asarray(zero), shape)


def _zero_points(element: FloatFormat | IntFormat, zero: npt.NDArray[Any], shape: tuple[int, ...]) -> Int32:
    _same_shape("zero", zero, shape)
    if isinstance(element, FloatFormat) or zero.dtype.kind not in "iu":
        raise InputError(Problem(f"zero has dtype {zero.dtype}", "zero", allowed="integers, of integer formats"))
    if zero.size and (zero.min() < element.low or zero.max() > element.high):
        allowed = f"{element.low} to {element.high}"
        raise InputError(Problem(f"zero is out of the range of {element.name}", "zero", allowed=allowed))
    return np.asarray(zero.astype(np.int32))


def _derived(
    element: FloatFormat | IntFormat, x: Float32, axis: int | None, group: int | None, symmetric: bool
) -> tuple[Float32, Int32 | None]:
    low, high = _extremes(x, axis, group)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(Problem("x has NaN or infinity, which no scale expresses", "x", allowed="finite numbers"))
    if isinstance(element, FloatFormat):
        return _at_least_smallest(np.maximum(-low, high) / np.float32(element.max)), None
    if symmetric and element.signed:
        return _at_least_smallest(np.maximum(-low, high) / np.float32(element.high)), None
    # In float64, because max - min may exceed float32.
    width = (high.astype(np.float64) - low) / (element.high - element.low)
    scale = _at_least_smallest(width.astype(np.float32))
    zero = np.clip(np.rint(element.low - low / scale), element.low, element.high)
    return scale, np.asarray(zero.astype(np.int32))


def _at_least_smallest(scale: npt.NDArray[Any]) -> Float32:
    used: Float32 = np.asarray(np.maximum(scale, _SMALLEST_SCALE), np.float32)
    return used


def _same_shape(name: str, given: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if given.shape != shape:
        raise InputError(Problem(f"{name} has shape {given.shape}", name, allowed=f"expected {shape}"))


def _case_parts(dtype: str, fill: str, seed: int, m: int, n: int) -> tuple[Float32, Float32, Int32]:
    """Real numbers (m, n), and scale and zero point of each row."""
    draw = Draw(seed)
    element = _element(dtype)
    assert isinstance(element, IntFormat)
    if fill == "realistic":  # the largest of a row is the largest code
        x = draw.activations(m, n)
        scale = np.maximum(np.abs(x).max(axis=1, initial=0.0), 2.0**-20) / element.high
        return x.astype(np.float32), scale.astype(np.float32), np.zeros(m, np.int32)
    scale = (np.abs(draw.uniform(m)) + 0.5) * 2.0 ** draw.integers(-8, 2, m)
    zero = draw.integers(element.low, element.high, m)
    steps = draw.integers(element.low - 3, element.high + 3, m, n) - zero[:, None]  # the ends saturate
    if fill == "adversarial":
        steps = steps + 0.5  # ties, where the scale is a power of two
        scale = 2.0 ** np.rint(np.log2(scale))
    elif fill == "integer":
        scale = np.ones(m)
    else:
        steps = steps + draw.uniform(m, n)
    x = steps * scale[:, None]
    return x.astype(np.float32), scale.astype(np.float32), zero.astype(np.int32)


_CASE_FORMATS = ("int8", "int4")


@maker("quantize", _CASE_FORMATS, m=None, n=None)
def _quantize_case(dtype: str, fill: str, seed: int, m: int, n: int) -> Case:
    """Codes of ``x``, given the scale and zero point of each row, exactly."""
    x, scale, zero = _case_parts(dtype, fill, seed, m, n)
    q = quantize(x, dtype, axis=0, scale=scale, zero=zero, variant="ref")
    expected, bound = frozen(q.codes.astype(np.float64), np.zeros((m, n)))
    dims, params = (("m", m), ("n", n)), (("fmt", dtype), ("axis", 0))
    return Case("quantize", dtype, fill, seed, dims, frozen(x, scale, zero), expected, bound, "int8", params)


@maker("dequantize", _CASE_FORMATS, m=None, n=None)
def _dequantize_case(dtype: str, fill: str, seed: int, m: int, n: int) -> Case:
    """The float32 numbers of codes, given the scale and zero point of each row, exactly."""
    x, scale, zero = _case_parts(dtype, fill, seed, m, n)
    q = quantize(x, dtype, axis=0, scale=scale, zero=zero, variant="ref")
    expected, bound = frozen(dequantize(q, variant="ref").astype(np.float64), np.zeros((m, n)))
    dims, params = (("m", m), ("n", n)), (("fmt", dtype), ("axis", 0))
    return Case("dequantize", dtype, fill, seed, dims, frozen(q.codes, scale, zero), expected, bound, "float32", params)
