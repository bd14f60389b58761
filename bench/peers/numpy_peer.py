"""NumPy: its BLAS for products, the shortest float32 expressions for the rest; casts by ml_dtypes; and ourselves.

Ourselves: 16-bit products are held against our own float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import npukernels as nk
from bench.peers.problem import Array, Peer, Problem, Runner
from npukernels import formats

F32 = np.float32


def _numpy_version() -> str:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{np.__version__} ({blas.get('name')} {blas.get('version')})"


def _filling(out: Array, run: Callable[[], object]) -> dict[str, Runner]:
    """A runner that writes its result to ``out``."""
    return {"": Runner(run, lambda _: out)}


def _gemm(p: Problem) -> Mapping[str, Runner]:
    a, b = p.inputs["a"], p.inputs["b"]
    out = np.empty((a.shape[0], b.shape[1]), F32)
    return _filling(out, lambda: np.matmul(a, b, out=out))


def _attention(p: Problem) -> Mapping[str, Runner]:
    """Two batched products and a softmax, the heads of a group as rows of one product."""
    q, k, v = (p.inputs[name] for name in "qkv")
    kv_heads, group, (queries, dim), length = k.shape[1], q.shape[1] // k.shape[1], q.shape[2:], k.shape[2]
    rows, keys, values = q.reshape(kv_heads, group * queries, dim) * F32(dim**-0.5), k[0].swapaxes(1, 2), v[0]
    hidden = np.triu(np.ones((queries, length), bool), 1 + length - queries)

    def run() -> Array:
        s = rows @ keys
        if p.options["causal"]:
            s.reshape(kv_heads, group, queries, length)[:, :, hidden] = -np.inf
        s -= s.max(axis=-1, keepdims=True)
        np.exp(s, out=s)
        s /= s.sum(axis=-1, keepdims=True)
        return np.asarray(s @ values).reshape(1, kv_heads * group, queries, dim)

    return {"": Runner(run)}


def _layernorm(p: Problem) -> Mapping[str, Runner]:
    x, weight, bias = p.inputs.values()
    out = np.empty_like(x)

    def run() -> None:
        d = x - x.mean(axis=-1, keepdims=True)
        np.multiply(d / np.sqrt(np.mean(d * d, axis=-1, keepdims=True) + F32(1e-5)), weight, out=out)
        np.add(out, bias, out=out)

    return _filling(out, run)


def _rmsnorm(p: Problem) -> Mapping[str, Runner]:
    x, weight = p.inputs.values()
    out = np.empty_like(x)

    def run() -> None:
        np.multiply(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + F32(1e-6)), weight, out=out)

    return _filling(out, run)


def _softmax(p: Problem) -> Mapping[str, Runner]:
    x = p.inputs["x"]
    out = np.empty_like(x)

    def run() -> None:
        np.exp(x - x.max(axis=-1, keepdims=True), out=out)
        np.divide(out, out.sum(axis=-1, keepdims=True), out=out)

    return _filling(out, run)


def _gelu_tanh(p: Problem) -> Mapping[str, Runner]:
    x = p.inputs["x"]
    out = np.empty_like(x)

    def run() -> None:
        t = np.tanh(F32(0.7978845608) * (x + F32(0.044715) * x * x * x))
        np.multiply(F32(0.5) * x, t + F32(1), out=out)

    return _filling(out, run)


def _silu(p: Problem) -> Mapping[str, Runner]:
    x = p.inputs["x"]
    out = np.empty_like(x)

    def run() -> None:
        with np.errstate(over="ignore"):
            np.divide(x, F32(1) + np.exp(-x), out=out)

    return _filling(out, run)


def _rope(p: Problem) -> Mapping[str, Runner]:
    x, positions, cosines, sines = p.inputs.values()
    out, half = np.empty_like(x), x.shape[-1] // 2

    def run() -> None:
        c, s = cosines[positions][:, None, :], sines[positions][:, None, :]
        x1, x2 = x[..., :half], x[..., half:]
        out[..., :half], out[..., half:] = x1 * c - x2 * s, x2 * c + x1 * s

    return _filling(out, run)


PEER = Peer(
    "numpy",
    _numpy_version,
    {
        "gemm": _gemm,
        "gemm packed": _gemm,
        "attention": _attention,
        "layernorm": _layernorm,
        "rmsnorm": _rmsnorm,
        "softmax": _softmax,
        "gelu_tanh": _gelu_tanh,
        "silu": _silu,
        "rope": _rope,
    },
)


def _ml_dtypes_version() -> str:
    import ml_dtypes

    return str(ml_dtypes.__version__)


def _ml_dtype(name: str) -> Any:
    import ml_dtypes

    return {"fp8": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2}[name]


def _encode(p: Problem) -> Mapping[str, Runner]:
    x = p.inputs["x"]
    out = np.empty(x.shape, np.uint8)
    theirs = out.view(_ml_dtype(p.options["format"]))
    return _filling(out, lambda: np.copyto(theirs, x, casting="unsafe"))


def _decode(p: Problem) -> Mapping[str, Runner]:
    codes = p.inputs["codes"].view(_ml_dtype(p.options["format"]))
    out = np.empty(codes.shape, F32)
    return _filling(out, lambda: np.copyto(out, codes))


ML_DTYPES = Peer("ml_dtypes", _ml_dtypes_version, {"encode": _encode, "decode": _decode})


def _own_gemm(p: Problem) -> Mapping[str, Runner]:
    a, b = (formats.decode(x, p.options["dtype"]) for x in (p.inputs["a"], p.inputs["b"]))
    out = np.empty((a.shape[0], b.shape[1]), F32)
    return _filling(out, lambda: nk.gemm(a, b, out=out))


OWN = Peer("own f32", lambda: "this build", {"gemm 16 bits": _own_gemm})
