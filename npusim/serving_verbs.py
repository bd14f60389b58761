"""The verb ``npusim serve``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from npusim.errors import InputError, Problem

if TYPE_CHECKING:
    from npusim.chip import Chip
    from npusim.serving.answer import Serving
    from npusim.serving.fleet import Fleet
    from npusim.serving.scenarios import ScenarioResult

_ENGINE_OPTIONS = (
    click.option("--max-tokens", type=int, default=2048, show_default=True, help="New tokens of a step at most."),
    click.option("--max-sequences", type=int, default=256, show_default=True, help="Sequences of a step at most."),
    click.option("--block", "block_tokens", type=int, default=16, show_default=True, help="Tokens per cache block."),
    click.option("--batching", default="decode-first", show_default=True, help="decode-first or prefill-first."),
    click.option("--policy", default="fcfs", show_default=True, help="fcfs, priority, shortest or fair."),
    click.option("--preemption", default="recompute", show_default=True, help="recompute or swap."),
    click.option("--routing", default="least-loaded", show_default=True, help="round-robin or least-loaded."),
    click.option("--no-chunking", is_flag=True, help="Do not split prompts over steps."),
    click.option("--speculate", metavar="DRAFT:ACCEPTED", help="Draft tokens, and tokens a decode emits on average."),
    click.option("--draft-model", default="", metavar="MODEL", help="Who drafts them. Default: they cost nothing."),
)


def _engine_options(command: Any) -> Any:
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("chip")
@click.argument("model")
@click.option("--arrivals", default="poisson:1", show_default=True, metavar="PROCESS",
              help="poisson:RATE, gamma:RATE[,cv=CV], uniform:RATE or closed:N.")  # fmt: skip
@click.option("--trace", metavar="FILE.csv", help="Requests of a file: arrival_s, input_tokens, output_tokens [, ...].")
@click.option("--input", "input_tokens", default="1024", show_default=True, metavar="LENGTHS",
              help="Prompts: N, uniform:LOW-HIGH, exponential:MEAN or lognormal:MEAN[,cv=CV].")  # fmt: skip
@click.option(
    "--output", "output_tokens", default="256", show_default=True, metavar="LENGTHS", help="Likewise outputs."
)
@click.option("--requests", type=int, help="How many. Default: 2000, or all of the trace.")
@click.option("--skip-long", is_flag=True, help="Leave out requests of a trace that exceed the model's positions.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--slo", metavar="LIMITS", help="ttft=450ms,tpot=40ms[,e2e=20s][,attainment=0.99].")
@click.option(
    "--chips", default="auto", show_default=True, metavar="N|auto", help="auto: the fewest that serve the load."
)
@click.option("--tp", type=int, help="Tensor-parallel chips. Default: chosen.")
@click.option("--pp", type=int, help="Pipeline stages. Default: chosen with --tp, otherwise 1.")
@click.option("--imbalance", "imbalance_pct", type=float, default=100.0, show_default=True, metavar="PCT",
              help="Load of the busiest expert in percent of the mean.")  # fmt: skip
@click.option("--ep", type=int, help="Chips that share the routed experts, a multiple of tp. Default: chosen.")
@click.option("--disaggregate", metavar="P:D", help="Replicas that prefill, replicas that decode.")
@click.option("--precision", default="bf16", show_default=True, metavar="NAME")
@click.option("--fidelity", default="tile", show_default=True, help="Cost model of the steps: roofline or tile.")
@click.option("--users", type=int, default=1, show_default=True, help="Users the requests are dealt to.")
@click.option("--prefix", metavar="GROUPS:TOKENS", help="Requests of a group share their first TOKENS tokens.")
@click.option("--find-rate", is_flag=True, help="Also look for the highest rate that holds the SLO.")
@click.option("--scenario", metavar="NAME", help="MLPerf: offline, server, interactive or singlestream.")
@click.option("--benchmark", metavar="NAME", help="Whose samples and limits the scenario uses. Default: the model's.")
@click.option("--fleet-pflops", type=float, metavar="N", help="What a test bed of so many PFLOPS serves instead.")
@click.option("--fleet-precision", default="fp8", show_default=True, metavar="FORMAT", help="Whose peak is counted.")
@click.option("--think", "think_s", type=float, default=30.0, show_default=True, metavar="SECONDS",
              help="Fleet: between an answer and the user's next request.")  # fmt: skip
@click.option("--rack-kw", type=float, default=40.0, show_default=True, help="Fleet: power of a rack.")
@click.option("--plot", metavar="FILE", help="Draw the run: .html (with latency against load) or .svg.")
@click.option("--perfetto", metavar="FILE", help="Write the run as a trace for Perfetto (.gz compresses).")
@click.option("--step", type=int, help="With --perfetto: also the chip's timeline of this step of the run.")
@click.option("--measured", metavar="FILE.csv", help="Fit to measured requests and score on those left out instead.")
@_engine_options
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change one figure of the chip.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (SI units in the keys).")
@click.pass_context
def serve(
    context: click.Context, /, chip: str, model: str, overrides: tuple[str, ...], as_json: bool, **given: Any
) -> None:
    """Serve requests of MODEL on CHIP: what users feel, what the chips do, and whether it holds.

    Exit code 1 when the load is not served well: an overload, or an SLO that is missed or cannot be met.
    """
    from npusim.cli import _chip

    hardware, rules = _chip(chip, overrides), _rules(given)
    if given["imbalance_pct"] != 100 and (given["measured"] or given["scenario"] or given["fleet_pflops"] is not None):
        raise InputError(Problem("an imbalance is asked of a load, not of these", "--imbalance"))
    if given["measured"]:
        from npusim.report import serving_measured
        from npusim.serving.measured import fit_requests

        fitted = fit_requests(given["measured"], hardware, model, precision=given["precision"], rules=rules,
                              fidelity=given["fidelity"], tp=given["tp"] or 1)  # fmt: skip
        click.echo(json.dumps(fitted.to_dict(), indent=1) if as_json else serving_measured.render(fitted))
        return
    if given["scenario"]:
        scored = _scenario(hardware, model, rules, given)
        click.echo(json.dumps(scored.to_dict(), indent=1, allow_nan=False) if as_json else _scored(scored, hardware))
        context.exit(1 if scored.verdicts else 0)
    if given["fleet_pflops"] is not None:
        bed = _fleet(hardware, model, rules, given)
        click.echo(json.dumps(bed.to_dict(), indent=1, allow_nan=False) if as_json else _fleet_text(bed, hardware))
        context.exit(1 if bed.verdicts else 0)
    result = _serve(hardware, model, rules, given)
    click.echo(_json(result) if as_json else _text(result, hardware))
    for line in _seen(result, given):
        click.echo(line, err=as_json)
    if result.verdicts:
        context.exit(1)


def _rules(given: dict[str, Any]) -> Any:
    from npusim.serving.engine import Rules

    names = ("max_tokens", "max_sequences", "block_tokens", "batching", "policy", "preemption", "routing")
    draft, accepted = (0.0, 1.0) if not given["speculate"] else _pair(given["speculate"], "--speculate", float)
    return Rules(**{name: given[name] for name in names}, chunked=not given["no_chunking"], draft_tokens=int(draft),
                 accepted_tokens=accepted, draft_model=given["draft_model"])  # fmt: skip


def _pair(text: str, option: str, kind: type = int) -> tuple[Any, Any]:
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]{1,9})?)", text)
    if found is None or (kind is int and "." in found[2]):
        raise InputError(Problem(f"{text[:40]!r}", option, allowed="two numbers, such as 2:3"))
    return kind(found[1]), kind(found[2])


def _chips(chips: str) -> int | str:
    if chips == "auto":
        return chips
    if not re.fullmatch(r"[0-9]{1,6}", chips):
        raise InputError(Problem(f"{chips[:40]!r}", "--chips", allowed="a number, or auto"))
    return int(chips)


def _scenario(hardware: Chip, model: str, rules: Any, given: dict[str, Any]) -> ScenarioResult:
    from npusim.serving.scenarios import scenario

    for option in ("trace", "slo", "prefix", "disaggregate", "plot", "perfetto"):
        if given[option]:
            raise InputError(Problem("a scenario brings its own requests and limits", f"--{option}"))
    return scenario(
        hardware, model, given["scenario"].lower().replace("-", ""), benchmark=given["benchmark"],
        chips=_chips(given["chips"]), tp=given["tp"], pp=given["pp"], ep=given["ep"], precision=given["precision"],
        fidelity=given["fidelity"], rules=rules, samples=given["requests"], seed=given["seed"],
    )  # fmt: skip


def _fleet(hardware: Chip, model: str, rules: Any, given: dict[str, Any]) -> Fleet:
    from npusim.serving.fleet import Rooms, fleet

    for option in ("trace", "prefix", "disaggregate", "plot", "perfetto"):
        if given[option]:
            raise InputError(Problem("a fleet is asked with drawn requests", f"--{option}"))
    return fleet(
        hardware, model, given["fleet_pflops"], fmt=given["fleet_precision"], input=given["input_tokens"],
        output=given["output_tokens"], rules=rules, think_s=given["think_s"], rooms=Rooms(1e3 * given["rack_kw"]),
        **{name: given[name] for name in ("arrivals", "requests", "seed", "slo", "tp", "pp", "ep", "precision",
                                          "fidelity")},
    )  # fmt: skip


def _fleet_text(bed: Fleet, hardware: Chip) -> str:
    from npusim.report import serving_fleet

    return serving_fleet.render(bed.to_dict(), _text(bed.serving, hardware))


def _scored(scored: ScenarioResult, hardware: Chip) -> str:
    from npusim.report import serving_scenario

    return serving_scenario.render(scored.to_dict(), _text(scored.serving, hardware))


def _serve(hardware: Chip, model: str, rules: Any, given: dict[str, Any]) -> Serving:
    from npusim.serving.answer import serve as ask

    chips = _chips(given["chips"])
    names = (
        "arrivals",
        "trace",
        "requests",
        "seed",
        "slo",
        "tp",
        "pp",
        "ep",
        "precision",
        "fidelity",
        "users",
        "find_rate",
        "skip_long",
        "imbalance_pct",
    )
    split, prefix = given["disaggregate"], given["prefix"]
    return ask(
        hardware, model, **{name: given[name] for name in names}, input=given["input_tokens"],
        output=given["output_tokens"], chips=chips, rules=rules,
        disaggregate=_pair(split, "--disaggregate") if split else None,
        prefix=_pair(prefix, "--prefix") if prefix else None,
        keep=_wants_pictures(given), log=_wants_pictures(given),
    )  # fmt: skip


def _wants_pictures(given: dict[str, Any]) -> bool:
    if given["step"] is not None and not given["perfetto"]:
        raise InputError(Problem("a step's timeline goes into a trace", "--step", hint="give --perfetto FILE too"))
    if given["plot"] and not given["plot"].endswith((".html", ".svg")):
        raise InputError(Problem(f"{given['plot'][:60]!r}", "--plot", allowed="a file that ends in .html or .svg"))
    return bool(given["plot"] or given["perfetto"])


def _seen(result: Serving, given: dict[str, Any]) -> list[str]:
    """Writes the pictures that are asked for; what was written."""
    written = []
    if given["plot"]:
        from npusim.report import serving_plots
        from npusim.report.files import save_text

        draw = serving_plots.drawing if given["plot"].endswith(".svg") else serving_plots.document
        save_text(given["plot"], draw(result), "--plot")
        written.append(f"wrote {given['plot']}")
    if given["perfetto"]:
        from npusim.report import serving_trace

        count = serving_trace.write(result, given["perfetto"], given["step"])
        written.append(f"wrote {given['perfetto']}: {count} events")
    return written


def _json(result: Serving) -> str:
    series = {name: values.tolist() for name, values in result.over_time().items()}
    return json.dumps({**result.to_dict(), "over_time": series}, indent=1, allow_nan=False)


def _text(result: Serving, hardware: Chip) -> str:
    from npusim.kperf_suite import chip_notes
    from npusim.report import serving_text

    return serving_text.render(result.to_dict(), result.over_time(), chip_notes(hardware, result.case.fidelity))
