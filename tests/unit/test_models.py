"""Does the typed description count and resolve as documented?"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim import yamlio
from npusim.errors import InputError, Unavailable
from npusim.models import CATALOG, Attention, Ffn, Layer, Model, load_model, model_entries, model_names

SMALL = st.integers(1, 64)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    flag = st.booleans()
    kv_heads, group = draw(SMALL), draw(st.integers(1, 8))
    common: dict[str, Any] = {
        "heads": kv_heads * group, "kv_heads": kv_heads, "v_head_dim": draw(SMALL), "window": draw(st.none() | SMALL),
        "qkv_bias": draw(flag), "o_bias": draw(flag), "qk_norm": draw(flag), "sinks": draw(flag),
    }  # fmt: skip
    if draw(flag):
        return Attention("gqa", head_dim=draw(SMALL), **common)
    rope = draw(SMALL)
    return Attention(
        "mla", head_dim=rope + draw(SMALL), rope_head_dim=rope, q_lora_rank=draw(st.none() | SMALL),
        kv_lora_rank=draw(SMALL), **common,
    )  # fmt: skip


@st.composite
def ffns(draw: st.DrawFn) -> Ffn:
    common: dict[str, Any] = {"gated": draw(st.booleans()), "bias": draw(st.booleans())}
    if draw(st.booleans()):
        return Ffn("dense", draw(SMALL), **common)
    picked = draw(st.integers(1, 8))
    return Ffn(
        "moe", draw(SMALL), experts=picked + draw(st.integers(0, 8)), experts_per_token=picked,
        shared_intermediate=draw(st.integers(0, 64)), router_bias=draw(st.booleans()), **common,
    )  # fmt: skip


layers = st.builds(Layer, attentions(), ffns(), norms=st.integers(1, 4), norm=st.sampled_from(["rmsnorm", "layernorm"]))
models = st.builds(
    Model, name=st.just("m"), title=st.just("M"), hidden=SMALL, vocab=st.integers(0, 500),
    blocks=st.lists(st.tuples(layers, st.integers(1, 9)), min_size=1, max_size=3).map(tuple),
    tied_embeddings=st.booleans(), causal=st.booleans(), lm_head=st.booleans(), lm_head_bias=st.booleans(),
    final_norm=st.booleans(), norm=st.sampled_from(["rmsnorm", "layernorm"]), position_rows=st.integers(0, 9),
    type_rows=st.integers(0, 2), embedding_norm=st.booleans(), class_tokens=st.integers(0, 1),
    patch_inputs=st.integers(0, 48), pooler=st.booleans(), classes=st.integers(0, 10),
)  # fmt: skip


@given(models)
def test_parts_add_up_and_active_is_a_part_of_total(model: Model) -> None:
    count = model.params()

    assert sum(model.parts().values()) == count.total
    assert min(model.parts().values()) >= 0
    assert 0 < count.active_without_input_embedding <= count.active <= count.total
    assert (count.active == count.total) or model.moe
    assert 0 < count.matmul <= count.active + (count.embedding if model.lm_head else 0)
    assert model.layers == sum(n for _, n in model.blocks)


@given(models, st.sampled_from(["hidden", "vocab", "position_rows", "type_rows", "class_tokens", "classes"]))
def test_total_grows_with_every_outer_dimension(model: Model, field: str) -> None:
    larger = replace(model, **{field: getattr(model, field) + 1})

    assert larger.params().total > model.params().total
    assert larger.params().active >= model.params().active


@given(attentions(), SMALL, st.sampled_from(["head_dim", "v_head_dim", "heads", "q_lora_rank", "kv_lora_rank"]))
def test_attention_grows_with_every_dimension(attention: Attention, hidden: int, field: str) -> None:
    old = getattr(attention, field)
    if old is None:
        return
    step = attention.kv_heads if field == "heads" else 1  # heads stay a multiple of kv_heads
    larger = replace(attention, **{field: old + step})

    assert larger.params(hidden) > attention.params(hidden)
    assert larger.kv_elements_per_token >= attention.kv_elements_per_token


@given(ffns(), SMALL, st.sampled_from(["intermediate", "experts", "shared_intermediate"]))
def test_ffn_grows_with_every_dimension(ffn: Ffn, hidden: int, field: str) -> None:
    if ffn.kind == "dense" and field != "intermediate":
        return
    larger = replace(ffn, **{field: getattr(ffn, field) + 1})

    assert larger.params(hidden) > ffn.params(hidden)
    assert larger.active_params(hidden) >= ffn.active_params(hidden)
    assert ffn.active_params(hidden) <= ffn.params(hidden)


@given(models, st.integers(0, 200))
def test_cache_grows_with_context_and_stays_under_the_unwindowed_size(model: Model, context: int) -> None:
    assert model.kv_elements(context) <= model.kv_elements(context + 1)
    assert model.kv_elements(context) <= context * model.kv_elements_per_token
    assert model.causal or model.kv_elements(context) == 0


def test_matrices_of_latent_attention() -> None:
    mla = Attention("mla", 4, 4, 24, 16, q_lora_rank=12, kv_lora_rank=8, rope_head_dim=8)

    assert mla.matrices(100) == (
        ("q_a", 100, 12), ("q_b", 12, 4 * 24), ("kv_a", 100, 8 + 8), ("kv_b", 8, 4 * (16 + 16)), ("o", 4 * 16, 100),
    )  # fmt: skip
    assert replace(mla, q_lora_rank=None).matrices(100)[0] == ("q", 100, 4 * 24)
    assert mla.kv_elements_per_token == 8 + 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "mha"}, {"heads": 0}, {"kv_heads": 3}, {"head_dim": 0}, {"v_head_dim": -1}, {"kind": "mla"},
        {"kind": "mla", "rope_head_dim": 8, "kv_lora_rank": 4}, {"kind": "mla", "rope_head_dim": 4},
    ],
)  # fmt: skip
def test_contradicting_attention_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Attention(**({"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 8, "v_head_dim": 8} | wrong))


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "x"}, {"intermediate": 0}, {"shared_intermediate": -1}, {"kind": "moe"},
     {"kind": "moe", "experts": 2, "experts_per_token": 3}],
)  # fmt: skip
def test_contradicting_ffn_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Ffn(**({"kind": "dense", "intermediate": 8} | wrong))


def test_descriptions_are_frozen_and_hashable() -> None:
    model = load_model("llama-3.1-8b")

    assert hash(model) == hash(load_model("llama-3.1-8b"))
    with pytest.raises(FrozenInstanceError):
        model.hidden = 1  # type: ignore[misc]


# --- catalog --------------------------------------------------------------------------------------------


def test_every_entry_loads_or_says_what_is_missing() -> None:
    entries = model_entries()

    assert [entry.name for entry in entries] == list(model_names())
    assert len(entries) >= 46
    for entry in entries:
        assert entry.source and all(entry.source), entry.name
        if entry.status == "seen":
            model = load_model(entry.name)
            assert (model.name, model.title, model.source) == (entry.name, entry.title, entry.source)
            assert not entry.missing
        else:
            with pytest.raises(Unavailable) as caught:
                load_model(entry.name)
            assert all(item in str(caught.value) for item in entry.missing)


def test_names_are_file_names_and_spellings_are_unique() -> None:
    spellings = [s.lower() for e in model_entries() for s in {e.name, e.title.lower(), *e.aliases}]

    assert len(spellings) == len(set(spellings))
    for entry in model_entries():
        assert entry.name == entry.name.lower() and " " not in entry.name
        assert (CATALOG / f"{entry.name}.yaml").is_file()


def test_every_fall_back_used_is_marked_in_the_file() -> None:
    for entry in model_entries():
        if entry.status == "seen":
            used = {field for field, _ in load_model(entry.name).derived}
            assert used <= {field for field, _ in entry.derived}, entry.name


def test_every_config_key_of_the_catalog_matters_or_is_a_label() -> None:
    for entry in model_entries():
        config = yamlio.load_yaml(CATALOG / f"{entry.name}.yaml").data["config"]
        assert not {"rms_norm_eps", "rope_theta", "rope_scaling", "layer_norm_eps"} & set(config), entry.name


@pytest.mark.parametrize(
    "spelling",
    ["llama-3.1-8b", "Llama-3.1-8B", "LLAMA-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", "meta-llama/llama-3.1-8b"],
)
def test_aliases_are_matched_without_regard_to_case(spelling: str) -> None:
    assert load_model(spelling) is load_model("llama-3.1-8b")


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(InputError, match=r"did you mean 'llama-3\.1-8b'") as caught:
        load_model("lama-3.1-8b")
    assert "unknown model" in str(caught.value)


def test_a_path_a_folder_and_a_model_file_load(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "hidden_act": "silu",
        "quantization_config": {"quant_method": "awq"}, "transformers_version": "4.0", "torch_dtype": "bfloat16",
    }  # fmt: skip
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    body = "\n".join(f"  {key}: {value}" for key, value in config.items() if isinstance(value, (str, int)))
    (tmp_path / "other.yaml").write_text(f"name: other\nstatus: seen\nsource: [a test]\nconfig:\n{body}\n")

    by_folder, by_file = load_model(str(folder)), load_model(folder / "config.json")
    other = load_model(tmp_path / "other.yaml")

    assert by_folder == replace(by_file, source=by_folder.source)
    assert (by_folder.name, by_folder.quantization) == ("my-model", "awq")
    assert (other.name, other.quantization, other.blocks) == ("other", None, by_folder.blocks)


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = "import sys, npusim.models; print([m for m in ('numpy', 'yaml', 'pydantic', 'numba') if m in sys.modules])"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
