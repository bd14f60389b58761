"""Kernels of the operators that language models need, with references and proofs of their error.

``gemm`` runs the fastest variant this CPU has; ``golden`` makes a test case whose error bound is
proven, and ``check`` judges an output against it, whoever computed it.
"""

from npukernels import cases_attention as _cases_attention  # noqa: F401  (registers its makers)
from npukernels.attention import attention, paged_attention
from npukernels.cases import Case, golden
from npukernels.matmul import gemm
from npukernels.native import cpu_features, native_available, native_problem
from npukernels.registry import kernel, ops, variants
from npukernels.verdict import Check, check

__all__ = [
    "Case",
    "Check",
    "attention",
    "check",
    "cpu_features",
    "gemm",
    "golden",
    "kernel",
    "native_available",
    "native_problem",
    "ops",
    "paged_attention",
    "variants",
]
