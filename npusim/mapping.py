"""How a matrix product is laid onto a chip, and the file in which mappings are kept.

A file names a mapping per operator (``layers.ffn.up``)::

    format: npusim-mappings/1
    mappings:
      gemm: {tm: 256, tn: 128, tk: 64, split: 1, keep: a}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from npusim import yamlio
from npusim.chip_parts import Count
from npusim.errors import InputError, Problem

KEEPS = ("nothing", "a", "b")


@dataclass(frozen=True, slots=True)
class GemmMapping:
    """How a GEMM is laid onto a chip: tile edges, split of the reduction, and the operand that stays in a core."""

    tm: int
    tn: int
    tk: int
    split: int = 1
    keep: str = "nothing"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tm: Count
    tn: Count
    tk: Count
    split: Count = 1
    keep: Literal["nothing", "a", "b"] = "nothing"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["npusim-mappings/1"]
    mappings: dict[str, _Entry]


def load_mappings(path: str | os.PathLike[str]) -> dict[str, GemmMapping]:
    """Reads mappings by operator name.

    Raises:
        InputError: the file cannot be read or is not such a file; the message names the line.
    """
    document = yamlio.load_json(path) if str(path).endswith(".json") else yamlio.load_yaml(path)
    read = yamlio.validate(_File, document.data, document)
    return {name: GemmMapping(**entry.model_dump()) for name, entry in read.mappings.items()}


def save_mappings(mappings: Mapping[str, GemmMapping], path: str | os.PathLike[str]) -> None:
    """Writes mappings as JSON, which is YAML too. Raises InputError when the file cannot be written."""
    content = {"format": "npusim-mappings/1", "mappings": {name: asdict(m) for name, m in mappings.items()}}
    try:
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(Problem(f"cannot write {path}: {error.strerror}", "--save-mappings")) from None
