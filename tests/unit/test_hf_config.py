"""Is each family's configuration read as its class would read it, and is every mistake named?"""

from __future__ import annotations

from typing import Any

import pytest

from npusim.errors import InputError
from npusim.importers.hf_config import FAMILIES, read_config
from npusim.importers.hf_fields import LIMIT
from npusim.models import Model, parse_config

BASE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
    "intermediate_size": 96, "vocab_size": 1000, "max_position_embeddings": 512,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
}  # fmt: skip
MLA: dict[str, Any] = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
EXTRA: dict[str, dict[str, Any]] = {
    "qwen3_moe": EXPERTS, "mixtral": EXPERTS, "gpt_oss": EXPERTS, "solar_open": EXPERTS, "exaone_moe": EXPERTS,
    "deepseek_v2": EXPERTS | MLA, "deepseek_v3": EXPERTS | MLA,
    "bert": {"type_vocab_size": 2, "num_key_value_heads": 8},
    "gptj": {"num_key_value_heads": 8, "intermediate_size": 256}, "opt": {"num_key_value_heads": 8},
    "vit": {"image_size": 32, "patch_size": 8, "num_channels": 3, "num_labels": 10, "num_key_value_heads": 8},
}  # fmt: skip


def read(model_type: str, drop: tuple[str, ...] = (), **fields: Any) -> Model:
    config = BASE | EXTRA.get(model_type, {}) | {"model_type": model_type} | fields
    return parse_config({key: value for key, value in config.items() if key not in drop}, "test")


def problems(model_type: str, drop: tuple[str, ...] = (), **fields: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(model_type, drop, **fields)
    return [str(problem) for problem in caught.value.problems]


def windows(model: Model) -> dict[int | None, int]:
    found: dict[int | None, int] = {}
    for layer, count in model.blocks:
        found[layer.attention.window] = found.get(layer.attention.window, 0) + count
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_and_counts_all_layers(family: str) -> None:
    model = read(family)

    assert model.layers == 8 and model.family == family
    assert model.params().total == sum(model.parts().values())
    assert model.causal is (family not in ("bert", "vit"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_name_is_understood_with_and_without_model_type(family: str) -> None:
    for architecture in FAMILIES[family].architectures:
        drop = () if family == "gemma3" else ("model_type",)  # two rows share the Gemma 3 names
        assert read(family, drop, architectures=[architecture]).blocks == read(family).blocks


# --- biases and norms -----------------------------------------------------------------------------------


def test_biases_follow_the_keys_of_the_class() -> None:
    plain = read("llama").params().total
    qkv, o = 64 + 2 * 32, 64

    assert read("llama", attention_bias=True).params().total == plain + 8 * (qkv + o)
    assert read("llama", mlp_bias=True).params().total == plain + 8 * (2 * 96 + 64)
    assert read("qwen2").params().total == plain + 8 * qkv
    assert read("qwen2", attention_bias=False).params().total == plain + 8 * qkv  # no such key in Qwen2
    assert read("qwen3", head_dim=8).params().total == plain + 8 * 2 * 8
    solar = read("solar_open").params().total  # its output projection never has a bias
    assert read("solar_open", attention_bias=True).params().total == solar + 8 * (8 + 2 * 4) * 128
    assert read("opt", enable_bias=False).params().total < read("opt").params().total
    assert read("vit", qkv_bias=False).params().total == read("vit").params().total - 8 * 3 * 64
    without = read("deepseek_v3").params().total
    assert read("deepseek_v3", attention_bias=True).params().total == without + 8 * (24 + 16 + 4 + 64)


def test_tie_defaults_are_those_of_the_class() -> None:
    assert read("gemma2").tied_embeddings and read("exaone").tied_embeddings and read("opt").tied_embeddings
    assert not read("llama").tied_embeddings and not read("exaone4").tied_embeddings
    assert ("tie_word_embeddings", "class default") in read("llama").derived
    assert ("tie_word_embeddings", "class default") not in read("llama", tie_word_embeddings=True).derived


def test_head_dim_is_read_or_class_default_or_arithmetic() -> None:
    assert read("llama").blocks[0][0].attention.head_dim == 8
    assert read("llama", head_dim=None).blocks[0][0].attention.head_dim == 8
    assert read("llama", head_dim=16).blocks[0][0].attention.head_dim == 16
    assert read("qwen3").blocks[0][0].attention.head_dim == 128
    assert "head_dim is null" in problems("qwen3", head_dim=None)[0]
    assert "does not divide hidden_size" in problems("llama", hidden_size=66)[0]
    assert read("llama", hidden_size=66, head_dim=8).hidden == 66


def test_missing_key_value_heads_mean_multi_head_only_where_the_class_says_so() -> None:
    assert read("llama", ("num_key_value_heads",)).blocks[0][0].attention.kv_heads == 8
    assert read("phi3", num_key_value_heads=None).blocks[0][0].attention.kv_heads == 8
    assert "num_key_value_heads is missing" in problems("mistral", ("num_key_value_heads",))[0]
    assert read("opt", ("num_key_value_heads",)).blocks[0][0].attention.kv_heads == 8
    assert "not modelled" in problems("opt", num_key_value_heads=4)[0]


# --- windows --------------------------------------------------------------------------------------------


def test_window_rules() -> None:
    assert windows(read("llama", sliding_window=128)) == {None: 8}  # the class ignores the key
    assert windows(read("mistral", sliding_window=None)) == {None: 8}
    assert windows(read("mistral", sliding_window=128)) == {128: 8}
    assert windows(read("mistral")) == {4096: 8}  # class default
    assert windows(read("phi3", sliding_window=2047)) == {2047: 8}
    assert windows(read("phi3")) == {None: 8}
    assert windows(read("qwen2", sliding_window=128, use_sliding_window=False)) == {None: 8}
    sliding = read("qwen2", sliding_window=128, use_sliding_window=True, max_window_layers=5)
    assert windows(sliding) == {None: 5, 128: 3}
    assert windows(read("gemma2")) == {4096: 4, None: 4}
    assert windows(read("gpt_oss")) == {128: 4, None: 4}
    assert windows(read("gemma3_text", sliding_window=1024)) == {1024: 7, None: 1}
    assert windows(read("gemma3_text", sliding_window_pattern=2)) == {4096: 4, None: 4}


def test_exaone_patterns_and_layers_without_positions() -> None:
    assert windows(read("exaone4", sliding_window_pattern="LLLG")) == {4096: 6, None: 2}
    assert windows(read("exaone4", sliding_window_pattern=4)) == {4096: 6, None: 2}
    assert windows(read("exaone4", sliding_window_pattern="LLL")) == {4096: 7, None: 1}  # the last is always full
    assert windows(read("exaone4", sliding_window=None, sliding_window_pattern=None)) == {None: 8}
    hybrid = read("exaone4", sliding_window_pattern="LLLG")
    assert all(layer.attention.rope is (layer.attention.window is not None) for layer, _ in hybrid.blocks)
    assert read("exaone4", sliding_window=None).blocks[0][0].attention.rope
    assert "letters L (sliding) and G" in problems("exaone4", sliding_window_pattern="LLX")[0]


def test_layer_types_win() -> None:
    types = ["full_attention"] * 7 + ["sliding_attention"]

    assert windows(read("gemma2", layer_types=types)) == {None: 7, 4096: 1}
    assert windows(read("llama", layer_types=types, sliding_window=64)) == {None: 7, 64: 1}
    assert "no window" in problems("llama", layer_types=types)[0]
    assert "use_sliding_window true" in problems("qwen2", layer_types=types, sliding_window=64)[0]
    assert "one per layer" in problems("gemma2", layer_types=types[1:])[0]
    assert "linear_attention" in problems("gemma2", layer_types=[*types[1:], "linear_attention"])[0]
    assert "one per layer" in problems("gemma2", layer_types="full_attention")[0]


# --- experts --------------------------------------------------------------------------------------------


def moe_layers(model: Model) -> int:
    return sum(count for layer, count in model.blocks if layer.ffn.kind == "moe")


def test_which_layers_have_experts() -> None:
    assert moe_layers(read("mixtral")) == 8
    assert moe_layers(read("qwen3_moe")) == 8
    assert moe_layers(read("qwen3_moe", mlp_only_layers=[0, 3], decoder_sparse_step=2)) == 3
    assert moe_layers(read("deepseek_v3")) == 5
    assert moe_layers(read("deepseek_v3", first_k_dense_replace=1, moe_layer_freq=2)) == 3
    assert moe_layers(read("exaone_moe", first_last_k_dense_replace=2)) == 6
    assert moe_layers(read("exaone_moe", mlp_layer_types=["dense"] * 3 + ["sparse"] * 5)) == 5
    assert moe_layers(read("exaone_moe", is_moe_layer=[False] * 4 + [True] * 4)) == 4
    assert moe_layers(read("solar_open")) == 8
    assert "list of layer numbers" in problems("qwen3_moe", mlp_only_layers=[99])[0]
    assert "is_moe_layer has an entry 1" in problems("exaone_moe", is_moe_layer=[1] * 8)[0]


def test_expert_widths_and_shared_experts() -> None:
    (layer, _), *_ = read("solar_open", n_shared_experts=2).blocks
    assert (layer.ffn.intermediate, layer.ffn.shared_intermediate) == (32, 64)
    assert read("mixtral").blocks[0][0].ffn.intermediate == 96
    assert read("solar_open", n_shared_experts=None).blocks[0][0].ffn.shared_intermediate == 0
    assert read("solar_open", ("intermediate_size",)).layers == 8  # no dense layer, no need of its width
    assert "intermediate_size is missing" in problems("deepseek_v3", ("intermediate_size",))[0]
    assert "more than the 4 experts" in problems("mixtral", num_experts_per_tok=5)[0]
    assert "n_shared_experts is missing" in problems("solar_open", ("n_shared_experts",))[0]


def test_latent_attention_with_and_without_query_compression() -> None:
    compressed, direct = read("deepseek_v2"), read("deepseek_v2", q_lora_rank=None)

    assert compressed.blocks[0][0].attention.q_lora_rank == 24
    assert direct.blocks[0][0].attention.matrices(64)[0] == ("q", 64, 8 * 12)
    assert "q_lora_rank is missing" in problems("deepseek_v2", ("q_lora_rank",))[0]


# --- families of their own ------------------------------------------------------------------------------


def test_gemma3_reads_the_nested_text_config() -> None:
    inner = {key: value for key, value in BASE.items() if key not in ("vocab_size", "num_attention_heads")}
    outer = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": inner}
    model = parse_config(outer, "test")

    assert (model.vocab, model.blocks[0][0].attention.heads) == (262208, 8)  # class defaults, and said so
    assert {"vocab_size", "num_attention_heads"} <= {field for field, _ in model.derived}
    assert model.tied_embeddings and "vision tower" in model.notes[0]
    with pytest.raises(InputError, match=r"text_config\.hidden_size"):
        parse_config(outer | {"text_config": inner | {"hidden_size": "64"}}, "test")


def test_gptj_uses_its_own_key_names() -> None:
    config = {
        "model_type": "gptj", "n_embd": 64, "n_layer": 8, "n_head": 8, "n_inner": None, "vocab_size": 1000,
        "n_positions": 512, "activation_function": "gelu_new",
    }  # fmt: skip
    model = parse_config(config, "test")

    assert model.blocks == read("gptj").blocks and model.max_positions == 512
    assert model.blocks[0][0].ffn.intermediate == 256 and model.blocks[0][0].parallel
    assert parse_config(config | {"n_inner": 100}, "test").blocks[0][0].ffn.intermediate == 100


def test_bert_and_opt_tables_and_what_is_refused() -> None:
    assert (read("opt").position_rows, read("bert").position_rows, read("bert").type_rows) == (514, 512, 2)
    assert not read("opt", do_layer_norm_before=False).final_norm
    assert not read("opt", _remove_final_layer_norm=True).final_norm
    assert "not modelled" in problems("opt", word_embed_proj_dim=32)[0]
    assert "not modelled" in problems("bert", position_embedding_type="relative_key")[0]
    assert "not modelled" in problems("bert", is_decoder=True)[0]
    assert "max_position_embeddings is missing" in problems("bert", ("max_position_embeddings",))[0]


def test_vit_heads_and_shapes() -> None:
    classifier = read("vit", architectures=["ViTForImageClassification"])
    bare = read("vit", architectures=["ViTModel"])

    assert (classifier.classes, classifier.pooler, classifier.position_rows) == (10, False, 17)
    assert (bare.classes, bare.pooler, bare.patch_inputs) == (0, True, 192)
    assert read("vit", ("num_labels",), id2label={"0": "a", "1": "b", "2": "c"}).classes == 3
    assert read("vit", image_size=[32, 64]).position_rows == 4 * 8 + 1
    assert "num_labels is missing" in problems("vit", ("num_labels",))[0]
    assert "larger than image_size" in problems("vit", patch_size=64)[0]
    assert "image_size[1]" in problems("vit", image_size=[32, "x"])[0]


# --- mistakes -------------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once_with_their_place() -> None:
    config = BASE | {"model_type": "llama", "hidden_size": "64", "vocab_size": 0, "num_hidden_layers": True}
    del config["intermediate_size"]
    config["intermediate_sise"] = 96
    with pytest.raises(InputError) as caught:
        read_config(config, "test", "c.json", lambda path: (len(path), 7))

    found = {problem.path: problem for problem in caught.value.problems}
    assert set(found) == {"hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size"}
    assert all((p.file, p.line, p.col) == ("c.json", 1, 7) for p in found.values())
    assert found["intermediate_size"].hint == "did you mean 'intermediate_sise'?"
    assert "'64' (str)" in found["hidden_size"].message


@pytest.mark.parametrize(
    "value", ["64", 64.0, True, None, 0, -1, LIMIT + 1, pytest.param(10**5000, id="huge"), [64], {}]
)
@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_size_is_a_positive_integer(field: str, value: object) -> None:
    found = problems("llama", **{field: value})

    assert len(found) == 1 and found[0].startswith(f"{field}: ") and len(found[0]) < 300


def test_other_wrong_values() -> None:
    assert "does not divide num_attention_heads" in problems("llama", num_key_value_heads=3)[0]
    assert "true or false" in problems("llama", tie_word_embeddings="yes")[0]
    assert "did you mean 'silu'" in problems("llama", hidden_act="silo")[0]
    assert "hidden_size differ" in problems("llama", n_embd=65)[0]
    assert "65536" in problems("llama", num_hidden_layers=10**6)[0]
    assert read("llama", n_embd=64).hidden == 64


def test_unknown_model_type_or_architecture_lists_what_is_understood() -> None:
    (found,) = problems("lama")
    assert "did you mean 'llama'" in found and "MixtralForCausalLM" in found and "hidden_size" in found
    (found,) = problems("", ("model_type",))
    assert "model_type is missing" in found
    (found,) = problems("", ("model_type",), architectures=["LlamaForCausalML"])
    assert "did you mean 'LlamaForCausalLM'" in found
    (found,) = problems("llama", architectures=["LlamaForSequenceClassification"])
    assert "not understood for model_type 'llama'" in found
    (found,) = problems("x", ("model_type",), architectures=["A" * 10**5])
    assert len(found) < 2000


@pytest.mark.parametrize("config", [None, [], "text", 3])
def test_a_configuration_is_a_mapping(config: Any) -> None:
    with pytest.raises(InputError, match="a mapping of fields"):
        parse_config(config, "test", "c.json")
