from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim import units
from npusim.errors import InputError


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("4.8 TB/s", "bandwidth", 4.8e12),
        ("820 GiB/s", "bandwidth", 820 * 2**30),
        ("144 GB", "capacity", 144e9),
        ("64 MiB", "capacity", 64 * 2**20),
        ("0.5KiB", "capacity", 512),
        ("9.6 Gbit/s", "pin_rate", 9.6e9),
        ("16 Gbit", "density", 2e9),
        ("1.4e9 Hz", "frequency", 1.4e9),
        ("976.5625 MHz", "frequency", 976562500.0),
        ("2 PFLOPS", "compute", 2e15),
        ("512 TOPS", "compute", 512e12),
        ("11 ns", "time", 11e-9),
        ("2 us", "time", 2e-6),
        ("600 W", "power", 600.0),
        ("3.9 pJ", "energy", 3.9e-12),
        ("653 mm2", "area", 653.0),
    ],
)
def test_parse(text: str, dimension: str, value: float):
    assert units.parse(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("144 Gb", "capacity", "ambiguous"),
        ("4.8 Tb/s", "bandwidth", "ambiguous"),
        ("4.8 Tbps", "bandwidth", "ambiguous"),
        ("4.8 TB", "bandwidth", "did you mean 'TB/s'"),
        ("4.8", "bandwidth", "has no unit"),
        ("fast", "bandwidth", "is not a bandwidth"),
        ("-1 GB", "capacity", "out of range"),
        ("1e999 GB", "capacity", "out of range"),
        ("nan GB", "capacity", "is not a capacity"),
        ("1 2 GB", "capacity", "not a unit"),
        (None, "capacity", "is not a capacity"),
        (12, "capacity", "is not a capacity"),
        ("9" * 500 + " GB", "capacity", "is not a capacity"),
    ],
)
def test_refused(text: object, dimension: str, says: str):
    with pytest.raises(InputError) as caught:
        units.parse(text, dimension, "memory.bandwidth")
    assert says in str(caught.value)
    assert "memory.bandwidth" in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.floats(1e-3, 1e6, allow_nan=False), st.sampled_from(sorted(units.UNITS["capacity"])))
def test_every_unit_scales(number: float, unit: str):
    assert units.parse(f"{number!r} {unit}", "capacity") == pytest.approx(
        number * units.UNITS["capacity"][unit], rel=1e-12
    )


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str):
    try:
        assert units.parse(text, "bandwidth") >= 0
    except InputError as error:
        assert str(error)


def test_show():
    assert units.show(4.8e12, "B/s") == "4.8 TB/s"
    assert units.show(999.9e9, "B") == "1e+03 GB" or units.show(999.9e9, "B") == "1 TB"
    assert units.show(0, "s") == "0 s"
    assert units.show(2.5e-6, "s") == "2.5 us"
