"""The serving engine against measured throughput at full load; writes ``docs/serving-accuracy.md``.

    python -m bench.serving_accuracy [DATA] [OUT.md]

Groups: the vendor's tables for H100, and MLPerf Inference v4.1 (Llama 2 70B, Offline and Server) where the system's
name states chip and count. ``Constants`` (sustained compute and memory) are fitted on every other vendor row; the other
vendor rows and all of MLPerf are scored with them.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from npusim.chip import load_chip
from npusim.errors import NpuError
from npusim.llm import precision
from npusim.models import load_model
from npusim.serving.answer import Case
from npusim.serving.engine import Rules
from npusim.serving.load import Arrivals, Lengths, Synthetic
from npusim.serving.placement import Placement
from npusim.serving.scenarios import scenario
from npusim.serving.steps import UNFITTED, Constants

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "docs" / "serving-accuracy.md"
RULES = Rules(max_tokens=8192, max_sequences=1024)  # not stated by the sources
VENDOR = {"Llama-3.1-8B": "llama-3.1-8b", "Llama-3.3-70B": "llama-3.3-70b", "Llama-3.1-405B": "llama-3.1-405b"}
# Names of systems: chip of the catalog, and a pattern that must be in the name.
SYSTEMS = (("h100", r"H100.SXM.80GB|DGX.H100|HPE_Cray_XD670_H100|H100x8_TRT$"), ("h200", r"H200.SXM.141GB|8xH200"),
           ("mi300x", r"MI300X"), ("gh200", r"GH200"), ("l40s", r"L40S"))  # fmt: skip
UNSTATED = re.compile(r"MaxQ|NVL|PCIe|ESC8000A", re.IGNORECASE)  # other power limits or boards than the catalog's chip
COUNT = re.compile(r"(?:GB|L40S|aarch64|TRT_LLM|CTS|H100)x(\d+)|^(\d+)x|_(\d+)xH|MI300X_192GBx(\d+)")
GRID = tuple(Constants(compute, memory) for compute in (0.5, 0.6, 0.7, 0.8, 0.9) for memory in (0.55, 0.7, 0.85, 1.0))
MOST_CHIPS = 8  # more are copies of the same


@dataclass(frozen=True)
class Row:
    """A measured throughput and what to simulate for it under any constants."""

    group: str
    chip: str
    name: str
    measured: float
    predict: Callable[[Constants], float]


def vendor_rows(facts: Path) -> Iterable[Row]:
    """Tables of TensorRT-LLM on H100, fp8, at maximum load."""
    for row in json.loads(facts.read_text())["measured"]:
        if row["device"] != "NVIDIA H100" or row["model"] not in VENDOR or not row.get("input_len"):
            continue
        model, lengths = VENDOR[row["model"]], (row["input_len"], row["output_len"])
        name = f"{model} {lengths[0]}/{lengths[1]}"
        yield Row(f"vendor, {model}", "h100", name, row["tokens_per_s"], _loop(model, row["chips"], *lengths))


def _loop(model: str, chips: int, prompt: int, output: int) -> Callable[[Constants], float]:
    @lru_cache
    def predict(constants: Constants) -> float:
        case = Case(load_model(model), load_chip("h100"), "fp8", precision("fp8"), Placement(chips), RULES, "tile",
                    constants, 22000)  # fmt: skip
        # No more requests at a time than the cache holds, so that nobody is thrown out.
        at_a_time = min(RULES.max_sequences, case.blocks * RULES.block_tokens // (prompt + output))
        source = Synthetic(Arrivals("closed", concurrency=at_a_time), Lengths("fixed", float(prompt)),
                           Lengths("fixed", float(output)), 3 * at_a_time)  # fmt: skip
        run, digest = case.run(source)
        return digest.output_tokens / run.totals["now"]

    return predict


def mlperf_rows(table: Path) -> Iterable[Row]:
    """Valid closed results of Llama 2 70B whose system states a chip of the catalog and how many."""
    seen: dict[tuple[str, int, str], list[float]] = {}
    for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines()):
        if (row["round"], row["division"], row["model"], row["valid"]) != ("v4.1", "closed", "llama2-70b-99", "True"):
            continue
        chip = next((name for name, known in SYSTEMS if re.search(known, row["system"])), None)
        count = COUNT.search(row["system"])
        if chip is None or count is None or UNSTATED.search(row["system"]):
            continue
        chips = int(next(filter(None, count.groups())))
        if chips > MOST_CHIPS:
            continue
        seen.setdefault((chip, chips, row["scenario"].lower()), []).append(float(row["tokens_per_s"]))
    for (chip, chips, name), values in sorted(seen.items()):
        title = f"{chips} x {chip} ({len(values)} results)"
        yield Row(f"MLPerf v4.1, {name}", chip, title, statistics.median(values), _scenario(chip, chips, name))


def _scenario(chip: str, chips: int, name: str) -> Callable[[Constants], float]:
    @lru_cache
    def predict(constants: Constants) -> float:
        return scenario(chip, "llama-2-70b", name, chips=chips, rules=RULES,
                        constants=constants).value  # fmt: skip

    return predict


def errors(rows: Iterable[Row], constants: Constants) -> list[float]:
    """Percent by which the predictions are off."""
    found = []
    for row in rows:
        try:
            found.append(100 * (row.predict(constants) / row.measured - 1))
        except NpuError as error:
            print(f"{row.group} {row.name}: {error}", file=sys.stderr)
            found.append(float("nan"))
    return found


def mape(values: Iterable[float]) -> float:
    """Mean absolute error of those that could be predicted."""
    return statistics.fmean(abs(value) for value in values if value == value)


def fitted(rows: list[Row]) -> Constants:
    """Sustained fractions of compute and memory, from a grid."""
    return min(GRID, key=lambda constants: mape(errors(rows, constants)))


def document(vendor: list[Row], mlperf: list[Row]) -> str:
    """The scores as Markdown."""
    constants = fitted(vendor[::2])
    used = {row.name for row in vendor[::2]}
    lines = [
        "# The serving engine against measured throughput", "",
        "Written by `python -m bench.serving_accuracy`; do not edit. Error = predicted / measured - 1 of output "
        "tokens per second.", "",
        f"Constants for H100, fitted on every other vendor row: compute {constants.compute:g}, memory "
        f"{constants.memory:g} of what the tile model grants. MLPerf is scored with the same constants and takes no "
        "part in the fit; other chips get them as a transfer.", "",
        f"Assumed, because no source states it: at most {RULES.max_sequences} sequences and {RULES.max_tokens} new "
        "tokens a step; MLPerf lengths as in `catalog/serving/mlperf.yaml`, "
        "all of its samples; fp8 weights, activations and cache.", "",
        "| group | rows scored | chip file alone: mean error | mean abs. | fitted: mean error | mean abs. |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    rows = [row for row in vendor if row.name not in used] + mlperf
    groups = dict.fromkeys(_group(row) for row in rows)
    for group in groups:
        members = [row for row in rows if _group(row) == group]
        alone, fit = errors(members, UNFITTED), errors(members, constants)
        lines.append(f"| {group} | {len(members)} | {statistics.fmean(alone):+.1f} % | {mape(alone):.1f} % | "
                     f"{statistics.fmean(fit):+.1f} % | {mape(fit):.1f} % |")  # fmt: skip
    lines += ["", "## Rows", "", "| group | row | measured | chip file alone | fitted |", "|---|---|---|---|---|"]
    for row in [*vendor, *mlperf]:
        note = " (in the fit)" if row.name in used and row in vendor else ""
        alone, fit = errors([row], UNFITTED)[0], errors([row], constants)[0]
        lines.append(f"| {row.group} | {row.name}{note} | {row.measured:,.0f} | {alone:+.0f} % | {fit:+.0f} % |")
    return "\n".join([*lines, "", *WHY]) + "\n"


WHY = (
    "## Not scored here, and why",
    "",
    "- `splitwise_sim` and `llm_inference_bench` time one static batch, not a load: `npusim validate` scores them with "
    "`step/1` documents (docs/accuracy.md).",
    "- MLPerf systems with NVL, PCIe or power-limited boards, and names that state no count: the catalog's chip is "
    "another one. More than eight chips are copies of eight.",
    "- Why 405B at tp 8 is a third too fast is not known. No constant of the fit touches its all-reduces, and the "
    "batch limit of those runs is not stated; neither was tested.",
)


def _group(row: Row) -> str:
    return row.group if row.group.startswith("vendor") else f"{row.group}, {row.chip}"


def main(arguments: list[str]) -> None:
    """Writes the document."""
    data = Path(arguments[0]) if arguments else DATA
    vendor = list(vendor_rows(data / "facts" / "published.json"))
    mlperf = list(mlperf_rows(data / "measured" / "mlperf_inference" / "llm_loadgen.csv"))
    target = Path(arguments[1]) if len(arguments) > 1 else OUT
    target.write_text(document(vendor, mlperf), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
