"""The host loop without a clock: shapes, calls, documents and rows."""

import numpy as np
import pytest
from click.testing import CliRunner

import npukernels as nk
from npusim.accuracy import host, host_cases, host_shapes
from npusim.accuracy.host_chip import render
from npusim.accuracy.host_clock import Timing
from npusim.accuracy.host_shapes import CALIBRATION, SUBJECTS, VALIDATION
from npusim.accuracy.rows import load_rows
from npusim.chip import read_chip
from npusim.cli import cli
from npusim.cost.calibrated.family import family
from npusim.errors import InputError
from npusim.host_verb import host as verb
from tests.unit.accuracy.host_machines import machine

native = pytest.mark.skipif(not nk.native_available(), reason="the extension is not built")
IDS = [subject.label for subject in SUBJECTS]


@pytest.fixture
def chip(tmp_path):
    file = tmp_path / "chip.yaml"
    file.write_text(render(machine()))
    return read_chip(file)


def rows_of(chip, subject, seed, factor=1.0):
    """Rows whose times are those of the family at its starting parameters."""
    shapes = tuple(host_shapes.draw(subject, seed))
    empty = host.Measured(subject, "c-test", shapes, ())
    model = family(subject.family)
    start = {spec.name: spec.start for spec in model.parameters}
    times = factor * model.seconds(chip, subject.dtype, empty.dims, start).time_s
    return host.Measured(subject, "c-test", shapes, tuple(Timing(float(t), float(t) * 1.1, 9) for t in times))


@pytest.mark.parametrize("subject", SUBJECTS, ids=IDS)
def test_draws_repeat_and_share_no_shape(subject):
    fitted, other = host_shapes.draw(subject, CALIBRATION), host_shapes.draw(subject, VALIDATION)
    assert fitted == host_shapes.draw(subject, CALIBRATION)
    assert len(fitted) >= 2 * len(family(subject.family).parameters)
    assert len(other) >= 10
    assert not {tuple(shape.items()) for shape in fitted} & {tuple(shape.items()) for shape in other}
    assert all(size >= 1 for shape in (*fitted, *other) for size in shape.values())


@native
@pytest.mark.parametrize("subject", SUBJECTS, ids=IDS)
def test_a_case_runs_what_it_says(subject):
    shape = {"m": 5, "n": 24, "k": 40}
    if subject.op.startswith("attention"):
        rows = 1 if subject.op.endswith("decode") else 7
        shape = {"batch": 1, "heads": 4, "kv_heads": 2, "head_dim": 64, "seq_q": rows, "seq_kv": 9}
    out = host_cases.case(subject, shape)()
    expected = (5, 24) if "m" in shape else (1, 4, shape["seq_q"], 64)
    assert out.shape == expected
    assert np.isfinite(out).all()
    assert np.ptp(out) > 0
    assert host_cases.variant(subject) in nk.variants({"int8": "qgemm"}.get(subject.dtype, "gemm"))


@native
def test_the_product_of_a_case_is_right():
    out = host_cases.case(SUBJECTS[0], {"m": 6, "n": 10, "k": 30})()
    left, right = host_cases._take("float32", "left", 6, 30), host_cases._take("float32", "right", 30, 10)
    assert np.allclose(out, left @ right, atol=1e-5)


@pytest.mark.parametrize("subject", [SUBJECTS[0], SUBJECTS[2], SUBJECTS[-1]], ids=lambda s: s.label)
def test_a_fit_predicts_shapes_it_has_not_seen(chip, subject):
    pytest.importorskip("scipy")
    fixed = {"cache_share": 0.5, "dram_share": 0.5, "kept_share": 0.6}
    (document,) = host.calibrate(chip, [rows_of(chip, subject, CALIBRATION)], fixed, "made up")
    unseen = rows_of(chip, subject, VALIDATION)
    found = family(document.family).seconds(chip, subject.dtype, unseen.dims, document.values()).time_s
    assert np.median(np.abs(found / unseen.best_s - 1)) < 0.05
    assert document.chip == chip.name
    assert document.software == "npukernels-c-test"
    assert document.residency == "llc"
    assert document.values()["kept_share"] == 0.6


def test_rows_survive_the_file(chip, tmp_path):
    made = [rows_of(chip, subject, VALIDATION) for subject in SUBJECTS]
    file = tmp_path / "rows.csv"
    file.write_text(host.csv_text(made, chip.name))
    rows = load_rows(str(file))
    assert len(rows) == sum(len(item.shapes) for item in made)
    times = np.concatenate([item.best_s for item in made])
    assert np.allclose(rows.column("latency_us"), 1e6 * times, rtol=1e-3)
    assert set(rows.column("op")) == {subject.op for subject in SUBJECTS}
    assert set(rows.extra("spread")) == {"0.10"}


def test_one_core_reads_shares_of_what_all_read(chip):
    assert host.core_shares(machine(), chip) == {
        "cache_share": pytest.approx(60 / 180), "dram_share": pytest.approx(16 / 40), "kept_share": 0.5,
    }  # fmt: skip


def fake(monkeypatch):
    """Measuring that takes no time: rows of the families' starting parameters, 5 % slower when validated."""

    def measure_kernels(seed, seconds, subjects=SUBJECTS, *, beside=(), clock=None):
        factor = 1.0 if seed == CALIBRATION else 1.05
        return [rows_of(measured_chip, subject, seed, factor) for subject in subjects], [Timing(1e-3, 1e-3, 3)] * len(
            beside
        )

    class Probes:
        runs = ()

        def machine(self, timings, seconds):
            return machine()

    measured_chip = None

    def read(path):
        nonlocal measured_chip
        measured_chip = measured_chip or read_chip(path)
        return read_chip(path)

    monkeypatch.setattr(host, "measure_kernels", measure_kernels)
    monkeypatch.setattr(host, "Probes", Probes)
    monkeypatch.setattr(host, "read_chip", read)
    return lambda chip: read(chip)


def test_the_loop_from_measuring_to_the_verdict(monkeypatch, tmp_path, chip):
    pytest.importorskip("scipy")
    fake(monkeypatch)(tmp_path / "chip.yaml")
    folder = tmp_path / "host"
    runner = CliRunner()
    done = runner.invoke(verb, ["--out", str(folder), "--name", "mine"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "wrote" in done.output
    assert len(list((folder / "calibrations").glob("mine--*.yaml"))) == len(SUBJECTS)
    plot = tmp_path / "plot.svg"
    done = runner.invoke(verb, ["--out", str(folder), "--validate", "--plot", str(plot)], catch_exceptions=False)
    assert "roofline" in done.output
    assert plot.read_text().startswith("<svg")
    found = host.validate_rows(host.load_host(folder), folder / "validation.csv")
    assert found.priced == found.rows
    assert not found.unpriced
    assert {group.state for group in found.groups} == {"calibrated"}
    assert found.overall.bias_pct == pytest.approx(-4.8, abs=3)
    other = runner.invoke(cli, ["validate", "--host", str(folder)], catch_exceptions=False)
    assert other.output == done.output
    done = runner.invoke(verb, ["--out", str(folder), "--no-fit", "--json"], catch_exceptions=False)
    assert '"documents": []' in done.output
    assert not list((folder / "calibrations").glob("*.yaml"))


def test_a_folder_that_was_not_measured_is_refused(tmp_path):
    with pytest.raises(InputError, match="no measured machine"):
        host.load_host(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot write"):
        host._write(blocked / "chip.yaml", "")


def test_without_scipy_the_fit_says_so(monkeypatch):
    monkeypatch.setattr(host, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs SciPy"):
        host._require_scipy()
