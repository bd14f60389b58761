"""The verbs ``sweep`` and ``size``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from npusim.errors import InputError, Problem

if TYPE_CHECKING:
    from npusim.report.sizing_view import Board
    from npusim.sizing.sizes import Sizing
    from npusim.sizing.sweeps import Progress, Sweep


_report = click.option("--report", "reports", multiple=True, metavar="FILE.html|FILE.xlsx",
                       help="Write a self-contained page or a workbook; repeatable.")  # fmt: skip
_plots = click.option("--plots", metavar="DIR", help="Write the charts as SVG and PNG.")


def _write(board: Board, reports: tuple[str, ...], plots: str | None) -> None:
    from npusim.report import sizing_files

    for path in reports:
        sizing_files.write_report(board, path)
    if plots:
        sizing_files.write_plots(board, plots)


@click.command()
@click.argument("plan", metavar="PLAN.yaml")
@click.option("--store", metavar="FILE", help="File of results, made or continued. Default: PLAN's name with .db.")
@click.option(
    "--export", "exports", multiple=True, metavar="FILE", help="Write results as .csv or .parquet; repeatable."
)
@click.option("--only-export", is_flag=True, help="Export what --store holds; price nothing.")
@click.option("--executor", default="serial", show_default=True, metavar="serial|processes|dask", help="Who prices.")
@click.option(
    "--workers", type=click.IntRange(1, 4096), default=2, show_default=True, help="Of a pool or local cluster."
)
@click.option("--cluster", default="local", show_default=True, metavar="local|tcp://HOST:PORT", help="Dask scheduler.")
@click.option("--objective", "objectives", multiple=True, metavar="METRIC", help="An axis of the report's front.")
@_report
@_plots
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--acknowledge", is_flag=True, help="Print the key of every design once its results are on disk.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (SI units in the keys).")
def sweep(
    plan: str, store: str | None, exports: tuple[str, ...], only_export: bool, executor: str, workers: int,
    cluster: str, objectives: tuple[str, ...], reports: tuple[str, ...], plots: str | None, quiet: bool,
    acknowledge: bool, as_json: bool,
) -> None:  # fmt: skip
    """Price every design of a plan; an interrupted sweep goes on where it stopped.

    docs/sweeps.md describes plans, stores and clusters.
    """
    from pathlib import Path

    from npusim.sizing import sweeps
    from npusim.sizing.store import Store

    file = store or str(Path(plan).with_suffix(".db").name)
    if only_export:
        for target in exports:
            click.echo(f"{sweeps.export(Store(file, readonly=True).rows(), target)} rows in {target}")
        return

    def show(progress: Progress) -> None:
        if acknowledge:
            for key in progress.keys:
                click.echo(key)
        if not quiet:
            eta = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
            click.echo(f"{progress.done} of {progress.total} designs, {progress.failed} failed{eta}", err=True)

    found = sweeps.sweep(plan, store=file, executor=executor, workers=workers, cluster=cluster, progress=show)
    for target in exports:
        sweeps.export(found.rows(), target)
    if reports or plots:
        from npusim.report import sizing_view

        _write(sizing_view.of_sweep(found, objectives), reports, plots)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    elif not acknowledge:
        click.echo(_sweep_text(found, file))


def _sweep_text(found: Sweep, file: str) -> str:
    feasible = found.feasible
    failed = int((found.status == "failed").sum())
    lines = [
        f"{len(found.designs)} designs x {len(found.cases)} cases of plan '{found.plan.name}' at {found.plan.fidelity}",
        f"{int(feasible.sum())} of {feasible.size} points fit and keep to every constraint; "
        f"{int(found.feasible_designs.sum())} designs do in all cases; {failed} designs failed",
        f"results in {file}",
    ]
    for message in dict.fromkeys(message for message in found.messages if message):
        lines.append(f"failed: {message}")
    return "\n".join(lines)


@click.command()
@click.option("--chip", default="npu-2pf", show_default=True, metavar="NAME|FILE", help="The chip that is varied.")
@click.option("--target", "targets", multiple=True, required=True, metavar="TEXT",
              help='Such as "llama-3.3-70b fp8 2048/2048 tpot<=20ms concurrency>=64"; repeatable.')  # fmt: skip
@click.option("--vary", multiple=True, metavar="PATH=VALUES", help="4,6,8 or 4TB/s..9TB/s:6[:log].")
@click.option("--derive", multiple=True, metavar="PATH=EXPR", help="Such as memory.capacity=memory.stacks*36e9.")
@click.option("--max-power", metavar="W", help="Power of one chip, such as '600 W'.")
@click.option("--max-area", metavar="MM2", help="Silicon of one chip, such as '800 mm2'.")
@click.option("--max-cost", metavar="USD", help="One packaged chip, such as '9000 USD'.")
@click.option("--limit", "limits", multiple=True, metavar="CONSTRAINT", help="Such as 'tokens_per_j >= 2'; repeatable.")
@click.option("--minimise", "--minimize", "least", multiple=True, metavar="METRIC", help="Default: cost.")
@click.option(
    "--maximise", "--maximize", "most", multiple=True, metavar="METRIC", help="Such as throughput; repeatable."
)
@click.option("--fidelity", type=click.Choice(["roofline", "tile"]), default="tile", show_default=True)
@click.option("--power", default="capped", show_default=True, metavar="capped|bottom-up|tdp",
              help="Model of power; 'capped' lowers the clock until the TDP is kept.")  # fmt: skip
@click.option("--trials", type=int, default=300, show_default=True, help="Designs judged where the space is large.")
@click.option("--only-designs", is_flag=True, help="No existing chips, inverse answers and elasticities: faster.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of that search.")
@_report
@_plots
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (SI units in the keys).")
def size(targets: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Find the chip that reaches a service target at the least cost, and what the target needs of it."""
    from npusim.sizing import sizes
    from npusim.sizing.quantities import HIGHER_IS_BETTER, constraint, metric

    limits = [sizes.limit(name, options[f"max_{name}"]) for name in ("power", "area", "cost") if options[f"max_{name}"]]
    limits += [constraint(text, path="--limit") for text in options["limits"]]
    for name in (*options["least"], *options["most"]):
        if (metric(name) in HIGHER_IS_BETTER) == (name in options["least"]):
            wanted = "--maximise" if name in options["least"] else "--minimise"
            raise InputError(Problem(f"'{name}' is better the other way round", wanted, allowed=f"{wanted} {name}"))
    more = not options["only_designs"]
    found = sizes.size(
        options["chip"], targets, vary=options["vary"], limits=limits,
        derived=dict(map(sizes.parse_derived, options["derive"])),
        objectives=(*options["least"], *options["most"]) or ("cost",), fidelity=options["fidelity"],
        power=options["power"], trials=options["trials"], seed=options["seed"],
        neighbours=more, inverse=more, sensitivity=more,
    )  # fmt: skip
    if options["reports"] or options["plots"]:
        from npusim.report import sizing_view

        _write(sizing_view.of_sizing(found), options["reports"], options["plots"])
    click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False) if as_json else _size_text(found))
    if not as_json:
        found.require_any()


_SHOWN = (("ttft_s", "s"), ("tpot_s", "s"), ("power_w", "W"), ("area_mm2", "mm2"), ("cost_usd", "USD"),
          ("usd_per_mtoken", "USD/Mtoken"))  # fmt: skip


def _figures(metrics: dict[str, float | None]) -> str:
    from npusim.units import show

    told = []
    for name, unit in _SHOWN:
        value = metrics.get(name)
        if value is not None:
            told.append(show(value, unit) if unit in ("s", "W") else f"{value:.4g} {unit}")
    return ", ".join(told)


def _size_text(found: Sizing) -> str:
    from npusim.sizing.sizes import labels
    from npusim.units import show

    feasible = sum(item.verdict.feasible for item in found.candidates)
    lines = [f"{found.chip.title}: {len(found.candidates)} designs ({found.method}), {feasible} reach the target"]
    for index in found.front:
        item = found.candidates[index]
        marks = [word for word, at in (("best", found.best), ("knee", found.knee)) if at == index]
        name = labels(item.parameters) or "as described"
        lines.append(f"  {name}{' <- ' + ', '.join(marks) if marks else ''}: {_figures(item.verdict.metrics)}")
    if found.neighbours:
        lines.append("nearest existing chips:")
    for near in found.neighbours:
        why = "" if near.verdict.feasible else f" [{'; '.join(near.verdict.violated)}]"
        lines.append(f"  {near.name} ({near.fidelity}): {_figures(near.verdict.metrics)}{why}")
    if found.least:
        lines.append("the least that reaches the target, everything else as in the best design:")
    for least in found.least:
        value = show(least.above, least.unit, 4)
        if least.state == "found" and least.below is not None:
            told = (
                f"{value} holds, {show(least.below, least.unit, 4)} fails: {'; '.join(least.binding)} ({least.bound})"
            )
        elif least.state == "always":
            told = f"{value} still holds: it does not bind"
        else:
            told = f"no value up to {value} helps: {'; '.join(least.binding)}"
        lines.append(f"  {least.name} ({least.path}, now {show(least.now, least.unit, 4)}): {told}")
    if found.sensitivities:
        lines.append("elasticities (d ln metric / d ln figure), largest first:")
    for one in found.sensitivities[:12]:
        told = ", ".join(f"{name} {one.elasticity[name]:+.2f}" for name, _ in _SHOWN if name in one.elasticity)
        lines.append(f"  {one.path}: {told}")
    return "\n".join(lines)
