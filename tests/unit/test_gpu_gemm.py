"""Does the GPU GEMM model keep the laws of its machine, and does a fit find the parameters that made its data?"""

import numpy as np
import pytest

from npusim.accuracy import fitting
from npusim.chip import find_chip
from npusim.cost.calibrated import gemm
from npusim.cost.calibrated.family import BOUNDS, alternatives, family, family_of

MODEL = gemm.GPU_GEMM
START = {spec.name: spec.start for spec in gemm.PARAMETERS}


def shapes(count=400, seed=0):
    rng = np.random.default_rng(seed)
    m = np.round(np.exp(rng.uniform(0, np.log(8192), count)))
    n, k = (32 * np.round(np.exp(rng.uniform(0, np.log(256), count))) for _ in range(2))
    return {"m": m, "n": n, "k": k, "batch": np.full(count, np.nan)}


def times(chip="h100", dtype="bf16", dims=None, **changes):
    return MODEL.seconds(find_chip(chip), dtype, dims or shapes(), START | changes)


def test_the_family_is_registered():
    assert family("gpu-gemm/1") is MODEL
    assert family_of("linear", "gpu") is MODEL
    assert family_of("linear", "npu") is None or family_of("linear", "npu") is not MODEL


@pytest.mark.parametrize("chip", ["h100", "a100", "b200", "l40s"])
def test_never_faster_than_the_engine_or_the_launch(chip):
    dims, found = shapes(), times(chip)
    peak = find_chip(chip).peak_flops_per_s("bf16")[1]
    flops = 2 * dims["m"] * dims["n"] * dims["k"]
    assert (found.time_s >= START["launch"] + flops / (peak * START["matrix_share"])).all()
    assert set(found.bound) <= set(BOUNDS)


def test_cold_weights_are_never_faster_than_main_memory():
    dims = shapes() | {"weight_copies": np.full(400, 1e6)}
    chip = find_chip("h100")
    cache = max(level.capacity_bytes for level in chip.levels.values())
    found = times(dims=dims)
    weights = 2 * dims["n"] * dims["k"]
    large = weights > 2 * cache
    assert large.any()
    assert (found.time_s[large] >= 0.98 * weights[large] / chip.memory.bandwidth_bytes_per_s).all()
    assert (found.time_s >= times(dims=shapes()).time_s * (1 - 1e-12)).all()  # warm weights


@pytest.mark.parametrize(
    ("name", "value"),
    [("matrix_share", 0.5), ("dram_share", 0.5), ("fill", 5.0), ("store", 1.0), ("launch", 1e-5), ("split", 1e-5)],
)
def test_a_worse_machine_is_never_faster(name, value):
    assert (times(**{name: value}).time_s >= times().time_s * (1 - 1e-9)).all()


def test_more_rows_of_tiles_never_take_less_time():
    m = np.arange(256.0, 8192 + 1, 256)
    dims = {"m": m, "n": np.full(len(m), 4096.0), "k": np.full(len(m), 4096.0)}
    assert (np.diff(times(dims=dims).time_s) >= 0).all()


def test_a_finer_menu_is_never_slower():
    assert (times(menu=1.0).time_s <= times(menu=0.0).time_s * (1 + 1e-12)).all()


def test_a_batch_is_one_call():
    cold = shapes() | {"weight_copies": np.full(400, 1e6)}
    one, many = cold | {"batch": np.ones(400)}, cold | {"batch": np.full(400, 16.0)}
    first, all_of_them = times(dims=one).time_s, times(dims=many).time_s
    assert (all_of_them >= first).all() and np.median(all_of_them / first) < 16


def test_what_a_chip_or_dtype_lacks_gives_no_time():
    assert np.isnan(times(dtype="no-format").time_s).all()
    assert np.isnan(times(chip="mtt-s4000").time_s).all()
    dims = shapes() | {"k": np.full(400, np.nan)}
    assert np.isnan(times(dims=dims).time_s).all()


def test_dtypes_mean_their_bytes_and_their_work():
    assert gemm.operands("nvfp4").w == 0.5625 and gemm.operands("nvfp4").quantises
    assert gemm.operands("int4_wo").widens and gemm.operands("int4_wo").rate == "fp16"
    assert gemm.operands("float16") == gemm.operands("fp16") == gemm.Operands("fp16", 2, 2, 2)
    assert [each["menu"] for each in alternatives(MODEL, "fp8", "cold")] == [0, 1]
    assert alternatives(MODEL, "bf16", "llc")[0] == {"weight_copies": 1, "quantise": 1e-3, "widen": 1e-5, "menu": 0}


def test_menus_hold_the_tiles_they_promise():
    for index in (0, 1):
        tiles = {tuple(tile) for tile in gemm.menu(index)}
        assert (128, 128) in tiles and all((n, m) in tiles for m, n in tiles)
    assert (128, 192) not in {tuple(tile) for tile in gemm.menu(0)}


def test_known_parameters_are_recovered():
    true = START | {"launch": 4e-6, "matrix_share": 0.75, "dram_share": 0.7, "fill": 22.0, "store": 7.0, "split": 4e-6}
    dims = shapes(1200, seed=3)
    dims["weight_copies"] = np.full(1200, 1e6)
    chip = find_chip("h100")
    noise = np.exp(0.03 * np.random.default_rng(1).standard_normal(1200))
    measured = MODEL.seconds(chip, "bf16", dims, true).time_s * noise
    held = {name: true[name] for name in ("quantise", "widen", "weight_copies", "menu")}
    found = fitting.fit(MODEL, chip, "bf16", dims, measured, fixed=held, starts=1, max_rows=600)
    assert found.converged and found.mape_pct < 3.0
    for name, tolerance in (("launch", 0.03), ("matrix_share", 0.05), ("dram_share", 0.05), ("fill", 0.3)):
        assert found.parameters[name] == pytest.approx(true[name], rel=tolerance), name
