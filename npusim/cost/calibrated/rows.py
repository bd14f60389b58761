"""Operators of a workload as rows of measured tables: the name, dtype spelling and dimensions each would have there.

The inverse of ``npusim.accuracy.operations``. Formats with several spellings are tried in order. Routed experts were
measured as one fused layer, so the operators that npusim divides it into are one row together (``blocks_of``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npusim.ops import NO_WINDOW, Dim, expert_ranks, shared_by
from npusim.workload import Op

# Spellings of rows for (activations, weights); the first that was measured on the chip counts.
_GEMM_DTYPES: dict[tuple[str, str], tuple[str, ...]] = {
    ("fp8", "fp8"): ("fp8", "fp8_block", "w8a8_float8_e4m3fnuz"),
    ("int8", "int8"): ("int8", "sq", "w8a8_dynamic", "w8a8_int8"),
    ("bf16", "int8"): ("int8_wo",),
    ("bf16", "int4"): ("int4_wo", "w4a16"),
}
# Spellings of rows of fused expert layers, likewise.
_MOE_DTYPES: dict[tuple[str, str], tuple[str, ...]] = {
    ("fp8", "fp8"): ("fp8", "fp8_block"),
    ("int8", "int8"): ("w8a8_dynamic",),
    ("bf16", "int8"): ("int8_wo",),
    ("bf16", "int4"): ("int4_wo",),
    ("bf16", "mxfp4"): ("w4a16_mxfp4",),
    ("fp8", "mxfp4"): ("w4a8_mxfp4_mxfp8",),
    ("mxfp8", "mxfp4"): ("w4a8_mxfp4_mxfp8",),
    ("fp8", "int4"): ("w4afp8",),
}
_COLLECTIVES = {"all_to_all": "alltoall", "send": "send_recv"}
_ELEMENTWISE = {"add": "add", "mul": "mul", "gelu": "gelu", "relu": "relu", "rope": "rope", "swiglu": "silu_and_mul"}
# Launch and fusion make the time of these: a document of other software says nothing of them.
_OWN_SOFTWARE = ("norm", "softmax", "elementwise", "embedding")


@dataclass(frozen=True)
class Row:
    """An operator as rows of measured tables spell it.

    Args:
        op: name of the operator.
        dtypes: spellings of its formats, best first.
        dims: dimensions by column.
        any_software: documents of other software may price it, as transferred.
    """

    op: str
    dtypes: tuple[str, ...]
    dims: Mapping[str, Dim]
    any_software: bool = True


# -- single operators -------------------------------------------------------------------------------------------------


def _spellings(formats: Mapping[str, str], known: Mapping[tuple[str, str], tuple[str, ...]]) -> tuple[str, ...]:
    """Of activations ``a`` and weights ``b``; weights alone in few bits are spelled alike for both 16-bit formats."""
    a, b = formats["a"], formats["b"]
    return known.get(("bf16" if a == "fp16" and b != "fp16" else a, b), (a,) if a == b else ())


def _gemm(op: Op, width: Dim | None) -> Row:
    d, f = op.dims, op.formats
    spellings = _spellings(f, _GEMM_DTYPES)
    name = "gemm" if np.all(np.asarray(d["groups"]) == 1) else "bmm"
    return Row(name, spellings, {"m": d["m"], "n": d["n"], "k": d["k"], "batch": d["groups"]})


def _attention(op: Op, width: Dim | None) -> Row:
    """``seq_kv`` counts every key of the last query. Latent attention has its own operators."""
    d, f = op.dims, op.formats
    new = d["seq_q"]
    dims = {"batch": d["batch"], "heads": d["heads"], "seq_q": new, "seq_kv": d["past"] + new}
    decodes = bool(np.all(np.asarray(new) == 1))
    dtype = f"{f['q']}/kv_{f['kv']}"
    key, value = d["head_dim"], d["v_head_dim"]
    if np.any(np.asarray(key) != value):
        if np.all(np.asarray(d["kv_heads"]) == 1):  # absorbed: all heads read one latent vector
            return Row("mla_decode", (dtype,), {**dims, "kv_lora": value, "rope": key - value})
        # The family takes the width of a key; how it is divided does not matter.
        return Row("mla_prefill", (dtype,), {**dims, "qk_nope": key, "rope": 0, "v": value})
    window = np.where(np.asarray(d["window"]) >= NO_WINDOW, 0, d["window"])
    dims |= {"kv_heads": d["kv_heads"], "head_dim": key, "window": window}
    if not np.all(np.asarray(d["causal"]) == 1):
        return Row("attention_encoder", (f["q"],), dims)
    return Row("attention_decode" if decodes else "attention_prefill", (dtype,), {**dims, "causal": 1})


def _norm(op: Op, width: Dim | None) -> Row:
    return Row(op.function, (op.formats["x"],), {"m": op.dims["rows"], "n": op.dims["cols"]})


def _softmax(op: Op, width: Dim | None) -> Row:
    return Row("softmax", (op.formats["x"],), {"m": op.dims["rows"], "n": op.dims["cols"]})


def _embedding(op: Op, width: Dim | None) -> Row:
    return Row("embedding", (op.formats["out"],), {"m": op.dims["tokens"], "n": op.dims["hidden"]})


def _elementwise(op: Op, rows: Dim | None) -> Row | None:
    """Rows of equal length: as many as the GEMM before it had."""
    name = _ELEMENTWISE.get(op.function)
    if name is None or rows is None or np.any(np.asarray(op.dims["n"]) % rows):
        return None
    return Row(name, (op.formats["x"],), {"m": rows, "n": op.dims["n"] // rows})


def _collective(op: Op, width: Dim | None) -> Row:
    name = _COLLECTIVES.get(op.function, op.function)
    return Row(name, (op.formats["x"],), {"ranks": op.dims["chips"], "bytes": op.operands[0].bytes})


# Kind of an operator → its row; convolutions were not measured as npusim divides them, of experts see ``blocks_of``.
ROWS: dict[str, Callable[[Op, Dim | None], Row | None]] = {
    "gemm": _gemm, "attention": _attention, "norm": _norm, "softmax": _softmax, "embedding": _embedding,
    "elementwise": _elementwise, "collective": _collective,
}  # fmt: skip


def row_of(op: Op, rows: Dim | None = None) -> Row | None:
    """The row an operator would be; None for one that measured tables do not have.

    Args:
        op: the operator.
        rows: of the tensor an element-wise operator works on, where they are known.
    """
    build = ROWS.get(op.kind)
    found = None if build is None else build(op, rows)
    return found and replace(found, any_software=op.kind not in _OWN_SOFTWARE)


def rows_of(ops: Iterable[Op]) -> list[Row | None]:
    """Rows of the operators of a step; element-wise ones have as many rows as the matrix product before them."""
    found, rows = [], None
    for op in ops:
        found.append(row_of(op, rows))
        if op.kind == "gemm":
            rows = op.dims["m"]
        elif op.kind == "experts":
            rows = shared_by(op.dims["tokens"] * op.dims["top_k"], expert_ranks(op))
    return found


# -- expert layers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Operators of a step that measured tables time as one row.

    Args:
        members: their positions in the step.
        row: what they are together.
    """

    members: tuple[int, ...]
    row: Row


def blocks_of(ops: Sequence[Op]) -> list[Block]:
    """Expert layers of a step: up projection, activation and down projection of the routed experts, with what the
    fused kernels also do, the choice of the experts before them and the weighted sum behind.

    Exchanges between chips stay operators of their own: rows were measured on one rank, which has its tokens. Dims of
    experts are those of one chip already, so a row counts as not split by ``tp``; layers without a gate (up as wide as
    down) were hardly measured and are no block.
    """
    found: list[Block] = []
    for at, up in enumerate(ops):
        if up.kind != "experts" or (found and at in found[-1].members):
            continue
        down = next((i for i in (at + 1, at + 2) if i < len(ops) and ops[i].kind == "experts"), None)
        if down is None or not _gated(up, ops[down]):
            continue
        members = (*_choice(ops, at), *range(at, down + 1))
        after = ops[down + 1] if down + 1 < len(ops) else None
        if after is not None and (after.kind, after.function, after.count) == ("elementwise", "mul", up.count):
            members = (*members, down + 1)
        found.append(Block(members, _experts(up, ops[down])))
    return found


def _gated(up: Op, down: Op) -> bool:
    """Whether two products of experts are the projections of one gated layer."""
    same = all(np.all(np.asarray(up.dims[name]) == down.dims[name]) for name in ("tokens", "top_k", "experts", "ep"))
    wide = np.all(np.asarray(up.dims["n"]) == 2 * np.asarray(down.dims["k"]))
    return bool(same and wide and up.count == down.count and up.formats == down.formats)


def _choice(ops: Sequence[Op], at: int) -> tuple[int, ...]:
    """Position of the softmax over the experts, perhaps before an exchange."""
    before = at - 1
    if before > 0 and ops[before].function == "all_to_all":
        before -= 1
    if before < 0 or ops[before].kind != "softmax" or ops[before].count != ops[at].count:
        return ()
    return (before,) if np.all(np.asarray(ops[before].dims["cols"]) == ops[at].dims["experts"]) else ()


def _experts(up: Op, down: Op) -> Row:
    """With an imbalance every expert takes as long as the busiest: as if there were that many more tokens."""
    d = up.dims
    even = np.all(np.asarray(d["imbalance_pct"]) == 100)
    tokens = d["tokens"] if even else d["tokens"] * d["imbalance_pct"] / 100
    dims = {"m": tokens, "n": down.dims["k"], "k": d["k"], "topk": d["top_k"], "experts": d["experts"], "tp": 1,
            "ep": d["ep"]}  # fmt: skip
    return Row("moe_ffn", _spellings(up.formats, _MOE_DTYPES), dims)
