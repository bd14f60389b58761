"""Is every variant of attention right, for any shape, format, mask, stride, output and thread count?"""

import numpy as np
import pytest

import npukernels as nk
from npukernels import formats

VARIANTS = nk.variants("attention")
NATIVE = [v for v in VARIANTS if v.startswith("c-")]
DTYPES = ("fp32", "fp16", "bf16", "fp8", "int8")


def _shapes():
    """220 shapes: drawn around the tile sizes, then ones that cross every block and split."""
    rng = np.random.default_rng(11)
    shapes = []
    for _ in range(200):
        kv_heads, group = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 4, 5, 9]))
        shapes.append(
            {
                "batch": int(rng.choice([0, 1, 1, 2, 3])),
                "heads": kv_heads * group,
                "kv_heads": kv_heads,
                "seq_q": int(rng.choice([0, 1, 1, 1, 2, 3, 7, 13, 29])),
                "seq_kv": int(rng.choice([0, 1, 2, 3, 5, 15, 16, 17, 31, 61, 127, 128, 129, 200])),
                "head_dim": int(rng.choice([0, 1, 2, 7, 8, 9, 16, 31, 64])),
                "v_head_dim": int(rng.choice([0, 1, 5, 8, 15, 16, 17, 33])),
                "causal": int(rng.integers(2)),
                "window": int(rng.choice([0, 0, 1, 2, 17, 130])),
            }
        )
    for seq_q, seq_kv, heads, kv_heads in [
        (1, 511, 8, 1), (1, 512, 3, 3), (1, 513, 8, 2), (1, 1025, 9, 1), (1, 1700, 4, 4), (1, 700, 16, 1),
        (64, 64, 4, 4), (129, 129, 2, 1), (65, 257, 6, 2), (385, 385, 1, 1), (97, 390, 8, 2), (200, 13, 2, 2),
        (7, 2049, 2, 1), (2, 4100, 1, 1), (300, 300, 4, 1), (1, 2100, 64, 1), (5, 130, 3, 1), (128, 128, 7, 7),
        (400, 1, 1, 1), (33, 1000, 1, 1),
    ]:  # fmt: skip
        sizes = {"heads": heads, "kv_heads": kv_heads, "seq_q": seq_q, "seq_kv": seq_kv}
        shapes.append(sizes | {"head_dim": 24, "v_head_dim": 20, "causal": seq_q % 2, "window": 150 * (seq_kv % 2)})
    return shapes


SHAPES = _shapes()


def _run(case, variant, **options):
    return getattr(nk, case.op)(*case.inputs, variant=variant, **dict(case.params), **options)


def test_the_shape_list_is_as_long_as_promised():
    assert len(SHAPES) >= 220


@pytest.mark.parametrize("op", ["attention", "paged_attention"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_shape_is_within_the_proven_bound(op, dtype):
    for seed, shape in enumerate(SHAPES):
        fill = ("uniform", "integer", "adversarial")[seed % 3]
        blocks = {"block_size": (16, 1, 7, 128)[seed % 4]} if op == "paged_attention" else {}
        case = nk.golden(op, dtype=dtype, fill=fill, seed=seed, **shape, **blocks)

        for variant in VARIANTS:
            found = nk.check(_run(case, variant), case)

            assert found.verdict == "PASS", f"{variant}: {found}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", range(1, 10))
def test_every_group_of_one_token_is_within_the_bound(dtype, group):
    """Groups that share a read, keys around what is taken at once (2, 3, 48, 512), widths with and without a rest."""
    for seed, seq_kv in enumerate([1, 2, 3, 4, 5, 6, 7, 47, 48, 49, 51, 97, 511, 512, 513, 515]):
        sizes = {"heads": 2 * group, "kv_heads": 2, "seq_q": 1, "seq_kv": seq_kv}
        sizes |= {"head_dim": (16, 33, 64, 80)[seed % 4], "v_head_dim": (64, 16, 65, 24)[seed // 2 % 4]}
        op, block = ("paged_attention", {"block_size": (16, 3)[seed % 4 // 2]}) if seed % 2 else ("attention", {})
        case = nk.golden(op, dtype=dtype, fill=("uniform", "integer")[seed % 3 % 2], seed=seed, **sizes, **block)

        for variant in NATIVE:
            found = nk.check(_run(case, variant), case)

            assert found.verdict == "PASS", f"{variant}, {seq_kv} keys: {found}"


@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial"])
def test_every_fill_of_every_shape(fill):
    for seed, shape in enumerate(SHAPES):
        case = nk.golden("attention", fill=fill, seed=1000 + seed, **shape)

        for variant in VARIANTS:
            assert nk.check(_run(case, variant), case).verdict == "PASS", (variant, shape)


def _operands(seed=0, batch=2, heads=6, kv_heads=2, seq_q=9, seq_kv=40, dim=12, v_dim=20):
    rng = np.random.default_rng(seed)
    shapes = (batch, heads, seq_q, dim), (batch, kv_heads, seq_kv, dim), (batch, kv_heads, seq_kv, v_dim)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _views(x):
    """The same array in other layouts."""
    b, h, s, d = x.shape
    yield "tokens before heads", np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    yield "backwards", x[:, ::-1, ::-1].copy()[:, ::-1, ::-1]
    wide = np.full((b, h, s, d + 3), np.nan, x.dtype)
    wide[..., 1 : 1 + d] = x
    yield "within wider rows", wide[..., 1 : 1 + d]
    apart = np.full((b, h, s, 2 * d), np.nan, x.dtype)
    apart[..., ::2] = x
    yield "elements apart", apart[..., ::2]
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    yield "unaligned", unaligned
    records = np.zeros(x.shape, [("tag", "u1"), ("value", x.dtype)])
    records["value"] = x
    yield "packed records", records["value"]
    frozen = x.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seq_q", [1, 9])
def test_layouts_do_not_change_a_bit(variant, seq_q):
    operands = _operands(seq_q=seq_q)
    expected = nk.attention(*operands, causal=True, variant=variant)

    for i in range(3):
        for name, view in _views(operands[i]):
            given = [view if j == i else x for j, x in enumerate(operands)]
            assert np.array_equal(nk.attention(*given, causal=True, variant=variant), expected), (i, name)


@pytest.mark.parametrize("variant", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("seq_q", "group"), [(1, 1), (1, 2), (1, 3), (1, 7), (30, 2)])
def test_a_paged_cache_gives_the_bits_of_a_whole_one(variant, dtype, seq_q, group):
    sizes = {
        "heads": 2 * group,
        "kv_heads": 2,
        "seq_q": seq_q,
        "seq_kv": 700,
        "head_dim": 20,
        "v_head_dim": 20,
        "causal": 1,
    }
    whole = nk.golden("attention", dtype=dtype, seed=5, **sizes)
    expected = _run(whole, variant)

    for block_size in (1, 16, 33, 1024):
        paged = nk.golden("paged_attention", dtype=dtype, seed=5, block_size=block_size, **sizes)
        assert np.array_equal(_run(paged, variant), expected), block_size


@pytest.mark.parametrize("variant", NATIVE)
@pytest.mark.parametrize(
    "shape", [(1, 8, 1, 1, 3000), (2, 8, 2, 1, 900), (1, 4, 4, 300, 300), (1, 2, 1, 5, 5000), (3, 6, 3, 130, 400)]
)
def test_same_bits_for_every_run_and_thread_count(variant, shape):
    batch, heads, kv_heads, seq_q, seq_kv = shape
    operands = _operands(1, batch, heads, kv_heads, seq_q, seq_kv, 32, 24)
    once = nk.attention(*operands, causal=True, variant=variant)

    for threads in (1, 2, 3, 5, 64):
        assert np.array_equal(nk.attention(*operands, causal=True, variant=variant, threads=threads), once), threads


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seq_q", [1, 40])
def test_scores_of_ten_thousand_neither_overflow_nor_wash_out(variant, seq_q):
    """Weights are one-hot there: the output is the value of the key that fits best, exactly."""
    q, k, v = _operands(2, 1, 2, 2, seq_q, 40, 4, 5)
    q[...] = np.array([100, 0, 0, 0])
    k[...] = 0
    k[..., 0] = -100 + 5 * np.arange(40)  # scores from -1e4 to 9500

    got = nk.attention(q, k, v, scale=1.0, variant=variant)

    assert np.array_equal(got, np.repeat(v[:, :, -1:], seq_q, axis=2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_scores_of_any_size_average(variant):
    q, k, v = _operands(3, 1, 1, 1, 3, 64, 8, 8)
    v = np.rint(v * 8)
    for size in (0.0, 1e-30, 1.0, 1e4, 1e15, -1e15):
        k[...] = size

        got = nk.attention(np.ones_like(q), k, v, scale=1.0, variant=variant)

        assert np.array_equal(got, np.repeat(v.mean(axis=2, keepdims=True), 3, axis=2)), size


@pytest.mark.parametrize("variant", VARIANTS)
def test_largest_and_smallest_floats_pass_through(variant):
    q, k, v = _operands(4, 1, 1, 1, 2, 1, 4, 6)
    v[0, 0, 0] = [3.4028235e38, -3.4028235e38, 1.4e-45, 0, -0.0, 1]

    assert np.array_equal(nk.attention(q, k, v, variant=variant)[0, 0], np.repeat(v[0, 0], 2, axis=0))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["k", "v", "both"])
def test_a_hidden_key_has_no_influence_whatever_it_holds(variant, poison, where):
    q, k, v = _operands(5, 1, 4, 2, 60, 60, 16, 16)
    for options in ({"causal": True}, {"causal": True, "window": 7}):
        expected = nk.attention(q, k, v, variant=variant, **options)
        bad_k, bad_v = k.copy(), v.copy()
        if where != "v":
            bad_k[:, :, 30] = poison
        if where != "k":
            bad_v[:, :, 30] = poison

        got = nk.attention(q, bad_k, bad_v, variant=variant, **options)

        hidden = np.r_[0:30, 37:60] if "window" in options else np.r_[0:30]
        scale = np.abs(expected).max()
        assert np.abs(got[:, :, hidden] - expected[:, :, hidden]).max() <= 1e-6 * scale
        if np.isnan(poison):
            assert np.isnan(got[:, :, 30]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_queries_before_the_first_key_are_zero(variant):
    q, k, v = _operands(6, 1, 2, 1, 9, 4, 8, 8)

    got = nk.attention(q, k, v, causal=True, variant=variant)

    assert not got[:, :, :5].any()
    assert np.array_equal(got[:, 0, 5], v[:, 0, 0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_out_gets_the_result_and_what_it_held_does_not_matter(variant):
    for seq_q in (1, 9):
        operands = _operands(seq_q=seq_q)
        expected = nk.attention(*operands, variant=variant)
        big = np.full((expected.size + 128,), np.nan, np.float32)
        out = big[64:-64].reshape(expected.shape)

        assert nk.attention(*operands, out=out, variant=variant) is out

        assert np.array_equal(out, expected)
        assert np.isnan(big[:64]).all() and np.isnan(big[-64:]).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fmt", ["bf16", "fp8"])
def test_ml_dtypes_arrays_are_taken_as_codes(variant, fmt):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = ml_dtypes.bfloat16 if fmt == "bf16" else ml_dtypes.float8_e4m3fn
    q, k, v = _operands(7)
    codes = formats.encode(k, fmt), formats.encode(v, fmt)

    got = nk.attention(q, k.astype(kind), v.astype(kind), variant=variant)

    assert np.array_equal(got, nk.attention(q, *codes, variant=variant))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fmt", ["fp16", "bf16", "fp8", "int8"])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("seq_q", [1, 8])
def test_every_code_of_a_format_is_decoded(variant, fmt, heads, seq_q):
    """With one key the output is its value, so each code comes out as the number it stands for."""
    kind = {"fp16": np.uint16, "bf16": np.uint16, "fp8": np.uint8, "int8": np.uint8}[fmt]
    codes = np.arange(2 ** (8 * kind(0).itemsize), dtype=np.uint32).astype(kind)
    view = {"fp16": np.float16, "int8": np.int8}.get(fmt, kind)
    expected = codes.view(view).astype(np.float32) if fmt in ("fp16", "int8") else formats.decode(codes, fmt)
    v = codes.view(view).reshape(1, 1, 1, -1)
    k = np.zeros((1, 1, 1, 3), v.dtype)

    got = nk.attention(np.ones((1, heads, seq_q, 3), np.float32), k, v, variant=variant)

    for row in got.reshape(-1, codes.size):
        assert np.array_equal(row, expected, equal_nan=True)


def test_concurrent_calls_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    jobs = [_operands(seed, seq_q=1 + 20 * (seed % 2), seq_kv=90 + seed) for seed in range(6)]
    alone = [nk.attention(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda job: [nk.attention(*job, threads=2) for _ in range(20)], jobs))

    for expected, repeats in zip(alone, outputs, strict=True):
        assert all(np.array_equal(got, expected) for got in repeats)
