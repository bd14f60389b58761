"""Laws of the calibrated attention, expert and vector families: bounds, monotonicity, and fits that find them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from npusim.accuracy.fitting import fit
from npusim.chip import load_chip
from npusim.cost.calibrated.attention_machine import cached_fraction, formats, machine, p_sum
from npusim.cost.calibrated.attention_prefill import PrefillShape, visited_tiles
from npusim.cost.calibrated.family import BOUNDS, FAMILIES, family

OURS = [
    *("attention-decode/1", "attention-prefill/1", "attention-encoder/1", "attention-chunked/1", "attention-mixed/1"),
    *("mla-decode/1", "mla-prefill/1", "moe/1", "vector/1"),
]
CHIP = load_chip("h100")


def grid(**axes) -> dict[str, np.ndarray]:
    """Columns of the product of the given values."""
    mesh = np.meshgrid(*(np.asarray(values, float) for values in axes.values()), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


def starts(name: str) -> dict[str, float]:
    return {spec.name: spec.start for spec in family(name).parameters}


def dims_for(name: str) -> dict[str, np.ndarray]:
    if name == "vector/1":
        return grid(m=[1, 64, 4096], n=[128, 4096, 28672])
    if name == "moe/1":
        return grid(m=[1, 64, 8192], n=[768, 14336], k=[2048], topk=[2, 8], experts=[8, 128], tp=[1], ep=[1, 8])
    if name == "attention-mixed/1":
        heads = grid(heads=[32], kv_heads=[8], head_dim=[128], prefill_chunk=[0, 64, 2048], kv_prefill=[0, 512])
        steps = np.tile([1.0, 128.0], 3)
        return heads | {"n_decode": steps, "kv_decode": np.full(6, 1024.0)}
    q = [1] if "decode" in name else [16, 1024, 8192]
    return grid(batch=[1, 64], heads=[8, 64], kv_heads=[8], head_dim=[64, 128], seq_q=q, seq_kv=[16, 1024, 32768])


@pytest.mark.parametrize("name", OURS)
def test_family_is_registered_and_physical(name):
    found = family(name)
    assert found.name == name and name in FAMILIES
    assert len({spec.name for spec in found.parameters}) == len(found.parameters)
    fitted = [spec for spec in found.parameters if spec.log]
    assert len(fitted) <= 14
    for spec in found.parameters:
        assert spec.low <= spec.start <= spec.high, spec.name
        assert spec.meaning and spec.unit
        if spec.meaning.startswith("sustained fraction"):
            assert spec.high <= 1


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("chip", ["a100", "b200", "ascend-910b", "tpu-v4"])
def test_times_are_finite_and_named(name, chip):
    times = family(name).seconds(load_chip(chip), "bfloat16", dims_for(name), starts(name))
    assert np.isfinite(times.time_s).all() and (times.time_s > 0).all()
    assert set(times.bound.tolist()) <= set(BOUNDS)
    assert (times.time_s >= starts(name)["launch_us"] * 1e-6).all()


@pytest.mark.parametrize("pack", [1.0, 64.0])
def test_decode_is_never_faster_than_its_bytes_from_dram(pack):
    dims = grid(batch=[1, 16, 256], heads=[8, 64], kv_heads=[1, 8], head_dim=[64, 128], seq_kv=[64, 4096, 32768])
    values = starts("attention-decode/1") | {"pack": pack, "dram": 1.0, "resident": 0.05}
    times = family("attention-decode/1").seconds(CHIP, "bf16/kv_bf16", dims, values).time_s
    moved = 2 * dims["batch"] * dims["kv_heads"] * dims["seq_kv"] * dims["head_dim"] * 2
    large = moved > 4 * 50 * 2**20
    assert large.any() and (times[large] >= moved[large] / 3350e9).all()


def test_prefill_is_never_faster_than_its_flops():
    dims = grid(batch=[1, 16], heads=[8, 64], kv_heads=[8], head_dim=[64, 128, 256], seq_q=[16, 100, 1024, 16384])
    values = starts("attention-prefill/1") | {"engine_64": 1.0, "engine_128": 1.0, "engine_256": 1.0}
    times = family("attention-prefill/1").seconds(CHIP, "bf16/kv_bf16", dims, values).time_s
    pairs = dims["seq_q"] * (dims["seq_q"] + 1) / 2
    flops = 4 * dims["batch"] * dims["heads"] * dims["head_dim"] * pairs
    assert (times >= flops / CHIP.peak_flops_per_s("bf16")[1]).all()


@pytest.mark.parametrize("name", ["attention-decode/1", "mla-decode/1"])
@pytest.mark.parametrize("change", [{}, {"pack": 1.0}, {"group_limit": 4.0, "single_splits": 0.0}, {"tail": 1.0}])
def test_a_longer_history_is_never_faster(name, change):
    lengths = np.unique(np.round(np.geomspace(1, 65536, 200)))
    for batch, heads, kv_heads in ((1, 8, 8), (3, 40, 8), (64, 32, 1), (512, 16, 4)):
        dims = grid(batch=[batch], heads=[heads], kv_heads=[kv_heads], head_dim=[128], seq_kv=lengths)
        times = family(name).seconds(CHIP, "bf16/kv_bf16", dims, starts(name) | change).time_s
        assert (np.diff(times) >= -1e-12).all()


def test_a_narrower_cache_and_a_window_are_never_slower():
    dims = grid(batch=[1, 32, 512], heads=[32], kv_heads=[8], head_dim=[128], seq_kv=[64, 2048, 16384])
    decode, values = family("attention-decode/1"), starts("attention-decode/1")
    wide = decode.seconds(CHIP, "bf16/kv_bf16", dims, values).time_s
    assert (decode.seconds(CHIP, "bf16/kv_fp8", dims, values).time_s <= wide).all()
    windowed = decode.seconds(CHIP, "bf16/kv_bf16", dims | {"window": np.full(9, 128.0)}, values).time_s
    assert (windowed <= wide).all() and (windowed < wide).any()


def test_tiles_of_causal_and_windowed_prefill():
    one = np.ones(1)
    shape = PrefillShape(one, one, one, 128 * one, 128 * one, 1024 * one, 1024 * one, 0 * one, one, 2, 2, one, 0 * one)
    rows = np.full(1, 128.0)
    total, longest = visited_tiles(shape, rows, 128, True)
    assert total[0] == 36 and longest[0] == 8  # 1 + 2 + ... + 8
    full, _ = visited_tiles(replace(shape, causal=0 * one), rows, 128, True)
    assert full[0] == 64
    exact = sum(i - max(i * 128 - 128 - 256, 0) // 128 for i in range(1, 9))
    windowed, most = visited_tiles(replace(shape, window=256 * one), rows, 128, True)
    assert abs(windowed[0] - exact) <= 4 and most[0] <= 4
    ignored, _ = visited_tiles(replace(shape, window=256 * one), rows, 128, False)
    assert ignored[0] == 36


def test_pieces():
    assert formats("bfloat16/kv_fp8") == ("bf16", "fp8") and formats("half") == ("fp16", "fp16")
    assert cached_fraction(np.array([1e3, 1e12]), 1e6).round(3).tolist() == [1.0, 0.0]
    assert p_sum(1, np.array([3.0]), np.array([4.0]))[0] == pytest.approx(7)
    assert p_sum(2, np.array([3.0]), np.array([4.0]))[0] == pytest.approx(5)
    assert machine(load_chip("tpu-v4"), None).cores == 2


@pytest.mark.parametrize("name", ["attention-decode/1", "attention-prefill/1", "vector/1"])
def test_a_fit_recovers_the_model_that_made_the_rows(name):
    found = family(name)
    rng = np.random.default_rng(1)
    dims = dims_for(name) if name == "vector/1" else grid(
        batch=[1, 4, 64, 512], heads=[4, 32], kv_heads=[4], head_dim=[64, 128],
        seq_q=[1] if "decode" in name else [64, 1024, 4096], seq_kv=[16, 256, 2048, 16384] if "decode" in name else [1],
    )  # fmt: skip
    if name == "vector/1":
        dims = grid(m=[1, 4, 32, 128, 512, 2048, 8192, 32768], n=[256, 1024, 4096, 8192, 16384])
    rows = len(next(iter(dims.values())))
    fixed = {spec.name: spec.start for spec in found.parameters if not spec.log}
    truth = {s.name: s.start * (1.0 if s.name in fixed else float(rng.uniform(0.8, 1.2))) for s in found.parameters}
    truth = {s.name: min(max(truth[s.name], s.low), s.high) for s in found.parameters}
    made = found.seconds(CHIP, "bf16/kv_bf16", dims, truth).time_s * np.exp(rng.normal(0, 0.01, rows))
    result = fit(found, CHIP, "bf16/kv_bf16", dims, made, folds=2, starts=1, fixed=fixed)
    assert result.mape_pct < 3
    assert result.parameters["launch_us"] == pytest.approx(truth["launch_us"], rel=0.25)
