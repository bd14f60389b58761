"""PyTorch on the CPU, and what it carries: oneDNN, FBGEMM, and MKL behind ``mm``.

Calls write to a given output where PyTorch has such a form, because fresh pages cost a large result more than the op.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.peers.problem import Array, Peer, Problem, Runner

QUANTISED_ENGINES = ("fbgemm", "onednn")


def _version() -> str:
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return f"{torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"


def _tensors(p: Problem, *names: str) -> list[Any]:
    import torch

    return [torch.from_numpy(np.array(p.inputs[name])) for name in names or p.inputs]


def _gemm(p: Problem) -> Mapping[str, Runner]:
    import torch

    a, b = torch.from_numpy(p.inputs["a"]), torch.from_numpy(p.inputs["b"])  # keeps the layout of b
    out = torch.empty(a.shape[0], b.shape[1])
    found = {"": Runner(lambda: torch.mm(a, b, out=out))}
    if p.options["layout"] == "NT":
        found["onednn"] = _onednn_linear(a, b.t())
    return found


def _gemm_packed(p: Problem) -> Mapping[str, Runner]:
    import torch

    a, b = _tensors(p, "a", "b")
    weight = b.t().contiguous()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(a))
    found = {"onednn": _onednn_linear(a, packed)}
    if torch.backends.mkl.is_available():
        held = torch.ops.mkl._mkl_reorder_linear_weight(weight, len(a))
        found["mkl"] = Runner(lambda: torch.ops.mkl._mkl_linear(a, held, weight, None, len(a)))
    return found


def _onednn_linear(a: Any, weight: Any) -> Runner:
    import torch

    return Runner(lambda: torch.ops.mkldnn._linear_pointwise(a, weight, None, "none", [], ""))


def _half(p: Problem) -> Mapping[str, Runner]:
    import torch

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[p.options["dtype"]]
    a, b = (torch.from_numpy(p.inputs[name].view(np.int16)).view(kind) for name in "ab")
    out = torch.empty(a.shape[0], b.shape[1], dtype=kind)
    return {"": Runner(lambda: torch.mm(a, b, out=out), lambda c: np.asarray(c.float()))}


def _qgemm(p: Problem) -> Mapping[str, Runner]:
    """The exact product of signed operands, and the linear layers of quantised models: requantised to uint8."""
    import torch

    a, b = p.inputs["a"], p.inputs["b"]
    if a.dtype == b.dtype == np.int8 and len(a) > 16:  # _int_mm refuses few rows
        x, w = _tensors(p, "a", "b")
        out = torch.empty(x.shape[0], w.shape[1], dtype=torch.int32)
        return {"_int_mm": Runner(lambda: torch._int_mm(x, w, out=out))}
    if a.dtype == np.uint8 and b.dtype == np.int8:
        return {engine: _quantised_linear(p, engine) for engine in QUANTISED_ENGINES if _has(engine)}
    return {}


def _has(engine: str) -> bool:
    import torch

    return engine in torch.backends.quantized.supported_engines


def _quantised_linear(p: Problem, engine: str) -> Runner:
    """Its output has 8 bits: what it stands for is compared with an exact result rounded to the same steps."""
    import torch

    torch.backends.quantized.engine = engine
    codes, weight = _tensors(p, "a", "b")
    with warnings.catch_warnings():  # these constructors are deprecated, the kernels are not
        warnings.simplefilter("ignore")
        x, w = (torch._make_per_tensor_quantized_tensor(v, 1.0, 0) for v in (codes, weight.t().contiguous()))
    packed = torch.ops.quantized.linear_prepack(w, None)
    step = float(np.abs(p.judge.case.expected).max()) / 100

    def read(y: Any) -> Array:
        """Exact sums, where the peer is within a step of them."""
        got = np.asarray(y.int_repr()).astype(np.float64)
        judged = p.judge.part(got)
        whole = np.clip(np.rint(p.judge.case.expected / step) + 128, 0, 255)
        got[p.judge.index] = np.where(np.abs(judged - whole) <= 1, p.judge.case.expected, np.nan)
        return np.asarray(got)

    return Runner(lambda: torch.ops.quantized.linear(x, packed, step, 128), read)


def _weight_gemm(p: Problem) -> Mapping[str, Runner]:
    """bfloat16 activations: its float32 path is scalar."""
    import torch

    x, q, scale = _tensors(p)
    packed = torch._convert_weight_to_int4pack_for_cpu((q.t().contiguous() + 8).to(torch.int32), 1)
    scales = torch.stack([scale, torch.zeros_like(scale)], dim=-1).to(torch.bfloat16)
    half, group = x.to(torch.bfloat16), p.options["group"]
    return {
        "bf16": Runner(
            lambda: torch._weight_int4pack_mm_for_cpu(half, packed, group, scales), lambda y: np.asarray(y.float())
        )
    }


def _block_gemm(p: Problem) -> Mapping[str, Runner]:
    import torch

    a, b = (torch.from_numpy(np.array(p.inputs[name])).view(torch.float8_e4m3fn) for name in "ab")
    weight, one = b.t().contiguous().t(), torch.tensor(1.0)  # it takes columns only
    scaled = torch._scaled_mm
    return {"_scaled_mm": Runner(lambda: scaled(a, weight, scale_a=one, scale_b=one, out_dtype=torch.float32))}


def _attention(p: Problem) -> Mapping[str, Runner]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    q, k, v = _tensors(p)
    causal, group = p.options["causal"], q.shape[1] // k.shape[1]
    found = {"sdpa": Runner(lambda: sdpa(q, k, v, is_causal=causal, enable_gqa=group > 1))}
    if not causal:
        rows = q.reshape(k.shape[1], group, -1) * q.shape[-1] ** -0.5
        keys, values = k[0].transpose(1, 2), v[0]
        found["bmm"] = Runner(
            lambda: torch.bmm(torch.softmax(torch.bmm(rows, keys), -1), values).reshape(q.shape[0], q.shape[1], 1, -1)
        )
    return found


def _filling(out: Any, run: Callable[[], object]) -> dict[str, Runner]:
    return {"": Runner(run, lambda _: np.asarray(out))}


def _layernorm(p: Problem) -> Mapping[str, Runner]:
    import torch

    x, weight, bias = _tensors(p)
    out, mean, inverse = torch.empty_like(x), torch.empty(len(x), 1), torch.empty(len(x), 1)
    fill, fresh = torch.ops.aten.native_layer_norm.out, torch.nn.functional.layer_norm
    return {
        "": Runner(lambda: fresh(x, (x.shape[1],), weight, bias)),
        "out": Runner(lambda: fill(x, [x.shape[1]], weight, bias, 1e-5, out0=out, out1=mean, out2=inverse)[0]),
    }


def _rmsnorm(p: Problem) -> Mapping[str, Runner]:
    from torch.nn.functional import rms_norm

    x, weight = _tensors(p)
    return {"": Runner(lambda: rms_norm(x, (x.shape[1],), weight, 1e-6))}


def _softmax(p: Problem) -> Mapping[str, Runner]:
    import torch

    (x,) = _tensors(p)
    out = torch.empty_like(x)
    return _filling(out, lambda: torch.softmax(x, -1, out=out))


def _element(name: str, **options: str) -> Callable[[Problem], Mapping[str, Runner]]:
    def make(p: Problem) -> Mapping[str, Runner]:
        import torch

        (x,) = _tensors(p)
        out, call = torch.empty_like(x), getattr(torch.ops.aten, name).out
        return _filling(out, lambda: call(x, **options, out=out))

    return make


def _rope(p: Problem) -> Mapping[str, Runner]:
    """The eager expression of language models."""
    import torch

    x, positions, cosines, sines = _tensors(p)
    half = x.shape[-1] // 2

    def run() -> Any:
        c, s = cosines[positions][:, None, :], sines[positions][:, None, :]
        x1, x2 = x[..., :half], x[..., half:]
        return torch.cat([x1 * c - x2 * s, x2 * c + x1 * s], dim=-1)

    return {"eager": Runner(run)}


def _float8(name: str) -> Any:
    import torch

    return {"fp8": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[name]


def _encode(p: Problem) -> Mapping[str, Runner]:
    import torch

    (x,) = _tensors(p)
    out = torch.empty(x.shape, dtype=_float8(p.options["format"]))
    return {"": Runner(lambda: out.copy_(x), lambda y: np.asarray(y.view(torch.uint8)))}


def _decode(p: Problem) -> Mapping[str, Runner]:
    import torch

    codes = _tensors(p)[0].view(_float8(p.options["format"]))
    out = torch.empty(codes.shape)
    return {"": Runner(lambda: out.copy_(codes))}


def _conv(p: Problem) -> Mapping[str, Runner]:
    """Channels last in memory, as ours."""
    import torch

    x, w = _tensors(p)
    image = x.permute(0, 3, 1, 2)
    weight = w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    options = dict(padding=p.options["padding"], groups=p.options["groups"])
    conv = torch.nn.functional.conv2d
    return {"": Runner(lambda: conv(image, weight, **options), lambda y: np.asarray(y.permute(0, 2, 3, 1)))}


PEER = Peer(
    "torch",
    _version,
    {
        "gemm": _gemm,
        "gemm packed": _gemm_packed,
        "gemm 16 bits": _half,
        "qgemm": _qgemm,
        "weight_gemm": _weight_gemm,
        "block_gemm": _block_gemm,
        "attention": _attention,
        "layernorm": _layernorm,
        "rmsnorm": _rmsnorm,
        "softmax": _softmax,
        "gelu": _element("gelu"),
        "gelu_tanh": _element("gelu", approximate="tanh"),
        "silu": _element("silu"),
        "rope": _rope,
        "encode": _encode,
        "decode": _decode,
        "conv2d": _conv,
    },
)
