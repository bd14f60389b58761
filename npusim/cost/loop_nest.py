"""A mapping given by hand: the loops of one GEMM or convolution, outer to inner, on the levels of a chip.

The text is the usual one of loop-nest tools (Parashar et al., "Timeloop", ISPASS 2019, section V)::

    L3[WIO] K2 S3 - L2[WI] N1 K16X - L1[O] K8 R3 C16 P14 C16X - L0[W] Q14

``L3`` is main memory, ``L2`` the scratchpad, ``L1`` the accumulator, ``L0`` the registers of the array; the
letters in brackets are the operands a level keeps. A loop is a dimension and its count; ``X`` marks a
loop spread over the array. Dimensions: R × S kernel columns and rows, P × Q output columns and rows, C input
channels, K output channels, N batch. A GEMM has P = m, K = n, C = k.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from npusim.errors import InputError, Problem, unknown_name
from npusim.ops import conv_output
from npusim.workload import Op

DIMS = "RSPQCKN"
MAX_TEXT = 10_000
# Operand → the dimensions that select its elements; a loop over another dimension re-uses it.
RELEVANT: dict[str, frozenset[str]] = {"w": frozenset("KCRS"), "x": frozenset("NCPQRS"), "out": frozenset("NKPQ")}
_KEEPS = {"L3": "WIO", "L2": "WI", "L1": "O", "L0": "W"}
_SPATIAL = {"L2": "K", "L1": "C"}  # K across the columns of the array, C along its rows
_EXAMPLE = "L3[WIO] K2 S3 - L2[WI] N1 K16X - L1[O] K8 R3 C16 P14 C16X - L0[W] Q14"


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop: dimension, trip count, and whether it is spread over the array."""

    dim: str
    count: int
    spatial: bool = False

    def __str__(self) -> str:
        return f"{self.dim}{self.count}{'X' if self.spatial else ''}"


@dataclass(frozen=True, slots=True)
class LoopNest:
    """Loops by level, outermost level and loop first; ``str`` gives the text back."""

    levels: tuple[tuple[str, tuple[Loop, ...]], ...]

    def __str__(self) -> str:
        return " - ".join(f"{name}[{_KEEPS[name]}] {' '.join(map(str, loops))}" for name, loops in self.levels)

    @property
    def outer(self) -> tuple[Loop, ...]:
        """The loops over tiles, those of main memory, without loops of one trip."""
        return tuple(loop for loop in self.levels[0][1] if loop.count > 1)

    @property
    def tile(self) -> dict[str, int]:
        """Extent of every dimension in one tile: the product of the loops below main memory."""
        return self._extents(1)

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every dimension in the whole nest."""
        return self._extents(0)

    def _extents(self, first: int) -> dict[str, int]:
        extents = dict.fromkeys(DIMS, 1)
        for _, loops in self.levels[first:]:
            for loop in loops:
                extents[loop.dim] *= loop.count
        return extents

    def spatial(self, dim: str) -> int:
        """How many values of a dimension are in the array at once."""
        return math.prod(loop.count for _, loops in self.levels for loop in loops if loop.spatial and loop.dim == dim)

    def tile_changes(self, operand: str) -> int:
        """How often the tile of ``w``, ``x`` or ``out`` differs from the one before.

        The trips of all tile loops down to the innermost that selects the operand: it stays where it is
        during the loops inside that one.
        """
        relevant = [i for i, loop in enumerate(self.outer) if loop.dim in RELEVANT[operand]]
        return math.prod(loop.count for loop in self.outer[: relevant[-1] + 1]) if relevant else 1


def parse_mapping(text: str) -> LoopNest:
    """Parses a mapping.

    Args:
        text: levels separated by `` - ``, main memory first.

    Raises:
        InputError: not in this form, a level or dimension that does not exist, or a level out of order.
    """
    if len(text) > MAX_TEXT:
        raise InputError(Problem(f"longer than {MAX_TEXT} characters", "mapping"))
    levels = tuple(_level(part) for part in re.split(r"\s+-\s+", text.strip()))
    names = [name for name, _ in levels]
    if names != list(_KEEPS):
        raise InputError(
            Problem(f"levels are {', '.join(names)}"[:120], "mapping", allowed=f"{', '.join(_KEEPS)}, each once")
        )
    return LoopNest(levels)


def _level(part: str) -> tuple[str, tuple[Loop, ...]]:
    head = re.fullmatch(r"(\w+)\[(\w+)\]((?:\s+\w+)+)", part, re.ASCII)
    if not head:
        raise InputError(Problem(f"{part!r} is not a level and its loops"[:160], "mapping", allowed=_EXAMPLE))
    name, keeps = head[1], head[2]
    if name not in _KEEPS:
        raise unknown_name("level", name, _KEEPS, "mapping")
    if keeps != _KEEPS[name]:
        raise InputError(Problem(f"{name} keeps {keeps}"[:120], "mapping", allowed=f"{name}[{_KEEPS[name]}]"))
    return name, tuple(_loop(name, word) for word in head[3].split())


def _loop(level: str, word: str) -> Loop:
    parts = re.fullmatch(r"([A-Za-z]+)([0-9]{1,12})(X?)", word)
    if not parts or int(parts[2]) < 1:
        raise InputError(
            Problem(f"{word!r} is not a loop"[:120], f"mapping.{level}", allowed="K16, or K16X if spatial")
        )
    if parts[1] not in tuple(DIMS):
        raise unknown_name("dimension", parts[1], DIMS, f"mapping.{level}")
    loop = Loop(parts[1], int(parts[2]), bool(parts[3]))
    if loop.spatial and loop.dim != _SPATIAL.get(level):
        raise InputError(
            Problem(f"{word} cannot be spread over the array here", f"mapping.{level}", allowed="K in L2, C in L1")
        )
    return loop


@dataclass(frozen=True, slots=True)
class Extents:
    """The dimensions of an operator in the letters of a mapping, and its stride."""

    sizes: Mapping[str, int]
    stride: int
    gemm: bool


def extents_of(op: Op) -> Extents:
    """The loops an operator needs.

    Raises:
        InputError: neither a GEMM nor a convolution, arrays of shapes, groups or a bias.
    """
    d = op.dims
    if op.kind not in ("gemm", "conv2d"):
        raise InputError(Problem(f"no mapping of {op.kind}", "mapping", allowed="gemm or conv2d"))
    if not all(isinstance(size, int) for size in d.values()):
        raise InputError(Problem("one mapping serves one shape, not an array of shapes", "mapping"))
    if d["groups"] != 1 or d.get("bias"):
        raise InputError(Problem("groups and a bias have no loop", "mapping", allowed="groups=1 and no bias"))
    if op.kind == "gemm":
        return Extents(dict.fromkeys(DIMS, 1) | {"P": d["m"], "K": d["n"], "C": d["k"]}, 1, True)
    rows, cols = conv_output(op)
    sizes = {"R": d["kw"], "S": d["kh"], "P": cols, "Q": rows, "C": d["in_c"], "K": d["out_c"], "N": d["batch"]}
    return Extents(sizes, d["stride"], False)


def check(nest: LoopNest, extents: Extents) -> None:
    """Raises InputError, all dimensions at once, unless the loops multiply to the operator's dimensions."""
    found = nest.extents
    problems = [
        Problem(f"loops over {dim} multiply to {found[dim]}", "mapping", allowed=f"{extents.sizes[dim]}")
        for dim in DIMS
        if found[dim] != extents.sizes[dim]
    ]
    if problems:
        raise InputError(problems)
