"""MLPerf scenarios: what loadgen would report of these chips, with its published limits.

Offline: all samples at once, tokens per second. Server and Interactive: Poisson arrivals; the tokens per second at the
highest rate whose 99th percentiles of TTFT and TPOT are within the limits. SingleStream: one sample after the other,
the 90th percentile of the end-to-end time. Limits and data sets are in ``catalog/serving/mlperf.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from npusim import yamlio
from npusim.chip import Chip, load_chip
from npusim.errors import InputError, Problem, unknown_name
from npusim.llm import precision as named_precision
from npusim.models import Model, load_model
from npusim.serving import choice
from npusim.serving.answer import (
    PROBE_REQUESTS,
    Case,
    Serving,
    at_rate,
    bisected,
    check_lengths,
    sustainable_rate,
)  # fmt: skip
from npusim.serving.engine import VLLM, Rules
from npusim.serving.load import Arrivals, Synthetic, parse_lengths
from npusim.serving.metrics import Digest, Slo
from npusim.serving.placement import Placement
from npusim.serving.steps import UNFITTED, Constants

SCENARIOS = ("offline", "server", "interactive", "singlestream")
FILE = Path(__file__).parents[1] / "catalog" / "serving" / "mlperf.yaml"
SEQUENCES = 1024  # of a step, unless something else is said: submissions fill the cache
STREAM_SAMPLES = 512  # of SingleStream: enough for a 90th percentile
PERCENTILE = 0.99
STEP_BACK = 0.98  # from a rate that held few samples but not all of them
CHOICE_SAMPLES = 2000  # of a run that only ranks placements


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Spec):
    """99th percentiles at most, in seconds."""

    ttft_s: Annotated[float, Field(gt=0)]
    tpot_s: Annotated[float, Field(gt=0)]


class Benchmark(_Spec):
    """A model's benchmark: its data set as distributions of lengths, and its limits."""

    models: tuple[str, ...]
    samples: Annotated[int, Field(ge=1, le=10**7)]
    input: str
    output: str
    lengths_status: Literal["public", "assumed"]
    lengths_note: str
    server: Limits | None = None
    interactive: Limits | None = None


class Scenarios(_Spec):
    """The catalog file. Read it with ``load_scenarios``."""

    format: Literal["npusim-scenarios/1"]
    name: str
    title: str
    source: str
    status: Literal["public", "assumed"]
    assumptions: tuple[str, ...] = ()
    benchmarks: dict[str, Benchmark]

    def of(self, model: str, asked: str | None = None) -> tuple[str, Benchmark]:
        """The benchmark of a model, or the one that is asked for. Raises InputError when there is none."""
        if asked is not None:
            if asked not in self.benchmarks:
                raise unknown_name("benchmark", asked, self.benchmarks)
            return asked, self.benchmarks[asked]
        for name, benchmark in self.benchmarks.items():
            if model in benchmark.models:
                return name, benchmark
        known = ", ".join(m for b in self.benchmarks.values() for m in b.models)
        hint = "give --benchmark to run another model's samples"
        raise InputError(Problem(f"MLPerf has no benchmark of '{model}'", "--scenario", allowed=known, hint=hint))


@lru_cache(maxsize=1)
def load_scenarios() -> Scenarios:
    """The published scenarios."""
    document = yamlio.load_yaml(FILE)
    return yamlio.validate(Scenarios, document.data, document)


@dataclass(frozen=True)
class ScenarioResult:
    """What a scenario reports.

    Args:
        scenario: its name.
        benchmark: the benchmark's name.
        serving: the run behind the figure.
        metric: what is reported.
        value: the figure, in ``unit``.
        unit: ``"tokens/s"`` or ``"s"``.
        limits: limits of the 99th percentiles (None: no limit).
        valid: whether they are met.
        rate_per_s: rate of the arrivals (0: none).
        notes: what was assumed.
    """

    scenario: str
    benchmark: str
    serving: Serving
    metric: str
    value: float
    unit: str
    limits: Limits | None
    valid: bool
    rate_per_s: float
    notes: tuple[str, ...]

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What is wrong, in sentences."""
        if self.valid:
            return ()
        assert self.limits is not None
        d = self.serving.digest
        return (
            f"not valid at any rate: even at {self.rate_per_s:.3g} requests/s the 99th percentiles are TTFT "
            f"{1e3 * d.ttft.at(PERCENTILE):.4g} ms (limit {1e3 * self.limits.ttft_s:g}) and TPOT "
            f"{1e3 * d.tpot.at(PERCENTILE):.4g} ms (limit {1e3 * self.limits.tpot_s:g})",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, units in the keys; ``serving`` holds the run itself."""
        key = "tokens_per_s" if self.unit == "tokens/s" else "latency_s"
        return {
            "scenario": self.scenario, "benchmark": self.benchmark, "metric": self.metric, key: self.value,
            "valid": self.valid, "limits": self.limits.model_dump() if self.limits else None,
            "percentile": PERCENTILE, "rate_per_s": self.rate_per_s or None, "notes": list(self.notes),
            "verdicts": list(self.verdicts), "serving": self.serving.to_dict(),
        }  # fmt: skip


def scenario(
    chip: Chip | str, model: Model | str, name: str, *, benchmark: str | None = None, chips: int | str = "auto",
    tp: int | None = None, pp: int | None = None, ep: int | None = None, precision: str = "fp8",
    fidelity: str = "tile", rules: Rules = VLLM,
    constants: Constants = UNFITTED, samples: int | None = None, seed: int = 0, keep: bool = False, log: bool = False,
) -> ScenarioResult:  # fmt: skip
    """What loadgen would report of a model on chips.

    Args:
        chip: the hardware.
        model: the network.
        name: an entry of ``SCENARIOS``.
        benchmark: whose samples and limits (None: the model's).
        chips: how many; ``"auto"``: the fewest that hold the model.
        tp: chips that split each layer (None: the shape of a replica with the best figure).
        pp: stages that split the layers (None: chosen with ``tp``, otherwise one).
        ep: chips that share the routed experts (None: chosen with ``tp``, otherwise 1).
        precision: number formats.
        fidelity: which cost model prices the steps.
        rules: how the engines serve; ``max_sequences`` of the default becomes ``SEQUENCES``.
        constants: sustained fractions from a fit.
        samples: how many (None: as many as the benchmark has).
        seed: of lengths and arrivals.
        keep: keep the record of every request.
        log: keep every step.

    Raises:
        InputError: no such scenario, benchmark or limit. DoesNotFit: too few chips.
    """
    if name not in SCENARIOS:
        raise unknown_name("scenario", name, SCENARIOS)
    hardware = chip if isinstance(chip, Chip) else load_chip(chip)
    net = model if isinstance(model, Model) else load_model(model)
    file = load_scenarios()
    title, spec = file.of(net.name, benchmark)
    limits = {"server": spec.server, "interactive": spec.interactive}.get(name)
    if name in ("server", "interactive") and limits is None:
        raise InputError(Problem(f"{title} has no {name} limits", "--scenario"))
    served = replace(rules, max_sequences=min(SEQUENCES, rules.max_tokens)) if rules == VLLM else rules
    lengths = parse_lengths(spec.input, "input"), parse_lengths(spec.output, "output")
    count = (
        samples
        if samples is not None
        else (min(STREAM_SAMPLES, spec.samples) if name == "singlestream" else spec.samples)
    )
    source = Synthetic(Arrivals("closed", concurrency=1 if name == "singlestream" else count), *lengths, count, seed)
    place = Placement(tp or 1, pp or 1, ep=ep or 1)
    place.check()
    case = Case(net, hardware, precision, named_precision(precision), place, served, fidelity, constants,
                check_lengths(source, net))  # fmt: skip
    case = _placed(case, source, limits, chips, choice.Asked(tp, pp, ep))
    run = _rated(case, source, limits, keep, log) if limits else _timed(case, source, keep, log)
    notes = (*file.assumptions, f"{title} samples: {spec.lengths_note} ({spec.lengths_status}).")
    return _result(name, title, run, limits, notes)


def _result(name: str, title: str, run: Serving, limits: Limits | None, notes: tuple[str, ...]) -> ScenarioResult:
    digest, span = run.digest, max(run.run.totals["now"], 1e-12)
    rate = run.source.arrivals.rate_per_s if isinstance(run.source, Synthetic) else 0.0
    if name == "singlestream":
        return ScenarioResult(name, title, run, "90th percentile latency", digest.e2e.at(0.9), "s", None, True, 0.0,
                              notes)  # fmt: skip
    metric = "tokens per second" if name == "offline" else "completed tokens per second"
    valid = limits is None or within(digest, limits)
    value = digest.output_tokens / span if valid else 0.0
    return ScenarioResult(name, title, run, metric, value, "tokens/s", limits, valid, rate, notes)


def within(digest: Digest, limits: Limits) -> bool:
    """Whether both 99th percentiles are within the limits, each on its own."""
    tpot = digest.tpot.at(PERCENTILE)
    return digest.ttft.at(PERCENTILE) <= limits.ttft_s and not tpot > limits.tpot_s


def _timed(case: Case, source: Synthetic, keep: bool = False, log: bool = False) -> Serving:
    run, digest = case.run(source, None, keep, log)
    return Serving(case, source, None, run, digest)


def _rated(case: Case, source: Synthetic, limits: Limits, keep: bool, log: bool) -> Serving:
    """The run at the highest rate within the limits; at a rate so low that nobody meets anybody, when there is none."""
    rate = _highest(case, source, limits, min(source.count, PROBE_REQUESTS))
    slo = Slo(limits.ttft_s, limits.tpot_s)
    asked = rate or 1e-4 * sustainable_rate(case, source)
    while True:
        there = at_rate(source, asked, source.count if rate else min(source.count, CHOICE_SAMPLES))
        run, digest = case.run(there, slo, keep, log)
        if not rate or within(digest, limits) or asked < rate / 2:
            return Serving(case, there, slo, run, digest)
        asked *= STEP_BACK


def _highest(case: Case, source: Synthetic, limits: Limits, count: int) -> float:
    top = sustainable_rate(case, replace(source, count=count))
    return bisected(lambda rate: within(case.run(at_rate(source, rate, count))[1], limits), top)


def _placed(case: Case, source: Synthetic, limits: Limits | None, chips: int | str, asked: choice.Asked) -> Case:
    """The fewest chips that hold the model, or the split of the given chips with the best figure."""
    if chips == "auto":
        return choice.placed(case, source, None, "auto", asked)[0]
    cases = choice.splits(case, int(chips), asked)
    if len(cases) == 1:
        return cases[0]
    weighed = choice.promising(cases, source, Slo(limits.ttft_s, limits.tpot_s) if limits else None)
    return max(choice.asked_of(weighed, lambda one: _worth(one, source, limits)), key=lambda pair: pair[1])[0]


def _worth(case: Case, source: Synthetic, limits: Limits | None) -> float:
    if source.concurrency == 1:
        return -_timed(case, replace(source, count=50)).digest.e2e.at(0.9)
    if limits is not None:
        return _highest(case, source, limits, CHOICE_SAMPLES)
    return sustainable_rate(case, replace(source, count=CHOICE_SAMPLES))
