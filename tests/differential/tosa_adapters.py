"""How the operators of TOSA conformance tests are computed by our kernels: one function an operator."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import npukernels as nk
from npukernels import formats
from npukernels.cases import gemm_bound
from npukernels.cases_quant import _product as blocks_bound
from npukernels.int8_packing import prepack_int8
from npukernels.qgemm import ZeroPoints
from npukernels.quantized import Quantized
from npukernels.registry import select
from npukernels.rescale import Rescale
from tests.differential.onnx_adapters import integer_product

# dtypes of TOSA that are float formats of ours.
FLOATS = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "FP8E4M3": "fp8", "FP8E5M2": "fp8_e5m2"}
# Elements of block-scaled tensors, and the format that they are with scales.
ELEMENTS = {
    "FP8E4M3": ("fp8", "mxfp8"),
    "FP8E5M2": ("fp8_e5m2", "mxfp8_e5m2"),
    "FP6E2M3": ("fp6", "mxfp6"),
    "FP6E3M2": ("fp6_e3m2", "mxfp6_e3m2"),
    "FP4E2M1": ("fp4", "mxfp4"),
    "MXINT8": ("int8", "mxint8"),
}
# Results of float products: their unit roundoff and half their smallest number, beyond those of float32 sums.
RESULTS = {"FP32": (0.0, 0.0), "FP16": (2.0**-11, 2.0**-25)}
PLAIN = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "FP32": np.float32, "FP16": np.float16}


class Test:
    """One generated test: its operands in order, and what the reference model made of them."""

    __test__ = False

    def __init__(self, file: Path) -> None:
        self.folder, self.about = file.parent, json.loads(file.read_text())
        self.operator = self.about["test_details"]["operator"]
        tensors = self.about["meta"]["data_gen"]["tensors"]
        self.tensors = sorted(tensors.items(), key=lambda item: item[1]["input_pos"])
        self.outputs = self.about["test_details"]["output_types"]
        self.stored = dict(zip(self.about["ifm_name"], self.about["ifm_file"], strict=True))

    def dtype(self, position: int) -> str:
        return self.tensors[position][1]["data_type"]

    def operand(self, position: int) -> np.ndarray:
        name, about = self.tensors[position]
        if name in self.stored and (self.folder / self.stored[name]).exists():
            return elements(np.load(self.folder / self.stored[name], allow_pickle=False), about)
        return elements(np.frombuffer(bytes(self.constants().get(name, [])), np.uint8), about)

    def constants(self) -> dict[str, list[int]]:
        """Bytes of constant operands, which only the JSON form of the operator holds."""
        file = self.folder / "test.json"
        if not file.exists():
            pytest.skip("a constant operand is not stored: test.json is missing")
        tensors = json.loads(file.read_text())["regions"][0]["blocks"][0]["tensors"]
        return {tensor["name"]: tensor["data"] for tensor in tensors if tensor["data"]}

    def fixed(self, position: int) -> np.ndarray:
        """The value of an operand that the description itself holds; multipliers and shifts are so."""
        about = self.tensors[position][1]
        if "fixed_data_info" not in about:
            return self.operand(position)
        return np.array(about["fixed_data_info"]["data"], np.float64).astype(np.int64)

    def result(self, index: int = 0) -> np.ndarray:
        file = self.folder / self.about["ofm_file"][index]
        if not file.exists():
            pytest.skip("the reference model has not run")
        shape = self.about["test_details"]["output_shapes"][index]
        return elements(np.load(file, allow_pickle=False), {"data_type": self.outputs[index], "shape": shape})


def elements(raw: np.ndarray, about: dict) -> np.ndarray:
    """An operand as our kernels take it: numbers, or one code an element."""
    dtype, shape = about["data_type"], about["shape"]
    if dtype in PLAIN and raw.dtype == np.uint8 and PLAIN[dtype] != np.uint8:
        raw = raw.view(PLAIN[dtype])
    if dtype in ELEMENTS or dtype == "FP8UE8M0":
        bits = 8 if dtype in ("FP8UE8M0", "MXINT8") else formats.get_format(ELEMENTS[dtype][0]).bits
        raw = np.ascontiguousarray(raw).view(np.uint8)
        if bits < 8:
            raw = formats.unpack(raw.reshape(*shape[:-1], -1), bits, shape[-1])
        elif dtype == "MXINT8":
            raw = raw.view(np.int8)
    elif dtype == "BF16":
        raw = raw.view(np.uint16)
    if raw.size != int(np.prod(shape)):
        pytest.skip("an operand is not stored")
    return raw.reshape(shape)


def matmul(test: Test) -> None:
    source, other, target = test.dtype(0), test.dtype(1), test.outputs[0]
    a, b, expected = test.operand(0), test.operand(1), test.result()
    if (source, target) == ("INT8", "INT32"):
        zeros = {"a_zero": int(test.fixed(2)[0]), "b_zero": int(test.fixed(3)[0])}
        np.testing.assert_array_equal(integer_product(a, b, **zeros), expected)
    elif source in FLOATS and target in RESULTS:
        unit, least = RESULTS[target]
        for left, right, theirs in zip(a, b, expected, strict=True):
            x, w = numbers(left, source), numbers(right, other)
            with np.errstate(invalid="ignore"):  # infinite operands have no bound
                exact, bound = x.astype(float) @ w, gemm_bound(x, w)
                bound = bound + (np.abs(exact) + bound) * unit + least
                order = x.shape[1] * max(unit, 2.0**-24) * (np.abs(x) @ np.abs(w)) + least
            fine = np.isfinite(theirs)
            for variant in nk.variants("block_gemm" if source.startswith("FP8") else "gemm"):
                ours = float_product(left, right, (source, other), expected.dtype, variant).astype(float)
                np.testing.assert_array_equal(np.isfinite(ours), fine, err_msg=variant)
                assert (np.abs(ours - exact) <= bound)[fine].all(), variant
                # The stored result may err by its own order of summation, in its own format.
                assert (np.abs(ours - theirs.astype(float)) <= bound + 2 * order)[fine].all(), variant
    else:
        pytest.skip(f"no kernel multiplies {source} to {target}")


def numbers(operand: np.ndarray, dtype: str) -> np.ndarray:
    return operand if dtype == "FP32" else formats.decode(operand, FLOATS[dtype])


def float_product(a: np.ndarray, b: np.ndarray, dtypes: tuple[str, str], out: np.dtype, variant: str) -> np.ndarray:
    """``a b``; 8-bit floats are block-scaled ones whose scales are 1, and their result is rounded afterwards."""
    if dtypes[0].startswith("FP8"):
        fmt, b_fmt = (FLOATS[dtype] for dtype in dtypes)
        one = np.ones((1, 1), np.float32)
        return nk.block_gemm(a, b, one, one.copy(), fmt=fmt, b_fmt=b_fmt, variant=variant).astype(out)
    return nk.gemm(a, b, out=np.empty((len(a), b.shape[1]), out), variant=variant)


def cast(test: Test) -> None:
    """TOSA's casts to 8 bits do not saturate: what is too large is infinite, or NaN, whose sign it leaves open."""
    source, target = test.dtype(0), test.outputs[0]
    if source not in FLOATS or target not in FLOATS:
        pytest.skip(f"no kernel casts {source} to {target}")
    x, expected = test.operand(0), test.result()
    nothing = np.isnan(numbers(expected, target))
    for variant in nk.variants("cast"):
        ours = nk.cast(x, FLOATS[target], source=FLOATS[source], saturate=False, variant=variant)
        np.testing.assert_array_equal(np.isnan(numbers(ours, target)), nothing, err_msg=variant)
        codes = (y.view(f"u{y.itemsize}")[~nothing] for y in (ours, expected))
        np.testing.assert_array_equal(*codes, err_msg=variant)


def rescale(test: Test) -> None:
    """To 8 bits by 32-bit multipliers: the end of ``qgemm``, reached with the integers as its bias."""
    name = test.folder.name
    found = re.search(r"_i(8|16|32)_outi8_sc1_rm[SD]_pc[01]_iu([01])_ou([01])$", name)
    if not found:
        pytest.skip("qgemm requantises to 8 bits with 32-bit multipliers only")
    multiplier, shift, in_zero, out_zero = (test.fixed(position) for position in range(1, 5))
    bits, wraps, signs = int(found[1]), found[2] == "1", "U" if found[3] == "1" else "S"
    x = test.operand(0).astype(np.int64) - in_zero[0]
    if wraps:  # stored as signed
        x = (test.operand(0).astype(np.int64) & ((1 << bits) - 1)) - (in_zero[0] & ((1 << bits) - 1))
    kind = np.dtype(np.uint8 if signs == "U" else np.int8)
    expected = test.result().view(kind)
    flat = x.reshape(-1)
    per_element = [
        np.broadcast_to(v if x.ndim else v[0], x.shape).reshape(-1).astype(np.int32) for v in (multiplier, shift)
    ]
    how = Rescale(
        f"NPK_QOUT_TOSA_{signs}8", bias=flat.astype(np.int32), scale=per_element[0], shift=per_element[1],
        double_round="_rmD_" in name, zero=int(out_zero.astype(kind)[0]),
    )  # fmt: skip
    one, none = np.zeros((1, 1), np.int8), prepack_int8(np.zeros((1, flat.size), np.int8))
    for variant in nk.variants("qgemm"):
        out = np.empty((1, flat.size), kind)
        select("qgemm", variant).run(one, none, ZeroPoints(0, None), how, out, 1)
        np.testing.assert_array_equal(out.reshape(x.shape), expected, err_msg=variant)


def matmul_block_scaled(test: Test) -> None:
    """``a (…, m, k) · b (…, n, k)ᵀ``; one batch of b serves all of a where b has one."""
    (a, a_scale, b, b_scale), expected = (test.operand(i) for i in range(4)), test.result()
    element = ELEMENTS[test.dtype(0)][0]
    # MXINT8 counts in 64ths (OCP MX v1.0, 5.3.4); 2^-133 is still a float32.
    unit = np.float32(2.0**-6 if element == "int8" else 1.0)
    a_scale, b_scale = (formats.decode(scale, "e8m0") * unit for scale in (a_scale, b_scale))
    for index in range(len(a)):
        other = index if len(b) > 1 else 0
        left = np.repeat(a_scale[index].astype(float), 32, 1) * formats.decode(a[index], element)
        right = np.repeat(b_scale[other].astype(float), 32, 1) * formats.decode(b[other], element)
        exact, bound = blocks_bound(left, right.T, left.shape[1], 32, False)
        fine = np.isfinite(expected[index])
        for variant in nk.variants("block_gemm"):
            ours = nk.block_gemm(
                a[index], np.ascontiguousarray(b[other].T), a_scale[index], np.ascontiguousarray(b_scale[other].T),
                fmt=element, variant=variant,
            ).astype(float)  # fmt: skip
            np.testing.assert_array_equal(np.isfinite(ours), fine, err_msg=variant)
            assert (np.abs(ours - exact) <= bound)[fine].all(), variant
            # The stored result may err by its own order of summation.
            order = left.shape[1] * 2.0**-24 * (np.abs(left) @ np.abs(right).T)
            assert (np.abs(ours - expected[index]) <= bound + 2 * order)[fine].all(), variant


def cast_to_block_scaled(test: Test) -> None:
    """Codes under TOSA's scales. Its rule takes the scale that saturates nothing, OCP MX v1.0 (6.3), ours, the power
    of two below: ours is the same or half of it."""  # fmt: skip
    x, codes, scale = test.operand(0), test.result(0), test.result(1)
    element, fmt = ELEMENTS[test.outputs[0]]
    unit = 64.0 if element == "int8" else 1.0
    wanted = x.astype(float) / np.repeat(formats.decode(scale, "e8m0").astype(float), 32, -1) * unit
    # Conformance is one unit in the last place; the reference model uses it up for MXINT8 next to zero.
    sure = np.abs(wanted) > 2.0**-64 if element == "int8" else np.full(x.shape, True)
    np.testing.assert_array_equal(formats.encode(wanted, element, True)[sure], codes[sure])
    for variant in nk.variants("quantize"):
        ours = nk.quantize(x, fmt, variant=variant)
        assert set(np.unique(scale.astype(int) - ours.scale)) <= {0, 1}, variant
        same = np.repeat(ours.scale == scale, 32, -1) & sure
        # OCP MX v1.0 leaves -128 of MXINT8 to the implementation: ours is symmetric.
        theirs = np.maximum(codes, -127) if element == "int8" else codes
        np.testing.assert_array_equal(ours.codes[same], theirs[same], err_msg=variant)


def cast_from_block_scaled(test: Test) -> None:
    codes, scale, expected = test.operand(0), test.operand(1), test.result()
    fmt = ELEMENTS[test.dtype(0)][1]
    for variant in nk.variants("dequantize"):
        ours = nk.dequantize(Quantized(fmt, codes, scale, None, codes.ndim - 1, 32), variant=variant)
        wanted = expected if expected.dtype == np.float32 else expected.astype(np.float32)
        np.testing.assert_array_equal(ours, wanted, err_msg=variant)


OPERATORS = {
    "MATMUL": matmul,
    "CAST": cast,
    "RESCALE": rescale,
    "MATMUL_T_BLOCK_SCALED": matmul_block_scaled,
    "CAST_TO_BLOCK_SCALED": cast_to_block_scaled,
    "CAST_FROM_BLOCK_SCALED": cast_from_block_scaled,
}
