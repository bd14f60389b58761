"""Sizes npu-2pf for the K-Perf models; ``docs/sizing-study.md`` tells the story of its result.

    python examples/size_npu_2pf.py --quick          # a coarse grid, about a minute
    python examples/size_npu_2pf.py --out DIR        # the study: study.json, plots and a page, within ten minutes
    python examples/size_npu_2pf.py --document       # and the tables of docs/sizing-study.md from it

What the study assumes stands in capital letters below; change it and run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import npusim as ns
from npusim.chip import Chip
from npusim.cost.area import area_mm2
from npusim.cost.money import chip_cost_usd
from npusim.cost.technology import Technology, load_technology
from npusim.kperf_suite import kperf
from npusim.report import sizing_files, sizing_plots, sizing_view, view
from npusim.report.files import write_files
from npusim.sizing import answers
from npusim.sizing.quantities import constraint
from npusim.sizing.sizes import Neighbour, Sizing, size, varied
from npusim.sizing.targets import Judge, Judgement, parse_target, pinned

BASE = "npu-2pf"
# The K-Perf models in fp8. Limits are those of MLPerf's interactive scenarios (TTFT and TPOT at the 99th percentile
# there, of a loaded closed loop here); it has none for the 32B model, which gets those of the 70B one. Shares are of
# the fleet's output tokens: small models serve most of them.
SERVICES = (
    "llama-3.1-8b fp8 2048/2048 ttft<=0.5s tpot_loaded_s<=30ms concurrency>=256 share=0.4",
    "exaone-3.5-32b fp8 2048/2048 ttft<=0.45s tpot_loaded_s<=40ms concurrency>=128 share=0.25",
    "llama-3.3-70b fp8 2048/2048 ttft<=0.45s tpot_loaded_s<=40ms concurrency>=96 share=0.25",
    "llama-3.1-405b fp8 2048/2048 ttft<=4.5s tpot_loaded_s<=80ms concurrency>=96 share=0.1",
)
# A die must leave room in the 858 mm2 exposure field.
LIMITS = ("die_mm2 <= 800 mm2",)
OBJECTIVES = ("usd_per_mtoken", "tokens_per_j")
MIB = 2**20
SPACE: dict[str, list[Any]] = {
    "core.matrix.rows": [64, 128],
    "peak_pflops": [1, 1.5, 2, 2.5, 3, 3.5],
    "levels.l2.capacity": [64 * MIB, 256 * MIB],
    "l1_mib": [128, 256],
    "memory.stacks": [4, 6, 8],
    "power.tdp": [350, 500, 650, 800],
}
QUICK: dict[str, list[Any]] = SPACE | {
    "peak_pflops": [2, 3],
    "l1_mib": [256],
    "memory.stacks": [4, 6],
    "power.tdp": [500, 650],
}
# Asked of the recommended design alone.
MORE: dict[str, list[Any]] = SPACE | {
    "core.matrix.rows": [32, 64, 128, 256],
    "l1_mib": [64, 128, 256],
    "levels.l2.capacity": [8 * MIB, 64 * MIB, 256 * MIB],
    "memory.stacks": [4, 5, 6, 7, 8],
    "power.tdp": [350, 500, 650, 800, 1000],
}
# What follows what is varied. Two square arrays a core; cores as many as the peak asks for, at npu-2pf's clock. What a
# core has per array element stays: lanes of the vector unit, ports of its memory, its DMA engine.
DERIVED = {
    "core.matrix.cols": "core.matrix.rows",
    "rate": "2 * core.matrix.rows * core.matrix.cols * core.matrix.arrays",
    "cores": "round(peak_pflops * 1e15 / (2 * rate * clock))",
    "core.matrix.flops_per_cycle.bf16": "rate",
    "core.matrix.flops_per_cycle.fp16": "rate",
    "core.matrix.flops_per_cycle.fp8": "2 * rate",
    "core.matrix.flops_per_cycle.int8": "2 * rate",
    "core.matrix.flops_per_cycle.fp4": "4 * rate",
    "core.matrix.flops_per_cycle.fp32": "rate / 8",
    "core.vector.lanes": "round(peak_pflops * 32768 / cores)",
    "levels.l1.capacity": "l1_mib * 1048576 / cores",
    "levels.l1.bytes_per_cycle": "rate / 16",
    "dma.engines": "cores",
    "dma.bytes_per_cycle": "8192 / cores",
    "memory.capacity": "memory.stacks * 36e9",
    "memory.bandwidth": "memory.stacks * 1.1776e12",
    "die_to_die.bandwidth": "memory.bandwidth / 2",
}
PRODUCTS = ("h100", "rebel-quad", "rngd", "b200", BASE)
PICTURES = ("pareto.svg", "tornado-usd_per_mtoken.svg")  # of the document
NEAR = 1.10  # designs this close to the cheapest are on the short list
SHORT = 12


Scenario = Callable[[Chip], Judge]


def scenarios() -> dict[str, Scenario]:
    """What could be otherwise: how a chip is judged in every case."""
    base = load_technology()

    def other(changes: Mapping[str, float]) -> Scenario:
        found = judge(technology=base.replace(changes))
        return lambda chip: found

    def nodes(**factors: float) -> dict[str, float]:
        return {f"nodes.{name}.{key}": getattr(node, key) * factor
                for name, node in base.nodes.items() for key, factor in factors.items()}  # fmt: skip

    def always(**how: Any) -> Scenario:
        found = judge(**how)
        return lambda chip: found

    def per_watt(usd: float) -> Scenario:
        system = base.ownership.system_usd_per_chip
        return lambda chip: other({"ownership.system_usd_per_chip": system + usd * (chip.power.tdp_w or 0.0)})(chip)

    overhead, hbm = base.energy.overhead, "price.memory_usd_per_gb.hbm"
    return {
        "as assumed": always(),
        "HBM at 10 USD/GB": other({hbm: 10.0}),
        "HBM at 25 USD/GB": other({hbm: 25.0}),
        "wafers 50 % dearer": other(nodes(wafer_usd=1.5)),
        "twice the defects, none repaired": other(nodes(defects_per_cm2=2.0) | {"price.repairable": 0.0}),
        "uncore 43 % of the die": other({"area.uncore_share": 0.43}),
        "uncore 63 % of the die": other({"area.uncore_share": 0.63}),
        "chips at cost, no margin": other({"ownership.price_over_cost": 1.0}),
        "chips at five times their cost": other({"ownership.price_over_cost": 5.0}),
        "system 6000 USD a chip": other({"ownership.system_usd_per_chip": 6000.0}),
        "power and cooling at 4 USD/W": per_watt(4.0),
        "electricity 0.25 USD/kWh": other({"ownership.usd_per_kwh": 0.25}),
        "a third less energy per operation": other({"energy.overhead": overhead / 1.5}),
        "half as much energy again": other({"energy.overhead": overhead * 1.5}),
        "energy from the TDP, no power limit": always(power="tdp"),
        "roofline instead of tile": always(fidelity="roofline"),
        "80 % of tokens from the 8B model": always(shares=(0.8, 0.1, 0.07, 0.03)),
        "40 % of tokens from the 405B model": always(shares=(0.2, 0.2, 0.2, 0.4)),
    }


def packaged(chip: Chip, asked: Judge) -> Chip:
    """The chip on as many dies as it needs under the constants of ``asked``: two, or four."""
    for dies in (2, 4):
        chip = chip.replace({"area.dies": dies})
        if area_mm2(chip, asked.technology).die_mm2 <= asked.limits[0].limit:
            break
    return chip


def judge(
    fidelity: str = "tile", power: str = "capped", technology: Technology | None = None, shares: Sequence[float] = ()
) -> Judge:
    """The services and limits of the study; ``shares`` of the services instead of theirs."""
    targets = tuple(parse_target(text) for text in SERVICES)
    if shares:
        targets = tuple(replace(target, share=share) for target, share in zip(targets, shares, strict=True))
    return Judge(targets, tuple(constraint(text) for text in LIMITS), fidelity, power, technology)


def design(base: Chip, parameters: Mapping[str, Any], found: Sizing) -> Chip:
    """The chip of some parameters of the space."""
    return varied(base, parameters, found.derived)


def told(verdict: Judgement) -> dict[str, Any]:
    """A verdict as plain data: figures of the chip, of the fleet, and of each service."""
    keys = ("ttft_s", "tpot_loaded_s", "chips", "power_w", "usd_per_mtoken", "tokens_per_s_per_chip", "tokens_per_j")
    figures = ("usd_per_mtoken", "tokens_per_j", "tokens_per_s_per_chip", "cost_usd", "area_mm2", "die_mm2")
    return {
        "metrics": {name: verdict.metrics.get(name) for name in figures},
        "services": [{name: one.get(name) for name in keys} for one in verdict.by_target],
        "violated": list(verdict.violated),
        "bound": verdict.bound,
    }


def short_list(found: Sizing) -> list[int]:
    """Designs worth asking "what if" of: the front, and for every peak and number of stacks the cheapest near it."""
    usd = {
        i: item.verdict.metrics["usd_per_mtoken"] for i, item in enumerate(found.candidates) if item.verdict.feasible
    }
    ranked = sorted((value, i) for i, value in usd.items() if value is not None)
    if not ranked:
        found.require_any()
    cheapest: dict[tuple[Any, ...], int] = {}
    for value, i in ranked:
        p = found.candidates[i].parameters
        if value <= NEAR * ranked[0][0]:
            cheapest.setdefault((p["peak_pflops"], p["memory.stacks"], p["power.tdp"]), i)
    return list(dict.fromkeys([*cheapest.values(), *found.front]))[:SHORT]


def what_if(base: Chip, found: Sizing, listed: Sequence[int], cases: Mapping[str, Scenario]) -> dict[str, Any]:
    """USD per million tokens of designs and products in every scenario; None where a limit is missed."""
    table: dict[str, Any] = {}
    for name, scenario in cases.items():
        row: dict[str, Any] = {}
        for i in listed:
            chip = design(base, found.candidates[i].parameters, found)
            asked = scenario(chip)
            verdict = asked.judge(packaged(chip, asked))
            row[str(i)] = verdict.metrics.get("usd_per_mtoken") if verdict.feasible else None
        for product in PRODUCTS:
            row[product] = existing(product, scenario)["metrics"]["usd_per_mtoken"]
        table[name] = row
    return table


def existing(name: str, scenario: Scenario) -> dict[str, Any]:
    """A product on the same services."""
    fidelity, verdict = _existing(name, scenario)
    data = {"fidelity": fidelity} | told(verdict)
    area = ns.load_chip(name).area
    if area is not None and area.die_mm2 is not None:
        data["metrics"] |= {"die_mm2": area.die_mm2}  # what its makers state
    return data


def _existing(name: str, scenario: Scenario) -> tuple[str, Judgement]:
    """At the best fidelity its description allows; die limits are for designs."""
    chip = ns.load_chip(name)
    asked = scenario(chip)
    fidelity = "roofline" if chip.missing("tile") else asked.fidelity
    return fidelity, replace(asked, limits=(), fidelity=fidelity).judge(chip)


def regrets(table: Mapping[str, Mapping[str, Any]], listed: Iterable[int]) -> dict[int, float]:
    """Over all scenarios, a design's largest cost over that of the best, less one; a missed limit counts 1."""
    worst = dict.fromkeys(listed, 0.0)
    for row in table.values():
        best = min((row[str(i)] for i in worst if row[str(i)] is not None), default=None)
        for i in worst:
            value = row[str(i)]
            worst[i] = max(worst[i], 1.0 if value is None or best is None else value / best - 1)
    return worst


def one_at_a_time(base: Chip, found: Sizing, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chosen design with each knob at other values, the links and the number of dies included."""
    rows = []
    asked = judge()
    for path, values in MORE.items():
        for value in values:
            if value != chosen[path]:
                chip = design(base, {**chosen, path: value}, found)
                rows.append({"path": path, "value": value} | told(asked.judge(chip)))
    chip = design(base, chosen, found)
    for path, values in {"link.bandwidth": [450e9, 1800e9], "area.dies": [1, 4], "core.vector.lanes": [512]}.items():
        for value in values:
            rows.append({"path": path, "value": value} | told(asked.judge(chip.replace({path: value}))))
    return rows


def counter_examples(base: Chip, found: Sizing, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Where more is slower: bigger arrays at the same peak, a bigger chip under a power limit; chips as chosen."""
    verdict = judge().judge(design(base, chosen, found))
    arrays = []
    for edge in (32, 64, 128, 256):
        chip = design(base, {**chosen, "core.matrix.rows": edge, "power.tdp": 5000}, found)
        row: dict[str, Any] = {"edge": edge, "cores": chip.cores}
        for fidelity in ("tile", "roofline"):
            row[fidelity] = told(pinned(judge(fidelity), verdict).judge(chip))["services"]
        arrays.append(row)
    limited = []
    for watts in (220, 300, 5000):
        for peak in (2, 3, 3.5):
            chip = design(base, {**chosen, "peak_pflops": peak, "power.tdp": watts}, found)
            limited.append({"tdp_w": watts, "peak_pflops": peak} | told(pinned(judge(), verdict).judge(chip)))
    return {"arrays": arrays, "power": limited}


def chip_facts(chip: Chip) -> dict[str, Any]:
    """Area by block and cost by part of a chip."""
    area, price = area_mm2(chip), chip_cost_usd(chip)
    return {
        "blocks_mm2": area.blocks, "die_mm2": area.die_mm2, "dies": area.dies, "manufacturable": area.manufacturable,
        "cost_parts_usd": price.parts, "die_yield": price.die_yield, "dies_per_wafer": price.dies_per_wafer,
        "bandwidth_bytes_per_s": chip.memory.bandwidth_bytes_per_s if chip.memory else None,
        "peak_fp8_flops_per_s": chip.peaks_flops_per_s["fp8"], "sram_bytes": chip.sram_bytes,
    }  # fmt: skip


def headline(chip: Chip) -> list[dict[str, Any]]:
    """The K-Perf rows of a chip that stand for the rest: fp8, 2048/2048, three levels."""
    result = kperf(chip, precisions=["fp8"], fidelity="tile", power_cap=True)
    keys = ("model", "tp", "concurrency", "ttft_s", "tpot_s", "tokens_per_s", "tokens_per_j", "bound_prefill",
            "bound_decode", "mlperf_limits_met")  # fmt: skip
    rows: list[dict[str, Any]] = []
    for model in view.unique(result.rows, "model"):
        for row in view.headline([r for r in result.rows if r["model"] == model]):
            rows.append({key: row[key] for key in keys})
    return rows


def study(quick: bool, note: Any = lambda text: None) -> tuple[dict[str, Any], Sizing]:
    """The whole study as plain data, and its sizing with the recommended design as ``best``."""
    started = time.monotonic()
    base = ns.load_chip(BASE)
    found = size(base, SERVICES, vary=QUICK if quick else SPACE, derived=DERIVED,
                 limits=[constraint(text) for text in LIMITS], objectives=OBJECTIVES,
                 inverse=False, sensitivity=False, neighbours=False,
                 progress=lambda done, total: note(f"{done} of {total}") if done % 50 == 0 else None)  # fmt: skip
    listed = short_list(found)[: 3 if quick else SHORT]
    cases = scenarios()
    now = cases["as assumed"]
    asked_of = {"as assumed": now} if quick else cases
    note(f"{len(listed)} designs in {len(asked_of)} scenarios")
    table = what_if(base, found, listed, asked_of)
    worst = regrets(table, listed)
    best = min(worst, key=lambda i: worst[i])
    chosen = found.candidates[best].parameters
    chip = design(base, chosen, found)
    asked = pinned(judge(), found.candidates[best].verdict)
    note("inverse answers, elasticities")
    least = tuple(answers.least(asked, knob) for knob in answers.knobs(chip)) if not quick else ()
    moved = tuple(answers.sensitivities(asked, chip)) if not quick else ()
    shown = tuple(Neighbour(name, ns.load_chip(name).title, *_existing(name, now)) for name in PRODUCTS)
    found = replace(found, best=best, least=least, sensitivities=moved, neighbours=shown)
    data: dict[str, Any] = {
        "base": {"name": BASE} | chip_facts(base) | told(judge().judge(base)),
        "sizing": _compact(found),
        "cheapest": min((i for i in listed), key=lambda i: table["as assumed"][str(i)] or 1e9),
        "short_list": [{"index": i, "parameters": found.candidates[i].parameters, "worst_regret": worst[i]}
                       | told(found.candidates[i].verdict) for i in listed],
        "recommended": {"index": best, "parameters": chosen} | chip_facts(chip) | told(found.candidates[best].verdict),
        "scenarios": table,
        "products": {name: existing(name, now) for name in PRODUCTS},
    }  # fmt: skip
    if not quick:
        data |= {"one_at_a_time": one_at_a_time(base, found, chosen),
                 "counter_examples": counter_examples(base, found, chosen), "kperf": headline(chip)}  # fmt: skip
    data["seconds"] = round(time.monotonic() - started)
    return data, found


def _compact(found: Sizing) -> dict[str, Any]:
    """The sizing without the metrics of every design, which the page and its workbook hold."""
    data = found.to_dict()
    reasons: dict[str, int] = {}
    for one in data.pop("designs"):
        for text in one["violated"]:
            reasons[text] = reasons.get(text, 0) + 1
    front = [{"index": i, "parameters": found.candidates[i].parameters} | told(found.candidates[i].verdict)
             for i in found.front]  # fmt: skip
    kept = ("path", "value", "low", "high", "elasticity")
    data["sensitivities"] = [{key: one[key] for key in kept} for one in data["sensitivities"][:24]]
    return data | {
        "front": front, "designs": len(found.candidates),
        "feasible": sum(item.verdict.feasible for item in found.candidates), "reasons": reasons,
    }  # fmt: skip


def main() -> None:
    """Runs the study and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a coarse grid and no what-ifs, about a minute")
    parser.add_argument("--out", metavar="DIR", help="write study.json, plots and the page there")
    parser.add_argument("--document", action="store_true", help="renew the document's data, figures and tables")
    options = parser.parse_args()
    data, found = study(options.quick, lambda text: print(text, file=sys.stderr))
    import sizing_tables

    print(sizing_tables.summary(data))
    stored = json.dumps(data, indent=1, allow_nan=False) + "\n"
    board = sizing_view.of_sizing(found)
    if options.out:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.json").write_text(stored, encoding="utf-8")
        sizing_files.write_plots(board, folder)
        for name in ("sizing.html", "sizing.xlsx"):
            sizing_files.write_report(board, folder / name)
    if options.document:
        docs = Path(__file__).resolve().parent.parent / "docs"
        pictures = {f"{name}.svg": drawing.document().encode() for name, drawing in sizing_plots.all_of(board).items()}
        shown = {name: picture for name, picture in pictures.items() if name in PICTURES}
        write_files(docs / "sizing-study", {"study.json": stored.encode(), **shown})
        sizing_tables.renew(docs / "sizing-study.md", data)


if __name__ == "__main__":
    main()
