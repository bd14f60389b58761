"""Measured throughput of runs: what files say, which constants apply, and what the engine predicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from npusim.accuracy_verbs import validate
from npusim.chip import load_chip
from npusim.cost import estimate
from npusim.errors import InputError, Problem
from npusim.llm import decode, precision
from npusim.models import load_model
from npusim.serving import steps, throughput
from npusim.serving.constants import described, learned
from npusim.serving.documented import Kernels
from npusim.serving.placement import Placement
from npusim.serving.steps import UNFITTED, Constants, Shape, step_times
from npusim.serving.throughput import Observation, known_precision, score
from npusim.serving.throughput_rows import board_of, deduplicated, program_of, read
from npusim.workload import Workload

HEAD = "device,num_devices,software,model,precision,batch,input_len,output_len,latency_s,throughput_tok_s"
MLPERF = "round,division,system,model,scenario,valid,tokens_per_s"


def test_a_table_of_runs(tmp_path: Path):
    rows = [
        "NVIDIA H100,1,TensorRT-LLM,meta-llama/Meta-Llama-3-8B,fp16,16,128,64,2.0,",
        "NVIDIA H100,1,vLLM,meta-llama/Meta-Llama-3-8B,float16,16,128,64,,3000",
        "NVIDIA H100,2,vLLM,llama-3.3-70b,fp8,,128,64,,3000",
        "no such chip,1,vLLM,llama-3.1-8b,fp8,,128,64,,3000",
        "NVIDIA H100,1,llama.cpp,llama-3.1-8b,fp16,4,128,64,1.0,",
        "NVIDIA H100,1,vLLM,llama-3.1-8b,fp16,1.5,128,64,1.0,",
        "NVIDIA H100,1,vLLM,llama-3.1-8b,fp16,4,128,64,-1,nan",
        "NVIDIA H100,1,vLLM,llama-3.1-8b,fp99,4,128,64,1,",
    ]
    table = tmp_path / "runs.csv"
    table.write_text("\n".join([HEAD, *rows]))
    runs, skipped = read(table)
    assert [(run.tokens_per_s, run.batch, run.software, run.precision) for run in runs] == [
        (16 * 64 / 2.0, 16, "tensorrt-llm", "fp16"), (1000.0, 16, "vllm", "fp16"), (3000.0, None, "vllm", "fp8"),
    ]  # fmt: skip
    assert sum(skipped.values()) == 5 and len(skipped) == 5
    assert len(deduplicated([*runs, replace(runs[0], tokens_per_s=514.0)])) == 3


def test_published_figures_as_json(tmp_path: Path):
    row = {"device": "NVIDIA H100", "chips": 8, "model": "Llama-3.1-405B", "precision": "FP8", "input_len": 128,
           "output_len": 2048, "concurrency": "max load (offline)", "tokens_per_s": 4340.0,
           "kind": "end-to-end (vendor, TensorRT-LLM v1.0 docs)"}  # fmt: skip
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"measured": [row, {**row, "input_len": None}]}))
    (run,), skipped = read(file)
    assert (run.chips, run.batch, run.software, run.tokens_per_s) == (8, None, "trtllm", 4340.0)
    assert list(skipped.values()) == [1]


def test_results_of_mlperf(tmp_path: Path):
    table = tmp_path / "rows.csv"
    table.write_text("\n".join([
        MLPERF,
        "v4.1,closed,DGX-H100_H100-SXM-80GBx8_TRT,llama2-70b-99,Offline,True,24000",
        "v4.1,closed,XE9680_H100_SXM_80GBx8_TRT,llama2-70b-99.9,Offline,True,25000",
        "v4.1,closed,8xMI300X_2xEPYC-TURIN,llama2-70b-99,Server,True,22000",
        "v4.1,closed,DGX-H100_H100-SXM-80GBx8_TRT,llama2-70b-99,Server,False,1",
        "v4.1,open,DGX-H100_H100-SXM-80GBx8_TRT,llama2-70b-99,Server,True,2",
        "v4.1,closed,SR675_V3_8xH100_NVL_TRT,llama2-70b-99,Server,True,3",
        "v4.1,closed,DGX-H100_H100-SXM-80GBx8_TRT,gptj-99,Offline,True,4",
        "v4.1,closed,ESC4000A_E12_4XH100_TRT,llama2-70b-99,Offline,True,5",
        "v4.1,closed,CDI_L40Sx8_TRT,llama2-70b-99,Offline,True,3700",
        "v4.1,closed,vLLM_8xL40S-reference,llama2-70b-99,Offline,True,900",
    ]))  # fmt: skip
    runs, skipped = read(table)
    found = {(run.chip.name, run.scenario, run.software): (run.chips, run.tokens_per_s) for run in deduplicated(runs)}
    assert found == {
        ("h100", "offline", "trtllm"): (8, 24500.0), ("mi300x", "server", "vllm"): (8, 22000.0),
        ("l40s", "offline", "trtllm"): (8, 3700.0), ("l40s", "offline", "vllm"): (8, 900.0),
    }  # fmt: skip
    assert sum(skipped.values()) == 5


def test_a_board_with_other_memory_is_that_chip_with_it():
    large, count = board_of("GH200-GraceHopper-Superchip_GH200-144GB_aarch64x1_TRT")
    assert large.memory is not None
    assert (large.name, large.memory.capacity_bytes, count) == ("gh200", 144e9, 1)
    small, _ = board_of("GH200-GraceHopper-Superchip_GH200-96GB_aarch64x1_TRT")
    assert not small.overrides
    with pytest.raises(InputError, match="does not state how many"):
        board_of("L40S-RedHat-OpenShift")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "device,model\nh100,llama-3.1-8b\n", "no column for chips, input, output, tokens_per_s"),
        ("a.json", "{", "cannot be read as JSON"),
        ("b.json", '{"measured": [1]}', "neither a list of objects"),
    ],
)
def test_files_that_say_nothing(tmp_path: Path, name: str, text: str, message: str):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read(file)


def test_spellings():
    assert program_of("vLLM(2023)/DGX") == "vllm-2023" and program_of("vendor, TensorRT-LLM 0.5.0") == "trtllm"
    assert known_precision("BF16") == "bf16"
    with pytest.raises(InputError, match="precision"):
        known_precision("fp99")


def test_documents_reach_every_part_of_a_step():
    """At the nodes a uniform batch costs what ``estimate`` with the same documents says, apart from sampling."""
    chip, model = load_chip("h100"), load_model("llama-3.1-8b")
    shape = Shape(model, chip, precision("bf16"), max_tokens=256, max_sequences=16, max_context=2048)
    constants = Constants(kernels=Kernels("auto", "trtllm"))
    table = step_times(shape).table(constants)
    kinds = {"weights": "bf16", "activations": "bf16", "kv": "bf16", "page": 16}
    step = decode(model, batch=8, context=1024, **kinds)
    whole = estimate(step, chip, "tile", calibration="auto", software="trtllm")
    alone = step_times(shape).table(UNFITTED).price((), [1024] * 8)[0]
    assert table.price((), [1024] * 8)[0] == pytest.approx(float(np.asarray(whole.time_s)), rel=0.03)
    assert abs(alone / float(np.asarray(whole.time_s)) - 1) > 0.05  # the chip file alone says something else


@pytest.mark.parametrize(
    ("name", "fmt", "tp", "ep"),
    [("mixtral-8x7b", "fp8", 2, 1), ("qwen3-30b-a3b", "bf16", 1, 1), ("deepseek-v3", "fp8", 8, 8),
     ("llama-3.1-8b", "fp8", 1, 1)],
)  # fmt: skip
def test_documented_tables_are_close_between_their_nodes(name: str, fmt: str, tp: int, ep: int):
    """Kernels have steps at multiples of their tiles: a table that missed them was up to 10 % off."""
    chip, model = load_chip("h100"), load_model(name)
    shape = Shape(model, chip, precision(fmt), tp=tp, ep=ep, max_tokens=1100, max_sequences=4, max_context=256)
    constants = Constants(kernels=Kernels("auto", "trtllm"))
    common = step_times(shape).table(constants).common[:, 0]
    tokens = np.unique(np.random.default_rng(7).integers(1, 1101, 250))
    part = Workload("part", tuple(steps._common_ops(shape, tokens)))
    found = estimate(part, chip, "tile", calibration="auto", software="trtllm").ops
    exact = np.broadcast_to(np.asarray(sum(cost.time_s for cost in found)), tokens.shape)
    assert np.max(np.abs(common[tokens] / exact - 1)) < 0.012
    assert np.mean(np.abs(common[tokens] / exact - 1)) < 0.001


def test_host_time_counts_exchanges_and_sequences():
    chip, model = load_chip("h100"), load_model("llama-3.1-8b")
    shape = Shape(model, chip, precision("bf16"), tp=4, max_tokens=64, max_sequences=16, max_context=512)
    alone = step_times(shape).table(Constants(host_s=0.0)).price((), [256] * 8)[0]
    host = step_times(shape).table(Constants(host_s=1e-3, exchange_s=1e-6, sequence_s=1e-5)).price((), [256] * 8)[0]
    assert host - alone == pytest.approx(1e-3 + 65 * 3 * 1e-6 + 8e-5, rel=1e-6)


def test_constants_say_how_far_they_reach():
    model, fmt = load_model("llama-3.1-8b"), precision("fp8")
    assert learned(load_chip("h100"), model, fmt, "none") == UNFITTED
    known = described(learned(load_chip("h100"), model, fmt))
    assert known is not None and (known["state"], known["program"]) == ("calibrated", "trtllm")
    other = learned(load_chip("h200"), model, fmt)
    assert other.kernels is not None and other.kernels.state == "transferred"
    assert other.kernels.error_pct is not None and other.kernels.error_pct > known["error_pct"]
    experts = learned(load_chip("h100"), load_model("mixtral-8x7b"), fmt).kernels
    assert experts is not None and (experts.state, experts.software) == ("calibrated", "trtllm")
    assert experts.error_pct is None  # no run of such a model was met
    amd = learned(load_chip("mi300x"), model, fmt).kernels
    assert amd is not None and amd.program == "vllm"  # the other program does not run there
    nobody = learned(load_chip("npu-2pf"), model, fmt)
    assert nobody.kernels is not None and nobody.kernels.state == "uncalibrated"
    assert replace(nobody, kernels=None) == UNFITTED  # the chip file alone speaks
    with pytest.raises(InputError, match="software"):
        learned(load_chip("h100"), model, fmt, "none", "trtllm")
    with pytest.raises(InputError, match="no-such"):
        learned(load_chip("h100"), model, fmt, "auto", "no-such")
    with pytest.raises(InputError, match="tile"):
        learned(load_chip("h100"), model, fmt, fidelity="roofline")


def test_more_memory_in_use_is_more_cache():
    chip = load_chip("h100")
    sized = Constants(usable=0.95).sized(chip)
    assert sized.memory is not None and chip.memory is not None
    assert (sized.memory.usable, chip.memory.usable, sized.overrides) == (0.95, 0.9, {})
    assert UNFITTED.sized(chip) is chip


def test_runs_are_predicted_or_say_why_not():
    chip, model = load_chip("h100"), load_model("llama-3.1-8b")
    batch = Observation(chip, model, "bf16", 1, 1000.0, 128, 16, 4)
    found = score([batch, replace(batch, model=load_model("llama-3.1-405b"))], "none")
    assert found[0].tokens_per_s is not None and found[0].steps == 16
    assert found[0].tokens_per_s == pytest.approx(4 * 16 / found[0].seconds)
    assert found[1].tokens_per_s is None and "does not fit" in found[1].reason


def test_the_verb(tmp_path: Path):
    table = tmp_path / "runs.csv"
    table.write_text("chip,model,precision,tp,isl,osl,batch,tokens_per_s\nh100,llama-3.1-8b,bf16,1,64,8,2,100\n")
    text = CliRunner().invoke(validate, ["--engine", "--calibration", "none", "--top", "1", str(table)])
    assert text.exit_code == 0 and "uncalibrated" in text.output and "batch 2" in text.output
    data = json.loads(CliRunner().invoke(validate, ["--engine", "--calibration", "none", "--json", str(table)]).output)
    (group,) = data["groups"]
    assert group["runs"] == 1 and group["rows"][0]["predicted_tokens_per_s"] > 0


@pytest.mark.parametrize("place", [Placement(4, 2, 1), Placement(2, 1, 2, ep=4)])
def test_a_scenario_runs_on_the_whole_shape_that_was_chosen(place: Placement, monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def scenario(*_: object, **given: object) -> None:
        asked.update(given)
        raise InputError(Problem("far enough", "test"))

    monkeypatch.setattr(throughput, "_PLACES", [])
    monkeypatch.setattr(throughput, "_placed", lambda *_: (place, 1.0))
    monkeypatch.setattr(throughput, "scenario", scenario)
    run = Observation(load_chip("l40s"), load_model("llama-2-70b"), "fp8", 8, 3718.0, scenario="server")
    score([run], "none")
    assert (asked["chips"], asked["tp"], asked["pp"], asked["ep"]) == (
        place.replica_chips,
        place.tp,
        place.pp,
        place.ep,
    )
