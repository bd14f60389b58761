"""Does every maker of golden cases know the realistic fill, and do kernels stay within its bounds?"""

import numpy as np
import pytest

import npukernels as nk
from npukernels.cases import FILLS, makers

SIZES = {"rope": {"dim": 16}, "grouped_gemm": {"experts": 3}, "topk": {"k": 4}, "route": {"k": 4}}
DTYPES = [(op, dtype) for op, made in makers().items() for dtype in made.dtypes]

# Ops whose public function takes the inputs of a case as they are, and its parameters by name.
DIRECT = (
    "attention", "conv2d", "depthwise_conv2d", "exp", "gelu", "gemm", "grouped_gemm", "layernorm", "qgemm", "rmsnorm",
    "rope", "sigmoid", "silu", "softmax", "swiglu", "tanh",
)  # fmt: skip


def case(op, dtype, fill, size=19):
    sizes = {name: size for name, default in makers()[op].sizes.items() if default is None}
    return nk.golden(op, dtype=dtype, fill=fill, seed=5, **{**sizes, **SIZES.get(op, {})})


@pytest.mark.parametrize(("op", "dtype"), DTYPES)
def test_fills_differ_and_realistic_cases_are_finite(op, dtype):
    drawn = {fill: case(op, dtype, fill) for fill in FILLS}
    real = drawn["realistic"]
    assert np.isfinite(real.expected).all() and np.isfinite(real.bound).all()
    for fill in set(FILLS) - {"realistic"}:
        pairs = zip(real.inputs, drawn[fill].inputs, strict=True)
        assert any(x.tobytes() != y.tobytes() for x, y in pairs), fill


@pytest.mark.parametrize(("op", "dtype"), [pair for pair in DTYPES if pair[0] in DIRECT])
def test_every_variant_is_within_the_bound_of_realistic_cases(op, dtype):
    made = case(op, dtype, "realistic")
    inputs, named = made.inputs, dict(made.params)
    if op == "attention" and len(inputs) > 3:
        named |= {"k_scale": inputs[3], "v_scale": inputs[4]}
        inputs = inputs[:3]
    for variant in nk.variants(op):
        output = getattr(nk, op)(*inputs, variant=variant, **named)
        nk.check(output, made).raise_for_status()
