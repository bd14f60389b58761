"""The verb ``host``: measure this CPU, and check predictions of our kernels on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from npusim.accuracy.host import Host


@click.command()
@click.option("--out", default="host", show_default=True, metavar="FOLDER", help="Where the files go.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=40.0, show_default=True, help="Time to measure for.")
@click.option("--name", default="", metavar="NAME", help="Name of the chip; default: made of the CPU's.")
@click.option("--fit/--no-fit", default=True, help="Also measure the kernels and fit what they sustain.")
@click.option("--validate", "check", is_flag=True, help="Time other shapes and compare them with predictions.")
@click.option("--plot", type=click.Path(dir_okay=False), metavar="OUT", help="With --validate: a plot (.svg or .html).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def host(out: str, seconds: float, name: str, fit: bool, check: bool, plot: str | None, as_json: bool) -> None:
    """Measure this CPU within a minute and write it as a chip file.

    FOLDER gets chip.yaml (rates per format, bandwidth of each memory, cost of a call; use it like any chip),
    calibrations/ (what the kernels of npukernels sustain of it) and the rows that were measured. With --validate,
    what FOLDER holds predicts other shapes, which are then timed; it is measured first only when it is empty.
    """
    import json
    from pathlib import Path

    from npusim.accuracy import host as loop
    from npusim.report import accuracy_plot, accuracy_text

    if plot:
        accuracy_plot.check_suffix(plot)
    folder = Path(out)
    known = check and (folder / loop.CHIP).is_file()
    measured = loop.load_host(folder) if known else loop.measure_host(folder, seconds, name, fit=fit)
    if not check:
        click.echo(json.dumps(summary(out, measured), indent=1) if as_json else text(out, measured))
        return
    found = loop.validate_host(folder, seconds=seconds)
    if plot:
        accuracy_plot.write(found, plot)
    click.echo(found.json() if as_json else accuracy_text.text(found))


def summary(out: str, measured: Host) -> dict[str, object]:
    """What was written and the main figures, SI units."""
    chip = measured.chip
    assert chip.memory is not None
    return {
        "folder": out,
        "chip": chip.name,
        "title": chip.title,
        "cores": chip.cores,
        "clock_hz": chip.clock_hz,
        "peak_flops_per_s": chip.peaks_flops_per_s,
        "bandwidth_bytes_per_s": {
            **{name: chip.level_bandwidth_bytes_per_s(level) for name, level in chip.levels.items()},
            "dram": chip.memory.bandwidth_bytes_per_s,
        },
        "call_s": chip.overheads.launch_s,
        "documents": [document.name for document in measured.documents],
        "cross_validated_mape_pct": {d.name: d.cross_validation.mape_pct for d in measured.documents},
    }


def text(out: str, measured: Host) -> str:
    """The same for people."""
    from npusim.units import show

    chip = measured.chip
    assert chip.memory is not None and chip.clock_hz is not None
    peaks = ", ".join(f"{fmt} {show(rate, 'FLOP/s')}" for fmt, rate in chip.peaks_flops_per_s.items())
    levels = {name: chip.level_bandwidth_bytes_per_s(level) for name, level in chip.levels.items()}
    rates = ", ".join(f"{name} {show(rate or 0, 'B/s')}" for name, rate in levels.items())
    lines = [
        f"{chip.title}: {chip.cores} cores at {show(chip.clock_hz, 'Hz')}",
        f"peak of all cores: {peaks}",
        f"reading, all cores: {rates}, dram {show(chip.memory.bandwidth_bytes_per_s or 0, 'B/s')}",
        f"a call of the kernel library: {show(chip.overheads.launch_s or 0, 's')}",
        f"wrote {out}/chip.yaml and {len(measured.documents)} calibrations",
    ]
    if measured.documents:
        lines.append(f"next: npusim host --validate --out {out}")
    return "\n".join(lines)
