"""Runs gemm on operands that end, or begin, exactly at a page that must not be touched.

A program of its own, because an overrun kills the process that makes it: ``guard_pages.py CASES``
prints how many products it made; ``guard_pages.py plant`` must die, which proves that the guards work.
"""

import ctypes
import mmap
import sys

import numpy as np

import npukernels as nk

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PROT_NONE, PROT_READ_WRITE = 0, 3
DATA_PAGES = 188  # the largest operand below is 20 x 9601 float32, 187.6 pages


class Guarded:
    """Pages between two that cannot be read or written."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, (DATA_PAGES + 2) * PAGE)
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        base = self._bytes.ctypes.data
        for page in (0, DATA_PAGES + 1):
            if LIBC.mprotect(base + page * PAGE, PAGE, PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def matrix(self, rows: int, cols: int, at_end: bool, extra: int = 0) -> np.ndarray:
        """A (rows, cols) float32 matrix that touches a guard page; ``extra`` bytes reach into it."""
        return self.array((rows, cols), np.float32, at_end, extra)

    def array(self, shape: tuple[int, ...], dtype: type, at_end: bool, extra: int = 0) -> np.ndarray:
        """The same of any shape and dtype."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert size <= DATA_PAGES * PAGE
        start = PAGE + extra if not at_end else (DATA_PAGES + 1) * PAGE - size + extra
        return self._bytes[start : start + size].view(dtype).reshape(shape)


def plant() -> None:
    """Multiplies by a matrix whose last element lies in the guard page."""
    a = Guarded().matrix(8, 16, at_end=True, extra=4)
    nk.gemm(a, np.ones((16, 8), np.float32))


def main(cases: int) -> None:
    """Draws ``cases`` shapes; every variant computes each at both placements, both layouts."""
    rng = np.random.default_rng(7)
    areas = [Guarded() for _ in range(3)]
    variants = [v for v in nk.variants("gemm") if v != "ref"]
    ran = 0
    for _ in range(cases):
        m, n, k = (int(x) for x in rng.integers(1, (70, 90, 600 if rng.random() < 0.2 else 90)))
        for at_end in (False, True):
            a, b, out = (
                area.matrix(r, c, at_end) for area, (r, c) in zip(areas, ((m, k), (k, n), (m, n)), strict=True)
            )
            a_t, b_t = areas[0].matrix(k, m, at_end).T, areas[1].matrix(n, k, at_end).T
            out_t = areas[2].matrix(n, m, at_end).T
            a[...] = 1
            b[...] = 1
            for variant in variants:
                for left, right, result in ((a, b, out), (a_t, b_t, out), (a, b_t, out_t), (a_t, b, out_t)):
                    result[...] = np.nan
                    nk.gemm(left, right, out=result, variant=variant)
                    assert (result == k).all(), (variant, m, n, k, at_end)
                    ran += 1
    print(ran)


def family(cases: int) -> None:
    """The same for 16-bit products, long columns, prepacked weights and convolutions."""
    rng = np.random.default_rng(11)
    areas = [Guarded() for _ in range(3)]
    ran = 0
    for _ in range(cases):
        m, n, k = int(rng.integers(1, 20)), int(rng.integers(1, 70)), int(rng.integers(1, 500))
        h, w, c, f = (int(x) for x in rng.integers(3, (12, 12, 30, 30)))
        for at_end in (False, True):
            for variant in [v for v in nk.variants("gemm") if v.startswith("c-")]:
                for dtype, one in ((np.float32, 1), (np.float16, 1), (np.uint16, 0x3F80)):
                    a, b, out = (
                        area.array(s, dtype, at_end) for area, s in zip(areas, ((m, k), (n, k), (m, n)), strict=True)
                    )
                    a[...], b[...] = one, one
                    name = {np.float32: "fp32", np.float16: "fp16", np.uint16: "bf16"}[dtype]
                    nk.gemm(a, b.T, out=out, variant=variant)
                    assert (nk.gemm(a, b.T, variant=variant, out_dtype=name) == out).all()
                    packed = nk.prepack(b.T, variant=variant)
                    assert (nk.gemm(a, packed, out=areas[2].array((m, n), np.float32, at_end)) == k).all()
                    ran += 3
                for op, shape in (("conv2d", (3, 3, c, f)), ("depthwise_conv2d", (3, 3, c))):
                    x, weights = (
                        areas[0].array((1, h, w, c), np.float32, at_end),
                        areas[1].array(shape, np.float32, at_end),
                    )
                    x[...], weights[...] = 1, 1
                    out = areas[2].array((1, h - 2, w - 2, shape[-1]), np.float32, at_end)
                    getattr(nk, op)(x, weights, out=out, variant=variant)
                    full = 9 * c if op == "conv2d" else 9
                    assert (out == full).all()
                    out = areas[2].array((1, h, w, shape[-1]), np.float32, at_end)
                    getattr(nk, op)(x, weights, out=out, padding=1, variant=variant)
                    assert (out[:, 1:-1, 1:-1] == full).all() and (out[:, 0] < full).all()
                    ran += 1
    print(ran)


def long(columns: int) -> None:
    """At most 4 rows against up to ``columns`` contiguous columns, whose length is no multiple of a vector's."""
    areas = [Guarded() for _ in range(3)]
    ran = 0
    for k in (9217, 9601):
        for m in range(1, 5):
            for n in range(1, columns + 1):
                for at_end in (False, True):
                    shapes = ((m, k), (n, k), (m, n))
                    a, w, out = (area.matrix(*s, at_end) for area, s in zip(areas, shapes, strict=True))
                    a[...], w[...] = 1, 1
                    for variant in [v for v in nk.variants("gemm") if v.startswith("c-")]:
                        out[...] = np.nan
                        nk.gemm(a, w.T, out=out, variant=variant)
                        assert (out == k).all(), (variant, m, n, k, at_end)
                        ran += 1
    print(ran)


if __name__ == "__main__":
    if sys.argv[1] == "plant":
        plant()
    else:
        {"family": family, "long": long}.get(sys.argv[1], main)(int(sys.argv[-1]))
