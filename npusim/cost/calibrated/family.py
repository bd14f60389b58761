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
FAMILIES: dict[str, str] = {}


def family(name: str) -> Family:
    """The family called ``name``. Raises InputError for an unknown one."""
    if name not in FAMILIES:
        raise unknown_name("model family", name, FAMILIES)
    module, _, attribute = FAMILIES[name].partition(":")
    found: Family = getattr(import_module(module), attribute)
    return found
