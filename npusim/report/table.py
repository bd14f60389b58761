"""The terminal table: a summary that fits a screen or two, or every row.

The summary shows, per model and precision, the rows that ``view.headline`` chooses (reference length;
smallest, middle and largest concurrency). Several chips stand under each other per condition, with
ratios to the first.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from npusim.kperf_suite import KPerf
from npusim.report import compare, format, view

GAP = "  "
MIN_WIDTH = 80
BOLD, DIM, RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Line:
    """A row with what its cells need: the chip's label and the first chip's row of the same condition."""

    label: str
    row: view.Row
    base: view.Row | None


@dataclass(frozen=True)
class Column:
    """A column: two heading lines, its text, and its rank (columns of high rank go first when space is short)."""

    heading: str
    unit: str
    text: Callable[[Line], str]
    rank: int = 0
    right: bool = True


def _figure(key: str, heading: str, unit: str, rank: int = 0) -> Column:
    return Column(heading, unit, lambda line: format.cell(key, line.row[key]), rank)


def _bound(line: Line) -> str:
    return f"{format.bound(line.row, 'prefill') or '-'}/{format.bound(line.row, 'decode') or '-'}"


CONDITION = (
    Column("Precision", "", lambda line: format.plain(line.row["precision"]), right=False),
    Column("In/Out", "tokens", lambda line: format.lengths(line.row)),
    Column("C", "requests", lambda line: format.concurrency(line.row)),
)
CHIP = Column("Chip", "", lambda line: format.plain(line.label), right=False)
FIGURES = (
    _figure("tp", "Chips", "", 4),
    _figure("ttft_s", "TTFT", "ms"),
    _figure("tpot_s", "TPOT", "ms"),
    _figure("tokens_per_s", "Output", "tokens/s"),
    _figure("tokens_per_s_per_user", "per user", "tokens/s", 6),
    _figure("mfu", "MFU", "%", 5),
    _figure("mbu", "MBU", "%", 5),
    _figure("avg_power_w", "Power", "W", 7),
    _figure("tokens_per_j", "Effic.", "tok/J", 3),
    Column("Bound", "prefill/decode", _bound, 2, right=False),
)
LOADED = (
    _figure("load_ttft_p50_s", "TTFT p50", "ms", 6),
    _figure("load_ttft_p99_s", "TTFT p99", "ms"),
    _figure("load_tpot_p50_s", "TPOT p50", "ms", 6),
    _figure("load_tpot_p99_s", "TPOT p99", "ms"),
    _figure("load_goodput_tokens_per_s", "Goodput", "tokens/s"),
)


TRUSTED = (
    Column("TTFT measured", "ms, 10–90 %", lambda line: format.interval(line.row, "ttft"), 1),
    Column("TPOT measured", "ms, 10–90 %", lambda line: format.interval(line.row, "tpot"), 1),
    Column("State", "of both", lambda line: format.states(line.row), 1, right=False),
)


def _ratio(metric: str, heading: str, rank: int) -> Column:
    return Column(heading, "vs first",
                  lambda line: format.ratio(compare.ratio(line.row, line.base, metric)), rank)  # fmt: skip


RATIOS = (
    _ratio("tokens_per_s", "Output", 6),
    _ratio("tokens_per_s_per_chip", "per chip", 1),
    _ratio("tokens_per_j", "tok/J", 3),
)


def render(kperf: KPerf, width: int = 100, *, full: bool = False, color: bool = False) -> str:
    """The table as text, without a final line break.

    Args:
        kperf: the result.
        width: columns of the terminal; at least 80 is used.
        full: every row instead of the summary.
        color: emphasise with ANSI codes.
    """
    painter = _Painter(max(width, MIN_WIDTH), color)
    parts = [*painter.title(kperf), *painter.body(kperf, full), *painter.notes(kperf)]
    return "\n".join(line.rstrip() for line in parts)


@dataclass(frozen=True)
class _Painter:
    width: int
    color: bool

    def title(self, kperf: KPerf) -> Iterator[str]:
        names = ", ".join(format.plain(f"{one.chip.title} ({one.label})") for one in view.by_chip(kperf))
        yield from textwrap.wrap(f"K-Perf prediction: {names}", self.width)
        suite = f"suite {kperf.suite.name}, {kperf.fidelity}; {len(kperf.fitting)} of {len(kperf.rows)} rows fit"
        yield self.paint(DIM, format.plain(suite))

    def body(self, kperf: KPerf, full: bool) -> Iterator[str]:
        many = len(kperf.chips) > 1
        joined = compare.join(kperf) if full else compare.headline(kperf)
        labels = [one.label for one in view.by_chip(kperf)]
        blocks = [(str(model), _lines(joined, model, labels)) for model in view.unique(kperf.rows, "model")]
        condition = (*CONDITION, CHIP) if many else CONDITION
        figures = (
            *FIGURES,
            *(LOADED if kperf.load else ()),
            *(TRUSTED if kperf.calibrated else ()),
            *(RATIOS if many else ()),
        )
        lines = [line for _, block in blocks for line in block]
        columns, widths = self.fit(condition, figures, lines)
        yield from self.header(columns, widths)
        for model, block in blocks:
            yield self.paint(BOLD, format.plain(model))
            yield from self.rows(block, columns, widths, len(condition))
        yield "─" * self.rule(widths)

    def fit(self, condition: tuple[Column, ...], figures: tuple[Column, ...],
            lines: list[Line]) -> tuple[list[Column], list[int]]:  # fmt: skip
        """Drops columns by rank until the table fits the width."""
        columns = [*condition, *figures]
        sizes = {id(column): _width(column, lines) for column in columns}
        while sum(sizes[id(c)] + len(GAP) for c in columns) - len(GAP) > self.width:
            last = max(columns, key=lambda column: column.rank)
            if last.rank == 0:
                break
            columns.remove(last)
        return columns, [sizes[id(column)] for column in columns]

    def header(self, columns: list[Column], widths: list[int]) -> Iterator[str]:
        rule = "─" * self.rule(widths)
        yield rule
        for part in ("heading", "unit"):
            cells = [format.pad(getattr(c, part), w, right=c.right) for c, w in zip(columns, widths, strict=True)]
            yield self.paint(BOLD if part == "heading" else DIM, GAP.join(cells))
        yield rule

    def rows(self, lines: list[Line], columns: list[Column], widths: list[int], condition: int) -> Iterator[str]:
        before: list[str] = []
        for line in lines:
            cells = [column.text(line) for column in columns]
            key = cells[:condition]
            # Repeated condition cells stay blank, so that groups show.
            for index in range(condition):
                if index < len(before) and key[: index + 1] == before[: index + 1]:
                    cells[index] = ""
            before = key
            padded = [format.pad(text, w, right=c.right) for c, w, text in zip(columns, widths, cells, strict=True)]
            if line.row["fits"]:
                yield GAP.join(padded)
            else:
                yield self.paint(DIM, GAP.join([*padded[:condition], self.misfit(line, widths[:condition])]))

    def misfit(self, line: Line, used: list[int]) -> str:
        room = self.width - sum(used) - len(GAP) * len(used)
        text = f"{format.plain(line.row['note'])} ({format.chips(line.row['tp'])})"
        return text if format.columns_of(text) <= room else text[: max(room - 1, 0)] + "…"

    def notes(self, kperf: KPerf) -> Iterator[str]:
        if len(kperf.chips) > 1:
            yield from self.wrap("'vs first' is the figure / the figure of the first chip under the same condition; "
                                 "'max' is each chip's own largest concurrency.")  # fmt: skip
        yield self.paint(BOLD, "Assumptions and notes")
        for note in kperf.notes:
            yield from self.wrap(note)

    def wrap(self, text: str) -> list[str]:
        return textwrap.wrap(format.plain(text), self.width, initial_indent="- ", subsequent_indent="  ")

    def paint(self, code: str, text: str) -> str:
        return f"{code}{text}{RESET}" if self.color and text else text

    def rule(self, widths: list[int]) -> int:
        return min(sum(widths) + len(GAP) * (len(widths) - 1), self.width)


def _width(column: Column, lines: Iterable[Line]) -> int:
    texts = [column.text(line) for line in lines if line.row["fits"] or column.rank == 0]
    return max(format.columns_of(text) for text in (column.heading, column.unit, *texts))


def _lines(joined: Iterable[compare.Joined], model: str, labels: list[str]) -> list[Line]:
    return [Line(label, row, one.rows[0]) for one in joined if one.condition[0] == model
            for label, row in zip(labels, one.rows, strict=True) if row is not None]  # fmt: skip
