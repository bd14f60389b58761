"""What a test bed of so many PFLOPS serves: chips, users, tokens per second, watts and racks.

The chips are split into replicas of the model that share nothing, so one replica is simulated and counted as often as
it is there; even routing is assumed. The shape of a replica is the one that serves most. Users come from Little's
law: a user who reads and thinks for ``think_s`` after each answer asks again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from npusim.chip import Chip, load_chip
from npusim.errors import DoesNotFit, InputError, Problem
from npusim.llm import precision as named_precision
from npusim.models import Model, load_model
from npusim.serving import choice
from npusim.serving.answer import PROBE_REQUESTS, Case, Serving, at_rate, check_lengths, highest_rate, impossible
from npusim.serving.engine import VLLM, Rules
from npusim.serving.load import Arrivals, Synthetic, parse_arrivals, parse_lengths
from npusim.serving.metrics import Slo, parse_slo
from npusim.serving.placement import Placement
from npusim.serving.steps import UNFITTED

THINK_S = 30.0
RACK_W = 40e3
NODE_OVERHEAD = 1.3  # watts of a server per watt of its chips at TDP: hosts, memory, network, fans, supplies
PUE = 1.3  # watts of the building per watt of the servers
_MOST_CHIPS = 10**7


@dataclass(frozen=True)
class Rooms:
    """What is assumed of the building.

    Args:
        rack_w: power a rack may draw.
        node_overhead: watts of a server per watt of its chips.
        pue: watts of the building per watt of the servers.
    """

    rack_w: float = RACK_W
    node_overhead: float = NODE_OVERHEAD
    pue: float = PUE

    def check(self) -> None:
        """Raises InputError for figures that make no sense."""
        for name, low, high in (("rack_w", 100.0, 1e7), ("node_overhead", 1.0, 10.0), ("pue", 1.0, 10.0)):
            if not low <= getattr(self, name) <= high:
                raise InputError(Problem(f"{getattr(self, name):g}", name, allowed=f"{low:g} to {high:g}"))


@dataclass(frozen=True)
class Fleet:
    """What a test bed serves.

    Args:
        flops_per_s: what was asked for, dense.
        fmt: format whose peak was counted.
        peak_flops_per_s: of one chip.
        chips: how many reach it.
        serving: one replica at its highest rate.
        rate_per_s: requests per second of one replica.
        think_s: seconds between an answer and the user's next request.
        rooms: what is assumed of the building.
        verdicts: what is wrong, in sentences.
    """

    flops_per_s: float
    fmt: str
    peak_flops_per_s: float
    chips: int
    serving: Serving
    rate_per_s: float
    think_s: float
    rooms: Rooms
    verdicts: tuple[str, ...] = ()

    @property
    def replicas(self) -> int:
        """Copies of the model."""
        return self.chips // self.serving.case.place.chips

    @property
    def in_flight(self) -> float:
        """Requests that the fleet works on at a time: rate times mean end-to-end time, by Little's law."""
        e2e = self.serving.digest.e2e
        return self.replicas * self.rate_per_s * e2e.total / e2e.count

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of the fleet."""
        return self.replicas * self.rate_per_s * self.serving.digest.output_tokens / self.serving.digest.count

    @property
    def users(self) -> float:
        """Users it keeps content: each waits for an answer or thinks."""
        return self.in_flight + self.replicas * self.rate_per_s * self.think_s

    @property
    def chips_w(self) -> float | None:
        """Average power of all chips under that load; chips beyond whole replicas are off."""
        joules = self.serving.energy_j
        return None if joules is None else self.replicas * joules / max(self.serving.run.totals["now"], 1e-12)

    @property
    def racks(self) -> int | None:
        """Racks, filled by what the servers draw at the chips' TDP; None without a TDP."""
        tdp_w = self.serving.case.chip.power.tdp_w
        if tdp_w is None:
            return None
        per_rack = max(math.floor(self.rooms.rack_w / (tdp_w * self.rooms.node_overhead)), 1)
        return math.ceil(self.chips / per_rack)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, units in the keys."""
        place, chips_w = self.serving.case.place, self.chips_w
        building_w = None if chips_w is None else chips_w * self.rooms.node_overhead * self.rooms.pue
        rate = self.replicas * self.rate_per_s
        return {
            "fleet_flops_per_s": self.flops_per_s, "fleet_precision": self.fmt,
            "chip_peak_flops_per_s": self.peak_flops_per_s, "chips": self.chips, "replicas": self.replicas,
            "chips_per_replica": place.chips, "tp": place.tp, "pp": place.pp, "ep": place.ep,
            "spare_chips": self.chips - self.replicas * place.chips,
            "requests_per_s": rate, "tokens_per_s": self.tokens_per_s,
            "requests_in_flight": self.in_flight, "think_s": self.think_s, "users": self.users, "chips_w": chips_w,
            "building_w": building_w, "racks": self.racks, "rack_w": self.rooms.rack_w,
            "node_overhead": self.rooms.node_overhead, "pue": self.rooms.pue,
            "w_per_user": None if not building_w or not self.users else building_w / self.users,
            "verdicts": list(self.verdicts), "replica": self.serving.to_dict(),
        }  # fmt: skip


def fleet(
    chip: Chip | str, model: Model | str, pflops: float, *, fmt: str = "fp8", input: str | int = 1024,
    output: str | int = 256, arrivals: Arrivals | str = "poisson:1", requests: int | None = None, seed: int = 0,
    slo: Slo | str | None = None, tp: int | None = None, pp: int | None = None, ep: int | None = None,
    precision: str = "fp8", fidelity: str = "tile", rules: Rules = VLLM, think_s: float = THINK_S,
    rooms: Rooms | None = None, keep: bool = False, log: bool = False,
) -> Fleet:  # fmt: skip
    """What a test bed of a chip serves.

    Args:
        chip: the hardware.
        model: the network.
        pflops: dense peak of all chips together, in 10^15 operations per second.
        fmt: format whose peak is counted.
        input: prompt lengths.
        output: output lengths.
        arrivals: the process of the arrivals; its rate is looked for.
        requests: of the run at the highest rate (None: 4000).
        seed: of what is drawn.
        slo: limits that must hold (None: what can be sustained).
        tp: chips that split each layer (None: the shape of a replica that serves most).
        pp: stages that split the layers (None: chosen with ``tp``, otherwise one).
        ep: chips that share the routed experts (None: chosen with ``tp``, otherwise 1).
        precision: number formats of the served model.
        fidelity: which cost model prices the steps.
        rules: how the engines serve.
        think_s: seconds between an answer and the user's next request.
        rooms: what is assumed of the building.
        keep: keep the record of every request of the run.
        log: keep every step and who was in it.

    Raises:
        InputError: bad values, or no peak of that format. DoesNotFit: the fleet is too small for one replica.
    """
    hardware = chip if isinstance(chip, Chip) else load_chip(chip)
    net = model if isinstance(model, Model) else load_model(model)
    rooms = rooms or Rooms()
    rooms.check()
    if not (0 < pflops <= 1e9 and 0 <= think_s <= 1e6):
        raise InputError(Problem(f"{pflops:g} PFLOPS, {think_s:g} s", "--fleet-pflops", allowed="more than 0"))
    _, peak = hardware.peak_flops_per_s(fmt)
    chips = math.ceil(pflops * 1e15 / peak - 1e-9)
    if chips > _MOST_CHIPS:
        raise InputError(Problem(f"{chips} chips", "--fleet-pflops", allowed=f"up to {_MOST_CHIPS} chips"))
    limits = parse_slo(slo) if isinstance(slo, str) else slo
    process = parse_arrivals(arrivals, "--arrivals") if isinstance(arrivals, str) else arrivals
    if not process.rate_per_s:
        raise InputError(Problem("a fleet is asked for its rate, not for a closed loop", "--arrivals"))
    source = Synthetic(
        process,
        parse_lengths(input, "input"),
        parse_lengths(output, "output"),
        requests if requests is not None else PROBE_REQUESTS,
        seed,
    )
    place = Placement(tp or 1, pp or 1, ep=ep or 1)
    place.check()
    case = Case(net, hardware, precision, named_precision(precision), place, rules, fidelity, UNFITTED,
                check_lengths(source, net))  # fmt: skip
    best, rate = _best(case, source, limits, chips, choice.Asked(tp, pp, ep))
    run, digest = best.run(at_rate(source, rate or 1e-3), limits, keep, log)
    serving = Serving(best, source, limits, run, digest)
    verdicts = () if rate else (impossible(best, source, limits) or "no rate holds the SLO",) if limits else ()
    return Fleet(pflops * 1e15, fmt, peak, chips, serving, rate, think_s, rooms, verdicts)


def _best(case: Case, source: Synthetic, slo: Slo | None, chips: int, asked: choice.Asked) -> tuple[Case, float]:
    """The shape of a replica with which the fleet serves most, and the rate of one replica."""
    cases = choice.fitting(case, asked.replicas(case))
    there = [one for one in cases if one.place.chips <= chips]
    if not there:
        raise DoesNotFit(f"{chips} chips are fewer than the {cases[0].place.chips} of one replica of {case.model.name}",
                         0.0)  # fmt: skip
    weighed = there if asked.tp else choice.promising(choice.few(there), source, slo)
    rated = choice.asked_of(weighed, lambda one: highest_rate(one, source, slo))
    return max(rated, key=lambda pair: pair[1] * (chips // pair[0].place.chips))
