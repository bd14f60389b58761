"""Calibration documents: a few physical parameters of a chip and its software, with provenance and error.

A document belongs to one (chip, software, operator, dtype), or to a class of chips. It holds what a fit found
(parameters with 80 % intervals), where the measured rows came from, how well the fit predicts shapes it had not
seen, and the quantiles of its residuals, from which every prediction gets its interval. Documents of the catalog
lie in ``catalog/calibrations/<chip>--<software>--<op>--<dtype>.yaml``; those of chip classes are called
``class-<class>--...``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from npusim import dtypes, yamlio
from npusim.chip import Chip
from npusim.chip_parts import Spec
from npusim.errors import InputError, Problem, did_you_mean, unknown_name

CATALOG = Path(__file__).parent / "catalog" / "calibrations"
FORMAT: Literal["npusim-calibration/1"] = "npusim-calibration/1"
STATES = ("calibrated", "transferred", "uncalibrated")
State = Literal["calibrated", "transferred", "uncalibrated"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Rows = Annotated[int, Field(ge=1, strict=True)]


class Parameter(Spec):
    """A fitted constant: its value, its 80 % interval and its unit ("1" for a ratio)."""

    value: Finite
    low: Finite
    high: Finite
    unit: str = "1"

    @model_validator(mode="after")
    def _ordered(self) -> Parameter:
        if not self.low <= self.value <= self.high:
            raise InputError(Problem(f"the interval {self.low:g} to {self.high:g} does not hold {self.value:g}"))
        return self


class Provenance(Spec):
    """Where the measured rows come from: data set, what it measures, and how."""

    dataset: Name
    what: str = ""
    how: str = ""


class CrossValidation(Spec):
    """Errors on shapes that were not fitted, in percent; ``by`` says what a fold leaves out."""

    folds: Annotated[int, Field(ge=2, strict=True)]
    by: Literal["shape", "device"] = "shape"
    mape_pct: Finite
    mdape_pct: Finite
    bias_pct: Finite


class Residuals(Spec):
    """Quantiles of ln(measured / predicted) on shapes that were not fitted."""

    rows: Rows
    q05: Finite
    q10: Finite
    q50: Finite
    q90: Finite
    q95: Finite

    @model_validator(mode="after")
    def _ordered(self) -> Residuals:
        if not self.q05 <= self.q10 <= self.q50 <= self.q90 <= self.q95:
            raise InputError(Problem("quantiles must not decrease"))
        return self


class Calibration(Spec):
    """One document. ``chip`` is a catalog name, or a class name when ``scope`` is ``class``."""

    format: Literal["npusim-calibration/1"]
    scope: Literal["chip", "class"] = "chip"
    chip: Name
    software: Name
    op: Name
    dtype: Name
    family: Name
    parameters: dict[str, Parameter]
    rows: Rows
    source: Provenance
    residency: Literal["cold", "llc"] = "cold"
    chips: tuple[str, ...] = ()  # a class document: which chips it was learned on
    cross_validation: CrossValidation
    residuals: dict[str, Residuals]
    notes: tuple[str, ...] = ()

    @field_validator("residuals")
    @classmethod
    def _pooled(cls, value: dict[str, Residuals]) -> dict[str, Residuals]:
        if "all" not in value:
            raise InputError(Problem("residuals need a pooled entry called 'all'"))
        return value

    @property
    def name(self) -> str:
        """What the document is called: also its file name without the suffix."""
        return document_name(self.chip, self.software, self.op, self.dtype, self.scope)

    def values(self) -> dict[str, float]:
        """Parameter values by name."""
        return {name: parameter.value for name, parameter in self.parameters.items()}

    def interval_factors(self, group: str = "all") -> tuple[float, float]:
        """Factors on a predicted time that bound 80 % of measured ones, for rows of a residual group.

        Args:
            group: a bound or size class; a group the document does not list gets the pooled quantiles.
        """
        found = self.residuals.get(group, self.residuals["all"])
        return math.exp(found.q10), math.exp(found.q90)


# -- names ---------------------------------------------------------------------------------------------------


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-") or "any"


def dtype_key(dtype: str) -> str:
    """One spelling per format: ``bfloat16/kv_float16`` → ``bf16/kv_fp16``; unknown words stay as they are."""

    def plain(part: str) -> str:
        head, name = ("kv_", part[3:]) if part.startswith("kv_") else ("", part)
        return head + dtypes.ALIASES.get(name, name)

    return "/".join(plain(part) for part in dtype.lower().split("/"))


def stack(software: str) -> str:
    """A software spelling without its version: ``trtllm-1.3.0rc20`` → ``trtllm``."""
    return re.split(r"[-_ ]v?\d", software.lower(), maxsplit=1)[0]


def document_name(chip: str, software: str, op: str, dtype: str, scope: str = "chip") -> str:
    """File name, without suffix, of the document for one chip (or class), software, operator and dtype."""
    head = _slug(chip) if scope == "chip" else f"class-{_slug(chip)}"
    return "--".join((head, _slug(software), _slug(op), _slug(dtype_key(dtype))))


def chip_classes(chip: Chip) -> tuple[str, ...]:
    """Classes a chip belongs to, narrow to wide, from what its description says.

    The narrowest is the shape of the matrix instruction, which names the generation of a GPU's matrix cores,
    with the kind of main memory (HBM, GDDR or LPDDR boards differ in power and clocks); then the instruction
    alone; then the category.
    """
    matrix, memory = chip.core.matrix, chip.memory
    found: list[str] = [chip.category]
    if matrix is not None:
        shape = "x".join(map(str, matrix.shape or (matrix.rows, matrix.cols)))
        found.append(f"{chip.category}-{matrix.engine}-{shape}")
        if memory is not None:
            kind = re.match(r"[a-z]+", memory.kind.lower())
            found.append(f"{found[-1]}-{kind.group() if kind else 'memory'}")
    return tuple(reversed(found))


# -- reading and writing -------------------------------------------------------------------------------------


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Reads and checks a calibration document. Raises InputError with file and line of every mistake."""
    document = yamlio.load_yaml(path)
    return yamlio.validate(Calibration, document.data, document)


def save(calibration: Calibration, folder: str | os.PathLike[str] = CATALOG) -> Path:
    """Writes ``calibration`` under its own name into ``folder`` (made when missing).

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(folder) / f"{calibration.name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_yaml(calibration.model_dump(exclude_defaults=True)), encoding="utf-8")
    except OSError as error:
        raise InputError(Problem(f"cannot write: {error.strerror}", file=str(path))) from None
    for cached in (catalog, _by_chip):
        cached.cache_clear()
    return path


def _yaml(data: Mapping[str, Any]) -> str:
    """One line a figure: small mappings of numbers stay on their line."""
    lines: list[str] = []
    for key, value in data.items():
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
            lines.append(f"{key}:")
            lines += [f"  {name}: {_flow(inner)}" for name, inner in value.items()]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


# -- finding -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """The document that prices an operator, and how far it may be trusted."""

    calibration: Calibration
    state: State
    note: str = ""


# Operators that one family prices: a document of one serves the others when they have none of their own.
_SAME_OPERATOR = ({"gemm", "linear", "matmul"},)


@lru_cache(maxsize=4)
def catalog(folder: Path = CATALOG) -> Mapping[str, Path]:
    """Documents of a folder by name."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


@lru_cache(maxsize=4096)
def _load(path: Path) -> Calibration:
    return load_calibration(path)


@lru_cache(maxsize=8)
def _by_chip(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Operator and file of every document of a folder, by chip or class."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for name, path in catalog(folder).items():
        chip, _, op, _ = name.split("--")
        found.setdefault(chip, []).append((op, path))
    return found


def _available(chip: str, scope: str, op: str, extra: Iterable[Calibration], folder: Path) -> list[Calibration]:
    """Documents of a chip or class for an operator. Names of files say what is inside: only these are read."""
    head = _slug(chip) if scope == "chip" else f"class-{_slug(chip)}"
    wanted = _slug(op)
    found = [_load(path) for name, path in _by_chip(folder).get(head, ()) if name == wanted or _same_op(name, wanted)]
    return [c for c in extra if c.chip == chip and c.scope == scope and _same_op(c.op, op)] + found


def find(chip: str, software: str, op: str, dtype: str, folder: Path = CATALOG) -> Calibration | None:
    """The document of exactly this chip, software, operator and dtype in the catalog or a folder, if there is one."""
    path = catalog(folder).get(document_name(chip, software, op, dtype))
    return None if path is None else _load(path)


def resolve(
    chip: Chip, software: str, op: str, dtype: str, extra: Iterable[Calibration] = (), folder: Path = CATALOG
) -> Match | None:
    """The best document for an operator on ``chip``; None when nothing of its kind was ever measured.

    In this order: the chip's own document; of the same chip and dtype, another version of the software, then
    other software; class documents, learned on other chips, of the same stack before others, narrow class before
    wide; last, another dtype of the same chip. Only documents of this chip and dtype count as ``calibrated``.

    Args:
        chip: the hardware.
        software: spelling of the rows ("" when unknown).
        op: operator name of the rows.
        dtype: dtype spelling of the rows.
        extra: documents that are looked at before those of the folder.
        folder: where documents lie; default: the catalog.
    """
    extra = tuple(extra)
    own = _available(chip.name, "chip", op, extra, folder)
    same = [c for c in own if dtype_key(c.dtype) == dtype_key(dtype)]
    if same:
        best = min(same, key=lambda c: _distance(c, software, op))
        exact = c_key(best) == (software.lower(), op.lower())
        return Match(best, "calibrated", "" if exact else f"fitted on {best.op} rows of {best.software}")
    # Stacks differ by more than generations do (launch, quantisation kernels), so the same stack comes first: A100 is
    # predicted 14 % off by TensorRT-LLM's class of all GPUs and 18 to 24 % off by other stacks on its own generation.
    for same_stack in (True, False):
        found = []
        for name in chip_classes(chip):
            learned = _available(name, "class", op, extra, folder)
            learned = [c for c in learned if dtype_key(c.dtype) == dtype_key(dtype)]
            learned = [c for c in learned if not same_stack or stack(c.software) == stack(software)]
            if learned:
                found.append((name, min(learned, key=lambda c: _distance(c, software, op))))
        if found:
            best = _of_classes(found, chip)
            return Match(best, "transferred", f"learned on {', '.join(best.chips)}")
    if own:
        best = min(own, key=lambda c: _distance(c, software, op))
        return Match(best, "transferred", f"fitted on {best.dtype} rows of {best.software}")
    return None


def _of_classes(found: list[tuple[str, Calibration]], chip: Chip) -> Calibration:
    """The class document to use of those found, narrow to wide.

    That is the narrowest, but not one of a single chip with another kind of memory when a wider class has several
    chips: one chip teaches its boards' peculiarities (A100 from L40S alone: 21 %; from three generations: 14 %).
    """
    name, narrowest = found[0]
    several = [document for _, document in found if len(document.chips) > 1]
    lone = len(narrowest.chips) == 1 and name != chip_classes(chip)[0]
    return several[0] if lone and several else narrowest


def c_key(calibration: Calibration) -> tuple[str, str]:
    """Software and operator of a document, in small letters."""
    return calibration.software.lower(), calibration.op.lower()


def _same_op(left: str, right: str) -> bool:
    pair = {left.lower(), right.lower()}
    return len(pair) == 1 or any(pair <= group for group in _SAME_OPERATOR)


def _distance(calibration: Calibration, software: str, op: str) -> tuple[bool, bool, bool, bool, bool, float, str]:
    """How far a document's software and operator are from what is asked; ties go to the smaller error."""
    own, kind = c_key(calibration)
    return (
        kind != op.lower(),
        own != software.lower(),
        stack(own) != stack(software),
        own != "any",
        " kernel=" in own and " kernel=" not in software.lower(),
        calibration.cross_validation.mape_pct,
        own,
    )


# -- which documents may be used ------------------------------------------------------------------------------

Which = str | os.PathLike[str] | Calibration | Sequence[Calibration]


class Calibrations:
    """Which documents may be used: ``none``, those of the catalog (``auto``), of a folder, or some by name.

    Args:
        which: ``"none"``, ``"auto"``, a folder, a file, the name of a catalog document, a document, or several.

    Raises:
        InputError: neither a file nor the name of a document.
    """

    def __init__(self, which: Which = "auto") -> None:
        self.named: tuple[Calibration, ...] = ()
        self.label = str(which) if isinstance(which, (str, os.PathLike)) else "given"
        folder = self.label not in ("auto", "none", "given") and os.path.isdir(self.label)
        self.folder = Path(self.label) if folder else CATALOG
        self.catalog = which == "auto" or folder
        if isinstance(which, Calibration):
            self.named = (which,)
        elif not isinstance(which, (str, os.PathLike)):
            self.named = tuple(which)
        elif self.label not in ("auto", "none") and not folder:
            self.named = (_named(self.label),)

    def __bool__(self) -> bool:
        return self.catalog or bool(self.named)

    def exact(self, chip: Chip, software: str, op: str, dtype: str) -> Match | None:
        """The document of just this software, or None."""
        found = find(chip.name, software, op, dtype, self.folder) if self.catalog else None
        return None if found is None else Match(found, "calibrated")

    def match(self, chip: Chip, software: str, op: str, dtype: str) -> Match | None:
        """The best document for an operator, or None."""
        if self.catalog:
            return _of_stack(resolve(chip, software, op, dtype, folder=self.folder), software)
        tried = [resolve(chip, software, op, dtype, (document,)) for document in self.named]
        usable = [m for m, own in zip(tried, self.named, strict=True) if m is not None and m.calibration is own]
        # A document of this very format goes before one of another that could stand in for it.
        return _of_stack(min(usable, key=lambda match: match.state != "calibrated", default=None), software)

    def document(self, name: str) -> Calibration:
        """The document of a name that ``match`` found."""
        return next((own for own in self.named if own.name == name), None) or _load(catalog(self.folder)[name])

    def stacks_of(self, chip: Chip, ops: Iterable[str]) -> list[str]:
        """Software stacks with documents of this chip, failing that of its classes, for any of the operators."""
        if not self.catalog:
            return sorted({stack(document.software) for document in self.named})
        wanted = set(ops)
        for scope, name in (("chip", chip.name), *(("class", name) for name in chip_classes(chip))):
            found = {stack(c.software) for op in wanted for c in _available(name, scope, op, (), self.folder)}
            if found:
                return sorted(found)
        return []

    def check_software(self, software: str) -> str:
        """The spelling, if any document is of that stack in whatever version. Raises InputError otherwise."""
        known = {stack(_slug(document.software)) for document in self.named}
        if self.catalog:
            known |= {stack(name.split("--")[1]) for name in catalog(self.folder)}
        if stack(_slug(software)) not in known:
            raise unknown_name("software of the calibrations", software, known, "software")
        return software


def _named(text: str) -> Calibration:
    """The document of a file or of the catalog."""
    if text in catalog():
        return _load(catalog()[text])
    if not os.path.exists(text) and not text.endswith((".yaml", ".yml")):
        hint = did_you_mean(text, ("none", "auto", *catalog()))
        allowed = "none, auto, a file, or the name of a catalog document (npusim/catalog/calibrations)"
        raise InputError(Problem(f"{text!r} is no calibration"[:200], "calibration", allowed=allowed, hint=hint))
    return load_calibration(text)


def _of_stack(match: Match | None, software: str) -> Match | None:
    """A document of another software stack is transferred: kernels of two stacks differ by up to a factor."""
    if match is None or match.state != "calibrated":
        return match
    own = stack(match.calibration.software)
    same = own in ("any", stack(software))
    return match if same else replace(match, state="transferred")
