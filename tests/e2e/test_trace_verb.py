"""npusim trace from the command line: files appear, errors are one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from npusim import trace_verb
from npusim.cli import main

GEMM = ("trace", "npu-2pf", "gemm:m=256,n=256,k=256")


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_an_operator_gives_a_trace_and_its_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, plot = tmp_path / "t.json.gz", tmp_path / "t.svg"
    code, said, complained = call(capsys, *GEMM, "--out", str(out), "--plot", str(plot), "--cores", "2")
    assert (code, complained) == (0, "")
    assert f"wrote {plot}" in said
    with gzip.open(out, "rt", encoding="utf-8") as stream:
        events = json.load(stream)["traceEvents"]
    assert f"{len(events)} events, 1 operators, 2 cores" in said
    assert "core 1 matrix" in "".join(ElementTree.parse(plot).getroot().itertext())


def test_a_step_of_a_model_gives_a_trace_and_what_bounds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, plot = tmp_path / "t.json", tmp_path / "t.svg"
    code, said, complained = call(
        capsys, "trace", "npu-2pf", "exaone-3.5-2.4b:decode,b=1,ctx=256", "--set", "cores=8",
        "--out", str(out), "--plot", str(plot), "--json",
    )  # fmt: skip
    assert (code, complained) == (0, "")
    told = json.loads(said)
    events = json.loads(out.read_text(encoding="utf-8"))["traceEvents"]
    operators = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    assert told["events"] == len(events)
    assert [op["op"] for op in told["ops"]] == [event["name"] for event in operators]
    assert any(event["args"]["count"] > 1 for event in operators)
    assert "whole step" in "".join(ElementTree.parse(plot).getroot().itertext())


def test_left_out_cores_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trace_verb.trace_events, "MAX_EVENTS", 2500)
    code, said, complained = call(capsys, "trace", "npu-2pf", "gemm:m=2048,n=2048,k=2048", "--out",
                                  str(tmp_path / "t.json"))  # fmt: skip
    assert code == 0
    assert "8 cores" in said
    assert "all 64 cores would pass 2500 events" in complained


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((*GEMM, "--out", "nowhere/t.json"), "cannot write the trace to 'nowhere/t.json'"),
        ((*GEMM, "--out", "."), "cannot write the trace to '.'"),
        ((*GEMM, "--out", "t\0.json"), "cannot write the trace"),
        ((*GEMM, "--out", "t.json", "--plot", "nowhere/t.svg"), "cannot write the plot to 'nowhere/t.svg'"),
        ((*GEMM, "--out", "t.json", "--op", "gem"), "did you mean 'gemm'"),
        ((*GEMM, "--out", "t.json", "--cores", "0"), "0 cores cannot be shown"),
        ((*GEMM, "--out", "t.json", "--cores", "x"), "'--cores'"),
        (GEMM, "--out"),
        (("trace", "rebel-quad", GEMM[2], "--out", "t.json"), "not described for fidelity 'cycle'"),
        (("trace", "gemmini", "gemm:m=64,n=64,k=64,a=bf16,b=bf16,out=bf16", "--out", "t.json"), "bf16"),
    ],
)  # fmt: skip
def test_errors_are_one_message(
    argv: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, said, complained = call(capsys, *argv)
    assert (code, said) == (2, "")
    assert says in complained
    assert "Traceback" not in complained
    assert not list(tmp_path.glob("*.tmp"))
