"""Calibrated models of the catalog against the rows they were fitted on; their documents say what they reach unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npusim.accuracy.end_to_end import columns, gap, priced, timed, work_of
from npusim.accuracy.validation import validate
from npusim.calibration import catalog, find, load_calibration
from npusim.chip import load_chip
from npusim.cost.calibrated.family import FAMILIES, family
from npusim.llm import decode


def test_every_document_belongs_to_a_family():
    """All parameters, no others, inside the bounds; intervals of a calibrated chip are not absurd."""
    for path in catalog().values():
        document = load_calibration(path)
        if document.family == "gemmini-replay/1":
            continue  # its operators have mappings, not rows; test_gemmini_rtl scores it
        assert document.family in FAMILIES
        specs = {spec.name: spec for spec in family(document.family).parameters}
        assert set(document.parameters) == set(specs), document.name
        for name, parameter in document.parameters.items():
            assert specs[name].low <= parameter.value <= specs[name].high, (document.name, name)


@pytest.mark.parametrize(
    ("table", "op", "dtype", "bar_pct"),
    [
        ("ascend_910b/kernels.csv", "gemm", "bf16", 11),
        ("ascend_910b/kernels.csv", "gemm", "w8a8_dynamic", 15),
        ("tpu_v4_scalesim/kernels.csv", "gemm", "float32(default-precision=bf16-mxu)", 6.3),
        ("tenstorrent/gemm_n150.csv", "gemm", "bfloat16", 12),
        ("tenstorrent/gemm_n150.csv", "gemm", "bfloat8_b", 12),
        ("tenstorrent/gemm_n150.csv", "gemm", "bfloat4_b", 12),
        ("ascend_910b/collectives.csv", "all_reduce", "float16", 12),
    ],
)
def test_rows_of_a_table(shared: Path, table: str, op: str, dtype: str, bar_pct: float):
    path = shared / "data" / "measured" / table
    if not path.exists():
        pytest.skip("rows are not here")
    found = [g for g in validate(path, fidelity="roofline").to_dict()["groups"] if (g["op"], g["dtype"]) == (op, dtype)]
    assert found
    for group in found:
        assert group["state"] == "calibrated"
        assert group["mape_pct"] <= bar_pct
        assert group["mape_pct"] < group["roofline_mape_pct"]
        assert 72 <= group["interval_coverage_pct"] <= 88


@pytest.fixture
def runs(shared: Path) -> Path:
    path = shared / "data" / "measured" / "llm_inference_bench" / "e2e.csv"
    if not path.exists():
        pytest.skip("rows are not here")
    return path


def test_static_batches_of_7b_and_8b(runs: Path):
    rows, dims = priced(timed(runs, "Llama-2-7b-hf|Llama-3-8B$"))
    checked = 0
    chips = {"Nvidia A100 GPU": "a100", "Nvidia H100 GPU": "h100", "Habana Gaudi2": "gaudi2", "AMD MI250 GPU": "mi250"}
    for device, chip in chips.items():
        for software in sorted(set(rows.column("software")[rows.column("device") == device])):
            at = np.flatnonzero((rows.column("device") == device) & (rows.column("software") == software))
            document = find(chip, software, "request", "fp16")
            if len(at) < 30 or document is None:
                continue
            inside = {name: values[at] for name, values in dims.items()}
            times = family(document.family).seconds(load_chip(chip), "fp16", inside, document.values()).time_s
            assert np.mean(np.abs(times / rows.column("latency_s")[at] - 1)) <= 0.15, (chip, software)
            shares = gap(inside, document.values())
            assert shares.peak + shares.slower + shares.link + shares.outside == pytest.approx(1)
            assert shares.peak < 0.7  # summed operators explain no more than that
            checked += 1
    assert checked >= 8


def test_what_is_not_stated_is_not_priced(runs: Path):
    rows = timed(runs, "Llama-2-7b")
    silent = rows.select(np.arange(3))
    silent.columns["extra"][:] = "KV_Cache=Without KV Cache"
    _, reason = columns(silent, np.full(3, "request", dtype=object))
    assert all("static batch" in text for text in reason)


def test_work_of_a_step_is_that_of_its_operators():
    """Decode of a 7B model: weights once, two FLOPs per weight and sequence."""
    chip = load_chip("h100")
    one, many = (work_of(decode("llama-2-7b", batch=batch, context=128), chip) for batch in (1, 16))
    assert many["matrix"] == pytest.approx(16 * one["matrix"])
    assert one["dram"] == pytest.approx(6.6e9 * 2 / 3.35e12, rel=0.05)
    assert many["attention"] == pytest.approx(16 * one["attention"])
    assert one["link"] == 0
