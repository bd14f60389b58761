"""Pictures and traces of a serving run: well-formed, complete, and telling what the records tell."""

from __future__ import annotations

import dataclasses
import gzip
import json
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npusim as ns
from npusim.cost import trace_events
from npusim.errors import InputError
from npusim.report import serving_plots, serving_trace
from npusim.serving.answer import Serving
from npusim.serving.engine import Rules
from npusim.serving.steps import Shape, step_times, workload_of


@pytest.fixture(scope="module")
def run() -> Serving:
    lengths = {"input": "lognormal:600", "output": "exponential:40", "requests": 150}
    return ns.serve("npu-2pf", "llama-3.1-8b", precision="fp8", fidelity="roofline", arrivals="poisson:80", chips=1,
                    slo="ttft=450ms,tpot=40ms", keep=True, log=True, **lengths)  # fmt: skip


def test_the_page_holds_well_formed_charts(run: Serving):
    text = serving_plots.document(run)
    assert text.count("<svg") == text.count("<figure") == 6
    for one in serving_plots.figures(run):
        ET.fromstring(one.chart)
        assert "nan" not in one.chart and "inf" not in one.chart.replace('"inf', "")
    assert "TTFT limit" in text and "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_drawing_is_one_svg_file(run: Serving):
    root = ET.fromstring(serving_plots.drawing(run))
    assert root.tag.endswith("svg") and len(root.findall("{http://www.w3.org/2000/svg}svg")) == 6


def test_gantt_bars_are_the_requests(run: Serving):
    chart = ET.fromstring(serving_plots.gantt(run))
    bars = [bar for bar in chart.iter("rect") if bar.find("title") is not None]
    shown = {bar.find("title").text.split(":")[0] for bar in bars}  # type: ignore[union-attr]
    assert len(shown) == serving_plots.SHOWN
    texts = {bar.find("title").text for bar in bars}  # type: ignore[union-attr]
    for row in run.records:
        name = f"request {row['id']}"
        if name in shown and row["last"] > row["first"]:  # one token is no decoding
            assert f"{name}: decoding {1e3 * (row['last'] - row['first']):.4g} ms" in texts


def events(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text()
    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)["traceEvents"]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), pairs
    return found


def refuse(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are no JSON


def depth_of(found: list[dict[str, Any]]) -> int:
    """How deep slices are nested; those of a track lie inside each other or apart."""
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for one in found:
        if one["ph"] == "X":
            assert one["ts"] >= 0 and one["dur"] >= 0
            tracks.setdefault((one["pid"], one["tid"]), []).append((one["ts"], -one["dur"]))
    deepest = 0
    for slices in tracks.values():
        ends: list[float] = []
        for begin, minus in sorted(slices):
            while ends and ends[-1] <= begin:
                ends.pop()
            assert not ends or begin - minus <= ends[-1]
            ends.append(begin - minus)
            deepest = max(deepest, len(ends))
    return deepest


def check_counters_and_arrows(found: list[dict[str, Any]]) -> int:
    """Counters go forward in time, arrows go from slice to slice; how many arrows there are."""
    last: dict[tuple[int, str], float] = {}
    for one in (e for e in found if e["ph"] == "C"):
        key = (one["pid"], one["name"])
        assert one["ts"] >= last.get(key, 0.0)
        last[key] = one["ts"]
    begins = {e["id"]: e for e in found if e["ph"] == "s"}
    ends = {e["id"]: e for e in found if e["ph"] == "f"}
    assert begins.keys() == ends.keys()
    for e in (*begins.values(), *ends.values()):
        slices = (x for x in found if x["ph"] == "X" and (x["pid"], x["tid"]) == (e["pid"], e["tid"]))
        assert any(x["ts"] <= e["ts"] <= x["ts"] + x["dur"] for x in slices), e
    assert all(begins[number]["ts"] <= ends[number]["ts"] for number in begins)
    return len(begins)


def test_a_trace_nests_the_parts_of_requests(run: Serving, tmp_path: Path):
    path = tmp_path / "run.json.gz"
    count = serving_trace.write(run, path)
    found = events(path)
    assert len(found) == count and depth_of(found) == 2 and check_counters_and_arrows(found) == 0
    slices = [e for e in found if e["ph"] == "X" and e["pid"] == serving_trace.REQUESTS]
    whole = {e["name"]: e for e in slices if e["name"].startswith("request")}
    assert len(whole) == 150
    for lane in {e["tid"] for e in slices}:
        line = sorted((e for e in whole.values() if e["tid"] == lane), key=lambda e: e["ts"])
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(line))
        for part in (e for e in slices if e["tid"] == lane and not e["name"].startswith("request")):
            assert any(o["ts"] <= part["ts"] and part["ts"] + part["dur"] <= o["ts"] + o["dur"] for o in line)
    steps = [e for e in found if e["ph"] == "X" and e["pid"] == serving_trace.ENGINES]
    assert len(steps) == len(run.run.steps)
    assert sum(e["args"]["prompt_tokens"] for e in steps) == run.records["input"].sum()


def test_lanes_are_as_few_as_overlap():
    begin, end = np.array([0.0, 1, 2, 3]), np.array([2.5, 2, 3, 4])
    assert serving_trace.lanes(begin, end).tolist() == [0, 1, 1, 0]


def nested(found: list[dict[str, Any]], step: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Slices inside a step by depth; those in one slice lie side by side and in sum are as long as it is."""
    first, last = step["ts"], step["ts"] + step["dur"]
    track = [e for e in found if e["ph"] == "X" and (e["pid"], e["tid"]) == (step["pid"], step["tid"])]
    inside = sorted((e for e in track if first <= e["ts"] and e["ts"] + e["dur"] <= last and e is not step),
                    key=lambda e: (e["ts"], -e["dur"]))  # fmt: skip
    depths: dict[int, list[dict[str, Any]]] = {}
    stack = [step]
    children: dict[int, list[dict[str, Any]]] = {}
    for e in inside:
        while e["ts"] >= stack[-1]["ts"] + stack[-1]["dur"]:
            stack.pop()
        children.setdefault(id(stack[-1]), []).append(e)
        depths.setdefault(len(stack), []).append(e)
        stack.append(e)
    for parent in (step, *inside):
        if own := children.get(id(parent)):
            assert sum(e["dur"] for e in own) == parent["dur"], parent  # whole ticks: exact
            assert own[0]["ts"] == parent["ts"]
            assert all(a["ts"] + a["dur"] == b["ts"] for a, b in pairwise(own))
    return depths


def traced(served: Serving, path: Path, number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    serving_trace.write(served, path, number)
    found = events(path)
    steps = [e for e in found if e["ph"] == "X" and e["pid"] == serving_trace.ENGINES]
    return found, next(e for e in steps if e["args"].get("step") == number)


def small(**options: Any) -> Serving:
    defaults: dict[str, Any] = {"arrivals": "closed:2", "requests": 2, "input": 40, "output": 4, "keep": True,
                                "log": True, "chips": 1, "precision": "fp8"}  # fmt: skip
    return ns.serve("npu-2pf", **{"model": "exaone-4.0-1.2b", **defaults, **options})


@pytest.fixture(scope="module")
def two() -> Serving:
    return small()


def test_a_step_is_the_sum_of_its_parts(two: Serving, tmp_path: Path):
    assert serving_trace.batch_of(two, 0) == ([(40, 0), (40, 0)], [])
    assert serving_trace.batch_of(two, 1) == ([], [40, 40])
    layers = ns.load_model("exaone-4.0-1.2b").layers
    for number in (0, 1):
        found, step = traced(two, tmp_path / "step.json", number)
        assert depth_of(found) == 3 and check_counters_and_arrows(found) == 3  # two requests, and the chip
        depths = nested(found, step)
        names = [e["name"] for e in depths[1]]
        assert names[:2] == ["host gap", "embed"] and names[-3:] == ["final_norm", "lm_head", "sample"]
        assert sum(name.startswith("layers") for name in names) == layers
        order = [op.name for op in ns.decode("exaone-4.0-1.2b").ops if op.name.startswith("layers.")]
        inside = dict.fromkeys(f"layers.{e['name']}" for e in depths[2])  # the attention of two prompts has one name
        assert list(inside) == order
        assert all(0.97 <= e["args"]["scale"] <= 1.03 for e in depths[2])  # the table is what its operators cost


def test_the_chip_is_nested_in_its_step(two: Serving, tmp_path: Path):
    found, step = traced(two, tmp_path / "step.json", 1)
    leaves = [e for e in found if e["ph"] == "X" and e["pid"] == trace_events.OPERATORS]
    assert sum(e["dur"] for e in leaves) == step["dur"] and min(e["ts"] for e in leaves) == step["ts"]
    drawn = [e for e in leaves if "tasks" in e["args"]]
    work = workload_of(two.case.shape, *serving_trace.batch_of(two, 1))
    assert sorted(e["name"] for e in drawn) == sorted(op.name for op in work.ops)  # each of them once
    assert all(0.5 < e["args"].get("stretch", 1) < 2 for e in drawn)
    tasks = [e for e in found if e["ph"] == "X" and e["pid"] >= trace_events.FIRST_CORE]
    assert tasks
    for e in tasks:  # inside the slice of an operator
        assert any(o["ts"] <= e["ts"] and e["ts"] + e["dur"] <= o["ts"] + o["dur"] for o in drawn), e
    for wrong in (-1, len(two.run.steps)):
        with pytest.raises(InputError, match="--step"):
            serving_trace.write(two, tmp_path / "no.json", wrong)


def test_operators_of_too_many_tasks_are_slices_without_tasks(two: Serving, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(serving_trace, "MOST_TASKS", 0)
    found, step = traced(two, tmp_path / "step.json", 1)
    leaves = [e for e in found if e["ph"] == "X" and e["pid"] == trace_events.OPERATORS]
    assert sum(e["dur"] for e in leaves) == step["dur"]
    assert not [e for e in leaves if "tasks" in e["args"] and e["name"] == "lm_head"]


def test_passes_of_the_draft_model_are_slices_of_their_own(tmp_path: Path):
    rules = Rules(draft_tokens=3, accepted_tokens=2, draft_model="exaone-4.0-1.2b")
    served = small(model="exaone-4.0-32b", output=20, rules=rules)
    found, step = traced(served, tmp_path / "step.json", 1)
    assert step["args"]["decodes"] == 2
    depths = nested(found, step)
    passes = [e for e in depths[1] if e["name"].startswith("draft pass")]
    assert [e["name"] for e in passes] == [f"draft pass {number} of 3" for number in (1, 2, 3)]
    table = served.case.pool().table
    free = dataclasses.replace(table, draft=None).price([], [40, 40])[0]
    assert sum(e["dur"] for e in passes) * 1e-6 == pytest.approx(step["dur"] * 1e-6 - free, rel=1e-4)
    assert {"layers 1 of 30"} <= {e["name"] for e in depths[2]}


def test_what_a_step_waits_for_is_a_slice_of_its_own(tmp_path: Path):
    served = small(model="llama-3.1-8b", chips=2, tp=1, pp=2, arrivals="closed:4", requests=4)
    waits = []
    for number in range(4):
        found, step = traced(served, tmp_path / "step.json", number)
        names = {e["name"]: e["dur"] for e in nested(found, step)[1]}
        assert names["hand-over between stages"] > 0
        waits.append(names.get("waiting for stages or swapped blocks", 0.0))
    assert max(waits) > 0


def test_the_workload_of_a_step_costs_what_its_table_says():
    shape = Shape(ns.load_model("llama-3.1-8b"), ns.load_chip("h100"), ns.llm.precision("fp8"), max_context=4096)
    cost = ns.estimate(workload_of(shape, [], [1000] * 8), "h100", "tile")
    table = step_times(shape).table()
    assert float(cost.time_s) + table.host_s == pytest.approx(table.price([], [1000] * 8)[0], rel=0.01)
