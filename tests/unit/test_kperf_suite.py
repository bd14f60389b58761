"""Is the K-Perf table what its definitions say, for each row, and how exact is the average over a growing context?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npusim import llm, parallel
from npusim.chip import Chip, find_chip, load_chip
from npusim.cost import estimate
from npusim.errors import DoesNotFit, InputError, Unavailable
from npusim.kperf_steps import PANELS, panels
from npusim.kperf_suite import COLUMNS, Suite, kperf, load_suite, suite_names
from npusim.models import Attention, Ffn, Layer, Model, load_model
from tests.conftest import SOAK

EXACT = 1e-12
SUITE = (
    "format: npusim-suite/1\nname: s\nmodels: [llama-3.1-8b]\nprecisions: [bf16]\nlengths: [[5, 3]]\nconcurrency: [2]\n"
)


def suite(**changes: object) -> Suite:
    base: dict[str, object] = {
        "format": "npusim-suite/1", "name": "s", "models": ("tiny",), "precisions": ("bf16",), "lengths": ((5, 3),),
        "concurrency": (2,), "prefill_chunk_tokens": 8,
    }  # fmt: skip
    return Suite.model_validate(base | changes)


class TestPanels:
    @pytest.mark.parametrize("n", [*range(0, 140), 1000, 1999, 4095, 2**24])
    def test_lengths_are_odd_and_cover_each_step_once(self, n: int):
        middle, weight = panels(np.array([n]))
        length = np.rint(weight[0] * max(n, 1)).astype(int)
        used = length > 0
        assert np.all(length[used] % 2 == 1)
        assert length.sum() == n
        # Contiguous from 1 to n: each midpoint lies half a panel behind the end of the panel before.
        ends = np.cumsum(length[used])
        assert middle[0][used].tolist() == (ends - length[used] // 2).tolist()
        assert not n or (middle[0][used].min() >= 1 and middle[0][used].max() <= n)
        assert used.sum() <= PANELS + 1

    @pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 34, 127, 1999, 4095])
    def test_weights_sum_to_one(self, n: int):
        assert panels(np.array([n]))[1].sum() == pytest.approx(1, rel=EXACT)

    def test_no_steps_weigh_nothing(self):
        assert not panels(np.array([0]))[1].any()

    @given(st.integers(1, 5000), st.floats(-1e6, 1e6), st.floats(-1e3, 1e3), st.integers(1, 64))
    def test_exact_for_linear_functions(self, n: int, offset: float, slope: float, most: int):
        middle, weight = panels(np.array([n]), most)
        found = float(np.sum((offset + slope * middle) * weight))
        scale = abs(offset) + abs(slope) * n
        assert found == pytest.approx(offset + slope * (n + 1) / 2, abs=1e-11 * scale + 1e-300)

    @pytest.mark.parametrize("n", range(1, PANELS + 1))
    def test_few_steps_are_each_evaluated(self, n: int):
        middle, weight = panels(np.array([n]))
        assert middle[0][weight[0] > 0].tolist() == list(range(1, n + 1))

    def test_rows_are_independent(self):
        together = panels(np.array([0, 5, 77, 4095]))
        for index, n in enumerate((0, 5, 77, 4095)):
            alone = panels(np.array([n]))
            assert np.array_equal(together[0][index], alone[0][0]) and np.array_equal(together[1][index], alone[1][0])


CHIPS = [load_chip(name) for name in ("rebel-quad", "h100", "l40s", "npu-2pf", "mi300x", "rngd")]
WINDOWED = Model(
    "windowed", "W", 512, 1000,
    ((Layer(Attention("gqa", 8, 2, 64, 64, window=700), Ffn("dense", 2048)), 9),
     (Layer(Attention("gqa", 8, 2, 64, 64), Ffn("dense", 2048)), 3)),
    tied_embeddings=False,
)  # fmt: skip
MODELS = [WINDOWED, *map(load_model, ("llama-3.1-8b", "gemma-2-9b", "gpt-oss-20b", "deepseek-v2-lite", "mistral-7b"))]
QUADRATURE = 0.001


def tpot_by_brute_force(chip: Chip, model: Model, fmt: str, i: int, o: int, c: int, tp: int) -> float:
    """The mean over every decode step, each priced on its own context."""
    f = llm.precision(fmt)
    contexts = i + np.arange(1, o)
    step = llm.decode(model, batch=c, context=contexts, weights=f.weights, activations=f.activations, kv=f.kv, tp=tp)
    return float(np.mean(estimate(step, chip).time_s))


@settings(max_examples=2000 if SOAK else 60)
@given(
    chip=st.sampled_from(CHIPS), model=st.sampled_from(MODELS), fmt=st.sampled_from(["bf16", "fp8", "w4a16", "w4a8"]),
    i=st.integers(1, 4000), o=st.integers(2, 3000), c=st.sampled_from([1, 3, 16, 64, 300]),
    bandwidth=st.floats(0.05, 20),
)  # fmt: skip
def test_quadrature(chip: Chip, model: Model, fmt: str, i: int, o: int, c: int, bandwidth: float):
    """The few contexts that are priced stand for all of them: five times inside the half percent that is promised."""
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    # Room for everything, and a random place of the ridge.
    varied = chip.replace(
        {"memory.capacity": "1000 TB", "memory.bandwidth": bandwidth * chip.memory.bandwidth_bytes_per_s}
    )
    row = kperf(varied, suite=suite(lengths=((i, o),), concurrency=(c,)), models=[model], precisions=[fmt], tp=1).rows[
        0
    ]
    exact = tpot_by_brute_force(varied, model, fmt, i, o, c, 1)
    assert row["tpot_s"] == pytest.approx(exact, rel=QUADRATURE)


class TestSuiteFiles:
    def test_the_catalog_loads(self):
        assert "kperf-2025" in suite_names()
        for name in suite_names():
            assert load_suite(name).name == name

    def test_default(self):
        assert load_suite().name == "kperf-2025"
        assert load_suite().longest_request == 22_000

    def test_unknown(self):
        with pytest.raises(InputError, match=r"unknown suite 'kperf-2052'.*did you mean 'kperf-2025'"):
            load_suite("kperf-2052")

    @pytest.mark.parametrize(
        ("old", "new", "path"),
        [
            ("models", "modles", "modles"),
            ("[[5, 3]]", "[[5, 0]]", "lengths[0][1]"),
            ("[[5, 3]]", "[[-5, 3]]", "lengths[0][0]"),
            ("[[5, 3]]", "[]", "lengths"),
            ("[[5, 3]]", "[[5]]", "lengths[0][1]"),
            ("[[5, 3]]", "[[5, 3.5]]", "lengths[0][1]"),
            ("[[5, 3]]", "5", "lengths"),
            ("[[5, 3]]", f"[[5, {2**40}]]", "lengths[0][1]"),
            ("[2]", "[]", "concurrency"),
            ("[2]", "[0]", "concurrency[0]"),
            ("[2]", "[many]", "concurrency[0]"),
            ("[bf16]", "[]", "precisions"),
            ("[llama-3.1-8b]", "[]", "models"),
            ("[llama-3.1-8b]", "llama-3.1-8b", "models"),
            ("suite/1", "suite/9", "format"),
            ("name: s\n", "", "name"),
            ("name: s\n", "name: s\nmax_concurrency: 0\n", "max_concurrency"),
        ],
    )
    def test_refused(self, tmp_path: Path, old: str, new: str, path: str):
        assert old in SUITE
        file = tmp_path / "suite.yaml"
        file.write_text(SUITE.replace(old, new, 1))
        with pytest.raises(InputError) as caught:
            load_suite(file)
        assert f": {path}: " in str(caught.value), str(caught.value)
        assert "suite.yaml:" in str(caught.value)
        # One mistake, one message.
        assert len(caught.value.problems) == (2 if new == "modles" else 1), str(caught.value)

    def test_all_problems_at_once(self, tmp_path: Path):
        file = tmp_path / "suite.yaml"
        file.write_text(SUITE.replace("[[5, 3]]", "[[0, 0]]").replace("name: s", "nmae: s"))
        with pytest.raises(InputError) as caught:
            load_suite(file)
        paths = {problem.path for problem in caught.value.problems}
        assert {"name", "nmae", "lengths[0][0]", "lengths[0][1]"} <= paths and "did you mean 'name'?" in str(
            caught.value
        )


class TestRows:
    def test_order_is_chip_model_precision_length_concurrency(self, toy: Chip, tiny: Model):
        grid = suite(precisions=("bf16", "fp8"), lengths=((5, 3), (7, 2)), concurrency=(2, 1))
        rows = kperf(toy, suite=grid, models=[tiny]).rows
        keys = [(r["precision"], r["input_tokens"], r["output_tokens"], r["concurrency"]) for r in rows]
        assert keys == [(p, i, o, c) for p in ("bf16", "fp8") for i, o in ((5, 3), (7, 2)) for c in (2, 1)]

    def test_every_column_is_in_every_row(self, toy: Chip, tiny: Model):
        for row in kperf(toy, suite=suite(), models=[tiny]).rows:
            assert {key for key, *_ in COLUMNS} <= set(row)

    def test_definitions_hold_between_columns(self, toy: Chip, tiny: Model):
        grid = suite(lengths=((5, 3), (100, 40), (3, 1)), concurrency=(1, 2, 17, "max"), max_concurrency=50)
        for row in kperf(toy, suite=grid, models=[tiny], tp=2).rows:
            c, o, tpot = row["concurrency"], row["output_tokens"], row["tpot_s"] or 0.0
            loop = c * row["ttft_s"] + (o - 1) * tpot
            assert row["tokens_per_s"] == pytest.approx(c * o / loop, rel=EXACT)
            assert row["tokens_per_s_per_user"] == pytest.approx(row["tokens_per_s"] / c, rel=EXACT)
            assert row["tokens_per_s_per_chip"] == pytest.approx(row["tokens_per_s"] / 2, rel=EXACT)
            assert row["ttft_burst_s"] == pytest.approx(c * row["ttft_s"], rel=EXACT)
            assert row["tokens_per_j"] == pytest.approx(row["tokens_per_s"] / row["avg_power_w"], rel=EXACT)
            assert 0 < row["mfu"] <= 1 and 0 < row["mbu"] <= 1
            # Of C concurrent requests each waits for the other C − 1 prefills besides its own.
            if o > 1:
                assert row["tpot_loaded_s"] == pytest.approx((loop - row["ttft_s"]) / (o - 1), rel=EXACT)
                assert row["tpot_loaded_s"] >= tpot * (1 - EXACT)

    def test_utilisation_counts_useful_work(self, toy: Chip, tiny: Model):
        """C = 2, I = 5, O = 3: work of two prefills and two decode steps, unsharded, over all chips' time."""
        for tp in (1, 2):
            row = kperf(toy, suite=suite(), models=[tiny], tp=tp).rows[0]
            first = llm.prefill(tiny, prompt=5)
            steps = [llm.decode(tiny, batch=2, context=context) for context in (6, 7)]
            loop = 2 * row["ttft_s"] + 2 * row["tpot_s"]
            flops = 2 * first.flops + sum(step.flops for step in steps)
            moved = 2 * first.bytes("weight", "kv") + sum(step.bytes("weight", "kv") for step in steps)
            assert row["mfu"] == pytest.approx(flops / (loop * tp * 4e12), rel=EXACT)
            assert row["mbu"] == pytest.approx(moved / (loop * tp * 100e9), rel=EXACT)

    def test_one_output_token_has_no_tpot(self, toy: Chip, tiny: Model):
        row = kperf(toy, suite=suite(lengths=((5, 1),)), models=[tiny]).rows[0]
        assert row["tpot_s"] is None and row["tpot_loaded_s"] is None
        assert row["tokens_per_s"] == pytest.approx(1 / row["ttft_s"], rel=EXACT)

    def test_max_is_the_largest_that_fits(self, toy: Chip, tiny: Model):
        # Weights and activations 4432 B; a request of 8 tokens 256 B: 3 fit in 5300 B.
        small = toy.replace({"memory.capacity": 5300})
        for level, c in (("max", 3), (3, 3)):
            row = kperf(small, suite=suite(concurrency=(level,)), models=[tiny]).rows[0]
            assert (row["concurrency"], row["fits"], row["concurrency_level"]) == (c, True, str(level))
        over = kperf(small, suite=suite(concurrency=(4,)), models=[tiny]).rows[0]
        assert not over["fits"] and over["short_bytes"] == 4432 + 4 * 256 - 5300
        assert over["note"] == "does not fit: short by 156 B per chip"
        assert over["ttft_s"] is None and over["memory_bytes"] == 4432 + 4 * 256

    def test_max_stops_at_the_suite_s_limit(self, toy: Chip, tiny: Model):
        row = kperf(toy, suite=suite(concurrency=("max",), max_concurrency=7), models=[tiny]).rows[0]
        assert row["concurrency"] == 7

    def test_nothing_fits(self, toy: Chip, tiny: Model):
        result = kperf(toy.replace({"memory.capacity": 300}), suite=suite(concurrency=(1, "max")), models=[tiny])
        assert [row["fits"] for row in result.rows] == [False, False]
        assert {row["tp"] for row in result.rows} == {64}
        with pytest.raises(
            DoesNotFit, match=r"no row of suite 's' fits; the closest is tiny bf16 on 64 x toy, short by .* per chip"
        ) as caught:
            result.require_any()
        assert caught.value.short_bytes == result.rows[0]["short_bytes"] > 0

    def test_nothing_fits_a_chip_without_links(self, toy: Chip, tiny: Model):
        alone = toy.replace({"memory.capacity": 300}).model_copy(update={"link": None})
        assert {row["tp"] for row in kperf(alone, suite=suite(), models=[tiny]).rows} == {1}

    def test_something_fits(self, toy: Chip, tiny: Model):
        kperf(toy, suite=suite(), models=[tiny]).require_any()

    def test_smallest_degree_is_taken_for_the_longest_request(self):
        result = kperf("h100", models=["llama-3.3-70b"], precisions=["bf16", "w4a16"])
        degrees = {row["precision"]: row["tp"] for row in result.rows}
        for name in degrees:
            want = parallel.smallest_degree(
                load_model("llama-3.3-70b"), llm.precision(name), load_chip("h100"), tokens=22_000
            )
            assert degrees[name] == want

    def test_tp_override(self, toy: Chip, tiny: Model):
        row = kperf(toy, suite=suite(), models=[tiny], tp=4).rows[0]
        assert row["tp"] == 4
        assert row["ttft_s"] == pytest.approx(estimate(llm.prefill(tiny, prompt=5, tp=4), toy).time_s, rel=EXACT)

    @pytest.mark.parametrize("tp", [0, -1, 1.5, True])
    def test_bad_tp(self, toy: Chip, tiny: Model, tp: object):
        with pytest.raises(InputError, match="tp"):
            kperf(toy, suite=suite(), models=[tiny], tp=tp)  # type: ignore[arg-type]

    def test_two_chips(self, toy: Chip, tiny: Model):
        faster = toy.replace({"memory.bandwidth": "200 GB/s"}).model_copy(update={"name": "faster"})
        result = kperf([toy, faster], suite=suite(), models=[tiny])
        assert [row["chip"] for row in result.rows] == ["toy", "faster"]
        assert result.rows[1]["tpot_s"] < result.rows[0]["tpot_s"]
        assert set(result.costs) == {("toy", "tiny", "bf16"), ("faster", "tiny", "bf16")}
        for index, chip in enumerate((toy, faster)):
            assert kperf(chip, suite=suite(), models=[tiny]).rows[0] == result.rows[index]

    def test_precision_and_model_override(self):
        result = kperf("rebel-quad", models=["qwen3-8b"], precisions=["fp8", "w4a16"])
        assert {(row["model"], row["precision"]) for row in result.rows} == {("qwen3-8b", "fp8"), ("qwen3-8b", "w4a16")}

    def test_limits(self, toy: Chip, tiny: Model):
        limits = {"tiny": {"easy": {"ttft_s": 1.0, "tpot_s": 1.0}, "first": {"ttft_s": 1e-9, "tpot_s": 1.0},
                           "each": {"ttft_s": 1.0, "tpot_s": 1e-9}}}  # fmt: skip
        row = kperf(toy, suite=suite(mlperf_limits=limits), models=[tiny]).rows[0]
        assert row["mlperf_limits_met"] == ["easy"]
        assert kperf(toy, suite=suite(), models=[tiny]).rows[0]["mlperf_limits_met"] is None


class TestErrors:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"chip": "rebel-qad"}, "did you mean 'rebel-quad'"), ({"models": ["lama-3.1-8b"]}, "unknown model"),
            ({"precisions": ["fp9"]}, "unknown precision 'fp9'"), ({"suite": "none"}, "unknown suite 'none'"),
            ({"fidelity": "tlie"}, "unknown fidelity"), ({"models": ["bert-large"]}, "'bert-large' is an encoder"),
        ],
    )  # fmt: skip
    def test_unknown_names(self, changes: dict[str, object], says: str):
        with pytest.raises(InputError, match=says):
            kperf(**({"chip": "rebel-quad", "precisions": ["fp8"], "models": ["llama-3.1-8b"]} | changes))  # type: ignore[arg-type]

    def test_unavailable(self):
        with pytest.raises(Unavailable):
            kperf("sapeon-x220", precisions=["int8"])
        with pytest.raises(Unavailable, match=r"memory\.bandwidth"):
            kperf(find_chip("sapeon-x220"), precisions=["int8"])


class TestDictAndNotes:
    def test_json_round_trip(self, toy: Chip, tiny: Model):
        data = kperf(toy, suite=suite(lengths=((5, 3), (5, 1))), models=[tiny]).to_dict()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert set(data) == {"suite", "fidelity", "chips", "notes", "rows"}

    def test_notes(self, toy: Chip, tiny: Model):
        bare = toy.model_copy(update={"core": toy.core.model_copy(update={"vector": None})})
        text = "\n".join(kperf(bare.replace({"power.tdp": "9 W"}), suite=suite(), models=[tiny]).notes)
        assert "toy: no vector unit is described" in text and "changed on request: power.tdp = 9 W" in text
        assert "uncalibrated" in text
        assert "requests of 2000 tokens exceed its 1024 positions" in "\n".join(
            kperf(toy, suite=suite(lengths=((1000, 1000),)), models=[tiny]).notes
        )
        assert "tiny" not in text.replace("toy", "")

    def test_fallback_rate_is_noted(self, toy: Chip, tiny: Model):
        notes = kperf(toy, suite=suite(precisions=("int8",)), models=[tiny]).notes
        assert any("has no int8 rate; int8 runs at its bf16 rate" in note for note in notes)

    def test_progress_is_called_once_per_case(self, toy: Chip, tiny: Model):
        seen: list[str] = []
        kperf(toy, suite=suite(precisions=("bf16", "fp8")), models=[tiny], progress=seen.append)
        assert seen == ["toy tiny bf16", "toy tiny fp8"]


def test_a_precision_the_chip_cannot_run_is_a_row_that_says_so():
    """One chip without the rate must not cost the table of the others."""
    both = kperf(["bertha-100", "h100"], models=["llama-3.1-8b"], precisions=["bf16"]).rows
    lacking = [row for row in both if row["chip"] == "bertha-100"]
    assert lacking and not any(row["fits"] for row in lacking)
    assert lacking[0]["note"] == "no rate for bf16; the chip lists fp8"
    assert any(row["fits"] for row in both if row["chip"] == "h100")
    with pytest.raises(Unavailable, match="no rate for bf16"):
        kperf("bertha-100", models=["llama-3.1-8b"], precisions=["bf16"]).require_any()


def test_a_step_that_does_not_fit_is_noted():
    from npusim.kperf_suite import fit_note

    assert "does not fit: needs 8" in fit_note(estimate(llm.decode("llama-3.1-405b", context=10), load_chip("h100")))
    assert fit_note(estimate(llm.decode("llama-3.1-8b", context=10), load_chip("h100"))) == ""
