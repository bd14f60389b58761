"""The plain roofline of ``validate`` against the published baseline figures on the same tables."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from npusim.accuracy.validation import Validation, validate

# Baseline table → file, and how its group names a group of ours. The visible rows are four fifths of the shapes the
# baseline was taken over, so figures agree within a few points where the definitions do.
TABLES = {
    "aiconfigurator/gemm": ("aiconfigurator/gemm.csv.gz", lambda g: f"{g.dtype}/{g.software.partition('-')[0]}"),
    "vidur/linear": ("vidur/linear_and_pointwise.csv.gz", lambda g: g.dtype if g.op == "linear" else ""),
    "vidur/pointwise": ("vidur/linear_and_pointwise.csv.gz", lambda g: g.op if g.op != "linear" else ""),
    "neusight/gemm_fp32": ("neusight/gemm_fp32.csv.gz", lambda g: g.op),
    "jetson/gemm": ("llmcompass_plus_jetson/kernels.csv", lambda g: g.dtype if g.op == "gemm" else ""),
    "infersim/gemm": ("infersim_h20_h800/kernels.csv", lambda g: g.dtype if g.op == "gemm" else ""),
    "tpu_v4/gemm": ("tpu_v4_scalesim/kernels.csv", lambda g: "gemm" if g.op == "gemm" else ""),
    "ascend_910b": ("ascend_910b/kernels.csv", lambda g: f"{g.op}/{g.dtype}"),
}
POINTS = 2.5


@pytest.fixture(scope="module")
def baselines(request: pytest.FixtureRequest) -> list[dict[str, str]]:
    folder = Path(__file__).parents[3] / "shared" / "data" / "measured"
    if not folder.exists():
        pytest.skip("shared data is not here")
    with (folder / "BASELINES.csv").open() as stream:
        return list(csv.DictReader(stream))


@cache
def validated(file: str) -> Validation:
    """A table at the roofline; two of the baselines share one."""
    return validate([file], calibration="none", fidelity="roofline")


def figures(found: Validation, name) -> dict[tuple[str, str], float]:
    """Mean error of the plain roofline per device and baseline group, over all versions of a software."""
    parts: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for group in found.groups:
        if group.roofline.rows and name(group):
            parts.setdefault((group.device, name(group)), []).append((group.roofline.mape_pct, group.roofline.rows))
    return {
        key: float(np.average([error for error, _ in rows], weights=[count for _, count in rows]))
        for key, rows in parts.items()
    }


@pytest.mark.parametrize("table", TABLES)
def test_the_plain_roofline_is_the_baseline(table: str, baselines: list[dict[str, str]], shared: Path):
    file, name = TABLES[table]
    own = figures(validated(str(shared / "data" / "measured" / file)), name)
    compared = 0
    for row in baselines:
        key = (row["device"], row["group"])
        if row["table"] == table and key in own:
            assert own[key] == pytest.approx(float(row["R0_MAPE"]), abs=POINTS), key
            compared += 1
    assert compared >= 1
