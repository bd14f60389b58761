"""Results as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.peers.adapters import Installed
from bench.peers.bars import BARS, NONE, Verdict, judge
from bench.peers.timing import Result
from npusim.accuracy.host_facts import read_facts
from npusim.errors import InputError, Problem

METHOD = """One thread, its processor time; ours, every peer and the loops that measure the machine take turns.
Ratios are times of the peer over ours, medians over rounds: above 1 we are faster. "!": another result."""


def line(result: Result) -> str:
    """One problem."""
    best = result.best_peer()
    others = ", ".join(
        f"{name} {ratio:.2f}{'!' if name in result.wrong else ''}" for name, ratio in sorted(result.ratios.items())
    )
    refused = "".join(f"; {name} cannot: {why}" for name, why in result.refused.items())
    first = f"{best[1]:.2f}" if best else "-"
    head = f"{result.group:26s} {result.shape:32s} {result.rate:7.2f} {result.unit:10s}"
    return f"{head} {result.share:5.0%} of roof   best {first:>5s}   {others}{refused}"


def verdicts(results: Iterable[Result]) -> list[Verdict]:
    """Every shape class that was timed, judged."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    return [judge(group, members, BARS.get(group, NONE)) for group, members in groups.items()]


def summary(judged: Sequence[Verdict]) -> str:
    """A markdown table of the shape classes."""
    rows = ["| shape class | shapes | ratio to the best peer | lowest | of the roof | bar | |", "|" + "---|" * 7]
    for v in judged:
        ratio = "-" if v.ratio is None else f"{v.ratio:.2f}"
        if v.ratio_wrong_too is not None and v.ratio_wrong_too != v.ratio:
            ratio += f" ({v.ratio_wrong_too:.2f} with wrong outputs)"
        lowest = "-" if v.lowest is None else f"{v.lowest:.2f}"
        word = {None: "", True: "met", False: "missed"}[v.met]
        if v.met and v.bar.ratio and v.ratio_wrong_too and v.ratio_wrong_too < v.bar.ratio and not v.bar.against:
            word = "met among right outputs only"
        rows.append(f"| {v.group} | {v.shapes} | {ratio} | {lowest} | {v.share:.2f} | {v.bar} | {word} |")
    return "\n".join(rows)


def heading(found: Installed) -> str:
    """Machine, load, peers, and who is missing."""
    lines = [f"{read_facts().model}, load {os.getloadavg()[0]:.1f}"]
    lines += [f"{name}: {version}" for name, version in found.versions.items()]
    lines += [f"{name}: MISSING, {why}" for name, why in found.missing.items()]
    return "\n".join([*lines, METHOD])


def as_json(found: Installed, results: Sequence[Result]) -> dict[str, Any]:
    """Everything that was found."""
    return {
        "machine": read_facts().model,
        "load": os.getloadavg()[0],
        "peers": found.versions,
        "missing": found.missing,
        "results": [dataclasses.asdict(result) for result in results],
        "groups": [dataclasses.asdict(verdict) for verdict in verdicts(results)],
    }


def load(path: Path) -> list[Result]:
    """Results that ``as_json`` wrote.

    Raises:
        InputError: no such file, or not results.
    """
    try:
        held = json.loads(path.read_text())["results"]
        return [Result(**{**fields, "wrong": tuple(fields["wrong"])}) for fields in held]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(Problem(f"{path}: {type(error).__name__}: {error}", "--with")) from None


def merged(earlier: Iterable[Result], later: Iterable[Result]) -> list[Result]:
    """All results, the last of each shape, in the order in which shapes appeared first."""
    return list({(result.group, result.shape): result for result in (*earlier, *later)}.values())
