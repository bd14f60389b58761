"""Laws that every serving run obeys; a run that does not is a defect of the program, never an answer.

Checked after each run, from totals alone: nobody is lost or served twice, tokens are made once, time in the system adds
up to the requests' own times (Little's law), blocks are conserved, and series add up to totals.
"""

from __future__ import annotations

import math

from npusim.errors import NpuError
from npusim.serving.engine import SERIES, Run
from npusim.serving.metrics import Digest

_CLOSE = 1e-6  # of sums of many times


class LawBroken(NpuError):
    """The engine contradicts itself. Exit code 4."""


def broken(run: Run, digest: Digest) -> str:
    """The first law that does not hold, in a sentence; empty when all do.

    Args:
        run: a run to its end.
        digest: what took its records.
    """
    t = run.totals
    n = digest.count
    slack = _CLOSE * (t["in_system_s"] + 1e-9 * n * max(t["now"], 1.0))
    laws = (
        (t["arrived"] == t["finished"] == n and digest.ids == n * (n - 1) // 2, "a request was lost or served twice"),
        (t["live"] == t["waiting"] == t["running"] == 0, "requests are left over"),
        (t["output_tokens"] == digest.output_tokens == run.gaps.sum() + n, "tokens made are not those of the requests"),
        (abs(t["in_system_s"] - digest.e2e.total) <= slack, "time in the system is not that of the requests (Little)"),
        (t["waiting_s"] + t["running_s"] <= t["in_system_s"] + slack, "more requests wait or run than there are"),
        (t["blocks_used"] == t["blocks_counted"] == 0, "blocks of the cache are left in use"),
        (t["blocks_cached"] + t["blocks_unused"] == t["blocks_total"], "blocks of the cache are lost"),
        (t["prompt_tokens"] + t["cached_tokens"] >= digest.input_tokens, "a prompt was not read to its end"),
        (digest.good <= n and digest.good_tokens <= digest.output_tokens, "goodput exceeds throughput"),
        (all(math.isclose(a, b, rel_tol=_CLOSE) for a, b in _sums(run)), "the series do not add up to the totals"),
    )
    return next((sentence for holds, sentence in laws if not holds), "")


def check(run: Run, digest: Digest) -> None:
    """Raises LawBroken when a law does not hold."""
    if sentence := broken(run, digest):
        raise LawBroken(f"internal error of the serving engine: {sentence}; this is a defect of npusim")


def _sums(run: Run) -> list[tuple[float, float]]:
    """Sums of series over time with the totals they must be."""
    names = {"running": "running_s", "waiting": "waiting_s", "blocks": "block_s", "busy": "busy_s",
             "tokens": "output_tokens", "joules": "joules", "steps": "steps", "decodes": "decodes",
             "prompt_tokens": "prompt_tokens"}  # fmt: skip
    sums = run.series.sum(axis=0)
    return [(float(sums[SERIES.index(name)]), run.totals[total]) for name, total in names.items()]
