"""Laws that any cost model must keep, over random chips, operators and models."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from npusim import llm, workload
from npusim.chip import VECTOR_CLASSES, Chip, chip_names, find_chip, load_chip
from npusim.cost import Cost, energy, estimate
from npusim.models import Attention, Ffn, Layer, Model
from npusim.ops import COLLECTIVES, ELEMENTWISE
from npusim.workload import Op, Workload
from tests.conftest import TOY

EXACT = 1e-12
FORMATS = ["bf16", "fp16", "fp8", "int8", "int4", "mxfp4", "nvfp4", "mxfp8"]


@cache
def base_chip() -> Chip:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "toy.yaml"
        file.write_text(TOY)
        return load_chip(file)


def magnitude(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers spread evenly over their order of magnitude."""
    return st.floats(np.log10(low), np.log10(high)).map(lambda x: float(10**x))


@st.composite
def chips(draw: st.DrawFn) -> Chip:
    changes: dict[str, object] = {
        "clock": draw(magnitude(1e8, 5e9)),
        "cores": draw(st.integers(1, 1000)),
        "core.matrix.flops_per_cycle.bf16": draw(magnitude(10, 1e5)),
        "core.matrix.flops_per_cycle.fp8": draw(magnitude(10, 1e5)),
        "core.vector.lanes": draw(st.integers(1, 4096)),
        "core.vector.rates.exp": draw(magnitude(0.01, 4)),
        "levels.l1.capacity": draw(magnitude(1e3, 1e9)),
        "levels.l1.bytes_per_cycle": draw(magnitude(1, 1e4)),
        "memory.bandwidth": draw(magnitude(1e9, 1e14)),
        "memory.kind": draw(st.sampled_from(["hbm3", "hbm2", "lpddr5", "sram"])),
        "link.bandwidth": draw(magnitude(1e8, 1e13)),
        "power.tdp": draw(magnitude(1, 2000)),
    }
    chip = base_chip().replace(changes)
    if draw(st.booleans()):
        chip = chip.model_copy(update={"core": chip.core.model_copy(update={"vector": None})})
    return chip if draw(st.booleans()) else chip.model_copy(update={"levels": {}})


small = st.integers(1, 300)
fmt = st.sampled_from(FORMATS)


def attention(batch, kv_heads, group, head_dim, q, past, window, causal, store, f) -> Op:
    return workload.attention(batch, kv_heads * group, kv_heads, head_dim, q, past + q, f, f, f,
                              window=window, causal=causal, store=store)  # fmt: skip


OPERATORS: dict[str, st.SearchStrategy[Op]] = {
    "gemm": st.builds(
        lambda m, n, k, a, b, g, bias: workload.gemm(m, n, k, a, b, groups=g, bias=bias),
        small,
        small,
        small,
        fmt,
        fmt,
        st.integers(1, 8),
        st.booleans(),
    ),
    "experts": st.builds(
        lambda t, k, more, n, width, b, bias: workload.experts(t, k, k + more, n, width, b=b, bias=bias),
        small,
        st.integers(1, 8),
        st.integers(0, 60),
        small,
        small,
        fmt,
        st.booleans(),
    ),
    "attention": st.builds(
        attention,
        st.integers(1, 8),
        st.integers(1, 8),
        st.integers(1, 8),
        st.integers(1, 128),
        small,
        st.integers(0, 5000),
        st.one_of(st.none(), st.integers(1, 6000)),
        st.booleans(),
        st.booleans(),
        fmt,
    ),
    "norm": st.builds(
        lambda r, c, f: workload.norm(r, c, function=f), small, small, st.sampled_from(["rmsnorm", "layernorm"])
    ),
    "softmax": st.builds(workload.softmax, small, small),
    "elementwise": st.builds(
        workload.elementwise, st.integers(1, 10**6), st.sampled_from(sorted(ELEMENTWISE)), fmt, fmt
    ),
    "embedding": st.builds(workload.embedding, small, small, fmt),
    "conv2d": st.builds(
        lambda b, h, w, g, ci, co, kh, kw, s, p: workload.conv2d(
            b, h + kh, w + kw, g * ci, g * co, kh, kw, stride=s, padding=p, groups=g
        ),
        st.integers(1, 4),
        st.integers(0, 30),
        st.integers(0, 30),
        st.integers(1, 4),
        st.integers(1, 16),
        st.integers(1, 16),
        st.integers(1, 7),
        st.integers(1, 7),
        st.integers(1, 4),
        st.integers(0, 3),
    ),
    "collective": st.builds(
        workload.collective, st.integers(1, 10**6), st.integers(2, 64), st.sampled_from(sorted(COLLECTIVES))
    ),
}


def test_every_operator_is_drawn():
    assert set(OPERATORS) == set(workload.OPS)


@st.composite
def operator_lists(draw: st.DrawFn) -> Workload:
    ops = draw(st.lists(st.one_of(*OPERATORS.values()), min_size=1, max_size=6))
    ops = [replace(op, count=draw(st.integers(1, 50))) for op in ops]
    return Workload("random", tuple(op.inner() if draw(st.booleans()) else op for op in ops))


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    head_dim = draw(st.sampled_from([4, 8, 64]))
    kv_heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    window = draw(st.one_of(st.none(), st.integers(1, 3000)))
    if draw(st.integers(0, 3)) == 0:
        a = Attention(
            "mla",
            kv_heads * group,
            kv_heads * group,
            head_dim + 2,
            head_dim,
            kv_lora_rank=16,
            rope_head_dim=2,
            q_lora_rank=draw(st.sampled_from([None, 12])),
        )
    else:
        a = Attention(
            "gqa",
            kv_heads * group,
            kv_heads,
            head_dim,
            head_dim,
            window=window,
            qkv_bias=draw(st.booleans()),
            qk_norm=draw(st.booleans()),
            rope=draw(st.booleans()),
        )
    width = draw(st.integers(1, 200))
    if draw(st.booleans()):
        top = draw(st.integers(1, 4))
        f = Ffn("moe", width, experts=top + draw(st.integers(0, 12)), experts_per_token=top,
                shared_intermediate=draw(st.sampled_from([0, 32])), bias=draw(st.booleans()))  # fmt: skip
    else:
        f = Ffn("dense", width, gated=draw(st.booleans()), activation=draw(st.sampled_from(["silu", "gelu", "relu"])))
    return Layer(a, f, norms=draw(st.integers(1, 4)), norm=draw(st.sampled_from(["rmsnorm", "layernorm"])))


@st.composite
def models(draw: st.DrawFn) -> Model:
    blocks = draw(st.lists(st.tuples(layers(), st.integers(1, 5)), min_size=1, max_size=3))
    return Model(
        "random", "R", draw(st.integers(1, 256)), draw(st.integers(2, 1000)), tuple(blocks), draw(st.booleans())
    )


precisions = st.sampled_from([llm.PRECISIONS[name] for name in ("bf16", "fp8", "w4a16", "w4a8", "int8", "nvfp4")])


def kinds(precision: llm.Precision) -> dict[str, Any]:
    return {"weights": precision.weights, "activations": precision.activations, "kv": precision.kv}


@st.composite
def steps(draw: st.DrawFn) -> Workload:
    model, sizes = draw(models()), kinds(draw(precisions))
    tp = draw(st.sampled_from([1, 1, 2, 8]))
    batch, length = draw(st.integers(1, 64)), draw(st.integers(1, 5000))
    if draw(st.booleans()):
        return llm.prefill(model, batch=batch, prompt=length, past=draw(st.integers(0, 3000)), tp=tp, **sizes)
    return llm.decode(model, batch=batch, context=length, tp=tp, **sizes)


works = st.one_of(operator_lists(), steps())


def compulsory_bytes(work: Workload) -> float:
    """Weights, cache and graph inputs and outputs, which no chip keeps between steps."""
    return sum(op.count * op.bytes("weight", "kv", "io") for op in work.ops if op.kind != "collective")


@given(chips(), works)
def test_a_cost_is_sound(chip: Chip, work: Workload):
    cost = estimate(work, chip)
    assert cost.time_s >= cost.lower_bound_s * (1 - EXACT)
    assert cost.dram_bytes >= compulsory_bytes(work) * (1 - EXACT)
    for value in (cost.time_s, cost.lower_bound_s, cost.flops, cost.dram_bytes, cost.energy_j):
        assert np.isfinite(value) and value >= 0
    assert 0 <= cost.mfu <= 1 + EXACT and 0 <= cost.mbu <= 1 + EXACT
    assert sum(cost.bound_seconds.values()) == pytest.approx(cost.time_s, rel=EXACT)
    assert all(value >= 0 for op in cost.ops for value in op.seconds.values())
    assert sum(op.op.count * op.op.flops for op in cost.ops) == cost.flops == work.flops


@given(chips(), works)
def test_no_operator_is_faster_than_any_of_its_resources(chip: Chip, work: Workload):
    for op in estimate(work, chip).ops:
        assert op.time_s == max(op.seconds.values())
        assert op.time_s == 0 or op.seconds[op.bound] == op.time_s


SPEEDS = ("clock", "memory.bandwidth", "link.bandwidth")


def sped_up(chip: Chip, k: float, *paths: str) -> Chip:
    figures = chip.paths()
    return chip.replace({path: k * float(str(figures[path])) for path in paths})


@given(chips(), works, magnitude(0.01, 100))
def test_everything_k_times_faster_takes_a_kth_of_the_time(chip: Chip, work: Workload, k: float):
    faster = sped_up(chip, k, *SPEEDS)
    assert estimate(work, faster).time_s == pytest.approx(estimate(work, chip).time_s / k, rel=EXACT)
    assert estimate(work, faster).lower_bound_s == pytest.approx(estimate(work, chip).lower_bound_s / k, rel=EXACT)


@given(chips(), works, magnitude(1, 100), st.sampled_from(SPEEDS))
def test_more_of_one_speed_is_never_slower(chip: Chip, work: Workload, k: float, path: str):
    assert estimate(work, sped_up(chip, k, path)).time_s <= estimate(work, chip).time_s * (1 + EXACT)


@given(chips(), works, st.integers(2, 16))
def test_more_cores_or_on_chip_memory_are_never_slower(chip: Chip, work: Workload, k: int):
    assert chip.cores is not None
    before = estimate(work, chip).time_s
    assert estimate(work, chip.replace({"cores": chip.cores * k})).time_s <= before * (1 + EXACT)
    if chip.levels:
        assert estimate(work, sped_up(chip, k, "levels.l1.capacity")).time_s <= before * (1 + EXACT)


lengths = st.lists(st.integers(1, 4000), min_size=2, max_size=6, unique=True).map(sorted)


@given(chips(), models(), precisions, lengths, st.integers(1, 8))
def test_time_to_first_token_never_falls_with_the_prompt(chip, model, precision, prompts, batch):
    times = [estimate(llm.prefill(model, batch=batch, prompt=p, **kinds(precision)), chip).time_s for p in prompts]
    assert all(a <= b * (1 + EXACT) for a, b in itertools.pairwise(times)), times


@given(chips(), models(), precisions, lengths, st.integers(1, 64))
def test_a_step_never_gets_faster_with_context_or_batch(chip, model, precision, sizes, other):
    by_context = [estimate(llm.decode(model, batch=other, context=n, **kinds(precision)), chip).time_s for n in sizes]
    by_batch = [estimate(llm.decode(model, batch=n, context=other, **kinds(precision)), chip).time_s for n in sizes]
    for times in (by_context, by_batch):
        assert all(a <= b * (1 + EXACT) for a, b in itertools.pairwise(times)), times


def figures(cost: Cost) -> dict[str, Any]:
    return {
        "time_s": cost.time_s, "lower_bound_s": cost.lower_bound_s, "flops": cost.flops, "dram_bytes": cost.dram_bytes,
        "mfu": cost.mfu, "mbu": cost.mbu, "energy_j": cost.energy_j, "bound": cost.bound,
        **{f"op{i}": op.time_s for i, op in enumerate(cost.ops)},
    }  # fmt: skip


def assert_elementwise(together: Cost, each: dict[int, Cost], shape: tuple[int, ...]) -> None:
    wide = {name: np.broadcast_to(value, shape).ravel() for name, value in figures(together).items()}
    for index, alone in each.items():
        for name, value in figures(alone).items():
            if name == "bound":
                # At a tie either name is right.
                shares = alone.bound_seconds
                if len(shares) < 2 or sorted(shares.values())[-2] < max(shares.values()) * (1 - 1e-9):
                    assert wide[name][index] == value
            else:
                assert wide[name][index] == pytest.approx(value, rel=EXACT), name


@given(chips(), models(), precisions, st.lists(st.integers(1, 4000), min_size=1, max_size=3),
       st.lists(st.integers(1, 64), min_size=1, max_size=3), st.booleans(), st.sampled_from([1, 4]))  # fmt: skip
def test_arrays_equal_loops_over_steps(chip, model, precision, sizes, batches, decoding, tp):
    grid = [(b, n) for b in batches for n in sizes]
    column, row = np.array(batches)[:, None], np.array(sizes)

    def step(batch: Any, size: Any) -> Workload:
        if decoding:
            return llm.decode(model, batch=batch, context=size, tp=tp, **kinds(precision))
        return llm.prefill(model, batch=batch, prompt=size, tp=tp, **kinds(precision))

    each = {i: estimate(step(b, n), chip) for i, (b, n) in enumerate(grid)}
    assert_elementwise(estimate(step(column, row), chip), each, (len(batches), len(sizes)))


ARRAYS: dict[str, Any] = {
    "gemm": lambda m, n: workload.gemm(m, n, 77, b="int4", bias=True),
    "experts": lambda m, n: workload.experts(m, 2, 9, n, 33),
    "attention": lambda m, n: workload.attention(3, 8, 2, 16, m, m + n, window=50),
    "encoder": lambda m, n: workload.attention(m, 8, 2, 16, n, n, causal=False, store=False),
    "norm": workload.norm,
    "softmax": workload.softmax,
    "elementwise": lambda m, n: workload.elementwise(m, "swiglu"),
    "embedding": workload.embedding,
    "conv2d": lambda m, n: workload.conv2d(m, 5 + n, 9, 4, 6, 3, 3, stride=2, padding=1),
    "collective": lambda m, n: workload.collective(m, n + 1),
}


@pytest.mark.parametrize("kind", ARRAYS)
@given(chip=chips(), ms=st.lists(small, min_size=1, max_size=3), ns=st.lists(small, min_size=1, max_size=3))
def test_arrays_equal_loops_over_operators(kind: str, chip: Chip, ms: list[int], ns: list[int]):
    make = ARRAYS[kind]
    each = {i: estimate(make(m, n), chip) for i, (m, n) in enumerate(itertools.product(ms, ns))}
    assert_elementwise(estimate(make(np.array(ms)[:, None], np.array(ns)), chip), each, (len(ms), len(ns)))


@given(chips(), steps())
def test_a_step_rebuilt_for_its_own_chips_is_itself(chip: Chip, step: Workload):
    assert step.recipe is not None
    assert step.recipe(step.chips).ops == step.ops
    assert estimate(step, chip, tp=step.chips).time_s == estimate(step, chip).time_s


@given(chips(), steps())
def test_chips_together_do_at_least_the_work_of_one(chip: Chip, step: Workload):
    alone = estimate(step, chip, tp=1)
    shared = estimate(step, chip)
    assert step.chips * shared.flops >= alone.flops * (1 - EXACT)
    assert shared.flops <= alone.flops * (1 + EXACT)


@given(chips(), works)
def test_energy_covers_the_static_share(chip: Chip, work: Workload):
    cost, constants = estimate(work, chip), energy.energies(chip)
    assert constants is not None and chip.power.tdp_w is not None
    assert cost.energy_j >= work.chips * constants.static_w * cost.time_s * (1 - EXACT)
    # Constants that come from the TDP keep the average below it, unless DRAM or links alone would exceed it.
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None and chip.link is not None
    tdp = chip.power.tdp_w
    streaming = constants.dram_byte_j * chip.memory.bandwidth_bytes_per_s
    linked = constants.link_byte_j * chip.link.bandwidth_bytes_per_s
    assume(constants.static_w + max(streaming + 0.1 * tdp, linked) <= tdp)
    assert cost.energy_j <= work.chips * tdp * cost.time_s * (1 + EXACT)


AVAILABLE = [chip for chip in map(find_chip, chip_names()) if not chip.missing() and chip.power.tdp_w]


@pytest.mark.parametrize("chip", AVAILABLE, ids=lambda chip: chip.name)
def test_no_catalog_chip_exceeds_its_tdp(chip: Chip):
    """Engine and DRAM both at their peak for the whole of one balanced operator."""
    rate = max(chip.peaks_flops_per_s, key=lambda name: chip.peaks_flops_per_s[name])
    constants = energy.energies(chip)
    assert constants is not None and chip.memory is not None and chip.power.tdp_w is not None
    bandwidth = chip.memory.bandwidth_bytes_per_s
    assert bandwidth is not None
    both = constants.op_j(rate, chip.peaks_flops_per_s[rate], 0, bandwidth, 0)  # joules of one second
    assert constants.static_w + both <= chip.power.tdp_w * (1 + 1e-9)


CHANGES: dict[str, st.SearchStrategy[object]] = {
    "clock": magnitude(1e8, 5e9), "cores": st.integers(1, 100), "memory.bandwidth": magnitude(1e9, 1e13),
    "memory.capacity": magnitude(1e9, 1e12), "link.bandwidth": magnitude(1e9, 1e12), "power.tdp": magnitude(1, 1000),
    "core.matrix.flops_per_cycle.int8": magnitude(10, 1e5), "levels.l1.capacity": magnitude(1e3, 1e9),
}  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(CHANGES)), st.none()).map(list), st.data())
def test_the_order_of_overrides_does_not_matter(paths: list[str], data: st.DataObject):
    changes = {path: data.draw(CHANGES[path], label=path) for path in paths}
    shuffled = {path: changes[path] for path in data.draw(st.permutations(paths))}
    for chip in (base_chip(), load_chip("rebel-quad")):
        known = {p: v for p, v in changes.items() if chip is base_chip() or "int8" not in p}
        one, two = chip.replace(known), chip.replace({p: shuffled[p] for p in shuffled if p in known})
        in_steps = chip
        for path, value in known.items():
            in_steps = in_steps.replace({path: value})
        for other in (two, in_steps):
            assert same(one.paths(), other.paths())
            assert same(one.peaks_flops_per_s, other.peaks_flops_per_s)


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Equal up to rounding: a bandwidth may be stated or follow from a scaled pin rate."""
    assert one.keys() == two.keys()
    return all(v == (pytest.approx(two[k], rel=EXACT) if isinstance(v, float) else two[k]) for k, v in one.items())


@given(chips())
def test_a_chip_survives_json(chip: Chip):
    again = Chip.model_validate(json.loads(json.dumps(chip.model_dump(exclude_none=True))))
    assert again.model_dump() == chip.model_dump()
    assert again.peaks_flops_per_s == chip.peaks_flops_per_s
    for function in VECTOR_CLASSES:
        assert again.vector_ops_per_s(function) == chip.vector_ops_per_s(function)


@given(chips(), works)
def test_a_table_survives_json(chip: Chip, work: Workload):
    table = estimate(work, chip).table()
    assert json.loads(json.dumps(table, allow_nan=False)) == table
