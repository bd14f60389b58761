"""Is weight_gemm within its bound for any shape, group, zero point and thread count, and block_gemm too?"""

import itertools

import numpy as np
import pytest

import npukernels as nk
from npukernels.formats import encode
from npukernels.weight_matmul import round_rows
from npukernels.weights import unpack_weight
from npusim.errors import InputError

VARIANTS = nk.variants("weight_gemm")
INT8 = nk.variants("weight_gemm_int8")
BLOCK_FORMATS = ("fp8", "fp8_e5m2", "fp6", "fp4", "nvfp4")
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 67)
FILLS = ("uniform", "integer", "adversarial", "realistic")


def _shapes():
    rng = np.random.default_rng(4)
    small = sorted({tuple(int(x) for x in rng.choice(SIZES, 3)) for _ in range(230)})
    return [(0, 5, 7), (5, 0, 7), (5, 7, 0), *small, (1, 40, 1000), (200, 20, 40), (7, 70, 515), (3, 18, 643)]


SHAPES = _shapes()


def _worst(got, case):
    error = np.abs(got.astype(np.float64) - case.expected)
    return np.divide(error, case.bound, out=np.where(error > 0, np.inf, 0.0), where=case.bound > 0).max(initial=0)


def test_there_are_as_many_shapes_as_promised():
    assert len(SHAPES) >= 200


@pytest.mark.parametrize(("dtype", "fill"), [(d, f) for d in ("int4", "int8") for f in FILLS])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_shape_is_within_the_proven_bound(variant, dtype, fill):
    for seed, (m, n, k) in enumerate(SHAPES):
        group = (8, 32, 64, 128, 256)[seed % 5]
        sizes = {"m": m, "n": n, "k": k, "group": group, "asymmetric": seed % 2}
        case = nk.golden("weight_gemm", dtype=dtype, fill=fill, seed=seed, **sizes)
        x, *weights = case.inputs
        weight = nk.prepack_weight(*weights, bits=int(dtype[3:]), group=group)

        assert _worst(nk.weight_gemm(x, weight, variant=variant), case) <= 1, (m, n, k, group)


def _weight(rng, k, n, bits=4, group=None, zero=True):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    groups = 1 if group is None else -(-k // group)
    zeros = rng.integers(low, high, (groups, n), np.int8) if zero else None
    scale = rng.random((groups, n), dtype=np.float32)
    return nk.prepack_weight(rng.integers(low, high, (k, n), np.int8), scale, zeros, bits=bits, group=group)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_bias_and_16_bit_activations(variant, bits):
    rng = np.random.default_rng(9)
    for m, n, k, group in [(1, 35, 300, 32), (2, 16, 131, None), (9, 50, 257, 64)]:
        weight = _weight(rng, k, n, bits, group)
        bias = rng.random(n, dtype=np.float32)
        x16 = rng.standard_normal((m, k)).astype(np.float16)
        bf16 = encode(x16.astype(np.float32), "bf16")
        for x, exact in ((x16, x16.astype(float)), (bf16, (bf16.astype(np.uint32) << 16).view(np.float32))):
            got = nk.weight_gemm(x, weight, bias=bias, variant=variant)

            w = unpack_weight(weight)
            limit = (k + 20) * 2.0**-24 * (np.abs(exact.astype(float)) @ np.abs(w) + bias)
            assert (np.abs(got - (exact.astype(float) @ w + bias)) <= limit).all()


def test_packing_loses_nothing():
    rng = np.random.default_rng(10)
    for bits, (k, n) in itertools.product((4, 8), ((1, 1), (8, 16), (21, 35), (0, 3), (3, 0))):
        q = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (k, n)).astype(np.int8)
        for layout in (q, np.asfortranarray(q)):
            assert np.array_equal(unpack_weight(nk.prepack_weight(layout, np.ones(n, np.float32), bits=bits)), q)


@pytest.mark.parametrize("zero", [False, True])
def test_int8_variants_agree_in_every_bit_and_are_within_the_rounding_of_x(zero):
    rng = np.random.default_rng(11)
    shapes = [(*shape, (32, 64, 128)[seed % 3]) for seed, shape in enumerate(SHAPES)]
    for m, n, k, group in [*shapes, (1, 33, 300, 32), (5, 16, 128, 128), (13, 40, 259, 64), (2, 9, 31, 32)]:
        weight = _weight(rng, k, n, 4, group, zero)
        x = rng.standard_normal((m, k)).astype(np.float32) * 10
        expected = nk.weight_gemm(x, weight, compute="int8", variant="ref")

        for variant, threads in itertools.product(INT8, (1, 3)):
            got = nk.weight_gemm(x, weight, compute="int8", variant=variant, threads=threads)
            assert np.array_equal(got, expected), (variant, m, n, k)
        w = unpack_weight(weight)
        step = np.zeros((m, k))
        for start in range(0, k, group):
            step[:, start : start + group] = round_rows(x[:, start : start + group])[1][:, None]
        limit = (0.5001 * step) @ np.abs(w) + (k + 20) * 2.0**-24 * (np.abs(x) @ np.abs(w))
        assert (np.abs(expected - x @ w) <= limit).all()


@pytest.mark.parametrize("variant", INT8)
def test_int8_extremes_do_not_saturate_and_infinities_show(variant):
    weight = nk.prepack_weight(np.full((64, 17), 7, np.int8), np.ones((2, 17), np.float32), group=32)
    for value in (127.0, -127.0, 0.0, 1e-42):
        got = nk.weight_gemm(np.full((3, 64), value, np.float32), weight, compute="int8", variant=variant)
        assert np.array_equal(got, np.full((3, 17), round(value) * 7 * 64, np.float32))
    for bad in (np.inf, -np.inf, np.nan):
        x = np.ones((2, 64), np.float32)
        x[1, 40] = bad
        finite = np.isfinite(nk.weight_gemm(x, weight, compute="int8", variant=variant))
        assert finite[0].all() and not finite[1].any()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "ref"])
def test_threads_do_not_change_a_bit(variant):
    rng = np.random.default_rng(12)
    for m, n, k in [(1, 2000, 500), (300, 90, 200), (8, 900, 300)]:
        weight, x = _weight(rng, k, n, 4, 32), rng.standard_normal((m, k)).astype(np.float32)
        once = nk.weight_gemm(x, weight, variant=variant)
        for threads in (2, 5, 64):
            assert np.array_equal(nk.weight_gemm(x, weight, variant=variant, threads=threads), once)


@pytest.mark.parametrize("variant", nk.variants("block_gemm"))
@pytest.mark.parametrize(("dtype", "fill"), [(d, f) for d in BLOCK_FORMATS for f in FILLS])
def test_block_scaled_products_are_within_the_proven_bound(variant, dtype, fill):
    for seed, (m, n, k) in enumerate(SHAPES):
        block = (16, 32, 128)[seed % 3]
        case = nk.golden("block_gemm", m=m, n=n, k=k, block=block, dtype=dtype, fill=fill, seed=seed)

        how = (
            {"fmt": "fp4", "scale_fmt": "fp8", "block": 16} if dtype == "nvfp4" else {"fmt": dtype, "scale_fmt": "e8m0"}
        )
        got = nk.block_gemm(*case.inputs, **{"block": block, **how}, variant=variant, threads=2)

        assert _worst(got, case) <= 1, (m, n, k, block)


@pytest.mark.parametrize("variant", [v for v in nk.variants("block_gemm") if v.startswith("c-")])
@pytest.mark.parametrize("formats", [("fp8", "fp4"), ("bf16", "fp16"), ("int8", "fp6"), ("uint4", "int4")])
@pytest.mark.parametrize("scale_fmt", [None, "e8m0", "fp8", "bf16"])
def test_block_products_of_all_formats_are_those_of_ref(variant, formats, scale_fmt):
    """Small integers and powers of two: every order is exact, on any number of threads."""
    rng = np.random.default_rng(17)
    fmt, b_fmt = formats
    for m, n, k, block, columns in (
        (1, 300, 70, 16, 1),
        (7, 63, 33, 48, 4),
        (195, 257, 20, 8, 256),
        (3, 5, 400, 200, 2),
    ):
        a, b = rng.integers(0, 5, (m, k)), rng.integers(0, 5, (k, n))
        shapes = (m, -(-k // block)), (-(-k // block), -(-n // columns))
        scales = [2.0 ** rng.integers(-3, 3, shape).astype(np.float32) for shape in shapes]
        scales = [x if scale_fmt is None else encode(x, scale_fmt) for x in scales]
        scales[1] = np.asfortranarray(scales[1])
        operands = (encode(a, fmt), encode(b, b_fmt), *scales)
        options = {"fmt": fmt, "b_fmt": b_fmt, "scale_fmt": scale_fmt, "block": block, "columns": columns, "alpha": 3.0}
        expected = nk.block_gemm(*operands, **options, variant="ref")
        for threads in (1, 1, 2, 3):
            got = nk.block_gemm(*operands, **options, variant=variant, threads=threads)
            np.testing.assert_array_equal(got, expected, err_msg=f"{m, n, k, threads}")


@pytest.mark.parametrize("variant", nk.variants("block_gemm"))
def test_bad_codes_of_a_block_product_are_refused_every_time(variant):
    good, one = np.ones((2, 2), np.uint8), np.ones((1, 1), np.float32)
    bad = good * 16
    for _ in range(2):
        nk.block_gemm(good, good.copy(), one, one.copy(), fmt="fp4", variant=variant)
        for a, b in ((bad, good), (good, bad)):
            with pytest.raises(InputError, match="outside its 4 bits"):
                nk.block_gemm(a, b, one, one.copy(), fmt="fp4", variant=variant)


@pytest.mark.parametrize("variant", nk.variants("block_gemm"))
def test_scales_of_tiles_tensors_and_nvfp4(variant):
    """Powers of two as scales and small integers as elements: every order is exact."""
    rng = np.random.default_rng(13)
    a, b = rng.integers(-2, 3, (5, 300)), rng.integers(-2, 3, (300, 200))
    left, right = encode(a, "fp8"), encode(b, "fp8")
    one, tiles = np.full((1, 1), 0.5, np.float32), 2.0 ** rng.integers(-3, 3, (3, 2)).astype(np.float32)
    got = nk.block_gemm(left, right, one, tiles, block=128, columns=128, variant=variant)
    spread = tiles[np.arange(300) // 128][:, np.arange(200) // 128]
    assert np.array_equal(got, 0.5 * (a @ (b * spread)))

    half = encode(np.full((1, 1), 0.5), "fp8")
    left, right = encode(a, "fp4"), encode(b, "fp4")
    got = nk.block_gemm(left, right, half, half, fmt="fp4", scale_fmt="fp8", block=16, alpha=4.0, variant=variant)
    assert np.array_equal(got, a @ b)


X = np.ones((2, 64), np.float32)
W = nk.prepack_weight(np.ones((64, 3), np.int8), np.ones(3, np.float32))
PACK = {
    "dtype": (dict(q=np.ones((8, 2), np.int16)), "q has dtype int16"),
    "range": (dict(q=np.full((8, 2), 8, np.int8)), "q has values outside -8 to 7"),
    "bits": (dict(bits=3), "bits is 3"),
    "group": (dict(group=12), "group is 12.*multiple of 8"),
    "scale shape": (dict(scale=np.ones(3, np.float32)), "scale has shape"),
    "scale": (dict(scale=np.full(2, np.inf, np.float32)), "scale is not finite"),
    "zero": (dict(zero=np.full(2, -9, np.int8)), "zero has values outside"),
}


@pytest.mark.parametrize("name", PACK)
def test_bad_weights_are_one_clear_error(name):
    arguments, message = PACK[name]
    with pytest.raises(InputError, match=message):
        nk.prepack_weight(**{"q": np.ones((8, 2), np.int8), "scale": np.ones(2, np.float32), **arguments})


def test_bad_calls_are_one_clear_error():
    for arguments, message in (
        (dict(x=X.astype(float)), "x has dtype float64"),
        (dict(x=X[:, :5]), "x has 5 columns"),
        (dict(weight=X), "weight is a ndarray"),
        (dict(compute="int4"), "unknown compute"),
        (dict(bias=np.ones(4, np.float32)), "bias has shape"),
        (dict(out=np.zeros((3, 2), np.float32)), "out has shape"),
        (dict(compute="int8", weight=_weight(np.random.default_rng(0), 64, 3, 8, 32)), "int8 does not fit 8 bits"),
    ):
        with pytest.raises(InputError, match=message):
            nk.weight_gemm(**{"x": X, "weight": W, **arguments})
    codes, one = np.zeros((4, 4), np.uint8), np.ones((1, 1), np.float32)
    for arguments, message in (
        (dict(b=codes[:3]), "b has 3 rows"),
        (dict(fmt="fp9"), "unknown number format"),
        (dict(block=0), "block is 0"),
        (dict(a_scale=np.ones((3, 3), np.float32)), "a_scale has shape"),
        (dict(a_scale=one.astype(float)), "a_scale has dtype float64"),
    ):
        with pytest.raises(InputError, match=message):
            nk.block_gemm(**{"a": codes, "b": codes, "a_scale": one, "b_scale": one, **arguments})
