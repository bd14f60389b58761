"""Measured rows: what a well-formed file becomes."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from npusim.accuracy import rows as rows_module
from npusim.accuracy.dims import RowDims
from npusim.accuracy.rows import load_collectives, load_end_to_end, load_measured, load_rows, load_rtl, load_vision
from npusim.errors import InputError

KERNELS = """device,software,op,dtype,m,n,k,batch,heads,kv_heads,head_dim,seq_q,seq_kv,latency_us,extra
H100-SXM,trtllm-1.0,gemm,bfloat16,16,4096,4096.0,,,,,,,12.5,kernel=fast;window=128
H100-SXM,trtllm-1.0,attention_decode,bfloat16/kv_fp8,,,,4,32,8,128,1,1000,20,causal=1; window=0
"""


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_kernel_rows(tmp_path: Path, name: str):
    rows = load_rows(write(tmp_path, name, KERNELS))
    assert len(rows) == 2
    assert list(rows.column("op")) == ["gemm", "attention_decode"]
    assert rows.column("m")[0] == 16
    assert math.isnan(rows.column("m")[1])
    assert rows.column("latency_us").tolist() == [12.5, 20.0]
    assert list(rows.extra("kernel")) == ["fast", ""]
    assert rows.extra_number("window").tolist() == [128.0, 0.0]
    assert rows.origin.where(1) == (str(tmp_path / name), 3)


def test_select_keeps_the_origin(tmp_path: Path):
    rows = load_rows(write(tmp_path, "a.csv", KERNELS))
    assert rows.select(np.array([1])).origin.where(0)[1] == 3
    assert len(rows.select(rows.column("op") == "gemm")) == 1


def test_a_folder_holds_tables_of_every_schema(tmp_path: Path):
    write(tmp_path, "kernels.csv", KERNELS)
    write(
        tmp_path,
        "comm.csv",
        "device,software,op,dtype,ranks,bytes,latency_us,extra\nH100,nccl,all_reduce,half,8,1024,9,\n",
    )
    write(
        tmp_path,
        "e2e.csv",
        "device,num_devices,software,model,precision,batch,input_len,output_len,ttft_ms,tpot_ms,latency_s,"
        "throughput_tok_s,extra\nH100,1,vLLM,llama-2-7b,fp16,1,128,128,,,2.0,,\n",
    )
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper", "vision.csv", "device,task,model,fps\nHAILO8,detection,yolov5s,100\n")
    write(
        tmp_path,
        "rtl.csv",
        "mapping.mapping,arch.pe,prob.C,prob.K,prob.N,prob.P,prob.Q,prob.R,prob.S,prob.Hstride,prob.Wstride,"
        "target.gemmini_cycle\nL3[WIO] - L2[WI] K16X - L1[O] C16X - L0[W] P8,256,16,16,1,8,1,1,1,1,1,5000\n",
    )
    write(tmp_path, "other.csv", "a,b\n1,2\n")
    found = load_measured(tmp_path)
    assert [table.kind for table in found.tables()] == ["kernels", "collectives", "end to end", "rtl", "vision"]
    assert found.other == (str(tmp_path / "other.csv"),)
    assert load_collectives(tmp_path).column("ranks").tolist() == [8.0]
    assert load_end_to_end(tmp_path).column("latency_s").tolist() == [2.0]
    assert load_rtl(tmp_path).column("prob_c").tolist() == [16.0]
    assert load_vision(tmp_path).column("fps").tolist() == [100.0]
    assert len(load_rows(tmp_path)) == 2  # the collectives are no kernels


def test_blank_lines_are_no_rows(tmp_path: Path):
    assert len(load_rows(write(tmp_path, "a.csv", KERNELS + "\n\n"))) == 2


def test_no_rows_of_the_asked_schema(tmp_path: Path):
    with pytest.raises(InputError, match="no kernels rows found"):
        load_rows(tmp_path)


def test_dims_name_columns_and_extra(tmp_path: Path):
    dims = RowDims(load_rows(write(tmp_path, "a.csv", KERNELS)))
    assert dims["m"][0] == 16
    assert dims["window"].tolist() == [128.0, 0.0]
    assert dims.or_else("batch", 1.0).tolist() == [1.0, 4.0]
    assert dims.or_else("absent", 7.0).tolist() == [7.0, 7.0]
    assert "absent" not in dims
    assert "latency_us" not in dims  # a model must not see what it predicts
    assert set(dims) >= {"m", "n", "k", "seq_kv"}


def test_skew_of_experts(tmp_path: Path):
    text = KERNELS.replace("kernel=fast;window=128", "dist=power_law_1.2").replace(
        "causal=1; window=0", "dist=balanced"
    )
    assert RowDims(load_rows(write(tmp_path, "a.csv", text)))["skew"].tolist() == [1.2, 0.0]


def test_chunks_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("npusim.accuracy.table.CHUNK", 2)
    line = KERNELS.splitlines()[1]
    rows = load_rows(write(tmp_path, "a.csv", KERNELS + f"{line}\n" * 3))
    assert rows.origin.line.tolist() == [2, 3, 4, 5, 6]


def test_every_required_shape_is_a_column():
    for needed in rows_module.SHAPES.values():
        assert set(needed) <= set(rows_module.Rows.numbers)
