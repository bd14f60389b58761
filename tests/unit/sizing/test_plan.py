"""Plans: what they expand to, and that every mistake is told with its line."""

from __future__ import annotations

import contextlib
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim.chip import load_chip
from npusim.errors import InputError
from npusim.sizing.expressions import Expression
from npusim.sizing.plan import load_plan, make_plan, parameter_values
from npusim.sizing.quantities import constraint, number

CHIP = load_chip("npu-2pf")
STEP = {"model": "llama-3.1-8b", "precision": "fp8", "phase": "decode"}


def plan(**changes: object):
    return make_plan({"chip": "npu-2pf", "fidelity": "roofline", "workloads": [STEP]} | changes)


def message(**changes: object) -> str:
    with pytest.raises(InputError) as caught:
        plan(**changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ([4, 6], (4, 6)),
        (["2 MiB", "4 MiB"], (2**21, 2**22)),
        ({"from": 1, "to": 7, "step": 3}, (1, 4, 7)),
        ({"from": 1, "to": 8, "step": 3}, (1, 4, 7)),
        ({"from": 1, "to": 2, "count": 3}, (1, 2)),  # whole ends make whole values, each once
        ({"from": 1.0, "to": 2.0, "count": 3}, (1.0, 1.5, 2.0)),
        ({"from": "1 GHz", "to": "4 GHz", "count": 3, "scale": "log"}, (1e9, 2e9, 4e9)),
        ({"from": 5, "to": 5, "count": 1}, (5,)),
        (3, (3,)),
    ],
)
def test_values(text: object, values: tuple[float, ...]):
    assert plan(parameters={"x": text}).parameters["x"] == pytest.approx(values, rel=1e-15)


@given(st.floats(1e-3, 1e3), st.floats(1.1, 1e4), st.integers(2, 40))
def test_logarithmic_ranges_have_equal_ratios_and_exact_ends(low: float, factor: float, count: int):
    given = {"from": low, "to": low * factor, "count": count, "scale": "log"}
    values = parameter_values("x", given, CHIP)
    assert values[0] == low and values[-1] == low * factor
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert ratios == pytest.approx([factor ** (1 / (count - 1))] * (count - 1), rel=1e-9)


def test_the_grid_is_every_combination_and_derived_figures_follow():
    made = plan(
        parameters={"chip.memory.stacks": [4, 6], "scale": [1, 2], "serving.batch": [1, 8, 64]},
        derived={"chip.memory.capacity": "per_stack * chip.memory.stacks * scale", "per_stack": "36e9"},
    )
    designs = list(made.designs())
    assert made.design_count == len(designs) == 4
    assert made.points == 12
    assert [case.batch for case in made.cases] == [1, 8, 64]
    capacities = [made.build(design).memory.capacity_bytes for design in designs]
    assert capacities == [4 * 36e9, 8 * 36e9, 6 * 36e9, 12 * 36e9]


def test_model_parameters_make_cases():
    made = plan(parameters={"model.layers": [16, 32], "model.kv_heads": [8]})
    assert [case.changes for case in made.cases] == [
        (("layers", 16), ("kv_heads", 8)),
        (("layers", 32), ("kv_heads", 8)),
    ]


def test_a_suite_is_its_rows():
    made = make_plan({"chip": "npu-2pf", "suite": {"models": ["llama-3.1-8b"], "precisions": ["fp8"]}})
    assert len(made.cases) == 8 * 6 and {case.kind for case in made.cases} == {"kperf"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"parameters": {"chip.memory.bandwith": [1e12]}}, "did you mean 'bandwidth'"),
        ({"parameters": {"serving.bach": [1]}}, "did you mean 'serving.batch'"),
        ({"parameters": {"model.layer": [1]}}, "did you mean 'model.layers'"),
        ({"parameters": {"memory.stacks": [1]}}, "did you mean 'chip.memory.stacks'"),
        ({"parameters": {"chip.memory.bandwidth": ["6 GB"]}}, "not a unit of bandwidth"),
        ({"parameters": {"chip.cores": []}}, "empty list"),
        ({"parameters": {"chip.cores": {"from": 8, "to": 4, "count": 2}}}, "empty range: from 8 to 4"),
        ({"parameters": {"x": {"from": 1, "to": 4}}}, "'count' or 'step'"),
        ({"parameters": {"x": {"from": 0, "to": 4, "count": 2, "scale": "log"}}}, "'from' above 0"),
        ({"constraints": ["area <= 400 mm2", "cost <= 1 USD", "area_mm2 >= 600 mm2"]},
         "contradictory: 'area_mm2 >= 600 mm2' and 'area <= 400 mm2'"),
        ({"parameters": {"chip.cores": [64, 128]}, "constraints": ["chip.cores <= 32"]},
         "contradictory: 'chip.cores <= 32' and parameter 'chip.cores' (from 64 to 128)"),
        ({"constraints": ["aera <= 3"]}, "did you mean 'area'"),
        ({"constraints": ["area <= 3 parsecs"]}, "unknown unit"),
        ({"constraints": ["area"]}, "is not a constraint"),
        ({"derived": {"a": "b + 1", "b": "a"}}, "need one another"),
        ({"derived": {"a": "__import__('os')"}}, "function"),
        ({"derived": {"serving.batch": "chip.cores * 2"}, "parameters": {"chip.cores": [64]}}, "same for every chip"),
        ({"power": "bottom-up", "suite": {}}, "K-Perf rows have no bottom-up power"),
        ({"derived": {"a": "nothing * 2"}}, "unknown parameter 'nothing'"),
        ({"workloads": []}, "nothing to price"),
        ({"workloads": [STEP | {"model": "llama-3.1-9b"}]}, "did you mean"),
        ({"workloads": [STEP | {"batch": 0}]}, "out of range"),
        ({"chip": "npu-3pf"}, "did you mean"),
        ({"executor": "dask"}, "unknown key 'executor'"),
    ],
)  # fmt: skip
def test_bad_plans(changes: dict, told: str):
    assert told in message(**changes)


def test_a_grid_of_10_to_the_12_is_refused_with_its_size_and_a_way_out():
    axes = {f"chip.{path}": {"from": 1e9, "to": 2e12, "count": 1000}
            for path in ("memory.bandwidth", "link.bandwidth", "fabric.bandwidth", "host.bandwidth")}  # fmt: skip
    told = message(parameters=axes)
    assert "1e+12 points" in told and "fewer values" in told and "npusim size" in told


def test_problems_of_a_file_name_their_lines(tmp_path: Path):
    file = tmp_path / "plan.yaml"
    file.write_text(
        "format: npusim-plan/1\nchip: npu-2pf\nparameters:\n  chip.core: [1]\n  serving.batsh: [1]\n"
        "constraints:\n  - area <= 1 mm2\n  - area >= 2 mm2\nworkloads: [{model: llama-3.1-8b}]\n"
    )
    with pytest.raises(InputError) as caught:
        load_plan(file)
    lines = [problem.line for problem in caught.value.problems]
    assert lines == [4, 5, 7] and all(problem.file == str(file) for problem in caught.value.problems)


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("1 + 2 * 3", 7), ("-(2 ** 3) // 3", -3), ("max(a.b, 3) / sqrt(4)", 2.5), ("round(2.6) % 2", 1)],
    )
    def test_values(self, text: str, value: float):
        assert Expression(text).value({"a.b": 5}) == value

    @pytest.mark.parametrize(
        "text",
        ["", "a = 1", "a if b else c", "x[0]", "[1]", "'x'", "True", "(lambda: 1)()", "a.__class__()", "f'{a}'",
         "1 < 2", "min(a, key=b)", "().__class__", "1+" * 300 + "1", "(" * 400 + "1" + ")" * 400],
    )  # fmt: skip
    def test_anything_but_arithmetic_is_refused(self, text: str):
        with pytest.raises(InputError):
            Expression(text)

    @pytest.mark.parametrize("text", ["9 ** 9 ** 9", "1 / 0", "sqrt(-1)", "1e308 * 10", "min()", "2 ** 0.5j"])
    def test_no_value(self, text: str):
        with pytest.raises(InputError):
            Expression(text).value({})

    @given(st.text(max_size=60))
    def test_any_text_is_a_number_or_one_error(self, text: str):
        with contextlib.suppress(InputError):
            assert math.isfinite(Expression(text).value({"a": 2, "b": 3.5}))


def test_numbers_and_constraints_speak_si():
    assert number("2 MiB") == 2**21 and number("20ms") == pytest.approx(0.02) and number(7) == 7
    made = constraint("tpot<=20 ms")
    assert (made.metric, made.at_most) == ("tpot_s", True) and made.holds(0.02) and not made.holds(None)
