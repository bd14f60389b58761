"""ONNX files without their weights: the model's headers, symbolic dimensions bound, shapes inferred.

The file is walked field by field and payloads are skipped, so a file of gigabytes costs what its graph costs and
nothing but that file is ever opened.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from npusim import workload
from npusim.errors import InputError, Problem, unknown_name
from npusim.ops import MAX_DIM

MAX_FILE_BYTES = 2**31  # protobuf's own limit
MAX_HEADER_BYTES = 2**26  # what may be left without payloads
MAX_FIELDS = 1_000_000
MAX_DEPTH = 40
KEPT_BYTES = 4096  # payloads up to this size may be shapes, axes and scalars


# -- the file without its payloads -------------------------------------------------------------------------

_NESTED = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_PAYLOADS = (4, 5, 6, 7, 9, 10, 11)  # of a TensorProto: typed and raw data
_DROPPED = {("model", 20), ("model", 25)}  # training graphs and local functions


class _Wire:
    """Copies a protobuf message from a stream, leaving out what is never needed."""

    def __init__(self, stream: BinaryIO, size: int, file: str) -> None:
        self.stream, self.size, self.file = stream, size, file
        self.at = self.kept = self.fields = 0

    def bad(self, why: str, allowed: str = "") -> InputError:
        return InputError(Problem(f"not an ONNX model: {why}", "", self.file, allowed=allowed))

    def take(self, count: int, end: int) -> bytes:
        """The next ``count`` bytes, which the copy keeps."""
        self.kept += count
        if self.kept > MAX_HEADER_BYTES:
            raise self.bad("too big without its weights", f"at most {MAX_HEADER_BYTES} bytes")
        data = self.stream.read(count) if self.at + count <= end else b""
        if len(data) != count:
            raise self.bad(f"cut short at byte {self.at} of {self.size}")
        self.at += count
        return data

    def varint(self, end: int) -> tuple[int, bytes]:
        raw = b""
        while len(raw) < 10:
            raw += self.take(1, end)
            if raw[-1] < 0x80:
                return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(raw)), raw
        raise self.bad(f"a number of more than 10 bytes at byte {self.at}")

    def copy(self, message: str, end: int, depth: int = 0) -> bytearray:
        """The message that ends at byte ``end``. Raises InputError when it is not one."""
        out = bytearray()
        if depth > MAX_DEPTH:
            raise self.bad(f"nested deeper than {MAX_DEPTH} levels")
        while self.at < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise self.bad("too many fields", f"at most {MAX_FIELDS}")
            key, raw = self.varint(end)
            field, wire = key >> 3, key & 7
            if wire == 2:
                out += self._block(message, field, raw, end, depth)
            elif wire in (0, 1, 5) and field:
                out += raw + (self.varint(end)[1] if wire == 0 else self.take({1: 8, 5: 4}[wire], end))
            else:
                raise self.bad(f"no protobuf field at byte {self.at}")
        return out

    def _block(self, message: str, field: int, raw: bytes, end: int, depth: int) -> bytes:
        length, _ = self.varint(end)
        if self.at + length > end:
            raise self.bad(f"cut short: a field of {length} bytes at byte {self.at} of {self.size}")
        payload = message == "tensor" and field in _PAYLOADS and length > KEPT_BYTES
        if payload or (message, field) in _DROPPED:
            self.at = self.stream.seek(self.at + length)
            return b""
        kind = _NESTED.get(message, {}).get(field)
        body = self.copy(kind, self.at + length, depth + 1) if kind else self.take(length, end)
        return raw + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def read(path: str | os.PathLike[str], onnx: Any) -> Any:
    """The ModelProto without payloads. Raises InputError."""
    file = str(path)
    try:
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode):
            raise InputError(Problem("not a regular file", file=file))
        if mode.st_size > MAX_FILE_BYTES:
            raise InputError(Problem("file is too big", file=file, allowed=f"at most {MAX_FILE_BYTES} bytes"))
        with open(path, "rb") as stream:
            data = _Wire(stream, mode.st_size, file).copy("model", mode.st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(Problem(f"cannot read: {getattr(error, 'strerror', None) or error}", file=file)) from None
    try:
        model = onnx.ModelProto.FromString(bytes(data))
    except Exception:  # protobuf's DecodeError is a different class in each of its implementations
        raise InputError(Problem("not an ONNX model: protobuf cannot decode it", file=file)) from None
    if not model.ir_version or not model.opset_import or not model.graph.node:
        raise InputError(Problem("not an ONNX model: it has no IR version, no opset or no nodes", file=file))
    if not _is_text(model):
        raise InputError(Problem("not an ONNX model: a name is not UTF-8", file=file))
    newest = onnx.defs.onnx_opset_version()
    if any(o.version > newest or o.version < 1 for o in model.opset_import if o.domain in ("", "ai.onnx")):
        hint = "a newer onnx package reads newer ones"
        raise InputError(Problem("its opset is not known", "", file, allowed=f"1 to {newest}", hint=hint))
    return model


def _is_text(message: Any) -> bool:
    """Whether every string of a message is one: protobuf's decoder lets other bytes pass."""
    for field, value in message.ListFields():
        many = value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)
        if field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in many):
            return False
        if field.type == field.TYPE_MESSAGE and not all(_is_text(item) for item in many):
            return False
    return True


def check_order(graph: Any, file: str) -> None:
    """Each value is written once, before it is read. Raises InputError."""
    ready = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    ready |= {t.values.name for t in graph.sparse_initializer}
    problems = []
    for node in graph.node:
        where = plain(node.name or node.op_type)
        for name in node.input:
            if name and name not in ready:
                problems.append(Problem(f"'{plain(name)}' is read before anything writes it", where, file))
        for name in filter(None, node.output):
            if name in ready:
                problems.append(Problem(f"'{plain(name)}' is written twice", where, file))
            ready.add(name)
    if problems:
        raise InputError(problems[:20])


def check_location(tensor: Any, file: str) -> list[Problem]:
    """External data is never opened; a location that would leave the model's folder is refused all the same."""
    problems = []
    for entry in tensor.external_data if tensor.data_location == 1 else ():
        if entry.key != "location":
            continue
        parts = entry.value.replace("\\", "/").split("/")
        outside = not entry.value or "\0" in entry.value or os.path.isabs(entry.value) or ".." in parts or not parts[0]
        if not outside:
            # The cache of a model hub links the model and its data into one folder of blobs; that is inside.
            homes = {os.path.realpath(Path(file).parent), os.path.dirname(os.path.realpath(file))}
            real = os.path.realpath(Path(file).parent / entry.value)
            outside = not any(os.path.commonpath((home, real)) == home for home in homes)
        if outside:
            message = f"external data at {plain(repr(entry.value))} is outside the model's folder"
            problems.append(Problem(message, plain(tensor.name), file, allowed="a relative path below the model"))
    return problems


def plain(name: str) -> str:
    """A name as one printable line of bounded length."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= 100 else text[:97] + "..."


# -- shapes ------------------------------------------------------------------------------------------------


def bind(model: Any, dims: Mapping[str, int], file: str) -> None:
    """Puts numbers in place of the symbolic dimensions of inputs. Raises InputError naming those left."""
    values = {name: workload.dim(f"dims.{name}", value, low=0) for name, value in dims.items()}
    constant = {tensor.name for tensor in model.graph.initializer}
    unbound: dict[str, None] = {}
    symbols: set[str] = set()
    problems: list[Problem] = []
    for value in model.graph.input:
        if value.name in constant or value.type.WhichOneof("value") != "tensor_type":
            continue
        if not value.type.tensor_type.HasField("shape"):
            problems.append(Problem("this input has no shape", plain(value.name), file))
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.WhichOneof("value") == "dim_value":
                if not 1 <= dim.dim_value <= MAX_DIM:
                    message = f"dimension {axis} of this input is {dim.dim_value}"
                    problems.append(Problem(message, plain(value.name), file, allowed="1 to 2^40"))
                continue
            symbol = dim.dim_param or f"{value.name}.{axis}"
            symbols.add(symbol)
            if symbol in values:
                dim.dim_value = values[symbol]
            else:
                unbound[plain(symbol)] = None
    if unbound:
        listed = ", ".join(list(unbound)[:20])
        problems.append(Problem(f"symbolic dimensions without a value: {listed}", "dims", file, allowed="NAME=SIZE"))
    for value in (*model.graph.value_info, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") == "dim_param":
                symbol = dim.dim_param
                symbols.add(symbol)
                dim.Clear()
                if symbol in values:
                    dim.dim_value = values[symbol]
    if problems:
        raise InputError(problems)
    for name in values:
        if name not in symbols:
            raise unknown_name("symbolic dimension", name, {plain(s) for s in symbols if s}, "dims")


def _sizes_fit(message: Any) -> bool:
    """Whether every tensor and type of a message has sizes that native code may be given."""
    kind = message.DESCRIPTOR.name
    if kind == "Dimension":
        return bool(0 <= message.dim_value <= MAX_DIM)
    if kind == "TensorProto":
        return all(0 <= size <= MAX_DIM for size in message.dims) and math.prod(message.dims) <= MAX_DIM
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            many = value if isinstance(value, Iterable) else (value,)
            if not all(_sizes_fit(item) for item in many):
                return False
    return True


def infer(model: Any, onnx: Any, file: str) -> Any:
    """The model with inferred shapes. Raises InputError for contradictory ones."""
    parts = (*model.graph.initializer, *model.graph.node, *model.graph.value_info, *model.graph.output)
    for part in parts:
        if not _sizes_fit(part):
            allowed = "0 to 2^40 elements"
            raise InputError(Problem("a size is negative or too big", plain(part.name), file, allowed=allowed))
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # the checks are native code and raise several kinds
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        hint = "are the values given for symbolic dimensions right?"
        raise InputError(Problem(f"the shapes do not fit: {plain(lines[0])}", "", file, hint=hint)) from None
