"""Bad files of measured rows: one line each, with file and line, and never a traceback or a full memory."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from click.testing import CliRunner

from npusim.accuracy import table
from npusim.accuracy.rows import load_measured, load_rows
from npusim.cli import cli
from npusim.errors import InputError

HEAD = "device,software,op,dtype,m,n,k,batch,latency_us,extra"
GOOD = "H100-SXM,trtllm,gemm,bf16,16,16,16,,10,"


def load(folder: Path, *lines: str, head: str = HEAD) -> str:
    """The message a file with these rows is refused with."""
    path = folder / "rows.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    with pytest.raises(InputError) as caught:
        load_measured(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("H100,s,gemm,bf16,16,16,16,,-1,", "latency_us: a time that is zero or negative (-1.0)"),
        ("H100,s,gemm,bf16,16,16,16,,0,", "latency_us: a time that is zero or negative"),
        ("H100,s,gemm,bf16,16,16,16,,,", "latency_us: missing time"),
        ("H100,s,gemm,bf16,16,16,16,,nan,", "latency_us: not a number: 'nan'"),
        ("H100,s,gemm,bf16,16,16,16,,inf,", "latency_us: not a number: 'inf'"),
        ("H100,s,gemm,bf16,16,16,16,,12 ms,", "latency_us: a unit in a number, '12 ms'"),
        ("H100,s,gemm,bf16,16,16,16,,1_0,", "latency_us: not a number"),
        ("H100,s,gemm,bf16,16,16,,,10,", "k: missing shape: gemm needs m, n, k"),
        ("H100,s,gemm,bf16,16,0,16,,10,", "n: missing shape: gemm needs m, n, k (0.0)"),
        ("H100,s,gemm,bf16,16,16,-16,,10,", "k: negative dimension (-16.0)"),
        ("H100,s,gemm,bf16,16,16,1.5,,10,", "k: not a whole number (1.5)"),
        ("H100,s,gemm,bf17,16,16,16,,10,", "dtype: unknown number format (bf17)"),
        ("H100,s,gemm,bf16,16,16", "6 cells in a table of 10 columns"),
        ("H100,s,gemm,bf16,16,16,16,,10,,,", "12 cells in a table of 10 columns"),
        ("H100,s,rmsnorm,bf16,16,,,,10,", "n: missing shape: rmsnorm needs m, n"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, line: str, message: str):
    found = load(tmp_path, GOOD, line)
    assert message in found
    assert f"{tmp_path / 'rows.csv'}:3:1" in found


def test_all_problems_come_together_and_the_rest_is_counted(tmp_path: Path):
    found = load(tmp_path, *["H100,s,gemm,bf16,16,16,16,,-1,"] * 50)
    assert found.count("\n") == table.MAX_PROBLEMS
    assert found.endswith("and 30 more problems")


@pytest.mark.parametrize("column", ["latency_ms", "latency_s", "latency_ns", "time_ms"])
def test_a_time_in_another_unit(tmp_path: Path, column: str):
    assert f"column '{column}' is not in the unit of kernels rows" in load(
        tmp_path, GOOD + ",5", head=f"{HEAD},{column}"
    )


def test_a_time_in_another_unit_instead(tmp_path: Path):
    found = load(tmp_path, GOOD, head=HEAD.replace("latency_us", "latency_ms"))
    assert "latency_ms" in found
    assert ":1:1" in found


def test_headers(tmp_path: Path):
    assert "no rows of a known schema" in load(tmp_path, "1,2", head="a,b")
    assert "column 'm' appears twice" in load(tmp_path, GOOD + ",16", head=f"{HEAD},m")
    assert "did you mean" in load(tmp_path, GOOD, head=HEAD.replace("latency_us", "latencyus"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="no rows of a known schema"):
        load_measured(str(tmp_path / "empty.csv"))


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path):
    path = tmp_path / "huge.csv"
    with path.open("wb") as stream:
        stream.truncate(10 * 2**30)
    with pytest.raises(InputError, match="file is too big"):
        load_rows(str(path))


def test_a_gzip_bomb_is_refused_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "MAX_BYTES", 2**20)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress((HEAD + "\n" + f"{GOOD}\n" * 50_000).encode()))
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="file is too big; at most 1048576 bytes after decompression"):
        load_rows(str(path))


def test_a_line_without_end_is_refused(tmp_path: Path):
    path = tmp_path / "line.csv.gz"
    path.write_bytes(gzip.compress(b"x" * (table.MAX_LINE_BYTES * 3)))
    with pytest.raises(InputError, match="a line is too long"):
        load_rows(str(path))


def test_too_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "MAX_ROWS", 3)
    assert "too many rows" in load(tmp_path, *[GOOD] * 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(f"{HEAD}\n{GOOD}\n".encode(), mtime=0)[:-9], "damaged gzip file"),
        (b"no gzip at all", "damaged gzip file"),
    ],
    ids=["cut short", "no archive"],
)
def test_damaged_archives(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_rows(str(path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00a", f"{HEAD}\nH\x00100\n".encode(), b'"' + b"x" * 200_000])
def test_bytes_that_are_no_table(tmp_path: Path, content: bytes):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv"):
        load_rows(str(path))


def test_a_missing_file():
    with pytest.raises(InputError, match="cannot read"):
        load_rows("nowhere.csv")


def test_the_verb_reports_bad_input(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text(f"{HEAD}\n{GOOD.replace(',10,', ',-10,')}\n")
    result = CliRunner().invoke(cli, ["validate", str(path)])
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
