"""The scores of the serving engine: which results count, and that the fit takes the constants that explain them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.serving_accuracy import Row, errors, fitted, mape, mlperf_rows
from npusim.errors import InputError, Problem
from npusim.serving.steps import UNFITTED, Constants

HEAD = "round,division,submitter,system,model,scenario,valid,tokens_per_s"
ROWS = (
    "v4.1,closed,A,XE9680_H100_SXM_80GBx8_TRT,llama2-70b-99,Offline,True,24000",
    "v4.1,closed,B,DGX-H100_H100-SXM-80GBx8_TRT,llama2-70b-99,Offline,True,25000",
    "v4.1,closed,C,DGX-H100_H100-SXM-80GBx8_TRT,llama2-70b-99,Server,True,21000",
    "v4.1,closed,C,8xMI300X_2xEPYC-TURIN,llama2-70b-99,Server,True,22000",
    "v4.1,closed,C,DGX-H100_H100-SXM-80GBx8_TRT,llama2-70b-99,Server,False,1",  # not valid
    "v4.1,open,C,DGX-H100_H100-SXM-80GBx8_TRT,llama2-70b-99,Server,True,2",  # not closed
    "v4.1,closed,D,SR675_V3_8xH100_NVL_TRT,llama2-70b-99,Server,True,3",  # another board
    "v4.1,closed,D,DGX-H100_H100-SXM-80GBx32_TRT,llama2-70b-99,Server,True,4",  # copies
)


def test_only_stated_systems_count(tmp_path: Path):
    table = tmp_path / "rows.csv"
    table.write_text("\n".join([HEAD, *ROWS]))
    found = {(row.chip, row.group.split()[-1]): row.measured for row in mlperf_rows(table)}
    assert found == {("h100", "offline"): 24500, ("h100", "server"): 21000, ("mi300x", "server"): 22000}


def test_the_fit_finds_the_constants_behind_the_rows():
    true = Constants(0.7, 0.85)
    rows = [Row("g", "h100", str(w), w * true.compute + (10 - w) * true.memory,
                lambda c, w=w: w * c.compute + (10 - w) * c.memory) for w in range(10)]  # type: ignore[misc]  # fmt: skip
    assert fitted(rows) == true
    assert mape(errors(rows, true)) == pytest.approx(0) and mape(errors(rows, UNFITTED)) > 15


def test_rows_that_cannot_run_are_left_out_of_the_mean():
    def fails(_: Constants) -> float:
        raise InputError(Problem("no", "row"))

    found = errors([Row("g", "h100", "a", 10, lambda _: 11.0), Row("g", "h100", "b", 10, fails)], UNFITTED)
    assert math.isnan(found[1]) and mape(found) == pytest.approx(10)
