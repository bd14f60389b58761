"""Measured requests of a real engine: few constants fitted on one half of them, errors counted on the other.

The whole run is simulated with the measured arrivals and lengths; what is compared are each request's TTFT, TPOT and
end-to-end time. A serving engine stamps a request when it first sees it, at the next step after its arrival, so the
times here count from there. The split is by turns in the order of arrival.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from npusim.chip import Chip, load_chip
from npusim.errors import InputError, Problem
from npusim.llm import precision as named_precision
from npusim.models import Model, load_model
from npusim.serving import load
from npusim.serving.answer import check_lengths
from npusim.serving.engine import VLLM, Rules, simulate
from npusim.serving.load import Trace
from npusim.serving.placement import Placement, cache_blocks, pool_of
from npusim.serving.steps import Constants, Shape

# Name, lowest, highest, first guess. Fractions are of what the cost model grants, which for main memory is already
# what streams reach, so a little above 1 is possible.
PARAMETERS = (
    ("compute", 0.3, 1.1, 0.9),
    ("memory", 0.4, 1.15, 0.92),
    ("attention", 0.2, 1.5, 0.9),
    ("host_s", 1e-5, 2e-2, 1e-3),
    ("cache", 0.5, 1.3, 1.0),  # of the blocks the chip file's usable memory gives
)
GRID = ((0.6, 0.75, 0.9), (0.7, 0.8, 0.92), (0.88, 0.96, 1.04))  # compute, memory and cache to begin with
SEQUENCES = (128, 256)  # limits in use among serving engines, tried when none is stated
ROUNDS = ((0.08, 200), (0.04, 100))  # of the simplex method: first size of the simplex, evaluations
STEPS = (1.0, 1.0, 1.5, 8.0, 0.6)  # of the simplex along each parameter, in sizes


@dataclass(frozen=True)
class Observed:
    """Requests that were measured: lengths and arrivals, and per request seconds."""

    trace: Trace
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    e2e_s: np.ndarray


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors over some requests, in percent.

    Args:
        requests: how many.
        tpot_mape_pct: mean absolute error of TPOT.
        e2e_mape_pct: mean absolute error of end-to-end times.
        ttft_mean_pct: error of the mean TTFT.
        ttft_mape_pct: mean absolute error of TTFT.
        tokens_per_s_pct: error of the tokens per second of the whole run.
    """

    requests: int
    tpot_mape_pct: float
    e2e_mape_pct: float
    ttft_mean_pct: float
    ttft_mape_pct: float
    tokens_per_s_pct: float


@dataclass(frozen=True)
class FittedRequests:
    """Constants, and the errors on requests they were fitted to and on those they were not.

    Args:
        chip: name of the chip.
        model: name of the model.
        constants: what was fitted of the steps.
        blocks: cache blocks of the engine.
        max_sequences: limit of the batch that fits best.
        unfitted: errors of the chip file alone on the requests left out.
        fitted: errors on the half the constants were fitted to.
        left_out: errors on the other half.
    """

    chip: str
    model: str
    constants: Constants
    blocks: int
    max_sequences: int
    unfitted: Errors
    fitted: Errors
    left_out: Errors

    def to_dict(self) -> dict[str, Any]:
        """Plain types, units in the keys."""
        return asdict(self)


def load_observed(path: str | os.PathLike[str], chip: Chip, model: Model) -> Observed:
    """Reads measured requests: a trace with ``ttft_ms``, ``tpot_ms``, ``e2e_ms``, optionally ``device`` and ``model``.

    Raises:
        InputError: a column is missing, a figure is no positive number, or no row is of this chip and model.
    """
    header, rows = load.read_table(path)
    name = os.fspath(path)
    for column in ("ttft_ms", "tpot_ms", "e2e_ms"):
        if column not in header:
            raise InputError(Problem(f"column '{column}' is missing", file=name, line=1, col=1))
    keep = _rows_of(header, rows, chip, model)
    if len(keep) < 20:
        raise InputError(
            Problem(f"{len(keep)} requests of {model.name} on {chip.name}", file=name, allowed="20 or more")
        )
    trace = load.load_trace(path)
    r = trace.requests
    picked = load.chunk_of(r.arrival_s[keep], r.input_tokens[keep], r.output_tokens[keep])
    columns = []
    for column in ("ttft_ms", "tpot_ms", "e2e_ms"):
        at = header.index(column)
        columns.append(_milliseconds([rows[i][at] for i in keep], column, name))
    return Observed(Trace(picked, name), *columns)


def _rows_of(header: list[str], rows: list[list[str]], chip: Chip, model: Model) -> list[int]:
    """Rows of this chip and model; rows that name neither are."""
    wanted = set(range(len(rows)))
    checks: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("device", lambda spelling: _same_chip(spelling, chip)),
        ("model", lambda spelling: _same_model(spelling, model)),
    )
    for column, same in checks:
        if column in header:
            at = header.index(column)
            known = {spelling: same(spelling) for spelling in {row[at] for row in rows if len(row) > at}}
            wanted &= {i for i, row in enumerate(rows) if len(row) > at and known[row[at]]}
    return sorted(wanted)


def _milliseconds(texts: Sequence[str], column: str, file: str) -> np.ndarray:
    try:
        values = np.array([float(text) for text in texts]) / 1e3
    except ValueError:
        values = np.array([math.nan])
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise InputError(Problem(f"{column} holds something else than milliseconds", file=file))
    return values


def _same_chip(spelling: str, chip: Chip) -> bool:
    try:
        return load_chip(spelling).name == chip.name
    except InputError:
        return False


def _same_model(spelling: str, model: Model) -> bool:
    """Whether a spelling is the model's name or alias, or that with a release after a hyphen (``-Instruct-2507``)."""
    words = spelling.rpartition("/")[2].lower().split("-")
    for count in range(len(words), 0, -1):
        try:
            return load_model("-".join(words[:count])).name == model.name
        except InputError:
            continue
    return False


class _Replay:
    """The measured run, simulated under any constants."""

    def __init__(self, seen: Observed, chip: Chip, model: Model, precision: str, rules: Rules, fidelity: str, tp: int):
        self.seen, self.rules = seen, rules
        longest = check_lengths(seen.trace, model)
        self.place, fmt = Placement(tp=tp), named_precision(precision)
        self.blocks = cache_blocks(model, chip, fmt, self.place, rules)
        self.least = -(-longest // rules.block_tokens) + 1
        self.shape = Shape(model, chip, fmt, tp, 1, fidelity, rules.max_tokens, rules.max_sequences, longest,
                           rules.block_tokens)  # fmt: skip

    def times(self, constants: Constants, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """TTFT, TPOT and end-to-end seconds of every request."""
        parts: list[np.ndarray] = []
        pool = pool_of(self.shape, self.place, self.rules, constants, max(blocks, self.least))
        simulate(self.seen.trace, pool, self.rules, parts.append)
        rows = np.concatenate(parts)
        rows = rows[np.argsort(rows["id"])]
        ttft_s, e2e_s = rows["first"] - rows["seen"], rows["last"] - rows["seen"]
        return ttft_s, (e2e_s - ttft_s) / np.maximum(rows["output"] - 1, 1), e2e_s

    def errors(self, constants: Constants, blocks: int, half: np.ndarray) -> Errors:
        """Errors on the requests of ``half``."""
        ttft, tpot, e2e = self.times(constants, blocks)
        seen = self.seen
        arrival = seen.trace.requests.arrival_s
        many = (seen.tpot_s > 0) & half

        def mape(got: np.ndarray, true: np.ndarray, rows: np.ndarray) -> float:
            return float(100 * np.mean(np.abs(got[rows] / true[rows] - 1)))

        spans = (np.max(arrival + e) for e in (seen.e2e_s, e2e))
        measured_s, simulated_s = (float(span) for span in spans)
        return Errors(
            int(half.sum()),
            mape(tpot, seen.tpot_s, many),
            mape(e2e, seen.e2e_s, half),
            float(100 * (ttft[half].mean() / seen.ttft_s[half].mean() - 1)),
            mape(ttft, np.maximum(seen.ttft_s, 1e-6), half),
            100 * (measured_s / simulated_s - 1),
        )


def fit_requests(
    path: str | os.PathLike[str] | Observed, chip: Chip | str, model: Model | str, *, precision: str = "bf16",
    rules: Rules = VLLM, fidelity: str = "tile", tp: int = 1,
) -> FittedRequests:  # fmt: skip
    """Fits the step constants and the size of the cache to every other measured request, and scores on the rest.

    Args:
        path: the measured requests.
        chip: what they ran on.
        model: what ran.
        precision: number formats.
        rules: how the engine served; its ``max_sequences``, when it is the default, is chosen by the fit too.
        fidelity: which cost model prices the steps.
        tp: tensor-parallel chips.

    Raises:
        InputError: unreadable requests, or scipy is missing.
    """
    hardware = chip if isinstance(chip, Chip) else load_chip(chip)
    net = model if isinstance(model, Model) else load_model(model)
    seen = path if isinstance(path, Observed) else load_observed(path, hardware, net)
    half = np.arange(seen.trace.count) % 2 == 0
    tried = SEQUENCES if rules.max_sequences == VLLM.max_sequences else (rules.max_sequences,)
    best: tuple[float, np.ndarray, _Replay] | None = None
    for sequences in tried:
        served = replace(rules, max_sequences=sequences)
        replay = _Replay(seen, hardware, net, precision, served, fidelity, tp)
        loss, found = _fit(replay, half)
        if best is None or loss < best[0]:
            best = loss, found, replay
    assert best is not None
    _, values, replay = best
    constants, blocks = _constants(values, replay)
    return FittedRequests(
        hardware.name, net.name, constants, blocks, replay.rules.max_sequences,
        replay.errors(Constants(), replay.blocks, ~half), replay.errors(constants, blocks, half),
        replay.errors(constants, blocks, ~half),
    )  # fmt: skip


def _constants(values: np.ndarray, replay: _Replay) -> tuple[Constants, int]:
    compute, memory, attention, host_s, cache = np.exp(values).tolist()
    return Constants(compute, memory, attention, host_s), max(round(cache * replay.blocks), replay.least)


def _loss(values: np.ndarray, replay: _Replay, half: np.ndarray) -> float:
    """Percent of TPOT, end-to-end and mean TTFT together; out of bounds it grows steeply."""
    low, high = (np.log([p[i] for p in PARAMETERS]) for i in (1, 2))
    inside = np.clip(values, low, high)
    errors = replay.errors(*_constants(inside, replay), half)
    outside = 1000 * float(np.abs(values - inside).sum())
    return errors.tpot_mape_pct + errors.e2e_mape_pct + abs(errors.ttft_mean_pct) + outside


def _fit(replay: _Replay, half: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and logarithms of the parameters: the simplex method, twice, from the best point of a coarse grid."""
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise InputError(Problem("fitting needs scipy", "--measured", hint="pip install 'npusim[calibrate]'")) from None
    guess = [p[3] for p in PARAMETERS]
    starts = [np.log([compute, memory, *guess[2:-1], cache]) for compute, memory, cache in product(*GRID)]
    best = min(starts, key=lambda values: _loss(values, replay, half))
    for size, evaluations in ROUNDS:
        simplex = np.vstack([best, best + size * np.diag(STEPS)])
        found = minimize(_loss, best, (replay, half), method="Nelder-Mead",
                         options={"maxfev": evaluations, "initial_simplex": simplex})  # fmt: skip
        best = found.x
    return float(found.fun), np.asarray(found.x)
