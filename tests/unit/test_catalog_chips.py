"""The chips of the catalog: every file loads, every figure has a source, data sheets are met."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from npusim import chip as chips
from npusim import yamlio
from npusim.errors import Unavailable

FILES = sorted(chips.CATALOG.glob("*.yaml"))
NAMES = [path.stem for path in FILES]

# Chips that the catalog promises: each loads, or says which figure it lacks.
PROMISED = (
    "rebel-quad",
    "rngd",
    "atom",
    "atom-max",
    "warboy",
    "sapeon-x220",
    "sapeon-x330",
    "bertha-500",
    "dx-m1",
    "ascend-910b",
    "ascend-910c",
    "tpu-v3",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
    "tpu-v7",
    "a100",
    "h100",
    "h200",
    "b200",
    "l40s",
    "l4",
    "mi210",
    "mi300x",
    "gaudi2",
    "gaudi3",
    "groq",
    "trainium2",
    "inferentia2",
    "wormhole-n150",
    "blackhole-p150",
    "gemmini",
    "npu-2pf",
)

# Chips for which no source states the peak or the bandwidth; adding the figure moves a chip off this list.
UNAVAILABLE = {
    "br100": ["peak"],
    "br104": ["peak", "memory.bandwidth"],
    "dx-m1": ["memory.bandwidth"],
    "ion": ["memory.bandwidth"],
    "mobilint-aries": ["memory.bandwidth"],
    "sapeon-x220": ["memory.bandwidth"],
    "sapeon-x330-compact": ["memory.bandwidth"],
}

NOT_FIGURES = {"format", "name", "title", "vendor", "category", "aliases", "sources", "notes", "missing"}
STRUCTURE = {"scope", "managed", "buffers"}  # choices of the description, not facts about the chip
QUANTITY = re.compile(r"\s*[-+.]?\d")  # a quantity starts with its number


def _raw(path: Path) -> dict[str, Any]:
    data = yamlio.load_yaml(path).data
    assert isinstance(data, dict)
    return data


def _wrappers(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "value" in value:
            yield value
        for child in value.values():
            yield from _wrappers(child)


def _unsourced(value: Any, path: str = "") -> Iterator[str]:
    """Paths of figures that neither state source and status nor stand below something that does."""
    if isinstance(value, dict):
        if {"value", "source", "status"} <= set(value):
            return
        for key, child in value.items():
            if (path or key not in NOT_FIGURES) and key not in STRUCTURE:
                yield from _unsourced(child, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _unsourced(child, f"{path}[{index}]")
    elif isinstance(value, (bool, int, float)) or (isinstance(value, str) and QUANTITY.match(value)):
        yield path


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_file_loads_under_its_own_name(path: Path) -> None:
    chip = chips.read_chip(path)
    assert chip.name == path.stem
    assert chip.title != chip.name
    assert chip.vendor


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_figure_states_source_and_status(path: Path) -> None:
    assert list(_unsourced(_raw(path))) == []


def test_unsourced_finds_a_bare_figure() -> None:
    bare = {
        "clock": "1 GHz",
        "memory": {"capacity": {"value": "1 GB"}, "kind": "hbm3"},
        "notes": ["1 GHz"],
        "core": {"matrix": {"value": {"rows": 8}, "source": "s", "status": "assumed"}, "shape": [8]},
    }
    assert list(_unsourced(bare)) == ["clock", "memory.capacity.value", "core.shape[0]"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_sources_are_defined_and_used(path: Path) -> None:
    data = _raw(path)
    used = {key for figure in _wrappers(data) for key in str(figure.get("source", "this file")).split(", ")}
    assert used == set(data["sources"])


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_chosen_and_derived_figures_say_how(path: Path) -> None:
    """A figure that no source states carries a note: why it was chosen, or what it was computed from."""
    silent = [
        figure
        for figure in _wrappers(_raw(path))
        if figure["status"] in ("assumed", "derived") and not figure.get("note")
    ]
    assert silent == [] or path.stem == "rebel-quad"  # explained once, in the notes of the file


def test_names_aliases_and_titles_are_unique() -> None:
    """Look-up ignores case, so a name must not mean two chips in any spelling."""
    owners: Counter[str] = Counter()
    for path in FILES:
        data = _raw(path)
        owners.update({str(name).lower() for name in (data["name"], data["title"], *data.get("aliases", []))})
    assert [name for name, count in owners.items() if count > 1] == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_aliases_find_their_chip(path: Path) -> None:
    data = _raw(path)
    for alias in (data["title"], *data.get("aliases", [])):
        assert chips.find_chip(alias).name == path.stem


def test_enough_chips_are_ready() -> None:
    catalog = [chips.read_chip(path) for path in FILES]
    assert sum(chip.missing("roofline") == [] for chip in catalog) >= 20
    assert sum(chip.missing("tile") == [] for chip in catalog) >= 12
    assert sum(chip.missing("tile") == [] and chip.category != "gpu" for chip in catalog) >= 12


@pytest.mark.parametrize("name", PROMISED)
def test_promised_chip_loads_or_names_what_it_lacks(name: str) -> None:
    assert chips.find_chip(name).name == name
    if name not in UNAVAILABLE:
        assert chips.load_chip(name).peaks_flops_per_s


def test_unavailable_chips_are_exactly_the_known_ones() -> None:
    assert {name for name in NAMES if chips.find_chip(name).missing()} == set(UNAVAILABLE)


@pytest.mark.parametrize("name", sorted(UNAVAILABLE))
def test_unavailable_chip_is_refused_by_name_of_the_figure(name: str) -> None:
    with pytest.raises(Unavailable) as caught:
        chips.load_chip(name)
    for figure in UNAVAILABLE[name]:
        assert figure in str(caught.value)
    assert list(chips.find_chip(name).missing_figures) == UNAVAILABLE[name]


def test_reference_design_is_two_petaflops_exactly() -> None:
    chip = chips.load_chip("npu-2pf")
    peaks = chip.peaks_flops_per_s
    assert (peaks["fp4"], peaks["fp8"], peaks["bf16"]) == (4e15, 2e15, 1e15)
    assert chip.category == "design"
    figures = list(_wrappers(_raw(chips.CATALOG / "npu-2pf.yaml")))
    assert {(figure["source"], figure["status"]) for figure in figures} == {("design", "assumed")}


def test_reference_design_softmax_does_not_bound_prefill() -> None:
    """The note on softmax of npu-2pf: cycles of vector work per cycle of matrix work, head dimension 128."""
    chip = chips.load_chip("npu-2pf")
    add, exp, convert = (chip.vector_ops_per_s(name) for name in ("add", "exp", "convert"))
    assert add and exp and convert
    vector_s_per_score = 5 / add + 1 / exp + 1 / convert
    matrix_s_per_score = 4 * 128 / chip.peaks_flops_per_s["fp8"]
    assert vector_s_per_score / matrix_s_per_score == pytest.approx(0.6875)


def test_half_chip_is_half_of_the_chip() -> None:
    whole, half = chips.load_chip("tpu-v7"), chips.load_chip("TPU-v7x(1 core)")
    assert whole.memory and half.memory and whole.memory.bandwidth_bytes_per_s and half.memory.bandwidth_bytes_per_s
    assert half.memory.bandwidth_bytes_per_s * 2 == whole.memory.bandwidth_bytes_per_s
    assert half.memory.capacity_bytes * 2 == whole.memory.capacity_bytes
    assert {name: 2 * peak for name, peak in half.peaks_flops_per_s.items()} == whole.peaks_flops_per_s


# -- agreement with the data-sheet table of the measured devices ---------------------------------------

PEAKS = Path(__file__).parents[2].parent / "shared" / "data" / "facts" / "device_peaks.json"
TOLERANCE = 0.03

# Math fidelities of the Tenstorrent rows, and the format that stands for each in our chip files.
FIDELITIES = {"LoFi": "fp8", "HiFi2": "bf16", "HiFi4": "fp16"}
NOT_A_FORMAT = ("HiFi3",)  # no format stands for it; the notes of the chip files give its rate


def _device_peaks() -> dict[str, dict[str, float]]:
    if not PEAKS.is_file():
        return {}
    table: dict[str, dict[str, float]] = json.loads(PEAKS.read_text())["peaks"]
    return table


@pytest.mark.skipif(not PEAKS.is_file(), reason="the table of measured devices is not beside this checkout")
@pytest.mark.parametrize("device", sorted(_device_peaks()))
def test_measured_device_agrees_with_its_data_sheet(device: str) -> None:
    row = _device_peaks()[device]
    chip = chips.find_chip(device)
    bandwidth = chip.memory.bandwidth_bytes_per_s if chip.memory else None
    assert bandwidth is not None
    assert bandwidth / 1e9 == pytest.approx(row["bw"], rel=TOLERANCE)
    for column, stated in row.items():
        if column in ("bw", *NOT_A_FORMAT):
            continue
        # A format without a rate of its own runs at the next wider one (V100: bf16 rows at the fp16 rate).
        _, ours = chip.peak_flops_per_s(FIDELITIES.get(column, column))
        assert ours / 1e12 == pytest.approx(stated, rel=TOLERANCE), column
