"""Do the golden cases of selection and block quantisation pass right outputs and catch wrong ones?"""

from __future__ import annotations

import numpy as np
import pytest

import npukernels as nk
from npukernels.cases import FILLS
from npukernels.quantized import BLOCKS
from npusim.errors import InputError


def dense(routing, tokens, experts):
    weights = np.zeros((tokens, experts), np.float32)
    np.put_along_axis(weights, routing.experts, routing.weights, axis=1)
    return weights


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("variant", nk.variants("topk"))
def test_topk_of_every_variant_is_exact(variant, fill):
    for rows, n, k in [(0, 5, 2), (1, 1, 1), (3, 7, 0), (5, 33, 33), (17, 130, 8)]:
        case = nk.golden("topk", rows=rows, n=n, k=k, fill=fill, seed=rows)
        _, indices = nk.topk(case.inputs[0], k, variant=variant)
        assert nk.check(indices, case).verdict == "PASS"


def test_topk_by_hand():
    """Of 3 1 3 2 the two largest stand at 0 and 2: equal values in the order of their indices."""
    case = nk.golden("topk", rows=4, n=9, k=3, fill="integer", seed=1)
    x = case.inputs[0]
    for row, indices in zip(x, case.expected.astype(int), strict=True):
        by_hand = sorted(range(9), key=lambda i: (-row[i], i))[:3]
        assert list(indices) == by_hand


def test_wrong_order_of_equals_fails():
    case = nk.golden("topk", rows=8, n=32, k=8, fill="integer")
    last_first = 31 - np.argsort(-case.inputs[0][:, ::-1], axis=1, kind="stable")[:, :8]
    assert nk.check(last_first.astype(np.int64), case).verdict == "FAIL"


@pytest.mark.parametrize("fill", FILLS)
def test_route_is_within_its_bound(fill):
    for tokens, experts, k in [(0, 4, 2), (1, 1, 1), (9, 60, 4), (33, 256, 8), (5, 16, 16), (3, 8, 0)]:
        case = nk.golden("route", tokens=tokens, experts=experts, k=k, fill=fill, seed=experts)
        for variant in nk.variants("topk"):
            got = dense(nk.route(case.inputs[0], k, variant=variant), tokens, experts)
            nk.check(got, case).raise_for_status()
            assert nk.check(got, case).verdict == "PASS"


def test_route_without_renormalisation_fails():
    case = nk.golden("route", tokens=16, experts=64, k=4)
    got = dense(nk.route(case.inputs[0], 4, renormalize=False), 16, 64)
    assert nk.check(got, case).verdict == "FAIL"


@pytest.mark.parametrize("fmt", BLOCKS)
def test_block_quantisation_is_exact_and_a_wrong_block_is_found(fmt):
    for fill in FILLS:
        case = nk.golden("block_quantize", dtype=fmt, m=5, n=100, fill=fill, seed=3)
        for variant in nk.variants("quantize"):
            got = nk.dequantize(nk.quantize(case.inputs[0], fmt, variant=variant), variant=variant)
            assert nk.check(got, case).verdict == "PASS"
    case = nk.golden("block_quantize", dtype=fmt, m=64, n=128, fill="adversarial")
    across = nk.dequantize(nk.quantize(case.inputs[0], fmt, axis=0))
    assert nk.check(across, case).verdict == "FAIL"


def test_more_than_there_are_is_refused():
    with pytest.raises(InputError, match="no 9 largest of 8"):
        nk.golden("topk", rows=2, n=8, k=9)
    with pytest.raises(InputError, match="no 9 largest of 8"):
        nk.golden("route", tokens=2, experts=8, k=9)
