"""The verb ``npusim serve``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from npusim.errors import InputError, Problem

if TYPE_CHECKING:
    from npusim.chip import Chip
    from npusim.serving.answer import Serving
    from npusim.serving.steps import Constants

_ENGINE_OPTIONS = (
    click.option("--max-tokens", type=int, default=2048, show_default=True, help="New tokens of a step at most."),
    click.option(
        "--max-sequences", type=int, help="Sequences of a step at most. Default: 256, or --max-tokens if less."
    ),
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
@click.option("--fidelity", help="Cost model of the steps: roofline or tile. Default: tile if the chip file allows it.")
@click.option("--calibration", default="none", show_default=True, metavar="none|auto|FILE",
              help="Measured kernels and host times that price steps: the catalog's, or a document.")  # fmt: skip
@click.option("--software", metavar="NAME", help="Whose: a serving program (trtllm, vllm) or a stack of kernels.")
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

    _check_options(context)
    hardware, rules = _chip(chip, overrides), _rules(given)
    given["fidelity"] = given["fidelity"] or _finest(hardware, given["calibration"])
    if given["measured"]:
        from npusim.report import serving_measured
        from npusim.serving.measured import fit_requests

        fitted = fit_requests(given["measured"], hardware, model, precision=given["precision"], rules=rules,
                              fidelity=given["fidelity"], tp=given["tp"] or 1)  # fmt: skip
        click.echo(json.dumps(fitted.to_dict(), indent=1) if as_json else serving_measured.render(fitted))
        return
    ask = _scenario if given["scenario"] else _fleet if given["fleet_pflops"] is not None else _serve
    answer = ask(hardware, model, rules, given)
    click.echo(json.dumps(answer.data, indent=1, allow_nan=False) if as_json else answer.text)
    for line in _seen(answer.run, given):
        click.echo(line, err=as_json)
    if answer.data["verdicts"]:
        context.exit(1)


@dataclass(frozen=True)
class _Answer:
    """What is printed, and the run behind it."""

    data: dict[str, Any]
    text: str
    run: Serving


# -- options ---------------------------------------------------------------------------------------------------

_SEEN = {"plot", "perfetto", "step"}
_PLACED = {"chips", "pp", "ep"}
_PRICED = {"calibration", "software"}
_LOAD = {"slo", "imbalance_pct", "disaggregate", "find_rate", "arrivals", "requests"} | _PLACED | _PRICED | _SEEN
_DRAWN = {"input_tokens", "output_tokens", "seed"}
# What each question takes beside what all of them take; the first that is asked counts.
_QUESTIONS = {
    "measured": frozenset({"measured"}),
    "scenario": frozenset({"scenario", "benchmark", "requests", "seed"} | _PLACED | _PRICED | _SEEN),
    "fleet_pflops": frozenset({"fleet_pflops", "fleet_precision", "think_s", "rack_kw", "arrivals", "requests", "slo",
                               "pp", "ep"} | _PRICED | _DRAWN | _SEEN),
    "trace": frozenset({"trace", "skip_long"} | _LOAD),
    "": frozenset({"users", "prefix"} | _LOAD | _DRAWN),
}  # fmt: skip
_ALWAYS = frozenset({"chip", "model", "overrides", "as_json", "precision", "fidelity", "tp", "speculate", "no_chunking",
                     "draft_model", "max_tokens", "max_sequences", "block_tokens", "batching", "policy", "preemption",
                     "routing"})  # fmt: skip


def _check_options(context: click.Context) -> None:
    """Refuses options that would do nothing: those that another question takes, and those that need a second one."""
    flags = {param.name or "": param.opts[-1] for param in context.command.params}
    on_line = {name for name in flags if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    given, question = context.params, next(name for name in _QUESTIONS if not name or name in on_line)
    for name in sorted(on_line - _ALWAYS - _QUESTIONS[question]):
        mode = f"with {flags[question]}" if question else "with drawn requests"
        takers = [flags.get(other, "drawn requests") for other in _QUESTIONS if name in _QUESTIONS[other]]
        hint = "ask one question at a time" if name in _QUESTIONS else f"it belongs to {' and '.join(takers)}"
        raise InputError(Problem(f"has no effect {mode}", flags[name], hint=hint))
    if question == "trace" and "arrivals" in on_line and not given["arrivals"].startswith("closed"):
        what = f"{given['arrivals'][:40]!r}: a trace brings its own times"
        raise InputError(Problem(what, "--arrivals", allowed="closed:N, which keeps N of its requests in flight"))
    if "users" in on_line and given["policy"] != "fair":
        raise InputError(Problem("users differ in nothing but their share", "--users", hint="give --policy fair too"))
    if given["policy"] == "fair" and question != "trace" and given["users"] < 2:
        raise InputError(
            Problem("'fair' needs users", "--policy", hint="give --users N, or a --trace with a column user")
        )
    if given["policy"] == "priority" and question != "trace":
        raise InputError(
            Problem("'priority' needs priorities", "--policy", hint="give a --trace with a column priority")
        )
    if given["step"] is not None and not given["perfetto"]:
        raise InputError(Problem("a step's timeline goes into a trace", "--step", hint="give --perfetto FILE too"))
    if given["plot"] and not given["plot"].endswith((".html", ".svg")):
        raise InputError(Problem(f"{given['plot'][:60]!r}", "--plot", allowed="a file that ends in .html or .svg"))


def _rules(given: dict[str, Any]) -> Any:
    from npusim.serving.engine import Rules

    names = ("max_tokens", "block_tokens", "batching", "policy", "preemption", "routing")
    draft, accepted = (0.0, 1.0) if not given["speculate"] else _pair(given["speculate"], "--speculate", float)
    if given["speculate"] and draft < 1:
        raise InputError(Problem(f"{given['speculate'][:40]!r} drafts nothing", "--speculate", allowed="1:1 to 64:65"))
    most = given["max_sequences"] if given["max_sequences"] is not None else min(256, max(given["max_tokens"], 1))
    named = {name: given[name] for name in names}
    return Rules(**named, max_sequences=most, chunked=not given["no_chunking"], draft_tokens=int(draft),
                 accepted_tokens=accepted, draft_model=given["draft_model"])  # fmt: skip


def _pair(text: str, option: str, kind: type = int) -> tuple[Any, Any]:
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]{1,9})?)", text)
    if found is None or (kind is int and "." in found[2]):
        raise InputError(Problem(f"{text[:40]!r}", option, allowed="two numbers, such as 2:3"))
    return kind(found[1]), kind(found[2])


def _chips(chips: str) -> int | str:
    if chips == "auto":
        return chips
    if not re.fullmatch(r"[0-9]{1,5}", chips) or not 1 <= int(chips) <= 65536:
        raise InputError(Problem(f"{chips[:40]!r}", "--chips", allowed="1 to 65536, or auto"))
    return int(chips)


def _finest(hardware: Chip, calibration: str) -> str:
    """The finest cost model of steps that the chip's file allows; calibrations leave no choice."""
    return "roofline" if calibration == "none" and hardware.missing("tile") else "tile"


def _constants(hardware: Chip, model: str, given: dict[str, Any]) -> Constants:
    """Constants of the catalog, as far as they are asked for."""
    from npusim.llm import precision
    from npusim.models import load_model
    from npusim.serving.constants import learned

    return learned(hardware, load_model(model), precision(given["precision"]), given["calibration"], given["software"],
                   given["tp"] or 1, given["fidelity"])  # fmt: skip


def _prefix(given: dict[str, Any]) -> tuple[int, int] | None:
    if given["prefix"] is None:
        return None
    groups, tokens = _pair(given["prefix"], "--prefix")
    block = given["block_tokens"]
    if groups < 1 or tokens < block:
        raise InputError(Problem(f"{given['prefix']!r} shares nothing", "--prefix",
                                 allowed=f"1 group or more, and at least a block of {block} tokens"))  # fmt: skip
    return groups, tokens


# -- questions -------------------------------------------------------------------------------------------------


def _scenario(hardware: Chip, model: str, rules: Any, given: dict[str, Any]) -> _Answer:
    from npusim.report import serving_scenario
    from npusim.serving.scenarios import scenario

    scored = scenario(
        hardware, model, given["scenario"].lower().replace("-", ""), benchmark=given["benchmark"],
        chips=_chips(given["chips"]), tp=given["tp"], pp=given["pp"], ep=given["ep"], precision=given["precision"],
        fidelity=given["fidelity"], rules=rules, samples=given["requests"], seed=given["seed"],
        keep=_wants_records(given), log=_wants_steps(given), constants=_constants(hardware, model, given),
    )  # fmt: skip
    run, text = _run(scored.serving, hardware)
    data = {**scored.to_dict(), "serving": run}
    return _Answer(data, serving_scenario.render(data, text), scored.serving)


def _fleet(hardware: Chip, model: str, rules: Any, given: dict[str, Any]) -> _Answer:
    from npusim.report import serving_fleet
    from npusim.serving.fleet import Rooms, fleet

    bed = fleet(
        hardware, model, given["fleet_pflops"], fmt=given["fleet_precision"], input=given["input_tokens"],
        output=given["output_tokens"], rules=rules, think_s=given["think_s"], rooms=Rooms(1e3 * given["rack_kw"]),
        keep=_wants_records(given), log=_wants_steps(given), constants=_constants(hardware, model, given),
        **{name: given[name] for name in ("arrivals", "requests", "seed", "slo", "tp", "pp", "ep", "precision",
                                          "fidelity")},
    )  # fmt: skip
    run, text = _run(bed.serving, hardware)
    data = {**bed.to_dict(), "replica": run}
    return _Answer(data, serving_fleet.render(data, text), bed.serving)


def _serve(hardware: Chip, model: str, rules: Any, given: dict[str, Any]) -> _Answer:
    from npusim.serving.answer import serve as ask

    names = ("arrivals", "trace", "requests", "seed", "slo", "tp", "pp", "ep", "precision", "fidelity", "users",
             "find_rate", "skip_long", "imbalance_pct")  # fmt: skip
    split = given["disaggregate"]
    result = ask(
        hardware, model, **{name: given[name] for name in names}, input=given["input_tokens"],
        output=given["output_tokens"], chips=_chips(given["chips"]), rules=rules,
        disaggregate=_pair(split, "--disaggregate") if split else None, prefix=_prefix(given),
        keep=_wants_records(given), log=_wants_steps(given), constants=_constants(hardware, model, given),
    )  # fmt: skip
    run, text = _run(result, hardware)
    series = {name: values.tolist() for name, values in result.over_time().items()}
    return _Answer({**run, "over_time": series}, text, result)


def _wants_records(given: dict[str, Any]) -> bool:
    return bool(given["plot"] or given["perfetto"])


def _wants_steps(given: dict[str, Any]) -> bool:
    return bool(given["perfetto"])


def _run(result: Serving, hardware: Chip) -> tuple[dict[str, Any], str]:
    """One run as a JSON object and as text."""
    from npusim.kperf_suite import chip_notes
    from npusim.report import serving_text
    from npusim.serving.limits import limits_of

    data = {**result.to_dict(), "limits": limits_of(result).to_dict()}
    kernels = result.case.constants.kernels
    calibrated = kernels is not None and kernels.state != "uncalibrated"
    notes = chip_notes(hardware, result.case.fidelity, calibrated=calibrated)
    if result.case.fidelity == "roofline" and (lacks := hardware.missing("tile")):
        notes = [*notes, f"{hardware.name}: its file lacks {', '.join(lacks)} for the tile model."]
    return data, serving_text.render(data, result.over_time(), notes)


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
