"""How much faster are two threads than one, for large shapes of every kernel that has threads?

    python -m bench.threads [words of names]

Interleaved calls with one thread and with two in one process, wall time, outputs given where a kernel takes one. For
each kernel the ratio of the best times, the median ratio of pairs, and the processor time of one thread over that of
two: 1 when no work is done twice, whatever else runs. ``memory`` marks kernels whose operands exceed any cache and are
used about once; they cannot scale beyond copying between arrays of 256 MiB, printed first. A loaded machine shows less
than two cores can do: its load is printed with the results.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import npukernels as nk

SECONDS, ROUNDS = 1.0, 7
Run = Callable[[int], Any]
Case = tuple[str, bool, Run]


def _real(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def _codes(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).integers(-127, 128, shape).astype(np.int8)


def copies() -> Case:
    """Copying by one and by two threads (NumPy lets go of the interpreter): what the memory gives."""
    source, target = np.ones(64 << 20, np.float32), np.empty(64 << 20, np.float32)
    halves = [slice(0, source.size // 2), slice(source.size // 2, None)]

    def run(threads: int) -> None:
        if threads == 1:
            np.copyto(target, source)
            return
        hands = [threading.Thread(target=np.copyto, args=(target[part], source[part])) for part in halves]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join()

    return "copy 256 MiB", True, run


def products() -> Iterator[Case]:
    """gemm in its formats and layouts, conv2d, grouped_gemm."""
    for m, n, k in ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (16384, 64, 64), (128, 4096, 4096)):
        a, b, out = _real(m, k), _real(k, n), np.empty((m, n), np.float32)
        yield f"gemm f32 {m} {n} {k} NN", False, lambda t, a=a, b=b, o=out: nk.gemm(a, b, out=o, threads=t)
        if m == 1024:
            columns, half = np.asfortranarray(b), [nk.cast(x, "bf16") for x in (a, b)]
            yield f"gemm f32 {m} {n} {k} NT", False, lambda t, a=a, b=columns, o=out: nk.gemm(a, b, out=o, threads=t)
            yield f"gemm bf16 {m} {n} {k}", False, lambda t, h=half, o=out: nk.gemm(*h, out=o, threads=t)
    for m in (1, 8):
        x, w, y = _real(m, 4096), _real(4096, 4096), np.empty((m, 4096), np.float32)
        yield f"gemm f32 {m} 4096 4096 NN", True, lambda t, x=x, w=w, y=y: nk.gemm(x, w, out=y, threads=t)
        w = np.asfortranarray(w)
        yield f"gemm f32 {m} 4096 4096 NT", True, lambda t, x=x, w=w, y=y: nk.gemm(x, w, out=y, threads=t)
    image, kernel = _real(4, 56, 56, 128), _real(3, 3, 128, 128)
    pixels = np.empty_like(image)
    yield "conv2d 56 56 128 128", False, lambda t: nk.conv2d(image, kernel, padding=1, out=pixels, threads=t)


def quantised() -> Iterator[Case]:
    """qgemm, weight_gemm, block_gemm."""
    a, b, sums = _codes(1024, 1024), nk.prepack_int8(_codes(1024, 1024)), np.empty((1024, 1024), np.int32)
    yield "qgemm 1024 1024 1024", False, lambda t: nk.qgemm(a, b, out=sums, threads=t)
    scale = np.abs(_real(32, 4096))
    weight = nk.prepack_weight(_codes(4096, 4096) // 16, scale, bits=4, group=128)
    for m in (1, 8, 128):
        x, y = _real(m, 4096), np.empty((m, 4096), np.float32)
        for compute in ("fp32", "int8"):
            name = f"weight_gemm {compute} {m} 4096 4096"
            yield name, False, lambda t, x=x, y=y, c=compute: nk.weight_gemm(x, weight, compute=c, out=y, threads=t)
    codes = [nk.cast(_real(512, 512), "fp8") for _ in range(2)]
    one, real = np.ones((1, 1), np.float32), np.empty((512, 512), np.float32)
    yield "block_gemm fp8 512 512 512", False, lambda t: nk.block_gemm(*codes, one, one, out=real, threads=t)


def attention() -> Iterator[Case]:
    """Prefill and decode of 32 heads with 8 of keys."""
    q, k, v = _real(1, 32, 1024, 128), _real(1, 8, 1024, 128), _real(1, 8, 1024, 128)
    out = np.empty_like(q)
    yield "attention prefill 1024", False, lambda t: nk.attention(q, k, v, causal=True, out=out, threads=t)
    keys, values = _real(8, 8, 4096, 128), _real(8, 8, 4096, 128)
    token = _real(8, 32, 1, 128)
    result = np.empty_like(token)
    yield "attention decode 8 x 4096", True, lambda t: nk.attention(token, keys, values, out=result, threads=t)


def rows() -> Iterator[Case]:
    """Norms, activations, rotary embedding, casts: in cache, and out of it."""
    for count, where in ((64, False), (8192, True)):
        x, w = _real(count, 4096), _real(4096)
        out, byte = np.empty_like(x), np.empty(x.shape, np.uint8)
        calls: dict[str, Run] = {
            "layernorm": lambda t, x=x, w=w, o=out: nk.layernorm(x, w, w, out=o, threads=t),
            "rmsnorm": lambda t, x=x, w=w, o=out: nk.rmsnorm(x, w, out=o, threads=t),
            "softmax": lambda t, x=x, o=out: nk.softmax(x, out=o, threads=t),
            "gelu": lambda t, x=x, o=out: nk.gelu(x, out=o, threads=t),
            "silu": lambda t, x=x, o=out: nk.silu(x, out=o, threads=t),
            "cast to fp8": lambda t, x=x, o=byte: nk.cast(x, "fp8", out=o, threads=t),
        }
        for name, run in calls.items():
            yield f"{name} {count} 4096", where, run


def measure(run: Run) -> tuple[float, float, float, float]:
    """Best milliseconds of one thread; best and median of how many times as fast two are; ratio of processor times."""
    times: list[list[float]] = [[], []]
    work = [0.0, 0.0]
    run(1), run(2)
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times[0]) < ROUNDS:
        for i in range(2):
            start, used = time.perf_counter(), time.process_time()
            run(i + 1)
            times[i].append(time.perf_counter() - start)
            work[i] += time.process_time() - used
    one, two = np.array(times)
    return float(one.min() * 1e3), float(one.min() / two.min()), float(np.median(one / two)), work[0] / work[1]


def main() -> None:
    """Prints the table."""
    words = sys.argv[1:]
    load = f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs"
    print(f"{'call':34s} {'ms':>8s} {'best':>6s} {'median':>7s} {'work':>5s}   {load}")
    for cases in (lambda: iter([copies()]), products, quantised, attention, rows):
        for name, memory, run in cases():
            if all(word in name for word in words):
                ms, best, median, work = measure(run)
                kind = "memory" if memory else ""
                print(f"{name:34s} {ms:8.2f} {best:6.2f} {median:7.2f} {work:5.2f}   {kind}", flush=True)


if __name__ == "__main__":
    main()
