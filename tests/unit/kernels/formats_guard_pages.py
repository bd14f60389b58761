"""Runs the casts and integer quantisation on arrays that end, or begin, at a page that must not be touched.

A program of its own, because an overrun kills the process: ``formats_guard_pages.py CASES`` prints how many
calls it made; ``formats_guard_pages.py plant`` must die.
"""

import sys

import numpy as np
from guard_pages import DATA_PAGES, PAGE, Guarded

import npukernels as nk
from npukernels.casts import CASTS, code_dtype
from npukernels.formats import FORMATS


def vector(area: Guarded, n: int, dtype: str, at_end: bool, extra: int = 0) -> np.ndarray:
    """``n`` elements that touch a guard page; ``extra`` bytes reach into it."""
    size = n * np.dtype(dtype).itemsize
    start = (DATA_PAGES + 1) * PAGE - size + extra if at_end else PAGE
    return area._bytes[start : start + size].view(dtype)


def plant() -> None:
    """Casts a vector whose last element lies in the guard page."""
    nk.cast(vector(Guarded(), 40, "float32", True, extra=4), "fp8")


def main(cases: int) -> None:
    """Draws ``cases`` lengths; every variant converts each both ways, at both placements."""
    rng = np.random.default_rng(7)
    reals, codes, scales = Guarded(), Guarded(), Guarded()
    ran = 0
    for case in range(cases):
        n = int(rng.integers(1, 20_000 if case % 5 == 0 else 200))
        for variant in nk.variants("cast")[1:]:
            for at_end in (False, True):
                x = vector(reals, n, "float32", at_end)
                x[...] = 1
                name = CASTS[case % len(CASTS)]
                y = vector(codes, n, code_dtype(FORMATS[name]), at_end)
                nk.cast(x, name, out=y, variant=variant)
                nk.cast(y, "fp32", source=name, out=x, variant=variant)
                assert (x == 1).all(), (name, n)
                scale = vector(scales, n, "float32", at_end)
                scale[...] = 0.5
                q = vector(codes, n, "int8", at_end)
                for axis, used in ((0, scale), (None, scale[-1 if at_end else 0 :][:1].reshape(()))):
                    q[...] = nk.quantize(x, "int8", axis=axis, scale=used, variant=variant).codes
                    nk.dequantize(nk.Quantized("int8", q, used, None, axis), out=x, variant=variant)
                    assert (x == 1).all() and (q == 2).all(), n
                ran += 6
    print(ran)


if __name__ == "__main__":
    plant() if sys.argv[1] == "plant" else main(int(sys.argv[1]))
