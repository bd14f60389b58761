"""Kernels of the operators that language models need, with references and proofs of their error.

``gemm`` runs the fastest variant this CPU has; ``golden`` makes a test case whose error bound is
proven, and ``check`` judges an output against it, whoever computed it.
"""

from npukernels.cases import Case, golden
from npukernels.matmul import Packed, gemm, prepack
from npukernels.native import cpu_features, native_available, native_problem
from npukernels.registry import kernel, ops, variants
from npukernels.verdict import Check, check

__all__ = [
    "Case",
    "Check",
    "Packed",
    "check",
    "cpu_features",
    "gemm",
    "golden",
    "kernel",
    "native_available",
    "native_problem",
    "ops",
    "prepack",
    "variants",
]
