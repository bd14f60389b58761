"""Requests: when they come and how long they are, in chunks, so that a day of them needs no memory.

Arrivals: ``poisson:RATE``, ``gamma:RATE[,cv=CV]``, ``uniform:RATE`` (equal gaps), ``closed:N`` (N users who ask again
at once). Lengths: ``N``, ``uniform:LOW-HIGH``, ``exponential:MEAN`` (geometric), ``lognormal:MEAN[,cv=CV][,max=N]``
(cut at N). A trace is a CSV file (``.gz`` allowed) with the columns ``arrival_s, input_tokens, output_tokens`` and
optionally ``hash_ids`` (prefix ids, blank separated), ``user`` and ``priority``.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from npusim.errors import InputError, Problem, did_you_mean

CHUNK = 16384  # requests made at a time
MAX_TOKENS = 2**24
_NO_IDS = np.zeros(0, dtype=np.int64)
_NEEDED = ("arrival_s", "input_tokens", "output_tokens")
_KNOWN = (*_NEEDED, "hash_ids", "user", "priority")
_LATEST_S = 1e10  # so that times since 1970 are allowed; a double still tells 2 µs apart


@dataclass(frozen=True)
class Chunk:
    """Requests in the order of their arrival; arrays of one length.

    Args:
        arrival_s: times, not decreasing (ignored in a closed loop).
        input_tokens: prompt lengths.
        output_tokens: tokens to make.
        user: number of the user, from 0.
        priority: lower goes first.
        hash_ends: where the prefix ids of each request end in ``hashes``.
        hashes: prefix ids of the prompts, one per unit of tokens; equal ids mean equal prefixes.
    """

    arrival_s: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    user: np.ndarray
    priority: np.ndarray
    hash_ends: np.ndarray
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.arrival_s)


def chunk_of(
    arrival_s: np.ndarray, input_tokens: np.ndarray, output_tokens: np.ndarray, *, user: np.ndarray | None = None,
    priority: np.ndarray | None = None, hash_ends: np.ndarray | None = None, hashes: np.ndarray | None = None,
) -> Chunk:  # fmt: skip
    """A chunk of these columns; what is not given is 0 or empty."""
    n = len(arrival_s)

    def ints(values: np.ndarray | None) -> np.ndarray:
        return np.zeros(n, dtype=np.int64) if values is None else np.ascontiguousarray(values, dtype=np.int64)

    times, importance = (
        np.ascontiguousarray(v, dtype=np.float64) for v in (arrival_s, np.zeros(n) if priority is None else priority)
    )
    ids = _NO_IDS if hashes is None else np.ascontiguousarray(hashes, dtype=np.int64)
    return Chunk(times, ints(input_tokens), ints(output_tokens), ints(user), importance, ints(hash_ends), ids)


# -- lengths ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of token counts: ``kind`` fixed, uniform, exponential or lognormal.

    Args:
        kind: its name.
        mean: mean (fixed: the value), tokens.
        spread: uniform: half the width; lognormal: coefficient of variation.
        most: lognormal: longer draws count as this many tokens (0: no such limit).
    """

    kind: str
    mean: float
    spread: float = 0.0
    most: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest request; of distributions without an end, what one in 10^6 exceeds."""
        if self.kind == "fixed":
            return int(self.mean)
        if self.kind == "uniform":
            return int(self.mean + self.spread)
        if self.kind == "exponential":
            return math.ceil(self.mean * math.log(1e6)) + 1
        sigma = math.sqrt(math.log1p(self.spread**2))
        end = math.ceil(self.mean * math.exp(4.7534 * sigma - sigma**2 / 2)) + 1
        return min(end, self.most) if self.most else end

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """``count`` token counts, at least 1, at most ``longest``."""
        if self.kind == "fixed":
            return np.full(count, int(self.mean), dtype=np.int64)
        if self.kind == "uniform":
            return random.integers(int(self.mean - self.spread), int(self.mean + self.spread) + 1, count)
        if self.kind == "exponential":
            return np.minimum(random.geometric(1 / self.mean, count), self.longest)
        sigma = math.sqrt(math.log1p(self.spread**2))
        drawn = random.lognormal(math.log(self.mean) - sigma**2 / 2, sigma, count)
        return np.clip(np.rint(drawn), 1, self.longest).astype(np.int64)


_LENGTHS = "a number, uniform:LOW-HIGH, exponential:MEAN or lognormal:MEAN[,cv=CV][,max=N]"


def parse_lengths(text: str | int, path: str) -> Lengths:
    """Reads a distribution of lengths. Raises InputError."""
    words = str(text).strip()
    if re.fullmatch(r"[0-9]{1,9}", words):
        return _checked(Lengths("fixed", float(words)), words, path)
    found = re.fullmatch(r"uniform:([0-9]{1,9})-([0-9]{1,9})", words)
    if found:
        low, high = int(found[1]), int(found[2])
        if not 1 <= low <= high:
            raise InputError(Problem(f"{words!r} is empty", path, allowed=_LENGTHS))
        middle, half = (low + high) / 2, (high - low) / 2
        return _checked(Lengths("uniform", middle, half), words, path)
    found = re.fullmatch(r"(exponential|lognormal):([0-9.]{1,12})(?:,cv=([0-9.]{1,8}))?(?:,max=([0-9]{1,9}))?", words)
    if found and not (found[1] == "exponential" and (found[3] or found[4])):
        mean, spread = _number(found[2], words, path), _number(found[3] or "1", words, path)
        most = int(found[4] or 0)
        if found[4] and most < mean:
            raise InputError(Problem(f"{words[:60]!r}: the longest is below the mean", path, allowed=_LENGTHS))
        return _checked(Lengths(found[1], mean, spread if found[1] == "lognormal" else 0.0, most), words, path)
    kind, known = words.partition(":")[0], ("uniform", "exponential", "lognormal")
    hint = "" if kind in known else did_you_mean(kind, known)
    raise InputError(Problem(f"{words[:60]!r} is no length", path, allowed=_LENGTHS, hint=hint))


def _checked(lengths: Lengths, text: str, path: str) -> Lengths:
    if not (1 <= lengths.mean and lengths.longest <= MAX_TOKENS and 0 <= lengths.spread <= MAX_TOKENS):
        raise InputError(Problem(f"{text[:60]!r} is out of range", path, allowed=f"1 to {MAX_TOKENS} tokens"))
    return lengths


def _number(text: str, whole: str, path: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(Problem(f"{whole[:60]!r}: {text[:20]!r} is not a positive number", path))
    return value


# -- arrivals --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests come: ``kind`` poisson, gamma, uniform or closed.

    Args:
        kind: its name.
        rate_per_s: requests per second of an open loop.
        cv: coefficient of variation of the gaps of ``gamma``.
        concurrency: requests in flight of a closed loop.
    """

    kind: str
    rate_per_s: float = 0.0
    cv: float = 1.0
    concurrency: int = 0

    def gaps(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Seconds between arrivals."""
        if self.kind == "closed":
            return np.zeros(count)
        if self.kind == "uniform":
            return np.full(count, 1 / self.rate_per_s)
        shape = 1.0 if self.kind == "poisson" else 1 / self.cv**2
        return random.gamma(shape, 1 / (self.rate_per_s * shape), count)

    def at(self, rate_per_s: float) -> Arrivals:
        """The same process at another rate."""
        return Arrivals(self.kind, rate_per_s, self.cv)


_RATES, _RATES_TEXT = (1e-6, 1e9), "1e-6 to 1e9 requests/s"
_ARRIVALS = "poisson:RATE, gamma:RATE[,cv=CV], uniform:RATE or closed:N"


def parse_arrivals(text: str, path: str = "--arrivals") -> Arrivals:
    """Reads an arrival process. Raises InputError."""
    found = re.fullmatch(r"(poisson|gamma|uniform):([0-9.eE+-]{1,20})(?:/s)?(?:,cv=([0-9.]{1,8}))?", text.strip())
    if found and (found[1] == "gamma" or not found[3]):
        cv = _number(found[3] or "2", text, path)
        if not 0.01 <= cv <= 100:
            raise InputError(Problem(f"{text[:60]!r}: cv is out of range", path, allowed="0.01 to 100"))
        rate = _number(found[2], text, path)
        if not _RATES[0] <= rate <= _RATES[1]:
            raise InputError(Problem(f"{text[:60]!r}: the rate is out of range", path, allowed=_RATES_TEXT))
        return Arrivals(found[1], rate, cv)
    found = re.fullmatch(r"closed:([0-9]{1,7})", text.strip())
    if found and int(found[1]) >= 1:
        return Arrivals("closed", concurrency=int(found[1]))
    kind, known = text.partition(":")[0], ("poisson", "gamma", "uniform", "closed")
    hint = "" if kind in known else did_you_mean(kind, known)
    raise InputError(Problem(f"{text[:60]!r} is no arrival process", path, allowed=_ARRIVALS, hint=hint))


# -- sources ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Synthetic:
    """Requests drawn at random: the same seed gives the same requests.

    Args:
        arrivals: how they come.
        input: prompt lengths.
        output: output lengths.
        count: how many.
        seed: of the generator (PCG64).
        users: they are dealt to this many users at random.
        prefix_groups: groups of requests that share the beginning of their prompts, 0 for none.
        prefix_tokens: how many tokens they share.
        unit_tokens: tokens per prefix id.
    """

    arrivals: Arrivals
    input: Lengths
    output: Lengths
    count: int
    seed: int = 0
    users: int = 1
    prefix_groups: int = 0
    prefix_tokens: int = 0
    unit_tokens: int = 16

    def __post_init__(self) -> None:
        """Checks ranges."""
        ranges = {"requests": (self.count, 1, 10**9), "seed": (self.seed, 0, 2**63 - 1),
                  "users": (self.users, 1, 10**5), "prefix groups": (self.prefix_groups, 0, 10**6),
                  "prefix tokens": (self.prefix_tokens, 0, MAX_TOKENS)}  # fmt: skip
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise InputError(Problem(f"{value}", name, allowed=f"{low} to {high}"))

    @property
    def concurrency(self) -> int:
        """Requests in flight of a closed loop, 0 for an open one."""
        return self.arrivals.concurrency

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest prompt and output."""
        return self.input.longest, self.output.longest

    def chunks(self) -> Iterator[Chunk]:
        """The requests, chunk by chunk."""
        random, clock, left = np.random.default_rng(self.seed), 0.0, self.count
        while left:
            n = min(left, CHUNK)
            times = clock + np.cumsum(self.arrivals.gaps(random, n))
            inputs, outputs = self.input.draw(random, n), self.output.draw(random, n)
            users = random.integers(0, self.users, n) if self.users > 1 else None
            ends, ids = self._prefixes(random, inputs)
            yield chunk_of(times, inputs, outputs, user=users, hash_ends=ends, hashes=ids)
            clock, left = float(times[-1]), left - n

    def _prefixes(self, random: np.random.Generator, inputs: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Ids of the shared beginnings: group · units + position."""
        if not self.prefix_groups:
            return None, None
        units = np.minimum(inputs, self.prefix_tokens) // self.unit_tokens
        group = random.integers(0, self.prefix_groups, len(inputs))
        ends = np.cumsum(units)
        position = np.arange(int(ends[-1])) - np.repeat(ends - units, units)
        most = self.prefix_tokens // self.unit_tokens + 1
        return ends, np.repeat(group * most, units) + position


@dataclass(frozen=True)
class Trace:
    """Requests of a file, or of columns in memory.

    Args:
        requests: all of them.
        name: of the file.
        unit_tokens: tokens per prefix id, 0 without ids.
        concurrency: run them as a closed loop of so many, their times ignored; 0: as they came.
        users: they belong to so many.
        has_users: whether the file says whose they are.
        has_priority: whether it says how important they are.
    """

    requests: Chunk
    name: str = "trace"
    unit_tokens: int = 0
    concurrency: int = 0
    users: int = 1
    has_users: bool = False
    has_priority: bool = False

    @property
    def count(self) -> int:
        """Requests."""
        return len(self.requests)

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest prompt and output."""
        return int(self.requests.input_tokens.max()), int(self.requests.output_tokens.max())

    def chunks(self) -> Iterator[Chunk]:
        """The requests, chunk by chunk."""
        r = self.requests
        for first in range(0, len(r), CHUNK):
            part = slice(first, first + CHUNK)
            ends = r.hash_ends[part]
            begin = int(r.hash_ends[first - 1]) if first else 0
            ids = r.hashes[begin : int(ends[-1])] if len(r.hashes) else _NO_IDS
            yield Chunk(r.arrival_s[part], r.input_tokens[part], r.output_tokens[part], r.user[part],
                        r.priority[part], ends - begin if len(ids) else np.zeros_like(ends), ids)  # fmt: skip


Source = Synthetic | Trace


def _seconds(text: str) -> float:
    """Seconds of a number or of ``D days HH:MM:SS.fff``."""
    found = re.fullmatch(r"(?:([0-9]{1,9}) days? )?([0-9]{1,3}):([0-9]{1,2}):([0-9.]+)", text)
    if found:
        return int(found[1] or 0) * 86400 + int(found[2]) * 3600 + int(found[3]) * 60 + float(found[4])
    return float(text)


def rows_of(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row of a CSV file, header first, empty rows left out; gzip allowed.

    Raises:
        InputError: it cannot be read.
    """
    name = os.fspath(path)
    try:
        opened = gzip.open if name.endswith(".gz") else open
        with opened(name, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, row
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise InputError(Problem(f"cannot be read: {str(error)[:120]}", file=name)) from None


def read_table(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file, gzip allowed. Raises InputError when it cannot be read."""
    rows = [row for _, row in rows_of(path)]
    if len(rows) < 2:
        raise InputError(Problem("holds no request", file=os.fspath(path)))
    return rows[0], rows[1:]


class _Rows:
    """Takes the rows of a trace one by one and keeps their columns."""

    def __init__(self, name: str, header: list[str]) -> None:
        self._name, self._header = name, [title.strip() for title in header]
        for column in _NEEDED:
            if column not in self._header:
                known = "arrival_s, input_tokens, output_tokens [, hash_ids, user, priority]"
                hint = f"the file has: {', '.join(self._header)}"[:200]
                raise InputError(Problem(f"column '{column}' is missing", file=name, line=1, col=1, allowed=known,
                                         hint=hint))  # fmt: skip
        for column in _KNOWN:
            if self._header.count(column) > 1:
                raise InputError(Problem(f"column '{column}' is there twice", file=name, line=1, col=1))
        self._at = {column: self._header.index(column) for column in _KNOWN if column in self._header}
        self._users: dict[str, int] = {}
        self.times, self.inputs, self.outputs = array("d"), array("q"), array("q")
        self.user, self.priority, self.ends, self.ids = array("q"), array("d"), array("q"), array("q")

    def add(self, line: int, row: list[str]) -> None:
        """One request. Raises InputError with its line."""
        time = self._number(line, row, "arrival_s", 0.0, _LATEST_S)
        if self.times and time < self.times[-1]:
            what = f"arrival_s {time:g} is before the row above ({self.times[-1]:g})"
            raise self._wrong(line, row, "arrival_s", what, hint="sort the trace by arrival")
        self.times.append(time)
        self.inputs.append(int(self._number(line, row, "input_tokens", 1, MAX_TOKENS, whole=True)))
        self.outputs.append(int(self._number(line, row, "output_tokens", 1, MAX_TOKENS, whole=True)))
        if "user" in self._at:
            self.user.append(self._users.setdefault(self._cell(row, "user"), len(self._users)))
        if "priority" in self._at:
            self.priority.append(self._number(line, row, "priority", -1e300, 1e300))
        if "hash_ids" in self._at:
            try:
                self.ids.extend(map(int, self._cell(row, "hash_ids").split()))
            except (ValueError, OverflowError):
                what = f"hash_ids {self._cell(row, 'hash_ids')[:40]!r}"
                raise self._wrong(line, row, "hash_ids", what, "whole numbers of 64 bits, blank separated") from None
            self.ends.append(len(self.ids))

    def chunk(self) -> Chunk:
        """All requests; times count from the first arrival."""
        times = np.array(self.times)
        return chunk_of(
            times - times[0], np.array(self.inputs), np.array(self.outputs),
            user=np.array(self.user) if self.user else None,
            priority=np.array(self.priority) if self.priority else None,
            hash_ends=np.array(self.ends) if self.ends else None,
            hashes=np.array(self.ids, dtype=np.int64) if self.ends else None,
        )  # fmt: skip

    def _cell(self, row: list[str], column: str) -> str:
        at = self._at[column]
        return row[at].strip() if at < len(row) else ""

    def _number(self, line: int, row: list[str], column: str, low: float, high: float, whole: bool = False) -> float:
        text = self._cell(row, column)
        try:
            value = _seconds(text) if column == "arrival_s" else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (whole and value != int(value)):
            kind = "a whole number, " if whole else ""
            raise self._wrong(line, row, column, f"{column} {text[:40]!r}", f"{kind}{low:g} to {high:.10g}")
        return value

    def _wrong(
        self, line: int, row: list[str], column: str, what: str, allowed: str = "", hint: str = ""
    ) -> InputError:
        col = 1 + sum(len(cell) + 1 for cell in row[: self._at[column]])
        return InputError(Problem(what, file=self._name, line=line, col=col, allowed=allowed, hint=hint))


def load_trace(path: str | os.PathLike[str], unit_tokens: int = 512, limit: int | None = None) -> Trace:
    """Reads a trace of requests; its times then count from the first arrival.

    Args:
        path: the file.
        unit_tokens: tokens per prefix id (512 in Mooncake's traces).
        limit: only the first so many requests.

    Raises:
        InputError: no such file or column, or a row with times that are negative or go backwards, or with lengths
            that are no positive numbers; each with its line.
    """
    name = os.fspath(path)
    rows = rows_of(path)
    _, header = next(rows, (0, None))
    if header is None:
        raise InputError(Problem("holds no request", file=name))
    taken = _Rows(name, header)
    for line, row in rows if limit is None else islice(rows, limit):
        taken.add(line, row)
    if not taken.times:
        raise InputError(Problem("holds no request", file=name))
    made = taken.chunk()
    ids = len(taken.ends) > 0
    return Trace(made, name, unit_tokens if ids else 0, users=int(made.user.max()) + 1,
                 has_users=len(taken.user) > 0, has_priority=len(taken.priority) > 0)  # fmt: skip
