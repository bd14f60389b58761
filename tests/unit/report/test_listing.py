"""The catalog, one entry, a file: what the verbs ``catalog``, ``lint`` and ``doctor`` print."""

from __future__ import annotations

from pathlib import Path

import pytest

from npusim import chip as chips
from npusim.cost import estimate
from npusim.errors import InputError
from npusim.report import cost_table, health, listing
from npusim.report.text import columns, wrap
from npusim.workload import gemm
from tests.conftest import TOY


def test_catalog_lists_everything():
    data = listing.catalog()
    assert [c["name"] for c in data["chips"]] == chips.chip_names()
    text = listing.render_catalog(data, 120)
    assert "sapeon-x220: missing memory.bandwidth" in text
    assert "kanana-1.5-8b: missing" in text
    assert "kperf-2025" in text
    assert max(map(len, text.splitlines())) <= 160


def test_a_chip_shows_every_figure_with_its_source():
    data = listing.describe("rebel-quad")
    by_path = {row["path"]: row for row in data["figures"]}
    assert by_path["memory.capacity"]["status"] == "published"
    assert by_path["memory.bandwidth"]["shown"] == "4.8 TB/s"
    assert by_path["memory.bandwidth"]["status"] == "derived"
    assert by_path["cores"]["source"].startswith("github:")
    text = listing.render_description(data, 120)
    assert "2.048 PFLOP/s" in text and "UCIe" in text


def test_an_unavailable_chip_is_shown_with_what_it_lacks():
    assert "unavailable: missing memory.bandwidth" in listing.render_description(listing.describe("dx-m1"), 100)


def test_a_model_is_described():
    data = listing.describe("deepseek-v3")
    assert data["params"] == 671_026_404_352
    text = listing.render_description(data, 100)
    assert "671,026,404,352" in text and "kv_lora_rank 512" in text and "58 x" in text


def test_unknown_entry_suggests():
    with pytest.raises(InputError, match=r"did you mean 'llama-3\.1-8b'"):
        listing.describe("lama-3.1-8b")
    with pytest.raises(InputError, match="did you mean 'rebel-quad'"):
        listing.describe("rebel-qad")


def test_files_are_checked_by_their_kind(tmp_path: Path):
    chip = tmp_path / "c.yaml"
    chip.write_text(TOY)
    assert listing.check_file(str(chip)) == ("chip", [])
    chip.write_text(TOY.replace(", bandwidth: 100 GB/s", ""))
    assert listing.check_file(str(chip)) == ("chip", ["memory.bandwidth"])
    assert listing.check_file(str(chips.CATALOG.parent / "models" / "llama-3.1-8b.yaml"))[0] == "model"
    assert listing.check_file(str(chips.CATALOG.parent / "suites" / "kperf-2025.yaml"))[0] == "suite"
    other = tmp_path / "o.yaml"
    other.write_text("a: 1\n")
    with pytest.raises(InputError, match="not a chip, model or suite file"):
        listing.check_file(str(other))


def test_every_catalog_file_is_sound():
    for path in (*chips.CATALOG.glob("*.yaml"), *chips.CATALOG.parent.glob("models/*.yaml")):
        try:
            listing.check_file(str(path))
        except InputError as error:
            assert "is unavailable: missing" in str(error)


def test_cost_table(toy):
    text = cost_table.render(estimate(gemm(1000, 1000, 1000), toy))
    assert "time 500 us, bound by matrix" in text
    assert "MFU 100.0%" in text
    assert "333" in text  # 2e9 FLOP / 6e6 B


def test_health_says_what_is_absent(monkeypatch):
    monkeypatch.setitem(health.EXTRAS, "imaginary", ("no-such-package",))
    data = health.examine({"extension": "built", "cpu_features": ["avx2"], "variants": {"gemm": ["ref"]}})
    text = health.render(data)
    assert "lacks no-such-package: pip install no-such-package" in text
    assert "kernels: gemm" in text


def test_text_helpers():
    assert columns(["a", "bb"], [["1", "22"], ["333", "4"]], right=(1,)) == ["a    bb", "───  ──", "1    22", "333   4"]
    assert wrap("one two three", 40) == "one two three"
