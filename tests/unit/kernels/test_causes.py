"""Is each mistake named as what it is, and never as another? Every wrong kernel here makes exactly one."""

import itertools

import numpy as np
import pytest

import npukernels as nk
from npukernels import formats, outputs
from npukernels.cases import FILLS, Case, frozen

M, N, K = 24, 20, 67


def product_case(fill="uniform", m=M, n=N, k=K, seed=11):
    return nk.golden("gemm", m=m, n=n, k=k, fill=fill, seed=seed)


def integer_case(seed=5, m=M, n=N, k=K, zero_point=0):
    """int8 x int8 -> int32."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (m, k)).astype(np.int8), rng.integers(-128, 128, (k, n)).astype(np.int8)
    exact = a.astype(float) @ b.astype(float)
    return Case("qgemm", "int8", "uniform", seed, (), frozen(a, b), *frozen(exact, np.zeros((m, n))), "int32")


def requantised_case(seed=6):
    """int8 x int8 -> int8 by per-column scales and one zero point; some results saturate."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (M, K)).astype(np.int8), rng.integers(-128, 128, (K, N)).astype(np.int8)
    scale = (2.0 ** rng.uniform(-10.5, -9.5, N)).astype(np.float32)
    expected = np.clip(np.rint((a.astype(float) @ b) * scale) + 3, -128, 127)
    return Case("qgemm", "int8", "uniform", seed, (), frozen(a, b, scale), *frozen(expected, np.zeros((M, N))), "int8")


def scaled_case(seed=7):
    """int8 weights with per-column scales, times float32, plus a bias."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-1, 1, (M, K)).astype(np.float32), rng.integers(-128, 128, (K, N)).astype(np.int8)
    scale, bias = rng.uniform(0.01, 0.1, N).astype(np.float32), rng.uniform(-9, 9, N).astype(np.float32)
    expected = (a.astype(float) @ b) * scale + bias
    bound = (2 * K * 2.0**-24) * ((np.abs(a).astype(float) @ np.abs(b.astype(float))) * scale + np.abs(bias))
    return Case("w8", "fp32", "uniform", seed, (), frozen(a, b, scale, bias), *frozen(expected, bound))


def cast_case(out_dtype, seed=8):
    """float32 cast to a narrow format, saturating; the inputs reach past its largest number."""
    wide = np.random.default_rng(seed).standard_normal((40, 30)) * outputs.limits(out_dtype)[1]
    x = np.clip(wide, *outputs.limits("float32")).astype(np.float32)
    expected = outputs.rounded(x.astype(float), out_dtype)
    return Case("cast", "fp32", "uniform", seed, (), frozen(x), *frozen(expected, np.zeros(x.shape)), out_dtype)


def heads_case(seed=9):
    """A 4-D output, (batch, heads, length, size), as attention has."""
    x = np.random.default_rng(seed).standard_normal((2, 3, 5, 8))
    return Case("attention", "fp32", "uniform", seed, (), (), *frozen(x, np.abs(x) * 2.0**-20))


def float32(values):
    return np.asarray(values, dtype=np.float64).astype(np.float32)


def encoded(values, out_dtype):
    """``values`` as an output of ``out_dtype``, rounded and saturated."""
    near = np.asarray(outputs.rounded(np.asarray(values, dtype=np.float64), out_dtype))
    if out_dtype in outputs.CODES:
        return np.asarray(formats.encode(near, out_dtype))
    if out_dtype == "int4":
        nibbles = near.astype(np.int64) & 15
        return (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).astype(np.uint8)
    return np.asarray(near, dtype=out_dtype)


def bf16(x):
    return formats.decode(formats.encode(float32(x), "bf16"), "bf16").astype(float)


def fp16(x):
    return np.asarray(x).astype(np.float16).astype(float)


def tf32(x):
    bits = float32(x).view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32).astype(float)


def summed_in(narrow, a, b):
    total = np.zeros((a.shape[0], b.shape[1]))
    for p in range(a.shape[1]):
        total = narrow(total + np.outer(a[:, p], b[p]))
    return total


def wrong_products(case):
    """(kind, output) of mistakes any matrix product can make."""
    good = encoded(case.expected, case.out_dtype)
    a, b = (x.astype(float) for x in case.inputs[:2])

    def out(values):
        return encoded(values, case.out_dtype)

    rows, edge, one = (good.copy() for _ in range(3))
    rows[6] = 0
    edge[16:] *= 3
    one[5, 7] += 1000
    yield "transposed", good.T.reshape(good.shape)
    yield "row shift", np.roll(good, 1, axis=0)
    yield "row shift", np.roll(good, -1, axis=0)
    yield "column shift", np.roll(good, 1, axis=1)
    yield "column shift", np.roll(good, -1, axis=1)
    yield "element shift", np.roll(good.ravel(), 1).reshape(good.shape)
    yield "swapped pairs", good.reshape(-1, 2)[:, ::-1].reshape(good.shape)
    yield "reversed", good[:, ::-1]
    yield "permuted", np.random.default_rng(1).permutation(good.ravel()).reshape(good.shape)
    yield "one row", rows
    yield "edge tile", edge
    yield "one element", one
    yield "not written", np.zeros_like(good)
    yield "not written", np.full_like(good, 7)
    yield "byte order", good.byteswap()
    yield "sign", -good
    yield "accumulated twice", good * 2
    yield "scale", out(case.expected * 0.37)
    yield "scale", out(case.expected * 2.0 ** np.arange(1, N + 1).reshape(1, N) / 2**10)
    yield "scale", out(case.expected * (1 + np.arange(1, M + 1).reshape(M, 1)))
    yield "offset", good + 5
    yield "offset", good + np.arange(100, 100 + N, dtype=good.dtype)
    yield "missing terms", out(a[:, :-1] @ b[:-1])
    yield "missing terms", out(a[:, :-3] @ b[:-3])
    yield "missing terms", out(a[:, 1:] @ b[1:])
    yield "operand layout", out(a @ b.reshape(N, K).T)
    yield "operand layout", out(a.reshape(K, M).T @ b)
    yield "operand shift", out(a @ np.roll(b, 1, axis=0))
    yield "swapped pairs", out(a @ b[[*(np.arange(K - 1) ^ 1), K - 1]])


def wrong_float_products(case):
    a, b = (x.astype(float) for x in case.inputs)
    nan, inf = float32(case.expected), float32(case.expected)
    nan[2, 3], inf[4, 1] = np.nan, -np.inf
    yield "non-finite", nan
    yield "non-finite", inf
    yield "input precision", float32(bf16(a) @ bf16(b))
    yield "input precision", float32(fp16(a) @ fp16(b))
    yield "input precision", float32(tf32(a) @ tf32(b))
    yield "low-precision accumulator", float32(summed_in(bf16, a, b))
    yield "low-precision accumulator", float32(summed_in(fp16, a, b))
    yield "output precision", float32(bf16(case.expected))
    yield "unexplained", float32(np.random.default_rng(3).standard_normal(case.expected.shape))
    yield "unexplained", float32(np.sin(case.expected) * 3 + 9 * np.cos(np.arange(M * N).reshape(M, N)))


def wrong_integer_products(case):
    a, b = (x.astype(float) for x in case.inputs)
    rows, cols = a.sum(axis=1, keepdims=True), b.sum(axis=0, keepdims=True)
    wrapped = (case.expected + 2**15) % 2**16 - 2**15
    yield "zero point", (case.expected - 3 * rows).astype(np.int32)
    yield "zero point", (case.expected + 128 * cols).astype(np.int32)
    yield "zero point", ((a - 5) @ (b + 2)).astype(np.int32)
    yield "low-precision accumulator", wrapped.astype(np.int32)
    yield "low-precision accumulator", np.clip(case.expected, -(2**15), 2**15 - 1).astype(np.int32)
    yield "unexplained", np.random.default_rng(3).integers(-9999, 9999, case.expected.shape).astype(np.int32)


def wrong_requantised(case):
    a, b, scale = (x.astype(float) for x in case.inputs)
    exact = (a @ b) * scale
    wide = np.rint(exact).astype(np.int64) + 3
    yield "non-saturating cast", wide.astype(np.int8)
    yield "offset", encoded(np.rint(exact), "int8")
    yield "rounding", encoded(np.floor(exact) + 3, "int8")
    yield "rounding", encoded(np.trunc(exact + 3), "int8")
    yield "transposed", case.expected.astype(np.int8).T.reshape(M, N)


def wrong_scaled(case):
    a, b, scale, _ = (x.astype(float) for x in case.inputs)
    yield "offset", float32((a @ b) * scale)


def wrong_casts(case):
    (x,) = (x.astype(float) for x in case.inputs)
    if outputs.is_integer(case.out_dtype):
        yield "non-saturating cast", np.rint(x).astype(np.int64).astype(case.out_dtype)
        yield "rounding", encoded(np.trunc(x), case.out_dtype)
    elif case.out_dtype == "float16":
        with np.errstate(over="ignore"):
            overflowed = x.astype(np.float16)
        yield "non-saturating cast", overflowed
    elif case.out_dtype != "fp4":  # which has neither infinity nor NaN
        yield "non-saturating cast", formats.encode(x, case.out_dtype, saturate=False)


def wrong_heads(case):
    good = float32(case.expected)
    yield "transposed", good.transpose(0, 2, 1, 3).reshape(good.shape)
    yield "transposed", good.transpose(0, 1, 3, 2).reshape(good.shape)
    yield "axis 2 shift", np.roll(good, 1, axis=2)
    yield "axis 3 shift", np.roll(good, -1, axis=3)
    yield "swapped pairs", good.reshape(-1, 2)[:, ::-1].reshape(good.shape)
    yield "scale", good * np.arange(2, 10, dtype=np.float32)
    yield "offset", good + np.arange(2, 5, dtype=np.float32).reshape(1, 3, 1, 1)
    yield "one slice", np.where(np.arange(8) == 3, 0, good).astype(np.float32)


def planted():
    """Every wrong output, as (name, case, kind, output)."""
    sources = [(f"gemm {fill}", product_case(fill), wrong_products) for fill in FILLS]
    sources += [(f"gemm {fill}", product_case(fill), wrong_float_products) for fill in ("uniform", "realistic")]
    sources += [("int8 gemm", integer_case(), wrong_products), ("int8 gemm", integer_case(), wrong_integer_products)]
    sources += [("requantised", requantised_case(), wrong_requantised), ("scaled", scaled_case(), wrong_scaled)]
    casts = ("int8", "uint8", "int16", "float16", "bf16", "fp8", "fp8_e5m2")
    sources += [(f"cast {name}", cast_case(name), wrong_casts) for name in casts]
    sources += [("heads", heads_case(), wrong_heads)]
    for source, case, make in sources:
        for count, (kind, output) in enumerate(make(case)):
            yield f"{source}: {kind} {count}", case, kind, output


PLANTED = list(planted())


@pytest.mark.parametrize(("case", "kind", "output"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED])
def test_the_mistake_is_named(case, kind, output):
    found = nk.check(output, case)

    assert found.verdict == "FAIL"
    assert found.kind == kind, found.cause


def test_swapped_nibbles_of_packed_int4():
    x = np.random.default_rng(2).integers(-8, 8, (6, 10)).astype(float)
    case = Case("quantise", "int4", "uniform", 2, (), (), *frozen(x, np.zeros(x.shape)), "int4")
    good = encoded(x, "int4")

    assert nk.check(good, case).verdict == "PASS"
    assert nk.check((good << 4 | good >> 4).astype(np.uint8), case).kind == "swapped pairs"


@pytest.mark.parametrize("out_dtype", ["float32", "float16", "bf16", "fp8", "int8", "int32"])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_called_unexplained(out_dtype, seed):
    rng = np.random.default_rng(seed)
    for shape in [(7, 9), (12, 12), (4, 5, 6), (30,)]:
        expected, noise = (encoded(rng.standard_normal(shape) * 40, out_dtype) for _ in range(2))
        values = outputs.decoded(expected, shape, out_dtype)
        case = Case("op", "fp32", "uniform", 0, (), (), *frozen(values, np.zeros(shape)), out_dtype)

        assert nk.check(expected, case).verdict == "PASS"
        assert nk.check(noise, case).kind == "unexplained"


@pytest.mark.parametrize("shape", [*itertools.product((0, 1, 2, 3), repeat=2), (), (1,), (3,), (2, 1, 2)])
@pytest.mark.parametrize("out_dtype", ["float32", "int8", "fp8"])
def test_small_shapes_are_judged_too(shape, out_dtype):
    rng = np.random.default_rng(1)
    expected, noise = (np.rint(rng.standard_normal(shape) * 9) for _ in range(2))
    case = Case("op", "fp32", "uniform", 0, (), (), *frozen(np.asarray(expected), np.zeros(shape)), out_dtype)

    assert nk.check(encoded(expected, out_dtype), case).verdict == "PASS"
    noise = np.where(noise == expected, expected + 1, noise)
    found = nk.check(encoded(noise, out_dtype), case)
    assert found.verdict == ("FAIL" if expected.size else "PASS")
    assert bool(found.cause) == bool(expected.size)


def test_where_nan_and_infinity_are_expected_they_are_right():
    expected = np.array([[np.nan, np.inf, -np.inf, 1.0]])
    case = Case("cast", "fp32", "uniform", 0, (), (), *frozen(expected, np.zeros((1, 4))))

    assert nk.check(expected.astype(np.float32), case).verdict == "PASS"
    found = nk.check(-expected.astype(np.float32), case)
    assert (found.verdict, found.bad, found.max_ulp) == ("FAIL", 3, np.inf)


@pytest.mark.parametrize(
    ("out_dtype", "pair", "ulp"),
    [
        ("float16", (1.0, 1 + 2**-10), 1),
        ("bf16", (1.0, 1 + 2**-7), 1),
        ("fp8", (448.0, -448.0), 252),
        ("fp8_e5m2", (-(2.0**-16), 2.0**-16), 2),
        ("fp4", (6.0, 4.0), 1),
        ("int8", (-128.0, 127.0), 255),
        ("float64", (1.0, 1 + 2**-52), 1),
    ],
)
def test_ulps_are_steps_of_the_output_format(out_dtype, pair, ulp):
    assert outputs.max_ulp(np.array(pair[:1]), np.array(pair[1:]), out_dtype) == ulp


def test_arrays_of_ml_dtypes_are_taken_for_codes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(12.0).reshape(3, 4)
    for out_dtype, name in (("bf16", "bfloat16"), ("fp8", "float8_e4m3fn"), ("fp8_e5m2", "float8_e5m2")):
        case = Case("cast", "fp32", "uniform", 0, (), (), *frozen(x, np.abs(x) / 8), out_dtype)

        assert nk.check(x.astype(getattr(ml_dtypes, name)), case).verdict == "PASS"
        assert nk.check(x.astype(np.float32), case).kind == "wrong dtype"


def test_a_check_becomes_plain_json():
    import json

    case = product_case()
    output = float32(case.expected)
    output[1, 2] = np.nan
    text = json.dumps(nk.check(output, case).to_dict(), allow_nan=False)

    found = json.loads(text)
    assert list(found) == ["verdict", "ratio", "max_ulp", "nmse", "bad", "first", "worst", "cause", "repro", "kind"]
    assert found["ratio"] is None and found["worst"]["index"] == [1, 2] and found["kind"] == "non-finite"
