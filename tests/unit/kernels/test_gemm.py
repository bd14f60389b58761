"""Is every variant of gemm right, for any shape, stride, output and thread count?"""

import numpy as np
import pytest

import npukernels as nk

VARIANTS = nk.variants("gemm")
NATIVE = [v for v in VARIANTS if v != "ref"]
INTERESTING = (0, 1, 2, 3, 5, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 61, 97)


def _shapes():
    """240 shapes: small ones around the tile sizes, then ones that cross every cache block."""
    rng = np.random.default_rng(20)
    drawn = {tuple(int(x) for x in rng.choice(INTERESTING, 3)) for _ in range(400)}
    small = [(0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0), (1, 1, 1), *sorted(drawn)][:220]
    blocks = [
        (1, 1, 5000), (1, 4099, 3), (4099, 1, 3), (2, 4081, 2), (2, 4097, 5), (241, 17, 9), (253, 33, 7),
        (129, 9, 257), (127, 129, 255), (6, 16, 384), (6, 16, 385), (14, 32, 769), (7, 17, 2311),
        (485, 40, 390), (130, 2049, 260), (300, 300, 300), (1, 300, 300), (300, 1, 300), (256, 256, 256),
        (199, 211, 223),
    ]  # fmt: skip
    return small + blocks


SHAPES = _shapes()


def test_the_shape_list_is_as_long_as_promised():
    assert len(SHAPES) >= 240
    assert all(any(shape[axis] == size for shape in SHAPES) for axis in range(3) for size in (0, 1))


@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_shape_is_within_the_proven_bound(variant, fill):
    for seed, (m, n, k) in enumerate(SHAPES):
        case = nk.golden("gemm", m=m, n=n, k=k, fill=fill, seed=seed)

        found = nk.check(nk.gemm(*case.inputs, variant=variant), case)

        assert found.verdict == "PASS", f"{variant}: {found}"


def _views(x, rng):
    """The same matrix in eleven layouts."""
    rows, cols = x.shape
    yield "C", x.copy()
    yield "F", np.asfortranarray(x)
    yield "negative rows", x[::-1].copy()[::-1]
    yield "negative columns", x[:, ::-1].copy()[:, ::-1]
    wide = rng.random((rows, 3 * cols + 5), dtype=np.float32)
    wide[:, 1 : 1 + 3 * cols : 3] = x
    yield "every third column", wide[:, 1 : 1 + 3 * cols : 3]
    tall = rng.random((2 * rows + 1, cols), dtype=np.float32)
    tall[0 : 2 * rows : 2] = x
    yield "every second row", tall[0 : 2 * rows : 2]
    padded = rng.random((rows, cols + 7), dtype=np.float32)
    padded[:, :cols] = x
    yield "odd leading dimension", padded[:, :cols]
    records = np.zeros((rows, cols), dtype=[("tag", "u1"), ("value", "f4")])
    records["value"] = x
    yield "packed records", records["value"]
    raw = np.zeros(x.nbytes + 1, dtype=np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    yield "unaligned but contiguous", unaligned
    frozen = x.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "subclass", x.copy().view(np.matrix)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(37, 53, 41), (1, 53, 41), (37, 1, 41), (37, 53, 1), (6, 16, 8)])
def test_layouts_do_not_change_a_bit(variant, shape):
    m, n, k = shape
    rng = np.random.default_rng(1)
    a, b = nk.golden("gemm", m=m, n=n, k=k, seed=5).inputs
    ours, theirs = (a, np.asfortranarray(a)), (b, np.asfortranarray(b))
    orders = {nk.gemm(left, right, variant=variant).tobytes() for left in ours for right in theirs}
    assert len(orders) == 1 or (len(orders) == 2 and min(m, n) <= 2)  # dot products along memory have their own order

    for left_name, left in _views(a, rng):
        for right_name, right in _views(b, rng):
            got = nk.gemm(left, right, variant=variant)
            assert got.tobytes() in orders, (left_name, right_name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broadcast_input_is_read_in_place(variant):
    a = np.broadcast_to(np.float32(2), (9, 11))
    b = np.broadcast_to(np.arange(13, dtype=np.float32), (11, 13))

    expected = np.tile(22 * np.arange(13, dtype=np.float32), (9, 1))
    assert np.array_equal(nk.gemm(a, b, variant=variant), expected)


def _outputs(m, n):
    """Outputs of shape (m, n) inside larger arrays, with the array they must not spill into."""
    big = np.full((2 * m + 3, 3 * n + 5), 7, dtype=np.float32)
    yield "rows apart", big, big[1 : 1 + m, 2 : 2 + n]
    big = np.full((2 * m + 3, 3 * n + 5), 7, dtype=np.float32)
    yield "both apart", big, big[1 : 1 + 2 * m : 2, 2 : 2 + 3 * n : 3]
    big = np.full((m + 2, n + 2), 7, dtype=np.float32)
    yield "backwards", big, big[m:0:-1, n:0:-1]
    big = np.full((n + 2, m + 2), 7, dtype=np.float32)
    yield "column-major", big, big[1 : n + 1, 1 : m + 1].T


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(23, 37, 19), (1, 37, 19), (23, 1, 19), (23, 37, 0), (12, 32, 700)])
def test_out_gets_the_result_and_its_surroundings_stay(variant, shape):
    m, n, k = shape
    a, b = nk.golden("gemm", m=m, n=n, k=k, seed=9).inputs
    expected = nk.gemm(a, b, variant=variant)

    for name, big, out in _outputs(m, n):
        assert nk.gemm(a, b, out=out, variant=variant) is out
        assert np.array_equal(out, expected), name
        out[...] = 7
        assert (big == 7).all(), f"{name}: wrote outside of out"


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_out_held_before_does_not_matter(variant):
    a, b = nk.golden("gemm", m=20, n=40, k=900).inputs
    out = np.full((20, 40), np.nan, dtype=np.float32)

    assert np.array_equal(nk.gemm(a, b, out=out, variant=variant), nk.gemm(a, b, variant=variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_out_may_interleave_with_an_input_that_it_does_not_share_elements_with(variant):
    buffer = np.zeros((8, 16), dtype=np.float32)
    a, out = buffer[:, 0::2], buffer[:, 1::2]
    a[...] = np.arange(64, dtype=np.float32).reshape(8, 8)
    expected = nk.gemm(a.copy(), np.eye(8, dtype=np.float32), variant=variant)

    assert np.array_equal(nk.gemm(a, np.eye(8, dtype=np.float32), out=out, variant=variant), expected)


@pytest.mark.parametrize("variant", NATIVE)
@pytest.mark.parametrize("shape", [(400, 99, 200), (99, 400, 500), (1, 3000, 900), (900, 1, 900), (7, 7, 7)])
def test_same_bits_for_every_run_and_thread_count(variant, shape):
    m, n, k = shape
    a, b = nk.golden("gemm", m=m, n=n, k=k, seed=2).inputs
    once = nk.gemm(a, b, variant=variant)

    for threads in (1, 2, 3, 5, 64):
        assert np.array_equal(nk.gemm(a, b, variant=variant, threads=threads), once), threads


@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_and_infinity_reach_exactly_their_rows_and_columns(variant):
    a, b = (x.copy() for x in nk.golden("gemm", m=9, n=21, k=30).inputs)
    a[3, 29], b[0, 20] = np.nan, np.inf

    finite = np.isfinite(nk.gemm(a, b, variant=variant))

    expected = np.ones((9, 21), dtype=bool)
    expected[3, :], expected[:, 20] = False, False
    assert np.array_equal(finite, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_are_not_written(variant):
    case = nk.golden("gemm", m=30, n=30, k=30)
    a, b = (x.copy() for x in case.inputs)

    nk.gemm(a, b, variant=variant)

    assert np.array_equal(a, case.inputs[0]) and np.array_equal(b, case.inputs[1])


def test_concurrent_calls_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    cases = [nk.golden("gemm", m=90 + i, n=80 - i, k=70, seed=i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda case: [nk.gemm(*case.inputs) for _ in range(20)], cases))

    for case, repeats in zip(cases, outputs, strict=True):
        assert nk.check(repeats[0], case).verdict == "PASS"
        assert all(np.array_equal(other, repeats[0]) for other in repeats)
