"""ONNX operators by the public functions of npukernels: one small function an operator.

An adapter takes the operator's inputs (None where one is left out) and its attributes, and returns its outputs (None
for one that is no kernel's work, such as the concatenated cache). It translates layouts and names and computes
nothing that a kernel of ours computes. ``Unsupported`` says what an operator asks for that the kernel does not have.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


class Unsupported(Exception):
    """The case needs what the kernel does not offer; the text says what."""


@dataclass(frozen=True)
class Adapter:
    """``run(inputs, attributes)``; ``needs`` are public functions as ``module.function`` of npukernels."""

    needs: tuple[str, ...]
    run: Callable

    def missing(self):
        """Names in ``needs`` that do not exist."""
        return [name for name in self.needs if find(name) is None]


ADAPTERS: dict[str, Adapter] = {}


def adapter(op_type, *needs):
    def register(function):
        ADAPTERS[op_type] = Adapter(needs, function)
        return function

    return register


def find(name):
    """The public function ``module.function``, or None."""
    module, _, function = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"npukernels.{module}"), function, None)
    except ModuleNotFoundError:
        return None


def like(x, dtype):
    """``x`` in the dtype of a stored output; exact, or the one rounding that output asks for."""
    return x.astype(dtype, copy=False)


def number(x, default):
    """A scale or zero point that must be one number."""
    if x is None:
        return default
    if x.size != 1:
        raise Unsupported("a vector where the kernel takes one number")
    return x.reshape(()).item()


# -- matrix products ---------------------------------------------------------------------------------------------


def product(a, b):
    """``numpy.matmul`` rules of dimensions over 2-D products."""
    gemm = find("matmul.gemm")
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = np.broadcast_to(left, (*batch, *left.shape[-2:]))
    right = np.broadcast_to(right, (*batch, *right.shape[-2:]))
    out = np.empty((*batch, left.shape[-2], right.shape[-1]), np.float32)
    for index in np.ndindex(*batch):
        out[index] = gemm(left[index], right[index])
    out = out[..., 0, :] if a.ndim == 1 else out
    return out[..., 0] if b.ndim == 1 else out


@adapter("MatMul", "matmul.gemm")
def matmul(inputs, attributes):
    return [product(*inputs)]


@adapter("Gemm", "matmul.gemm")
def gemm(inputs, attributes):
    a, b, c = (*inputs, None)[:3]
    a = a.T if attributes.get("transA") else a
    b = b.T if attributes.get("transB") else b
    y = np.float32(attributes.get("alpha", 1.0)) * product(a, b)
    return [y if c is None else y + np.float32(attributes.get("beta", 1.0)) * c]


def integer_product(a, b, **arguments):
    qgemm = find("qgemm.qgemm")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left, right = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    parts = [qgemm(left[index], right[index], **arguments) for index in np.ndindex(*batch)]
    return np.array(parts).reshape(*batch, *parts[0].shape)


@adapter("MatMulInteger", "qgemm.qgemm")
def matmul_integer(inputs, attributes):
    a, b, a_zero, b_zero = (*inputs, None, None)[:4]
    return [integer_product(a, b, a_zero=number(a_zero, 0), b_zero=number(b_zero, 0))]


@adapter("QLinearMatMul", "qgemm.qgemm")
def qlinear_matmul(inputs, attributes):
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = inputs
    scales = {"a_scale": number(a_scale, 1), "b_scale": number(b_scale, 1), "out_scale": number(scale, 1)}
    zeros = {"a_zero": number(a_zero, 0), "b_zero": number(b_zero, 0), "out_zero": number(zero, 0)}
    return [integer_product(a, b, **scales, **zeros, out_dtype=zero.dtype.name)]


# -- quantisation ------------------------------------------------------------------------------------------------

# Formats of quantised ONNX tensors by the name of their NumPy or ml_dtypes dtype.
QUANTISED = {
    "int8": "int8",
    "uint8": "uint8",
    "int4": "int4",
    "uint4": "uint4",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8_e5m2",
}


def granularity(x, scale, attributes):
    """``axis`` and ``group`` of quantize and dequantize."""
    if scale.size == 1 and not attributes.get("block_size"):
        return {"axis": None, "group": None}
    return {"axis": attributes.get("axis", 1) % x.ndim, "group": attributes.get("block_size") or None}


def quantised_format(dtype):
    if dtype.name not in QUANTISED:
        raise Unsupported(f"{dtype.name} codes")
    return QUANTISED[dtype.name]


@adapter("QuantizeLinear", "quantized.quantize")
def quantize_linear(inputs, attributes):
    x, scale, zero = (*inputs, None)[:3]
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if attributes.get("output_dtype") and zero is None:
        import onnx

        dtype = onnx.helper.tensor_dtype_to_np_dtype(attributes["output_dtype"])
    fmt, where = quantised_format(dtype), granularity(x, scale, attributes)
    zeros = None if zero is None or fmt.startswith("fp8") else np.asarray(zero, dtype=np.int32)
    if where["axis"] is None:
        scale, zeros = scale.reshape(()), None if zeros is None else zeros.reshape(())
    q = find("quantized.quantize")(x.astype(np.float32), fmt, scale=scale.astype(np.float32), zero=zeros, **where)
    return [codes_as(q.codes, dtype)]


def codes_as(codes, dtype):
    """Codes of 8 bits are the element's bits, integers of 4 bits its value."""
    return codes.view(dtype) if dtype.name.startswith("float8") else codes.astype(dtype)


@adapter("DequantizeLinear", "quantized.dequantize")
def dequantize_linear(inputs, attributes):
    codes, scale, zero = (*inputs, None)[:3]
    fmt, where = quantised_format(codes.dtype), granularity(codes, scale, attributes)
    carrier = np.uint8 if fmt.startswith(("fp8", "u")) else np.int8
    plain = codes.view(np.uint8) if fmt.startswith("fp8") else codes.astype(carrier)
    zeros = None if zero is None or fmt.startswith("fp8") else np.asarray(zero, dtype=np.int32)
    scales = scale.astype(np.float32)
    if where["axis"] is None:
        scales, zeros = scales.reshape(()), None if zeros is None else zeros.reshape(())
    q = find("quantized.Quantized")(fmt, plain, scales, zeros, **where)
    return [like(find("quantized.dequantize")(q), scale.dtype)]


# -- rows --------------------------------------------------------------------------------------------------------


def as_rows(x, axis):
    """The axes from ``axis`` on as one."""
    axis %= x.ndim
    return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))


@adapter("LayerNormalization", "norms.layernorm")
def layer_normalization(inputs, attributes):
    x, scale, bias = (*inputs, None)[:3]
    rows = as_rows(x, attributes.get("axis", -1))
    parts = (None if v is None else np.ravel(v) for v in (scale, bias))
    y = find("norms.layernorm")(rows, *parts, eps=attributes.get("epsilon", 1e-5))
    return [y.reshape(x.shape), None, None]  # our kernel returns neither mean nor inverse deviation


@adapter("RMSNormalization", "norms.rmsnorm")
def rms_normalization(inputs, attributes):
    x, scale = inputs
    rows = as_rows(x, attributes.get("axis", -1))
    return [find("norms.rmsnorm")(rows, np.ravel(scale), eps=attributes.get("epsilon", 1e-5)).reshape(x.shape)]


@adapter("Softmax", "norms.softmax")
def softmax(inputs, attributes):
    (x,) = inputs
    axis = attributes.get("axis", -1)
    return [np.moveaxis(find("norms.softmax")(np.ascontiguousarray(np.moveaxis(x, axis, -1))), -1, axis)]


@adapter("Gelu", "activations.gelu")
def gelu(inputs, attributes):
    return [find("activations.gelu")(inputs[0], approximate=attributes.get("approximate", "none"))]


@adapter("Swish", "activations.silu")
def swish(inputs, attributes):
    """``x sigmoid(alpha x) = silu(alpha x) / alpha``."""
    alpha = np.float32(attributes.get("alpha", 1.0))
    return [find("activations.silu")(inputs[0] * alpha) / alpha]


@adapter("RotaryEmbedding", "rotary.rope")
def rotary_embedding(inputs, attributes):
    x, cosines, sines, positions = (*inputs, None)[:4]
    if x.ndim == 3:
        batch, length, hidden = x.shape
        heads = attributes["num_heads"]
        tokens = x.reshape(batch * length, heads, hidden // heads)
    else:
        batch, heads, length, size = x.shape
        tokens = x.transpose(0, 2, 1, 3).reshape(batch * length, heads, size)
    if positions is None:  # the tables hold a row for each token
        cosines, sines = (table.reshape(batch * length, table.shape[-1]) for table in (cosines, sines))
        positions = np.arange(batch * length)
    half = (attributes.get("rotary_embedding_dim") or tokens.shape[-1]) // 2
    y = find("rotary.rope")(
        np.ascontiguousarray(tokens),
        positions.reshape(-1).astype(np.int64),
        *(np.ascontiguousarray(table[:, :half]) for table in (cosines, sines)),
        interleaved=bool(attributes.get("interleaved", 0)),
    )
    if x.ndim == 3:
        return [y.reshape(x.shape)]
    return [y.reshape(batch, length, heads, size).transpose(0, 2, 1, 3)]


# -- attention -----------------------------------------------------------------------------------------------------


ATTENTION_ATTRIBUTES = {"is_causal", "scale", "q_num_heads", "kv_num_heads", "left_window_size", "softmax_precision"}


@adapter("Attention", "attention.attention")
def attention(inputs, attributes):
    q, k, v, mask, past_k, past_v, lengths = (*inputs, *[None] * 7)[:7]
    neutral = {"softcap": 0, "qk_matmul_output_mode": 0, "right_window_size": -1}
    asked = {key for key, value in attributes.items() if value != neutral.get(key)} - ATTENTION_ATTRIBUTES
    if mask is not None or asked:
        raise Unsupported("an arbitrary mask" if mask is not None else ", ".join(sorted(asked)))
    flat = q.ndim == 3
    if flat:
        groups = attributes["q_num_heads"], attributes["kv_num_heads"], attributes["kv_num_heads"]
        q, k, v = (split_heads(x, heads) for x, heads in zip((q, k, v), groups, strict=True))
    past = 0 if past_k is None else past_k.shape[2]
    if past_k is not None:
        k, v = np.concatenate([past_k, k], axis=2), np.concatenate([past_v, v], axis=2)
    options = {"causal": bool(attributes.get("is_causal", 0)), "scale": attributes.get("scale")}
    left = attributes.get("left_window_size", -1)
    if left >= 0:
        options["window"] = left + 1  # ours counts the query's own position
    parts = [one_sequence(q, k, v, i, past, lengths, options) for i in range(q.shape[0])]
    y = np.concatenate(parts)
    y = like(y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1) if flat else y, inputs[0].dtype)
    return [y, None, None, None]


def one_sequence(q, k, v, index, past, lengths, options):
    """Sequence ``index`` of the batch: keys that its queries must not see are cut off.

    Query i stands at position ``past + i``; where lengths are given, the last one at the last key, as in ours.
    """
    part = slice(index, index + 1)
    if lengths is not None:
        seen = int(lengths[index])
    else:
        seen = past + q.shape[2] if options["causal"] or "window" in options else k.shape[2]
    if seen > k.shape[2] or ("window" in options and not options["causal"]):
        raise Unsupported("queries beyond the last key, or a window that is not causal")
    keys, values = (np.ascontiguousarray(x[part, :, :seen]) for x in (k, v))
    return find("attention.attention")(q[part].astype(np.float32), keys, values, **options)


def split_heads(x, heads):
    """(batch, length, heads x size) as (batch, heads, length, size)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(0, 2, 1, 3)


# -- convolution -----------------------------------------------------------------------------------------------------


def explicit_pads(x, kernel, attributes):
    """((top, bottom), (left, right)), from ``pads`` or ``auto_pad``."""
    mode = attributes.get("auto_pad", "NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode in ("NOTSET", "VALID"):
        pads = attributes.get("pads", [0, 0, 0, 0]) if mode == "NOTSET" else [0, 0, 0, 0]
        return (pads[0], pads[2]), (pads[1], pads[3])
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    both = []
    for size, width, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + dilation * (width - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        both.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(both)


@adapter("Conv", "convolution.conv2d")
def conv(inputs, attributes):
    """NCHW to NHWC and back; pads are applied here, for the kernel takes only symmetric ones."""
    x, w, bias = (*inputs, None)[:3]
    if x.ndim != 4:
        raise Unsupported("other than two spatial dimensions")
    pads = explicit_pads(x, w.shape[2:], attributes)
    padded = np.pad(x, ((0, 0), (0, 0), *pads)).transpose(0, 2, 3, 1)
    y = find("convolution.conv2d")(
        np.ascontiguousarray(padded),
        np.ascontiguousarray(w.transpose(2, 3, 1, 0)),
        stride=tuple(attributes.get("strides", [1, 1])),
        dilation=tuple(attributes.get("dilations", [1, 1])),
        groups=attributes.get("group", 1),
    )
    return [(y if bias is None else y + bias).transpose(0, 3, 1, 2)]
