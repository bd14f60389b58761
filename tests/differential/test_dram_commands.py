"""No command breaks a timing rule: random traffic judged by a checker, which is itself shown to catch every rule."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim.cost.dram import CommandLog, decode, default_map, generate, simulate
from npusim.cost.dram_map import ordered_map
from npusim.cost.dram_spec import Controller, MemorySpec, load_memory, memory_names, ticks_per_clock
from tests.differential.dram_checker import NAMES, Checker, Rules, check

controllers = st.builds(
    Controller,
    window=st.integers(1, 96),
    backlog=st.sampled_from([0, 0, 16]),
    write_queue=st.integers(1, 64),
    unified=st.booleans(),
    write_high=st.sampled_from([0.5, 0.8, 1.0]),
    write_low=st.sampled_from([0.0, 0.2, 0.5]),
    hit_cap=st.sampled_from([0, 1, 4, 16]),
    refresh=st.sampled_from(Controller.REFRESH),
    front_window=st.sampled_from([0, 0, 1, 32]),
    max_outstanding=st.sampled_from([0, 0, 7]),
)


@st.composite
def traffic(draw: st.DrawFn) -> tuple[MemorySpec, np.ndarray, np.ndarray, np.ndarray | None]:
    """Requests concentrated on few banks and rows, so that every constraint binds; sometimes with arrivals."""
    spec = load_memory(draw(st.sampled_from(memory_names())))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n = draw(st.integers(1, 400))
    span = min(draw(st.sampled_from([2**14, 2**20, 2**30])), spec.geometry.capacity_bytes)
    run = draw(st.sampled_from([1, 3, 16]))
    base = rng.integers(0, span // spec.geometry.burst_bytes, -(-n // run))
    addresses = ((base[:, None] + np.arange(run)).reshape(-1)[:n] * spec.geometry.burst_bytes) % span
    writes = rng.random(n) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    gap = draw(st.sampled_from([None, 2e-9, 50e-9, 1e-6]))
    arrivals = None if gap is None else np.cumsum(rng.exponential(gap, n))
    return spec, addresses, writes, arrivals


@given(traffic(), controllers)
def test_random_traffic_breaks_no_rule(case, controller):
    spec, addresses, writes, arrivals = case
    run = simulate(spec, addresses, writes=writes, arrivals_s=arrivals, controller=controller, log=True, latencies=True)
    violations, counts = check(spec, run.commands, controller.refresh)
    assert not violations, violations[:5]
    assert counts["RD"] == run.reads == (~writes).sum()
    assert counts["WR"] == run.writes == writes.sum()
    assert run.hits + run.closed + run.conflicts == len(addresses)
    assert run.bandwidth_bytes_per_s <= run.peak_bytes_per_s
    served(spec, addresses, writes, run.commands)
    least = (spec.clocks("tCWL") if writes.any() else spec.clocks("tCL")) * spec.geometry.clock_s
    assert run.latency_s.min() >= least


def served(spec: MemorySpec, addresses: np.ndarray, writes: np.ndarray, log: CommandLog) -> None:
    """Every request is served exactly once, in its bank and row."""
    f, g = decode(default_map(spec), addresses), spec.geometry
    bank = f["channel"].astype(int)
    for part, size in (
        ("pseudo_channel", g.pseudo_channels),
        ("sid", g.sids),
        ("bank_group", g.bank_groups),
        ("bank", g.banks),
    ):
        bank = bank * size + f[part]
    asked = Counter(zip(bank.tolist(), f["row"].tolist(), writes.tolist(), strict=True))
    moves = np.isin(log.kind, (NAMES.index("RD"), NAMES.index("WR")))
    kinds = (log.kind[moves] == NAMES.index("WR")).tolist()
    assert Counter(zip(log.bank[moves].tolist(), log.row[moves].tolist(), kinds, strict=True)) == asked


@pytest.mark.parametrize("name", memory_names())
@pytest.mark.parametrize("refresh", Controller.REFRESH)
@pytest.mark.parametrize("pattern", ["sequential", "random"])
def test_long_traffic_breaks_no_rule(name, refresh, pattern):
    """Long enough for several refreshes of every bank in one channel."""
    spec = load_memory(name).replace({"geometry.channels": 1})
    addresses, writes = generate(spec, pattern, 12_000, write_share=0.3)
    controller = Controller(refresh=refresh)
    run = simulate(spec, addresses, writes=writes, controller=controller, log=True)
    violations, counts = check(spec, run.commands, refresh)
    assert not violations, violations[:5]
    assert (run.refreshes > 0) == (refresh != "none")
    assert counts.total() == run.activates + run.precharges + run.refreshes + 12_000


# -- the checker catches what it claims to -----------------------------------------------------------------------


def scenarios(spec: MemorySpec, edge: int) -> dict[str, list[tuple[int, str, int, int]]]:
    """Per rule, commands that just keep it; a tick less for the last one breaks it. (tick, command, bank, row)."""
    r, far = Rules(spec, edge), 10**6
    g = spec.geometry
    group, sid = g.banks, g.banks * g.bank_groups  # first bank of the next group, of the next SID
    opened = [(0, "ACT", 0, 1), (far, "ACT", 1, 1), (2 * far, "ACT", group, 1)]
    t = 3 * far
    write_end = r.tCWL + r.burst
    table = {
        "tRCDRD": [(0, "ACT", 0, 1), (r.tRCDRD, "RD", 0, 1)],
        "tRCDWR": [(0, "ACT", 0, 1), (r.tRCDWR, "WR", 0, 1)],
        "tRAS": [(0, "ACT", 0, 1), (r.tRAS, "PRE", 0, 1)],
        "tRP": [(0, "ACT", 0, 1), (far, "PRE", 0, 1), (far + r.tRP, "ACT", 0, 2)],
        "tRPab": [(0, "ACT", 0, 1), (far, "PREab", 0, -1), (far + r.tRPab, "ACT", 1, 2)],
        "tRRD_S": [(0, "ACT", 0, 1), (r.tRRD_S, "ACT", group, 1)],
        "tRRD_L": [(0, "ACT", 0, 1), (r.tRRD_L, "ACT", 1, 1)],
        "tCCD_S": [*opened, (t, "RD", 0, 1), (t + r.tCCD_S, "RD", group, 1)],
        "tCCD_L": [*opened, (t, "RD", 0, 1), (t + r.tCCD_L, "RD", 1, 1)],
        "tRTW": [*opened, (t, "RD", 0, 1), (t + r.tRTW, "WR", group, 1)],
        "tWTR_S": [*opened, (t, "WR", 0, 1), (t + write_end + r.tWTR_S, "RD", group, 1)],
        "tWTR_L": [*opened, (t, "WR", 0, 1), (t + r.tCWL + r.burst_max + r.tWTR_L, "RD", 1, 1)],
        "tRTP": [*opened, (t, "RD", 0, 1), (t + r.tRTP, "PRE", 0, 1)],
        "tWR": [*opened, (t, "WR", 0, 1), (t + write_end + r.tWR, "PRE", 0, 1)],
        "tRFC": [(0, "REFab", 0, -1), (r.tRFC, "ACT", 0, 1)],
        "tRFCpb": [(0, "REFpb", 0, -1), (r.tRFCpb, "ACT", 0, 1)],
        "tRREFD": [(0, "REFpb", 0, -1), (r.tRREFD, "ACT", 1, 1)],
        "command bus": [*opened, (t, "PRE", 0, 1), (t + round(spec.commands.pre * edge), "ACT", 3, 1)],
    }
    # tRC binds where tRAS + tRP does not reach it, tFAW where four tRRD do not.
    early = max(r.tRC - r.tRP - 1, 0)
    table["tRC"] = [(0, "ACT", 0, 1), (early, "PRE", 0, 1), (r.tRC, "ACT", 0, 2)]
    step = max(r.tRRD_S, 1)
    groups = [0, group, 0 + 1, group + 1, 2]
    table["tFAW"] = [(i * step, "ACT", groups[i], 1) for i in range(4)] + [(r.tFAW, "ACT", groups[4], 1)]
    if g.sids > 1:
        table["tCCD_R"] = [*opened, (2 * far + r.tRC, "ACT", sid, 1), (t, "RD", 0, 1), (t + r.tCCD_R, "RD", sid, 1)]
    if r.tPPD > 1:
        table["tPPD"] = [*opened, (t, "PRE", 0, 1), (t + r.tPPD, "PRE", 1, 1)]
    return table


def judged(spec: MemorySpec, edge: int, commands: list[tuple[int, str, int, int]]) -> set[str]:
    checker = Checker(spec, edge, "none")
    for tick, name, bank, row in commands:
        checker.command(tick, name, bank, row)
    return {violation.rule for violation in checker.violations}


@pytest.mark.parametrize("name", memory_names())
def test_checker_catches_each_rule_one_tick_early(name):
    spec = load_memory(name)
    edge = ticks_per_clock(spec)
    caught = set()
    for rule, commands in scenarios(spec, edge).items():
        *before, (tick, command, bank, row) = commands
        assert rule not in judged(spec, edge, commands), rule
        if rule in judged(spec, edge, [*before, (tick - 1, command, bank, row)]):
            caught.add(rule)
    assert caught == set(scenarios(spec, edge))


@pytest.mark.parametrize(
    ("rule", "commands"),
    [
        ("state", [(0, "RD", 0, 1)]),
        ("state", [(0, "ACT", 0, 1), (4000, "RD", 0, 2)]),
        ("state", [(0, "ACT", 0, 1), (4000, "ACT", 0, 2)]),
        ("state", [(0, "PRE", 0, 1)]),
        ("state", [(0, "ACT", 0, 1), (4000, "REFab", 0, -1)]),
        ("state", [(0, "ACT", 0, 1), (4000, "REFpb", 0, -1)]),
        ("clock edge", [(1, "ACT", 0, 1)]),
        ("data bus", [(0, "ACT", 0, 1), (200, "ACT", 4, 1), (4000, "RD", 0, 1), (4001, "RD", 4, 1)]),
    ],
)
def test_checker_catches_what_has_no_distance(rule, commands):
    assert rule in judged(load_memory("hbm3"), 2, commands)


@pytest.mark.parametrize("refresh", ["all-bank", "per-bank"])
def test_checker_misses_no_lost_or_late_refresh(refresh):
    spec = load_memory("hbm3").replace({"geometry.channels": 1})
    addresses, _ = generate(spec, "sequential", 20_000)
    log = simulate(spec, addresses, controller=Controller(refresh=refresh), log=True).commands
    assert not check(spec, log, refresh)[0]
    first = np.flatnonzero(log.kind >= NAMES.index("REFab"))[0]
    lost = [np.delete(x, first) for x in (log.tick, log.kind, log.bank, log.row)]
    without = CommandLog(*lost, log.tick_s, log.ticks_per_clock)
    assert "tREFI" in {violation.rule for violation in check(spec, without, refresh)[0]}
    assert {violation.rule for violation in check(spec, log, "none")[0]} == {"tREFI"}


def test_any_command_moved_is_caught():
    """Moving a command of a saturated log earlier breaks something nearly always: it was issued as soon as allowed."""
    spec = load_memory("hbm3").replace({"geometry.channels": 1, "geometry.pseudo_channels": 1})
    mapping = ordered_map(spec)
    addresses, writes = generate(spec, "random", 300, write_share=0.3)
    controller = Controller(refresh="none")
    log = simulate(spec, addresses, writes=writes, controller=controller, mapping=mapping, log=True).commands
    rng = np.random.default_rng(3)
    caught = 0
    for index in rng.integers(10, log.tick.size, 100):
        tick = log.tick.copy()
        tick[index] -= 2
        order = np.argsort(tick, kind="stable")
        moved = CommandLog(tick[order], log.kind[order], log.bank[order], log.row[order], log.tick_s, 2)
        caught += bool(check(spec, moved, "none")[0])
    assert caught >= 90
