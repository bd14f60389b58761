"""Calls of the kernel library for the shapes of the host loop.

Operands are views of a few large buffers, so that hundreds of cases fit the memory; every call gets its output, and
weights are packed beforehand where the library has a packed form that its users keep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

import npukernels as nk
from npusim.accuracy.host_shapes import Shape, Subject

GROUP = 128  # of quantised weights
Run = Callable[[], object]


def case(subject: Subject, shape: Shape) -> Run:
    """A call that computes ``subject`` at ``shape``, on one thread."""
    if subject.op == "gemm":
        return _PRODUCTS[subject.dtype](shape["m"], shape["n"], shape["k"])
    if subject.op.startswith("attention"):
        return _attention(shape)
    return _row_operator(subject.op, shape["m"], shape["n"])


def variant(subject: Subject) -> str:
    """The variant of the library that computes ``subject`` here by default."""
    named = {"int8": "qgemm", "w8a16": "weight_gemm", "w4a16": "weight_gemm"}
    op = named.get(subject.dtype, subject.op.split("_")[0])
    return nk.registry.select(op).variant


@lru_cache(maxsize=16)
def _pool(dtype: str, role: str, size: int) -> Any:
    """Values of one buffer: small, none of them special."""
    rng = np.random.default_rng(len(role))
    if dtype in ("int8", "uint8"):
        return rng.integers(1, 100, size, np.uint8).astype(dtype)
    floats = rng.random(size, np.float32) - np.float32(0.5)
    if dtype == "uint16":
        return (floats.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16 codes, truncated
    return floats.astype(dtype)


def _take(dtype: str, role: str, *shape: int) -> Any:
    """A view of the buffer of this role; buffers grow in powers of two."""
    count = int(np.prod(shape))
    return _pool(dtype, role, max(1 << 16, 1 << (count - 1).bit_length()))[:count].reshape(shape)


def _float_product(kind: str) -> Callable[[int, int, int], Run]:
    def make(m: int, n: int, k: int) -> Run:
        a, b, out = _take(kind, "left", m, k), _take(kind, "right", k, n), _take("float32", "out", m, n)
        return lambda: nk.gemm(a, b, out=out)

    return make


def _int8_product(m: int, n: int, k: int) -> Run:
    a, weights = _take("uint8", "left", m, k), nk.prepack_int8(_take("int8", "right", k, n))
    out = np.empty((m, n), np.int32)
    return lambda: nk.qgemm(a, weights, a_zero=128, out=out)


def _weight_product(bits: int) -> Callable[[int, int, int], Run]:
    def make(m: int, n: int, k: int) -> Run:
        codes = _take("int8", "right", k, n) & np.int8(2 ** (bits - 1) - 1)
        scale = _take("float32", "scale", -(-k // GROUP), n)
        weights = nk.prepack_weight(codes, scale, bits=bits, group=GROUP)
        x, out = _take("float16", "left", m, k), _take("float32", "out", m, n)
        return lambda: nk.weight_gemm(x, weights, out=out)

    return make


_PRODUCTS: dict[str, Callable[[int, int, int], Run]] = {
    "fp32": _float_product("float32"),
    "bf16": _float_product("uint16"),
    "int8": _int8_product,
    "w8a16": _weight_product(8),
    "w4a16": _weight_product(4),
}


def _attention(shape: Shape) -> Run:
    b, h, g, d = shape["batch"], shape["heads"], shape["kv_heads"], shape["head_dim"]
    q, out = _take("float32", "left", b, h, shape["seq_q"], d), _take("float32", "out", b, h, shape["seq_q"], d)
    k, v = _take("float32", "right", b, g, shape["seq_kv"], d), _take("float32", "values", b, g, shape["seq_kv"], d)
    return lambda: nk.attention(q, k, v, causal=True, out=out)


def _row_operator(op: str, rows: int, columns: int) -> Run:
    x, out = _take("float32", "left", rows, columns), _take("float32", "out", rows, columns)
    weight = _take("float32", "scale", columns)
    function = getattr(nk, op)
    if op in ("layernorm", "rmsnorm"):
        return lambda: function(x, weight, out=out)
    return lambda: function(x, out=out)
