"""Laws of rounding: nearest, idempotent, monotone, symmetric; and of quantisation: within half a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npukernels as nk
from npukernels import formats

FLOATS = [name for name, f in formats.FORMATS.items() if isinstance(f, formats.FloatFormat)]
REALS = st.floats(width=64, allow_nan=False, allow_infinity=False)
NEAR = st.floats(min_value=-1e3, max_value=1e3)


def finite_numbers(name):
    f = formats.FORMATS[name]
    return formats.decode(np.arange(f.max_code + 1).astype("uint16" if f.bits == 16 else "uint8"), name).astype(float)


@pytest.mark.parametrize("name", FLOATS)
@given(x=REALS | NEAR)
def test_the_nearest_representable_with_ties_to_even(name, x):
    numbers = finite_numbers(name)
    got = float(formats.decode(formats.encode(x, name, saturate=True), name))
    distance = np.abs(numbers - abs(x))
    nearest = np.flatnonzero(distance == distance.min())
    assert abs(got) in numbers[nearest] and np.signbit(got) == np.signbit(x)
    if len(nearest) == 2 and distance[nearest[0]] > 0 and abs(x) < numbers[-1]:
        assert abs(got) == numbers[nearest[nearest % 2 == 0]][0]


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("name", FLOATS)
@given(x=REALS | NEAR, y=REALS | NEAR)
def test_idempotent_monotone_and_odd(name, saturate, x, y):
    def rounded(value):
        return formats.decode(formats.encode(value, name, saturate), name)

    a, b = rounded(x), rounded(y)
    assert np.array_equal(rounded(a), a, equal_nan=True)
    assert not (x <= y and a > b)
    assert np.array_equal(rounded(-x), -a, equal_nan=True)


@pytest.mark.parametrize("fmt", ["int8", "int4", "uint8", "uint4"])
@given(x=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=80), symmetric=st.booleans())
def test_integers_are_within_half_a_step(fmt, x, symmetric):
    values = np.array(x, np.float32)
    q = nk.quantize(values, fmt, symmetric=symmetric and not fmt.startswith("u"))
    error = np.abs(nk.dequantize(q).astype(float) - values)
    # Rounding the zero point may push one end of an asymmetric range out by up to half a step more.
    assert error.max() <= (0.5 if q.zero is None else 1.0) * float(q.scale) * (1 + 1e-4)


@pytest.mark.parametrize("fmt", ["mxfp8", "mxfp8_e5m2", "mxfp6", "mxfp6_e3m2", "mxfp4", "mxint8"])
@given(x=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=80), shift=st.integers(-20, 20))
def test_mx_scales_with_powers_of_two(fmt, x, shift):
    values = np.array(x, np.float32)
    values[np.abs(values) < 1e-20] = 0
    moved = np.ldexp(values, shift)
    first, second = nk.dequantize(nk.quantize(values, fmt)), nk.dequantize(nk.quantize(moved, fmt))
    assert np.array_equal(np.ldexp(first, shift), second)
