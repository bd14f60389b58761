"""The one place that knows which kernels exist and which of them runs.

A variant registers itself with ``@kernel(op, variant, requires=...)``. Within an op, variants are
registered from the slowest to the fastest, so the last one that this CPU can run is the default.

``NPUKERNELS_VARIANT`` overrides the default for every op that has a variant of that name; a
``variant=`` argument overrides both. The variable is read at every call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from npukernels.native import cpu_features, native_available
from npukernels.shortcuts import ENV_VARIANT, forced_variant, forget
from npusim.errors import InputError, Problem, unknown_name

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Kernel:
    """One way to compute an op.

    Args:
        op: the op, ``gemm``.
        variant: the way, ``c-avx2``.
        requires: CPU features, and ``native`` for the C extension.
        run: the function; its signature is the same for all variants of an op. What it returns is for the op's
            ``Shortcut``: the call of C, when one call of C was all it did.
    """

    op: str
    variant: str
    requires: frozenset[str]
    run: Callable[..., Any]

    @functools.cached_property
    def in_c(self) -> bool:
        """Whether it is compiled; C looks for shared memory itself, and more cheaply."""
        return "native" in self.requires

    @functools.cached_property
    def missing(self) -> tuple[str, ...]:
        """What this machine lacks to run it; empty when it can."""
        present = set(cpu_features()) | ({"native"} if native_available() else set())
        return tuple(sorted(self.requires - present))


_KERNELS: dict[str, dict[str, Kernel]] = {}
_FASTEST: dict[str, Kernel] = {}  # of the ops asked for so far


def kernel(op: str, variant: str, requires: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Registers the decorated function as ``variant`` of ``op``.

    Args:
        op: name of the op.
        variant: name of the variant; ``ref`` is the NumPy one, ``c-*`` are compiled.
        requires: CPU feature names as ``cpu_features`` gives them, and ``native``.

    Raises:
        ValueError: the pair is already registered.
    """

    def register(function: Function) -> Function:
        table = _KERNELS.setdefault(op, {})
        if variant in table:
            raise ValueError(f"{op} variant {variant!r} is registered twice")
        _FASTEST.pop(op, None)
        forget()
        table[variant] = Kernel(op, variant, frozenset(requires), function)
        return function

    return register


def ops() -> tuple[str, ...]:
    """Names of all ops."""
    return tuple(sorted(_KERNELS))


def variants(op: str, *, runnable: bool = True) -> tuple[str, ...]:
    """Variants of ``op``, slowest first, so that ``variants(op)[-1]`` is the default.

    Args:
        op: name of the op.
        runnable: False to include those that this CPU or build cannot run.

    Raises:
        InputError: no such op.
    """
    return tuple(name for name, k in _table(op).items() if not (runnable and k.missing))


def select(op: str, variant: str | None = None) -> Kernel:
    """The kernel to run: ``variant``, else the environment's, else the fastest this CPU has.

    Raises:
        InputError: the op or variant does not exist, or this machine cannot run it.
    """
    forced = forced_variant()
    if variant is None and not forced and op in _FASTEST:
        return _FASTEST[op]
    table = _table(op)
    if variant is not None:
        if variant not in table:
            raise unknown_name(f"{op} variant", str(variant), table, "variant")
        return _runnable(table[variant], "variant")
    if forced:
        known = {name for kernels in _KERNELS.values() for name in kernels}
        if forced not in known:
            raise unknown_name("kernel variant", forced, known, ENV_VARIANT)
        if forced in table:
            return _runnable(table[forced], ENV_VARIANT)
    for chosen in reversed(table.values()):
        if not chosen.missing:
            _FASTEST[op] = chosen
            return chosen
    raise InputError(f"no variant of {op} can run on this machine")


def _table(op: str) -> dict[str, Kernel]:
    if op not in _KERNELS:
        raise unknown_name("op", str(op), _KERNELS, "op")
    return _KERNELS[op]


def _runnable(chosen: Kernel, path: str) -> Kernel:
    if chosen.missing:
        raise InputError(
            Problem(
                f"{chosen.op} variant {chosen.variant!r} needs {', '.join(chosen.missing)}, "
                "which this machine or build lacks",
                path,
                allowed=f"runnable here: {', '.join(variants(chosen.op))}",
            )
        )
    return chosen
