"""What a browser does with the page: it runs without errors or requests, sorts, filters; hostile names are text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from npusim.kperf_suite import KPerf, kperf
from npusim.report import page

HOSTILE = """<script>alert(1)</script>"'></script><img src=x onerror=alert(2)>&amp;"""


@dataclasses.dataclass
class Opened:
    """A loaded page and everything it complained about or asked for."""

    page: Any
    url: str
    complaints: list[str]
    requests: list[str]

    def column(self, index: int) -> list[str]:
        """Texts of a column, visible rows only."""
        cells = self.page.eval_on_selector_all(
            "#rows tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{index}].textContent)")  # fmt: skip
        return [str(text) for text in cells]

    def values(self, index: int) -> list[str]:
        """Sort keys of a column."""
        keys = self.page.eval_on_selector_all(
            "#rows tbody tr", f"rows => rows.map(row => row.cells[{index}].dataset.value)")  # fmt: skip
        return [str(key) for key in keys]

    def head(self, text: str) -> Any:
        return self.page.locator("#rows thead th button").filter(has_text=text).first

    def index(self, text: str) -> int:
        heads = self.page.locator("#rows thead th").all_text_contents()
        return next(i for i, head in enumerate(heads) if head.startswith(text))


@pytest.fixture(scope="module")
def result() -> KPerf:
    return kperf(["rebel-quad", "h100"], models=["exaone-3.5-32b"], precisions=["bf16", "fp8"])


def show(browser: Any, folder: Path, result: KPerf, **context: Any) -> Opened:
    path = folder / "kperf.html"
    path.write_text(page.render(result), encoding="utf-8")
    tab = browser.new_context(**context).new_page()
    opened = Opened(tab, path.as_uri(), [], [])
    tab.on("console", lambda message: opened.complaints.append(message.text))
    tab.on("pageerror", lambda error: opened.complaints.append(str(error)))

    def refuse(dialog: Any) -> None:
        opened.complaints.append(f"dialog {dialog.message}")
        dialog.dismiss()

    tab.on("dialog", refuse)
    tab.on("request", lambda request: opened.requests.append(request.url))
    tab.goto(opened.url)
    return opened


@pytest.fixture
def opened(browser: Any, tmp_path: Path, result: KPerf) -> Iterator[Opened]:
    shown = show(browser, tmp_path, result)
    yield shown
    # Whatever a test did, the page stayed quiet.
    assert shown.complaints == []
    assert [url for url in shown.requests if url != shown.url and not url.startswith("data:")] == []
    shown.page.context.close()


def test_every_row_is_in_the_table(opened: Opened, result: KPerf) -> None:
    assert opened.page.locator("#rows tbody tr").count() == len(result.rows)
    assert opened.page.locator("#count").text_content() == f"{len(result.rows)} of {len(result.rows)} rows"


@pytest.mark.parametrize("by_key", [False, True])
def test_a_heading_sorts_numbers_up_then_down_and_gaps_last(opened: Opened, by_key: bool) -> None:
    index, head = opened.index("TPOT"), opened.head("TPOT")
    for direction in ("ascending", "descending"):
        head.press("Enter") if by_key else head.click()
        assert opened.page.locator("#rows thead th").nth(index).get_attribute("aria-sort") == direction
        keys = opened.values(index)
        known = [float(key) for key in keys if key]
        assert known == sorted(known, reverse=direction == "descending")
        assert len(set(known)) > 10
        assert keys[len(known) :] == [""] * (len(keys) - len(known))
    assert opened.page.locator("#rows th[aria-sort=ascending], #rows th[aria-sort=descending]").count() == 1


def test_a_heading_sorts_text(opened: Opened) -> None:
    opened.head("Precision").click()
    opened.head("Precision").click()
    shown = opened.column(opened.index("Precision"))
    assert shown == sorted(shown, reverse=True)
    assert set(shown) == {"bf16", "fp8"}


def test_filters_narrow_the_rows(opened: Opened, result: KPerf) -> None:
    opened.page.fill("#words", "h100 FP8")
    expected = [row for row in result.rows if row["chip"] == "h100" and row["precision"] == "fp8"]
    assert len(opened.column(0)) == len(expected)
    opened.page.select_option("select[data-column=fits]", "no")
    misfits = [row for row in expected if not row["fits"]]
    assert len(opened.column(0)) == len(misfits) > 0
    assert opened.page.locator("#count").text_content() == f"{len(misfits)} of {len(result.rows)} rows"
    opened.page.fill("#words", "")
    opened.page.select_option("select[data-column=fits]", "")
    column = opened.page.locator("label", has_text="Level").locator("select")
    column.select_option("max")
    assert len(opened.column(0)) == sum(row["concurrency_level"] == "max" for row in result.rows)


def test_tabs_choose_the_precision(opened: Opened) -> None:
    tabs = opened.page.get_by_role("tab")
    panels = opened.page.locator("[role=tabpanel]")
    assert [tabs.nth(i).get_attribute("aria-selected") for i in range(2)] == ["true", "false"]
    assert [panels.nth(i).is_visible() for i in range(2)] == [True, False]
    tabs.nth(0).press("ArrowRight")
    assert [panels.nth(i).is_visible() for i in range(2)] == [False, True]


@pytest.mark.parametrize("width", [800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(browser: Any, tmp_path: Path, result: KPerf, width: int, scheme: str) -> None:
    shown = show(browser, tmp_path, result, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    background = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    shown.page.context.close()


def test_without_scripts_everything_is_readable(browser: Any, tmp_path: Path, result: KPerf) -> None:
    shown = show(browser, tmp_path, result, java_script_enabled=False)
    assert shown.page.locator("[role=tabpanel]").nth(1).is_visible()
    assert shown.page.locator("#rows tbody tr").last.is_visible()
    shown.page.context.close()


def test_hostile_names_stay_text(browser: Any, tmp_path: Path, result: KPerf) -> None:
    words = {"name": HOSTILE, "title": HOSTILE, "vendor": HOSTILE, "notes": (HOSTILE,)}
    chips = tuple(
        chip.model_copy(update=words | {"sources": dict.fromkeys(chip.sources, HOSTILE)}) for chip in result.chips
    )
    names = {"chip": HOSTILE, "model": HOSTILE, "precision": HOSTILE + "2", "bound_prefill": HOSTILE}
    rows = tuple(row | names | {"mlperf_limits_met": [HOSTILE], "note": HOSTILE} for row in result.rows)
    suite = result.suite.model_copy(update={"name": HOSTILE, "title": HOSTILE, "assumptions": (HOSTILE,)})
    hostile = dataclasses.replace(result, suite=suite, chips=chips, rows=rows, notes=(HOSTILE,), fidelity=HOSTILE)
    shown = show(browser, tmp_path, hostile)
    assert shown.complaints == []
    assert shown.requests == [shown.url]
    assert HOSTILE in shown.page.locator("h1").text_content()
    assert shown.page.locator("img").count() == 0
    assert shown.page.locator("script").count() == 1
    assert shown.page.locator("#rows tbody tr").count() == len(result.rows)
    assert HOSTILE in shown.column(shown.index("Model"))
    shown.head("TTFT").click()
    shown.page.context.close()
