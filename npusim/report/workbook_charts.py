"""Native Excel charts of the workbook, over one sheet of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from npusim.kperf_suite import KPerf
from npusim.report import compare, format, view

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "round_dot", "long_dash_dot")
MARKERS = ("circle", "square", "triangle", "diamond", "x", "star")
Pick = Callable[[Sequence[view.Row]], list[view.Row]]


@dataclass
class Axis:
    """A logarithmic axis: its name and the values it must show."""

    name: str
    values: list[float] = field(default_factory=list)

    def options(self, *, base: int = 10, grid: bool = False) -> dict[str, Any]:
        """Options of the axis, from the power of ``base`` below the values to the one above."""
        low = math.floor(math.log(min(self.values), base) + 1e-9)
        high = max(math.ceil(math.log(max(self.values), base) - 1e-9), low + 1)
        return {"name": self.name, "name_font": {"size": 10, "bold": False}, "num_font": {"size": 9},
                "num_format": "General",
                "log_base": base, "min": float(base) ** low, "max": float(base) ** high,
                "crossing": "min",  # else Excel crosses at 1, in the middle of small values
                "major_gridlines": {"visible": grid, "line": {"color": "#D9DEE3"}}}  # fmt: skip


class Charts:
    """Writes series to the data sheet and charts that refer to them.

    Args:
        book: the workbook.
        data: the sheet that takes the numbers.
        chips: chips with their rows.
        models: models in order.
    """

    SIZE = (620, 330)
    ROWS = 36  # sheet rows that four charts of a model take
    TITLES = ("throughput per chip", "TPOT", "efficiency", "time to first token")

    def __init__(self, book: Any, data: Any, chips: Sequence[view.ChipRows], models: Sequence[str]) -> None:
        self.book, self.data, self.chips, self.models = book, data, chips, models
        self.column = 0
        data.set_column(0, 400, 11)

    # -- series ------------------------------------------------------------------------------------

    def series(self, name: str, x: tuple[str, Sequence[Any]], y: tuple[str, Sequence[float | None]]) -> dict[str, Any]:
        """Writes a series into two columns and returns the references a chart needs."""
        col, sheet = self.column, self.data.get_name()
        self.column += 3
        self.data.write_string(0, col, format.plain(name))
        for offset, (head, values) in enumerate((x, y)):
            self.data.write_string(1, col + offset, head)
            for row, value in enumerate(values, 2):
                if isinstance(value, str):
                    self.data.write_string(row, col + offset, format.plain(value))
                elif value is not None:
                    self.data.write_number(row, col + offset, value)
        last = 1 + len(y[1])
        return {
            "name": [sheet, 0, col],
            "categories": [sheet, 2, col, last, col],
            "values": [sheet, 2, col + 1, last, col + 1],
        }

    def case_series(self, model: str, pick: Pick, x_key: str, y_key: str,
                    axes: tuple[Axis, Axis]) -> list[dict[str, Any]]:  # fmt: skip
        """One series per chip and precision: colour says the precision, dashes the chip."""
        found = []
        for dash, chip in enumerate(self.chips):
            for slot, precision in enumerate(view.unique(chip.rows, "precision")):
                rows = [row for row in pick(chip.case(model, precision)) if row[y_key] is not None]
                if not rows:
                    continue
                name = f"{precision}, {format.chips(rows[0]['tp'])}"
                columns = [[format.shown(key, row[key]) for row in rows] for key in (x_key, y_key)]
                for axis, values in zip(axes, columns, strict=True):
                    axis.values += values
                label = f"{chip.label} {name}" if len(self.chips) > 1 else name
                series = self.series(label, (axes[0].name, columns[0]), (axes[1].name, columns[1]))
                color = COLORS[slot % len(COLORS)]
                series |= {"line": {"color": color, "width": 2, "dash_type": DASHES[dash % len(DASHES)]},
                           "marker": {"type": MARKERS[slot % len(MARKERS)], "size": 6, "fill": {"color": color},
                                      "border": {"color": color}}}  # fmt: skip
                found.append(series)
        return found

    # -- charts ------------------------------------------------------------------------------------

    def of_model(self, sheet: Any, row: int, model: str) -> None:
        """Four charts of one model in two rows."""
        plans: tuple[tuple[Pick, str, str], ...] = (
            (view.at_reference, "concurrency", "tokens_per_s_per_chip"),
            (view.at_reference, "concurrency", "tpot_s"),
            (view.at_reference, "concurrency", "tokens_per_j"),
            (view.by_input, "input_tokens", "ttft_s"),
        )
        for index, (pick, x_key, y_key) in enumerate(plans):
            x, y = Axis(format.full_name(x_key)), Axis(format.full_name(y_key))
            series = self.case_series(model, pick, x_key, y_key, (x, y))
            where = (row + 17 * (index // 2), 10 * (index % 2))
            if series:
                self.scatter(sheet, where, f"{format.plain(model)}: {self.TITLES[index]}", series, x, y)

    def scatter(
        self, sheet: Any, where: tuple[int, int], title: str, series: Sequence[dict[str, Any]], x: Axis, y: Axis
    ) -> None:
        """Lines with markers on two logarithmic axes."""
        chart = self.book.add_chart({"type": "scatter", "subtype": "straight_with_markers"})
        for one in series:
            chart.add_series(one)
        self.finish(chart, title)
        chart.set_x_axis(x.options(base=4 if x.name.startswith("Concurrency") else 2))
        chart.set_y_axis(y.options(grid=True))
        sheet.insert_chart(*where, chart, {"object_position": 1})

    def finish(self, chart: Any, title: str) -> None:
        """What all charts share."""
        chart.set_title({"name": title, "name_font": {"size": 12, "bold": True}, "overlay": False})
        chart.set_legend({"position": "bottom", "font": {"size": 9}})
        chart.set_size({"width": self.SIZE[0], "height": self.SIZE[1]})
        chart.show_blanks_as("gap")

    def overview(self, sheet: Any, row: int) -> None:
        """Markers over all models: throughput per chip, tokens per joule, TPOT and TTFT at chosen conditions."""
        top = view.levels([row for chip in self.chips for row in chip.rows])
        plans = (
            (top[-1], "tokens_per_s_per_chip", "Throughput per chip"),
            (top[-1], "tokens_per_j", "Efficiency"),
            (top[0], "tpot_s", "TPOT"),
            (top[0], "ttft_s", "Time to first token"),
        )
        for index, (level, key, title) in enumerate(plans):
            where = (row + 17 * (index // 2), 8 * (index % 2))
            self.by_model(sheet, where, f"{title} at C = {level}", key, level)

    def by_model(self, sheet: Any, where: tuple[int, int], title: str, key: str, level: str) -> None:
        """Markers over the models, one series per chip and precision (bars need a zero, which a logarithm lacks)."""
        chart, axis = self.book.add_chart({"type": "line"}), Axis(format.full_name(key))
        for number, chip in enumerate(self.chips):
            for slot, precision in enumerate(view.unique(chip.rows, "precision")):
                values = [self.at(chip, model, precision, level, key) for model in self.models]
                axis.values += [value for value in values if value is not None]
                name = f"{chip.label} {precision}" if len(self.chips) > 1 else precision
                series = self.series(name, ("model", self.models), (axis.name, values))
                color = COLORS[slot % len(COLORS)]
                marker = {"type": MARKERS[(slot + 3 * number) % len(MARKERS)], "size": 9, "border": {"color": color},
                          "fill": {"none": True} if number else {"color": color}}  # fmt: skip
                chart.add_series(series | {"line": {"none": True}, "marker": marker})
        if not axis.values:
            return
        self.finish(chart, title)
        chart.set_x_axis({"num_font": {"size": 9}})
        chart.set_y_axis(axis.options(grid=True))
        sheet.insert_chart(*where, chart, {"object_position": 1})

    def ratios(self, sheet: Any, where: tuple[int, int], kperf: KPerf) -> None:
        """Throughput per chip and efficiency of further chips over the first's, at the largest level."""
        top = view.levels(kperf.rows)[-1]
        joined = [one for one in compare.headline(kperf) if one.condition[4] == top]
        names = [f"{one.condition[0]} {one.condition[1]}" for one in joined]
        chart = self.book.add_chart({"type": "column"})
        drawn = False
        for index in range(1, len(self.chips)):
            for number, key in enumerate(("tokens_per_s_per_chip", "tokens_per_j")):
                factors = [one.ratio(key, index) for one in joined]
                if any(factor is not None for factor in factors):
                    label = f"{self.chips[index].label}: {format.full_name(key).split(',')[0]}"
                    series = self.series(label, ("condition", names), ("ratio", factors))
                    chart.add_series(
                        series | {"fill": {"color": COLORS[(2 * index + number - 2) % len(COLORS)]}, "gap": 60}
                    )
                    drawn = True
        if not drawn:
            return
        self.finish(chart, f"Ratio to {format.plain(self.chips[0].label)} at C = {top}")
        chart.set_size({"width": 2 * self.SIZE[0], "height": self.SIZE[1]})
        chart.set_x_axis({"num_font": {"size": 9}})
        chart.set_y_axis(
            {"min": 0, "num_format": '0.0"x"', "major_gridlines": {"visible": True, "line": {"color": "#D9DEE3"}}}
        )
        sheet.insert_chart(*where, chart, {"object_position": 1})

    def at(self, chip: view.ChipRows, model: str, precision: str, level: str, key: str) -> float | None:
        """A figure at the reference length and a level."""
        for row in view.headline(chip.case(model, precision)):
            if row["concurrency_level"] == level and row[key] is not None:
                return float(format.shown(key, row[key]))
        return None
