"""The verb ``calibrate``: fit a few physical parameters to measured rows."""

from __future__ import annotations

import click


@click.command()
@click.argument("files", metavar="ROWS...", nargs=-1, required=True)
@click.option(
    "--chip", metavar="CHIP", help="The chip all rows were measured on; default: the one each device is called."
)
@click.option("--out", default="calibrations", show_default=True, metavar="DIR", help="Folder the documents go to.")
@click.option("--op", "ops", multiple=True, metavar="NAME", help="Fit only these operators of the rows; repeatable.")
@click.option("--software", "stacks", multiple=True, metavar="NAME", help="Fit only these stacks; repeatable.")
@click.option("--dtype", "types", multiple=True, metavar="NAME", help="Fit only these dtypes; repeatable.")
@click.option("--classes", is_flag=True, help="Also learn what to expect of other chips of the same classes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (seconds, percent).")
def calibrate(
    files: tuple[str, ...],
    chip: str | None,
    out: str,
    ops: tuple[str, ...],
    stacks: tuple[str, ...],
    types: tuple[str, ...],
    classes: bool,
    as_json: bool,
) -> None:
    """Fit a calibration document to each chip, software, operator and dtype of measured rows (CSV).

    The error that is printed is of shapes the fit had not seen (5 folds). A fit that does not converge is
    named and not written. Use the documents with validate --calibration FILE.
    """
    import json

    import numpy as np

    from npusim.accuracy import calibrating
    from npusim.accuracy.rows import load_rows

    rows = load_rows(list(files))
    keep = np.ones(len(rows), dtype=bool)
    for name, wanted in (("op", ops), ("software", stacks), ("dtype", types)):
        if wanted:
            keep &= np.isin(rows.column(name).astype(str), wanted)

    def show(outcome: calibrating.Outcome) -> None:
        click.echo(_line(outcome), err=as_json)

    chosen = rows.select(keep)
    outcomes = calibrating.calibrate(chosen, chip, out, show)
    if classes:
        from npusim import calibration
        from npusim.accuracy import transfer

        fitted = [outcome.document for outcome in outcomes if outcome.document is not None]
        names = {calibrating.key_of(each) for each in fitted}
        groups = [each for each in calibrating.found_groups(chosen, chip) if calibrating.key_of(each) in names]
        for found in transfer.class_documents(groups, fitted):
            if not isinstance(found, str):
                calibration.save(found, out)
            click.echo(found if isinstance(found, str) else _class_line(found), err=as_json)
    if as_json:
        click.echo(json.dumps({"calibrations": [each.to_dict() for each in outcomes]}, indent=1, allow_nan=False))


def _line(outcome: object) -> str:
    from npusim.accuracy.calibrating import Outcome

    assert isinstance(outcome, Outcome)
    head = f"{outcome.chip} {outcome.software} {outcome.op} {outcome.dtype}: {outcome.rows} rows"
    if outcome.document is None:
        return f"{head}; not fitted: {outcome.reason}"
    found = outcome.document.cross_validation
    return f"{head}, error {found.mape_pct:.1f} % (median {found.mdape_pct:.1f} %, bias {found.bias_pct:+.1f} %)"


def _class_line(document: object) -> str:
    from npusim.calibration import Calibration

    assert isinstance(document, Calibration)
    found = document.cross_validation
    head = f"class {document.chip}, {document.software} {document.op} {document.dtype}, learned on"
    return (
        f"{head} {', '.join(document.chips)}: error {found.mape_pct:.1f} % by {found.by}; {'; '.join(document.notes)}"
    )
