"""Which placement serves a load: given chips are used as well as they can be, otherwise the fewest are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import TypeVar

from npusim.cost.collectives import op_seconds
from npusim.errors import DoesNotFit, InputError, Problem
from npusim.llm import check_experts
from npusim.parallel import DEGREES
from npusim.serving.answer import (
    MOST_REPLICAS,
    PROBE_REQUESTS,
    RATE_TOLERANCE,
    Case,
    excess,
    first_requests,
    highest_rate,
    impossible,
    mean_rate,
    overload,
    sustainable_rate,
)
from npusim.serving.load import Source, Synthetic
from npusim.serving.metrics import Digest, Slo
from npusim.serving.placement import Choice, Placement, Tried

Answer = TypeVar("Answer")
_STAGES = (1, 2, 4, 8)
_CHIPS_TRIED = 8  # larger replicas are only tried when nothing smaller fits
_SPLIT = 8  # chips that split attention when more than these share the experts
_PROMISING = 2  # placements with stages or shared experts that a search for rates takes up


@dataclass(frozen=True, slots=True)
class Asked:
    """What was said about a replica; None: to be chosen, and when ``tp`` is said, stages and experts are as if 1 was.

    Args:
        tp: chips that split each layer.
        pp: stages that split the layers.
        ep: chips that share the routed experts.
    """

    tp: int | None = None
    pp: int | None = None
    ep: int | None = None

    def smallest(self) -> Placement:
        """What was asked for, the rest as small as can be. Raises InputError for sizes that make no sense."""
        tp, pp, ep = (1 if size is None else size for size in (self.tp, self.pp, self.ep))
        place = Placement(tp, pp, ep=ep)
        place.check()
        return place

    def replicas(self, case: Case) -> list[Placement]:
        """Every shape of one replica, the fewest chips first; of as many, fewest stages and whole experts' groups last.

        Raises:
            InputError: experts that cannot be shared as asked, or more stages than layers.
        """
        layers = sum(count for _, count in case.model.blocks)
        if self.pp is not None and self.pp > layers:
            allowed = f"1 to the {layers} layers of {case.model.name}"
            raise InputError(Problem(f"{self.pp} stages", "pp", allowed=allowed))
        free = self.tp is None and self.pp is None and case.chip.link is not None
        stages = (self.pp or 1,) if not free else [stage for stage in _STAGES if stage <= layers]
        found = []
        for tp, ep in self._widths(case):
            for pp in stages:
                found.append(replace(case.place, tp=tp, pp=pp, ep=ep, replicas=1, prefill_replicas=0))
        return sorted(found, key=lambda place: (place.replica_chips, place.pp, place.ep > 1, -place.tp))

    def _widths(self, case: Case) -> list[tuple[int, int]]:
        """Pairs of ``tp`` and ``ep``."""
        degrees = [self.tp] if self.tp else list(DEGREES)
        if self.ep is None or self.ep == 1:
            free = self.ep is None and self.tp is None and self.pp is None and case.model.moe
            shared = [(tp, ep) for ep in DEGREES[1:] for tp in sorted({1, min(ep, _SPLIT)})
                      if free and _can_share(case, tp, ep)]  # fmt: skip
            return [*((tp, 1) for tp in degrees), *shared]
        check_experts(case.model, self.tp or 1, self.ep)
        return [(tp, self.ep) for tp in degrees if self.tp or (tp <= _SPLIT and self.ep % tp == 0)]


def _can_share(case: Case, tp: int, ep: int) -> bool:
    try:
        check_experts(case.model, tp, ep)
    except InputError:
        return False
    return True


def placed(case: Case, source: Source, slo: Slo | None, chips: int | str, asked: Asked) -> tuple[Case, Choice]:
    """The case on the chosen chips, and why they were chosen.

    A number of chips is split in every way that fits, ``tp`` × ``pp`` × replicas with the experts of mixtures split or
    shared, and the best one by ``_ranked`` is taken. ``auto`` takes the fewest chips, over the shapes of a replica,
    that hold the SLO and do not overflow; a closed loop and a disaggregated pool take the smallest replica that fits.

    Raises:
        InputError: chips that no shape divides. DoesNotFit: no shape holds the model.
    """
    if isinstance(chips, str) and chips != "auto":
        raise InputError(Problem(f"{chips[:40]!r}", "chips", allowed="a number, or auto"))
    if chips != "auto" and not case.place.prefill_replicas:
        return _best_of(case, source, slo, int(chips), asked)
    found = fitting(case, asked.replicas(case))
    if source.concurrency or case.place.prefill_replicas:
        return found[0], Choice("the smallest replica that fits")
    return _fewest(found if asked.tp else few(found), source, slo)


def fitting(case: Case, replicas: list[Placement]) -> list[Case]:
    """The case at every shape of a replica that can be built and holds the model and its longest request.

    Shapes that the chip's links do not join are left out.

    Raises:
        DoesNotFit: none holds it; says what lacks where least does. InputError: none can be built.
    """
    found: list[Case] = []
    errors: list[DoesNotFit] = []
    refused: InputError | None = None
    for place in replicas:
        copies = {"replicas": case.place.replicas, "prefill_replicas": case.place.prefill_replicas}
        there = replace(case, place=replace(place, **copies))
        try:
            _joined(there)
            _ = there.blocks
        except InputError as error:
            refused = refused or error
        except DoesNotFit as error:
            errors.append(error)
        else:
            found.append(there)
    if found:
        return found
    if errors:
        raise min(errors, key=lambda error: error.short_bytes)
    assert refused is not None
    raise refused


def _joined(case: Case) -> None:
    """Raises InputError when the chip's links do not join the chips of a replica."""
    place = case.place
    for function, ranks in (("all_reduce", place.tp), ("all_to_all", place.ep), ("send", place.replica_chips)):
        if ranks > 1:
            op_seconds(function, 1.0, ranks, case.chip)


def few(cases: list[Case]) -> list[Case]:
    """Of cases at growing replicas: the smallest ones, and those up to eight chips."""
    most = max(_CHIPS_TRIED, cases[0].place.replica_chips)
    return [case for case in cases if case.place.replica_chips <= most]


def asked_of(cases: list[Case], ask: Callable[[Case], Answer]) -> list[tuple[Case, Answer]]:
    """What ``ask`` says of every case. Those whose steps cannot be priced on the chip are left out.

    Raises:
        InputError: none can be priced.
    """
    found: list[tuple[Case, Answer]] = []
    refused: InputError | None = None
    for case in cases:
        try:
            found.append((case, ask(case)))
        except InputError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return found


def promising(cases: list[Case], source: Source, slo: Slo | None) -> list[Case]:
    """The plain splits, and of the others those that would serve most per chip and can hold the SLO at all."""
    plain = [case for case in cases if case.place.pp == 1 and case.place.ep == 1]
    probe = first_requests(source, PROBE_REQUESTS // 4)

    def rate_per_chip(case: Case) -> float:
        if slo is not None and impossible(case, source, slo):
            return 0.0
        return sustainable_rate(case, probe) / case.place.chips

    others = [case for case in cases if case not in plain]
    rated = sorted(asked_of(others, rate_per_chip), key=lambda pair: -pair[1])
    return plain + [case for case, rate in rated[:_PROMISING] if rate > 0] or cases[:1]


def splits(case: Case, chips: int, asked: Asked) -> list[Case]:
    """The case on exactly so many chips, at every shape of a replica that divides them and holds the model.

    Raises:
        InputError: chips that no shape divides. DoesNotFit: no split holds the model.
    """
    places = _divisions(case, chips, asked)
    copies = {place.replica_chips: place.replicas for place in places}
    cases = fitting(case, places)
    return [replace(one, place=replace(one.place, replicas=copies[one.place.replica_chips])) for one in cases]


def _divisions(case: Case, chips: int, asked: Asked) -> list[Placement]:
    """Every placement on exactly so many chips. Raises InputError when there is none."""
    if not 1 <= chips <= 65536:
        raise InputError(Problem(f"{chips}", "chips", allowed="1 to 65536"))
    shapes = asked.replicas(case)
    found = [replace(place, replicas=chips // place.replica_chips) for place in shapes
             if chips % place.replica_chips == 0]  # fmt: skip
    if not found:
        allowed = f"a multiple of the {min(place.replica_chips for place in shapes)} of a replica"
        raise InputError(Problem(f"{chips} chips", "chips", allowed=allowed))
    return found


def _best_of(case: Case, source: Source, slo: Slo | None, chips: int, asked: Asked) -> tuple[Case, Choice]:
    cases = splits(case, chips, asked)
    places = [one.place for one in cases]
    left_out = tuple(place for place in _divisions(case, chips, asked) if place not in places)
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
    tried = [found for _, found in asked_of(cases, lambda case: _weighed(case, source, slo))]
    overflow = all(one.requests_per_s is not None for one in tried)
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


def _weighed(case: Case, source: Source, slo: Slo | None) -> Tried:
    run, digest = case.run(source, slo)
    rate = None
    if slo is not None and not source.concurrency:
        rate = highest_rate(case, source, slo)
    elif not source.concurrency and overload(case, source, run):
        rate = sustainable_rate(case, source)
    return Tried(case.place, rate, digest.good_tokens / max(run.totals["now"], 1e-12), _median_s(digest))


def _median_s(digest: Digest) -> float:
    """Median TPOT; of one-token requests the end-to-end time."""
    return (digest.tpot if digest.tpot.count else digest.e2e).at(0.5)


def _slowness(one: Tried) -> tuple[float, int]:
    """TPOT to three digits, beyond which the order of batches decides; then fewer stages come first."""
    return float(f"{one.tpot_s:.3g}"), one.place.pp


def _by_rate(one: Tried, near: float) -> tuple[float, float, int]:
    """Sorts by rate, highest first; rates from ``near`` on count as equal and the lowest TPOT comes first."""
    rate = one.requests_per_s or 0.0
    return (float("-inf") if rate >= near else -rate), *_slowness(one)


def _fewest(cases: list[Case], source: Source, slo: Slo | None) -> tuple[Case, Choice]:
    """The fewest chips that serve the load, over the shapes of a replica, and of as many the lowest TPOT; when none
    does, the replica that comes closest to the SLO."""
    best: list[Tried] = []
    probe = replace(source, count=min(source.count, PROBE_REQUESTS)) if isinstance(source, Synthetic) else source

    def weigh(case: Case) -> None:
        least = min((one.place.chips for one in best), default=MOST_REPLICAS * case.place.replica_chips)
        most = min(least // case.place.replica_chips, MOST_REPLICAS // case.place.pp)
        if most < 1 or (slo is not None and impossible(case, source, slo)):
            return
        if count := _replicas(case, probe, slo, most):
            place = replace(case.place, replicas=count)
            run, digest = replace(case, place=place).run(probe, slo)
            good = digest.good_tokens / max(run.totals["now"], 1e-12)
            best.append(Tried(place, None, good, _median_s(digest)))

    possible = asked_of(cases, weigh)
    held = "hold the SLO" if slo else "do not overflow"
    if not best:
        tried = [case for case, _ in possible]
        nearest, which = (tried[-1], "largest replica tried") if slo is None else _nearest(tried, source, slo)
        return nearest, Choice(f"no number of chips was found to {held}: the {which}")
    best.sort(key=lambda one: (one.place.chips, *_slowness(one)))
    return replace(cases[0], place=best[0].place), Choice(f"the fewest chips that {held}", tuple(best))


def _nearest(cases: list[Case], source: Source, slo: Slo) -> tuple[Case, str]:
    """The replica whose requests, alone on it, miss their limits by the least factor; of equals the largest."""

    def factor(case: Case) -> float:
        return max((got / limit for got, limit in excess(case, source, slo).values()), default=1.0)

    return min(reversed(cases), key=factor), "replica that comes closest with one request at a time"


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
