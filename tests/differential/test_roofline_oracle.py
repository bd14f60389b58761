"""Does ``estimate`` agree with a slow oracle that counts everything one by one?

The oracle is written from the definitions of the operators, not from ``npusim.ops``: it loops over query
positions, matrix elements, pixels and routed tokens, knows the bits of each format as a literal table, and
has its own roofline.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from npusim import llm, workload
from npusim.chip import Chip
from npusim.cost import estimate
from npusim.models import Attention, Ffn, Layer, Model
from npusim.workload import Op, Workload
from tests.conftest import SOAK

CASES = 400 if SOAK else 40  # random cases per kind
EXACT = 1e-12
BITS = {"bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": Fraction(33, 8), "mxfp8": Fraction(33, 4),
        "mxfp4": Fraction(17, 4), "nvfp4": Fraction(9, 2), "fp32": 32}  # fmt: skip
# TFLOP/s of the toy chip for a matrix product, by the wider operand; formats without a rate run at the next wider.
PEAK = {
    "bf16": 4e12,
    "fp16": 4e12,
    "fp8": 8e12,
    "mxfp8": 8e12,
    "mxfp4": 8e12,
    "nvfp4": 8e12,
    "int8": 4e12,
    "int4": 4e12,
}
ADD_PER_S = RSQRT_PER_S = CONVERT_PER_S = 40e9
EXP_PER_S = 20e9
L1_BYTES_PER_S, DRAM_BYTES_PER_S, LINK_BYTES_PER_S = 400e9, 100e9, 10e9
ON_CHIP_BYTES = 4 * 2**20


@dataclass
class Tally:
    """What an operator does, counted event by event."""

    moved: dict[str, tuple[Fraction, bool]] = field(default_factory=dict)  # tensor → (bytes, may stay on chip)
    macs: int = 0
    peak: float = 4e12
    add: float = 0
    exp: float = 0
    rsqrt: float = 0
    convert: float = 0
    sent: Fraction = Fraction(0)
    collective: bool = False

    def tensor(self, name: str, elements: int | Fraction, fmt: str, stays: bool = False) -> None:
        self.moved[name] = (Fraction(elements) * BITS[fmt] / 8, stays)

    def seconds(self) -> dict[str, float]:
        dram = sum(max(b - ON_CHIP_BYTES, 0) if stays else b for b, stays in self.moved.values())
        vector = self.add / ADD_PER_S + self.exp / EXP_PER_S + self.rsqrt / RSQRT_PER_S + self.convert / CONVERT_PER_S
        found = {
            "matrix": 2 * self.macs / self.peak,
            "dram": 0.0 if self.collective else float(dram) / DRAM_BYTES_PER_S,
            "vector": vector,
            "l1": float(sum(b for b, _ in self.moved.values())) / L1_BYTES_PER_S,
        }
        return found | ({"link": float(self.sent) / LINK_BYTES_PER_S} if self.collective else {})


def wider(a: str, b: str) -> str:
    width = {"bf16": 16, "fp16": 16, "fp8": 8, "mxfp8": 8, "int8": 8, "int4": 4, "mxfp4": 4, "nvfp4": 4}
    return b if width[b] > width[a] else a


def compare(op: Op, tally: Tally, toy: Chip) -> None:
    cost = estimate(op, toy)
    wanted = tally.seconds()
    for resource, seconds in cost.ops[0].seconds.items():
        assert seconds == pytest.approx(wanted.pop(resource), rel=EXACT), resource
    assert not wanted
    assert cost.flops == 2 * tally.macs
    assert cost.time_s == pytest.approx(max(tally.seconds().values()), rel=EXACT)
    assert cost.lower_bound_s == pytest.approx(cost.time_s, rel=EXACT)


@pytest.fixture(params=range(CASES))
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.param)


FORMATS = [name for name in BITS if name != "fp32"]


def test_gemm(rng: random.Random, toy: Chip):
    m, n, k, groups = (rng.randint(1, 12) for _ in range(4))
    if rng.random() < 0.3:
        n, k = rng.randint(500, 3000), rng.randint(500, 3000)
    a, b, out = (rng.choice(FORMATS) for _ in range(3))
    bias, inner = rng.random() < 0.5, rng.random() < 0.5
    t = Tally(peak=PEAK[wider(a, b)])
    for _ in range(groups):
        for _row in range(m):
            # One dot product of k multiply-adds per output, and one addition of the bias.
            t.macs += sum(k for _ in range(n))
            t.add += n if bias else 0
    t.tensor("a", groups * m * k, a, inner)
    t.tensor("b", sum(k + (1 if bias else 0) for _ in range(groups) for _ in range(n)), b)
    t.tensor("out", groups * m * n, out, inner)
    op = workload.gemm(m, n, k, a, b, out, groups=groups, bias=bias)
    compare(op.inner() if inner else op, t, toy)


def test_attention(rng: random.Random, toy: Chip):
    batch, kv_heads, group = (rng.randint(1, 4) for _ in range(3))
    heads, dim, v_dim = kv_heads * group, rng.randint(1, 64), rng.randint(1, 64)
    new, past = rng.randint(1, 40), rng.choice([0, rng.randint(1, 60), rng.randint(1, 4000)])
    window = rng.choice([None, rng.randint(1, 50), rng.randint(1, 5000)])
    causal, store = rng.random() < 0.7, rng.random() < 0.7
    if not causal:
        past, window = 0, None
    kv, q = rng.choice(FORMATS), rng.choice(["bf16", "fp16"])
    t = Tally(peak=PEAK[kv])
    needed: set[int] = set()  # positions of cached tokens that some query sees
    scores = 0
    for query in range(past, past + new):
        first = 0 if window is None else max(query - window + 1, 0)
        seen = range(first, query + 1 if causal else past + new)
        needed.update(key for key in seen if key < past)
        scores += len(seen)
    scores *= batch * heads
    t.macs = scores * dim + scores * v_dim
    t.add = 3 * scores + batch * heads * new * v_dim  # maximum, subtract, sum; then scale the output
    t.exp, t.rsqrt = scores, batch * heads * new
    per_token = kv_heads * dim + kv_heads * v_dim
    t.tensor("q", batch * heads * new * dim, q)
    t.tensor("new", batch * new * per_token, q)
    t.tensor("read", batch * len(needed) * per_token, kv)
    t.tensor("write", batch * new * per_token if store else 0, kv)
    t.tensor("out", batch * heads * new * v_dim, "bf16")
    compare(workload.attention(batch, heads, kv_heads, dim, new, past + new, q, kv, "bf16", v_head_dim=v_dim,
                               window=window, causal=causal, store=store), t, toy)  # fmt: skip


def expected_experts(tokens: int, top_k: int, experts: int) -> Fraction:
    """Expected distinct experts by enumerating what every token may choose: a walk over how many were reached."""
    reached = {0: Fraction(1)}
    for _ in range(tokens):
        after: dict[int, Fraction] = {}
        for count, probability in reached.items():
            for choice in combinations(range(experts), top_k):
                total = count + sum(1 for expert in choice if expert >= count)
                after[total] = after.get(total, Fraction(0)) + probability / math.comb(experts, top_k)
        reached = after
    return sum((count * probability for count, probability in reached.items()), Fraction(0))


def test_experts(rng: random.Random, toy: Chip):
    experts = rng.randint(1, 6)
    top_k, tokens, n, k = rng.randint(1, experts), rng.randint(1, 7), rng.randint(1, 200), rng.randint(1, 200)
    a, b, bias = rng.choice(["bf16", "fp8"]), rng.choice(FORMATS), rng.random() < 0.5
    t = Tally(peak=PEAK[wider(a, b)], macs=tokens * top_k * n * k)
    t.tensor("a", tokens * top_k * k, a)
    t.tensor("b", expected_experts(tokens, top_k, experts) * (n * k + (n if bias else 0)), b)
    t.tensor("out", tokens * top_k * n, "bf16")
    compare(workload.experts(tokens, top_k, experts, n, k, a, b, "bf16", bias=bias), t, toy)


@pytest.mark.parametrize(("tokens", "top_k", "experts"), [(8, 8, 128), (64, 2, 8), (300, 4, 60)])
def test_experts_by_monte_carlo(tokens: int, top_k: int, experts: int, toy: Chip):
    dice, trials = np.random.default_rng(1), 2000
    counts = [
        len({int(e) for _ in range(tokens) for e in dice.permutation(experts)[:top_k]})
        for _ in range(trials // tokens + 50)
    ]
    weights = workload.experts(tokens, top_k, experts, 10, 10).operands[1].elements / 100
    spread = max(float(np.std(counts)), 0.05) / math.sqrt(len(counts))
    assert weights == pytest.approx(float(np.mean(counts)), abs=5 * spread)


def test_norm_softmax_elementwise_embedding(rng: random.Random, toy: Chip):
    rows, cols, n = rng.randint(1, 40), rng.randint(1, 400), rng.randint(1, 5000)
    for function in ("rmsnorm", "layernorm"):
        t = Tally()
        for _ in range(rows):
            # rms: square-accumulate, scale by the root, gain; layer: also the mean, subtract, shift.
            t.add += cols * (3 if function == "rmsnorm" else 5) + (2 if function == "rmsnorm" else 4)
            t.rsqrt += 1
        t.tensor("x", rows * cols, "bf16")
        t.tensor("out", rows * cols, "fp8")
        t.tensor("gain", cols, "bf16")
        if function == "layernorm":
            t.tensor("shift", cols, "bf16")
        compare(workload.norm(rows, cols, "bf16", "fp8", function=function), t, toy)
    t = Tally()
    for _ in range(rows):
        for _ in range(cols):
            t.add += 4  # maximum, subtract, sum, multiply by the reciprocal
            t.exp += 1
        t.rsqrt += 1
    t.tensor("x", rows * cols, "bf16")
    t.tensor("out", rows * cols, "bf16")
    compare(workload.softmax(rows, cols), t, toy)
    # function → tensors read, adds, exponentials, reciprocals, conversions per element
    table = {"add": (2, 1, 0, 0, 0), "mul": (2, 1, 0, 0, 0), "relu": (1, 1, 0, 0, 0), "silu": (1, 2, 1, 1, 0),
             "swiglu": (2, 3, 1, 1, 0), "gelu": (1, 6, 1, 1, 0), "geglu": (2, 7, 1, 1, 0), "rope": (1, 2, 0, 0, 0),
             "convert": (1, 0, 0, 0, 1), "quantize": (1, 2, 0, 0, 1)}  # fmt: skip
    for function, (reads, adds, exps, roots, converts) in table.items():
        t = Tally(add=adds * n, exp=exps * n, rsqrt=roots * n, convert=converts * n)
        t.tensor("x", reads * n, "bf16")
        t.tensor("out", n, "fp8")
        compare(workload.elementwise(n, function, "bf16", "fp8"), t, toy)
    t = Tally()
    t.tensor("rows", rows * cols, "fp8")
    t.tensor("out", rows * cols, "bf16")
    compare(workload.embedding(rows, cols, "fp8"), t, toy)


def test_conv2d(rng: random.Random, toy: Chip):
    kh, kw = rng.randint(1, 5), rng.randint(1, 5)
    stride, padding, groups, batch = rng.randint(1, 4), rng.randint(0, 2), rng.randint(1, 3), rng.randint(1, 3)
    h, w = kh + rng.randint(0, 12), kw + rng.randint(0, 12)
    in_c, out_c = groups * rng.randint(1, 6), groups * rng.randint(1, 6)
    rows = range(-padding, h + padding - kh + 1, stride)  # top edges of the kernel
    cols = range(-padding, w + padding - kw + 1, stride)
    t = Tally()
    for _ in rows:
        for _ in cols:
            t.macs += batch * out_c * (in_c // groups) * kh * kw  # padding is multiplied too
    # An upper bound on the pixels read: each window's own, at most the image.
    t.tensor("x", batch * in_c * min(h, len(rows) * kh) * min(w, len(cols) * kw), "bf16")
    t.tensor("w", out_c * (in_c // groups) * kh * kw, "bf16")
    t.tensor("out", batch * len(rows) * len(cols) * out_c, "bf16")
    compare(workload.conv2d(batch, h, w, in_c, out_c, kh, kw, stride=stride, padding=padding, groups=groups), t, toy)
    touched = {
        (r + i, c + j)
        for r in rows
        for c in cols
        for i in range(kh)
        for j in range(kw)
        if 0 <= r + i < h and 0 <= c + j < w
    }
    charged = min(h, len(rows) * kh) * min(w, len(cols) * kw)
    assert len(touched) <= charged
    if padding == 0 and stride >= max(kh, kw):
        assert len(touched) == charged


def ring_all_reduce(chips: int) -> tuple[Fraction, Fraction]:
    """(share of the tensor one chip sends, share it adds) by stepping through both phases of a ring."""
    sent = added = Fraction(0)
    for _ in range(chips - 1):  # reduce-scatter: pass a chunk on, add the one that arrives
        sent += Fraction(1, chips)
        added += Fraction(1, chips)
    for _ in range(chips - 1):  # all-gather: pass a finished chunk on
        sent += Fraction(1, chips)
    return sent, added


def test_collective(rng: random.Random, toy: Chip):
    elements, chips, fmt = rng.randint(1, 10**6), rng.randint(2, 64), rng.choice(["bf16", "fp8"])
    both, added = ring_all_reduce(chips)
    shares = {
        "all_reduce": (both, added),
        "all_gather": (both / 2, 0),
        "reduce_scatter": (both / 2, added),
        "send": (1, 0),
        # Each chip holds 1/p of the tensor and keeps 1/p of that.
        "all_to_all": (Fraction(1, chips) - Fraction(1, chips * chips), 0),
    }
    for function, (sent, adds) in shares.items():
        t = Tally(collective=True, sent=elements * Fraction(sent) * BITS[fmt] / 8, add=float(elements * Fraction(adds)))
        t.tensor("x", elements, fmt)
        t.tensor("out", elements, fmt)
        compare(workload.collective(elements, chips, function, fmt), t, toy)


def test_intermediates_spill(rng: random.Random, toy: Chip):
    n = rng.randint(1, 8 * 2**20)
    t = Tally(add=n)
    t.tensor("x", 2 * n, "bf16", stays=True)
    t.tensor("out", n, "bf16", stays=True)
    compare(workload.elementwise(n, "add").inner(), t, toy)


def test_a_list_sums_operators_and_bounds_resources(rng: random.Random, toy: Chip):
    ops = []
    for _ in range(rng.randint(1, 6)):
        op = rng.choice([
            workload.gemm(rng.randint(1, 500), rng.randint(1, 500), rng.randint(1, 500)),
            workload.softmax(rng.randint(1, 500), rng.randint(1, 500)),
            workload.elementwise(rng.randint(1, 10**6), "relu"),
            workload.collective(rng.randint(1, 10**6), 4),
        ])  # fmt: skip
        ops.append(replace(op, count=rng.randint(1, 9)))
    total, resources = 0.0, dict.fromkeys(("matrix", "dram", "vector", "l1", "link"), 0.0)
    for op in ops:
        for _ in range(op.count):
            seconds = estimate(replace(op, count=1), toy).ops[0].seconds
            total += max(seconds.values())
            for name, one in seconds.items():
                resources[name] += one
    cost = estimate(Workload("list", tuple(ops)), toy)
    assert cost.time_s == pytest.approx(total, rel=EXACT)
    assert cost.lower_bound_s == pytest.approx(max(resources.values()), rel=EXACT)


def weight_matrices(model: Model) -> list[tuple[int, int]]:
    """(inputs, outputs) of every matrix of a dense model, layer by layer."""
    found = []
    for layer, count in model.blocks:
        a, f = layer.attention, layer.ffn
        for _ in range(count):
            found += [(model.hidden, a.heads * a.head_dim), (model.hidden, a.kv_heads * a.head_dim)]
            found += [(model.hidden, a.kv_heads * a.v_head_dim), (a.heads * a.v_head_dim, model.hidden)]
            found += [(model.hidden, f.intermediate)] * (2 if f.gated else 1) + [(f.intermediate, model.hidden)]
    return found


def test_a_step_of_a_dense_model(rng: random.Random, toy: Chip):
    kv_heads, dim = rng.randint(1, 3), rng.choice([2, 4, 8])
    window = rng.choice([None, rng.randint(1, 60)])
    layer = Layer(Attention("gqa", kv_heads * rng.randint(1, 3), kv_heads, dim, dim, window=window),
                  Ffn("dense", rng.randint(1, 50), gated=rng.random() < 0.5))  # fmt: skip
    model = Model(
        "m", "M", rng.randint(1, 40), rng.randint(1, 99), ((layer, rng.randint(1, 4)),), tied_embeddings=False
    )
    batch, new, past = rng.randint(1, 5), rng.randint(1, 30), rng.randint(0, 80)
    a, layers = layer.attention, model.layers
    macs = batch * new * sum(x * y for x, y in weight_matrices(model)) + batch * model.hidden * model.vocab
    pairs = sum(min(p + 1, window or 10**9) for p in range(past, past + new))
    macs += batch * layers * a.heads * pairs * 2 * dim
    cached = len({k for p in range(past, past + new) for k in range(max(0, p - (window or 10**9) + 1), p) if k < past})
    step = llm.prefill(model, batch=batch, prompt=new, past=past)
    assert step.flops == 2 * macs
    assert step.bytes("kv") == 2 * batch * layers * 2 * kv_heads * dim * (cached + new)
    norms = 2 * layers + 1
    elements = sum(x * y for x, y in weight_matrices(model)) + model.hidden * (model.vocab + norms + batch * new)
    assert step.bytes("weight") == 2 * elements
    assert estimate(step, toy).flops == 2 * macs
