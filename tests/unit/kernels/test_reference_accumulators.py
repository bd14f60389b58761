"""Does the settable accumulator do what its name says?"""

import numpy as np
import pytest

import npukernels as nk
from npusim.errors import InputError


def _factors(m=7, n=5, k=96, seed=2):
    return nk.golden("gemm", m=m, n=n, k=k, seed=seed).inputs


def test_fp16_and_fp32_sums_are_those_of_numpy():
    a, b = _factors()
    for dtype, name in ((np.float16, "fp16"), (np.float32, "fp32")):
        total = np.zeros((7, 5), dtype)
        for p in range(a.shape[1]):
            total = (total.astype(float) + a[:, p : p + 1].astype(float) * b[p].astype(float)).astype(dtype)
        assert np.array_equal(nk.reference.gemm(a, b, accumulate=name), total)


@pytest.mark.skipif("c-avx2" not in nk.variants("gemm"), reason="this CPU or build lacks avx2 and fma")
def test_our_own_kernel_is_explained_bit_for_bit():
    """The contract of docs/kernels-gemm.md: equal blocks of at most 384, multiples of 16, each one chain."""
    a, b = _factors(k=900)
    expected = nk.reference.gemm(a, b, accumulate="fp32", chunk=304)
    assert np.mean(nk.gemm(a, b, variant="c-avx2") == expected) > 0.97  # float64 adders round twice, rarely


def _dots(a, b):
    """The other order of docs/kernels-gemm.md: 16 chains over p mod 16, halved until one is left."""
    chains = np.zeros((a.shape[0], b.shape[1], 16), np.float32)
    for p in range(a.shape[1]):
        product = a[:, p, None].astype(float) * b[p].astype(float)
        chains[..., p % 16] = (chains[..., p % 16] + product).astype(np.float32)
    while chains.shape[-1] > 1:
        half = chains.shape[-1] // 2
        chains = chains[..., :half] + chains[..., half:]
    return chains[..., 0]


@pytest.mark.skipif("c-avx2" not in nk.variants("gemm"), reason="this CPU or build lacks avx2 and fma")
@pytest.mark.parametrize("k", [1, 7, 15, 16, 31, 903])
def test_few_rows_against_contiguous_columns_are_dot_products(k):
    a, b = _factors(m=2, n=35, k=k)
    for rows in (1, 2):
        left, right, expected = a[:rows], np.asfortranarray(b), _dots(a[:rows], b)
        products = {
            "as it is": nk.gemm(left, right, variant="c-avx2"),
            "turned over": nk.gemm(right.T, left.T, variant="c-avx2").T,
            "A with steps": nk.gemm(np.repeat(left, 2, axis=1)[:, ::2], right, variant="c-avx2"),
        }
        for name, got in products.items():
            assert np.mean(got == expected) > 0.97, (name, rows)  # float64 adders round twice, rarely
            assert np.array_equal(got, products["as it is"]), (name, rows)


def test_narrow_formats_round_to_their_mantissa():
    x = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 65520.0, -1e9, 2.0**-25, np.nan])
    with np.errstate(over="ignore"):
        assert np.array_equal(nk.reference.round_to(x, "fp16"), x.astype(np.float16).astype(float), equal_nan=True)
    assert nk.reference.round_to(np.array([1 + 2.0**-13 + 2.0**-14]), "fp22")[0] == 1 + 2 * 2.0**-13
    assert nk.reference.round_to(np.array([1 + 2.0**-13 + 2.0**-14]), "fp22", "truncate")[0] == 1 + 2.0**-13
    assert nk.reference.round_to(np.array([1e9]), "fp16", "truncate")[0] == 65504


def test_rounding_a_chunk_once_is_closer_than_rounding_every_add():
    a, b = _factors(k=512)
    exact = a.astype(float) @ b.astype(float)
    error = {
        how: np.abs(nk.reference.gemm(a, b, accumulate="bf16", chunk=128, round_every=how) - exact).mean()
        for how in ("add", "chunk")
    }
    assert error["chunk"] < error["add"] / 3


def test_scales_multiply_the_chunk_sums():
    a, b = _factors(k=64)
    rows, cols = 2.0 ** np.arange(14).reshape(7, 2), 2.0 ** -np.arange(10.0).reshape(2, 5)
    scaled = nk.reference.gemm(a, b, accumulate="fp64", chunk=32, a_scale=rows, b_scale=cols)
    big_a = a.astype(float) * np.repeat(rows, 32, axis=1)
    big_b = b.astype(float) * np.repeat(cols, 32, axis=0)
    assert np.allclose(scaled, big_a @ big_b, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    "truth",
    [
        {"accumulate": "bf16", "chunk": 0, "order": "sequential", "rounding": "nearest"},
        {"accumulate": "fp22", "chunk": 32, "order": "pairwise", "rounding": "truncate"},
        {"accumulate": "fp16", "chunk": 128, "order": "reverse", "rounding": "nearest"},
    ],
)
def test_the_accumulator_of_an_output_is_found(truth):
    a, b = _factors(k=200)
    output = nk.reference.gemm(a, b, **truth).astype(np.float32)

    best, second = nk.reference.hypotheses(output, a, b)[:2]

    assert best.settings == truth and best.identical == 1 and best.error == 0
    assert second.identical < 1


@pytest.mark.parametrize("change", [
    {"accumulate": "fp8"}, {"chunk": -1}, {"order": "any"}, {"rounding": "up"}, {"outer": "x"}, {"round_every": "k"},
    {"a_scale": np.ones((2, 2))},
])  # fmt: skip
def test_bad_settings(change):
    a, b = _factors()
    with pytest.raises(InputError):
        nk.reference.gemm(a, b, **change)
    with pytest.raises(InputError):
        nk.reference.gemm(a, a)
    assert nk.reference.gemm(a[:, :0], b[:0]).shape == (7, 5)
