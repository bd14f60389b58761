"""Are scales, codes and blocks those that the specifications, hand calculation and gfloat give?"""

from __future__ import annotations

import gfloat
import gfloat.formats as gf
import numpy as np
import pytest

import npukernels as nk
from npukernels import formats
from npusim.errors import InputError

VARIANTS = nk.variants("quantize")
INTEGERS = ("int8", "int4", "uint8", "uint4")
MX = {
    "mxfp8": gf.format_info_mxfp8_e4m3,
    "mxfp8_e5m2": gf.format_info_mxfp8_e5m2,
    "mxfp6": gf.format_info_mxfp6_e2m3,
    "mxfp6_e3m2": gf.format_info_mxfp6_e3m2,
    "mxfp4": gf.format_info_mxfp4_e2m1,
}
GRANULARITIES = [(None, None), (0, None), (1, None), (-1, None), (-1, 16), (1, 5), (0, 2), (None, 33)]


def tensor(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("fmt", [*INTEGERS, "fp8", "fp8_e5m2"])
def test_all_variants_agree_at_every_granularity(fmt, symmetric):
    x = tensor(3, 35, 37)
    for axis, group in GRANULARITIES:
        given = dict(axis=axis, group=group, symmetric=symmetric)
        first = nk.quantize(x, fmt, **given, variant="ref")
        back = nk.dequantize(first, variant="ref")
        for variant in VARIANTS[1:]:
            for threads in (1, 3):
                q = nk.quantize(x, fmt, **given, variant=variant, threads=threads)
                assert np.array_equal(q.codes, first.codes) and q.codes.dtype == first.codes.dtype
                assert np.array_equal(nk.dequantize(first, variant=variant, threads=threads), back)


def test_two_hundred_shapes():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.choice([0, 1, 2, 3, 7, 31, 32, 33, 64, 127], rng.integers(1, 4)))
        fmt = (*INTEGERS, "mxfp4", "mxint8", "nvfp4")[seed % 7]
        axis = int(rng.integers(-len(shape), len(shape)))
        x = tensor(*shape, seed=seed)
        outputs = [nk.quantize(x, fmt, axis=axis, variant=v) for v in VARIANTS]
        backs = [nk.dequantize(outputs[0], variant=v) for v in VARIANTS]
        assert all(np.array_equal(q.codes, outputs[0].codes) for q in outputs)
        assert all(np.array_equal(y, backs[0]) for y in backs)
        assert outputs[0].shape == shape == backs[0].shape


def test_int8_by_hand():
    """Largest 12.7 -> scale 0.1; 0.25 / 0.1 = 2.5 in float32 (0.1f > 0.1: 2.4999...) -> 2."""
    q = nk.quantize(np.array([12.7, -12.7, 0.25, 0.0], np.float32), "int8")
    assert q.codes.tolist() == [127, -127, 2, 0] and q.zero is None
    assert q.scale == np.float32(12.7) / np.float32(127)


def test_asymmetric_by_hand():
    """Range [-1, 3] in uint8: scale 4 / 255, z = rint(63.75) = 64; 0 is exactly the code 64."""
    q = nk.quantize(np.array([-1.0, 3.0, 0.0, 1.0], np.float32), "uint8", symmetric=False)
    assert q.zero.tolist() == 64 and q.codes.tolist() == [0, 255, 64, 128]
    assert nk.dequantize(q)[2] == 0
    low = nk.quantize(np.array([-1.0, 3.0], np.float32), "int8", symmetric=False)
    assert low.zero.tolist() == -64 and low.codes.tolist() == [-128, 127]


def test_mx_scale_by_hand():
    """MX v1.0, 6.3: largest 100, floor(log2) = 6, emax of e2m1 2: scale 2^4; 100 / 16 = 6.25 -> 6."""
    x = np.zeros(64, np.float32)
    x[:4] = [100, -24, 4, 40]  # / 16: 6.25, -1.5, 0.25 (tie to 0), 2.5 (tie to 2)
    q = nk.quantize(x, "mxfp4")
    assert q.scale.tolist() == [127 + 4, 0]
    assert nk.dequantize(q)[:5].tolist() == [96, -24, 0, 32, 0]
    x[0] = 127.9  # 7.99 saturates at 6: the scale rounds down
    assert nk.dequantize(nk.quantize(x, "mxfp4"))[0] == 96


def test_mxint8_by_hand():
    """Largest 1.999 -> scale 1, elements n / 64 up to 127 / 64; -128 stays unused; 0.5 / 64 ties to 0."""
    q = nk.quantize(np.array([1.999, -1.999, 1.0, 0.5 / 64, 1.5 / 64], np.float32), "mxint8")
    assert q.scale.tolist() == [127] and q.codes.tolist() == [127, -127, 64, 0, 2]
    assert nk.dequantize(q)[1] == -127 / 64


def test_nvfp4_by_hand():
    """Largest 2688 = 448 * 6 makes the tensor's scale 1. Block 0: e4m3(448); block 1: 3 / 6 = 0.5."""
    x = np.zeros(32, np.float32)
    x[[0, 1, 16, 17, 18]] = [2688, 448 * 1.25, 3, 0.75, -0.125]
    q = nk.quantize(x, "nvfp4")
    assert q.tensor_scale == 1 and q.scale.tolist() == [0x7E, 0x30]
    # 1.25 ties to 1; 0.75 / 0.5 = 1.5; -0.25 ties to -0
    assert nk.dequantize(q)[[0, 1, 16, 17, 18]].tolist() == [2688, 448, 3, 0.75, 0]


@pytest.mark.parametrize("fmt", MX)
@pytest.mark.parametrize("exponent", [-140, -126, -20, 0, 20, 126])
def test_mx_blocks_are_those_of_gfloat(fmt, exponent):
    x = np.ldexp(np.random.default_rng(2).standard_normal((20, 32)), exponent).clip(-3e38, 3e38).astype(np.float32)
    q = nk.quantize(x, fmt)
    with np.errstate(all="ignore"):
        theirs = [gfloat.quantize_block(MX[fmt], row.astype(np.float64), gfloat.compute_scale_amax) for row in x]
        expected = np.array(theirs).astype(np.float32)
    assert np.array_equal(nk.dequantize(q), expected)


@pytest.mark.parametrize("fmt", [*MX, "mxint8", "nvfp4"])
def test_blocks_along_any_axis_and_short_last_blocks(fmt):
    x = tensor(3, 70, 2)
    whole = nk.dequantize(nk.quantize(x, fmt, axis=1))
    turned = nk.dequantize(nk.quantize(np.ascontiguousarray(np.moveaxis(x, 1, -1)), fmt))
    assert np.array_equal(whole, np.moveaxis(turned, -1, 1))
    padded = np.zeros((3, 96, 2), np.float32)
    padded[:, :70] = x
    assert np.array_equal(whole, nk.dequantize(nk.quantize(padded, fmt, axis=1))[:, :70])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fmt", [*MX, "mxint8", "nvfp4"])
def test_nan_and_infinity_make_their_block_nan_and_no_other(fmt, bad):
    x = tensor(64)
    x[3] = bad
    for variant in VARIANTS:
        y = nk.dequantize(nk.quantize(x, fmt, variant=variant), variant=variant)
        block = 16 if fmt == "nvfp4" else 32
        assert np.isnan(y[:block]).all() and np.isfinite(y[block:]).all()


@pytest.mark.parametrize("fmt", [*INTEGERS, "fp8", *MX, "mxint8", "nvfp4"])
def test_zeros_and_subnormals(fmt):
    for x in (np.zeros(40, np.float32), np.full(40, 1e-44, np.float32), np.zeros(0, np.float32)):
        y = nk.dequantize(nk.quantize(x, fmt))
        assert np.isfinite(y).all() and np.abs(y - x).max(initial=0) <= 1e-44


@pytest.mark.parametrize("variant", VARIANTS)
def test_given_scales_saturate_and_take_any_number(variant):
    x = np.array([1e30, -1e30, np.inf, -np.inf, np.nan, 2.5, 3.5, -2.5], np.float32)
    q = nk.quantize(x, "int8", scale=1.0, zero=10, variant=variant)
    assert q.codes.tolist() == [127, -128, 127, -128, 10, 12, 14, 8]
    assert nk.dequantize(q, variant=variant)[5:].tolist() == [2, 4, -2]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("fmt", ["int8", "uint8"])
def test_onnx_reference_agrees(fmt, axis):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    kind = onnx.TensorProto.INT8 if fmt == "int8" else onnx.TensorProto.UINT8
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=axis)
    names = (("x", 1), ("s", 1), ("z", kind))
    inputs = [info(name, t, None) for name, t in names]
    graph = onnx.helper.make_graph([node], "g", inputs, [info("y", kind, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    x = tensor(4, 6, 5)
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.01, 2, x.shape[axis]).astype(np.float32)
    zero = rng.integers(0, 100, x.shape[axis]).astype(fmt)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero})
    assert np.array_equal(nk.quantize(x, fmt, axis=axis, scale=scale, zero=zero).codes, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial"])
@pytest.mark.parametrize("fmt", ["int8", "int4"])
def test_golden(fmt, fill, variant):
    case = nk.golden("quantize", m=6, n=75, dtype=fmt, fill=fill, seed=1)
    x, scale, zero = case.inputs
    q = nk.quantize(x, scale=scale, zero=zero, **dict(case.params), variant=variant)
    assert np.array_equal(q.codes, case.expected)
    assert len(np.unique(q.codes)) > 0.7 * 2 ** formats.FORMATS[fmt].bits
    case = nk.golden("dequantize", m=6, n=75, dtype=fmt, fill=fill, seed=1)
    codes, scale, zero = case.inputs
    assert np.array_equal(nk.dequantize(nk.Quantized(fmt, codes, scale, zero, 0), variant=variant), case.expected)


def test_packed_bytes():
    assert nk.quantize(np.array([7.0, -7.0, 1.0], np.float32), "int4").packed().tolist() == [0x97, 0x01]
    assert nk.quantize(tensor(4, 32), "mxfp6").packed().shape == (4, 24)


X = np.ones((4, 6), np.float32)
GOOD = nk.quantize(X, "int8", axis=0)
BAD = [
    (lambda: nk.quantize(X.astype(np.float64), "int8"), "x has dtype float64"),
    (lambda: nk.quantize(X, "int7"), "unknown quantised format 'int7'"),
    (lambda: nk.quantize(X, "int8", axis=2), "axis is 2"),
    (lambda: nk.quantize(X, "int8", axis=True), "axis is True"),
    (lambda: nk.quantize(X, "int8", group=0), "group is 0"),
    (lambda: nk.quantize(X, "mxfp4", group=16), "group is 16; 32 in mxfp4"),
    (lambda: nk.quantize(X, "mxfp4", scale=1.0), "derives its scales"),
    (lambda: nk.quantize(np.array(3, np.float32), "mxfp4"), "axis is -1"),
    (lambda: nk.quantize(X * np.float32(np.nan), "int8"), "x has NaN or infinity"),
    (lambda: nk.quantize(X, "int8", zero=1), "zero is given without scale"),
    (lambda: nk.quantize(X, "int8", scale=0.0), "scale is not positive"),
    (lambda: nk.quantize(X, "int8", scale="x"), "scale has dtype"),
    (lambda: nk.quantize(X, "int8", axis=0, scale=[1.0]), r"scale has shape \(1,\); expected \(4,\)"),
    (lambda: nk.quantize(X, "int4", scale=1.0, zero=8), "zero is out of the range"),
    (lambda: nk.quantize(X, "fp8", scale=1.0, zero=0), "zero has dtype"),
    (lambda: nk.dequantize(X), "q is a ndarray"),
    (lambda: nk.dequantize(nk.Quantized("int8", GOOD.codes, GOOD.scale, None, 1)), "scale has shape"),
    (lambda: nk.dequantize(nk.Quantized("int8", GOOD.codes, GOOD.codes, None, 1)), "scale has dtype int8"),
    (lambda: nk.dequantize(nk.Quantized("int4", GOOD.codes, GOOD.scale, None, 0)), "outside its 4 bits"),
    (lambda: nk.dequantize(GOOD, out=np.zeros((4, 5), np.float32)), "out has shape"),
    (lambda: nk.dequantize(GOOD, variant="fast"), "unknown dequantize variant"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
