"""Types of the cffi extension that csrc/build_native.py builds."""

from typing import NewType

CPointer = NewType("CPointer", object)

class _FFI:
    NULL: CPointer
    def cast(self, ctype: str, value: int) -> object: ...
    def from_buffer(self, array: object) -> object: ...
    def string(self, pointer: CPointer) -> bytes: ...

class _Lib:
    NPK_OK: int
    NPK_EINVAL: int
    NPK_EOVERFLOW: int
    NPK_ENOMEM: int
    NPK_EUNSUPPORTED: int
    NPK_GENERIC: int
    NPK_AVX2: int
    NPK_AVX512: int
    def npk_cpu_feature_name(self, index: int) -> CPointer: ...
    def npk_cpu_has(self, index: int) -> int: ...
    def npk_sgemm(
        self,
        isa: int,
        m: int,
        n: int,
        k: int,
        a: object,
        rsa: int,
        csa: int,
        b: object,
        rsb: int,
        csb: int,
        c: object,
        rsc: int,
        csc: int,
        threads: int,
    ) -> int: ...

ffi: _FFI
lib: _Lib
