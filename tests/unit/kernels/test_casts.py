"""Do all variants of cast give the bits of formats.py, for every kind of input, size and format?"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from compiling import COMPILER, FLAGS

import npukernels as nk
from npukernels import formats, native
from npukernels.casts import CASTS
from npusim.errors import InputError

ROOT = Path(__file__).parents[3]
VARIANTS = nk.variants("cast")
SIZES = [*range(200), 255, 256, 257, 1021, 32767, 32768, 32769, 100003]

UPPER = np.arange(65536, dtype=np.uint32) << np.uint32(16)
LOWER = (0, 1, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)
FLOATS = np.concatenate([UPPER + np.uint32(low) for low in LOWER]).view(np.float32)


def bits(codes):
    return codes.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[codes.itemsize])


def all_codes(name):
    f = formats.FORMATS[name]
    return np.arange(1 << f.bits).astype(np.uint16 if f.bits == 16 else np.uint8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASTS)
def test_bits_are_those_of_formats(name, variant):
    for saturate in (True, False):
        expected = formats.encode(FLOATS, name, saturate)
        got = nk.cast(FLOATS, name, saturate=saturate, variant=variant)
        assert got.dtype == expected.dtype and np.array_equal(bits(got), bits(expected))
    codes = all_codes(name)
    got = nk.cast(codes, "fp32", source=name, variant=variant)
    assert np.array_equal(bits(got), bits(formats.decode(codes, name)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASTS)
def test_every_size(name, variant):
    for seed, size in enumerate(SIZES):
        x = np.random.default_rng(seed).choice(FLOATS, size)
        codes = nk.cast(x, name, variant=variant, threads=1 + seed % 3)
        assert np.array_equal(bits(codes), bits(formats.encode(x, name)))
        back = nk.cast(codes, "fp32", source=name, variant=variant, threads=1 + seed % 2)
        assert np.array_equal(bits(back), bits(formats.decode(codes, name)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial"])
@pytest.mark.parametrize("name", CASTS)
def test_golden(name, fill, variant):
    case = nk.golden("cast", m=5, n=67, dtype=name, fill=fill, seed=3)
    got = formats.decode(nk.cast(*case.inputs, **dict(case.params), variant=variant), name)
    assert np.array_equal(got, case.expected) and not case.bound.any()
    assert len(np.unique(case.expected)) > 4


def test_the_formats_of_arrays_are_known_by_their_dtype():
    x = np.array([[0.5, -3.0], [448.0, 1e-3]], np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        with np.errstate(over="ignore"):
            given = x.astype(dtype)
        assert np.array_equal(nk.cast(given, "fp32"), given.astype(np.float32))
    assert nk.cast(x, "fp16").dtype == np.float16


def test_from_code_to_code():
    codes = all_codes("fp8")
    through = formats.encode(formats.decode(codes, "fp8"), "fp8_e5m2")
    assert np.array_equal(nk.cast(codes, "fp8_e5m2", source="e4m3"), through)


@pytest.mark.parametrize("variant", VARIANTS)
def test_strides_shapes_and_out(variant):
    x = np.random.default_rng(0).standard_normal((6, 10, 4)).astype(np.float32)
    for view in (x[::2], x.T, x[:, ::-1], x[:0], x[1, 2, 3:4].reshape(())):
        out = np.full(view.shape, 77, np.uint8)
        assert nk.cast(view, "fp8", out=out, variant=variant) is out
        assert np.array_equal(out, formats.encode(view, "fp8"))


def _read_only():
    out = np.zeros(4, np.uint8)
    out.flags.writeable = False
    return out


X = np.ones(4, np.float32)
SHARED = np.zeros(16, np.uint8)
BAD = [
    (lambda: nk.cast(X, "int8"), "int8 has no cast"),
    (lambda: nk.cast(X, "fp9"), "to: unknown number format"),
    (lambda: nk.cast(X, "fp32"), "x is float32 already"),
    (lambda: nk.cast(X.astype(np.float64), "fp8"), "x has dtype float64"),
    (lambda: nk.cast(np.zeros(3, np.uint8), "fp32"), "name the format of codes: source="),
    (lambda: nk.cast(np.zeros(3, np.uint8), "fp32", source="bf17"), "source: unknown"),
    (lambda: nk.cast(X, "fp32", source="fp8"), "codes have dtype float32"),
    (lambda: nk.cast(np.full(3, 64, np.uint8), "fp32", source="fp6"), "outside its 6 bits"),
    (lambda: nk.cast([1.0], "fp8"), "x is a list"),
    (lambda: nk.cast(np.ma.masked_equal(X, 1), "fp8"), "masked"),
    (lambda: nk.cast(X, "fp8", out=np.zeros(5, np.uint8)), "out has shape"),
    (lambda: nk.cast(X, "fp8", out=np.zeros(4, np.int8)), "out has dtype int8"),
    (lambda: nk.cast(X, "fp8", out=_read_only()), "out is read-only"),
    (lambda: nk.cast(X, "fp8", out=np.zeros(8, np.uint8)[::2]), "not C-contiguous"),
    (lambda: nk.cast(SHARED.view(np.float32), "fp8", out=SHARED[:4]), "shares memory"),
    (lambda: nk.cast(X, "fp8", threads=0), "threads is 0"),
    (lambda: nk.cast(X, "fp8", variant="c-avx"), "unknown cast variant"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built")
def test_the_c_side_checks_its_own_arguments():
    lib, null = native.require_native().lib, native.require_native().ffi.NULL
    assert lib.npk_encode(0, 0, 0, 1, null, null, 1) == lib.NPK_EINVAL
    assert lib.npk_encode(0, 0, 0, -1, null, null, 1) == lib.NPK_EINVAL
    assert lib.npk_decode(0, lib.NPK_FMT_COUNT, 0, null, null, 1) == lib.NPK_EINVAL
    assert lib.npk_decode(9, 0, 0, null, null, 1) == lib.NPK_EINVAL
    assert lib.npk_encode(0, 0, 0, 2**62, null, null, 1) == lib.NPK_EOVERFLOW
    assert lib.npk_encode(0, 0, 0, 0, null, null, 1) == lib.NPK_OK
    assert lib.npk_encode(2, 0, 0, 0, null, null, 1) in (lib.NPK_OK, lib.NPK_EUNSUPPORTED)
    scaled = (null, null, null, 0, 0, 0)
    assert lib.npk_quantize_int(0, 1, 1, 1, *scaled, -128, 127, null, 1) == lib.NPK_EINVAL
    assert lib.npk_quantize_int(0, 1, 1, 0, *scaled, -128, 127, null, 1) == lib.NPK_EINVAL
    assert lib.npk_quantize_int(0, 0, 1, 1, *scaled, -129, 127, null, 1) == lib.NPK_EINVAL
    assert lib.npk_quantize_int(0, 2**40, 2**40, 1, *scaled, -128, 127, null, 1) == lib.NPK_EOVERFLOW
    huge = (null, null, null, 2**62, 2**62, 0)
    assert lib.npk_dequantize_int(0, 4, 4, 2, *huge, 1, null, 1) == lib.NPK_EOVERFLOW
    assert lib.npk_dequantize_int(0, 0, 2**62, 2**62, *scaled, 1, null, 1) == lib.NPK_OK


@pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built")
def test_tensors_have_scales_that_exist_and_fit_the_memory():
    ffi, lib = native.require_native().ffi, native.require_native().lib
    x, codes, scale = ffi.new("float[]", [1, -2]), ffi.new("uint8_t[2]"), ffi.new("float[1]")

    def status(**sizes):
        values = {"blocks": 1, "len": 2, "cols": 2, "scales": 1, "element": lib.NPK_ELEMENT_INT, "bits": 8,
                  "low": -127, "high": 127, "largest": 127, "factor": 1} | sizes  # fmt: skip
        return lib.npk_quantize_tensor(0, ffi.new("npk_tensor *", values), x, codes, scale, ffi.NULL, 1)

    assert status() == lib.NPK_OK
    assert list(codes) == [64, 256 - 127]
    assert status(sb=2**63 - 1, sr=2**63 - 1) == lib.NPK_EOVERFLOW
    assert status(scales=2**55) == lib.NPK_ENOMEM
    assert status(sc=1) == status(cols=1, sr=1) == status(blocks=2, sb=1) == lib.NPK_EINVAL


@pytest.mark.skipif(COMPILER is None or not (ROOT / "csrc/formats").is_dir(), reason="no compiler or C sources")
def test_the_avx512_casts_on_any_cpu(tmp_path):
    """The shipped file with its intrinsics replaced by sixteen plain lanes."""
    library = tmp_path / "libemulated.so"
    sources = sorted([*ROOT.glob("csrc/common/*.c"), *ROOT.glob("csrc/formats/*.c")])
    command = [COMPILER, *FLAGS, "-shared", "-DNPK_CODEC_EMULATED"]
    subprocess.run([*command, *map(str, sources), "-o", str(library), "-lm"], check=True, capture_output=True)
    lib = ctypes.CDLL(str(library))
    size, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    lib.npk_encode.argtypes = [number, number, number, size, pointer, pointer, number]
    lib.npk_decode.argtypes = [number, number, size, pointer, pointer, number]
    lib.npk_quantize_int.argtypes = [number, *[size] * 3, *[pointer] * 3, *[size] * 3, number, number, pointer, number]
    for index, name in enumerate(CASTS):
        for x in (FLOATS, FLOATS[3:66], FLOATS[:1]):
            expected = formats.encode(x, name, False)
            got = np.zeros_like(expected)
            assert lib.npk_encode(2, index, 0, x.size, x.ctypes.data, got.ctypes.data, 2) == 0
            assert np.array_equal(bits(got), bits(expected))
        codes = all_codes(name)
        back = np.zeros(codes.size, np.float32)
        assert lib.npk_decode(2, index, codes.size, codes.ctypes.data, back.ctypes.data, 1) == 0
        assert np.array_equal(bits(back), bits(formats.decode(codes, name)))
    x = np.linspace(-3, 3, 5 * 141).astype(np.float32)
    scale, zero = np.linspace(0.01, 0.03, 5).astype(np.float32), np.arange(5, dtype=np.int32)
    got = np.zeros(x.size, np.int8)
    arrays = (x.ctypes.data, scale.ctypes.data, zero.ctypes.data)
    assert lib.npk_quantize_int(2, 1, x.size, 141, *arrays, 0, 1, 0, -128, 127, got.ctypes.data, 1) == 0
    expected = nk.quantize(x.reshape(5, 141), "int8", axis=0, scale=scale, zero=zero, variant="ref").codes
    assert np.array_equal(got, expected.ravel())
