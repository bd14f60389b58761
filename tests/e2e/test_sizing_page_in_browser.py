"""What a browser does with the page of a sizing: it runs quietly, sorts, filters; hostile names are text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from npusim.report import sizing_page, sizing_view
from npusim.report.sizing_view import Board
from npusim.sizing.sizes import size

HOSTILE = """<script>alert(1)</script>"'></script><img src=x onerror=alert(2)>&amp;"""
TARGET = "llama-3.1-8b fp8 1000/200 tpot<=2ms ttft<=1s concurrency>=16 tp=1"


@pytest.fixture(scope="module")
def board() -> Board:
    found = size("npu-2pf", TARGET, vary={"memory.stacks": [2, 4, 6], "core.vector.lanes": [256, 512, 1024]},
                 objectives=("cost", "tpot"), fidelity="roofline")  # fmt: skip
    return sizing_view.of_sizing(found)


class Opened:
    """A loaded page and everything it complained about or asked for."""

    def __init__(self, browser: Any, folder: Path, board: Board, **context: Any) -> None:
        path = folder / "sizing.html"
        path.write_text(sizing_page.render(board), encoding="utf-8")
        self.page = browser.new_context(**context).new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url)

    def close(self) -> None:
        """The page stayed quiet."""
        assert self.complaints == []
        assert [url for url in self.requests if url != self.url and not url.startswith("data:")] == []
        self.page.context.close()

    def shown(self) -> int:
        return int(self.page.locator("#rows tbody tr:not([hidden])").count())


def test_rows_sort_and_filter(browser: Any, tmp_path: Path, board: Board) -> None:
    shown = Opened(browser, tmp_path, board)
    assert shown.shown() == len(board.items)
    heads = shown.page.locator("#rows thead th").all_text_contents()
    cost = next(i for i, text in enumerate(heads) if text.startswith("Chip cost"))
    shown.page.locator("#rows thead th button").nth(cost).click()
    keys = shown.page.eval_on_selector_all("#rows tbody tr", f"rows => rows.map(r => r.cells[{cost}].dataset.value)")
    known = [float(key) for key in keys if key]
    assert known == sorted(known) and len(set(known)) > 3
    shown.page.locator("label", has_text="Keeps to limits").locator("select").select_option("yes")
    assert shown.shown() == sum(item.feasible for item in board.items) < len(board.items)
    shown.page.locator("label", has_text="stacks").locator("select").select_option("6")
    assert shown.shown() == sum(item.feasible and item.parameters.get("memory.stacks") == 6 for item in board.items)
    shown.close()


@pytest.mark.parametrize("width", [800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(browser: Any, tmp_path: Path, board: Board, width: int, scheme: str) -> None:
    shown = Opened(browser, tmp_path, board, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    # Texts of charts stay inside them.
    outside = shown.page.evaluate(
        """() => [...document.querySelectorAll('#front svg text, #sensitivity svg text')].filter(text => {
             const a = text.getBoundingClientRect(), b = text.ownerSVGElement.getBoundingClientRect();
             return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
           }).map(text => text.textContent)"""
    )
    assert outside == []
    shown.close()


def test_hostile_names_stay_text(browser: Any, tmp_path: Path, board: Board) -> None:
    items = tuple(
        dataclasses.replace(item, name=HOSTILE, violated=(HOSTILE,), bound=HOSTILE, note=HOSTILE,
                            parameters={HOSTILE: HOSTILE, **item.parameters} if item.parameters else {})
        for item in board.items
    )  # fmt: skip
    swings = tuple(dataclasses.replace(swing, path=HOSTILE) for swing in board.swings)
    hostile = dataclasses.replace(
        board, title=HOSTILE, subtitle=HOSTILE, asked=(HOSTILE,), notes=(HOSTILE,) * 3, items=items, swings=swings,
        step=HOSTILE, parameters=(HOSTILE, *board.parameters), least=((HOSTILE,) * 4,),
        chip=board.chip.model_copy(update={"title": HOSTILE}),
    )  # fmt: skip
    shown = Opened(browser, tmp_path, hostile)
    assert HOSTILE in shown.page.locator("h1").text_content()
    assert shown.page.locator("img").count() == 0
    assert shown.page.locator("script").count() == 1
    assert shown.shown() == len(board.items)
    shown.page.locator("#rows thead th button").first.click()
    shown.close()
