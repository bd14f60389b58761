"""Which placement serves a load: given chips are used as well as they can be, otherwise the fewest are found."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, isfinite

from npusim.errors import DoesNotFit, InputError, Problem
from npusim.parallel import DEGREES
from npusim.serving.answer import (
    MOST_REPLICAS,
    PROBE_REQUESTS,
    RATE_TOLERANCE,
    Case,
    first_requests,
    highest_rate,
    impossible,
    mean_rate,
    overload,
    sustainable_rate,
)
from npusim.serving.load import Source, Synthetic
from npusim.serving.metrics import Slo
from npusim.serving.placement import Choice, Placement, Tried

_STAGES = (1, 2, 4, 8)  # tried where they divide the layers: stages are taken as equal
_TP_TRIED = 8  # larger degrees are only tried when nothing smaller fits


def placed(
    case: Case, source: Source, slo: Slo | None, chips: int | str, tp: int | None, pp: int | None = 1
) -> tuple[Case, Choice]:
    """The case on the chosen chips, and why they were chosen.

    A number of chips is split in every way that fits, ``tp`` × ``pp`` × replicas (stages only when neither ``tp`` nor
    ``pp`` is given), and the best one by ``_ranked`` is taken. ``auto`` takes the fewest chips, over the degrees, that
    hold the SLO and do not overflow, in one stage unless ``pp`` says otherwise; a closed loop and a disaggregated pool
    take the smallest degree that fits.

    Raises:
        InputError: chips that no degree divides. DoesNotFit: no degree holds the model.
    """
    if isinstance(chips, str) and chips != "auto":
        raise InputError(Problem(f"{chips[:40]!r}", "chips", allowed="a number, or auto"))
    degrees = [tp] if tp else list(DEGREES)
    if case.place.prefill_replicas:
        return fitting(case, degrees)[0], Choice("the smallest degree that fits")
    if chips != "auto":
        stages = (case.place.pp,) if tp or pp or case.chip.link is None else _stages(case)
        return _best_of(case, source, slo, int(chips), tp, stages)
    found = fitting(case, degrees)
    if source.concurrency:
        return found[0], Choice("the smallest degree that fits")
    return _fewest(found if tp else few(found), source, slo)


def _stages(case: Case) -> tuple[int, ...]:
    layers = sum(count for _, count in case.model.blocks)
    return tuple(stage for stage in _STAGES if layers % stage == 0)


def fitting(case: Case, degrees: list[int]) -> list[Case]:
    """The case at every degree that holds the model and its longest request. Raises DoesNotFit when none does."""
    found: list[Case] = []
    last: DoesNotFit | None = None
    for degree in degrees if case.chip.link is not None else [d for d in degrees if d == 1] or degrees[:1]:
        there = replace(case, place=replace(case.place, tp=degree))
        try:
            _ = there.blocks
        except DoesNotFit as error:
            last = error
            continue
        found.append(there)
    if not found:
        assert last is not None
        raise last
    return found


def few(cases: list[Case]) -> list[Case]:
    """Of cases at growing degrees: the smallest degree, and those up to eight."""
    return [cases[0], *(case for case in cases[1:] if case.place.tp <= _TP_TRIED)]


def splits(case: Case, chips: int, tp: int | None, stages: tuple[int, ...] = ()) -> list[Case]:
    """The case on so many chips, at every tensor-parallel degree that divides them and holds the model.

    Args:
        case: what is to be placed.
        chips: all of them.
        tp: the only degree (None: all).
        stages: numbers of stages to try (none: the case's).

    Raises:
        InputError: chips that no degree divides. DoesNotFit: no split holds the model.
    """
    found: list[Case] = []
    short: DoesNotFit | None = None
    for place in _divisions(chips, tp, stages or (case.place.pp,)):
        try:
            found += [replace(one, place=place) for one in fitting(replace(case, place=place), [place.tp])]
        except DoesNotFit as error:
            short = error
    if not found:
        assert short is not None
        raise short
    return found


def _divisions(chips: int, tp: int | None, stages: tuple[int, ...]) -> list[Placement]:
    """Every placement on exactly so many chips. Raises InputError when there is none."""
    if not 1 <= chips <= 65536:
        raise InputError(Problem(f"{chips}", "chips", allowed="1 to 65536"))
    found = [
        Placement(degree, stage, chips // (degree * stage))
        for stage in stages
        for degree in ([tp] if tp else DEGREES)
        if chips % (degree * stage) == 0
    ]
    if not found:
        allowed = f"a multiple of tp x pp = {(tp or 1) * min(stages)}"
        raise InputError(Problem(f"{chips} chips", "chips", allowed=allowed))
    return found


def _best_of(
    case: Case, source: Source, slo: Slo | None, chips: int, tp: int | None, stages: tuple[int, ...]
) -> tuple[Case, Choice]:
    cases = splits(case, chips, tp, stages)
    places = [one.place for one in cases]
    left_out = tuple(place for place in _divisions(chips, tp, stages) if place not in places)
    if len(cases) == 1:
        return cases[0], Choice("the only split that was asked for and fits", (), left_out)
    reason, tried = _ranked(cases, first_requests(source, PROBE_REQUESTS), slo)
    return cases[places.index(tried[0].place)], Choice(reason, tuple(tried), left_out)


def _ranked(cases: list[Case], source: Source, slo: Slo | None) -> tuple[str, list[Tried]]:
    """The placements from the best to the worst, and what the first one is best at.

    A closed loop asks for tokens per second (of requests within the SLO); an open loop with an SLO for the highest
    rate that holds it, and of rates within the bisection's tolerance for the lowest TPOT. Without an SLO every
    placement that does not overflow serves the load, so the lowest TPOT decides; if all overflow, the sustainable rate.
    """
    tried, overflow = [], True
    for case in cases:
        run, digest = case.run(source, slo)
        latency = digest.tpot if digest.tpot.count else digest.e2e
        rate = None
        if slo is not None and not source.concurrency:
            rate = highest_rate(case, source, slo)
        elif not source.concurrency and overload(case, source, run):
            rate = sustainable_rate(case, source)
        overflow &= rate is not None
        good = digest.good_tokens / max(run.totals["now"], 1e-12)
        tried.append(Tried(case.place, rate, good, latency.at(0.5)))
    if source.concurrency:
        best = max(one.tokens_per_s for one in tried)
        within = " of requests that meet the SLO" if slo else ""
        if best > 0:
            order = sorted(tried, key=lambda one: (-one.tokens_per_s, *_slowness(one)))
            return f"most tokens per second{within}: {best:.5g}", order
    elif slo is not None or overflow:
        best = max(one.requests_per_s or 0.0 for one in tried)
        near = (1 - RATE_TOLERANCE) * best
        if best > 0:
            order = sorted(tried, key=lambda one: _by_rate(one, near))
            what = "highest rate that holds the SLO" if slo else "all overflow; highest sustainable rate"
            return f"{what}: {order[0].requests_per_s:.4g} requests/s", order
    order = sorted(tried, key=lambda one: (one.requests_per_s is not None and slo is None, *_slowness(one)))
    why = "the SLO is held by none" if slo else "no SLO decides, the load is served"
    return f"lowest TPOT ({why}): {1e3 * order[0].tpot_s:.4g} ms", order


def _slowness(one: Tried) -> tuple[float, int]:
    """TPOT to three digits, beyond which the order of batches decides; then fewer stages come first."""
    return float(f"{one.tpot_s:.3g}"), one.place.pp


def _by_rate(one: Tried, near: float) -> tuple[float, float, int]:
    """Sorts by rate, highest first; rates from ``near`` on count as equal and the lowest TPOT comes first."""
    rate = one.requests_per_s or 0.0
    return (float("-inf") if rate >= near else -rate), *_slowness(one)


def _fewest(cases: list[Case], source: Source, slo: Slo | None) -> tuple[Case, Choice]:
    """The fewest chips that serve the load, over the degrees; the largest degree when none does."""
    best: Case | None = None
    probe = replace(source, count=min(source.count, PROBE_REQUESTS)) if isinstance(source, Synthetic) else source
    for case in cases:
        most = MOST_REPLICAS if best is None else (best.place.chips - 1) // (case.place.tp * case.place.pp)
        if most < 1 or (slo is not None and impossible(case, source, slo)):
            continue
        count = _replicas(case, probe, slo, most)
        if count:
            best = replace(case, place=replace(case.place, replicas=count))
    held = "hold the SLO" if slo else "do not overflow"
    if best is None:
        return cases[-1], Choice(f"no number of chips was found to {held}: the largest degree tried")
    return best, Choice(f"the fewest chips that {held}")


def _replicas(case: Case, source: Source, slo: Slo | None, most: int) -> int:
    """Fewest replicas up to ``most`` that serve the load, 0 when that is not enough."""

    def enough(count: int) -> bool:
        there = replace(case, place=replace(case.place, replicas=count))
        run, digest = there.run(source, slo)
        return (slo is None or digest.attainment >= slo.attainment) and not overload(there, source, run)

    # Fewer than nine tenths of what the mean rate takes cannot be enough.
    rate, one = mean_rate(source), replace(case, place=replace(case.place, replicas=1))
    least = ceil(0.9 * rate / sustainable_rate(one, source)) if isfinite(rate) else 1
    if least > most:
        return 0
    low, high = least - 1, least  # low is too few
    while high <= most and not enough(high):
        low, high = high, 2 * high
    if high > most:
        if low >= most or not enough(most):
            return 0
        high = most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
