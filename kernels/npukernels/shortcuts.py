"""Calls of C, and shortcuts to them: a call like an earlier one goes to C without the checks in between.

A public function asks its ``Shortcut`` first. For kinds of arguments it does not know, the function checks them and
lets a kernel ``call`` C; what C was told then serves all later calls of that kind. The kind is: of every array the
dtype, shape, strides, alignment, whether it may be written, and whether another array starts where it does; of every
option the value. An output that shares only a part of its memory with another array has no shortcut. So a shortcut
is right where nothing but these decides what C is told, addresses apart: what depends on the *contents* of arrays is
for C to check. csrc/python/shortcut.c has the details; without that extension all calls take the long way.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from npukernels import native

try:
    from npukernels import _shortcut
except ImportError:
    _shortcut = None  # type: ignore[assignment]

AnyArray: TypeAlias = npt.NDArray[Any]

T = TypeVar("T")

ENV_VARIANT = "NPUKERNELS_VARIANT"

# os.environ.get raises and catches an exception for a variable that is not set, at a microsecond a call;
# the dictionary behind it, where the interpreter has one, answers at once.
_ENVIRONMENT: Any = getattr(os.environ, "_data", os.environ)
_KEY = os.environ.encodekey(ENV_VARIANT) if _ENVIRONMENT is not os.environ else ENV_VARIANT
_DTYPES = ("float32", "float16", "float64", "int8", "uint8", "uint16", "int16", "int32", "int64", "uint32")

_READY = _shortcut is not None and isinstance(_ENVIRONMENT, dict) and native.native_available()
if _READY:
    _shortcut.configure(np.ndarray, np.empty, tuple(map(np.dtype, _DTYPES)), _ENVIRONMENT, _KEY)

_FRESH, _CONSTANT = 64, 255  # as in shortcut.c


class Held(NamedTuple):
    """An array or C structure for ``call`` that follows from the kinds of a call's arguments, whatever they hold."""

    value: Any


class Call(NamedTuple):
    """What C was told.

    Args:
        status: what it returned, one of the ``NPK_`` codes.
        function: its name.
        arguments: numbers; arrays for pointers, or ``Held``; None for NULL.
    """

    status: int
    function: str
    arguments: tuple[Any, ...]


def call(function: str, *arguments: Any) -> Call:
    """Calls a function of the C side; see ``Call`` for the arguments. Raises InputError without the extension."""
    module = native.require_native()
    status = getattr(module.lib, function)(*[for_c(module.ffi, x) for x in arguments])
    return Call(status, function, arguments)


def checked_call(what: str, function: str, *arguments: Any) -> Call:
    """``call``, and an InputError about ``what`` (with the shape of the first array) when C refuses."""
    made = call(function, *arguments)
    if made.status:
        shape = next(x.shape for x in arguments if isinstance(x, np.ndarray))
        native.raise_for_status(made.status, f"{what} {shape}")
    return made


def forced_variant() -> str:
    """The variant that the environment names; empty when it names none."""
    value = _ENVIRONMENT.get(_KEY)
    return os.fsdecode(value) if value else ""


def forget() -> None:
    """Drops all shortcuts: another variant may now be the fastest."""
    if _READY:
        _shortcut.forget()


def quick(kind: type[T], **fields: Any) -> T:
    """A frozen dataclass from all its fields, in a third of the time that its constructor takes."""
    made = object.__new__(kind)
    made.__dict__.update(fields)
    return made


def _nothing(*arguments: Any) -> Any:
    """Stands for the lookup where there are no shortcuts."""


class Shortcut:
    """The shortcuts of one public function.

    Args:
        arrays: how many of the arguments may be arrays; these come first.
        options: how many follow.
        written: numbers of the arrays that are written.

    ``run(*arguments)`` is what the public function returns, or None when it has to go the long way.
    """

    def __init__(self, arrays: int, options: int, written: tuple[int, ...]) -> None:
        self._arrays = arrays
        self._plans = _shortcut.Shortcut(arrays, options, sum(1 << i for i in written)) if _READY else None
        self.run: Callable[..., AnyArray | None] = self._plans.run if self._plans is not None else _nothing

    def keep(self, arguments: tuple[Any, ...], made: Call | None, *results: AnyArray) -> None:
        """Keeps a call of C for the arguments of ``run`` that led to it.

        Args:
            arguments: as of ``run``.
            made: the only call of C that the function made; None when it did other work, which no shortcut repeats.
            results: what the function returns.
        """
        if self._plans is None or made is None or made.status:
            return
        given = arguments[: self._arrays]
        fresh = [x for x in results if not any(x is y for y in given)]
        if len(fresh) < len(results) and len(results) > 1:
            return
        slots, sources, held = bytearray(), bytearray(), []
        for value, pack in zip(made.arguments, _packers(made.function), strict=True):
            source = self._source(value, given, fresh)
            if source is None:
                return
            if isinstance(value, Held):
                held.append(value.value)
            slots += pack(0 if source != _CONSTANT else _constant(value))
            sources.append(source)
        shapes = tuple((x.shape, x.dtype) for x in fresh)
        result = -1 if fresh else next(i for i, y in enumerate(given) if y is results[0])
        address = _address_of(made.function)
        self._plans.keep(arguments, address, bytes(slots), bytes(sources), shapes, result, tuple(held))

    def _source(self, value: Any, given: tuple[Any, ...], fresh: list[AnyArray]) -> int | None:
        """Where C's argument came from; None when that is not clear, as for a copy of an array."""
        if not isinstance(value, np.ndarray):
            return _CONSTANT
        for i, x in enumerate(given):
            if x is value:
                return i
        for i, x in enumerate(fresh):
            if x is value:
                return _FRESH + i
        if value.base is None:  # a copy of an argument, to be made at every call
            return None
        # A view of an argument, or of a copy. Arguments at one address are so in all calls of their kind.
        address = _address(value)
        places = (i for i, x in enumerate(given) if isinstance(x, np.ndarray) and _address(x) == address)
        return next(places, None)


def _address(x: AnyArray) -> int:
    address: int = x.__array_interface__["data"][0]
    return address


def for_c(ffi: Any, x: Any) -> Any:
    """An argument of ``Call`` as cffi takes it; the caller keeps the array alive."""
    if isinstance(x, Held):
        x = x.value
    if x is None:
        return ffi.NULL
    if not isinstance(x, np.ndarray):
        return x
    return ffi.from_buffer(x) if x.flags.c_contiguous else ffi.cast("void *", _address(x))


def _constant(value: Any) -> Any:
    """The number, or the address, that is the same at every call."""
    x = value.value if isinstance(value, Held) else value
    if isinstance(x, np.ndarray):
        return _address(x)
    if isinstance(value, Held):
        return int(native.require_native().ffi.cast("uintptr_t", x))
    return 0 if x is None else x


@functools.cache
def _packers(function: str) -> list[Any]:
    """How the arguments of a C function become slots: eight bytes each."""
    module = native.require_native()
    kinds = module.ffi.typeof(getattr(module.lib, function)).args
    return [struct.Struct("d" if kind.cname in ("float", "double") else "q").pack for kind in kinds]


@functools.cache
def _address_of(function: str) -> int:
    """The address of the C function that takes the same arguments as slots."""
    module = native.require_native()
    adapter = module.ffi.addressof(module.lib, f"npk_slots_{function.removeprefix('npk_')}")
    return int(module.ffi.cast("uintptr_t", adapter))
