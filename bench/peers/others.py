"""Attention, ops on rows and elements, rotary embedding and casts: shapes, operands and our calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np

import npukernels as nk
from bench.peaks import Work, moved
from bench.peers.problem import Array, Judge, Problem, cycled, repeated
from bench.peers.products import Build, by_name
from npukernels import formats

HEAD = 128
PREFILL = [(8, 2, seq) for seq in (512, 1024, 2048, 4096)]
DECODE = [(32, 8, 512), (32, 8, 2048), (32, 8, 8192), (32, 8, 32768), (8, 8, 32768)]
SHORT = 2048  # keys; longer ones do not fit the caches
LAST_QUERIES = 16  # that the golden case of a prefill holds
IN_CACHE, OUT_OF_CACHE = [(1, 4096), (16, 4096), (128, 1024)], [(2048, 4096)]
NORMS, ELEMENTS = ("layernorm", "rmsnorm", "softmax"), ("gelu", "gelu_tanh", "silu")
ROPE = [(64, 32), (2048, 32)]  # tokens, heads
CASTS = [1 << 16, 1 << 20, 1 << 25]
GOLDEN_ROWS = 16


def attention() -> Iterator[Build]:
    """float32, batch 1, heads of 128: causal prompts, and one token against long caches."""
    yield from (partial(attention_problem, *shape, causal=True) for shape in PREFILL)
    yield from (partial(attention_problem, *shape, causal=False) for shape in DECODE)


def attention_problem(heads: int, kv_heads: int, length: int, causal: bool) -> Problem:
    per_kv, queries = heads // kv_heads, LAST_QUERIES if causal else 1
    sizes = dict(heads=per_kv, kv_heads=1, seq_q=queries, seq_kv=length, head_dim=HEAD, v_head_dim=HEAD, causal=causal)
    case = nk.golden("attention", dtype="fp32", fill="uniform", seed=0, **{name: int(x) for name, x in sizes.items()})
    k, v = (cycled(x, kv_heads, axis=1) for x in case.inputs[1:])
    q = cycled(case.inputs[0], heads, axis=1)
    if causal:  # the golden queries are the last of the prompt
        first = np.random.default_rng(1).random((1, heads, length - queries, HEAD), np.float32)
        q = np.concatenate([first, q], axis=2)
    out, judge = np.empty(q.shape, np.float32), _last_queries(case, heads, queries)
    half = 0.5 if causal else 1.0  # of the scores are needed
    work = Work(4.0 * half * heads * q.shape[2] * length * HEAD, read_bytes=float(k.nbytes + v.nbytes))
    if not causal:
        work = dataclasses.replace(work, unit="GB/s", amount=float(k.nbytes + v.nbytes))
    return Problem(
        "attention",
        "attention prefill" if causal else "attention decode, long" if length > SHORT else "attention decode, short",
        f"{heads}/{kv_heads} heads, {length} {'causal' if causal else 'keys'}",
        work,
        {"q": q, "k": k, "v": v},
        lambda: nk.attention(q, k, v, causal=causal, out=out),
        judge,
        options={"causal": causal},
    )


@dataclasses.dataclass(frozen=True)
class _LastQueries(Judge):
    """Judges the last queries of (batch, heads, queries, head) outputs."""

    queries: int = 1

    def part(self, output: Array) -> Array:
        rows = np.asarray(output)[:, :, -self.queries :]
        return np.ascontiguousarray(np.take(rows, self.index, self.axis))


def _last_queries(case: nk.Case, heads: int, queries: int) -> Judge:
    rows = repeated(case, heads, axis=1)
    return _LastQueries(rows.case, rows.index, 1, queries)


def rows() -> Iterator[Build]:
    """Norms, softmax, activations and rotary embedding, in cache and out of it."""
    for op in (*NORMS, *ELEMENTS):
        yield from (partial(row_problem, op, *shape, "in cache") for shape in IN_CACHE)
        yield from (partial(row_problem, op, *shape, "out of cache") for shape in OUT_OF_CACHE)
    yield from (partial(rope_problem, *shape) for shape in ROPE)


def row_problem(op: str, count: int, n: int, where: str) -> Problem:
    few = min(count, GOLDEN_ROWS)
    case = nk.golden(op, rows=few, n=n) if op in NORMS else _as_rows(nk.golden(op, n=few * n), few)
    x, out = cycled(case.inputs[0], count), np.empty((count, n), np.float32)
    names = ("x", "weight", "bias")[: len(case.inputs)]
    weights = case.inputs[1:]
    call: Callable[[], Array] = lambda: getattr(nk, op)(x, *weights, out=out)  # noqa: E731
    if op == "gelu_tanh":
        call = lambda: nk.gelu(x, approximate="tanh", out=out)  # noqa: E731
    return Problem(
        op,
        f"{op} {where}",
        by_name(count, n),
        moved(x.nbytes, out.nbytes),
        dict(zip(names, (x, *weights), strict=True)),
        call,
        repeated(case, count),
    )


def _as_rows(case: nk.Case, count: int) -> nk.Case:
    x, expected, bound = (np.reshape(v, (count, -1)) for v in (case.inputs[0], case.expected, case.bound))
    return dataclasses.replace(case, inputs=(x,), expected=expected, bound=bound)


def rope_problem(tokens: int, heads: int) -> Problem:
    case = nk.golden("rope", tokens=min(tokens, 256), heads=heads, dim=HEAD)
    cosines, sines = nk.rope_cache(2 * tokens, HEAD)  # begins with the rows of the case
    x, positions = (cycled(v, tokens) for v in case.inputs[:2])
    out = np.empty(x.shape, np.float32)
    return Problem(
        "rope",
        "rope",
        f"{tokens} tokens, {heads} heads",
        moved(x.nbytes, out.nbytes),
        {"x": x, "positions": positions, "cosines": cosines, "sines": sines},
        lambda: nk.rope(x, positions, cosines, sines, out=out),
        repeated(case, tokens),
    )


def casts() -> Iterator[Build]:
    """float32 to the two fp8 formats, saturating, and back."""
    for name in ("fp8", "fp8_e5m2"):
        yield from (partial(encode_problem, name, size) for size in CASTS)
        yield from (partial(decode_problem, name, size) for size in CASTS)


@lru_cache(maxsize=1)
def _numbers(size: int) -> Array:
    return np.random.default_rng(0).standard_normal(size, np.float32)


def _cast_work(size: int, copied: Work) -> Work:
    return dataclasses.replace(copied, unit="Gelement/s", amount=float(size))


def encode_problem(name: str, size: int) -> Problem:
    x, out = _numbers(size), np.empty(size, np.uint8)
    return Problem(
        "encode",
        "cast to fp8",
        f"{size} to {name}",
        _cast_work(size, moved(x.nbytes, size)),
        {"x": x},
        lambda: nk.cast(x, name, out=out),
        _first(formats.encode(x[:GOLDEN_CODES], name)),
        options={"format": name},
        tolerance=0.0,
    )


GOLDEN_CODES = 1 << 16  # first elements of a cast, judged against npukernels.formats


def _first(expected: Array) -> Judge:
    """Exact judge of the first elements of a vector."""
    case = nk.golden("cast", m=1, n=1, dtype="fp8")
    wide = expected.astype(np.float64)
    kind = "uint8" if expected.dtype == np.uint8 else "float32"
    exact = dataclasses.replace(case, expected=wide, bound=np.zeros_like(wide), out_dtype=kind)
    return Judge(exact, np.arange(len(wide)))


def decode_problem(name: str, size: int) -> Problem:
    codes, out = nk.cast(_numbers(size), name), np.empty(size, np.float32)
    return Problem(
        "decode",
        "cast from fp8",
        f"{size} from {name}",
        _cast_work(size, moved(codes.nbytes, out.nbytes)),
        {"codes": codes},
        lambda: nk.cast(codes, "fp32", source=name, out=out),
        _first(formats.decode(codes[:GOLDEN_CODES], name)),
        options={"format": name},
        tolerance=0.0,
    )
