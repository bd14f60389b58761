"""Is the page complete, small and the same every time? (What a browser does with it: tests/e2e.)"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from npusim.kperf_suite import COLUMNS, KPerf
from npusim.report import page, plots, svg, view

VOID = {"meta", "link", "input", "br"}


class Checker(HTMLParser):
    """Counts elements and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_structure_nests_and_ids_are_unique(
    one: KPerf, two: KPerf, nothing_fits: KPerf, one_token: KPerf, no_tdp: KPerf
) -> None:
    for result in (one, two, nothing_fits, one_token, no_tdp):
        checked = Checker(page.render(result))
        assert len(set(checked.ids)) == len(checked.ids)
        assert checked.count["script"] == checked.count["h1"] == 1


def test_every_row_and_definition_is_there(one: KPerf) -> None:
    text = page.render(one)
    body = text.split('<table id="rows">')[1].split("</table>")[0]
    assert body.count("<tr") == len(one.rows) + 1
    assert all(f"<dd>{svg.escape(definition)}</dd>" in text for *_, definition in COLUMNS)
    assert all(svg.escape(note) in text for note in one.notes)


def test_nothing_is_fetched(one: KPerf) -> None:
    text = page.render(one)
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:,)""", text)
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_is_small_and_the_same_every_time(one: KPerf) -> None:
    text = page.render(one)
    assert text == page.render(one)
    assert len(text.encode()) < 750_000


def test_charts_have_nothing_to_draw_where_nothing_fits(nothing_fits: KPerf) -> None:
    chips = view.by_chip(nothing_fits)
    assert plots.throughput(chips, "llama-3.1-405b") is None
    text = page.render(nothing_fits)
    assert "No row of this model fits" in text
    assert "nan" not in text.split("<main>")[1].lower().replace("tenant", "")


def test_no_coordinate_leaves_the_drawing(one: KPerf, two: KPerf) -> None:
    for result in (one, two):
        for drawing in re.findall(r"<svg.*?</svg>", page.render(result), re.S):
            width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing).groups())  # type: ignore[union-attr]
            limits = {"x": width, "cx": width, "x1": width, "y": height, "cy": height, "y2": height}
            for key, limit in limits.items():
                values = [float(v) for v in re.findall(rf' {key}="([^"]*)"', drawing)]
                assert all(-1 <= v <= limit + 1 for v in values), (key, limit)


def test_roofline_points_stay_under_their_roofs(one: KPerf) -> None:
    (chip,) = view.by_chip(one)
    assert chip.chip.memory is not None
    bandwidth = float(chip.chip.memory.bandwidth_bytes_per_s or 0)
    row = view.nearest_fitting(chip.case("llama-3.1-8b", "fp8"), "16")
    assert row is not None
    for name in ("prefill", "decode"):
        phase = view.phase(one, chip, row, name)
        assert phase is not None
        for op in phase.operators:
            if op.flops:
                roof = min(chip.chip.peaks_flops_per_s[op.rate], bandwidth * op.flops / op.dram_bytes)
                assert op.flops / op.time_s <= roof * 1.0001


@pytest.mark.parametrize(("low", "high"), [(1.0, 1024.0), (0.02, 3.0), (5.0, 6.0), (1e12, 3e15), (1.0, 1.0000001)])
def test_log_scales_have_ticks_within_their_limits(low: float, high: float) -> None:
    scale = svg.Scale(*svg.log_range([low, high]), 0.0, 100.0)
    assert 2 <= len(scale.ticks()) <= 14
    assert all(-0.1 <= scale(tick) <= 100.1 for tick in scale.ticks())
    assert scale(scale.low) == 0.0
    assert scale(scale.high * 10) == 100.0


def test_tick_labels_are_short() -> None:
    assert [svg.compact(v) for v in (0.02, 1, 50, 1024, 20000, 1e6, 5e14, 2e15)] == [
        "0.02", "1", "50", "1024", "20k", "1M", "500T", "2P"]  # fmt: skip
