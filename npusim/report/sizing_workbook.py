"""The workbook of a sweep or a sizing: the question, every design, sensitivities, inverse answers and K-Perf rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from npusim.errors import InputError, Problem
from npusim.kperf_suite import COLUMNS
from npusim.report import format, sizing_page
from npusim.report import sizing_view as view
from npusim.report.sizing_view import Board
from npusim.report.workbook import EPOCH

Cell = str | float | None


def render(board: Board) -> bytes:
    """The workbook. The same board gives the same bytes. Raises InputError when XlsxWriter is not installed."""
    try:
        import xlsxwriter
    except ImportError:
        problem = Problem("writing a workbook needs the package XlsxWriter", "xlsx", hint="pip install XlsxWriter")
        raise InputError(problem) from None
    buffer = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(buffer, options) as book:
        book.set_properties({"title": format.plain(board.title), "created": EPOCH, "comments": "Predictions."})
        _sheet(book, "Question", [["What was asked"], *([text] for text in (board.subtitle, *board.asked))], 100)
        rows = sizing_page.plain_rows(board)
        designs = _sheet(book, "Designs", rows, 14)
        designs.freeze_panes(1, 1)
        designs.autofilter(0, 0, max(len(rows) - 1, 1), len(rows[0]) - 1)
        _chart(book, board, len(rows))
        if board.swings:
            _sheet(book, "Elasticities", _elasticities(board), 22)
        if board.least:
            _sheet(book, "Least", [["Figure", "In the design", "Least", "Just below it"], *map(list, board.least)], 34)
        if board.kperf is not None and board.kperf.rows:
            keys = [key for key, *_ in COLUMNS]
            head = [format.full_name(key) for key in keys]
            _sheet(
                book, "K-Perf", [head, *([_kperf_cell(key, row[key]) for key in keys] for row in board.kperf.rows)], 13
            )
        notes = [*board.notes, *(board.kperf.notes if board.kperf is not None else ())]
        _sheet(book, "Notes", [["Notes"], *([note] for note in notes)], 130)
    return buffer.getvalue()


def _sheet(book: Any, name: str, rows: Sequence[Sequence[Cell]], width: int) -> Any:
    sheet = book.add_worksheet(name)
    head = book.add_format({"bold": True, "bg_color": "#1F3A5F", "font_color": "#FFFFFF", "text_wrap": True})
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            look = head if r == 0 else None
            if value is None:
                continue
            if isinstance(value, str):
                sheet.write_string(r, c, format.plain(value), look)
            else:
                sheet.write_number(r, c, value, look)
    sheet.set_column(0, max(max(map(len, rows), default=1) - 1, 0), width)
    return sheet


def _elasticities(board: Board) -> list[list[Cell]]:
    names = list(dict.fromkeys(name for swing in board.swings for name in swing.elasticity))
    rows: list[list[Cell]] = [["Figure", "low", "high", *map(view.heading, names)]]
    for swing in board.swings:
        rows.append([swing.path, *swing.ends, *(swing.elasticity.get(name) for name in names)])
    return rows


def _kperf_cell(key: str, value: Any) -> Cell:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) or key in format.TEXT_KEYS:
        return format.cell(key, value)
    return float(format.shown(key, value))


def _chart(book: Any, board: Board, rows: int) -> None:
    """The first two objectives as a native chart: designs and existing chips, each in a block of rows of its own."""
    if len(board.objectives) < 2 or rows < 2:
        return
    metrics = board.table_metrics()
    if not set(board.objectives[:2]) <= set(metrics):
        return
    columns = [2 + len(board.parameters) + metrics.index(name) for name in board.objectives[:2]]
    chart = book.add_chart({"type": "scatter"})
    count = len(board.designs)
    for name, first, last in (("designs", 1, count), ("existing chips", count + 1, len(board.items))):
        if last >= first:
            chart.add_series({"name": name, "categories": ["Designs", first, columns[0], last, columns[0]],
                              "values": ["Designs", first, columns[1], last, columns[1]]})  # fmt: skip
    chart.set_x_axis({"name": view.heading(board.objectives[0])})
    chart.set_y_axis({"name": view.heading(board.objectives[1])})
    chart.set_size({"width": 900, "height": 560})
    book.add_worksheet("Chart").insert_chart(0, 0, chart)
