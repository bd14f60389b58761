"""Rounds that visit ours, every peer and the loops that measure the machine, one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bench.peaks import probes_of
from bench.peers.adapters import runners
from bench.peers.problem import Peer, Problem, Runner

SAMPLE_S = 5e-4  # a sample repeats a quick call for so long
WARM_S = 5e-3  # a longer call brings its data itself
FEWEST, MOST = 5, 200  # rounds
FEWEST_LONG = 3  # where one takes longer than the budget

Call = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One problem, timed.

    Ratios are times of the peer over ours: above 1 we are faster.

    Args:
        op: what adapters know it by.
        group: shape class.
        shape: as printed.
        unit: of ``rate``.
        rate: ours at its best, in ``unit``.
        share: of what the machine's limits allow, by loops of the same rounds; median.
        ratios: medians of the ratios within a round, by peer.
        best_ratios: ratios of the best times, by peer.
        wrong: peers whose outputs are another result than the problem's.
        refused: peers that offer the op but not this problem, and why.
        rounds: how many.
    """

    op: str
    group: str
    shape: str
    unit: str
    rate: float
    share: float
    ratios: Mapping[str, float]
    best_ratios: Mapping[str, float]
    wrong: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    rounds: int = 0

    def best_peer(self, wrong_too: bool = False) -> tuple[str, float] | None:
        """The peer that leaves us the lowest ratio; those with wrong outputs count only when asked for."""
        found = {name: r for name, r in self.ratios.items() if wrong_too or name not in self.wrong}
        return min(found.items(), key=lambda item: item[1]) if found else None


def measure(problem: Problem, peers: Sequence[Peer], seconds: float) -> Result:
    """Checks ours, and times it and the peers for about ``seconds``.

    Raises:
        Finding: our output is wrong.
    """
    found, refused = runners(problem, peers)
    wrong, usable = _outputs(problem, found, refused)
    limits = probes_of(problem.work)
    calls = [problem.ours, *(runner.run for runner in usable.values()), *(run for _, (_, run) in limits)]
    times = interleaved(calls, seconds)
    problem.verify(problem.ours())
    ours, theirs = times[0], times[1 : 1 + len(usable)]
    least = np.max(
        [amount / work * t for (amount, (work, _)), t in zip(limits, times[1 + len(usable) :], strict=True)], axis=0
    )
    return Result(
        problem.op,
        problem.group,
        problem.shape,
        problem.work.unit,
        problem.work.rate(float(ours.min())),
        float(np.nanmedian(least / ours)),
        {name: float(np.nanmedian(t / ours)) for name, t in zip(usable, theirs, strict=True)},
        {name: float(np.nanmin(t) / ours.min()) for name, t in zip(usable, theirs, strict=True)},
        tuple(wrong),
        refused,
        times.shape[1],
    )


def _outputs(
    problem: Problem, found: Mapping[str, Runner], refused: dict[str, str]
) -> tuple[list[str], dict[str, Runner]]:
    """Runs everything once: ours must be right, a peer may be wrong, and one that fails is not timed."""
    problem.verify(problem.ours())
    wrong, usable = [], {}
    for name, runner in found.items():
        try:
            right = problem.right(runner.read(runner.run()))
        except Exception as error:  # a peer's own limits, in whatever class it raises
            refused[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]
            continue
        usable[name] = runner
        if not right:
            wrong.append(name)
    return wrong, usable


def interleaved(
    calls: Sequence[Call],
    seconds: float,
    clock: Callable[[], float] = time.thread_time,
    wall: Callable[[], float] = time.perf_counter,
) -> npt.NDArray[np.float64]:
    """Seconds of one run of each call, shape (call, round); NaN where it sat a round out.

    Every round visits every call, odd ones backwards, so that a slow spell of the machine is shared by neighbours.
    A quick call is run once unmeasured, which brings its data back into the caches, and then so often that reading
    the clock does not show. A call that used up the whole budget sits out, so that a slow peer does not cost the
    others their rounds; the first never does.

    Args:
        calls: what to run, on one thread.
        seconds: budget; there are a few rounds even if they take longer.
        clock: of the samples; the processor time of this thread leaves out what other processes take.
        wall: of the budget.
    """
    start, plans = wall(), []
    for call in calls:
        begin = clock()
        call()
        once = clock() - begin
        if once < WARM_S:  # the first run may have been cold
            once = _timed(call, 1, clock)
        plans.append((once < WARM_S, max(1, min(1000, math.ceil(SAMPLE_S / max(once, 1e-9))))))
    rounds: list[list[float]] = []
    spent = [0.0] * len(calls)
    fewest = FEWEST if wall() - start < seconds else FEWEST_LONG
    while len(rounds) < fewest or (len(rounds) < MOST and wall() - start < seconds):
        times = [math.nan] * len(calls)
        for i in range(len(calls)) if len(rounds) % 2 == 0 else reversed(range(len(calls))):
            if i and rounds and spent[i] > seconds:
                continue
            warm, repeats = plans[i]
            if warm:
                calls[i]()
            times[i] = _timed(calls[i], repeats, clock)
            spent[i] += times[i] * repeats
        rounds.append(times)
    return np.array(rounds).T


def _timed(call: Call, count: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(count):
        call()
    return (clock() - start) / count
