"""Does a fit find parameters that made the data, leave shapes out whole, and refuse what it cannot fit?"""

import numpy as np
import pytest

from npusim.accuracy import fitting
from npusim.cost.calibrated.family import ParameterSpec, Times
from npusim.errors import InputError


class Line:
    """time = overhead + m / rate."""

    name = "line/1"
    parameters = (
        ParameterSpec("rate", 1e8, 1e11, 1e9, "1/s", "rows per second"),
        ParameterSpec("overhead", 1e-7, 1e-4, 1e-6, "s", "fixed time"),
    )

    def seconds(self, chip, dtype, dims, parameters):
        work = dims["m"] / parameters["rate"]
        bound = np.where(work > parameters["overhead"], "matrix", "launch")
        return Times(parameters["overhead"] + work, bound)


def rows(count=600, noise=0.05, seed=1):
    rng = np.random.default_rng(seed)
    m = np.round(np.exp(rng.uniform(0, 14, count)))
    time_s = (3e-6 + m / 5e9) * np.exp(noise * rng.standard_normal(count))
    return {"m": m, "n": np.full(count, np.nan)}, time_s


def test_known_parameters_are_recovered(toy):
    dims, time_s = rows()
    found = fitting.fit(Line(), toy, "bf16", dims, time_s)
    assert found.converged
    assert found.parameters == pytest.approx({"rate": 5e9, "overhead": 3e-6}, rel=0.02)
    assert found.cross_validation().mape_pct == pytest.approx(4.0, abs=0.6)  # 0.05 · sqrt(2/π)
    for name, true in (("rate", 5e9), ("overhead", 3e-6)):
        low, high = found.intervals[name]
        assert low <= found.parameters[name] <= high and high / low < 1.1 and low * 0.98 < true < high * 1.02
    residuals = found.residuals()
    assert set(residuals) == {"all", "matrix", "launch"}
    inside = np.mean((found.log_ratio > residuals["all"].q10) & (found.log_ratio < residuals["all"].q90))
    assert inside == pytest.approx(0.8, abs=0.01)


def test_outliers_do_not_move_the_fit(toy):
    dims, time_s = rows()
    time_s[::25] *= 10
    found = fitting.fit(Line(), toy, "bf16", dims, time_s)
    assert found.parameters == pytest.approx({"rate": 5e9, "overhead": 3e-6}, rel=0.06)


def test_rows_of_one_shape_share_a_fold():
    m = np.repeat(np.arange(100.0), 3)
    fold = fitting.shape_folds({"m": m, "n": np.full(300, np.nan)}, 300, 5, 0)
    assert set(fold) == set(range(5))
    assert all(len(set(fold[m == value])) == 1 for value in m)


def test_a_fit_that_does_not_converge_says_so(toy, monkeypatch):
    dims, time_s = rows()
    import scipy.optimize

    solve = scipy.optimize.least_squares
    monkeypatch.setattr(scipy.optimize, "least_squares", lambda *a, **k: solve(*a, **(k | {"max_nfev": 1})))
    found = fitting.fit(Line(), toy, "bf16", dims, time_s)
    assert not found.converged
    with pytest.raises(fitting.NotConverged, match="no calibration is written"):
        found.require_converged()


def test_what_cannot_be_fitted_is_refused(toy):
    dims, time_s = rows(9)
    with pytest.raises(InputError, match="9 rows are too few to fit 2 parameters of line/1"):
        fitting.fit(Line(), toy, "bf16", dims, time_s)
    dims, time_s = rows(50)
    with pytest.raises(InputError, match="must be positive"):
        fitting.fit(Line(), toy, "bf16", dims, -time_s)
