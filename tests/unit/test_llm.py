"""Do the steps of every model do the work its published dimensions say, on any number of chips?"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from npusim import llm
from npusim.errors import InputError
from npusim.llm import Precision, ceil_div, decode, precision, prefill
from npusim.models import Attention, Ffn, Layer, Model, load_model, model_entries
from npusim.ops import visible_pairs
from npusim.workload import Workload

MODELS = [entry.name for entry in model_entries() if entry.status == "seen"]
DECODERS = [name for name in MODELS if load_model(name).causal]
ENCODERS = [name for name in MODELS if not load_model(name).causal]
PROMPT = 37


def matmul_elements(step: Workload) -> float:
    """Elements of all weight matrices a step reads (biases off: a bias is not a matrix)."""
    return sum(
        op.count * (operand.elements - _bias(op.dims, operand.elements))
        for op in step.ops
        if op.kind in ("gemm", "experts")
        for operand in op.operands
        if operand.role == "weight"
    )


def _bias(dims, elements):
    if not dims["bias"]:
        return 0
    return elements * dims["n"] / (dims["n"] * dims["k"] + dims["n"])


def all_matrices(model: Model) -> int:
    """Elements of every matrix of a model: what a token is multiplied with, and the experts it does not visit."""
    resting = sum(
        n * (layer.ffn.params(model.hidden) - layer.ffn.active_params(model.hidden)) for layer, n in model.blocks
    )
    # Biases of the experts that rest are not matrices.
    per_expert = sum(
        n
        * (layer.ffn.experts - layer.ffn.experts_per_token)
        * ((1 + layer.ffn.gated) * layer.ffn.intermediate + model.hidden)
        for layer, n in model.blocks
        if layer.ffn.kind == "moe" and layer.ffn.bias
    )
    return model.params().matmul + resting - per_expert


def attention_flops(model: Model, new: int, past: int, absorbed: bool = False) -> float:
    """2 FLOPs per visible pair, head and element of keys and values."""
    total = 0.0
    for layer, n in model.blocks:
        a = layer.attention
        pairs = visible_pairs(new, past + new, a.window or 2**40, model.causal)
        width = a.head_dim + a.v_head_dim
        if a.kind == "mla" and absorbed:
            width = 2 * (a.kv_lora_rank or 0) + (a.rope_head_dim or 0)
        total += n * 2 * a.heads * pairs * width
    return total


class TestCatalog:
    @pytest.mark.parametrize("name", MODELS)
    def test_prefill_flops(self, name: str):
        model = load_model(name)
        head = model.vocab * model.hidden if model.lm_head else 0
        # The head multiplies the last position only.
        expected = 2 * PROMPT * (model.params().matmul - head) + 2 * head + attention_flops(model, PROMPT, 0)
        assert prefill(model, prompt=PROMPT).flops == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("name", DECODERS)
    def test_decode_flops(self, name: str):
        model = load_model(name)
        expected = 3 * (2 * model.params().matmul + attention_flops(model, 1, 100, absorbed=True))
        assert decode(model, batch=3, context=100).flops == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("name", DECODERS)
    def test_a_large_decode_reads_every_matrix_once(self, name: str):
        model = load_model(name)
        step = decode(model, batch=1_000_000, context=8)
        assert matmul_elements(step) == pytest.approx(all_matrices(model), rel=1e-9)

    @pytest.mark.parametrize("name", MODELS)
    def test_one_token_reads_the_matrices_it_is_multiplied_with(self, name: str):
        model = load_model(name)
        assert matmul_elements(prefill(model, prompt=1)) == pytest.approx(model.params().matmul, rel=1e-12)

    @pytest.mark.parametrize("name", DECODERS)
    def test_decode_reads_the_whole_cache_and_adds_a_token(self, name: str):
        model = load_model(name)
        step = decode(model, batch=2, context=5000)
        by_name = {"kv_read": 0.0, "kv_write": 0.0}
        for op in step.ops:
            for operand in op.operands:
                if operand.name in by_name:
                    by_name[operand.name] += op.count * operand.elements
        # A full window drops its oldest token for the new one.
        kept = sum(
            n * layer.attention.kv_elements_per_token * min(5000, (layer.attention.window or 2**40) - 1)
            for layer, n in model.blocks
        )
        assert by_name["kv_read"] == 2 * kept
        assert by_name["kv_write"] == 2 * model.kv_elements_per_token

    @pytest.mark.parametrize("tp", [2, 8])
    @pytest.mark.parametrize("name", MODELS)
    def test_chips_share_the_work(self, name: str, tp: int):
        model = load_model(name)
        steps = [(prefill(model, prompt=PROMPT), prefill(model, prompt=PROMPT, tp=tp))]
        if model.causal:
            steps.append((decode(model, batch=4, context=64), decode(model, batch=4, context=64, tp=tp)))
        for alone, shared in steps:
            # Never less than a share, never more than everything; ceilings and replicas make up the rest.
            assert shared.chips == tp
            assert alone.flops / tp <= shared.flops * (1 + 1e-12) and shared.flops < alone.flops
            assert alone.bytes("weight") / tp <= shared.bytes("weight") * (1 + 1e-12) < alone.bytes("weight")
            assert not any(op.kind == "collective" for op in alone.ops)
            patches = 1 if model.patch_inputs else 0
            assert sum(op.count for op in shared.ops if op.kind == "collective") == 2 * model.layers + 1 - patches

    @pytest.mark.parametrize("name", MODELS)
    def test_evenly_divisible_parts_halve(self, name: str):
        model = load_model(name)
        one, two = (prefill(model, prompt=PROMPT, tp=tp) for tp in (1, 2))
        by_name = {op.name: op for op in two.ops}
        for op in one.ops:
            if op.name.endswith(("attn.core", "ffn.down", "ffn.experts_down")):
                assert by_name[op.name].flops == op.flops / 2

    @pytest.mark.parametrize("name", ENCODERS)
    def test_an_encoder_has_no_decode_step(self, name: str):
        with pytest.raises(InputError, match=f"'{name}' is an encoder: it has no decode step; use prefill"):
            decode(name)

    @pytest.mark.parametrize("name", ENCODERS)
    def test_an_encoder_has_no_cache(self, name: str):
        assert prefill(name, prompt=16).bytes("kv") == 0


class TestMla:
    """DeepSeek-V2, arXiv 2405.04434: decode absorbs the up-projections, prefill expands them."""

    LAYER = Layer(
        Attention("mla", 4, 4, 24, 16, q_lora_rank=12, kv_lora_rank=32, rope_head_dim=8), Ffn("dense", 16)
    )  # fmt: skip
    MODEL = Model("mla", "MLA", 64, 100, ((LAYER, 3),), tied_embeddings=False)

    def op(self, step: Workload, name: str):
        return next(op for op in step.ops if op.name == name)

    def test_decode_absorbs(self):
        step = decode(self.MODEL, batch=5, context=9)
        core = self.op(step, "layers.attn.core")
        # 4 heads share one latent key of 32 + 8 and one latent value of 32; 10 keys, 5 sequences.
        assert core.flops == 5 * 4 * 10 * 2 * (40 + 32)
        assert {o.name: o.elements for o in core.operands}["kv_read"] == 5 * 9 * 40
        # W_UK: 4 matrices 16 × 32; W_UV: 4 of 32 × 16.
        assert self.op(step, "layers.attn.absorb_q").flops == 2 * 5 * 4 * 16 * 32
        assert self.op(step, "layers.attn.absorb_v").flops == 2 * 5 * 4 * 32 * 16

    def test_prefill_expands(self):
        step = prefill(self.MODEL, prompt=6)
        assert self.op(step, "layers.attn.core").flops == 4 * 21 * 2 * (24 + 16)
        # Keys without position 16 and values 16 for 4 heads, from the latent of 32.
        assert self.op(step, "layers.attn.kv_b").flops == 2 * 6 * 4 * (16 + 16) * 32

    def test_a_later_chunk_expands_the_cached_latents_too(self):
        # Keys and values of all 106 visible tokens are needed, 100 of them only as latents in the cache.
        step = prefill(self.MODEL, prompt=6, past=100)
        assert self.op(step, "layers.attn.kv_b").flops == 2 * 106 * 4 * (16 + 16) * 32

    def test_an_array_of_prompts_equals_each_prompt(self):
        together = prefill(self.MODEL, prompt=np.array([1, 6])).flops
        assert list(together) == [prefill(self.MODEL, prompt=1).flops, prefill(self.MODEL, prompt=6).flops]


class TestPrecision:
    def test_names(self):
        assert precision("w4a16") == Precision("int4", "bf16", "bf16")
        assert precision("fp8").engine == "fp8" and precision("w4a16").engine == "bf16"
        assert precision("nvfp4").engine == "fp4"

    def test_the_residual_stream_is_at_least_bf16(self):
        assert precision("fp8").stream == "bf16" and precision("fp16").stream == "fp16"
        assert Precision(activations="fp32").stream == "fp32"

    def test_aliases_become_names(self):
        assert Precision("half", "e4m3", "i8") == Precision("fp16", "fp8", "int8")

    def test_unknown(self):
        with pytest.raises(InputError, match=r"precision: unknown precision 'fp9'; known: bf16.*did you mean 'fp"):
            precision("fp9")
        with pytest.raises(InputError, match="kv: unknown number format 'x'"):
            Precision(kv="x")

    def test_fp8_weights_include_the_head_and_leave_norms_and_table(self):
        step = decode("llama-3.1-8b", weights="fp8", activations="fp8", kv="fp8")
        formats = {(op.kind, o.fmt) for op in step.ops for o in op.operands if o.role == "weight"}
        assert formats == {("gemm", "fp8"), ("norm", "bf16"), ("embedding", "bf16")}
        assert {o.fmt for op in step.ops for o in op.operands if o.role == "kv"} == {"fp8"}

    def test_attention_runs_at_the_rate_of_the_cache(self):
        step = decode("llama-3.1-8b", weights="int4", activations="bf16", kv="fp8")
        assert {op.matrix_format for op in step.ops if op.kind == "attention"} == {"fp8"}


class TestSteps:
    def test_info(self, tiny: Model):
        assert prefill(tiny, prompt=5).info["prompt"] == 5
        assert decode(tiny, context=7, tp=2).info["context"] == 7
        assert prefill(tiny).name == "tiny:prefill"

    def test_recipe_rebuilds(self, tiny: Model):
        shared = decode(tiny, batch=2, context=7, tp=2)
        assert shared.recipe is not None
        alone = shared.recipe(1)
        assert alone.ops == decode(tiny, batch=2, context=7).ops and alone.chips == 1

    def test_graph_inputs_and_outputs_are_marked(self, tiny: Model):
        outputs = [(op.name, o.name) for op in prefill(tiny).ops for o in op.operands if o.role == "io"]
        assert outputs == [("lm_head", "out")]

    def test_chunks_add_up(self, tiny: Model):
        # Everything but the head is linear in tokens or pairs; each chunk runs the head once.
        head = 2 * 8 * 32
        whole = prefill(tiny, prompt=10).flops - head
        parts = prefill(tiny, prompt=4).flops + prefill(tiny, prompt=6, past=4).flops - 2 * head
        assert whole == parts

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (lambda m: prefill(m, prompt=0), "prompt"), (lambda m: prefill(m, prompt=1.5), "prompt"),
            (lambda m: prefill(m, batch=-1), "batch"), (lambda m: prefill(m, past=-1), "context"),
            (lambda m: decode(m, context="x"), "context"), (lambda m: decode(m, batch=2**41), "batch"),
            (lambda m: decode(m, tp=0), "tp"), (lambda m: decode(m, tp=True), "tp"),
            (lambda m: decode(m, weights="bf61"), "weights"), (lambda m: decode(m, kv="bf61"), "kv"),
            (lambda m: prefill(m, batch=2**40, prompt=2**40), "out of range"),
        ],
    )  # fmt: skip
    def test_refused(self, tiny: Model, call, name: str):
        with pytest.raises(InputError, match=name):
            call(tiny)

    def test_huge_arrays_are_refused_without_warnings(self, tiny: Model):
        with pytest.raises(InputError, match="out of range"):
            prefill(tiny, batch=np.array([2**40]), prompt=2**40)

    def test_unknown_model(self):
        with pytest.raises(InputError, match="unknown model 'llama-9'"):
            decode("llama-9")


MIXTURES = [name for name in DECODERS if load_model(name).moe]


class TestExpertParallel:
    """Whole experts on chips of their own: what one chip does, by hand and as a law."""

    ATTENTION = Attention("gqa", 4, 2, 4, 4)

    def model(self, shared: int = 0) -> Model:
        ffn = Ffn("moe", 16, experts=4, experts_per_token=2, shared_intermediate=shared)
        return Model("mix", "Mix", 8, 32, ((Layer(self.ATTENTION, ffn), 3),), tied_embeddings=False)

    def ops(self, step: Workload) -> dict[str, Any]:
        return {op.name.removeprefix("layers."): op for op in step.ops}

    def test_by_hand(self):
        """6 tokens, 2 of 4 experts each; two chips split attention and hold two experts each.

        A chip routes 3 of the tokens. A token misses a chip when both its experts are the other's: 1 of C(4,2) = 6
        pairs, so it visits 2 · 5/6 = 5/3 chips and 10 copies of 8 elements are exchanged, 5 from or to each chip.
        A chip has half of the 12 choices: 6 rows through up [8 → 2 · 16] and down [16 → 8]. The two collect
        6 · 8 elements for the residual stream.
        """
        ops = self.ops(decode(self.model(), batch=6, context=9, tp=2, ep=2))
        assert ops["ffn.router"].dims["m"] == 3 and ops["ffn.route"].dims["rows"] == 3
        for name in ("ffn.dispatch", "ffn.return"):
            assert ops[name].function == "all_to_all"
            assert (ops[name].dims["elements"], ops[name].dims["chips"]) == (10 * 8, 2)
        assert ops["ffn.experts_up"].flops == 2 * 6 * 32 * 8 and ops["ffn.experts_down"].flops == 2 * 6 * 8 * 16
        assert ops["ffn.act"].dims["n"] == 6 * 16 and ops["ffn.combine"].dims["n"] == 6 * 8
        assert ops["ffn.sum"].dims["n"] == 5 * 8
        assert ops["ffn.all_gather"].function == "all_gather" and ops["ffn.all_gather"].dims["elements"] == 6 * 8
        assert "ffn.all_reduce" not in ops and ops["attn.all_reduce"].dims["elements"] == 6 * 8

    def test_shared_experts_stay_split_and_their_all_reduce_hands_out_the_rest(self):
        ops = self.ops(decode(self.model(shared=16), batch=6, context=9, tp=2, ep=2))
        assert ops["ffn.shared.up"].flops == 2 * 6 * 2 * 8 * 8
        assert "ffn.all_reduce" in ops and "ffn.all_gather" not in ops

    def test_attention_groups_take_their_share_of_the_sequences(self):
        """Four chips, experts on all: as two groups of two, then as four of one that need no other collective.

        6 tokens reach 4 (1 − 2^−6) = 3.9375 of the four experts on average, so that many chips share their 12 rows.
        """
        two, four = (self.ops(decode(self.model(), batch=6, context=9, tp=tp, ep=4)) for tp in (2, 1))
        assert two["attn.qkv"].dims["m"] == 3 and four["attn.qkv"].dims["m"] == 2  # 6 / 4, the larger share
        assert two["ffn.router"].dims["m"] == 2 and two["ffn.all_gather"].dims["elements"] == 3 * 8
        assert two["ffn.experts_up"].flops == four["ffn.experts_up"].flops == 2 * 12 * 32 * 8 / 3.9375
        assert [op.function for op in four.values() if op.kind == "collective"] == ["all_to_all"] * 2
        assert two["lm_head"].dims["m"] == 3

    @pytest.mark.parametrize("name", MIXTURES)
    def test_chips_share_the_routed_work(self, name: str):
        """Flops and weights of the routed experts of all chips are those of one; so are those of the router."""
        model = load_model(name)
        alone = decode(model, batch=4096, context=8)
        for tp, ep in ((1, 2), (2, 2), (8, 8), (1, 8), (2, 8)):
            step = decode(model, batch=4096, context=8, tp=tp, ep=ep)
            assert step.chips == ep
            for part in ("ffn.experts_up", "ffn.experts_down", "ffn.router"):
                one, each = ([op for op in work.ops if op.name.endswith(part)] for work in (alone, step))
                assert ep * sum(op.count * op.flops for op in each) == pytest.approx(
                    sum(op.count * op.flops for op in one)
                )
                if part != "ffn.router":
                    held = [sum(op.count * op.bytes("weight") for op in ops) for ops in (one, each)]
                    assert ep * held[1] == pytest.approx(held[0], rel=1e-12)

    def test_an_array_of_batches_equals_each_batch(self):
        sizes = [1, 5, 64]
        together = decode(self.model(16), batch=np.array(sizes), context=9, tp=1, ep=2)
        for i, size in enumerate(sizes):
            alone = decode(self.model(16), batch=size, context=9, tp=1, ep=2)
            for op, one in zip(together.ops, alone.ops, strict=True):
                assert np.broadcast_to(op.flops, 3)[i] == one.flops and np.broadcast_to(op.bytes(), 3)[i] == one.bytes()

    def test_chips_visited(self):
        assert llm.chips_visited(4, 2, 2) == Fraction(5, 3)
        assert llm.chips_visited(8, 1, 4) == 1 and llm.chips_visited(8, 8, 4) == 4
        # 8 of 256 experts on 64 chips of 4: nearly always different chips.
        assert 7.5 < llm.chips_visited(256, 8, 64) < 8

    @pytest.mark.parametrize(("tp", "ep", "message"), [(1, 3, "divisor of the 4"), (4, 2, "multiple of tp"),
                                                       (1, 8, "divisor"), (1, 0, "ep")])  # fmt: skip
    def test_refused(self, tp: int, ep: int, message: str):
        with pytest.raises(InputError, match=message):
            decode(self.model(), tp=tp, ep=ep)

    def test_a_dense_model_has_no_experts_to_share(self, tiny: Model):
        with pytest.raises(InputError, match="routes to no experts"):
            prefill(tiny, tp=2, ep=2)


def test_ceil_div():
    assert [ceil_div(x, 4) for x in (1, 4, 5, 8)] == [1, 1, 2, 2]


def test_every_named_precision_prices_a_step(tiny: Model):
    for name, fmt in llm.PRECISIONS.items():
        step = decode(tiny, weights=fmt.weights, activations=fmt.activations, kv=fmt.kv)
        assert step.bytes() > 0, name
