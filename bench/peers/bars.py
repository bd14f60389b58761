"""What each shape class is asked to reach, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.peers.timing import Result

NEAR_ROOF, NEAR_PEER = 0.85, 0.97  # a peer at that share of the roof need only be met to this ratio


@dataclass(frozen=True)
class Bar:
    """What a shape class is asked for.

    Args:
        ratio: least geometric mean of the ratios to the best peer of each shape.
        lowest: least ratio of any shape.
        share: least geometric mean of the shares of the machine's limits.
        rate: least rate of any shape.
        against: the peer that counts; empty for the best.
    """

    ratio: float | None = None
    lowest: float | None = None
    share: float | None = None
    rate: float | None = None
    against: str = ""

    def __str__(self) -> str:
        peer = self.against or "best peer"
        parts = [
            (self.ratio, f"≥ {self.ratio} × {peer}"),
            (self.lowest, f"none below {self.lowest}"),
            (self.share, f"≥ {self.share} of the roof"),
            (self.rate, f"each ≥ {self.rate} Gelement/s"),
        ]
        return ", ".join(text for wanted, text in parts if wanted is not None) or "none set"


NONE = Bar()
BARS = {
    "gemm f32 NN": Bar(1.0, lowest=0.9),
    "gemm f32 NT": Bar(1.0, lowest=0.9),
    "gemm bf16": Bar(0.9, against="own f32"),
    "gemm fp16": Bar(0.9, against="own f32"),
    "qgemm u8 × s8": Bar(1.05),
    "qgemm u8 × s7": Bar(1.05),
    "qgemm s8 × s8": Bar(1.05),
    "qgemm u8 × u8": Bar(1.05),
    "W4, int8 sums, M ≤ 8": Bar(1.0),
    "W4, int8 sums, M ≥ 128": Bar(1.5),
    "W4, fp32 sums, M ≤ 8": Bar(1.0),
    "attention prefill": Bar(1.1),
    "attention decode, short": Bar(1.5),
    "attention decode, long": Bar(1.5, share=0.8),
    "rope": Bar(1.5),
    "cast to fp8": Bar(rate=1.0),
    "cast from fp8": Bar(rate=1.0),
    **{f"{op} in cache": Bar(1.2) for op in ("layernorm", "rmsnorm", "softmax", "gelu", "gelu_tanh", "silu")},
    **{
        f"{op} out of cache": Bar(share=0.85) for op in ("layernorm", "rmsnorm", "softmax", "gelu", "gelu_tanh", "silu")
    },
}


@dataclass(frozen=True)
class Verdict:
    """A shape class, judged.

    Args:
        group: its name.
        shapes: how many were timed.
        ratio: geometric mean of the ratios to the best peer of each shape; None where no shape has one.
        ratio_wrong_too: the same, counting peers whose outputs are wrong.
        lowest: least of the ratios.
        share: geometric mean of the shares of the machine's limits.
        rate: least rate.
        bar: what is asked.
        met: whether all of it is reached; None where nothing is asked or nothing could be compared.
    """

    group: str
    shapes: int
    ratio: float | None
    ratio_wrong_too: float | None
    lowest: float | None
    share: float
    rate: float
    bar: Bar
    met: bool | None


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def judge(group: str, results: Sequence[Result], bar: Bar) -> Verdict:
    """Holds the results of a shape class against its bar."""
    ratios = [r for r in (_ratio(result, bar, False) for result in results) if r is not None]
    wrong_too = [r for r in (_ratio(result, bar, True) for result in results) if r is not None]
    share = geometric_mean([r.share for r in results])
    rate = min(r.rate for r in results)
    ratio, lowest = (geometric_mean(ratios), min(ratios)) if ratios else (None, None)
    checks: list[bool | None] = []
    if bar.ratio is not None:
        excused = all(_excused(result, bar) for result in results)
        checks.append(None if ratio is None else ratio >= bar.ratio or excused)
    if bar.lowest is not None:
        checks.append(None if lowest is None else lowest >= bar.lowest)
    if bar.share is not None:
        checks.append(share >= bar.share)
    if bar.rate is not None:
        checks.append(rate >= bar.rate)
    met = None if not checks or None in checks else all(checks)
    means = geometric_mean(wrong_too) if wrong_too else None
    return Verdict(group, len(results), ratio, means, lowest, share, rate, bar, met)


def _ratio(result: Result, bar: Bar, wrong_too: bool) -> float | None:
    if bar.against:
        return result.ratios.get(bar.against)
    best = result.best_peer(wrong_too)
    return best[1] if best else None


def _excused(result: Result, bar: Bar) -> bool:
    """Whether a shape reaches its bar, or its peer all but reaches the roof and is all but met."""
    ratio = _ratio(result, bar, False)
    if ratio is None or bar.ratio is None:
        return False
    return ratio >= bar.ratio or (ratio >= NEAR_PEER and result.share / ratio >= NEAR_ROOF)
