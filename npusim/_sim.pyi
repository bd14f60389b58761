"""Types of the cffi extension that csrc/build_sim.py builds from the headers of csrc/sim."""

from collections.abc import Callable
from typing import Any

class _Struct:
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: object) -> None: ...

class _Type:
    fields: list[tuple[str, object]]

class _FFI:
    NULL: object
    def new(self, ctype: str) -> _Struct: ...
    def from_buffer(self, array: object) -> object: ...
    def gc(self, pointer: object, destructor: Callable[[object], None]) -> object: ...
    def typeof(self, ctype: str) -> _Type: ...

class _Lib:
    # Constants are integers; entry points return a status.
    def __getattr__(self, name: str) -> Any: ...

ffi: _FFI
lib: _Lib
