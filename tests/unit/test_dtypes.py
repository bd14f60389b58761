"""Do formats count their bits with scales, and do engines stand in for one another as documented?"""

from __future__ import annotations

import pytest

from npusim import dtypes
from npusim.errors import InputError


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp64", 64), ("fp32", 32), ("tf32", 32), ("fp16", 16), ("bf16", 16), ("fp8", 8), ("fp8_e5m2", 8), ("fp6", 6),
        ("fp4", 4), ("int32", 32), ("int16", 16), ("int8", 8),
        ("int4", 4 + 16 / 128), ("mxfp8", 8 + 8 / 32), ("mxfp6", 6 + 8 / 32), ("mxfp4", 4 + 8 / 32),
        ("mxint8", 8 + 8 / 32), ("nvfp4", 4 + 8 / 16),
        ("fp6_e3m2", 6), ("mxfp8_e5m2", 8 + 8 / 32), ("mxfp6_e3m2", 6 + 8 / 32),
    ],
)  # fmt: skip
def test_bits_include_the_share_of_the_scale(name: str, bits: float):
    assert dtypes.bits(name) == bits


def test_every_format_is_listed_in_the_test_of_bits():
    assert len(dtypes.FORMATS) == 21


@pytest.mark.parametrize(("alias", "name"), [("half", "fp16"), ("BFloat16", "bf16"), ("e4m3", "fp8"), ("FP8", "fp8")])
def test_aliases_in_any_case(alias: str, name: str):
    assert dtypes.get(alias).name == name


def test_every_alias_leads_to_a_format_and_hides_none():
    assert set(dtypes.ALIASES.values()) <= set(dtypes.FORMATS)
    assert not set(dtypes.ALIASES) & set(dtypes.FORMATS)


def test_unknown_format():
    with pytest.raises(InputError) as caught:
        dtypes.get("bf61", "gemm.a")

    text = str(caught.value)
    assert text.startswith("gemm.a: unknown number format 'bf61'")
    assert "known: bf16" in text and "did you mean 'bf16'?" in text


@pytest.mark.parametrize(
    ("a", "b", "rate"),
    [
        ("bf16", "int4", "bf16"),  # weight-only: converted on the way in
        ("bf16", "fp8", "bf16"),
        ("fp8", "int4", "fp8"),
        ("fp8", "bf16", "bf16"),  # the wider decides wherever it stands
        ("int8", "fp8", "int8"),  # equal width: the activation decides
        ("fp8", "int8", "fp8"),
        ("mxfp8", "mxfp4", "fp8"),
        ("nvfp4", "nvfp4", "fp4"),
        ("tf32", "fp32", "tf32"),
    ],
)
def test_operand_format(a: str, b: str, rate: str):
    assert dtypes.operand_format(a, b) == rate


def test_an_engine_runs_a_format_at_its_own_rate():
    assert dtypes.engine_rate("fp8", {"bf16": 1.0, "fp8": 2.0}) == ("fp8", 2.0)


@pytest.mark.parametrize(
    ("fmt", "rates", "used"),
    [
        ("fp4", ("fp8", "bf16"), "fp8"),
        ("fp4", ("fp6", "fp8"), "fp6"),
        ("fp8", ("fp16", "bf16"), "bf16"),
        ("bf16", ("fp16", "fp32"), "fp16"),
        ("fp16", ("bf16",), "bf16"),
        ("int4", ("fp16", "int8"), "int8"),
        ("int8", ("fp16",), "fp16"),
        ("tf32", ("fp32",), "fp32"),
        ("fp32", ("fp64",), "fp64"),
    ],
)
def test_the_next_wider_rate_stands_in(fmt: str, rates: tuple[str, ...], used: str):
    table = {name: float(i + 1) for i, name in enumerate(rates)}
    assert dtypes.engine_rate(fmt, table) == (used, table[used])


@pytest.mark.parametrize(
    ("fmt", "rates"), [("fp32", ("bf16", "fp16", "fp8")), ("bf16", ("fp8", "int8")), ("int8", ("int4", "fp8"))]
)
def test_a_narrower_rate_never_stands_in(fmt: str, rates: tuple[str, ...]):
    assert dtypes.engine_rate(fmt, dict.fromkeys(rates, 1.0)) is None


def test_no_format_falls_back_to_a_narrower_one():
    width = {f.rate: f.element_bits for f in dtypes.FORMATS.values()}
    for fmt in {f.rate for f in dtypes.FORMATS.values()}:
        for other in {f.rate for f in dtypes.FORMATS.values()}:
            if width[other] < width[fmt]:
                assert dtypes.engine_rate(fmt, {other: 1.0}) is None, (fmt, other)
