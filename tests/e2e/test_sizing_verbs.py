"""``npusim sweep`` and ``npusim size`` as a user runs them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from npusim.cli import cli
from npusim.errors import DoesNotFit, InputError
from npusim.sizing.store import StoreError

PLAN = """format: npusim-plan/1
chip: npu-2pf
fidelity: roofline
parameters:
  chip.memory.stacks: [4, 6]
  serving.batch: [1, 64]
constraints: ["tpot <= 2 ms"]
workloads:
  - {model: llama-3.1-8b, precision: fp8}
"""
SIZE = ["size", "--fidelity", "roofline", "--target", "llama-3.1-8b fp8 1000/100 tpot<=3ms concurrency>=16 tp=1"]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN)
    return file


def run(*words: str):
    return CliRunner().invoke(cli, list(words), catch_exceptions=False)


def test_a_sweep_is_stored_exported_and_continued(plan: Path):
    first = run("sweep", "plan.yaml", "--export", "a.csv")
    assert "2 designs x 2 cases" in first.output and "2 of 2 designs, 0 failed, 0 s left" in first.output
    assert (plan.parent / "plan.db").exists()
    again = json.loads(run("sweep", "plan.yaml", "--quiet", "--json").stdout)
    with (plan.parent / "a.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["time_s"] for row in again["rows"]] == [float(row["time_s"]) for row in rows]
    assert [row["feasible"] for row in rows] == ["True", "False", "True", "False"]
    assert "4 rows in b.csv" in run("sweep", "plan.yaml", "--only-export", "--export", "b.csv").output
    keys = run("sweep", "plan.yaml", "--store", "other.db", "--quiet", "--acknowledge").stdout.split()
    assert len(set(keys)) == 2


def test_mistakes_of_a_plan_name_the_line(plan: Path):
    plan.write_text(PLAN.replace("chip.memory.stacks", "chip.memory.stack"))
    with pytest.raises(InputError, match=r"plan.yaml:5:3: parameters.chip.memory.stack: .*did you mean 'stacks'"):
        run("sweep", "plan.yaml")
    with pytest.raises(InputError, match="cannot read"):
        run("sweep", "none.yaml")


def test_a_store_that_is_none_is_one_message(plan: Path):
    (plan.parent / "plan.db").write_text("no database at all" * 100)
    with pytest.raises(StoreError, match="damaged or no store"):
        run("sweep", "plan.yaml")


def test_sizing_says_what_is_best_and_what_it_needs():
    told = run(*SIZE, "--vary", "memory.stacks=2,4", "--minimise", "cost", "--maximise", "throughput").output
    assert "2 designs (grid), 1 reach the target" in told and "<- best, knee" in told
    assert (
        "nearest existing chips" in told and "bandwidth (memory.bandwidth" in told and "fails: tpot<=3ms (dram)" in told
    )
    assert "elasticities" in told


def test_sizing_as_json_has_units_in_its_keys():
    found = json.loads(run(*SIZE, "--vary", "memory.stacks=2,4", "--only-designs", "--json").stdout)
    assert found["best"] == 1 and found["designs"][1]["feasible"] and not found["designs"][0]["feasible"]
    assert found["designs"][1]["metrics"]["tpot_s"] <= 3e-3 and found["least"] == []


def test_sizing_without_an_answer_and_with_bad_words():
    with pytest.raises(DoesNotFit, match="none of 1 designs"):
        run(*SIZE, "--max-power", "100 W", "--only-designs")
    with pytest.raises(InputError, match="--maximise throughput"):
        run(*SIZE, "--minimise", "throughput")
    with pytest.raises(InputError, match="did you mean"):
        run(*SIZE, "--vary", "memory.stakcs=2")
    with pytest.raises(InputError, match="contradictory"):
        run(*SIZE, "--limit", "tpot >= 4 ms")
