"""Kernels of the operators that language models need, with references and proofs of their error.

``gemm`` runs the fastest variant this CPU has; ``golden`` makes a test case whose error bound is
proven, and ``check`` judges an output against it, whoever computed it.
"""

# The case modules register their makers.
from npukernels import cases_attention as cases_attention
from npukernels import cases_gemm as cases_gemm
from npukernels import cases_quant as cases_quant
from npukernels import cases_select as cases_select
from npukernels import reference
from npukernels.activations import exp, gelu, sigmoid, silu, swiglu, tanh
from npukernels.attention import attention, paged_attention
from npukernels.block_matmul import block_gemm
from npukernels.cases import Case, golden
from npukernels.cases_rows import layernorm_bound, softmax_bound
from npukernels.casts import cast
from npukernels.convolution import conv2d, depthwise_conv2d
from npukernels.grouped import grouped_gemm
from npukernels.int8_packing import prepack_int8
from npukernels.matmul import Packed, gemm, prepack
from npukernels.native import cpu_features, native_available, native_problem
from npukernels.norms import layernorm, rmsnorm, softmax
from npukernels.qgemm import qgemm
from npukernels.quantized import Quantized, dequantize, quantize
from npukernels.registry import kernel, ops, variants
from npukernels.rotary import rope, rope_cache
from npukernels.routing import Routing, route, topk
from npukernels.verdict import Check, check
from npukernels.weight_matmul import weight_gemm
from npukernels.weights import prepack_weight

__all__ = [
    "Case",
    "Check",
    "Packed",
    "Quantized",
    "Routing",
    "attention",
    "block_gemm",
    "cast",
    "check",
    "conv2d",
    "cpu_features",
    "depthwise_conv2d",
    "dequantize",
    "exp",
    "gelu",
    "gemm",
    "golden",
    "grouped_gemm",
    "kernel",
    "layernorm",
    "layernorm_bound",
    "native_available",
    "native_problem",
    "ops",
    "paged_attention",
    "prepack",
    "prepack_int8",
    "prepack_weight",
    "qgemm",
    "quantize",
    "reference",
    "rmsnorm",
    "rope",
    "rope_cache",
    "route",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_bound",
    "swiglu",
    "tanh",
    "topk",
    "variants",
    "weight_gemm",
]
