"""What users feel under a load, the highest rate that holds an SLO, and the chips a load needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npusim import parallel
from npusim.chip import Chip, load_chip
from npusim.cost import energy
from npusim.errors import DoesNotFit, InputError, Problem
from npusim.llm import Precision
from npusim.llm import precision as named_precision
from npusim.models import Model, load_model
from npusim.serving import laws, load
from npusim.serving.constants import described
from npusim.serving.engine import SERIES, VLLM, Pool, Rules, Run, Window, simulate
from npusim.serving.load import Arrivals, Source, Synthetic, Trace
from npusim.serving.metrics import Digest, Slo, gap_quantiles, parse_slo
from npusim.serving.placement import Choice, Placement, cache_blocks, pool_of, window_of
from npusim.serving.steps import UNFITTED, Constants, Shape

RATE_TOLERANCE = 0.01  # of the bisection for the highest rate
MOST_REPLICAS = 1024
DRAWN = 2000  # requests, when nothing is said
PROBE_REQUESTS = 4000  # of a run that only asks whether a rate holds


@dataclass(frozen=True)
class Case:
    """A model on engines of a chip, ready to serve.

    Args:
        model: the network.
        chip: the hardware.
        precision: name of the number formats.
        fmt: the formats.
        place: how the model lies on the chips.
        rules: how the engines serve.
        fidelity: which cost model prices the steps.
        constants: sustained fractions, when fitted.
        max_context: tokens of the longest request.
        imbalance_pct: load of the busiest expert (of the busiest chip, when chips share the experts) in percent of
            the mean.
    """

    model: Model
    chip: Chip
    precision: str
    fmt: Precision
    place: Placement
    rules: Rules
    fidelity: str
    constants: Constants
    max_context: int
    imbalance_pct: float = 100.0

    @property
    def blocks(self) -> int:
        """Blocks of the cache of one engine. Raises DoesNotFit."""
        chip = self.constants.sized(self.chip)
        blocks, rules = cache_blocks(self.model, chip, self.fmt, self.place, self.rules), self.rules
        window = Window() if rules.unit_tokens else window_of(self.model, self.place.tp)
        tokens = self.max_context + rules.draft_tokens
        # Its blocks lie on one attention group; with windows they come and go at different tokens.
        there, spare = blocks // self.place.groups, 2 * (window.tokens > 0)
        short = window.blocks(tokens, min(tokens, rules.max_tokens), rules.block_tokens) + spare - there
        if short > 0 and tokens > there * rules.block_tokens:
            raise DoesNotFit(
                f"the longest request ({self.max_context} tokens) does not fit the KV cache of "
                f"{self.place.replica_chips} x {self.chip.name}: {there * rules.block_tokens} tokens beside "
                f"{self.model.name}",
                short * rules.block_tokens * float(parallel.kv_bytes(self.model, self.fmt, 1, self.place.tp)),
            )
        return blocks

    @property
    def shape(self) -> Shape:
        """An engine as its steps are priced."""
        r = self.rules
        # A chip that shares the experts cannot have more than everything.
        most_pct = 100.0 * self.place.ep if self.place.ep > 1 else self.imbalance_pct
        return Shape(self.model, self.chip, self.fmt, self.place.tp, self.place.pp, self.fidelity, r.max_tokens,
                     r.max_sequences, self.max_context, r.block_tokens, r.draft_tokens,
                     min(self.imbalance_pct, most_pct), self.place.ep)  # fmt: skip

    def pool(self) -> Pool:
        """The engines. Raises DoesNotFit or InputError."""
        blocks = self.blocks
        return pool_of(self.shape, self.place, self.rules, self.constants, blocks)

    def run(self, source: Source, slo: Slo | None = None, keep: bool = False, log: bool = False) -> tuple[Run, Digest]:
        """Serves the requests."""
        digest = Digest(slo, keep)
        rules = self.rules
        if not source.unit_tokens:
            rules = replace(rules, unit_tokens=0)
        run = simulate(source, self.pool(), rules, digest, log=log)
        laws.check(run, digest)
        return run, digest


@dataclass(frozen=True)
class Serving:
    """The answer of ``serve``.

    Args:
        case: what served.
        source: what was served.
        slo: what was asked for (None: nothing).
        run: totals, series, and with ``log`` every step.
        digest: quantiles, and with ``keep`` the record of every request.
        verdicts: what is wrong, in sentences; empty when the load is served and the SLO met.
        highest_rate_per_s: the highest rate that holds the SLO (or the sustainable one), when it was looked for.
        skipped: requests of the trace that were left out for their length.
        choice: why this placement (None: nothing was chosen).
    """

    case: Case
    source: Source
    slo: Slo | None
    run: Run
    digest: Digest
    verdicts: tuple[str, ...] = ()
    highest_rate_per_s: float | None = None
    skipped: int = 0
    choice: Choice | None = None

    @property
    def records(self) -> np.ndarray:
        """Rows of ``engine.RECORD`` in the order of arrival. Raises InputError when they were not kept."""
        if not self.digest.records:
            raise InputError(Problem("the records were not kept", "keep", hint="serve(..., keep=True)"))
        rows = np.concatenate(self.digest.records)
        return rows[np.argsort(rows["id"], kind="stable")]

    @property
    def energy_j(self) -> float | None:
        """Joules of all chips: static power while working, idle power between, and the work; None without a TDP."""
        constants = energy.energies(self.case.chip)
        if constants is None:
            return None
        t, place = self.run.totals, self.case.place
        busy_s = t["busy_s"] / place.engines
        idle_w = self.case.chip.power.idle_w or constants.static_w
        static_j = place.chips * (constants.static_w * busy_s + idle_w * (t["now"] - busy_s))
        return float(place.width * t["joules"] + static_j)

    def over_time(self) -> dict[str, np.ndarray]:
        """Per bin: its start ``time_s``, means of running and waiting requests, share of the cache in use, share of
        busy engines, output tokens per second and dynamic watts."""
        t, engines = self.run.totals, self.case.place.engines
        used = int(np.ceil(t["now"] / t["bin_s"])) if t["now"] else 0
        width = np.minimum(t["bin_s"], np.maximum(t["now"] - np.arange(used) * t["bin_s"], 1e-12))
        rows = {name: self.run.series[:used, i] / width for i, name in enumerate(SERIES)}
        return {
            "time_s": np.arange(used) * t["bin_s"],
            "running": rows["running"],
            "waiting": rows["waiting"],
            "kv_occupancy": rows["blocks"] / t["blocks_total"],
            "busy": rows["busy"] / engines,
            "tokens_per_s": rows["tokens"],
            "dynamic_w": self.case.place.width * rows["joules"],
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: plain types, stable keys, units in the keys."""
        t, c = self.run.totals, self.case
        span = max(t["now"], 1e-12)
        joules = self.energy_j
        return {
            "chip": c.chip.name,
            "model": c.model.name,
            "precision": c.precision,
            "fidelity": c.fidelity,
            "placement": {"chips": c.place.chips, "tp": c.place.tp, "pp": c.place.pp, "ep": c.place.ep,
                          "replicas": c.place.replicas, "prefill_replicas": c.place.prefill_replicas},
            "choice": self.choice.to_dict() if self.choice else None,
            "imbalance_pct": c.imbalance_pct,
            "calibration": described(c.constants),
            "requests": int(t["finished"]),
            "skipped_requests": self.skipped,
            "duration_s": t["now"],
            "slo": self.slo.to_dict() if self.slo else None,
            **self.digest.to_dict(span),
            "itl_s": gap_quantiles(self.run.gaps, t["gap_s"]),
            "mean_running": t["running_s"] / span,
            "mean_waiting": t["waiting_s"] / span,
            "mean_batch": t["sequence_steps"] / max(t["steps"], 1),
            "utilisation": t["busy_s"] / (span * c.place.engines),
            "kv_occupancy": t["block_s"] / (span * t["blocks_total"]),
            "kv_tokens_per_engine": int(t["blocks_total"] / c.place.engines * c.rules.block_tokens),
            "steps": int(t["steps"]),
            "preemptions": int(t["preemptions"]),
            "cached_tokens": int(t["cached_tokens"]),
            "avg_power_w": None if joules is None else joules / span,
            "energy_per_request_j": None if joules is None else joules / max(t["finished"], 1),
            "tokens_per_j": None if joules is None else self.digest.output_tokens / joules,
            "highest_rate_per_s": self.highest_rate_per_s,
            "verdicts": list(self.verdicts),
        }  # fmt: skip


# -- questions -------------------------------------------------------------------------------------------------


def at_rate(source: Source, rate_per_s: float, count: int | None = None) -> Source:
    """The same requests at another mean rate; a trace's times are stretched. Raises InputError for a closed loop."""
    if isinstance(source, Synthetic):
        kind = source.arrivals if source.arrivals.rate_per_s else Arrivals("poisson", 1.0)
        return replace(source, arrivals=kind.at(rate_per_s), count=count or source.count)
    r = source.requests
    stretched = replace(r, arrival_s=r.arrival_s * (mean_rate(source) / rate_per_s))
    return replace(source, requests=stretched, concurrency=0)


def mean_rate(source: Source) -> float:
    """Requests per second of an open loop; 0 of a closed one."""
    if source.concurrency:
        return 0.0
    if isinstance(source, Synthetic):
        return source.arrivals.rate_per_s
    span = float(source.requests.arrival_s[-1] - source.requests.arrival_s[0])
    return (source.count - 1) / span if span > 0 else float("inf")


def saturated(source: Source, place: Placement, rules: Rules) -> Source:
    """The same requests as a closed loop that keeps every engine full."""
    places = 2 * place.engines * rules.max_sequences
    if isinstance(source, Synthetic):
        count = max(min(source.count, PROBE_REQUESTS), 3 * places)
        return replace(source, arrivals=Arrivals("closed", concurrency=places), count=count)
    return replace(source, concurrency=places)


def sustainable_rate(case: Case, source: Source) -> float:
    """Requests per second that the engines serve when there are always more: between a quarter and three quarters of
    the last tokens of a saturated run."""
    _, digest = case.run(saturated(source, case.place, case.rules), keep=True)
    ends = np.sort(np.concatenate([rows["last"] for rows in digest.records]))
    low, high = len(ends) // 4, (3 * len(ends)) // 4
    if high <= low or ends[high] <= ends[low]:
        return len(ends) / float(ends[-1])
    return float((high - low) / (ends[high] - ends[low]))


def alone(source: Source) -> Source:
    """A few of the requests, one at a time on an idle system."""
    if isinstance(source, Synthetic):
        return replace(source, arrivals=Arrivals("closed", concurrency=1), count=min(source.count, 100))
    part = next(iter(source.chunks()))
    keep = slice(0, 100)
    return replace(source, requests=_cut(part, keep), concurrency=1)


def first_requests(source: Source, count: int) -> Source:
    """At most the first ``count`` requests: enough to compare placements by."""
    if isinstance(source, Synthetic):
        return replace(source, count=min(source.count, count))
    return replace(source, requests=_cut(source.requests, slice(0, count)))


def _cut(part: load.Chunk, keep: slice) -> load.Chunk:
    """Some of the requests from the first one on."""
    names = ("arrival_s", "input_tokens", "output_tokens", "user", "priority", "hash_ends")
    return replace(part, **{name: getattr(part, name)[keep] for name in names})


def excess(case: Case, source: Source, slo: Slo) -> dict[str, tuple[float, float]]:
    """The limits that requests miss even when each has the engines to itself: seconds at the SLO's share, the limit."""
    return _missed(_unloaded(case, source, slo), slo)


def impossible(case: Case, source: Source, slo: Slo) -> str:
    """Why nobody can meet the SLO on these engines, or an empty string."""
    digest = _unloaded(case, source, slo)
    if digest.attainment >= slo.attainment:
        return ""
    late = [
        f"{name} of {100 * slo.attainment:g} % of requests is {1e3 * got:.4g} ms, the limit {1e3 * limit:.4g} ms"
        for name, (got, limit) in _missed(digest, slo).items()
    ]
    reason = "; ".join(late) or f"only {digest.attainment:.1%} of the requests meet all limits"
    return f"the SLO cannot be met at any rate: even alone on {case.place.replica_chips} x {case.chip.name}, {reason}"


def _unloaded(case: Case, source: Source, slo: Slo) -> Digest:
    """What requests see that come one at a time."""
    one = replace(case, place=replace(case.place, replicas=max(1 + (case.place.prefill_replicas > 0), 1),
                                      prefill_replicas=min(case.place.prefill_replicas, 1)))  # fmt: skip
    return one.run(alone(source), slo)[1]


def _missed(digest: Digest, slo: Slo) -> dict[str, tuple[float, float]]:
    seen = {
        "TTFT": (digest.ttft.at(slo.attainment), slo.ttft_s),
        "TPOT": (digest.tpot.at(slo.attainment), slo.tpot_s),
        "end-to-end time": (digest.e2e.at(slo.attainment), slo.e2e_s),
    }
    return {name: (got, limit) for name, (got, limit) in seen.items() if got > limit}


def highest_rate(case: Case, source: Source, slo: Slo | None, count: int | None = None) -> float:
    """Highest mean rate that holds the SLO (without one: the sustainable rate), by bisection; 0 when none does."""
    top = sustainable_rate(case, source)
    if slo is None:
        return top
    count = count or PROBE_REQUESTS

    def holds(rate: float) -> bool:
        return case.run(at_rate(source, rate, count), slo)[1].attainment >= slo.attainment

    return bisected(holds, top)


def bisected(holds: Callable[[float], bool], top: float) -> float:
    """The highest rate up to ``top`` that holds, to ``RATE_TOLERANCE``; 0 when none does."""
    if holds(top):
        return top
    low, high = 0.0, top
    while high - low > RATE_TOLERANCE * high and high > 1e-4 * top:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def overload(case: Case, source: Source, run: Run) -> str:
    """Whether requests come faster than they can be served, in a sentence with the sustainable rate; else empty."""
    rate, t = mean_rate(source), run.totals
    if not rate or t["now"] <= 0 or t["waiting_s"] < 0.01 * t["in_system_s"]:
        return ""
    last = int(t["last_arrival"] / t["bin_s"])
    waiting = run.series[: last + 1, SERIES.index("waiting")] / t["bin_s"]
    backlog = float(waiting[max(last - 1, 0)])
    if backlog < max(0.02 * t["finished"], 4):
        return ""
    best = sustainable_rate(case, source)
    if rate <= best:
        return ""
    return (
        f"overload: {rate:.4g} requests/s arrive, {best:.4g} requests/s can be served; the queue grows by "
        f"{rate - best:.3g} requests/s and never drains. Sustainable: {best:.4g} requests/s"
    )


def without_long(source: Trace, model: Model) -> tuple[Trace, int]:
    """The requests that fit the model's positions, and how many do not. Raises InputError when none does."""
    r = source.requests
    keep = r.input_tokens + r.output_tokens <= (model.max_positions or load.MAX_TOKENS)
    if keep.all():
        return source, 0
    if not keep.any():
        raise InputError(
            Problem(f"every request exceeds the {model.max_positions} positions of {model.name}", "lengths")
        )
    counts = np.diff(r.hash_ends, prepend=0)
    part = load.chunk_of(r.arrival_s[keep], r.input_tokens[keep], r.output_tokens[keep], user=r.user[keep],
                         priority=r.priority[keep], hash_ends=np.cumsum(counts[keep]),
                         hashes=r.hashes[np.repeat(keep, counts)] if len(r.hashes) else None)  # fmt: skip
    return replace(source, requests=part), int((~keep).sum())


def check_lengths(source: Source, model: Model) -> int:
    """Tokens of the longest request. Raises InputError when the model has fewer positions, or makes no tokens."""
    limit = model.max_positions
    if not model.causal:
        raise InputError(Problem(f"'{model.name}' is an encoder: it serves no token by token", "model"))
    if isinstance(source, Trace):
        total = source.requests.input_tokens + source.requests.output_tokens
        longest, row = int(total.max()), int(total.argmax())
        where = f"request {row + 1} of {source.name}"
    else:
        longest, where = sum(source.longest), "the longest request"
    if limit is not None and longest > limit:
        message = f"{where} has {longest} tokens, beyond the {limit} positions of {model.name}"
        raise InputError(Problem(message, "lengths", allowed=f"input + output up to {limit} tokens"))
    return longest


def serve(
    chip: Chip | str,
    model: Model | str,
    *,
    arrivals: Arrivals | str = "poisson:1",
    trace: Trace | str | os.PathLike[str] | None = None,
    input: str | int = 1024,
    output: str | int = 256,
    requests: int | None = None,
    seed: int = 0,
    slo: Slo | str | None = None,
    chips: int | str = "auto",
    tp: int | None = None,
    pp: int | None = None,
    ep: int | None = None,
    disaggregate: tuple[int, int] | None = None,
    precision: str = "bf16",
    fidelity: str = "tile",
    rules: Rules = VLLM,
    constants: Constants = UNFITTED,
    users: int = 1,
    prefix: tuple[int, int] | None = None,
    skip_long: bool = False,
    find_rate: bool = False,
    keep: bool = False,
    log: bool = False,
    imbalance_pct: float = 100.0,
) -> Serving:
    """Serves a load of requests and says what users feel.

    Args:
        chip: the hardware: a chip, a catalog name or a path.
        model: a model, a catalog name or a path.
        arrivals: how requests come (see ``npusim.serving.load``); with a trace only ``closed:N`` counts.
        trace: requests of a file instead of drawn ones.
        input: prompt lengths of drawn requests.
        output: output lengths.
        requests: how many are drawn (None: 2000), or at most taken of the trace (None: all).
        skip_long: leave out requests of a trace that exceed the model's positions.
        seed: of what is drawn.
        slo: limits, as ``ttft=450ms,tpot=40ms``.
        chips: how many, split as well as they can be, or ``"auto"``: the fewest that serve the load (and hold the SLO).
        tp: chips that split each layer (None: chosen).
        pp: stages that split the layers (None: chosen with ``tp``, otherwise one).
        ep: chips that share the routed experts, a multiple of ``tp`` (None: chosen with ``tp``, otherwise 1).
        disaggregate: replicas that prefill, replicas that decode.
        precision: number formats.
        fidelity: ``"roofline"`` or ``"tile"``.
        rules: how the engines serve.
        constants: sustained fractions from a fit.
        users: drawn requests are dealt to this many users.
        prefix: groups of drawn requests that share a prefix, and its tokens.
        find_rate: also look for the highest rate that holds the SLO.
        keep: keep the record of every request.
        log: keep every step and who was in it.
        imbalance_pct: load of the busiest expert in percent of the mean, at tile fidelity.

    Raises:
        InputError: bad values, an unreadable trace, lengths beyond the model's positions.
        DoesNotFit: the model or its longest request does not fit the chips.
    """
    from npusim.serving import choice

    hardware = chip if isinstance(chip, Chip) else load_chip(chip)
    net = model if isinstance(model, Model) else load_model(model)
    limits = parse_slo(slo) if isinstance(slo, str) else slo
    source = _source(arrivals, trace, input, output, requests, seed, users, prefix, rules)
    if source.unit_tokens and rules.unit_tokens != source.unit_tokens:
        rules = replace(rules, unit_tokens=source.unit_tokens)
    source, skipped = without_long(source, net) if skip_long and isinstance(source, Trace) else (source, 0)
    check_rules(rules, source)
    tp = degree_of_split(chips, disaggregate, tp, pp, ep) if disaggregate else tp
    case = Case(net, hardware, precision, named_precision(precision), _place(tp, pp, ep, disaggregate), rules,
                fidelity, constants, check_lengths(source, net), imbalance_pct)  # fmt: skip
    check_imbalance(imbalance_pct, net, fidelity, ep or 1)
    case, why = choice.placed(case, source, limits, chips, choice.Asked(tp, pp, ep))
    run, digest = case.run(source, limits, keep, log)
    verdicts = tuple(_verdicts(case, source, limits, run, digest))
    rate = highest_rate(case, source, limits) if find_rate else None
    return Serving(case, source, limits, run, digest, verdicts, rate, skipped, why)


def check_rules(rules: Rules, source: Source) -> None:
    """Raises InputError for a policy that nothing in the requests tells apart, and for prompts no step can take."""
    policy, longest = rules.policy, source.longest[0]
    if not rules.chunked and longest > rules.max_tokens:
        what = f"prompts of up to {longest} tokens are not split, but a step takes {rules.max_tokens}"
        raise InputError(Problem(what, "max_tokens", allowed=f"{longest} or more without chunking"))
    whose = source.has_users if isinstance(source, Trace) else source.users > 1
    if policy == "fair" and not whose:
        raise InputError(
            Problem("'fair' needs users", "policy", hint="draw requests of several, or name them in a trace")
        )
    if policy == "priority" and not (isinstance(source, Trace) and source.has_priority):
        raise InputError(Problem("'priority' needs priorities", "policy", hint="give a trace with a column priority"))


def degree_of_split(
    chips: int | str, split: tuple[int, int], tp: int | None, pp: int | None, ep: int | None
) -> int | None:
    """Chips that split each layer when a number of chips is shared by prefilling and decoding replicas."""
    if isinstance(chips, str) or min(split) < 1:  # the placement says what is wrong with that
        return tp
    share = sum(split) * (pp or 1) * max(tp or 1, ep or 1)
    if chips < 1 or chips % share or ((tp or ep) and chips != share):
        raise InputError(Problem(f"{chips} chips for {split[0]} + {split[1]} replicas", "chips",
                                 allowed=f"{share}" if tp or ep else f"a multiple of {share}"))  # fmt: skip
    return tp if tp or ep else chips // share


def check_imbalance(pct: float, model: Model, fidelity: str, ep: int = 1) -> None:
    """Raises InputError for a load of the busiest expert (of the busiest chip, when ``ep`` chips share the experts)
    that cannot be, or that nothing would come of."""
    most = max((f.experts / f.experts_per_token for f in (layer.ffn for layer, _ in model.blocks) if f.experts),
               default=1.0)  # fmt: skip
    most = min(most, ep) if ep > 1 else most
    if not 100 <= pct <= 100 * most:
        allowed = f"100 to {100 * most:g} for {model.name}" if most > 1 else f"100: {model.name} routes to no experts"
        raise InputError(Problem(f"{pct:g}", "imbalance", allowed=allowed))
    if pct != 100 and fidelity != "tile":
        raise InputError(Problem(f"an imbalance of experts has no effect at {fidelity}", "imbalance", allowed="tile"))


def _place(tp: int | None, pp: int | None, ep: int | None, disaggregate: tuple[int, int] | None) -> Placement:
    """What was asked of the placement, the rest as small as can be."""
    prefill, decode = disaggregate or (0, 1)
    if disaggregate and min(prefill, decode) < 1:
        raise InputError(
            Problem(f"{disaggregate} replicas prefill, decode", "disaggregate", allowed="at least one each")
        )
    t, p, e = (1 if size is None else size for size in (tp, pp, ep))
    place = Placement(t, p, prefill + decode, prefill, e)
    place.check()
    return place


def _source(
    arrivals: Arrivals | str, trace: Trace | str | os.PathLike[str] | None, input: str | int, output: str | int,
    requests: int | None, seed: int, users: int, prefix: tuple[int, int] | None, rules: Rules,
) -> Source:  # fmt: skip
    if requests is not None and requests < 1:
        raise InputError(Problem(f"{requests}", "requests", allowed="1 or more"))
    process = load.parse_arrivals(arrivals) if isinstance(arrivals, str) else arrivals
    if trace is not None:
        read = trace if isinstance(trace, Trace) else load.load_trace(trace, limit=requests)
        return replace(read, concurrency=process.concurrency)
    lengths = load.parse_lengths(input, "input"), load.parse_lengths(output, "output")
    groups, shared = prefix or (0, 0)
    unit = rules.block_tokens if groups else 0
    return Synthetic(process, *lengths, DRAWN if requests is None else requests, seed, users, groups, shared, unit)


def _verdicts(case: Case, source: Source, slo: Slo | None, run: Run, digest: Digest) -> list[str]:
    """What is wrong: an SLO nobody can meet, an overload, an SLO that is missed."""
    if slo is not None and digest.attainment < slo.attainment and (why := impossible(case, source, slo)):
        return [why]
    if flood := overload(case, source, run):
        return [flood]
    if slo is not None and digest.attainment < slo.attainment:
        return [
            f"the SLO is missed: {digest.attainment:.1%} of the requests meet it, {slo.attainment:.1%} were asked for"
        ]
    return []
