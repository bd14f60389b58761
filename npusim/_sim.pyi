"""Types of the cffi extension that csrc/build_sim.py builds from the headers of csrc/sim."""

from typing import Any

class _Struct:
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: object) -> None: ...

class _FFI:
    NULL: object
    def new(self, ctype: str) -> _Struct: ...
    def from_buffer(self, array: object) -> object: ...

class _Lib:
    # Constants are integers; entry points return a status.
    def __getattr__(self, name: str) -> Any: ...

ffi: _FFI
lib: _Lib
