"""Do the catalog's models have the parameter counts they should, to the digit?

Two independent answers: counts worked out by hand below, from the dimensions alone; and, where the
project's shared folder of facts is at hand, the counts recorded there for every model that was read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from npusim.models import load_model, parse_config

FACTS = Path(__file__).parents[2].parent / "shared" / "data" / "facts" / "models.json"


def _facts() -> list[Any]:
    if not FACTS.is_file():
        reason = "the shared folder with data/facts/models.json is not beside the repository"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no-facts")]
    seen = [entry for entry in json.loads(FACTS.read_text())["models"] if entry["status"] == "seen"]
    return [pytest.param(entry, id=entry["name"]) for entry in seen]


@pytest.mark.parametrize("fact", _facts())
def test_catalog_equals_the_recorded_count_to_the_digit(fact: dict[str, Any]) -> None:
    count = load_model(fact["name"]).params()
    detail = fact["params_computed_detail"]

    assert count.total == fact["params_computed"]
    assert count.embedding == detail["embedding"]
    assert count.lm_head == detail["lm_head"]
    assert count.total - count.embedding - count.lm_head == detail["non_embedding"]
    assert count.active == detail["active"]
    assert count.active_without_input_embedding == detail["active_without_input_embedding"]


@pytest.mark.parametrize("fact", _facts())
def test_catalog_holds_the_same_network_as_the_recorded_config(fact: dict[str, Any]) -> None:
    ours, theirs = load_model(fact["name"]), parse_config(fact["config"], fact["name"])

    assert ours.blocks == theirs.blocks
    assert (ours.hidden, ours.vocab, ours.max_positions) == (theirs.hidden, theirs.vocab, theirs.max_positions)
    assert sum(n for layer, n in ours.blocks if layer.ffn.kind == "moe") == fact["params_computed_detail"]["moe_layers"]


def test_every_seen_fact_was_compared() -> None:
    if not FACTS.is_file():
        pytest.skip("the shared folder with data/facts/models.json is not beside the repository")

    assert len(_facts()) >= 39


# --- by hand --------------------------------------------------------------------------------------------
# A gated block has three hidden × inner matrices (gate, up, down); RMSNorm has one gain per channel.


def llama(hidden: int, layers: int, kv_width: int, inner: int, vocab: int) -> int:
    """q and o are hidden², k and v hidden × kv_width; two norms a layer, one at the end; untied head."""
    attention = 2 * hidden * hidden + 2 * hidden * kv_width
    return 2 * vocab * hidden + layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden


def mixtral(experts: int) -> int:
    """Mixtral-8x7B with ``experts`` of its 8 experts counted: 8 for all, 2 for what a token meets."""
    attention = 2 * 4096**2 + 2 * 4096 * 1024  # 41 943 040
    layer = attention + 4096 * 8 + experts * 3 * 4096 * 14336 + 2 * 4096  # router 4096 × 8, no bias
    return 2 * 32000 * 4096 + 32 * layer + 4096


def gpt_oss(experts: int) -> int:
    """gpt-oss-20b: biases everywhere, heads of 64 wider together (4096) than the stream (2880)."""
    attention = 2880 * (64 * 64 + 2 * 8 * 64) + (64 * 64 + 2 * 8 * 64)  # q, k, v with biases
    attention += 64 * 64 * 2880 + 2880 + 64  # o with bias, one sink per head
    expert = 3 * 2880 * 2880 + (2 * 2880 + 2880)  # gate and up fused, each with a bias, down with a bias
    layer = attention + (2880 * 32 + 32) + experts * expert + 2 * 2880  # router with bias
    return 2 * 201088 * 2880 + 24 * layer + 2880


def deepseek_v3(experts: int) -> int:
    """DeepSeek-V3 (arXiv 2412.19437, section 4.2): 3 dense layers, then 58 of 256 routed + 1 shared."""
    attention = 7168 * 1536 + 1536 + 1536 * 128 * (128 + 64)  # q down, its norm, q up
    attention += 7168 * (512 + 64) + 512 + 512 * 128 * (128 + 128)  # kv down with rotary key, norm, kv up
    attention += 128 * 128 * 7168  # o
    dense = 3 * 7168 * 18432
    sparse = 7168 * 256 + (1 + experts) * 3 * 7168 * 2048  # the correction bias is a buffer
    return 2 * 129280 * 7168 + 61 * (attention + 2 * 7168) + 3 * dense + 58 * sparse + 7168


def bert_large() -> int:
    """Word, position and segment tables with a LayerNorm; 24 layers with biases; the pooler."""
    tables = (30522 + 512 + 2) * 1024 + 2 * 1024
    attention = 4 * (1024 * 1024 + 1024)
    ffn = (1024 * 4096 + 4096) + (4096 * 1024 + 1024)
    return tables + 24 * (attention + ffn + 2 * 2 * 1024) + (1024 * 1024 + 1024)


def gemma2_27b() -> int:
    """Tied, four norms a layer, 32 heads of 128 (4096) on a stream of 4608, 16 key/value heads."""
    attention = 2 * 4608 * 4096 + 2 * 4608 * 2048
    return 256000 * 4608 + 46 * (attention + 3 * 4608 * 36864 + 4 * 4608) + 4608


def gptj() -> int:
    """No biases in attention, biases in the feed-forward part and in the head; one LayerNorm a layer."""
    layer = 4 * 4096**2 + (4096 * 16384 + 16384) + (16384 * 4096 + 4096) + 2 * 4096
    return 50400 * 4096 + 28 * layer + 2 * 4096 + (50400 * 4096 + 50400)


def vit_b16() -> int:
    """Patches of 16 × 16 × 3, class token, 197 positions, 12 layers with biases, 1000 classes."""
    front = (16 * 16 * 3 + 1) * 768 + 768 + 197 * 768
    layer = 4 * (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 2 * 2 * 768
    return front + 12 * layer + 2 * 768 + (768 + 1) * 1000


def exaone_moe(experts: int) -> int:
    """K-EXAONE: 1 dense layer, 47 of 128 + 1 experts, 64 heads of 128 (8192) on 6144, norms on q and k."""
    attention = 2 * 6144 * 8192 + 2 * 6144 * 1024 + 2 * 128
    sparse = 6144 * 128 + (1 + experts) * 3 * 6144 * 2048
    return 2 * 153600 * 6144 + 48 * (attention + 2 * 6144) + 3 * 6144 * 18432 + 47 * sparse + 6144


HAND = {
    "llama-3.1-8b": (8_030_261_248, llama(4096, 32, 1024, 14336, 128256)),
    "llama-3.3-70b": (70_553_706_496, llama(8192, 80, 1024, 28672, 128256)),
    "llama-3.1-405b": (405_853_388_800, llama(16384, 126, 1024, 53248, 128256)),
    "exaone-3.5-32b": (32_003_200_000, llama(5120, 64, 1024, 27392, 102400)),
    # The same network with a gain of 128 for q and for k in each layer.
    "exaone-4.0-32b": (32_003_216_384, llama(5120, 64, 1024, 27392, 102400) + 64 * 2 * 128),
    # Qwen2.5 has biases on q, k and v only: 5120 + 2 × 1024 per layer.
    "qwen2.5-32b": (32_763_876_352, llama(5120, 64, 1024, 27648, 152064) + 64 * (5120 + 2 * 1024)),
    "mixtral-8x7b": (46_702_792_704, mixtral(8)),
    "gpt-oss-20b": (20_914_757_184, gpt_oss(32)),
    "deepseek-v3": (671_026_404_352, deepseek_v3(256)),
    "k-exaone-236b-a23b": (236_571_150_336, exaone_moe(128)),
    "gemma-2-27b": (27_227_128_320, gemma2_27b()),
    "gpt-j-6b": (6_050_882_784, gptj()),
    "bert-large": (335_141_888, bert_large()),
    "vit-b-16": (86_567_656, vit_b16()),
}

ACTIVE = {
    "mixtral-8x7b": (12_879_925_248, mixtral(2)),
    "gpt-oss-20b": (4_187_440_704, gpt_oss(4)),
    "deepseek-v3": (37_552_282_624, deepseek_v3(8)),
    "k-exaone-236b-a23b": (23_668_279_296, exaone_moe(8)),
}


@pytest.mark.parametrize("name", HAND)
def test_total_by_hand(name: str) -> None:
    literal, derived = HAND[name]

    assert derived == literal
    assert load_model(name).params().total == literal


@pytest.mark.parametrize("name", ACTIVE)
def test_active_by_hand(name: str) -> None:
    literal, derived = ACTIVE[name]

    assert derived == literal
    assert load_model(name).params().active == literal


def test_matmul_by_hand() -> None:
    # Llama-3.1-8B: everything but the gathered table (128256 × 4096) and the norms (65 × 4096).
    assert load_model("llama-3.1-8b").params().matmul == 8_030_261_248 - 128256 * 4096 - 65 * 4096
    # Gemma-2-27b: the tied table is the head, so only the norms (185 × 4608) are no matrices.
    assert load_model("gemma-2-27b").params().matmul == 27_227_128_320 - 185 * 4608
    # Mixtral-8x7B: two experts.
    assert load_model("mixtral-8x7b").params().matmul == 12_879_925_248 - 32000 * 4096 - 65 * 4096
    # BERT-large: no head; 12 × 1024² per layer.
    assert load_model("bert-large").params().matmul == 24 * 12 * 1024**2
    # ViT-B/16: 12 × 768² per layer and the patch projection; the classifier acts once per image.
    assert load_model("vit-b-16").params().matmul == 12 * 12 * 768**2 + 768 * 768


def test_kv_elements_by_hand() -> None:
    assert load_model("llama-3.1-8b").kv_elements_per_token == 32 * 2 * 8 * 128
    assert load_model("deepseek-v3").kv_elements_per_token == 61 * (512 + 64)
    assert load_model("bert-large").kv_elements_per_token == 0
    # gpt-oss-20b at 1000 tokens: 12 layers keep 128 of them, 12 keep all.
    assert load_model("gpt-oss-20b").kv_elements(1000) == 12 * (128 + 1000) * 2 * 8 * 64
