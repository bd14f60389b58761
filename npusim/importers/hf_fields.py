"""Typed reading of the fields of a configuration, with every problem collected.

The reader of Hugging Face files (``npusim.importers.hf_config``) asks for integers, flags and per-layer lists
here; wrong types, ranges and contradicting spellings are reported with their position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from npusim.errors import InputError, Problem, did_you_mean
from npusim.yamlio import Keys, Position, dotted

LIMIT = 2**40
"""No real size comes near it; a larger number is a typing mistake or an attack."""

CLASS_DEFAULT = "class default"
ARITHMETIC = "arithmetic"


class Fields:
    """The fields of one configuration; collects every problem and every fall-back instead of stopping.

    A field with a problem reads as 0 (or its default), so that reading can go on to find the others.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        where: str,
        at: Callable[[Keys], Position] | None = None,
        prefix: Keys = (),
        defaults: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """See ``read_config``; ``defaults`` are class defaults of sizes that files leave out."""
        self.config, self.where, self.at, self.prefix, self.defaults = config, where, at, prefix, defaults
        self.problems: list[Problem] = []
        self.derived: dict[str, str] = {}

    def report(self, key: str, message: str, allowed: str = "", hint: str = "") -> None:
        """Adds a problem at ``key``."""
        path = (*self.prefix, key) if key else self.prefix
        line, col = self.at(path) if self.at else (0, 0)
        self.problems.append(Problem(message, dotted(path), self.where, line, col, allowed, hint))

    def stop_if_wrong(self) -> None:
        """Raises InputError with everything reported so far, if anything was."""
        if self.problems:
            raise InputError(self.problems)

    def find(self, names: tuple[str, ...]) -> str | None:
        """The spelling of ``names`` that the file uses; two spellings with different values are a problem."""
        present = [name for name in names if name in self.config]
        for other in present[1:]:
            if self.config[other] != self.config[present[0]]:
                self.report(other, f"{other} and {present[0]} differ", "one value under either name")
        return present[0] if present else None

    def integer(self, *names: str, low: int = 1, high: int = LIMIT) -> int:
        """A required integer; 0 when it is missing or wrong."""
        key = self.find(names)
        if key is None and names[0] in self.defaults:
            self.derived[names[0]] = CLASS_DEFAULT
            return self.defaults[names[0]]
        if key is None:
            others = [name for name in self.config if isinstance(name, str)][:500]
            spelled = f" (or {', '.join(names[1:])})" if names[1:] else ""
            self.report(names[0], f"{names[0]} is missing", f"an integer is required{spelled}",
                        did_you_mean(names[0], others))  # fmt: skip
            return 0
        return self._checked(key, low, high)

    def optional(self, *names: str, absent: int | None = None, low: int = 1, high: int = LIMIT) -> int | None:
        """An integer, or None when the file says null; an absent key means ``absent`` (the class default)."""
        key = self.find(names)
        if key is None:
            if absent is not None:
                self.derived[names[0]] = CLASS_DEFAULT
            return absent
        return None if self.config[key] is None else self._checked(key, low, high)

    def _checked(self, key: str, low: int, high: int) -> int:
        value = self.config[key]
        if not isinstance(value, int) or isinstance(value, bool):
            kind = "null" if value is None else f"{shown(value)} ({type(value).__name__})"
            self.report(key, f"{key} is {kind}", f"an integer, {low} to {high}")
            return 0
        if not low <= value <= high:
            self.report(key, f"{key} is {shown(value)}", f"an integer, {low} to {high}")
            return 0
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A boolean; an absent or null key means the class default."""
        value = self.config.get(name)
        if isinstance(value, bool):
            return value
        if value is None:
            self.derived[name] = CLASS_DEFAULT
        else:
            self.report(name, f"{name} is {shown(value)}", "true or false")
        return default

    def choices(self, name: str, count: int, meaning: Mapping[Any, bool]) -> list[bool] | None:
        """A list with one key of ``meaning`` per layer, translated; None when absent, null or wrong."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or (count and len(value) != count):
            size = f"{len(value)} entries" if isinstance(value, list) else shown(value)
            self.report(name, f"{name} has {size}", f"a list of {count} entries, one per layer")
            return None
        kinds = {type(key) for key in meaning}  # 1 is no True here
        bad = [item for item in value if type(item) not in kinds or item not in meaning]
        if bad:
            allowed = ", ".join(str(key) for key in meaning)
            self.report(name, f"{name} has an entry {shown(bad[0])}", f"one of: {allowed}")
            return None
        return [meaning[item] for item in value]

    def fixed(self, name: str, *values: object) -> None:
        """Refuses a setting that changes the network in a way that is not modelled."""
        if values == (0,) and values[0] is not False:
            return  # the size to compare with was itself wrong and is already reported
        value = self.config.get(name)
        if value is not None and value not in values:
            allowed = " or ".join(shown(item) for item in values)
            self.report(name, f"{name} is {shown(value)}, which is not modelled", f"only {allowed}")


def shown(value: object) -> str:
    """A value for a message: its repr, shortened; never the digits of a huge number."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LIMIT:
        return f"a number of {value.bit_length()} bits"  # printing 10^5 digits would cost seconds
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
