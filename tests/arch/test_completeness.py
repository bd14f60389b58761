"""One table per kind, and nothing half-registered in it."""

from __future__ import annotations

import inspect

import pytest

from npusim import dtypes, grammar, workload
from npusim.chip import VECTOR_CLASSES, Chip
from npusim.cost import estimate
from npusim.ops import COLLECTIVES, ELEMENTWISE, OPS

SMALL = {
    "gemm": workload.gemm(2, 3, 4),
    "experts": workload.experts(2, 1, 4, 3, 5),
    "attention": workload.attention(1, 2, 1, 4, 3, 5),
    "norm": workload.norm(2, 3),
    "softmax": workload.softmax(2, 3),
    "elementwise": workload.elementwise(6, "silu"),
    "embedding": workload.embedding(2, 3),
    "conv2d": workload.conv2d(1, 5, 5, 3, 4, 3, 3),
    "collective": workload.collective(8, 2),
}


def test_every_operator_is_exemplified():
    assert set(SMALL) == set(OPS)


@pytest.mark.parametrize("kind", OPS)
def test_operator_has_everything(kind: str, toy: Chip):
    spec, op = OPS[kind], SMALL[kind]
    assert spec.doc and len(spec.doc) < 120
    assert spec.reference or kind == "collective"
    assert callable(getattr(workload, kind))
    assert inspect.getdoc(getattr(workload, kind))
    assert kind in grammar._CONSTRUCTORS
    assert op.operands and any(o.write for o in op.operands)
    assert op.bytes() > 0
    assert op.flops >= 0
    assert set(op.vector_ops) <= set(VECTOR_CLASSES)
    assert op.flops > 0 or op.vector_ops or kind in ("embedding", "collective")
    cost = estimate(op, toy)
    assert cost.time_s > 0
    assert cost.time_s >= cost.lower_bound_s


@pytest.mark.parametrize("function", ELEMENTWISE)
def test_every_elementwise_function_prices(function: str, toy: Chip):
    assert estimate(workload.elementwise(1000, function), toy).time_s > 0


@pytest.mark.parametrize("function", COLLECTIVES)
def test_every_collective_prices(function: str, toy: Chip):
    assert estimate(workload.collective(1000, 4, function), toy).ops[0].link_bytes > 0


@pytest.mark.parametrize("name", dtypes.FORMATS)
def test_every_format_prices(name: str, toy: Chip):
    fmt = dtypes.get(name)
    assert fmt.bits >= fmt.element_bits > 0
    assert fmt.doc
    if fmt.rate not in ("fp64", "int32"):  # nothing wider stands in for these on a bf16 engine
        wide = toy.replace({"core.matrix.flops_per_cycle.fp32": 100})
        assert estimate(workload.gemm(8, 8, 8, name, name, name), wide).time_s > 0


def test_aliases_resolve():
    for alias, name in dtypes.ALIASES.items():
        assert dtypes.get(alias).name == name
        assert alias not in dtypes.FORMATS
