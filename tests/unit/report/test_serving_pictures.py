"""Pictures and traces of a serving run: well-formed, complete, and telling what the records tell."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npusim as ns
from npusim.errors import InputError
from npusim.report import serving_plots, serving_trace
from npusim.serving.answer import Serving
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


def test_the_chip_is_nested_in_its_step(toy: ns.Chip, tmp_path: Path):
    served = ns.serve("npu-2pf", "exaone-4.0-1.2b", precision="fp8", arrivals="closed:2", requests=2, input=40,
                      output=4, chips=1, keep=True, log=True)  # fmt: skip
    prefills, decodes = serving_trace.batch_of(served, 0)
    assert prefills == [(40, 0), (40, 0)] and decodes == []
    prefills, decodes = serving_trace.batch_of(served, 1)
    assert prefills == [] and decodes == [40, 40]
    path = tmp_path / "step.json"
    serving_trace.write(served, path, 1)
    found = events(path)
    step = next(e for e in found if e["ph"] == "X" and e["name"] == "decode step" and e["args"]["step"] == 1)
    assert depth_of(found) == 2 and check_counters_and_arrows(found) == 3  # two requests, and the chip
    inside = [e for e in found if e["ph"] == "X" and e["pid"] == serving_trace.ENGINES and "count" in e["args"]]
    assert all(0.97 <= e["args"]["scale"] <= 1.03 for e in inside)  # the step is the sum of its operators
    assert inside[-1]["ts"] + inside[-1]["dur"] == step["ts"] + step["dur"]
    operators = [e for e in found if e["ph"] == "X" and e["pid"] == 1]
    assert {e["name"] for e in inside} == {e["name"] for e in operators}
    assert operators and operators[0]["ts"] == pytest.approx(step["ts"], abs=0.01)
    assert operators[-1]["ts"] + operators[-1]["dur"] <= step["ts"] + step["dur"]  # each layer once
    for wrong in (-1, len(served.run.steps)):
        with pytest.raises(InputError, match="--step"):
            serving_trace.write(served, path, wrong)


def test_the_workload_of_a_step_costs_what_its_table_says():
    shape = Shape(ns.load_model("llama-3.1-8b"), ns.load_chip("h100"), ns.llm.precision("fp8"), max_context=4096)
    cost = ns.estimate(workload_of(shape, [], [1000] * 8), "h100", "tile")
    table = step_times(shape).table()
    assert float(cost.time_s) + table.host_s == pytest.approx(table.price([], [1000] * 8)[0], rel=0.01)
