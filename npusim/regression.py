"""Is the current code slower than the baseline? Verdicts on benchmark timings, paired or stored.

Paired timings come from interleaved rounds: baseline, twice the current code, baseline again (A B B A), and
the other way round in every second one (B A A B). A burst or a half-speed window that hits one of the two timings
of a side leaves the other, and a clock that drifts favours one side in even rounds and the other in odd ones.
Stored timings were taken one after the other, so that whatever the machine did in between is in their ratio;
their interval is therefore wide.

A test is slower when its ratio exceeds the threshold and its interval excludes 1; both are needed, the first
because small differences do not matter, the second because noise may exceed any threshold.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.errors import InputError, Problem

FASTER, SLOWER, SAME = "faster", "slower", "same"

# Ratios that matter: with interleaved rounds, and for timings stored at different times.
PAIRED_THRESHOLD, STORED_THRESHOLD = 1.05, 1.10
CONFIDENCE = 0.95
_RESAMPLES = 2000
_MAX_BYTES = 256 * 2**20

# What makes two records those of one machine.
_IDENTITY = ("node", "system", "machine", "cpu.brand_raw", "cpu.count")


@dataclass(frozen=True)
class Verdict:
    """What is known of one test.

    Args:
        test: its full name.
        baseline_s: shortest time of the baseline in seconds.
        current_s: shortest time of the current code in seconds.
        ratio: current time over baseline time; above 1 is slower.
        low: lower end of the interval of the ratio.
        high: upper end.
        verdict: ``faster``, ``slower`` or ``same``.
    """

    test: str
    baseline_s: float
    current_s: float
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Verdicts on all tests of two records.

    Args:
        verdicts: one for each test on both sides.
        only_baseline: tests the current side lacks.
        only_current: tests the baseline lacks.
        notes: what a reader must know: another machine, no commit.
    """

    verdicts: tuple[Verdict, ...]
    only_baseline: tuple[str, ...] = ()
    only_current: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[str, ...]:
        """Names of the tests that are slower."""
        return tuple(v.test for v in self.verdicts if v.verdict == SLOWER)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {
            "tests": [vars(v) for v in self.verdicts],
            "only_baseline": list(self.only_baseline),
            "only_current": list(self.only_current),
            "regressions": list(self.regressions),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Timing:
    """Seconds of one test in a stored record: the shortest, and the lower quartile."""

    min_s: float
    q1_s: float


@dataclass(frozen=True)
class Record:
    """A stored pytest-benchmark result.

    Args:
        file: where it came from.
        machine: what identifies the machine.
        commit: id of the commit, empty when unknown.
        tests: timing of each test by its full name.
    """

    file: str
    machine: Mapping[str, str]
    commit: str
    tests: Mapping[str, Timing]


def order(round_number: int) -> tuple[int, int, int, int]:
    """Which side is timed when in a round: 0 is the baseline, 1 the current code."""
    return (1, 0, 0, 1) if round_number % 2 else (0, 1, 1, 0)


def paired(
    test: str,
    baseline: npt.NDArray[np.float64],
    current: npt.NDArray[np.float64],
    threshold: float = PAIRED_THRESHOLD,
) -> Verdict:
    """Verdict on interleaved timings.

    The shorter of a round's two timings stands for its side. The ratio is the median over rounds, its interval
    the percentile bootstrap of that median (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13),
    with resamples that depend on nothing but the number of rounds.

    Args:
        test: its name.
        baseline: seconds, shape (rounds, 2), timed in the ``order`` above; each the shortest of several runs.
        current: the same of the current code.
        threshold: smallest ratio that counts as slower.
    """
    differences = np.log(current.min(axis=1)) - np.log(baseline.min(axis=1))
    rounds = len(differences)
    draws = np.random.Generator(np.random.PCG64(0)).integers(0, rounds, (_RESAMPLES, rounds))
    medians = np.median(differences[draws], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    ratio = math.exp(float(np.median(differences)))
    interval = math.exp(low), math.exp(high)
    return _verdict(test, float(baseline.min()), float(current.min()), ratio, interval, threshold)


def stored(test: str, baseline: Timing, current: Timing, threshold: float = STORED_THRESHOLD) -> Verdict:
    """Verdict on timings taken at different times.

    The ratio is that of the shortest times. Its interval spans what the lower quarter of either side allows:
    to be slower, even the best run has to be slower than a quarter of the baseline's runs.
    """
    ratio = current.min_s / baseline.min_s
    interval = current.min_s / baseline.q1_s, current.q1_s / baseline.min_s
    return _verdict(test, baseline.min_s, current.min_s, ratio, interval, threshold)


def _verdict(
    test: str, baseline_s: float, current_s: float, ratio: float, interval: tuple[float, float], threshold: float
) -> Verdict:
    low, high = interval
    slower, faster = ratio > threshold and low > 1, ratio < 1 / threshold and high < 1
    verdict = SLOWER if slower else FASTER if faster else SAME
    return Verdict(test, baseline_s, current_s, ratio, low, high, verdict)


def compare(baseline: Record, current: Record, threshold: float = STORED_THRESHOLD, force: bool = False) -> Comparison:
    """Compares two stored records.

    Args:
        baseline: the record to compare with.
        current: the record in question.
        threshold: smallest ratio that counts as slower.
        force: compare records of different machines too.

    Raises:
        InputError: the machines differ, or the records have no test in common.
    """
    differs = [name for name in _IDENTITY if baseline.machine[name] != current.machine[name]]
    notes = []
    if differs:
        what = "; ".join(f"{name}: {baseline.machine[name]} and {current.machine[name]}" for name in differs)
        if not force:
            hint = "record both on one machine, or give --force"
            raise InputError(
                Problem(f"the records come from different machines ({what})", file=current.file, hint=hint)
            )
        notes.append(f"different machines ({what}): the ratios compare machines, not code")
    common = [name for name in baseline.tests if name in current.tests]
    if not common:
        raise InputError(Problem(f"no test in common with {baseline.file}", file=current.file))
    return Comparison(
        tuple(stored(name, baseline.tests[name], current.tests[name], threshold) for name in common),
        tuple(name for name in baseline.tests if name not in current.tests),
        tuple(name for name in current.tests if name not in baseline.tests),
        tuple(notes),
    )


def read_record(file: str | os.PathLike[str]) -> Record:
    """Reads what ``pytest --benchmark-json`` or ``--benchmark-save`` wrote.

    Raises:
        InputError: not such a file, with every test that is not usable.
    """
    name = os.fspath(file)
    data = _json(name)
    if not isinstance(data, dict) or not isinstance(data.get("benchmarks"), list):
        raise InputError(Problem("is no pytest-benchmark result: it has no list of benchmarks", file=name))
    machine = data.get("machine_info")
    tests: dict[str, Timing] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(data["benchmarks"]):
        where = f"benchmarks[{index}]"
        try:
            test, timing = _timing(entry)
        except (KeyError, TypeError, ValueError) as error:
            problems.append(Problem(f"has no usable times ({error})"[:200], where, file=name))
            continue
        if test in tests:
            problems.append(Problem(f"{test!r} is there twice"[:200], where, file=name))
        tests[test] = timing
    if problems:
        raise InputError(problems[:20])
    commit = data.get("commit_info")
    return Record(
        name,
        {key: str(_look_up(machine, key))[:100] for key in _IDENTITY},
        str(commit.get("id", ""))[:64] if isinstance(commit, dict) else "",
        tests,
    )


def _json(name: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        if os.path.getsize(name) > _MAX_BYTES:
            raise InputError(Problem(f"is larger than {_MAX_BYTES >> 20} MiB", file=name))
        with open(name, encoding="utf-8") as stream:
            return json.load(stream, parse_constant=refuse)
    except OSError as error:
        raise InputError(Problem(error.strerror or str(error), file=name)) from None
    except RecursionError:
        raise InputError(Problem("is nested too deeply", file=name)) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(Problem(f"is not JSON: {error}"[:200], file=name)) from None


def _timing(entry: Any) -> tuple[str, Timing]:
    test, stats = entry["fullname"], entry["stats"]
    if not isinstance(test, str) or not test:
        raise ValueError("no name")
    seconds = []
    for key in ("min", "q1"):
        value = stats[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise ValueError(f"{key} is {value!r}")
        seconds.append(float(value))
    if seconds[1] < seconds[0]:
        raise ValueError("q1 is below min")
    return test, Timing(*seconds)


def _look_up(machine: Any, key: str) -> Any:
    for part in key.split("."):
        machine = machine.get(part) if isinstance(machine, dict) else None
    return machine


# -- what is shown ------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """The comparison as a markdown table, worst ratio first."""
    lines = ["| test | baseline | current | ratio | interval | verdict |", "|---|---:|---:|---:|---:|---|"]
    for v in sorted(comparison.verdicts, key=lambda v: -v.ratio):
        verdict = f"**{v.verdict}**" if v.verdict == SLOWER else v.verdict
        times = f"{_time(v.baseline_s)} | {_time(v.current_s)} | {v.ratio:.3f} | {v.low:.3f} – {v.high:.3f}"
        lines.append(f"| {_cell(v.test)} | {times} | {verdict} |")
    return "\n".join([*lines, *_remarks(comparison)])


def text(comparison: Comparison) -> str:
    """The comparison for a terminal, worst ratio first."""
    width = max(len(_cell(v.test)) for v in comparison.verdicts)
    lines = [f"{'test':{width}}  {'baseline':>9}  {'current':>9}  ratio   interval        verdict"]
    for v in sorted(comparison.verdicts, key=lambda v: -v.ratio):
        times = f"{_time(v.baseline_s):>9}  {_time(v.current_s):>9}"
        lines.append(f"{_cell(v.test):{width}}  {times}  {v.ratio:5.3f}  {v.low:5.3f} – {v.high:5.3f}   {v.verdict}")
    return "\n".join([*lines, *_remarks(comparison)])


def _remarks(comparison: Comparison) -> list[str]:
    counts = {kind: sum(v.verdict == kind for v in comparison.verdicts) for kind in (SLOWER, FASTER, SAME)}
    lines = ["", f"{counts[SLOWER]} slower, {counts[FASTER]} faster, {counts[SAME]} the same"]
    for title, names in (("baseline", comparison.only_baseline), ("current", comparison.only_current)):
        lines += [f"only in {title}: {_cell(name)}" for name in names]
    return [*lines, *(f"note: {note}" for note in comparison.notes)]


def _cell(name: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", name).replace("|", "\\|")


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds / 1e-9:.4g} ns"
