"""Laws of the tile model over random chips and shapes, and its search against exhaustive enumeration and an oracle."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npusim as ns
from npusim.chip import Chip, chip_names, find_chip
from npusim.cost import estimate, tile
from npusim.errors import InputError, Unavailable
from npusim.workload import attention, conv2d, elementwise, experts, gemm, norm, softmax
from tests.conftest import SOAK

TILE_CHIPS = [name for name in chip_names() if not find_chip(name).missing("tile")]
chips = st.sampled_from(TILE_CHIPS).map(find_chip)
size, small = st.integers(1, 4000), st.integers(1, 64)
formats = st.sampled_from(["bf16", "fp8", "int8"])


def gemms() -> st.SearchStrategy:
    return st.builds(gemm, size, size, size, formats, formats, groups=st.integers(1, 5))


operators = st.one_of(
    gemms(),
    st.builds(experts, size, st.integers(1, 2), st.integers(2, 16), size, size),
    st.builds(lambda b, g, h, d, q, past, w: attention(b, g * h, g, d, q, q + past, window=w), small, st.integers(1, 4),
              st.integers(1, 4), st.sampled_from([32, 64, 128]), st.integers(1, 600), st.integers(0, 5000),
              st.one_of(st.none(), st.integers(1, 3000))),
    st.builds(conv2d, st.integers(1, 4), st.integers(7, 60), st.integers(7, 60), small, small, st.integers(1, 7),
              st.integers(1, 7)),
    st.builds(norm, size, size), st.builds(softmax, size, size), st.builds(elementwise, size, st.just("silu")),
)  # fmt: skip


def price(op, chip: Chip):
    try:
        return estimate(op, chip, "tile")
    except Unavailable:  # a chip without the format
        return None


def test_there_are_chips():
    assert len(TILE_CHIPS) >= 12


@given(operators, chips)
def test_never_faster_than_the_roofline(op, chip: Chip):
    """Cold operands: the tile model is at least the roofline of the operator, and its lower bound."""
    cost = price(op, chip)
    if cost is None:
        return
    bound = estimate(op, chip, "roofline")
    assert cost.time_s >= bound.time_s * (1 - 1e-12)
    assert cost.time_s >= cost.lower_bound_s * (1 - 1e-12)
    assert cost.dram_bytes >= bound.dram_bytes * (1 - 1e-12)
    assert 0 <= cost.mfu <= 1 + 1e-12 and 0 <= cost.mbu <= 1 + 1e-12
    assert sum(cost.bound_seconds.values()) == pytest.approx(cost.time_s, rel=1e-12)
    for busy in cost.ops[0].seconds.values():
        assert busy <= cost.time_s * (1 + 1e-12)


@given(operators, chips, st.sampled_from(["memory.bandwidth", "clock"]), st.floats(1.01, 8))
def test_more_bandwidth_or_clock_is_never_slower(op, chip: Chip, path: str, factor: float):
    before = price(op, chip)
    if before is None:
        return
    figure = chip.memory.bandwidth_bytes_per_s if path == "memory.bandwidth" else chip.clock_hz  # type: ignore[union-attr]
    after = price(op, chip.replace({path: figure * factor}))  # type: ignore[operator]
    assert after.time_s <= before.time_s * (1 + 1e-9)


@pytest.fixture(scope="module")
def fixed_dram():
    """DRAM timings are nanoseconds that no chip figure scales: a law that scales every time fixes the share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile, "stream_efficiency", lambda chip: None)
        yield


@pytest.mark.usefixtures("fixed_dram")
@given(gemms(), chips, st.floats(0.1, 10))
def test_time_scales_with_every_rate(op, chip: Chip, factor: float):
    chip = chip.replace({"memory.kind": "fixed rate"})  # the latencies of a DRAM are not the chip's to scale
    """Clock and bandwidths × k, latencies / k: time / k."""
    before = price(op, chip)
    if before is None:
        return
    changes: dict[str, object] = {"clock": chip.clock_hz * factor,  # type: ignore[operator]
                                  "memory.bandwidth": chip.memory.bandwidth_bytes_per_s * factor}  # type: ignore[union-attr, operator]  # fmt: skip
    for name, level in chip.levels.items():
        if level.bandwidth_bytes_per_s is not None:
            changes[f"levels.{name}.bandwidth"] = level.bandwidth_bytes_per_s * factor
    if chip.core.vector is not None and chip.core.vector.clock_hz:
        changes["core.vector.clock"] = chip.core.vector.clock_hz * factor
    if chip.dma is not None and chip.dma.setup_s:
        changes["dma.setup"] = chip.dma.setup_s / factor
    if chip.overheads.launch_s:
        changes["overheads.launch"] = chip.overheads.launch_s / factor
    assert price(op, chip.replace(changes)).time_s == pytest.approx(before.time_s / factor, rel=1e-9)


@given(
    chips,
    st.lists(st.integers(1, 3000), min_size=1, max_size=5),
    st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)
def test_arrays_equal_their_elements(chip: Chip, ms: list[int], contexts: list[int]):
    together = price(gemm(np.array(ms), 512, 768), chip)
    if together is None:
        return
    assert together.time_s.tolist() == [price(gemm(m, 512, 768), chip).time_s for m in ms]
    step = price(attention(4, 8, 2, 64, 1, np.array(contexts)), chip)
    alone = [price(attention(4, 8, 2, 64, 1, c), chip).time_s for c in contexts]
    assert step.time_s.tolist() == pytest.approx(alone, rel=1e-12)


def test_time_to_first_token_never_falls_with_the_prompt():
    prompts = np.arange(1, 4097, 37)
    for name in ("npu-2pf", "h100", "tpu-v4", "rngd"):
        times = estimate(ns.prefill("llama-3.1-8b", prompt=prompts), find_chip(name), "tile").time_s
        # The search is exact over its menu, but the menu of edges moves with the shape: allow its grain.
        assert np.all(np.diff(times) >= -0.02 * times[:-1])
        assert times[-1] > 10 * times[0]


def python_cycles(chip: Chip, fmt: str, tm: float, tn: float, tk: float) -> float:
    """Engine cycles, written again from the definitions."""
    matrix = chip.core.matrix
    macs = matrix.flops_per_cycle[fmt] / 2
    if matrix.engine == "tensorcore":
        sm, sn, sk = matrix.shape
        return math.ceil(tm / sm) * math.ceil(tn / sn) * math.ceil(tk / sk) * sm * sn * sk / macs
    if matrix.engine == "dot":
        return math.ceil(tm * tn / matrix.lanes) * math.ceil(tk / (macs / matrix.lanes))
    down, across, streamed, weight = {
        "os": (tm, tn, tk, 1), "ws": (tk, tn, tm, 2), "is": (tk, tm, tn, 2)}[matrix.dataflow]  # fmt: skip
    folds = math.ceil(math.ceil(down / matrix.rows) * math.ceil(across / matrix.cols) / matrix.arrays)
    speed = macs / (matrix.rows * matrix.cols * matrix.arrays)
    edges = weight * matrix.rows + matrix.cols - 2
    if not matrix.overlap:
        return folds * (streamed / speed + edges)
    return folds * max(streamed / speed, matrix.rows) + edges


@given(chips, size, size, size)
def test_engine_cycles(chip: Chip, tm: int, tn: int, tk: int):
    fmt = chip.peak_flops_per_s("bf16")[0] if "int8" not in chip.peaks_flops_per_s else "int8"
    ours = tile.tile_cycles(chip, fmt, tm, tn, tk)
    assert ours == pytest.approx(python_cycles(chip, fmt, tm, tn, tk), rel=1e-12)
    assert ours * chip.core.matrix.flops_per_cycle[fmt] >= 2 * tm * tn * tk * (1 - 1e-12)


def test_one_array_without_overlap_is_the_closed_form(toy: Chip):
    chip = toy.replace({"core.matrix.overlap": False, "core.matrix.flops_per_cycle.bf16": 1000})
    for dataflow in ("os", "ws", "is"):
        one = chip.replace({"core.matrix.dataflow": dataflow})
        for m, n, k in [(20, 25, 30), (7, 100, 3), (64, 64, 64)]:
            expected = ns.systolic_cycles(m, n, k, rows=20, cols=25, dataflow=dataflow)
            assert tile.tile_cycles(one, "bf16", m, n, k) == expected


@pytest.mark.usefixtures("fixed_dram")
def test_a_gemm_by_hand(toy: Chip):
    """One core-sized tile per core. 40 × 50 × 64, array 20 × 25 (ws): 4 cores, tiles of 20 × 25, one step of 64.

    Cycles: down 64/20 → 4 folds, across 1: 4 · max(20, 20) + 2·20 + 25 − 2 = 143 → 143 ns.
    First operands: 33.125 ns of an HBM3 that opens a row (tRCD + tCL + burst: 31 + 20 + 2 clocks of 0.625 ns), then
    64 · (20 + 25) · 2 B = 5760 B at 100 GB/s / 4 cores = 230.4 ns.
    Port: (64·20 + 64·25 + 20·25) · 2 B = 6760 B at 100 GB/s = 67.6 ns < 143. Store: 1000 B at 100 GB/s = 10 ns.
    DRAM: (40·64 + 64·50 + 40·50) · 2 B = 15 520 B = 155.2 ns; 155.2 + 143 < 230.4 + 143.
    """
    menu = ([20], [25], [64], [1])
    found = tile.gemm_time(toy, "bf16", 1, 40, 50, 64, (2, 2, 2), menu=menu)
    assert found.seconds["matrix"] == pytest.approx(143e-9)
    assert found.seconds["dram"] == pytest.approx(155.2e-9)
    assert found.time_s == pytest.approx(33.125e-9 + 230.4e-9 + 143e-9 + 10e-9)
    assert found.waves == 1


def full_menu(chip: Chip, m: int, n: int, k: int) -> tile.Menu:
    """Every edge of m and n, every multiple of 8 along k, every split of the menu."""
    edges = [sorted(range(1, size + 1), reverse=True) for size in (m, n)]
    menu = tile.default_menu(chip, m, n, k)
    depths = sorted({min(k, d) for d in range(8, k + 8, 8)} | set(menu[2]), reverse=True)
    return edges[0], edges[1], depths, menu[3]


def test_the_menu_is_within_two_percent_of_full_enumeration():
    rng = random.Random(7)
    worst = 0.0
    for _ in range(200 if SOAK else 25):
        chip = find_chip(rng.choice(TILE_CHIPS))
        fmt = next(iter(chip.peaks_flops_per_s))
        m, n, k = rng.randint(1, 200), rng.randint(1, 200), rng.randint(1, 300)
        found = tile.gemm_time(chip, fmt, 1, m, n, k, (2, 2, 2))
        exact = tile.gemm_time(chip, fmt, 1, m, n, k, (2, 2, 2), menu=full_menu(chip, m, n, k))
        assert exact.time_s <= found.time_s * (1 + 1e-12)
        worst = max(worst, found.time_s / exact.time_s - 1)
    assert worst <= 0.02


def test_the_mapping_found_fits_and_repeats():
    chip = find_chip("npu-2pf")
    first = tile.gemm_time(chip, "bf16", 1, 1000, 3000, 5000, (2, 2, 2))
    again = tile.gemm_time(chip, "bf16", 1, 1000, 3000, 5000, (2, 2, 2))
    assert first == again
    fixed = first.mapping
    alone = tile.gemm_time(
        chip, "bf16", 1, 1000, 3000, 5000, (2, 2, 2), menu=([fixed.tm], [fixed.tn], [fixed.tk], [fixed.split])
    )
    assert alone.time_s == first.time_s


def test_nothing_fits():
    chip = find_chip("npu-2pf").replace({"levels.l1.capacity": 16})
    with pytest.raises(InputError, match="no tile of a 64 x 64 x 64 GEMM fits"):
        tile.gemm_time(chip, "bf16", 1, 64, 64, 64, (2, 2, 2), menu=([64], [64], [64], [1]))


def test_a_chip_without_an_engine_is_refused():
    with pytest.raises(Unavailable, match=r"missing core\.matrix"):
        estimate(gemm(8, 8, 8, "fp8", "fp8"), find_chip("bertha-500"), "tile")


def test_kperf_at_tile_is_never_better_than_the_roofline():
    suite = ns.load_suite()
    small_suite = suite.model_copy(update={"lengths": ((128, 128), (2048, 128)), "concurrency": (1, 16, "max")})
    for name in ("npu-2pf", "h100"):
        at_tile = ns.kperf(name, suite=small_suite, models=["llama-3.1-8b"], fidelity="tile").rows
        bound = ns.kperf(name, suite=small_suite, models=["llama-3.1-8b"]).rows
        for ours, theirs in zip(at_tile, bound, strict=True):
            assert ours["tokens_per_s"] <= theirs["tokens_per_s"] * (1 + 1e-9)
            assert ours["ttft_s"] >= theirs["ttft_s"] * (1 - 1e-9)
