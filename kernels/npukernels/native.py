"""The compiled half: whether it loaded, and which instruction sets this CPU may use.

The package works without its extension (a source tree that was never built, a platform without a C
compiler): the ``ref`` variants are NumPy. Nothing else in the package imports ``_native`` directly.
"""

from __future__ import annotations

import functools
from types import ModuleType

from npusim.errors import InputError, Problem

_native: ModuleType | None
try:
    from npukernels import _native
except ImportError as error:
    _native, _why = None, str(error)
else:
    _why = ""


def native_available() -> bool:
    """Whether the C extension is built and loads."""
    return _native is not None


def native_problem() -> str:
    """Why the C extension does not load; empty when it does."""
    return _why


@functools.cache
def cpu_features() -> tuple[str, ...]:
    """Instruction sets this CPU has and whose registers the operating system saves.

    Returns:
        Names such as ``avx2``, ``fma``, ``avx512f``, ``avx512_vnni``, ``amx_int8``, in CPUID order.
        Empty on other architectures and without the extension.
    """
    if _native is None:
        return ()
    names = []
    for index in range(64):
        name = _native.lib.npk_cpu_feature_name(index)
        if name == _native.ffi.NULL:
            break
        if _native.lib.npk_cpu_has(index):
            names.append(_native.ffi.string(name).decode())
    return tuple(names)


def require_native() -> ModuleType:
    """Returns the extension module. Raises InputError when it is not built."""
    if _native is None:
        raise InputError(
            Problem(
                f"the C extension npukernels._native does not load: {_why}",
                allowed="variant 'ref' works without it",
                hint="build it with 'pip install -e .'",
            )
        )
    return _native


def constant(name: str) -> int:
    """The value of a constant of the C side; -1 without the extension, where nothing can be called with it."""
    return -1 if _native is None else int(getattr(_native.lib, name))


def raise_for_status(status: int, what: str) -> None:
    """Turns a status of the C side into an error.

    Args:
        status: one of the ``NPK_`` codes.
        what: the call, for the message.

    Raises:
        InputError: for every status but ``NPK_OK``.
    """
    lib = require_native().lib
    if status == lib.NPK_OK:
        return
    if status == lib.NPK_EALIAS:
        hint, allowed = "pass a copy of the input", "expected memory of its own"
        raise InputError(Problem("out shares memory with an input", "out", allowed=allowed, hint=hint))
    texts = {
        lib.NPK_EINVAL: "an argument the C side refuses",
        lib.NPK_EOVERFLOW: "sizes whose products exceed 63 bits",
        lib.NPK_ENOMEM: "no memory for the packing buffers",
        lib.NPK_EUNSUPPORTED: "an instruction set this CPU or build lacks",
    }
    raise InputError(f"{what}: {texts.get(status, f'status {status}')}")
