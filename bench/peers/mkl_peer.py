"""Intel MKL through its C interface, from the ``mkl`` wheel or the system."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.problem import Array, Peer, Problem, Runner

SEQUENTIAL = 1  # of mkl_set_threading_layer
ROW_MAJOR, PLAIN, TRANSPOSED, FIXED_OFFSET = 101, 111, 112, 173  # mkl_cblas.h


@functools.cache
def _library() -> Any:
    found = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    name = str(found[-1]) if found else ctypes.util.find_library("mkl_rt")
    if not name:
        raise ImportError("no libmkl_rt: pip install mkl")
    library = ctypes.CDLL(name)
    library.MKL_Set_Threading_Layer(SEQUENTIAL)
    return library


def _version() -> str:
    text = ctypes.create_string_buffer(200)
    _library().mkl_get_version_string(text, len(text))
    return text.value.decode().removeprefix("Intel(R) oneAPI Math Kernel Library ").split(" for ")[0]


def _pointer(x: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def _bind(call: Any, out: Array, arguments: list[Any], keep: tuple[Array, ...]) -> Mapping[str, Runner]:
    """A call with its arguments made; ``keep`` holds the operands while the runner lives."""

    def run(held: tuple[Array, ...] = keep) -> None:
        call(*arguments)

    return {"": Runner(run, lambda _: out)}


def _integers(*values: int) -> list[Any]:
    return [ctypes.c_int(v) for v in values]


def _gemm(p: Problem) -> Mapping[str, Runner]:
    a, b = p.inputs["a"], p.inputs["b"]
    (m, k), n = a.shape, b.shape[1]
    out, one, zero = np.empty((m, n), np.float32), ctypes.c_float(1), ctypes.c_float(0)
    by_columns = not b.flags.c_contiguous
    head = _integers(ROW_MAJOR, PLAIN, TRANSPOSED if by_columns else PLAIN, m, n, k)
    ldb = k if by_columns else n
    operands = [_pointer(a), ctypes.c_int(k), _pointer(b), ctypes.c_int(ldb), zero, _pointer(out), ctypes.c_int(n)]
    return _bind(_library().cblas_sgemm, out, [*head, one, *operands], (a, b))


def _half(p: Problem) -> Mapping[str, Runner]:
    """bfloat16 operands, float32 result."""
    if p.options["dtype"] != "bf16":
        return {}
    a, b = p.inputs["a"], p.inputs["b"]
    (m, k), n = a.shape, b.shape[1]
    out, one, zero = np.empty((m, n), np.float32), ctypes.c_float(1), ctypes.c_float(0)
    head = _integers(ROW_MAJOR, PLAIN, PLAIN, m, n, k)
    operands = [_pointer(a), ctypes.c_int(k), _pointer(b), ctypes.c_int(n), zero, _pointer(out), ctypes.c_int(n)]
    return _bind(_library().cblas_gemm_bf16bf16f32, out, [*head, one, *operands], (a, b))


def _qgemm(p: Problem) -> Mapping[str, Runner]:
    """Row-major ``gemm_s8u8s32`` takes uint8 on the left and int8 on the right."""
    a, b = p.inputs["a"], p.inputs["b"]
    if a.dtype != np.uint8 or b.dtype != np.int8:
        return {}
    (m, k), n = a.shape, b.shape[1]
    out, offset = np.empty((m, n), np.int32), np.zeros(1, np.int32)
    head = _integers(ROW_MAJOR, PLAIN, PLAIN, FIXED_OFFSET, m, n, k)
    none = ctypes.c_byte(0)
    left, right = [_pointer(a), ctypes.c_int(k), none], [_pointer(b), ctypes.c_int(n), none]
    tail = [ctypes.c_float(0), _pointer(out), ctypes.c_int(n), _pointer(offset)]
    return _bind(_library().cblas_gemm_s8u8s32, out, [*head, ctypes.c_float(1), *left, *right, *tail], (a, b, offset))


PEER = Peer("mkl", _version, {"gemm": _gemm, "gemm packed": _gemm, "gemm 16 bits": _half, "qgemm": _qgemm})
