"""The host loop: measure this CPU and its kernels, then predict what was not measured and compare.

``measure_host`` times the machine and the kernels at the calibration's shapes and fits one document per operator.
``validate_host`` times other shapes and predicts each from the chip file and the documents alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from npusim.accuracy import fitting, host_cases, host_shapes
from npusim.accuracy.host_chip import render
from npusim.accuracy.host_clock import LEAST_ROUNDS, MOST_ROUNDS, Clock, Timing, best_of
from npusim.accuracy.host_machine import Machine, Probes
from npusim.accuracy.host_shapes import Shape, Subject
from npusim.accuracy.prediction import predict_kernels
from npusim.accuracy.rows import load_rows
from npusim.accuracy.validation import Validation
from npusim.calibration import FORMAT, Calibration, Calibrations, Provenance, load_calibration, save
from npusim.chip import Chip, read_chip
from npusim.cost.calibrated.family import family
from npusim.errors import InputError, Problem

SECONDS = 40.0  # with fits and file handling below a minute
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

    """
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
class Host:
    """A measured machine: its chip file and the documents of its kernels.

    Args:
        chip: from ``chip.yaml``.
        documents: from ``calibrations/``.
    """

    chip: Chip
    documents: tuple[Calibration, ...]


CHIP, CALIBRATIONS, FITTED, VALIDATED = "chip.yaml", "calibrations", "fitted.csv", "validation.csv"


def measure_host(folder: Path, seconds: float = SECONDS, name: str = "", *, fit: bool = True) -> Host:
    """Measures this machine and its kernels and writes ``chip.yaml``, ``calibrations/`` and ``fitted.csv``.

    Args:
        folder: made when missing; what an earlier run left there is overwritten.
        seconds: budget of all samples together.
        name: of the chip; by default made of the CPU's name.
        fit: False to measure the machine alone.

    Raises:
        InputError: no C extension, no SciPy (with ``fit``), or the folder cannot be written.
    """
    if fit:
        _require_scipy()
    probes = Probes()
    subjects = host_shapes.SUBJECTS if fit else ()
    measured, timings = measure_kernels(host_shapes.CALIBRATION, seconds * 0.9, subjects, beside=probes.runs)
    machine = probes.machine(timings, seconds * 0.1)
    _write(folder / CHIP, render(machine, name))
    chip = read_chip(folder / CHIP)
    how = f"npusim host, {machine.date}: best of {LEAST_ROUNDS} to {MOST_ROUNDS} samples of processor time"
    documents = calibrate(chip, measured, core_shares(machine, chip), how)
    for old in (folder / CALIBRATIONS).glob("*.yaml"):
        old.unlink()
    for document in documents:
        save(document, folder / CALIBRATIONS)
    if fit:
        _write(folder / FITTED, csv_text(measured, chip.name))
    return Host(chip, tuple(documents))


def load_host(folder: Path) -> Host:
    """Reads what ``measure_host`` wrote. Raises InputError when it is not there."""
    if not (folder / CHIP).is_file():
        raise InputError(Problem(f"no measured machine in '{folder}'", hint=f"npusim host --out {folder}"))
    documents = tuple(load_calibration(path) for path in sorted((folder / CALIBRATIONS).glob("*.yaml")))
    return Host(read_chip(folder / CHIP).require(), documents)


def validate_host(
    folder: Path, *, seconds: float = SECONDS, seed: int = host_shapes.VALIDATION, clock: Clock = time.thread_time
) -> Validation:
    """Times the kernels at shapes that were not fitted, and predicts each from what ``measure_host`` wrote.

    Args:
        folder: with the chip file and the documents; gets ``validation.csv``.
        seconds: budget of the samples.
        seed: of the shapes; those of the calibration are left out of any draw.
        clock: of the samples.

    Raises:
        InputError: nothing was measured there before, or the rows cannot be written.
    """
    host = load_host(folder)
    measured, _ = measure_kernels(seed, seconds, clock=clock)
    _write(folder / VALIDATED, csv_text(measured, host.chip.name))
    return validate_rows(host, folder / VALIDATED)


def validate_rows(host: Host, path: Path) -> Validation:
    """Predicts rows that ``validate_host`` or ``measure_host`` wrote, by the documents of ``host`` alone."""
    rows = load_rows(str(path))
    found = predict_kernels(rows, host.chip, Calibrations(host.documents), "roofline")
    return Validation((found,), "roofline", f"{len(host.documents)} documents of this host")


def csv_text(measured: Iterable[Measured], device: str) -> str:
    """Rows in the kernel schema: shapes, the best time in microseconds, how it was taken in ``extra``."""
    lines = [",".join(("device", "software", "op", "dtype", *COLUMNS, "latency_us", "extra"))]
    for item in measured:
        for shape, timing in zip(item.shapes, item.timings, strict=True):
            sizes = [str(shape.get(name, "")) for name in COLUMNS]
            extra = f"threads=1;spread={timing.spread:.2f};samples={timing.samples}"
            if item.subject.op.startswith("attention"):
                extra += ";causal=1"
            words = (device, item.software, item.subject.op, item.subject.dtype)
            lines.append(",".join((*words, *sizes, f"{1e6 * timing.best_s:.4g}", extra)))
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(Problem(f"cannot write: {error.strerror}", file=str(path))) from None


def _require_scipy() -> None:
    if find_spec("scipy") is None:
        hint = "pip install 'npusim[calibrate]', or --no-fit for the chip file alone"
        raise InputError(Problem("fitting what the kernels sustain needs SciPy", hint=hint))
