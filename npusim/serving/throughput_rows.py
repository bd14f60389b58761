"""Reads measured throughput of whole runs: tables of runs, MLPerf results, and JSON lists of published figures.

A table names a chip, a model, lengths and a figure, in the columns of ``docs/validation.md`` or their short names:

    chip, model, precision, tp, input_len, output_len, batch, tokens_per_s, software

``batch`` may be empty: the maximum load. The figure is ``tokens_per_s`` (output tokens), ``latency_s`` of the whole
run, or ``throughput_tok_s``, which counts prompt tokens too where a batch is stated. MLPerf results have ``system``,
``scenario`` and ``model`` instead of lengths.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from npusim.accuracy.devices import chip_of
from npusim.accuracy.plain_end_to_end import model_of
from npusim.chip import Chip, load_chip
from npusim.errors import InputError, Problem
from npusim.models import Model
from npusim.serving import load
from npusim.serving.throughput import Observation, known_precision

_NAMES = {
    "device": ("device", "chip"), "model": ("model",), "precision": ("precision", "dtype"),
    "chips": ("num_devices", "tp", "chips"), "input": ("input_len", "isl", "input_tokens"),
    "output": ("output_len", "osl", "output_tokens"), "batch": ("batch", "concurrency"),
    "software": ("software", "kind"),
}  # fmt: skip
_FIGURES = ("latency_s", "tokens_per_s", "throughput_tok_s")
_MLPERF = ("system", "scenario", "model", "tokens_per_s")
# What programs are called in measured tables, and in constants.yaml; the first that fits counts.
_PROGRAMS = (
    (r"vllm.*2023", "vllm-2023"), (r"tensorrt-?llm.* v?[0-9]", "trtllm"),
    (r"^tensorrt-?llm$", "tensorrt-llm"), (r"vllm", "vllm"),
)  # fmt: skip
# Benchmarks of MLPerf and the models they run.
_BENCHMARKS = {
    "llama2-70b": "llama-2-70b", "llama3.1-8b": "llama-3.1-8b", "llama3.1-405b": "llama-3.1-405b",
    "mixtral-8x7b": "mixtral-8x7b", "deepseek-r1": "deepseek-r1",
}  # fmt: skip
# Other power limits or boards; the two ESC names are of H100 NVL by their descriptions in the results' repository.
_OTHER_BOARDS = re.compile(r"MaxQ|NVL(?!\d)|PCIe(?!_48GB)|ESC[48]000A", re.IGNORECASE)
# What submissions ran where the name of the system does not say: "framework" of their descriptions.
_FRAMEWORKS = {"NVIDIA": "trtllm", "AMD": "vllm"}
_MEMORY = re.compile(r"(\d{2,3})\s?GB", re.IGNORECASE)
_COUNT = re.compile(r"[xX](\d{1,3})(?=[_\s]|$)|(?:^|[^0-9A-Za-z])(\d{1,3})[xX](?=[\s_]?[A-Za-z])")
# Formats of submissions by the rate a chip must have, the smallest first; NVIDIA's own goes before the common one.
_SUBMITTED = (("fp4", "nvfp4"), ("fp8", "fp8"), ("int8", "int8"))
_NEAR = 0.08  # of memory capacities (GB or GiB), beyond which a board is another one


def read(path: str | os.PathLike[str]) -> tuple[list[Observation], Counter[str]]:
    """The runs of a file (CSV, gzip allowed, or JSON), and how many rows were left out, by reason.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    name = os.fspath(path)
    rows = list(_rows(name))
    skipped: Counter[str] = Counter()
    found: list[Observation] = []
    for number, row in rows:
        try:
            found.append(_result(row) if _is_mlperf(row) else _run(row, f"row {number}"))
        except InputError as error:
            skipped[str(error).splitlines()[0]] += 1
    if not found and not skipped:
        raise InputError(Problem("no rows", file=name))
    return found, skipped


def _rows(name: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    if name.endswith(".json"):
        yield from _json_rows(name)
        return
    header, table = load.read_table(name)
    missing = [needed for needed in ("model",) if needed not in header]
    if not _is_mlperf(dict.fromkeys(header, "")):
        missing += [key for key in ("device", "chips", "input", "output") if not set(_NAMES[key]) & set(header)]
        missing += [] if set(_FIGURES) & set(header) else ["tokens_per_s"]
    if missing:
        known = f"device, model, input_len, output_len and one of {', '.join(_FIGURES)}; or {', '.join(_MLPERF)}"
        raise InputError(Problem(f"no column for {', '.join(missing)}", file=name, line=1, col=1, allowed=known))
    for number, cells in enumerate(table, start=2):
        yield number, dict(zip(header, cells, strict=False))


def _json_rows(name: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        data = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(Problem(f"cannot be read as JSON: {error}", file=name)) from None
    rows = data.get("measured") if isinstance(data, dict) else data
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(Problem("neither a list of objects nor one under 'measured'", file=name))
    for number, row in enumerate(rows, start=1):
        yield number, {key: "" if value is None else str(value) for key, value in row.items()}


def _is_mlperf(row: Mapping[str, Any]) -> bool:
    return all(name in row for name in _MLPERF)


# -- runs ----------------------------------------------------------------------------------------------------------


def _text(row: Mapping[str, str], key: str) -> str:
    return next((row[name].strip() for name in _NAMES[key] if row.get(name, "").strip()), "")


def _number(row: Mapping[str, str], key: str, what: str) -> int:
    text = _text(row, key)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (1 <= value <= load.MAX_TOKENS and value == int(value)):
        raise InputError(Problem(f"{what} is not stated as a whole number from 1"))
    return int(value)


def _run(row: Mapping[str, str], label: str) -> Observation:
    """A row of a table of runs. Raises InputError with the reason for which it says nothing."""
    chip, model = _chip(_text(row, "device")), _model(_text(row, "model"))
    prompt, output = _number(row, "input", "the prompt"), _number(row, "output", "the output")
    stated = _text(row, "batch")
    loaded = not stated or "max" in stated.lower()
    batch = None if loaded else _number(row, "batch", "the batch")
    chips = _number(row, "chips", "the number of chips")
    if "llama.cpp" in row.get("software", "").lower():
        raise InputError(Problem("a batch of llama.cpp is not one of sequences"))
    kind = _text(row, "precision") or "bf16"
    return Observation(
        chip, model, known_precision(kind), chips, _tokens_per_s(row, prompt, output, batch), prompt, output, batch,
        program_of(f"{row.get('software', '')} {row.get('kind', '')} {kind}"), "", label,
    )  # fmt: skip


def _tokens_per_s(row: Mapping[str, str], prompt: int, output: int, batch: int | None) -> float:
    """Output tokens per second, from whichever figure the row has."""
    figures = {}
    for name in _FIGURES:
        try:
            value = float(row.get(name, "") or "nan")
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > 0:
            figures[name] = value
    if "latency_s" in figures and batch is not None:
        return batch * output / figures["latency_s"]
    if "tokens_per_s" in figures:
        return figures["tokens_per_s"]
    if "throughput_tok_s" in figures:
        return figures["throughput_tok_s"] * (1.0 if batch is None else output / (prompt + output))
    raise InputError(Problem(f"none of {', '.join(_FIGURES)} is a positive number"))


def program_of(text: str) -> str | None:
    """The serving program that a spelling means; None where it is not one of those known.

    >>> program_of("TensorRT-LLM"), program_of("vendor, TensorRT-LLM v1.0 docs"), program_of("SGLang")
    ('tensorrt-llm', 'trtllm', None)
    """
    words = text.strip().lower()
    for part in (words, words.split(" ")[0]):
        for pattern, name in _PROGRAMS:
            if re.search(pattern, part):
                return name
    return None


def _chip(device: str) -> Chip:
    name = chip_of(re.sub(r"\((?:fp8|fp16)\)", "", device, flags=re.IGNORECASE))
    if name is None:
        raise InputError(Problem(f"no chip of the catalog is called '{device[:60]}'"))
    return load_chip(name)


def _model(name: str) -> Model:
    # "Llama3.1_8b", and "LLaMA 7B" of tables from before versions were named.
    spelled = re.sub(r"(?i)^llama(?=[1-9])", "llama-", name.strip())
    spelled = re.sub(r"(?i)^llama[ -](?=\d+b$)", "llama-2-", spelled)
    model = model_of(name) or model_of(spelled)
    if model is None:
        raise InputError(Problem(f"no model of the catalog is called '{name[:60]}'"))
    return model


# -- MLPerf --------------------------------------------------------------------------------------------------------


def _result(row: Mapping[str, str]) -> Observation:
    """A result of MLPerf. Raises InputError with the reason for which it says nothing."""
    if row.get("valid", "True") not in ("True", "true", "1", ""):
        raise InputError(Problem("MLPerf: not a valid result"))
    if row.get("division", "closed") not in ("closed", ""):
        raise InputError(Problem("MLPerf: not of the closed division"))
    benchmark = re.sub(r"-99(\.9)?$", "", row["model"])
    benchmark = re.sub(r"-(interactive|datacenter)$", "", benchmark)
    if benchmark not in _BENCHMARKS:
        raise InputError(Problem(f"MLPerf: no lengths known of {row['model'][:40]}"))
    name = row["scenario"].lower().replace("-", "")
    if name not in ("offline", "server", "interactive", "singlestream"):
        raise InputError(Problem(f"MLPerf: scenario {row['scenario'][:40]}"))
    if "interactive" in row["model"] and name == "server":
        name = "interactive"
    system = row["system"]
    chip, chips = board_of(system)
    try:
        value = float(row["tokens_per_s"])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(Problem("MLPerf: no tokens per second"))
    rates = chip.peaks_flops_per_s
    precision = next((name for rate, name in _SUBMITTED if rate in rates), "bf16")
    if precision == "nvfp4" and chip.vendor != "NVIDIA":
        precision = "mxfp4"
    software = "vllm" if "vllm" in system.lower() else _FRAMEWORKS.get(chip.vendor)
    label = f"{chips} x {chip.name}"
    return Observation(chip, _model(_BENCHMARKS[benchmark]), precision, chips, value, software=software,
                       scenario=name, label=label)  # fmt: skip


def board_of(system: str) -> tuple[Chip, int]:
    """Chip and number of chips that the name of a system states.

    A board of the same name with another amount of memory is the chip with that amount, and with the bandwidth of the
    catalog's chip. Raises InputError where the name does not say, or names another board than the catalog's.
    """
    if _OTHER_BOARDS.search(system):
        raise InputError(Problem("MLPerf: a board with other limits than the catalog's chip"))
    words = re.split(r"[^A-Za-z0-9.]+", system)
    chip: Chip | None = None
    for word in words:
        plain = re.sub(r"^\d{1,2}x(?=[A-Za-z])|x\d{1,3}$", "", word, flags=re.IGNORECASE)
        named = chip_of(plain) if re.search(r"[A-Za-z].*\d", plain) else None
        if named is not None and load_chip(named).category in ("gpu", "npu", "tpu"):
            chip = load_chip(named)
            break
    if chip is None:
        raise InputError(Problem("MLPerf: the system names no chip of the catalog"))
    count = _COUNT.search(system)
    if count is None:
        raise InputError(Problem("MLPerf: the system does not state how many chips"))
    return _sized(chip, system), int(next(filter(None, count.groups())))


def _sized(chip: Chip, system: str) -> Chip:
    stated = _MEMORY.search(system)
    if stated is None or chip.memory is None:
        return chip
    capacity = float(stated[1]) * 1e9
    if abs(capacity / chip.memory.capacity_bytes - 1) <= _NEAR:
        return chip
    return chip.replace({"memory.capacity": f"{stated[1]} GB"})


def deduplicated(runs: list[Observation]) -> list[Observation]:
    """One run for each configuration, at the median figure; its label counts the others."""
    together: dict[tuple[Any, ...], list[Observation]] = {}
    for run in runs:
        chip = (run.chip.name, run.chip.memory.capacity_bytes if run.chip.memory else 0)
        key = (*chip, run.model.name, run.precision, run.chips, run.software, run.scenario, run.input, run.output,
               run.batch)  # fmt: skip
        together.setdefault(key, []).append(run)
    found = []
    for same in together.values():
        figures = sorted(run.tokens_per_s for run in same)
        half = len(figures) // 2
        median = figures[half] if len(figures) % 2 else (figures[half - 1] + figures[half]) / 2
        label = same[0].label + (f" ({len(same)} results)" if len(same) > 1 else "")
        found.append(replace(same[0], tokens_per_s=median, label=label))
    return found
