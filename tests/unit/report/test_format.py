"""Do numbers read as documented?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim.kperf_suite import COLUMNS, KPerf
from npusim.report import format, view


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (22604.4, "22,604"), (310.2, "310"), (31.25, "31.2"), (9.999, "10.0"), (3.1315, "3.13"),
     (0.89, "0.890"), (0.01234, "0.0123"), (1e-5, "1.00e-05"), (3e12, "3.00e+12"),
     (float("nan"), "-"), (float("inf"), "-"),
     (-12.34, "-12.3")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert format.number(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_number_reads_back_within_half_a_percent(value: float) -> None:
    back = float(format.number(value).replace(",", ""))
    assert back == pytest.approx(value, rel=0.0051)


def test_columns_are_shown_in_the_unit_of_their_heading() -> None:
    assert format.cell("ttft_s", 0.0292) == "29.2"
    assert format.cell("mfu", 0.2684) == "26.8"
    assert format.cell("memory_bytes", 51.26e9) == "51.3"
    assert format.cell("tp", 8) == "8"
    assert format.cell("mlperf_limits_met", []) == "none"
    assert format.cell("mlperf_limits_met", ["a", "b"]) == "a, b"
    assert format.full_name("tokens_per_s_per_user") == "Throughput per user, tokens/s"


def test_every_column_of_every_row_formats(one: KPerf) -> None:
    for row in one.rows:
        for key, *_ in COLUMNS:
            assert isinstance(format.cell(key, row[key]), str)


def test_figures_of_a_chip_read_in_their_units(one: KPerf) -> None:
    shown = {f.path: format.figure(f.path, f.value) for f in view.figures(one.chips[0])}
    assert shown["memory.bandwidth"] == "4.8 TB/s"
    assert shown["memory.capacity"] == "144 GB"
    assert shown["memory.usable"] == "90%"
    assert shown["levels.l1.capacity"] == "4 MiB"
    assert shown["clock"] == "976.56 MHz"
    assert shown["core.matrix.flops_per_cycle.fp8"] == "32,768 FLOP/cycle"
    assert shown["power.tdp"] == "600 W"
    assert shown["area.die"] == "320 mm²"


def test_terminal_text_has_no_control_characters() -> None:
    assert format.plain("a\x1b[31mb\nc") == "a?[31mb?c"
    assert format.columns_of("엑사원") == 6
    assert format.pad("엑사원", 8) == "엑사원  "


def test_binary_bytes() -> None:
    sizes = (512, 228 * 1024, 2.0**26, 2.0**31)
    assert [format.binary_bytes(size) for size in sizes] == ["512 B", "228 KiB", "64 MiB", "2 GiB"]
    assert math.isclose(float(format.shown("memory_bytes", 2e9)), 2.0)
