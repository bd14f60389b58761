"""Attention: ``attention`` over keys and values in one piece, ``paged_attention`` over a cache of blocks.

Both compute, for every query row, ``sum over t of p_t v_t`` with ``p = softmax(scale q . k_t)`` over the
keys the row sees. The ``c-*`` variants are one driver with two engines per instruction set (csrc/attention):
online softmax over blocks of 128 keys (Dao et al., arXiv:2205.14135) for prefill, and for decode one pass
over pieces of 512 keys that are merged in order. Neither split depends on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npukernels import attention_numpy, native
from npukernels.arguments import array, output, thread_count
from npukernels.attention_problem import KV_FORMATS, Attention
from npukernels.registry import kernel, select
from npukernels.shortcuts import Call, Held, Shortcut, call
from npusim.errors import InputError, Problem

Array: TypeAlias = npt.NDArray[Any]
Scale: TypeAlias = float | Array | None
Shape: TypeAlias = tuple[int, ...]

_ATTENTION = Shortcut(arrays=6, options=5, written=(5,))
_PAGED = Shortcut(arrays=8, options=5, written=(7,))

# Looked up by dtype, because the name of a dtype takes longer to make than a small call may.
_FLOAT32 = np.dtype("float32")
_KV_DTYPES = {np.dtype(name): kv_format for name, kv_format in KV_FORMATS.items()}


def attention(
    q: Array,
    k: Array,
    v: Array,
    k_scale: Scale = None,
    v_scale: Scale = None,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    out: Array | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Array:
    """Attention of queries that are the last positions of their sequence.

    Query ``i`` stands at position ``p = seq_kv - seq_q + i``. It sees key ``t`` when ``t <= p`` (if
    ``causal``) and ``t > p - window`` (if there is a window); all keys otherwise. A row that sees no key is
    zero. A key that is not seen has no influence, even if it is NaN.

    Args:
        q: float32, shape (batch, heads, seq_q, head_dim). Outer dimensions of q, k and v may have any strides;
            an innermost dimension that is not contiguous is copied.
        k: shape (batch, kv_heads, seq_kv, head_dim); float32, float16, bf16 as uint16 codes, fp8 e4m3 as uint8
            codes, or int8. ``heads`` is a multiple of ``kv_heads``: query head ``h`` reads head
            ``h // (heads // kv_heads)``.
        v: as ``k``, shape (batch, kv_heads, seq_kv, v_head_dim).
        k_scale: a number, or float32 that broadcasts to (batch, kv_heads, seq_kv): what key elements are
            multiplied by. One per head has shape (kv_heads, 1). None is 1.
        v_scale: as ``k_scale``, for values.
        causal: no query sees later positions.
        window: positions a query sees, up to and including its own; None for no limit.
        scale: of the scores; None is ``1 / sqrt(head_dim)``.
        out: float32, shape (batch, heads, seq_q, v_head_dim), C-contiguous, apart from the inputs.
        variant: one of ``variants("attention")``; by default the fastest, or ``NPUKERNELS_VARIANT``.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape, option or ``out``, or a variant that does not exist or cannot run here.
    """
    given = q, k, v, k_scale, v_scale, out, causal, window, scale, variant, threads
    if (done := _ATTENTION.run(*given)) is not None:
        return done
    q, k, v, kv_format = _operands(q, k, v)
    _match(
        q.shape,
        k.shape,
        v.shape,
        k.shape[0] == q.shape[0],
        f"({q.shape[0]}, kv_heads, seq_kv, {q.shape[3]})",
        k.shape[1],
        v.shape[1],
    )
    problem = Attention(
        q=q,
        k=k.transpose(0, 2, 1, 3),
        v=v.transpose(0, 2, 1, 3),
        k_scale=_scales(k_scale, "k_scale", k.shape[:3], (0, 2, 1)),
        v_scale=_scales(v_scale, "v_scale", k.shape[:3], (0, 2, 1)),
        table=None,
        lengths=None,
        seq_kv=k.shape[2],
        kv_format=kv_format,
        causal=bool(causal),
        window=_window(window),
        scale=_scale(scale, q.shape[3]),
    )
    made, result = _run("attention", problem, out, variant, threads)
    _ATTENTION.keep(given, _fixed(made, problem, k_scale, v_scale), result)
    return result


def paged_attention(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    block_table: Array,
    lengths: Array,
    k_scale: Scale = None,
    v_scale: Scale = None,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    out: Array | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Array:
    """Attention over sequences whose keys and values lie in blocks of a shared cache.

    Token ``t`` of sequence ``b`` is row ``t % block_size`` of block ``block_table[b, t // block_size]``. Rows
    beyond a sequence's length are never read. Query ``i`` stands at position ``lengths[b] - seq_q + i``; one
    before the first token is zero under ``causal``.

    Args:
        q: float32, shape (batch, heads, seq_q, head_dim), queries of the last positions of each sequence.
        k_cache: shape (blocks, block_size, kv_heads, head_dim), formats as in ``attention``.
        v_cache: shape (blocks, block_size, kv_heads, v_head_dim).
        block_table: int32, shape (batch, max_blocks); entries beyond a sequence's length are not looked at.
        lengths: int32, shape (batch,): tokens of each sequence, the queries included.
        k_scale: a number, or float32 that broadcasts to (blocks, block_size, kv_heads).
        v_scale: as ``k_scale``, for values.
        causal: see ``attention``; so are the remaining arguments.
        window: positions a query sees, up to and including its own; None for no limit.
        scale: of the scores; None is ``1 / sqrt(head_dim)``.
        out: float32, shape (batch, heads, seq_q, v_head_dim), C-contiguous, apart from the inputs.
        variant: one of ``variants("attention")``; the two ops share their kernels.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape, option, length, block number or ``out``, or an unknown variant.
    """
    given = q, k_cache, v_cache, block_table, lengths, k_scale, v_scale, out, causal, window, scale, variant, threads
    if (done := _PAGED.run(*given)) is not None:
        return done
    q, k, v, kv_format = _operands(q, k_cache, v_cache)
    _match(
        q.shape,
        k.shape,
        v.shape,
        k.shape[1] == v.shape[1],
        f"(blocks, block_size, kv_heads, {q.shape[3]})",
        k.shape[2],
        v.shape[2],
    )
    table = np.ascontiguousarray(array(block_table, "block_table", ("int32",), (2,)))
    counts = np.ascontiguousarray(array(lengths, "lengths", ("int32",), (1,)))
    _check_blocks(q.shape[0], k.shape, table, counts)
    problem = Attention(
        q=q,
        k=k,
        v=v,
        k_scale=_scales(k_scale, "k_scale", k.shape[:3], (0, 1, 2)),
        v_scale=_scales(v_scale, "v_scale", k.shape[:3], (0, 1, 2)),
        table=table,
        lengths=counts,
        seq_kv=int(counts.max(initial=0)),
        kv_format=kv_format,
        causal=bool(causal),
        window=_window(window),
        scale=_scale(scale, q.shape[3]),
    )
    made, result = _run("attention", problem, out, variant, threads)
    _PAGED.keep(given, _fixed(made, problem, k_scale, v_scale), result)
    return result


def _run(op: str, problem: Attention, out: Any, variant: str | None, threads: int) -> tuple[Call | None, Array]:
    run = select(op, variant).run
    threads = thread_count(threads)
    q = problem.q
    shape = (*q.shape[:3], problem.v.shape[3])
    others = (problem.k_scale, problem.v_scale, problem.table, problem.lengths)
    result = output(out, shape, "float32", q, problem.k, problem.v, *(x for x in others if x is not None))
    return run(problem, result, threads), result


def _fixed(made: Call | None, problem: Attention, k_scale: Scale, v_scale: Scale) -> Call | None:
    """The call with the arrays of scales given as numbers marked as the same in all calls of this kind."""
    numbers = [
        x for x, scale in ((problem.k_scale, k_scale), (problem.v_scale, v_scale)) if isinstance(scale, (int, float))
    ]
    if made is None or not numbers:
        return made
    arguments = (Held(x) if any(x is number for number in numbers) else x for x in made.arguments)
    return made._replace(arguments=tuple(arguments))


# ---- arguments ----


def _operands(q: Any, k: Any, v: Any) -> tuple[Array, Array, Array, str]:
    """Queries, keys and values with contiguous rows, and the format of the last two."""
    if not _plain(q) or q.dtype != _FLOAT32:
        q = array(q, "q", ("float32",), (4,))
    if not (_plain(k) and _plain(v) and k.dtype == v.dtype and k.dtype in _KV_DTYPES):
        k, v = _codes(k), _codes(v)
        k = array(k, "k", tuple(KV_FORMATS), (4,))
        v = array(v, "v", (k.dtype.name,), (4,))
    return _rows(q), _rows(k), _rows(v), _KV_DTYPES[k.dtype]


def _plain(x: Any) -> bool:
    """Whether ``x`` needs no look at its class or dimensions; ``array`` says what is wrong otherwise."""
    return type(x) is np.ndarray and x.ndim == 4


def _codes(x: Any) -> Any:
    """An ``ml_dtypes`` array as the codes it holds; anything else as it is."""
    views = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8}
    name = x.dtype.name if isinstance(x, np.ndarray) else ""
    return x.view(views[name]) if name in views else x


def _rows(x: Array) -> Array:
    """``x``, or a copy where its rows are not contiguous or its strides not multiples of its elements."""
    size = x.itemsize
    flags = x.flags
    if flags.c_contiguous and flags.aligned:
        return x
    if flags.aligned and x.strides[3] == size and not any(stride % size for stride in x.strides):
        return x
    return x.copy(order="C")


def _match(q: Shape, k: Shape, v: Shape, outer: bool, expected: str, k_heads: int, v_heads: int) -> None:
    if not outer or k[3] != q[3]:
        raise InputError(Problem(f"q {q} and k {k} do not match", "k", allowed=f"k of shape {expected}"))
    if k[:3] != v[:3]:
        allowed = f"v of shape {(*k[:3], 'v_head_dim')}"
        raise InputError(Problem(f"k {k} and v {v} do not match", "v", allowed=allowed))
    if k_heads == 0 if q[1] else False:
        raise InputError(Problem("k has no heads", "k", allowed="at least one KV head"))
    if k_heads and q[1] % k_heads:
        what = f"{q[1]} query heads do not share {k_heads} KV heads"
        raise InputError(Problem(what, "q", allowed="a multiple of the number of KV heads"))


def _scales(value: Scale, name: str, shape: tuple[int, ...], order: tuple[int, int, int]) -> Array | None:
    """Scales with one entry a (block, token, head), by strides; None when there are none."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = np.asarray(value, np.float32)
    x = array(value, name, ("float32",))
    try:
        full = np.broadcast_to(x, shape)
    except ValueError:
        raise InputError(
            Problem(f"{name} of shape {x.shape} does not broadcast", name, allowed=f"to {shape}")
        ) from None
    if not x.flags.aligned or any(stride % 4 for stride in full.strides):
        full = np.broadcast_to(x.copy(), shape)
    return full.transpose(order)


def _window(window: Any) -> int:
    if window is None:
        return 0
    integral = isinstance(window, (int, np.integer)) and not isinstance(window, bool)
    if not integral or not 1 <= window < 2**62:
        raise InputError(Problem(f"window is {window!r}"[:100], "window", allowed="None or an integer of at least 1"))
    return int(window)


def _scale(scale: Any, head_dim: int) -> float:
    if scale is None:
        return 1 / math.sqrt(head_dim) if head_dim else 1.0
    number = isinstance(scale, (int, float, np.floating, np.integer)) and not isinstance(scale, bool)
    if not number or not abs(scale) < 3e38:
        raise InputError(Problem(f"scale is {scale!r}"[:100], "scale", allowed="None or a finite number"))
    return float(scale)


def _check_blocks(batch: int, shape: tuple[int, ...], table: Array, lengths: Array) -> None:
    blocks, block_size = shape[:2]
    if table.shape[0] != batch or lengths.shape[0] != batch:
        what = f"block_table {table.shape} and lengths {lengths.shape} do not fit a batch of {batch}"
        raise InputError(Problem(what, "block_table", allowed=f"({batch}, max_blocks) and ({batch},)"))
    most = table.shape[1] * block_size
    if lengths.size and not (0 <= lengths.min() and lengths.max() <= most):
        what = f"lengths run from {lengths.min()} to {lengths.max()}"
        raise InputError(Problem(what, "lengths", allowed=f"0 to max_blocks * block_size = {most}"))
    if not most:
        return
    used = np.arange(table.shape[1]) * block_size < lengths[:, None]
    bad = used & ((table < 0) | (table >= blocks))
    if bad.any():
        b, i = (int(x) for x in np.argwhere(bad)[0])
        what = f"block_table[{b}, {i}] is {table[b, i]}"
        raise InputError(Problem(what, "block_table", allowed=f"a block of the cache, 0 to {blocks - 1}"))


# ---- variants ----


@kernel("attention", "ref")
def _ref(problem: Attention, out: Array, threads: int) -> None:
    """``out = sum over t of exp(s_t - max s) v_t / sum over t of exp(s_t - max s)``, ``s_t = scale q . k_t``.

    All in float64, rounded once.
    """
    attention_numpy.reference(problem, out)


@kernel("attention", "numba")
def _numba(problem: Attention, out: Array, threads: int) -> None:
    """Online softmax, key by key, compiled by numba at the first call."""
    attention_numpy.compiled(problem, out)


_ISA = {name: native.constant(f"NPK_{name[2:].upper()}") for name in ("c-generic", "c-avx2", "c-avx512")}


@kernel("attention", "c-generic", requires={"native"})
def _generic(problem: Attention, out: Array, threads: int) -> Call:
    """Vectors of four floats, 4 x 8 tile."""
    return _native(_ISA["c-generic"], problem, out, threads)


@kernel("attention", "c-avx2", requires={"native", "avx2", "fma", "f16c"})
def _avx2(problem: Attention, out: Array, threads: int) -> Call:
    """6 x 16 tile of fused multiply-adds."""
    return _native(_ISA["c-avx2"], problem, out, threads)


@kernel("attention", "c-avx512", requires={"native", "avx512f", "avx2", "fma", "f16c"})
def _avx512(problem: Attention, out: Array, threads: int) -> Call:
    """14 x 32 tile of fused multiply-adds."""
    return _native(_ISA["c-avx512"], problem, out, threads)


def _native(isa: int, p: Attention, out: Array, threads: int) -> Call:
    q, k, v = p.q, p.k, p.v
    batch, heads, seq_q, head_dim = q.shape
    blocks, block_size, kv_heads, v_head_dim = v.shape
    table = 0 if p.table is None else p.table.shape[1]
    seq_kv = p.seq_kv if p.table is None else table * block_size
    sizes = batch, heads, kv_heads, seq_q, head_dim, v_head_dim, seq_kv, blocks, block_size
    strides = [stride >> 2 for stride in q.strides[:3]]
    for x in (k, v, p.k_scale, p.v_scale):
        strides += (0, 0, 0) if x is None else _strides(x.strides, x.itemsize)
    module = native.require_native()
    kv_format = native.constant(f"NPK_KV_{p.kv_format}")
    shape = module.ffi.new("npk_attention_shape *", (*sizes, table, *strides, p.window, p.causal, kv_format, p.scale))
    made = call("npk_attention", isa, Held(shape), q, k, v, p.k_scale, p.v_scale, p.table, p.lengths, out, threads)
    if made.status:
        native.raise_for_status(made.status, f"attention {q.shape} over {p.seq_kv} keys")
    return made


def _strides(strides: tuple[int, ...], size: int) -> tuple[int, int, int]:
    """Strides of (blocks, tokens, heads, ...) in elements, in the order block, head, row."""
    block, row, head = strides[:3]
    return block // size, head // size, row // size
