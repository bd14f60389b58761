"""Aligned columns of plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence


def columns(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Aligns cells in columns under headers with a rule between; ``right`` lists right-aligned columns."""
    widths = [max([len(headers[i]), *(len(row[i]) for row in rows)]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [line(headers), "  ".join("─" * width for width in widths), *(line(row) for row in rows)]


def wrap(text: str, width: int, indent: str = "") -> str:
    """Wraps a paragraph; following lines are indented."""
    return textwrap.fill(text, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
