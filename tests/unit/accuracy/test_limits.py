"""Do limits cut what no hardware can do, and leave alone what was fitted on the chip?"""

import numpy as np
import pytest

from npusim.accuracy import limits
from npusim.accuracy.devices import formats_of
from npusim.accuracy.predicted import Predicted
from npusim.accuracy.pricing import Shapes
from npusim.accuracy.rows import load_rows

HEADER = "device,software,op,dtype,m,n,k,latency_us\n"


def table(tmp_path, *shapes):
    file = tmp_path / "rows.csv"
    file.write_text(HEADER + "".join(f"toy,lab,gemm,bf16,{m},{n},{k},5\n" for m, n, k in shapes))
    rows = load_rows(str(file))
    keys = {name: rows.column(name) for name in ("device", "op", "dtype", "software")}
    return Predicted(rows, keys, rows.column("latency_us") * 1e-6)


def test_the_floor_is_the_peak_or_what_memory_has_to_deliver(tmp_path, toy):
    # toy: 4 TFLOP/s, 100 GB/s, 4 MiB on the chip; the second GEMM moves 16.0 MB, the third 0.2 MB
    rows = table(tmp_path, (1000, 1000, 1000), (1, 2000, 4000), (1, 100, 1000)).rows
    least = limits.floor_s(Shapes(rows, "gemm", formats_of("bf16")), toy)
    assert least[0] == pytest.approx(2e9 / 4e12)
    assert least[1] == pytest.approx((4000 + 8e6 + 2000) * 2 / 100e9)
    assert least[2] == pytest.approx((1000 + 1e5 + 100) * 2 / 100e9 / limits.CACHE_SPEEDUP)


@pytest.mark.parametrize(("state", "cut"), [("transferred", True), ("uncalibrated", True), ("calibrated", False)])
def test_only_predictions_from_elsewhere_are_cut(tmp_path, state, cut):
    found = table(tmp_path, (8, 8, 8), (8, 8, 8), (8, 8, 8), (8, 8, 8))
    found.predicted_s[:] = [1e-6, 5e-3, 2e-4, np.nan]
    found.low_s[:], found.high_s[:] = 0.5 * found.predicted_s, 2 * found.predicted_s
    found.roofline_s[:] = 1e-4
    found.state[:] = state
    limits.hold(found, np.arange(4), np.full(4, 1e-4), np.full(4, 30.0))
    expected = [1e-4, 3e-3, 2e-4] if cut else [1e-6, 5e-3, 2e-4]
    assert found.predicted_s[:3] == pytest.approx(expected)
    assert np.isnan(found.predicted_s[3])
    assert found.low_s[:3] == pytest.approx(0.5 * np.array(expected))
    assert found.high_s[:3] == pytest.approx(2 * np.array(expected))
    assert ["cut" in note for note in found.note] == [cut, cut, False, False]


def test_only_constants_of_irregular_kernels_may_predict_very_slow_ones():
    learned = np.array([True, False])
    assert limits.slowest("attention_decode", learned).tolist() == [limits.SLOWEST_IRREGULAR, limits.SLOWEST]
    assert limits.slowest("gemm", learned).tolist() == [limits.SLOWEST, limits.SLOWEST]
