"""Is every variant of qgemm exact, for any shape, layout, zero point, output and thread count?"""

import itertools

import numpy as np
import pytest

import npukernels as nk
from npukernels.rescale import apply_scale_32, tosa_scale
from npusim.errors import InputError

VARIANTS = nk.variants("qgemm")
NATIVE = [v for v in VARIANTS if v.startswith("c-")]
SIZES = (0, 1, 2, 3, 4, 5, 7, 13, 15, 16, 17, 31, 33, 61)
DTYPES = [(a, b) for a in ("int8", "uint8") for b in ("int8", "uint8")]


def _shapes():
    rng = np.random.default_rng(3)
    small = sorted({tuple(int(x) for x in rng.choice(SIZES, 3)) for _ in range(240)})
    large = [(1, 2000, 5), (2000, 1, 5), (3, 17, 5003), (4, 18, 1025), (193, 40, 513), (7, 530, 1030), (197, 515, 9)]
    return [(0, 5, 7), (5, 0, 7), (5, 7, 0), (1, 1, 1), *small, *large]


SHAPES = _shapes()


def _draw(rng, dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def _exact(a, b, a_zero=0, b_zero=0):
    return (a.astype(np.int64) - a_zero) @ (b.astype(np.int64) - b_zero)


def test_there_are_as_many_shapes_as_promised():
    assert len(SHAPES) >= 200


@pytest.mark.parametrize(("left", "right"), DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sums_are_exact(variant, left, right):
    rng = np.random.default_rng(1)
    for m, n, k in SHAPES:
        a, b = _draw(rng, left, m, k), _draw(rng, right, k, n)
        a_zero, b_zero = int(_draw(rng, left)), _draw(rng, right, n)

        plain = nk.qgemm(a, b, variant=variant)
        shifted = nk.qgemm(a, nk.prepack_int8(b), a_zero=a_zero, b_zero=b_zero, variant=variant)

        assert plain.dtype == np.int32
        assert np.array_equal(plain, _exact(a, b)), (m, n, k)
        assert np.array_equal(shifted, _exact(a, b, a_zero, b_zero.astype(np.int64))), (m, n, k)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("x", "y"), [(-128, -128), (127, -128), (255, -128), (255, 127), (0, -128)])
def test_extremes_do_not_saturate(variant, x, y):
    for m, n, k in [(1, 16, 8), (7, 33, 1030), (1, 17, 65793)]:
        a = np.full((m, k), x, np.uint8 if x > 127 else np.int8)
        assert (nk.qgemm(a, np.full((k, n), y, np.int8), variant=variant) == x * y * k).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("first", [128, 129, 100, -128, -129, -100])
def test_pairs_of_weights_that_just_saturate_16_bits_and_just_do_not(variant, first):
    """255 times a pair of one sign that sums to 128 fits 16 bits, to 129 it does not; others are mixed with them."""
    rng = np.random.default_rng(6)
    sign = 1 if first > 0 else -1
    for m, n, k in [(32, 16, 8), (33, 50, 1030), (100, 17, 515), (193, 33, 77)]:
        high = rng.integers(max(0, abs(first) - 127), 128, (k // 2 + 1, n))
        b = np.stack([high, abs(first) - high], 1).reshape(-1, n)[:k] * sign
        b[rng.random((k, n)) < 0.3] = 0
        b[: k // 2, n // 2 :] = rng.integers(-64, 65, (k // 2, n - n // 2))
        b = b.astype(np.int8)
        for a in (np.full((m, k), 255, np.uint8), _draw(rng, "uint8", m, k)):
            assert np.array_equal(nk.qgemm(a, b, variant=variant, threads=2), _exact(a, b)), (m, n, k)
            unsigned = (b.astype(np.int16) + 128).astype(np.uint8)
            assert np.array_equal(nk.qgemm(a, unsigned, b_zero=128, variant=variant), _exact(a, b))


def _near_the_limit(rng, k, n, pair):
    """Weights every pair of which has sizes that sum to at most ``pair``, in many ways at exactly that."""
    first = rng.integers(0, pair + 1, (k // 2 + 1, n))
    sizes = np.stack([first, pair - first], 1).reshape(-1, n)[:k]
    sizes[:, ::3] = pair // 2
    return np.clip(sizes * rng.choice([-1, 1], (k, n)), -128, 127).astype(np.int8)


@pytest.mark.parametrize("variant", NATIVE)
@pytest.mark.parametrize("pair", [126, 128, 129])
def test_weights_at_the_limit_of_16_bits_are_exact_for_any_number_of_rows(variant, pair):
    """For each number of rows one k and n, signs that add up and that cancel, operands at both ends and between."""
    rng = np.random.default_rng(9)
    rows = [*range(1, 41), 48, 54, 57, 60, 66, 69, 99, 130]
    sizes = zip(rows, itertools.cycle((1, 7, 16, 33, 50)), itertools.cycle((3, 8, 37, 260, 515, 1030)))
    for m, n, k in sizes:
        b = _near_the_limit(rng, k, n, pair)
        if m % 3 == 0:
            b = np.abs(b) * (1 if m % 2 else -1)
        if m % 3 == 1:  # one panel of two is large
            b[k // 2, : n // 2] = -128
        packed, zeros = nk.prepack_int8(b), rng.integers(-128, 128, n, np.int32)
        for a in (rng.choice(np.array([0, 255], np.uint8), (m, k)), _draw(rng, "uint8", m, k), np.full((m, k), 255)):
            a = a.astype(np.uint8)
            assert np.array_equal(nk.qgemm(a, packed, variant=variant), _exact(a, b)), (m, n, k)
            moved = nk.qgemm(a, packed, a_zero=200, b_zero=zeros, variant=variant)
            assert np.array_equal(moved, _exact(a, b, 200, zeros)), (m, n, k)
            shared = nk.qgemm(a, packed, b_zero=-77, variant=variant)
            assert np.array_equal(shared, _exact(a, b, 0, -77)), (m, n, k)


def test_packing_says_which_panels_have_small_weights(monkeypatch):
    b = np.full((7, 50), 64, np.int8)
    b[6] = 127  # alone in its pair
    b[2, 20], b[3, 40], b[5, 49] = -65, 65, -64
    assert nk.prepack_int8(b).small.tolist() == [1, 0, 0, 1]
    assert nk.prepack_int8((b.astype(np.int16) + 128).astype(np.uint8)).small.tolist() == [1, 0, 0, 1]
    rng = np.random.default_rng(4)
    for pair, (k, n) in itertools.product((127, 128, 129, 255), [(1, 1), (0, 17), (2, 16), (33, 40), (640, 70)]):
        b = _near_the_limit(rng, k, n, pair)
        native = nk.prepack_int8(b)
        monkeypatch.setattr("npukernels.native.native_available", lambda: False)
        plain = nk.prepack_int8(b)
        monkeypatch.undo()
        for field in ("panels", "sums", "small"):
            assert np.array_equal(getattr(native, field), getattr(plain, field)), (pair, k, n, field)


def test_a_k_that_could_overflow_is_refused_and_the_last_one_that_cannot_is_not():
    for dtype, limit, value in (("int8", 131071, -128), ("uint8", 65793, 255)):
        b = np.full((limit, 1), -128, np.int8)
        a = np.full((1, limit), value, dtype)
        assert nk.qgemm(a, b)[0, 0] == value * -128 * limit
        more = np.zeros((1, limit + 1), dtype), np.zeros((limit + 1, 1), np.int8)
        with pytest.raises(InputError, match=f"could exceed int32.*k <= {limit}"):
            nk.qgemm(*more)
        with pytest.raises(InputError, match="could exceed int32"):
            nk.qgemm(a, b, a_zero=1 if dtype == "int8" else 255, b_zero=5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layouts_and_packing_do_not_change_a_sum(variant):
    rng = np.random.default_rng(5)
    for m, n, k in [(37, 53, 41), (1, 64, 48), (6, 16, 16), (3, 35, 19)]:
        a, b = _draw(rng, "uint8", m, k), _draw(rng, "int8", k, n)
        wide = np.zeros((3 * k, 2 * n + 1), np.int8)
        wide[::3, 1::2] = b
        views = (b, np.asfortranarray(b), wide[::3, 1::2], b[::-1, ::-1].copy()[::-1, ::-1], nk.prepack_int8(b))
        lefts = (a, np.asfortranarray(a), np.pad(a, ((0, 0), (2, 5)))[:, 2:-5], a[::-1].copy()[::-1])
        for left, right in itertools.product(lefts, views):
            assert np.array_equal(nk.qgemm(left, right, variant=variant), _exact(a, b))


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_outputs_round_as_documented(variant):
    rng = np.random.default_rng(6)
    for m, n, k in [(5, 33, 70), (1, 16, 4), (3, 600, 9)]:
        a, b = _draw(rng, "int8", m, k), _draw(rng, "int8", k, n)
        rows, columns, bias = (rng.random(size, dtype=np.float32) + 0.1 for size in (m, n, n))

        got = nk.qgemm(a, b, a_scale=rows, b_scale=columns, bias=bias, out_dtype="float32", variant=variant)

        expected = _exact(a, b).astype(np.float32) * (rows[:, None] * columns) + bias
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("out_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_requantisation_rounds_half_to_even_and_saturates(variant, out_dtype):
    values = np.arange(-64, 64, dtype=np.int8)[:, None]  # times 0.5: every second one is a tie
    low, high = np.iinfo(out_dtype).min, np.iinfo(out_dtype).max
    for scale, zero in ((0.5, 3), (2.5, 0), (100.0, 7)):
        got = nk.qgemm(
            values, np.ones((1, 17), np.int8), a_scale=scale, out_dtype=out_dtype, out_zero=zero, variant=variant
        )
        expected = np.clip(np.rint(values * scale) + zero, low, high)
        assert np.array_equal(got, np.tile(expected, 17).astype(out_dtype))


def _tosa(value, multiplier, shift, double):
    """apply_scale_32 of TOSA 1.0 in Python integers."""
    rounding = 1 << (shift - 1)
    if double and shift > 31:
        rounding += (1 << 30) if value >= 0 else -(1 << 30)
    return (value * multiplier + rounding) >> shift


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rounding", ["tosa", "tosa_double"])
def test_fixed_point_requantisation_follows_tosa(variant, rounding):
    rng = np.random.default_rng(8)
    a, b = _draw(rng, "int8", 9, 300), _draw(rng, "int8", 300, 21)
    scale = (2.0 ** rng.uniform(-20, 1, 21)).astype(np.float32)
    bias = rng.integers(-9999, 9999, 21, np.int32)

    got = nk.qgemm(a, b, b_scale=scale, bias=bias, out_dtype="int8", out_zero=-5, rounding=rounding, variant=variant)

    pairs = [tosa_scale(float(s)) for s in scale]
    sums = (_exact(a, b) + bias).tolist()
    for i, j in itertools.product(range(9), range(21)):
        value = _tosa(sums[i][j], *pairs[j], rounding == "tosa_double") - 5
        assert got[i, j] == min(max(value, -128), 127)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_large_scale_saturates_instead_of_wrapping(variant):
    a, b = np.array([[100], [-100], [0]], np.int8), np.full((1, 17), 100, np.int8)
    got = nk.qgemm(a, b, a_scale=2.0**27, out_dtype="int8", rounding="tosa", variant=variant)
    assert (got == np.array([[127], [-128], [0]])).all()


def test_tosa_multipliers_are_normalised_and_close():
    for scale in (2.0**-32, 1e-7, 0.3, 1 - 2.0**-40, 1.0, 7.7, 2.0**28):
        multiplier, shift = tosa_scale(scale)
        assert 2**30 <= multiplier < 2**31 and 2 <= shift <= 62
        assert abs(multiplier / 2**shift - scale) <= scale * 2.0**-31
    for value, shift in itertools.product((-(2**31), -1, 0, 1, 2**31 - 1), (2, 31, 32, 62)):
        for double in (False, True):
            got = apply_scale_32(np.array(value, np.int64), 2**30, shift, double_round=double)
            assert int(got) == _tosa(value, 2**30, shift, double)


@pytest.mark.parametrize("variant", NATIVE)
def test_threads_do_not_change_a_bit(variant):
    rng = np.random.default_rng(2)
    for m, n, k in [(400, 99, 300), (2, 3000, 900), (99, 700, 700)]:
        a, b = _draw(rng, "uint8", m, k), _draw(rng, "int8", k, n)
        for threads in (1, 2, 5, 64):
            assert np.array_equal(nk.qgemm(a, b, variant=variant, threads=threads), _exact(a, b))


A, B = np.ones((4, 6), np.int8), np.ones((6, 5), np.int8)
BAD = {
    "dtype of a": (dict(a=A.astype(np.int16)), "a has dtype int16"),
    "dtype of b": (dict(b=B.astype(np.float32)), "b has dtype float32"),
    "1-D": (dict(a=A[0]), "a has 1 dimensions"),
    "list": (dict(a=[[1]]), "a is a list"),
    "k": (dict(b=B[:5]), "b has 5 rows, a has 6 columns"),
    "a_zero": (dict(a_zero=128), "a_zero is 128.*from -128 to 127"),
    "a_zero type": (dict(a_zero=1.0), "a_zero is 1.0"),
    "b_zero": (dict(b_zero=np.full(5, 200, np.int32)), "b_zero is .*200.*from -128 to 127"),
    "b_zero shape": (dict(b_zero=np.zeros(4, np.int32)), r"b_zero has shape \(4,\)"),
    "out_dtype": (dict(out_dtype="int16"), "out_dtype is 'int16'"),
    "scaled int32": (dict(a_scale=2.0), "an int32 output takes no scales"),
    "scale": (dict(a_scale=0.0, out_dtype="float32"), "a_scale is not positive"),
    "nan": (dict(b_scale=float("nan"), out_dtype="int8"), "b_scale is not positive"),
    "scale shape": (dict(b_scale=np.ones(4, np.float32), out_dtype="int8"), r"b_scale has shape \(4,\)"),
    "bias dtype": (dict(bias=np.ones(5)), "bias has dtype float64"),
    "bias shape": (dict(bias=np.ones(4, np.int32)), r"bias has shape \(4,\)"),
    "out_zero": (dict(out_dtype="uint8", out_zero=-1), "out_zero is -1"),
    "rounding": (dict(out_dtype="int8", rounding="up"), "unknown rounding"),
    "tosa scale": (dict(out_dtype="int8", rounding="tosa", a_scale=1e-12), "from 2.-32"),
    "out shape": (dict(out=np.zeros((5, 4), np.int32)), r"out has shape \(5, 4\)"),
    "out dtype": (dict(out=np.zeros((4, 5), np.int64)), "out has dtype int64"),
    "out strides": (dict(out=np.zeros((5, 4), np.int32).T), "out is not C-contiguous"),
    "threads": (dict(threads=0), "threads is 0"),
    "variant": (dict(variant="c-avx3"), "unknown qgemm variant"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_are_one_clear_error(name):
    arguments, message = BAD[name]
    with pytest.raises(InputError, match=message):
        nk.qgemm(**{"a": A, "b": B, **arguments})


def test_out_that_shares_memory_or_is_read_only_is_refused():
    buffer = np.zeros(400, np.int8)
    with pytest.raises(InputError, match="shares memory"):
        nk.qgemm(buffer[:24].reshape(4, 6), B, out=buffer[:80].view(np.int32).reshape(4, 5))
    out = np.zeros((4, 5), np.int32)
    out.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        nk.qgemm(A, B, out=out)


@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial"])
def test_golden_cases_are_exact(fill):
    for unsigned, variant in itertools.product((0, 1), VARIANTS):
        case = nk.golden("qgemm", m=20, n=30, k=50, a_unsigned=unsigned, dtype="int8", fill=fill)
        assert np.array_equal(nk.qgemm(*case.inputs, variant=variant), case.expected) and not case.bound.any()


@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial", "realistic"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_requantised_golden_cases_hold(variant, fill):
    for seed, unsigned in itertools.product(range(20), (0, 1)):
        m, n, k = 1 + seed % 7, 3 + 5 * seed, 40 * seed
        sizes = {"m": m, "n": n, "k": k, "a_unsigned": unsigned, "requantised": 1}
        case = nk.golden("qgemm", dtype="int8", fill=fill, seed=seed, **sizes)
        a, b, scale = case.inputs
        off = np.abs(nk.qgemm(a, b, b_scale=scale, **dict(case.params), variant=variant) - case.expected)
        assert (off <= case.bound).all() and case.bound.mean() < 0.01
        if fill == "integer":  # ties there are, and they are exact
            v = (a.astype(int) - dict(case.params)["a_zero"]) @ b.astype(int) * scale.astype(float)
            assert not case.bound.any() and (k < 400 or (v % 1 == 0.5).any())
