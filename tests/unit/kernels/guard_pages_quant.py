"""Runs the quantised products on operands that end, or begin, exactly at a page that must not be touched.

A program of its own, as guard_pages.py is: ``guard_pages_quant.py CASES`` prints how many products it made.
"""

import dataclasses
import itertools
import sys

import numpy as np
from guard_pages import Guarded

import npukernels as nk
from npukernels.formats import encode

PACKED = ("panels", "sums", "small")


def placed(area, x, at_end):
    """A copy of ``x`` against a guard page."""
    if not x.size:
        return x
    bytes_ = area.matrix(1, -(-x.nbytes // 4), at_end).view(np.uint8).ravel()
    start = bytes_.size - x.nbytes if at_end else 0
    target = bytes_[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    target[...] = x
    return target


def integers(rng, areas, m, n, k, at_end):
    """One product by every variant, packed and not; returns how many."""
    a = placed(areas[0], rng.integers(0, 255, (m, k), np.uint8, endpoint=True), at_end)
    b = rng.integers(*((-128, 127), (-64, 64))[int(rng.integers(2))], (k, n), np.int8, endpoint=True)
    expected = a.astype(np.int64) @ b.astype(np.int64)
    packed = nk.prepack_int8(b)
    fields = {name: placed(areas[i], getattr(packed, name), at_end) for i, name in enumerate(PACKED, 4)}
    operands = (dataclasses.replace(packed, **fields), placed(areas[1], b, at_end))
    ran = 0
    for variant, right in itertools.product(nk.variants("qgemm"), operands):
        if variant.startswith("c-"):
            out = placed(areas[3], np.zeros((m, n), np.int32), at_end)
            assert np.array_equal(nk.qgemm(a, right, out=out, variant=variant), expected), (variant, m, n, k)
            ran += 1
    return ran


def weights(rng, areas, m, n, k, at_end):
    """Weight and block products by every variant; returns how many."""
    groups = -(-k // 32)
    q = rng.integers(-8, 8, (k, n)).astype(np.int8)
    packed = nk.prepack_weight(q, np.ones((groups, n), np.float32), np.ones((groups, n), np.int8), group=32)
    fields = {"codes": packed.codes, "scale": packed.scale, "zero": packed.zero}
    fields = {name: placed(areas[i], x, at_end) for i, (name, x) in enumerate(fields.items())}
    weight = dataclasses.replace(packed, **fields)
    x = placed(areas[3], rng.integers(-127, 128, (m, k)).astype(np.float32), at_end)
    out = placed(areas[4], np.zeros((m, n), np.float32), at_end)
    expected, ran = x @ (q - 1.0), 0
    for compute, op in (("fp32", "weight_gemm"), ("int8", "weight_gemm_int8")):
        for variant in nk.variants(op)[1:]:
            nk.weight_gemm(x, weight, compute=compute, out=out, variant=variant)
            assert compute == "int8" or np.array_equal(out, expected), (variant, m, n, k)
            ran += 1
    x = rng.integers(-8, 9, (m, k))
    codes = [placed(area, encode(y, "fp8"), at_end) for area, y in ((areas[3], x), (areas[0], q))]
    scales = (np.ones((m, groups), np.float32), np.ones((groups, n), np.float32))
    spread = [placed(areas[i], values, at_end) for i, values in enumerate(scales, 1)]
    for variant in nk.variants("block_gemm")[1:]:
        nk.block_gemm(*codes, *spread, out=out, variant=variant)
        assert np.array_equal(out, x @ q.astype(int)), (variant, m, n, k)
        ran += 1
    return ran


def main(cases):
    """Draws ``cases`` shapes; every variant computes each at both placements."""
    rng, areas, ran = np.random.default_rng(7), [Guarded() for _ in range(7)], 0
    for _ in range(cases):
        m, n, k = (int(x) for x in rng.integers(1, (40, 70, 600 if rng.random() < 0.2 else 70)))
        for at_end in (False, True):
            ran += integers(rng, areas, m, n, k, at_end) + weights(rng, areas, m, n, k, at_end)
    print(ran)


if __name__ == "__main__":
    main(int(sys.argv[1]))
