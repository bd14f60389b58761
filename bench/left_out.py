"""Devices left out: what ``validate`` says of a measured device when nothing measured on it is known.

    python -m bench.left_out [MEASURED_FOLDER]

For each device all its documents are hidden, and every class document that had seen it; the classes are learned again
from the other devices of the same table. Writes ``bench/left_out.json``, which ``bench.accuracy`` puts on its page.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.accuracy_results import MEASURED, ROOT
from npusim import calibration
from npusim.accuracy import calibrating, fitting, transfer
from npusim.accuracy.rows import Rows, load_rows
from npusim.accuracy.score import plain
from npusim.accuracy.validation import validate
from npusim.calibration import Calibration

OUT = ROOT / "bench" / "left_out.json"
ROWS = 300  # of each group that is scored
GENERATIONS = {"a100": "Ampere", "a40": "Ampere", "l40s": "Ada", "h100": "Hopper", "b200": "Blackwell"}


@dataclass(frozen=True)
class Case:
    """Rows of one operator, dtype and stack on several devices, each left out in turn.

    Args:
        kind: heading under which devices are pooled.
        file: table.
        op: operator.
        dtype: spelling.
        stack: the software without its version.
    """

    kind: str
    file: str
    op: str
    dtype: str
    stack: str


GEMM, VIDUR = "aiconfigurator/gemm.csv.gz", "vidur/linear_and_pointwise.csv.gz"
CASES = (
    Case("GEMM bf16", GEMM, "gemm", "bfloat16", "trtllm"),
    Case("GEMM bf16", GEMM, "gemm", "bfloat16", "sglang"),
    Case("GEMM fp8", GEMM, "gemm", "fp8", "trtllm"),
    Case("GEMM bf16", VIDUR, "linear", "float16", "vllm/sarathi-pytorch-cuda-profiler"),
    Case("prefill", "aiconfigurator/attention_prefill.csv.gz", "attention_prefill", "bfloat16/kv_bfloat16", "trtllm"),
    Case("decode", "aiconfigurator/attention_decode.csv.gz", "attention_decode", "bfloat16/kv_bfloat16", "trtllm"),
    Case("norm", VIDUR, "rmsnorm", "float16", "vllm/sarathi-pytorch-cuda-profiler"),
)


def groups_of(folder: Path, case: Case) -> list[calibrating.Group]:
    """The largest group of each chip."""
    rows = load_rows(str(folder / case.file))
    keep = (rows.column("op") == case.op) & (rows.column("dtype") == case.dtype)
    keep &= np.array([calibration.stack(text) == case.stack for text in rows.column("software")])
    largest: dict[str, calibrating.Group] = {}
    for group in calibrating.found_groups(rows.select(np.flatnonzero(keep))):
        old = largest.get(group.chip.name)
        if "kernel=" not in group.software and (old is None or len(group.rows) > len(old.rows)):
            largest[group.chip.name] = group
    return list(largest.values())


def hidden_copy(chip: str, folder: Path) -> None:
    """Copies the catalog's documents into a folder, without those that know anything of a chip."""
    for path in calibration.catalog().values():
        document = calibration.load_calibration(path)
        if chip not in (document.chip, *document.chips):
            shutil.copy(path, folder / path.name)


def learned(groups: Sequence[calibrating.Group]) -> Iterator[Calibration]:
    """Class documents of every class of some chips."""
    known = {}
    for group in groups:
        own = calibration.find(group.chip.name, group.software, group.op, group.dtype)
        if own is not None:
            known[calibrating.key_of(group)] = own
    usable = [group for group in groups if calibrating.key_of(group) in known]
    for found in transfer.class_documents(usable, known.values()):
        if isinstance(found, Calibration):
            yield found
        else:
            print(found, flush=True)


def sampled(rows: Rows, most: int = ROWS) -> Rows:
    """Some of the rows, the same ones in every run."""
    at = np.random.default_rng(0).permutation(len(rows))[:most]
    return rows.select(np.sort(at))


def left_out(case: Case, groups: Sequence[calibrating.Group], group: calibrating.Group) -> dict[str, Any]:
    """Figures of one device under documents that never saw it."""
    others = [other for other in groups if other is not group]
    with tempfile.TemporaryDirectory() as name:
        hidden_copy(group.chip.name, Path(name))
        for document in learned(others):
            calibration.save(document, name)
        found = validate(sampled(group.rows), calibration=name)
    (table,) = found.tables
    at = table.priced
    teachers = str(table.note[at][0]).removeprefix("learned on ").partition(";")[0].split(", ")
    same = GENERATIONS[group.chip.name] in {GENERATIONS.get(name) for name in teachers}
    known = at & np.isfinite(table.low_s)
    covered = (table.low_s <= table.measured_s) & (table.measured_s <= table.high_s)
    (scored,) = {g.device: g for g in found.groups}.values()
    return {
        "kind": case.kind, "device": scored.device, "op": case.op, "dtype": case.dtype, "software": scored.software,
        "state": scored.state, "model": scored.model, "learned_on": scored.note.removeprefix("learned on "),
        "generation": "same" if same else "other", "rows": scored.priced,
        "mape_pct": plain(scored.overall.mape_pct),
        "mdape_pct": plain(scored.overall.mdape_pct), "bias_pct": plain(scored.overall.bias_pct),
        "roofline_mape_pct": plain(scored.roofline.mape_pct),
        "coverage_pct": plain(float(100 * covered[known].mean())) if known.any() else None,
    }  # fmt: skip


def main() -> None:
    """Writes the file, case by case."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MEASURED
    found = []
    for case in CASES:
        groups = groups_of(folder, case)
        for group in groups:
            try:
                entry = left_out(case, groups, group)
            except fitting.NotConverged as error:
                print(f"  {group.chip.name} {case.op} {case.stack}: {error}", flush=True)
                continue
            found.append(entry)
            print(f"  {entry['device']} {case.op} {case.stack}: {entry['mape_pct']:.1f} %", flush=True)
            OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
