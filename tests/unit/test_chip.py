"""Do chip descriptions refuse contradictions, derive totals, and vary as asked?"""

from __future__ import annotations

from pathlib import Path

import pytest

from npusim.chip import Chip, chip_names, find_chip, load_chip, read_chip
from npusim.errors import InputError, Unavailable
from tests.conftest import TOY

HEADER = "format: npusim-chip/1\nname: x\ntitle: X\n"
GEOMETRY = "memory: {kind: hbm3, capacity: 8 GB, stacks: 1, channels: 16, channel_bits: 64, pin_rate: 8 Gbit/s}\n"
# 16 channels · 64 bits · 8 Gbit/s / 8 = 1.024 TB/s.
MEMORY = "memory: {kind: hbm3, capacity: 8 GB, bandwidth: 1 TB/s}\n"


def read(tmp_path: Path, text: str) -> Chip:
    file = tmp_path / "chip.yaml"
    file.write_text(text)
    return read_chip(file)


def refuse(tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    return str(caught.value)


class TestDerived:
    def test_peak_is_cores_times_rate_times_clock(self, toy: Chip):
        assert toy.peaks_flops_per_s == {"bf16": 4e12, "fp8": 8e12}

    def test_peak_of_a_missing_format_is_the_next_wider(self, toy: Chip):
        assert toy.peak_flops_per_s("mxfp4") == ("fp8", 8e12)
        assert toy.peak_flops_per_s("fp16") == ("bf16", 4e12)

    def test_no_rate(self, toy: Chip):
        with pytest.raises(Unavailable, match=r"chip 'toy' has no rate for fp64; it lists: bf16, fp8"):
            toy.peak_flops_per_s("fp64")

    def test_vector_rates(self, toy: Chip):
        # 4 cores · 10 lanes · 1 GHz; a class without a rate runs as add.
        assert toy.vector_ops_per_s("add") == 40e9
        assert toy.vector_ops_per_s("exp") == 20e9
        assert toy.vector_ops_per_s("rsqrt") == 40e9

    def test_vector_clock_of_its_own(self, tmp_path: Path):
        chip = read(tmp_path, TOY.replace("lanes: 10,", "lanes: 10, clock: 2 GHz,"))
        assert chip.vector_ops_per_s("add") == 80e9

    def test_no_vector_unit_no_rate(self, tmp_path: Path):
        chip = read(tmp_path, HEADER + "peak: {fp8: 1 TFLOPS}\n" + MEMORY)
        assert chip.vector_ops_per_s("add") is None

    def test_levels(self, tmp_path: Path):
        levels = (
            "levels:\n  l1: {scope: core, capacity: 1 MiB, bytes_per_cycle: 100}\n"
            "  l2: {scope: cluster, instances: 2, capacity: 8 MiB, bandwidth: 3 GB/s}\n"
            "  l3: {scope: chip, capacity: 32 MiB}\n"
        )
        chip = read(
            tmp_path, TOY.replace("levels:\n  l1: {scope: core, capacity: 1 MiB, bytes_per_cycle: 100}", levels)
        )
        assert [chip.level_instances(level) for level in chip.levels.values()] == [4, 2, 1]
        assert [chip.level_bandwidth_bytes_per_s(level) for level in chip.levels.values()] == [4e11, 6e9, None]
        assert chip.sram_bytes == (4 * 1 + 2 * 8 + 32) * 2**20

    def test_bandwidth_from_the_pins(self, tmp_path: Path):
        chip = read(tmp_path, HEADER + GEOMETRY)
        assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s == 1.024e12

    def test_missing(self, tmp_path: Path):
        assert read(tmp_path, HEADER).missing() == ["peak", "memory"]
        bare = read(tmp_path, HEADER + "missing: [price]\nmemory: {kind: hbm3, capacity: 1 GB}\n")
        assert bare.missing() == ["price", "peak", "memory.bandwidth"]
        assert read(tmp_path, TOY).missing("tile") == []
        assert read(tmp_path, HEADER + "peak: {fp8: 1 TFLOPS}\n" + MEMORY).missing("tile") == [
            "core.matrix", "core.vector", "levels",
        ]  # fmt: skip


class TestDeclared:
    """Declared totals must agree within 1 % with what the description gives."""

    @pytest.mark.parametrize(
        ("declared", "fine"), [(1.0099, True), (1 / 1.0099, True), (1.0102, False), (0.9899, False)]
    )
    def test_peak(self, tmp_path: Path, declared: float, fine: bool):
        text = TOY + f"declared: {{peak: {{bf16: {4 * declared!r} TFLOPS}}}}\n"
        if fine:
            assert read(tmp_path, text).declared is not None
        else:
            message = refuse(tmp_path, text)
            assert "declared.peak.bf16" in message and "the description gives 4 TFLOP/s" in message
            assert "within 1 %" in message and "chip.yaml:15:" in message

    # The rule is |derived / declared - 1| ≤ 1 %; derived 4 TFLOP/s.
    @pytest.mark.parametrize(("off", "fine"), [(0.0099, True), (-0.0099, True), (0.0101, False), (-0.0101, False)])
    def test_the_limit_is_tight(self, tmp_path: Path, off: float, fine: bool):
        text = TOY + f"declared: {{bandwidth: {100 / (1 + off)!r} GB/s, sram: {4 / (1 + off)!r} MiB}}\n"
        if fine:
            read(tmp_path, text)
        else:
            message = refuse(tmp_path, text)
            assert "declared.bandwidth" in message and "declared.sram" in message

    def test_nothing_derives_it(self, tmp_path: Path):
        assert "nothing in the file derives it" in refuse(tmp_path, TOY + "declared: {peak: {int8: 1 TOPS}}\n")

    def test_bandwidth_against_the_pins(self, tmp_path: Path):
        ok = GEOMETRY.replace("stacks", "bandwidth: 1.03 TB/s, stacks")
        assert read(tmp_path, HEADER + ok).memory.bandwidth_bytes_per_s == 1.03e12  # type: ignore[union-attr]
        message = refuse(tmp_path, HEADER + GEOMETRY.replace("stacks", "bandwidth: 1.1 TB/s, stacks"))
        assert "bandwidth 1.1 TB/s contradicts" in message and "1.02 TB/s" in message and "declared" in message


class TestRefused:
    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("clock: 1 GHz", "clock: 1 GB/s", ("clock", "is not a unit of frequency", "'1.4 GHz'")),
            ("clock: 1 GHz", "clock: 1000000000", ("clock", "has no unit")),
            ("clock: 1 GHz", "clokc: 1 GHz", ("unknown key 'clokc'", "did you mean 'clock'?", ":5:1")),
            ("cores: 4", "cores: 0", ("cores", "greater than or equal to 1")),
            ("cores: 4", "cores: 4.0", ("cores",)),
            ("cores: 4", "cores: yes", ("cores",)),
            ("capacity: 10 GB", "capacity: 10 Gb", ("memory.capacity", "ambiguous")),
            ("usable: 1.0", "usable: 1.01", ("memory.usable",)),
            ("usable: 1.0", "usable: 0", ("memory.usable",)),
            ("bf16: 1000", "bf61: 1000", ("unknown rate 'bf61'", "did you mean 'bf16'?")),
            ("rates: {add", "rates: {sub", ("unknown rate 'sub'", "add, convert, exp, rsqrt")),
            ("engine: systolic", "engine: magic", ("core.matrix.engine",)),
            ("rows: 20, ", "", ("a systolic engine needs 'rows'",)),
            ("engine: systolic, rows: 20, cols: 25", "engine: dot", ("a dot engine needs 'lanes'",)),
            ("engine: systolic, rows: 20, cols: 25", "engine: tensorcore", ("a tensorcore engine needs 'shape'",)),
            ("{bf16: 1000, fp8: 2000}", "{}", ("flops_per_cycle lists no format",)),
            ("scope: core,", "scope: cluster,", ("scope 'cluster' needs 'instances'", "levels.l1")),
            ("bytes_per_cycle: 100", "bytes_per_cycle: 100, bandwidth: 1 GB/s", ("not both", "levels.l1")),
            ("cores: 4\n", "", ("'core.matrix' needs 'cores' and 'clock'",)),
            ("clock: 1 GHz", "clock: 1 GHz\npeak: {bf16: 1 TFLOPS}", ("give 'peak' or 'core.matrix', not both",)),
            ("name: toy", "name: Toy Chip", ("name",)),
            ("npusim-chip/1", "npusim-chip/2", ("format",)),
            ("kind: hbm3, ", "", ("memory.kind", "missing")),
            ("clock: 1 GHz", "clock: {value: 1 GHz, status: guessed}", ("unknown status 'guessed'", "assumed")),
            ("clock: 1 GHz", "clock: {value: 1 GHz, source: web}", ("source 'web' is not in 'sources'",)),
            ("clock: 1 GHz", "clock: {value: 1 GHz, sauce: web}", ("unknown key 'sauce' of a figure",)),
        ],
    )  # fmt: skip
    def test_message(self, tmp_path: Path, old: str, new: str, says: tuple[str, ...]):
        assert old in TOY
        message = refuse(tmp_path, TOY.replace(old, new))
        assert all(word in message for word in says), message
        assert "chip.yaml" in message

    def test_all_problems_at_once(self, tmp_path: Path):
        text = (
            TOY.replace("clock: 1 GHz", "clock: 1 Hg").replace("capacity: 10 GB", "capacity: ten").replace("tdp", "tpd")
        )
        lines = refuse(tmp_path, text).splitlines()
        assert len(lines) == 3
        assert [line.split(": ")[1] for line in lines] == ["clock", "memory.capacity", "power.tpd"]
        assert "did you mean 'tdp'?" in lines[2]

    @pytest.mark.parametrize("text", ["", "[]", "7", "~", "just words"])
    def test_not_a_mapping(self, tmp_path: Path, text: str):
        assert "expected a mapping" in refuse(tmp_path, text)


class TestProvenance:
    TEXT = (
        HEADER + "sources: {sheet: a data sheet, web: a page}\n"
        "peak: {value: {fp8: 2 TFLOPS, bf16: 1 TFLOPS}, source: sheet, status: published, note: dense}\n"
        "memory:\n  kind: {value: hbm3, source: 'sheet, web', status: secondary}\n"
        "  capacity: 8 GB\n  bandwidth: {value: 1 TB/s, source: web, status: derived}\n"
    )

    def test_a_wrapper_covers_what_is_below(self, tmp_path: Path):
        chip = read(tmp_path, self.TEXT)
        assert chip.peak == {"fp8": 2e12, "bf16": 1e12}
        assert (chip.provenance("peak", "bf16").source, chip.provenance("peak").note) == ("sheet", "dense")
        assert chip.provenance("memory", "kind").source == "sheet, web"

    def test_plain_values_are_the_author_s_assumptions(self, tmp_path: Path):
        chip = read(tmp_path, self.TEXT)
        assert chip.provenance("memory", "capacity").status == "assumed"
        assert chip.assumptions() == {"memory.capacity": 8e9}

    def test_an_override_is_an_assumption(self, tmp_path: Path):
        chip = read(tmp_path, self.TEXT).replace({"memory.bandwidth": "2 TB/s"})
        assert chip.provenance("memory", "bandwidth").source == "override"
        assert chip.assumptions()["memory.bandwidth"] == 2e12
        assert chip.overrides == {"memory.bandwidth": "2 TB/s"}

    def test_an_override_makes_nothing_else_an_assumption(self):
        chip = load_chip("rebel-quad")
        before = set(chip.assumptions())
        after = set(chip.replace({"power.tdp": "500 W"}).assumptions())
        assert after - before == {"power.tdp"}


class TestReplace:
    def test_text_with_units_and_plain_si(self, toy: Chip):
        assert toy.replace({"memory.bandwidth": "6 TB/s"}).memory.bandwidth_bytes_per_s == 6e12  # type: ignore[union-attr]
        assert toy.replace({"memory.bandwidth": 6e12}).memory.bandwidth_bytes_per_s == 6e12  # type: ignore[union-attr]
        assert toy.replace({"cores": 8}).peaks_flops_per_s["bf16"] == 8e12
        assert toy.replace({"cores": "8", "clock": "500 MHz"}).peaks_flops_per_s["bf16"] == 4e12

    def test_the_original_stays(self, toy: Chip):
        toy.replace({"cores": 8})
        assert toy.cores == 4 and toy.overrides == {}

    def test_bandwidth_scales_the_pin_rate(self, tmp_path: Path):
        chip = read(tmp_path, HEADER + GEOMETRY).replace({"memory.bandwidth": "2.048 TB/s"})
        assert chip.memory is not None
        assert chip.memory.pin_rate_bits_per_s == pytest.approx(16e9, rel=1e-12)
        assert chip.memory.geometry_bandwidth == pytest.approx(2.048e12, rel=1e-12)

    @pytest.mark.parametrize(
        ("path", "value", "bandwidth"),
        [("memory.pin_rate", "4 Gbit/s", 0.512e12), ("memory.stacks", 3, 3.072e12), ("memory.channels", "8", 0.512e12)],
    )
    def test_geometry_derives_the_bandwidth_again(self, tmp_path: Path, path: str, value: object, bandwidth: float):
        chip = read(tmp_path, HEADER + GEOMETRY).replace({path: value})
        assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s == pytest.approx(bandwidth, rel=1e-12)

    def test_declared_totals_are_dropped(self, tmp_path: Path):
        chip = read(tmp_path, TOY + "declared: {bandwidth: 100 GB/s, peak: {bf16: 4 TFLOPS}}\n")
        changed = chip.replace({"memory.bandwidth": "1 TB/s", "cores": 40})
        assert changed.declared is None
        assert changed.peaks_flops_per_s["bf16"] == 40e12

    def test_an_absent_part_is_created(self, tmp_path: Path):
        chip = read(tmp_path, HEADER + "peak: {fp8: 1 TFLOPS}\n" + MEMORY)
        assert chip.power.tdp_w is None and chip.link is None
        changed = chip.replace({"power.tdp": "75 W", "link.bandwidth": "50 GB/s"})
        assert changed.power.tdp_w == 75.0
        assert changed.link is not None and changed.link.bandwidth_bytes_per_s == 50e9

    @pytest.mark.parametrize(
        ("path", "hint"),
        [
            ("memory.bandwith", "did you mean 'bandwidth'?"),
            ("powr.tdp", "did you mean 'power.tdp'?"),
            ("clok", "did you mean 'clock'?"),
            ("memory.bandwidth.x", "did you mean 'memory.bandwidth'?"),
            ("name", "unknown chip figure 'name'"),
            ("format", "unknown chip figure 'format'"),
            ("declared.bandwidth", "unknown chip figure 'declared.bandwidth'"),
            ("declared.peak.bf16", "unknown chip figure 'declared.peak.bf16'"),
            ("", "known"),
        ],
    )
    def test_unknown_path(self, toy: Chip, path: str, hint: str):
        with pytest.raises(InputError) as caught:
            toy.replace({path: "1 TB/s"})
        assert hint in str(caught.value) and "known:" in str(caught.value)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("memory.bandwidth", "6 TB"), ("memory.bandwidth", "0 B/s"), ("memory.bandwidth", -1.0),
            ("memory.bandwidth", float("nan")), ("memory.bandwidth", float("inf")), ("memory.bandwidth", "fast"),
            ("memory.bandwidth", [1]), ("cores", 0), ("cores", 1.5), ("cores", 2**41),
            ("memory.usable", 1.5), ("clock", "-1 GHz"), ("core", 5), ("memory", "big"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("geometry", [False, True])
    def test_bad_value(self, tmp_path: Path, geometry: bool, path: str, value: object):
        text = (
            TOY
            if not geometry
            else TOY.replace("bandwidth: 100 GB/s", "stacks: 1, channels: 16, channel_bits: 64, pin_rate: 1 Gbit/s")
        )
        with pytest.raises(InputError) as caught:
            read(tmp_path, text).replace({path: value})
        assert path in str(caught.value)

    def test_a_contradiction_is_refused(self, toy: Chip):
        with pytest.raises(InputError, match="not both"):
            toy.replace({"levels.l1.bandwidth": "1 TB/s"})

    @pytest.mark.parametrize("other", [("memory.capacity", "4 GB"), ("memory.usable", 0.5), ("cores", 7)])
    def test_order_does_not_matter(self, tmp_path: Path, other: tuple[str, object]):
        chip = read(
            tmp_path,
            TOY.replace("bandwidth: 100 GB/s", "stacks: 1, channels: 16, channel_bits: 64, pin_rate: 1 Gbit/s"),
        )
        first = ("memory.bandwidth", "6 TB/s")
        assert chip.replace(dict([first, other])).paths() == chip.replace(dict([other, first])).paths()

    def test_order_of_bandwidth_and_geometry_does_not_matter(self, tmp_path: Path):
        chip = read(tmp_path, HEADER + GEOMETRY)
        results = []
        for changes in (
            {"memory.bandwidth": "2 TB/s", "memory.stacks": 2},
            {"memory.stacks": 2, "memory.bandwidth": "2 TB/s"},
        ):
            try:
                results.append(chip.replace(changes).paths())
            except InputError as error:
                results.append({"refused": str(error)})
        assert results[0] == results[1]

    def test_every_listed_path_can_be_written_back(self):
        # The value of `paths()` is SI and replacing a figure by itself changes nothing.
        chip = load_chip("rebel-quad")
        for path, value in chip.paths().items():
            again = chip.replace({path: value}).paths()
            for name, figure in chip.paths().items():
                assert again[name] == (pytest.approx(figure, rel=1e-12) if isinstance(figure, float) else figure), path


class TestCatalog:
    def test_names_are_sorted_and_load_as_written(self):
        names = chip_names()
        assert names == sorted(names) and "rebel-quad" in names
        assert find_chip("rebel-quad").name == "rebel-quad"

    def test_aliases_and_titles_in_any_case(self):
        assert find_chip("REBEL100").name == find_chip("Rebellions REBEL-Quad").name == "rebel-quad"

    def test_unknown_chip(self):
        with pytest.raises(InputError) as caught:
            load_chip("rebel-qaud")
        assert "unknown chip 'rebel-qaud'" in str(caught.value)
        assert "did you mean 'rebel-quad'?" in str(caught.value)

    def test_unavailable(self):
        with pytest.raises(Unavailable) as caught:
            load_chip("sapeon-x220")
        assert "chip 'sapeon-x220' is unavailable: missing memory.bandwidth" in str(caught.value)
        assert find_chip("sapeon-x220").missing() == ["memory.bandwidth"]

    def test_missing_file(self, tmp_path: Path):
        with pytest.raises(InputError, match="cannot read"):
            load_chip(tmp_path / "none.yaml")

    def test_a_chip_is_frozen(self, toy: Chip):
        with pytest.raises(ValueError, match="frozen"):
            toy.cores = 5  # type: ignore[misc]


def test_six_mistakes_of_a_file_are_reported_together(tmp_path: Path):
    """Provenance, schema and spelling in one pass, by line, each with what would have been right."""
    text = TOY.replace("clock: 1 GHz", "clokc: 1 GHz").replace("cores: 4", "cores: -64").replace("100 W", "100 J")
    text = text.replace("capacity: 1 MiB", "capacity: 1 Mb").replace(
        "usable: 1.0", "usable: {value: 1.0, status: assumd}"
    )
    text += "category: desing\n"
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_chip(file)
    problems = caught.value.problems
    assert [p.path.split(".")[0] for p in problems] == ["clokc", "cores", "levels", "memory", "power", "category"]
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    for word in ("did you mean 'clock'", "did you mean 'assumed'", "ambiguous", "greater than or equal"):
        assert word in str(caught.value)
