"""Convolutions of NHWC images in float32: ``conv2d`` (implicit matrix product) and ``depthwise_conv2d``."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from npukernels import native
from npukernels.arguments import Array, array, contiguous, output, thread_count
from npukernels.matmul import Packed
from npukernels.registry import kernel, select
from npukernels.shortcuts import Call, Held, Shortcut, call
from npusim.errors import InputError, Problem

_CONV = Shortcut(arrays=3, options=6, written=(2,))
_PACKED = Shortcut(arrays=3, options=8, written=(2,))
_DEPTHWISE = Shortcut(arrays=3, options=5, written=(2,))

Pair: TypeAlias = int | tuple[int, int]

LIMIT = 2**31


def conv2d(
    x: Array,
    w: Array | Packed,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    out: Array | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Array:
    """``out[b, y, x, f] = sum over i, j, c of X[b, y s + i d - p, x s + j d - p, c] W[i, j, c, f]``, zero outside.

    Args:
        x: float32, (batch, height, width, channels).
        w: float32, (kernel height, kernel width, channels / groups, filters), or what ``prepack`` made of it.
        stride: s, of both axes or (y, x).
        padding: p, pixels of zeros on every side.
        dilation: d, distance of taps.
        groups: filters and channels fall into so many groups that do not see each other.
        out: float32, C-contiguous, (batch, (height + 2 p - d (kernel height - 1) - 1) // s + 1, ..., filters).
        variant: one of ``variants("conv2d")``.
        threads: 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape, geometry or ``out``.
    """
    if type(w) is Packed:
        return _conv2d_packed(x, w, stride, padding, dilation, groups, out, variant, threads)
    given = x, w, out, stride, padding, dilation, groups, variant, threads
    if (done := _CONV.run(*given)) is not None:
        return done
    x, w = array(x, "x", ("float32",), (4,)), array(w, "w", ("float32",), (4,))
    geometry = _geometry(x, w, stride, padding, dilation)
    groups = _whole(groups, "groups", 1)
    channels, depth, filters = x.shape[3], w.shape[2], w.shape[3]
    if channels != depth * groups or filters % groups:
        problem = f"x has {channels} channels, w {depth} x {filters}, with {groups} groups"
        raise InputError(Problem(problem, "w", allowed="channels = groups x w.shape[2], filters in equal groups"))
    result = output(out, (x.shape[0], *_out_size(x, w, geometry), filters), "float32", x, w)
    _CONV.keep(given, select("conv2d", variant).run(x, w, geometry, groups, result, thread_count(threads)), result)
    return result


def _conv2d_packed(
    x: Array, w: Packed, stride: Pair, padding: Pair, dilation: Pair, groups: int, out: Array | None,
    variant: str | None, threads: Any,
) -> Array:  # fmt: skip
    given = x, w.data, out, w.variant, w.shape, stride, padding, dilation, groups, variant, threads
    if (done := _PACKED.run(*given)) is not None:
        return done
    if variant is not None and select("conv2d", variant).variant != w.variant:
        raise InputError(Problem(f"w is packed for variant {w.variant!r}, not {variant!r}", "variant"))
    if w.variant not in _ISA:
        weights = w.data.reshape(w.shape)
        return conv2d(x, weights, stride=stride, padding=padding, dilation=dilation, groups=groups, out=out,
                      variant=w.variant, threads=threads)  # fmt: skip
    x = array(x, "x", ("float32",), (4,))
    if len(w.shape) != 4 or x.shape[3] != w.shape[2] or _whole(groups, "groups", 1) != 1:
        problem = f"x has {x.shape[3]} channels, the packed weights shape {w.shape}, groups is {groups}"
        raise InputError(Problem(problem, "w", allowed="4 dimensions, as many channels, one group"))
    geometry = _geometry(x, w, stride, padding, dilation)
    result = output(out, (x.shape[0], *_out_size(x, w, geometry), w.shape[3]), "float32", x, w.data)
    made = _call("npk_conv2d_packed", _ISA[w.variant], x, w, geometry, 1, result, thread_count(threads))
    _PACKED.keep(given, made, result)
    return result


def depthwise_conv2d(
    x: Array,
    w: Array,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    out: Array | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Array:
    """``out[b, y, x, c] = sum over i, j of X[b, y s + i d - p, x s + j d - p, c] W[i, j, c]``, zero outside.

    Args:
        x: float32, (batch, height, width, channels).
        w: float32, (kernel height, kernel width, channels).
        stride: as for ``conv2d``, like all others.
        padding: pixels of zeros on every side.
        dilation: distance of taps.
        out: float32, C-contiguous.
        variant: one of ``variants("depthwise_conv2d")``.
        threads: 1 to 64; the result has the same bits for any number.

    Raises:
        InputError: bad dtype, shape, geometry or ``out``.
    """
    given = x, w, out, stride, padding, dilation, variant, threads
    if (done := _DEPTHWISE.run(*given)) is not None:
        return done
    x, w = array(x, "x", ("float32",), (4,)), array(w, "w", ("float32",), (3,))
    geometry = _geometry(x, w, stride, padding, dilation)
    if x.shape[3] != w.shape[2]:
        problem = Problem(f"x has {x.shape[3]} channels, w {w.shape[2]}", "w", allowed="as many")
        raise InputError(problem)
    result = output(out, (x.shape[0], *_out_size(x, w, geometry), w.shape[2]), "float32", x, w)
    made = select("depthwise_conv2d", variant).run(x, w, geometry, result, thread_count(threads))
    _DEPTHWISE.keep(given, made, result)
    return result


# (stride, padding, dilation), each (y, x).
Geometry: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def taps(x: Array, w: Array, geometry: Geometry) -> list[tuple[int, int, Any]]:
    """Each tap (i, j) with the pixels it sees: a view (batch, out height, out width, channels) of the padded images."""
    (sy, sx), (py, px), (dy, dx) = geometry
    rows, cols = _out_size(x, w, geometry)
    padded = np.pad(x, ((0, 0), (py, py), (px, px), (0, 0)))
    return [
        (i, j, padded[:, i * dy : i * dy + (rows - 1) * sy + 1 : sy, j * dx : j * dx + (cols - 1) * sx + 1 : sx])
        for i in range(w.shape[0])
        for j in range(w.shape[1])
    ]


def conv2d_float64(x: Any, w: Any, geometry: Geometry, groups: int) -> Any:
    """The sum of ``conv2d`` in float64."""
    depth, filters = w.shape[2], w.shape[3] // groups
    total = np.zeros((x.shape[0], *_out_size(x, w, geometry), w.shape[3]))
    if not total.size:
        return total
    for i, j, pixels in taps(x.astype(np.float64), w, geometry):
        for g in range(groups):
            part = slice(g * filters, (g + 1) * filters)
            total[..., part] += pixels[..., g * depth : (g + 1) * depth] @ w[i, j, :, part].astype(np.float64)
    return total


@kernel("conv2d", "ref")
def _ref(x: Array, w: Array, geometry: Geometry, groups: int, out: Array, threads: int) -> None:
    with np.errstate(all="ignore"):
        out[...] = conv2d_float64(x, w, geometry, groups)


@kernel("depthwise_conv2d", "ref")
def _depthwise_ref(x: Array, w: Array, geometry: Geometry, out: Array, threads: int) -> None:
    total = np.zeros(out.shape)
    with np.errstate(all="ignore"):
        if out.size:
            for i, j, pixels in taps(x.astype(np.float64), w, geometry):
                total += pixels * w[i, j].astype(np.float64)
        out[...] = total


def _register(variant: str, isa: str, requires: set[str]) -> None:
    @kernel("conv2d", variant, requires=requires)
    def _conv(x: Array, w: Array, geometry: Geometry, groups: int, out: Array, threads: int) -> Call:
        return _call("npk_conv2d", isa, x, w, geometry, groups, out, threads)

    @kernel("depthwise_conv2d", variant, requires=requires)
    def _depthwise(x: Array, w: Array, geometry: Geometry, out: Array, threads: int) -> Call:
        return _call("npk_depthwise_conv2d", isa, x, w, geometry, 1, out, threads)


_register("c-generic", "NPK_GENERIC", {"native"})
_register("c-avx2", "NPK_AVX2", {"native", "avx2", "fma", "f16c"})
_register("c-avx512", "NPK_AVX512", {"native", "avx512f", "f16c"})


_ISA = {name: f"NPK_{name[2:].upper()}" for name in ("c-generic", "c-avx2", "c-avx512")}


def _call(
    entry: str, isa: str, x: Array, w: Array | Packed, geometry: Geometry, groups: int, out: Array, threads: int
) -> Call:
    stride, padding, dilation = geometry
    x, weights = contiguous(x), w.data if isinstance(w, Packed) else contiguous(w)
    sizes = [*x.shape, out.shape[3], *w.shape[:2], *stride, *dilation, *padding, *out.shape[1:3], groups]
    shape = Held(native.require_native().ffi.new("npk_conv_shape *", sizes))
    made = call(entry, native.constant(isa), shape, x, weights, out, threads)
    if made.status:
        native.raise_for_status(made.status, f"{entry[4:]} {x.shape} by {w.shape}")
    return made


def _geometry(x: Array, w: Array | Packed, stride: Any, padding: Any, dilation: Any) -> Geometry:
    """Checks the steps, and that the kernel fits into the padded image."""
    geometry = (_pair(stride, "stride", 1), _pair(padding, "padding", 0), _pair(dilation, "dilation", 1))
    if 0 in w.shape[:2]:
        raise InputError(Problem(f"w has shape {w.shape}", "w", allowed="a kernel of at least 1 x 1"))
    for axis in (0, 1):
        size, reach = x.shape[1 + axis] + 2 * geometry[1][axis], geometry[2][axis] * (w.shape[axis] - 1) + 1
        if reach > size:
            problem = f"the kernel reaches over {reach} pixels, the padded image has {size}"
            raise InputError(Problem(problem, "w", allowed="a kernel within the padded image"))
    return geometry


def _out_size(x: Any, w: Any, geometry: Geometry) -> tuple[int, int]:
    rows, cols = (
        (x.shape[1 + a] + 2 * geometry[1][a] - geometry[2][a] * (w.shape[a] - 1) - 1) // geometry[0][a] + 1
        for a in (0, 1)
    )
    return rows, cols


def _pair(value: Any, name: str, least: int) -> tuple[int, int]:
    both = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    return _whole(both[0], name, least), _whole(both[1], name, least)


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < LIMIT:
        raise InputError(Problem(f"{name} is {value!r}"[:100], name, allowed=f"integers of at least {least}"))
    return int(value)
