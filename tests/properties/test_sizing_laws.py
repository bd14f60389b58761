"""Laws of sizing: what never makes an operator slower, and that the search prunes nothing it should not."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import npusim as ns
from npusim.chip import Chip, chip_names, find_chip
from npusim.cost import tile
from npusim.errors import InputError
from npusim.mapping import KEEPS
from npusim.workload import Op
from tests.conftest import SOAK

CHIPS = {chip.name: chip for chip in map(find_chip, chip_names()) if not chip.missing("tile")}
# A memory with a timing table runs at whole clock ticks: its efficiency wobbles a little with the pin rate.
TICKS = 5e-3
FASTER = ("memory.bandwidth", "link.bandwidth")
LARGER = ("capacity", "bandwidth", "bytes_per_cycle")


def knobs(chip: Chip) -> list[str]:
    levels = [f"levels.{name}.{key}" for name in chip.levels for key in LARGER]
    return [path for path in chip.paths() if path in (*FASTER, *levels)]


def without_prefetch(chip: Chip) -> Chip:
    return chip.replace({"dma.prefetch": False}) if chip.dma is not None and chip.dma.prefetch else chip


SIZES = st.integers(1, 20_000)
FORMATS = st.sampled_from(["bf16", "int8"])
OPS = st.one_of(
    st.builds(lambda m, n, k, fmt: ns.gemm(m, n, k, fmt, fmt, "bf16"), st.integers(1, 4096), SIZES, SIZES, FORMATS),
    st.builds(lambda b, q, kv: ns.attention(b, 32, 8, 128, q, q + kv), st.integers(1, 64), st.integers(1, 300), SIZES),
    st.builds(lambda rows: ns.norm(rows, 4096), SIZES),
    st.builds(lambda n: ns.collective(n * 64, 4), SIZES),
)


@settings(max_examples=1000 if SOAK else 150)
@given(st.sampled_from(sorted(CHIPS)), OPS, st.floats(1.0, 4.0), st.data())
def test_more_bandwidth_or_memory_never_makes_an_operator_slower(name: str, op: Op, factor: float, data: st.DataObject):
    chip = without_prefetch(CHIPS[name])
    path = data.draw(st.sampled_from(knobs(chip)))
    try:
        before = ns.estimate(op, chip, "tile").time_s
        after = ns.estimate(op, chip.replace({path: chip.paths()[path] * factor}), "tile").time_s
    except InputError:  # it has no rate, or no link
        assume(False)
    ticks = TICKS if path == "memory.bandwidth" and tile.stream_efficiency(chip) is not None else 1e-12
    assert after <= before * (1 + ticks)


def test_a_bigger_array_may_be_slower():
    """Output-stationary K = 64, M = N = 100: 128 x 128 cells take 318 cycles, 256 x 256 take 574: edges grow."""
    small, big = (ns.systolic_cycles(100, 100, 64, rows=size, cols=size) for size in (128, 256))
    assert (small, big) == (318, 574)


def test_prefetch_helps_a_step():
    """What an operator leaves idle is what the next one's weights come in."""
    step = ns.decode("llama-3.1-8b", batch=64, context=2048)
    prefetching = ns.load_chip("npu-2pf").replace({"dma.prefetch": True})
    plain = ns.estimate(step, ns.load_chip("npu-2pf"), "tile").time_s
    assert ns.estimate(step, prefetching, "tile").time_s <= plain


@settings(max_examples=200 if SOAK else 12)
@given(st.sampled_from(["npu-2pf", "h100", "gemmini"]), st.integers(1, 300), st.integers(1, 3000), st.integers(1, 3000),
       st.sampled_from([(1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (0.5, 1.0, 0.3)]))  # fmt: skip
def test_the_pruned_search_finds_what_trying_everything_finds(
    name: str, m: int, n: int, k: int, cold: tuple[float, float, float]
):
    chip = CHIPS[name]
    fmt = "int8" if name == "gemmini" else "bf16"
    menu = [column[:: max(1, len(column) // 4)] for column in tile.default_menu(chip, m, n, k)]

    def timed(edges: tuple[list[int], ...], keep: str | None) -> tile.GemmTime | None:
        try:
            return tile.gemm_time(chip, fmt, 1, m, n, k, (2, 2, 2), cold, menu=edges, keep=keep)
        except InputError:
            return None

    # One candidate at a time, in the order of the menu; the first of the fastest wins.
    best = None
    for tm, tn, split, (place, tk), keep in itertools.product(menu[0], menu[1], menu[3], enumerate(menu[2]), KEEPS):
        if place + 1 < len(menu[2]) and menu[2][place + 1] >= -(-k // split):
            continue
        one = timed(([tm], [tn], [tk], [split]), keep)
        if one is not None and (best is None or one.time_s < best.time_s):
            best = one
    found = timed(tuple(menu), None)
    assert (best is None) == (found is None)
    if best is not None and found is not None:
        assert (found.time_s, found.mapping, found.dram_bytes) == (best.time_s, best.mapping, best.dram_bytes)


def test_the_coarse_look_changes_nothing():
    """Large menus are looked at coarsely first; cut into single rows of edges, they are not."""
    chip = CHIPS["npu-2pf"]
    for m, n, k in ((1, 4096, 4096), (37, 6144, 4096), (512, 28672, 1024)):
        menu = tile.default_menu(chip, m, n, k)
        cold = (0.0, 1.0, 0.0)
        whole = tile.gemm_time(chip, "fp8", 1, m, n, k, (1, 1, 2), cold)
        rows = []
        for tm, tn in itertools.product(menu[0], menu[1]):
            with contextlib.suppress(InputError):  # tiles too large for a core
                rows.append(tile.gemm_time(chip, "fp8", 1, m, n, k, (1, 1, 2), cold, menu=([tm], [tn], *menu[2:])))
        first = min(rows, key=lambda one: one.time_s)
        assert (whole.time_s, whole.mapping) == (first.time_s, first.mapping)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_compute_bound_operator_follows_the_clock(factor: float):
    """No overheads, no cap: half the clock, double the time."""
    chip = CHIPS["npu-2pf"]
    free = chip.replace({"dma.setup": 0.0, "overheads.launch": 0.0, "memory.kind": "none", "memory.bandwidth": 1e20})
    op = ns.gemm(4096, 4096, 4096).inner()
    before = ns.estimate(op, free, "tile").time_s
    after = ns.estimate(op, free.replace({"clock": free.clock_hz * factor}), "tile").time_s
    assert after == pytest.approx(before / factor, rel=1e-9)
