"""The harness for other hardware: with a device made up here, and with PyTorch on the CPU where it is installed."""

import importlib.util
import json

import pytest

from bench.device import __main__ as command
from bench.device.cases import COLUMNS, ROW_OPS, Case, grid
from bench.device.timing import SAMPLES, WARM_UP, copies_for, measure, row
from npusim.accuracy.rows import load_rows

GEMM = Case("gemm", "bf16", (("m", 64), ("n", 128), ("k", 256)))


class Device:
    """A device whose clock moves by a known time a run; the first run, which compiles, takes a second."""

    cache_bytes, free_bytes = 1 << 20, 1 << 30

    def __init__(self, seconds=1e-3):
        self.seconds, self.now, self.used, self.made = seconds, 0.0, [], 0

    def operands(self, case):
        self.made += 1
        return self.made

    def runner(self, case):
        if case.op == "softmax":
            raise RuntimeError("no kernel for softmax\nmore lines")

        def run(operands):
            self.now += self.seconds if self.used else 1.0
            self.used.append(operands)

        return run

    def elapsed_s(self, queue):
        begin = self.now
        queue()
        return self.now - begin


def test_cases_have_their_sizes():
    assert GEMM.operands == ((64, 256), (128, 256))
    assert GEMM.bytes == 2 * (64 * 256 + 128 * 256)
    assert GEMM.flops == 2 * 64 * 128 * 256
    shape = dict(batch=2, heads=8, kv_heads=2, head_dim=16, seq_q=4, seq_kv=6)
    attention = Case("attention_prefill", "fp32", tuple(shape.items()))
    assert attention.operands == ((2, 8, 4, 16), (2, 2, 6, 16), (2, 2, 6, 16))
    assert attention.flops == 4 * 2 * 8 * 16 * (3 + 4 + 5 + 6)


def test_the_grid_keeps_its_limits():
    cases = list(grid(("bf16", "fp8"), most_flops=1e11, most_bytes=1e8))
    assert len({(case.op, case.dtype, case.dims) for case in cases}) == len(cases) > 100
    assert all(case.flops <= 1e11 and case.bytes <= 1e8 for case in cases)
    assert {case.op for case in cases if case.dtype == "fp8"} == {"gemm"}
    assert {case.op for case in cases} == {"gemm", "attention_prefill", "attention_decode", *ROW_OPS}
    assert {case.op for case in grid(quick=True)} == {case.op for case in grid()}


def test_copies_exceed_the_cache_and_fit_the_memory():
    copies = copies_for(GEMM, 1 << 20, 1 << 30)
    assert (copies - 1) * GEMM.bytes >= 2 << 20  # all others have passed before a set comes again
    assert copies_for(GEMM, 1 << 40, 8 * GEMM.bytes) == 4
    assert copies_for(GEMM, 1 << 20, 0) == 1


def test_the_first_runs_do_not_count_and_operands_rotate():
    device = Device(1 / 1024)
    found = measure(GEMM, device)
    assert found.median_s == found.best_s == 1 / 1024
    assert found.runs == 6
    assert found.copies == device.made > 1
    assert device.used == [1 + i % device.made for i in range(2 * WARM_UP + SAMPLES * found.runs)]


def test_rows_are_those_that_validate_reads(tmp_path):
    given = command.arguments(["--out", str(tmp_path / "rows.csv"), "--quick"])
    assert command.run(given, Device(2e-4), "H100", "made-up-1.0", {"device": "H100"}) == 8
    rows = load_rows(str(given.out))
    assert len(rows) == 8
    assert set(rows.column("latency_us")) == {200.0}
    assert set(rows.extra("causal")) == {"", "1"}
    facts = json.loads((tmp_path / "rows.json").read_text())
    assert facts["rows"] == 8
    assert facts["skipped"] == {"softmax bf16: no kernel for softmax": 1}
    assert facts["device"] == "H100"


def test_time_runs_out(tmp_path):
    given = command.arguments(["--out", str(tmp_path / "rows.csv"), "--quick", "--seconds", "-1"])
    assert command.run(given, Device(), "x", "y", {}) == 0
    assert json.loads((tmp_path / "rows.json").read_text())["skipped"] == {"out of time": 9}


def test_row_has_a_cell_for_every_column():
    line = row(GEMM, measure(GEMM, Device()), "d", "s", COLUMNS)
    assert line.count(",") == command.HEADER.count(",")
    assert line.startswith("d,s,gemm,bf16,64,128,256,,,,,,,1000,")


def test_bad_options_and_missing_parts_are_said(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command.arguments(["--out", "x.csv", "--dtypes", "bf16,fp3"])
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.delitem(__import__("sys").modules, "bench.device.torch_backend", raising=False)
    assert command.main(["--out", str(tmp_path / "rows.csv")]) == 1
    assert "pip install torch" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_torch_on_the_cpu_measures_every_operator(tmp_path):
    out = tmp_path / "rows.csv"
    assert command.main(["--out", str(out), "--device", "cpu", "--quick", "--dtypes", "fp32,bf16"]) == 0
    rows = load_rows(str(out))
    assert len(rows) == 18
    assert set(rows.column("op")) == {case.op for case in grid()}
    assert "torch" in json.loads(out.with_suffix(".json").read_text())
