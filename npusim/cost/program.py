"""What the cycle model runs: tasks on in-order queues of cores, and the blocks of data they need from DRAM.

A mapping is lowered to a ``Program`` once, as columns of NumPy arrays; the event loop (``csrc/sim/cycle.c``) then
gives every task its times. Tasks with ``bytes`` or a ``block`` move data, others compute for ``delay`` seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npusim.errors import InputError, Problem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# What a task does, by code (its place), and the resource it occupies.
WORK: dict[str, str] = {
    "none": "",
    "load a": "load",
    "load b": "load",
    "matmul": "matrix",
    "vector": "vector",
    "store": "store",
    "store partial": "store",
    "load partials": "load",
    "load q": "load",
    "load kv": "load",
    "q·kᵀ": "matrix",
    "softmax": "vector",
    "p·v": "matrix",
    "read": "load",
    "transfer": "link",
}
CODES = {name: code for code, name in enumerate(WORK)}


# More take minutes and gigabytes.
MAX_TASKS = 20_000_000


def check_tasks(tasks: float, most: float | None = None) -> None:
    """Raises InputError for more than ``most`` tasks (``MAX_TASKS``)."""
    most = MAX_TASKS if most is None else most
    if tasks > most:
        what = f"{tasks:.4g} tasks are too many for the cycle model"
        raise InputError(Problem(what, allowed=f"at most {most:.4g}", hint="use the tile fidelity"))


@dataclass(frozen=True)
class Queue:
    """An in-order queue: name, core (−1: of the chip), port of its transfers (−1: it computes)."""

    name: str
    core: int
    port: int


@dataclass(frozen=True)
class Blocks:
    """Pieces of data that pass DRAM once each; whoever needs one first moves it.

    Args:
        bytes: that pass, above 0.
        address: of the first byte.
        run: contiguous bytes.
        stride: from one run to the next.
        write: True towards DRAM.
    """

    bytes: Floats
    address: Ints
    run: Ints
    stride: Ints
    write: NDArray[np.bool_]


@dataclass(frozen=True)
class Holds:
    """Bytes of a core's memory that are taken from the issue of one task to the end of another."""

    core: Ints
    taken_by: Ints
    freed_by: Ints
    bytes: Floats


@dataclass(frozen=True)
class Program:
    """Tasks of one operator on one chip.

    Args:
        queues: the queues.
        port_bytes_per_s: rate of each port.
        fabric_bytes_per_s: rate all ports share.
        work: code of each task (``CODES``).
        queue: its queue; a queue runs its tasks in their order.
        delay_s: seconds of compute, or of set-up of a transfer.
        bytes: through port and fabric; 0 for tasks that compute.
        block: that the task needs, −1 for none.
        first_dep: tasks + 1 offsets into ``deps``.
        deps: tasks that must have ended.
        blocks: pieces of data that pass DRAM.
        holds: what the tasks keep in their core's memory.
        core_bytes: capacity of a core's memory.
    """

    queues: tuple[Queue, ...]
    port_bytes_per_s: Floats
    fabric_bytes_per_s: float
    work: NDArray[np.int8]
    queue: NDArray[np.int32]
    delay_s: Floats
    bytes: Floats
    block: NDArray[np.int32]
    first_dep: Ints
    deps: NDArray[np.int32]
    blocks: Blocks
    holds: Holds
    core_bytes: float

    @property
    def tasks(self) -> int:
        """How many tasks there are, those that do nothing included."""
        return len(self.work)


class Builder:
    """Collects columns of tasks, blocks and holds, and the dependencies between tasks."""

    def __init__(
        self, queues: tuple[Queue, ...], port_bytes_per_s: Floats, fabric_bytes_per_s: float, core_bytes: float
    ):
        self._fixed = (queues, port_bytes_per_s, fabric_bytes_per_s)
        self._core_bytes = core_bytes
        self._tasks: list[tuple[NDArray[np.int8], NDArray[np.int32], Floats, Floats, NDArray[np.int32]]] = []
        self._count = 0
        self._edges: list[tuple[Ints, Ints]] = []
        self._blocks: list[tuple[Floats, Ints, Ints, Ints, NDArray[np.bool_]]] = []
        self._block_count = 0
        self._holds: list[tuple[Ints, Ints, Ints, Floats]] = []

    def tasks(
        self,
        work: ArrayLike,
        queue: ArrayLike,
        delay_s: ArrayLike = 0.0,
        bytes_: ArrayLike = 0.0,
        block: ArrayLike = -1,
    ) -> Ints:
        """Appends tasks, in the order in which their queues run them. Arguments broadcast. Returns their numbers.

        A task without delay, bytes and block does nothing and is recorded as such.
        """
        codes, queues, delays, sizes, blocks = np.broadcast_arrays(work, queue, delay_s, bytes_, block)
        idle = (delays == 0) & (sizes == 0) & (blocks < 0)
        flat = np.where(idle, CODES["none"], codes).ravel().astype(np.int8)
        self._tasks.append(
            (flat, queues.ravel().astype(np.int32), delays.ravel().astype(float), sizes.ravel().astype(float),
             blocks.ravel().astype(np.int32))
        )  # fmt: skip
        numbers = np.arange(self._count, self._count + flat.size)
        self._count += flat.size
        return numbers.reshape(codes.shape)

    def blocks(
        self, bytes_: ArrayLike, address: ArrayLike, run: ArrayLike, stride: ArrayLike, write: bool = False
    ) -> Ints:
        """Appends blocks; those without bytes get number −1. Arguments broadcast. Returns their numbers."""
        columns = np.broadcast_arrays(bytes_, address, run, stride)
        shape = columns[0].shape
        size, place, length, step = (column.ravel() for column in columns)
        some = size > 0
        numbers = np.where(some, self._block_count + np.cumsum(some) - 1, -1)
        self._block_count += int(some.sum())
        self._blocks.append(
            (size[some].astype(float), place[some].astype(np.int64), np.maximum(length[some], 1).astype(np.int64),
             np.maximum(step[some], 1).astype(np.int64), np.full(int(some.sum()), write))
        )  # fmt: skip
        return np.asarray(numbers.reshape(shape))

    def after(self, task: ArrayLike, needed: ArrayLike, where: ArrayLike = True) -> None:
        """``task`` starts when ``needed`` has ended; arguments broadcast, negative numbers are left out."""
        later, sooner, wanted = np.broadcast_arrays(task, needed, where)
        keep = (wanted & (later >= 0) & (sooner >= 0)).ravel()
        self._edges.append((later.ravel()[keep].astype(np.int64), sooner.ravel()[keep].astype(np.int64)))

    def hold(self, core: ArrayLike, taken_by: ArrayLike, freed_by: ArrayLike, bytes_: ArrayLike) -> None:
        """``bytes_`` of the memory of ``core`` are taken from the issue of one task to the end of another."""
        columns = np.broadcast_arrays(core, taken_by, freed_by, bytes_)
        keep = (columns[3] > 0).ravel()
        a, b, c = (column.ravel()[keep].astype(np.int64) for column in columns[:3])
        self._holds.append((a, b, c, columns[3].ravel()[keep].astype(float)))

    def program(self) -> Program:
        """The finished program."""
        later, sooner = _joined(self._edges, (np.int64, np.int64))
        order = np.lexsort((sooner, later))
        first = np.concatenate(([0], np.cumsum(np.bincount(later, minlength=self._count))))
        work, queue, delay, size, block = _joined(self._tasks, (np.int8, np.int32, float, float, np.int32))
        blocks = Blocks(*_joined(self._blocks, (float, np.int64, np.int64, np.int64, bool)))
        holds = Holds(*_joined(self._holds, (np.int64, np.int64, np.int64, float)))
        return Program(
            *self._fixed, work, queue, delay, size, block, first.astype(np.int64), sooner[order].astype(np.int32),
            blocks, holds, self._core_bytes,
        )  # fmt: skip


def _joined(parts: Sequence[tuple[NDArray[Any], ...]], dtypes: tuple[type, ...]) -> list[NDArray[Any]]:
    """Columns of the parts, one after the other."""
    return [
        np.ascontiguousarray(np.concatenate([part[i] for part in parts] or [np.zeros(0)]), dtype=dtype)
        for i, dtype in enumerate(dtypes)
    ]
