"""The command line: verbs, options and exit codes; every verb is a thin call of the Python API.

Exit codes: 0 ok, 1 a finding, 2 usage or bad input, 3 does not fit, 4 internal error. Errors go to
stderr, one line each, never as a traceback (set NPUSIM_DEBUG=1 to see one).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from npusim import __version__
from npusim.accuracy_verbs import validate
from npusim.calibrate_verb import calibrate
from npusim.compare_verb import compare
from npusim.errors import InputError, NpuError, Problem
from npusim.host_verb import host
from npusim.kernel_verbs import kernel
from npusim.serving_verbs import serve
from npusim.sizing_verbs import size, sweep

if TYPE_CHECKING:
    from pathlib import Path

    from npusim.chip import Chip
    from npusim.cost import Cost
    from npusim.kperf_suite import KPerf
    from npusim.models import Model
    from npusim.workload import Workload

power_cap_option = click.option(
    "--power-cap", is_flag=True, help="Lower the clock until the average power fits the TDP (bottom-up energy)."
)
calibration_option = click.option(
    "--calibration", default="none", show_default=True, metavar="none|auto|FILE",
    help="Calibrations that price operators: those of the catalog, or a document.",
)  # fmt: skip
software_option = click.option(
    "--software", metavar="NAME", help="Whose kernels, e.g. trtllm or vllm-0.24.0. Default: the stack measured most."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (SI units in the keys).")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help='Change one figure of the chip, e.g. memory.bandwidth="6 TB/s" (see catalog --paths).',
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="npusim")
def cli() -> None:
    """Predict what a neural processing unit does, from a chip description to request-level metrics."""


cli.add_command(compare)
cli.add_command(host)
cli.add_command(kernel)
cli.add_command(size)
cli.add_command(sweep)
cli.add_command(validate)
cli.add_command(calibrate)
cli.add_command(serve)


def main(argv: list[str] | None = None) -> None:
    """Entry point: runs a verb and turns every error into one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character gets a '?', not a crash
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(args=argv, prog_name="npusim", standalone_mode=False) or 0
        sys.stdout.flush()
    except NpuError as error:
        code = _fail(error, str(error), error.exit_code)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (KeyboardInterrupt, click.Abort):
        code = _fail(None, "interrupted", 130)
    except BrokenPipeError:  # the reader closed the pipe (npusim ... | head): not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        where = error.filename or "output"
        code = _fail(error, f"{where}: {error.strerror or error}", 2)
    except Exception as error:
        code = _fail(
            error,
            f"internal error: {type(error).__name__}: {error}\n"
            "This is a defect of npusim; set NPUSIM_DEBUG=1 for the traceback.",
            4,
        )
    sys.exit(code)


def _fail(error: Exception | None, message: str, code: int) -> int:
    if os.environ.get("NPUSIM_DEBUG") and error is not None:
        raise error
    click.echo(message, err=True)
    return code


def _print_json(data: object) -> None:
    click.echo(json.dumps(data, indent=1, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _chip(name: str, overrides: tuple[str, ...]) -> Chip:
    from npusim.chip import find_chip

    chip = find_chip(name)
    changes: dict[str, object] = {}
    for item in overrides:
        path, equals, value = item.partition("=")
        if not equals or not value.strip():
            raise InputError(Problem(f"{item!r} is not PATH=VALUE", "--set", allowed='e.g. memory.bandwidth="6 TB/s"'))
        if path.strip() in changes:
            raise InputError(Problem(f"'{path.strip()}' is given twice", "--set"))
        changes[path.strip()] = value.strip()
    return (chip.replace(changes) if changes else chip).require()


def _tp(text: str | None) -> int | None:
    if text is None or text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 4) or not 1 <= int(text) <= 4096:
        raise InputError(
            Problem(f"{text[:40]!r} is not a degree", "--tp", allowed="'auto' or an integer from 1 to 4096")
        )
    return int(text)


# -- kperf -------------------------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--chip",
    "chips",
    multiple=True,
    metavar="NAME|FILE",
    help="Chip to predict; give several to compare. Default: rebel-quad.",
)
@click.option("--model", "models", multiple=True, metavar="NAME|FILE", help="Model instead of the suite's; repeatable.")
@click.option("--suite", default="kperf-2025", show_default=True, metavar="NAME|FILE", help="What is measured.")
@click.option(
    "--precision", "precisions", multiple=True, metavar="NAME", help="Precision instead of the suite's; repeatable."
)
@click.option("--tp", metavar="N|auto", default="auto", show_default=True, help="Tensor-parallel chips.")
@click.option(
    "--fidelity", help="Cost model: roofline (the default; with calibrations tile), tile or cycle (minutes a row)."
)
@click.option("--out", metavar="DIR", help="Also write kperf.xlsx, kperf.html, kperf.csv and kperf.json there.")
@click.option("--baseline", is_flag=True, help="With --set: the chip as its file has it beside the changed one.")
@click.option("--under-load", is_flag=True, help="Also run each row's closed loop request by request: percentiles.")
@click.option("--slo", metavar="LIMITS", help="With --under-load: what counts as goodput, as ttft=450ms,tpot=40ms.")
@click.option("--all", "full", is_flag=True, help="Print every row instead of the representative ones.")
@calibration_option
@software_option
@power_cap_option
@set_option
@json_option
def kperf(
    chips: tuple[str, ...],
    models: tuple[str, ...],
    suite: str,
    precisions: tuple[str, ...],
    tp: str,
    fidelity: str | None,
    out: str | None,
    baseline: bool,
    under_load: bool,
    slo: str | None,
    full: bool,
    calibration: str,
    software: str | None,
    power_cap: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """K-Perf table of one or several chips: TTFT, TPOT, throughput, utilisation, power, and what bounds them."""
    from npusim import kperf_suite
    from npusim.models import load_model

    chosen = kperf_suite.load_suite(suite)
    if baseline and not overrides:
        raise InputError(Problem("there is nothing to compare with", "--baseline", hint="give --set PATH=VALUE too"))
    variants = [(), overrides] if baseline else [overrides]
    loaded = [_chip(name, changes) for name in chips or ("rebel-quad",) for changes in variants]
    nets = [load_model(name) for name in models or chosen.models]
    names = precisions or chosen.precisions
    with _progress(len(loaded) * len(nets) * len(names), "pricing") as step:
        result = kperf_suite.kperf(
            loaded, suite=chosen, models=nets, precisions=names, tp=_tp(tp), fidelity=fidelity, progress=step,
            power_cap=power_cap, calibration=calibration, software=software,
        )  # fmt: skip
    if under_load or slo:
        result = _under_load(result, slo, nets)
    if as_json:
        _print_json(result.to_dict())
    else:
        from npusim.report import table

        click.echo(table.render(result, width=_width(), full=full, color=_colour()))
    if out is not None:  # after the table, which a full disk must not cost
        for path in _write(result, out):
            click.echo(f"wrote {path}", err=as_json)
    result.require_any()


def _under_load(result: KPerf, slo: str | None, nets: list[Model]) -> KPerf:
    from npusim.serving.metrics import parse_slo
    from npusim.serving.under_load import under_load

    limits = parse_slo(slo) if slo else None
    with _progress(len(result.costs), "serving") as step:
        return under_load(result, limits, tuple(nets), step)


def _write(result: KPerf, out: str) -> list[Path]:
    import importlib.util

    from npusim.report import files

    formats = ["xlsx", "html", "csv", "json"]
    if importlib.util.find_spec("xlsxwriter") is None:
        formats.remove("xlsx")
        click.echo("kperf.xlsx is not written: it needs XlsxWriter (pip install XlsxWriter)", err=True)
    with _progress(1, "writing reports") as step:
        written = files.write_reports(result, out, tuple(formats))
        step("")
    return written


class _progress:
    """A progress bar on a terminal, nothing elsewhere. Yields a function to call once per item."""

    def __init__(self, items: int, label: str) -> None:
        self.bar = click.progressbar(length=items, label=label, file=sys.stderr) if sys.stderr.isatty() else None

    def __enter__(self) -> Callable[[str], None]:
        if self.bar is None:
            return lambda _: None
        self.bar.__enter__()
        return lambda _: self.bar.update(1) if self.bar is not None else None

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.__exit__(*error)


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((140, 40)).columns


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


# -- estimate ----------------------------------------------------------------------------------------------


@cli.command()
@click.argument("chip")
@click.argument("workload")
@click.option("--tp", metavar="N", help="Tensor-parallel chips of a model step (overrides tp= in WORKLOAD).")
@click.option("--fidelity", help="Cost model: roofline (the default; with calibrations tile), tile or cycle.")
@click.option(
    "--mapping", metavar="NEST", help="Replay this loop nest of one operator, tile by tile (docs/gemmini.md)."
)
@click.option("--mappings", metavar="FILE", help="Use these mappings of matrix operators instead of the search.")
@click.option("--save-mappings", metavar="FILE", help="Write the mappings in use, to change and give back.")
@calibration_option
@software_option
@power_cap_option
@set_option
@json_option
def estimate(
    chip: str,
    workload: str,
    tp: str | None,
    fidelity: str | None,
    mapping: str | None,
    mappings: str | None,
    save_mappings: str | None,
    calibration: str,
    software: str | None,
    power_cap: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Time, bytes, energy and bound of WORKLOAD on CHIP, per operator.

    WORKLOAD is MODEL:prefill[,b=,prompt=,w=,a=,kv=,tp=,ep=], MODEL:decode[,b=,ctx=,w=,a=,kv=,tp=,ep=],
    an operator such as gemm:m=4096,n=4096,k=4096,a=bf16,b=bf16,out=bf16, or a file:
    NET.onnx[:DIM=,...,w=,a=] (symbolic dimensions by name) or a SCALE-Sim TOPOLOGY.csv.
    CHIP may be a SCALE-Sim CONFIG.cfg.
    """
    from npusim.cost import estimate as price
    from npusim.grammar import parse_workload

    work = parse_workload(workload)
    if mapping is not None:
        if power_cap or calibration != "none" or any(x is not None for x in (tp, fidelity, mappings, save_mappings)):
            raise InputError(
                Problem(
                    "a mapping is replayed on one chip",
                    "--mapping",
                    allowed="no --fidelity, --tp, --mappings, --calibration, --power-cap",
                )
            )
        _replay(work, _chip(chip, overrides), mapping, as_json)
        return
    from npusim.mapping import load_mappings

    given = load_mappings(mappings) if mappings else None
    cost = price(
        work, _chip(chip, overrides), fidelity, _tp(tp), given, calibration=calibration, software=software
    )  # fmt: skip
    if save_mappings:
        from npusim.mapping import save_mappings as save

        save(cost.mappings, save_mappings)
    if power_cap:
        from npusim.cost.power import at_power_limit

        cost = at_power_limit(cost)
    if as_json:
        _print_json(_cost_dict(cost))
    else:
        from npusim.report import cost_table

        click.echo(cost_table.render(cost))


def _replay(work: Workload, chip: Chip, mapping: str, as_json: bool) -> None:
    from npusim.cost.replay import replay
    from npusim.report import replayed

    if len(work.ops) != 1:
        raise InputError(Problem(f"a mapping is of one operator, not of {len(work.ops)}", "--mapping"))
    found = replay(work.ops[0], mapping, chip)
    _print_json(replayed.to_dict(found, chip)) if as_json else click.echo(replayed.render(found, chip))


def _cost_dict(cost: Cost) -> dict[str, Any]:
    from npusim.accuracy import trust
    from npusim.kperf_suite import cost_notes
    from npusim.report.cost_table import workload_notes

    power = {} if cost.power is None else {"power": cost.power.to_dict()}
    return {
        "chip": cost.chip.name,
        "workload": cost.workload.name,
        **cost.workload.info,
        "chips": cost.chips,
        "fidelity": cost.fidelity,
        "time_s": float(cost.time_s),
        "lower_bound_s": float(cost.lower_bound_s),
        "bound": str(cost.bound),
        "mfu": float(cost.mfu),
        "mbu": float(cost.mbu),
        "flops": float(cost.flops),
        "dram_bytes": float(cost.dram_bytes),
        "energy_j": None if cost.energy_j is None else float(cost.energy_j),
        **power,
        "ops": cost.table(),
        "notes": [*cost_notes(cost), *workload_notes(cost)],
        "trust": trust.trust(cost).to_dict(float(cost.time_s)),
    }


@cli.command()
@click.argument("chip")
@click.argument("workload")
@click.argument("op", required=False)
@click.option("--tp", metavar="N", help="Tensor-parallel chips of a model step (overrides tp= in WORKLOAD).")
@click.option("--fidelity", default="tile", show_default=True, help="Cost model: roofline, tile or cycle.")
@calibration_option
@software_option
@set_option
@json_option
def explain(
    chip: str, workload: str, op: str | None, tp: str | None, fidelity: str, calibration: str, software: str | None,
    overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Why OP of WORKLOAD takes what it takes on CHIP, and which single figure of the chip would help most.

    Without OP, the operator that takes longest. WORKLOAD as for estimate.
    """
    from npusim.cost import as_workload
    from npusim.explanation import explain as ask
    from npusim.grammar import parse_workload
    from npusim.report import explained

    work = as_workload(parse_workload(workload), _tp(tp))
    found = ask(work, _chip(chip, overrides), op, fidelity, calibration=calibration, software=software)
    _print_json(explained.to_dict(found)) if as_json else click.echo(explained.render(found))


@cli.command()
@click.argument("chip")
@click.argument("workload")
@click.option("--op", metavar="NAME", help="One operator of the workload instead of all.")
@click.option("--tp", metavar="N", help="Tensor-parallel chips of a model step (overrides tp= in WORKLOAD).")
@click.option("--out", required=True, metavar="FILE", help="Trace file, .json or .json.gz.")
@click.option(
    "--cores", type=int, metavar="N", help="Show the first N cores. Default: all, or 8 if those are too many."
)
@click.option("--plot", metavar="FILE.svg", help="Also draw the operator's timeline, or what bounds each operator.")
@set_option
@json_option
def trace(
    chip: str,
    workload: str,
    op: str | None,
    tp: str | None,
    out: str,
    cores: int | None,
    plot: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Timeline of WORKLOAD on CHIP at cycle fidelity, as a trace that ui.perfetto.dev and chrome://tracing open.

    Each operator of the workload runs once, one after the other. WORKLOAD as for estimate.
    """
    from npusim import trace_verb
    from npusim.cost import as_workload
    from npusim.grammar import parse_workload

    work = as_workload(parse_workload(workload), _tp(tp))
    written, notes = trace_verb.trace(work, _chip(chip, overrides), out, op, cores, plot)
    for note in notes:
        click.echo(note, err=True)
    if as_json:
        _print_json(written)
        return
    click.echo(f"wrote {out}: {written['events']} events, {len(written['ops'])} operators, {written['cores']} cores")
    if plot is not None:
        click.echo(f"wrote {plot}")


# -- catalog and lint ----------------------------------------------------------------------------------------


@cli.group(invoke_without_command=True)
@click.option("--paths", metavar="CHIP", help="List the figures of a chip that --set can change.")
@json_option
@click.pass_context
def catalog(context: click.Context, paths: str | None, as_json: bool) -> None:
    """List chips, models and suites, and what each lacks."""
    if context.invoked_subcommand is not None:
        return
    from npusim.report import listing

    if paths is not None:
        from npusim.chip import find_chip

        figures = find_chip(paths).paths()
        _print_json(figures) if as_json else click.echo(listing.render_paths(figures))
        return
    data = listing.catalog()
    _print_json(data) if as_json else click.echo(listing.render_catalog(data, _width()))


@catalog.command("show")
@click.argument("name")
@json_option
def catalog_show(name: str, as_json: bool) -> None:
    """Show a chip or a model of the catalog (or a file): every figure with its source and status."""
    from npusim.report import listing

    data = listing.describe(name)
    _print_json(data) if as_json else click.echo(listing.render_description(data, _width()))


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def lint(files: tuple[str, ...], as_json: bool) -> None:
    """Check chip, model and suite files; report every problem with its line."""
    from npusim.report import listing

    problems: list[Problem] = []
    results: list[dict[str, Any]] = []
    for file in files:
        try:
            kind, missing = listing.check_file(file)
            results.append({"file": file, "kind": kind, "missing": missing})
        except InputError as error:
            problems += error.problems
    if as_json:
        _print_json({"files": results, "problems": [{**vars(p), "text": str(p)} for p in problems]})
    else:
        for item in results:
            lacks = f"; not usable yet: missing {', '.join(item['missing'])}" if item["missing"] else ""
            click.echo(f"{item['file']}: ok ({item['kind']}){lacks}")
    if problems:
        raise InputError(problems)


# -- doctor --------------------------------------------------------------------------------------------------


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Versions, CPU features, BLAS, native extensions and optional extras of this installation."""
    import npukernels
    from npusim.report import health

    native = npukernels.native_problem() or "built"
    data = health.examine(
        {
            "extension": native,
            "cpu_features": list(npukernels.cpu_features()),
            "variants": {op: list(npukernels.variants(op)) for op in npukernels.ops()},
        }
    )
    _print_json(data) if as_json else click.echo(health.render(data))


if __name__ == "__main__":
    main()
