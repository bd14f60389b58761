"""The HTML page: one file, no request, readable by an eye, a screen reader and a printer.

Everything that comes from a chip, a model or a suite is escaped; the one script is allowed by its hash,
so that nothing else could run even if an escape were missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from npusim import units
from npusim.kperf_suite import KPerf, assumed_note
from npusim.report import compare, format, plots, view
from npusim.report import html_parts as html
from npusim.report.svg import escape

CARD_KEYS = ("ttft_s", "tpot_s", "tokens_per_s", "mfu", "mbu", "tokens_per_j")
COMPARED_KEYS = ("ttft_s", "tpot_s", "tokens_per_s", "tokens_per_s_per_chip", "tokens_per_j")


def render(kperf: KPerf) -> str:
    """The page of a result as text."""
    chips = view.by_chip(kperf)
    models = [str(name) for name in view.unique(kperf.rows, "model")]
    sections = [("overview", "Overview", _overview(kperf, chips, models))]
    if len(chips) > 1:
        sections.append(("comparison", "Comparison", _comparison(kperf, chips)))
    sections += [(f"model-{i}", name, _model(kperf, chips, name, f"model-{i}")) for i, name in enumerate(models)]
    sections.append(("all", "All rows", _all_rows(kperf, chips)))
    sections += [(f"chip-{i}", f"Chip {one.label}", _chip(one)) for i, one in enumerate(chips)]
    sections += [("definitions", "Definitions", _definitions(kperf)), ("notes", "Notes", html.listed(kperf.notes))]
    fit = f"{len(kperf.fitting)} of {len(kperf.rows)} rows fit"
    about = (f"Suite {kperf.suite.name}", kperf.suite.title, f"fidelity {kperf.fidelity}", fit)
    title = "K-Perf prediction: " + ", ".join(one.chip.title for one in chips)
    return html.document(title, " · ".join(part for part in about if part), sections)


# -- sections ------------------------------------------------------------------------------------------


def _overview(kperf: KPerf, chips: Sequence[view.ChipRows], models: Sequence[str]) -> str:
    banner = _banner(kperf, chips)
    if not kperf.rows:
        return banner
    reference = "/".join(map(str, view.reference_length(kperf.rows)))
    intro = (f'<p class="hint">Input/output {reference} tokens; C is the number of concurrent requests, '
             "max the largest that fits. All lengths are under All rows.</p>")  # fmt: skip
    cards = "".join(card(kperf, chips, model) for model in models)
    return f'{banner}{intro}<div class="cards{" one" if len(chips) > 1 else ""}">{cards}</div>'


def _banner(kperf: KPerf, chips: Sequence[view.ChipRows]) -> str:
    """The assumptions nobody may overlook, and all others one click away."""
    first = list(kperf.suite.assumptions[:1])
    for one in chips:
        assumed = assumed_note(one.chip)
        first.append(f"{one.label}: {assumed}" if assumed else f"{one.label}: no figure of the chip file is assumed.")
    count = f"All {len(kperf.notes)} assumptions and notes"
    more = f"<details><summary>{count}</summary>{html.listed(kperf.notes)}</details>"
    text = f"<strong>ASSUMPTION</strong> Predictions of the {escape(kperf.fidelity)} model, not measurements."
    return f'<div class="assumption" role="note">{text}{html.listed(first)}{more}</div>'


def card(kperf: KPerf, chips: Sequence[view.ChipRows], model: str) -> str:
    """Headline rows of a model."""
    many = len(chips) > 1
    head = [("Precision", "", False), *([("Chip", "", False), ("Chips", "", True)] if many else []), ("C", "", True)]
    head += [(format.HEADING[key], format.UNIT[key], True) for key in CARD_KEYS]
    body = []
    for precision in view.unique(kperf.rows, "precision"):
        found = [(chip, row) for chip in chips for row in view.headline(chip.case(model, precision))]
        for index, (chip, row) in enumerate(found):
            size = "" if many else f"<small>{format.chips(row['tp'])}</small>"
            lead = "" if index else f'<th scope="rowgroup" rowspan="{len(found)}">{escape(precision)}{size}</th>'
            lead += html.td(chip.label, False) + html.td(str(row["tp"])) if many else ""
            body.append(_card_row(lead, row, last=index == len(found) - 1))
    table = f"<table>{html.head(head)}<tbody>{''.join(body)}</tbody></table>"
    return f'<div class="card"><h3>{escape(model)}</h3>{table}</div>'


def _card_row(lead: str, row: view.Row, *, last: bool) -> str:
    kind = " ".join(name for name, on in (("misfit", not row["fits"]), ("last", last)) if on)
    start = f'<tr class="{kind}">' if kind else "<tr>"
    lead += html.td(format.concurrency(row))
    if not row["fits"]:
        return f'{start}{lead}<td colspan="{len(CARD_KEYS)}">{escape(row["note"])}</td></tr>'
    return f"{start}{lead}{''.join(_card_cell(row, key) for key in CARD_KEYS)}</tr>"


def _card_cell(row: view.Row, key: str) -> str:
    """A figure; below a time the measured times expected, where calibrations were allowed."""
    phase = key.removesuffix("_s")
    if row.get(f"{phase}_low_s") is None:
        return html.td(format.cell(key, row[key]))
    state = row["state_prefill" if phase == "ttft" else "state_decode"]
    small = f"<br><small>{escape(format.interval(row, phase))}<br>{escape(state)}</small>"
    return f'<td class="n">{escape(format.cell(key, row[key]))}{small}</td>'


def _comparison(kperf: KPerf, chips: Sequence[view.ChipRows]) -> str:
    first = chips[0].label
    head = [("Model", "", False), ("Precision", "", False), ("In/Out", "tokens", True), ("Chip", "", False),
            ("Chips", "", True), ("C", "", True)]  # fmt: skip
    for key in COMPARED_KEYS:
        head += [(format.HEADING[key], format.UNIT[key], True), ("ratio", "", True)]
    body = []
    for joined in compare.headline(kperf):
        shown = [
            (i, chip.label, row)
            for i, (chip, row) in enumerate(zip(chips, joined.rows, strict=True))
            if row is not None
        ]
        model, precision, inputs, outputs, _ = joined.condition
        span = f' rowspan="{len(shown)}"'
        lead = f'<th scope="rowgroup"{span}>{escape(model)}</th><td{span}>{escape(precision)}</td>'
        lead += f'<td{span} class="n">{inputs}/{outputs}</td>'
        for index, label, row in shown:
            body.append(_compared("" if index else lead, label, row, joined, index))
    chart = html.figure("Ratio at the largest concurrency", plots.ratios(kperf),
                    f"Right of 1x is better than {first}. Each chip at its own largest concurrency.")  # fmt: skip
    table = f'<div class="scroll"><table class="tight">{html.head(head)}<tbody>{"".join(body)}</tbody></table></div>'
    return (f'{chart}<p class="hint">Ratios are to {escape(first)} under the same condition; max joins with max, '
            f"whatever the concurrency. For TTFT and TPOT less is better.</p>{table}")  # fmt: skip


def _compared(lead: str, label: str, row: view.Row, joined: compare.Joined, index: int) -> str:
    cells = [lead, html.td(label, False), html.td(str(row["tp"])), html.td(format.concurrency(row))]
    if not row["fits"]:
        return (
            f'<tr class="misfit">{"".join(cells)}<td colspan="{2 * len(COMPARED_KEYS)}">{escape(row["note"])}</td></tr>'
        )
    for key in COMPARED_KEYS:
        cells += [
            html.td(format.cell(key, row[key])),
            html.td(format.ratio(joined.ratio(key, index)) if index else ""),
        ]
    return f"<tr>{''.join(cells)}</tr>"


Chart = Callable[[Sequence[view.ChipRows], str], "str | None"]


def _model(kperf: KPerf, chips: Sequence[view.ChipRows], model: str, key: str) -> str:
    if not any(row["fits"] for row in kperf.rows if row["model"] == model):
        return '<p class="hint">No row of this model fits; All rows says what is short.</p>'
    reference = "/".join(map(str, view.reference_length(kperf.rows)))
    charts: tuple[tuple[str, Chart, str], ...] = (
        ("Throughput against concurrency", plots.throughput, f"Input/output {reference} tokens; per chip."),
        ("Throughput against speed per user", plots.pareto, f"Input/output {reference} tokens; up, right is better."),
        ("Time to first token", plots.ttft, "One prompt on an idle system."),
        ("Efficiency", plots.efficiency, f"Input/output {reference} tokens; output tokens per joule of all chips."),
    )  # fmt: skip
    figures = "".join(html.figure(title, draw(chips, model), caption) for title, draw, caption in charts)
    precisions = [str(name) for name in view.unique(kperf.rows, "precision")]
    ids = [(f"{key}-t{i}", f"{key}-p{i}", name) for i, name in enumerate(precisions)]
    tabs = "".join(f'<button type="button" role="tab" id="{tab}" aria-controls="{panel}">{escape(name)}</button>'
                   for tab, panel, name in ids)  # fmt: skip
    panels = "".join(f'<div role="tabpanel" id="{panel}" aria-labelledby="{tab}">'
                     + "".join(inside(kperf, chip, model, name, len(chips) > 1) for chip in chips) + "</div>"
                     for tab, panel, name in ids)  # fmt: skip
    choose = f'<div class="tabs" role="tablist" aria-label="Precision, {escape(model)}" hidden>{tabs}</div>'
    return f'<div class="pair">{figures}</div><h3>What bounds it</h3>{choose}{panels}'


def inside(kperf: KPerf, chip: view.ChipRows, model: str, precision: str, named: bool) -> str:
    """Roofline, bounds and operators of one case."""
    rows = chip.case(model, precision)
    row = view.nearest_fitting(rows, view.middle_level(rows)) if rows else None
    both = [view.phase(kperf, chip, row, name) for name in ("prefill", "decode")] if row else []
    shown = [one for one in both if one is not None]
    if row is None or not shown:
        why = "No row fits." if row is None else "The operators of this variant are not kept."
        return f'<p class="hint">{escape(f"{chip.label}, {precision}: {why}")}</p>'
    title = f"{chip.label}: " if named else ""
    one_of = "One chip" if row["tp"] == 1 else f"One of {row['tp']} chips"
    caption = (f"Area: share of the phase's time. {one_of}. Dashed slopes: on-chip memories, drawn "
               "against the same axis. Operators without matrix FLOPs are in the list only.")  # fmt: skip
    bars = [view.phase(kperf, chip, one, "prefill") for one in view.by_input(rows)]
    bars += [view.phase(kperf, chip, one, "decode") for one in view.at_reference(rows)]
    stacked = plots.bounds([one for one in bars if one is not None])
    left = html.figure(f"{title}Roofline, {precision}", plots.roofline(chip, shown), caption)
    decode = "" if row["output_tokens"] == 1 else f"Decode: mean step at {format.lengths(row)}. "
    right = html.figure(f"{title}Share of time by bound, {precision}", stacked,
                    f"{decode}Right: time of the prompt or step.")  # fmt: skip
    return f'<div class="pair wide">{left}<div>{right}{_operators(shown)}</div></div>'


def _operators(phases: Sequence[view.Phase]) -> str:
    head = html.head(
        [
            ("Operator", "", False),
            ("Share", "%", True),
            ("Bound", "", False),
            ("FLOP/B", "", True),
            ("Attained", "", True),
        ]
    )
    parts = []
    for one in phases:
        body = "".join(_operator(op) for op in one.operators)
        parts.append(f"<h4>{escape(one.title)}</h4><table>{head}<tbody>{body}</tbody></table>")
    return f"<details><summary>Operators</summary>{''.join(parts)}</details>"


def _operator(op: view.Operator) -> str:
    intensity = format.number(op.flops / op.dram_bytes) if op.dram_bytes and op.flops else "-"
    rate = units.show(op.flops / op.time_s, "FLOP/s") if op.flops and op.time_s else "-"
    share = html.td(f"{op.share:.1%}".rstrip("%"))
    cells = f"{share}{html.td(op.bound, False)}{html.td(intensity)}{html.td(rate)}"
    return f'<tr><th scope="row">{escape(op.name)}</th>{cells}</tr>'


def _all_rows(kperf: KPerf, chips: Sequence[view.ChipRows]) -> str:
    keys = [key for key, *_ in kperf.columns if key != "chip" or len(chips) > 1]
    keys.insert(keys.index("concurrency") + 1, "concurrency_level")
    head = "".join(_sortable(key) for key in keys)
    body = "\n".join(_row(chip.label, row, keys) for chip in chips for row in chip.rows)
    choices = {key: [one.label for one in chips] if key == "chip" else [str(v) for v in view.unique(kperf.rows, key)]
               for key in ("chip", "model", "precision", "concurrency_level") if key in keys}  # fmt: skip
    selects = "".join(html.select(_heading(key), str(keys.index(key)), names) for key, names in choices.items())
    selects += html.select("Fits", "fits", ["yes", "no"])
    return html.filters(selects, len(kperf.rows), "2048 dram") + html.all_rows(head, body, "All rows")


def _heading(key: str) -> str:
    return "Level" if key == "concurrency_level" else format.HEADING[key]


def _sortable(key: str) -> str:
    return html.sortable(_heading(key), format.UNIT.get(key, ""), numeric=_numeric(key))


def _numeric(key: str) -> bool:
    return key not in format.TEXT_KEYS and key != "concurrency_level"


def _row(label: str, row: view.Row, keys: Sequence[str]) -> str:
    cells = []
    for key in keys:
        value = label if key == "chip" else format.value(row, key)
        if not _numeric(key):
            cells.append(f"<td>{escape(value if key == 'concurrency_level' else format.cell(key, value))}</td>")
            continue
        text = format.cell(key, value)
        sort = "" if value is None else f"{value:.7g}"
        cells.append(f'<td data-value="{sort}">{escape(text)}</td>')
    kind = "" if row["fits"] else ' class="misfit"'
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _chip(one: view.ChipRows) -> str:
    chip = one.chip
    about = ", ".join(part for part in (chip.vendor, chip.category) if part)
    peaks = "; ".join(f"{name} {units.show(value, 'FLOP/s', 4)}" for name, value in chip.peaks_flops_per_s.items())
    derived = [("Peak (dense)", peaks)]
    if chip.memory is not None and chip.memory.bandwidth_bytes_per_s:
        bandwidth = units.show(chip.memory.bandwidth_bytes_per_s, "B/s", 4)
        derived.append(("Main memory", f"{units.show(chip.memory.capacity_bytes, 'B', 4)}, {bandwidth}"))
    if chip.levels:
        derived.append(("On-chip memory", format.binary_bytes(chip.sram_bytes)))
    if chip.power.tdp_w:
        derived.append(("TDP", units.show(chip.power.tdp_w, "W")))
    facts = "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in derived) + "</dl>"
    head = html.head(
        [("Figure", "", False), ("Value", "", False), ("Status", "", False), ("Source", "", False), ("Note", "", False)]
    )
    body = "".join(_fact(figure) for figure in view.figures(chip))
    notes = html.listed(chip.notes) if chip.notes else ""
    return (f'<p class="sub">{escape(chip.title)}{escape(f" ({about})" if about else "")}</p>{facts}{notes}'
            f'<p class="hint">Highlighted: assumed by us or overridden. Default: not stated by the chip file.</p>'
            f'<div class="scroll"><table class="wrap">{head}<tbody>{body}</tbody></table></div>')  # fmt: skip


def _fact(figure: view.Figure) -> str:
    kind = ' class="assumed"' if figure.status == "assumed" else ""
    cells = (format.figure(figure.path, figure.value), figure.status, figure.source, figure.note)
    return f'<tr{kind}><th scope="row">{escape(figure.path)}</th>{"".join(html.td(text, False) for text in cells)}</tr>'


def _definitions(kperf: KPerf) -> str:
    items = "".join(f"<dt>{escape(heading)}{f' ({escape(unit)})' if unit else ''}</dt><dd>{escape(text)}</dd>"
                    for _, heading, unit, text in kperf.columns)  # fmt: skip
    return f"<dl>{items}</dl>"
