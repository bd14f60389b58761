"""Mappings of matrix operators: files, by hand, and what refuses them."""

import json

import pytest

import npusim as ns
from npusim.chip import Chip, find_chip
from npusim.cost import estimate
from npusim.errors import InputError
from npusim.mapping import GemmMapping, load_mappings, save_mappings


def test_a_file_gives_back_what_was_saved(tmp_path):
    mappings = {"a": GemmMapping(16, 32, 64), "b.c": GemmMapping(1, 2, 3, 4, "b")}
    file = tmp_path / "m.json"
    save_mappings(mappings, file)
    assert load_mappings(file) == mappings
    yaml = tmp_path / "m.yaml"
    yaml.write_text("format: npusim-mappings/1\nmappings:\n  gemm: {tm: 8, tn: 8, tk: 8}\n")
    assert load_mappings(yaml) == {"gemm": GemmMapping(8, 8, 8)}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("format: npusim-mappings/1\nmappings:\n  gemm: {tm: 0, tn: 8, tk: 8}\n", ":3:"),
        ("format: npusim-mappings/1\nmappings:\n  gemm: {tm: 8, tn: 8}\n", "tk"),
        ("format: npusim-mappings/1\nmappings:\n  gemm: {tm: 8, tn: 8, tk: 8, keep: c}\n", "keep"),
        ("format: other\nmappings: {}\n", "format"),
    ],
)
def test_a_bad_file_is_one_message(tmp_path, text: str, where: str):
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=where):
        load_mappings(file)


@pytest.mark.parametrize("fidelity", ["tile", "cycle"])
def test_a_mapping_by_hand_takes_the_place_of_the_search(fidelity: str):
    op = ns.gemm(m=512, n=512, k=512)
    free = estimate(op, "npu-2pf", fidelity)
    chosen = free.mappings["gemm"]
    again = estimate(op, "npu-2pf", fidelity, mappings={"gemm": chosen})
    assert again.time_s == free.time_s
    assert again.mappings == free.mappings
    small = GemmMapping(16, 16, 16)
    slow = estimate(op, "npu-2pf", fidelity, mappings={"gemm": small})
    assert slow.mappings["gemm"] == small
    assert slow.time_s > 2 * free.time_s


def test_the_kept_operand_is_obeyed():
    op = ns.gemm(m=1024, n=1024, k=256)
    for keep in ("nothing", "a", "b"):
        cost = estimate(op, "npu-2pf", "tile", mappings={"gemm": GemmMapping(128, 128, 64, 1, keep)})
        assert cost.mappings["gemm"].keep == keep


def test_mappings_that_cannot_be_used(toy: Chip):
    op = ns.gemm(m=512, n=512, k=512)
    with pytest.raises(InputError, match="gemm"):
        estimate(op, "npu-2pf", "tile", mappings={"gem": GemmMapping(8, 8, 8)})
    with pytest.raises(InputError, match="roofline"):
        estimate(op, "npu-2pf", "roofline", mappings={"gemm": GemmMapping(8, 8, 8)})
    with pytest.raises(InputError, match="fits"):  # 4 MiB of accumulators in 1 MiB
        estimate(ns.gemm(m=1024, n=1024, k=64), toy, "tile", mappings={"gemm": GemmMapping(1024, 1024, 64)})
    with pytest.raises(InputError, match="tile and cycle"):
        _ = estimate(op, "npu-2pf").mappings


def test_saved_mappings_are_json(tmp_path):
    save_mappings(estimate(ns.gemm(m=64, n=64, k=64), find_chip("npu-2pf"), "tile").mappings, tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["format"] == "npusim-mappings/1"
    assert set(content["mappings"]["gemm"]) == {"tm", "tn", "tk", "split", "keep"}
