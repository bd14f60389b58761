"""Kernels of the operators that language models need, with references and proofs of their error.

``gemm`` runs the fastest variant this CPU has; ``golden`` makes a test case whose error bound is
proven, and ``check`` judges an output against it, whoever computed it.
"""

from npukernels import cases_gemm as cases_gemm
from npukernels import reference
from npukernels.cases import Case, golden
from npukernels.convolution import conv2d, depthwise_conv2d
from npukernels.grouped import grouped_gemm
from npukernels.matmul import Packed, gemm, prepack
from npukernels.native import cpu_features, native_available, native_problem
from npukernels.registry import kernel, ops, variants
from npukernels.verdict import Check, check

__all__ = [
    "Case",
    "Check",
    "Packed",
    "check",
    "conv2d",
    "cpu_features",
    "depthwise_conv2d",
    "gemm",
    "golden",
    "grouped_gemm",
    "kernel",
    "native_available",
    "native_problem",
    "ops",
    "prepack",
    "reference",
    "variants",
]
