"""Die area: figures derived by hand, laws, and the error on public dies."""

from __future__ import annotations

import math
import statistics

import pytest

from bench import power as bench
from npusim.chip import Chip, find_chip
from npusim.cost.area import area_mm2, modelled_blocks
from npusim.cost.technology import load_technology
from npusim.errors import Unavailable


@pytest.fixture
def seven(toy: Chip) -> Chip:
    """The toy chip at 7 nm, where logic scales by 1."""
    return toy.replace({"process.node": "N7"})


def test_blocks_of_the_toy_by_hand(seven: Chip):
    """4 cores x 1000 FLOP per cycle are 2000 bf16 MACs and 4000 fp8 ones; 4 MiB; one HBM3 stack; 10 GB/s of links."""
    blocks, guessed = modelled_blocks(seven, load_technology())
    assert blocks["matrix"] == pytest.approx(max(2000 * 45, 4000 * 30) * 10 / 1e6)  # shared multipliers: fp8 decides
    assert blocks["registers"] == 0  # systolic
    assert blocks["vector"] == pytest.approx(4 * 10 * 1300 / 1e6)
    assert blocks["sram"] == pytest.approx(4 * 0.027 * 8 * 2**20 / 1e6 / 0.7 * 2)
    assert blocks["dram"] == 14
    assert blocks["host"] == pytest.approx(8 * math.sqrt(31.5 / 63))  # not stated: PCIe 4.0 x16
    assert blocks["link"] == pytest.approx(10 * 0.056)
    assert blocks["system"] == 15
    assert guessed == ("host",)


def test_blocks_and_uncore_sum_to_the_total(seven: Chip):
    area = area_mm2(seven)
    assert sum(area.blocks.values()) == pytest.approx(area.total_mm2, rel=1e-12)
    assert area.blocks["uncore"] / area.total_mm2 == pytest.approx(load_technology().area.uncore_share)
    assert area.die_mm2 == area.total_mm2
    assert area.manufacturable


def test_a_dot_engine_and_a_tensor_core_have_operand_registers():
    for name in ("rngd", "h100"):
        chip = find_chip(name)
        blocks, _ = modelled_blocks(chip, load_technology())
        macs = chip.peaks_flops_per_s["bf16"] / 2 / chip.clock_hz
        per_mib = 0.021 * 8 * 2**20 / 1e6 / 0.7 * 2
        assert blocks["registers"] == pytest.approx(256 * macs / 2**20 * per_mib * 1.5)


def test_traffic_over_the_host_interface_needs_no_links_of_its_own():
    assert modelled_blocks(find_chip("rngd"), load_technology())[0]["link"] == 0
    assert modelled_blocks(find_chip("npu-2pf"), load_technology())[0]["link"] == pytest.approx(900 * 0.056)


def test_dies_share_the_area_and_each_has_a_system_block():
    area = area_mm2(find_chip("rebel-quad"))
    assert area.dies == 4
    assert area.blocks["system"] == 4 * 15
    assert area.die_mm2 == pytest.approx(area.total_mm2 / 4)
    assert area.stated_mm2 == 1280


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("cores", 8),
        ("levels.l1.capacity", "2 MiB"),
        ("core.vector.lanes", 20),
        ("memory.bandwidth", "700 GB/s"),
        ("link.bandwidth", "20 GB/s"),
        ("process.node_nm", 16),
    ],
)
def test_more_of_anything_and_older_nodes_take_more_area(seven: Chip, path: str, more: object):
    assert area_mm2(seven.replace({path: more})).total_mm2 > area_mm2(seven).total_mm2


def test_a_die_beyond_the_exposure_field_is_said_so():
    """Two PFLOPS, 512 MiB and six stacks on one die: by the same constants that give REBEL's four dies within 2 %."""
    area = area_mm2(find_chip("npu-2pf").replace({"area.dies": 1}))
    assert not area.manufacturable
    assert area.die_mm2 > 858


def test_the_reference_design_is_as_large_as_it_says():
    area = area_mm2(find_chip("npu-2pf"))
    assert area.manufacturable
    assert area.stated_mm2 == pytest.approx(area.total_mm2, rel=0.01)


def test_without_a_process_there_is_no_area(toy: Chip):
    with pytest.raises(Unavailable):
        area_mm2(toy)


def test_public_dies_are_predicted_within_30_percent_when_left_out():
    errors = bench.leave_one_out()
    assert set(errors) == {"a100", "rngd", "rebel-quad", "warboy", "ion"}
    assert max(map(abs, errors.values())) <= 0.30
    assert statistics.mean(map(abs, errors.values())) <= 0.15


def test_the_uncore_share_of_the_file_is_the_fitted_one():
    mean = statistics.geometric_mean(bench.die_ratio(name) for name in bench.PUBLIC_DIES)
    assert load_technology().area.uncore_share == pytest.approx(1 - 1 / mean, abs=0.005)


def test_the_page_shows_these_areas():
    page = (bench.ROOT / "docs" / "power-measured.md").read_text()
    assert "\n".join(bench.area_section()) in page, "run: python -m bench.power"
