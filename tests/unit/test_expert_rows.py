"""Expert layers as rows of measured tables: which operators are one row, what it costs, and that none is lost."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import npusim as ns
from npusim.calibration import Calibrations
from npusim.cost import roofline
from npusim.cost.calibrated import pricing
from npusim.cost.calibrated.family import family
from npusim.cost.calibrated.rows import blocks_of
from npusim.cost.result import Cost
from npusim.models import load_model
from npusim.workload import Op, Workload

FP8 = "h100--trtllm-1.3.0rc20--moe_ffn--fp8"
LAYER = ["route", "experts_up", "act", "experts_down", "combine"]
SHAPES = [("mixtral-8x7b", 1, 1), ("mixtral-8x7b", 2, 1), ("mixtral-8x7b", 2, 4), ("qwen3-30b-a3b", 1, 1),
          ("qwen3-30b-a3b", 2, 8), ("deepseek-v3", 8, 1), ("deepseek-v3", 8, 8), ("deepseek-v3", 1, 32)]  # fmt: skip
BATCHES = np.array([1, 3, 16, 100, 700, 3000])


def step(model: str, batch: object = 64, tp: int = 1, ep: int = 1, fmt: str = "fp8") -> Workload:
    return ns.decode(model, batch=batch, context=900, tp=tp, ep=ep, weights=fmt, activations=fmt, kv=fmt)


def of_layer(cost: Cost) -> list[ns.OpCost]:
    return [cost.ops[at] for block in blocks_of(cost.workload.ops) for at in block.members]


def row_seconds(cost: Cost, document: str) -> np.ndarray:
    """Seconds of the rows of a step by the family itself, all layers together."""
    found = Calibrations("auto").document(document)
    total = np.zeros(np.broadcast_shapes(np.shape(cost.time_s), (1,)))
    for block in blocks_of(cost.workload.ops):
        dims = {k: np.broadcast_to(np.asarray(v, float), total.shape) for k, v in block.row.dims.items()}
        seconds = family(found.family).seconds(cost.chip, found.dtype, dims, found.values()).time_s
        total = total + cost.workload.ops[block.members[0]].count * seconds
    return total


@pytest.mark.parametrize(("model", "tp", "ep"), SHAPES)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_which_operators_are_one_row(model: str, tp: int, ep: int, phase: str):
    kinds = {"tp": tp, "ep": ep, "weights": "fp8", "activations": "fp8", "kv": "fp8"}
    build = ns.prefill if phase == "prefill" else ns.decode
    ops = build(model, batch=4, **({"prompt": 300} if phase == "prefill" else {"context": 300}), **kinds).ops
    (block,) = blocks_of(ops)
    assert [ops[at].name.rpartition(".")[2] for at in block.members] == LAYER
    ffn = next(layer.ffn for layer, _ in load_model(model).blocks if layer.ffn.experts)
    width = ffn.intermediate if ep > 1 else ffn.intermediate // tp
    tokens = 4 * (300 if phase == "prefill" else 1)
    assert block.row.dims == {"m": tokens, "n": width, "k": load_model(model).hidden, "topk": ffn.experts_per_token,
                              "experts": ffn.experts, "tp": 1, "ep": ep}  # fmt: skip
    assert block.row.dtypes[0] == "fp8"


def test_what_is_no_expert_layer():
    assert blocks_of(ns.decode("llama-3.1-8b", batch=4, context=100).ops) == []
    up, down = ns.experts(64, 2, 8, 1024, 512), ns.experts(64, 2, 8, 512, 512)
    assert [block.members for block in blocks_of([up, down])] == [(0, 1)]
    assert blocks_of([up, ns.experts(64, 2, 8, 512, 1024)]) == []  # no gate: up as wide as down
    assert blocks_of([up, ns.experts(32, 2, 8, 512, 512)]) == [] and blocks_of([up]) == []
    other = ns.softmax(64, 1024)  # not over the experts
    assert [block.members for block in blocks_of([other, up, down, ns.elementwise(64, "add")])] == [(1, 2)]


@pytest.mark.parametrize(("model", "tp", "ep"), SHAPES)
def test_the_parts_of_a_row_add_up_to_it(model: str, tp: int, ep: int):
    cost = ns.estimate(step(model, BATCHES, tp, ep), "h100", calibration="auto", software="trtllm")
    parts = of_layer(cost)
    assert {part.document for part in parts} == {FP8} and {part.state for part in parts} == {"calibrated"}
    work = [roofline.work(part.op, cost.chip).seconds for part in parts]
    floor = np.max([sum(part.count * w[name] for part, w in zip(parts, work, strict=True)) for name in work[0]], axis=0)
    whole = np.maximum(row_seconds(cost, FP8), floor)
    assert sum(part.time_s for part in parts) == pytest.approx(whole, rel=1e-12)
    assert np.mean(whole > floor) > 0.6  # the document speaks, not the bound
    low, high = (sum(getattr(part, name) for part in parts) for name in ("low_s", "high_s"))
    assert np.all(low < whole) and np.all(whole < high)
    for part in parts:
        longest = np.max([np.broadcast_to(s, whole.shape) for name, s in part.seconds.items() if name != "overhead"], 0)
        assert np.broadcast_to(part.time_s, whole.shape) == pytest.approx(longest + part.seconds["overhead"], rel=1e-9)


@pytest.mark.parametrize(
    ("model", "tp", "ep", "chips"),
    [
        ("mixtral-8x7b", 2, 1, ("h100", "a100", "b200", "mi300x", "l40s", "ascend-910b", "rebel-quad", "tpu-v4")),
        ("qwen3-30b-a3b", 2, 8, ("h100", "b200", "ascend-910b", "rebel-quad")),
        ("deepseek-v3", 8, 32, ("h100", "b200")),
    ],
)
def test_no_operator_is_lost_or_counted_twice(model: str, tp: int, ep: int, chips: tuple[str, ...]):
    work = step(model, BATCHES, tp, ep, "bf16")
    for chip in chips:
        check_none_lost(work, chip)


def check_none_lost(work: Workload, chip: str) -> None:
    cost = ns.estimate(work, chip, calibration="auto")
    plain = ns.estimate(work, chip, cost.fidelity)
    assert [item.op for item in cost.ops] == [item.op for item in plain.ops]
    assert cost.time_s - cost.host_s == pytest.approx(sum(item.time_s for item in cost.ops), rel=1e-12)
    assert np.all(cost.time_s >= cost.lower_bound_s * (1 - 1e-12))
    for before, after in zip(plain.ops, cost.ops, strict=True):
        assert (before.count, before.op.kind) == (after.count, after.op.kind)
        if after.state == "uncalibrated":
            assert after.time_s == pytest.approx(before.time_s, rel=1e-12)
    layer = {item.state for item in of_layer(cost)}
    assert len(layer) == 1, chip  # priced together, or each as it was
    ratio = sum(item.time_s for item in of_layer(cost)) / sum(item.time_s for item in of_layer(plain))
    assert np.all((ratio[2:] > 0.5) & (ratio[2:] < 8)), (chip, ratio)  # of one token launches are most


def test_a_document_of_expert_layers_alone_changes_nothing_else():
    work = step("qwen3-30b-a3b")
    plain, cost = ns.estimate(work, "h100", "tile"), ns.estimate(work, "h100", calibration=FP8)
    inside = {id(item.op) for item in of_layer(cost)}
    assert {item.state for item in cost.ops if id(item.op) in inside} == {"calibrated"}
    for before, after in zip(plain.ops, cost.ops, strict=True):
        if id(after.op) not in inside:
            assert (after.state, after.time_s) == ("uncalibrated", before.time_s)


def test_arrays_equal_scalars():
    both = ns.estimate(step("mixtral-8x7b", BATCHES, 2), "h100", calibration="auto", software="trtllm")
    for index, batch in enumerate(BATCHES.tolist()):
        one = ns.estimate(step("mixtral-8x7b", batch, 2), "h100", calibration="auto", software="trtllm")
        assert one.time_s == pytest.approx(both.time_s[index], rel=1e-12)
        for item, many in zip(of_layer(one), of_layer(both), strict=True):
            assert item.time_s == pytest.approx(np.broadcast_to(many.time_s, len(BATCHES))[index], rel=1e-12)


def test_the_stack_with_documents_of_the_experts_is_chosen():
    """Experts are most of such a step: documents of the products around them alone do not speak for it."""
    work = step("qwen3-235b-a22b")
    documents = ns.estimate(work, "h100", calibration="auto").calibration
    assert documents is not None and documents.software in ("trtllm", "vllm", "sglang")
    (block,) = blocks_of(work.ops)
    match = documents.match(block.row)
    assert match is not None and pricing.kernels_of(match[0].calibration.software) == documents.software


def test_a_busier_expert_takes_longer():
    def seconds(pct: int) -> float:
        up, down = (
            ns.experts(512, 2, 8, n, k, "fp8", "fp8", imbalance_pct=pct) for n, k in ((2048, 4096), (4096, 1024))
        )
        return float(ns.estimate(Workload("layer", (up, down)), "h100", calibration=FP8).time_s)

    assert seconds(100) < seconds(150) < seconds(300) < 3 * seconds(100)


def mixtral_rows(shared: Path) -> Iterator[tuple[Op, Op, float]]:
    """Fused fp8 layers of Mixtral's shape on H100 by TensorRT-LLM, evenly routed, and their seconds."""
    with gzip.open(shared / "data" / "measured" / "aiconfigurator" / "moe_ffn.csv.gz", "rt") as file:
        head = next(file).rstrip().split(",")
        for line in file:
            row = dict(zip(head, line.rstrip().split(","), strict=True))
            if not row["device"].startswith("H100") or row["dtype"] != "fp8" or "trtllm" not in row["software"]:
                continue
            extra = dict(part.split("=") for part in row["extra"].split(";"))
            if (row["n"], row["k"], extra["dist"]) != ("14336", "4096", "balanced"):
                continue
            tp, ep = int(extra["tp"]), int(extra["ep"])
            sizes = {"tokens": int(row["m"]), "top_k": 2, "experts": 8, "ep": ep}
            width = 14336 // tp
            kinds = {"a": "fp8", "b": "fp8"}
            up, down = (ns.experts(n=n, k=k, **sizes, **kinds) for n, k in ((2 * width, 4096), (4096, width)))
            yield up, down, float(row["latency_us"]) * 1e-6


def test_measured_layers_of_mixtral(shared: Path):
    errors = []
    for up, down, measured in mixtral_rows(shared):
        cost = ns.estimate(Workload("layer", (up, down)), "h100", calibration="auto", software="trtllm")
        errors.append(abs(float(cost.time_s) / measured - 1))
    assert len(errors) >= 8 and np.mean(errors) < 0.1
