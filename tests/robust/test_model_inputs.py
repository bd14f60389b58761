"""Does every bad model input end in one clear InputError: no traceback of ours, no wrong number, no hang?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npusim.errors import InputError, Unavailable
from npusim.importers.hf_config import FAMILIES
from npusim.models import Model, load_model, parse_config

GOOD: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100,
}  # fmt: skip
ENTRY = "name: x\nstatus: seen\nsource: [a test]\nconfig:\n" + "".join(f"  {k}: {v}\n" for k, v in GOOD.items())


def refuse(path: Path) -> str:
    """The message of the InputError that loading ``path`` must raise, within seconds and a few lines."""
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_model(path)

    assert time.monotonic() - start < 5
    text = str(caught.value)
    assert text.strip() and len(text) < 20_000
    return text


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "blank": (b" \n\n", "not valid JSON"),
    "list": (b"[1, 2]", "a mapping of fields"),
    "number": (b"7", "a mapping of fields"),
    "null": (b"null", "a mapping of fields"),
    "no fields": (b"{}", "model_type is missing"),
    "not utf-8": (b'{"model_type": "\xff\xfe"}', "not UTF-8"),
    "utf-16": (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
    "nul bytes": (b"\0" * 100, "not valid JSON"),
    "too big": (b'{"a": "' + b"x" * 2**20 + b'"}', "too big"),
    "a million brackets": (b"[" * 10**6, "nested deeper"),
    "a million braces": (b'{"a":' * 150_000, "nested deeper"),
    "truncated": (json.dumps(GOOD).encode()[:-5], "not valid JSON"),
    "duplicate key": (b'{"model_type": "llama", "model_type": "opt"}', "duplicate key"),
    "nan": (json.dumps(GOOD | {"hidden_size": float("nan")}).encode(), "not valid JSON"),
    "infinity": (json.dumps(GOOD | {"hidden_size": float("inf")}).encode(), "not valid JSON"),
    "a number of 100000 digits": (
        json.dumps(GOOD).replace('"hidden_size": 64', '"hidden_size": ' + "9" * 10**5).encode(), "too long",
    ),
    "1e400": (json.dumps(GOOD).replace('"hidden_size": 64', '"hidden_size": 1e400').encode(), "hidden_size"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_bad_json_file(case: str, tmp_path: Path) -> None:
    content, expected = FILES[case]
    path = tmp_path / "config.json"
    path.write_bytes(content)

    text = refuse(path)

    assert expected in text and "config.json" in text


ENTRIES: dict[str, tuple[str, str]] = {
    "empty": ("", "not a model file"),
    "list": ("- a\n- b\n", "not a model file"),
    "unknown key": (ENTRY.replace("status:", "statsu: seen\nstatus:"), "did you mean 'status'"),
    "no name": (ENTRY.replace("name: x\n", ""), "name is missing"),
    "no source": (ENTRY.replace("source: [a test]\n", ""), "source is missing"),
    "empty source": (ENTRY.replace("[a test]", "[]"), "source"),
    "no config": (ENTRY.split("config:")[0], "config is missing"),
    "config is text": (ENTRY.split("config:")[0] + "config: llama\n", "not a mapping"),
    "bad status": (ENTRY.replace("seen", "sean"), "one of: seen, partial"),
    "partial without missing": (ENTRY.replace("seen", "partial"), "names what is missing"),
    "name is a number": (ENTRY.replace("name: x", "name: 7"), "a text"),
    "derived is a list": (ENTRY.replace("config:", "derived: [a]\nconfig:"), "derived is not a mapping"),
    "derived holds numbers": (ENTRY.replace("config:", "derived: {a: 1}\nconfig:"), "something else than text"),
    "notes hold numbers": (ENTRY.replace("config:", "notes: [1]\nconfig:"), "not a list of texts"),
    "duplicate": (ENTRY.replace("name: x", "name: x\nname: y"), "duplicate key"),
    "alias bomb": ("a: &a [x, x]\nb: *a\n" + ENTRY, "not allowed"),
    "python object": (ENTRY.replace("name: x", "name: !!python/name:os.system x"), "not allowed"),
    "wrong field": (ENTRY.replace("hidden_size: 64", "hidden_size: 6 4"), "config.hidden_size"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_bad_model_file(case: str, tmp_path: Path) -> None:
    content, expected = ENTRIES[case]
    path = tmp_path / "model.yaml"
    path.write_text(content)

    assert expected in refuse(path)


def test_positions_point_at_the_mistake(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(ENTRY.replace("vocab_size: 100", "vocab_size: -100"))
    (tmp_path / "c.json").write_text(json.dumps(GOOD | {"vocab_size": 1.5}, indent=2))

    assert "m.yaml:11:3: config.vocab_size:" in refuse(tmp_path / "m.yaml")
    assert "c.json:8:3: vocab_size:" in refuse(tmp_path / "c.json")


def test_a_partial_file_is_unavailable_and_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(ENTRY.replace("seen", "partial\nmissing: [the widths, the depth]"))

    with pytest.raises(Unavailable, match="missing the widths; the depth"):
        load_model(path)


@pytest.mark.parametrize(
    "name",
    ["", " ", "\0", "a\0b.json", "x" * 10**5, "x" * 10**5 + ".json", "../../etc/passwd", "../llama-3.1-8b", "no.json",
     "no/such/folder/", "llama*", "ＬＬＡＭＡ", "\ud800", "/dev/null", "/", "."],
)  # fmt: skip
def test_bad_names_and_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError) as caught:
        load_model(name)
    assert len(str(caught.value)) < 200_000


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "cannot read" in refuse(tmp_path)
    (tmp_path / "config.json").mkdir()
    assert "folder" in refuse(tmp_path)


def test_an_unreadable_extension_is_read_as_json(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bytes(range(256)))
    assert "not UTF-8" in refuse(tmp_path / "weights.safetensors")


FIELDS = sorted({
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act",
    "sliding_window", "use_sliding_window", "sliding_window_pattern", "layer_types", "max_window_layers",
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace",
    "moe_layer_freq", "mlp_only_layers", "decoder_sparse_step", "mlp_layer_types", "is_moe_layer", "q_lora_rank",
    "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "type_vocab_size", "image_size",
    "patch_size", "num_channels", "num_labels", "id2label", "ffn_dim", "n_inner", "word_embed_proj_dim",
    "text_config", "quantization_config", "architectures", "enable_bias", "qkv_bias",
})  # fmt: skip
scalars = st.none() | st.booleans() | st.integers(-5, 70) | st.integers() | st.floats() | st.text(max_size=5)
values = scalars | st.lists(scalars, max_size=4) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
FULL: dict[str, Any] = GOOD | {
    "max_position_embeddings": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
    "n_shared_experts": 1, "q_lora_rank": None, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
    "v_head_dim": 8, "type_vocab_size": 2, "image_size": 32, "patch_size": 8, "num_channels": 3, "num_labels": 10,
}  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=400)
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
@example("gptj", {"hidden_size": 0})
@example("opt", {"hidden_size": 0, "word_embed_proj_dim": 9})
def test_any_field_value_loads_or_is_named(family: str, changes: dict[str, Any]) -> None:
    try:
        model = parse_config(FULL | {"model_type": family} | changes, "fuzzed")
    except InputError as error:
        assert error.problems and all(problem.path or problem.message for problem in error.problems)
        return
    check(model)


def check(model: Model) -> None:
    """A model that loads is a whole one."""
    count = model.params()
    assert sum(model.parts().values()) == count.total >= count.active > 0
    assert model.layers >= 1 and model.kv_elements_per_token >= 0


@settings(deadline=None, max_examples=200)
@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_any_document_is_refused_in_one_way(document: Any) -> None:
    with pytest.raises(InputError):
        parse_config(document, "fuzzed")
