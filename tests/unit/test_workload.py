"""Do operator constructors check what they are given, and do operators say what they move?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from npusim import workload
from npusim.errors import InputError
from npusim.ops import OPS, active_experts, link_bytes, visible_pairs
from npusim.workload import Op, Workload, attention, collective, conv2d, dim, elementwise, experts, gemm, make, norm


class TestDim:
    @pytest.mark.parametrize("value", [1, 2**40, np.int32(7), np.uint8(200)])
    def test_integers_stay_python_integers(self, value: object):
        assert type(dim("m", value)) is int and dim("m", value) == value

    def test_arrays_become_float64(self):
        made = dim("m", np.array([1, 2**40]))
        assert made.dtype == np.float64 and made.tolist() == [1.0, 2.0**40]

    @pytest.mark.parametrize(
        "value", [0, -1, 2**40 + 1, 2**70, True, np.True_, 1.0, "4", None, np.nan, {}, np.float64(3)]
    )
    def test_refused(self, value: object):
        with pytest.raises(InputError) as caught:
            dim("gemm.m", value)
        assert str(caught.value).startswith("gemm.m: ") and "from 1 to 2^40" in str(caught.value)

    @pytest.mark.parametrize("value", [np.array([1, 0]), np.array([1.5]), np.array([True]), np.array([2**41]), ["a"]])
    def test_refused_arrays(self, value: object):
        with pytest.raises(InputError, match=r"gemm\.m"):
            dim("gemm.m", value)

    def test_long_values_are_shortened(self):
        with pytest.raises(InputError) as caught:
            dim("m", "x" * 10_000)
        assert len(str(caught.value)) < 200


REQUIRED = {kind: [k for k, default in spec.dims.items() if default is None] for kind, spec in OPS.items()}


class TestMake:
    @pytest.mark.parametrize("kind", OPS)
    def test_each_required_dimension_is_named_when_missing(self, kind: str):
        function = OPS[kind].functions[0] if OPS[kind].functions else ""
        for absent in REQUIRED[kind]:
            given = {key: 8 for key in REQUIRED[kind] if key != absent}
            with pytest.raises(InputError) as caught:
                make(kind, function=function, **given)
            assert f"'{absent}' is missing" in str(caught.value)

    @pytest.mark.parametrize("kind", OPS)
    def test_each_kind_has_operands_bytes_and_flops(self, kind: str):
        function = OPS[kind].functions[0] if OPS[kind].functions else ""
        op = make(kind, function=function, **{key: 8 for key in REQUIRED[kind]})
        assert op.operands and op.bytes() > 0 and op.flops >= 0
        assert any(o.write for o in op.operands) and any(not o.write for o in op.operands)
        assert op.bytes() == sum(op.bytes(role) for role in ("weight", "kv", "io", "act"))
        assert all(ops >= 0 for ops in op.vector_ops.values())

    def test_unknown_kind(self):
        with pytest.raises(InputError, match=r"unknown operator 'gemmm'.*did you mean 'gemm'"):
            make("gemmm")

    def test_unknown_argument(self):
        with pytest.raises(InputError, match=r"gemm: unknown argument of gemm 'mm'.*known: a, b, bias"):
            make("gemm", mm=1)

    def test_unknown_format(self):
        with pytest.raises(InputError, match=r"gemm\.b: unknown number format 'int5'.*did you mean 'int"):
            gemm(1, 1, 1, b="int5")

    @pytest.mark.parametrize("build", [lambda f: norm(1, 1, function=f), lambda f: elementwise(1, f)])
    @pytest.mark.parametrize("name", ["relus", ""])
    def test_unknown_function(self, build: Callable[[str], Op], name: str):
        with pytest.raises(InputError, match="unknown function of"):
            build(name)

    def test_shapes_that_do_not_broadcast(self):
        with pytest.raises(InputError, match=r"gemm: dimensions do not broadcast: .*\(2,\).*\(3,\)"):
            gemm(np.array([1, 2]), np.array([1, 2, 3]), 1)


class TestRoles:
    def test_defaults(self):
        op = gemm(2, 3, 5)
        assert {o.name: o.role for o in op.operands} == {"a": "io", "b": "weight", "out": "io"}
        assert op.bytes("io") == 2 * (2 * 5 + 2 * 3) and op.bytes("weight") == 2 * 15

    def test_inner(self):
        op = gemm(2, 3, 5).inner()
        assert {o.name: o.role for o in op.operands} == {"a": "act", "b": "weight", "out": "act"}
        assert op.bytes() == gemm(2, 3, 5).bytes()

    def test_count_multiplies_in_a_workload(self):
        op = gemm(2, 3, 5)
        many = Workload("w", (op, Op(op.kind, op.name, op.dims, op.formats, count=4)))
        assert many.flops == 5 * op.flops and many.bytes() == 5 * op.bytes()
        assert many.bytes("weight") == 5 * 30


class TestGemm:
    def test_groups_and_bias(self):
        op = gemm(2, 3, 5, groups=7, bias=True)
        assert op.flops == 2 * 7 * 2 * 3 * 5
        assert op.operands[1].elements == 7 * (3 * 5 + 3)
        assert op.vector_ops == {"add": 7 * 2 * 3}

    def test_integers_are_exact_at_any_size(self):
        assert gemm(2**40, 2**40, 2**40).flops == 2**121

    def test_arrays_broadcast(self):
        op = gemm(np.array([[1], [2]]), np.array([3, 4, 5]), 6)
        assert op.flops.tolist() == [[36, 48, 60], [72, 96, 120]]


class TestExperts:
    @pytest.mark.parametrize(("tokens", "top_k", "experts_", "reached"), [(1, 2, 8, 2), (5, 8, 8, 8), (1, 1, 1, 1)])
    def test_reached(self, tokens: int, top_k: int, experts_: int, reached: float):
        assert active_experts(tokens, experts_, top_k) == pytest.approx(reached, rel=1e-12)

    def test_many_tokens_reach_all(self):
        assert active_experts(100_000, 128, 8) == pytest.approx(128, rel=1e-12)

    @pytest.mark.parametrize("tokens", [1, 2, 1_000_000])
    def test_more_choices_than_experts_are_refused(self, tokens: int):
        with pytest.raises(InputError, match="top_k"):
            experts(tokens, 10, 2, 8, 8)


class TestAttention:
    def test_pairs_of_a_window(self):
        # Positions 4 and 5 of 5 with window 2: two keys each.
        assert visible_pairs(2, 5, 2, True) == 4
        assert visible_pairs(2, 5, 2, False) == 10

    def test_long_contexts_stay_exact(self):
        # One query over 2^40 keys sees 2^40 of them.
        assert visible_pairs(1, 2**40, 2**41, True) == 2**40

    def test_kv_smaller_than_q(self):
        with pytest.raises(InputError, match=r"attention\.seq_kv: seq_kv is smaller than seq_q; at least seq_q"):
            attention(1, 1, 1, 1, 5, 4)

    def test_v_width_and_store(self):
        op = attention(2, 4, 2, 8, 3, 10, v_head_dim=4, store=False)
        assert op.flops == 2 * 4 * (8 + 9 + 10) * 2 * (8 + 4)
        by_name = {o.name: o.elements for o in op.operands}
        assert by_name == {
            "q": 2 * 3 * 32,
            "kv_new": 2 * 3 * 24,
            "kv_read": 2 * 7 * 24,
            "kv_write": 0,
            "out": 2 * 3 * 16,
        }

    @pytest.mark.parametrize(
        "name", ["heads", "kv_heads", "head_dim", "seq_q", "seq_kv", "v_head_dim", "window", "batch"]
    )
    @pytest.mark.parametrize("value", ["x", 1.5, -1, 0, 2**70, [None]])
    def test_bad_dimensions(self, name: str, value: object):
        sizes: dict[str, object] = {"batch": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "seq_q": 2, "seq_kv": 9}
        with pytest.raises(InputError, match=name):
            attention(**{**sizes, name: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize("kind", [list, tuple, np.array])
    def test_any_kind_of_sequence_is_an_array(self, kind: Callable[[list[int]], object]):
        op = attention(1, 4, kind([2, 4]), kind([8, 16]), 1, 9)
        assert np.shape(op.flops) == (2,)
        assert op.dims["kv_width"].tolist() == [2 * 16, 4 * 32]

    @pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
    def test_narrow_integers_do_not_wrap(self, kind: type):
        assert attention(1, 4, kind(2), kind(100), 1, 9).dims["kv_width"] == 400


class TestConv:
    def test_stride_and_padding(self):
        # (7 + 2 − 3) // 2 + 1 = 4 by (9 + 2 − 3) // 2 + 1 = 5.
        op = conv2d(2, 7, 9, 4, 6, 3, 3, stride=2, padding=1)
        assert op.operands[2].elements == 2 * 4 * 5 * 6
        assert op.flops == 2 * 2 * 20 * 6 * 4 * 9

    def test_a_stride_larger_than_the_kernel_skips_pixels(self):
        # Output 3 × 3 of a 1×1 kernel: 9 of 81 pixels are read.
        assert conv2d(1, 9, 9, 1, 1, 1, 1, stride=4).operands[0].elements == 9

    def test_kernel_too_large(self):
        with pytest.raises(InputError, match="kernel is larger than the padded input"):
            conv2d(1, 3, 3, 1, 1, 6, 1, padding=1)

    def test_groups_must_divide(self):
        with pytest.raises(InputError, match=r"conv2d\.groups: groups must divide"):
            conv2d(1, 3, 3, 4, 6, 3, 3, groups=4)


class TestCollective:
    # Bytes one of 4 chips sends of a tensor of 1000 bf16 elements.
    @pytest.mark.parametrize(
        ("function", "sent"),
        [("all_reduce", 3000), ("all_gather", 1500), ("reduce_scatter", 1500), ("all_to_all", 375), ("send", 2000)],
    )
    def test_ring(self, function: str, sent: float):
        assert link_bytes(collective(1000, 4, function)) == pytest.approx(sent, rel=1e-12)

    def test_one_chip_sends_nothing(self):
        assert link_bytes(collective(1000, 1)) == 0

    def test_other_operators_send_nothing(self):
        assert link_bytes(gemm(1, 1, 1)) == 0


def test_every_constructor_of_the_table_exists():
    assert all(callable(getattr(workload, kind)) for kind in OPS)
