"""The fitted model of a driver's power reading: by hand, in its limits, and on measured rows it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import power as bench
from npusim.cost import measured_power as model

VALUES = {
    "idle_w": 200.0, "cap_w": 900.0, "active_w": 100.0, "dram_byte_j": 1e-10, "bfloat16_flop_j": 4e-13,
    "fp8_flop_j": 3e-13, "fp8_block_flop_j": 2e-13, "nvfp4_flop_j": 1e-13, "fast_lag_s": 1e-5, "slow_lag_s": 1e-4,
    "slow_gain": 0.5,
}  # fmt: skip


def row(dtype: str, m: float, n: float, k: float, latency_s: float) -> tuple[np.ndarray, ...]:
    return (np.array([dtype]), *(np.array([float(value)]) for value in (m, n, k, latency_s)))


def test_traffic_by_hand():
    """100 x 200 x 300: bf16 reads 2 (30000 + 60000) and writes 2 x 20000 bytes; fp8 also reads 2 and writes 1 byte
    per activation before the GEMM reads 1."""
    flops, moved = model.gemm_traffic(*row("bfloat16", 100, 200, 300, 1)[:4])
    assert flops == 12e6
    assert moved == 2 * 30000 + 2 * 60000 + 2 * 20000
    _, moved = model.gemm_traffic(*row("fp8", 100, 200, 300, 1)[:4])
    assert moved == 4 * 30000 + 60000 + 2 * 20000


def test_a_reading_by_hand():
    """1000^3 in bf16 in 10 us: 2e9 FLOP x 0.4 pJ + 6 MB x 100 pJ = 1.4 mJ, 140 W on top of 300; at one lag of
    latency the reading has followed 1 - 1/e of the 240 W above idle."""
    shape = row("bfloat16", 1000, 1000, 1000, 1e-5)
    assert model.steady_power_w(*shape, VALUES) == pytest.approx(440.0)
    assert model.reading_w(*shape, VALUES) == pytest.approx(200 + 240 * (1 - np.exp(-1)))


def test_the_power_manager_holds_the_cap():
    assert model.steady_power_w(*row("bfloat16", 4000, 4000, 4000, 1e-5), VALUES) == 900


def test_slow_sessions_show_a_share_of_the_step():
    shape = row("nvfp4", 1000, 1000, 1000, 1.0)  # far beyond any lag
    steady = model.steady_power_w(*shape, VALUES)
    assert model.reading_w(*shape, VALUES) == pytest.approx(200 + 0.5 * (steady - 200))
    assert list(model.slow_session(np.array(["fp8", "fp8", "nvfp4"]), np.array([3839, 3840, 1]))) == [0, 1, 1]


def test_the_document_holds_every_parameter_within_its_bounds():
    found = model.document()
    assert found.name.startswith("b200--")
    assert set(found.parameters) == {entry[0] for entry in model.PARAMETERS}
    assert len(model.PARAMETERS) <= 12
    for name, low, high, _, unit, _ in model.PARAMETERS:
        assert low * (1 - 1e-6) <= found.parameters[name].value <= high * (1 + 1e-6)
        assert found.parameters[name].unit == unit


@pytest.fixture
def data(shared: Path) -> Path:
    return shared / "data"


def test_measured_power_of_unseen_shapes(data: Path):
    """The bar: 18 % mean error on rows not fitted, where idle + J/FLOP + J/byte does not get there."""
    pytest.importorskip("scipy")
    rows = bench.gemm_rows(data)
    assert len(rows.power_w) == 1086
    fold = rows.folds()
    predicted, _ = bench.cross_validate(rows, fold)
    error = float(np.mean(abs(predicted / rows.power_w - 1)))
    naive = float(np.mean(abs(bench.baseline(rows, fold) / rows.power_w - 1)))
    assert error <= 0.14
    assert naive >= 0.20
    assert model.document().cross_validation.mape_pct == pytest.approx(100 * error, abs=0.2)


def test_no_shape_is_in_two_folds(data: Path):
    rows = bench.gemm_rows(data)
    fold = rows.folds()
    seen: dict[tuple[float, ...], int] = {}
    for m, n, k, f in zip(rows.m, rows.n, rows.k, fold, strict=True):
        assert seen.setdefault((m, n, k), f) == f


@pytest.mark.parametrize(
    ("rows", "count", "most"), [(bench.serving, 190, 0.25), (bench.batches, 40, 0.20), (bench.kernels, 21, 0.30)]
)
def test_bottom_up_power_of_rows_that_nothing_was_fitted_to(data: Path, rows, count: int, most: float):
    found = list(rows(data))
    assert len(found) >= count
    errors = [abs(item.by_family["bottom-up"] / item.measured - 1) for item in found]
    assert sum(errors) / len(errors) <= most
