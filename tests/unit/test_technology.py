"""The constants of the energy, area and price models: complete, with provenance, interpolated as documented."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from npusim.chip import STATUSES, find_chip
from npusim.cost.technology import TECHNOLOGIES, load_technology, node_nm
from npusim.errors import InputError, Unavailable

PUBLIC = TECHNOLOGIES / "public.yaml"


def leaves(data: object, path: str = "") -> list[str]:
    """Dotted paths of all numbers."""
    if isinstance(data, dict):
        return [leaf for key, value in data.items() for leaf in leaves(value, f"{path}.{key}" if path else str(key))]
    return [path] if isinstance(data, (int, float)) else []


def test_every_constant_states_its_source_and_status():
    technology = load_technology()
    given = technology.provenance
    numbers = leaves(technology.model_dump())
    assert len(numbers) > 100
    for path in numbers:
        assert path in given, path
        assert given[path].status in STATUSES
        assert given[path].source in technology.sources


def test_what_we_invented_is_called_assumed_or_derived():
    for path, origin in load_technology().provenance.items():
        if origin.source == "npusim":
            assert origin.status in ("assumed", "derived"), path


def test_a_node_of_the_table_is_the_entry():
    assert load_technology().node(7) == load_technology().nodes["7"]


def test_between_two_nodes_logarithms_are_interpolated():
    """sqrt(5 x 7) nm is half way between 5 and 7 on a logarithmic scale: the geometric mean of their figures."""
    found = load_technology().node(35**0.5)
    assert found.gate_um2 == pytest.approx((0.0289 * 0.0439) ** 0.5)
    assert found.energy == pytest.approx((0.70 * 1.0) ** 0.5)


@pytest.mark.parametrize("size", [1.0, 90.0])
def test_nodes_outside_the_table_are_unavailable(size: float):
    with pytest.raises(Unavailable, match="no constants for a node"):
        load_technology().node(size)


@pytest.mark.parametrize(
    ("bank", "picojoule"), [(1, 7.5), (8192, 7.5), (32768, 8.5), (16384, (7.5 * 8.5) ** 0.5), (2**20, 14), (2**30, 14)]
)
def test_sram_energy_follows_the_bank(bank: float, picojoule: float):
    assert load_technology().sram_access_j_per_byte(bank) == pytest.approx(picojoule * 1e-12 / 8)


def test_the_node_is_read_from_its_name_when_no_size_is_given():
    assert node_nm(find_chip("rebel-quad")) == 4  # Samsung SF4X
    assert node_nm(find_chip("a100")) == 7


def test_a_chip_without_a_process_says_what_to_set(toy):
    with pytest.raises(Unavailable, match=r"names no process node") as caught:
        node_nm(toy)
    assert "process.node_nm" in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("energy: {value: 1.0,", "energy: {value: -1.0,", "greater than 0"),
        ("  clock_share:", "  clock_shore:", "clock_shore"),
        ("status: recalled, note: 40 nm", "status: known, note: 40 nm", "unknown status"),
        ('  "45":', '  "old":', "is not a number"),
        ("    other: {value: 6.0", "    gddr: {value: 6.0", "needs 'other'"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(tmp_path: Path, before: str, after: str, says: str):
    text = PUBLIC.read_text()
    assert text.count(before) >= 1
    file = tmp_path / "other.yaml"
    file.write_text(text.replace(before, after, 1))
    with pytest.raises(InputError, match=says):
        load_technology(str(file))


def test_newer_nodes_are_denser_and_take_less_energy():
    nodes = [load_technology().node(size) for size in (45, 28, 16, 12, 10, 7, 6, 5, 4, 3, 2)]
    for older, newer in pairwise(nodes):
        assert newer.gate_um2 < older.gate_um2
        assert newer.bitcell_um2 <= older.bitcell_um2
        assert newer.energy < older.energy
        assert newer.wafer_usd >= older.wafer_usd
