"""Files of other tools through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def estimate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "npusim", "estimate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    file = tmp_path / "net.csv"
    file.write_text("Layer, M, N, K,\nfc, 128, 96, 64,\n")
    return file


def test_scalesim_topology_on_a_scalesim_chip(topology: Path, tmp_path: Path):
    config = tmp_path / "array.cfg"
    config.write_text(
        "[general]\nrun_name = a\n[architecture_presets]\nArrayHeight: 32\nArrayWidth: 32\nIfmapSramSzkB: 64\n"
        "FilterSramSzkB: 64\nOfmapSramSzkB: 64\nIfmapOffset: 0\nFilterOffset: 1\nOfmapOffset: 2\nDataflow : os\n"
        "Bandwidth : 10\n[run_presets]\nInterfaceBandwidth: USER\n"
    )
    done = estimate(str(config), str(topology), "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    # 2 · 128 · 96 · 64 FLOP; 10 bytes per cycle at 1 GHz for (128·64 + 64·96 + 128·96) int8 words.
    assert data["flops"] == 2 * 128 * 96 * 64
    assert data["time_s"] == pytest.approx((128 * 64 + 64 * 96 + 128 * 96) / 10e9)


def test_onnx_graph_with_a_symbolic_dimension(tmp_path: Path):
    onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", kind, [64, 32], [0.0] * 64 * 32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", kind, ["batch", 64])]
    outputs = [helper.make_tensor_value_info("y", kind, ["batch", 32])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weight])
    file = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), str(file))
    done = estimate("h100", f"{file}:batch=7,w=fp8,a=fp8", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flops"] == 2 * 7 * 64 * 32
    unbound = estimate("h100", str(file))
    assert unbound.returncode == 2 and "batch" in unbound.stderr
    wrong = estimate("h100", f"{file}:batch=many")
    assert wrong.returncode == 2 and "is not a size" in wrong.stderr


def test_bad_keys_and_files(topology: Path, tmp_path: Path):
    for arguments, says in [
        (("h100", f"{topology}:round=up"), "unknown key of a topology"),
        (("h100", str(tmp_path / "none.csv")), "cannot read"),
        (("h100", str(tmp_path / "none.onnx")), "none.onnx"),
        ((str(tmp_path / "none.cfg"), "gemm:m=1,n=1,k=1"), "cannot read"),
    ]:
        done = estimate(*arguments)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
