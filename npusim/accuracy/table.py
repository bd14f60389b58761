"""CSV tables read strictly into arrays, with the file and line of every row.

The reader of the measured rows (``npusim.accuracy.rows``). Files may be gzip. Sizes are bounded before anything is
built, so neither a huge file nor a small archive of one fills the memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from npusim.errors import InputError, Problem, did_you_mean

MAX_BYTES = 2**30  # of one file, after decompression
MAX_LINE_BYTES = 2**20
MAX_ROWS = 5_000_000  # of one load
MAX_PROBLEMS = 20  # shown; the rest are counted
CHUNK = 65_536

Array = NDArray[Any]
Floats = NDArray[np.float64]


_TIMES = {f"{what}_{unit}" for what in ("latency", "ttft", "tpot", "time") for unit in ("ns", "us", "ms", "s")}


@dataclass(frozen=True)
class Origin:
    """Where rows come from: ``files[file[i]]`` and the 1-based ``line[i]``."""

    files: tuple[str, ...]
    file: NDArray[np.int32]
    line: NDArray[np.int32]

    def where(self, row: int) -> tuple[str, int]:
        """File and line of one row."""
        return self.files[int(self.file[row])], int(self.line[row])


@dataclass(frozen=True)
class Table:
    """A struct of arrays, all of one length, with the place each row was read from.

    Args:
        columns: text columns as object arrays of the raw spellings, numbers as float64 with nan for an empty cell.
        origin: file and line of each row.
    """

    columns: Mapping[str, Array]
    origin: Origin
    _extras: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)

    kind: ClassVar[str] = ""
    text: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = ()  # columns a header must have
    rename: ClassVar[Mapping[str, str]] = {}  # column in the file → column here

    def __len__(self) -> int:
        return len(self.origin.line)

    def column(self, name: str) -> Array:
        """The array of one column. Raises KeyError for a name the schema does not have."""
        return self.columns[name]

    def select(self, which: Array) -> Self:
        """The rows of a boolean mask or an index array, in that order."""
        origin = Origin(self.origin.files, self.origin.file[which], self.origin.line[which])
        return type(self)({name: values[which] for name, values in self.columns.items()}, origin)

    def extra(self, key: str) -> Array:
        """The value of ``key=value`` in the column ``extra`` of every row, ``""`` where it is absent."""
        if key not in self._extras:
            pattern = re.compile(rf"(?:^|;)\s*{re.escape(key)}=([^;]*)")
            cache: dict[str, str] = {}
            found = np.empty(len(self), dtype=object)
            for i, cell in enumerate(self.columns["extra"]):
                if (value := cache.get(cell)) is None:
                    match = pattern.search(cell) if key in cell else None
                    value = cache[cell] = sys.intern(match.group(1).strip()) if match else ""
                found[i] = value
            self._extras[key] = found
        return self._extras[key]

    def extra_number(self, key: str) -> Floats:
        """As ``extra``, as float64; nan where it is absent or no number."""
        numbers = {text: _loose(text) for text in set(self.extra(key))}
        return np.array([numbers[text] for text in self.extra(key)], dtype=np.float64)

    @classmethod
    def matches(cls, header: set[str]) -> bool:
        """Whether a file with these columns holds rows of this schema."""
        return header >= set(cls.required)

    @classmethod
    def check_header(cls, file: str, header: list[str]) -> None:
        """Raises InputError for a repeated column or a time in another unit than the schema's."""
        problems = []
        for name in sorted({name for name in header if header.count(name) > 1}):
            problems.append(Problem(f"column {name!r} appears twice", "", file, 1, 1))
        for name in header:
            if name in _TIMES and name not in (*cls.numbers, *cls.rename):
                known = [own for own in cls.numbers if own in _TIMES]
                message = f"column {name!r} is not in the unit of {cls.kind} rows"
                problems.append(Problem(message, "", file, 1, 1, f"known: {', '.join(known)}", "convert the column"))
        if problems:
            raise InputError(problems)

    @classmethod
    def checks(cls, columns: Mapping[str, Array]) -> Iterator[tuple[Array, str, str, str]]:
        """What is wrong beyond unreadable cells: (mask of rows, column, message, what is allowed)."""
        yield from ()


class Reader:
    """Collects the rows of many files by schema, and every problem met on the way."""

    def __init__(self, schemas: tuple[type[Table], ...]) -> None:
        self.schemas = schemas
        self.problems: list[Problem] = []
        self.hidden_problems = 0
        self.files: list[str] = []
        self.other: list[str] = []
        self.rows = 0
        self._parts: dict[type[Table], list[dict[str, Array]]] = {}

    def tables(self) -> dict[type[Table], Table]:
        """The tables read. Raises InputError with all problems when there were any."""
        if self.problems:
            if self.hidden_problems:
                self.problems.append(Problem(f"and {self.hidden_problems} more problems"))
            raise InputError(self.problems)
        return {schema: self._join(schema, parts) for schema, parts in self._parts.items()}

    def read(self, path: str, named: bool) -> None:
        """Reads one file; a file that was found in a folder and matches no schema is only listed."""
        try:
            self._read(path, named)
        except InputError as error:
            for problem in error.problems:
                self._note(problem)

    def _read(self, path: str, named: bool) -> None:
        with open_text(path) as stream:
            reader = csv.reader(stream)
            try:
                header = next(reader, [])
                schema = self._schema(path, header, named)
                if schema is None:
                    self.other.append(path)
                    return
                self.files.append(path)
                for rows, lines in self._chunks(path, reader, len(header)):
                    self._add(schema, header, rows, lines)
            except csv.Error as error:
                raise InputError(Problem(f"not valid CSV: {error}", file=path, line=reader.line_num, col=1)) from None
            except UnicodeDecodeError:
                raise InputError(Problem("not UTF-8 text", file=path, line=reader.line_num + 1, col=1)) from None
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InputError(Problem(f"damaged gzip file: {error}", file=path)) from None

    def _schema(self, path: str, header: list[str], named: bool) -> type[Table] | None:
        names = set(header)
        best = next((s for s in self.schemas if s.matches(names)), None)
        if best is not None:
            best.check_header(path, header)
            return best
        if not named:
            return None
        schema = max(self.schemas, key=lambda s: len(names & set(s.required)))
        schema.check_header(path, header)
        missing = [name for name in schema.required if name not in names]
        hints = (did_you_mean(name, header) for name in missing)
        raise InputError(
            Problem(
                f"no rows of a known schema: {schema.kind} rows need the columns {', '.join(missing)}",
                *("", path, 1, 1),
                "; ".join(f"{s.kind}: {', '.join(s.required)}" for s in self.schemas),
                next((hint for hint in hints if hint), ""),
            )
        )

    def _chunks(self, path: str, reader: Any, width: int) -> Iterator[tuple[list[list[str]], list[int]]]:
        rows: list[list[str]] = []
        lines: list[int] = []
        for row in reader:
            if len(row) != width:
                if row:
                    message = f"{len(row)} cells in a table of {width} columns"
                    self._note(Problem(message, "", path, reader.line_num, 1))
                continue
            rows.append(row)
            lines.append(reader.line_num)
            if len(rows) == CHUNK:
                self._count(path, len(rows))
                yield rows, lines
                rows, lines = [], []
        self._count(path, len(rows))
        if rows:
            yield rows, lines

    def _count(self, path: str, rows: int) -> None:
        self.rows += rows
        if self.rows > MAX_ROWS:
            raise InputError(Problem("too many rows", file=path, allowed=f"at most {MAX_ROWS} in all"))

    def _add(self, schema: type[Table], header: list[str], rows: list[list[str]], lines: list[int]) -> None:
        cells = dict(zip((schema.rename.get(name, name) for name in header), zip(*rows, strict=True), strict=True))
        count, file = len(rows), len(self.files) - 1
        columns: dict[str, Array] = {
            "#file": np.full(count, file, dtype=np.int32),
            "#line": np.array(lines, dtype=np.int32),
        }
        for name in schema.text:
            columns[name] = _texts(cells.get(name), count)
        for name in schema.numbers:
            column = cells.get(name)
            try:
                columns[name] = _numbers(column, count)
            except ValueError:
                self._bad_numbers(name, column or (), lines)
        if len(columns) == 2 + len(schema.text) + len(schema.numbers):
            self._check(schema, columns)
        self._parts.setdefault(schema, []).append(columns)

    def _bad_numbers(self, name: str, cells: tuple[str, ...], lines: list[int]) -> None:
        for cell, line in zip(cells, lines, strict=True):
            if cell and math.isnan(_loose(cell)):
                unit = re.fullmatch(r"\s*[-+0-9.eE]+\s*([a-zA-Zµ]+)\s*", cell)
                why = f"a unit in a number, {cell[:40]!r}" if unit else f"not a number: {cell[:40]!r}"
                self._note(Problem(why, name, self.files[-1], line, 1, "a plain number in the unit of the column name"))

    def _check(self, schema: type[Table], columns: Mapping[str, Array]) -> None:
        for mask, name, message, allowed in schema.checks(columns):
            for row in np.flatnonzero(mask):
                value = columns[name][row] if name in columns else ""
                shown = "" if isinstance(value, float) and math.isnan(value) else f" ({str(value)[:60]})"
                line = int(columns["#line"][row])
                self._note(Problem(message + shown, name, self.files[-1], line, 1, allowed))

    def _note(self, problem: Problem) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.hidden_problems += 1

    def _join(self, schema: type[Table], parts: list[dict[str, Array]]) -> Table:
        names = (*schema.text, *schema.numbers, "#file", "#line")
        joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
        origin = Origin(tuple(self.files), joined.pop("#file"), joined.pop("#line"))
        return schema(joined, origin)


def listed(paths: Any) -> list[tuple[str, bool]]:
    """The CSV files of a path, a list of paths, or folders: (file, whether it was named itself)."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: list[tuple[str, bool]] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.name.endswith((".csv", ".csv.gz")) and p.is_file())
            found += [(str(p), False) for p in inside]
        else:
            found.append((str(path), True))
    return found


def open_text(path: str) -> IO[str]:
    """Opens a CSV file, gzip by its name, bounded in bytes and in line length. Raises InputError."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise InputError(Problem("file is too big", file=path, allowed=f"at most {MAX_BYTES} bytes"))
        raw: Any = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(Problem(f"cannot read: {error.strerror or error}", file=path)) from None
    return io.TextIOWrapper(io.BufferedReader(_Bounded(raw, path), 2**18), encoding="utf-8-sig", newline="")


class _Bounded(io.RawIOBase):
    """Passes bytes on until there are too many of them, in all or in one line."""

    def __init__(self, raw: Any, path: str) -> None:
        self._raw, self._path = raw, path
        self._total = self._in_line = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads a block. Raises InputError past the bounds."""
        block = self._raw.read(len(buffer))
        self._total += len(block)
        newline = block.rfind(b"\n")
        self._in_line = len(block) - 1 - newline if newline >= 0 else self._in_line + len(block)
        if self._total > MAX_BYTES:
            allowed = f"at most {MAX_BYTES} bytes after decompression"
            raise InputError(Problem("file is too big", file=self._path, allowed=allowed))
        if self._in_line > MAX_LINE_BYTES:
            raise InputError(Problem("a line is too long", file=self._path, allowed=f"at most {MAX_LINE_BYTES} bytes"))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        """Closes the file."""
        self._raw.close()
        super().close()


def _texts(cells: tuple[str, ...] | None, count: int) -> Array:
    out = np.empty(count, dtype=object)
    out[:] = "" if cells is None else [sys.intern(cell) for cell in cells]
    return out


def _numbers(cells: tuple[str, ...] | None, count: int) -> Floats:
    """Cells as float64, empty ones nan. Raises ValueError at the first that is no finite number."""
    if cells is None:
        return np.full(count, math.nan)
    values = _Parsed()
    return np.array([values[cell] for cell in cells], dtype=np.float64)


class _Parsed(dict[str, float]):
    """Numbers by their text: shapes repeat, so most cells are parsed once."""

    def __missing__(self, cell: str) -> float:
        value = float(cell) if cell else math.nan
        if (cell and not math.isfinite(value)) or "_" in cell:
            raise ValueError(cell)
        self[cell] = value
        return value


def _loose(cell: str) -> float:
    """A finite number, or nan."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and "_" not in cell else math.nan
