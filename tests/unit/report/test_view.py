"""Are the rows and operators that stand for the rest the documented ones?"""

from __future__ import annotations

from typing import Any

import pytest

from npusim.chip import load_chip
from npusim.kperf_suite import KPerf, kperf
from npusim.report import compare, view


def _rows(lengths: list[tuple[int, int]], levels: list[str]) -> list[dict[str, Any]]:
    return [{"input_tokens": i, "output_tokens": o, "concurrency_level": c} for i, o in lengths for c in levels]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(["1", "4", "16", "64", "256", "max"], ["1", "16", "max"]), (["1", "8", "64"], ["1", "8", "64"]),
     (["max"], ["max"]),
     (["4"], ["4"]), (["32", "max"], ["32", "max"]), (["64", "1"], ["1", "64"])],
)  # fmt: skip
def test_levels_are_smallest_near_16_and_largest(names: list[str], chosen: list[str]) -> None:
    assert view.levels(_rows([(1, 1)], names)) == chosen


def test_reference_length_is_closest_to_2048() -> None:
    assert view.reference_length(_rows([(128, 128), (1000, 1000), (2048, 2048)], ["1"])) == (2048, 2048)
    assert view.reference_length(_rows([(128, 128), (1000, 1000)], ["1"])) == (1000, 1000)


def test_variants_of_a_chip_get_their_own_rows_and_labels() -> None:
    chip = load_chip("rebel-quad")
    faster = chip.replace({"memory.bandwidth": "6 TB/s"})
    found = view.by_chip(kperf([chip, faster, faster], models=["llama-3.1-8b"], precisions=["fp8"]))
    changed = "rebel-quad [memory.bandwidth = 6 TB/s]"
    assert [one.label for one in found] == ["rebel-quad", changed, f"{changed} #2"]
    assert found[0].rows[0]["tpot_s"] > found[1].rows[0]["tpot_s"] == found[2].rows[0]["tpot_s"]


def test_operators_add_up_to_the_reported_times(one: KPerf) -> None:
    (chip,) = view.by_chip(one)
    for model, precision in [("llama-3.1-8b", "fp8"), ("llama-3.1-405b", "w4a16")]:
        for row in chip.case(model, precision):
            for name, key in (("prefill", "ttft_s"), ("decode", "tpot_s")):
                phase = view.phase(one, chip, row, name)
                if not row["fits"]:
                    assert phase is None
                    continue
                assert phase is not None
                assert sum(op.time_s for op in phase.operators) == pytest.approx(row[key])
                assert sum(phase.bound_seconds.values()) == pytest.approx(row[key])
                assert sum(op.share for op in phase.operators) == pytest.approx(1.0)
                assert max(phase.bound_seconds, key=lambda n: phase.bound_seconds[n]) == row[f"bound_{name}"]


def test_no_decode_phase_without_decode_steps(one_token: KPerf) -> None:
    (chip,) = view.by_chip(one_token)
    assert view.phase(one_token, chip, chip.rows[0], "decode") is None
    assert view.phase(one_token, chip, chip.rows[0], "prefill") is not None


def test_rows_join_on_their_condition_with_ratios(two: KPerf) -> None:
    first, second = view.by_chip(two)
    joined = compare.join(two)
    assert len(joined) == len(first.rows) == len(second.rows)
    for one, a, b in zip(joined, first.rows, second.rows, strict=True):
        assert one.rows == (a, b)
        if a["fits"] and b["fits"]:
            assert one.ratio("ttft_s", 1) == pytest.approx(b["ttft_s"] / a["ttft_s"])
            assert one.ratio("ttft_s", 0) == 1.0
        else:
            assert one.ratio("ttft_s", 1) is None


def test_figures_say_what_is_stated_derived_or_default(one: KPerf) -> None:
    status = {figure.path: figure.status for figure in view.figures(one.chips[0])}
    assert status["memory.bandwidth"] == "derived"
    assert status["levels.l1.buffers"] == "default"
    assert status["clock"] == "assumed"
    assert status["memory.capacity"] == "published"
    changed = one.chips[0].replace({"power.tdp": "500 W"})
    assert {f.path: f.status for f in view.figures(changed)}["power.tdp"] == "assumed"
