"""Measured rows: what real devices took, read from CSV files into arrays.

Five schemas are told apart by their header (DESIGN section 4.5): kernels, collectives, end-to-end runs, cycle
counts of an RTL simulation, and vision networks on edge NPUs. Reading is strict. A cell that cannot be right (no
latency, a negative one, a unit inside a number, a missing shape, a format nobody knows) stops the load with every
problem's file and line: a dropped row would make the error that is reported look better than it is.

Files may be gzip. Sizes are bounded before anything is built, so neither a huge file nor a small archive of one
fills the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from npusim.accuracy.devices import known_dtype
from npusim.accuracy.table import Array, Reader, Table, listed
from npusim.errors import InputError, Problem

T = TypeVar("T", bound=Table)


class Rows(Table):
    """Kernel rows: one operation on one device. ``latency_us`` is in microseconds, shapes count elements."""

    kind = "kernels"
    text = ("device", "software", "op", "dtype", "extra")
    numbers = (
        *("m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv"),
        "latency_us",
    )
    required = ("device", "op", "dtype", "latency_us")

    @classmethod
    def matches(cls, header: set[str]) -> bool:
        """The required columns, and not those of a collective."""
        return super().matches(header) and "ranks" not in header

    @classmethod
    def checks(cls, columns: Mapping[str, Array]) -> Iterator[tuple[Array, str, str, str]]:
        """Positive times, whole positive dimensions, the dimensions the operation needs, known formats."""
        yield from _positive_times(columns, ("latency_us",))
        for name in cls.numbers[:-1]:
            values = columns[name]
            yield values < 0, name, "negative dimension", "a whole number ≥ 1, or empty"
            yield np.isinf(values) | (values != np.floor(values)) & ~np.isnan(values), name, "not a whole number", ""
        for op, needed in SHAPES.items():
            mask = columns["op"] == op
            if mask.any():
                for name in needed:
                    lacking = mask & ~(columns[name] >= 1)
                    yield lacking, name, f"missing shape: {op} needs {', '.join(needed)}", "a whole number ≥ 1"
        yield _unknown_dtypes(columns["dtype"]), "dtype", "unknown number format", ""


class CollectiveRows(Table):
    """Collective operations: ``ranks`` devices, a buffer of ``bytes`` on each, microseconds."""

    kind = "collectives"
    text = ("device", "software", "op", "dtype", "extra")
    numbers = ("ranks", "bytes", "latency_us")
    required = ("device", "op", "ranks", "bytes", "latency_us")

    @classmethod
    def checks(cls, columns: Mapping[str, Array]) -> Iterator[tuple[Array, str, str, str]]:
        """Positive times, at least one rank, bytes that are not negative."""
        yield from _positive_times(columns, ("latency_us",))
        yield ~(columns["ranks"] >= 1), "ranks", "missing or bad number of ranks", "a whole number ≥ 1"
        yield ~(columns["bytes"] >= 0), "bytes", "missing or negative size", "bytes ≥ 0"
        yield _unknown_dtypes(columns["dtype"]), "dtype", "unknown number format", ""


class EndToEndRows(Table):
    """Whole inference runs: milliseconds for TTFT and TPOT, seconds for the run, tokens per second."""

    kind = "end to end"
    text = ("device", "software", "model", "precision", "extra")
    numbers = (
        *("num_devices", "batch", "input_len", "output_len"),
        *("ttft_ms", "tpot_ms", "latency_s", "throughput_tok_s"),
    )
    required = ("device", "model", "input_len", "output_len")

    @classmethod
    def checks(cls, columns: Mapping[str, Array]) -> Iterator[tuple[Array, str, str, str]]:
        """No negative number anywhere, and at least one measured figure."""
        for name in cls.numbers:
            yield columns[name] < 0, name, "negative", "a number ≥ 0, or empty"
        measured = [columns[name] for name in cls.numbers[4:]]
        yield (
            np.all(np.isnan(measured), axis=0),
            "latency_s",
            "no measured figure",
            "one of " + ", ".join(cls.numbers[4:]),
        )


class RtlRows(Table):
    """Cycle counts of Gemmini's RTL on convolution layers, with the mapping and the buffers they ran on.

    ``cycles`` are those of the given mapping, ``auto_cycles`` those of the stock tiler (nan where not run); ``pe``
    counts multipliers, ``prob_*`` are the loop bounds of the layer.
    """

    kind = "rtl"
    text = ("mapping", "shape")
    numbers = (
        *("cycles", "auto_cycles", "pe", "accumulator_entries", "scratchpad_entries"),
        *("prob_c", "prob_k", "prob_n", "prob_p", "prob_q", "prob_r", "prob_s", "prob_hstride", "prob_wstride"),
    )
    required = ("target.gemmini_cycle", "mapping.mapping", "arch.pe")
    rename: ClassVar[Mapping[str, str]] = {
        "target.gemmini_cycle": "cycles",
        "target.gemmini_auto_cycle": "auto_cycles",
        "mapping.mapping": "mapping",
        "prob.shape": "shape",
        "arch.pe": "pe",
        "arch.mem1_entries": "accumulator_entries",
        "arch.mem2_entries": "scratchpad_entries",
        **{
            f"prob.{name}": f"prob_{name.lower()}" for name in ("C", "K", "N", "P", "Q", "R", "S", "Hstride", "Wstride")
        },
    }

    @classmethod
    def checks(cls, columns: Mapping[str, Array]) -> Iterator[tuple[Array, str, str, str]]:
        """A positive number of cycles and whole loop bounds."""
        yield ~(columns["cycles"] > 0), "cycles", "missing, zero or negative cycles", "a number > 0"
        for name in (name for name in cls.numbers if name.startswith("prob_")):
            yield ~(columns[name] >= 1), name, "missing or bad loop bound", "a whole number ≥ 1"


class VisionRows(Table):
    """Vision networks on edge NPUs: milliseconds or frames per second of a named network."""

    kind = "vision"
    text = ("device", "software", "model", "precision", "extra")
    numbers = ("latency_ms", "fps", "params_m", "ops_g")
    required = ("device", "model")
    rename: ClassVar[Mapping[str, str]] = {
        "runtime": "software",
        "dtype": "precision",
        "params_M": "params_m",
        "ops_G": "ops_g",
        "variant": "extra",
    }

    @classmethod
    def matches(cls, header: set[str]) -> bool:
        """A device, a model, and a time or a rate of frames."""
        return super().matches(header) and bool(header & {"latency_ms", "fps"})

    @classmethod
    def checks(cls, columns: Mapping[str, Array]) -> Iterator[tuple[Array, str, str, str]]:
        """A figure that is not negative; a network that did not run may leave it empty."""
        for name in ("latency_ms", "fps"):
            yield columns[name] < 0, name, "negative", "a number ≥ 0, or empty"


_GEMM = ("m", "n", "k")
_ROWS = ("m", "n")
_ATTENTION = ("batch", "heads", "seq_q", "seq_kv")
SHAPES: dict[str, tuple[str, ...]] = {
    "gemm": _GEMM,
    "linear": _ROWS,  # also the name of an identity activation, which has no k
    "bmm": _GEMM,
    "moe_ffn": _GEMM,
    "grouped_gemm_prefill": _GEMM,
    "grouped_gemm_decode": _GEMM,
    "rmsnorm": _ROWS,
    "layernorm": _ROWS,
    "softmax": _ROWS,
    "attention_prefill": _ATTENTION,
    "attention_decode": _ATTENTION,
    "attention_encoder": _ATTENTION,
    "mla_prefill": _ATTENTION,
    "mla_decode": _ATTENTION,
}
"""Dimensions without which an operation has no shape. Operations not listed are judged when they are priced."""


@dataclass(frozen=True)
class Measured:
    """Everything a list of files holds, by schema; ``other`` names the CSV files no schema matches."""

    kernels: Rows | None = None
    collectives: CollectiveRows | None = None
    end_to_end: EndToEndRows | None = None
    rtl: RtlRows | None = None
    vision: VisionRows | None = None
    other: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        """The tables that hold rows."""
        found = (self.kernels, self.collectives, self.end_to_end, self.rtl, self.vision)
        return [table for table in found if table is not None]


SCHEMAS: tuple[type[Table], ...] = (RtlRows, CollectiveRows, EndToEndRows, Rows, VisionRows)


def load_rows(paths: Any) -> Rows:
    """Reads kernel rows from CSV files (gzip allowed); of a folder, every file that has their header.

    Args:
        paths: a path, or a list of paths, of files and folders.

    Raises:
        InputError: naming file and line of each problem; also when no kernel rows are there.
    """
    return _only(Rows, paths)


def load_collectives(paths: Any) -> CollectiveRows:
    """As ``load_rows`` for collectives."""
    return _only(CollectiveRows, paths)


def load_end_to_end(paths: Any) -> EndToEndRows:
    """As ``load_rows`` for end-to-end runs."""
    return _only(EndToEndRows, paths)


def load_rtl(paths: Any) -> RtlRows:
    """As ``load_rows`` for RTL cycle counts."""
    return _only(RtlRows, paths)


def load_vision(paths: Any) -> VisionRows:
    """As ``load_rows`` for vision networks."""
    return _only(VisionRows, paths)


def load_measured(paths: Any) -> Measured:
    """Reads rows of all schemas. A file that is named must match one; of a folder, the others are listed.

    Raises:
        InputError: naming file and line of each problem.
    """
    reader = _read(SCHEMAS, paths)
    found = reader.tables()

    def table(schema: type[T]) -> T | None:
        made = found.get(schema)
        return made if isinstance(made, schema) else None

    return Measured(
        table(Rows), table(CollectiveRows), table(EndToEndRows), table(RtlRows), table(VisionRows), tuple(reader.other)
    )


def _read(schemas: tuple[type[Table], ...], paths: Any) -> Reader:
    reader = Reader(schemas)
    for path, named in listed(paths):
        reader.read(path, named)
    return reader


def _only(schema: type[T], paths: Any) -> T:
    made = _read((schema,), paths).tables().get(schema)
    if not isinstance(made, schema):
        needed = f"needed columns: {', '.join(schema.required)}"
        raise InputError(Problem(f"no {schema.kind} rows found in {paths}"[:300], allowed=needed))
    return made


def _positive_times(columns: Mapping[str, Array], names: tuple[str, ...]) -> Iterator[tuple[Array, str, str, str]]:
    for name in names:
        yield np.isnan(columns[name]), name, "missing time", "a number > 0"
        yield columns[name] <= 0, name, "a time that is zero or negative", "a number > 0"


def _unknown_dtypes(spellings: Array) -> Array:
    known = {text: known_dtype(text) for text in set(spellings)}
    return np.array([not known[text] for text in spellings], dtype=bool)
