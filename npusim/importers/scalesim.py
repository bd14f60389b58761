"""Reads SCALE-Sim's files: topologies (CSV) as workloads, configurations (INI) as chips.

What differs from SCALE-Sim, so that numbers can be compared:

* Its convolutions have ⌈(in − kernel) / stride⌉ + 1 output pixels; ``rounding="scalesim"`` keeps that (the input
  is then the pixels those windows cover), ``"floor"`` is what frameworks compute.
* It drops the first line and the last column of a topology unseen. Here a first line without any integer
  is the header, and a trailing comma is allowed but not needed.
* A layer whose name contains ``DP`` is depthwise, as there: one filter set per channel.
* Words are one byte (int8), layers read their input from DRAM and write their output to it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from npusim import workload, yamlio
from npusim.chip import Chip
from npusim.errors import InputError, Problem, did_you_mean, unknown_name
from npusim.ops import MAX_DIM
from npusim.workload import Op, Workload

WORD = "int8"
MAX_LAYERS = 100_000
CLOCK_HZ = 1e9  # SCALE-Sim counts cycles only
CAPACITY_BYTES = 2.0**40  # SCALE-Sim's DRAM has no size
ROUNDINGS = ("floor", "scalesim")
CONV = "conv: name, ifmap height, ifmap width, filter height, filter width, channels, filters, stride[, stride width]"
GEMM = "gemm: name, M, N, K[, batch]"


# -- topologies --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """One layer of the file."""

    file: str
    line: int
    name: str
    fields: tuple[str, ...]

    def bad(self, message: str, allowed: str = "") -> InputError:
        """An error at this line."""
        return InputError(Problem(message, self.name, self.file, self.line, 1, allowed or f"{CONV}; or {GEMM}"))

    def numbers(self, fields: tuple[str, ...]) -> list[int]:
        """The fields as sizes. Raises InputError naming the first that is none."""
        for place, text in enumerate(fields, 2):
            if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not 1 <= int(text) <= MAX_DIM:
                raise self.bad(f"column {place} is {text[:40]!r}", "an integer from 1 to 2^40")
        return [int(text) for text in fields]


def import_scalesim_topology(path: str | os.PathLike[str], *, rounding: str = "floor") -> Workload:
    """Reads a SCALE-Sim topology: convolution layers or GEMM (M, N, K) layers.

    Args:
        path: the CSV file.
        rounding: output size of a convolution whose stride does not divide it: ``"floor"`` or ``"scalesim"``.

    Returns:
        A Workload in the order of the file, int8, batch 1.

    Raises:
        InputError: every bad line, as ``file:line``, with the columns that are allowed.
    """
    if rounding not in ROUNDINGS:
        raise unknown_name("rounding", str(rounding), ROUNDINGS, "rounding")
    ops: list[Op] = []
    problems: list[Problem] = []
    for row in _rows(path):
        try:
            ops.append(_layer(row, rounding))
        except InputError as error:
            problems += [replace(p, file=row.file, line=row.line, col=1, path=row.name) for p in error.problems]
    if problems:
        raise InputError(problems[:20])
    if not ops:
        raise InputError(Problem("no layer in the file", file=str(path), allowed=f"{CONV}; or {GEMM}"))
    name = Path(path).stem
    return Workload(name, tuple(ops), info={"model": name, "phase": "layers", "batch": 1, "rounding": rounding})


def _rows(path: str | os.PathLike[str]) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(yamlio.read_text(path).splitlines(), 1):
        fields = [field.strip() for field in line.split(",")]
        while fields and not fields[-1]:
            fields.pop()
        if not fields:
            continue
        name = "".join(c if c.isprintable() else "?" for c in fields[0])[:100]
        rows.append(_Row(str(path), number, name, tuple(fields[1:])))
        if len(rows) > MAX_LAYERS:
            raise rows[-1].bad("too many layers", f"at most {MAX_LAYERS}")
    if rows and not any(re.fullmatch(r"[+-]?\d+", field) for field in rows[0].fields):
        del rows[0]
    return rows


def _layer(row: _Row, rounding: str) -> Op:
    fields = row.fields
    if len(fields) > 3 and ":" in fields[-1]:  # N:M sparsity of version 3
        sparsity = fields[-1].split(":")
        if len(sparsity) != 2 or sparsity[0].strip() != sparsity[1].strip():
            raise row.bad(f"sparsity {fields[-1][:20]!r} is not modelled", "1:1 (dense)")
        fields = fields[:-1]
    if len(fields) in (3, 4):
        m, n, k, *batch = row.numbers(fields)
        return workload.gemm(m, n, k, WORD, WORD, WORD, groups=batch[0] if batch else 1, name=row.name)
    if len(fields) in (7, 8):
        return _convolution(row, row.numbers(fields), rounding)
    raise row.bad(f"{len(fields) + 1} columns")


def _convolution(row: _Row, sizes: list[int], rounding: str) -> Op:
    in_h, in_w, kh, kw, channels, filters, stride_h, *rest = sizes
    stride_w = rest[0] if rest else stride_h
    if kh > in_h or kw > in_w:
        raise row.bad(f"the filter {kh}×{kw} is larger than the input {in_h}×{in_w}", "filter ≤ input")
    spare = [stride - 1 if rounding == "scalesim" else 0 for stride in (stride_h, stride_w)]
    out_h, out_w = (in_h - kh + spare[0]) // stride_h + 1, (in_w - kw + spare[1]) // stride_w + 1
    groups = channels if "DP" in row.name else 1
    if stride_h != stride_w:  # conv2d has one stride; the gemm's input is the unfolded matrix
        per_group = channels // groups * kh * kw
        return workload.gemm(out_h * out_w, filters, per_group, WORD, WORD, WORD, groups=groups, name=row.name)
    # Rounding up reads past the edge: the input is then what the windows cover.
    height, width = max(in_h, (out_h - 1) * stride_h + kh), max(in_w, (out_w - 1) * stride_w + kw)
    return workload.conv2d(
        1, height, width, channels, filters * groups, kh, kw, WORD, WORD, WORD, stride=stride_h, groups=groups,
        name=row.name,
    )  # fmt: skip


# -- configurations ----------------------------------------------------------------------------------------

_KEYS = (
    "arrayheight",
    "arraywidth",
    "ifmapsramszkb",
    "filtersramszkb",
    "ofmapsramszkb",
    "dataflow",
    "interfacebandwidth",
)
_SPELLED = {
    "arrayheight": "ArrayHeight", "arraywidth": "ArrayWidth", "ifmapsramszkb": "IfmapSramSzkB",
    "filtersramszkb": "FilterSramSzkB", "ofmapsramszkb": "OfmapSramSzkB", "dataflow": "Dataflow",
    "interfacebandwidth": "InterfaceBandwidth", "bandwidth": "Bandwidth", "run_name": "run_name",
}  # fmt: skip
_OFF = ("false", "no", "off", "0", "none", "")
_SWITCHES = ("sparsitysupport", "useramulatortrace", "ifmapcustomlayout", "filtercustomlayout")


class _Ini:
    """Keys of an INI file with their lines; sections are not told apart, as SCALE-Sim's keys are distinct."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file, self.problems = str(path), list[Problem]()
        self.values: dict[str, tuple[str, int]] = {}
        for number, line in enumerate(yamlio.read_text(path).splitlines(), 1):
            text = line.strip()
            if not text or text[0] in "#;" or re.fullmatch(r"\[[^\[\]]+\]", text):
                continue
            key, mark, value = re.match(r"([^=:]*)([=:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
            key = key.strip().lower()
            if not mark or not key:
                self.bad(number, f"{text[:60]!r} is neither a section nor KEY = VALUE", "[section] or KEY = VALUE")
            elif key in self.values:
                self.bad(number, f"'{_SPELLED.get(key, key)}' is given twice"[:100])
            else:
                self.values[key] = (value.strip(), number)

    def bad(self, line: int, message: str, allowed: str = "", hint: str = "") -> None:
        """Notes a problem at a line."""
        self.problems.append(Problem(message, "", self.file, line, 1 if line else 0, allowed, hint))

    def word(self, key: str, choices: tuple[str, ...]) -> str:
        """A value that is one of ``choices``; the first when it is not, which is noted."""
        text, line = self.values.get(key, ("", 0))
        found = text.strip("'\"").lower()
        if found not in choices and line:
            self.bad(line, f"{_SPELLED[key]} is {text[:40]!r}", f"one of {', '.join(choices)}")
        return found if found in choices else choices[0]

    def size(self, key: str) -> int:
        """A value that is a size; 1 when it is not, which is noted. Of a list, the first."""
        text, line = self.values.get(key, ("", 0))
        first = text.split(",")[0].strip() if key == "bandwidth" else text
        if re.fullmatch(r"\d{1,13}", first, re.ASCII) and 1 <= int(first) <= MAX_DIM:
            return int(first)
        if line:
            self.bad(line, f"{_SPELLED[key]} is {text[:40]!r}", "an integer from 1 to 2^40")
        return 1

    def need(self, keys: tuple[str, ...]) -> None:
        """Notes the keys that are missing."""
        for key in keys:
            if key not in self.values:
                spelled = _SPELLED[key]
                self.bad(0, f"'{spelled}' is missing", "this key is required", did_you_mean(key, self.values))


def import_scalesim_config(path: str | os.PathLike[str]) -> Chip:
    """Reads a SCALE-Sim configuration as a chip of one systolic array.

    Cycles become seconds at 1 GHz, the three scratchpads one on-chip level, words bytes. ``InterfaceBandwidth``
    USER gives the memory the first ``Bandwidth`` in words per cycle; CALC, which reports what bandwidth would be
    needed, gives it what the array can consume and produce at most, so that memory never limits it.

    Returns:
        A Chip of category ``design``; its notes name what was assumed and what was left out.

    Raises:
        InputError: every bad line, as ``file:line``, with what is allowed.
    """
    ini = _Ini(path)
    user = ini.word("interfacebandwidth", ("calc", "user")) == "user"
    ini.need((*_KEYS, "bandwidth") if user else _KEYS)
    rows, cols = ini.size("arrayheight"), ini.size("arraywidth")
    kilobytes = sum(ini.size(key) for key in ("ifmapsramszkb", "filtersramszkb", "ofmapsramszkb"))
    dataflow = ini.word("dataflow", ("os", "ws", "is"))
    words = ini.size("bandwidth") if user else rows + 2 * cols
    if ini.problems:
        raise InputError(ini.problems)
    title = (ini.values.get("run_name", ("", 0))[0].strip("'\"") or Path(path).stem)[:64]
    data: dict[str, Any] = {
        "format": "npusim-chip/1",
        "name": re.sub(r"[^a-z0-9.+_-]+", "-", title.lower()).lstrip(".+_-") or "scale-sim",
        "title": "".join(c if c.isprintable() else "?" for c in title),
        "category": "design",
        "notes": _notes(ini, user, words),
        "clock": CLOCK_HZ,
        "cores": 1,
        "core": {
            "matrix": {
                "engine": "systolic", "rows": rows, "cols": cols, "dataflow": dataflow,
                "flops_per_cycle": {WORD: 2.0 * rows * cols},
            },
        },
        "levels": {"sram": {"scope": "core", "capacity": 1024.0 * kilobytes, "buffers": 2}},
        "memory": {"kind": "ideal", "capacity": CAPACITY_BYTES, "bandwidth": words * CLOCK_HZ, "usable": 1.0},
    }  # fmt: skip
    return yamlio.validate(Chip, data, yamlio.Document(data, ini.file, {(): (1, 1)}))


def _notes(ini: _Ini, user: bool, words: int) -> tuple[str, ...]:
    notes = [
        "read from a SCALE-Sim configuration; a word is one byte (int8)",
        "assumed: clock 1 GHz (SCALE-Sim counts cycles)",
        "assumed: 1 TiB of memory (SCALE-Sim's has no size)",
        "the ifmap, filter and ofmap scratchpads are one level of their summed size",
        f"memory bandwidth: {words} words per cycle, "
        + (
            "the first Bandwidth, shared by the three operands" if user else "never the limit (InterfaceBandwidth CALC)"
        ),
        "no vector unit is described",
    ]
    on = [key for key in _SWITCHES if ini.values.get(key, ("", 0))[0].lower() not in _OFF]
    return (*notes, *(f"not modelled: {key}" for key in on))
