"""The study of docs/sizing-study.md: its tables are those of its data, and its data are what the program finds."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import npusim as ns
from npusim.sizing.expressions import Expression

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "sizing-study.md"


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "sizing-study" / "study.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest) -> Any:
    sys.path.insert(0, str(ROOT / "examples"))
    request.addfinalizer(lambda: sys.path.remove(str(ROOT / "examples")))
    import size_npu_2pf
    import sizing_tables

    return size_npu_2pf, sizing_tables


def close(one: Any, other: Any) -> None:
    """Equal in structure, and in numbers to 1e-6."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            close(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            close(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6)
    else:
        assert one == other


def test_tables_are_those_of_the_data(data: dict[str, Any], program: Any):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table:([\w-]+) -->", text)) == set(program[1].TABLES)
    assert program[1].renewed(text, data) == text


def test_pictures_of_the_document_are_there():
    for name in re.findall(r"\]\((sizing-study/[\w.-]+)\)", DOCUMENT.read_text(encoding="utf-8")):
        assert (DOCUMENT.parent / name).is_file()


def test_the_data_are_what_the_program_finds(data: dict[str, Any], program: Any):
    """The designs of the document judged anew: the present one, the recommended one, the ends of the front."""
    study = program[0]
    judge, base = study.judge(), ns.load_chip(study.BASE)
    stored = {key: data["base"][key] for key in ("metrics", "services", "violated", "bound")}
    close(json.loads(json.dumps(study.told(judge.judge(base)))), stored)
    derived = {name: Expression(text) for name, text in study.DERIVED.items()}
    for one in (data["recommended"], data["sizing"]["front"][0], data["sizing"]["front"][-1]):
        chip = study.varied(base, one["parameters"], derived)
        stored = {key: one[key] for key in ("metrics", "services", "violated", "bound")}
        close(json.loads(json.dumps(study.told(judge.judge(chip)))), stored)


def test_inverse_answers_hold_and_fail_as_told(data: dict[str, Any], program: Any):
    study = program[0]
    base = ns.load_chip(study.BASE)
    derived = {name: Expression(text) for name, text in study.DERIVED.items()}
    chip = study.varied(base, data["recommended"]["parameters"], derived)
    asked = study.pinned(study.judge(), study.judge().judge(chip))
    one = next(item for item in data["sizing"]["least"] if item["path"] == "memory.bandwidth")
    assert asked.judge(chip.replace({one["path"]: one["above"]})).feasible
    below = asked.judge(chip.replace({one["path"]: one["below"]}))
    assert list(below.violated) == one["binding"]


def test_the_recommendation_is_the_least_regret(data: dict[str, Any], program: Any):
    listed = [one["index"] for one in data["short_list"]]
    worst = program[0].regrets(data["scenarios"], listed)
    assert min(worst, key=lambda i: worst[i]) == data["recommended"]["index"]
    assert data["recommended"]["violated"] == [] and data["recommended"]["manufacturable"]


def test_claims_of_the_text(data: dict[str, Any]):
    """Figures that the prose quotes; where one fails, the text needs another reading, not another number."""
    mine, now = data["recommended"]["metrics"]["usd_per_mtoken"], data["scenarios"]["as assumed"]
    assert data["sizing"]["designs"] == 576 and data["sizing"]["feasible"] == 432
    assert mine == pytest.approx(0.0682, abs=5e-5)
    assert [round(1 - mine / now[name], 2) for name in ("npu-2pf", "h100", "rebel-quad")] == [0.22, 0.15, 0.11]
    assert now["b200"] / mine == pytest.approx(0.90, abs=0.005)
    assert all(row["b200"] < row[str(data["recommended"]["index"])] for row in data["scenarios"].values())
    assert data["recommended"]["die_mm2"] == pytest.approx(710, abs=5)
    slim = next(one for one in data["short_list"] if one["parameters"]["peak_pflops"] == 2)
    assert slim["metrics"]["usd_per_mtoken"] / mine == pytest.approx(1.03, abs=0.005)
    assert slim["metrics"]["cost_usd"] / data["recommended"]["metrics"]["cost_usd"] == pytest.approx(0.66, abs=0.005)
    bandwidth = next(one for one in data["sizing"]["least"] if one["name"] == "bandwidth")
    assert bandwidth["above"] / bandwidth["now"] == pytest.approx(0.57, abs=0.005)
    at_500 = next(one for one in data["one_at_a_time"] if one["path"] == "power.tdp" and one["value"] == 500)
    assert at_500["metrics"]["usd_per_mtoken"] / mine == pytest.approx(1.19, abs=0.005)
    wide = data["counter_examples"]["arrays"][-1]
    limits = (0.030, 0.040, 0.040, 0.080)
    assert all(one["tpot_loaded_s"] > most for one, most in zip(wide["tile"], limits, strict=True))
    limited = {(one["tdp_w"], one["peak_pflops"]): one["services"][3]["tpot_loaded_s"]
               for one in data["counter_examples"]["power"]}  # fmt: skip
    assert limited[220, 2] < limited[220, 3] < limited[220, 3.5]
    assert limited[5000, 2] > limited[5000, 3] > limited[5000, 3.5]
