"""Types of the cffi extension that csrc/build_sim.py builds."""

from typing import Any

class _Struct:
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: object) -> None: ...

class _FFI:
    NULL: object
    def new(self, ctype: str) -> _Struct: ...
    def from_buffer(self, array: object) -> object: ...

class _Lib:
    NPS_OK: int
    NPS_EINVAL: int
    NPS_EOVERFLOW: int
    NPS_EADDRESS: int
    NPS_EARRIVAL: int
    NPS_ESPACE: int
    NPS_FIELDS: int
    NPS_MAX_SEGMENTS: int
    NPS_SYSTOLIC: int
    NPS_DOT: int
    NPS_TENSORCORE: int
    NPS_DATAFLOW_OS: int
    NPS_DATAFLOW_WS: int
    NPS_DATAFLOW_IS: int
    def nps_tile_cycles(self, chip: object, tm: float, tn: float, tk: float) -> float: ...
    def nps_tile_search(self, chip: object, gemm: object, *lists_and_best: object) -> int: ...
    def nps_dram_decode(self, map: object, n: int, addresses: object, fields: object) -> int: ...
    def nps_dram_workspace(self, config: object, n: int) -> int: ...
    def nps_dram_run(
        self,
        config: object,
        map: object,
        n: int,
        addresses: object,
        writes: object,
        arrivals: object,
        start: object,
        done: object,
        log: object,
        log_rows: int,
        workspace: object,
        workspace_bytes: int,
        result: object,
    ) -> int: ...

ffi: _FFI
lib: _Lib
