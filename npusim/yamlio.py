"""Strict reading of YAML and JSON files: positions for every value, no surprises.

PyYAML's ``safe_load`` keeps the last of two equal keys, reads ``010`` as 8 and ``on`` as True, builds
alias bombs and dies on deep nesting. This loader walks the parser's *event* stream (which needs no
recursion), so depth and size are bounded before anything is built; it refuses anchors, aliases, tags
and duplicate keys, and follows the YAML 1.2 core schema for scalars.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from npusim.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound="BaseModel")

MAX_BYTES = 2**20
MAX_NODES = 100_000
MAX_DEPTH = 32
MAX_SCALAR = 10_000

Keys = tuple[str | int, ...]
Position = tuple[int, int]

_INT = re.compile(r"[-+]?[0-9]+")
_RADIX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass
class Document:
    """A file that was read: its plain data, and where each value stands.

    Args:
        data: mappings, lists and scalars.
        file: the name to print in messages.
        positions: 1-based (line, column) by key path.
    """

    data: Any
    file: str
    positions: dict[Keys, Position] = field(default_factory=dict)

    def at(self, path: Keys) -> Position:
        """Position of ``path`` or of its nearest enclosing value; (0, 0) when nothing is known."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.positions:
                return self.positions[path[:end]]
        return (0, 0)

    def problem(self, path: Keys, message: str, allowed: str = "", hint: str = "") -> Problem:
        """A Problem at the position of ``path``."""
        line, col = self.at(path)
        return Problem(message, dotted(path), self.file, line, col, allowed, hint)


def dotted(path: Keys) -> str:
    """``("levels", "l1", 0)`` → ``levels.l1[0]``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else (f".{key}" if text else str(key))
    return text[:200]


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a small UTF-8 text file. Raises InputError when it is missing, too big or not UTF-8."""
    file = str(path)
    try:
        if Path(path).is_dir():
            raise InputError(Problem("is a folder, not a file", file=file))
        with open(path, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(f"cannot read: {reason}", file=file)) from None
    if len(raw) > MAX_BYTES:
        raise InputError(Problem("file is too big", file=file, allowed=f"at most {MAX_BYTES} bytes"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(Problem("not UTF-8 text", "", file, line, 1)) from None


def load_yaml(path: str | os.PathLike[str]) -> Document:
    """Reads one YAML document from ``path``. Raises InputError naming every problem with file:line:col."""
    return parse_yaml(read_text(path), str(path))


def load_json(path: str | os.PathLike[str]) -> Document:
    """Reads a JSON file strictly (no duplicate keys, bounded depth). Raises InputError."""
    return parse_json(read_text(path), str(path))


def parse_yaml(text: str, file: str) -> Document:
    """Parses YAML text; ``file`` is only for messages. See ``load_yaml``."""
    import yaml

    builder = _Builder(file)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.feed(event, type(event).__name__)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, col = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        builder.problems.append(Problem(f"not valid YAML: {what}", "", file, line, col))
    if builder.problems:
        raise InputError(builder.problems)
    return builder.document


class _Builder:
    """Turns parser events into plain data with an explicit stack instead of recursion."""

    def __init__(self, file: str) -> None:
        self.document = Document(None, file)
        self.problems: list[Problem] = []
        self.stack: list[Any] = []  # open containers, innermost last
        self.path: list[str | int] = []  # key of each open container's current slot
        self.key: list[str | None] = []  # per open container: key read and waiting for its value
        self.nodes = 0
        self.documents = 0

    def feed(self, event: Any, kind: str) -> None:
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents == 2:
                self._stop(event, "more than one document in the file")
        elif kind == "AliasEvent":
            self._stop(event, f"alias '*{event.anchor}' is not allowed", "write the value out")
        elif kind in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent"):
            self._check(event)
            if kind == "ScalarEvent":
                self._scalar(event)
            else:
                self._open({} if kind == "MappingStartEvent" else [], event)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self.stack.pop()
            self.key.pop()
            if self.path:
                self.path.pop()

    def _check(self, event: Any) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values in the file")
        if event.anchor is not None:
            self._stop(event, f"anchor '&{event.anchor}' is not allowed", "write the value out")
        if event.tag is not None and event.tag != "!":
            self._stop(event, f"tag '{event.tag}' is not allowed"[:120], "values are plain text and numbers")

    def _open(self, container: Any, event: Any) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        if self.stack and isinstance(self.stack[-1], dict) and self.key[-1] is None:
            self._stop(event, "a mapping key must be plain text")
        self._place(container, event, opening=True)
        self.stack.append(container)
        self.key.append(None)

    def _scalar(self, event: Any) -> None:
        if len(event.value) > MAX_SCALAR:
            self._stop(event, f"text longer than {MAX_SCALAR} characters")
        if self.stack and isinstance(self.stack[-1], dict) and self.key[-1] is None:
            self._key(event)
        else:
            plain = event.style in (None, "")
            self._place(_core_scalar(event.value) if plain else event.value, event)

    def _key(self, event: Any) -> None:
        key, path = event.value, (*self.path, event.value)
        if path in self.document.positions:
            first = self.document.positions[path]
            self._report(event, f"duplicate key {key!r}"[:120], path, hint=f"first given in line {first[0]}")
        if key == "<<":
            self._stop(event, "merge keys ('<<') are not allowed", "write the values out")
        self.document.positions.setdefault(path, _where(event))
        self.key[-1] = key

    def _place(self, value: Any, event: Any, opening: bool = False) -> None:
        slot: str | int | None = None
        if not self.stack:
            self.document.data = value
            self.document.positions.setdefault((), _where(event))
        elif isinstance(self.stack[-1], dict):
            slot = self.key[-1]
            assert slot is not None
            self.stack[-1].setdefault(slot, value)
            self.key[-1] = None
        else:
            slot = len(self.stack[-1])
            self.stack[-1].append(value)
            self.document.positions[(*self.path, slot)] = _where(event)
        if opening and slot is not None:
            self.path.append(slot)
        elif slot is not None and isinstance(value, float) and not math.isfinite(value):
            self._report(event, "number is not finite", (*self.path, slot))

    def _report(self, event: Any, message: str, path: Keys = (), allowed: str = "", hint: str = "") -> None:
        line, col = _where(event)
        problem = Problem(message, dotted(path or tuple(self.path)), self.document.file, line, col, allowed, hint)
        self.problems.append(problem)

    def _stop(self, event: Any, message: str, hint: str = "") -> None:
        self._report(event, message, hint=hint)
        raise InputError(self.problems)


def _where(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _core_scalar(text: str) -> Any:
    """YAML 1.2 core schema: null, true/false, integers, floats; everything else is text."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text[0] in "tT"
    if _INT.fullmatch(text) and len(text) < 400:
        return int(text)
    if _RADIX.fullmatch(text) and len(text) < 400:
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text.lower() in (".inf", "+.inf", "-.inf", ".nan"):
        return math.nan
    return text


def parse_json(text: str, file: str) -> Document:
    """Parses JSON text strictly; ``file`` is only for messages. See ``load_json``."""
    _check_json_depth(text, file)
    duplicates: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in items:
            if key in made:
                duplicates.append(key)
            made[key] = value
        return made

    def refuse(constant: str) -> float:
        raise InputError(Problem(f"not valid JSON: {constant} is not a number", file=file))

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InputError(Problem(f"not valid JSON: {error.msg}", "", file, error.lineno, error.colno)) from None
    except InputError:
        raise
    except (RecursionError, ValueError):
        raise InputError(Problem("not valid JSON: a number or the nesting is too long", "", file)) from None
    if duplicates:
        found = [_last_key_position(text, key) for key in duplicates]
        raise InputError(
            [
                Problem(f"duplicate key {key!r}"[:120], "", file, line, col)
                for key, (line, col) in zip(duplicates, found, strict=True)
            ]
        )
    document = Document(data, file)
    _index_json(document, text)
    return document


def _check_json_depth(text: str, file: str) -> None:
    depth, in_string, escaped = 0, False, False
    for index, char in enumerate(text):
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                line = text.count("\n", 0, index) + 1
                raise InputError(Problem(f"nested deeper than {MAX_DEPTH} levels", "", file, line, 1))
        elif char in "]}":
            depth -= 1


def _last_key_position(text: str, key: str) -> Position:
    found = list(re.finditer(re.escape(json.dumps(key)) + r"\s*:", text))
    return _offset_position(text, found[-1].start()) if found else (0, 0)


def _offset_position(text: str, offset: int) -> Position:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _index_json(document: Document, text: str) -> None:
    """Records positions of mapping keys in reading order (keys are met in the order they are written)."""
    cursor = 0

    def visit(value: Any, path: Keys) -> None:
        nonlocal cursor
        if isinstance(value, dict):
            for key, child in value.items():
                found = re.compile(re.escape(json.dumps(key)) + r"\s*:").search(text, cursor)
                if found:
                    cursor = found.end()
                    document.positions[(*path, key)] = _offset_position(text, found.start())
                visit(child, (*path, key))
        elif isinstance(value, list):
            for index, child in enumerate(value):
                visit(child, (*path, index))

    document.positions[()] = (1, 1)
    visit(document.data, ())


def validate(model: type[T], data: Any, document: Document, context: Mapping[str, Any] | None = None) -> T:
    """Validates ``data`` against a pydantic ``model``; every problem is reported with its position.

    Raises:
        InputError: with one Problem per mistake.
    """
    from pydantic import ValidationError

    if not isinstance(data, dict):
        kind = "nothing" if data is None else f"a {type(data).__name__}"
        raise InputError(document.problem((), f"expected a mapping of keys to values, found {kind}"))
    try:
        return model.model_validate(data, context=dict(context or {}))
    except ValidationError as error:
        raise InputError(_problems(error, model, document)) from None


def _problems(error: ValidationError, model: type[BaseModel], document: Document) -> list[Problem]:
    problems = []
    found = error.errors(include_url=False)
    inner = {item["loc"][:end] for item in found for end in range(len(item["loc"]))}
    for item in found:
        if item["type"] in ("too_short", "too_long") and item["loc"] in inner:
            continue  # the elements' own mistakes say it better
        path: Keys = tuple(key for key in item["loc"] if key != "[key]")
        if item["type"] == "extra_forbidden":
            known = sorted(_known_keys(model, path[:-1]))
            problems.append(
                document.problem(
                    path,
                    f"unknown key {str(path[-1])!r}"[:120],
                    f"known: {', '.join(known)}" if known else "",
                    did_you_mean(str(path[-1]), known),
                )
            )
        elif item["type"] == "missing":
            problems.append(document.problem(path, "missing", "this key is required"))
        else:
            cause = item.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                problems += [document.problem(path, p.message, p.allowed, p.hint) for p in cause.problems]
            else:
                message = item["msg"].removeprefix("Value error, ")
                message = message[0].lower() + message[1:]
                shown = repr(item.get("input"))
                given = "" if isinstance(item.get("input"), dict) else f" (got {shown[:60]})"
                problems.append(document.problem(path, message + given))
    return problems


def _known_keys(model: type[BaseModel], path: Keys) -> list[str]:
    """Keys a mapping at ``path`` may have, by following the model's field types."""
    import typing

    current: Any = model
    for key in path:
        fields = getattr(current, "model_fields", None)
        if fields is not None:
            by_alias = {info.alias or name: info.annotation for name, info in fields.items()}
            current = by_alias.get(str(key))
        else:  # dict[str, Model] or list[Model]: the last type argument
            current = typing.get_args(current)[-1] if typing.get_args(current) else None
        choices = [t for t in typing.get_args(current) if t is not type(None)]
        if typing.get_origin(current) not in (dict, list, tuple) and choices:
            current = choices[0]
    fields = getattr(current, "model_fields", None)
    return [info.alias or name for name, info in fields.items()] if fields else []
