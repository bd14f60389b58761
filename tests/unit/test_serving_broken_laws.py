"""Every law of a serving run notices when it is broken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import npusim as ns
from npusim.serving.answer import Serving
from npusim.serving.engine import SERIES
from npusim.serving.laws import LawBroken, broken, check


@pytest.fixture(scope="module")
def served() -> Serving:
    return ns.serve("h100", "llama-3.1-8b", fidelity="roofline", arrivals="poisson:20", requests=200, chips=1)


def test_a_sound_run_breaks_none(served: Serving):
    assert broken(served.run, served.digest) == ""


@pytest.mark.parametrize(("total", "change", "law"), [
    ("finished", 1, "lost"), ("arrived", -1, "lost"), ("live", 1, "left over"), ("output_tokens", 1, "tokens made"),
    ("in_system_s", 1.0, "Little"), ("waiting_s", 1e4, "more requests"), ("blocks_used", 1, "left in use"),
    ("blocks_unused", -1, "lost"), ("prompt_tokens", -1, "read to its end"), ("busy_s", 0.1, "add up"),
    ("joules", 1.0, "add up"),
])  # fmt: skip
def test_a_broken_total_is_noticed(served: Serving, total: str, change: float, law: str):
    run = replace(served.run, totals={**served.run.totals, total: served.run.totals[total] + change})
    assert law in broken(run, served.digest)
    with pytest.raises(LawBroken, match="defect of npusim"):
        check(run, served.digest)


@pytest.mark.parametrize(
    ("field", "change", "law"), [("ids", 1, "twice"), ("good", 1, "goodput"), ("count", 1, "lost")]
)
def test_broken_records_are_noticed(served: Serving, field: str, change: int, law: str):
    digest = replace(served.digest, **{field: getattr(served.digest, field) + change})
    assert law in broken(served.run, digest)


def test_series_that_lose_something_are_noticed(served: Serving):
    series = served.run.series.copy()
    series[np.argmax(series[:, 0]), SERIES.index("running")] *= 0.5
    assert "add up" in broken(replace(served.run, series=series), served.digest)
