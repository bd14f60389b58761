"""Figures of a serving run from the records of its requests.

Definitions, as serving benchmarks use them: TTFT is the time from a request's arrival to its first token; TPOT is
(last token − first token) / (tokens − 1), undefined for one token; ITL are the single gaps between a request's tokens;
end to end is from arrival to the last token; queue is from arrival to the first admission. Throughput counts output
tokens over the time from the first arrival to the last token; goodput only those requests that meet the SLO.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npusim.errors import InputError, Problem, did_you_mean

QUANTILES = (0.5, 0.9, 0.95, 0.99)
EXACT = 1_000_000  # requests whose quantiles are exact; beyond, logarithmic bins 0.1 % wide
_BIN = math.log(1.001)


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must get, and how many of them.

    Args:
        ttft_s: time to first token at most.
        tpot_s: time per output token at most.
        e2e_s: end to end at most.
        attainment: share of the requests that must meet all of these.
    """

    ttft_s: float = math.inf
    tpot_s: float = math.inf
    e2e_s: float = math.inf
    attainment: float = 0.99

    def met(self, ttft_s: np.ndarray, tpot_s: np.ndarray, e2e_s: np.ndarray) -> np.ndarray:
        """Per request; a request of one token has no TPOT to miss."""
        fast = np.isnan(tpot_s) | (tpot_s <= self.tpot_s)
        return np.asarray((ttft_s <= self.ttft_s) & fast & (e2e_s <= self.e2e_s))

    def to_dict(self) -> dict[str, float]:
        """The limits that were set."""
        return {name: getattr(self, name) for name in ("ttft_s", "tpot_s", "e2e_s", "attainment")
                if math.isfinite(getattr(self, name))}  # fmt: skip


_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_LIMITS = ("ttft", "tpot", "e2e", "attainment")
_SLO = "limits such as ttft=450ms,tpot=40ms,e2e=20s,attainment=99%"


def parse_slo(text: str) -> Slo:
    """Reads ``ttft=450ms,tpot=40ms[,e2e=20s][,attainment=0.99]``. Raises InputError."""
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, size = (word.strip() for word in part.partition("="))
        if name not in _LIMITS:
            raise InputError(
                Problem(f"{part[:60]!r} is no limit", "--slo", allowed=_SLO, hint=did_you_mean(name, _LIMITS))
            )
        if name in found:
            raise InputError(Problem(f"{name} is given twice", "--slo", allowed=_SLO))
        found[name] = _share(size, part) if name == "attainment" else _limit_s(size, part)
    if not set(found) - {"attainment"}:
        raise InputError(Problem("an SLO needs a limit", "--slo", allowed=_SLO))
    return Slo(**{name if name == "attainment" else f"{name}_s": value for name, value in found.items()})


def _limit_s(text: str, part: str) -> float:
    """Seconds of a number with its unit."""
    match = re.fullmatch(r"([0-9.]{1,20})\s*([a-z%]*)", text)
    if match and not match[2]:
        raise InputError(Problem(f"{part[:60]!r} has no unit", "--slo", allowed=_SLO, hint=f"write {part[:40]}ms?"))
    value = _float(match[1]) * _SECONDS.get(match[2], math.nan) if match else math.nan
    if not 1e-9 <= value <= 1e9:
        allowed = f"a time above 0 in {', '.join(_SECONDS)}"
        raise InputError(Problem(f"{part[:60]!r} is no time", "--slo", allowed=allowed))
    return value


def _share(text: str, part: str) -> float:
    """A share of all requests, as a number or in percent."""
    value = _float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise InputError(
            Problem(f"{part[:60]!r} is no share of the requests", "--slo", allowed="above 0 to 1, or 100%")
        )
    return value


def _float(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}", text) else math.nan


class Quantiles:
    """Quantiles of a stream of times: exact up to 10^6 values, then in logarithmic bins 0.1 % wide."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._bins: dict[int, int] = {}
        self.count, self.total, self.largest = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Takes more values; those that are not numbers are left out."""
        values = values[~np.isnan(values)]
        if not len(values):
            return
        self.count += len(values)
        self.total += float(values.sum())
        self.largest = max(self.largest, float(values.max()))
        self._parts.append(values)
        if self.count > EXACT:
            for part in self._parts:
                keys, counts = np.unique(np.floor(np.log(np.maximum(part, 1e-9)) / _BIN), return_counts=True)
                for key, count in zip(keys.astype(int).tolist(), counts.tolist(), strict=True):
                    self._bins[key] = self._bins.get(key, 0) + count
            self._parts = []

    def at(self, q: float) -> float:
        """The q-quantile (nearest rank); nan of nothing."""
        if not self.count:
            return math.nan
        rank = max(math.ceil(q * self.count), 1)
        if not self._bins:
            values = np.concatenate(self._parts)
            return float(np.partition(values, rank - 1)[rank - 1])
        seen = 0
        for key in sorted(self._bins):
            seen += self._bins[key]
            if seen >= rank:
                break
        return min(math.exp((key + 0.5) * _BIN), self.largest)

    def to_dict(self) -> dict[str, float | None]:
        """Mean, quantiles and largest; None of nothing."""
        names = {"mean": self.total / self.count if self.count else math.nan}
        names |= {f"p{round(100 * q)}": self.at(q) for q in QUANTILES} | {
            "max": self.largest if self.count else math.nan
        }
        return {name: value if math.isfinite(value) else None for name, value in names.items()}


def gap_quantiles(gaps: np.ndarray, total_s: float) -> dict[str, float | None]:
    """Quantiles of the gaps between tokens from their logarithmic bins (128 an octave: within 0.4 %)."""
    count = int(gaps.sum())
    if not count:
        return {name: None for name in ("mean", *(f"p{round(100 * q)}" for q in QUANTILES))}
    ranks = np.cumsum(gaps)
    out: dict[str, float | None] = {"mean": total_s / count}
    for q in QUANTILES:
        at = int(np.searchsorted(ranks, max(math.ceil(q * count), 1)))
        out[f"p{round(100 * q)}"] = float(2.0 ** (at // 128 - 20) * (1 + (at % 128 + 0.5) / 128))
    return out


@dataclass
class Digest:
    """Takes records as they come and keeps what reports need.

    Args:
        slo: what counts as good (None: everything).
        keep: also keep the records themselves.
    """

    slo: Slo | None = None
    keep: bool = False
    ttft: Quantiles = field(default_factory=Quantiles)
    tpot: Quantiles = field(default_factory=Quantiles)
    e2e: Quantiles = field(default_factory=Quantiles)
    queue: Quantiles = field(default_factory=Quantiles)
    count: int = 0
    ids: int = 0  # sum of the requests' numbers: n (n - 1) / 2 when each came once
    good: int = 0
    good_tokens: int = 0
    output_tokens: int = 0
    input_tokens: int = 0
    records: list[np.ndarray] = field(default_factory=list)

    def __call__(self, records: np.ndarray) -> None:
        """Takes some finished requests."""
        ttft_s, e2e_s = records["first"] - records["arrival"], records["last"] - records["arrival"]
        tokens = records["output"]
        tpot_s = np.where(tokens > 1, (records["last"] - records["first"]) / np.maximum(tokens - 1, 1), np.nan)
        for quantiles, values in ((self.ttft, ttft_s), (self.tpot, tpot_s), (self.e2e, e2e_s),
                                  (self.queue, records["admitted"] - records["arrival"])):  # fmt: skip
            quantiles.add(values)
        met = self.slo.met(ttft_s, tpot_s, e2e_s) if self.slo else np.ones(len(records), dtype=bool)
        self.count += len(records)
        self.ids += int(records["id"].sum())
        self.good += int(met.sum())
        self.good_tokens += int(tokens[met].sum())
        self.output_tokens += int(tokens.sum())
        self.input_tokens += int(records["input"].sum())
        if self.keep:
            self.records.append(records)

    @property
    def attainment(self) -> float:
        """Share of the requests that met the SLO."""
        return self.good / self.count if self.count else math.nan

    def to_dict(self, span_s: float) -> dict[str, Any]:
        """Latencies, throughput and goodput over ``span_s`` seconds."""
        return {
            "ttft_s": self.ttft.to_dict(),
            "tpot_s": self.tpot.to_dict(),
            "e2e_s": self.e2e.to_dict(),
            "queue_s": self.queue.to_dict(),
            "requests_per_s": self.count / span_s,
            "tokens_per_s": self.output_tokens / span_s,
            "total_tokens_per_s": (self.output_tokens + self.input_tokens) / span_s,
            "goodput_requests_per_s": self.good / span_s,
            "goodput_tokens_per_s": self.good_tokens / span_s,
            "attainment": self.attainment,
        }
