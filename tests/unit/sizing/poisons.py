"""Ways to price designs that go wrong; worker processes import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from npusim.sizing.evaluation import Outcome
from npusim.sizing.executors import Chunk, price_chunk

POISON = 48  # cores of the design that kills its worker


def killing(data: dict[str, Any], chunk: Chunk) -> list[Outcome]:
    """Kills the worker when the chunk holds the poisoned design."""
    if any(dict(design.parameters).get("chip.cores") == POISON for design in chunk):
        os.kill(os.getpid(), signal.SIGKILL)
    return price_chunk(data, chunk)


def failing(data: dict[str, Any], chunk: Chunk) -> list[Outcome]:
    """An error nobody foresaw, in one design."""
    return [
        Outcome("failed", "ZeroDivisionError: x")
        if dict(design.parameters)["chip.cores"] == POISON
        else price_chunk(data, (design,))[0]
        for design in chunk
    ]


def once_killed(data: dict[str, Any], chunk: Chunk) -> list[Outcome]:
    """Kills its worker the first time it is asked for the poisoned design, and works the next time."""
    mark = Path(os.environ["NPUSIM_TEST_MARK"])
    if any(dict(design.parameters).get("chip.cores") == POISON for design in chunk) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return price_chunk(data, chunk)


def slow(data: dict[str, Any], chunk: Chunk) -> list[Outcome]:
    """Takes long enough to be killed in the middle."""
    time.sleep(0.05)
    return price_chunk(data, chunk)
