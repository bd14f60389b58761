"""The page of a sweep or a sizing: one file that needs nothing else, by the building blocks of ``html_parts``."""

from __future__ import annotations

from npusim.report import format, page, sizing_plots
from npusim.report import html_parts as html
from npusim.report import sizing_view as view
from npusim.report import view as kperf_view
from npusim.report.sizing_view import Board, Item
from npusim.report.svg import escape

MOST_ROWS = 5_000  # of the table of all designs; the workbook and exports hold every one


def render(board: Board) -> str:
    """The page as text."""
    sections = [("overview", "Overview", _overview(board)), ("front", "Front", _front(board))]
    if tornado := _tornados(board):
        sections.append(("sensitivity", "Sensitivity", tornado))
    if board.least:
        sections.append(("least", "The least that reaches the target", _least(board)))
    sections.append(("all", "All designs", _all(board)))
    sections.append(("choice", "The chosen chip", _choice(board)))
    sections.append(("notes", "Notes", html.listed(_notes(board))))
    return html.document(board.title, board.subtitle, sections)


def _notes(board: Board) -> list[str]:
    return [*board.notes, *(board.kperf.notes if board.kperf is not None else ())]


# -- overview --------------------------------------------------------------------------------------------


def _overview(board: Board) -> str:
    feasible = sum(item.feasible for item in board.designs)
    text = "<strong>ASSUMPTION</strong> Predictions of a model, not measurements."
    banner = f'<div class="assumption" role="note">{text}{html.listed(board.notes[1:3])}</div>'
    said = f"{feasible} of {len(board.designs)} designs keep to every limit; {len(_on_front(board))} are on the front."
    parts = [banner, f"<p>{escape(said)}</p>", html.listed(board.asked)]
    if board.choice is None:
        reasons: dict[str, int] = {}
        for item in board.designs:
            for text in item.violated:
                reasons[text] = reasons.get(text, 0) + 1
        most = sorted(reasons.items(), key=lambda pair: -pair[1])[:6]
        parts.append("<p>No design does. What is in the way:</p>")
        parts.append(html.listed(f"{text}: {count} designs" for text, count in most))
    else:
        parts.append(_chosen_facts(board, board.items[board.choice]))
    return "".join(parts)


def _chosen_facts(board: Board, item: Item) -> str:
    pairs = [(path, view.parameter(path, value)) for path, value in item.parameters.items()]
    pairs += [(view.heading(name), view.cell(name, item.metrics.get(name))) for name in board.table_metrics()]
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<h3>{escape(f'Chosen: {item.name}')}</h3><dl>{facts}</dl>"


def _on_front(board: Board) -> list[Item]:
    return [item for item in board.designs if "front" in item.marks]


def _drawn(drawing: sizing_plots.Drawing | None) -> str | None:
    return drawing.element() if drawing is not None else None


def _front(board: Board) -> str:
    caption = ("Points that no other design beats in every objective are joined. What lies beyond twice the range of "
               "the front is left out. Hover for figures.")  # fmt: skip
    first = html.figure("Objectives", _drawn(sizing_plots.pareto(board)), caption)
    lines = html.figure("Every design", _drawn(sizing_plots.parallel(board)),
                        "One line per design; objectives are drawn with the better end up.")  # fmt: skip
    rows = [*_on_front(board), *(item for item in board.items if item.existing)]
    if board.choice is not None and "front" not in board.items[board.choice].marks:
        rows.insert(0, board.items[board.choice])
    heads = [("Design", "", False), *((view.short_path(p, board.parameters), "", True) for p in board.parameters)]
    heads += [(*_split(name), True) for name in board.table_metrics()]
    heads.append(("Misses", "", False))
    body = "".join(_front_row(board, item) for item in rows)
    table = f'<div class="scroll"><table class="tight">{html.head(heads)}<tbody>{body}</tbody></table></div>'
    return f'<div class="pair">{first}{lines}</div><h3>Front and existing chips</h3>{table}'


def _split(name: str) -> tuple[str, str]:
    text, _, unit = view.heading(name).partition(", ")
    return text, unit


def _front_row(board: Board, item: Item) -> str:
    marks = [mark for mark in item.marks if mark != "front"]
    name = f"{item.name}{f', {chr(32).join(marks)}' if marks else ''}{f' ({item.note})' if item.note else ''}"
    cells = [html.td(view.parameter(p, item.parameters[p]) if p in item.parameters else "") for p in board.parameters]
    cells += [html.td(view.cell(key, item.metrics.get(key))) for key in board.table_metrics()]
    cells.append(html.td("; ".join(item.violated), False))
    kind = ' class="misfit"' if item.violated else ' class="assumed"' if "best" in item.marks else ""
    return f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


# -- sensitivity and inverse answers ---------------------------------------------------------------------


def _tornados(board: Board) -> str:
    caption = f"Ends: {board.step}. Elasticity: d ln metric / d ln figure."
    drawings = [
        html.figure(view.heading(name), _drawn(sizing_plots.tornado(board, name)), caption)
        for name in sizing_plots.tornado_metrics(board)
    ]
    return f'<div class="pair">{"".join(drawings)}</div>' if drawings else ""


def _least(board: Board) -> str:
    head = html.head(
        [("Figure", "", False), ("In the design", "", True), ("Least", "", True), ("Just below it", "", False)]
    )
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{html.td(now)}{html.td(answer)}{html.td(fails, False)}</tr>'
        for name, now, answer, fails in board.least
    )
    hint = '<p class="hint">Everything else as in the chosen design; both values were evaluated.</p>'
    return f'{hint}<div class="scroll"><table class="wrap">{head}<tbody>{body}</tbody></table></div>'


# -- all designs -----------------------------------------------------------------------------------------


def _all(board: Board) -> str:
    items = _kept(board)
    texts = ["Design", "Front"]
    heads = [html.sortable(text, numeric=False) for text in texts]
    heads += [html.sortable(view.short_path(p, board.parameters), numeric=True) for p in board.parameters]
    heads += [html.sortable(*_split(name), numeric=True) for name in board.table_metrics()]
    heads += [html.sortable(text, numeric=False) for text in ("Bound", "Misses")]
    body = "\n".join(_all_row(board, item) for item in items)
    first = len(texts)
    chosen = []
    for offset, path in enumerate(board.parameters):
        values = list(dict.fromkeys(item.parameters[path] for item in board.designs if path in item.parameters))
        if 1 < len(values) <= 24:
            names = [view.parameter(path, value) for value in values]
            chosen.append(html.select(view.short_path(path, board.parameters), str(first + offset), names))
    chosen.append(html.select("Keeps to limits", "fits", ["yes", "no"]))
    chosen.append(html.select("Front", "1", ["front", "front knee", "front best", "front knee best", "existing"]))
    hint = "" if len(items) == len(board.items) else (
        f'<p class="hint">{len(items)} of {len(board.items)}: those that keep to every limit first; '
        "the workbook and exports hold all.</p>")  # fmt: skip
    return (
        html.filters("".join(chosen), len(items), "design 12")
        + hint
        + html.all_rows("".join(heads), body, "All designs")
    )


def _kept(board: Board) -> list[Item]:
    if len(board.items) <= MOST_ROWS:
        return list(board.items)
    rank = sorted(board.items, key=lambda item: (not item.marks, not item.existing, not item.feasible))
    return rank[:MOST_ROWS]


def _all_row(board: Board, item: Item) -> str:
    cells = [f"<td>{escape(item.name)}</td><td>{escape('existing' if item.existing else ' '.join(item.marks))}</td>"]
    for path in board.parameters:
        value = item.parameters.get(path)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = "" if value is None else view.parameter(path, value)
        sort = f' data-value="{value:.9g}"' if number else ' data-value=""' if value is None else ""
        cells.append(f"<td{sort}>{escape(text)}</td>")
    for name in board.table_metrics():
        known = item.metrics.get(name)
        sort = "" if known is None else f"{known:.7g}"
        cells.append(f'<td data-value="{sort}">{escape(view.cell(name, known))}</td>')
    cells.append(f"<td>{escape(item.bound)}</td><td>{escape('; '.join(item.violated))}</td>")
    kind = "" if item.feasible else ' class="misfit"'
    return f"<tr{kind}>{''.join(cells)}</tr>"


# -- the chosen chip -------------------------------------------------------------------------------------


def _choice(board: Board) -> str:
    found = board.kperf
    about = f'<p class="sub">{escape(board.chip.title)}</p>'
    if found is None or not found.rows:
        return about + '<p class="hint">No K-Perf rows: the models of the question have none.</p>'
    chips = kperf_view.by_chip(found)
    models = [str(name) for name in kperf_view.unique(found.rows, "model")]
    length = "/".join(map(str, kperf_view.reference_length(found.rows)))
    intro = (f'<p class="hint">K-Perf suite {escape(found.suite.name)}, input/output {escape(length)} tokens, fidelity '
             f"{escape(found.fidelity)}; C is the number of concurrent requests.</p>")  # fmt: skip
    cards = "".join(page.card(found, chips, model) for model in models)
    inside = []
    for model in models:
        for precision in map(str, kperf_view.unique(found.rows, "precision")):
            inside.append(f"<h3>{escape(f'What bounds {model} in {precision}')}</h3>")
            inside += [page.inside(found, chip, model, precision, False) for chip in chips]
    return f'{about}{intro}<div class="cards">{cards}</div>{"".join(inside)}'


def plain_rows(board: Board) -> list[list[str | float | None]]:
    """Headings and every item as one row of plain values, for the workbook."""
    heads: list[str | float | None] = ["Design", "Front", *board.parameters, *map(view.heading, board.table_metrics())]
    rows: list[list[str | float | None]] = [[*heads, "Bound", "Misses"]]
    for item in board.items:
        row: list[str | float | None] = [item.name, "existing" if item.existing else " ".join(item.marks)]
        row += [_plain(item.parameters.get(path)) for path in board.parameters]
        for name in board.table_metrics():
            value = item.metrics.get(name)
            row.append(None if value is None else view.shown(name, value))
        rows.append([*row, format.plain(item.bound), format.plain("; ".join(item.violated))])
    return rows


def _plain(value: object) -> str | float | None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    return format.plain(value)
