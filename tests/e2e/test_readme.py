"""What the README shows is what a user gets: its table, its commands, its Python."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npusim.kperf_suite import kperf
from npusim.report import table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("  #")[0].strip().removeprefix(".venv/bin/npusim ")
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.startswith(".venv/bin/npusim ")
]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "npusim", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_table_is_what_is_printed():
    shown = next(text for kind, text in BLOCKS if kind == "text").splitlines()
    printed = table.render(kperf("rebel-quad"), width=118).splitlines()
    missing = [line for line in shown if line != "..." and line not in printed]
    assert not missing


def test_there_are_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, tmp_path: Path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = run(shlex.split(command), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if "--out out" in command:
        assert {p.name for p in (tmp_path / "out").iterdir()} == {f"kperf.{s}" for s in ("xlsx", "html", "csv", "json")}


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_python_runs(code: str, capsys: pytest.CaptureFixture[str]):
    exec(compile(code, "README.md", "exec"), {"my_gemm": lambda a, b: (a.astype(np.float64) @ b).astype(np.float32)})
    if "nk.check" in code:
        assert "PASS" in capsys.readouterr().out


def test_figures_of_the_text_hold(shared: Path):
    """The comparison that the README quotes is the one in docs/published.md."""
    page = (ROOT / "docs" / "published.md").read_text()
    least, _, most = re.search(r"at least 1: least ([\d.]+), median ([\d.]+), most ([\d.]+)\.", page).groups()
    low, high = re.search(r"(\d+) to (\d+) % of it", README).groups()
    assert (int(low), int(high)) == (round(100 / float(most)), round(100 / float(least)))


def test_a_clean_run_prints_its_files(tmp_path: Path):
    done = run(["kperf", "--precision", "fp8", "--model", "llama-3.1-8b", "--out", "out"], tmp_path)
    assert done.returncode == 0
    assert [line.split("/")[-1] for line in done.stdout.splitlines() if line.startswith("wrote ")] == [
        "kperf.xlsx", "kperf.html", "kperf.csv", "kperf.json"]  # fmt: skip


def test_baseline_puts_the_unchanged_chip_first(tmp_path: Path):
    arguments = ["kperf", "--chip", "npu-2pf", "--model", "llama-3.1-8b", "--precision", "fp8", "--json"]
    done = run([*arguments, "--set", "memory.bandwidth=9 TB/s", "--baseline"], tmp_path)
    chips = list(dict.fromkeys(row["chip"] for row in json.loads(done.stdout)["rows"]))
    assert chips == ["npu-2pf", "npu-2pf [memory.bandwidth = 9 TB/s]"]
    alone = run([*arguments, "--baseline"], tmp_path)
    assert alone.returncode == 2 and "--set" in alone.stderr
