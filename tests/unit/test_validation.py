"""Predicted against measured: figures by hand on small tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import npusim as ns
from npusim.accuracy import pricing, score
from npusim.accuracy.operations import OPERATIONS, operation
from npusim.accuracy.rows import load_measured
from npusim.accuracy.validation import validate
from npusim.accuracy.worst import explain_row
from npusim.calibration import Calibration, Calibrations, save
from npusim.chip import Chip
from npusim.cost.calibrated import family as families
from npusim.cost.calibrated.family import ParameterSpec, Times
from npusim.errors import InputError

HEAD = "device,software,op,dtype,m,n,k,batch,heads,kv_heads,head_dim,seq_q,seq_kv,latency_us,extra\n"
# On the toy chip (4 TFLOP/s, 100 GB/s) a GEMM of 1000³ takes 500 µs on the engine; its 6 MB take 60 µs.
CUBE = "toy,lab,gemm,bf16,1000,1000,1000,,,,,,,{us},{extra}\n"


def rows_of(folder: Path, *lines: str, head: str = HEAD) -> str:
    path = folder / "rows.csv"
    path.write_text(head + "".join(lines))
    return str(path)


def test_figures_of_a_group(tmp_path: Path, toy: Chip):
    file = rows_of(tmp_path, *(CUBE.format(us=us, extra="") for us in (500, 1000, 450)))
    found = validate([file], chip=toy, fidelity="roofline")
    (group,) = found.groups
    errors = [0.0, -50.0, 100 / 9]
    assert group.overall.mape_pct == pytest.approx(np.mean(np.abs(errors)))
    assert group.overall.mdape_pct == pytest.approx(100 / 9)
    assert group.overall.bias_pct == pytest.approx(np.mean(errors))
    assert group.overall.within_10_pct == pytest.approx(100 / 3)
    assert group.overall.within_25_pct == pytest.approx(200 / 3)
    assert group.roofline == group.overall
    assert math.isnan(group.overall.spearman)  # one prediction three times has no rank
    assert group.faster_than_roofline_pct == pytest.approx(100 / 3)
    assert list(group.by_bound) == ["compute"]
    assert list(group.by_size) == ["above 200 us"]
    assert (group.state, group.rows, group.priced) == ("uncalibrated", 3, 3)
    assert found.unpriced == {}


def test_every_row_is_priced_or_counted(tmp_path: Path, toy: Chip):
    file = rows_of(
        tmp_path,
        CUBE.format(us=500, extra=""),
        "toy,lab,sort,bf16,10,10,,,,,,,,5,\n",
        "toy,lab,moe_ffn,bf16,10,10,10,,,,,,,5,topk=2\n",
        "toy,lab,gemm,,10,10,10,,,,,,,5,\n",
    )
    found = validate([file], chip=toy, calibration="none", fidelity="roofline")
    assert (found.rows, found.priced) == (4, 1)
    assert found.unpriced == {
        "no operator of npusim computes 'sort'": 1,
        "'moe_ffn' rows without experts": 1,
        "'gemm' rows without a number format": 1,
    }
    unknown = validate([file], fidelity="roofline")
    assert unknown.unpriced == {"no chip of the catalog is called 'toy'": 4}
    json.loads(unknown.json())


def test_a_shape_out_of_range_does_not_cost_the_others_their_price(tmp_path: Path, toy: Chip):
    bad = "toy,lab,attention_decode,bf16/kv_bf16,,,,1,{heads},4,64,1,100,5,\n"
    file = rows_of(tmp_path, *(bad.format(heads=h) for h in (4, 8, 2**41, 16)))
    found = validate([file], chip=toy, calibration="none", fidelity="roofline")
    assert found.priced == 3
    assert sum(found.unpriced.values()) == 1


def test_window_and_kernel_split_a_group(tmp_path: Path, toy: Chip):
    line = "toy,lab,attention_decode,bf16/kv_bf16,,,,1,4,4,64,1,4096,{us},window={w};kernel={k}\n"
    file = rows_of(tmp_path, *(line.format(us=10, w=w, k=k) for w, k in ((0, "a"), (128, "a"), (0, "b"), (0, "b"))))
    (group,) = validate([file], chip=toy, fidelity="roofline").groups
    assert {name: own.rows for name, own in group.variants.items()} == {
        "kernel=a": 1, "kernel=b": 2, "window=128 kernel=a": 1,
    }  # fmt: skip
    # the window is priced: 128 keys of 4096
    assert group.variants["window=128 kernel=a"].bias_pct < group.variants["kernel=a"].bias_pct


def test_warm_operands_take_no_main_memory(tmp_path: Path, toy: Chip):
    small = "toy,{software},gemm,bf16,8,64,64,,,,,,,5,\n"
    file = rows_of(tmp_path, small.format(software="jax-xprof"), small.format(software="lab"))
    warm, cold = validate([file], chip=toy, fidelity="roofline").groups
    assert (warm.residency, cold.residency) == ("llc", "cold")
    assert warm.overall.bias_pct < cold.overall.bias_pct
    assert warm.roofline.bias_pct == cold.roofline.bias_pct  # the plain roofline is cold for both


def test_chips_without_an_engine_are_priced_by_the_roofline(tmp_path: Path, toy: Chip):
    bare = toy.replace({})
    object.__setattr__(bare.core, "vector", None)
    file = rows_of(tmp_path, CUBE.format(us=500, extra=""))
    (group,) = validate([file], chip=bare, fidelity="tile").groups
    assert group.model == "roofline"
    assert validate([file], chip=toy, fidelity="tile").groups[0].model == "tile"


def test_cycle_takes_few_shapes(tmp_path: Path, toy: Chip, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pricing, "MAX_CYCLE_SHAPES", 1)
    lines = [f"toy,lab,gemm,bf16,{m},64,64,,,,,,,5,\n" for m in (8, 16)]
    assert validate([rows_of(tmp_path, lines[0])], chip=toy, fidelity="cycle").priced == 1
    with pytest.raises(InputError, match="too many for the cycle fidelity"):
        validate([rows_of(tmp_path, *lines)], chip=toy, fidelity="cycle")


def test_the_worst_row_of_each_group_with_its_line(tmp_path: Path):
    lines = [CUBE.replace("toy", "H100-SXM").format(us=us, extra="") for us in (10, 20000, 15)]
    found = validate([rows_of(tmp_path, *lines)], fidelity="tile")
    (worst,) = found.worst(5)
    assert worst.line == 3
    assert worst.shape == "m=1000 n=1000 k=1000"
    assert "tiles" in explain_row(worst)
    assert json.dumps(worst.to_dict(), allow_nan=False)


def test_bad_arguments(tmp_path: Path, toy: Chip):
    file = rows_of(tmp_path, CUBE.format(us=500, extra=""))
    with pytest.raises(InputError, match="unknown fidelity"):
        validate([file], fidelity="exact")
    with pytest.raises(InputError, match="unknown chip"):
        validate([file], chip="h1000")
    with pytest.raises(InputError, match="cannot read"):
        validate([file], chip=toy, calibration="nowhere.yaml")
    with pytest.raises(InputError, match="no measured rows"):
        validate([rows_of(tmp_path)])


# -- calibrations --------------------------------------------------------------------------------------------


class Constant:
    """A family that predicts one time for everything, bound by the launch."""

    name = "constant/1"
    parameters = (ParameterSpec("time", 1e-9, 1.0, 1e-6, "s", "the time"),)

    def seconds(self, chip, dtype, dims, parameters):
        time_s = np.where(dims["m"] > 5, parameters["time"], np.nan)
        return Times(time_s, np.full(len(time_s), "launch", dtype=object))


CONSTANT = Constant()


@pytest.fixture
def document(toy: Chip, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    monkeypatch.setitem(families.FAMILIES, "constant/1", f"{__name__}:CONSTANT")
    quantiles = {"rows": 50, "q05": -0.3, "q10": -0.2, "q50": 0.0, "q90": 0.2, "q95": 0.3}
    return Calibration.model_validate(
        {
            "format": "npusim-calibration/1", "chip": "toy", "software": "lab", "op": "gemm", "dtype": "bf16",
            "family": "constant/1", "rows": 50, "source": {"dataset": "made up"},
            "parameters": {"time": {"value": 500e-6, "low": 400e-6, "high": 600e-6, "unit": "s"}},
            "cross_validation": {"folds": 5, "mape_pct": 1.0, "mdape_pct": 1.0, "bias_pct": 0.0},
            "residuals": {"all": quantiles},
        }
    )  # fmt: skip


def test_a_document_prices_what_it_can(tmp_path: Path, toy: Chip, document: Calibration):
    file = rows_of(
        tmp_path,
        *(CUBE.format(us=us, extra="") for us in (500, 550, 700)),
        "toy,lab,gemm,bf16,4,64,64,,,,,,,1,\n",  # the family says nothing below m = 5
    )
    found = validate([file], chip=toy, calibration=document, fidelity="roofline")
    (group,) = found.groups
    assert group.state == "calibrated"  # of most of its rows
    assert group.states == {"calibrated": 3, "uncalibrated": 1}
    assert group.overall.rows == 4
    assert group.interval_coverage_pct == pytest.approx(200 / 3)
    table = found.tables[0]
    assert table.state.tolist() == ["calibrated"] * 3 + ["uncalibrated"]
    assert table.predicted_s[:3].tolist() == [500e-6] * 3
    assert table.high_s[0] == pytest.approx(500e-6 * math.exp(0.2))
    assert np.isnan(table.high_s[3])


def test_a_document_that_does_not_apply_leaves_the_row_to_the_model(
    tmp_path: Path, toy: Chip, document: Calibration, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: object) -> Times:
        raise KeyError("window")

    monkeypatch.setattr(CONSTANT, "seconds", refuse, raising=False)
    file = rows_of(tmp_path, CUBE.format(us=500, extra=""))
    (group,) = validate([file], chip=toy, calibration=document, fidelity="roofline").groups
    assert (group.state, group.priced) == ("uncalibrated", 1)
    assert "does not apply" in group.note


def test_a_document_by_its_path_and_of_another_operation(tmp_path: Path, toy: Chip, document: Calibration):
    file = rows_of(tmp_path, CUBE.format(us=500, extra=""), "toy,lab,softmax,bf16,64,64,,,,,,,,5,\n")
    path = save(document, tmp_path)
    gemm, softmax = validate([file], chip=toy, calibration=str(path), fidelity="roofline").groups
    assert (gemm.state, softmax.state) == ("calibrated", "uncalibrated")
    assert Calibrations("none").match(toy, "lab", "gemm", "bf16") is None


def test_a_document_of_another_stack_is_transferred(tmp_path: Path, toy: Chip, document: Calibration):
    file = rows_of(tmp_path, *(CUBE.replace("lab", name).format(us=500, extra="") for name in ("lab-2.1", "other-1")))
    version, other = validate([file], chip=toy, calibration=document, fidelity="roofline").groups
    assert (version.state, other.state) == ("calibrated", "transferred")


def test_a_kernel_with_a_document_of_its_own(tmp_path: Path, toy: Chip, document: Calibration):
    special = {"software": "lab kernel=odd", "parameters": {"time": {"value": 1e-6, "low": 1e-6, "high": 1e-6}}}
    for each in (document, Calibration.model_validate(document.model_dump() | special)):
        save(each, tmp_path / "documents")
    file = rows_of(tmp_path, CUBE.format(us=500, extra="kernel=usual"), CUBE.format(us=1, extra="kernel=odd"))
    table = validate([file], chip=toy, calibration=str(tmp_path / "documents")).tables[0]
    assert table.predicted_s.tolist() == [500e-6, 1e-6]


# -- other tables --------------------------------------------------------------------------------------------


def test_collectives_over_links(tmp_path: Path, toy: Chip):
    head = "device,software,op,dtype,ranks,bytes,latency_us,extra\n"
    lines = ("toy,nccl,all_reduce,half,2,1000000,100,\n", "toy,nccl,alltoall,half,4,1000000,100,\n",
             "toy,nccl,all_reduce,half,1,1000000,100,\n", "toy,nccl,broadcast,half,2,8,5,\n")  # fmt: skip
    found = validate([rows_of(tmp_path, *lines, head=head)], chip=toy, fidelity="roofline")
    # 10 GB/s: an all-reduce of 2 ranks sends 2·(1/2) of the buffer, an all-to-all of 4 sends 3/4 of it
    assert found.tables[0].predicted_s[:2] == pytest.approx([100e-6, 75e-6])
    assert found.unpriced == {"one rank has nobody to talk to": 1, "no operator of npusim computes 'broadcast'": 1}


def test_static_batches(tmp_path: Path):
    head = (
        "device,num_devices,software,model,precision,batch,input_len,output_len,ttft_ms,tpot_ms,latency_s,"
        "throughput_tok_s,extra\n"
    )
    lines = (
        "Nvidia A100 GPU,1,vLLM,meta-llama/Meta-Llama-3-8B,fp16,4,512,64,100,15,1.2,,\n",
        "Nvidia A100 GPU,1,vLLM,nobody/knows,fp16,4,512,64,,,1.2,,\n",
        "Nvidia A100 GPU,1,vLLM,llama-2-7b,fp16,,,64,,,1.2,,\n",
    )
    found = validate([rows_of(tmp_path, *lines, head=head)], fidelity="roofline")
    assert found.rows == 5  # a run with three figures is three rows
    assert found.priced == 3
    assert {group.op for group in found.groups} == {"request", "first token", "output token"}
    table = found.tables[0]
    times = dict(zip(table.keys["op"][table.priced], table.predicted_s[table.priced], strict=True))
    assert times["request"] == pytest.approx(times["first token"] + 63 * times["output token"])
    assert set(found.unpriced) == {
        "no model of the catalog is called 'nobody/knows'",
        "end-to-end rows without batch, lengths or number of devices",
    }


def test_vision_networks(tmp_path: Path, toy: Chip):
    head = "device,model,fps,ops_G,params_M\n"
    lines = ("toy,net,1000,2.0,1\n", "toy,net,,2.0,1\n", "toy,net,50,,\n")
    found = validate([rows_of(tmp_path, *lines, head=head)], chip=toy)
    assert found.tables[0].predicted_s[0] == pytest.approx(2e9 / 4e12)
    assert found.unpriced == {
        "the network did not run": 1,
        "the row does not state the operations of the network": 1,
    }


# -- figures -------------------------------------------------------------------------------------------------


def test_spearman():
    x = np.array([1.0, 2.0, 2.0, 4.0])
    assert score.spearman(x, x**3) == pytest.approx(1.0)
    assert score.spearman(x, -x) == pytest.approx(-1.0)
    assert score.spearman(x, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(9 / math.sqrt(90))
    assert math.isnan(score.spearman(x[:2], x[:2]))


def test_size_classes():
    assert score.size_classes(np.array([1e-6, 20e-6, 1e-3])).tolist() == [name for _, name in score.SIZES]


def test_coverage_counts_rows_with_an_interval_only():
    low, high = np.array([1.0, 1.0, np.nan]), np.array([2.0, 2.0, np.nan])
    assert score.coverage_pct(np.array([1.5, 3.0, 1.0]), low, high) == 50.0
    assert math.isnan(score.coverage_pct(np.array([1.0]), low[2:], high[2:]))


def test_every_operation_builds(toy: Chip):
    from npusim.accuracy.devices import formats_of

    for name, found in OPERATIONS.items():
        dims = {key: np.array([128.0, 256.0]) for key in (*found.needs, *found.uses)}
        dims |= {"topk": np.array([2.0, 2.0]), "ksize": np.array([3.0, 3.0])}
        ops = found.build(dims, formats_of("bf16"))
        assert all(np.all(np.asarray(ns.estimate(op, toy).time_s) > 0) for op in ops), name


def test_linear_without_a_reduction_is_the_identity():
    assert operation("linear", True) is OPERATIONS["gemm"]
    assert operation("linear", False) is OPERATIONS["relu"] or operation("linear", False) == OPERATIONS["linear"]
    assert operation("sort", True) is None


def test_measured_in_memory_is_taken_as_it_is(tmp_path: Path, toy: Chip):
    measured = load_measured(rows_of(tmp_path, CUBE.format(us=500, extra="")))
    assert ns.validate(measured, chip=toy, fidelity="roofline").priced == 1
    assert ns.validate(measured.kernels, chip=toy, fidelity="roofline").priced == 1
