"""The chip file of a measured machine."""

import pytest

from npusim import workload
from npusim.accuracy.host_chip import chip_name, render
from npusim.accuracy.host_facts import Cache
from npusim.chip import read_chip
from npusim.cost import estimate
from npusim.report.listing import check_file
from tests.unit.accuracy.host_machines import facts, figure, machine


def written(tmp_path, measured, name=""):
    file = tmp_path / "chip.yaml"
    file.write_text(render(measured, name))
    return file


def test_figures_survive_the_file(tmp_path):
    file = written(tmp_path, machine())
    assert check_file(str(file)) == ("chip", [])
    chip = read_chip(file).require("tile")
    assert chip.name == "host-acme-one"
    assert chip.cores == 4
    assert chip.clock_hz == 3e9
    peaks = chip.peaks_flops_per_s
    assert peaks["fp32"] == peaks["bf16"] == peaks["fp16"] == pytest.approx(384e9, rel=1e-4)
    assert peaks["int8"] == pytest.approx(768e9, rel=1e-4)
    assert chip.vector_ops_per_s("add") == pytest.approx(4 * 48e9, rel=1e-4)
    assert chip.vector_ops_per_s("rsqrt") == pytest.approx(4 * 3e9, rel=1e-4)
    assert chip.vector_ops_per_s("convert") == pytest.approx(4 * 24e9, rel=1e-4)
    assert chip.level_bandwidth_bytes_per_s(chip.levels["l1"]) == pytest.approx(4 * 200e9)
    assert chip.level_bandwidth_bytes_per_s(chip.levels["l3"]) == pytest.approx(180e9)
    assert chip.levels["l3"].scope == "chip"
    assert chip.memory.bandwidth_bytes_per_s == pytest.approx(40e9)
    assert chip.overheads.launch_s == pytest.approx(4e-6)


def test_every_figure_says_where_it_comes_from(tmp_path):
    chip = read_chip(written(tmp_path, machine()))
    measured = [
        path
        for path in chip.paths()
        if path.rpartition(".")[2] in ("bandwidth", "clock", "fp32", "int8", "launch", "cores")
    ]
    assert len(measured) >= 8
    for path in measured:
        assert chip.provenance(*path.split(".")).status == "measured", path
        assert chip.provenance(*path.split(".")).source in ("host", "system")
    assert "2026-11-21" in chip.sources["host"]
    assert "npusim host" in chip.sources["host"]


def test_cores_that_clock_down_together_lower_the_peak(tmp_path):
    chip = read_chip(written(tmp_path, machine(team_rate=figure(300e9))))
    assert chip.peaks_flops_per_s["fp32"] == pytest.approx(300e9, rel=1e-4)
    assert chip.peaks_flops_per_s["int8"] == pytest.approx(600e9, rel=1e-4)


def test_a_portable_build_has_no_rate_for_int8(tmp_path):
    rates = {("generic", name): figure(1e9) for name in ("fma", "fma-chain", "add", "rsqrt")}
    chip = read_chip(written(tmp_path, machine(instructions="generic", rates=rates)))
    assert "int8" not in chip.peaks_flops_per_s
    assert chip.core.matrix.shape == (4, 8, 1)


def test_shared_second_level_and_odd_names(tmp_path):
    caches = (Cache(1, 32 << 10, 1), Cache(2, 4 << 20, 2))
    odd = facts(model='Chip "X" \\ ü\n(TM)', caches=caches, memory_bytes=0)
    measured = machine(
        facts=odd,
        bandwidth={(n, "read"): figure(1e10) for n in ("l1", "l2", "dram")},
        team_bandwidth={"l2": figure(2e10), "dram": figure(1e10)},
        footprints={"l1": 16384, "l2": 2 << 20, "dram": 64 << 20},
    )
    chip = read_chip(written(tmp_path, measured, "my-host"))
    assert chip.name == "my-host"
    assert (chip.levels["l2"].scope, chip.levels["l2"].instances) == ("cluster", 2)


def test_names_are_valid_whatever_the_cpu_is_called():
    assert chip_name("Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz") == "host-intel-xeon-platinum-8480c"
    assert chip_name("") == "host"
    assert len(chip_name("x" * 200)) <= 60


@pytest.mark.parametrize("fidelity", ["roofline", "tile", "cycle"])
def test_the_file_serves_every_fidelity(tmp_path, fidelity):
    chip = read_chip(written(tmp_path, machine()))
    cost = estimate(workload.gemm(512, 512, 512, "fp32", "fp32", "fp32"), chip, fidelity)
    assert 2 * 512**3 / 384e9 * 0.999 < cost.time_s < 1e-2
