"""Is the trace a valid one, and does it say what the timeline says?"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npusim as ns
from npusim import workload
from npusim.chip import Chip, load_chip
from npusim.cost import trace_events
from npusim.cost.program import WORK
from npusim.cost.trace_events import Run
from npusim.errors import InputError, NpuError
from npusim.workload import Op, Workload

TICK_US = trace_events.TICK_US


@pytest.fixture(scope="module")
def chip() -> Chip:
    return load_chip("npu-2pf").replace({"cores": 4})


@pytest.fixture(scope="module")
def step() -> Workload:
    first = workload.gemm(300, 260, 520)
    hostile = Op("gemm", '"q\\k</script>\n가"', first.dims, first.formats, first.roles, count=3)
    attention = workload.attention(1, 8, 2, 64, 32, 128)
    return Workload("step", (first, workload.softmax(64, 256), hostile, attention, workload.collective(8192, 2)))


@pytest.fixture(scope="module")
def runs(chip: Chip, step: Workload) -> list[Run]:
    return trace_events.simulate(step, chip)


@pytest.fixture(scope="module")
def events(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("trace") / "t.json"
    written = trace_events.write(runs, file, "a step")
    found = json.loads(file.read_text())["traceEvents"]
    assert written.events == len(found)
    assert written.cores == written.chip_cores == 4
    return list(found)


def slices(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X"]


def test_every_event_has_what_the_format_asks_for(events: list[dict[str, Any]]):
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["name"] == "process_name"}
    for event in events:
        assert isinstance(event["name"], str)
        assert event["ts"] >= 0
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["pid"] in processes
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in named
        if event["ph"] == "C":
            assert all(isinstance(value, float) for value in event["args"].values())


def test_slices_of_a_track_do_not_overlap_and_end_with_the_step(events: list[dict[str, Any]], runs: list[Run]):
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in slices(events):
        tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(tracks) == 1 + 1 + 4 * 4  # operators, links, queues of the cores
    for spans in tracks.values():
        spans.sort()
        assert all(one[1] <= two[0] for one, two in pairwise(spans))
    last = max(event["ts"] + event["dur"] for event in slices(events))
    assert last == pytest.approx((runs[-1].begin_s + runs[-1].time_s) * 1e6, abs=TICK_US)


def test_tasks_lie_within_their_operator(events: list[dict[str, Any]], runs: list[Run]):
    tasks = [event for event in slices(events) if event["pid"] != trace_events.OPERATORS]
    assert len(tasks) == sum(int((run.ran.program.work > 0).sum()) for run in runs)
    operators = [event for event in slices(events) if event["pid"] == trace_events.OPERATORS]
    for event in tasks:
        assert any(
            op["ts"] <= event["ts"] and event["ts"] + event["dur"] <= op["ts"] + op["dur"] + TICK_US for op in operators
        )


def test_matrix_slices_sum_to_the_busy_time_and_bytes_are_kept(chip: Chip, tmp_path: Path):
    (run,) = trace_events.simulate(Workload("g", (workload.gemm(600, 500, 700),)), chip)
    trace_events.write([run], tmp_path / "g.json", "g")
    found = slices(json.loads((tmp_path / "g.json").read_text())["traceEvents"])
    busy: dict[int, float] = defaultdict(float)
    for event in found:
        if WORK.get(event["name"]) == "matrix":
            busy[event["pid"]] += event["dur"]
    assert max(busy.values()) == pytest.approx(run.ran.busy_s("matrix") * 1e6, abs=TICK_US * len(found))
    assert max(busy.values()) > 0
    moved = sum(event["args"].get("bytes", 0.0) for event in found)
    assert moved == pytest.approx(run.ran.program.bytes.sum())
    waited = max(event["args"].get("waited_us", 0.0) for event in found)
    assert waited == pytest.approx((run.ran.begin_s - run.ran.start_s).max() * 1e6, abs=1e-3)


def test_counters_stay_within_their_limits(events: list[dict[str, Any]], runs: list[Run], chip: Chip):
    seen = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            seen[event["pid"], event["name"].split(",")[0]].append(event["args"]["value"])
    peak = runs[0].dram_bytes_per_s * 1e-9
    assert 0 < max(seen[trace_events.CHIP, "DRAM bandwidth"]) <= peak * 1.001
    most = max(seen[trace_events.CHIP, "fullest core's memory"])
    assert 0 < most <= runs[0].ran.program.core_bytes
    cores = [max(seen[trace_events.FIRST_CORE + core, "core memory"]) for core in range(4)]
    assert max(cores) == pytest.approx(most)
    assert min(min(values) for values in seen.values()) >= 0
    assert all(seen[trace_events.FIRST_CORE + core, "core memory"][-1] == 0 for core in range(4))


def test_bandwidth_conserves_bytes_and_never_passes_the_peak(runs: list[Run]):
    for run in runs:
        edges, rate = trace_events.dram_bandwidth(run.ran, run.dram_bytes_per_s)
        assert (rate * np.diff(edges)).sum() == pytest.approx(run.ran.program.blocks.bytes.sum(), rel=1e-3)
        assert rate.max() <= run.dram_bytes_per_s * 1.0001


def test_equal_operators_are_simulated_once_and_names_survive(
    events: list[dict[str, Any]], runs: list[Run], step: Workload
):
    assert runs[0].ran is runs[2].ran
    assert runs[0].ran is not runs[1].ran
    shown = [event for event in slices(events) if event["pid"] == trace_events.OPERATORS]
    assert [event["name"] for event in shown] == [op.name for op in step.ops]
    assert [event["args"]["count"] for event in shown] == [1, 1, 3, 1, 1]


def test_time_of_an_operator_is_its_cost(runs: list[Run], chip: Chip, step: Workload):
    cost = ns.estimate(step, chip, "cycle")
    for run, item in zip(runs, cost.ops, strict=True):
        assert run.time_s == pytest.approx(float(item.time_s) / item.count)


def test_compressed_file_holds_the_same(runs: list[Run], tmp_path: Path):
    trace_events.write(runs, tmp_path / "t.json", "x")
    trace_events.write(runs, tmp_path / "t.json.gz", "x")
    with gzip.open(tmp_path / "t.json.gz", "rt", encoding="utf-8") as stream:
        assert stream.read() == (tmp_path / "t.json").read_text(encoding="utf-8")


def test_too_many_events_leave_out_cores_or_are_refused(tmp_path: Path):
    wide = load_chip("npu-2pf").replace({"cores": 12})
    runs = trace_events.simulate(Workload("g", (workload.gemm(2048, 2048, 512),)), wide)
    few, many = trace_events.count(runs, 8), trace_events.count(runs, 12)
    assert few < many
    written = trace_events.write(runs, tmp_path / "t.json", "x", max_events=few)
    assert (written.cores, written.chip_cores) == (8, 12)
    assert written.events <= few + 200
    assert trace_events.write(runs, tmp_path / "t.json", "x", cores=1).cores == 1
    with pytest.raises(InputError, match="show fewer cores"):
        trace_events.write(runs, tmp_path / "no.json", "x", max_events=100)
    with pytest.raises(InputError, match="at least 1"):
        trace_events.write(runs, tmp_path / "no.json", "x", cores=0)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_cost_traces_itself(chip: Chip, step: Workload, tmp_path: Path):
    written = ns.estimate(step, chip).trace(tmp_path / "t.json", op="softmax")
    assert written.operators == 1
    assert "softmax" in (tmp_path / "t.json").read_text()
    with pytest.raises(InputError, match="operator of the workload"):
        ns.estimate(step, chip).trace(tmp_path / "t.json", op="softmin")
    shapes = workload.gemm(np.array([16, 32]), 64, 64)
    with pytest.raises(InputError, match="scalar dimensions"):
        ns.estimate(shapes, chip).trace(tmp_path / "t.json")
    with pytest.raises(NpuError, match="fidelity 'cycle'"):
        ns.estimate(workload.gemm(64, 64, 64), "rebel-quad").trace(tmp_path / "t.json")
    with pytest.raises(InputError, match="cannot write the trace"):
        ns.estimate(step, chip).trace(tmp_path / "nowhere" / "t.json")
    with pytest.raises(InputError, match="cannot write the trace"):
        ns.estimate(step, chip).trace(tmp_path)
