"""Matrix products and convolutions: shapes, operands and our calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

import npukernels as nk
from bench.peaks import Work, product
from bench.peers.problem import Array, Judge, Problem, cycled, repeated
from npusim.errors import Finding

Build = partial[Problem]

GEMM = [(size,) * 3 for size in (64, 128, 256, 512, 1024, 2048, 4096)]
GEMM += [(127, 129, 255), (1023, 1021, 1019), (16384, 64, 64), (64, 64, 16384), (2048, 128, 2048)]
GEMM += [(1, 4096, 4096), (8, 4096, 4096)]
CONSTANT = [(m, 4096, 4096) for m in (1, 8, 16, 128)]
HALF = [(256,) * 3, (512,) * 3, (1024,) * 3, (127, 129, 255), (8, 4096, 4096)]
INT8 = [(64,) * 3, (256,) * 3, (512,) * 3, (1024,) * 3, (127, 129, 255)]
INT8 += [(1, 4096, 4096), (16, 4096, 4096), (128, 4096, 4096)]
# Ranges of A and B. Weights of 7 bits are what models are given for kernels that saturate otherwise.
U8, S8, S7 = (0, 255), (-128, 127), (-63, 63)
RANGES = {"u8 × s8": (U8, S8), "u8 × s7": (U8, S7), "s8 × s8": (S8, S8), "u8 × u8": (U8, U8)}
FP8 = [(512,) * 3, (1024,) * 3, *((m, 4096, 4096) for m in (1, 8, 128))]
FOUR_BITS = [(m, 4096, 4096) for m in (1, 8, 128)]
# height, width, channels, filters, kernel
CONV = [(56, 56, 64, 64, 3), (28, 28, 128, 128, 3), (14, 14, 256, 256, 3), (56, 56, 64, 256, 1), (112, 112, 32, 32, 5)]
DEPTHWISE = [(112, 112, 64, 3), (56, 56, 128, 3), (28, 28, 256, 5)]
GOLDEN_ROWS = 64
ROUNDED = 2e-2  # distance that activations rounded to 8 or 16 bits may cause


def by_name(*sizes: int) -> str:
    """Sizes as they are printed."""
    return " × ".join(map(str, sizes))


@lru_cache(maxsize=1)
def _case(op: str, n: int, k: int, dtype: str, fill: str = "uniform", **sizes: int) -> nk.Case:
    return nk.golden(op, dtype=dtype, fill=fill, seed=n, m=GOLDEN_ROWS, n=n, k=k, **sizes)


def gemm() -> Iterator[Build]:
    """float32: row-major weights, column-major as of linear layers, and constant weights that may be prepacked."""
    for shape in GEMM:
        for layout in ("NN", "NT"):
            yield partial(gemm_problem, shape, layout)
    for shape in CONSTANT:
        yield partial(gemm_problem, shape, "packed")


def gemm_problem(shape: tuple[int, int, int], layout: str) -> Problem:
    m, n, k = shape
    case, out = _case("gemm", n, k, "fp32"), np.empty((m, n), np.float32)
    a, b = cycled(case.inputs[0], m), np.array(case.inputs[1], order="F" if layout == "NT" else "C")
    weights: Any = nk.prepack(b) if layout == "packed" else b
    return Problem(
        "gemm packed" if layout == "packed" else "gemm",
        "gemm f32, constant weights" if layout == "packed" else f"gemm f32 {layout}",
        f"{by_name(*shape)} {layout}",
        product(m, n, k),
        {"a": a, "b": b},
        lambda: nk.gemm(a, weights, out=out),
        repeated(case, m),
        options={"layout": layout},
    )


def half() -> Iterator[Build]:
    """16-bit inputs, float32 outputs."""
    return (partial(half_problem, shape, dtype) for dtype in ("bf16", "fp16") for shape in HALF)


def half_problem(shape: tuple[int, int, int], dtype: str) -> Problem:
    m, n, k = shape
    case = _case("gemm", n, k, dtype)
    a, b, out = cycled(case.inputs[0], m), np.array(case.inputs[1]), np.empty((m, n), np.float32)
    return Problem(
        "gemm 16 bits",
        f"gemm {dtype}",
        f"{by_name(*shape)} {dtype}",
        product(m, n, k, 2.0),
        {"a": a, "b": b},
        lambda: nk.gemm(a, b, out=out),
        repeated(case, m),
        options={"dtype": dtype},
        tolerance=1e-2,
    )


def qgemm() -> Iterator[Build]:
    """8-bit integers with constant, prepacked weights."""
    return (partial(qgemm_problem, shape, signs) for signs in RANGES for shape in INT8)


def qgemm_problem(shape: tuple[int, int, int], signs: str) -> Problem:
    m, n, k = shape
    rng = np.random.default_rng(k)
    a, b = (
        rng.integers(low, high, size, np.int8 if low else np.uint8, endpoint=True)
        for (low, high), size in zip(RANGES[signs], ((m, k), (k, n)), strict=True)
    )
    packed, out = nk.prepack_int8(b), np.empty((m, n), np.int32)
    return Problem(
        "qgemm",
        f"qgemm {signs}",
        f"{by_name(*shape)} {signs.replace(' ', '')}",
        product(m, n, k, 1.0, "dot8", "GOP/s"),
        {"a": a, "b": b},
        lambda: nk.qgemm(a, packed, out=out),
        _exact(a, b),
        tolerance=0.0,
    )


def _exact(a: Array, b: Array) -> Judge:
    """The rows of an integer product that are judged, exactly: float64 holds sums below 2^53."""
    rows = repeated(nk.golden("qgemm", m=1, n=b.shape[1], k=1, dtype="int8"), len(a))
    expected = a[rows.index].astype(np.float64) @ b.astype(np.float64)
    case = dataclasses.replace(rows.case, expected=expected, bound=np.zeros_like(expected))
    return dataclasses.replace(rows, case=case)


def weight_gemm() -> Iterator[Build]:
    """float32 activations and 4-bit weights with a scale a group."""
    for group in (32, 128):
        for compute in ("int8", "fp32"):
            for shape in FOUR_BITS:
                yield partial(weight_gemm_problem, shape, group, compute)


def weight_gemm_problem(shape: tuple[int, int, int], group: int, compute: str) -> Problem:
    m, n, k = shape
    case = _case("weight_gemm", n, k, "int4", group=group)
    x, (q, scale) = cycled(case.inputs[0], m), case.inputs[1:]
    weight, out, judge = nk.prepack_weight(q, scale, group=group), np.empty((m, n), np.float32), repeated(case, m)

    def same_bits(output: Array) -> None:
        """Activations rounded to 8 bits have no golden case: the portable variant must agree, bit for bit."""
        few = np.linspace(0, m - 1, min(m, 4)).astype(np.int64)
        expected = nk.weight_gemm(x[few], weight, compute="int8", variant="c-generic")
        if not np.array_equal(output[few], expected) or judge.error(output) > ROUNDED:
            raise Finding(f"weight_gemm {shape}, group {group}: not the bits of c-generic")

    return Problem(
        "weight_gemm",
        f"W4, {compute} sums, M {'≤ 8' if m <= 8 else '≥ 128'}",
        f"{by_name(*shape)} g{group} {compute}",
        product(m, n, k, 0.5, "fma" if compute == "fp32" else "dot8"),
        {"x": x, "q": q, "scale": scale},
        lambda: nk.weight_gemm(x, weight, compute=compute, out=out),
        judge,
        same_bits if compute == "int8" else None,
        options={"group": group, "compute": compute},
        tolerance=ROUNDED,
    )


def block_gemm() -> Iterator[Build]:
    """fp8 x fp8 with a scale a block of 32, as in MX; the peer has one a tensor: all are 1."""
    return (partial(block_gemm_problem, shape) for shape in FP8)


def block_gemm_problem(shape: tuple[int, int, int]) -> Problem:
    m, n, k = shape
    case = _case("block_gemm", n, k, "fp8", "integer", block=32)
    a, a_scale = (cycled(x, m) for x in (case.inputs[0], case.inputs[2]))
    b, b_scale, out = case.inputs[1], case.inputs[3], np.empty((m, n), np.float32)
    return Problem(
        "block_gemm",
        "MX fp8",
        f"{by_name(*shape)} mxfp8",
        product(m, n, k, 1.0),
        {"a": a, "b": b},
        lambda: nk.block_gemm(a, b, a_scale, b_scale, scale_fmt="e8m0", out=out),
        repeated(case, m),
    )


def conv() -> Iterator[Build]:
    """Convolutions with constant weights, channels last, padded to keep the size."""
    yield from (partial(conv_problem, shape) for shape in CONV)
    yield from (partial(depthwise_problem, shape) for shape in DEPTHWISE)


def conv_problem(shape: tuple[int, int, int, int, int]) -> Problem:
    h, w, c, f, kernel = shape
    pad = kernel // 2
    case = nk.golden("conv2d", h=h, w=w, c=c, f=f, kh=kernel, kw=kernel, padding=pad)
    x, weights = case.inputs
    out = np.empty(case.expected.shape, np.float32)
    packed = nk.prepack(weights)
    return Problem(
        "conv2d",
        "conv2d",
        f"{h} × {w}, {c} to {f}, {kernel} × {kernel}",
        Work(2.0 * case.expected.size * kernel**2 * c, copied_bytes=float(x.nbytes + out.nbytes)),
        {"x": x, "w": weights},
        lambda: nk.conv2d(x, packed, padding=pad, out=out),
        Judge(case, np.arange(1)),
        options={"groups": 1, "padding": pad},
    )


def depthwise_problem(shape: tuple[int, int, int, int]) -> Problem:
    h, w, c, kernel = shape
    pad = kernel // 2
    case = nk.golden("depthwise_conv2d", h=h, w=w, c=c, kh=kernel, kw=kernel, padding=pad)
    x, weights = case.inputs
    out = np.empty(case.expected.shape, np.float32)
    return Problem(
        "conv2d",
        "depthwise conv2d",
        f"{h} × {w}, {c} channels, {kernel} × {kernel}",
        Work(2.0 * case.expected.size * kernel**2, copied_bytes=float(x.nbytes + out.nbytes)),
        {"x": x, "w": weights[:, :, None, :]},
        lambda: nk.depthwise_conv2d(x, weights, padding=pad, out=out),
        Judge(case, np.arange(1)),
        options={"groups": c, "padding": pad},
    )
