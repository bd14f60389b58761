"""Constants of serving programs that were learned from measured runs: which apply to a chip, and how far to trust them.

``catalog/serving/constants.yaml`` holds, for each serving program, the stack whose kernels it runs (calibration
documents price them), the host time it adds to a step, the share of the memory it uses, and the error of throughput
that this left on measured runs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from npusim import yamlio
from npusim.calibration import STATES, Calibrations, Parameter, State, chip_classes
from npusim.chip import Chip
from npusim.chip_parts import Spec
from npusim.cost import estimate
from npusim.errors import InputError, Problem
from npusim.llm import Precision, decode
from npusim.models import Model
from npusim.serving.documented import Kernels
from npusim.serving.steps import UNFITTED, Constants
from npusim.workload import Workload

FILE = Path(__file__).parents[1] / "catalog" / "serving" / "constants.yaml"
_ENOUGH = 0.5  # of a step's time, for documents to speak for it
_SEQUENCES, _CONTEXT = 64, 1024  # of the decode step that chooses kernels and says how far documents reach


class Host(Spec):
    """Host time of a program on a chip or a class of chips, with 80 % intervals.

    Args:
        scope: ``chip`` or ``class``.
        chip: name of the chip or of the class.
        chips: chips it was learned on.
        rows: measured runs.
        host_s: per step.
        exchange_s: per exchange and chip beyond the first.
        sequence_s: per sequence that makes a token.
        source: the runs.
    """

    scope: Literal["chip", "class"]
    chip: str
    chips: tuple[str, ...]
    rows: Annotated[int, Field(ge=1)]
    host_s: Parameter
    exchange_s: Parameter
    sequence_s: Parameter
    source: str


class Errors(Spec):
    """Mean absolute errors of throughput in percent, by how far the constants had to reach."""

    calibrated: Annotated[float, Field(ge=0)]
    transferred: Annotated[float, Field(ge=0)]


class Program(Spec):
    """A serving program.

    Args:
        title: which versions.
        default: may be taken where no program is named.
        vendors: whose chips it runs on; empty: any.
        kernels: software stacks whose calibration documents price its operators, the best first.
        usable: share of the described memory that weights, a step and the cache fill.
        errors_pct: of throughput.
        host: host time, by chip or class.
    """

    title: str
    default: bool = False
    vendors: tuple[str, ...] = ()
    kernels: tuple[str, ...]
    usable: Parameter
    errors_pct: Errors
    host: tuple[Host, ...]

    def suits(self, chip: Chip) -> bool:
        """Whether it may be taken for a chip without being named."""
        return self.default and (not self.vendors or chip.vendor in self.vendors)

    def host_of(self, chip: Chip) -> tuple[Host, State] | None:
        """Host time for a chip, its own before its classes', and how far it had to reach."""
        for scope, name in (("chip", chip.name), *(("class", name) for name in chip_classes(chip))):
            for entry in self.host:
                if (entry.scope, entry.chip) == (scope, name):
                    return entry, "calibrated" if chip.name in entry.chips and not chip.overrides else "transferred"
        return None


class Programs(Spec):
    """The catalog file. Read it with ``load_programs``."""

    format: Literal["npusim-serving-constants/1"]
    name: str
    title: str
    programs: dict[str, Program]


@lru_cache(maxsize=1)
def load_programs() -> Programs:
    """The known serving programs."""
    document = yamlio.load_yaml(FILE)
    return yamlio.validate(Programs, document.data, document)


def learned(
    chip: Chip, model: Model, fmt: Precision, calibration: str = "auto", software: str | None = None, tp: int = 1,
    fidelity: str = "tile",
) -> Constants:  # fmt: skip
    """The constants that measured runs and kernels suggest for a chip; the chip file alone where nothing applies.

    Args:
        chip: the hardware.
        model: what is served: a typical step of it chooses the stack of kernels.
        fmt: number formats.
        calibration: ``none``, ``auto`` or what else ``estimate`` takes.
        software: a program of the file or a stack of kernels (None: the one with documents for most of the time).
        tp: chips that split a layer.
        fidelity: cost model of the operators without a document.

    Raises:
        InputError: unknown calibration or software, or a fidelity that documents do not go with.
    """
    if calibration == "none":
        if software is not None:
            raise InputError(Problem("software chooses among calibrations, none are allowed", "software",
                                     hint="give calibration auto too"))  # fmt: skip
        return UNFITTED
    if fidelity != "tile":
        raise InputError(Problem(f"calibrations go with tile, not with {fidelity}", "fidelity", allowed="tile"))
    known = load_programs().programs
    step = decode(model, batch=_SEQUENCES, context=min(_CONTEXT, (model.max_positions or _CONTEXT) - 1), tp=tp,
                  weights=fmt.weights, activations=fmt.activations, kv=fmt.kv)  # fmt: skip
    documents = Calibrations(calibration)
    if software is None or software in known:
        names = [software] if software else [name for name, program in known.items() if program.suits(chip)]
        pairs = [(name, stack) for name in names for stack in known[name].kernels]
        # Kernels of a program, where the chip or its narrowest class has any; otherwise those that it has.
        here = documents.stacks_of(chip, ("gemm",))
        tried: list[tuple[str, str | None]] = [pair for pair in pairs if pair[1] in here] or [(names[0], None)]
    else:
        tried = [("", documents.check_software(software))]
    reaches = [_reach(step, chip, fidelity, calibration, stack) for _, stack in tried]
    best = max(range(len(tried)), key=lambda i: (*reaches[i][:2], -i))
    name, (own, documented, stack) = tried[best][0], reaches[best]
    if documented < _ENOUGH:
        return Constants(kernels=Kernels(calibration, "", "uncalibrated", software or ""))
    state: State = "calibrated" if own >= _ENOUGH else "transferred"
    entry = known[name].host_of(chip) if name else None
    if entry is None:
        return Constants(kernels=Kernels(calibration, stack, state, name))
    host, reach = entry
    errors = known[name].errors_pct
    if "transferred" in (state, reach):
        state = "transferred"
    error = errors.calibrated if state == "calibrated" else errors.transferred
    return Constants(
        host_s=host.host_s.value, exchange_s=host.exchange_s.value, sequence_s=host.sequence_s.value,
        usable=known[name].usable.value,
        kernels=Kernels(calibration, stack, state, name, None if model.moe else error),  # runs were of dense models
    )  # fmt: skip


def _reach(
    step: Workload, chip: Chip, fidelity: str, calibration: str, software: str | None
) -> tuple[float, float, str]:
    """Shares of a step's time that documents of this chip price, and that any do, in tenths; and whose they are."""
    priced = estimate(step, chip, fidelity, calibration=calibration, software=software)
    times = {state: 0.0 for state in STATES}
    for cost in priced.ops:
        times[cost.state] += float(np.mean(cost.time_s))
    whole = sum(times.values())
    whose = priced.calibration.software if priced.calibration is not None else ""
    return round(times["calibrated"] / whole, 1), round(1 - times["uncalibrated"] / whole, 1), whose


def described(constants: Constants) -> dict[str, Any] | None:
    """What a JSON answer says of the constants; None when the chip file alone speaks."""
    known = constants.kernels
    if known is None:
        return None
    return {
        "calibration": known.calibration, "program": known.program or None, "kernels": known.software or None,
        "state": known.state, "error_pct": known.error_pct, "host_s": constants.host_s,
        "exchange_s": constants.exchange_s, "sequence_s": constants.sequence_s, "usable_memory": constants.usable,
    }  # fmt: skip
