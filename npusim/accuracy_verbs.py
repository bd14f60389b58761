"""The verb ``validate``: predicted against measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from npusim.accuracy.validation import Validation


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1)
@click.option("--chip", metavar="CHIP", help="Price all rows on this chip; default: the chip each device is called.")
@click.option(
    "--calibration",
    default="auto",
    show_default=True,
    metavar="auto|none|FILE|DIR",
    help="Calibrations that may be used.",
)
@click.option(
    "--fidelity",
    type=click.Choice(["roofline", "tile", "cycle"]),
    default="tile",
    show_default=True,
    help="Model of the rows that no calibration prices.",
)
@click.option(
    "--host", is_flag=False, flag_value="host", metavar="[DIR]",
    help="Instead of FILE: time our kernels on this CPU and predict them from what npusim host wrote to DIR "
    "(default: host; measured first when it is empty).",
)  # fmt: skip
@click.option("--engine", is_flag=True, help="Throughput of whole runs (tables of runs, MLPerf results, JSON lists) by "
              "the serving engine.")  # fmt: skip
@click.option("--top", type=click.IntRange(0, 1000), default=0, metavar="N", help="Show the N worst rows and why.")
@click.option("--plot", type=click.Path(dir_okay=False), metavar="OUT", help="Write a plot (.svg or .html).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (microseconds, percent).")
def validate(
    files: tuple[str, ...], chip: str | None, calibration: str, fidelity: str, host: str | None, engine: bool,
    top: int, plot: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare predictions with measured rows (CSV, gzip allowed; of a folder, every file that has rows).

    For each device, operation, dtype and software: how many rows, mean and median error, bias, rank
    correlation, and the same for the plain roofline of the data sheet. Rows that cannot be priced are
    counted by reason.
    """
    import json
    from pathlib import Path

    from npusim.accuracy.validation import validate as run
    from npusim.errors import InputError, Problem
    from npusim.report import accuracy_plot, accuracy_text

    if plot:
        accuracy_plot.check_suffix(plot)
    if bool(files) == bool(host):
        raise InputError(Problem("one of the two is needed", "validate", allowed="measured rows (FILE...) or --host"))
    if engine:
        if host or plot or chip or fidelity != "tile":
            raise InputError(Problem("the engine scores files as they are", "--engine",
                                     allowed="no --host, --plot, --chip, --fidelity"))  # fmt: skip
        click.echo(by_engine(files, calibration, top, as_json))
        return
    found = on_this_host(Path(host)) if host else run(list(files), chip, calibration, fidelity)
    if plot:
        accuracy_plot.write(found, plot)
    if as_json:
        result = found.to_dict()
        if top:
            result["worst"] = [{**row.to_dict(), "explain": why(row, fidelity)} for row in found.worst(top)]
        click.echo(json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False))
        return
    click.echo(accuracy_text.text(found))
    for row in found.worst(top):
        click.echo(accuracy_text.worst(row, why(row, fidelity)))


def by_engine(files: tuple[str, ...], calibration: str, top: int, as_json: bool) -> str:
    """Throughput of whole runs as the serving engine predicts it, as text or JSON."""
    import json
    from collections import Counter

    from npusim.report import serving_throughput
    from npusim.serving.throughput import score
    from npusim.serving.throughput_rows import deduplicated, read

    runs, skipped = [], Counter[str]()
    for name in files:
        some, left_out = read(name)
        runs += some
        skipped += left_out
    data = serving_throughput.to_dict(score(deduplicated(runs), calibration), skipped)
    return json.dumps(data, indent=1, allow_nan=False) if as_json else serving_throughput.render(data, top)


def on_this_host(folder: Path) -> Validation:
    """Times our kernels here and compares them with the folder's chip file, which is measured first when missing."""
    from npusim.accuracy import host

    if not (folder / host.CHIP).is_file():
        host.measure_host(folder)
    return host.validate_host(folder)


def why(row: object, fidelity: str) -> str:
    """The explanation of a row's operators, or why there is none."""
    from npusim.accuracy.validation import Worst
    from npusim.accuracy.worst import explain_row

    assert isinstance(row, Worst)
    return explain_row(row, fidelity)
