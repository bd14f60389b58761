"""Power of a priced workload, and the clock at which it fits the TDP.

A power manager lowers the core clock until the average power of what runs fits the limit. One clock holds for the
whole step: regulators settle in milliseconds, operators last microseconds; a prefill and a decode step are two costs
and settle at two clocks. At a share s of the nominal clock:

* the voltage is V(s) = max(floor, 1 - slope (1 - s)) of the nominal one;
* an event of the core domain costs V(s)² of its joules (dynamic energy C V², Chandrakasan et al., "Low-power CMOS
  digital design", JSSC 1992), DRAM and links what they always do;
* leakage falls as V(s)², the clock tree as s V(s)², interfaces not at all;
* resources of the core domain take 1 / s times as long, DRAM, links and fixed overheads as long as before.

An operator takes max over its resources, plus what no resource explains, as before. Power falls with s, so the largest
s that fits is found by bisection. Where even the lowest clock draws too much (memory and links do not slow down), the
chip pauses, its clock gated, until the average fits. ``docs/power-area-cost.md`` explains and checks all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from npusim.cost.joules import FIXED_PARTS, Joules, joules
from npusim.cost.technology import Clocking, Technology, load_technology
from npusim.errors import InputError, Problem, Unavailable
from npusim.ops import Dim

if TYPE_CHECKING:
    from npusim.cost.result import Cost, OpCost

# What no busy resource explains: set-up, launch and pipeline ends keep their length.
_REST = "overhead"
# Resources that keep their own clocks.
FIXED_RESOURCES = ("dram", "link", _REST)
_BISECTIONS = 40  # the clock share is found to 1e-12


@dataclass(frozen=True)
class PowerCapped:
    """A workload at the clock where its power fits. Figures are of one chip and elementwise.

    Args:
        ops: the operators at that clock.
        time_s: seconds of the step.
        clock_share: of the nominal clock; 1 where nothing had to give.
        power_w: average over the step.
        energy_j: joules of the step, all chips.
        parts: joules of one chip by part; they add up to energy_j / chips.
        limit_w: the limit.
        family: of the energy constants.
    """

    ops: tuple[OpCost, ...]
    time_s: Dim
    clock_share: Dim
    power_w: Dim
    energy_j: Dim
    parts: Mapping[str, Dim]
    limit_w: float
    family: str

    @property
    def binds(self) -> Dim:
        """Where the limit lowered the clock."""
        return np.asarray(self.clock_share) < 1.0

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of scalar dimensions; joules are of one chip."""
        return {
            "family": self.family,
            "limit_w": self.limit_w,
            "clock_share": float(self.clock_share),
            "power_w_per_chip": float(self.power_w),
            "parts_j_per_chip": {name: float(value) for name, value in self.parts.items()},
        }


def voltage(clock_share: Dim, law: Clocking) -> Dim:
    """Voltage as a share of the nominal one at a share of the nominal clock: linear above a floor."""
    return np.maximum(law.voltage_floor, 1.0 - law.voltage_slope * (1.0 - clock_share))


def energy_parts(cost: Cost, family: str = "bottom-up", technology: Technology | None = None) -> dict[str, Dim]:
    """Joules of one chip by part at the nominal clock: what events cost, and ``leakage``, ``clock``, ``interfaces``.

    Args:
        cost: a priced workload.
        family: ``bottom-up`` or ``tdp``; see ``npusim.cost.joules``.
        technology: constants; default: ``catalog/technology/public.yaml``.

    Raises:
        InputError: unknown family.
        Unavailable: the chip lacks its process node (bottom-up) or its TDP (tdp).
    """
    constants = joules(cost.chip, family, technology)
    law = (technology or load_technology()).clocking
    return _parts(_events(cost, constants), constants, law, np.float64(1.0), cost.time_s)


def capped(
    cost: Cost,
    limit_w: float | None = None,
    family: str = "bottom-up",
    technology: Technology | None = None,
    constants: Joules | None = None,
) -> PowerCapped:
    """Lowers the core clock of one chip until the step's average power is within its limit.

    Args:
        cost: a priced workload; array dimensions are settled one by one, each at its own clock.
        limit_w: W of one chip; default: its TDP.
        family: of the energy constants, ``bottom-up`` or ``tdp``.
        technology: constants; default: ``catalog/technology/public.yaml``.
        constants: joules of the chip where they are already known.

    Returns:
        The step at that clock. ``time_s`` is never below ``cost.time_s``.

    Raises:
        Unavailable: no limit is known, the chip lacks figures, or its standing power alone exceeds the limit.
    """
    limit = limit_w if limit_w is not None else cost.chip.power.tdp_w
    if limit is None or not limit > 0:
        raise Unavailable(
            Problem(f"chip '{cost.chip.name}' has no power limit", "power.tdp", hint="--set power.tdp=...")
        )
    found = constants or joules(cost.chip, family, technology)
    law = (technology or load_technology()).clocking
    least_w = found.leakage_w * law.voltage_floor**2 + found.interfaces_w
    if least_w >= limit:
        raise Unavailable(
            Problem(
                f"chip '{cost.chip.name}' draws {least_w:.0f} W without any work, its limit is {limit:.0f} W",
                "power.tdp",
            )
        )
    step = _Step(cost, found, law)
    share = np.ones(step.shape)
    over = step.power(share) > limit
    if np.any(over):
        share = step.largest_share(limit, over)
    return _settled(step, share, limit, least_w)


def at_power_limit(
    cost: Cost, limit_w: float | None = None, family: str = "bottom-up", technology: Technology | None = None
) -> Cost:
    """The cost at the clock where its power fits: slower operators, and the energy they take. See ``capped``."""
    if cost.calibration is not None:
        why = "measured times already hold what a power limit costs"
        raise InputError(Problem(f"a power limit cannot be added to calibrated times: {why}", "power_cap"))
    settled = capped(cost, limit_w, family, technology)
    return replace(cost, ops=settled.ops, time_s=settled.time_s, power=settled)


def _ratio(energy_j: Dim, time_s: Dim) -> np.ndarray:
    """Average power, 0 where nothing runs."""
    total, seconds = np.broadcast_arrays(np.asarray(energy_j, float), np.asarray(time_s, float))
    average: np.ndarray = np.divide(total, seconds, out=np.zeros(total.shape), where=seconds > 0)
    return average


class _Step:
    """Times and joules of a step as functions of the clock share."""

    def __init__(self, cost: Cost, constants: Joules, law: Clocking) -> None:
        self.cost, self.constants, self.law = cost, constants, law
        self.shape = np.shape(np.asarray(cost.time_s))
        self.events = _events(cost, constants)
        self.ops = [self._resources(op) for op in cost.ops]

    def _resources(self, op: OpCost) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Busy seconds at the core's clock, at other clocks, and what no busy resource explains."""

        def slowest(scaled: bool) -> np.ndarray:
            busy = [s for name, s in op.seconds.items() if (name not in FIXED_RESOURCES) == scaled and name != _REST]
            return np.asarray(reduce(np.maximum, busy, np.zeros(self.shape)))

        core, fixed = slowest(True), slowest(False)
        return core, fixed, np.maximum(op.time_s - np.maximum(core, fixed), 0.0)

    def op_seconds(self, share: np.ndarray) -> list[np.ndarray]:
        """Seconds of every operator at a clock share; exactly those of the cost at the nominal clock."""
        return [
            np.where(share < 1.0, np.maximum(core / share, fixed) + rest, op.time_s)
            for op, (core, fixed, rest) in zip(self.cost.ops, self.ops, strict=True)
        ]

    def seconds(self, share: np.ndarray) -> np.ndarray:
        """Seconds of the step, host time included; never below those of the cost."""
        slowed = sum(self.op_seconds(share), np.zeros(self.shape)) + self.cost.host_s
        return np.where(share < 1.0, np.maximum(slowed, self.cost.time_s), self.cost.time_s)

    def parts(self, share: Dim, time_s: Dim) -> dict[str, Dim]:
        """Joules of one chip by part."""
        return _parts(self.events, self.constants, self.law, share, time_s)

    def power(self, share: np.ndarray) -> np.ndarray:
        """Average W of one chip."""
        time_s = self.seconds(share)
        return _ratio(sum(self.parts(share, time_s).values()), time_s)

    def largest_share(self, limit: float, over: np.ndarray) -> np.ndarray:
        """The clock share of every element: 1, or where ``over`` the largest whose power is within the limit.

        Power rises with the clock, so bisection finds it, down to the lowest clock. Operators and parts are summed
        up beforehand: this runs for a hundred thousand points of a sweep.
        """
        core, fixed, rest = (np.stack([np.broadcast_to(op[i], self.shape)[over] for op in self.ops]) for i in range(3))
        rest_s = rest.sum(axis=0) + self.cost.host_s
        split = {True: np.zeros(rest_s.shape), False: np.zeros(rest_s.shape)}
        for name, value in self.events.items():
            split[name in FIXED_PARTS] += np.broadcast_to(value, self.shape)[over]
        found = self.constants
        low, high = np.full(rest_s.shape, self.law.lowest_clock), np.ones(rest_s.shape)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            time_s = np.maximum(core / middle, fixed).sum(axis=0) + rest_s
            squared = voltage(middle, self.law) ** 2
            standing_w = (found.leakage_w + found.clock_w * middle) * squared + found.interfaces_w
            fits = split[False] * squared + split[True] + standing_w * time_s <= limit * time_s
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        share = np.ones(self.shape)
        share[over] = low
        return share


def _settled(step: _Step, share: np.ndarray, limit: float, idle_w: float) -> PowerCapped:
    """The step at its clock; where even the lowest draws too much, pauses bring the average down to the limit."""
    time_s = step.seconds(share)
    parts = step.parts(share, time_s)
    excess_j = np.maximum(sum(parts.values()) - limit * time_s, 0.0)
    pause_s = np.where(share > step.law.lowest_clock, 0.0, excess_j / (limit - idle_w))
    parts["leakage"] = parts["leakage"] + step.constants.leakage_w * step.law.voltage_floor**2 * pause_s
    parts["interfaces"] = parts["interfaces"] + step.constants.interfaces_w * pause_s
    busy_s = time_s - step.cost.host_s
    stretch = 1.0 + np.divide(pause_s, busy_s, out=np.zeros(step.shape), where=busy_s > 0)
    ops = tuple(
        _at(op, share, seconds, stretch) for op, seconds in zip(step.cost.ops, step.op_seconds(share), strict=True)
    )
    time_s, total = time_s + pause_s, sum(parts.values())
    return PowerCapped(
        ops, _plain(time_s), _plain(share), _plain(_ratio(total, time_s)), _plain(total * step.cost.chips),
        {name: _plain(value) for name, value in parts.items()}, limit, step.constants.family,
    )  # fmt: skip


def _events(cost: Cost, constants: Joules) -> dict[str, Dim]:
    """Dynamic joules of a step by part at the nominal voltage."""
    total: dict[str, Dim] = {}
    for op in cost.ops:
        for name, value in constants.parts(op, cost.chip).items():
            total[name] = total.get(name, 0.0) + value
    return total


def _parts(events: dict[str, Dim], constants: Joules, law: Clocking, share: Dim, time_s: Dim) -> dict[str, Dim]:
    squared = voltage(share, law) ** 2
    parts = {name: value if name in FIXED_PARTS else value * squared for name, value in events.items()}
    parts["leakage"] = constants.leakage_w * squared * time_s
    parts["clock"] = constants.clock_w * share * squared * time_s
    parts["interfaces"] = constants.interfaces_w * time_s
    return parts


def _plain(value: Dim) -> Dim:
    """A float where the dimensions are scalar."""
    return value if np.ndim(value) else float(value)


def _at(op: OpCost, share: np.ndarray, time_s: np.ndarray, stretch: np.ndarray) -> OpCost:
    """An operator at a clock share, its part of the pauses included."""
    slower = {name: s if name in FIXED_RESOURCES else s / share for name, s in op.seconds.items()}
    return replace(op, seconds=slower, time_s=_plain(time_s * stretch))
