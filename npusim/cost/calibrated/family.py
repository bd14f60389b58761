"""What a calibrated operator model is: a closed form of a few physical parameters, vectorised over shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np

from npusim.chip import Chip
from npusim.errors import unknown_name

BOUNDS = ("matrix", "dram", "vector", "link", "launch", "cache")
Dims = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter of a family.

    Args:
        name: identifier.
        low: smallest physically plausible value.
        high: largest one; a sustained fraction ends at 1.
        start: where a fit begins.
        unit: unit of the value, "1" for a ratio.
        meaning: one line for documents and reports.
        log: fitted on a logarithmic scale (needs ``low > 0``).
    """

    name: str
    low: float
    high: float
    start: float
    unit: str
    meaning: str
    log: bool = True


@dataclass(frozen=True)
class Times:
    """Predicted seconds and what bounds each row (one of ``BOUNDS``)."""

    time_s: np.ndarray
    bound: np.ndarray


class Family(Protocol):
    """A model of one kind of operator on one kind of hardware."""

    @property
    def name(self) -> str:
        """Name with a version, ``gpu-gemm/1``: changed when the formulas change."""

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """At most about a dozen, all physical."""

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of many rows.

        Args:
            chip: the hardware; only figures of its description are read.
            dtype: dtype spelling of the rows.
            dims: numeric columns of the rows (m, n, k, batch, ...; bytes and ranks of collectives), nan where
                empty, plus what the family's docstring asks of ``extra``.
            parameters: value per parameter name.
        """


# Where each family lives: module and attribute. Imported when it is asked for.
FAMILIES: dict[str, str] = {
    "gpu-gemm/1": "npusim.cost.calibrated.gemm:GPU_GEMM",
    "cube-gemm/1": "npusim.cost.calibrated.cube:GEMM",
    "cube-quantised-gemm/1": "npusim.cost.calibrated.cube:QUANTISED_GEMM",
    "systolic-gemm/1": "npusim.cost.calibrated.systolic:GEMM",
    "grid-gemm/1": "npusim.cost.calibrated.grid:GEMM",
    "collective-all_reduce/1": "npusim.cost.calibrated.collective:ALL_REDUCE",
    "collective-all_gather/1": "npusim.cost.calibrated.collective:ALL_GATHER",
    "collective-reduce_scatter/1": "npusim.cost.calibrated.collective:REDUCE_SCATTER",
    "collective-all_to_all/1": "npusim.cost.calibrated.collective:ALL_TO_ALL",
    "collective-send/1": "npusim.cost.calibrated.collective:SEND",
    "step/1": "npusim.cost.calibrated.step:STEP",
    "attention-decode/1": "npusim.cost.calibrated.attention_decode:ATTENTION_DECODE",
    "attention-prefill/1": "npusim.cost.calibrated.attention_prefill:ATTENTION_PREFILL",
    "attention-chunked/1": "npusim.cost.calibrated.attention_prefill:ATTENTION_CHUNKED",
    "attention-mixed/1": "npusim.cost.calibrated.attention_mixed:ATTENTION_MIXED",
    "attention-encoder/1": "npusim.cost.calibrated.attention_prefill:ATTENTION_ENCODER",
    "mla-decode/1": "npusim.cost.calibrated.attention_decode:MLA_DECODE",
    "mla-prefill/1": "npusim.cost.calibrated.attention_prefill:MLA_PREFILL",
    "moe/1": "npusim.cost.calibrated.moe:MOE",
    "vector/1": "npusim.cost.calibrated.vector:VECTOR",
}


def family(name: str) -> Family:
    """The family called ``name``. Raises InputError for an unknown one."""
    if name not in FAMILIES:
        raise unknown_name("model family", name, FAMILIES)
    module, _, attribute = FAMILIES[name].partition(":")
    found: Family = getattr(import_module(module), attribute)
    return found


# Operators of the rows → (category of the chip, "" for any; family): what ``npusim calibrate`` fits.
_VECTOR = (
    *("add", "addu", "div", "divu", "embedding", "gelu", "layernorm", "ln", "mul", "mulu", "pow", "powu", "relu"),
    *("rmsnorm", "rope", "sampler", "silu_and_mul", "softmax", "tanh", "binary_step", "elu", "leaky_relu"),
    *("parametric_relu", "selu", "sigmoid", "quant_scale_matrix", "quant_computescale"),
)
OPERATORS: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("gemm", "linear", "bmm", "matmul"), (("gpu", "gpu-gemm/1"),)),
    "attention_decode": (("", "attention-decode/1"),),
    "attention_prefill": (("", "attention-prefill/1"),),
    "attention_encoder": (("", "attention-encoder/1"),),
    "attention_chunked_or_decode": (("", "attention-chunked/1"),),
    "attention_mixed": (("", "attention-mixed/1"),),
    "mla_decode": (("", "mla-decode/1"),),
    "mla_prefill": (("", "mla-prefill/1"),),
    "moe_ffn": (("", "moe/1"),),
    **dict.fromkeys(_VECTOR, (("", "vector/1"),)),
}


def family_of(op: str, category: str) -> Family | None:
    """The family that models an operator of the rows on a category of chips, if there is one."""
    for wanted, name in OPERATORS.get(op.lower(), ()):
        if wanted in ("", category):
            return family(name)
    return None


def alternatives(model: Family, dtype: str, residency: str) -> tuple[dict[str, float], ...]:
    """Sets of parameters a fit holds fixed and tries one after the other: discrete choices, and what does not apply.

    A family states them by a method ``alternatives(dtype, residency)``; without it nothing is fixed.
    """
    stated = getattr(model, "alternatives", None)
    return ({},) if stated is None else tuple(stated(dtype, residency))
