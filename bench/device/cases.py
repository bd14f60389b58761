"""What is measured: operators, shapes and formats, apart from any framework."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
COLUMNS = ("m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv")


@dataclass(frozen=True)
class Case:
    """One operator at one shape.

    Args:
        op: ``gemm``, ``attention_prefill``, ``attention_decode``, ``layernorm``, ``rmsnorm``, ``softmax``, ``silu``,
            ``gelu`` or ``copy``.
        dtype: of operands and result (fp8 operands give bf16 results).
        dims: columns of the row schema.
    """

    op: str
    dtype: str
    dims: tuple[tuple[str, int], ...]

    def __getitem__(self, name: str) -> int:
        return dict(self.dims)[name]

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the operands that are read."""
        if self.op == "gemm":
            return (self["m"], self["k"]), (self["n"], self["k"])
        if self.op.startswith("attention"):
            b, d = self["batch"], self["head_dim"]
            cache = (b, self["kv_heads"], self["seq_kv"], d)
            return (b, self["heads"], self["seq_q"], d), cache, cache
        return ((self["m"], self["n"]),)

    @property
    def bytes(self) -> int:
        """Of all operands."""
        total = 0
        for shape in self.operands:
            count = 1
            for size in shape:
                count *= size
            total += count * BYTES[self.dtype]
        return total

    @property
    def flops(self) -> float:
        """Of the matrix products in it; 0 for row operators."""
        if self.op == "gemm":
            return 2.0 * self["m"] * self["n"] * self["k"]
        if self.op.startswith("attention"):
            pairs = self["seq_q"] * (self["seq_kv"] - (self["seq_q"] - 1) / 2)
            return 4.0 * self["batch"] * self["heads"] * self["head_dim"] * pairs
        return 0.0


def _case(op: str, dtype: str, **dims: int) -> Case:
    return Case(op, dtype, tuple(dims.items()))


def grid(dtypes: tuple[str, ...] = ("bf16",), most_flops: float = float("inf"), most_bytes: float = float("inf"),
         quick: bool = False) -> Iterator[Case]:  # fmt: skip
    """All cases, none above the limits.

    Args:
        dtypes: formats to measure; fp8 is measured for GEMM only.
        most_flops: largest case, in FLOP.
        most_bytes: largest operands of a case.
        quick: one small case per operator, to see that everything runs.
    """
    for dtype in dtypes:
        for case in _small(dtype) if quick else _full(dtype):
            if case.flops <= most_flops and case.bytes <= most_bytes and (dtype != "fp8" or case.op == "gemm"):
                yield case


def _small(dtype: str) -> Iterator[Case]:
    yield _case("gemm", dtype, m=16, n=64, k=32)
    yield _case("attention_prefill", dtype, batch=1, heads=4, kv_heads=2, head_dim=32, seq_q=16, seq_kv=16)
    yield _case("attention_decode", dtype, batch=2, heads=4, kv_heads=2, head_dim=32, seq_q=1, seq_kv=33)
    for op in ROW_OPS:
        yield _case(op, dtype, m=8, n=96)


ROW_OPS = ("layernorm", "rmsnorm", "softmax", "silu", "gelu", "copy")
# (n, k) of the projections of common language models, and odd ones.
WEIGHTS = ((4096, 4096), (14336, 4096), (4096, 14336), (6144, 4096), (8192, 8192), (57344, 8192), (5120, 5120),
           (1000, 2048), (11008, 4096), (2304, 1536))  # fmt: skip
HEADS = ((32, 8, 128), (64, 8, 128), (32, 32, 128), (16, 2, 128), (32, 32, 64))  # query heads, KV heads, width


def _full(dtype: str) -> Iterator[Case]:
    rows = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512, 777, 1024, 2048, 4096, 8192)
    for m, (n, k) in itertools.product(rows, WEIGHTS):
        yield _case("gemm", dtype, m=m, n=n, k=k)
    for size in (256, 512, 1024, 1536, 2048, 3072, 4096, 8192):
        yield _case("gemm", dtype, m=size, n=size, k=size)
    for (heads, kv_heads, width), batch in itertools.product(HEADS, (1, 4, 16, 64)):
        shape = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": width}
        for length in (128, 512, 1024, 2048, 4096, 8192):
            yield _case("attention_prefill", dtype, **shape, seq_q=length, seq_kv=length)
        for length in (128, 1024, 4096, 16384, 65536):
            yield _case("attention_decode", dtype, **shape, seq_q=1, seq_kv=length)
    for op, n, m in itertools.product(ROW_OPS, (1024, 4096, 8192, 14336), (1, 16, 128, 1024, 4096, 16384)):
        yield _case(op, dtype, m=m, n=n)
