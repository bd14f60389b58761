"""K-Perf: the table an architect and a buyer agree on, predicted from a chip description.

The suite (models, precisions, input/output lengths, concurrency) is a file; the metrics are those of a
steady closed loop of C requests: C prompts are prefilled one by one, then O − 1 decode steps serve all
C requests while their context grows from I + 1 to I + O − 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from npusim import parallel, units, yamlio
from npusim.accuracy import trust
from npusim.calibration import Calibrations, Which
from npusim.chip import Chip, load_chip
from npusim.cost import FIDELITIES, Cost, energy, estimate, options
from npusim.errors import DoesNotFit, InputError, Problem, Unavailable, unknown_name
from npusim.kperf_steps import steps_of
from npusim.llm import Precision, precision
from npusim.models import Model, load_model
from npusim.workload import Workload, dim

SUITES = Path(__file__).parent / "catalog" / "suites"
DEFAULT_SUITE = "kperf-2025"

Tokens = Annotated[int, Field(ge=1, le=2**24, strict=True)]


def _level(value: object) -> object:
    """A concurrency: a number of requests or ``max``."""
    if value == "max" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**24):
        return value
    raise InputError(Problem(f"{str(value)[:60]!r} is not a concurrency", allowed="a number of requests, or max"))


Level = Annotated[int | str, PlainValidator(_level)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limit(_Spec):
    """A service limit in seconds."""

    ttft_s: Annotated[float, Field(gt=0)]
    tpot_s: Annotated[float, Field(gt=0)]


class Suite(_Spec):
    """A K-Perf suite: what is measured under which conditions. Read it with ``load_suite``."""

    format: Literal["npusim-suite/1"]
    name: str
    title: str = ""
    assumptions: tuple[str, ...] = ()
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    precisions: Annotated[tuple[str, ...], Field(min_length=1)]
    lengths: Annotated[tuple[tuple[Tokens, Tokens], ...], Field(min_length=1, max_length=1000)]
    concurrency: Annotated[tuple[Level, ...], Field(min_length=1, max_length=1000)]
    max_concurrency: Tokens = 1024
    prefill_chunk_tokens: Tokens = 8192
    mlperf_limits: dict[str, dict[str, Limit]] = {}

    @property
    def longest_request(self) -> int:
        """Tokens of the longest request, input plus output."""
        return max(i + o for i, o in self.lengths)


def suite_names() -> list[str]:
    """Names of the suites in the catalog."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name_or_path: str | os.PathLike[str] = DEFAULT_SUITE) -> Suite:
    """Reads a suite by catalog name or path. Raises InputError with every problem of the file."""
    text = str(name_or_path)
    if not text.endswith((".yaml", ".yml")) and os.sep not in text:
        if text not in suite_names():
            raise unknown_name("suite", text, suite_names())
        text = str(SUITES / f"{text}.yaml")
    document = yamlio.load_yaml(text)
    return yamlio.validate(Suite, document.data, document)


@dataclass(frozen=True)
class KPerf:
    """Result of ``kperf``: rows in suite order, and what was assumed.

    Args:
        suite: the suite that ran.
        chips: the chips, in the order asked.
        rows: one mapping per (chip, model, precision, length, concurrency); see ``COLUMNS``.
        fidelity: the model that priced the steps.
        notes: assumptions of the suite, the chips and the model.
        costs: (chip label, model, precision) → (prefill cost, decode cost) over the rows that fit, for plots.
        load: whether the rows carry ``LOAD_COLUMNS`` too.
        calibrated: calibrations were allowed; rows then have the columns ``trust.COLUMNS``.
    """

    suite: Suite
    chips: tuple[Chip, ...]
    rows: tuple[dict[str, Any], ...]
    fidelity: str
    notes: tuple[str, ...]
    costs: dict[tuple[str, str, str], tuple[Cost, Cost]] = field(default_factory=dict, repr=False)
    load: bool = False
    calibrated: bool = False

    @property
    def columns(self) -> tuple[tuple[str, str, str, str], ...]:
        """``COLUMNS``, with those of the load and with states and intervals, before the note, where rows carry them."""
        columns = (*COLUMNS[:-1], *LOAD_COLUMNS, COLUMNS[-1]) if self.load else COLUMNS
        return trust.with_columns(columns) if self.calibrated else columns

    @property
    def fitting(self) -> list[dict[str, Any]]:
        """Rows with figures."""
        return [row for row in self.rows if row["fits"]]

    def require_any(self) -> None:
        """Raises DoesNotFit when no row fits."""
        if not self.fitting:
            closest = min(self.rows, key=lambda row: float(row["short_bytes"]), default=None)
            if closest is None:
                raise InputError(Problem("nothing was asked: no chip, model or precision", "kperf"))
            if not closest["short_bytes"]:
                raise Unavailable(
                    Problem(f"no row of suite '{self.suite.name}' can run: {closest['note']}", "precision")
                )
            raise DoesNotFit(
                f"no row of suite '{self.suite.name}' fits; the closest is {closest['model']} {closest['precision']} "
                f"on {closest['tp']} x {closest['chip']}, short by {units.show(closest['short_bytes'], 'B')} per chip",
                closest["short_bytes"],
            )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: plain types, stable keys, units in the keys."""
        return {
            "suite": self.suite.model_dump(mode="json"),
            "fidelity": self.fidelity,
            "chips": [
                {"name": c.name, "title": c.title, "overrides": c.overrides, "assumptions": c.assumptions()}
                for c in self.chips
            ],
            "notes": list(self.notes),
            "rows": [dict(row) for row in self.rows],
        }


# Columns in order: key, heading, unit shown, what it is.
COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("chip", "Chip", "", "chip"),
    ("model", "Model", "", "model"),
    ("precision", "Precision", "", "formats of weights, activations and KV cache"),
    ("tp", "Chips", "", "tensor-parallel chips"),
    ("input_tokens", "Input", "tokens", "prompt length I"),
    ("output_tokens", "Output", "tokens", "output length O"),
    ("concurrency", "Concurrency", "requests", "closed loop of C requests"),
    ("ttft_s", "TTFT", "ms", "prefill of one prompt on an idle system"),
    ("tpot_s", "TPOT", "ms", "mean decode step over the growing context at C requests"),
    ("ttft_burst_s", "TTFT, burst", "ms", "C x TTFT: the last of C prompts that arrive together"),
    ("tpot_loaded_s", "TPOT, loaded", "ms", "what a user sees while others prefill"),
    ("tokens_per_s", "Throughput", "tokens/s", "C O / (C TTFT + (O-1) TPOT)"),
    ("tokens_per_s_per_user", "per user", "tokens/s", "throughput / C"),
    ("tokens_per_s_per_chip", "per chip", "tokens/s", "throughput / chips"),
    ("mfu", "MFU", "%", "model FLOPs / (time x chips x peak of the matmul format)"),
    ("mbu", "MBU", "%", "(weight + KV bytes) / (time x chips x DRAM bandwidth)"),
    ("avg_power_w", "Power", "W", "average over the loop, all chips"),
    ("tokens_per_j", "Efficiency", "tokens/J", "output tokens per joule"),
    ("bound_prefill", "Prefill bound", "", "resource that bounds most of the prefill"),
    ("bound_decode", "Decode bound", "", "resource that bounds most of the decode"),
    ("memory_bytes", "Memory", "GB", "weights, KV cache and activations per chip"),
    ("mlperf_limits_met", "MLPerf limits met", "", "loadgen limits met by ttft_s and tpot_loaded_s"),
    ("note", "Note", "", "why a row has no figures"),
)

# More of them, with ``under_load`` (npusim.serving): the row's closed loop, request by request.
LOAD_COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("load_ttft_p50_s", "TTFT p50", "ms", "under load: median time to first token, chunked prefill among decodes"),
    ("load_ttft_p99_s", "TTFT p99", "ms", "under load: 99th percentile of the time to first token"),
    ("load_tpot_p50_s", "TPOT p50", "ms", "under load: median time per output token of a request"),
    ("load_tpot_p99_s", "TPOT p99", "ms", "under load: 99th percentile of the time per output token"),
    ("load_tokens_per_s", "Loaded throughput", "tokens/s", "under load: output tokens per second of the loop"),
    ("load_goodput_tokens_per_s", "Goodput", "tokens/s", "under load: output tokens per second within the limits"),
    ("load_attainment", "SLO met", "%", "under load: share of the requests within the limits"),
)


def kperf(
    chip: Chip | str | Sequence[Chip | str],
    *,
    suite: Suite | str = DEFAULT_SUITE,
    models: Iterable[Model | str] = (),
    precisions: Iterable[str] = (),
    tp: int | None = None,
    fidelity: str | None = None,
    progress: Callable[[str], None] | None = None,
    power_cap: bool = False,
    calibration: Which | Calibrations = "none",
    software: str | None = None,
) -> KPerf:
    """Predicts the K-Perf table of one or several chips.

    Args:
        chip: a chip, a name or path, or several.
        suite: a suite, a catalog name or a path.
        models: models instead of the suite's.
        precisions: precisions instead of the suite's.
        tp: tensor-parallel degree (None: the smallest that fits, per model and precision).
        fidelity: which cost model prices the steps.
        progress: called with a label after each (chip, model, precision).
        power_cap: lower the clock of each step until its power fits the TDP (``npusim.cost.power``); rows
            then carry the clock shares and USD per million tokens, and power comes from the bottom-up energy family.
        calibration: documents that may price operators, as for ``npusim.estimate``.
        software: whose kernels; default: per case the stack with documents for most of the decode time.

    Raises:
        InputError: unknown names or bad values. Rows that do not fit are rows, not errors.
    """
    chosen = suite if isinstance(suite, Suite) else load_suite(suite)
    if tp is not None:
        tp = int(dim("tp", tp))
    if fidelity is not None and fidelity not in FIDELITIES:
        raise unknown_name("fidelity", fidelity, FIDELITIES)
    chips = tuple(c.require() if isinstance(c, Chip) else load_chip(c) for c in _each(chip, Chip))
    nets = [m if isinstance(m, Model) else load_model(m) for m in dict.fromkeys(_each(models, Model) or chosen.models)]
    formats = {name: precision(name) for name in _each(precisions, str) or chosen.precisions}
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = dict.fromkeys(chosen.assumptions)
    costs: dict[tuple[str, str, str], tuple[Cost, Cost]] = {}
    allowed = calibration if isinstance(calibration, Calibrations) else Calibrations(calibration)
    # Of two defaults the one every chip is described for: "roofline" sorts before "tile".
    fidelity = min((options(one, fidelity, allowed, software)[0] for one in chips), default="roofline")
    notes[trust.COLUMNS_NOTE if allowed else trust.sentence(trust.trust_of(trust.STEP, fidelity))] = None
    for label, one in zip(chip_labels(chips), chips, strict=True):
        notes.update(dict.fromkeys(chip_notes(one, fidelity, power_cap, bool(allowed))))
        for model in nets:
            if not model.causal:
                raise InputError(Problem(f"'{model.name}' is an encoder: it has no decode step", "model"))
            for name, fmt in formats.items():
                case = _Case(label, one, model, name, fmt, chosen, fidelity, tp, power_cap, allowed, software)
                rows += case.rows()
                notes.update(dict.fromkeys(case.notes()))
                if case.sample is not None:
                    costs[label, model.name, name] = case.sample
                if progress:
                    progress(f"{one.name} {model.name} {name}")
    return KPerf(chosen, chips, tuple(rows), fidelity, tuple(notes), costs, calibrated=bool(allowed))


def _dram_note(chip: Chip, fidelity: str) -> str:
    from npusim.cost.tile import stream_efficiency  # it loads the compiled models

    share = stream_efficiency(chip)
    if share is None:
        return "main memory at its peak rate"
    if fidelity == "cycle":
        return "main memory with banks, timings and refresh"
    return f"main memory streams at {share:.0%} of its pin rate"


_CAVEATS = {
    "roofline": "uncalibrated roofline bounds: no launch overhead, latency or imperfect overlap.",
    "tile": "uncalibrated tile model: best mapping of its menu, overheads as the chip file states, {dram}.",
    "cycle": "uncalibrated cycle model: event-driven run of the tile model's mappings, {dram}.",
}


def fit_note(cost: Cost) -> str:
    """Whether the sequences of a model step fit the chip's memory; empty when they do or nothing is known."""
    info, model = cost.workload.info, cost.workload.model
    if model is None or np.ndim(cost.time_s):
        return ""
    fmt = Precision(info["weights"], info["activations"], info["kv"])
    tokens = info.get("context") or info.get("prompt") or 1
    split = {"tp": info.get("tp", cost.chips), "ep": info.get("ep", 1)}
    need = parallel.footprint(model, fmt, sequences=info["batch"], tokens=tokens, **split).total_bytes
    usable = parallel.usable_bytes(cost.chip)
    if need <= usable:
        return ""
    return f"does not fit: needs {units.show(float(need), 'B')} per chip, usable {units.show(usable, 'B')}."


def _each(value: Any, kind: type) -> tuple[Any, ...]:
    """One thing or several as a tuple; names and paths count as one."""
    return (value,) if isinstance(value, (kind, str, os.PathLike)) else tuple(value)


def chip_labels(chips: Sequence[Chip]) -> list[str]:
    """Names that tell the chips of one table apart: variants of one chip carry what was changed."""
    names = [chip.name for chip in chips]
    labels: list[str] = []
    for chip in chips:
        label = chip.name
        if names.count(chip.name) > 1 and chip.overrides:
            label += " [" + ", ".join(f"{key} = {value}" for key, value in chip.overrides.items()) + "]"
        same = 1 + sum(other == label or other.startswith(f"{label} #") for other in labels)
        labels.append(label if same == 1 else f"{label} #{same}")
    return labels


def assumed_note(chip: Chip) -> str:
    """Which figures of a chip are assumed, in a sentence; empty when none is."""
    assumed = [path for path in chip.assumptions() if path not in chip.overrides]
    if assumed and chip.category == "design":
        return "a reference design of this project, not a product; every figure is a design choice."
    return f"assumed figures: {', '.join(assumed)}." if assumed else ""


def cost_notes(cost: Cost) -> list[str]:
    """``chip_notes`` of one priced workload."""
    return chip_notes(cost.chip, cost.fidelity, cost.power is not None, cost.calibration is not None)


def chip_notes(
    chip: Chip, fidelity: str = "roofline", power_cap: bool = False, calibrated: bool = False
) -> list[str]:  # fmt: skip
    """What a reader of this chip's figures must know: assumed figures, overrides, what is not modelled."""
    notes = []
    assumed = assumed_note(chip)
    if assumed:
        notes.append(f"{chip.name}: {assumed}")
    if chip.overrides:
        notes.append(
            f"{chip.name}: changed on request: " + ", ".join(f"{k} = {v}" for k, v in chip.overrides.items()) + "."
        )
    if chip.core.vector is None:
        notes.append(
            f"{chip.name}: no vector unit is described, so softmax, norms and activations cost no vector time."
        )
    if chip.power.tdp_w is None:
        notes.append(f"{chip.name}: no TDP is known, so there is no power figure.")
    constants = energy.energies(chip)
    if power_cap:
        notes.append(
            f"{chip.name}: power by events at public constants (bottom-up, docs/power-area-cost.md); the clock of each "
            "step is lowered until its average power fits the TDP."
        )
    elif constants is not None:
        notes.append(
            f"{chip.name}: power by the simple model: {constants.static_w:.0f} W static while working, "
            "the rest per FLOP and byte."
        )
    caveat = _CAVEATS[fidelity].format(dram=_dram_note(chip, fidelity) if fidelity != "roofline" else "")
    whose = "operators without a calibration: " if calibrated else ""
    notes.append(f"{chip.name}: {whose}{caveat}")
    return notes


@dataclass
class _Case:
    """One chip, model and precision over the suite's grid."""

    label: str
    chip: Chip
    model: Model
    precision: str
    fmt: Precision
    suite: Suite
    fidelity: str
    asked_tp: int | None
    power_cap: bool = False
    calibrations: Calibrations = field(default_factory=lambda: Calibrations("none"))
    software: str | None = None
    sample: tuple[Cost, Cost] | None = None

    def notes(self) -> list[str]:
        """Notes that hold for this case only."""
        if self._lacking_rate():
            return []
        notes = [] if self.sample is None else [self._remark(cost) for cost in self.sample if cost.remarks]
        name, _ = self.chip.peak_flops_per_s(self.fmt.engine)
        if name != self.fmt.engine:
            notes.append(f"{self.chip.name}: has no {self.fmt.engine} rate; {self.fmt.engine} runs at its {name} rate.")
        if self.model.quantization is not None:
            notes.append(
                f"{self.model.name}: weights are priced as the precision says, not as its quantization_config."
            )
        if self.model.moe:
            notes.append(f"{self.model.name}: expert weights read are the expectation under uniform routing.")
        most = self.model.max_positions
        if most is not None and self.suite.longest_request > most:
            notes.append(
                f"{self.model.name}: requests of {self.suite.longest_request} tokens exceed its {most} positions."
            )
        return notes

    def _remark(self, cost: Cost) -> str:
        return f"{self.model.name} {self.precision}, {cost.workload.info['phase']}: {cost.remarks[0]}"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of this case, in suite order."""
        lacking = self._lacking_rate()
        try:
            tp = self.asked_tp or parallel.smallest_degree(
                self.model,
                self.fmt,
                self.chip,
                tokens=self.suite.longest_request,
                chunk_tokens=self.suite.prefill_chunk_tokens,
            )
        except DoesNotFit:
            tp = parallel.DEGREES[-1] if self.chip.link is not None else 1
        grid = [self._place(i, o, c, tp) for i, o in self.suite.lengths for c in self.suite.concurrency]
        if lacking:
            return [row | {"fits": False, "short_bytes": 0.0, "note": lacking} for row in grid]
        fitting = [row for row in grid if row["fits"]]
        if fitting:
            self._price(fitting, tp)
        return grid

    def _lacking_rate(self) -> str:
        """Why the chip cannot run this precision at all; empty when it can."""
        # Attention runs at the KV format's rate, routers of experts in bf16.
        for fmt in (self.fmt.engine, self.fmt.kv, *(["bf16"] if self.model.moe else [])):
            try:
                self.chip.peak_flops_per_s(fmt)
            except Unavailable:
                return f"no rate for {fmt}; the chip lists {', '.join(self.chip.peaks_flops_per_s)}"
        return ""

    def _place(self, inputs: int, outputs: int, level: int | str, tp: int) -> dict[str, Any]:
        """One row with its memory, not yet its times."""
        sizes: dict[str, Any] = {"tokens": inputs + outputs, "tp": tp, "chunk_tokens": self.suite.prefill_chunk_tokens}
        largest = parallel.largest_batch(self.model, self.fmt, self.chip, limit=self.suite.max_concurrency, **sizes)
        c = max(largest, 1) if level == "max" else int(level)
        need = parallel.footprint(self.model, self.fmt, sequences=c, **sizes).total_bytes
        short = need - parallel.usable_bytes(self.chip)
        row: dict[str, Any] = {key: None for key, *_ in (*COLUMNS, *(trust.COLUMNS if self.calibrations else ()))}
        row |= {
            "chip": self.label,
            "model": self.model.name,
            "precision": self.precision,
            "tp": tp,
            "input_tokens": inputs,
            "output_tokens": outputs,
            "concurrency": c,
            "concurrency_level": str(level),
            "memory_bytes": float(need),
            "fits": short <= 0,
            "short_bytes": max(float(short), 0.0),
            "note": "",
        }
        if short > 0:
            row["note"] = f"does not fit: short by {units.show(float(short), 'B')} per chip"
        return row

    def _price(self, rows: list[dict[str, Any]], tp: int) -> None:
        """Fills the metrics of rows that fit, all of them in one vectorised evaluation per phase."""
        inputs, outputs, c = (
            np.array([row[key] for row in rows]) for key in ("input_tokens", "output_tokens", "concurrency")
        )
        steps = outputs - 1
        works = steps_of(self.model, self.fmt, tp, *(tuple(column.tolist()) for column in (inputs, outputs, c)))
        # The decode chooses the software where none was named.
        step, first = (self._step_cost(work) for work in reversed(works.steps))
        weight = works.weight
        self.sample = (first, step)

        def mean(value: Any) -> np.ndarray:
            """Average over the decode steps; 0 when there are none (O = 1)."""
            return np.asarray(np.sum(np.broadcast_to(value, weight.shape) * weight, axis=1))

        ttft = np.broadcast_to(first.time_s, c.shape)
        tpot = mean(step.time_s)
        loop = c * ttft + steps * tpot
        throughput = c * outputs / loop
        columns: dict[str, Any] = {
            "ttft_s": ttft,
            "tpot_s": np.where(steps > 0, tpot, np.nan),
            "ttft_burst_s": c * ttft,
            "tokens_per_s": throughput,
            "tokens_per_s_per_user": throughput / c,
            "tokens_per_s_per_chip": throughput / tp,
            "tpot_loaded_s": np.where(steps > 0, (loop - ttft) / np.maximum(steps, 1), np.nan),
        }
        columns |= self._utilisation(first, step, works.useful, mean, c, steps, loop)
        bounds = _bounds(first, step, mean, c.shape)
        trusted = trust.row_columns(first, step, mean, len(rows)) if self.calibrations else {}
        for index, row in enumerate(rows):
            decodes = row["output_tokens"] > 1
            row |= {k: v[index] for k, v in trusted.items() if decodes or k not in trust.DECODE_KEYS}
            for key, values in columns.items():
                value = float(np.broadcast_to(values, c.shape)[index])
                row[key] = value if np.isfinite(value) else None
            row["bound_prefill"] = bounds[0][index]
            row["bound_decode"] = bounds[1][index] if row["output_tokens"] > 1 else None
            row["mlperf_limits_met"] = self._limits(row)

    def _step_cost(self, work: Workload) -> Cost:
        """A step's cost, at the clock where its power fits when that was asked for."""
        cost = estimate(work, self.chip, self.fidelity, calibration=self.calibrations, software=self.software)
        if self.software is None and cost.calibration is not None:
            self.software = cost.calibration.software or None
        if not self.power_cap:
            return cost
        from npusim.cost.power import at_power_limit

        return at_power_limit(cost)

    def _utilisation(
        self, first: Cost, step: Cost, useful: tuple[Any, ...], mean: Callable[[Any], np.ndarray], c: np.ndarray,
        steps: np.ndarray, loop: np.ndarray,
    ) -> dict[str, Any]:  # fmt: skip
        assert self.chip.memory is not None and self.chip.memory.bandwidth_bytes_per_s
        _, peak = self.chip.peak_flops_per_s(self.fmt.engine)
        flops = c * useful[0] + steps * mean(useful[2])
        moved = c * useful[1] + steps * mean(useful[3])
        tp = first.chips
        result: dict[str, Any] = {
            "mfu": flops / (loop * tp * peak),
            "mbu": moved / (loop * tp * self.chip.memory.bandwidth_bytes_per_s),
        }
        if first.power is not None and step.power is not None:
            result["clock_share_prefill"] = np.broadcast_to(first.power.clock_share, c.shape)
            result["clock_share_decode"] = mean(step.power.clock_share)
        if first.energy_j is not None:
            joules = c * first.energy_j + steps * mean(step.energy_j)
            result |= {"avg_power_w": joules / loop, "tokens_per_j": c * (steps + 1) / joules}
        if first.power is not None:
            result["usd_per_mtoken"] = self._usd_per_mtoken(c * (steps + 1) / loop, joules / loop, tp)
        return result

    def _usd_per_mtoken(self, tokens_per_s: np.ndarray, power_w: np.ndarray, tp: int) -> np.ndarray:
        """Cost of a million output tokens at the constants of ``npusim.cost.money``."""
        from npusim.cost.money import chip_cost_usd, usd_per_mtoken

        return np.asarray(usd_per_mtoken(tokens_per_s, chip_cost_usd(self.chip).total_usd, power_w, tp).usd)

    def _limits(self, row: dict[str, Any]) -> list[str] | None:
        limits = self.suite.mlperf_limits.get(self.model.name)
        if not limits or row["tpot_loaded_s"] is None:
            return None
        return [
            name
            for name, limit in limits.items()
            if row["ttft_s"] <= limit.ttft_s and row["tpot_loaded_s"] <= limit.tpot_s
        ]


def _bounds(
    first: Cost, step: Cost, mean: Callable[[Any], np.ndarray], shape: tuple[int, ...]
) -> tuple[list[str], list[str]]:
    """Per row, the resource in whose operators most of the prefill and of the decode time is spent."""
    prefill_s = {name: np.broadcast_to(seconds, shape) for name, seconds in first.bound_seconds.items()}
    decode_s = {name: mean(seconds) for name, seconds in step.bound_seconds.items()}
    return tuple(
        [max(table, key=lambda name: table[name][i]) for i in range(shape[0])] for table in (prefill_s, decode_s)
    )  # type: ignore[return-value]
