"""What the hardware is: typed, frozen, validated chip descriptions.

A chip file is YAML. Quantities are strings with units; any figure may be written as
``{value: ..., source: KEY, status: published, note: ...}`` where ``KEY`` names an entry of the file's
``sources:`` table. The wrapper covers everything below it. Plain values are the author's own and count
as ``assumed``. Totals that a data sheet states go under ``declared:`` and are checked against what the
description derives.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PrivateAttr, model_validator

from npusim import dtypes, units, yamlio
from npusim.chip_parts import (
    DECLARED_TOLERANCE,
    VECTOR_CLASSES,
    Area,
    Core,
    Count,
    Declared,
    Dma,
    Fabric,
    Hertz,
    Host,
    Level,
    Link,
    Memory,
    Overheads,
    PeakTable,
    Power,
    Process,
    Spec,
)
from npusim.errors import InputError, Problem, Unavailable, did_you_mean, unknown_name

__all__ = [
    "STATUSES",
    "VECTOR_CLASSES",
    "Chip",
    "Level",
    "Memory",
    "Provenance",
    "chip_names",
    "find_chip",
    "load_chip",
    "read_chip",
]

CATALOG = Path(__file__).parent / "catalog" / "chips"
STATUSES = ("measured", "published", "secondary", "recalled", "derived", "assumed")
FILE = {"from_file": True}


@dataclass(frozen=True)
class Provenance:
    """Where a figure comes from."""

    source: str
    status: str
    note: str = ""


class Chip(Spec):
    """A chip. Load it with ``load_chip``; vary it with ``replace``. All attributes are SI."""

    format: Literal["npusim-chip/1"]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9.+_-]*$")]
    title: str
    vendor: str = ""
    category: Literal["npu", "tpu", "gpu", "cpu", "design"] = "npu"
    aliases: tuple[str, ...] = ()
    sources: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    missing_figures: tuple[str, ...] = Field((), alias="missing")
    process: Process | None = None
    area: Area | None = None
    clock_hz: Hertz | None = Field(None, alias="clock")
    cores: Count | None = None
    core: Core = Core()
    peak: PeakTable = {}
    levels: dict[str, Level] = {}
    memory: Memory | None = None
    dma: Dma | None = None
    fabric: Fabric | None = None
    die_to_die: Fabric | None = None
    link: Link | None = None
    host: Host | None = None
    overheads: Overheads = Overheads()
    power: Power = Power()
    declared: Declared | None = None
    _provenance: dict[yamlio.Keys, Provenance] = PrivateAttr(default_factory=dict)
    _overridden: dict[str, object] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Chip:
        if self.core.matrix is not None and self.peak:
            raise InputError(
                Problem(
                    "give 'peak' or 'core.matrix', not both",
                    "peak",
                    hint="a data-sheet peak beside an engine goes under 'declared.peak'",
                )
            )
        if self.core.matrix is not None and (self.cores is None or self.clock_hz is None):
            raise InputError(Problem("'core.matrix' needs 'cores' and 'clock' to make a peak"))
        return self

    # -- derived figures ---------------------------------------------------------------------------

    @property
    def peaks_flops_per_s(self) -> dict[str, float]:
        """Dense peak in FLOP/s per rate name: cores × FLOP per cycle × clock, or the stated peak."""
        if self.core.matrix is None:
            return dict(self.peak)
        assert self.cores is not None and self.clock_hz is not None
        scale = self.cores * self.clock_hz
        return {name: rate * scale for name, rate in self.core.matrix.flops_per_cycle.items()}

    def peak_flops_per_s(self, fmt: str) -> tuple[str, float]:
        """Peak for operands of ``fmt``: (name of the rate used, FLOP/s).

        Formats the engine lacks run at the next wider rate it has. Raises Unavailable when there is none.
        """
        found = dtypes.engine_rate(dtypes.get(fmt).rate, self.peaks_flops_per_s)
        if found is None:
            raise Unavailable(
                Problem(
                    f"chip '{self.name}' has no rate for {fmt}",
                    allowed=f"it lists: {', '.join(self.peaks_flops_per_s)}",
                )
            )
        return found

    def vector_ops_per_s(self, function: str) -> float | None:
        """Vector-unit operations per second for one of ``VECTOR_CLASSES``; None when not described.

        A class without a rate of its own runs at the ``add`` rate.
        """
        vector, clock = self.core.vector, self.clock_hz
        if vector is None or self.cores is None or (vector.clock_hz or clock) is None:
            return None
        rate = vector.rates.get(function, vector.rates.get("add"))
        return None if rate is None else self.cores * vector.lanes * rate * float(vector.clock_hz or clock or 0)

    def level_instances(self, level: Level) -> int:
        """How many instances of an on-chip level the chip has."""
        if level.scope == "core":
            return self.cores or 1
        return level.instances or 1 if level.scope == "cluster" else 1

    def level_bandwidth_bytes_per_s(self, level: Level) -> float | None:
        """Aggregate bandwidth of an on-chip level over its instances, bytes/s; None when not described."""
        one = level.bandwidth_bytes_per_s
        if one is None and level.bytes_per_cycle is not None and self.clock_hz is not None:
            one = level.bytes_per_cycle * self.clock_hz
        return None if one is None else one * self.level_instances(level)

    @property
    def sram_bytes(self) -> float:
        """On-chip memory in bytes, summed over levels and instances."""
        return sum(level.capacity_bytes * self.level_instances(level) for level in self.levels.values())

    def missing(self, fidelity: str = "roofline") -> list[str]:
        """Figures that ``fidelity`` needs and the description lacks (empty: ready)."""
        given = self.paths() if self.missing_figures else {}
        lacks = [name for name in self.missing_figures if name not in given]
        if not self.peaks_flops_per_s:
            lacks.append("peak")
        if self.memory is None:
            lacks += [] if any(name.startswith("memory") for name in lacks) else ["memory"]
        elif self.memory.bandwidth_bytes_per_s is None:
            lacks.append("memory.bandwidth")
        if fidelity != "roofline":
            lacks += [] if self.core.matrix else ["core.matrix"]
            lacks += [] if self.core.vector else ["core.vector"]
            lacks += [] if self.levels else ["levels"]
        return sorted(set(lacks), key=lacks.index)

    def require(self, fidelity: str = "roofline") -> Chip:
        """Returns the chip itself. Raises Unavailable, naming what is missing, when it is not ready."""
        lacks = self.missing(fidelity)
        if lacks:
            what = f"chip '{self.name}' is unavailable: missing {', '.join(lacks)}"
            hint = "copy its file, add the figures with their source, and give the path"
            if fidelity != "roofline" and not self.missing():
                what = f"chip '{self.name}' is not described for fidelity '{fidelity}': missing {', '.join(lacks)}"
                hint = f"use fidelity 'roofline', or {hint}"
            raise Unavailable(Problem(what, hint=hint))
        return self

    # -- provenance and variation ------------------------------------------------------------------

    def provenance(self, *path: str | int) -> Provenance:
        """Source and status of the figure at ``path`` (the nearest enclosing one that states them)."""
        if yamlio.dotted(path) in self._overridden:
            return Provenance("override", "assumed")
        for end in range(len(path), 0, -1):
            if path[:end] in self._provenance:
                return self._provenance[path[:end]]
        return Provenance("this file", "assumed")

    def paths(self) -> dict[str, object]:
        """Every writable figure by dotted path, in SI units."""
        flat: dict[str, object] = {}
        _flatten(self.model_dump(include=_FIGURES, exclude_none=True), (), flat)
        return flat

    def assumptions(self) -> dict[str, object]:
        """Figures stated with status ``assumed`` or overridden, by dotted path."""
        stated: dict[str, object] = {}
        _flatten(self.model_dump(include=_FIGURES, exclude_unset=True), (), stated)
        return {
            path: value
            for path, value in stated.items()
            if path.rpartition(".")[2] not in _STRUCTURE and self.provenance(*path.split(".")).status == "assumed"
        }

    @property
    def overrides(self) -> dict[str, object]:
        """What ``replace`` changed since the file was read."""
        return dict(self._overridden)

    def replace(self, changes: Mapping[str, object]) -> Chip:
        """Returns a chip with figures changed.

        Args:
            changes: dotted path → value, SI numbers or strings with units
                (``{"memory.bandwidth": "6 TB/s"}``). Declared totals are dropped, derived ones follow;
                ``memory.bandwidth`` scales the pin rate at constant timings in nanoseconds.

        Raises:
            InputError: unknown path (with the closest known one) or a value out of range.
        """
        data = self.model_dump(exclude_none=True, exclude_unset=True)
        data.pop("declared", None)
        for path, value in changes.items():
            _set(data, str(path), value, self)
        if isinstance(data.get("memory"), dict):
            _follow_geometry(data["memory"], changes.get("memory.bandwidth"))
        changed = yamlio.validate(Chip, data, yamlio.Document(data, f"--set {self.name}"))
        changed._provenance.update(self._provenance)
        changed._overridden.update({**self._overridden, **changes})
        return changed


# What describes the machine, as opposed to naming it.
_FIGURES = {
    "process",
    "area",
    "clock_hz",
    "cores",
    "core",
    "peak",
    "levels",
    "memory",
    "dma",
    "fabric",
    "die_to_die",
    "link",
    "host",
    "overheads",
    "power",
}


# Words that arrange the description and claim nothing about the machine.
_STRUCTURE = ("scope", "managed", "buffers")


def _flatten(data: object, path: tuple[str, ...], flat: dict[str, object]) -> None:
    if isinstance(data, dict):
        for key, value in data.items():
            _flatten(value, (*path, str(key)), flat)
    else:
        flat[".".join(path)] = data


def _set(data: dict[str, Any], path: str, value: object, chip: Chip) -> None:
    *parents, last = path.split(".")
    figures = chip.paths()
    below_a_figure = any(".".join(parents[:end]) in figures for end in range(1, len(parents) + 1))
    node: Any = data
    for key in parents:
        # An empty sub-mapping may be created (power.tdp of a chip that states none); validation
        # below still refuses keys the schema does not know.
        node = node.setdefault(key, {}) if isinstance(node, dict) else None
    known = [*parents, last][0] in _FIGURES | {"clock"} and not below_a_figure
    if not known or not isinstance(node, dict) or value is None:
        raise unknown_name("chip figure", path, figures)
    node[last] = _number_or_text(value) if isinstance(value, str) else value


def _follow_geometry(memory: dict[str, Any], asked: object) -> None:
    """Lets the pins carry the bandwidth: scales the pin rate to what was asked, or derives it anew."""
    pins = [memory.get(key) for key in ("stacks", "channels", "channel_bits")]
    rate = memory.get("pin_rate")
    if isinstance(rate, str):
        rate = units.parse(rate, "pin_rate", "memory.pin_rate")
    figures = [figure for figure in (*pins, rate) if isinstance(figure, (int, float)) and figure > 0]
    if len(figures) < 4:
        return  # not described by its pins, or about to be refused
    if asked is not None:
        wanted = units.parse(asked, "bandwidth", "memory.bandwidth") if isinstance(asked, str) else asked
        if isinstance(wanted, bool) or not isinstance(wanted, (int, float)) or not 0 < wanted < math.inf:
            return  # validation says what is wrong with it
        memory["pin_rate"] = wanted * 8 / math.prod(figures[:3])
    memory.pop("bandwidth", None)


def _number_or_text(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# -- reading files -----------------------------------------------------------------------------------


Wrapped = tuple[Any, dict[yamlio.Keys, Provenance], list[Problem]]


def _unwrap(document: yamlio.Document) -> Wrapped:
    """Replaces ``{value: ..., source: ...}`` wrappers by their values; collects provenance and its problems."""
    found: dict[yamlio.Keys, Provenance] = {}
    problems: list[Problem] = []
    sources = document.data.get("sources") if isinstance(document.data, dict) else None
    known = set(sources) if isinstance(sources, dict) else set()

    def visit(value: Any, path: yamlio.Keys) -> Any:
        if isinstance(value, dict) and "value" in value:
            found[path] = _provenance(value, path)
            return visit(value["value"], path)
        if isinstance(value, dict):
            return {key: visit(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [visit(child, (*path, index)) for index, child in enumerate(value)]
        return value

    def _provenance(figure: dict[str, Any], path: yamlio.Keys) -> Provenance:
        for key in [key for key in figure if key not in _FIGURE_KEYS]:
            problems.append(
                document.problem(
                    (*path, key),
                    f"unknown key '{key}' of a figure"[:120],
                    f"known: {', '.join(_FIGURE_KEYS)}",
                    did_you_mean(str(key), _FIGURE_KEYS),
                )
            )
        source, status = figure.get("source", "this file"), figure.get("status", "assumed")
        if status not in STATUSES:
            problems.append(
                document.problem(
                    (*path, "status"),
                    f"unknown status {status!r}"[:120],
                    f"known: {', '.join(STATUSES)}",
                    did_you_mean(str(status), STATUSES),
                )
            )
        for key in str(source).split(", "):
            if source != "this file" and key not in known:
                problems.append(
                    document.problem(
                        (*path, "source"),
                        f"source '{key}' is not in 'sources'"[:120],
                        f"known: {', '.join(sorted(known))}",
                        did_you_mean(key, known),
                    )
                )
        return Provenance(str(source), str(status), str(figure.get("note", "")))

    return visit(document.data, ()), found, problems


_FIGURE_KEYS = ("value", "source", "status", "note")
T = TypeVar("T", bound=Spec)


def read_described(
    model: type[T], document: yamlio.Document, check: Callable[[T], list[Problem]] = lambda made: []
) -> tuple[T, dict[yamlio.Keys, Provenance]]:
    """Validates a document whose figures carry provenance; all its problems are raised together, by line.

    Args:
        model: what the document describes.
        document: the file.
        check: further problems of what was made.

    Raises:
        InputError: every problem of provenance, schema and ``check``.
    """
    data, provenance, problems = _unwrap(document)
    made: T | None = None
    try:
        made = yamlio.validate(model, data, document, FILE)
    except InputError as error:
        problems += error.problems
    if made is not None:
        problems += check(made)
    if made is None or problems:
        raise InputError(sorted(problems, key=lambda problem: (problem.line, problem.col)))
    return made, provenance


def read_chip(path: str | os.PathLike[str]) -> Chip:
    """Reads and checks a chip file; it may still lack figures (see ``Chip.missing``).

    Raises:
        InputError: every problem of the file, each as ``file:line:col: path: message``.
    """
    document = yamlio.load_yaml(path)
    chip, provenance = read_described(Chip, document, lambda made: _check_declared(made, document))
    chip._provenance.update(provenance)
    return chip


def _check_declared(chip: Chip, document: yamlio.Document) -> list[Problem]:
    declared = chip.declared
    if declared is None:
        return []
    bandwidth = chip.memory.bandwidth_bytes_per_s if chip.memory else None
    rows: list[tuple[yamlio.Keys, float | None, float | None, str]] = [
        (("declared", "peak", name), value, chip.peaks_flops_per_s.get(name), "FLOP/s")
        for name, value in declared.peak.items()
    ]
    rows.append((("declared", "bandwidth"), declared.bandwidth_bytes_per_s, bandwidth, "B/s"))
    rows.append((("declared", "sram"), declared.sram_bytes, chip.sram_bytes or None, "B"))
    problems = []
    for path, stated, derived, unit in rows:
        if stated is None:
            continue
        if derived is None:
            problems.append(document.problem(path, "declared, but nothing in the file derives it"))
        elif abs(derived / stated - 1) > DECLARED_TOLERANCE:
            problems.append(
                document.problem(
                    path,
                    f"declared {units.show(stated, unit, 4)}, but the description gives {units.show(derived, unit, 4)}",
                    "they must agree within 1 %",
                )
            )
    return problems


@lru_cache(maxsize=1)
def alias_index() -> dict[str, str]:
    """Catalog names and aliases (lower case) → name. Aliases are read without validating the files."""
    names: dict[str, str] = {}
    for name in chip_names():
        names[name] = name
        for alias in _aliases(CATALOG / f"{name}.yaml"):
            names.setdefault(alias.lower(), name)
    return names


def _aliases(path: Path) -> list[str]:
    data = yamlio.load_yaml(path).data
    return [str(alias) for alias in data.get("aliases", [])] + [str(data.get("title", ""))]


def chip_names() -> list[str]:
    """Names of the catalog, sorted."""
    return sorted(path.stem for path in CATALOG.glob("*.yaml"))


def find_chip(name_or_path: str | os.PathLike[str]) -> Chip:
    """Like ``load_chip`` but also returns chips that lack figures."""
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return read_chip(text)
    if text.endswith(".cfg"):
        from npusim.importers.scalesim import import_scalesim_config  # it needs the types of this module

        return import_scalesim_config(text)
    name = text.lower()
    if name not in chip_names():  # only then is the index of aliases worth reading every file
        found = alias_index().get(name)
        if found is None and os.sep in text:
            return read_chip(text)
        if found is None:
            raise unknown_name("chip", text, chip_names())
        name = found
    return read_chip(CATALOG / f"{name}.yaml")


def load_chip(name_or_path: str | os.PathLike[str]) -> Chip:
    """Loads a chip by catalog name, alias or file path.

    Raises:
        InputError: unknown name (with the closest known one) or a faulty file.
        Unavailable: the chip lacks its peak or its memory bandwidth; the message names what is missing.
    """
    return find_chip(name_or_path).require()
