"""Measured throughput of whole runs, and what the engine says of the same runs.

A run is a static batch (so many sequences of equal lengths at once), the maximum load (always more requests than the
cache holds) or an MLPerf scenario. Nothing is fitted here: the constants are those of the catalog
(``npusim.serving.constants``) or none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from npusim.calibration import State
from npusim.chip import Chip
from npusim.errors import InputError, NpuError, Problem
from npusim.llm import PRECISIONS
from npusim.llm import precision as named_precision
from npusim.models import Model
from npusim.serving.answer import Case
from npusim.serving.constants import learned
from npusim.serving.engine import Rules, simulate
from npusim.serving.load import Arrivals, Lengths, Synthetic
from npusim.serving.metrics import Digest
from npusim.serving.placement import Placement
from npusim.serving.scenarios import load_scenarios, scenario
from npusim.serving.steps import Constants

# Limits of a step, which few sources state: batches up to the first, and as many new tokens as keep them full (what
# sequences that end make room for), between the other two; TensorRT-LLM's benchmark tool sizes its engines likewise.
MOST_SEQUENCES, LEAST_TOKENS, MOST_TOKENS = 2048, 2048, 8192
WAVES = 3  # of the sequences that fit, at maximum load
SCENARIO_RULES = Rules(max_tokens=MOST_TOKENS, max_sequences=1024)
PLACED_BY = 4000  # samples by which placements of a scenario are compared
LEAST_S = 600.0  # of a run, by the rules of MLPerf


@dataclass(frozen=True)
class Observation:
    """A run whose throughput was measured.

    Args:
        chip: the hardware.
        model: what ran.
        precision: a named precision.
        chips: how many; of a run that is no scenario they split every layer.
        tokens_per_s: output tokens per second of all chips.
        input: prompt tokens (0 for a scenario, which brings its own).
        output: output tokens.
        batch: sequences at once; None: the maximum load.
        software: serving program or stack of kernels; None: not stated.
        scenario: of MLPerf; empty: none.
        label: of the row in a report.
    """

    chip: Chip
    model: Model
    precision: str
    chips: int
    tokens_per_s: float
    input: int = 0
    output: int = 0
    batch: int | None = None
    software: str | None = None
    scenario: str = ""
    label: str = ""

    @property
    def kind(self) -> str:
        """What was run: a scenario, ``maximum load`` or ``static batch``."""
        return self.scenario or ("maximum load" if self.batch is None else "static batch")


@dataclass(frozen=True)
class Scored:
    """What the engine says of a run.

    Args:
        seen: the run.
        tokens_per_s: predicted output tokens per second; None where it cannot be predicted.
        state: how far documents and constants had to reach.
        reason: why there is no prediction.
        steps: steps of the engine.
        seconds: of the run.
    """

    seen: Observation
    tokens_per_s: float | None
    state: State = "uncalibrated"
    reason: str = ""
    steps: int = 0
    seconds: float = 0.0

    @property
    def error_pct(self) -> float | None:
        """Percent by which the prediction is too high."""
        return None if self.tokens_per_s is None else 100 * (self.tokens_per_s / self.seen.tokens_per_s - 1)


def constants_of(seen: Observation, calibration: str = "auto") -> Constants:
    """The catalog's constants for a run; those of the chip file where it is not described for documents."""
    fmt = named_precision(seen.precision)
    return learned(seen.chip, seen.model, fmt, calibration, seen.software if calibration != "none" else None)


def score(runs: Iterable[Observation], calibration: str = "auto", constants: Constants | None = None) -> list[Scored]:
    """Predicts runs.

    Args:
        runs: what was measured.
        calibration: ``none``, ``auto``, a file, a folder or the name of a document.
        constants: instead of the catalog's.
    """
    given = list(runs)
    # Runs of one engine after the other, so that its steps are priced once.
    order = sorted(range(len(given)), key=lambda i: (given[i].chip.name, given[i].model.name, given[i].chips,
                                                     given[i].batch is None))  # fmt: skip
    found = {i: _scored(given[i], constants, calibration) for i in order}
    return [found[i] for i in range(len(given))]


def _scored(seen: Observation, constants: Constants | None, calibration: str) -> Scored:
    try:
        used = constants if constants is not None else _remembered(seen, calibration)
        state: State = used.kernels.state if used.kernels is not None else "uncalibrated"
        if seen.scenario:
            return replace(_scenario(seen, used), state=state)
        return replace(_run(seen, used), state=state)
    except NpuError as error:
        return Scored(seen, None, reason=str(error).splitlines()[0])


def _scenario(seen: Observation, constants: Constants) -> Scored:
    """An MLPerf scenario: one replica of the best placement, times the replicas, which share nothing.

    The placement is chosen once for a chip and model, by the constants that are asked for first. Submissions run for
    ``LEAST_S`` at least, so the samples are repeated until they last that long.
    """
    same: dict[str, Any] = {"precision": seen.precision, "rules": SCENARIO_RULES, "constants": constants}
    place, rate = _once(
        (seen.chip, seen.model, seen.precision, seen.chips, seen.software), _PLACES, lambda: _placed(seen, same)
    )
    samples = PLACED_BY
    if seen.scenario == "offline":
        samples = math.ceil(max(load_scenarios().of(seen.model.name)[1].samples, rate * LEAST_S) / place.replicas)
    one = scenario(seen.chip, seen.model, seen.scenario, chips=place.replica_chips, tp=place.tp,
                   pp=place.pp, ep=place.ep, samples=samples, **same)  # fmt: skip
    totals = one.serving.run.totals
    figure = one.value * place.replicas if one.unit == "tokens/s" else None
    return Scored(seen, figure, reason="" if figure else one.metric, steps=int(totals["steps"]), seconds=totals["now"])


def _placed(seen: Observation, same: dict[str, Any]) -> tuple[Placement, float]:
    """The split of the chips that is best offline, and about how many samples a second it serves."""
    tried = scenario(seen.chip, seen.model, "offline", chips=seen.chips, samples=PLACED_BY, **same).serving
    return tried.case.place, PLACED_BY / max(tried.run.totals["now"], 1e-9)


_KEPT = 64
Memory = list[tuple[Any, Any]]
_CONSTANTS: Memory = []
_PLACES: Memory = []


def _once(key: Any, memory: Memory, compute: Callable[[], Any]) -> Any:
    """What was computed for the key before; descriptions of chips compare, but have no hash."""
    for known, found in memory:
        if known == key:
            return found
    memory.insert(0, (key, compute()))
    del memory[_KEPT:]
    return memory[0][1]


def _remembered(seen: Observation, calibration: str) -> Constants:
    key = (seen.chip, seen.model, seen.precision, seen.software, calibration)
    constants: Constants = _once(key, _CONSTANTS, lambda: constants_of(seen, calibration))
    return constants


def _run(seen: Observation, constants: Constants) -> Scored:
    """A static batch, or the maximum load in a few waves."""
    # The axes of the step table are alike for runs of one engine, so that it is priced once.
    longest = _rounded(seen.input + seen.output)
    most = MOST_SEQUENCES if seen.batch is None else _rounded(seen.batch, 64)
    rules = Rules(max_tokens=MOST_TOKENS, max_sequences=most)
    limit = seen.model.max_positions or longest
    case = Case(seen.model, seen.chip, seen.precision, named_precision(seen.precision), Placement(seen.chips), rules,
                "tile", constants, min(longest, max(limit, seen.input + seen.output)))  # fmt: skip
    at_a_time, count = seen.batch or 0, seen.batch or 0
    if seen.batch is None:
        fits = case.blocks * rules.block_tokens // (seen.input + seen.output)
        at_a_time = max(min(most, fits), 1)
        tokens = at_a_time * (1 + seen.input / seen.output)
        rules = replace(rules, max_tokens=int(min(max(tokens, LEAST_TOKENS), MOST_TOKENS)))
        count = WAVES * at_a_time
    source = Synthetic(Arrivals("closed", concurrency=at_a_time), Lengths("fixed", float(seen.input)),
                       Lengths("fixed", float(seen.output)), count)  # fmt: skip
    digest = Digest()
    run = simulate(source, case.pool(), rules, digest)
    return Scored(seen, digest.output_tokens / run.totals["now"], steps=int(run.totals["steps"]),
                  seconds=run.totals["now"])  # fmt: skip


def _rounded(value: int, least: int = 4096) -> int:
    """The next power of two, at least ``least``."""
    return max(least, 1 << (value - 1).bit_length())


def known_precision(text: str) -> str:
    """The named precision that a spelling of formats means. Raises InputError for one that is not known.

    >>> known_precision("FP8 (TensorRT-LLM 1.0)"), known_precision("float16")
    ('fp8', 'fp16')
    """
    word = text.strip().lower().split(" ")[0].split("/")[0]
    word = {"float16": "fp16", "bfloat16": "bf16", "fp4": "nvfp4", "": "bf16"}.get(word, word)
    if word not in PRECISIONS:
        raise InputError(Problem(f"{text[:40]!r}", "precision", allowed=", ".join(PRECISIONS)))
    return word


def grouped(scores: Iterable[Scored]) -> Iterator[tuple[tuple[str, str, str, str], list[Scored]]]:
    """Scores by kind of run, chip, model and program, in their order."""
    found: dict[tuple[str, str, str, str], list[Scored]] = {}
    for one in scores:
        seen = one.seen
        found.setdefault((seen.kind, seen.chip.name, seen.model.name, seen.software or ""), []).append(one)
    yield from found.items()
