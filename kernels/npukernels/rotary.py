"""Rotary position embedding, ``rope``, and the table of cosines and sines it reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from npukernels import native
from npukernels.arguments import Array, array, contiguous, thread_count
from npukernels.registry import kernel, select
from npukernels.rowargs import INSTRUCTION_SETS, as_rows, positive, rows_output
from npukernels.shortcuts import Call, Shortcut, checked_call
from npusim.errors import InputError, Problem

Positions = npt.NDArray[np.int64]

_ROPE = Shortcut(arrays=5, options=3, written=(4,))


def rope_cache(positions: int, rotary_dim: int, base: float = 10000.0) -> tuple[Array, Array]:
    """Cosines and sines of ``p base^(-2i / rotary_dim)`` for position p and pair i (Su et al., arXiv 2104.09864).

    Args:
        positions: number of positions.
        rotary_dim: dimensions that are rotated, even.
        base: of the geometric series of frequencies.

    Returns:
        Two float32 arrays (positions, rotary_dim / 2), computed in float64 and rounded once.

    Raises:
        InputError: a negative size or an odd dimension.
    """
    for size, name in ((positions, "positions"), (rotary_dim, "rotary_dim")):
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 0 <= size < 2**31:
            raise InputError(Problem(f"{name} is {size!r}"[:100], name, allowed="an integer of at least 0"))
    if rotary_dim % 2:
        raise InputError(Problem(f"rotary_dim is {rotary_dim}", "rotary_dim", allowed="an even number"))
    frequency = positive(base, "base") ** (-np.arange(0, rotary_dim, 2) / max(rotary_dim, 1))
    angle = np.arange(positions)[:, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rope(
    x: Array,
    positions: Positions,
    cosines: Array,
    sines: Array,
    *,
    interleaved: bool = False,
    out: Array | None = None,
    variant: str | None = None,
    threads: int = 1,
) -> Array:
    """Rotates pairs of the first dimensions of every head by the angle of the token's position.

    ``y1 = x1 cos - x2 sin``, ``y2 = x2 cos + x1 sin`` for the pairs (i, i + r / 2), or (2i, 2i + 1) when interleaved,
    of the first ``r = 2 cosines.shape[1]`` dimensions; the others are copied.

    Args:
        x: float32, shape (tokens, heads, head dimension); tokens may lie apart, else it is copied.
        positions: int64, shape (tokens,), rows of the tables.
        cosines: float32, shape (positions, r / 2), from ``rope_cache``.
        sines: likewise.
        interleaved: which elements make a pair.
        out: C-contiguous float32 array like ``x``; it may be ``x`` itself.
        variant: one of ``variants("rope")``; by default the fastest.
        threads: threads to use, 1 to 64; the result has the same bits for any number.

    Returns:
        ``out``, or a new array.

    Raises:
        InputError: bad dtype, shape, position or ``out``, or a variant that does not exist or cannot run here.
    """
    given = x, positions, cosines, sines, out, interleaved, variant, threads
    if (done := _ROPE.run(*given)) is not None:
        return done
    chosen = select("rope", variant)
    x = array(x, "x", ("float32",), (3,))
    positions = contiguous(array(positions, "positions", ("int64",), (1,)))
    cosines, sines = array(cosines, "cosines", ("float32",), (2,)), array(sines, "sines", ("float32",), (2,))
    _matching(x, positions, cosines, sines)
    _in_range(positions, cosines)  # for the message; C looks at them too
    result = rows_output(False, out, x, positions, cosines, sines)
    tables = contiguous(cosines), contiguous(sines)
    made = chosen.run(x, positions, *tables, bool(interleaved), result, thread_count(threads))
    _ROPE.keep(given, made, result)
    return result


def _matching(x: Array, positions: Positions, cosines: Array, sines: Array) -> None:
    """Raises InputError when shapes do not match."""
    (tokens, _, dim), table = x.shape, cosines.shape
    if table != sines.shape:
        raise InputError(Problem(f"cosines {cosines.shape} and sines {sines.shape} differ", "sines"))
    if 2 * table[1] > dim:
        problem = f"the tables rotate {2 * cosines.shape[1]} dimensions of heads of {x.shape[2]}"
        raise InputError(Problem(problem, "cosines", allowed=f"at most {x.shape[2] // 2} columns"))
    if positions.size != tokens:
        problem = f"{positions.size} positions for {x.shape[0]} tokens"
        raise InputError(Problem(problem, "positions", allowed="one a token"))


def _in_range(positions: Positions, cosines: Array) -> None:
    """Raises InputError when a position is not in the tables."""
    if positions.size and not (positions.min() >= 0 and positions.max() < cosines.shape[0]):
        problem = f"positions are {positions.min()} to {positions.max()}"
        raise InputError(Problem(problem, "positions", allowed=f"0 to {cosines.shape[0] - 1}"))


def rope_pairs(half: int, interleaved: bool) -> tuple[slice, slice]:
    """Where the first and the second elements of the pairs are."""
    return (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))


@kernel("rope", "ref")
def _ref(
    x: Array, positions: Positions, cosines: Array, sines: Array, interleaved: bool, out: Array, threads: int
) -> None:
    """``y1 + i y2 = (x1 + i x2) e^(i angle)`` in float64, rounded once."""
    first, second = rope_pairs(cosines.shape[1], interleaved)
    c, s = (table.astype(np.float64)[positions][:, None, :] for table in (cosines, sines))
    with np.errstate(all="ignore"):
        x1, x2 = x[..., first].astype(np.float64), x[..., second].astype(np.float64)
        out[..., 2 * cosines.shape[1] :] = x[..., 2 * cosines.shape[1] :]
        out[..., first], out[..., second] = x1 * c - x2 * s, x2 * c + x1 * s


def _compiled(isa: str) -> Callable[..., Call]:
    code = native.constant(isa)

    def run(
        x: Array, positions: Positions, cosines: Array, sines: Array, interleaved: bool, out: Array, threads: int
    ) -> Call:
        tokens, heads, dim = x.shape
        count, half = cosines.shape
        source, _, _, apart = as_rows(_tokens(x))
        return checked_call(
            "rope", "npk_rope", code, interleaved, tokens, heads, dim, half, source, apart, positions, count, cosines,
            sines, out, threads,
        )  # fmt: skip

    return run


def _tokens(x: Array) -> Array:
    """``x`` with one row a token, in place where its heads follow each other: a part of fused projections."""
    tokens, heads, dim = x.shape
    if x.flags.c_contiguous and x.flags.aligned:
        return x.reshape(tokens, heads * dim)
    if x.size and x.strides[1:] == (dim * 4, 4) and x.flags.aligned and x.strides[0] % 4 == 0:
        return np.lib.stride_tricks.as_strided(x, (tokens, heads * dim), (x.strides[0], 4), writeable=False)
    return np.array(x, order="C").reshape(tokens, heads * dim)


for _variant, (_isa, _requires) in INSTRUCTION_SETS.items():
    kernel("rope", _variant, requires=_requires)(_compiled(_isa))
