"""Spellings of devices and formats in measured rows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from npusim.accuracy import devices
from npusim.accuracy.devices import chip_of, formats_of, known_dtype
from npusim.accuracy.operations import OPERATIONS
from npusim.chip import alias_index, load_chip
from npusim.dtypes import FORMATS


@pytest.mark.parametrize(
    ("spelling", "chip"),
    [
        ("H100-SXM", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("h100_sxm", "h100"),
        ("H100 PCIe 80GB", "h100-pcie"),
        ("NVIDIA H200_SXM-141GB", "h200"),
        ("A100-80GB-PCIe", "a100-pcie-80gb"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("4xA100-SXM4-80GB", "a100"),
        ("A100-pairwise-NVLink", "a100"),
        ("AMD_Instinct_MI250", "mi250"),
        ("AMD Instinct MI210", "mi210"),
        ("TPU-v7x(1 core)", "tpu-v7x-core"),
        ("TPU v3", "tpu-v3"),
        ("P100", "p100"),
        ("Wormhole", "wormhole-n150"),
        ("Blackhole-p150 x8", "blackhole-p150"),
        ("Nvidia GH200 GPU", "gh200"),
        ("iPhone-7", None),
        ("Blackhole-p100", None),  # not the P100
        ("", None),
        ("GPU", None),
        ("80GB", None),
    ],
)
def test_device_spellings(spelling: str, chip: str | None):
    assert chip_of(spelling) == chip


def test_every_alias_finds_its_own_chip():
    for spelling, chip in alias_index().items():
        assert chip_of(spelling) == chip


def test_the_catalog_holds_every_device_of_the_peak_table(shared: Path):
    peaks = json.loads((shared / "data" / "facts" / "device_peaks.json").read_text())["peaks"]
    for device, row in peaks.items():
        name = chip_of(device)
        assert name is not None, device
        chip = load_chip(name)
        bandwidth = chip.memory.bandwidth_bytes_per_s / 1e9
        assert bandwidth == pytest.approx(row["bw"], rel=0.03), device


# Devices of the measured tables that are no chip of the catalog: phones, boards of several vendors, consumer cards.
UNKNOWN = re.compile(
    r"M[123] |RK\d|RV\d|Snapdragon|Samsung|Dragonwing|QC|SA\d|HAILO|iPhone|Raspberry|RTX \d000 Ada|[34]0[78]0|3080|RX6|"
    r"A64FX|Graviton|Skylake|inf2|trn1|TPU v1|Blackhole\(|Blackhole-p100|MI300A|Galaxy|XR|Vision|Proxy|X Elite|Gemmini"
)


def test_devices_of_the_measured_tables(shared: Path):
    unknown = set()
    for readme in (shared / "data" / "measured").glob("*/README.md"):
        for line in readme.read_text().splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) >= 5 and cells[1] not in ("device", "---", "framework") and not cells[1].startswith("-"):
                unknown |= {cells[1]} if chip_of(cells[1]) is None else set()
    assert {name for name in unknown if not UNKNOWN.search(name)} <= {"file"}


def test_formats():
    assert formats_of("bfloat16").a == "bf16"
    assert formats_of("bfloat16/kv_fp8").kv == "fp8"
    assert formats_of("fp8/kv_fp8").out == "bf16"
    assert formats_of("int4_wo").b == "int4"
    assert formats_of("int4_wo").weight_only
    assert formats_of("w8a8_dynamic").quantised
    assert formats_of("float32(default-precision=bf16-mxu)").engine == "bf16"
    assert formats_of("a:torch.float8_e4m3fn/w:torch.float4_e2m1fn_x2").b == "mxfp4"
    assert formats_of("a:torch.x/w:torch.int8") is None
    assert formats_of("bf17") is None
    assert known_dtype("")
    assert not known_dtype("bf17/kv_bf16")


def test_every_entry_names_known_formats():
    for spelling in devices.DTYPES:
        found = formats_of(spelling)
        assert {found.a, found.b, found.out, found.kv} <= set(FORMATS), spelling
        assert not found.engine or found.engine in FORMATS


def test_formats_and_operations_of_the_measured_tables(shared: Path):
    ops = set()
    for readme in (shared / "data" / "measured").glob("*/README.md"):
        for line in readme.read_text().splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) == 6 and cells[4].isdigit():
                ops.add(cells[2])
                assert known_dtype(cells[3]), cells[3]
    assert len(ops & set(OPERATIONS)) >= 40


def test_baseline_devices_are_known(shared: Path):
    with (shared / "data" / "measured" / "BASELINES.csv").open() as stream:
        names = {row["device"] for row in csv.DictReader(stream) if "gemmini" not in row["table"]}
    assert {name for name in names if chip_of(name) is None and not UNKNOWN.search(name)} == set()
