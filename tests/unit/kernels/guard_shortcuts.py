"""Repeats calls, so that the second goes by a shortcut, on operands that end or begin at a page not to be touched.

A program of its own, as guard_pages.py is: ``guard_shortcuts.py CASES`` prints how many calls it repeated.
"""

import sys

import numpy as np
from guard_pages import Guarded

import npukernels as nk


def placed(area, x, at_end):
    """A copy of ``x`` against a guard page."""
    target = area.array(x.shape, x.dtype, at_end)
    target[...] = x
    return target


def calls(rng, put, m, n, k):
    """Public functions whose C does more than one step, on operands that ``put`` places; by name."""
    a, b = (rng.integers(-9, 9, shape).astype(np.int8) for shape in ((m, k), (k, n)))
    packed, left = nk.prepack_int8(b), put(a)
    scale, zero, bias = put(np.full(n, 0.5, np.float32)), put(np.ones(n, np.int32)), put(np.ones(n, np.int32))
    codes = [put(rng.integers(0, 16, shape).astype(np.uint8)) for shape in ((m, k), (k, n))]
    blocks = -(-k // 8)
    scales = [put(np.full(shape, 127, np.uint8)) for shape in ((m, blocks), (blocks, -(-n // 2)))]
    x, logits, experts = (put(rng.standard_normal((rows, k)).astype(np.float32)) for rows in (m, m, m))
    weights, offsets = put(rng.standard_normal((3, k, n)).astype(np.float32)), put(np.array([0, m // 2, m // 2, m]))
    stored = [nk.quantize(x, fmt, axis=1) for fmt in ("int8", "mxfp4", "nvfp4")]
    held = [nk.Quantized(q.fmt, put(q.codes), put(q.scale), None, q.axis, q.group, q.tensor_scale) for q in stored]
    options = {"fmt": "fp4", "scale_fmt": "e8m0", "block": 8, "columns": 2}
    rule = {"b_zero": zero, "b_scale": scale, "bias": bias, "out_scale": 0.1, "out_dtype": "int8"}
    return {
        "qgemm": lambda: nk.qgemm(left, packed, **rule, out=put(np.zeros((m, n), np.int8))),
        "qgemm, tosa": lambda: nk.qgemm(left, packed, **rule, rounding="tosa"),
        "block_gemm": lambda: nk.block_gemm(*codes, *scales, **options, out=put(np.zeros((m, n), np.float32))),
        "route": lambda: nk.route(logits, min(2, k)).order,
        "grouped_gemm": lambda: nk.grouped_gemm(experts, weights, offsets, out=put(np.zeros((m, n), np.float32))),
        **{f"dequantize {q.fmt}": lambda q=q: nk.dequantize(q, out=put(np.zeros(q.shape, np.float32))) for q in held},
        **{
            f"quantize {fmt} {axis}": lambda fmt=fmt, axis=axis: nk.quantize(x, fmt, axis=axis).codes
            for fmt, axis in (("int8", 0), ("uint4", None), ("fp8", 1), ("mxfp6", 1))
        },
    }


def main(cases):
    """Draws ``cases`` sizes; every call is made twice at both placements."""
    rng, ran = np.random.default_rng(11), 0
    for _ in range(cases):
        m, n, k = (int(v) for v in rng.integers(1, 40, 3))
        for at_end in (False, True):
            areas = iter([Guarded() for _ in range(60)])
            repeated = calls(rng, lambda v, areas=areas, at_end=at_end: placed(next(areas), v, at_end), m, n, k)
            for name, call in repeated.items():
                assert np.array_equal(call(), call()), (name, m, n, k)
                ran += 1
    print(ran)


if __name__ == "__main__":
    main(int(sys.argv[1]))
