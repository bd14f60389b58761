"""npusim: a device-level simulator of neural processing units.

>>> import npusim as ns
>>> chip = ns.load_chip("rebel-quad")
>>> step = ns.decode(ns.load_model("llama-3.1-8b"), batch=32, context=4096, weights="fp8", activations="fp8", kv="fp8")
>>> ns.estimate(step, chip).bound
'dram'

The names below load on first use, so that ``npusim --help`` does not pay for NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Chip": "chip",
    "load_chip": "chip",
    "Model": "models",
    "load_model": "models",
    "Op": "workload",
    "Workload": "workload",
    "gemm": "workload",
    "experts": "workload",
    "attention": "workload",
    "norm": "workload",
    "softmax": "workload",
    "elementwise": "workload",
    "embedding": "workload",
    "conv2d": "workload",
    "collective": "workload",
    "prefill": "llm",
    "decode": "llm",
    "Cost": "cost",
    "systolic_cycles": "cost.systolic",
    "estimate": "cost",
    "explain": "explanation",
    "KPerf": "kperf_suite",
    "kperf": "kperf_suite",
    "load_suite": "kperf_suite",
    "calibrate": "accuracy.calibrating",
    "validate": "accuracy.validation",
    "serve": "serving.answer",
    "InputError": "errors",
    "DoesNotFit": "errors",
    "NpuError": "errors",
    "Unavailable": "errors",
    "Finding": "errors",
    "size": "sizing.sizes",
    "sweep": "sizing.sweeps",
}

__all__ = [
    "Chip",
    "Cost",
    "DoesNotFit",
    "Finding",
    "InputError",
    "KPerf",
    "Model",
    "NpuError",
    "Op",
    "Unavailable",
    "Workload",
    "attention",
    "calibrate",
    "collective",
    "conv2d",
    "decode",
    "elementwise",
    "embedding",
    "estimate",
    "experts",
    "explain",
    "gemm",
    "kperf",
    "load_chip",
    "load_model",
    "load_suite",
    "norm",
    "prefill",
    "serve",
    "size",
    "softmax",
    "sweep",
    "systolic_cycles",
    "validate",
]

if TYPE_CHECKING:
    from npusim.accuracy.calibrating import calibrate
    from npusim.accuracy.validation import validate
    from npusim.chip import Chip, load_chip
    from npusim.cost import Cost, estimate
    from npusim.cost.systolic import systolic_cycles
    from npusim.errors import DoesNotFit, Finding, InputError, NpuError, Unavailable
    from npusim.explanation import explain
    from npusim.kperf_suite import KPerf, kperf, load_suite
    from npusim.llm import decode, prefill
    from npusim.models import Model, load_model
    from npusim.serving.answer import serve
    from npusim.sizing.sizes import size
    from npusim.sizing.sweeps import sweep
    from npusim.workload import (
        Op,
        Workload,
        attention,
        collective,
        conv2d,
        elementwise,
        embedding,
        experts,
        gemm,
        norm,
        softmax,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'npusim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"npusim.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
