"""The verb ``npusim compare``: verdicts on two stored benchmark results."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("baseline", metavar="BASELINE.json")
@click.argument("current", metavar="CURRENT.json")
@click.option("--threshold", type=click.FloatRange(0, 1000), default=10.0, show_default=True, metavar="PERCENT")
@click.option("--force", is_flag=True, help="Compare records of different machines too.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a markdown table.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (seconds).")
@click.pass_context
def compare(
    context: click.Context,
    baseline: str,
    current: str,
    threshold: float,
    force: bool,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Is CURRENT slower than BASELINE? Both are pytest-benchmark results; exit code 1 on a regression.

    Times stored at different times carry whatever the machine did in between. To compare two commits on a
    noisy machine, use python -m bench.ab BASE HEAD of the source tree, which interleaves them.
    """
    from npusim import regression

    found = regression.compare(
        regression.read_record(baseline), regression.read_record(current), 1 + threshold / 100, force
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        click.echo(regression.markdown(found) if as_markdown else regression.text(found))
    if found.regressions:
        context.exit(1)
