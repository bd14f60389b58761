"""An independent judge of DRAM command logs: every JEDEC rule, from the device file's own figures.

It shares no code with the model: it rounds the timings itself, keeps plain lists of what was issued, and compares
each command with all earlier ones a rule speaks of. Times are ticks of the log.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from fractions import Fraction
from typing import NamedTuple

from npusim.cost.dram import CommandLog
from npusim.cost.dram_spec import MemorySpec

NAMES = ("ACT", "PRE", "PREab", "RD", "WR", "REFab", "REFpb")


class Violation(NamedTuple):
    rule: str
    tick: int
    detail: str


class Rules:
    """The device's figures in ticks."""

    def __init__(self, spec: MemorySpec, ticks_per_clock: int) -> None:
        g, c = spec.geometry, spec.commands
        self.g, self.edge = g, ticks_per_clock
        clock = Fraction(g.bits_per_clock) / Fraction(g.pin_rate_bits_per_s)
        for name, value in spec.timing.model_dump().items():
            if isinstance(value, float):  # a time: the fewest clocks that last as long, to a millionth of a clock
                value = math.ceil(Fraction(value).limit_denominator(10**15) / clock - Fraction(1, 10**6))
            setattr(self, name, None if value is None else value * ticks_per_clock)
        self.burst = g.burst_length // g.bits_per_clock * ticks_per_clock
        self.burst_max = (g.burst_max_clocks or 0) * ticks_per_clock or self.burst
        if self.tRTW is None:
            self.tRTW = self.tCL + self.burst + 2 * ticks_per_clock - self.tCWL
        self.tRPab = self.tRP if self.tRPab is None else self.tRPab
        self.tCCD_R = self.tCCD_S if self.tCCD_R is None else self.tCCD_R
        self.single_bus = c.bus == "single"
        self.bus = {
            "ACT": c.act,
            "PRE": c.pre,
            "PREab": c.pre,
            "REFab": c.pre,
            "REFpb": c.pre,
            "RD": c.column,
            "WR": c.column,
        }


class Checker:
    """Feed it commands in time order per channel; ``violations`` collects what breaks a rule."""

    def __init__(self, spec: MemorySpec, ticks_per_clock: int, refresh: str) -> None:
        self.r = Rules(spec, ticks_per_clock)
        self.refresh = refresh
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        self.open: dict[int, int] = {}  # bank → row
        self.last: dict[tuple[str, int], int] = {}  # (command, bank) → tick
        self.acts: dict[int, list[int]] = defaultdict(list)  # pseudo-channel → ticks
        self.columns: dict[tuple[str, int], dict[tuple[int, int], int]] = defaultdict(dict)  # by (SID, group)
        self.pc_last: dict[tuple[str, int], int] = {}
        self.data_end: dict[int, int] = {}
        self.bus_end: dict[tuple[int, str], Fraction] = {}
        self.refreshes: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def run(self, log: CommandLog) -> list[Violation]:
        last = 0
        for tick, kind, bank, row in zip(*(x.tolist() for x in (log.tick, log.kind, log.bank, log.row)), strict=True):
            self.command(tick, NAMES[kind], bank, row)
            last = max(last, tick)
        self.finish(last)
        return self.violations

    # -- one command -------------------------------------------------------------------------------------------

    def command(self, tick: int, name: str, bank: int, row: int) -> None:
        g = self.r.g
        per_pc = g.sids * g.bank_groups * g.banks
        pc, channel = bank // per_pc, bank // per_pc // g.pseudo_channels
        self.counts[name] += 1
        self._bus(tick, name, channel)
        banks = range(pc * per_pc, (pc + 1) * per_pc)
        self._after(tick, "tRFC", self.pc_last.get(("REFab", pc)), self.r.tRFC)
        getattr(self, "_" + name.lower())(tick, bank, row, pc, banks)
        self.last[name, bank] = tick
        self.pc_last[name, pc] = tick

    def _require(self, ok: bool, rule: str, tick: int, detail: object) -> None:
        if not ok:
            self.violations.append(Violation(rule, tick, str(detail)))

    def _after(self, tick: int, rule: str, earlier: int | None, distance: int) -> None:
        if earlier is not None and tick < earlier + distance:
            self.violations.append(Violation(rule, tick, f"{tick - earlier} of {distance} ticks"))

    def _bus(self, tick: int, name: str, channel: int) -> None:
        kind = "column" if name in ("RD", "WR") and not self.r.single_bus else "row"
        end = self.bus_end.get((channel, kind), Fraction(-1))
        self._require(tick >= end, "command bus", tick, f"free at {end}")
        self.bus_end[channel, kind] = tick + Fraction(self.r.bus[name]) * self.r.edge
        if name not in ("PRE", "PREab"):
            self._require(tick % self.r.edge == 0, "clock edge", tick, name)

    def _act(self, tick: int, bank: int, row: int, pc: int, banks: range) -> None:
        r = self.r
        self._require(bank not in self.open, "state", tick, f"ACT of open bank {bank}")
        self._after(tick, "tRC", self.last.get(("ACT", bank)), r.tRC)
        self._after(tick, "tRP", self.last.get(("PRE", bank)), r.tRP)
        self._after(tick, "tRPab", self.pc_last.get(("PREab", pc)), r.tRPab)
        self._after(tick, "tRFCpb", self.last.get(("REFpb", bank)), r.tRFCpb)
        self._after(tick, "tRREFD", self.pc_last.get(("REFpb", pc)), r.tRREFD)
        self._rrd(tick, bank, pc, banks)
        if len(self.acts[pc]) >= 4:
            self._after(tick, "tFAW", self.acts[pc][-4], r.tFAW)
        self.acts[pc].append(tick)
        self.open[bank] = row

    def _rrd(self, tick: int, bank: int, pc: int, banks: range) -> None:
        self._after(tick, "tRRD_S", self.pc_last.get(("ACT", pc)), self.r.tRRD_S)
        group = bank // self.r.g.banks
        for other in range(group * self.r.g.banks, (group + 1) * self.r.g.banks):
            self._after(tick, "tRRD_L", self.last.get(("ACT", other)), self.r.tRRD_L)

    def _pre(self, tick: int, bank: int, row: int, pc: int, banks: range) -> None:
        self._require(bank in self.open, "state", tick, f"PRE of closed bank {bank}")
        self._precharge(tick, bank)
        self._ppd(tick, pc)
        self.open.pop(bank, None)

    def _preab(self, tick: int, bank: int, row: int, pc: int, banks: range) -> None:
        for b in banks:
            if b in self.open:
                self._precharge(tick, b)
                del self.open[b]
        self._ppd(tick, pc)

    def _ppd(self, tick: int, pc: int) -> None:
        for name in ("PRE", "PREab"):
            self._after(tick, "tPPD", self.pc_last.get((name, pc)), self.r.tPPD)

    def _precharge(self, tick: int, bank: int) -> None:
        r = self.r
        self._after(tick, "tRAS", self.last.get(("ACT", bank)), r.tRAS)
        self._after(tick, "tRTP", self.last.get(("RD", bank)), r.tRTP)
        self._after(tick, "tWR", self.last.get(("WR", bank)), r.tCWL + r.burst + r.tWR)

    def _rd(self, tick: int, bank: int, row: int, pc: int, banks: range) -> None:
        self._column("RD", tick, bank, row, pc)

    def _wr(self, tick: int, bank: int, row: int, pc: int, banks: range) -> None:
        self._column("WR", tick, bank, row, pc)

    def _column(self, name: str, tick: int, bank: int, row: int, pc: int) -> None:
        r, g = self.r, self.r.g
        self._require(self.open.get(bank) == row, "state", tick, f"{name} of row {row} in bank {bank}")
        self._after(tick, "tRCD" + name, self.last.get(("ACT", bank)), getattr(r, "tRCD" + name))
        sid, group = bank // (g.banks * g.bank_groups), bank // g.banks
        for (other_sid, other_group), earlier in self.columns[name, pc].items():
            self._after(tick, "tCCD_S", earlier, r.tCCD_S)
            if other_group == group:
                self._after(tick, "tCCD_L", earlier, r.tCCD_L)
            if other_sid != sid:
                self._after(tick, "tCCD_R", earlier, r.tCCD_R)
        opposite = "WR" if name == "RD" else "RD"
        for (_, other_group), earlier in self.columns[opposite, pc].items():
            if name == "WR":
                self._after(tick, "tRTW", earlier, r.tRTW)
            else:
                self._after(tick, "tWTR_S", earlier, r.tCWL + r.burst + r.tWTR_S)
                if other_group == group:
                    self._after(tick, "tWTR_L", earlier, r.tCWL + r.burst_max + r.tWTR_L)
        begin = tick + (r.tCL if name == "RD" else r.tCWL)
        self._require(begin >= self.data_end.get(pc, 0), "data bus", tick, f"busy to {self.data_end.get(pc)}")
        self.data_end[pc] = begin + r.burst
        self.columns[name, pc][sid, group] = tick

    def _refab(self, tick: int, bank: int, row: int, pc: int, banks: range) -> None:
        r = self.r
        self._require(not any(b in self.open for b in banks), "state", tick, "REFab with an open bank")
        for b in banks:
            self._after(tick, "tRC", self.last.get(("ACT", b)), r.tRC)
            self._after(tick, "tRP", self.last.get(("PRE", b)), r.tRP)
        self._after(tick, "tRPab", self.pc_last.get(("PREab", pc)), r.tRPab)
        self.refreshes[pc].append((tick, -1))

    def _refpb(self, tick: int, bank: int, row: int, pc: int, banks: range) -> None:
        r = self.r
        self._require(bank not in self.open, "state", tick, "REFpb of an open bank")
        self._after(tick, "tRC", self.last.get(("ACT", bank)), r.tRC)
        self._after(tick, "tRP", self.last.get(("PRE", bank)), r.tRP)
        self._after(tick, "tRFCpb", self.last.get(("REFpb", bank)), r.tRFCpb)
        self._after(tick, "tRREFD", self.pc_last.get(("REFpb", pc)), r.tRREFD)
        self._rrd(tick, bank, pc, banks)
        self.refreshes[pc].append((tick, bank))

    # -- refresh over the whole log -----------------------------------------------------------------------------

    def finish(self, last: int) -> None:
        """Every row is refreshed in time: the k-th refresh follows k intervals, by at most one more interval."""
        if self.refresh == "none":
            self._require(not self.refreshes, "tREFI", last, "refresh though it is off")
            return
        g = self.r.g
        per_pc = g.sids * g.bank_groups * g.banks
        interval = self.r.tREFI if self.refresh == "all-bank" else self.r.tREFI // per_pc
        for pc, ends in self._last_ticks().items():
            done = self.refreshes[pc]
            for k, (tick, bank) in enumerate(done, start=1):
                late = tick - k * interval
                self._require(0 <= late <= self.r.tREFI, "tREFI", tick, f"refresh {k} of {pc} is {late} ticks late")
                if self.refresh == "per-bank":
                    self._require(bank - pc * per_pc == (k - 1) % per_pc, "tREFI", tick, f"bank {bank} out of turn")
            due = (ends - self.r.tREFI) // interval
            self._require(len(done) >= due, "tREFI", ends, f"{len(done)} refreshes of {due} in {pc}")

    def _last_ticks(self) -> dict[int, int]:
        ends: dict[int, int] = {}
        for (_, pc), tick in self.pc_last.items():
            ends[pc] = max(tick, ends.get(pc, 0))
        return ends


def check(spec: MemorySpec, log: CommandLog, refresh: str) -> tuple[list[Violation], Counter[str]]:
    """Violations of a log, and how many commands of each kind were judged."""
    checker = Checker(spec, log.ticks_per_clock, refresh)
    return checker.run(log), checker.counts
