"""Types of the cffi extension that csrc/build_native.py builds from the api.h of every folder of csrc."""

from typing import Any, NewType

CPointer = NewType("CPointer", object)

class _FFI:
    NULL: CPointer
    def new(self, ctype: str, value: object = ...) -> Any: ...
    def cast(self, ctype: str, value: int) -> object: ...
    def from_buffer(self, array: object) -> object: ...
    def string(self, pointer: CPointer) -> bytes: ...

class _Lib:
    # Constants are integers; entry points take sizes, strides and pointers and return a status.
    def __getattr__(self, name: str) -> Any: ...

ffi: _FFI
lib: _Lib
