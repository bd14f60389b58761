"""Does check() pass what is right and name what is wrong? Every defect here is planted."""

import numpy as np
import pytest

import npukernels as nk
from npusim.errors import Finding, InputError

FILLS = ("uniform", "integer", "adversarial", "realistic")


def _case(fill="uniform", m=12, n=12, k=64, seed=4):
    return nk.golden("gemm", m=m, n=n, k=k, fill=fill, seed=seed)


def _good(case):
    return case.expected.astype(np.float32)


def _bf16(x):
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def _bf16_accumulated(case):
    a, b = case.inputs
    total = np.zeros(case.expected.shape, dtype=np.float32)
    for p in range(a.shape[1]):
        total = _bf16(total + _bf16(a[:, p : p + 1] * b[p : p + 1]))
    return total


def _planted(case):
    """(name, output, what the cause must mention)."""
    good, a, b = _good(case), *case.inputs
    one, nan, inf, zero_row, edge = (good.copy() for _ in range(5))
    one[5, 7] += 1 + abs(one[5, 7])
    nan[2, 3], inf[4, 1] = np.nan, -np.inf
    zero_row[6] = 0
    edge[8:] *= 1.5
    yield "transposed", np.ascontiguousarray(good.T), "transposed"
    yield "row shift down", np.roll(good, 1, axis=0), "row shift: rows are one too low"
    yield "row shift up", np.roll(good, -1, axis=0), "row shift: rows are one too high"
    yield "column shift right", np.roll(good, 1, axis=1), "too far right"
    yield "column shift left", np.roll(good, -1, axis=1), "too far left"
    yield "one element", one, "one element"
    yield "nan", nan, "non-finite"
    yield "inf", inf, "non-finite"
    yield "one row missing", zero_row, "one row: 6"
    yield "edge tile", edge, "edge tile: only rows 8 to 11"
    yield "not written", np.zeros_like(good), "not written"
    yield "negated", -good, "sign"
    yield "doubled", good * 2, "accumulated twice"
    yield "bf16 sums", _bf16_accumulated(case), "bf16"
    yield "last k dropped", (a[:, :-1].astype(float) @ b[:-1]).astype(np.float32), ""
    yield "wrong shape", good[:-1], "wrong shape"
    yield "flat", good.ravel(), "wrong shape"
    yield "float64", case.expected.copy(), "wrong dtype: float64"
    yield "float16", good.astype(np.float16), "wrong dtype: float16"
    yield "a list", good.tolist(), "wrong type: list"
    yield "nothing", None, "wrong type: NoneType"


NAMES = [name for name, _, _ in _planted(_case())]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", NAMES)
def test_every_planted_defect_is_a_fail(name, fill):
    case = _case(fill)
    output, mention = next((o, c) for n, o, c in _planted(case) if n == name)

    found = nk.check(output, case)

    assert found.verdict == "FAIL"
    assert found.ratio > 4
    assert found.cause
    if fill != "adversarial" or not name.startswith(("bf16", "edge", "one row")):
        assert mention in found.cause
    with pytest.raises(Finding, match="FAIL"):
        found.raise_for_status()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shape", [(12, 12, 64), (1, 1, 1), (3, 5, 0), (0, 4, 4), (40, 30, 2000)])
def test_a_correct_output_passes(fill, shape):
    m, n, k = shape
    case = _case(fill, m, n, k)

    found = nk.check(_good(case), case)

    assert (found.verdict, found.cause, found.bad, found.first, found.worst) == ("PASS", "", 0, None, None)
    assert found.ratio <= 1 and found.max_ulp == 0
    assert found.raise_for_status() is found


def test_the_bound_is_tight_at_one_and_at_four():
    """Just inside passes, just outside is marginal, and beyond four fails."""
    case = _case(m=2, n=2)

    def verdict(scale):
        output = _good(case).astype(np.float64)
        output[1, 0] = case.expected[1, 0] + scale * case.bound[1, 0]
        return nk.check(output.astype(np.float32), case).verdict

    assert [verdict(s) for s in (0.9, 1.1, 3.9, 4.1)] == ["PASS", "MARGINAL", "MARGINAL", "FAIL"]
    marginal = nk.check(_good(case) + np.float32(2) * case.bound.astype(np.float32), case)
    assert marginal.verdict == "MARGINAL"
    assert marginal.raise_for_status() is marginal


def test_truncating_products_and_sums_stay_within_marginal():
    """The reason MARGINAL exists: a unit that chops every operation has twice the unit roundoff."""
    case = nk.golden("gemm", m=8, n=8, k=3, seed=1)
    a, b = (np.abs(x).astype(np.float64) for x in case.inputs)
    positive = nk.Case(**{**case.__dict__, "expected": a @ b})

    def chop(x):
        near = x.astype(np.float32)
        return np.where(near > x, np.nextafter(near, np.float32(0)), near).astype(np.float64)

    total = np.zeros((8, 8))
    for p in range(3):
        total = chop(total + chop(a[:, p : p + 1] * b[p : p + 1]))
    assert nk.check(total.astype(np.float32), positive).ratio <= 2


def test_first_and_worst_are_named_with_their_values():
    case = _case("integer")
    output = _good(case)
    output[3, 4] += 1
    output[9, 2] += 100

    found = nk.check(output, case)

    assert found.bad == 2
    assert found.first.index == (3, 4) and found.first.got - found.first.expected == 1
    text = str(found)
    assert "FAIL" in text and "[3, 4]" in text and "repro: import npukernels as nk" in text


def test_worst_is_the_largest_in_units_of_the_bound():
    case = _case()
    output = case.expected.copy()
    output[1, 1] += 10 * case.bound[1, 1]
    output[7, 8] += 50 * case.bound[7, 8]

    found = nk.check(output.astype(np.float32), case)

    assert found.first.index == (1, 1) and found.worst.index == (7, 8)
    assert found.worst.ratio == pytest.approx(50, rel=0.05)


def test_max_ulp_counts_representable_numbers_across_zero():
    case = nk.golden("gemm", m=1, n=2, k=0)
    tiny = np.float32(1e-45)

    assert nk.check(np.array([[tiny, -tiny]]), case).max_ulp == 1
    assert nk.check(np.array([[0.0, -0.0]], dtype=np.float32), case).max_ulp == 0


def test_nmse_is_error_power_over_signal_power():
    case = _case()

    assert nk.check(_good(case) * np.float32(1.5), case).nmse == pytest.approx(0.25, rel=1e-5)


def test_the_repro_line_makes_the_same_case():
    case = _case("adversarial", 5, 6, 7, seed=123)
    scope = {}

    exec(nk.check(_good(case), case).repro, scope)

    again = scope["case"]
    assert again.repro == case.repro
    assert all(np.array_equal(x, y) for x, y in zip(again.inputs, case.inputs, strict=True))
    assert np.array_equal(again.expected, case.expected) and np.array_equal(again.bound, case.bound)


def test_a_case_cannot_be_changed():
    case = _case()

    for array in (*case.inputs, case.expected, case.bound):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    with pytest.raises(AttributeError):
        case.seed = 5


def test_seeds_give_pinned_bits():
    """The stream of PCG64 with seed 0: other bits mean that old repro lines no longer reproduce."""
    a, b = nk.golden("gemm", m=1, n=1, k=3, seed=0).inputs

    words = np.random.PCG64(0).random_raw(6) >> np.uint64(32)
    drawn = (2 * ((words % 2**24).astype(float) - 2**23) + 1) / 2**24
    assert np.array_equal(np.concatenate([a.ravel(), b.ravel()]), drawn)
    assert not np.array_equal(nk.golden("gemm", m=1, n=1, k=3, seed=1).inputs[0], a)


@pytest.mark.parametrize("k", [1, 7, 64, 5000])
def test_integer_fill_is_exact_in_any_order(k):
    case = _case("integer", k=k)
    a, b = case.inputs

    assert not case.bound.any() and case.expected.any()
    assert (np.abs(a).astype(float) @ np.abs(b)).max() <= 2**24
    backwards = np.zeros(case.expected.shape, dtype=np.float32)
    for p in reversed(range(k)):
        backwards += a[:, p : p + 1] * b[p : p + 1]
    assert nk.check(backwards, case).verdict == "PASS"


def test_adversarial_fill_cancels_and_mixes_magnitudes():
    case = _case("adversarial", k=200)
    a, b = (np.abs(x).astype(float) for x in case.inputs)

    assert np.median(np.abs(case.expected) / (a @ b)) < 1e-3
    assert a.max() / a.min() > 1e4


def test_the_bound_grows_with_k_and_is_of_the_stated_size():
    for k in (1, 10, 1000):
        case = _case(k=k)
        a, b = (np.abs(x).astype(float) for x in case.inputs)
        ratio = case.bound / (a @ b)
        assert (ratio >= k * 2.0**-24).all() and (ratio <= (k + 1.01) * 2.0**-24).all()


@pytest.mark.parametrize(
    ("wrong", "mention"),
    [
        ({"op": "gem"}, "did you mean 'gemm'"),
        ({"fill": "uniforn"}, "did you mean 'uniform'"),
        ({"dtype": "fp33"}, "unknown number format"),
        ({"dtype": "int8"}, "no golden case in int8"),
        ({"seed": -1}, "seed is -1"),
        ({"m": -1}, "m is -1"),
        ({"m": 2.0}, "m is 2.0"),
        ({"m": True}, "m is True"),
        ({"k": 2**39}, "does not fit the memory"),
        ({"m": 1, "n": 1, "k": 2**25}, "too long"),
        ({"m": 1, "n": 1, "k": 2**25, "fill": "integer"}, "too long"),
        ({"batch": 2}, "no size 'batch'"),
    ],
)
def test_a_bad_request_is_one_clear_error(wrong, mention):
    arguments = {"op": "gemm", "m": 4, "n": 4, "k": 4} | wrong

    with pytest.raises(InputError, match=r"(?s).*") as caught:
        nk.golden(arguments.pop("op"), **arguments)
    assert mention in str(caught.value)


def test_missing_sizes_are_all_named():
    with pytest.raises(InputError) as caught:
        nk.golden("gemm", m=3)
    assert [p.path for p in caught.value.problems] == ["n", "k"]
