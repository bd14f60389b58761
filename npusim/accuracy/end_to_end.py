"""End-to-end runs as steps plus what lies between operators: columns of the rows, fits, documents, and the gap.

The work of a step comes from the operators of the model on the described chip (``npusim.llm`` at roofline fidelity:
their peaks, nothing else); ``step/1`` turns it into time. Contexts grow by one token a step and attention is linear in
them, so a run is priced at its mean context.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from npusim.accuracy.devices import chip_of, formats_of
from npusim.accuracy.fitting import Fit, fit, residual_quantiles
from npusim.accuracy.plain_end_to_end import model_of
from npusim.accuracy.predicted import Predicted
from npusim.accuracy.prediction import apply_document, groups
from npusim.accuracy.rows import EndToEndRows, load_end_to_end
from npusim.accuracy.table import Array
from npusim.calibration import Calibration, Calibrations, Provenance, chip_classes
from npusim.chip import Chip, load_chip
from npusim.cost import roofline
from npusim.cost.calibrated.step import COLUMNS, STEP
from npusim.cost.calibrated.step_time import work_at_peak
from npusim.errors import NpuError, Unavailable
from npusim.llm import Precision, decode, prefill
from npusim.models import Model
from npusim.parallel import kv_bytes, weights_bytes
from npusim.workload import Workload

# Programs whose ``batch`` is the number of prompt tokens per pass of one sequence.
_CHUNKED = re.compile(r"llama\.cpp", re.IGNORECASE)
# Runs another step model would have to describe: no cache, other parallelism, other number formats of the cache.
_OTHER = re.compile(r"Without KV|Hybird|Hybrid|kv_cache_dtype=(?!Weight = fp16)|=EP")
_CACHE = re.compile(r"KV Cache = (\w+)")
# Stages one after the other: a static batch passes them as it passes one chip, with the memory of all.
_PIPELINE = re.compile(r"=Pipeline Parallelism|=PP\b")
_MIN_RUNS = 30
_UNSTATED = "the configuration is not stated or not one static batch"
# A step model that is further off than this explains nothing and is not written.
_MOST_MAPE_PCT = 30.0
_MOST_TRANSFER_PCT = 50.0  # the summed roofline is 60 to 80 % off
FIGURES = ("request", "first token", "output token")


@dataclass(frozen=True)
class Runs:
    """Rows of one device, model, precision and number of chips that a step model can price."""

    chip: Chip
    model: Model
    fmt: str
    kv: str
    chips: int
    software: str


def _known(device: str) -> Chip | None:
    name = chip_of(device)
    try:
        return load_chip(name) if name else None
    except Unavailable:
        return None


def stated(rows: EndToEndRows) -> Array:
    """Rows with a batch, lengths and a number of devices whose configuration ``step/1`` describes."""
    known = (rows.column("batch") >= 1) & (rows.column("input_len") >= 1) & (rows.column("num_devices") >= 1)
    known &= rows.column("output_len") >= 1
    other = np.array([bool(_OTHER.search(text)) for text in rows.column("extra")])
    return np.asarray(known & ~other)


def columns(rows: EndToEndRows, figure: Array, override: Chip | None = None) -> tuple[dict[str, np.ndarray], Array]:
    """Columns of ``step/1`` for rows, and why some have none (``""`` for those that do).

    Args:
        rows: runs.
        figure: what was timed of each: an entry of ``FIGURES``.
        override: price every row on this chip.
    """
    found = {name: np.full(len(rows), np.nan) for name in COLUMNS}
    reason = np.where(stated(rows), "", _UNSTATED).astype(object)
    extra, devices = rows.column("extra"), rows.column("num_devices")
    count = np.array(
        [f"{1 if _PIPELINE.search(t) else n:g}" for t, n in zip(extra, devices, strict=True)], dtype=object
    )
    cache = np.array([match[1] if (match := _CACHE.search(text)) else "" for text in extra], dtype=object)
    keys = [rows.column(name) for name in ("device", "model", "precision", "software")]
    for (device, name, precision, software, chips, kv), which in groups([*keys, count, cache]):
        at = which[reason[which] == ""]
        model, formats = model_of(name), formats_of(precision.partition("/")[0] or "bf16")
        chip = override or _known(device)
        if chip is None or model is None or formats is None:
            reason[at] = f"no chip '{device}', model '{name}' or format '{precision}'"
        elif len(at):
            part = rows.select(at)
            assert isinstance(part, EndToEndRows)
            try:
                runs = Runs(chip, model, formats.a, kv or formats.a, int(float(chips)), software)
                values = _columns_of(part, runs, figure[at])
            except NpuError as error:
                reason[at] = str(error).splitlines()[0][:160]
                continue
            for column in COLUMNS:
                found[column][at] = values[column]
    return found, reason


def _columns_of(rows: EndToEndRows, runs: Runs, figure: Array) -> dict[str, np.ndarray]:
    batch, prompt, output = (rows.column(name).astype(np.int64) for name in ("batch", "input_len", "output_len"))
    chunked = bool(_CHUNKED.search(runs.software))
    sequences = np.ones_like(batch) if chunked else batch
    passes = -(-prompt // np.minimum(batch, prompt)) if chunked else np.ones_like(batch)
    formats: dict[str, Any] = {"weights": runs.fmt, "activations": runs.fmt, "kv": runs.kv}
    middle = prompt + output // 2
    first = prefill(runs.model, batch=sequences, prompt=prompt, tp=runs.chips, **formats)
    later = decode(runs.model, batch=sequences, context=middle, tp=runs.chips, **formats)
    found: dict[str, Any] = {f"prefill_{name}": value for name, value in work_of(first, runs.chip).items()}
    found |= {f"decode_{name}": value for name, value in work_of(later, runs.chip).items()}
    assert runs.chip.memory is not None
    precision = Precision(runs.fmt, runs.fmt, runs.kv)
    weights = weights_bytes(runs.model, precision)
    cache = kv_bytes(runs.model, precision, middle, runs.chips) * runs.chips
    exchanges = sum(op.count for op in later.ops if op.kind == "collective")
    layers = sum(count for _, count in runs.model.blocks)
    found |= {
        "passes": passes, "sequences": sequences, "layers": layers, "exchanges": exchanges,
        "steps": np.select([figure == "first token", figure == "output token"], [0, 1], output - 1),
        "prefills": np.where(figure == "output token", 0, 1), "weights": weights,
        "caches": sequences * cache, "memory": runs.chip.memory.capacity_bytes * rows.column("num_devices"),
    }  # fmt: skip
    return {name: np.broadcast_to(np.asarray(value, float), batch.shape) for name, value in found.items()}


def work_of(step: Workload, chip: Chip) -> dict[str, np.ndarray]:
    """Seconds at peak of a step's operators, as ``npusim.cost.calibrated.step_time.work_at_peak`` divides them."""
    works = [roofline.work(op, chip) for op in step.ops]
    return {name: np.asarray(value, float) for name, value in work_at_peak(step, works).items()}


# -- predictions ---------------------------------------------------------------------------------------------------


def apply_steps(found: Predicted, override: Chip | None, calibrations: Calibrations) -> Predicted:
    """Prices the runs that a ``step/1`` document describes, with intervals from its end-to-end residuals.

    Args:
        found: predictions of end-to-end rows by summed operators, changed in place; ``op`` is what was timed.
        override: price every row on this chip.
        calibrations: which documents may be used.
    """
    rows = found.rows
    assert isinstance(rows, EndToEndRows)
    for (device, software, precision), which in groups([found.keys[n] for n in ("device", "software", "dtype")]):
        chip = override or _known(device)
        match = calibrations.match(chip, software, "request", precision) if chip is not None else None
        if chip is None or match is None or match.calibration.family != STEP.name:
            continue
        part = rows.select(which)
        assert isinstance(part, EndToEndRows)
        dims, reason = columns(part, found.keys["op"][which], chip)
        at = np.flatnonzero(reason == "")
        if len(at):
            found.chip[which[at]] = chip.name
            inside = {name: values[at] for name, values in dims.items()}
            apply_document(found, which[at], inside, chip, match, precision)
    return found


@dataclass(frozen=True)
class Gap:
    """Where the time of runs goes: shares of the predicted time, mean over runs, and the sum at data-sheet peaks.

    Args:
        peak: operators at the peaks of the data sheet (what the roofline says).
        slower: what their sustained fractions add.
        link: exchanges between chips.
        outside: host work, gaps between layers, sampling, requests.
    """

    peak: float
    slower: float
    link: float
    outside: float


def gap(dims: Mapping[str, np.ndarray], parameters: Mapping[str, float]) -> Gap:
    """The gap between summed operators and measured runs, as the fitted model divides it."""
    parts = STEP.parts(dims, parameters)
    ideal = {**parameters, "matrix": 1.0, "dram": 1.0, "attention": 1.0, "memory": 1e3}
    peak = sum(STEP.parts(dims, ideal)[name] for name in ("matrix", "dram"))
    total = np.asarray(sum(parts.values(), np.zeros(1)))
    shares = [peak, parts["matrix"] + parts["dram"] - peak, parts["link"], parts["launch"]]
    return Gap(*(float(np.mean(share / total)) for share in shares))


# -- fits and documents --------------------------------------------------------------------------------------------


def key_of(dims: Mapping[str, np.ndarray], rows: EndToEndRows) -> Array:
    """A number for each configuration (model, batch, lengths, chips): rows of one belong to one fold."""
    texts = [rows.column("model")]
    numbers = [rows.column(name) for name in ("batch", "input_len", "output_len", "num_devices")]
    labels = ["|".join(map(str, cells)) for cells in zip(*texts, *numbers, strict=True)]
    return np.unique(labels, return_inverse=True)[1].astype(float)


def fit_runs(rows: EndToEndRows, seconds: Array, dims: Mapping[str, np.ndarray]) -> Fit:
    """Fits ``step/1`` to runs of one device and software, out of fold over configurations."""
    chip = load_chip(chip_of(str(rows.column("device")[0])) or "")
    # Folds are by shape: the configuration stands in for one.
    table = {**dims, "m": key_of(dims, rows)}
    return fit(STEP, chip, str(rows.column("precision")[0]), table, seconds, starts=2)


def timed(file: Path, models: str = "") -> EndToEndRows:
    """Runs of a table whose configuration and whole time are known, of models with a name like ``models``."""
    rows = load_end_to_end(file)
    wanted = (rows.column("latency_s") > 0) & stated(rows)
    wanted &= np.array([bool(re.search(models, text)) for text in rows.column("model")])
    return rows.select(np.flatnonzero(wanted))


def priced(rows: EndToEndRows) -> tuple[EndToEndRows, dict[str, np.ndarray]]:
    """The rows that have columns of ``step/1``, and those."""
    dims, reason = columns(rows, np.full(len(rows), "request", dtype=object))
    good = np.flatnonzero(reason == "")
    return rows.select(good), {name: values[good] for name, values in dims.items()}


def plan_documents(file: Path, source: Provenance, models: str = "") -> Iterator[tuple[Calibration, Fit]]:
    """One document per device, software and precision of a table of runs.

    Args:
        file: rows.
        source: of the rows, for the documents.
        models: only models with this in their name (a regular expression).
    """
    rows = timed(file, models)
    for (device, software, precision), at in groups([rows.column(n) for n in ("device", "software", "precision")]):
        part, dims = priced(rows.select(at))
        name = chip_of(device)
        if name is None or len(part) < _MIN_RUNS:
            continue
        found = fit_runs(part, part.column("latency_s"), dims)
        if found.converged and found.mape_pct <= _MOST_MAPE_PCT:
            yield document(found, source, name, software, precision), found


def class_documents(
    file: Path, source: Provenance, chips: Sequence[str], precision: str, models: str = ""
) -> Iterator[tuple[Calibration, Fit]]:
    """One document per software for the class that several chips share, learned on their runs together."""
    rows = timed(file, models)
    names = np.array([chip_of(device) or "" for device in rows.column("device")], dtype=object)
    rows = rows.select(np.flatnonzero(np.isin(names, chips) & (rows.column("precision") == precision)))
    classes = [chip_classes(load_chip(name)) for name in chips]
    shared = next(name for name in classes[0] if all(name in others for others in classes))
    for (software,), at in groups([rows.column("software")]):
        part, dims = priced(rows.select(at))
        known = sorted({chip_of(device) or "" for device in part.column("device")})
        if len(known) > 1:
            found = _across(part, dims, np.array([chip_of(device) for device in part.column("device")]))
            if found.mape_pct > _MOST_TRANSFER_PCT:
                continue
            yield document(found, source, shared, software, precision, tuple(known)), found


def _across(rows: EndToEndRows, dims: Mapping[str, np.ndarray], names: Array) -> Fit:
    """A fit of several chips; its residuals are those of each chip predicted by the others."""
    seconds = rows.column("latency_s")
    found = fit_runs(rows, seconds, dims)
    left = np.empty(len(rows))
    for index, name in enumerate(sorted(set(names.tolist()))):
        out, rest = np.flatnonzero(names == name), np.flatnonzero(names != name)
        others = fit_runs(rows.select(rest), seconds[rest], {key: values[rest] for key, values in dims.items()})
        inside = {key: values[out] for key, values in dims.items()}
        left[out] = seconds[out] / STEP.seconds(load_chip(name), "", inside, others.parameters).time_s
        found.fold[out] = index
    return replace(found, log_ratio=np.log(left))


def document(
    found: Fit, source: Provenance, chip: str, software: str, precision: str, chips: tuple[str, ...] = ()
) -> Calibration:
    """The document of a fit of ``step/1``; ``chips`` were learned on when it is of a class."""
    return Calibration(
        format="npusim-calibration/1", scope="class" if chips else "chip", chip=chip, software=software, op="request",
        dtype=precision, family=STEP.name, parameters=found.document_parameters(STEP), rows=len(found.fold),
        source=source, chips=chips,
        cross_validation=found.cross_validation().model_copy(update={"by": "device" if chips else "shape"}),
        residuals=residual_quantiles(found.log_ratio, found.bound),
    )  # fmt: skip
