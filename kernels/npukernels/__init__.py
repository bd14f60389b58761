"""Kernels of the operators that language models need, with references and proofs of their error.

``gemm`` runs the fastest variant this CPU has; ``golden`` makes a test case whose error bound is
proven, and ``check`` judges an output against it, whoever computed it.
"""

import npukernels.cases_quant  # noqa: F401
from npukernels.block_matmul import block_gemm
from npukernels.cases import Case, golden
from npukernels.int8_packing import prepack_int8
from npukernels.matmul import gemm
from npukernels.native import cpu_features, native_available, native_problem
from npukernels.qgemm import qgemm
from npukernels.registry import kernel, ops, variants
from npukernels.verdict import Check, check
from npukernels.weight_matmul import weight_gemm
from npukernels.weights import prepack_weight

__all__ = [
    "Case",
    "Check",
    "block_gemm",
    "check",
    "cpu_features",
    "gemm",
    "golden",
    "kernel",
    "native_available",
    "native_problem",
    "ops",
    "prepack_int8",
    "prepack_weight",
    "qgemm",
    "variants",
    "weight_gemm",
]
