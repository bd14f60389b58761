"""Is the terminal table complete, aligned and within its width?"""

from __future__ import annotations

import pytest

from npusim.kperf_suite import KPerf
from npusim.report import format, table


@pytest.mark.parametrize("width", [20, 80, 100, 132, 200])
@pytest.mark.parametrize("full", [False, True])
def test_lines_keep_the_width(two: KPerf, nothing_fits: KPerf, width: int, full: bool) -> None:
    for result in (two, nothing_fits):
        text = table.render(result, width, full=full)
        assert max(map(format.columns_of, text.splitlines())) <= max(width, 80)


def test_the_default_suite_fits_a_screen_or_two(one: KPerf) -> None:
    lines = table.render(one, 120).splitlines()
    assert len(lines) <= 66
    assert lines.index("Assumptions and notes") <= 48


def test_full_has_a_line_per_row(one: KPerf) -> None:
    text = table.render(one, 160, full=True)
    misfits = len(one.rows) - len(one.fitting)
    assert text.count("does not fit: short by") == misfits
    body = text.split("tokens/s", 1)[1].split("Assumptions")[0].splitlines()
    assert sum(line.endswith(("/dram", "/matrix", "/link")) for line in body) == len(one.fitting)


def test_cells_stand_under_their_headings(one: KPerf) -> None:
    lines = table.render(one, 140).splitlines()
    head = next(line for line in lines if line.startswith("Precision"))
    row = next(line for line in lines if line.startswith("fp8"))
    row1 = next(r for r in one.rows if r["precision"] == "fp8" and format.lengths(r) == "2048/2048")
    for heading, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("Output", "tokens_per_s"), ("Power", "avg_power_w")):
        end = head.index(heading) + len(heading)
        assert row[:end].split()[-1] == format.cell(key, row1[key])


def test_no_colour_unless_asked(one: KPerf) -> None:
    assert "\x1b" not in table.render(one, 120)
    coloured = table.render(one, 120, color=True)
    assert "\x1b[1m" in coloured
    plain = coloured
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
        plain = plain.replace(code, "")
    assert [line.rstrip() for line in plain.splitlines()] == table.render(one, 120).splitlines()


def test_several_chips_show_ratios_to_the_first(two: KPerf) -> None:
    text = table.render(two, 140)
    assert "vs first" in text
    assert "1.00x" in text
    assert "h100" in text


def test_rows_without_figures_say_why(nothing_fits: KPerf, one_token: KPerf, no_tdp: KPerf) -> None:
    assert "does not fit: short by" in table.render(nothing_fits)
    line = next(line for line in table.render(one_token, 140).splitlines() if line.startswith("fp8"))
    assert line.split().count("-") == 1  # TPOT
    assert line.endswith("/-")  # decode bound
    assert " - " in next(line for line in table.render(no_tdp, 140).splitlines() if line.startswith("fp8"))
