from __future__ import annotations

import random
import time

import pytest

from npusim import yamlio
from npusim.errors import InputError
from tests.conftest import SOAK, TOY


def read(text: str):
    return yamlio.parse_yaml(text, "f.yaml").data


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.4e9", 1.4e9),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("on", "on"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("2026-11-21", "2026-11-21"),
        (".5", 0.5),
        ("1_000", "1_000"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object):
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_structure_and_positions():
    document = yamlio.parse_yaml("a:\n  b: [1, {c: x}]\n", "f.yaml")
    assert document.data == {"a": {"b": [1, {"c": "x"}]}}
    assert document.at(("a", "b")) == (2, 3)
    assert document.at(("a", "b", 1, "c")) == (2, 11)
    assert document.at(("a", "nothing")) == (1, 1)


def test_duplicate_key_names_both_lines():
    message = refused("a: 1\nb: 2\na: 3\n")
    assert message.startswith("f.yaml:3:1: a: duplicate key 'a'")
    assert "line 1" in message


def test_every_duplicate_is_reported():
    assert len(refused("a: 1\na: 2\nb: {c: 1, c: 2}\n").splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\n", "anchor"),
        ("a: *x\n", "alias"),
        ("a: !!python/object/apply:os.system [ls]\n", "tag"),
        ("a: !!str 1\n", "tag"),
        ("<<: {a: 1}\n", "merge"),
        ("? [1, 2]\n: 3\n", "key must be plain text"),
        ("? {a: 1}\n: 3\n", "key must be plain text"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
        ("a: .inf\n", "not finite"),
        ("a: [.nan]\n", "not finite"),
        ("a: [1\n", "not valid YAML"),
        ("a: \t1\n\tb: 2", "not valid YAML"),
        ("a: " + "x" * 20_000, "longer than"),
    ],
)
def test_refused(text: str, says: str):
    assert says in refused(text)


def test_a_million_brackets_are_refused_quickly():
    start = time.process_time()
    assert "nested deeper" in refused("[" * 1_000_000)
    assert "nested deeper" in refused("{a: " * 200_000)
    assert time.process_time() - start < 5


def test_billion_laughs():
    bomb = "a: &a [x,x]\n" + "".join(f"{c}: &{c} [*{p},*{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=False))
    assert "anchor" in refused(bomb)


def test_file_limits(tmp_path):
    big = tmp_path / "big.yaml"
    big.write_text("a: 1\n" + "#" * (yamlio.MAX_BYTES + 1))
    with pytest.raises(InputError, match="too big"):
        yamlio.load_yaml(big)
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8"):
        yamlio.load_yaml(bad)
    with pytest.raises(InputError, match="cannot read: No such file"):
        yamlio.load_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder"):
        yamlio.load_yaml(tmp_path)
    with pytest.raises(InputError, match="more than"):
        yamlio.parse_yaml("[" + "1," * (yamlio.MAX_NODES + 5) + "1]", "f")


def test_control_characters_are_refused():
    assert "not valid YAML" in refused("a: \x00\n")


def test_json_duplicate_depth_constants_and_garbage():
    assert yamlio.parse_json('{"a": [1, 2.5, "x"]}', "f.json").data == {"a": [1, 2.5, "x"]}
    for text, says in [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ("[" * 1_000_000, "nested deeper"),
        ('{"a": NaN}', "NaN is not a number"),
        ("{", "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ]:
        with pytest.raises(InputError) as caught:
            yamlio.parse_json(text, "f.json")
        assert says in str(caught.value)
    assert yamlio.parse_json('{\n "a": {\n  "b": 1}}', "f").at(("a", "b")) == (3, 3)


def test_mutated_files_only_raise_input_errors(tmp_path):
    """The loader and the chip schema turn any file into a chip or an InputError, never anything else."""
    from npusim.chip import read_chip

    rng = random.Random(20261121)
    file = tmp_path / "m.yaml"
    alphabet = "{}[]:,&*!|>'\"%@`\n\t -?#0123456789abcxyzGBT/\x00é"
    for _ in range(100_000 if SOAK else 1500):
        text = list(TOY)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(text))
            action = rng.randrange(4)
            if action == 0:
                text[at] = rng.choice(alphabet)
            elif action == 1:
                del text[at : at + rng.randint(1, 12)]
            elif action == 2:
                text[at:at] = rng.choice(alphabet) * rng.randint(1, 3)
            else:
                text[at:at] = text[at : at + rng.randint(1, 40)]
        file.write_text("".join(text), encoding="utf-8")
        try:
            chip = read_chip(file)
        except InputError as error:
            assert str(file) in str(error) or "m.yaml" in str(error)
        else:
            assert chip.name
