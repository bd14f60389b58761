"""The serving engine against measured throughput of whole runs; writes ``docs/serving-accuracy.md``.

    python -m bench.serving_accuracy [DATA] [OUT.md] [--gate] [--fit] [--jobs N]

Sources: the vendor's tables at maximum load, MLPerf Inference v4.1, ``splitwise_sim`` and ``llm_inference_bench``. Each
run is predicted from the chip file alone and with ``--calibration auto``; where a fit on that source lies behind the
latter, again with constants of the other chips (or models) only. ``--fit`` prints entries of
``catalog/serving/constants.yaml``; ``--gate`` also writes the figures the test suite compares with.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median

import numpy as np

from bench.serving_accuracy_page import document
from npusim.chip import load_chip
from npusim.serving.steps import Constants
from npusim.serving.throughput import Observation, Scored, constants_of, grouped, score
from npusim.serving.throughput_rows import deduplicated, read

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
OUT, GATE = ROOT / "docs" / "serving-accuracy.md", ROOT / "tests" / "serving_gate.json"
MODELS = ("llama-3.1-8b", "llama-3.3-70b", "llama-3.1-405b")  # of the vendor's tables at maximum load
MOST_CHIPS = 8  # of MLPerf; more are copies of the same
FITTED_CHIPS = ("a100-40gb", "a100", "h100")  # whose static batches entered constants.yaml, by class
USABLE = (0.9, 0.93, 0.95, 0.97, 1.0)
SOURCES = {
    "vendor": "facts/published.json",
    "MLPerf v4.1": "measured/mlperf_inference/llm_loadgen.csv",
    "splitwise_sim": "measured/splitwise_sim/e2e.csv",
    "llm_inference_bench": "measured/llm_inference_bench/e2e.csv",
}


@dataclass(frozen=True)
class Result:
    """A run with its predictions.

    Args:
        source: the data set.
        alone: by the chip file.
        auto: with the constants of the catalog.
        aside: percent of error with constants that were not fitted on this chip or model; None: nothing of this
            source was fitted, or the run was not predicted.
    """

    source: str
    alone: Scored
    auto: Scored
    aside: float | None = None

    @property
    def group(self) -> str:
        """Source, what was run, on which chip."""
        seen = self.auto.seen
        if self.source == "vendor":
            return f"{self.source}, {seen.model.name}, {seen.chip.name}"
        if seen.scenario:
            other = "" if seen.software in (None, "trtllm") else f", {seen.software}"
            return f"{self.source}, {seen.scenario}, {seen.model.name}, {_chip(seen)}{other}"
        return f"{self.source}, {seen.software or 'other'}, {_chip(seen)}"


def _chip(seen: Observation) -> str:
    if seen.chip.overrides and seen.chip.memory is not None:
        return f"{seen.chip.name} ({seen.chip.memory.capacity_bytes / 1e9:g} GB)"
    return seen.chip.name


def observed(source: str, data: Path) -> list[Observation]:
    """The runs of a source that say what they ran."""
    runs = deduplicated(read(data / SOURCES[source])[0])
    if source == "vendor":
        return [run for run in runs if run.batch is None and run.software == "trtllm" and run.model.name in MODELS]
    if source == "MLPerf v4.1":
        return [run for run in runs if run.chips <= MOST_CHIPS]
    if source == "splitwise_sim":
        # Latency falls with longer outputs from 1024 on: those runs ended before.
        return [run for run in runs if run.output < 1024]
    # Rows with one output token repeat the latency of as many as the prompt has; the A100 is the board with 40 GB: the
    # waves in which 64 sequences run fit no other. Models of one table differ in one figure only.
    small = load_chip("a100-40gb")
    return [replace(run, chip=small) if run.chip.name == "a100" else run for run in runs
            if run.output > 1 and run.model.name in ("llama-2-7b", "llama-3.1-8b", "mistral-7b")]  # fmt: skip


def results(data: Path, sources: Iterable[str] = tuple(SOURCES), jobs: int = 1) -> list[Result]:
    """All runs with their predictions.

    Args:
        data: the folder of the sources.
        sources: which of them.
        jobs: processes that predict them.
    """
    parts: dict[tuple[str, ...], list[Observation]] = {}
    for source in sources:
        for run in observed(source, data):
            parts.setdefault((source, run.chip.name, run.model.name, run.software or ""), []).append(run)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = pool.map(_predicted, [source for source, *_ in parts], parts.values())
        return aside_batches(aside_models([one for part in found for one in part]))


def _predicted(source: str, runs: Sequence[Observation]) -> list[Result]:
    found: list[Result] = []
    for _, members in grouped(Scored(run, None) for run in runs):
        some = [one.seen for one in members]
        auto = score(some, "auto")  # first: it chooses the placement of scenarios for both
        found += [Result(source, *pair) for pair in zip(score(some, "none"), auto, strict=True)]
    return found


# -- what was fitted, and errors without it ---------------------------------------------------------------------------


def aside_models(found: Sequence[Result]) -> list[Result]:
    """Errors at maximum load with the share of memory that fits the other models best."""
    runs = [one for one in found if one.source == "vendor" and one.auto.tokens_per_s]
    errors: dict[tuple[str, float], list[float]] = {}
    for name in dict.fromkeys(one.auto.seen.model.name for one in runs):
        seen = [one.auto.seen for one in runs if one.auto.seen.model.name == name]
        constants = constants_of(seen[0])
        for usable in USABLE:
            errors[name, usable] = [
                one.error_pct or 0.0 for one in score(seen, constants=replace(constants, usable=usable))
            ]
    known = list(dict.fromkeys(name for name, _ in errors))
    left: dict[str, list[float]] = {}
    for name in known:
        others = [other for other in known if other != name]
        if others:
            best = min(USABLE, key=lambda share: fmean(fmean(map(abs, errors[other, share])) for other in others))
            left[name] = errors[name, best]
    aside = {id(one): left[name][i] for name in left
             for i, one in enumerate(one for one in runs if one.auto.seen.model.name == name)}  # fmt: skip
    return [replace(one, aside=aside.get(id(one), one.aside)) for one in found]


@dataclass(frozen=True)
class Batch:
    """A static batch: seconds measured, seconds of the engine without host time, and what host time counts by."""

    chip: str
    program: str
    measured_s: float
    engine_s: float
    steps: int
    exchanges: int
    sequences: int

    def seconds(self, host: Sequence[float]) -> float:
        """With host times of a step, an exchange and a sequence."""
        return self.engine_s + self.steps * float(np.dot(host, (1.0, self.exchanges, self.sequences)))


def batch_of(scored: Scored, constants: Constants) -> Batch:
    """A run of the engine without the constants' host time."""
    seen = scored.seen
    assert seen.batch is not None
    layers = sum(count for _, count in seen.model.blocks)
    # Two exchanges a layer and one after the embedding, for each chip beyond the first.
    exchanges = (2 * layers + 1) * (seen.chips - 1)
    host = (constants.host_s or 0.0, constants.exchange_s, constants.sequence_s)
    batch = Batch(seen.chip.name, seen.software or "", seen.batch * seen.output / seen.tokens_per_s, scored.seconds,
                  scored.steps, exchanges, seen.batch)  # fmt: skip
    return replace(batch, engine_s=batch.seconds([-part for part in host]))


def fitted_host(batches: Sequence[Batch]) -> tuple[float, ...]:
    """Host times, none below zero, at the least relative error; large errors count linearly."""
    from scipy.optimize import least_squares

    unit = np.array([1e-3, 1e-5, 1e-5])

    def residuals(values: np.ndarray) -> np.ndarray:
        host = np.abs(values) * unit
        return np.array([np.log(one.seconds(host) / one.measured_s) for one in batches])

    found = least_squares(residuals, np.ones(3), loss="soft_l1", f_scale=0.1)
    return tuple(float(value) for value in np.abs(found.x) * unit)


def batches_of(found: Iterable[Result], program: str) -> list[tuple[Result, Batch]]:
    """Static batches of a program on the chips that its constants were learned on."""
    some = [one for one in found if one.auto.tokens_per_s and one.auto.seen.batch is not None
            and one.auto.seen.software == program and one.auto.seen.chip.name in FITTED_CHIPS]  # fmt: skip
    return [(one, batch_of(one.auto, constants_of(one.auto.seen))) for one in some]


def programs_of(found: Iterable[Result]) -> list[str]:
    """Programs whose host time was fitted to static batches."""
    return sorted({one.auto.seen.software or "" for one in found if one.auto.seen.batch is not None} - {""})


def aside_batches(found: Sequence[Result]) -> list[Result]:
    """Errors of static batches with host times of the other chips."""
    aside: dict[int, float] = {}
    for program in programs_of(found):
        pairs = batches_of(found, program)
        for chip in {batch.chip for _, batch in pairs}:
            others = [batch for _, batch in pairs if batch.chip != chip]
            if not others:
                continue
            host = fitted_host(others)
            for one, batch in pairs:
                if batch.chip == chip:
                    aside[id(one)] = 100 * (batch.measured_s / batch.seconds(host) - 1)
    return [replace(one, aside=aside.get(id(one), one.aside)) for one in found]


def entries(found: Sequence[Result]) -> str:
    """Entries of ``constants.yaml``: host times of each program on all chips, and the range over chips left out."""
    lines = []
    for program in programs_of(found):
        batches = [batch for _, batch in batches_of(found, program)]
        chips = sorted({batch.chip for batch in batches})
        if not chips:
            continue
        best = fitted_host(batches)
        parts = [fitted_host([batch for batch in batches if batch.chip == chip]) for chip in chips]
        lines.append(f"  {program}: chips {chips}, rows {len(batches)}")
        for i, name in enumerate(("host_s", "exchange_s", "sequence_s")):
            values = [best[i], *(part[i] for part in parts)]
            lines.append(
                f"    {name}: {{value: {best[i]:.3g}, low: {min(values):.3g}, high: {max(values):.3g}, unit: s}}"
            )
    return "\n".join(lines)


# -- figures ----------------------------------------------------------------------------------------------------------


def figures(found: Sequence[Result]) -> dict[str, dict[str, float | int | str | None]]:
    """Errors by group: how many runs, mean error, mean and median absolute errors, in percent."""
    groups: dict[str, list[Result]] = {}
    for one in found:
        groups.setdefault(one.group, []).append(one)
    return {name: _figures(members) for name, members in groups.items()}


def _figures(members: Sequence[Result]) -> dict[str, float | int | str | None]:
    alone = [one.alone.error_pct for one in members if one.alone.error_pct is not None]
    auto = [one.auto.error_pct for one in members if one.auto.error_pct is not None]
    aside = [one.aside for one in members if one.aside is not None]
    return {
        "runs": len(members), "predicted": len(auto), "alone": _mape(alone), "mean": fmean(auto) if auto else None,
        "auto": _mape(auto), "median": median(map(abs, auto)) if auto else None, "aside": _mape(aside),
        "state": ", ".join(sorted({one.auto.state for one in members if one.auto.error_pct is not None})),
    }  # fmt: skip


def _mape(errors: Sequence[float]) -> float | None:
    return fmean(map(abs, errors)) if errors else None


def program_errors(found: Sequence[Result]) -> dict[str, dict[str, float]]:
    """``errors_pct`` of ``constants.yaml``: mean absolute errors by program and state, in percent.

    Calibrated: of the runs of the fit. Transferred: of the same runs with constants of the other chips; for the program
    of the vendor's tables, whose host time is zero, of MLPerf's dense model on chips it was not learned on.
    """
    errors = {}
    for program in programs_of(found):
        fitted = [one for one, _ in batches_of(found, program)]
        if fitted:
            errors[program] = {
                "calibrated": fmean(abs(one.auto.error_pct or 0.0) for one in fitted),
                "transferred": fmean(abs(one.aside or 0.0) for one in fitted),
            }
    vendor = [one.auto.error_pct for one in found if one.source == "vendor"]
    others = [one.auto.error_pct for one in found if one.source == "MLPerf v4.1" and one.auto.state == "transferred"
              and one.auto.seen.software == "trtllm" and not one.auto.seen.model.moe]  # fmt: skip
    known = {"calibrated": vendor, "transferred": others}
    shown = {state: [value for value in values if value is not None] for state, values in known.items()}
    if all(shown.values()):
        errors["trtllm"] = {state: fmean(map(abs, values)) for state, values in shown.items()}
    return errors


def gate_figures(runs: Iterable[Scored]) -> Mapping[str, float]:
    """Mean absolute errors by model; a run that is not predicted counts as 100 %."""
    errors: dict[str, list[float]] = {}
    for one in runs:
        errors.setdefault(one.seen.model.name, []).append(100.0 if one.error_pct is None else abs(one.error_pct))
    return {name: round(fmean(values), 3) for name, values in sorted(errors.items())}


def main() -> None:
    """Writes the document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("out", nargs="?", type=Path, default=OUT)
    parser.add_argument("--gate", action="store_true", help="also write the figures the test suite compares with")
    parser.add_argument("--fit", action="store_true", help="print entries of catalog/serving/constants.yaml")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    given = parser.parse_args()
    found = results(given.data, jobs=given.jobs)
    given.out.write_text(document(found, figures(found), program_errors(found)), encoding="utf-8")
    if given.fit:
        print(entries(found))
    if given.gate:
        figures_kept = gate_figures(one.auto for one in found if one.source == "vendor")
        GATE.write_text(json.dumps(figures_kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
