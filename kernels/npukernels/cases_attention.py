"""Golden cases of ``attention`` and ``paged_attention``, with a proven bound of their error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npukernels import formats
from npukernels.cases import TINY32, U32, Case, Draw, Float64, frozen, gamma, maker
from npusim.errors import InputError, Problem

Mask = npt.NDArray[np.bool_]

DTYPES = ("fp32", "fp16", "bf16", "fp8", "int8")

# Keys of a block, at least, between two rescalings of an online softmax; relative error of its exponential.
BLOCK_KEYS, EXP_ERROR = 16, 4 * U32


def attention_bound(q: Float64, k: Float64, v: Float64, seen: Mask, scale: float) -> tuple[Float64, Float64]:
    """Attention of one sequence and head in float64, and the largest error of a binary32 kernel.

    With u = 2^-24 and gamma_n = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
    ed., section 3.1):

    1. Scores: a dot product of d terms, its scaling and that of quantised keys err by at most
       ``delta_t = gamma_(d+4) |scale| |q| . |k_t|`` (section 3.5), and what underflows.
    2. Weights: subtracting maxima rounds by u of each difference; the differences of a key and its later
       rescalings have one sign and add up to ``s_t - max s``, give or take the scores' errors. Each of at most
       ``r = n / 16 + 8`` exponentials and products errs by 4 u and u (blocks of at least 16 keys; an
       exponential within 2 ulp). So the weight of key t is ``w_t e^theta``, ``|theta| <= theta_t = delta_t +
       u (max s - s_t + 2 max delta) + 5 r u``.
    3. Numerator and denominator share these weights, so a common change of all weights cancels:
       ``|sum w e^theta v / sum w e^theta - o| <= sum p_t (e^theta_t - 1) |v_t - o| / sum p_t e^-theta_t``,
       with p = softmax and ``|v_t - o| <= |v_t| + |o|``. Never more than max v - min v, both being averages.
    4. Sums: gamma_(n+r+4) each for numerator (relative to the sum of magnitudes) and denominator, and one
       division (section 3.1).
    5. Weights below 2^-126 may become zero.

    The reference's own error is below 2^-20 of that: every term has its like with u = 2^-53.

    Args:
        q: (rows, head_dim).
        k: (keys, head_dim), what the codes and scales stand for.
        v: (keys, v_head_dim).
        seen: (rows, keys): which keys each row sees.
        scale: of the scores.

    Returns:
        Expected output and bound, (rows, v_head_dim); both are zero for rows that see nothing.
    """
    n, d = k.shape
    expected, bound = np.zeros((len(q), v.shape[1])), np.zeros((len(q), v.shape[1]))
    live = seen.any(axis=1)
    if not live.any() or not v.shape[1]:
        return expected, bound
    q, seen = q[live], seen[live]
    rescalings = n / BLOCK_KEYS + 8
    sums = gamma(int(n + rescalings + 4), U32)
    s = np.where(seen, scale * (q @ k.T), -np.inf)
    tiny = TINY32 * (2 * d + np.abs(k).sum(axis=1) + 2)
    delta = np.where(seen, gamma(d + 4, U32) * abs(scale) * (np.abs(q) @ np.abs(k).T) + tiny, 0)
    below = s.max(axis=1, keepdims=True) - s
    theta = delta + U32 * (np.where(seen, below, 0) + 2 * delta.max(axis=1, keepdims=True))
    theta += (EXP_ERROR + U32) * rescalings
    p = np.exp(-below)
    p /= p.sum(axis=1, keepdims=True)
    o = p @ v
    spread = np.where(seen[:, :, None], v, -np.inf).max(axis=1) - np.where(seen[:, :, None], v, np.inf).min(axis=1)
    magnitude = np.where(seen[:, :, None], np.abs(v), 0).max(axis=1)
    clipped = np.minimum(theta, 500)
    change, least = p * np.expm1(clipped), (p * np.exp(-clipped)).sum(axis=1, keepdims=True)
    moved = (change @ np.abs(v) + change.sum(axis=1, keepdims=True) * np.abs(o)) / least
    moved = np.where(theta.max(axis=1, keepdims=True) > 500, spread, np.minimum(moved, spread))
    mean = np.minimum((p * np.exp(clipped)) @ np.abs(v) / least, magnitude)
    rounded = (2 * sums + 2 * U32) / (1 - sums - 2 * U32) * mean
    flushed = n * 2.0**-120 * magnitude + (n + 2) * TINY32 * 2
    expected[live], bound[live] = o, (moved + rounded + flushed) * (1 + 2.0**-20)
    return expected, bound


def _average_of_best(q: Float64, k: Float64, v: Float64, seen: Mask) -> tuple[Float64, Float64]:
    """Expected and bound when scores are exact and at least 128 apart: every other weight is zero in binary32.

    The sums are exact too; what may round is the division by the number of keys that tie.
    """
    s = np.where(seen, q @ k.T, -np.inf)
    best = seen & (s == s.max(axis=1, keepdims=True, initial=-np.inf))
    count = best.sum(axis=1, keepdims=True)
    mean: Float64 = (best @ v) / np.maximum(count, 1)
    exact = (count & (count - 1)) == 0
    return mean, np.where(exact, 0.0, 2 * U32 * np.abs(mean))


@dataclass(frozen=True)
class _Drawn:
    """Inputs of a case: queries, and tokens as (batch, kv_heads, tokens, width) in codes and as numbers."""

    q: Float64
    k: npt.NDArray[Any]
    v: npt.NDArray[Any]
    k_scale: npt.NDArray[np.float32] | None
    v_scale: npt.NDArray[np.float32] | None
    scale: float

    def numbers(self, x: npt.NDArray[Any], scale: npt.NDArray[np.float32] | None, dtype: str) -> Float64:
        """What codes and scales stand for."""
        values = x if dtype in ("fp32", "int8") else formats.decode(x, dtype)
        exact: Float64 = values.astype(np.float64)
        return exact if scale is None else exact * scale.astype(np.float64)[..., None]


def _draw(draw: Draw, dtype: str, fill: str, s: dict[str, int]) -> _Drawn:
    tokens = (s["batch"], s["kv_heads"], s["seq_kv"])
    q_shape = (s["batch"], s["heads"], s["seq_q"], s["head_dim"])
    k_shape, v_shape = (*tokens, s["head_dim"]), (*tokens, s["v_head_dim"])
    scaled = dtype in ("fp8", "int8")
    if fill == "integer":
        q = 256.0 * draw.integers(-8, 8, *q_shape)
        k, v = draw.integers(-8, 8, *k_shape), draw.integers(-8, 8, *v_shape)
        k_scale, v_scale = (2.0 ** -draw.integers(0, 1, *shape) for shape in (tokens, tokens))
    else:
        q, k, v = draw.uniform(*q_shape) * 2, draw.uniform(*k_shape), draw.uniform(*v_shape)
        k_scale, v_scale = (0.75 + draw.uniform(*shape) / 4 for shape in (tokens, tokens))
    if fill == "realistic":  # keys have outlier channels, values have none: KIVI, arXiv:2402.02750
        q, v = draw.bell(*q_shape) * 2.0**-3, draw.bell(*v_shape)
        k = draw.activations(math.prod(tokens), s["head_dim"]).reshape(k_shape)
        if scaled:  # every token within ±1
            (k, k_scale), (v, v_scale) = _normalised(k, k_scale), _normalised(v, v_scale)
    if fill == "adversarial":  # scores far apart with near ties, and values that almost cancel
        q *= 2.0 ** draw.integers(0, 8, *q_shape[:3], 1)
        half = s["seq_kv"] // 2
        k[:, :, 1 : 2 * half : 2] = k[:, :, : 2 * half : 2]
        v[:, :, 1 : 2 * half : 2] = -v[:, :, : 2 * half : 2] * (1 - 2.0**-8)
    if dtype == "int8" and fill != "integer":
        k, v, k_scale, v_scale = np.rint(k * 127), np.rint(v * 127), k_scale / 128, v_scale / 128
    k_given, v_given = (x.astype(np.float32) if scaled else None for x in (k_scale, v_scale))
    scale = 1.0 if fill == "integer" or not s["head_dim"] else s["head_dim"] ** -0.5
    exact = q.astype(np.float32).astype(np.float64)
    return _Drawn(exact, _encoded(k, dtype), _encoded(v, dtype), k_given, v_given, scale)


def _normalised(x: Float64, scale: Float64) -> tuple[Float64, Float64]:
    """Tokens divided by a power of two that brings them within ±1, and their scales times it."""
    power = 2.0 ** np.frexp(np.abs(x).max(axis=-1, initial=0.0))[1]
    return x / power[..., None], scale * power


def _encoded(x: Float64, dtype: str) -> npt.NDArray[Any]:
    if dtype in ("fp32", "int8"):
        return x.astype(np.float32 if dtype == "fp32" else np.int8)
    return formats.encode(x, dtype)


def _seen(length: int, s: dict[str, int]) -> Mask:
    """(seq_q, length): query i stands at position length - seq_q + i."""
    position, key = length - s["seq_q"] + np.arange(s["seq_q"])[:, None], np.arange(length)
    return np.asarray(((key <= position) | (not s["causal"])) & ((key > position - s["window"]) | (not s["window"])))


def _expected(drawn: _Drawn, dtype: str, fill: str, lengths: list[int], s: dict[str, int]) -> tuple[Float64, Float64]:
    k, v = drawn.numbers(drawn.k, drawn.k_scale, dtype), drawn.numbers(drawn.v, drawn.v_scale, dtype)
    shape = (s["batch"], s["heads"], s["seq_q"], s["v_head_dim"])
    expected, bound = np.zeros(shape), np.zeros(shape)
    for b, length in enumerate(lengths):
        seen = _seen(length, s)
        for h in range(s["heads"]):
            kv = h // (s["heads"] // s["kv_heads"])
            row = drawn.q[b, h], k[b, kv, :length], v[b, kv, :length], seen
            found = _average_of_best(*row) if fill == "integer" else attention_bound(*row, drawn.scale)
            expected[b, h], bound[b, h] = found
    return expected, bound


def _checked(s: dict[str, int]) -> dict[str, int]:
    if s["heads"] and (not s["kv_heads"] or s["heads"] % s["kv_heads"]):
        raise InputError(Problem(f"{s['heads']} heads cannot share {s['kv_heads']}", "kv_heads", allowed="a divisor"))
    if s["batch"] * s["heads"] * s["seq_q"] * max(s["seq_kv"], s["head_dim"]) * max(s["v_head_dim"], 1) >= 2**31:
        raise MemoryError
    return s


def _params(drawn: _Drawn, s: dict[str, int]) -> tuple[tuple[str, Any], ...]:
    return ("causal", bool(s["causal"])), ("window", s["window"] or None), ("scale", drawn.scale)


_SIZES: dict[str, int | None] = {"batch": 1, "heads": 1, "kv_heads": 1, "seq_q": None, "seq_kv": None}
_SIZES |= {"head_dim": None, "v_head_dim": None, "causal": 0, "window": 0}


@maker("attention", DTYPES, **_SIZES)
def _attention(dtype: str, fill: str, seed: int, **s: int) -> Case:
    """``causal`` is 0 or 1, ``window`` 0 for none. Inputs: q, k, v and, for fp8 and int8, k_scale and v_scale."""
    drawn = _draw(Draw(seed), dtype, fill, _checked(s))
    expected, bound = _expected(drawn, dtype, fill, [s["seq_kv"]] * s["batch"], s)
    scales = () if drawn.k_scale is None or drawn.v_scale is None else (drawn.k_scale, drawn.v_scale)
    inputs = frozen(drawn.q.astype(np.float32), drawn.k, drawn.v, *scales)
    expected, bound = frozen(expected, bound)
    return Case("attention", dtype, fill, seed, tuple(s.items()), inputs, expected, bound, params=_params(drawn, s))


@maker("paged_attention", DTYPES, **_SIZES, block_size=16)
def _paged_attention(dtype: str, fill: str, seed: int, **s: int) -> Case:
    """Inputs: q, k_cache, v_cache, block_table, lengths and, for fp8 and int8, k_scale and v_scale.

    Lengths run from 0 to ``seq_kv``, the first is ``seq_kv``; the blocks of the sequences are shuffled, and
    what lies in no sequence is NaN where the format has one.
    """
    if not s["block_size"]:
        raise InputError(Problem("block_size is 0", "block_size", allowed="at least 1"))
    draw = Draw(seed)
    drawn = _draw(draw, dtype, fill, _checked(s))
    lengths = [s["seq_kv"], *(int(draw.integers(0, s["seq_kv"], 1)[0]) for _ in range(s["batch"] - 1))][: s["batch"]]
    expected, bound = _expected(drawn, dtype, fill, lengths, s)
    columns = -(-s["seq_kv"] // s["block_size"])
    count = s["batch"] * columns + 1
    table = np.argsort(draw.integers(0, 2**31 - 1, count), kind="stable")[: count - 1].astype(np.int32)
    table = table.reshape(s["batch"], columns)

    def cache(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        garbage = {"uint8": 0x7F, "uint16": 0x7FC0, "int8": 99}.get(x.dtype.name, np.nan)
        blocks = np.full((count, s["block_size"], s["kv_heads"], *x.shape[3:]), garbage, x.dtype)
        for b, length in enumerate(lengths):
            token = np.arange(length)
            blocks[table[b, token // s["block_size"]], token % s["block_size"]] = x[b, :, :length].swapaxes(0, 1)
        return blocks

    scales = () if drawn.k_scale is None or drawn.v_scale is None else (cache(drawn.k_scale), cache(drawn.v_scale))
    where = table, np.array(lengths, dtype=np.int32)
    inputs = frozen(drawn.q.astype(np.float32), cache(drawn.k), cache(drawn.v), *where, *scales)
    expected, bound = frozen(expected, bound)
    return Case(
        "paged_attention", dtype, fill, seed, tuple(s.items()), inputs, expected, bound, params=_params(drawn, s)
    )
