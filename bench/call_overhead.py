"""How long does Python take around the C call of a small kernel?

    python -m bench.call_overhead

Every public kernel on operands of a few elements, ``out=`` given where it has one, constant weights prepacked; beside
it the same C function with the same arguments, called through cffi with pointers made beforehand. Interleaved rounds
on one thread; the best of each, in microseconds. The overhead is their difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import npukernels as nk
from npukernels import native, shortcuts

ROUNDS, CALLS = 40, 200


def cases(nk: Any = nk) -> dict[str, Callable[[], Any]]:
    """Calls of the public functions on small operands, by name; of another build of the package when one is given."""
    rng = np.random.default_rng(0)
    return {**_products(nk, rng), **_quantised(nk, rng), **_attention(nk, rng), **_rows(nk, rng), **_others(nk, rng)}


def _real(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def _products(nk: Any, rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    x, b, out = _real(rng, 4, 16), _real(rng, 16, 16), np.empty((4, 16), np.float32)
    half, codes = [v.astype(np.float16) for v in (x, b)], [nk.cast(v, "bf16") for v in (x, b)]
    packed, strided = nk.prepack(b), _real(rng, 8, 16)[::2]
    return {
        "gemm f32": lambda: nk.gemm(x, b, out=out),
        "gemm f32, NT": lambda t=b.T: nk.gemm(x, t, out=out),
        "gemm f32, strided a": lambda: nk.gemm(strided, b, out=out),
        "gemm f32, prepacked": lambda: nk.gemm(x, packed, out=out),
        "gemm f32, new output": lambda: nk.gemm(x, b),
        "gemm fp16": lambda: nk.gemm(half[0], half[1], out=out),
        "gemm fp16, NT": lambda t=half[1].T: nk.gemm(half[0], t, out=out),
        "gemm bf16": lambda: nk.gemm(codes[0], codes[1], out=out),
        "gemm bf16, NT": lambda t=codes[1].T: nk.gemm(codes[0], t, out=out),
    }


def _quantised(nk: Any, rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    a, b = (rng.integers(-9, 9, shape).astype(np.int8) for shape in ((4, 16), (16, 16)))
    signed, unsigned = nk.prepack_int8(b), nk.prepack_int8(b.view(np.uint8))
    sums, real, codes = np.empty((4, 16), np.int32), np.empty((4, 16), np.float32), np.empty((4, 16), np.int8)
    scales, rows = np.full(16, 0.5, np.float32), np.full(4, 0.25, np.float32)
    zeros, bias = np.ones(16, np.int32), np.arange(16, dtype=np.int32)
    x, groups = _real(rng, 4, 16), np.full((1, 16), 0.5, np.float32)
    w8, w4 = nk.prepack_weight(b, groups, bits=8), nk.prepack_weight(b // 2, groups, bits=4)
    fp8, fp4 = (
        [nk.cast(_real(rng, *s), "fp8") for s in ((4, 32), (32, 16))],
        [nk.cast(_real(rng, *s), "fp4") for s in ((4, 32), (32, 16))],
    )
    one, mx = np.ones((1, 1), np.float32), [np.full(s, 127, np.uint8) for s in ((4, 1), (1, 16))]
    return {
        "qgemm s8": lambda: nk.qgemm(a, signed, out=sums),
        "qgemm u8": lambda: nk.qgemm(a, unsigned, out=sums),
        "qgemm to s8, scales, zero points": lambda: nk.qgemm(
            a, signed, a_zero=3, b_zero=zeros, a_scale=0.1, b_scale=scales, bias=bias, out_dtype="int8", out_scale=0.2,
            out_zero=5, out=codes,
        ),
        "qgemm to f32, scales of rows": lambda: nk.qgemm(
            a, signed, a_scale=rows, b_scale=scales, out_dtype="float32", out=real
        ),
        "weight_gemm 8 bits": lambda: nk.weight_gemm(x, w8, out=real),
        "weight_gemm 4 bits": lambda: nk.weight_gemm(x, w4, out=real),
        "block_gemm fp8": lambda: nk.block_gemm(*fp8, one, one, out=real),
        "block_gemm mxfp4": lambda: nk.block_gemm(*fp4, *mx, fmt="fp4", scale_fmt="e8m0", out=real),
    }  # fmt: skip


def _attention(nk: Any, rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    prompt, token = _real(rng, 1, 2, 4, 16), _real(rng, 1, 2, 1, 16)
    k, v = _real(rng, 1, 2, 4, 16), _real(rng, 1, 2, 4, 16)
    k8, v8 = (rng.integers(-9, 9, k.shape).astype(np.int8) for _ in range(2))
    pages, values = _real(rng, 4, 4, 2, 16), _real(rng, 4, 4, 2, 16)
    table, lengths = np.array([[2, 0]], np.int32), np.array([5], np.int32)
    long, short = np.empty_like(prompt), np.empty_like(token)
    return {
        "attention, prefill": lambda: nk.attention(prompt, k, v, causal=True, out=long),
        "attention, decode": lambda: nk.attention(token, k, v, out=short),
        "attention, decode, int8": lambda: nk.attention(token, k8, v8, 0.5, 0.5, out=short),
        "attention, paged": lambda: nk.paged_attention(token, pages, values, table, lengths, out=short),
    }


def _rows(nk: Any, rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    x, y, weight, bias = _real(rng, 4, 16), _real(rng, 4, 16), _real(rng, 16), _real(rng, 16)
    out, same, codes = np.empty_like(x), x.copy(), nk.cast(x, "bf16")
    heads, at, (cosines, sines) = _real(rng, 4, 2, 8), np.arange(4), nk.rope_cache(16, 8)
    turned, narrow = np.empty_like(heads), np.empty_like(codes)
    return {
        "layernorm": lambda: nk.layernorm(x, weight, bias, out=out),
        "rmsnorm": lambda: nk.rmsnorm(x, weight, out=out),
        "rmsnorm bf16": lambda: nk.rmsnorm(codes, weight, out=narrow),
        "softmax": lambda: nk.softmax(x, out=out),
        "softmax in place": lambda: nk.softmax(same, out=same),
        "rope": lambda: nk.rope(heads, at, cosines, sines, out=turned),
        "gelu": lambda: nk.gelu(x, out=out),
        "silu": lambda: nk.silu(x, out=out),
        "swiglu": lambda: nk.swiglu(x, y, out=out),
    }


def _others(nk: Any, rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    x, out = _real(rng, 4, 32), np.empty((4, 32), np.float32)
    codes, byte = nk.cast(x, "fp8"), np.empty((4, 32), np.uint8)
    image, kernel, one = _real(rng, 1, 4, 4, 8), _real(rng, 3, 3, 8, 8), _real(rng, 3, 3, 8)
    pixels, experts = np.empty_like(image), _real(rng, 3, 32, 8)
    grouped, tokens = np.empty((4, 8), np.float32), np.array([0, 2, 2, 4])
    q = {name: nk.quantize(x, name, axis=axis) for name, axis in (("int8", 0), ("fp8", None), ("mxfp4", None))}
    return {
        "cast to fp8": lambda: nk.cast(x, "fp8", out=byte),
        "cast from fp8": lambda: nk.cast(codes, "fp32", source="fp8", out=out),
        "quantize int8 by rows": lambda: nk.quantize(x, "int8", axis=0),
        "quantize fp8": lambda: nk.quantize(x, "fp8"),
        "quantize mxfp4": lambda: nk.quantize(x, "mxfp4"),
        "dequantize int8 by rows": lambda: nk.dequantize(q["int8"], out=out),
        "dequantize fp8": lambda: nk.dequantize(q["fp8"], out=out),
        "dequantize mxfp4": lambda: nk.dequantize(q["mxfp4"], out=out),
        "topk": lambda: nk.topk(x, 2),
        "route": lambda: nk.route(x, 2),
        "conv2d": lambda: nk.conv2d(image, kernel, padding=1, out=pixels),
        "depthwise_conv2d": lambda: nk.depthwise_conv2d(image, one, padding=1, out=pixels),
        "grouped_gemm": lambda: nk.grouped_gemm(x, experts, tokens, out=grouped),
    }


def bare(run: Callable[[], Any]) -> Callable[[], Any] | None:
    """The C call that ``run`` repeats, with pointers made beforehand; None when it has no shortcut."""
    made: list[shortcuts.Call] = []
    keep = shortcuts.Shortcut.keep

    def record(self: shortcuts.Shortcut, arguments: Any, call: shortcuts.Call | None, *results: Any) -> None:
        made.extend([call] if call else [])
        keep(self, arguments, call, *results)

    shortcuts.forget()
    shortcuts.Shortcut.keep = record  # type: ignore[method-assign]
    try:
        run()
    finally:
        shortcuts.Shortcut.keep = keep  # type: ignore[method-assign]
    if not made:
        return None
    module = native.require_native()
    function = getattr(module.lib, made[-1].function)
    arguments = [shortcuts.for_c(module.ffi, x) for x in made[-1].arguments]

    def call(held: Any = made) -> None:  # keeps the arrays alive
        function(*arguments)

    return call


def best_us(*runs: Callable[[], Any]) -> list[float]:
    """The least time of one call of each, in microseconds, from interleaved rounds."""
    best = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for i, run in enumerate(runs):
            start = time.perf_counter_ns()
            for _ in range(CALLS):
                run()
            best[i] = min(best[i], (time.perf_counter_ns() - start) / CALLS / 1e3)
    return best


def main() -> None:
    """Prints the table."""
    print(f"{'call':34s} {'Python':>8s} {'C':>8s} {'above it':>9s}  µs")
    for name, run in cases().items():
        call = bare(run)
        if call is None:
            print(f"{name:34s} {best_us(run)[0]:8.2f} {'-':>8s} {'-':>9s}")
            continue
        whole, inside = best_us(run, call)
        print(f"{name:34s} {whole:8.2f} {inside:8.2f} {whole - inside:9.2f}", flush=True)


if __name__ == "__main__":
    main()
