"""The measured time of a whole model step: what ``step/1`` documents say of end-to-end runs.

Operators leave out what lies between them (host work, gaps between kernels, sampling), so the interval of a step
comes from runs that were timed as a whole, never from a sum over operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npusim.calibration import Match
from npusim.chip import Chip
from npusim.cost.calibrated.pricing import Documents, factors, kernels_of
from npusim.cost.calibrated.rows import Row
from npusim.cost.calibrated.step import COLUMNS, STEP, WORK
from npusim.cost.roofline import Work
from npusim.llm import Precision
from npusim.ops import Dim
from npusim.parallel import kv_bytes, weights_bytes
from npusim.workload import Workload

# The documents were fitted to dense models in 16 bits and batches up to this; beyond they say nothing.
MOST_SEQUENCES = 64
_FORMATS = ("bf16", "fp16")
# Programs go by other names in tables of kernels than in tables of whole runs.
_PROGRAMS = {"trtllm": "tensorrt-llm"}


@dataclass(frozen=True)
class StepTime:
    """What a measured step takes, host and gaps included; elementwise, nan beyond what was measured.

    Args:
        time_s: seconds.
        low_s: lower end of the 80 % interval, from residuals of end-to-end runs.
        high_s: its upper end.
        match: the document and how far it may be trusted.
    """

    time_s: Dim
    low_s: Dim
    high_s: Dim
    match: Match


def work_at_peak(workload: Workload, works: Sequence[Work]) -> dict[str, Dim]:
    """Seconds at peak of a step's operators: ``matrix`` and ``dram`` of all but attention, ``attention``, ``link``."""
    total: dict[str, Dim] = dict.fromkeys(WORK, 0.0)
    for op, work in zip(workload.ops, works, strict=True):
        if op.kind == "attention":
            total["attention"] += op.count * np.maximum(work.seconds["matrix"], work.seconds["dram"])
            continue
        for name in ("matrix", "dram", "link"):
            total[name] = total[name] + op.count * np.asarray(work.seconds.get(name, 0.0))
    return total


def step_columns(workload: Workload, works: Sequence[Work], chip: Chip) -> dict[str, np.ndarray]:
    """Columns of ``step/1`` for one decode step."""
    info, model = workload.info, workload.model
    found: dict[str, Any] = {f"decode_{name}": value for name, value in work_at_peak(workload, works).items()}
    found |= {f"prefill_{name}": 0.0 for name in WORK}
    fmt = Precision(info["weights"], info["activations"], info["kv"])
    sequences, tokens = np.asarray(info["batch"], float), np.asarray(info["context"])
    assert chip.memory is not None
    found |= {
        "passes": 1, "steps": 1, "prefills": 0, "sequences": sequences,
        "layers": sum(count for _, count in model.blocks),
        "exchanges": sum(op.count for op in workload.ops if op.kind == "collective"),
        "weights": weights_bytes(model, fmt), "memory": chip.memory.capacity_bytes * workload.chips,
        "caches": sequences * kv_bytes(model, fmt, tokens, workload.chips) * workload.chips,
    }  # fmt: skip
    shape = np.broadcast_shapes(*(np.shape(found[name]) for name in COLUMNS))
    return {name: np.broadcast_to(np.asarray(found[name], float), shape) for name in COLUMNS}


def described(workload: Workload) -> bool:
    """Whether ``step/1`` describes such a step: the decode step of a dense model in 16 bits.

    The documents were fitted to whole requests, which are decode steps for the most part: what they say of a prefill
    alone was never compared with one.
    """
    info, model = workload.info, workload.model
    if workload.recipe is None or model is None or model.moe:
        return False
    return info["phase"] == "decode" and all(info.get(name) in _FORMATS for name in ("weights", "activations", "kv"))


def step_document(workload: Workload, documents: Documents) -> Match | None:
    """The document of runs measured as a whole that describes a step; None without one."""
    if not described(workload):
        return None
    own = kernels_of(documents.software)
    program = _PROGRAMS.get(own, own)
    found = replace(documents, software=program).match(Row("request", (workload.info["weights"],), {}, False))
    # A batch of llama.cpp is not one of sequences.
    return None if found is None or found[0].calibration.family != STEP.name or program == "llama.cpp" else found[0]


def step_time(workload: Workload, works: Sequence[Work], chip: Chip, documents: Documents) -> StepTime | None:
    """What runs measured as a whole say of a step; None where none of this stack describe it.

    Args:
        workload: one chip's share of a decode step.
        works: of its operators, in their order.
        chip: the hardware.
        documents: which may be used.
    """
    match = step_document(workload, documents)
    if match is None:
        return None
    columns = step_columns(workload, works, chip)
    shape = columns["sequences"].shape
    flat: Mapping[str, np.ndarray] = {name: values.reshape(-1) for name, values in columns.items()}
    times = STEP.seconds(chip, workload.info["weights"], flat, match.calibration.values())
    low, high = factors(match.calibration, np.asarray(times.bound, dtype=object))
    seconds = np.where(flat["sequences"] <= MOST_SEQUENCES, times.time_s, np.nan)
    if not np.any(np.isfinite(seconds)):
        return None

    def back(values: np.ndarray) -> Dim:
        return values.reshape(shape) if shape else float(values[0])

    return StepTime(back(seconds), back(seconds * low), back(seconds * high), match)
