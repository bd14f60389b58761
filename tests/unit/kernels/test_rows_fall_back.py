"""Are layernorm and softmax within their bounds, and the same to the bit, for rows that their fast passes hand on?"""

import numpy as np
import pytest
from rows_that_fall_back import LENGTHS, layernorm_rows, softmax_rows

import npukernels as nk

COMPILED = [v for v in nk.variants("softmax") if v.startswith("c-")]
TINY = 1e-44


@pytest.mark.parametrize("variant", nk.variants("layernorm"))
@pytest.mark.parametrize("n", LENGTHS)
def test_layernorm_is_within_the_proven_bound(variant, n):
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(2, n)).astype(np.float32)
    for name, x in layernorm_rows(n).items():
        wide = x[None].astype(np.float64)
        exact = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5) * weight + bias
        bound = nk.layernorm_bound(wide, weight, bias, 1e-5) * (1 + 1e-6) + TINY

        y = nk.layernorm(x[None], weight, bias, variant=variant)

        assert (np.abs(y - exact) <= bound).all(), name


@pytest.mark.parametrize("variant", nk.variants("softmax"))
@pytest.mark.parametrize("n", [*LENGTHS, 8192, 8200, 9001])
def test_softmax_is_within_the_proven_bound(variant, n):
    for name, x in softmax_rows(n).items():
        place = x[None].copy()
        with np.errstate(invalid="ignore"):  # of the reference, for rows without a result
            y, logs = nk.softmax(x[None], variant=variant), nk.softmax(x[None], log=True, variant=variant)
            nk.softmax(place, out=place, variant=variant)

        assert np.array_equal(place, y, equal_nan=True), name
        wide = x[None].astype(np.float64)
        if np.isnan(wide).any() or not np.isfinite(wide.max()):
            assert np.isnan(y).all() and np.isnan(logs).all(), name
            continue
        seen = np.isfinite(wide)  # elements at -inf change neither the others nor their bound
        exact = np.exp(wide - wide.max()) / np.exp(wide - wide.max()).sum()
        bound = nk.softmax_bound(wide[seen][None])[0] * (1 + 1e-6) + TINY
        assert (np.abs(y - exact)[seen] <= bound).all() and (y[~seen] == 0).all(), name
        log_sum = wide.max() + np.log(np.exp(wide - wide.max()).sum())
        off = 2.0**-24 * (3 * np.abs(wide - log_sum) + n + 8)  # two differences, and the logarithm of the sum
        if variant in COMPILED:
            error = np.abs(logs[seen] - (wide - log_sum)[seen])
            assert (error <= off[seen]).all() and (logs[~seen] == -np.inf).all(), name


@pytest.mark.parametrize("variant", COMPILED)
def test_the_logarithm_of_a_probability_next_to_one_is_zero(variant):
    for low, high in ((10, 40), (-50, 50), (-20, 0)):
        x = np.full((1, 600), low, np.float32)
        x[0, 77] = high
        assert -3e-6 < nk.softmax(x, log=True, variant=variant)[0, 77] <= 0


@pytest.mark.parametrize("variant", COMPILED)
@pytest.mark.parametrize(("op", "rows"), [("layernorm", layernorm_rows), ("softmax", softmax_rows)])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_same_bits_alone_and_among_others_for_every_place_of_the_output(variant, op, rows, kind):
    """Rows past the caches are stored in vectors that lie otherwise; rows of a bundle share their weights."""
    n = 1036
    x = np.stack(list(rows(n).values()))[:48].clip(-6e4, 6e4).astype(kind)
    expected = np.concatenate([getattr(nk, op)(row[None], variant=variant) for row in x])
    assert np.array_equal(getattr(nk, op)(x, variant=variant), expected, equal_nan=True)

    times = (17 << 20) // expected.nbytes + 1
    large, most = np.tile(x, (times, 1)), np.tile(expected, (times, 1))
    memory = np.zeros(large.size + 64, kind)
    for start in (0, 4, 8, 12, 3):
        out = memory[start : start + large.size].reshape(large.shape)
        for threads in (1, 3):
            getattr(nk, op)(large, out=out, variant=variant, threads=threads)
            assert np.array_equal(out, most, equal_nan=True), (start, threads)


@pytest.mark.parametrize("variant", COMPILED)
@pytest.mark.parametrize("op", ["silu", "gelu", "exp"])
def test_elements_past_the_caches_have_the_same_bits_at_every_place_of_the_output(variant, op):
    x = np.linspace(-20, 20, (17 << 18) + 5, dtype=np.float32)
    small = np.concatenate([getattr(nk, op)(part, variant=variant) for part in np.array_split(x, 9)])
    memory = np.zeros(x.size + 16, np.float32)
    for start in (0, 4, 8, 12, 1):
        out = memory[start : start + x.size]
        getattr(nk, op)(x, out=out, variant=variant)
        assert np.array_equal(out, small), start
