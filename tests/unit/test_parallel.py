"""Is the memory of a model on its chips counted so that the limits are tight?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim import parallel
from npusim.chip import Chip, load_chip
from npusim.errors import DoesNotFit
from npusim.llm import precision
from npusim.models import Attention, Ffn, Layer, Model, load_model
from npusim.parallel import DEGREES, activation_bytes, footprint, kv_bytes, largest_batch, smallest_degree, usable_bytes

BF16 = precision("bf16")
CHIPS = {name: load_chip(name) for name in ("rebel-quad", "h100", "l4", "atom", "mi300x")}


def with_memory(chip: Chip, size: float, usable: float = 1.0) -> Chip:
    return chip.replace({"memory.capacity": float(size), "memory.usable": usable})


class TestFootprint:
    def test_parts_add_up(self, tiny: Model):
        need = footprint(tiny, BF16, sequences=3, tokens=10, tp=1, chunk_tokens=8)
        # 1704 parameters; 3 · 10 tokens · 2 layers · 8 elements; 8 tokens of 64 elements; 2 B each.
        assert (need.weights_bytes, need.kv_bytes, need.activations_bytes) == (3408, 960, 1024)
        assert need.total_bytes == 3408 + 960 + 1024

    def test_sequences_may_be_an_array(self, tiny: Model):
        totals = footprint(tiny, BF16, sequences=np.array([0, 1, 2]), tokens=10, chunk_tokens=8).total_bytes
        assert totals.tolist() == [4432, 4752, 5072]

    def test_weights_are_shared(self, tiny: Model):
        assert footprint(tiny, BF16, sequences=0, tokens=1, tp=4).weights_bytes == 3408 / 4

    def test_tied_head_is_a_copy_when_its_format_differs(self):
        layer = Layer(Attention("gqa", 2, 1, 4, 4), Ffn("dense", 16))
        tied = Model("t", "T", 8, 32, ((layer, 2),), tied_embeddings=True)
        # Two layers of 576 matrix elements and 16 norm gains, final norm 8, table 256.
        assert parallel.weights_bytes(tied, BF16) == 2 * (2 * 592 + 8 + 256)
        assert parallel.weights_bytes(tied, precision("fp8")) == (2 * 576 + 256) + 2 * (2 * 16 + 8 + 256)

    def test_encoders_keep_no_cache(self):
        assert kv_bytes(load_model("bert-large"), BF16, 512, 1) == 0

    def test_windows_cap_the_cache(self):
        layer = Layer(Attention("gqa", 2, 1, 4, 4, window=10), Ffn("dense", 16))
        model = Model("w", "W", 8, 32, ((layer, 3),), tied_embeddings=False)
        assert [kv_bytes(model, BF16, t, 1) for t in (9, 10, 11, 1000)] == [3 * 8 * 2 * n for n in (9, 10, 10, 10)]

    def test_activations_shrink_with_chips(self, tiny: Model):
        # Alone: 16 of the stream + 48 (gate and up 32, their product 16); two chips: 16 + 24; 2 B.
        assert activation_bytes(tiny, BF16, 1, 1) == 128
        assert activation_bytes(tiny, BF16, 1, 2) == 2 * (16 + 24)

    def test_usable(self, toy: Chip):
        assert usable_bytes(with_memory(toy, 100e9, 0.75)) == 75e9


class TestExpertParallel:
    def test_all_chips_together_hold_the_model_once_and_attention_once_a_group(self):
        for name in ("deepseek-v3", "gpt-oss-20b", "mixtral-8x7b", "qwen3-30b-a3b"):
            model = load_model(name)
            whole = parallel.weights_bytes(model, BF16)
            routed = 2 * sum(n * layer.ffn.routed_params(model.hidden) for layer, n in model.blocks)
            assert 0.5 * whole < routed < whole
            for tp, ep, pp in ((2, 2, 1), (1, 8, 1), (4, 8, 2), (8, 8, 1)):
                each = parallel.weights_per_chip(model, BF16, tp, ep, pp)
                groups = ep // tp
                total = ep * each / parallel.stage_share(model, pp)
                assert total == pytest.approx(routed + groups * (whole - routed), rel=1e-12)

    def test_without_groups_the_weights_are_those_of_tensor_parallelism(self):
        model = load_model("deepseek-v3")
        plain = parallel.weights_per_chip(model, BF16, 8)
        assert plain == parallel.weights_bytes(model, BF16) / 8
        assert parallel.weights_per_chip(model, BF16, 8, 8) == pytest.approx(plain, rel=1e-12)

    def test_groups_share_the_sequences(self):
        model = load_model("gpt-oss-20b")
        one, eight = (footprint(model, BF16, sequences=20, tokens=100, tp=1, ep=ep).kv_bytes for ep in (1, 8))
        assert eight == one * 3 / 20  # ⌈20 / 8⌉

    def test_stages_share_weights_and_cache(self):
        model = load_model("llama-3.1-8b")
        one, four = (footprint(model, BF16, sequences=4, tokens=100, tp=2, pp=pp) for pp in (1, 4))
        assert (four.weights_bytes, four.kv_bytes) == (one.weights_bytes / 4, one.kv_bytes / 4)
        assert four.activations_bytes == one.activations_bytes

    def test_the_fullest_stage_counts(self):
        """61 layers on four stages: 16 layers on the fullest."""
        model = load_model("deepseek-v3")
        assert parallel.stage_share(model, 4) == 16 / 61 and parallel.stage_share(load_model("llama-3.1-8b"), 4) == 0.25
        whole = parallel.weights_bytes(model, BF16)
        assert parallel.weights_per_chip(model, BF16, pp=4) == pytest.approx(whole * 16 / 61, rel=1e-12)


class TestLargestBatch:
    @given(
        chip=st.sampled_from(sorted(CHIPS)),
        name=st.sampled_from(["llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite", "gpt-oss-20b", "qwen3-8b"]),
        fmt=st.sampled_from(["bf16", "fp8", "w4a16", "nvfp4"]),
        tokens=st.integers(1, 200_000),
        tp=st.sampled_from(DEGREES),
    )
    def test_fits_at_n_and_not_at_n_plus_one(self, chip: str, name: str, fmt: str, tokens: int, tp: int):
        one, model, kinds = CHIPS[chip], load_model(name), precision(fmt)
        n = largest_batch(model, kinds, one, tokens=tokens, tp=tp, limit=10**9)

        def fits(sequences: int) -> bool:
            need = footprint(model, kinds, sequences=sequences, tokens=tokens, tp=tp).total_bytes
            return bool(need <= usable_bytes(one))

        assert n == 0 or fits(n)
        assert not fits(n + 1)

    def test_exact_room(self, toy: Chip, tiny: Model):
        # 4432 B of weights and activations and 320 B per sequence.
        sizes = {"tokens": 10, "tp": 1, "chunk_tokens": 8}
        assert largest_batch(tiny, BF16, with_memory(toy, 4432 + 3 * 320), **sizes) == 3
        assert largest_batch(tiny, BF16, with_memory(toy, 4432 + 3 * 320 - 1), **sizes) == 2
        assert largest_batch(tiny, BF16, with_memory(toy, 4431), **sizes) == 0

    def test_limit(self, toy: Chip, tiny: Model):
        assert largest_batch(tiny, BF16, toy, tokens=10, tp=1) == 1024
        assert largest_batch(tiny, BF16, toy, tokens=10, tp=1, limit=5) == 5

    def test_without_a_cache_only_the_limit_counts(self, toy: Chip):
        assert largest_batch(load_model("bert-large"), BF16, toy, tokens=10, tp=1, limit=7) == 7


class TestSmallestDegree:
    @pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.3-70b", "llama-3.1-405b", "deepseek-v3"])
    @pytest.mark.parametrize("fmt", ["bf16", "fp8", "w4a16"])
    def test_the_next_smaller_does_not_hold_it(self, name: str, fmt: str):
        chip, model, kinds = CHIPS["h100"], load_model(name), precision(fmt)
        tp = smallest_degree(model, kinds, chip, tokens=4096)
        fit = [
            footprint(model, kinds, sequences=1, tokens=4096, tp=degree).total_bytes <= usable_bytes(chip)
            for degree in DEGREES
        ]
        assert DEGREES[fit.index(True)] == tp

    def test_does_not_fit(self, toy: Chip, tiny: Model):
        chip = with_memory(toy, 800)
        with pytest.raises(DoesNotFit) as caught:
            smallest_degree(tiny, BF16, chip, tokens=10, chunk_tokens=8)
        need = footprint(tiny, BF16, sequences=1, tokens=10, tp=64, chunk_tokens=8).total_bytes
        assert caught.value.short_bytes == need - 800
        text = str(caught.value)
        assert "tiny (bf16 weights) with one sequence of 10 tokens does not fit 64 chips of toy" in text
        assert "short by" in text and "per chip; usable 800 B" in text
        assert caught.value.exit_code == 3

    def test_a_chip_without_links_stands_alone(self, toy: Chip, tiny: Model):
        alone = with_memory(toy, 4000).model_copy(update={"link": None})
        with pytest.raises(DoesNotFit) as caught:
            smallest_degree(tiny, BF16, alone, tokens=10, chunk_tokens=8)
        assert "does not fit one chip (its file describes no link to others)" in str(caught.value)
        assert caught.value.short_bytes == 4752 - 4000

    def test_exact_fit_counts(self, toy: Chip, tiny: Model):
        assert smallest_degree(tiny, BF16, with_memory(toy, 4752), tokens=10, chunk_tokens=8) == 1
        assert smallest_degree(tiny, BF16, with_memory(toy, 4751), tokens=10, chunk_tokens=8) == 2


def test_memory_falls_with_chips_and_grows_with_sequences_and_tokens():
    model = load_model("gpt-oss-20b")
    per_chip = [footprint(model, BF16, sequences=4, tokens=9000, tp=tp).total_bytes for tp in DEGREES]
    assert per_chip == sorted(per_chip, reverse=True)
    growing = [
        footprint(model, BF16, sequences=n, tokens=t).total_bytes for n, t in ((1, 10), (1, 20), (2, 20), (2, 90))
    ]
    assert growing == sorted(growing) and all(math.isfinite(size) for size in growing)
