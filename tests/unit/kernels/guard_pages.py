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
DATA_PAGES = 48


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
        size = rows * cols * 4
        start = PAGE + extra if not at_end else (DATA_PAGES + 1) * PAGE - size + extra
        return self._bytes[start : start + size].view(np.float32).reshape(rows, cols)


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


if __name__ == "__main__":
    plant() if sys.argv[1] == "plant" else main(int(sys.argv[1]))
