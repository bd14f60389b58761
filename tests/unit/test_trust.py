"""State and range of predictions that no calibration covers."""

from __future__ import annotations

import pytest

import npusim as ns
from npusim.accuracy import trust
from npusim.chip import Chip
from npusim.cost import FIDELITIES
from npusim.kperf_suite import Suite, kperf
from npusim.models import Model
from npusim.ops import OPS
from npusim.report import cost_table


def test_every_kind_of_work_has_a_range():
    for kind in {*(trust.CLASSES[op] for op in OPS), trust.STEP}:
        for fidelity in FIDELITIES:
            found = trust.trust_of(kind, fidelity)
            assert 0 < found.low < found.high
            assert found.rows >= 100
            assert found.state == "uncalibrated"
            assert found.to_dict(2.0)["coverage_claim"] is None


def test_the_roofline_is_mostly_too_fast():
    assert trust.trust_of("gemm", "roofline").high > trust.trust_of("gemm", "tile").low
    assert all(one.middle > 1 for one in trust.residuals().values())


def test_a_step_takes_the_range_of_end_to_end_runs(toy: Chip, tiny: Model):
    cost = ns.estimate(ns.decode(tiny, batch=1, context=8), toy)
    assert trust.trust(cost).kind == trust.STEP
    text = cost_table.workload_notes(cost)[-1]
    assert text.startswith("uncalibrated: ")
    assert "no promise for this chip" in text


@pytest.mark.parametrize(
    ("op", "kind"), [(ns.gemm(8, 8, 8), "gemm"), (ns.softmax(8, 8), "vector"), (ns.collective(8, 2), "collective")]
)
def test_an_operator_takes_the_range_of_its_kind(toy: Chip, op: ns.Op, kind: str):
    cost = ns.estimate(op, toy, "tile")
    found = trust.trust(cost).to_dict(cost.time_s)
    assert found["kind"] == kind
    assert found["range_low_s"] < found["range_high_s"]


def test_kperf_says_so(toy: Chip, tiny: Model):
    suite = Suite(
        format="npusim-suite/1", name="small", models=("tiny",), precisions=("bf16",), lengths=((5, 3),),
        concurrency=(1,),
    )  # fmt: skip
    notes = kperf(toy, suite=suite, models=[tiny]).notes
    assert any(note.startswith("uncalibrated: nothing fitted") for note in notes)
