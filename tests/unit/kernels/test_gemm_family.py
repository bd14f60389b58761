"""16-bit formats, batches, prepacked weights, grouped products and convolutions: right in every variant?"""

import numpy as np
import pytest

import npukernels as nk
from npukernels import formats
from npusim.errors import InputError

VARIANTS = nk.variants("gemm")
NATIVE = [v for v in VARIANTS if v.startswith("c-")]
SHAPES = [(m, n, k) for m in (0, 1, 2, 3, 5, 8, 13, 33) for n in (0, 1, 7, 16, 33, 67) for k in (0, 1, 9, 31, 64)]
SHAPES += [(1, 1031, 700), (4, 1031, 391), (7, 600, 800), (9, 70, 1200), (130, 67, 129), (250, 140, 400)]


def test_the_shape_list_is_as_long_as_promised():
    assert len(SHAPES) >= 200


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_sixteen_bit_inputs(variant, dtype):
    """Every shape; the weights in turn row-major, column-major and prepacked, which give the same bits but where some
    of them are dot products along memory."""
    for seed, (m, n, k) in enumerate(SHAPES):
        case = nk.golden("gemm", m=m, n=n, k=k, dtype=dtype, fill=("uniform", "integer")[seed % 2], seed=seed)
        a, b = case.inputs

        got = nk.gemm(a, b, variant=variant)

        found = nk.check(got, case)
        assert found.verdict == "PASS", f"{variant}: {found}"
        for left, right in ((np.asfortranarray(a), np.asfortranarray(b)), (a, nk.prepack(b, variant=variant))):
            other = nk.gemm(left, right) if isinstance(right, nk.Packed) else nk.gemm(left, right, variant=variant)
            if min(m, n) > 2 or variant in ("ref", "c-generic"):
                assert np.array_equal(other, got)
            else:
                assert nk.check(other, case).verdict == "PASS"


@pytest.mark.parametrize("variant", NATIVE)
def test_sixteen_bit_inputs_give_the_bits_of_the_same_floats(variant):
    """Few rows or columns, in every layout and at odd addresses: the paths that widen weights in registers."""
    rng = np.random.default_rng(12)
    for m, n, k in [(m, n, k) for m in (1, 2, 3, 4, 7, 12) for n in (1, 2, 15, 100, 530) for k in (5, 24, 411, 1003)]:
        floats = [rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n))]
        for dtype in ("fp16", "bf16"):
            a, b = (_unaligned(nk.cast(x, dtype)) for x in floats)
            wide = [_unaligned(nk.cast(x, "fp32", source=dtype)) for x in (a, b)]
            for turn in (np.ascontiguousarray, np.asfortranarray, _unaligned):
                got = nk.gemm(a, turn(b), variant=variant)
                assert np.array_equal(got, nk.gemm(wide[0], turn(wide[1]), variant=variant)), (m, n, k, dtype)
                assert np.array_equal(got, nk.gemm(a, turn(b), variant=variant, threads=2))


def _unaligned(x):
    """A column-major copy that starts one element into its memory."""
    store = np.empty(x.size + 1, x.dtype)[1:].reshape(x.T.shape).T
    store[...] = x
    return store


@pytest.mark.parametrize("variant", NATIVE)
def test_sixteen_bit_outputs_are_the_float32_sums_rounded_once(variant):
    for seed, (m, n, k) in enumerate(SHAPES[::3]):
        a, b = nk.golden("gemm", m=m, n=n, k=k, seed=seed, fill="adversarial").inputs
        sums = nk.gemm(a, b, variant=variant)
        with np.errstate(over="ignore"):
            half = sums.astype(np.float16)
        assert np.array_equal(nk.gemm(a, b, variant=variant, out_dtype="fp16"), half)
        expected = formats.encode(sums, "bf16", saturate=False)
        assert np.array_equal(nk.gemm(a, b, variant=variant, out_dtype="bf16", threads=2), expected)
        big = np.zeros((m, 2 * n + 1), np.uint16)
        nk.gemm(a, b, out=big[:, 1::2], variant=variant)
        assert np.array_equal(big[:, 1::2], expected) and not big[:, ::2].any()


def test_every_half_converts_as_the_formats_module_says():
    """All 65536 codes, through a product with the identity of one element."""
    codes = np.arange(65536, dtype=np.uint16).reshape(-1, 1)
    one = np.ones((1, 1), np.float32)
    for variant in NATIVE:
        for array, values in ((codes, formats.decode(codes, "bf16")), (codes.view(np.float16), None)):
            values = array.astype(np.float32) if values is None else values
            got = nk.gemm(array, np.tile(one, (1, 9)), variant=variant)
            assert np.array_equal(got[:, 8:], values, equal_nan=True)
            back = nk.gemm(array, one, variant=variant, out_dtype="bf16" if array is codes else "fp16")
            kept = np.isfinite(values) & (values != 0)  # sums start from +0, so -0 does not come back
            assert np.array_equal(back.view(np.uint16)[kept], codes[kept])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "leads", [((3,), (3,)), ((2, 3), (3,)), ((3,), ()), ((2, 1, 2), (1, 3, 1)), ((0,), (1,)), ((4, 1), (4, 5))]
)
def test_batches_broadcast_as_numpy_does(variant, leads):
    rng = np.random.default_rng(3)
    a = rng.integers(-9, 9, (*leads[0], 6, 11)).astype(np.float32)
    w = rng.integers(-9, 9, (*leads[1], 19, 11)).astype(np.float32)
    b = np.swapaxes(w, -1, -2)
    expected = np.matmul(a.astype(float), b.astype(float))

    for left, right in ((a, b), (a[..., ::-1, :], b), (a, np.ascontiguousarray(b)), (a.astype(np.float16), b)):
        want = expected[..., ::-1, :] if left.base is a else expected
        got = nk.gemm(left, right, variant=variant, threads=2)
        assert got.shape == want.shape and np.array_equal(got, want)


@pytest.mark.parametrize("variant", NATIVE)
def test_prepacked_weights_give_the_same_bits(variant):
    for m, n, k in ((1, 70, 900), (5, 16, 384), (40, 33, 385), (700, 50, 60), (30, 700, 60), (2, 3, 0)):
        a, b = nk.golden("gemm", m=m, n=n, k=k, seed=1).inputs
        packed = nk.prepack(b, variant=variant)
        expected = nk.gemm(a, b, variant=variant)
        assert np.array_equal(nk.gemm(a, packed), expected)
        assert np.array_equal(nk.gemm(a[None], packed, threads=3)[0], expected)
        out = np.zeros((n, m), np.float32).T
        assert nk.gemm(a, packed, out=out) is out and np.array_equal(out, expected)
    with pytest.raises(InputError, match="packed for variant"):
        nk.gemm(a, packed, variant="ref")
    with pytest.raises(InputError, match="do not match"):
        nk.gemm(np.ones((2, 5), np.float32), packed)


@pytest.mark.parametrize("variant", NATIVE)
def test_a_row_has_the_same_bits_in_any_batch(variant):
    """Paths for one, few and many rows sum alike: a result does not depend on what else was in the batch."""
    a, b = nk.golden("gemm", m=40, n=75, k=1000, seed=8).inputs
    dots = 0 if variant == "c-generic" else 2  # so few rows against contiguous columns are dot products
    for right, least in ((b, 1), (np.asfortranarray(b), dots + 1)):
        whole = nk.gemm(a, right, variant=variant)
        for rows in [r for r in (1, 2, 3, 4, 5, 8, 9, 13, 30) if r >= least]:
            assert np.array_equal(nk.gemm(a[:rows], right, variant=variant), whole[:rows]), rows


@pytest.mark.parametrize("variant", nk.variants("grouped_gemm"))
@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial"])
def test_grouped(variant, fill):
    for seed, (rows, experts, n, k) in enumerate([(0, 3, 4, 5), (1, 1, 1, 1), (50, 8, 33, 70), (9, 20, 17, 400)]):
        case = nk.golden("grouped_gemm", rows=rows, experts=experts, n=n, k=k, fill=fill, seed=seed)
        for threads in (1, 3):
            found = nk.check(nk.grouped_gemm(*case.inputs, variant=variant, threads=threads), case)
            assert found.verdict == "PASS", str(found)


@pytest.mark.parametrize("offsets", [[0, 3], [0, 2, 3], [0, 5, 4], [1, 2, 4], [0.0, 1, 4], "x", [0, -1, 4]])
def test_bad_offsets(offsets):
    x, w = np.ones((4, 2), np.float32), np.ones((2, 2, 3), np.float32)
    with pytest.raises(InputError, match="offsets"):
        nk.grouped_gemm(x, w, offsets)


def _conv_cases():
    rng = np.random.default_rng(5)
    for seed in range(200):
        kh, kw, dilation, padding = (int(rng.integers(1, hi)) for hi in (5, 5, 4, 4))
        least = [max(0, dilation * (s - 1) + 1 - 2 * padding) for s in (kh, kw)]
        groups = int(rng.choice([1, 1, 2, 3]))
        sizes = dict(
            n=int(rng.integers(0, 4)), h=least[0] + int(rng.integers(0, 9)), w=least[1] + int(rng.integers(0, 9)),
            kh=kh, kw=kw, stride=int(rng.integers(1, 4)), padding=padding, dilation=dilation,
        )  # fmt: skip
        yield seed, sizes, dict(c=groups * int(rng.integers(1, 40)), f=groups * int(rng.integers(1, 20)), groups=groups)


@pytest.mark.parametrize("variant", nk.variants("conv2d"))
def test_convolutions(variant):
    for seed, sizes, more in _conv_cases():
        steps = {name: sizes[name] for name in ("stride", "padding", "dilation")}
        fill = ("uniform", "integer", "adversarial")[seed % 3]
        case = nk.golden("conv2d", **sizes, **more, fill=fill, seed=seed)
        outputs = [nk.conv2d(*case.inputs, **steps, groups=more["groups"], variant=variant, threads=t) for t in (1, 2)]
        assert nk.check(outputs[0], case).verdict == "PASS", nk.check(outputs[0], case)
        assert np.array_equal(*outputs)
        case = nk.golden("depthwise_conv2d", **sizes, c=more["c"], fill=fill, seed=seed)
        outputs = [nk.depthwise_conv2d(*case.inputs, **steps, variant=variant, threads=t) for t in (1, 2)]
        assert nk.check(outputs[0], case).verdict == "PASS", nk.check(outputs[0], case)
        assert np.array_equal(*outputs)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stride": 0}, "stride"), ({"padding": -1}, "padding"), ({"dilation": True}, "dilation"),
        ({"groups": 3}, "groups"), ({"dilation": 9}, "kernel reaches"), ({"stride": (1, 2.0)}, "stride"),
        ({"out": np.zeros((1, 4, 4, 6))}, "dtype float64"), ({"variant": "c-fast"}, "unknown conv2d variant"),
    ],
)  # fmt: skip
def test_bad_convolutions(change, match):
    x, w = np.ones((1, 6, 6, 4), np.float32), np.ones((3, 3, 4, 6), np.float32)
    with pytest.raises(InputError, match=match):
        nk.conv2d(x, w, **change)
    assert nk.conv2d(x, w).shape == (1, 4, 4, 6)
