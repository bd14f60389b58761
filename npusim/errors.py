"""Every error a user can cause, and the one place that knows their exit codes.

``NpuError`` is the root. ``InputError`` carries any number of ``Problem`` records, so that all
mistakes of a file are reported at once. Nothing here imports anything heavy: ``npusim --help`` and
``npukernels`` both load this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input.

    Args:
        message: what is wrong, with the offending value.
        path: where inside the document (``core.matrix.rows``), or the option name.
        file: the file, or ``""`` when the input did not come from one.
        line: 1-based line, 0 when unknown.
        col: 1-based column, 0 when unknown.
        allowed: what would be accepted.
        hint: what to do about it ("did you mean ...").
    """

    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    col: int = 0
    allowed: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = self.file
        if self.line:
            where += f":{self.line}:{self.col}"
        head = ": ".join(part for part in (where, self.path) if part)
        tail = "; ".join(part for part in (self.message, self.allowed, self.hint) if part)
        return f"{head}: {tail}" if head else tail


class NpuError(Exception):
    """Root of every error npusim raises on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 4


class InputError(NpuError, ValueError):
    """Bad input: a file, an option or an argument. Exit code 2.

    It is a ValueError so that a validator that raises one is collected with the other problems of the
    same file.
    """

    exit_code = 2

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Unavailable(InputError):
    """A catalog entry exists but lacks figures it would need; they are named, never guessed. Exit code 2."""


class DoesNotFit(NpuError):
    """The model does not fit the memory. Exit code 3.

    Args:
        message: what is short and by how much.
        short_bytes: bytes missing per chip.
    """

    exit_code = 3

    def __init__(self, message: str, short_bytes: float = 0.0) -> None:
        self.short_bytes = float(short_bytes)
        super().__init__(message)


class Finding(NpuError):
    """The run worked and found what it was asked to look for (a failed check, a regression). Exit code 1."""

    exit_code = 1


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Returns ``did you mean 'x'?`` for the closest choice, or an empty string."""
    # difflib is quadratic in the length; a hostile key must not cost seconds.
    close = difflib.get_close_matches(name[:80], list(choices), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def unknown_name(kind: str, name: str, choices: Iterable[str], path: str = "") -> InputError:
    """The one error for a name that is not in a list: what was given, what exists, the closest."""
    listed = sorted(choices)
    hint = did_you_mean(name, listed)
    shown = ", ".join(listed[:12]) + (f", ... ({len(listed)} in all)" if len(listed) > 12 else "")
    return InputError(Problem(f"unknown {kind} {name!r}"[:200], path, allowed=f"known: {shown}", hint=hint))
