"""The Excel workbook: headline, charts, every row per model, comparison, chips with sources, definitions.

Charts are native Excel charts over a sheet of plain numbers, so that a reader can restyle them or take
the numbers. The same result gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from npusim import units
from npusim.accuracy import trust
from npusim.errors import InputError, Problem
from npusim.kperf_suite import KPerf, assumed_note
from npusim.report import compare, format, view
from npusim.report.workbook_charts import Charts

EPOCH = datetime(2025, 12, 10)  # the day K-Perf was announced; a time of writing would change the bytes
HEADLINE = ("tp", "concurrency", "ttft_s", "tpot_s", "tokens_per_s", "tokens_per_s_per_user", "tokens_per_s_per_chip",
            "mfu", "mbu", "avg_power_w", "tokens_per_j", "bound_prefill", "bound_decode")  # fmt: skip
SCALED = ("tokens_per_s_per_chip", "tokens_per_j", "mfu", "mbu")  # columns with a colour scale
CHIP_WIDTHS = (34, 22, 12, 75, 60)
CENTRED = ("bound_prefill", "bound_decode", "concurrency_level", *format.STATE_KEYS)
WIDTH = {
    "chip": 16,
    "model": 18,
    "mlperf_limits_met": 34,
    "note": 40,
    "bound_prefill": 13,
    "bound_decode": 13,
    "concurrency": 12,
}


def render(kperf: KPerf) -> bytes:
    """The workbook of a result. Raises InputError when the spreadsheet library is not installed."""
    try:
        import xlsxwriter
    except ImportError:
        raise InputError(Problem("writing a workbook needs the package XlsxWriter", "xlsx",
                                 hint="pip install XlsxWriter")) from None  # fmt: skip
    buffer = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(buffer, options) as book:
        book.set_properties(
            {"title": "K-Perf prediction", "created": EPOCH, "comments": "Predictions, not measurements."}
        )
        _Writer(book, kperf).all()
    return buffer.getvalue()


@dataclass
class _Writer:
    """Writes the sheets; ``names`` keeps sheet names unique."""

    book: Any
    kperf: KPerf
    names: set[str] = field(default_factory=set)
    formats: dict[tuple[tuple[str, Any], ...], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chips = view.by_chip(self.kperf)
        at = HEADLINE.index("tpot_s") + 1
        trusted = [key for key, *_ in trust.COLUMNS] if self.kperf.calibrated else []
        self.headline_keys = (*HEADLINE[:at], *trusted, *HEADLINE[at:])
        self.models = [str(name) for name in view.unique(self.kperf.rows, "model")]

    def all(self) -> None:
        """Writes every sheet. Sheets appear in the order they are added."""
        summary, graphs = self.sheet("Summary"), self.sheet("Charts")
        summary.set_portrait()
        summary.fit_to_pages(1, 1)
        for model in self.models:
            self.model(model)
        if len(self.chips) > 1:
            compared = self.comparison()
        for one in self.chips:
            self.chip(one)
        self.definitions()
        self.notes()
        charts = Charts(self.book, self.sheet("Chart data"), self.chips, self.models)
        if len(self.chips) > 1:
            charts.ratios(compared[0], (1, compared[1]), self.kperf)
        self.summary(summary, charts)
        self.graphs(graphs, charts)

    # -- helpers -----------------------------------------------------------------------------------

    def sheet(self, wanted: str) -> Any:
        """A new sheet; its name is made legal and unique."""
        base = re.sub(r"[\[\]:*?/\\]", "_", format.plain(wanted)).strip("'")[:31] or "Sheet"
        name, count = base, 1
        while name.lower() in self.names or name.lower() == "history":
            count += 1
            name = f"{base[: 31 - len(str(count)) - 1]}~{count}"
        self.names.add(name.lower())
        sheet = self.book.add_worksheet(name)
        sheet.hide_gridlines(2)
        sheet.set_landscape()
        sheet.set_paper(9)  # A4
        sheet.fit_to_pages(1, 0)
        sheet.set_footer("&L&A&RPage &P of &N")
        return sheet

    def style(self, **given: Any) -> Any:
        """A cell format, made once."""
        key = tuple(sorted(given.items()))
        if key not in self.formats:
            self.formats[key] = self.book.add_format(
                {"font_name": "Calibri", "font_size": 10, "valign": "vcenter", **given}
            )
        return self.formats[key]

    def head(self, sheet: Any, row: int, names: Iterable[str], col: int = 0) -> None:
        """A heading row."""
        style = self.style(bold=True, bg_color="#1F3A5F", font_color="#FFFFFF", text_wrap=True,
                           valign="vcenter", align="center",
                           border=1, border_color="#FFFFFF")  # fmt: skip
        for index, name in enumerate(names):
            sheet.write_string(row, col + index, name, style)
        sheet.set_row(row, 32)

    def title(self, sheet: Any, text: str, below: str = "") -> None:
        """Title lines in the first two rows."""
        sheet.write_string(0, 0, format.plain(text), self.style(bold=True, font_size=16))
        sheet.write_string(1, 0, format.plain(below), self.style(font_color="#57606A"))
        sheet.set_row(0, 26)

    def put(self, sheet: Any, row: int, col: int, key: str, one: view.Row, **look: Any) -> None:
        """One cell of a result row, with the number format of its column."""
        found = format.value(one, key)
        if found is None:
            sheet.write_blank(row, col, None, self.style(**look))
        elif key in format.TEXT_KEYS or isinstance(found, str):
            text = found if key == "concurrency_level" else format.cell(key, found)
            sheet.write_string(
                row, col, format.plain(text), self.style(align="center" if key in CENTRED else "left", **look)
            )
        else:
            number = found if key == "mfu" or key == "mbu" else format.shown(key, found)
            sheet.write_number(row, col, number, self.style(num_format=_number_format(key, number), **look))

    # -- sheets ------------------------------------------------------------------------------------

    def summary(self, sheet: Any, charts: Charts) -> None:
        """Headline figures per model, what is assumed, and charts over all models."""
        kperf = self.kperf
        self.title(sheet, "K-Perf prediction: " + ", ".join(one.chip.title for one in self.chips),
                   f"Suite {kperf.suite.name}: {kperf.suite.title}; fidelity {kperf.fidelity}; "
                   f"{len(kperf.fitting)} of {len(kperf.rows)} rows fit")  # fmt: skip
        row = self.assumption_box(sheet, 3)
        if self.models:
            length = "/".join(map(str, view.reference_length(kperf.rows)))
            sheet.write_string(row, 0, f"Headline: input/output {length} tokens", self.style(bold=True, font_size=12))
            row = self.headline(sheet, row + 1)
            charts.overview(sheet, row + 1)
            if len(self.chips) > 1:
                charts.ratios(sheet, (row + 1 + charts.ROWS, 0), self.kperf)
        sheet.set_column(0, 0, 20)
        sheet.set_column(1, 2, 13)
        sheet.set_column(3, 16, 11)

    def assumption_box(self, sheet: Any, row: int) -> int:
        """A highlighted box; returns the row below it."""
        lines = ["ASSUMPTION: predictions, not measurements."]
        lines += self.kperf.suite.assumptions[:1]
        for one in self.chips:
            assumed = assumed_note(one.chip)
            lines.append(
                f"{one.label}: {assumed}" if assumed else f"{one.label}: no figure of the chip file is assumed."
            )
        lines.append(f"All {len(self.kperf.notes)} assumptions are on the sheet Notes.")
        for index, text in enumerate(lines):
            look = self.style(bg_color="#FFF4D6", text_wrap=True, bold=index == 0, left=5, left_color="#B98900")
            sheet.merge_range(row + index, 0, row + index, 15, "", look)
            sheet.write_string(row + index, 0, format.plain(text), look)
            sheet.set_row(row + index, 14 * (1 + len(text) // 165))
        return row + len(lines) + 1

    def headline(self, sheet: Any, row: int) -> int:
        """The headline table of every model; returns the row below it."""
        self.head(sheet, row, ["Model", "Chip", "Precision", *(_heading(key) for key in self.headline_keys)])
        for model in self.models:
            first = True
            for precision in view.unique(self.kperf.rows, "precision"):
                for one in self.chips:
                    for found in view.headline(one.case(model, precision)):
                        row += 1
                        self.headline_row(sheet, row, (model if first else "", one.label, precision), found, first)
                        first = False
        return row + 1

    def headline_row(self, sheet: Any, row: int, lead: tuple[str, ...], found: view.Row, first: bool) -> None:
        """One row; the first of a model has a line above it."""
        look: dict[str, Any] = {"top": 1, "top_color": "#57606A"} if first else {}
        for col, text in enumerate(lead):
            sheet.write_string(row, col, format.plain(text), self.style(bold=col == 0, **look))
        if found["fits"]:
            for col, key in enumerate(self.headline_keys, len(lead)):
                self.put(sheet, row, col, key, found, **look)
            return
        grey = {**look, "font_color": "#7A828C", "italic": True}
        for col, key in enumerate(HEADLINE[:2], len(lead)):
            self.put(sheet, row, col, key, found, **grey)
        sheet.write_string(row, len(lead) + 2, found["note"], self.style(**grey))

    def graphs(self, sheet: Any, charts: Charts) -> None:
        """Four charts per model."""
        self.title(sheet, "Charts", "Per model at the reference length; the numbers are on the sheet Chart data")
        for index, model in enumerate(self.models):
            charts.of_model(sheet, 3 + index * charts.ROWS, model)
        sheet.set_print_scale(52)
        sheet.set_h_pagebreaks([3 + index * charts.ROWS for index in range(1, len(self.models))])

    def model(self, model: str) -> None:
        """Every row of one model."""
        sheet = self.sheet(model)
        keys = [key for key, *_ in self.kperf.columns if key != "model" and (key != "chip" or len(self.chips) > 1)]
        keys.insert(keys.index("concurrency") + 1, "concurrency_level")
        self.head(sheet, 0, [_heading(key) for key in keys])
        row = 0
        for one in self.chips:
            for found in one.rows:
                if found["model"] != model:
                    continue
                row += 1
                look = {} if found["fits"] else {"font_color": "#7A828C", "bg_color": "#EEF0F2", "italic": True}
                for col, key in enumerate(keys):
                    self.put(sheet, row, col, key, found | {"chip": one.label}, **look)
        sheet.freeze_panes(1, keys.index("concurrency_level") + 1)
        sheet.autofilter(0, 0, max(row, 1), len(keys) - 1)
        sheet.repeat_rows(0)
        for col, key in enumerate(keys):
            sheet.set_column(col, col, WIDTH.get(key, 11))
            if key in SCALED and row:
                sheet.conditional_format(
                    1, col, row, col, {"type": "2_color_scale", "min_color": "#FFFFFF", "max_color": "#9CC9E8"}
                )

    def comparison(self) -> tuple[Any, int]:
        """All joined rows with ratios to the first chip; returns the sheet and its first free column."""
        sheet = self.sheet("Comparison")
        first = self.chips[0].label
        heads = ["Model", "Precision", "Input\ntokens", "Output\ntokens", "Level"]
        for key in compare.METRICS:
            heads += [f"{_heading(key)}\n{one.label}" for one in self.chips]
            heads += [f"{format.HEADING[key]}\n{one.label} / {first}" for one in self.chips[1:]]
        self.head(sheet, 0, ["\n".join(map(format.plain, text.split("\n"))) for text in heads])
        sheet.set_row(0, 60)
        count = 0
        for count, joined in enumerate(compare.join(self.kperf), 1):
            self.compared(sheet, count, joined)
        sheet.freeze_panes(1, 5)
        sheet.autofilter(0, 0, max(count, 1), len(heads) - 1)
        sheet.repeat_rows(0)
        sheet.set_column(0, 0, 18)
        sheet.set_column(1, len(heads) - 1, 12)
        return sheet, len(heads) + 1

    def compared(self, sheet: Any, row: int, joined: compare.Joined) -> None:
        """One condition on every chip."""
        for col, part in enumerate(joined.condition):
            if isinstance(part, str):
                sheet.write_string(row, col, format.plain(part), self.style(align="center" if col == 4 else "left"))
            else:
                sheet.write_number(row, col, part, self.style())
        col = len(joined.condition)
        for key, more_is_better in compare.METRICS.items():
            for one in joined.rows:
                if one is not None and one[key] is not None:
                    self.put(sheet, row, col, key, one)
                col += 1
            for index in range(1, len(self.chips)):
                factor = joined.ratio(key, index)
                if factor is not None:
                    better = (factor > 1) == more_is_better
                    tint = {} if abs(factor - 1) < 0.005 else {"font_color": "#00694A" if better else "#A33F00"}
                    sheet.write_number(row, col, factor, self.style(num_format='0.00"x"', bg_color="#F3F5F7", **tint))
                col += 1

    def chip(self, one: view.ChipRows) -> None:
        """Every figure of a chip with its source."""
        sheet = self.sheet(f"Chip {one.label}")
        chip = one.chip
        peaks = ", ".join(f"{name} {units.show(value, 'FLOP/s', 4)}" for name, value in chip.peaks_flops_per_s.items())
        self.title(
            sheet,
            chip.title,
            f"Dense peak: {peaks}. Highlighted: assumed by us or overridden. Default: not stated by the chip file.",
        )
        self.head(sheet, 3, ["Figure", "Value", "Status", "Source", "Note"])
        row = 3
        for row, figure in enumerate(view.figures(chip), 4):
            look: dict[str, Any] = {"text_wrap": True, "bottom": 4, "bottom_color": "#C8CED4"}
            look |= {"bg_color": "#FFF0C2"} if figure.status == "assumed" else {}
            cells = (figure.path, format.figure(figure.path, figure.value), figure.status, figure.source, figure.note)
            for col, text in enumerate(cells):
                sheet.write_string(row, col, format.plain(text), self.style(**look))
            # Rows do not grow by themselves in every program.
            sheet.set_row(
                row,
                14
                * max(
                    -(-len(text) // int(width * 0.95)) for text, width in zip(cells, CHIP_WIDTHS, strict=True) if text
                ),
            )
        for extra, note in enumerate(chip.notes):
            sheet.write_string(row + 2 + extra, 0, format.plain(note), self.style(italic=True))
        sheet.freeze_panes(4, 1)
        sheet.repeat_rows(3)
        for col, width in enumerate(CHIP_WIDTHS):
            sheet.set_column(col, col, width)

    def definitions(self) -> None:
        """What each column means."""
        sheet = self.sheet("Definitions")
        self.head(sheet, 0, ["Column", "Unit", "Definition", "Key in JSON and CSV"])
        for row, (key, heading, unit, text) in enumerate(self.kperf.columns, 1):
            for col, part in enumerate((heading, unit, text, key)):
                sheet.write_string(row, col, part, self.style(text_wrap=True, bold=col == 0))
        for col, width in enumerate((22, 12, 70, 26)):
            sheet.set_column(col, col, width)

    def notes(self) -> None:
        """Every assumption and note."""
        sheet = self.sheet("Notes")
        self.head(sheet, 0, ["Assumptions and notes"])
        for row, note in enumerate(self.kperf.notes, 1):
            sheet.write_string(row, 0, format.plain(note), self.style(text_wrap=True))
        sheet.set_column(0, 0, 130)


def _heading(key: str) -> str:
    if key == "concurrency_level":
        return "Level"
    unit = format.UNIT[key]
    return f"{format.HEADING[key]}\n{unit}" if unit else format.HEADING[key]


def _number_format(key: str, value: float) -> str:
    """Three significant digits, as in the other reports."""
    if key in ("mfu", "mbu"):
        return "0.0%"
    if key in format.COUNT_KEYS:
        return "0"
    size = abs(value)
    return (
        "#,##0"
        if size >= 100
        else "0.0"
        if size >= 10
        else "0.00"
        if size >= 1
        else "0.000"
        if size >= 0.1
        else "0.0000"
        if size
        else "0"
    )
