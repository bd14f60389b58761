"""Does calibrate turn rows into documents that price other rows, name what it cannot fit, and write nothing bad?"""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import npusim as ns
from npusim import calibration
from npusim.accuracy import calibrating, fitting, transfer
from npusim.accuracy.rows import load_rows
from npusim.chip import find_chip
from npusim.cli import cli
from npusim.cost.calibrated import gemm
from npusim.errors import InputError

HEADER = "device,software,op,dtype,m,n,k,batch,heads,kv_heads,head_dim,seq_q,seq_kv,latency_us,extra\n"
TRUE = {spec.name: spec.start for spec in gemm.PARAMETERS} | {"launch": 5e-6, "quantise": 1e-3, "weight_copies": 1.0}


def rows_file(path, devices=("H100-SXM",), count=120, op="gemm", software="teststack-1.0", noise=0.04):
    rng = np.random.default_rng(len(devices) + count)
    lines = [HEADER]
    for device in devices:
        m, n, k = (np.round(2 ** rng.uniform(4, 12, count)) for _ in range(3))
        chip = find_chip({"H100-SXM": "h100", "A100-SXM4-80GB": "a100"}.get(device, "h100"))
        seconds = gemm.GPU_GEMM.seconds(chip, "bf16", {"m": m, "n": n, "k": k}, TRUE).time_s
        seconds = seconds * np.exp(noise * rng.standard_normal(count))
        for row in zip(m, n, k, seconds * 1e6, strict=True):
            lines.append("{},{},{},bfloat16,{:.0f},{:.0f},{:.0f},,,,,,,{:.4f},\n".format(device, software, op, *row))
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fitting, "SCREEN_EVALUATIONS", 2)
    monkeypatch.setattr(fitting, "MAX_EVALUATIONS", 25)
    monkeypatch.setattr(fitting, "FOLD_EVALUATIONS", 4)


def test_documents_are_written_and_price_other_rows(tmp_path):
    result = CliRunner().invoke(
        cli, ["calibrate", rows_file(tmp_path / "a.csv"), "--out", str(tmp_path / "docs"), "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["calibrations"]
    assert len(found) == 1 and found[0]["rows"] == 120 and found[0]["mape_pct"] < 9
    document = calibration.load_calibration(found[0]["path"])
    assert document.source.dataset.endswith("/a.csv") and document.name == "h100--teststack-1.0--gemm--bf16"
    other = rows_file(tmp_path / "b.csv", count=80)
    scored = ns.validate(other, calibration=found[0]["path"]).to_dict()["groups"]
    assert scored[0]["state"] == "calibrated" and scored[0]["mape_pct"] < 10


def test_what_cannot_be_fitted_is_named(tmp_path):
    few = rows_file(tmp_path / "few.csv", count=8)
    (outcome,) = calibrating.group_rows(load_rows(rows_file(tmp_path / "x.csv", op="sort", count=3)))
    assert "no model of 'sort'" in outcome.reason
    result = CliRunner().invoke(cli, ["calibrate", few, "--out", str(tmp_path / "docs")])
    assert isinstance(result.exception, InputError)
    assert "no calibration could be fitted" in str(result.exception) and "too few" in str(result.exception)
    assert not (tmp_path / "docs").exists()


def test_a_fit_that_does_not_converge_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "MAX_EVALUATIONS", 1)
    path = rows_file(tmp_path / "a.csv")
    result = CliRunner().invoke(cli, ["calibrate", path, "--out", str(tmp_path / "docs")])
    assert isinstance(result.exception, InputError) and "did not converge" in str(result.exception)
    assert not (tmp_path / "docs").exists()


def test_bad_rows_name_file_and_line(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + "H100-SXM,s,gemm,bf16,1,2,3,,,,,,,-4,\n")
    with pytest.raises(InputError, match=r"bad\.csv:2"):
        ns.calibrate(str(path))


def test_class_documents_come_from_left_out_chips(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_ROWS", 60)
    table = load_rows([rows_file(tmp_path / "a.csv", ("H100-SXM", "A100-SXM4-80GB"))])
    groups = calibrating.found_groups(table)
    fitted = [calibrating.document(group, calibrating.fit_group(group)) for group in groups]
    found = {each.chip: each for each in transfer.class_documents(groups, fitted) if not isinstance(each, str)}
    wide, lone = found["gpu"], found["gpu-tensorcore-64x8x16-hbm"]
    assert wide.cross_validation.by == "device" and set(wide.chips) == {"h100", "a100"}
    assert wide.cross_validation.mape_pct < 20 and "worst chip left out" in wide.notes[0]
    assert lone.chips == ("h100",) and lone.residuals["all"].q90 > fitted[0].residuals["all"].q90
    match = calibration.resolve(find_chip("h200"), "teststack-2.0", "gemm", "bfloat16", extra=[wide, lone])
    assert match is not None and match.state == "transferred" and match.calibration is lone
