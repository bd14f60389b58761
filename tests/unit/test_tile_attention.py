"""What attention reads from main memory more than once: derived by hand, and as the cycle model's program has it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from npusim.accuracy.prediction import predict_kernels
from npusim.accuracy.rows import load_rows
from npusim.calibration import Calibrations
from npusim.chip import Chip, load_chip
from npusim.cost import cycle, lowering, roofline, tile
from npusim.ops import read_width
from npusim.workload import Op, attention

KIB = 1024


def latent(batch: int, heads: int, context: int) -> Op:
    """Absorbed decode of DeepSeek's attention: a vector of 512 + 64 elements a token, its first 512 are the value."""
    return attention(batch, heads, 1, 576, 1, context, v_head_dim=512, kv_width=576)


def small(chip: str, cores: int, shared_bytes: int) -> Chip:
    return load_chip(chip).replace({"cores": cores, "levels.l2.capacity": shared_bytes})


def moved(op: Op, chip: Chip) -> tuple[float, float]:
    """Bytes that pass main memory once, and those of the tile model."""
    work = roofline.work(op, chip)
    return float(work.dram_bytes), float(tile.price(op, chip, work).dram_bytes)


def test_blocks_in_flight_share_one_pass():
    """32 768 tokens of Llama 3.1 8B on H100: a group's 16.8 MB stay in 50 MiB, however many blocks read them."""
    op, chip = attention(1, 32, 8, 128, 32768, 32768), load_chip("h100")
    once, all_ = moved(op, chip)
    assert all_ == once
    # 128 heads on one latent: 8 blocks of 16 rows a sequence, all in flight with 132 cores; 368 MB of latents.
    once, all_ = moved(latent(64, 128, 4990), chip)
    assert all_ == once > 64 * 4989 * 576 * 2


def test_a_pass_per_round_of_a_group():
    """Two groups of 2048 queries on 4 cores: blocks / 4 passes, each but the first for what 64 KiB do not hold."""
    op, chip = attention(2, 2, 1, 64, 2048, 2048), small("h100", 4, 64 * KIB)
    rows, _ = tile.attention_block(op, chip, roofline.work(op, chip))
    passes = math.ceil(2 * 2048 / rows / 4)
    assert passes > 1
    # A causal query sees 1024.5 keys on average, of 2 · 64 elements of 2 bytes.
    again = 2 * (passes - 1) * (1024.5 * 256 - 64 * KIB)
    once, all_ = moved(op, chip)
    assert all_ == pytest.approx(once + again, rel=1e-12)


def test_without_a_shared_memory_each_block_reads_for_itself():
    op, chip = attention(1, 1, 1, 64, 1024, 1024, causal=False), load_chip("rngd")
    assert tile.machine(chip).shared_level is None
    rows, _ = tile.attention_block(op, chip, roofline.work(op, chip))
    once, all_ = moved(op, chip)
    assert all_ == pytest.approx(once + (math.ceil(1024 / rows) - 1) * 1024 * 256, rel=1e-12)


def test_a_latent_is_read_once():
    """The value is part of an absorbed key; expanded keys and values are 192 + 128 elements, whatever the cache has."""
    expanded = attention(1, 16, 16, 192, 8, 8, v_head_dim=128, kv_width=576)
    assert [int(read_width(op.dims)) for op in (latent(1, 16, 9), expanded, attention(1, 8, 1, 128, 1, 9))] == [
        576, 320, 256]  # fmt: skip


@pytest.mark.parametrize("causal", [True, False])
def test_cycles_read_what_the_tile_model_says(causal: bool):
    """Whole passes: 8 blocks on 4 cores read a group's keys twice, the second time what memory does not hold."""
    chip = small("h100", 4, 64 * KIB)
    op = attention(2, 1, 1, 64, 4096, 4096, causal=causal)
    once, all_ = moved(op, chip)
    work = roofline.work(op, chip)
    assert chip.memory is not None
    ran = cycle.run(lowering.lower(op, chip, work), chip.memory)
    assert all_ > 1.2 * once
    assert ran.dram_bytes == pytest.approx(all_, rel=0.15)


def test_sizes_of_heads_are_priced_apart(tmp_path: Path):
    """Rows of 64 and 256 elements a head: each takes what it takes alone."""

    def times(sizes: tuple[int, ...]) -> list[float]:
        file = tmp_path / f"{len(sizes)}.csv"
        lines = [f"H100,attention_decode,bfloat16,4,32,8,{size},1,4096,9" for size in sizes]
        file.write_text("device,op,dtype,batch,heads,kv_heads,head_dim,seq_q,seq_kv,latency_us\n" + "\n".join(lines))
        found = predict_kernels(load_rows([str(file)]), None, Calibrations("none"), "tile").predicted_s
        return [float(one) for one in found]

    alone = [times((size,))[0] for size in (64, 256, 64)]
    assert times((64, 256, 64)) == alone and 3 * alone[0] < alone[1]


def test_softmax_that_is_not_hidden_adds_to_the_products():
    """FlashAttention-3 (arXiv 2407.08608, table 2): 16 000 tokens, head dimension 128, fp16, no mask on H100 are 570 to
    661 TFLOPS, with and without the softmax of one warp group under the products of another."""
    op, chip = attention(1, 16, 16, 128, 16384, 16384, "fp16", "fp16", "fp16", causal=False), load_chip("h100")
    hidden = chip.replace({"core.vector.overlaps_scores": True})
    seconds = {one: float(tile.price(op, one_chip, roofline.work(op, one_chip)).time_s)
               for one, one_chip in (("sum", chip), ("hidden", hidden))}  # fmt: skip
    flops = 4 * 16 * 128 * 16384**2
    assert 570e12 < flops / seconds["sum"] < 661e12
    assert flops / seconds["hidden"] > 900e12
    # Three additions and an exponential a score, beside two products of 128.
    softmax = (3 / 128 + 1 / 16) / chip.core.vector.clock_hz
    products = 4 * 128 / 4096 / chip.clock_hz
    assert seconds["sum"] / seconds["hidden"] == pytest.approx(1 + softmax / products, rel=0.02)


@pytest.mark.parametrize("queries", [1, 700])
def test_tile_and_cycle_agree_on_softmax_that_is_not_hidden(queries: int):
    chip = small("h100", 4, 64 * KIB)
    op = attention(2, 8, 2, 128, queries, 4096)
    work = roofline.work(op, chip)
    ran = cycle.timeline(op, chip, work)
    assert float(tile.price(op, chip, work).time_s) == pytest.approx(cycle.time_s(ran, work, chip), rel=0.15)
