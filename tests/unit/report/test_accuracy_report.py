"""Text and plot of predicted against measured."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from npusim.accuracy.validation import validate
from npusim.cli import cli
from npusim.errors import InputError
from npusim.report import accuracy_plot, accuracy_text

HEAD = "device,software,op,dtype,m,n,k,latency_us,extra\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rows.csv"
    sizes = (64, 512, 4096)
    rows = [f"H100-SXM,trtllm,gemm,bf16,{m},{n},4096,{10 + m * n / 4e5:.2f},\n" for m in sizes for n in sizes]
    path.write_text(HEAD + "".join(rows) + "iPhone-7,trtllm,gemm,bf16,8,8,8,5,\n")
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["validate", *arguments])


def test_text_counts_everything(file: str):
    text = accuracy_text.text(validate([file], calibration="none", fidelity="roofline"))
    assert "9 of 10 rows priced" in text
    assert "no chip of the catalog is called 'iPhone-7'" in text
    assert "uncalibrated" in text
    assert "no interval is claimed" in text


def test_the_verb(file: str, tmp_path: Path):
    out = tmp_path / "plot.svg"
    result = run(file, "--fidelity", "roofline", "--calibration", "none", "--top", "1", "--plot", str(out))
    assert result.exit_code == 0, result.output
    assert f"{file}:" in result.output
    assert "roofline" in result.output
    ET.fromstring(out.read_text())


def test_the_verb_as_json(file: str):
    import json

    result = run(file, "--json", "--fidelity", "roofline", "--calibration", "none", "--top", "2")
    found = json.loads(result.output)
    group = found["groups"][0]
    keys = ("device", "op", "dtype", "software", "state", "rows", "priced", "mape_pct", "mdape_pct", "bias_pct",
            "spearman", "roofline_mape_pct", "interval_coverage_pct")  # fmt: skip
    assert set(keys) <= set(group)
    assert (group["device"], group["rows"], group["priced"], group["state"]) == ("H100-SXM", 9, 9, "uncalibrated")
    assert found["unpriced"] == {"no chip of the catalog is called 'iPhone-7'": 1}
    assert found["worst"][0]["explain"]


def test_a_page_holds_both_plots(file: str, tmp_path: Path):
    out = tmp_path / "plot.html"
    accuracy_plot.write(validate([file], calibration="none", fidelity="roofline"), out)
    text = out.read_text()
    assert text.count("<svg") == 2
    assert "plain roofline" in text


@pytest.mark.parametrize("name", ["plot.png", "plot", "nowhere/plot.svg"])
def test_plots_that_cannot_be_written(file: str, tmp_path: Path, name: str):
    with pytest.raises(InputError, match=r"--plot: cannot write"):
        accuracy_plot.write(validate([file], calibration="none", fidelity="roofline"), tmp_path / name)


def test_nothing_to_plot(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text(HEAD + "iPhone-7,trtllm,gemm,bf16,8,8,8,5,\n")
    with pytest.raises(InputError, match="nothing to plot"):
        accuracy_plot.write(validate([str(path)]), tmp_path / "plot.svg")
