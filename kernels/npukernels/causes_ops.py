"""Mistakes that only one op can have: each is made on purpose, and its result compared with the output.

The results of the mistakes are computed in float64 where the op has an equation in NumPy, else by its ``ref`` variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from npukernels import formats, norms, rotary
from npukernels.activations import REFERENCES
from npukernels.attention import attention
from npukernels.cases import Case
from npukernels.outputs import CODES, Float64, limits
from npusim.errors import InputError

Mistake: TypeAlias = tuple[str, Any]

# What the rounding of a mistaken result in float32 may add to the bound of the right one, per unit of the result.
_SLACK = 2.0**-19

# Above this many elements of inputs and output the op is not made again (seconds).
_MOST = 2**22


def guess(case: Case, got: Float64, within: float) -> str:
    """The mistake in the op that gives ``got``; empty when none does, or the op has no list of mistakes.

    Args:
        case: what is judged.
        got: the output.
        within: bounds an explanation may be off by.
    """
    mistakes = _MISTAKES.get(case.op)
    if mistakes is None or got.size == 0 or got.size + sum(x.size for x in case.inputs) > _MOST:
        return ""
    try:
        return _first_match(case, got, within, mistakes(case))
    except (
        ValueError,
        IndexError,
        KeyError,
        InputError,
    ):  # a case from a file may have operands of any number and shape
        return ""


def _first_match(case: Case, got: Float64, within: float, mistakes: Iterator[Mistake]) -> str:
    exact = not case.bound.any()
    for cause, made in mistakes:
        result = np.asarray(made, np.float64).reshape(got.shape)
        slack = within * case.bound + (0.0 if exact else _SLACK * np.abs(result))
        same = (np.abs(got - result) <= slack) | (got == result)
        telling = np.abs(result - case.expected) > slack
        if same.all() and telling.any():
            return cause
    return ""


def _wide(case: Case) -> list[Any]:
    return [x.astype(np.float64) if x.dtype.kind == "f" else x for x in case.inputs]


def _softmax(case: Case) -> Iterator[Mistake]:
    x = _wide(case)[0]
    shifted = x - x.max(axis=-1, keepdims=True)
    yield "wrong function: powers of 2 instead of e", norms.softmax_reference(x * np.log(2.0), False)
    yield "wrong function: exp(x - max) without the division by the sum", np.exp(shifted)
    yield "wrong function: exp(x), neither shifted nor divided by the sum", np.exp(x)
    yield "wrong function: the logarithm of the softmax", norms.softmax_reference(x, True)
    yield "wrong axis: rows and columns are exchanged in the sum", norms.softmax_reference(x.T, False).T


def _layernorm(case: Case) -> Iterator[Mistake]:
    x, weight, bias = _wide(case)
    n, eps = x.shape[-1], 1e-5
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    right = centred / np.sqrt(variance + eps)
    yield "missing weight: the normalised rows are not multiplied by input 1", right + bias
    yield "missing weight and bias: the normalised rows as they are", right
    yield "wrong order: the bias is added before the weight is applied", (right + bias) * weight
    if n > 1:
        sample = centred / np.sqrt(variance * n / (n - 1) + eps)
        yield "wrong variance: divided by n - 1 instead of n", sample * weight + bias
    yield "wrong function: rmsnorm, the mean is not subtracted", norms.rmsnorm_reference(x, weight, eps) + bias
    yield (
        "wrong epsilon: added to the deviation, not to the variance",
        centred / (np.sqrt(variance) + eps) * weight + bias,
    )
    for other in (0.0, 1e-12, 1e-8, 1e-6, 1e-4, 1e-3):
        yield f"wrong epsilon: {other:g} instead of {eps:g}", centred / np.sqrt(variance + other) * weight + bias


def _rmsnorm(case: Case) -> Iterator[Mistake]:
    x, weight = _wide(case)
    eps = 1e-6
    yield "missing weight: the normalised rows are not multiplied by input 1", norms.rmsnorm_reference(x, None, eps)
    yield "wrong function: layernorm, the mean is subtracted", norms.layernorm_reference(x, weight, None, eps)
    total = np.sum(x**2, axis=-1, keepdims=True)
    yield (
        "wrong function: divided by the root of the sum of squares, not of their mean",
        x / np.sqrt(total + eps) * weight,
    )
    yield "wrong function: the weight is applied as 1 + weight", norms.rmsnorm_reference(x, weight + 1, eps)
    for other in (0.0, 1e-12, 1e-8, 1e-5, 1e-4, 1e-3):
        yield f"wrong epsilon: {other:g} instead of {eps:g}", norms.rmsnorm_reference(x, weight, other)


def _attention(case: Case) -> Iterator[Mistake]:
    options = {name: value for name, value in case.params if name in ("causal", "window", "scale")}
    if "block_table" in dict(case.params) or len(case.inputs) not in (3, 5) or case.inputs[1].ndim != 4:
        return

    def again(parts: tuple[Any, ...] = case.inputs, **changed: Any) -> Any:
        return attention(*parts, **{**options, **changed}, variant="ref")

    q, k, v, *scales = case.inputs
    causal = bool(options["causal"])
    yield f"wrong mask: {'not causal' if causal else 'causal'}", again(causal=not causal)
    if causal and q.shape[2] < k.shape[2]:
        start = [x[:, :, : q.shape[2]] for x in (k, v, *scales)]
        yield "wrong mask: query i sees keys 0 to i, as if the queries came first", again((q, *start))
    if options["window"]:
        yield "wrong mask: no window", again(window=None)
        yield "wrong mask: the window is one key too long", again(window=options["window"] + 1)
        if options["window"] > 1:
            yield "wrong mask: the window is one key too short", again(window=options["window"] - 1)
    yield "missing scale: of the scores", again(scale=1.0)
    yield "wrong scale: of the scores, 1 / head_dim instead of its root", again(scale=1.0 / max(1, q.shape[3]))
    yield "wrong scale: of the scores, applied twice", again(scale=float(options["scale"]) ** 2)
    if scales:
        yield "missing scale: of the keys", again((q, k, v, None, scales[1]))
        yield "missing scale: of the values", again((q, k, v, scales[0], None))
        yield "swapped operands: the scales of keys and values", again((q, k, v, scales[1], scales[0]))
    heads, shared = q.shape[1], k.shape[1]
    if 1 < shared < heads:
        turned = np.arange(heads) % shared
        parts = [x[:, turned] for x in (k, v, *scales)]
        yield "wrong heads: query head h reads head h modulo kv_heads, not h // group", again((q, *parts))
    if k.shape == v.shape:
        yield "swapped operands: keys and values", again((q, v, k, *scales))
    if k.shape[2] > 1 and not causal and not options["window"]:
        yield "missing terms: the last key", again((q, *(x[:, :, :-1] for x in (k, v, *scales))))
        yield "missing terms: the first key", again((q, *(x[:, :, 1:] for x in (k, v, *scales))))


def _rope(case: Case) -> Iterator[Mistake]:
    x, positions, cosines, sines = case.inputs
    interleaved = bool(dict(case.params).get("interleaved", False))

    def again(at: Any = positions, s: Any = sines, how: bool = interleaved) -> Any:
        return rotary.rope(x, at, cosines, s, interleaved=how, variant="ref")

    yield f"wrong pairs: {'halves' if interleaved else 'neighbours'} are rotated together", again(how=not interleaved)
    yield "sign: rotated by the negative angle", again(s=-sines)
    yield "not applied: the output is the input", x
    last = cosines.shape[0] - 1
    yield "position shift: every token is rotated as the one before it", again(np.maximum(positions - 1, 0))
    yield "position shift: every token is rotated as the one after it", again(np.minimum(positions + 1, last))
    yield "wrong positions: tokens are counted from 0", again(np.minimum(np.arange(positions.size), last))
    yield (
        "swapped operands: cosines and sines",
        rotary.rope(x, positions, sines, cosines, interleaved=interleaved, variant="ref"),
    )


def _elements(case: Case) -> Iterator[Mistake]:
    x = _wide(case)[0]
    if case.op == "swiglu":
        gate, up = _wide(case)
        yield "swapped operands: silu(up) gate", REFERENCES["silu"](up) * gate
        yield "missing operand: the output is silu(gate), not multiplied by input 1", REFERENCES["silu"](gate)
        yield "missing operand: the output is gate up, without silu", gate * up
        for name in ("sigmoid", "gelu", "gelu_tanh"):
            yield f"wrong function: {name}(gate) up", REFERENCES[name](gate) * up
        return
    yield "not applied: the output is the input", x
    for name, function in REFERENCES.items():
        if name != case.op:
            yield f"wrong function: {name}", function(x)
    yield "wrong function: relu", np.maximum(x, 0.0)
    yield "wrong function: x sigmoid(1.702 x)", x * REFERENCES["sigmoid"](1.702 * x)
    yield "wrong function: powers of 2 instead of e", np.exp2(x)


def _cast(case: Case) -> Iterator[Mistake]:
    x = case.inputs[0].astype(np.float64)
    near = formats.decode(formats.encode(x, case.dtype), case.dtype).astype(np.float64)
    codes = formats.encode(x, case.dtype).view(f"u{2 if CODES[case.dtype].endswith('16') else 1}")
    f = formats.get_format(case.dtype)
    assert isinstance(f, formats.FloatFormat)
    magnitude = codes & (f.sign_code - 1)

    def value(steps: Any) -> Any:
        moved = np.clip(magnitude.astype(np.int64) + steps, 0, f.max_code) | (codes & f.sign_code)
        return formats.decode(moved.astype(codes.dtype), case.dtype).astype(np.float64)

    finite = np.isfinite(near) & np.isfinite(x)
    below = value(np.where(finite & (np.abs(near) > np.abs(x)), -1, 0))
    yield "rounding: towards zero instead of to nearest", below
    above = value(np.where(finite & (np.abs(near) < np.abs(x)), 1, 0))
    tie = finite & (np.abs(above) + np.abs(below) == 2 * np.abs(x))
    yield "rounding: ties away from zero instead of to even", np.where(tie, above, near)
    yield "rounding: ties towards zero instead of to even", np.where(tie, below, near)
    for name, other in formats.FORMATS.items():
        if isinstance(other, formats.FloatFormat) and other.bits == f.bits and other.name != f.name:
            foreign = formats.encode(x, name).view(codes.dtype)
            yield f"wrong format: codes of {name}", formats.decode(foreign, case.dtype)
    tiny = np.abs(near) < 2.0**f.emin
    yield "flushed: subnormal numbers have become zero", np.where(tiny, 0.0, near)


def _quantize(case: Case) -> Iterator[Mistake]:
    x, scale, zero = (v.astype(np.float64) for v in case.inputs)
    low, high = limits(case.dtype)
    steps, z = x / scale[:, None], zero[:, None]

    def code(whole: Any) -> Any:
        return np.clip(whole, low, high)

    yield "rounding: towards zero instead of to nearest", code(np.trunc(steps) + z)
    yield "rounding: down instead of to nearest", code(np.floor(steps) + z)
    yield (
        "rounding: ties away from zero instead of to even",
        code(np.copysign(np.floor(np.abs(steps) + 0.5), steps) + z),
    )
    yield "missing zero point: of every row", code(np.rint(steps))
    yield "wrong zero point: subtracted instead of added", code(np.rint(steps) - z)
    yield "wrong scale: multiplied instead of divided", code(np.rint(x * scale[:, None]) + z)
    yield "wrong scale: that of the first row for all rows", code(np.rint(x / scale[0]) + z)
    span = high - low + 1
    yield "non-saturating cast: codes wrap around", (np.rint(steps) + z - low) % span + low


def _topk(case: Case) -> Iterator[Mistake]:
    x, k = case.inputs[0], int(dict(case.params)["k"])
    ascending = np.argsort(x, axis=-1, kind="stable")
    yield "wrong order: the smallest elements instead of the largest", ascending[:, :k]
    yield "wrong order: ascending instead of descending", ascending[:, -k:]
    size = np.argsort(-np.abs(x), axis=-1, kind="stable")
    yield "wrong order: by magnitude, without the sign", size[:, :k]


def _qgemm(case: Case) -> Iterator[Mistake]:
    a, b = (x.astype(np.int64) for x in case.inputs[:2])
    if "out_zero" in dict(case.params):
        yield from _requantised(case, a, b)
    if len(case.inputs) != 2:
        return
    yield (
        "wrong sign: input 0 is read as unsigned" if a.min(initial=0) < 0 else "wrong sign: input 0 is read as signed",
        (np.where(a < 0, a + 256, np.where(a > 127, a - 256, a)) @ b),
    )
    yield "wrong sign: input 1 is read as unsigned", a @ (b % 256)
    even = a.shape[1] - a.shape[1] % 2
    pairs = np.zeros(case.expected.shape, np.int64)
    for p in range(0, even, 2):
        two = np.outer(a[:, p], b[p]) + np.outer(a[:, p + 1], b[p + 1])
        pairs += np.clip(two, -(2**15), 2**15 - 1)
    if even < a.shape[1]:
        pairs += np.outer(a[:, -1], b[-1])
    yield "low-precision accumulator: sums of two products saturate in 16 bits, as of vpmaddubsw", pairs


def _requantised(case: Case, a: Any, b: Any) -> Iterator[Mistake]:
    how, scale = dict(case.params), case.inputs[2].astype(np.float64)
    a_zero, out_zero = int(how["a_zero"]), int(how["out_zero"])
    sums = (a - a_zero) @ b
    low, high = limits("int8")

    def made(v: Any = sums, s: Any = scale, zero: int = out_zero, rounded: Any = np.rint) -> Any:
        return np.clip(rounded(v * s) + zero, low, high)

    yield "missing zero point: of input 0", made(a @ b)
    yield "wrong zero point: that of input 0 is added", made((a + a_zero) @ b)
    yield "missing zero point: of the output", made(zero=0)
    yield "wrong zero point: that of the output is subtracted", made(zero=-out_zero)
    yield "wrong scale: that of the first column for all", made(s=scale[0])
    yield "rounding: towards zero instead of to nearest", made(rounded=np.trunc)
    yield "rounding: down instead of to nearest", made(rounded=np.floor)
    yield "rounding: ties up instead of to even", made(rounded=lambda y: np.floor(y + 0.5))
    yield (
        "rounding: ties away from zero instead of to even",
        made(rounded=lambda y: np.copysign(np.floor(np.abs(y) + 0.5), y)),
    )
    span = high - low + 1
    yield "non-saturating cast: results wrap around", (np.rint(sums * scale) + out_zero - low) % span + low


def _weight_gemm(case: Case) -> Iterator[Mistake]:
    x, q, scale, *zeros = _wide(case)
    group = np.arange(q.shape[0]) // dict(case.dims)["group"]
    zero = zeros[0].astype(np.float64) if zeros else np.zeros_like(scale)
    steps, weights = q - zero[group], scale[group]
    if zeros:
        yield "missing zero point: of the weights", x @ (q * weights)
        yield "wrong zero point: added instead of subtracted", x @ ((q + zero[group]) * weights)
        yield "wrong zero point: subtracted after the scale", x @ (q * weights - zero[group])
    yield "missing scale: of the weights", x @ steps
    yield "wrong scale: that of the first group for all k", x @ (steps * scale[:1])
    yield "wrong scale: that of the next group", x @ (steps * np.roll(scale, -1, 0)[group])
    yield "wrong scale: that of the group before", x @ (steps * np.roll(scale, 1, 0)[group])
    yield "wrong scale: that of the first column for all", x @ (steps * weights[:, :1])
    span = 16 if case.dtype == "int4" else 256
    yield "wrong sign: weights are read as unsigned", x @ ((q % span - zero[group]) * weights)
    yield f"missing zero point: weights are stored with {span // 2} added", x @ ((steps + span // 2) * weights)
    turned = _neighbours(q) - zero[group]
    yield "wrong order: neighbours along k are exchanged, as the nibbles of a byte", x @ (turned * weights)


def _neighbours(x: Any) -> Any:
    """Rows 2i and 2i + 1 exchanged."""
    order = np.arange(len(x)) ^ 1
    return x[np.where(order < len(x), order, np.arange(len(x)))]


def _block_gemm(case: Case) -> Iterator[Mistake]:
    a, b = case.inputs[:2]
    how = dict(case.params)
    element = str(how["fmt"])
    a_scale, b_scale = (formats.decode(x, str(how["scale_fmt"])).astype(np.float64) for x in case.inputs[2:])
    block = np.arange(a.shape[1]) // int(how["block"])

    def again(x: Any = a, w: Any = b, rows: Any = a_scale, cols: Any = b_scale, fmt: str = element) -> Any:
        left, right = (formats.decode(codes, fmt).astype(np.float64) for codes in (x, w))
        return (left * rows[:, block]) @ (right * cols[block])

    yield "missing scale: of input 0", again(rows=np.ones_like(a_scale))
    yield "missing scale: of input 1", again(cols=np.ones_like(b_scale))
    yield "missing scale: of both inputs", again(rows=np.ones_like(a_scale), cols=np.ones_like(b_scale))
    yield (
        "wrong scale: that of the first block for all k",
        again(rows=a_scale[:, :1] + 0 * a_scale, cols=b_scale[:1] + 0 * b_scale),
    )
    for name, step in (("the next block", -1), ("the block before", 1)):
        yield f"wrong scale: input 0 has that of {name}", again(rows=np.roll(a_scale, step, 1))
        yield f"wrong scale: input 1 has that of {name}", again(cols=np.roll(b_scale, step, 0))
    f = formats.get_format(element)
    for name, other in formats.FORMATS.items():
        if isinstance(other, formats.FloatFormat) and other.bits == f.bits and name != element:
            yield f"wrong format: codes are read as {name}", again(fmt=name)
    if element == "fp4":
        yield "wrong order: neighbours of input 0 along k are exchanged, as nibbles", again(x=_neighbours(a.T).T)
        yield "wrong order: neighbours of input 1 along k are exchanged, as nibbles", again(w=_neighbours(b))


_MISTAKES: dict[str, Callable[[Case], Iterator[Mistake]]] = {
    "softmax": _softmax,
    "layernorm": _layernorm,
    "rmsnorm": _rmsnorm,
    "attention": _attention,
    "rope": _rope,
    "cast": _cast,
    "quantize": _quantize,
    "qgemm": _qgemm,
    "weight_gemm": _weight_gemm,
    "block_gemm": _block_gemm,
    "topk": _topk,
    **dict.fromkeys((*REFERENCES, "swiglu"), _elements),
}
