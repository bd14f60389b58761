"""Does a call that goes straight to C give the bits of one that takes the long way, and refuse what that refuses?"""

import numpy as np
import pytest

import npukernels as nk
from bench.call_overhead import cases
from npukernels import formats, native, shortcuts
from npusim.errors import InputError

pytestmark = pytest.mark.skipif(shortcuts._shortcut is None or not native.native_available(), reason="no extension")

CASES = cases()


@pytest.fixture(autouse=True)
def no_variant(monkeypatch):
    monkeypatch.delenv(shortcuts.ENV_VARIANT, raising=False)
    shortcuts.forget()


@pytest.fixture
def long_ways(monkeypatch):
    """The calls that took the long way."""
    taken, keep = [], shortcuts.Shortcut.keep
    monkeypatch.setattr(shortcuts.Shortcut, "keep", lambda self, *a: (taken.append(a), keep(self, *a))[1])
    return taken


def _bits(result):
    parts = result if isinstance(result, tuple) else (result,)
    if isinstance(result, (nk.Quantized, nk.Routing)):
        parts = tuple(vars(result).values())
    return [x.tobytes() if isinstance(x, np.ndarray) else x for x in parts]


@pytest.mark.parametrize("name", CASES)
def test_every_kernel_has_a_shortcut_with_the_bits_of_the_long_way(name, long_ways):
    first = _bits(CASES[name]())
    assert long_ways
    del long_ways[:]
    assert _bits(CASES[name]()) == first or name.endswith("in place")
    assert not long_ways


@pytest.mark.parametrize("variant", [v for v in nk.variants("softmax") if v.startswith("c-")])
def test_any_layout_keeps_its_bits(variant):
    rng = np.random.default_rng(1)
    base = rng.standard_normal((9, 40)).astype(np.float32)
    views = [base, base[::2], base[:, 3:20], base[::-1], base.T, base[:, ::3], base.T[1:], base[:1], base[:, :1]]
    for _ in range(3):
        for x in views:
            expected = nk.softmax(np.ascontiguousarray(x), variant=variant)
            np.testing.assert_array_equal(nk.softmax(x, variant=variant), expected)
            b = rng.standard_normal((5, x.shape[1])).astype(np.float32).T
            # Products of up to two rows sum in another order where B is column-major (docs/kernels-gemm.md).
            alike = b.copy(order="K") if min(len(x), b.shape[1]) <= 2 else np.ascontiguousarray(b)
            product = nk.gemm(np.ascontiguousarray(x), alike, variant=variant)
            np.testing.assert_array_equal(nk.gemm(x, b, variant=variant), product)


def test_arrays_at_one_address_are_a_kind_of_their_own():
    x, y = np.ones((4, 8), np.float32), np.full((4, 8), 2, np.float32)
    same, other = nk.swiglu(x, x).copy(), nk.swiglu(x, y).copy()
    for _ in range(2):
        np.testing.assert_array_equal(nk.swiglu(x, x), same)
        np.testing.assert_array_equal(nk.swiglu(x, y), other)
    assert not np.array_equal(same, other)


def test_the_output_may_be_the_input_but_not_a_part_of_it():
    memory = np.arange(64, dtype=np.float32)
    x, expected = memory[:32].reshape(4, 8), nk.softmax(memory[:32].reshape(4, 8))
    apart = np.empty((4, 8), np.float32)
    for _ in range(2):
        nk.softmax(x, out=apart)
    for _ in range(2):
        with pytest.raises(InputError, match="shares memory"):
            nk.softmax(x, out=memory[8:40].reshape(4, 8))
    nk.softmax(x, out=x)
    np.testing.assert_array_equal(x, expected)
    nk.softmax(x, out=x)
    np.testing.assert_array_equal(x, nk.softmax(expected))


def test_what_is_refused_stays_refused():
    x, out = np.ones((4, 8), np.float32), np.empty((4, 8), np.float32)
    for _ in range(2):
        nk.softmax(x, out=out)
    frozen = out.copy()
    frozen.flags.writeable = False
    bad = [
        ({"out": frozen}, "read-only"),
        ({"out": out.astype(np.float64)}, "dtype"),
        ({"out": out[:, :4]}, "shape"),
        ({"out": out.T}, "shape"),
        ({"out": np.ma.masked_array(out)}, "masked"),
        ({"threads": True}, "threads"),
        ({"threads": 0}, "threads"),
        ({"variant": "none"}, "variant"),
    ]
    for options, message in bad * 2:
        with pytest.raises(InputError, match=message):
            nk.softmax(x, **{"out": out, **options})
    with pytest.raises(InputError, match="dtype"):
        nk.softmax(x.astype(">f4"), out=out)


def test_contents_are_looked_at_in_every_call():
    a, b = np.ones((2, 8), np.int8), nk.prepack_int8(np.ones((8, 3), np.int8))
    scale, zero, bias = np.ones(3, np.float32), np.zeros(3, np.int32), np.zeros(3, np.int32)

    def product():
        return nk.qgemm(a, b, b_zero=zero, b_scale=scale, bias=bias, out_dtype="int8")

    np.testing.assert_array_equal(product(), product())
    for array, value, message in ((scale, -1, "b_scale"), (scale, np.nan, "b_scale"), (zero, 128, "b_zero")):
        good = array[1]
        array[1] = value
        with pytest.raises(InputError, match=message):
            product()
        array[1] = good
    bias[2] = 2**31 - 1
    with pytest.raises(InputError, match="exceed int32"):
        product()
    bias[2] = -5
    zero[:], scale[:] = (1, -2, 0), (2, 0.5, 1)
    np.testing.assert_array_equal(product(), [[0, 12, 3]] * 2)


def test_indices_are_looked_at_in_every_call():
    x, at, (c, s) = np.ones((2, 1, 4), np.float32), np.array([0, 1]), nk.rope_cache(4, 4)
    nk.rope(x, at, c, s)
    at[1] = 4
    with pytest.raises(InputError, match="positions"):
        nk.rope(x, at, c, s)
    q, k = np.ones((1, 1, 1, 4), np.float32), np.ones((2, 2, 1, 4), np.float32)
    table, lengths = np.array([[1, 0]], np.int32), np.array([3], np.int32)
    nk.paged_attention(q, k, k + 1, table, lengths)
    table[0, 1] = 2
    with pytest.raises(InputError, match="block_table"):
        nk.paged_attention(q, k, k + 1, table, lengths)
    lengths[0] = 5
    with pytest.raises(InputError, match="lengths"):
        nk.paged_attention(q, k, k + 1, table, lengths)
    rows, w, offsets = np.ones((4, 2), np.float32), np.ones((2, 2, 2), np.float32), np.array([0, 2, 4])
    nk.grouped_gemm(rows, w, offsets)
    offsets[1] = 5
    with pytest.raises(InputError, match="offsets"):
        nk.grouped_gemm(rows, w, offsets)


def test_numbers_without_a_code_are_refused_in_every_call():
    x = np.ones((2, 32), np.float32)
    assert _bits(nk.quantize(x, "int8", axis=0)) == _bits(nk.quantize(x, "int8", axis=0))
    x[1, 3] = np.inf
    with pytest.raises(InputError, match="NaN or infinity"):
        nk.quantize(x, "int8", axis=0)
    codes, one = np.ones((2, 2), np.uint8), np.ones((1, 1), np.float32)
    nk.block_gemm(codes, codes.copy(), one, one.copy(), fmt="fp4")
    codes[0, 0] = 16
    with pytest.raises(InputError, match="outside its 4 bits"):
        nk.block_gemm(codes, codes.copy(), one, one.copy(), fmt="fp4")


@pytest.mark.parametrize("fmt", ["int8", "uint8", "int4", "uint4", "fp8", "fp8_e5m2", "mxfp8", "mxfp8_e5m2", "mxfp6",
                                 "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4"])  # fmt: skip
def test_quantised_tensors_have_the_bits_of_the_reference(fmt):
    rng = np.random.default_rng(2)
    for shape in ((7, 65), (3, 2, 33), (1, 1), (40,)):
        x = (rng.standard_normal(shape) * np.exp2(rng.integers(-140, 120, shape))).astype(np.float32)
        x.flat[0] = 0
        if fmt.startswith("mx"):
            x.flat[-1] = np.nan
        for options in ({}, {"axis": -1}, {"axis": 0}, {"symmetric": False}, {"axis": len(shape) - 1, "group": 5}):
            if not (set(options) & {"group", "symmetric"} and fmt.startswith(("mx", "nv"))):
                reference = nk.quantize(x, fmt, variant="ref", **options)
                for _ in range(2):
                    q = nk.quantize(x, fmt, **options)
                    assert _bits(q) == _bits(reference)
                    np.testing.assert_array_equal(nk.dequantize(q), nk.dequantize(reference, variant="ref"))


@pytest.mark.parametrize("fmt", ["fp8", "fp8_e5m2", "fp6", "fp6_e3m2", "fp4"])
@pytest.mark.parametrize("scale_fmt", [None, "e8m0", "fp8"])
def test_block_products_of_codes_keep_their_bits(fmt, scale_fmt):
    rng = np.random.default_rng(3)
    numbers = formats.get_format(fmt).max_code + 1
    for m, n, k, block, columns in ((5, 9, 40, 32, 1), (1, 17, 16, 16, 4), (3, 4, 33, 8, 2)):
        a, b = (rng.integers(0, numbers, shape).astype(np.uint8) for shape in ((m, k), (k, n)))
        shapes = (m, -(-k // block)), (-(-k // block), -(-n // columns))
        scales = [rng.integers(100, 120, s).astype(np.uint8) for s in shapes]
        if scale_fmt is None:
            scales = [x.astype(np.float32) / 7 for x in scales]
        for alpha, pair in ((1.0, scales), (0.3, [scales[0][:1], scales[1][:, :1]])):
            options = {"fmt": fmt, "scale_fmt": scale_fmt, "block": block, "columns": columns, "alpha": alpha}
            first = nk.block_gemm(a, b, *pair, **options)
            np.testing.assert_array_equal(nk.block_gemm(a, b, *pair, **options), first)


def test_the_environment_and_new_variants_end_shortcuts(monkeypatch):
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    nk.softmax(x)
    fast = nk.softmax(x)
    monkeypatch.setenv(shortcuts.ENV_VARIANT, "ref")
    np.testing.assert_array_equal(nk.softmax(x), nk.softmax(x, variant="ref"))
    monkeypatch.setenv(shortcuts.ENV_VARIANT, "nonsense")
    with pytest.raises(InputError, match="nonsense"):
        nk.softmax(x)
    monkeypatch.delenv(shortcuts.ENV_VARIANT)
    np.testing.assert_array_equal(nk.softmax(x), fast)


def test_options_are_compared_bit_by_bit():
    q = np.full((1, 1, 1, 4), np.inf, np.float32)
    k = np.ones((1, 1, 2, 4), np.float32)
    first = nk.attention(q, k, k + 1, scale=0.0).copy()
    np.testing.assert_array_equal(nk.attention(q, k, k + 1, scale=-0.0), first)  # both NaN
    x = np.ones((2, 3), np.float32)
    assert nk.topk(x, 1)[0].shape == (2, 1)
    with pytest.raises(InputError):
        nk.topk(x, True)
    assert nk.topk(x, np.int64(1))[0].shape == nk.topk(x, 1)[0].shape


def test_the_table_forgets_the_oldest_and_no_result():
    """More kinds than a table has places."""
    x = np.ones((1, 400), np.float32)
    for n in (*range(1, 400), *range(1, 400)):
        np.testing.assert_array_equal(nk.softmax(x[:, :n]), nk.softmax(x[:, :n].copy()))


def test_a_shortcut_checks_what_it_is_made_of():
    plans = shortcuts._shortcut.Shortcut(1, 1, 0)
    x, address = np.ones(3, np.float32), shortcuts._address_of("npk_softmax")
    with pytest.raises(TypeError):
        plans.run(x)
    assert not plans.keep((x, 1), address, b"", b"\0", (), 0, ())  # slots missing
    assert not plans.keep((x, 1), address, bytes(8), b"\1", (), 0, ())  # no such array
    assert not plans.keep((x, 1), address, bytes(8), b"\0", (), -1, ())  # nothing to return
    assert not plans.keep((x, [1]), address, bytes(8), b"\0", (), 0, ())  # an option that may change
    assert not plans.keep((x.astype(">f4"), 1), address, bytes(8), b"\0", (), 0, ())
    assert plans.run(x, 1) is None
    for sizes in ((0, 0, 0), (13, 0, 0), (1, 99, 0), (1, 0, 2)):
        with pytest.raises(ValueError, match="too many"):
            shortcuts._shortcut.Shortcut(*sizes)


@pytest.mark.parametrize("stride", [2**61, 2**62, -(2**62)])
def test_strides_beyond_the_address_space_are_refused_in_every_call(stride):
    x = np.lib.stride_tricks.as_strided(np.ones((4, 8), np.float32), strides=(stride, 4))
    for _ in range(2):
        with pytest.raises(InputError, match="63 bits"):
            nk.softmax(x)
