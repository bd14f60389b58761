"""Building blocks of pages: one file, no request, its one script allowed by hash.

Everything a function takes as text is escaped; what it takes as HTML (a chart, cells) was made by one of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from string import Template

from npusim.report.svg import asset, escape

Section = tuple[str, str, str]  # id, heading, HTML


def document(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """A whole page. Nothing but its script, known by hash, could run."""
    script = asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(asset("page.html")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        nav="".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections),
        main="\n".join(_section(*section) for section in sections),
        style="\n".join(map(asset, ("colours.css", "chart.css", "page.css"))),
        script=script, script_hash=f"sha256-{digest}",
    )  # fmt: skip


def _section(key: str, name: str, body: str) -> str:
    return f'<section id="{key}"><h2>{escape(name)}</h2>\n{body}</section>'


def listed(items: Iterable[str]) -> str:
    """A list of texts."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def head(cells: Iterable[tuple[str, str, bool]]) -> str:
    """A table head from (heading, unit, numeric)."""
    parts = []
    for heading, unit, numeric in cells:
        small = f"<small>{escape(unit)}</small>" if unit else ""
        kind = ' class="n"' if numeric else ""
        parts.append(f'<th scope="col"{kind}>{escape(heading)}{small}</th>')
    return f"<thead><tr>{''.join(parts)}</tr></thead>"


def td(text: str, numeric: bool = True) -> str:
    """A cell."""
    return f'<td class="n">{escape(text)}</td>' if numeric else f"<td>{escape(text)}</td>"


def figure(title: str, chart: str | None, caption: str = "") -> str:
    """A chart with its title; says so where there is nothing to draw."""
    drawing = chart or '<p class="hint">Nothing to draw: no row with figures.</p>'
    small = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><h4>{escape(title)}</h4>{drawing}{small}</figure>"


def sortable(heading: str, unit: str = "", *, numeric: bool) -> str:
    """A heading of the table of all rows: a button that sorts it."""
    small = f"<small>{escape(unit)}</small>" if unit else ""
    kind = ' class="n"' if numeric else ""
    return f'<th scope="col" aria-sort="none"{kind}><button type="button">{escape(heading)}{small}</button></th>'


def select(name: str, column: str, values: Sequence[str]) -> str:
    """A filter of the table of all rows by the texts of one column."""
    options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
    return (
        f'<label>{escape(name)}<select data-column="{column}"><option value="">all</option>{options}</select></label>'
    )


def filters(selects: str, count: int, example: str) -> str:
    """The bar above the table of all rows: words, choices and how many rows are left."""
    words = f'<input id="words" type="search" placeholder="words, e.g. {escape(example)}" autocomplete="off">'
    return (f'<div class="filters"><label>Filter{words}</label>'
            f'{selects}<span id="count" class="hint" aria-live="polite">{count} rows</span></div>'
            '<p class="hint screen">Click a heading to sort, again to reverse.</p>')  # fmt: skip


def all_rows(head_cells: str, body: str, label: str) -> str:
    """The table that page.js sorts and filters."""
    return (f'<div class="tall" tabindex="0" role="region" aria-label="{escape(label)}">'
            f'<table id="rows"><thead><tr>{head_cells}</tr></thead>'
            f"<tbody>\n{body}\n</tbody></table></div>")  # fmt: skip
