"""The host loop: measure this CPU and its kernels, then predict what was not measured and compare.

``measure_host`` times the machine and the kernels at the calibration's shapes and fits one document per operator.
``validate_host`` times other shapes and predicts each from the chip file and the documents alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npusim.accuracy import fitting, host_cases, host_shapes
from npusim.accuracy.host_clock import Clock, Timing, best_of
from npusim.accuracy.host_machine import Machine
from npusim.accuracy.host_shapes import Shape, Subject
from npusim.calibration import FORMAT, Calibration, Provenance
from npusim.chip import Chip
from npusim.cost.calibrated.family import family
from npusim.errors import InputError, Problem

COLUMNS = ("m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv")


@dataclass(frozen=True)
class Measured:
    """Timed calls of the kernel library: shape by shape, one thread.

    Args:
        subject: operator and format.
        variant: the variant that computed it.
        shapes: dimensions.
        timings: of each shape.
    """

    subject: Subject
    variant: str
    shapes: tuple[Shape, ...]
    timings: tuple[Timing, ...]

    @property
    def dims(self) -> dict[str, np.ndarray]:
        """Columns of the row schema, nan where the operator has no such dimension."""
        return {name: np.array([shape.get(name, np.nan) for shape in self.shapes], float) for name in COLUMNS}

    @property
    def best_s(self) -> np.ndarray:
        """Fastest sample of each shape."""
        return np.array([timing.best_s for timing in self.timings])

    @property
    def software(self) -> str:
        """Spelling of the software column."""
        return f"npukernels-{self.variant}"


def measure_kernels(
    seed: int,
    seconds: float,
    subjects: Sequence[Subject] = host_shapes.SUBJECTS,
    *,
    beside: Sequence[Callable[[], object]] = (),
    clock: Clock = time.thread_time,
) -> tuple[list[Measured], list[Timing]]:
    """Times the kernels at one draw of shapes, all operators in turn.

    Args:
        seed: ``host_shapes.CALIBRATION``, ``host_shapes.VALIDATION`` or any other draw.
        seconds: budget of all samples together.
        subjects: what to time.
        beside: other tasks to time in turn with them, so that they see the same moments of the machine.
        clock: of the samples.

    Returns:
        The kernels, and the timings of ``beside``.
    """
    shapes = {subject: tuple(host_shapes.draw(subject, seed)) for subject in subjects}
    tasks = [host_cases.case(subject, shape) for subject in subjects for shape in shapes[subject]]
    timings = best_of([*beside, *tasks], seconds, clock)
    left = iter(timings[len(beside) :])
    measured = [
        Measured(subject, host_cases.variant(subject), shapes[subject], tuple(next(left) for _ in shapes[subject]))
        for subject in subjects
    ]
    return measured, timings[: len(beside)]


def core_shares(machine: Machine, chip: Chip) -> dict[str, float]:
    """Shares of the last cache and of main memory that one core reads, parameters of every family of this host."""
    last = [name for name, level in chip.levels.items() if level.scope != "core"]
    total = chip.level_bandwidth_bytes_per_s(chip.levels[last[-1]]) if last else None
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    found = machine.residency
    return {
        "cache_share": min(1.0, found.cache_bytes_per_s / (total or found.cache_bytes_per_s)),
        "dram_share": min(1.0, found.dram_bytes_per_s / chip.memory.bandwidth_bytes_per_s),
        "kept_share": found.kept_share,
    }


def calibrate(chip: Chip, measured: Iterable[Measured], shares: Mapping[str, float], how: str) -> list[Calibration]:
    """Fits one document per operator and format.

    Args:
        chip: as measured on the same machine.
        measured: the calibration's rows.
        shares: what one core gets of the shared memories, from ``core_shares``: not fitted.
        how: provenance of the rows.

    Raises:
        InputError: SciPy is not installed.
    """
    try:
        import scipy  # noqa: F401
    except ImportError:
        hint = "pip install 'npusim[calibrate]'"
        raise InputError(Problem("fitting the kernels' documents needs SciPy", hint=hint)) from None
    return [_document(chip, rows, shares, how) for rows in measured]


def _document(chip: Chip, rows: Measured, shares: Mapping[str, float], how: str) -> Calibration:
    model = family(rows.subject.family)
    found = fitting.fit(model, chip, rows.subject.dtype, rows.dims, rows.best_s, fixed=shares)
    return Calibration(
        format=FORMAT,
        chip=chip.name,
        software=rows.software,
        op=rows.subject.op,
        dtype=rows.subject.dtype,
        family=model.name,
        parameters=found.document_parameters(model),
        rows=len(rows.shapes),
        source=Provenance(dataset="npusim host", what="npukernels on one thread of this machine", how=how),
        residency="llc",
        cross_validation=found.cross_validation(),
        residuals=found.residuals(),
    )


@dataclass(frozen=True)
class Validated:
    """Predicted against measured, for one operator and format.

    Args:
        measured: the rows.
        predicted_s: seconds of each.
        bound: what bounds each.
        roofline_s: the naive roofline of one core with the same chip file, seconds of each.
    """

    measured: Measured
    predicted_s: np.ndarray
    bound: np.ndarray
    roofline_s: np.ndarray


def predict(chip: Chip, documents: Mapping[tuple[str, str], Calibration], rows: Measured) -> Validated:
    """Predicts rows from a chip file and calibration documents alone.

    Args:
        chip: the chip file.
        documents: by (op, dtype).
        rows: what was measured; only its shapes are read.

    Raises:
        InputError: there is no document for the operator.
    """
    key = (rows.subject.op, rows.subject.dtype)
    if key not in documents:
        raise InputError(
            Problem(f"no calibration of {key[0]} in {key[1]} beside the chip file", hint="run npusim host again")
        )
    document = documents[key]
    times = family(document.family).seconds(chip, rows.subject.dtype, rows.dims, document.values())
    return Validated(rows, times.time_s, times.bound, roofline(chip, rows))


def roofline(chip: Chip, rows: Measured) -> np.ndarray:
    """Naive roofline of one core: peak of the format against operands once through main memory."""
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    d, subject = rows.dims, rows.subject
    weight = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "w8a16": 1.0, "w4a16": 0.5}[subject.dtype]
    peak = chip.peak_flops_per_s("int8" if subject.dtype == "int8" else "fp32")[1] / (chip.cores or 1)
    if subject.op == "gemm":
        activation = 2.0 if subject.dtype.startswith("w") else weight
        flops = 2 * d["m"] * d["n"] * d["k"]
        moved = activation * d["m"] * d["k"] + weight * d["k"] * d["n"] + 4 * d["m"] * d["n"]
    elif subject.op.startswith("attention"):
        pairs = d["seq_q"] * (d["seq_kv"] - (d["seq_q"] - 1) / 2)
        flops = 4 * d["batch"] * d["heads"] * pairs * d["head_dim"]
        rows_of = d["kv_heads"] * d["seq_kv"] + d["heads"] * d["seq_q"]
        moved = 8 * d["batch"] * d["head_dim"] * rows_of
    else:
        flops, moved = 0 * d["m"], 8 * d["m"] * d["n"]
    return np.asarray(np.maximum(flops / peak, moved / chip.memory.bandwidth_bytes_per_s))


def validate_host(
    chip: Chip,
    documents: Iterable[Calibration],
    *,
    seconds: float = 30.0,
    seed: int = host_shapes.VALIDATION,
    measured: Sequence[Measured] | None = None,
    clock: Clock = time.thread_time,
) -> list[Validated]:
    """Times the kernels at shapes that were not calibrated and predicts each.

    Args:
        chip: the chip file of this machine, from ``npusim host``.
        documents: the calibrations beside it.
        seconds: budget of the samples.
        seed: of the shapes; those of the calibration are left out of any draw.
        measured: rows that were timed before, instead of timing any.
        clock: seconds since any moment.

    Raises:
        InputError: an operator has no document.
    """
    known = {(document.op, document.dtype): document for document in documents}
    rows = measure_kernels(seed, seconds, clock=clock)[0] if measured is None else measured
    return [predict(chip, known, item) for item in rows]


def csv_rows(measured: Iterable[Measured], device: str, threads: int = 1) -> list[dict[str, Any]]:
    """Measured rows in the kernel schema: shapes and the best time in microseconds, spread and samples in ``extra``."""
    found = []
    for item in measured:
        for shape, timing in zip(item.shapes, item.timings, strict=True):
            extra = f"threads={threads};residency=llc;spread={timing.spread:.2f};samples={timing.samples}"
            if item.subject.op.startswith("attention"):
                extra += ";causal=1"
            found.append(
                {
                    "device": device,
                    "software": item.software,
                    "op": item.subject.op,
                    "dtype": item.subject.dtype,
                    **{name: shape.get(name, "") for name in COLUMNS},
                    "latency_us": f"{1e6 * timing.best_s:.4g}",
                    "extra": extra,
                }
            )
    return found
