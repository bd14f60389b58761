"""What a chip has to reach, in the words of a service: model, precision, lengths and limits.

``"llama-3.3-70b fp8 2048/2048 tpot<=20ms ttft<=2s concurrency>=64"`` asks that 64 requests of 2048 input and 2048
output tokens, served as K-Perf serves them, keep to both limits. ``share=0.3`` weighs several of them as one fleet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npusim import llm, parallel
from npusim.chip import Chip
from npusim.cost import estimate
from npusim.cost.technology import Technology
from npusim.errors import DoesNotFit, InputError, NpuError, Problem
from npusim.kperf_steps import panels
from npusim.models import load_model
from npusim.sizing import bill
from npusim.sizing.evaluation import design_metrics
from npusim.sizing.quantities import Constraint, constraint, contradiction, number
from npusim.workload import dim

EXAMPLE = "llama-3.3-70b fp8 2048/2048 tpot<=20ms ttft<=2s concurrency>=64"


@dataclass(frozen=True)
class Target:
    """A service to be reached.

    Args:
        model: catalog name or path.
        precision: its name.
        inputs: prompt tokens.
        outputs: generated tokens.
        concurrency: requests served at a time.
        tp: chips; None: the fewest that hold the model and the requests and keep to the limits.
        limits: what has to be kept.
        share: of the fleet's output tokens; None: targets are not mixed.
        text: as it was written.
    """

    model: str
    precision: str
    inputs: int
    outputs: int
    concurrency: int
    tp: int | None
    limits: tuple[Constraint, ...]
    text: str
    share: float | None = None


def parse_target(text: str) -> Target:
    """Reads a target. Raises InputError naming the word that is wrong."""
    packed = re.sub(r"\s*(<=|>=|<|>|=)\s*", r"\1", text[:500])
    # A unit belongs to the number before it.
    words = re.sub(r"([<>=][\d.eE+-]+)\s+(?=[^\s<>=]+(?:\s|$))", r"\1", packed).split()
    if len(words) < 3:
        raise InputError(Problem(f"{text[:80]!r} is not a target", "--target", allowed=EXAMPLE))
    load_model(words[0])
    llm.precision(words[1])
    lengths = re.fullmatch(r"(\d{1,8})/(\d{1,8})", words[2])
    if not lengths:
        problem = Problem(f"{words[2][:40]!r} is not INPUT/OUTPUT tokens", "--target", allowed="such as 2048/2048")
        raise InputError(problem)
    sizes = {"concurrency": 1, "tp": 0}
    limits, share = [], None
    for word in words[3:]:
        match = re.fullmatch(r"(concurrency|tp)(>=|=)(.+)", word)
        if match:
            sizes[match[1]] = int(dim(match[1], number(match[3], "--target")))
        elif word.startswith("share="):
            share = float(number(word[6:], "--target"))
            if not 0 < share <= 1e9:
                raise InputError(Problem(f"a share of {word[6:40]}", "--target", allowed="a number above 0"))
        else:
            limits.append(constraint(word, path="--target"))
    check_limits(tuple(limits))
    inputs, outputs = (int(dim("tokens", int(length))) for length in lengths.groups())
    return Target(
        words[0], words[1], inputs, outputs, sizes["concurrency"], sizes["tp"] or None, tuple(limits), text, share
    )


def check_limits(limits: tuple[Constraint, ...]) -> None:
    """Raises InputError naming the two limits that cannot both hold."""
    pair = contradiction(limits)
    if pair is not None:
        raise InputError(Problem(f"contradictory: '{pair[0].text}' and '{pair[1].text}'", allowed="one of them"))


@dataclass(frozen=True)
class Judgement:
    """What a chip makes of the targets.

    Args:
        metrics: of the chip, and the worst over the targets of everything that depends on them; cost and energy per
            token and throughput per chip are those of the mix where every target has a share.
        by_target: metrics of each target.
        violated: limits that do not hold, as written; reasons that nothing can be said.
        bound: what bounds most of the decode time of the first target.
    """

    metrics: dict[str, float | None]
    by_target: tuple[dict[str, float | None], ...]
    violated: tuple[str, ...]
    bound: str

    @property
    def feasible(self) -> bool:
        """Whether every limit holds."""
        return not self.violated


@dataclass(frozen=True)
class Judge:
    """Targets and limits, and how chips are priced against them.

    Args:
        targets: services, all of which have to be reached.
        limits: on the chip and on its power, cost and the like.
        fidelity: cost model.
        power: one of ``bill.POWER``.
        technology: constants of area, energy and prices; None: those of the catalog.
    """

    targets: tuple[Target, ...]
    limits: tuple[Constraint, ...] = ()
    fidelity: str = "tile"
    power: str = "capped"
    technology: Technology | None = None

    def judge(self, chip: Chip) -> Judgement:
        """Prices ``chip``; what it cannot do is a violation, not an error."""
        figures = design_metrics(chip, self.technology)
        found: list[dict[str, float | None]] = []
        violated: list[str] = []
        bound = ""
        for target in self.targets:
            try:
                metrics, slowest = self._serve(chip, target, figures)
                bound = bound or slowest
            except NpuError as error:
                violated.append(str(error))
                found.append({})
                continue
            found.append(metrics)
            violated += [
                limit.text for limit in target.limits if not limit.holds((figures | metrics).get(limit.metric))
            ]
        worst = figures | _worst(found) | _mixed(found, [target.share for target in self.targets])
        violated += [limit.text for limit in self.limits if not limit.holds(worst.get(limit.metric))]
        return Judgement(worst, tuple(found), tuple(dict.fromkeys(violated)), bound)

    def _serve(self, chip: Chip, t: Target, figures: dict[str, float | None]) -> tuple[dict[str, float | None], str]:
        """Metrics of one target on the fewest chips that keep to its limits, or where none do that hold it."""
        found = []
        for tp, need in _degrees(chip, t):
            found.append(self._served(chip, t, figures["cost_usd"], tp, need))
            known = figures | found[-1][0]
            if all(limit.holds(known.get(limit.metric)) for limit in t.limits):
                return found[-1]
        return found[0]

    def _served(
        self, chip: Chip, t: Target, cost_usd: float | None, tp: int, need: float
    ) -> tuple[dict[str, float | None], str]:
        """Metrics of one target, by the definitions of K-Perf (``docs/kperf.md``)."""
        model, fmt = load_model(t.model), llm.precision(t.precision)
        kinds: dict[str, Any] = {"weights": fmt.weights, "activations": fmt.activations, "kv": fmt.kv, "tp": tp}
        first = estimate(llm.prefill(model, batch=1, prompt=t.inputs, **kinds), chip, self.fidelity)
        first = bill.settled(first, self.power, self.technology)
        steps, c = t.outputs - 1, t.concurrency
        loop, joules = c * float(first.time_s), bill.energy_j(first, self.power, self.technology)
        total_j = None if joules is None else c * float(joules)
        metrics: dict[str, float | None] = {"ttft_s": float(first.time_s), "memory_bytes": need, "chips": float(tp)}
        slowest = str(first.bound)
        if steps:
            middle, weight = (part[0] for part in panels(np.array([steps])))
            used = weight > 0
            work = llm.decode(model, batch=c, context=t.inputs + middle[used], **kinds)
            step = bill.settled(estimate(work, chip, self.fidelity), self.power, self.technology)
            tpot = float(np.sum(step.time_s * weight[used]))
            joules = bill.energy_j(step, self.power, self.technology)
            total_j = (
                None if joules is None or total_j is None else total_j + steps * float(np.sum(joules * weight[used]))
            )
            loop += steps * tpot
            shares = {name: float(np.sum(s * weight[used])) for name, s in step.bound_seconds.items()}
            slowest = max(shares, key=lambda name: shares[name])
            metrics |= {"tpot_s": tpot, "tpot_loaded_s": (loop - float(first.time_s)) / steps}
        rate = c * t.outputs / loop
        metrics |= {"tokens_per_s": rate, "tokens_per_s_per_user": rate / c, "tokens_per_s_per_chip": rate / tp}
        if total_j is not None:
            power = total_j / loop
            usd = bill.usd_per_mtoken(rate, cost_usd, power, tp, self.technology)
            metrics |= {"avg_power_w": power, "power_w": power / tp, "tokens_per_j": c * t.outputs / total_j,
                        "usd_per_mtoken": None if usd is None else float(usd)}  # fmt: skip
        return metrics, slowest


def pinned(judge: Judge, verdict: Judgement) -> Judge:
    """The same question on as many chips as ``verdict`` took, so that a lesser figure is not made up for by chips."""
    chips = [metrics.get("chips") for metrics in verdict.by_target]
    targets = (replace(t, tp=int(n)) if n else t for t, n in zip(judge.targets, chips, strict=True))
    return replace(judge, targets=tuple(targets))


def _degrees(chip: Chip, t: Target) -> list[tuple[int, float]]:
    """Numbers of chips worth trying, the fewest that hold it first, and bytes each must hold. Raises DoesNotFit."""
    model, fmt = load_model(t.model), llm.precision(t.precision)
    usable = parallel.usable_bytes(chip)
    degrees = (t.tp,) if t.tp else parallel.DEGREES if chip.link is not None else parallel.DEGREES[:1]
    found = []
    for tp in degrees:
        sizes: dict[str, Any] = {"sequences": t.concurrency, "tokens": t.inputs + t.outputs, "tp": tp}
        need = float(parallel.footprint(model, fmt, **sizes).total_bytes)
        if need <= usable:
            found.append((tp, need))
    if found:
        return found[:_TRIED]
    raise DoesNotFit(
        f"memory: {t.concurrency} requests of {t.model} {t.precision} do not fit {degrees[-1]} chips", need - usable
    )


_TRIED = 3  # numbers of chips: as few as hold a service, and twice and four times as many
_LEAST = ("tokens_per_s", "tokens_per_s_per_user", "tokens_per_s_per_chip", "tokens_per_j")


def _worst(found: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Over several targets: the least of rates, the most of everything else; None where a target has no figure."""
    names = dict.fromkeys(name for metrics in found for name in metrics)
    worst: dict[str, float | None] = {}
    for name in names:
        values = [metrics.get(name) for metrics in found]
        known = [value for value in values if value is not None]
        worst[name] = (min if name in _LEAST else max)(known) if len(known) == len(values) else None
    return worst


def _mixed(found: list[dict[str, float | None]], shares: list[float | None]) -> dict[str, float | None]:
    """Figures of a fleet that serves the targets in shares of its output tokens; none where one has no share.

    USD, joules and chip-seconds of a token add up, so what is per token is an arithmetic mean, a rate a harmonic one.
    """
    if len(found) < 2 or None in shares:
        return {}
    weights = np.array(shares, dtype=float) / np.sum(np.array(shares, dtype=float))

    def mean(name: str, power: float) -> float | None:
        values = [metrics.get(name) for metrics in found]
        if None in values:
            return None
        return float(np.sum(weights * np.array(values, dtype=float) ** power) ** (1 / power))

    return {"usd_per_mtoken": mean("usd_per_mtoken", 1.0), "tokens_per_j": mean("tokens_per_j", -1.0),
            "tokens_per_s_per_chip": mean("tokens_per_s_per_chip", -1.0)}  # fmt: skip
