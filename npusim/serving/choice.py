"""Which placement serves a load: given chips are used as well as they can be, otherwise the fewest are found."""

from __future__ import annotations

from dataclasses import replace

from npusim.errors import DoesNotFit, InputError, Problem
from npusim.parallel import DEGREES
from npusim.serving.answer import MOST_REPLICAS, PROBE_REQUESTS, Case, impossible, overload
from npusim.serving.load import Source, Synthetic
from npusim.serving.metrics import Slo
from npusim.serving.placement import Placement

_TP_TRIED = 8  # larger degrees are only tried when nothing smaller fits


def placed(case: Case, source: Source, slo: Slo | None, chips: int | str, tp: int | None) -> Case:
    """The case on the chosen chips.

    A number of chips is split into every tensor-parallel degree that divides it and fits; the one with the highest
    goodput wins. ``auto`` takes the fewest chips, over those degrees, that hold the SLO and do not overflow; a closed
    loop and a disaggregated pool take the smallest degree that fits.

    Raises:
        InputError: chips that no degree divides. DoesNotFit: no degree holds the model.
    """
    if isinstance(chips, str) and chips != "auto":
        raise InputError(Problem(f"{chips[:40]!r}", "chips", allowed="a number, or auto"))
    if case.place.prefill_replicas:
        return fitting(case, [tp] if tp else list(DEGREES))[0]
    if chips != "auto":
        return _best_of(case, source, slo, int(chips), tp)
    found = fitting(case, [tp] if tp else list(DEGREES))
    if source.concurrency:
        return found[0]
    return _fewest(found if tp else few(found), source, slo)


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


def splits(case: Case, chips: int, tp: int | None) -> list[Case]:
    """The case on so many chips, at every tensor-parallel degree that divides them and holds the model.

    Raises:
        InputError: chips that no degree divides. DoesNotFit: no degree holds the model.
    """
    stage = case.place.pp
    if not 1 <= chips <= 65536:
        raise InputError(Problem(f"{chips}", "chips", allowed="1 to 65536"))
    degrees = [d for d in ([tp] if tp else DEGREES) if chips % (d * stage) == 0]
    if not degrees:
        raise InputError(Problem(f"{chips} chips", "chips", allowed=f"a multiple of tp x pp = {(tp or 1) * stage}"))
    return [
        replace(c, place=Placement(c.place.tp, stage, chips // (c.place.tp * stage))) for c in fitting(case, degrees)
    ]


def _best_of(case: Case, source: Source, slo: Slo | None, chips: int, tp: int | None) -> Case:
    cases = splits(case, chips, tp)
    if len(cases) == 1:
        return cases[0]
    probe = _probe(source)

    def worth(one: Case) -> tuple[float, float, float]:
        run, digest = one.run(probe, slo)
        span = max(run.totals["now"], 1e-12)
        return digest.good_tokens / span, digest.output_tokens / span, -digest.e2e.at(0.5)

    return max(cases, key=worth)


def _probe(source: Source) -> Source:
    """Enough of the requests to compare placements by."""
    return replace(source, count=min(source.count, PROBE_REQUESTS)) if isinstance(source, Synthetic) else source


def _fewest(cases: list[Case], source: Source, slo: Slo | None) -> Case:
    """The fewest chips that serve the load, over the degrees; the largest degree when none does."""
    best: Case | None = None
    probe = _probe(source)
    for case in cases:
        most = MOST_REPLICAS if best is None else (best.place.chips - 1) // (case.place.tp * case.place.pp)
        if most < 1 or (slo is not None and impossible(case, source, slo)):
            continue
        count = _replicas(case, probe, slo, most)
        if count:
            best = replace(case, place=replace(case.place, replicas=count))
    return best or cases[-1]


def _replicas(case: Case, source: Source, slo: Slo | None, most: int) -> int:
    """Fewest replicas up to ``most`` that serve the load, 0 when that is not enough."""

    def enough(count: int) -> bool:
        there = replace(case, place=replace(case.place, replicas=count))
        run, digest = there.run(source, slo)
        return digest.attainment >= slo.attainment if slo else not overload(there, source, run)

    low, high = 0, 1  # low is too few
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
