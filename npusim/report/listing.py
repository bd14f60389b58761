"""What the catalog holds, what one entry says, and whether a file is sound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from npusim import chip as chips
from npusim import kperf_suite, models, yamlio
from npusim.errors import InputError, Problem, did_you_mean
from npusim.report import silicon
from npusim.report.format import figure
from npusim.report.text import columns, wrap
from npusim.report.view import figures
from npusim.units import show


def render_paths(figures: dict[str, object]) -> str:
    """Writable figures of a chip, one per line."""
    rows = [[path, figure(path, value), f"{value}"] for path, value in figures.items()]
    return "\n".join(columns(["path (for --set)", "value", "in SI units"], rows))


def catalog() -> dict[str, Any]:
    """Everything the catalog holds, with what is missing per fidelity."""
    found = [chips.find_chip(name) for name in chips.chip_names()]
    return {
        "chips": [
            {
                "name": c.name,
                "title": c.title,
                "category": c.category,
                "available": not c.missing(),
                "missing": c.missing(),
                "missing_for_tile": c.missing("tile"),
                "peaks_flops_per_s": c.peaks_flops_per_s,
                "memory_bytes": c.memory.capacity_bytes if c.memory else None,
                "bandwidth_bytes_per_s": c.memory.bandwidth_bytes_per_s if c.memory else None,
            }
            for c in found
        ],
        "models": [
            {"name": e.name, "title": e.title, "available": e.status == "seen", "missing": list(e.missing)}
            for e in models.model_entries()
        ],
        "suites": kperf_suite.suite_names(),
    }


def render_catalog(data: dict[str, Any], width: int) -> str:
    """The catalog as text."""
    ready = [c for c in data["chips"] if c["available"]]
    tile = sum(not c["missing_for_tile"] for c in ready)
    lines = [f"Chips: {len(ready)} ready for roofline, {tile} of them described for the tile model", ""]
    rows = [
        [
            c["name"],
            c["title"],
            c["category"],
            _best_peak(c["peaks_flops_per_s"]),
            show(c["memory_bytes"], "B") if c["memory_bytes"] else "-",
            show(c["bandwidth_bytes_per_s"], "B/s"),
            "tile" if not c["missing_for_tile"] else "roofline",
        ]
        for c in ready
    ]
    lines += columns(["name", "chip", "kind", "peak", "memory", "bandwidth", "described for"], rows, right=(4, 5))
    lines += _unavailable(data["chips"], width)
    usable = [m for m in data["models"] if m["available"]]
    lines += ["", f"Models: {len(usable)} available", "", wrap(", ".join(m["name"] for m in usable), width)]
    lines += _unavailable(data["models"], width)
    return "\n".join([*lines, "", f"Suites: {', '.join(data['suites'])}"])


def _best_peak(peaks: dict[str, float]) -> str:
    order = [name for name in ("fp8", "bf16", "fp16", "int8", "fp32") if name in peaks]
    return " · ".join(
        f"{name} {show(peaks[name], 'OP/s' if name.startswith('int') else 'FLOP/s')}" for name in order[:2]
    )


def _unavailable(entries: list[dict[str, Any]], width: int) -> list[str]:
    lacking = [e for e in entries if not e["available"]]
    if not lacking:
        return []
    lines = ["", "Unavailable (figures are never guessed):"]
    return lines + [wrap(f"  {e['name']}: missing {', '.join(e['missing'])}", width, "      ") for e in lacking]


def describe(name: str) -> dict[str, Any]:
    """A chip or model by name or path: its figures with source and status."""
    try:
        return _describe_chip(chips.find_chip(name))
    except InputError as error:
        if _is_chip_file(name):
            raise
        chip_error = error
    try:
        return _describe_model(models.load_model(name))
    except InputError as error:
        if os.path.exists(name) or not error.problems[0].message.startswith("unknown model"):
            raise
        known = [*chips.chip_names(), *models.model_names()]
        hint = did_you_mean(name, known) or chip_error.problems[0].hint
        raise InputError(
            Problem(f"no chip or model is called {name!r}"[:160], allowed="see 'npusim catalog'", hint=hint)
        ) from None


def _is_chip_file(name: str) -> bool:
    if not name.endswith((".yaml", ".yml")):
        return name.lower() in chips.chip_names()
    return os.path.exists(name) and _kind(yamlio.load_yaml(name)) == "chip"


def _describe_chip(chip: chips.Chip) -> dict[str, Any]:
    rows = [{**vars(item), "shown": figure(item.path, item.value)} for item in figures(chip)]
    return {
        "kind": "chip",
        "name": chip.name,
        "title": chip.title,
        "vendor": chip.vendor,
        "missing": chip.missing(),
        "missing_for_tile": chip.missing("tile"),
        "peaks_flops_per_s": chip.peaks_flops_per_s,
        "sram_bytes": chip.sram_bytes,
        "figures": rows,
        "silicon": silicon.to_dict(chip),
        "sources": dict(chip.sources),
        "notes": list(chip.notes),
    }


def _describe_model(model: models.Model) -> dict[str, Any]:
    count = model.params()
    return {
        "kind": "model",
        "name": model.name,
        "title": model.title,
        "hidden": model.hidden,
        "layers": model.layers,
        "vocab": model.vocab,
        "params": count.total,
        "params_active": count.active,
        "params_matmul": count.matmul,
        "kv_elements_per_token": model.kv_elements_per_token,
        "max_positions": model.max_positions,
        "blocks": [
            {"count": n, "attention": _slots(layer.attention), "ffn": _slots(layer.ffn)} for layer, n in model.blocks
        ],
        "source": list(model.source),
        "derived": dict(model.derived),
        "notes": list(model.notes),
    }


def _slots(part: Any) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__slots__}


def render_description(data: dict[str, Any], width: int) -> str:
    """A chip or model as text."""
    if data["kind"] == "chip":
        peaks = ", ".join(f"{k} {show(v, 'FLOP/s', 4)}" for k, v in data["peaks_flops_per_s"].items())
        lines = [f"{data['title']} ({data['name']})", f"peak, dense: {peaks or '-'}"]
        lines += [f"on-chip memory: {data['sram_bytes'] / 2**20:.4g} MiB"] if data["sram_bytes"] else []
        lines += [f"unavailable: missing {', '.join(data['missing'])}"] if data["missing"] else []
        lines += [f"tile model: missing {', '.join(data['missing_for_tile'])}"] if data["missing_for_tile"] else []
        rows = [[r["path"], r["shown"], r["status"], r["key"]] for r in data["figures"]]
        table = columns(["figure", "value", "status", "source"], rows)
        notes = ["", "", *(r["note"] for r in data["figures"])]
        indent = " " * (2 + max(map(len, table)))
        for line, note in zip(table, notes, strict=True):
            lines.append(wrap(f"{line.ljust(len(indent))}{note}", max(width, len(indent) + 40), indent).rstrip())
        lines += ["", *silicon.render(data["silicon"])]
        lines += ["", *(wrap(f"{key}: {text}", width, "  ") for key, text in data["sources"].items())]
    else:
        shown = {k: v for k, v in data.items() if isinstance(v, (int, str)) and k not in ("kind", "title", "name")}
        lines = [
            f"{data['title']} ({data['name']})",
            *(f"{k}: {v:,}" if isinstance(v, int) else f"{k}: {v}" for k, v in shown.items()),
        ]
        for block in data["blocks"]:
            parts = {**block["attention"], **{f"ffn_{k}": v for k, v in block["ffn"].items()}}
            stated = ", ".join(f"{k} {v}" for k, v in parts.items() if v not in (None, False, 0))
            lines.append(wrap(f"{block['count']} x {stated}", width, "    "))
        lines += [wrap(f"source: {s}", width, "    ") for s in data["source"]]
    return "\n".join([*lines, *([""] if data["notes"] else []), *(wrap(f"- {n}", width, "  ") for n in data["notes"])])


def check_file(path: str) -> tuple[str, list[str]]:
    """Checks a chip, model or suite file.

    Returns:
        (kind, what a chip lacks before it can be used).

    Raises:
        InputError: every problem of the file.
    """
    if path.lower().endswith(".json"):
        models.load_model(Path(path))
        return "model config", []
    document = yamlio.load_yaml(path)
    kind = _kind(document)
    if kind == "chip":
        return kind, chips.read_chip(path).missing()
    if kind == "suite":
        kperf_suite.load_suite(Path(path))
        return kind, []
    models.load_model(Path(path))
    return kind, []


def _kind(document: yamlio.Document) -> str:
    """Chip and suite files name their format; a model file has ``config``."""
    data = document.data if isinstance(document.data, dict) else {}
    stated = str(data.get("format", ""))
    for kind in ("chip", "suite"):
        if stated.startswith(f"npusim-{kind}"):
            return kind
    if "config" in data:
        return "model"
    raise InputError(
        document.problem(
            ("format",),
            "not a chip, model or suite file",
            "'format: npusim-chip/1', 'format: npusim-suite/1', or a model file with 'config'",
        )
    )
