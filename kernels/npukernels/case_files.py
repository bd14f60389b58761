"""Golden cases and outputs in files: ``.npz``, ``.npy``, and raw binary with a JSON sidecar. Never a pickle.

A raw file ``out.bin`` has its description beside it in ``out.bin.json``: ``{"dtype": "float32", "shape": [64, 64],
"order": "C"}``. ``order`` may be ``F`` for column-major; ``byteorder`` may be ``big``. Codes of narrow formats are
``uint8`` or ``uint16``, as ``outputs`` has them.

Nothing a file declares is believed: sizes are held against the bytes that are there before memory is asked for.
"""

from __future__ import annotations

import ast
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from npukernels.cases import Case, frozen, golden
from npukernels.outputs import carrier
from npusim.errors import InputError, Problem

Array = npt.NDArray[Any]

FORMAT = "npukernels-case/1"
MAX_BYTES = 2**31  # of one array
_MAX_HEADER = 64 * 1024
_MAX_JSON = 1024 * 1024
_MOST_WORK = 2**31  # product of the sizes of a case that is made again
_DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")


def save_case(case: Case, file: str | os.PathLike[str]) -> None:
    """Writes a case as ``.npz``: ``input0`` ..., ``expected``, ``bound``, and ``case``, JSON that says what it is."""
    about = {
        "format": FORMAT,
        "op": case.op,
        "dtype": case.dtype,
        "fill": case.fill,
        "seed": case.seed,
        "dims": dict(case.dims),
        "out_dtype": case.out_dtype,
        "params": dict(case.params),
        "repro": case.repro,
    }
    arrays = {f"input{i}": x for i, x in enumerate(case.inputs)}
    arrays |= {"expected": case.expected, "bound": case.bound}
    text = np.frombuffer(json.dumps(about, default=_plain).encode(), dtype=np.uint8)
    target = Path(file)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with open(partial, "wb") as stream:
            np.savez(stream, case=text, **arrays)  # type: ignore[arg-type]
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def load_case(file: str | os.PathLike[str]) -> Case:
    """Reads a case that ``save_case`` wrote.

    Raises:
        InputError: not such a file, or damaged.
    """
    name = os.fspath(file)
    arrays = _npz(name)
    about = _about(arrays, name)
    count = sum(key.startswith("input") for key in arrays)
    missing = [key for key in ("expected", "bound", *(f"input{i}" for i in range(count))) if key not in arrays]
    if missing:
        raise _bad(name, f"lacks {', '.join(missing)}")
    expected, bound = arrays["expected"], arrays["bound"]
    if expected.dtype != np.float64 or bound.dtype != np.float64 or expected.shape != bound.shape:
        raise _bad(name, "expected and bound are not float64 arrays of one shape")
    if not (bound >= 0).all():
        raise _bad(name, "has a bound that is negative or NaN")
    inputs = frozen(*(arrays[f"input{i}"] for i in range(count)))
    expected, bound = frozen(expected, bound)
    dims, params = tuple(about["dims"].items()), tuple(about["params"].items())
    text = (about["op"], about["dtype"], about["fill"], about["seed"])
    return Case(*text, dims, inputs, expected, bound, about["out_dtype"], params)


def _about(arrays: Mapping[str, Array], name: str) -> dict[str, Any]:
    """The JSON part of a case file, with every field of the type it must have."""
    if "case" not in arrays or arrays["case"].dtype != np.uint8 or arrays["case"].size > _MAX_JSON:
        raise _bad(name, "is no golden case", hint="write one with npusim kernel golden")
    about = _json(arrays["case"].tobytes(), name)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise _bad(name, "is a case of another format", allowed=f"expected {FORMAT}")
    kinds = {"op": str, "dtype": str, "fill": str, "seed": int, "dims": dict, "out_dtype": str, "params": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(about.get(key), kind)]
    sizes = about.get("dims", {})
    if not wrong and not all(isinstance(n, int) and name.isidentifier() for name, n in sizes.items()):
        wrong = ["dims"]
    if not wrong and carrier(about["out_dtype"]) not in _DTYPES:
        wrong = ["out_dtype"]
    if wrong:
        raise _bad(name, f"has no usable {', '.join(wrong)}")
    return about


def load_output(file: str | os.PathLike[str]) -> Array:
    """Reads what a kernel wrote: ``.npy``, ``.npz`` with a single array or one called ``output``, or raw binary.

    Raises:
        InputError: not such a file, a pickle, truncated, or larger than it may be.
    """
    name = os.fspath(file)
    if name.endswith(".npy"):
        with _open(name) as stream:
            return _npy(stream, os.path.getsize(name), name)
    if name.endswith(".npz"):
        arrays = _npz(name)
        chosen = arrays.get("output", next(iter(arrays.values())) if len(arrays) == 1 else None)
        if chosen is None:
            raise _bad(name, f"holds {len(arrays)} arrays", allowed="expected a single one, or one called 'output'")
        return chosen
    return _raw(name)


@contextmanager
def _open(name: str) -> Iterator[IO[bytes]]:
    try:
        with open(name, "rb") as stream:
            yield stream
    except OSError as error:
        raise _bad(name, error.strerror or str(error)) from None


def _npz(name: str) -> dict[str, Array]:
    """All arrays of a zip file, each held against its declared size before it is read."""
    arrays: dict[str, Array] = {}
    try:
        with _open(name) as stream, zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            if len(entries) > 100 or sum(entry.file_size for entry in entries) > MAX_BYTES:
                total = sum(entry.file_size for entry in entries)
                raise _bad(name, f"declares {len(entries)} arrays, {total} bytes", allowed=_SIZES)
            for entry in entries:
                if entry.file_size > 1000 * entry.compress_size + 4096:
                    raise _bad(name, f"{entry.filename!r} declares {entry.file_size} bytes"[:200], allowed=_SIZES)
                with archive.open(entry) as member:
                    arrays[entry.filename.removesuffix(".npy")] = _npy(member, entry.file_size, name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise _bad(name, f"is no readable .npz file: {error}"[:200]) from None
    return arrays


_SIZES = f"at most 100 arrays, {MAX_BYTES >> 20} MiB in all, and 1000 times the stored size"


def _npy(stream: IO[bytes], size: int, name: str) -> Array:
    """One array in NumPy's format (numpy.lib.format), whose header is parsed as a literal and nothing else."""
    magic = stream.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise _bad(name, "is no .npy array")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _MAX_HEADER:
        raise _bad(name, f"has a header of {length} bytes", allowed=f"at most {_MAX_HEADER}")
    kind, shape, order = _header(stream.read(length), name)
    left = size - 8 - width - length
    return _elements(stream, left, kind, shape, order, name)


def _header(text: bytes, name: str) -> tuple[np.dtype[Any], tuple[int, ...], str]:
    try:
        fields = ast.literal_eval(text.decode("utf-8"))
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        raise _bad(name, "has a damaged header") from None
    if not isinstance(descr, str):
        raise _bad(name, "holds records", allowed="expected plain numbers")
    if "O" in descr:
        raise _bad(name, "holds Python objects (a pickle), which are never loaded", allowed="expected plain numbers")
    return _dtype(descr, name), _shape(shape, name), "F" if fortran is True else "C"


def _raw(name: str) -> Array:
    """A file of bare elements, described by the JSON file beside it."""
    sidecar = f"{name}.json"
    if not os.path.exists(sidecar):
        hint = 'a raw file needs it: {"dtype": "float32", "shape": [64, 64], "order": "C"}'
        raise _bad(sidecar, "is not there", hint=hint)
    with _open(sidecar) as stream:
        about = _json(stream.read(_MAX_JSON + 1), sidecar)
    if not isinstance(about, dict):
        raise _bad(sidecar, "is no JSON object")
    unknown = sorted(about.keys() - {"dtype", "shape", "order", "byteorder"})
    if unknown:
        raise _bad(sidecar, f"has unknown fields {', '.join(unknown)}"[:200], allowed="dtype, shape, order, byteorder")
    order, endian = about.get("order", "C"), about.get("byteorder", "little")
    if order not in ("C", "F") or endian not in ("little", "big"):
        raise _bad(sidecar, "order is C or F, byteorder little or big")
    kind = _dtype(about.get("dtype"), sidecar).newbyteorder(">" if endian == "big" else "<")
    shape = _shape(about.get("shape"), sidecar)
    with _open(name) as stream:
        size = os.path.getsize(name)
        wanted = math.prod(shape) * kind.itemsize
        if size > wanted:
            raise _bad(name, f"has {size} bytes", allowed=f"{wanted} for {kind.name} of shape {list(shape)}")
        return _elements(stream, size, kind, shape, order, name)


def _dtype(text: Any, name: str) -> np.dtype[Any]:
    try:
        kind = np.dtype(carrier(text)) if isinstance(text, str) and len(text) < 32 else None
    except (TypeError, ValueError):
        kind = None
    if kind is None or kind.name not in _DTYPES:
        raise _bad(name, f"dtype is {text!r}"[:100], allowed=f"expected {', '.join(_DTYPES)}")
    return kind


def _shape(sizes: Any, name: str) -> tuple[int, ...]:
    fine = isinstance(sizes, (list, tuple)) and len(sizes) <= 16
    if not fine or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 2**62 for n in sizes):
        raise _bad(name, f"shape is {sizes!r}"[:100], allowed="a list of at most 16 sizes")
    return tuple(sizes)


def _elements(
    stream: IO[bytes], available: int, kind: np.dtype[Any], shape: tuple[int, ...], order: str, name: str
) -> Array:
    """Reads ``shape`` elements; ``available`` is how many bytes the file says it has left."""
    wanted = math.prod(shape) * kind.itemsize
    if wanted > MAX_BYTES:
        raise _bad(name, f"declares {wanted} bytes", allowed=f"at most {MAX_BYTES >> 20} MiB an array")
    if wanted > available:
        raise _bad(name, f"is truncated: {available} of {wanted} bytes for {kind.name} of shape {list(shape)}")
    data = stream.read(wanted)
    if len(data) != wanted:
        raise _bad(name, f"is truncated: {len(data)} of {wanted} bytes for {kind.name} of shape {list(shape)}")
    elements = np.frombuffer(bytearray(data), dtype=kind)
    if elements.dtype.byteorder == ">":
        elements = elements.astype(kind.newbyteorder("="))
    return elements.reshape(shape, order="F" if order == "F" else "C")


def _json(data: bytes, name: str) -> Any:
    if len(data) > _MAX_JSON:
        raise _bad(name, f"is larger than {_MAX_JSON} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise _bad(name, "is no JSON") from None


def _bad(name: str, what: str, allowed: str = "", hint: str = "") -> InputError:
    return InputError(Problem(what, file=name, allowed=allowed, hint=hint))


def same_case(stored: Case) -> bool:
    """Whether its repro line gives the same arrays; True too when that would take long. A file may have been edited."""
    sizes = dict(stored.dims)
    if math.prod(max(1, abs(size)) for size in sizes.values()) > _MOST_WORK:
        return True
    try:
        fresh = golden(stored.op, dtype=stored.dtype, fill=stored.fill, seed=stored.seed, **sizes)
    except (InputError, TypeError):  # TypeError: a size called dtype
        return False
    ours, theirs = ((x.expected, x.bound, *x.inputs) for x in (fresh, stored))
    return len(ours) == len(theirs) and all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))
