"""Which operators and shapes the host loop measures: one draw to calibrate, another to validate.

Shapes are drawn log-uniformly from ranges that exercise every path of the kernels: products so small that the call
shows, few rows against large weights (decoding), blocks (prefill), rows in each cache and beyond. The two draws
share no shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Shape = Mapping[str, int]
Range = tuple[int, int]

CALIBRATION, VALIDATION = 20_261, 20_263  # seeds of the draws
VECTOR_OPS = ("layernorm", "rmsnorm", "softmax", "silu", "gelu", "sigmoid")
MOST_FLOPS = 5e8  # of one product: a few milliseconds
MOST_ELEMENTS = 12_000_000  # of one row operator
MOST_WEIGHTS = 16_000_000


@dataclass(frozen=True)
class Subject:
    """An operator in a number format, as measured rows name them.

    Args:
        op: ``gemm``, ``attention_prefill``, ``attention_decode``, or a row operator.
        dtype: ``fp32``, ``bf16``, ``int8`` (both operands), ``w8a16``, ``w4a16``.
        family: the calibrated model that predicts it.
        label: the class a report puts it in.
    """

    op: str
    dtype: str
    family: str
    label: str


SUBJECTS = (
    Subject("gemm", "fp32", "cpu-gemm/1", "GEMM fp32"),
    Subject("gemm", "bf16", "cpu-gemm/1", "GEMM bf16"),
    Subject("gemm", "int8", "cpu-qgemm/1", "quantised GEMM int8"),
    Subject("gemm", "w8a16", "cpu-wgemm/1", "quantised GEMM W8A16"),
    Subject("gemm", "w4a16", "cpu-wgemm/1", "quantised GEMM W4A16"),
    Subject("attention_prefill", "fp32", "cpu-attention/1", "attention prefill"),
    Subject("attention_decode", "fp32", "cpu-attention/1", "attention decode"),
    *(Subject(op, "fp32", "cpu-vector/1", op) for op in VECTOR_OPS),
)

# (m, n, k) ranges, and how many of a draw come from each.
_PRODUCTS: tuple[tuple[Range, Range, Range, int], ...] = (
    ((4, 48), (8, 64), (8, 64), 4),
    ((32, 256), (32, 256), (32, 512), 8),
    ((1, 8), (256, 4096), (256, 4096), 8),
    ((12, 160), (256, 2048), (256, 2048), 8),
    ((160, 640), (160, 640), (160, 640), 4),
)
# (rows, columns) ranges of row operators, and how many of a draw come from each.
_ROWS: tuple[tuple[Range, Range, int], ...] = (
    ((1, 4), (256, 8192), 4),
    ((8, 64), (64, 4096), 5),
    ((64, 1024), (64, 4096), 6),
    ((1024, 4096), (1024, 4096), 3),
)


def draw(subject: Subject, seed: int) -> list[Shape]:
    """The shapes of ``subject`` in one draw. No shape of the calibration's draw is in another's."""
    found = _draw(subject, seed)
    if seed == CALIBRATION:
        return found
    known = {tuple(shape.items()) for shape in _draw(subject, CALIBRATION)}
    return [shape for shape in found if tuple(shape.items()) not in known]


def _draw(subject: Subject, seed: int) -> list[Shape]:
    rng = np.random.default_rng([seed, SUBJECTS.index(subject)])
    if subject.op == "gemm":
        make: Callable[[np.random.Generator], list[Shape]] = _products
    elif subject.op.startswith("attention"):
        make = _prefill if subject.op == "attention_prefill" else _decode
    else:
        make = _rows
    return list({tuple(shape.items()): shape for shape in make(rng)}.values())


def _size(rng: np.random.Generator, bounds: Range) -> int:
    """A log-uniform size; two of three are multiples of 8 or 64, as those of models are."""
    value = round(math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1]))))
    unit = (1, 8, 64)[rng.integers(3)]
    return value if value < 2 * unit else round(value / unit) * unit


def _products(rng: np.random.Generator) -> list[Shape]:
    found: list[Shape] = []
    for ms, ns, ks, count in _PRODUCTS:
        wanted = len(found) + count
        while len(found) < wanted:
            m, n, k = _size(rng, ms), _size(rng, ns), _size(rng, ks)
            if 2 * m * n * k <= MOST_FLOPS and n * k <= MOST_WEIGHTS:
                found.append({"m": m, "n": n, "k": k})
    return found


def _rows(rng: np.random.Generator) -> list[Shape]:
    found: list[Shape] = []
    for rows, columns, count in _ROWS:
        wanted = len(found) + count
        while len(found) < wanted:
            m, n = _size(rng, rows), _size(rng, columns)
            if m * n <= MOST_ELEMENTS:
                found.append({"m": m, "n": n})
    return found


def _heads(rng: np.random.Generator) -> dict[str, int]:
    group, kv_heads = int(rng.choice([1, 2, 4, 8])), int(rng.choice([1, 2, 4, 8]))
    return {"heads": group * kv_heads, "kv_heads": kv_heads, "head_dim": int(rng.choice([64, 96, 128]))}


def _prefill(rng: np.random.Generator) -> list[Shape]:
    found: list[Shape] = []
    while len(found) < 26:
        shape = {"batch": 1, **_heads(rng), "seq_q": _size(rng, (16, 768))}
        shape["seq_kv"] = shape["seq_q"] + (0 if rng.integers(2) else _size(rng, (16, 1024)))
        if 4.0 * shape["heads"] * shape["seq_q"] * shape["seq_kv"] * shape["head_dim"] <= 2 * MOST_FLOPS:
            found.append(shape)
    return found


def _decode(rng: np.random.Generator) -> list[Shape]:
    found: list[Shape] = []
    while len(found) < 28:
        shape = {"batch": int(rng.choice([1, 2, 4])), **_heads(rng), "seq_q": 1, "seq_kv": _size(rng, (16, 8192))}
        if shape["batch"] * shape["kv_heads"] * shape["seq_kv"] * shape["head_dim"] <= MOST_ELEMENTS / 2:
            found.append(shape)
    return found
