"""SCALE-Sim's topologies and configurations against figures worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from npusim.cost import estimate
from npusim.errors import InputError
from npusim.importers.scalesim import import_scalesim_config, import_scalesim_topology

CONV_HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
CONFIG = """\
[general]
run_name = Google_TPU v1

[architecture_presets]
ArrayHeight:    256
ArrayWidth:     128
IfmapSramSzkB:    6144
FilterSramSzkB:   1024
OfmapSramSzkB:    2048
IfmapOffset:    0
Dataflow : ws
Bandwidth : 10,20,30

[run_presets]
InterfaceBandwidth: USER
"""


def topology(tmp_path: Path, text: str, **how: str):
    file = tmp_path / "net.csv"
    file.write_text(text)
    return import_scalesim_topology(file, **how)


def config(tmp_path: Path, text: str):
    file = tmp_path / "scale.cfg"
    file.write_text(text)
    return import_scalesim_config(file)


def refuse(call, tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        call(tmp_path, text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["Layer,M,N,K,\nfc,4,5,6,\n", "Layer,M,N,K\nfc,4,5,6\n", "fc, 4, 5, 6,\n", "\n\nfc,4,5,6"]
)
def test_gemm_with_and_without_header_and_trailing_comma(tmp_path: Path, text: str):
    loaded = topology(tmp_path, text)

    (op,) = loaded.ops
    assert (op.kind, op.name, op.dims["m"], op.dims["n"], op.dims["k"]) == ("gemm", "fc", 4, 5, 6)
    assert loaded.flops == 2 * 4 * 5 * 6
    assert loaded.bytes() == 4 * 6 + 5 * 6 + 4 * 5  # one byte per word
    assert loaded.name == "net"


def test_gemm_batch_column(tmp_path: Path):
    assert topology(tmp_path, "qk,4,5,6,8,\n").flops == 8 * 2 * 4 * 5 * 6


def test_convolution(tmp_path: Path):
    loaded = topology(tmp_path, CONV_HEADER + "Conv1, 230, 230, 7, 7, 3, 64, 2,\nConv2, 58, 58, 3, 3, 64, 64, 1,\n")

    first, second = loaded.ops
    assert first.flops == 2 * 112 * 112 * 64 * 7 * 7 * 3
    assert first.bytes("weight") == 64 * 7 * 7 * 3
    assert second.flops == 2 * 56 * 56 * 64 * 3 * 3 * 64
    assert second.bytes() == 58 * 58 * 64 + 64 * 9 * 64 + 56 * 56 * 64


@pytest.mark.parametrize(("rounding", "out"), [("floor", 112), ("scalesim", 113)])
def test_rounding_of_the_output(tmp_path: Path, rounding: str, out: int):
    """(230 − 7) / 2 = 111.5: 112 windows fit, SCALE-Sim counts 113."""
    loaded = topology(tmp_path, CONV_HEADER + "c, 230, 230, 7, 7, 3, 64, 2,\n", rounding=rounding)
    assert loaded.flops == 2 * out * out * 64 * 147


@pytest.mark.parametrize("size", range(3, 12))
@pytest.mark.parametrize("stride", range(1, 6))
def test_scalesim_rounding_is_its_formula(tmp_path: Path, size: int, stride: int):
    out = math.ceil((size - 3 + stride) / stride)
    loaded = topology(tmp_path, f"c,{size},{size},3,3,2,4,{stride},\n", rounding="scalesim")
    assert loaded.flops == 2 * out * out * 9 * 2 * 4


def test_two_strides_become_a_gemm(tmp_path: Path):
    (op,) = topology(tmp_path, "c, 11, 9, 3, 3, 4, 8, 2, 1,\n").ops
    assert (op.kind, op.dims["m"], op.dims["n"], op.dims["k"]) == ("gemm", 5 * 7, 8, 36)


def test_depthwise_by_name(tmp_path: Path):
    (op,) = topology(tmp_path, CONV_HEADER + "Conv_DP2, 10, 10, 3, 3, 16, 1, 1,\n").ops
    assert op.dims["groups"] == 16
    assert op.flops == 2 * 64 * 9 * 16


def test_dense_sparsity_column_is_read(tmp_path: Path):
    assert topology(tmp_path, "c, 11, 11, 3, 3, 4, 8, 1, 1:1,\n").flops == 2 * 81 * 36 * 8


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c, 11, 11, 3, 3, 4,", "6 columns"),
        ("c, 11, 11, 3, 3, 4, 8, x,", "column 8 is 'x'"),
        ("c, 11, 11, 3, 3, 4, 8, 0,", "column 8 is '0'"),
        ("c, 11, 11, 3, 3, 4, 8, -1,", "column 8 is '-1'"),
        ("c, 2, 11, 3, 3, 4, 8, 1,", "larger than the input"),
        ("c, 11, 11, 3, 3, 4, 8, 1, 2:4,", "sparsity '2:4'"),
        (f"c, {2**40 + 1}, 2, 3,", "1 to 2^40"),
        (f"c, {'9' * 5000}, 2, 3,", "1 to 2^40"),
        ("c, ٣, 2, 3,", "column 2"),
        ("c, 1.5, 2, 3,", "column 2"),
        ("c", "1 columns"),
    ],
)
def test_bad_line_names_file_and_line(tmp_path: Path, line: str, said: str):
    text = refuse(topology, tmp_path, "fc,1,2,3,\n\n" + line)
    assert f"{tmp_path / 'net.csv'}:3:" in text
    assert said in text and len(text) < 1000


def test_every_bad_line_is_reported(tmp_path: Path):
    text = refuse(topology, tmp_path, "Layer,M,N,K,\na,1,2,x,\nb,1,2,3,\nc,1,\n")
    assert ":2:" in text and ":4:" in text and ":3:" not in text


@pytest.mark.parametrize("text", ["", "\n \n", CONV_HEADER, ",,,\n"])
def test_nothing_in_it(tmp_path: Path, text: str):
    assert "no layer" in refuse(topology, tmp_path, text)


def test_unknown_rounding(tmp_path: Path):
    with pytest.raises(InputError, match="scalesim"):
        topology(tmp_path, "fc,1,2,3", rounding="ceil")


def test_config_with_user_bandwidth(tmp_path: Path):
    chip = config(tmp_path, CONFIG)

    assert (chip.name, chip.title, chip.category) == ("google_tpu-v1", "Google_TPU v1", "design")
    matrix = chip.core.matrix
    assert matrix is not None
    assert (matrix.rows, matrix.cols, matrix.dataflow) == (256, 128, "ws")
    assert chip.peaks_flops_per_s == {"int8": 2 * 256 * 128 * 1e9}
    assert chip.sram_bytes == (6144 + 1024 + 2048) * 1024
    assert chip.memory is not None
    assert chip.memory.bandwidth_bytes_per_s == 10e9
    assert any("clock 1 GHz" in note for note in chip.notes)
    assert chip.provenance("clock").status == "assumed"


def test_config_that_computes_its_bandwidth_is_never_limited_by_it(tmp_path: Path):
    chip = config(tmp_path, CONFIG.replace("USER", "CALC").replace("Bandwidth : 10,20,30\n", ""))
    assert chip.memory is not None
    assert chip.memory.bandwidth_bytes_per_s == (256 + 2 * 128) * 1e9


def test_what_is_on_and_not_modelled_is_noted(tmp_path: Path):
    chip = config(tmp_path, CONFIG + "[sparsity]\nSparsitySupport: true\n")
    assert "not modelled: sparsitysupport" in chip.notes
    assert not any("not modelled" in note for note in config(tmp_path, CONFIG).notes)


def test_a_topology_is_priced_on_a_config(tmp_path: Path):
    cost = estimate(topology(tmp_path, "fc,512,512,512,\n"), config(tmp_path, CONFIG), fidelity="roofline")
    assert cost.time_s == pytest.approx(max(2 * 512**3 / (2 * 256 * 128 * 1e9), 3 * 512**2 / 10e9))


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("ArrayHeight:    256", "ArrayHeight: 0", 5, "ArrayHeight is '0'"),
        ("ArrayHeight:    256", "ArrayHeight: big", 5, "an integer from 1"),
        ("ArrayHeight:    256", "ArrayHeight 256", 5, "neither a section"),
        ("ArrayHeight:    256", "= 256", 5, "neither a section"),
        ("ArrayHeight:    256", "[open\nArrayHeight: 256", 5, "neither a section"),
        ("ArrayWidth:     128", "ArrayHeight: 1", 6, "'ArrayHeight' is given twice"),
        ("Dataflow : ws", "Dataflow : rs", 11, "one of os, ws, is"),
        ("Bandwidth : 10,20,30", "Bandwidth : fast", 12, "Bandwidth is 'fast'"),
        ("InterfaceBandwidth: USER", "InterfaceBandwidth: MINE", 15, "one of calc, user"),
    ],
)
def test_bad_config_line(tmp_path: Path, old: str, new: str, line: int, said: str):
    text = refuse(config, tmp_path, CONFIG.replace(old, new))
    assert f"scale.cfg:{line}:" in text
    assert said in text


def test_missing_keys_are_all_named_with_the_closest(tmp_path: Path):
    text = refuse(config, tmp_path, CONFIG.replace("ArrayHeight", "ArrayHieght").replace("Dataflow", "Flow"))
    assert "'ArrayHeight' is missing" in text and "did you mean 'arrayhieght'?" in text
    assert "'Dataflow' is missing" in text


@pytest.mark.parametrize("text", ["", "\0\0", "[general]\n", "M,N,K\n1,2,3\n", "[" * 10**5])
def test_not_a_config(tmp_path: Path, text: str):
    said = refuse(config, tmp_path, text)
    assert "missing" in said or "neither" in said
    assert len(said) < 5000
