"""K-Perf rows under load: one request alone is what the metric says, more of them wait, and every report shows it."""

from __future__ import annotations

import csv
import io
import json

import pytest

import npusim as ns
from npusim.kperf_suite import COLUMNS, LOAD_COLUMNS, KPerf, Suite
from npusim.report import files, page, table
from npusim.serving.metrics import Slo
from npusim.serving.under_load import under_load

SUITE = Suite(format="npusim-suite/1", name="small", models=("llama-3.1-8b",), precisions=("fp8",),
              lengths=((512, 128), (100, 1), (20000, 2000)), concurrency=(1, 32, "max"), max_concurrency=64,
              mlperf_limits=ns.load_suite().mlperf_limits)  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> KPerf:
    return ns.kperf("h100", suite=SUITE)


@pytest.fixture(scope="module")
def loaded(plain: KPerf) -> KPerf:
    return under_load(plain)


def test_a_request_alone_is_what_the_metric_says(loaded: KPerf):
    row = loaded.rows[0]
    assert row["concurrency"] == 1
    assert row["load_ttft_p50_s"] == pytest.approx(row["ttft_s"], rel=0.05)  # and sampling
    assert row["load_ttft_p99_s"] == pytest.approx(row["load_ttft_p50_s"])
    assert row["load_tpot_p50_s"] == pytest.approx(row["tpot_s"], rel=0.03)
    assert row["load_tokens_per_s"] == pytest.approx(row["tokens_per_s"], rel=0.05)


def test_percentiles_are_ordered_and_goodput_is_part_of_the_throughput(loaded: KPerf):
    for row in loaded.fitting:
        assert row["load_ttft_p50_s"] <= row["load_ttft_p99_s"]
        if row["output_tokens"] > 1:
            assert row["load_tpot_p50_s"] <= row["load_tpot_p99_s"]
        else:
            assert row["load_tpot_p50_s"] is None
        assert row["load_goodput_tokens_per_s"] <= row["load_tokens_per_s"] * (1 + 1e-12)


def test_the_loop_agrees_with_the_metric_at_full_concurrency(loaded: KPerf):
    for row in loaded.fitting:
        if row["output_tokens"] > 1:
            assert 0.85 < row["load_tokens_per_s"] / row["tokens_per_s"] < 1.3


def test_an_slo_nobody_meets_leaves_no_goodput(plain: KPerf):
    found = under_load(plain, Slo(ttft_s=1e-6))
    assert all(row["load_goodput_tokens_per_s"] == row["load_attainment"] == 0 for row in found.fitting)


def test_every_report_carries_the_columns(plain: KPerf, loaded: KPerf):
    keys = [key for key, *_ in LOAD_COLUMNS]
    assert plain.columns == COLUMNS and set(keys) <= {key for key, *_ in loaded.columns}
    assert "TTFT p99" in table.render(loaded, 200) and "TTFT p99" not in table.render(plain, 200)
    header = next(csv.reader(io.StringIO(files.to_csv(loaded).decode())))
    assert set(keys) <= set(header) and not set(keys) & set(next(csv.reader(io.StringIO(files.to_csv(plain).decode()))))
    assert set(keys) <= set(json.loads(files.to_json(loaded))["rows"][0])
    assert "TPOT p99" in page.render(loaded) and "TPOT p99" not in page.render(plain)


def test_the_workbook_carries_the_columns(plain: KPerf, loaded: KPerf):
    openpyxl = pytest.importorskip("openpyxl")
    pytest.importorskip("xlsxwriter")
    from npusim.report import workbook

    def words(result: KPerf) -> set[str]:
        book = openpyxl.load_workbook(io.BytesIO(workbook.render(result)))
        return {str(cell.value) for sheet in book for row in sheet.iter_rows() for cell in row if cell.value}

    assert any("TTFT p99" in word for word in words(loaded))
    assert not any("TTFT p99" in word for word in words(plain))


def test_rows_that_do_not_fit_stay_empty():
    found = under_load(ns.kperf("h100", suite=SUITE, models=["llama-3.1-405b"], tp=1))
    assert found.rows[0]["load_ttft_p50_s"] is None and "does not fit" in found.rows[0]["note"]
