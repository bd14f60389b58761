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
s that fits is found by bisection. ``docs/power-area-cost.md`` explains and checks all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from npusim.cost.joules import FIXED_PARTS, Joules, joules
from npusim.cost.technology import Clocking, Technology, load_technology
from npusim.errors import Problem, Unavailable
from npusim.ops import Dim

if TYPE_CHECKING:
    from collections.abc import Callable

    from npusim.cost.result import Cost, OpCost

# Resources that keep their own clocks.
FIXED_RESOURCES = ("dram", "link", "overhead")
_BISECTIONS = 50
_SLOWEST = 1e-4  # share of the nominal clock below which a regulator would have stopped the chip


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
    events, step = _events(cost, found), _Step(cost)

    def power(share: np.ndarray) -> np.ndarray:
        time_s = step.seconds(share)
        return _ratio(sum(_parts(events, found, law, share, time_s).values()), time_s)

    full = np.ones(step.shape)
    over = power(full) > limit
    share = np.where(over, _bisect(power, limit, step.shape), full) if np.any(over) else full
    return _settled(cost, step, events, found, law, share, limit)


def at_power_limit(cost: Cost, limit_w: float | None = None, family: str = "bottom-up") -> Cost:
    """The cost at the clock where its power fits: slower operators, and the energy they take. See ``capped``."""
    settled = capped(cost, limit_w, family)
    return replace(cost, ops=settled.ops, time_s=settled.time_s, power=settled)


def _ratio(energy_j: Dim, time_s: Dim) -> np.ndarray:
    """Average power, 0 where nothing runs."""
    total, seconds = np.broadcast_arrays(np.asarray(energy_j, float), np.asarray(time_s, float))
    average: np.ndarray = np.divide(total, seconds, out=np.zeros(total.shape), where=seconds > 0)
    return average


def _bisect(power: Callable[[np.ndarray], np.ndarray], limit: float, shape: tuple[int, ...]) -> np.ndarray:
    """The largest clock share whose power is within the limit; power rises with it."""
    low, high = np.full(shape, _SLOWEST), np.ones(shape)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = power(middle) <= limit
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low


class _Step:
    """Times of a step's operators as functions of the clock share."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self.shape = np.shape(np.asarray(cost.time_s))
        self.ops = []
        for op in cost.ops:
            core = [s for name, s in op.seconds.items() if name not in FIXED_RESOURCES]
            fixed = [s for name, s in op.seconds.items() if name in FIXED_RESOURCES and name != "overhead"]
            core_s = np.maximum.reduce([np.broadcast_to(s, self.shape) for s in core]) if core else np.zeros(self.shape)
            fixed_s = (
                np.maximum.reduce([np.broadcast_to(s, self.shape) for s in fixed]) if fixed else np.zeros(self.shape)
            )
            # Set-up, launch and pipeline ends: what no busy resource explains keeps its length.
            rest_s = np.maximum(op.time_s - np.maximum(core_s, fixed_s), 0.0)
            self.ops.append((core_s, fixed_s, rest_s))

    def op_seconds(self, share: np.ndarray) -> list[np.ndarray]:
        """Seconds of every operator at a clock share."""
        return [np.maximum(core / share, fixed) + rest for core, fixed, rest in self.ops]

    def seconds(self, share: np.ndarray) -> np.ndarray:
        """Seconds of the step, host time included."""
        return np.asarray(sum(self.op_seconds(share), np.zeros(self.shape)) + self.cost.host_s)


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


def _settled(
    cost: Cost, step: _Step, events: dict[str, Dim], constants: Joules, law: Clocking, share: np.ndarray, limit: float
) -> PowerCapped:  # fmt: skip
    ops = tuple(_at(op, share, s) for op, s in zip(cost.ops, step.op_seconds(share), strict=True))
    time_s = np.maximum(step.seconds(share), cost.time_s)
    parts = _parts(events, constants, law, share, time_s)
    total = sum(parts.values())
    return PowerCapped(
        ops, _plain(time_s), _plain(share), _plain(_ratio(total, time_s)), _plain(total * cost.chips),
        {name: _plain(value) for name, value in parts.items()}, limit, constants.family,
    )  # fmt: skip


def _plain(value: Dim) -> Dim:
    """A float where the dimensions are scalar."""
    return value if np.ndim(value) else float(value)


def _at(op: OpCost, share: np.ndarray, time_s: np.ndarray) -> OpCost:
    """An operator at a clock share."""
    slower = {name: s if name in FIXED_RESOURCES else s / share for name, s in op.seconds.items()}
    return replace(op, seconds=slower, time_s=_plain(time_s))
