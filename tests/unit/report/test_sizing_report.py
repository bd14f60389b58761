"""Reports of sweeps and sizings: what the board says, what the charts draw, and that files hold it."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from npusim.cli import cli
from npusim.errors import InputError
from npusim.report import sizing_files, sizing_page, sizing_plots, sizing_view, sizing_workbook
from npusim.report.png import png
from npusim.sizing.sizes import Sizing, limit, size
from npusim.sizing.sweeps import Sweep, sweep

TARGET = "llama-3.1-8b fp8 1000/200 tpot<=3ms ttft<=1s concurrency>=16 tp=1"
VARY = {"memory.stacks": [2, 4, 6], "core.vector.lanes": [256, 1024], "clock": ["0.7 GHz", "0.95 GHz"]}
PLAN = {
    "chip": "npu-2pf", "fidelity": "roofline",
    "parameters": {"chip.memory.stacks": [2, 4, 6], "chip.clock": [0.5e9, 0.9e9], "serving.batch": [1, 64]},
    "constraints": ["time <= 20 ms"],
    "workloads": [{"model": "llama-3.1-8b", "precision": "fp8", "context": 2048}],
}  # fmt: skip


@pytest.fixture(scope="module")
def sizing() -> Sizing:
    return size("npu-2pf", TARGET, vary=VARY, objectives=("cost", "tpot"), fidelity="roofline")


@pytest.fixture(scope="module")
def board(sizing: Sizing) -> sizing_view.Board:
    return sizing_view.of_sizing(sizing)


@pytest.fixture(scope="module")
def swept() -> Sweep:
    return sweep(PLAN)


def test_the_board_of_a_sizing_holds_every_design_and_chip(sizing: Sizing, board: sizing_view.Board):
    assert len(board.designs) == len(sizing.candidates) == 12
    assert [i for i, item in enumerate(board.designs) if "front" in item.marks] == list(sizing.front)
    assert board.choice == sizing.best
    assert {item.name for item in board.items if item.existing} == {n.name for n in sizing.neighbours}
    assert board.kperf is not None and {row["model"] for row in board.kperf.rows} == {"llama-3.1-8b"}
    assert len(board.least) == len(sizing.least) > 0


def test_swings_are_ratios_to_the_choice(sizing: Sizing, board: sizing_view.Board):
    swing = next(s for s in board.swings if s.path == "memory.bandwidth")
    at = sizing.candidates[sizing.best or 0].verdict.metrics["tpot_s"]
    assert swing.ratios["tpot_s"][0] == next(
        s.at_low["tpot_s"] for s in sizing.sensitivities if s.path == "memory.bandwidth"
    ) / (at or 1)
    rows = sizing_view.tornado_rows(board, "tpot_s")
    sizes = [max(abs(r - 1) for r in s.ratios["tpot_s"] if r is not None) for s in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) > sizing_view.MOVED


def test_a_sweep_is_judged_by_its_worst_case(swept: Sweep):
    board = sizing_view.of_sweep(swept, ["tpot", "cost"])
    for d, item in enumerate(board.designs):
        assert item.metrics["tpot_s"] == swept.metrics["tpot_s"][d].max()
        assert item.metrics["mbu"] == swept.metrics["mbu"][d].min()
        assert item.feasible == bool(swept.feasible_designs[d])
    on_front = [item for item in board.designs if "front" in item.marks]
    assert on_front
    for item in on_front:  # nothing feasible is better in both
        for other in board.designs:
            if other.feasible:
                assert not all((other.metrics[k] or 0) < (item.metrics[k] or 0) for k in board.objectives)
    assert {s.path for s in board.swings} == {"chip.memory.stacks", "chip.clock"}
    swing = next(s for s in board.swings if s.path == "chip.memory.stacks")
    assert swing.ends == (2.0, 6.0)


def test_unknown_objectives_are_refused(swept: Sweep):
    with pytest.raises(InputError, match="unknown metric"):
        sizing_view.of_sweep(swept, ["speed"])


def test_without_a_feasible_design_the_page_says_what_is_in_the_way():
    found = size("npu-2pf", TARGET, vary={"memory.stacks": [4, 6]}, limits=[limit("area", "100 mm2")],
                 fidelity="roofline", neighbours=False, inverse=False, sensitivity=False)  # fmt: skip
    board = sizing_view.of_sizing(found)
    text = sizing_page.render(board)
    assert board.choice is None
    assert "area &lt;= 100 mm2: 2 designs" in text


def test_failed_designs_are_rows_too():
    plan = PLAN | {"parameters": {"chip.area.dies": [1, 2], "chip.cores": [64, 10**7]}}
    board = sizing_view.of_sweep(sweep(plan))
    text = sizing_page.render(board)
    assert text.count("<tr") > len(board.designs)
    assert all(item.violated for item in board.designs if not item.metrics)


def test_charts_draw_every_design_once(board: sizing_view.Board):
    drawing = sizing_plots.parallel(board)
    assert drawing is not None
    root = ElementTree.fromstring(drawing.document())
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == len(board.designs)
    assert set(sizing_plots.all_of(board)) >= {"pareto", "parallel", "tornado-cost_usd", "tornado-tpot_s"}


def test_the_front_is_joined_in_order(board: sizing_view.Board):
    drawing = sizing_plots.pareto(board)
    assert drawing is not None
    line = ElementTree.fromstring(drawing.document()).find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    points = [tuple(map(float, p.split(","))) for p in line.get("points", "").split()]
    assert len(points) == sum("front" in item.marks for item in board.designs)
    assert points == sorted(points)


def test_with_one_objective_there_is_no_scatter(sizing: Sizing):
    import dataclasses

    one = sizing_view.of_sizing(dataclasses.replace(sizing, objectives=("cost_usd",)))
    assert sizing_plots.pareto(one) is None
    assert "Nothing to draw" in sizing_page.render(one)


def test_files_hold_page_workbook_and_plots(board: sizing_view.Board, tmp_path: Path):
    page = sizing_files.write_report(board, tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    book = sizing_files.write_report(board, tmp_path / "r.xlsx").read_bytes()
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        names = re.findall(r'<sheet name="([^"]+)"', archive.read("xl/workbook.xml").decode())
    assert names == ["Question", "Designs", "Chart", "Elasticities", "Least", "K-Perf", "Notes"]
    assert sizing_workbook.render(board) == book
    plots = sizing_files.write_plots(board, tmp_path / "plots")
    assert {p.suffix for p in plots} == {".svg", ".png"}
    for path in plots:
        if path.suffix == ".svg":
            ElementTree.parse(path)


def test_a_report_needs_a_known_ending(board: sizing_view.Board, tmp_path: Path):
    with pytest.raises(InputError, match="no known ending"):
        sizing_files.write_report(board, tmp_path / "r.pdf")
    with pytest.raises(InputError, match="cannot write"):
        sizing_files.write_report(board, tmp_path / "no" / "such" / "r.html")


def test_a_png_shows_what_the_drawing_shows(board: sizing_view.Board):
    from matplotlib.image import imread

    drawing = sizing_plots.tornado(board, "tpot_s")
    assert drawing is not None
    picture = imread(io.BytesIO(png(drawing.document())))
    assert picture.shape[:2] == (round(drawing.canvas.height) * 2, round(drawing.canvas.width) * 2)
    orange = (abs(picture[:, :, 0] - 0xD5 / 255) < 0.02) & (abs(picture[:, :, 1] - 0x5E / 255) < 0.02)
    assert orange.mean() > 0.001  # bars of the second colour


def test_verbs_write_them(tmp_path: Path):
    arguments = ["size", "--target", TARGET, "--vary", "bank=1,2", "--derive", "memory.stacks=2+2*bank",
                 "--derive", "memory.capacity=memory.stacks*36e9", "--minimise", "cost", "--minimise", "tpot",
                 "--fidelity", "roofline", "--report", str(tmp_path / "s.html"),
                 "--plots", str(tmp_path / "p")]  # fmt: skip
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "bank" in (tmp_path / "s.html").read_text(encoding="utf-8")
    assert (tmp_path / "p" / "pareto.png").stat().st_size > 1000
    plan = tmp_path / "plan.yaml"
    plan.write_text("format: npusim-plan/1\nchip: npu-2pf\nfidelity: roofline\n"
                    "parameters: {chip.memory.stacks: [4, 6]}\n"
                    "workloads: [{model: llama-3.1-8b, precision: fp8}]\n", encoding="utf-8")  # fmt: skip
    done = CliRunner().invoke(cli, ["sweep", str(plan), "--store", str(tmp_path / "x.db"), "--quiet", "--report",
                                    str(tmp_path / "w.html"), "--objective", "tpot", "--objective", "cost"],
                              catch_exceptions=False)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Sweep npu-2pf" in (tmp_path / "w.html").read_text(encoding="utf-8")
