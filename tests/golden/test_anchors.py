"""Figures derived by hand, each with its derivation beside it.

The derivations use only the published dimensions of the models and round hardware figures; nothing here
was copied from a run.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from npusim import llm, parallel
from npusim.chip import Chip
from npusim.cost import estimate
from npusim.kperf_suite import Suite, kperf
from npusim.models import Model, load_model
from npusim.workload import attention, collective, conv2d, elementwise, embedding, experts, gemm, norm, softmax

EXACT = 1e-12


@pytest.fixture
def two_pf(toy: Chip) -> Chip:
    """2 PFLOP/s in fp8 and 4.8 TB/s, nothing else described: the chip of the 23.43 ms anchor."""
    # 1000 cores × 2000 FLOP × 1 GHz = 2 PFLOP/s.
    changed = toy.replace({"cores": 1000, "memory.bandwidth": "4.8 TB/s", "memory.capacity": "144 GB"})
    return changed.model_copy(update={"levels": {}, "core": changed.core.model_copy(update={"vector": None})})


@pytest.fixture
def llama70() -> Model:
    return load_model("llama-3.3-70b")


class TestLlama70BDecode:
    """Llama-3.3-70B, everything fp8, batch 64, context 4096, on 2 PFLOP/s and 4.8 TB/s.

    Matrices per layer: q 8192·8192 + k,v 2·8192·1024 + o 8192·8192 + gate, up, down 3·8192·28672
      = 67 108 864·2 + 16 777 216 + 704 643 072 = 855 638 016; × 80 = 68 451 041 280.
    Head: 8192·128256 = 1 050 673 152. Together 69 501 714 432 ≈ 69.50e9, one byte each in fp8.
    KV: 80 layers · 2 · 8 heads · 128 = 163 840 B per token; · 64 · 4096 = 42 949 672 960 B.
    """

    @pytest.fixture
    def step(self, llama70: Model):
        return llm.decode(llama70, batch=64, context=4096, weights="fp8", activations="fp8", kv="fp8")

    def test_matmul_weight_bytes(self, step):
        matrices = sum(
            op.count * o.bytes for op in step.ops if op.kind == "gemm" for o in op.operands if o.role == "weight"
        )
        assert matrices == 69_501_714_432

    def test_weight_seconds(self, step):
        assert 69_501_714_432 / 4.8e12 == pytest.approx(14.48e-3, abs=0.005e-3)

    def test_kv_bytes_read(self, step):
        read = sum(op.count * o.bytes for op in step.ops for o in op.operands if o.name == "kv_read")
        assert read == 42_949_672_960
        assert read / 4.8e12 == pytest.approx(8.95e-3, abs=0.005e-3)

    def test_kv_bytes_written(self, step):
        # One new token of each of 64 sequences: 64 · 163 840.
        assert sum(op.count * o.bytes for op in step.ops for o in op.operands if o.name == "kv_write") == 10_485_760

    def test_compute_seconds(self, step):
        # 2 · 69 501 714 432 · 64 + attention 4 · 64 heads · 128 · 4097 keys · 80 layers · 64 sequences.
        flops = 2 * 69_501_714_432 * 64 + 4 * 64 * 128 * 4097 * 80 * 64
        assert step.flops == flops
        assert flops / 2e15 == pytest.approx(4.79e-3, abs=0.005e-3)

    def test_lower_bound_of_weights_and_kv(self, two_pf: Chip, step):
        # Only the matmul weights and the cache that is read: (69 501 714 432 + 42 949 672 960) / 4.8e12 = 23.43 ms.
        roles = {
            "out": "act",
            "a": "act",
            "kv_write": "act",
            "x": "act",
            "weight": "act",
            "table": "act",
            "q": "act",
            "kv_new": "act",
        }
        only = replace(step, ops=tuple(replace(op, roles={**op.roles, **roles}) for op in step.ops))
        # An infinite on-chip memory leaves nothing else to read.
        big = two_pf.replace({"levels": {"sram": {"scope": "chip", "capacity": "1 TB"}}})
        bound = estimate(only, big).lower_bound_s
        assert bound == pytest.approx((69_501_714_432 + 42_949_672_960) / 4.8e12, rel=EXACT)
        assert bound == pytest.approx(23.43e-3, abs=0.005e-3)
        assert int(64 / bound) in (2731, 2732)  # at most 2732 tokens/s

    def test_whole_step_is_no_faster(self, two_pf: Chip, step):
        cost = estimate(step, two_pf)
        assert cost.lower_bound_s >= 23.43e-3
        assert cost.time_s >= cost.lower_bound_s
        assert cost.bound == "dram"


class TestMemory:
    def test_llama_8b_kv_per_token(self):
        # 32 layers · 2 · 8 KV heads · 128 · 2 B = 131 072 B (128 KiB) in bf16.
        assert parallel.kv_bytes(load_model("llama-3.1-8b"), llm.precision("bf16"), 1, 1) == 131_072

    def test_llama_405b_kv_per_token_fp8(self):
        # 126 · 2 · 8 · 128 · 1 B = 258 048 B.
        assert parallel.kv_bytes(load_model("llama-3.1-405b"), llm.precision("fp8"), 1, 1) == 258_048

    def test_kv_heads_are_replicated_beyond_their_number(self):
        # 8 KV heads on 16 chips: one head each, 126 · 2 · 1 · 128 · 2 B = 64 512 B, as on 8 chips.
        model, bf16 = load_model("llama-3.1-405b"), llm.precision("bf16")
        assert parallel.kv_bytes(model, bf16, 1, 8) == parallel.kv_bytes(model, bf16, 1, 16) == 64_512

    def test_mla_caches_the_latent(self):
        # DeepSeek-V3: 61 layers · (512 + 64) · 2 B = 70 272 B per token, on any number of chips.
        model, bf16 = load_model("deepseek-v3"), llm.precision("bf16")
        assert parallel.kv_bytes(model, bf16, 1, 1) == parallel.kv_bytes(model, bf16, 1, 8) == 70_272

    def test_sliding_layers_hold_their_window(self):
        # gpt-oss-20b: 12 of 24 layers keep 128 tokens. 8 KV heads · (64 + 64) · 2 B = 2048 B per token and layer:
        # 10 000 tokens: 12 · 2048 · (10 000 + 128) = 248 905 728 B.
        assert parallel.kv_bytes(load_model("gpt-oss-20b"), llm.precision("bf16"), 10_000, 1) == 248_905_728

    def test_weights_bf16_are_two_bytes_per_parameter(self):
        for name in ("llama-3.1-8b", "mixtral-8x7b", "gemma-2-9b", "deepseek-v3"):
            model = load_model(name)
            assert parallel.weights_bytes(model, llm.precision("bf16")) == 2 * model.params().total

    def test_weights_fp8_keep_table_and_norms_in_bf16(self):
        # Llama-3.1-8B: 7 504 658 432 matrix elements · 1 B; table 525 336 576 and 65 norms of 4096 · 2 B.
        expected = 7_504_658_432 + 2 * (525_336_576 + 65 * 4096)
        assert parallel.weights_bytes(load_model("llama-3.1-8b"), llm.precision("fp8")) == expected

    def test_weights_int4_count_their_scales(self):
        # 4 + 16/128 = 4.125 bits per element.
        expected = 7_504_658_432 * 4.125 / 8 + 2 * (525_336_576 + 65 * 4096)
        assert parallel.weights_bytes(load_model("llama-3.1-8b"), llm.precision("w4a16")) == expected

    def test_degree_of_405b_bf16_on_80_gb(self, toy: Chip):
        # 405.85e9 · 2 B = 811.7 GB; 72 GB usable of 80: 8 chips have 576 (too little), 16 have 1152.
        chip = toy.replace({"memory.capacity": "80 GB", "memory.usable": 0.9})
        assert parallel.smallest_degree(load_model("llama-3.1-405b"), llm.precision("bf16"), chip, tokens=4096) == 16


class TestOperators:
    def test_gemm(self, toy: Chip):
        # 2 · 1000³ FLOP on 4 TFLOP/s = 0.5 ms; 3 · 1000² · 2 B = 6 MB on 100 GB/s = 60 us: the array bounds.
        cost = estimate(gemm(1000, 1000, 1000), toy)
        assert cost.time_s == pytest.approx(0.5e-3, rel=EXACT)
        assert cost.bound == "matrix"
        assert cost.dram_bytes == 6_000_000

    def test_gemv_is_bound_by_its_weights(self, toy: Chip):
        # 1000 × 1000 weights · 2 B + 2 · 1000 · 2 B = 2.004 MB → 20.04 us; compute 2e6 / 4e12 = 0.5 us.
        cost = estimate(gemm(1, 1000, 1000), toy)
        assert cost.time_s == pytest.approx(20.04e-6, rel=EXACT)
        assert cost.bound == "dram"

    def test_fp8_doubles_the_rate_and_halves_the_bytes(self, toy: Chip):
        cost = estimate(gemm(1000, 1000, 1000, "fp8", "fp8", "fp8"), toy)
        assert cost.time_s == pytest.approx(0.25e-3, rel=EXACT)
        assert cost.dram_bytes == 3_000_000

    def test_weight_only_int4_runs_at_the_activation_rate(self, toy: Chip):
        # b: 1e6 · 4.125 / 8 = 515 625 B.
        cost = estimate(gemm(1000, 1000, 1000, "bf16", "int4", "bf16"), toy)
        assert cost.time_s == pytest.approx(0.5e-3, rel=EXACT)
        assert cost.dram_bytes == 4_000_000 + 515_625

    @pytest.mark.parametrize(("fmt", "bits"), [("mxfp8", 8.25), ("mxfp6", 6.25), ("mxfp4", 4.25), ("nvfp4", 4.5)])
    def test_block_scales_are_counted(self, fmt: str, bits: float):
        # One 8-bit scale per 32 elements (MX) or per 16 (NVFP4).
        weights = gemm(32, 64, 128, "bf16", fmt).operands[1]
        assert weights.bytes == 64 * 128 * bits / 8

    def test_causal_prefill_attention(self):
        # 4 queries see 1+2+3+4 = 10 keys; 2 heads; QKᵀ and PV: 2 · 10 · 2 · (8 + 8) = 640 FLOP.
        op = attention(1, 2, 1, 8, 4, 4)
        assert op.flops == 640

    def test_decode_attention(self):
        # 1 query sees 100 keys: 3 sequences · 4 heads · 100 · 2 · (64 + 64) = 307 200 FLOP.
        # Cache read: 3 · 99 · 2 KV heads · 128 elements · 2 B = 152 064 B; written: 3 · 256 · 2 B = 1536 B.
        op = attention(3, 4, 2, 64, 1, 100)
        assert op.flops == 307_200
        by_name = {o.name: o.bytes for o in op.operands}
        assert by_name["kv_read"] == 152_064
        assert by_name["kv_write"] == 1536

    def test_sliding_window(self):
        # Window 3, 5 queries: 1+2+3+3+3 = 12 pairs; one head of 1: 12 · 2 · 2 = 48 FLOP.
        assert attention(1, 1, 1, 1, 5, 5, window=3).flops == 48
        # Decode at 10 keys sees the last 3, of which 2 are cached.
        step = attention(1, 1, 1, 1, 1, 10, window=3)
        assert step.flops == 3 * 4
        assert next(o for o in step.operands if o.name == "kv_read").elements == 2 * 2

    def test_chunked_prefill_equals_whole(self):
        # Pairs of 10 queries in one go or as 4 then 6 with 4 cached: 55 = 10 + 45.
        whole = attention(1, 1, 1, 1, 10, 10).flops
        parts = attention(1, 1, 1, 1, 4, 4).flops + attention(1, 1, 1, 1, 6, 10).flops
        assert whole == parts == 55 * 4

    def test_encoder_attention_sees_everything(self):
        assert attention(1, 1, 1, 1, 5, 5, causal=False).flops == 25 * 4

    def test_softmax_vector_time(self, toy: Chip):
        # 100 · 1000 elements: 4 adds each + 1 exp each + 100 reciprocals.
        # add: 4 cores · 10 lanes · 1 GHz = 40e9/s; exp at half that; a class without a rate runs as add.
        cost = estimate(softmax(100, 1000), toy)
        expected = 4e5 / 40e9 + 1e5 / 20e9 + 100 / 40e9
        assert cost.ops[0].seconds["vector"] == pytest.approx(expected, rel=EXACT)

    def test_rmsnorm_bytes(self, toy: Chip):
        # 10 rows of 100: in and out 2 · 1000 · 2 B, gain 100 · 2 B.
        assert estimate(norm(10, 100), toy).dram_bytes == 4200

    def test_elementwise_swiglu(self):
        # Two inputs, one output of n; 3 adds, 1 exp, 1 reciprocal per output.
        op = elementwise(1000, "swiglu")
        assert op.bytes() == 3 * 1000 * 2
        assert op.vector_ops == {"add": 3000, "exp": 1000, "rsqrt": 1000}

    def test_embedding_reads_gathered_rows_only(self):
        assert embedding(7, 100).bytes("weight") == 7 * 100 * 2

    def test_convolution(self, toy: Chip):
        # ResNet-50 conv1: 224², 3 → 64, 7×7, stride 2, padding 3: output 112²; 2 · 112² · 64 · 147 = 236 027 904 FLOP.
        assert conv2d(1, 224, 224, 3, 64, 7, 7, stride=2, padding=3).flops == 236_027_904

    def test_depthwise_convolution(self):
        # 56², 32 channels, 3×3, padding 1: 2 · 56² · 32 · 9 = 1 806 336 FLOP.
        assert conv2d(1, 56, 56, 32, 32, 3, 3, padding=1, groups=32).flops == 1_806_336

    def test_ring_all_reduce(self, toy: Chip):
        # 1e6 bf16 elements over 4 chips: 2 · 3/4 · 2 MB = 3 MB on 10 GB/s = 0.3 ms.
        assert estimate(collective(1_000_000, 4), toy).time_s == pytest.approx(0.3e-3, rel=EXACT)

    def test_experts_reached(self):
        # 8 experts, 2 per token: one token reaches 2; two tokens 8 · (1 − (6/8)²) = 3.5.
        one, two = (experts(tokens, 2, 8, 10, 10).operands[1].elements for tokens in (1, 2))
        assert one == pytest.approx(2 * 100, rel=EXACT)
        assert two == pytest.approx(3.5 * 100, rel=EXACT)

    def test_level_bandwidth(self, toy: Chip):
        # All operands pass l1 (4 × 100 B × 1 GHz = 400 GB/s): 6 MB → 15 us.
        assert estimate(gemm(1000, 1000, 1000), toy).ops[0].seconds["l1"] == pytest.approx(15e-6, rel=EXACT)

    def test_intermediates_beyond_on_chip_capacity_spill(self, toy: Chip):
        # 4 MiB on chip. An inner GEMM of 4096 × 1024 × 1024: input and output 8 MiB each, so 4 MiB of each passes DRAM;
        # weights 2 MiB.
        cost = estimate(gemm(4096, 1024, 1024).inner(), toy)
        assert cost.dram_bytes == (4 + 4 + 2) * 2**20


class TestTinyModel:
    """hidden 8, 2 heads of 4, 1 KV head, gated MLP 16, vocabulary 32, 2 layers; bf16."""

    def test_parameters(self, tiny: Model):
        # Layer: q 64 + k 32 + v 32 + o 64 + 3·8·16 = 576, norms 16: 592. Two: 1184. Table 256, head 256, final norm 8.
        assert tiny.params().total == 1184 + 256 + 256 + 8

    def test_prefill_flops(self, tiny: Model):
        # 5 tokens: 2·5·576·2 layers = 11 520; attention 15 pairs · 2 heads · 2 · 8 · 2 layers = 960; head: 512.
        assert llm.prefill(tiny, prompt=5).flops == 11_520 + 960 + 512

    def test_decode_flops(self, tiny: Model):
        # 3 sequences, 7 cached: 2·3·576·2 = 6912; 3 · 8 keys · 2 heads · 16 · 2 layers = 1536; head 3 · 512.
        assert llm.decode(tiny, batch=3, context=7).flops == 6912 + 1536 + 1536

    def test_tensor_parallel_halves_the_matrices(self, tiny: Model):
        # tp = 2: one query head each, the single KV head replicated: q 32 + kv 64 + o 32 + 3·8·8 = 320 per layer;
        # head 128. One token, one sequence, no cache: attention 1 pair · 1 head · 16 · 2 layers.
        assert llm.decode(tiny, batch=1, context=1, tp=2).flops == 2 * 320 * 2 + 2 * 128 + 2 * 1 * 16 * 2

    def test_tensor_parallel_all_reduces(self, tiny: Model):
        # After the embedding, and twice per layer: 1 + 2 · 2 all-reduces of 3 tokens · 8 elements.
        step = llm.decode(tiny, batch=3, context=7, tp=2)
        collectives = [op for op in step.ops if op.kind == "collective"]
        assert sum(op.count for op in collectives) == 5
        assert {op.dims["elements"] for op in collectives} == {24}


class TestKPerf:
    SUITE = Suite(
        format="npusim-suite/1",
        name="one",
        models=("tiny",),
        precisions=("bf16",),
        lengths=((5, 3),),
        concurrency=(2,),
        prefill_chunk_tokens=8,
    )

    def test_closed_loop(self, toy: Chip, tiny: Model):
        """C = 2, I = 5, O = 3: decode steps at contexts 6 and 7."""
        row = kperf(toy, suite=self.SUITE, models=[tiny]).rows[0]
        ttft = estimate(llm.prefill(tiny, prompt=5), toy).time_s
        tpot = np.mean([estimate(llm.decode(tiny, batch=2, context=c), toy).time_s for c in (6, 7)])
        assert row["ttft_s"] == pytest.approx(ttft, rel=EXACT)
        assert row["tpot_s"] == pytest.approx(tpot, rel=EXACT)
        assert row["ttft_burst_s"] == pytest.approx(2 * ttft, rel=EXACT)
        loop = 2 * ttft + 2 * tpot
        assert row["tokens_per_s"] == pytest.approx(6 / loop, rel=EXACT)
        assert row["tpot_loaded_s"] == pytest.approx((loop - ttft) / 2, rel=EXACT)

    def test_memory_row(self, toy: Chip, tiny: Model):
        # Weights 1704 · 2 B; KV 2 · 8 tokens · 2 layers · 8 elements · 2 B = 512 B; activations of 8 tokens:
        # stream 8 + 8, widest pair gate/up 32 + 16 → 64 elements · 2 B · 8 = 1024 B.
        row = kperf(toy, suite=self.SUITE, models=[tiny]).rows[0]
        assert row["memory_bytes"] == 3408 + 512 + 1024

    def test_energy_never_exceeds_the_tdp(self, toy: Chip, tiny: Model):
        row = kperf(toy, suite=self.SUITE, models=[tiny]).rows[0]
        # DRAM bound: 45 W static + 100e9 B/s · 8 · 4.85 pJ (hbm3 3.85 + on-die 1) = 3.88 W, little compute.
        assert 48 < row["avg_power_w"] < 50
