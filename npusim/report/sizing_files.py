"""Files of a sweep's or a sizing's report: page, workbook, plots as SVG and PNG. They appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from npusim.errors import InputError, Problem
from npusim.report import sizing_page, sizing_plots, sizing_workbook
from npusim.report.files import write_files
from npusim.report.png import png
from npusim.report.sizing_view import Board

REPORTS = {".html": lambda board: sizing_page.render(board).encode(), ".xlsx": sizing_workbook.render}


def write_report(board: Board, path: str | os.PathLike[str]) -> Path:
    """Writes the page or the workbook, by the file's ending. Raises InputError for another one or a bad folder."""
    target = Path(path)
    render = REPORTS.get(target.suffix.lower())
    if render is None:
        raise InputError(Problem(f"'{target.name}' has no known ending", "--report", allowed=" or ".join(REPORTS)))
    return write_files(target.parent, {target.name: render(board)})[0]


def write_plots(board: Board, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes every chart as SVG and PNG. Raises InputError for a folder that cannot be written."""
    contents: dict[str, bytes] = {}
    for name, drawing in sizing_plots.all_of(board).items():
        document = drawing.document()
        contents |= {f"{name}.svg": document.encode(), f"{name}.png": png(document)}
    return write_files(folder, contents)
