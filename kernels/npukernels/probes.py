"""Loops that measure the machine (csrc/host): what its registers compute and its memories deliver.

Nothing here looks at a clock: the caller times a call and divides by the work it did.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import pointer
from npusim.errors import unknown_name

INSTRUCTION_SETS = ("generic", "avx2", "avx512")

# Loops in registers and what one operation of them is; the order is that of csrc/host/api.h.
COMPUTE = {
    "fma": "float32 multiply-adds in independent chains, 2 operations each",
    "fma-chain": "float32 multiply-adds that wait for each other, 2 operations each",
    "add": "float32 additions",
    "rsqrt": "float32 reciprocal square roots",
    "fp16": "float32 multiply-adds with one factor widened from binary16, 2 operations each",
    "bf16": "float32 multiply-adds with one factor widened from bfloat16, 2 operations each",
    "dot16": "int32 sums of int16 products, 2 operations a product",
    "dot8": "int32 sums of uint8 times int8 products, 2 operations a product",
}

# Loops over memory, and whether they read a source and write a target.
STREAMS = {"read": (True, False), "write": (False, True), "copy": (True, True), "copy-past": (True, True)}

BLOCK_BYTES = 512  # what a stream takes at once


def compute(instructions: str, loop: str, steps: int) -> float:
    """Runs ``steps`` steps of a loop and returns how many operations that were; 0 where this CPU lacks it.

    Args:
        instructions: one of ``INSTRUCTION_SETS``.
        loop: one of ``COMPUTE``.
        steps: at least 0.

    Raises:
        InputError: unknown name, negative steps, or no C extension.
    """
    module = native.require_native()
    done = module.ffi.new("double *")
    index = _index("loop", loop, COMPUTE)
    status = module.lib.npk_host_compute(_index("instruction set", instructions, INSTRUCTION_SETS), index, steps, done)
    if status == module.lib.NPK_EUNSUPPORTED:
        return 0.0
    native.raise_for_status(status, f"{loop} loop")
    return float(done[0])


def stream(
    instructions: str,
    loop: str,
    source: npt.NDArray[Any] | None,
    target: npt.NDArray[Any] | None,
    passes: int = 1,
) -> float:
    """Goes ``passes`` times over memory and returns the bytes it read and wrote; 0 where there is no such loop.

    Args:
        instructions: one of ``INSTRUCTION_SETS``.
        loop: one of ``STREAMS``.
        source: contiguous, aligned to 64 bytes, a multiple of ``BLOCK_BYTES``; None for ``write``.
        target: as ``source``, of the same size; None for ``read``.
        passes: at least 0.

    Raises:
        InputError: unknown name, arrays of another size or alignment, or no C extension.
    """
    reads, writes = STREAMS[tuple(STREAMS)[_index("loop", loop, STREAMS)]]
    used = [x for x, wanted in ((source, reads), (target, writes)) if wanted and x is not None]
    module = native.require_native()
    sizes = {x.nbytes for x in used} if len(used) == reads + writes else {1}  # one that is missing is refused below
    status = module.lib.npk_host_stream(
        _index("instruction set", instructions, INSTRUCTION_SETS),
        tuple(STREAMS).index(loop),
        sizes.pop() if len(sizes) == 1 else 1,
        passes,
        pointer(source) if source is not None else module.ffi.NULL,
        pointer(target) if target is not None else module.ffi.NULL,
    )
    if status == module.lib.NPK_EUNSUPPORTED:
        return 0.0
    native.raise_for_status(status, f"{loop} loop")
    return float(sum(x.nbytes for x in used) * passes)


def cycles(steps: int) -> None:
    """Runs ``steps`` (rounded up to 16) integer additions that wait for each other: one a clock cycle.

    Raises:
        InputError: negative steps, or no C extension.
    """
    native.raise_for_status(native.require_native().lib.npk_host_cycles(steps), "cycle loop")


def buffer(size: int) -> npt.NDArray[np.uint8]:
    """``size`` bytes of memory, aligned to 64, written once so that every page is there."""
    raw = np.full(size + 64, 1, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    return raw[start : start + size]


def _index(what: str, name: str, known: Any) -> int:
    names = tuple(known)
    if name not in names:
        raise unknown_name(what, str(name), names)
    return names.index(name)
