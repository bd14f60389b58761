"""What has to be computed: operators with their dimensions and formats, and lists of them.

Any dimension may be an integer or a NumPy integer array; shapes broadcast, and every quantity derived
from them is then elementwise. Integers stay Python integers (exact at any size); arrays become float64,
which is exact up to 2^53 and never wraps. What each kind of operator is charged for stands in ``OPS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from npusim import dtypes
from npusim.errors import InputError, Problem, unknown_name
from npusim.ops import MAX_COUNT, MAX_DIM, NO_WINDOW, OPS, Dim, Operand, OpSpec, conv_output


@dataclass(frozen=True)
class Op:
    """One operator: ``kind`` is a key of ``OPS``; ``count`` is how often the workload runs it.

    ``formats`` and ``roles`` are per operand name; ``llc`` names operands that are found on chip
    (repeated measurements on the same tensors) although their role would make them cold. ``prefetched`` is the
    share of the weights that was fetched before the operator starts.
    """

    kind: str
    name: str
    dims: Mapping[str, Dim]
    formats: Mapping[str, str]
    roles: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    function: str = ""
    llc: frozenset[str] = frozenset()
    prefetched: Dim = 0.0

    @property
    def spec(self) -> OpSpec:
        """The row of ``OPS``."""
        return OPS[self.kind]

    # Many chips ask the same operator, and its dimensions may be large arrays: these are made once.
    @cached_property
    def operands(self) -> tuple[Operand, ...]:
        """Tensors read and written, each once."""
        return self.spec.operands(self)

    @cached_property
    def flops(self) -> Dim:
        """Matrix-engine FLOPs (one MAC = 2)."""
        return self.spec.flops(self)

    @property
    def matrix_format(self) -> str:
        """Rate name the matrix engine runs at."""
        return self.spec.matrix_format(self)

    @cached_property
    def vector_ops(self) -> dict[str, Dim]:
        """Vector-unit operations by function class."""
        return self.spec.vector_ops(self)

    def bytes(self, *roles: str) -> Dim:
        """Bytes of the operands with one of ``roles`` (all operands when none is given)."""
        return sum(operand.bytes for operand in self.operands if not roles or operand.role in roles)

    def role(self, operand: str, default: str) -> str:
        """Role of ``operand``: what the builder said, else the constructor's default."""
        return self.roles.get(operand, default)

    def inner(self) -> Op:
        """The same operator inside a graph: its inputs and outputs may stay on chip."""
        roles = {operand.name: "act" for operand in self.operands if operand.role == "io"}
        return replace(self, roles={**self.roles, **roles})


@dataclass(frozen=True, slots=True)
class Workload:
    """A list of operators, as one chip of ``chips`` runs them.

    ``recipe`` rebuilds a model step for another number of chips, ``model`` is what it is a step of (None for
    hand-made lists). ``info``
    holds what reports print: model, phase, batch, context.
    """

    name: str
    ops: tuple[Op, ...]
    chips: int = 1
    info: Mapping[str, Any] = field(default_factory=dict)
    recipe: Callable[[int], Workload] | None = None
    model: Any = None

    @property
    def flops(self) -> Dim:
        """Matrix-engine FLOPs of one chip."""
        return sum(op.count * op.flops for op in self.ops)

    def bytes(self, *roles: str) -> Dim:
        """Operand bytes of one chip, by role (all when none is given)."""
        return sum(op.count * op.bytes(*roles) for op in self.ops)


def dim(name: str, value: object, low: int = 1, high: int = MAX_DIM) -> Dim:
    """Checks one dimension: an integer (or integer array) in [low, high].

    Returns:
        A Python int, or a float64 array. Raises InputError otherwise.
    """
    allowed = f"an integer (or an integer array) from {low} to 2^{high.bit_length() - 1}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer, np.ndarray, list, tuple)):
        raise InputError(Problem(f"{_show(value)} is not a dimension", name, allowed=allowed))
    if isinstance(value, (int, np.integer)):
        if not low <= value <= high:
            raise InputError(Problem(f"{_show(value)} is out of range", name, allowed=allowed))
        return int(value)
    array = _integers(value)
    if array is None:
        raise InputError(Problem(f"{_show(value)} is not a dimension", name, allowed=allowed))
    if array.size and not (low <= int(array.min()) and int(array.max()) <= high):
        raise InputError(Problem("an element is out of range", name, allowed=allowed))
    return array.astype(np.float64)


def _integers(value: object) -> np.ndarray | None:
    """The array of integers that ``value`` is, or None. Whole numbers in float64 are what ``dim`` itself makes."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    whole = array.dtype == np.float64 and bool(np.all(array == np.floor(array)))
    return array if array.dtype.kind in "iu" or whole else None


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def make(kind: str, name: str = "", function: str = "", **given: object) -> Op:
    """Builds a checked operator of any kind from dimensions and formats by name.

    Raises:
        InputError: unknown kind, dimension, format or function, each with the known ones.
    """
    if kind not in OPS:
        raise unknown_name("operator", kind, OPS)
    spec = OPS[kind]
    known = [*spec.dims, *spec.formats]
    for key in given:
        if key not in known:
            raise unknown_name(f"argument of {kind}", key, known, path=kind)
    dims = {}
    for key, default in spec.dims.items():
        value = given.get(key, default)
        if value is None:
            raise InputError(Problem(f"'{key}' is missing", kind, allowed=f"{kind} needs {', '.join(spec.dims)}"))
        high = (
            1
            if key in ("bias", "causal", "store")
            else MAX_COUNT
            if key in _COUNTS or (kind, key) == ("elementwise", "n")
            else MAX_DIM
        )
        dims[key] = dim(f"{kind}.{key}", value, 0 if key in _MAY_BE_ZERO else 1, high)
    formats = {key: dtypes.get(str(given.get(key) or "bf16"), f"{kind}.{key}").name for key in spec.formats}
    if spec.functions and function not in spec.functions:
        raise unknown_name(f"function of {kind}", function, spec.functions, path=kind)
    _check_broadcast(kind, dims)
    if kind == "experts" and np.any(np.asarray(dims["top_k"]) > np.asarray(dims["experts"])):
        raise InputError(Problem("more choices than experts", "experts.top_k", allowed="at most 'experts'"))
    if kind == "experts" and np.any(np.asarray(dims["experts"] % dims["ep"])):
        raise InputError(
            Problem("chips that do not divide the experts", "experts.ep", allowed="a divisor of 'experts'")
        )
    return Op(kind, name or kind, dims, formats, function=function)


# Products of dimensions, not dimensions: their limit is higher.
_COUNTS = ("rows", "elements", "tokens")
_MAY_BE_ZERO = ("past", "bias", "causal", "store", "padding")


def _check_broadcast(kind: str, dims: Mapping[str, Dim]) -> None:
    shapes = {key: np.shape(value) for key, value in dims.items() if isinstance(value, np.ndarray)}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise InputError(Problem(f"dimensions do not broadcast: {shapes}", kind)) from None


# -- constructors (DESIGN 4.3) ------------------------------------------------------------------------------


def gemm(
    m: Dim,
    n: Dim,
    k: Dim,
    a: str = "bf16",
    b: str = "bf16",
    out: str = "bf16",
    *,
    groups: Dim = 1,
    bias: bool = False,
    name: str = "gemm",
) -> Op:
    """``groups`` GEMMs out[m,n] = a[m,k] b[k,n]; 2·groups·m·n·k FLOPs."""
    return make("gemm", name, m=m, n=n, k=k, groups=groups, bias=int(bias), a=a, b=b, out=out)


def experts(
    tokens: Dim,
    top_k: Dim,
    experts: Dim,
    n: Dim,
    k: Dim,
    a: str = "bf16",
    b: str = "bf16",
    out: str = "bf16",
    *,
    bias: bool = False,
    imbalance_pct: Dim = 100,
    ep: Dim = 1,
    name: str = "experts",
) -> Op:
    """Routed experts as a grouped GEMM; weights of the experts that are reached are read once.

    ``imbalance_pct`` is the busiest expert's share of the tokens in percent of the mean: at tile and cycle fidelity
    every expert takes as long as the busiest one. ``ep`` chips hold ``experts / ep`` each and share the choices of all
    ``tokens`` evenly; the operator is one of them.
    """
    return make(
        "experts", name, tokens=tokens, top_k=top_k, experts=experts, n=n, k=k, bias=int(bias),
        imbalance_pct=dim("experts.imbalance_pct", imbalance_pct, low=100), ep=ep, a=a, b=b, out=out,
    )  # fmt: skip


def attention(
    batch: Dim,
    heads: Dim,
    kv_heads: Dim,
    head_dim: Dim,
    seq_q: Dim,
    seq_kv: Dim,
    q: str = "bf16",
    kv: str = "bf16",
    out: str = "bf16",
    *,
    v_head_dim: Dim | None = None,
    kv_width: Dim | None = None,
    window: Dim | None = None,
    causal: bool = True,
    store: bool = True,
    page: Dim | None = None,
    name: str = "attention",
) -> Op:
    """Attention of ``seq_q`` new tokens over ``seq_kv`` tokens in all (the new ones included).

    The other seq_kv − seq_q are read from the KV cache; the new ones are written to it when ``store``.
    ``kv_width`` is the cache's elements per token (default kv_heads·(head_dim + v_head_dim)). A paged cache keeps
    ``page`` consecutive tokens together and pages anywhere; without it a sequence lies in one piece.
    """
    total, new = dim("attention.seq_kv", seq_kv), dim("attention.seq_q", seq_q)
    if np.any(np.asarray(total) < np.asarray(new)):
        raise InputError(Problem("seq_kv is smaller than seq_q", "attention.seq_kv", allowed="at least seq_q"))
    shared, key = dim("attention.kv_heads", kv_heads), dim("attention.head_dim", head_dim)
    value = key if v_head_dim is None else dim("attention.v_head_dim", v_head_dim)
    return make(
        "attention",
        name,
        batch=batch,
        heads=heads,
        kv_heads=shared,
        head_dim=key,
        v_head_dim=value,
        kv_width=shared * (key + value) if kv_width is None else kv_width,
        seq_q=new,
        past=total - new,
        window=NO_WINDOW if window is None else window,
        causal=int(causal),
        store=int(store),
        page=NO_WINDOW if page is None else page,
        q=q,
        kv=kv,
        out=out,
    )


def norm(
    rows: Dim, cols: Dim, x: str = "bf16", out: str = "bf16", *, function: str = "rmsnorm", name: str = "norm"
) -> Op:
    """RMSNorm or LayerNorm of ``rows`` rows of ``cols`` elements."""
    return make("norm", name, function, rows=rows, cols=cols, x=x, out=out)


def softmax(rows: Dim, cols: Dim, x: str = "bf16", out: str = "bf16", *, name: str = "softmax") -> Op:
    """Softmax of ``rows`` rows of ``cols`` elements."""
    return make("softmax", name, rows=rows, cols=cols, x=x, out=out)


def elementwise(n: Dim, function: str = "add", x: str = "bf16", out: str = "bf16", *, name: str = "elementwise") -> Op:
    """An element-wise function (a key of ``ELEMENTWISE``) producing ``n`` elements."""
    return make("elementwise", name, function, n=n, x=x, out=out)


def embedding(tokens: Dim, hidden: Dim, table: str = "bf16", out: str = "bf16", *, name: str = "embedding") -> Op:
    """Gather of ``tokens`` rows; only the gathered rows are traffic."""
    return make("embedding", name, tokens=tokens, hidden=hidden, table=table, out=out)


def conv2d(
    batch: Dim,
    in_h: Dim,
    in_w: Dim,
    in_c: Dim,
    out_c: Dim,
    kh: Dim,
    kw: Dim,
    a: str = "bf16",
    b: str = "bf16",
    out: str = "bf16",
    *,
    stride: Dim = 1,
    padding: Dim = 0,
    groups: Dim = 1,
    name: str = "conv2d",
) -> Op:
    """2-D convolution; output size (in + 2·padding − kernel) // stride + 1."""
    op = make(
        "conv2d",
        name,
        batch=batch,
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_c=out_c,
        kh=kh,
        kw=kw,
        stride=stride,
        padding=padding,
        groups=groups,
        a=a,
        b=b,
        out=out,
    )
    if any(np.any(np.asarray(size) < 1) for size in conv_output(op)):
        raise InputError(
            Problem("the kernel is larger than the padded input", "conv2d", allowed="kernel ≤ input + 2·padding")
        )
    if any(np.any(np.asarray(op.dims[c] % op.dims["groups"])) for c in ("in_c", "out_c")):
        raise InputError(Problem("groups must divide in_c and out_c", "conv2d.groups"))
    return op


def collective(
    elements: Dim, chips: Dim, function: str = "all_reduce", x: str = "bf16", *, name: str = "collective"
) -> Op:
    """A collective (a key of ``COLLECTIVES``) over ``chips`` chips on a tensor of ``elements``."""
    return make("collective", name, function, elements=elements, chips=chips, x=x)
