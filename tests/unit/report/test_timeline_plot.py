"""Are the pictures well-formed, complete, and true to the run?"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import npusim as ns
from npusim import workload
from npusim.chip import Chip, load_chip
from npusim.cost import trace_events
from npusim.errors import InputError
from npusim.report import timeline_plot
from npusim.workload import Op, Workload

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def chip() -> Chip:
    return load_chip("npu-2pf").replace({"cores": 4})


def texts(root: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def inside(root: ElementTree.Element) -> bool:
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    boxes = [[float(node.attrib[key]) for key in ("x", "y", "width", "height")] for node in root.iter(f"{SVG}rect")]
    return all(x >= 0 and y >= 0 and x + w <= width + 0.1 and y + h <= height for x, y, w, h in boxes)


OPERATORS = (
    workload.gemm(600, 500, 700), workload.attention(1, 8, 2, 64, 32, 128), workload.softmax(64, 256),
    workload.collective(8192, 2),
)  # fmt: skip


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.kind)
def test_timeline_has_a_row_per_queue_and_a_bar_per_piece_of_work(op: Op, chip: Chip):
    (run,) = trace_events.simulate(Workload("w", (op,)), chip)
    root = ElementTree.fromstring(timeline_plot.timeline(run, 'a "<title>" & 가', cores=2))
    queues = [queue for queue in run.ran.program.queues if queue.core < 2]
    names = [f"core {queue.core} {queue.name}" if queue.core >= 0 else f"chip {queue.name}" for queue in queues]
    shown = texts(root)
    assert set(names) <= set(shown)
    assert "core 2 load" not in shown
    assert 'a "<title>" & 가' in shown
    assert "time, µs" in shown
    assert any(text.startswith("DRAM bandwidth") for text in shown)
    assert any(text.startswith("memory of the fullest core") for text in shown)
    told = [node.findtext(f"{SVG}title", "") for node in root.iter(f"{SVG}rect")]
    tasks = sum(int(found[1]) for text in told if (found := re.search(r": (\d+) tasks?\b", text)))
    cores = np.array([queue.core for queue in run.ran.program.queues])[run.ran.program.queue]
    assert tasks == int(((cores < 2) & (run.ran.program.work > 0)).sum())
    assert inside(root)


def test_thin_tasks_are_merged_and_wide_ones_are_not():
    begin = np.array([0.0, 10.0, 20.2, 20.6, 21.0, 40.0])
    end = np.array([10.0, 20.0, 20.4, 20.8, 21.2, 40.1])
    found = timeline_plot.merged(begin, end)
    assert found.begin.tolist() == [0.0, 10.0, 40.0]
    assert found.end.tolist() == [10.0, 21.2, 40.1]
    assert found.tasks.tolist() == [1, 4, 1]
    assert found.busy.sum() == pytest.approx((end - begin).sum())
    assert len(timeline_plot.merged(begin[:0], end[:0]).begin) == 0


def test_a_million_tasks_make_a_small_picture():
    begin = np.linspace(0, 800, 1_000_000, endpoint=False)
    found = timeline_plot.merged(begin, begin + 4e-4)
    assert len(found.begin) == 1
    assert found.busy[0] / (found.end[0] - found.begin[0]) == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("fidelity", ["roofline", "tile", "cycle"])
def test_utilisation_shows_every_operator_at_any_fidelity(fidelity: str, chip: Chip):
    step = Workload("step", (workload.gemm(300, 260, 520), workload.softmax(64, 256), workload.collective(8192, 2)))
    cost = ns.estimate(step, chip, fidelity)
    root = ElementTree.fromstring(timeline_plot.utilisation(cost))
    shown = texts(root)
    assert {"whole step", "gemm", "softmax", *(op.name for op in step.ops)} <= set(shown)
    told = [node.findtext(f"{SVG}title", "") for node in root.iter(f"{SVG}rect")]
    shares = [float(found[1]) for text in told if (found := re.search(r"whole step: ([\d.]+)% of the step", text))]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert inside(root)


def test_many_operators_share_a_bar_and_long_names_are_cut(chip: Chip):
    one = workload.softmax(64, 256)
    ops = tuple(Op(one.kind, f"{'long' * 20}{i}", one.dims, one.formats, one.roles) for i in range(60))
    shown = texts(ElementTree.fromstring(timeline_plot.utilisation(ns.estimate(Workload("w", ops), chip))))
    assert "20 shorter ones" in shown
    assert all(len(text) < 60 for text in shown)


def test_array_dimensions_are_refused(chip: Chip):
    cost = ns.estimate(workload.gemm(np.array([16, 32]), 64, 64), chip)
    with pytest.raises(InputError, match="scalar dimensions"):
        timeline_plot.utilisation(cost)
