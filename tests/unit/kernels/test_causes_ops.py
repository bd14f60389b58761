"""Does a mistake that only one op can have get its name? Each is made here by hand, apart from the rules."""

import dataclasses

import numpy as np
import pytest

import npukernels as nk
from npukernels import causes_ops, formats

CASES = {
    "softmax": nk.golden("softmax", rows=16, n=16),
    "layernorm": nk.golden("layernorm", rows=16, n=64),
    "rmsnorm": nk.golden("rmsnorm", rows=16, n=64),
    "rope": nk.golden("rope", tokens=8, heads=2, dim=16),
    "silu": nk.golden("silu", n=256),
    "swiglu": nk.golden("swiglu", n=256),
    "cast": nk.golden("cast", dtype="fp8", fill="adversarial", m=16, n=64),
    "quantize": nk.golden("quantize", dtype="int8", m=16, n=64),
    "qgemm": nk.golden("qgemm", dtype="int8", fill="adversarial", m=16, n=24, k=40),
    "requantised": nk.golden("qgemm", dtype="int8", m=16, n=24, k=200, requantised=1),
    "requantised, ties": nk.golden("qgemm", dtype="int8", fill="integer", m=16, n=24, k=400, requantised=1),
    "weight_gemm": nk.golden("weight_gemm", dtype="int4", m=8, n=24, k=96, group=32),
    "asymmetric": nk.golden("weight_gemm", dtype="int4", m=8, n=24, k=96, group=32, asymmetric=1),
    "block_gemm": nk.golden("block_gemm", dtype="fp8", m=8, n=24, k=96),
    "block_gemm, mxfp4": nk.golden("block_gemm", dtype="fp4", m=8, n=24, k=96),
    "block_gemm, nvfp4": nk.golden("block_gemm", dtype="nvfp4", m=8, n=24, k=96),
    "topk": nk.golden("topk", rows=8, n=32, k=4),
    "attention": nk.golden("attention", heads=4, kv_heads=2, seq_q=8, seq_kv=16, head_dim=16, v_head_dim=16),
    "attention, int8": nk.golden(
        "attention", dtype="int8", heads=2, seq_q=4, seq_kv=8, head_dim=16, v_head_dim=16, causal=1, window=3
    ),
}


def _judge(name, output):
    case = CASES[name]
    found = nk.check(np.ascontiguousarray(output), case)
    assert found.verdict == "FAIL"
    assert case.repro in str(found)
    return found.cause


def _float32(x):
    return x.astype(np.float32)


def _wide(name):
    return [x.astype(np.float64) for x in CASES[name].inputs]


def test_softmax():
    (x,) = _wide("softmax")
    power = np.exp(x - x.max(axis=1, keepdims=True))
    assert _judge("softmax", _float32(power)).startswith("wrong function: exp(x - max) without")
    assert _judge("softmax", _float32(np.exp2(x) / np.exp2(x).sum(1, keepdims=True))).startswith(
        "wrong function: power"
    )
    assert _judge("softmax", _float32(np.exp(x) / np.exp(x).sum(0))).startswith("wrong axis")
    assert _judge("softmax", nk.softmax(CASES["softmax"].inputs[0], log=True)).startswith("wrong function: the log")


def test_layernorm_and_rmsnorm():
    x, w, b = _wide("layernorm")
    d, root = x - x.mean(1, keepdims=True), np.sqrt(x.var(1, keepdims=True) + 1e-5)
    assert _judge("layernorm", _float32(d / root + b)).startswith("missing weight: the")
    assert _judge("layernorm", _float32(d / root)).startswith("missing weight and bias")
    sample = np.sqrt(x.var(1, ddof=1, keepdims=True) + 1e-5)
    assert "n - 1" in _judge("layernorm", _float32(d / sample * w + b))
    assert "0.001" in _judge("layernorm", _float32(d / np.sqrt(x.var(1, keepdims=True) + 1e-3) * w + b))
    assert "rmsnorm" in _judge("layernorm", _float32(x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * w + b))
    x, w = _wide("rmsnorm")
    square = (x**2).mean(1, keepdims=True)
    assert _judge("rmsnorm", _float32(x / np.sqrt(square + 1e-6))).startswith("missing weight")
    assert "1 + weight" in _judge("rmsnorm", _float32(x / np.sqrt(square + 1e-6) * (1 + w)))
    assert "layernorm" in _judge("rmsnorm", nk.layernorm(*CASES["rmsnorm"].inputs, eps=1e-6))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"causal": True}, "wrong mask: causal"),
        ({"scale": 1.0}, "missing scale: of the scores"),
        ({"scale": 1 / 16}, "wrong scale"),
    ],
)
def test_attention_options(options, cause):
    assert _judge("attention", nk.attention(*CASES["attention"].inputs, **options)).startswith(cause)


def test_attention_operands():
    q, k, v = CASES["attention"].inputs
    turned = [0, 1, 0, 1]
    assert "modulo" in _judge("attention", nk.attention(q, k[:, turned], v[:, turned]))
    assert "keys and values" in _judge("attention", nk.attention(q, v, k))
    assert _judge("attention", nk.attention(q, k[:, :, :-1], v[:, :, :-1])) == "missing terms: the last key"
    q, k, v, k_scale, v_scale = CASES["attention, int8"].inputs
    for scales, options, cause in [
        ((None, v_scale), {}, "missing scale: of the keys"),
        ((k_scale, None), {}, "missing scale: of the values"),
        ((k_scale, v_scale), {"window": None}, "no window"),
        ((k_scale, v_scale), {"window": 4}, "one key too long"),
        ((k_scale, v_scale), {"window": 2}, "one key too short"),
    ]:
        got = nk.attention(q, k, v, *scales, **{"causal": True, "window": 3, **options})
        assert cause in _judge("attention, int8", got)


def test_rope():
    x, at, c, s = CASES["rope"].inputs
    assert _judge("rope", nk.rope(x, at, c, s, interleaved=True)).startswith("wrong pairs")
    assert _judge("rope", nk.rope(x, at, c, -s)).startswith("sign: rotated")
    assert _judge("rope", x).startswith("not applied")
    assert "cosines and sines" in _judge("rope", nk.rope(x, at, s, c))


def test_elements():
    x = CASES["silu"].inputs[0]
    assert _judge("silu", nk.sigmoid(x)) == "wrong function: sigmoid"
    assert _judge("silu", nk.gelu(x)) == "wrong function: gelu"
    assert _judge("silu", np.maximum(x, 0)) == "wrong function: relu"
    assert _judge("silu", x).startswith("not applied")
    gate, up = CASES["swiglu"].inputs
    assert "silu(up) gate" in _judge("swiglu", nk.swiglu(up, gate))
    assert "silu(gate)" in _judge("swiglu", nk.silu(gate))


def test_casts():
    x = CASES["cast"].inputs[0]
    near = formats.encode(x, "fp8")
    beyond = np.abs(formats.decode(near, "fp8")) > np.abs(x)
    assert "towards zero" in _judge("cast", np.where(beyond, near - 1, near).astype(np.uint8))
    assert _judge("cast", formats.encode(x, "fp8_e5m2")) == "wrong format: codes of fp8_e5m2"
    flushed = np.where(near & 0x78, near, near & 0x80).astype(np.uint8)
    assert _judge("cast", flushed).startswith("flushed")


def test_quantised():
    x, scale, zero = (v.astype(np.float64) for v in CASES["quantize"].inputs)
    steps, z = x / scale[:, None], zero[:, None]
    for codes, cause in [
        (np.trunc(steps) + z, "rounding: towards zero"),
        (np.rint(steps), "missing zero point"),
        (np.rint(steps) - z, "wrong zero point"),
        (np.rint(x / scale[0]) + z, "wrong scale: that of the first row"),
        (np.rint(x * scale[:, None]) + z, "wrong scale: multiplied"),
    ]:
        assert _judge("quantize", np.clip(codes, -128, 127).astype(np.int8)).startswith(cause)
    a, b = (v.astype(np.int64) for v in CASES["qgemm"].inputs)
    assert _judge("qgemm", ((a % 256) @ b).astype(np.int32)) == "wrong sign: input 0 is read as unsigned"
    assert _judge("qgemm", (a @ (b % 256)).astype(np.int32)) == "wrong sign: input 1 is read as unsigned"


def test_topk():
    x = CASES["topk"].inputs[0]
    assert "smallest" in _judge("topk", np.argsort(x, axis=1, kind="stable")[:, :4])
    assert "magnitude" in _judge("topk", np.argsort(-np.abs(x), axis=1, kind="stable")[:, :4])


def test_a_tile_inside_is_named():
    case = nk.golden("gemm", m=33, n=47, k=9)
    got = nk.gemm(*case.inputs)
    got[8:16, 16:24] = 0
    cause = nk.check(got, case).cause
    assert (
        cause == "inner tile: only rows 8 to 15 and columns 16 to 23 are wrong; all its elements are zero: not written"
    )
    got = nk.gemm(*case.inputs)
    got[::11, ::13] += 0.01
    assert nk.check(got, case).cause.startswith("unexplained: only 12 of 1551 elements")


@pytest.mark.parametrize("name", CASES)
def test_a_correct_output_is_no_mistake_and_noise_is_none_of_these(name):
    case = CASES[name]
    assert causes_ops.guess(case, case.expected, 4.0) == ""
    noise = np.random.default_rng(0).integers(1, 9, case.expected.shape) * (1 + np.abs(case.expected))
    assert causes_ops.guess(case, case.expected + noise, 4.0) == ""


def test_operands_that_do_not_fit_are_no_crash():
    case = CASES["layernorm"]
    for inputs in ((), case.inputs[:1], (case.inputs[1],) * 3):
        other = dataclasses.replace(case, inputs=inputs)
        assert causes_ops.guess(other, case.expected + 1, 4.0) == ""


def _int8(x):
    return np.clip(x, -128, 127).astype(np.int8)


def test_requantised_products():
    a, b = (x.astype(int) for x in CASES["requantised"].inputs[:2])
    scale = CASES["requantised"].inputs[2].astype(np.float64)
    right = (a + 3) @ b  # zero points -3 and 5
    for output, cause in (
        (_int8(np.rint(a @ b * scale) + 5), "missing zero point: of input 0"),
        (_int8(np.rint((a - 3) @ b * scale) + 5), "wrong zero point: that of input 0 is added"),
        (_int8(np.rint(right * scale)), "missing zero point: of the output"),
        (_int8(np.rint(right * scale) - 5), "wrong zero point: that of the output"),
        (_int8(np.rint(right * scale[0]) + 5), "wrong scale: that of the first column"),
        (_int8(np.floor(right * scale) + 5), "rounding: down"),
        (_int8(np.trunc(right * scale) + 5), "rounding: towards zero"),
        ((np.rint(right * scale) + 5).astype(int).astype(np.int8), "non-saturating cast"),
    ):
        assert _judge("requantised", output).startswith(cause), cause


def test_ties_of_requantised_products():
    a, b = (x.astype(int) for x in CASES["requantised, ties"].inputs[:2])
    exact = (a + 3) @ b * CASES["requantised, ties"].inputs[2].astype(np.float64)
    away = np.copysign(np.floor(np.abs(exact) + 0.5), exact)
    assert "ties" in _judge("requantised, ties", _int8(np.floor(exact + 0.5) + 5))
    assert "ties" in _judge("requantised, ties", _int8(away + 5))


def _by_columns(x, w):
    return _float32(sum(np.outer(x[:, p], w[p]) for p in range(x.shape[1])))


def test_weight_gemm():
    x, q, scale = _wide("weight_gemm")
    spread = np.repeat(scale, 32, axis=0)
    for q_, scale_, cause in (
        (q, 1, "missing scale: of the weights"),
        (q, scale[0], "wrong scale: that of the first group"),
        (q, np.repeat(scale[[1, 2, 0]], 32, axis=0), "wrong scale: that of the next group"),
        (q, np.repeat(scale[[2, 0, 1]], 32, axis=0), "wrong scale: that of the group before"),
        (q, spread[:, [0]], "wrong scale: that of the first column"),
        (np.where(q < 0, q + 16, q), spread, "wrong sign: weights are read as unsigned"),
        (q + 8, spread, "missing zero point: weights are stored with 8 added"),
        (q.reshape(48, 2, 24)[:, ::-1].reshape(96, 24), spread, "wrong order: neighbours along k"),
    ):
        assert _judge("weight_gemm", _by_columns(x, q_ * scale_)).startswith(cause)


def test_asymmetric_weights():
    x, q, scale, zero = _wide("asymmetric")
    spread, zeros = np.repeat(scale, 32, axis=0), np.repeat(zero, 32, axis=0)
    for w, cause in (
        (q * spread, "missing zero point: of the weights"),
        ((q + zeros) * spread, "wrong zero point: added"),
        (q * spread - zeros, "wrong zero point: subtracted after"),
        (q - zeros, "missing scale: of the weights"),
    ):
        assert _judge("asymmetric", _by_columns(x, w)).startswith(cause)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("block_gemm")])
def test_block_gemm(name):
    a, b, a_scale, b_scale = CASES[name].inputs
    element, kind, block = ("fp4", "fp8", 16) if "nvfp4" in name else ("fp4" if "fp4" in name else "fp8", "e8m0", 32)
    rows, cols = (formats.decode(x, kind).astype(np.float64) for x in (a_scale, b_scale))
    x, w = (formats.decode(codes, element).astype(np.float64) for codes in (a, b))
    across, down = np.repeat(rows, block, axis=1), np.repeat(cols, block, axis=0)
    order = [*range(1, len(cols)), 0]
    for left, right, cause in (
        (x, w * down, "missing scale: of input 0"),
        (x * across, w, "missing scale: of input 1"),
        (x, w, "missing scale: of both"),
        (x * rows[:, [0]], w * cols[0], "wrong scale: that of the first block"),
        (x * np.repeat(rows[:, order], block, axis=1), w * down, "wrong scale: input 0 has that of the next"),
        (x * across, w * np.repeat(cols[order], block, axis=0), "wrong scale: input 1 has that of the next"),
    ):
        assert _judge(name, _by_columns(left, right)).startswith(cause)
    if element == "fp4":
        turned = x.reshape(8, 48, 2)[:, :, ::-1].reshape(8, 96)
        assert _judge(name, _by_columns(turned * across, w * down)).startswith("wrong order: neighbours of input 0")
    else:
        x, w = (formats.decode(codes, "fp8_e5m2").astype(np.float64) for codes in (a, b))
        assert _judge(name, _by_columns(x * across, w * down)).startswith("wrong format: codes are read as fp8_e5m2")
