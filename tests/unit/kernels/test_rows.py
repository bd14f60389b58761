"""Are the ops on rows and single elements right, in every variant, for any shape, format, layout and thread count?"""

import numpy as np
import pytest

import npukernels as nk
from npukernels import formats
from npukernels.activations import REFERENCES

U32 = 2.0**-24
SIZES = [*range(40), 47, 48, 61, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 257, 511, 513, 1000, 1021, 4096, 5003]
SHAPES = (
    [(rows, n) for n in SIZES for rows in (1, 2, 5)] + [(0, n) for n in SIZES[::2]] + [(300, 7), (131, 33), (1, 70001)]
)
LENGTHS = [*range(180), 255, 256, 257, 511, 512, 513, 1000, 1021, 4096, 4099, 16383, 16384, 16385, 32768, 40001]
FILLS = ("uniform", "integer", "adversarial", "realistic")
UNARY = tuple(REFERENCES)
ROW_OPS = ("layernorm", "rmsnorm", "softmax")


def _call(op, *inputs, **options):
    if op == "gelu_tanh":
        return nk.gelu(*inputs, approximate="tanh", **options)
    return getattr(nk, op)(*inputs, **options)


def _variants(*ops):
    return [(op, variant) for op in ops for variant in nk.variants(op)]


def test_the_lists_are_as_long_as_promised():
    assert len(SHAPES) >= 200 and len(set(LENGTHS)) >= 195


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("op", "variant"), _variants(*ROW_OPS))
def test_rows_are_within_the_proven_bound(op, variant, fill):
    for seed, (rows, n) in enumerate(SHAPES):
        case = nk.golden(op, rows=rows, n=n, fill=fill, seed=seed)

        found = nk.check(_call(op, *case.inputs, variant=variant), case)

        assert found.verdict == "PASS", f"{variant}: {found}"


@pytest.mark.parametrize(("op", "variant"), _variants(*UNARY, "swiglu"))
def test_elements_are_within_the_bound(op, variant):
    for seed, n in enumerate(LENGTHS):
        case = nk.golden(op, n=n, fill=FILLS[seed % 4], seed=seed)

        found = nk.check(_call(op, *case.inputs, variant=variant), case)

        assert found.verdict == "PASS", f"{variant}: {found}"


@pytest.mark.parametrize("variant", nk.variants("rope"))
def test_rope_is_within_the_proven_bound(variant):
    shapes = [
        (t, h, d)
        for t in (0, 1, 3, 17)
        for h in (1, 2, 5)
        for d in (0, 1, 2, 5, 6, 8, 14, 16, 18, 30, 34, 64, 66, 96, 127, 128)
    ]
    for seed, (tokens, heads, dim) in enumerate([*shapes, (300, 8, 128), (2, 100, 80)] * 2):
        case = nk.golden("rope", tokens=tokens, heads=heads, dim=dim, fill=FILLS[seed % 4], seed=seed)

        found = nk.check(nk.rope(*case.inputs, variant=variant), case)

        assert found.verdict == "PASS", f"{variant}: {found}"


@pytest.mark.parametrize("variant", nk.variants("rope"))
@pytest.mark.parametrize("rotary", [0, 2, 6, 16, 30, 48])
def test_interleaved_and_partial_rope(variant, rotary):
    """Interleaved pairs are halves after a permutation, and dimensions beyond the rotary ones are copied."""
    rng = np.random.default_rng(rotary)
    x = rng.normal(size=(9, 3, 48)).astype(np.float32)
    cosines, sines = nk.rope_cache(50, rotary, 5e5)
    positions = rng.integers(0, 50, 9)
    order = np.arange(48)
    order[:rotary] = np.concatenate([np.arange(0, rotary, 2), np.arange(1, rotary, 2)])

    halves = nk.rope(x[:, :, order], positions, cosines, sines, variant="ref")
    got = nk.rope(x, positions, cosines, sines, interleaved=True, variant=variant)

    np.testing.assert_allclose(got[:, :, order], halves, rtol=0, atol=4e-7 * np.abs(x).max())
    assert np.array_equal(got[:, :, rotary:], x[:, :, rotary:])


def test_rope_preserves_length_and_depends_on_distance_only():
    rng = np.random.default_rng(3)
    q, k = rng.normal(size=(2, 1, 1, 64)).astype(np.float32)
    cosines, sines = nk.rope_cache(200, 64)

    def score(i, j):
        a, b = (nk.rope(x, np.array([p]), cosines, sines).astype(float) for x, p in ((q, i), (k, j)))
        return float((a * b).sum())

    assert score(5, 2) == pytest.approx(score(150, 147), abs=1e-4)
    turned = nk.rope(q, np.array([77]), cosines, sines)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(q), rel=1e-6)


def _codes(x, kind):
    return formats.encode(x, "bf16", saturate=False) if kind == "bf16" else x.astype(np.float16)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize(("op", "variant"), _variants(*ROW_OPS, *UNARY, "swiglu"))
def test_sixteen_bit_formats_are_rounded_once(op, variant, kind):
    """The result is that of float32, rounded: at most half a step of the format beyond the float32 error."""
    rng = np.random.default_rng(8)
    for n in (*range(1, 36), 129, 1000):
        inputs = tuple(_codes(3 * rng.normal(size=(3, n)), kind) for _ in range(2 if op == "swiglu" else 1))
        wide = tuple(formats.decode(x, kind) for x in inputs)

        got = formats.decode(_call(op, *inputs, variant=variant), kind).astype(float)
        expected = _call(op, *wide, variant="ref").astype(float)

        step = np.maximum(np.abs(expected) * (2.0**-8 if kind == "bf16" else 2.0**-11), 2.0**-25)
        # layernorm of one or two elements divides by eps: its float32 error is not small against the result.
        assert (np.abs(got - expected) <= step * 1.02 + 1e-5 * (op == "layernorm")).all(), n


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("variant", [v for v in nk.variants("sigmoid") if v.startswith("c-")])
def test_conversion_agrees_with_the_formats_module_for_every_code(variant, kind):
    """sigmoid(x) ranges over all exponents below 1; the codes in are all there are."""
    codes = np.arange(2**16, dtype=np.uint16).view(np.uint16 if kind == "bf16" else np.float16)
    wide = formats.decode(codes, kind)

    for op in ("sigmoid", "silu", "exp"):
        got = _call(op, codes, variant=variant)
        float32 = _call(op, wide, variant=variant)
        expected = formats.encode(float32, kind, saturate=False)
        number = ~np.isnan(float32)
        assert np.array_equal(got.view(np.uint16)[number], expected.view(np.uint16)[number]), op
        assert np.isnan(formats.decode(got, kind)[~number]).all(), op


@pytest.mark.parametrize("variant", [v for v in nk.variants("layernorm") if v != "ref"])
def test_a_mean_far_above_the_spread_costs_nothing(variant):
    rng = np.random.default_rng(4)
    for n in (64, 4096):
        x = (1e4 + rng.normal(size=(20, n))).astype(np.float32)
        y = nk.layernorm(x, variant=variant)
        exact = nk.layernorm(x, variant="ref")
        assert np.abs(y.astype(float) - exact).max() < 2e-6


@pytest.mark.parametrize(("op", "variant"), _variants("softmax"))
def test_log_softmax(op, variant):
    x = (30 * np.random.default_rng(1).normal(size=(7, 333))).astype(np.float32)
    expected = nk.softmax(x, log=True, variant="ref")
    assert np.abs(nk.softmax(x, log=True, variant=variant) - expected.astype(float)).max() < 400 * U32


@pytest.mark.parametrize("variant", nk.variants("softmax"))
def test_softmax_masks_and_rows_without_a_result(variant):
    x = np.zeros((4, 21), np.float32)
    x[0, 5:] = -np.inf
    x[1, 20], x[2, 3], x[3] = np.nan, np.inf, -np.inf

    y = nk.softmax(x, variant=variant)

    assert np.allclose(y[0], [0.2] * 5 + [0] * 16) and np.isnan(y[1:]).all()


@pytest.mark.parametrize("variant", nk.variants("rmsnorm"))
@pytest.mark.parametrize("kind", ["float32", "bf16", "fp16"])
def test_residual_is_added_rounded_and_normalised(variant, kind):
    rng = np.random.default_rng(2)
    for n in (1, 7, 33, 400):
        a, b = rng.normal(size=(2, 5, n)).astype(np.float32)
        x, residual = (a, b.copy()) if kind == "float32" else (_codes(a, kind), _codes(b, kind))
        wide = [v if kind == "float32" else formats.decode(v, kind) for v in (x, residual)]
        total = wide[0] + wide[1] if kind == "float32" else _codes(wide[0] + wide[1], kind)

        y = nk.rmsnorm(x, residual=residual, variant=variant)

        assert np.array_equal(residual, total)
        assert np.array_equal(y, nk.rmsnorm(total, variant=variant))


@pytest.mark.parametrize(("op", "variant"), _variants(*ROW_OPS, *UNARY))
def test_layouts_output_and_place_do_not_change_a_bit(op, variant):
    x = np.random.default_rng(6).normal(size=(13, 45)).astype(np.float32)
    expected = _call(op, x, variant=variant)
    wide = np.zeros((26, 60), np.float32)
    wide[::2, 3:48] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    raw[...] = x
    layouts = [wide[::2, 3:48], np.asfortranarray(x), x[::-1].copy()[::-1], raw, x.copy().view(np.matrix)]
    for layout in layouts:
        assert np.array_equal(_call(op, layout, variant=variant), expected)
    assert np.array_equal(_call(op, x.reshape(13, 5, 9).reshape(13, 45), variant=variant), expected)
    place = x.copy()
    assert _call(op, place, out=place, variant=variant) is place
    assert np.array_equal(place, expected)


@pytest.mark.parametrize(("op", "variant"), [(o, v) for o, v in _variants(*ROW_OPS, *UNARY) if v.startswith("c-")])
def test_same_bits_for_threads_streams_and_every_place_in_a_row(op, variant):
    """Large results bypass the caches; they hold the same bits as small ones, for any number of threads."""
    small = (20 * np.random.default_rng(6).normal(size=(64, 516))).astype(np.float32)
    expected = _call(op, small, variant=variant)
    large = np.tile(small, (160, 1))  # 21 MB
    for threads in (1, 3):
        assert np.array_equal(_call(op, large, variant=variant, threads=threads), np.tile(expected, (160, 1)))
    if op in UNARY:
        shifted = small.ravel()[3:]
        assert np.array_equal(_call(op, shifted, variant=variant), expected.ravel()[3:])


@pytest.mark.parametrize("variant", nk.variants("swiglu"))
def test_swiglu_reads_halves_of_a_projection_in_place(variant):
    both = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    expected = nk.swiglu(both[:, :25].copy(), both[:, 25:].copy(), variant=variant)

    assert np.array_equal(nk.swiglu(both[:, :25], both[:, 25:], variant=variant), expected)


@pytest.mark.parametrize("variant", nk.variants("topk"))
def test_topk_is_a_stable_descending_sort(variant):
    rng = np.random.default_rng(5)
    for _ in range(210):
        rows, n = int(rng.integers(0, 6)), int(rng.integers(0, 150))
        x = rng.integers(-9, 9, (rows, n)).astype(np.float32)  # many ties
        x[rng.random(x.shape) < 0.02] = np.nan
        x[rng.random(x.shape) < 0.02] = -np.inf
        k = int(rng.integers(0, n + 1))
        keys = [sorted(range(n), key=lambda j, r=r: (0, 0) if np.isnan(r[j]) else (1, -r[j]))[:k] for r in x]

        values, indices = nk.topk(x, k, variant=variant)

        assert np.array_equal(indices, np.array(keys, np.int64).reshape(rows, k))
        assert np.array_equal(values, np.take_along_axis(x, indices, 1), equal_nan=True)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("variant", nk.variants("topk"))
def test_route(variant, scoring):
    logits = np.random.default_rng(9).normal(size=(40, 16)).astype(np.float32)

    found = nk.route(logits, 3, scoring=scoring, variant=variant)

    best = np.argsort(-logits, axis=1, kind="stable")[:, :3]
    assert np.array_equal(found.experts, best)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-6)
    assert found.offsets[0] == 0 and found.offsets[-1] == 120
    for expert in range(16):
        rows = found.order[found.offsets[expert] : found.offsets[expert + 1]]
        assert (np.diff(rows) > 0).all()
        assert set(rows // 3) == {t for t in range(40) if expert in best[t]}
