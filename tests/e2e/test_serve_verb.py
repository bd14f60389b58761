"""``npusim serve`` as users call it: exit codes, JSON, one line per mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from npusim.cli import cli, main

QUICK = ["--fidelity", "roofline", "--requests", "100"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["serve", *arguments])
    return result.exit_code, result.output


def test_prints_what_users_feel():
    code, text = run("h100", "llama-3.1-8b", "--arrivals", "poisson:5", "--slo", "ttft=450ms,tpot=40ms", *QUICK)
    assert code == 0
    for words in ("TTFT", "TPOT", "ITL", "goodput", "KV cache", "J per request", "waiting"):
        assert words in text


def test_the_answer_is_in_the_first_lines():
    text = run("h100", "llama-3.1-8b", "--arrivals", "poisson:5", "--slo", "ttft=450ms,tpot=40ms", "--chips", "1",
               "--find-rate", *QUICK)[1].splitlines()  # fmt: skip
    assert text[1].startswith("served: ") and "within the SLO (asked: 99%): TTFT p99" in text[1]
    assert text[2].startswith("highest rate: ") and "holds the SLO" in text[2]
    assert text[3].startswith("chosen: ") and text[4].startswith("limited by: dram ")
    flood = ("h100", "llama-3.1-8b", "--arrivals", "poisson:300", "--chips", "1", "--fidelity", "roofline")
    code, said = run(*flood, "--requests", "1000")
    assert code == 1 and said.splitlines()[1].startswith("VERDICT: overload") and "Sustainable" in said.splitlines()[1]
    assert "requests wait for places among the sequences of a step (--max-sequences)" in said


def test_scenarios_and_fleets_are_drawn_and_traced_too(tmp_path: Path):
    for name, asked in (("s", ("--scenario", "server", "--chips", "1")), ("f", ("--fleet-pflops", "4"))):
        page, trace = tmp_path / f"{name}.svg", tmp_path / f"{name}.json"
        code, text = run("h100", "llama-3.1-8b", *asked, *QUICK, "--plot", str(page), "--perfetto", str(trace))
        assert code == 0, text
        assert page.read_text().count("<svg") == 7 and "limited by" in text
        names = {e["name"] for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"}
        assert "request 0" in names and "decode step" in names


def test_chips_are_shared_by_those_that_prefill_and_those_that_decode():
    shared = ("h100", "llama-3.1-8b", "--disaggregate", "1:3", "--json", *QUICK)
    data = json.loads(run(*shared, "--chips", "8")[1])
    assert data["placement"]["tp"] == 2 and data["placement"]["prefill_replicas"] == 1
    assert run(*shared, "--chips", "8", "--tp", "4")[0] != 0


def test_steps_are_priced_as_finely_as_the_chip_file_allows():
    load = ("llama-3.1-8b", "--arrivals", "closed:4", "--requests", "50", "--chips", "1")
    assert "steps priced at tile" in run("h100", *load)[1]
    code, text = run("rebel-quad", *load)
    assert code == 0 and "steps priced at roofline" in text
    assert "rebel-quad: its file lacks core.vector for the tile model." in text
    with pytest.raises(SystemExit):
        main(["serve", "rebel-quad", *load, "--fidelity", "tile"])


def test_json_has_units_in_its_keys():
    code, text = run("h100", "llama-3.1-8b", "--arrivals", "closed:8", "--json", *QUICK)
    data = json.loads(text)
    assert code == 0 and data["requests"] == 100
    assert set(data["ttft_s"]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert len(data["over_time"]["time_s"]) == len(data["over_time"]["kv_occupancy"]) > 1
    assert run("h100", "llama-3.1-8b", "--arrivals", "closed:8", "--json", *QUICK)[1] == text


def test_a_finding_has_exit_code_1():
    code, text = run("h100", "llama-3.1-8b", "--chips", "1", "--slo", "ttft=1us", *QUICK)
    assert code == 1 and "VERDICT: the SLO cannot be met" in text


BAD = [
    (["h100", "llama-3.1-8b", "--arrivals", "often"], 2, "--arrivals: 'often' is no arrival process"),
    (["h100", "llama-3.1-8b", "--trace", "missing.csv"], 2, "missing.csv: cannot be read"),
    (["h100", "llama-3.1-8b", "--input", "200000"], 2, "beyond the 131072 positions"),
    (["h100", "llama-3.1-8b", "--speculate", "3"], 2, "--speculate"),
    (["h100", "llama-3.1-8b", "--speculate", "2:5"], 2, "accepted_tokens"),
    (["h100", "llama-3.1-8b", "--disaggregate", "0:1"], 2, "disaggregate"),
    (["h100", "llama-3.1-8b", "--chips", "-3"], 2, "--chips"),
    (["h100", "bert-large"], 2, "encoder"),
    (["rtx-4090", "llama-3.3-70b", "--chips", "1"], 3, "does not fit"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD)
def test_mistakes_are_one_clear_line(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["serve", *arguments, "--fidelity", "roofline"])
    error = capsys.readouterr().err
    assert stop.value.code == code
    assert message in error and "Traceback" not in error and len(error.strip().splitlines()) == 1


def test_measured_requests_are_fitted_and_scored(tmp_path: Path):
    """Requests that the simulator itself has made, under other constants, are found again."""
    import numpy as np

    from npusim.chip import load_chip
    from npusim.models import load_model
    from npusim.serving.engine import Rules
    from npusim.serving.load import Trace, chunk_of
    from npusim.serving.measured import Observed, _Replay
    from npusim.serving.steps import Constants

    random, n = np.random.default_rng(0), 80
    times = np.cumsum(random.exponential(0.1, n))
    trace = Trace(chunk_of(times, random.integers(100, 1500, n), random.integers(20, 300, n)))
    seen = Observed(trace, np.zeros(n), np.zeros(n), np.zeros(n))
    truth = Constants(0.6, 0.7, 0.8, 2e-3)
    replay = _Replay(seen, load_chip("rtx-4090"), load_model("llama-3.1-8b"), "bf16", Rules(max_sequences=64),
                     "roofline", 1)  # fmt: skip
    ttft, tpot, e2e = replay.times(truth, 2000)
    lines = ["device,model,arrival_s,input_tokens,output_tokens,ttft_ms,tpot_ms,e2e_ms"]
    for row in zip(times, trace.requests.input_tokens, trace.requests.output_tokens, 1e3 * ttft, 1e3 * tpot, 1e3 * e2e,
                   strict=True):  # fmt: skip
        lines.append("RTX 4090,meta-llama/Llama-3.1-8B-Instruct-X," + ",".join(str(v) for v in row))
    lines.append("H100,Llama-3.1-8B,0,1,1,1,1,1")  # of another chip: left out
    lines[1:] = [lines[-1], *lines[1:-1]]
    file = tmp_path / "requests.csv"
    file.write_text("\n".join(lines))
    code, text = run("rtx-4090", "llama-3.1-8b", "--measured", str(file), "--max-sequences", "64", "--json", *QUICK[:2])
    found = json.loads(text)
    assert code == 0 and found["left_out"]["requests"] == 40
    assert found["left_out"]["tpot_mape_pct"] < 3 and found["left_out"]["e2e_mape_pct"] < 3
    assert found["unfitted"]["tpot_mape_pct"] > 15
    assert found["constants"]["memory"] == pytest.approx(0.7, rel=0.1)


def test_a_real_engine_is_met_on_requests_left_out(shared: Path):
    """vLLM on an RTX 4090, 300 requests: TPOT within 5 %, end to end within 8 %, mean TTFT within 15 %."""
    from npusim.serving.engine import Rules
    from npusim.serving.measured import fit_requests

    found = fit_requests(shared / "data" / "measured" / "llmservingsim" / "serving_requests.csv", "rtx-4090",
                         "llama-3.1-8b", rules=Rules(max_sequences=128))  # fmt: skip
    assert found.left_out.requests == 150
    assert found.left_out.tpot_mape_pct <= 5
    assert found.left_out.e2e_mape_pct <= 8
    assert abs(found.left_out.ttft_mean_pct) <= 15


def test_scenarios_print_the_figure_that_mlperf_reports():
    code, text = run("h100", "llama-3.1-8b", "--scenario", "server", "--precision", "fp8", "--chips", "1", *QUICK)
    assert code == 0 and text.startswith("MLPerf llama3.1-8b server:")
    assert "p99 TTFT" in text and "of 2000 ms" in text
    code, text = run("h100", "llama-3.1-8b", "--scenario", "Offline", "--chips", "1", "--json", *QUICK)
    data = json.loads(text)
    assert code == 0 and data["tokens_per_s"] > 0 and data["serving"]["requests"] == 100


def test_k_perf_under_load_prints_percentiles(tmp_path: Path):
    result = CliRunner().invoke(cli, ["kperf", "--chip", "h100", "--model", "llama-3.1-8b", "--precision", "fp8",
                                      "--slo", "ttft=1s,tpot=20ms", "--out", str(tmp_path)])  # fmt: skip
    assert result.exit_code == 0 and "TTFT p99" in result.output and "Goodput" in result.output
    assert "load_tpot_p99_s" in (tmp_path / "kperf.csv").read_text().splitlines()[0]


def test_a_fleet_says_users_watts_and_racks():
    fleet = ("npu-2pf", "llama-3.1-8b", "--fleet-pflops", "155", "--slo", "ttft=1s,tpot=50ms", "--precision", "fp8")
    code, text = run(*fleet, *QUICK)
    assert code == 0 and text.startswith("155 PFLOP/s (fp8, dense) of npu-2pf")
    for word in ("users", "racks", "kW", "tokens/s", "assumed"):
        assert word in text
    code, text = run(*fleet, "--json", *QUICK)
    assert code == 0 and json.loads(text)["users"] > 0


def test_notes_say_which_operators_documents_do_not_price():
    asked = ("llama-3.1-8b", "--requests", "50", "--chips", "1", "--precision", "fp8", "--input", "64", "--output", "8",
             "--max-tokens", "256")  # fmt: skip
    notes = [line for line in run("h100", *asked, "--calibration", "auto")[1].splitlines() if "tile model" in line]
    assert len(notes) == 1 and notes[0].startswith("note: h100: operators without a calibration: ")
    for chip, calibration in (("h100", "none"), ("npu-2pf", "auto")):  # no document reaches the latter
        text = run(chip, *asked, "--calibration", calibration)[1]
        assert f"note: {chip}: uncalibrated tile model" in text and "without a calibration" not in text


def test_a_fleet_names_the_chips_that_share_experts():
    fleet = ("h100", "qwen3-30b-a3b", "--fleet-pflops", "16", "--tp", "2", "--precision", "fp8", *QUICK)
    for shape, said in ((("--ep", "4"), "replicas of 4 (tp 2, ep 4)"), (("--pp", "2"), "replicas of 4 (tp 2, pp 2)")):
        assert said in run(*fleet, *shape)[1]


def test_pictures_and_traces_are_written(tmp_path: Path):
    page, trace = tmp_path / "run.html", tmp_path / "run.json"
    quick = ("h100", "llama-3.1-8b", "--arrivals", "poisson:5", "--chips", "1", *QUICK)
    code, text = run(*quick, "--plot", str(page), "--perfetto", str(trace))
    assert code == 0 and "wrote" in text
    assert "Latency against load" in page.read_text() and json.loads(trace.read_text())["traceEvents"]


@pytest.mark.parametrize("wrong", [("--plot", "run.png"), ("--step", "3"), ("--perfetto", "/nowhere/run.json"),
                                   ("--plot", "/nowhere/run.svg")])  # fmt: skip
def test_pictures_that_cannot_be_had(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["serve", "h100", "llama-3.1-8b", "--chips", "1", *QUICK, *wrong])
    assert stop.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
