"""Are the codes of every format those of two independent libraries, for every code and every kind of input?"""

from __future__ import annotations

import gfloat
import gfloat.formats as gf
import ml_dtypes
import numpy as np
import pytest

from npukernels import formats
from npusim.errors import InputError

ML = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp6": ml_dtypes.float6_e2m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp4": ml_dtypes.float4_e2m1fn,
}
GFLOAT = {
    "fp16": gf.format_info_binary16,
    "bf16": gf.format_info_bfloat16,
    "fp8": gf.format_info_ocp_e4m3,
    "fp8_e5m2": gf.format_info_ocp_e5m2,
    "fp6": gf.format_info_ocp_e2m3,
    "fp6_e3m2": gf.format_info_ocp_e3m2,
    "fp4": gf.format_info_ocp_e2m1,
}


def storage(name):
    return np.uint16 if formats.FORMATS[name].bits == 16 else np.uint8


def all_codes(name):
    return np.arange(1 << formats.FORMATS[name].bits).astype(storage(name))


def same_numbers(a, b):
    """Equal bits, where NaN equals NaN."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(
        np.where(np.isnan(a), 0, a).view(np.uint32), np.where(np.isnan(b), 0, b).view(np.uint32)
    )


def every_kind_of_float32(name):
    """All 65536 upper halves with lower halves around the ties of bf16, and the ties of ``name`` +- 1 ulp."""
    upper = np.arange(65536, dtype=np.uint32) << np.uint32(16)
    parts = [upper + np.uint32(low) for low in (0, 1, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    f = formats.FORMATS[name]
    numbers = formats.decode(np.arange(f.max_code + 1).astype(storage(name)), name).astype(np.float64)
    step = numbers[-1] - numbers[-2]
    ties = np.append((numbers[:-1] + numbers[1:]) / 2, numbers[-1] + step / 2).astype(np.float32)
    for sign in (0, 0x80000000):
        for ulp in (-1, 0, 1):
            parts.append((ties.view(np.uint32).astype(np.int64) + ulp).clip(0).astype(np.uint32) | np.uint32(sign))
    return np.concatenate(parts).view(np.float32)


@pytest.mark.parametrize("name", ML)
def test_every_code_decodes_as_in_ml_dtypes(name):
    codes = all_codes(name)
    assert same_numbers(formats.decode(codes, name), codes.view(ML[name]).astype(np.float32))


@pytest.mark.parametrize("name", GFLOAT)
def test_every_code_decodes_as_in_gfloat(name):
    codes = all_codes(name)
    with np.errstate(all="ignore"):
        theirs = gfloat.decode_ndarray(GFLOAT[name], codes.astype(np.int64))
    assert same_numbers(formats.decode(codes, name), theirs)


@pytest.mark.parametrize("name", ML)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_floats_encode_as_in_ml_dtypes_without_saturation(name):
    x = every_kind_of_float32(name)
    x = x[~np.isnan(x)]
    ours = formats.encode(x, name, saturate=False).view(storage(name))
    with np.errstate(all="ignore"):
        theirs = x.astype(ML[name]).view(storage(name))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("name", GFLOAT)
def test_floats_encode_as_in_gfloat(name, saturate):
    info, f = GFLOAT[name], formats.FORMATS[name]
    x = every_kind_of_float32(name)
    x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        rounded = gfloat.round_ndarray(info, x.astype(np.float64), sat=saturate or f.nan_code is None)
    assert same_numbers(formats.decode(formats.encode(x, name, saturate), name), rounded)


@pytest.mark.parametrize("name", ML)
def test_nan_is_quiet_keeps_its_sign_and_has_no_payload(name):
    f = formats.FORMATS[name]
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF], np.uint32).view(np.float32)
    for saturate in (True, False):
        codes = formats.encode(nans, name, saturate).view(storage(name))
        if f.nan_code is None:
            assert not codes.any()
        else:
            assert codes.tolist() == [f.nan_code, f.nan_code | f.sign_code] * 2
            assert formats.decode(codes, name).view(np.uint32).tolist() == [0x7FC00000, 0xFFC00000] * 2


@pytest.mark.parametrize(
    ("name", "x", "saturated", "otherwise"),
    [
        # OFP8 v1.0, table 2: e4m3 max 448 = S.1111.110, no infinity, NaN S.1111.111; 464 ties to 448.
        ("fp8", 464.0, 0x7E, 0x7E), ("fp8", 464.1, 0x7E, 0x7F), ("fp8", -np.inf, 0xFE, 0xFF),
        # e5m2 max 57344 = S.11110.11; 61440 is the tie to 65536 and rounds to even, away.
        ("fp8_e5m2", 61439.0, 0x7B, 0x7B), ("fp8_e5m2", 61440.0, 0x7B, 0x7C), ("fp8_e5m2", -np.inf, 0xFB, 0xFC),
        ("fp16", 65520.0, 0x7BFF, 0x7C00), ("bf16", np.inf, 0x7F7F, 0x7F80), ("bf16", 3.4e38, 0x7F7F, 0x7F80),
        # MX v1.0, 5.3: fp6 and fp4 have neither infinity nor NaN.
        ("fp6", 100.0, 0x1F, 0x1F), ("fp6_e3m2", np.inf, 0x1F, 0x1F), ("fp4", -7.0, 0xF, 0xF), ("fp4", 5.0, 6, 6),
        ("fp4", 0.25, 0, 0), ("fp4", -0.0, 8, 8), ("fp8", 2.0**-10, 0, 0), ("fp8", 1.5 * 2.0**-9, 2, 2),
    ],
)  # fmt: skip
def test_codes_by_hand(name, x, saturated, otherwise):
    assert formats.encode(x, name, saturate=True).view(storage(name)) == saturated
    assert formats.encode(x, name, saturate=False).view(storage(name)) == otherwise


def test_overflow_by_default():
    got = [formats.encode(np.inf, name).view(storage(name)) for name in ML]
    assert got == [0x7C00, 0x7F80, 0x7E, 0x7B, 0x1F, 0x1F, 0x7]


def test_e8m0_is_ml_dtypes_but_for_its_lowest_binade():
    """ml_dtypes rounds (2^-127, 1.5 2^-127) up to 2^-126; the nearest power of two is 2^-127."""
    codes = np.arange(256).astype(np.uint8)
    theirs = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert same_numbers(formats.decode(codes, "e8m0"), theirs)
    x = every_kind_of_float32("bf16")
    x = x[~np.isnan(x) & ~((x > 2.0**-127) & (x <= 1.5 * 2.0**-127))]
    with np.errstate(all="ignore"):
        theirs = x.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    assert np.array_equal(formats.encode(x, "e8m0", saturate=False), theirs)
    assert formats.encode([1.2 * 2.0**-127, 3e38, np.inf, 0, -1, np.nan], "e8m0").tolist() == [
        0,
        254,
        254,
        255,
        255,
        255,
    ]


def test_float64_is_rounded_once():
    """1 + 2^-11 + 2^-40 is above the fp16 tie; through float32 it would be the tie and go down."""
    assert formats.encode(1 + 2.0**-11 + 2.0**-40, "fp16") == np.float16(1 + 2.0**-10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("int8", [-128, -2, 0, 0, 2, 2, 127, 127, 0]),
        ("int4", [-8, -2, 0, 0, 2, 2, 7, 7, 0]),
        ("uint8", [0, 0, 0, 0, 2, 2, 200, 255, 0]),
        ("uint4", [0, 0, 0, 0, 2, 2, 15, 15, 0]),
    ],
)
def test_integers_round_to_even_and_saturate(name, expected):
    codes = formats.encode([-np.inf, -1.5, -0.5, 0.5, 1.5, 2.5, 200, np.inf, np.nan], name)
    assert codes.tolist() == expected
    assert formats.decode(codes, name).tolist() == expected


def test_pack_by_hand():
    """4 bits: low nibble first. 6 bits: 1 + (2 << 6) + (3 << 12) + (63 << 18) = 0xFC3081, little-endian."""
    assert formats.pack(np.array([1, 2, 15]), 4).tolist() == [0x21, 0x0F]
    assert formats.pack(np.array([-1, -8]), 4).tolist() == [0x8F]
    assert formats.pack(np.array([1, 2, 3, 63, 5]), 6).tolist() == [0x81, 0x30, 0xFC, 5, 0, 0]


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (3,), (4,), (5,), (7, 13), (2, 0), (2, 3, 8)])
def test_unpack_undoes_pack(bits, shape):
    codes = np.random.default_rng(1).integers(0, 1 << bits, shape).astype(np.uint8)
    packed = formats.pack(codes, bits)
    assert np.array_equal(formats.unpack(packed, bits, shape[-1]), codes)
    signed = (codes.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
    assert np.array_equal(formats.unpack(formats.pack(signed, bits), bits, shape[-1], signed=True), signed)


def test_other_libraries_arrays_are_read_by_their_bits():
    x = np.array([1.5, -2.0], np.float32)
    assert formats.decode(x.astype(ml_dtypes.bfloat16), "bf16").tolist() == [1.5, -2]
    assert formats.decode(x.astype(ml_dtypes.float8_e4m3fn), "e4m3").tolist() == [1.5, -2]
    assert formats.decode([0x38], "fp8").tolist() == [1.0]


BAD = [
    (lambda: formats.encode(1.0, "fp9"), "unknown number format 'fp9'"),
    (lambda: formats.encode(1.0, "fp64"), "unknown number format"),
    (lambda: formats.encode(np.array(["x"]), "fp8"), "x has dtype"),
    (lambda: formats.encode(np.array([1j]), "fp8"), "x has dtype complex"),
    (lambda: formats.decode(np.array([1.0]), "fp8"), "codes have dtype float64"),
    (lambda: formats.decode(np.array([300]), "fp8"), "outside its 8 bits"),
    (lambda: formats.decode(np.array([64], np.uint8), "fp6"), "outside its 6 bits"),
    (lambda: formats.decode(np.array([8], np.int8), "int4"), "outside its 4 bits"),
    (lambda: formats.pack(np.array([1.0]), 4), "codes are float64"),
    (lambda: formats.pack(np.array([1]), 5), "bits is 5"),
    (lambda: formats.pack(np.array(1), 4), "0 dimensions"),
    (lambda: formats.unpack(np.zeros(3, np.uint8), 4, 4), "has 3 bytes a row"),
    (lambda: formats.unpack(np.zeros(3, np.int8), 4, 6), "packed is int8"),
    (lambda: formats.unpack(np.zeros(3, np.uint8), 4, -1), "count is -1"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
