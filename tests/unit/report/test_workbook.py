"""Does the workbook hold the rows, native charts and sources, and the same bytes every time?"""

from __future__ import annotations

import io
import sys
import zipfile
from typing import Any

import openpyxl
import pytest

from npusim.errors import InputError
from npusim.kperf_suite import COLUMNS, KPerf
from npusim.report import workbook


def load(result: KPerf) -> Any:
    return openpyxl.load_workbook(io.BytesIO(workbook.render(result)))


def charts(data: bytes) -> int:
    return sum(name.startswith("xl/charts/chart") for name in zipfile.ZipFile(io.BytesIO(data)).namelist())


def test_sheets_and_native_charts(one: KPerf, two: KPerf) -> None:
    models = ["llama-3.1-8b", "exaone-3.5-32b", "llama-3.3-70b", "llama-3.1-405b"]
    last = ["Definitions", "Notes", "Chart data"]
    assert load(one).sheetnames == ["Summary", "Charts", *models, "Chip rebel-quad", *last]
    chips = ["Chip rebel-quad", "Chip h100"]
    assert load(two).sheetnames == ["Summary", "Charts", "exaone-3.5-32b", "Comparison", *chips, *last]
    assert charts(workbook.render(one)) == 4 + 4 * 4
    assert charts(workbook.render(two)) == 4 + 4 + 2


def test_model_sheets_hold_every_row_in_the_unit_of_the_heading(one: KPerf) -> None:
    sheet = load(one)["llama-3.1-8b"]
    rows = [row for row in one.rows if row["model"] == "llama-3.1-8b"]
    assert sheet.max_row == len(rows) + 1
    heads = [cell.value for cell in sheet[1]]
    assert sheet.freeze_panes is not None
    assert sheet.auto_filter.ref is not None
    for index, row in enumerate(rows, 2):
        cells = dict(zip(heads, (cell.value for cell in sheet[index]), strict=True))
        assert cells["Concurrency\nrequests"] == row["concurrency"]
        if row["fits"]:
            assert cells["TTFT\nms"] == pytest.approx(row["ttft_s"] * 1e3)
            assert cells["MFU\n%"] == pytest.approx(row["mfu"])
        else:
            assert cells["TTFT\nms"] is None
            assert cells["Note"] == row["note"]


def test_comparison_holds_ratios(two: KPerf) -> None:
    sheet = load(two)["Comparison"]
    heads = [cell.value for cell in sheet[1]]
    at = heads.index("TTFT\nh100 / rebel-quad") + 1
    a, b = two.rows[0], two.rows[len(two.rows) // 2]
    assert sheet.cell(2, at).value == pytest.approx(b["ttft_s"] / a["ttft_s"])
    assert sheet.max_row == len(two.rows) // 2 + 1


def test_chip_sheet_names_source_and_status_and_marks_assumptions(one: KPerf) -> None:
    sheet = load(one)["Chip rebel-quad"]
    rows = {row[0].value: row for row in sheet.iter_rows(min_row=5) if row[0].value}
    assert [cell.value for cell in rows["memory.capacity"]][1:3] == ["144 GB", "published"]
    assert str(rows["memory.capacity"][3].value).startswith("https://")
    assert rows["clock"][2].value == "assumed"
    assert rows["clock"][0].fill.fgColor.rgb == "FFFFF0C2"
    assert rows["memory.capacity"][0].fill.fill_type is None


def test_summary_labels_the_assumption(one: KPerf) -> None:
    values = [cell.value for row in load(one)["Summary"].iter_rows() for cell in row if isinstance(cell.value, str)]
    assert any(text.startswith("ASSUMPTION") for text in values)
    assert one.suite.assumptions[0] in values


def test_definitions_and_notes_are_complete(one: KPerf) -> None:
    book = load(one)
    assert book["Definitions"].max_row == len(COLUMNS) + 1
    assert [row[0].value for row in book["Notes"].iter_rows(min_row=2)] == list(one.notes)


def test_same_result_same_bytes(two: KPerf) -> None:
    assert workbook.render(two) == workbook.render(two)


def test_odd_results_still_make_a_workbook(nothing_fits: KPerf, one_token: KPerf, no_tdp: KPerf) -> None:
    assert charts(workbook.render(nothing_fits)) == 0
    assert charts(workbook.render(one_token)) > 0
    assert charts(workbook.render(no_tdp)) > 0


def test_missing_library_is_one_clear_error(one: KPerf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(InputError, match=r"pip install XlsxWriter"):
        workbook.render(one)
