"""Tables of ``docs/sizing-study.md`` from the data of the study, so that no number in them is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MIB = 2**20
Data = dict[str, Any]
SHORT = {"h100": "H100", "rebel-quad": "REBEL-Quad", "rngd": "RNGD", "b200": "B200", "npu-2pf": "npu-2pf today"}
MODELS = ("8B", "32B", "70B", "405B")


def _rows(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _n(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def design(parameters: Data) -> list[str]:
    """A design in the words of the tables: peak, array, SRAM, stacks, TDP."""
    edge = parameters["core.matrix.rows"]
    sram = f"{parameters['l1_mib']} + {parameters['levels.l2.capacity'] // MIB}"
    return [f"{parameters['peak_pflops']:g}", f"{edge} x {edge}", sram, str(parameters["memory.stacks"]),
            str(parameters["power.tdp"])]  # fmt: skip


DESIGN = ("PFLOPS", "array", "L1 + L2, MiB", "stacks", "TDP, W")
FLEET = ("USD/Mtoken", "tokens/J", "tokens/s per chip", "die, mm2", "chip, USD")


def fleet(one: Data) -> list[str]:
    """Figures of the fleet."""
    m = one["metrics"]
    return [_n(m["usd_per_mtoken"], 4), _n(m["tokens_per_j"], 2), _n(m["tokens_per_s_per_chip"], 0),
            _n(m["die_mm2"], 0), _n(m["cost_usd"], 0)]  # fmt: skip


def front(data: Data) -> str:
    """The front and the short list."""
    listed = {one["index"]: one for one in (*data["sizing"]["front"], *data["short_list"])}
    marks = {data["recommended"]["index"]: "recommended", data["cheapest"]: "cheapest"}
    if data["recommended"]["index"] == data["cheapest"]:
        marks = {data["cheapest"]: "recommended, cheapest"}
    regret = {one["index"]: one["worst_regret"] for one in data["short_list"]}
    on_front = {one["index"] for one in data["sizing"]["front"]}
    rows = []
    for i, one in sorted(listed.items(), key=lambda pair: pair[1]["metrics"]["usd_per_mtoken"]):
        name = ", ".join(filter(None, ["front" if i in on_front else "", marks.get(i, "")]))
        rows.append([i, *design(one["parameters"]), *fleet(one), f"{regret[i]:.0%}" if i in regret else "-", name])
    return _rows(["design", *DESIGN, *FLEET, "worst regret", ""], rows)


def products(data: Data) -> str:
    """Products, the present design and the recommended one on the same services."""
    listed = {"recommended": data["recommended"] | {"fidelity": "tile"}} | data["products"]
    rows = []
    for name, one in listed.items():
        chips = "/".join(str(int(s["chips"])) if s.get("chips") else "-" for s in one["services"])
        slow = "/".join(_n(s["tpot_loaded_s"] * 1e3, 0) if s.get("tpot_loaded_s") else "-" for s in one["services"])
        rows.append([SHORT.get(name, name), one["fidelity"], *fleet(one), chips, slow,
                     "; ".join(one["violated"]) or "-"])  # fmt: skip
    return _rows(["chip", "model of time", *FLEET, "chips 8B/32B/70B/405B", "loaded TPOT, ms", "misses"], rows)


def least(data: Data) -> str:
    """Inverse answers."""
    rows = []
    for one in data["sizing"]["least"]:
        scale, unit = {"B/s": (1e-9, "GB/s"), "B": (1 / MIB, "MiB"), "FLOP/s": (1e-15, "PFLOP/s fp4")}[one["unit"]]
        now, above = one["now"] * scale, one["above"] * scale
        if one["state"] == "found":
            answer = [f"{above:.4g}", f"{one['below'] * scale:.4g} misses {'; '.join(one['binding'])}"]
        else:
            answer = [
                f"{above:.4g}",
                "the least value tried; does not bind" if one["state"] == "always" else "none helps",
            ]
        rows.append([f"{one['name']}, {unit}", f"{now:.4g}", *answer])
    return _rows(["figure", "in the design", "least that holds", "just below it"], rows)


def scenarios(data: Data) -> str:
    """Cost of the recommended design and of the best and of products in every scenario."""
    best = str(data["recommended"]["index"])
    listed = [str(one["index"]) for one in data["short_list"]]
    rows = []
    for name, row in data["scenarios"].items():
        known = {i: row[i] for i in listed if row[i] is not None}
        winner = min(known, key=lambda i: known[i])
        mine = row[best]
        other = f"{winner} ({1 - known[winner] / mine:.1%} less)" if mine else winner
        ratios = (f"{row[p] / mine:.2f}" if row[p] and mine else "-" for p in ("h100", "rebel-quad", "b200"))
        rows.append([name, _n(mine, 4), "itself" if known[winner] == mine else other, *ratios])
    over = ("H100 /", "REBEL-Quad /", "B200 /")
    return _rows(["scenario", "recommended, USD/Mtoken", "best of the short list", *over], rows)


NAMES = {"core.matrix.rows": "array edge", "peak_pflops": "peak, PFLOPS", "levels.l2.capacity": "L2, MiB",
         "l1_mib": "L1 in all, MiB", "memory.stacks": "HBM stacks", "power.tdp": "TDP, W",
         "link.bandwidth": "links, GB/s",
         "area.dies": "dies", "core.vector.lanes": "vector lanes a core"}  # fmt: skip


def one_at_a_time(data: Data) -> str:
    """The recommended design with one knob turned."""
    base = data["recommended"]["metrics"]
    rows = []
    for one in data["one_at_a_time"]:
        value = one["value"] // MIB if one["path"] == "levels.l2.capacity" else one["value"]
        value = one["value"] / 1e9 if one["path"] == "link.bandwidth" else value
        usd, efficiency = (one["metrics"][name] for name in ("usd_per_mtoken", "tokens_per_j"))
        rows.append([NAMES[one["path"]], f"{value:g}", f"{usd / base['usd_per_mtoken'] - 1:+.1%}" if usd else "-",
                     f"{efficiency / base['tokens_per_j'] - 1:+.1%}" if efficiency else "-",
                     _n(one["metrics"]["die_mm2"], 0), "; ".join(one["violated"]) or "-"])  # fmt: skip
    return _rows(["knob", "at", "USD/Mtoken", "tokens/J", "die, mm2", "misses"], rows)


def arrays(data: Data) -> str:
    """Bigger arrays at the same peak: loaded TPOT in both models of time."""
    rows = []
    for one in data["counter_examples"]["arrays"]:
        cells = [f"{t['tpot_loaded_s'] * 1e3:.1f} ({r['tpot_loaded_s'] * 1e3:.1f})"
                 for t, r in zip(one["tile"], one["roofline"], strict=True)]  # fmt: skip
        rows.append([f"{one['edge']} x {one['edge']}", one["cores"], *cells])
    return _rows(["array", "cores", *(f"{name}: tile (roofline), ms" for name in MODELS)], rows)


def power(data: Data) -> str:
    """Bigger chips under a power limit."""
    rows = []
    for one in data["counter_examples"]["power"]:
        s, large = one["services"][2:]
        limit = "none" if one["tdp_w"] > 2000 else str(one["tdp_w"])
        rows.append([limit, f"{one['peak_pflops']:g}", _n(s["ttft_s"] * 1e3, 0),
                     _n(s["tpot_loaded_s"] * 1e3, 1),
                     _n(large["tpot_loaded_s"] * 1e3, 1), _n(one["metrics"]["usd_per_mtoken"], 4)])  # fmt: skip
    return _rows(["TDP, W", "PFLOPS", "TTFT 70B, ms", "loaded TPOT 70B, ms", "405B, ms", "USD/Mtoken"], rows)


def elasticities(data: Data) -> str:
    """The figures that matter most."""
    names = ("usd_per_mtoken", "tokens_per_j", "tpot_loaded_s", "ttft_s")
    known = [one for one in data["sizing"]["sensitivities"] if one["path"] != "memory.pin_rate"]
    known.sort(key=lambda one: -abs(one["elasticity"].get("usd_per_mtoken", 0.0)))
    rows = [[one["path"], *(f"{one['elasticity'].get(name, 0.0):+.2f}" for name in names)] for one in known[:12]]
    return _rows(["figure", "USD/Mtoken", "tokens/J", "loaded TPOT", "TTFT"], rows)


def kperf(data: Data) -> str:
    """K-Perf rows of the recommended design."""
    rows = [[row["model"], row["tp"], row["concurrency"], _n(row["ttft_s"] * 1e3, 0), _n(row["tpot_s"] * 1e3, 1),
             _n(row["tokens_per_s"], 0), _n(row["tokens_per_j"], 2), f"{row['bound_prefill']} / {row['bound_decode']}"]
            for row in data["kperf"]]  # fmt: skip
    return _rows(["model", "chips", "requests", "TTFT, ms", "TPOT, ms", "tokens/s", "tokens/J", "bound"], rows)


def silicon(data: Data) -> str:
    """Area and cost of the present and the recommended design."""
    both = (data["base"], data["recommended"])
    rows = [[f"{name}, mm2", *(_n(one["blocks_mm2"][name], 0) for one in both)] for name in data["base"]["blocks_mm2"]
            if any(one["blocks_mm2"][name] for one in both)]  # fmt: skip
    rows.append(["one die, mm2", *(_n(one["die_mm2"], 0) for one in both)])
    rows.append(["die yield", *(f"{one['die_yield']:.0%}" for one in both)])
    rows += [
        [f"{name}, USD", *(_n(one["cost_parts_usd"][name], 0) for one in both)]
        for name in data["base"]["cost_parts_usd"]
    ]
    rows.append(["chip, USD", *(_n(one["metrics"]["cost_usd"], 0) for one in both)])
    return _rows(["", "npu-2pf today", "recommended"], rows)


TABLES: dict[str, Callable[[Data], str]] = {
    "front": front, "products": products, "least": least, "scenarios": scenarios, "one-at-a-time": one_at_a_time,
    "arrays": arrays, "power": power, "elasticities": elasticities, "kperf": kperf, "silicon": silicon,
}  # fmt: skip


def summary(data: Data) -> str:
    """What the program prints."""
    one = data["recommended"]
    found = data["sizing"]
    lines = [f"{found['designs']} designs, {found['feasible']} keep to every limit ({data['seconds']} s)",
             f"recommended: {', '.join(f'{n} {v}' for n, v in zip(DESIGN, design(one['parameters']), strict=True))}",
             front(data), products(data)]  # fmt: skip
    return "\n".join(lines)


def renew(path: Path, data: Data) -> None:
    """Puts every table of the document anew between its marks."""
    path.write_text(renewed(path.read_text(encoding="utf-8"), data), encoding="utf-8")


def renewed(text: str, data: Data) -> str:
    """The text with its tables from ``data``."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table:{match[1]} -->\n{TABLES[match[1]](data)}\n<!-- end -->"

    return re.sub(r"<!-- table:([\w-]+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)
