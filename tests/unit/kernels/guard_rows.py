"""Runs the ops on rows and elements on operands that end, or begin, exactly at a page that must not be touched.

A program of its own: ``guard_rows.py CASES`` prints how many calls it made; ``guard_rows.py plant`` must die.
"""

import mmap
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from guard_pages import DATA_PAGES, Guarded

import npukernels as nk
from npukernels.activations import REFERENCES

VARIANTS = [v for v in nk.variants("silu") if v != "ref"]


def place(area: Guarded, shape, dtype, at_end: bool, extra: int = 0) -> np.ndarray:
    """An array of that shape that touches a guard page; ``extra`` bytes of it lie inside."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    start = mmap.PAGESIZE + extra if not at_end else (DATA_PAGES + 1) * mmap.PAGESIZE - size + extra
    return area._bytes[start : start + size].view(dtype).reshape(shape)


def plant() -> None:
    """Reads a row whose last element lies in the guard page."""
    nk.silu(place(Guarded(), (3, 7), np.float32, at_end=True, extra=4))


def calls(areas, rng, at_end):
    """All ops on one drawn shape."""
    rows, n = int(rng.integers(1, 5)), int(rng.integers(1, 300))
    kind = (np.float32, np.float16, np.uint16)[rng.integers(3)]
    x, y, out = (place(area, (rows, n), kind, at_end) for area in areas[:3])
    weight, bias = (place(area, (n,), np.float32, at_end) for area in areas[3:5])
    x[...], y[...], weight[...], bias[...] = 1, 1, 1, 1
    for variant in VARIANTS:
        for op in REFERENCES:
            if op == "gelu_tanh":
                yield nk.gelu(x, approximate="tanh", out=out, variant=variant)
            else:
                yield getattr(nk, op)(x, out=out, variant=variant)
        yield nk.swiglu(x, y, out=out, variant=variant)
        yield nk.softmax(x, out=out, variant=variant)
        yield nk.softmax(x, log=True, out=out, variant=variant)
        yield nk.layernorm(x, weight, bias, out=out, variant=variant)
        yield nk.rmsnorm(x, weight, out=out, variant=variant)
        yield nk.rmsnorm(x, weight, residual=y, out=out, variant=variant)
        y[...] = 1


def rope_and_topk(areas, rng, at_end):
    """Rotations and the largest elements of one drawn shape."""
    tokens, heads, dim = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 140))
    half = int(rng.integers(0, dim // 2 + 1))
    x, out = (place(area, (tokens, heads, dim), np.float32, at_end) for area in areas[:2])
    cosines, sines = (place(area, (tokens, half), np.float32, at_end) for area in areas[2:4])
    positions = place(areas[4], (tokens,), np.int64, at_end)
    x[...], cosines[...], sines[...], positions[...] = 1, 1, 0, np.arange(tokens)
    for variant in VARIANTS:
        for interleaved in (False, True):
            got = nk.rope(x, positions, cosines, sines, interleaved=interleaved, out=out, variant=variant)
            assert (got == 1).all()
            yield got
        yield nk.topk(x.reshape(tokens, -1), int(rng.integers(0, heads * dim + 1)), variant=variant)


def main(cases: int) -> None:
    """Draws ``cases`` shapes; every variant computes each at both placements."""
    rng, areas, ran = np.random.default_rng(7), [Guarded() for _ in range(5)], 0
    for _ in range(cases):
        for at_end in (False, True):
            for make in (calls, rope_and_topk):
                ran += sum(1 for _ in make(areas, rng, at_end))
    print(ran)


if __name__ == "__main__":
    plant() if sys.argv[1] == "plant" else main(int(sys.argv[1]))
