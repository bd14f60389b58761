"""Fits the documents of the catalog again, one data set at a time.

    python -m bench.calibrations --list
    python -m bench.calibrations NAME... [--measured FOLDER] [--out DIR] [--software PREFIX] [--op NAME] [--no-classes]

``NAME`` is a data set of ``DATASETS``. Documents go to ``--out`` (default: ``calibrations``), not into the catalog:
compare first (``python -m bench.calibration_table``), then copy. The larger data sets take hours on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.accuracy_results import MEASURED
from npusim import calibration
from npusim.accuracy import calibrating, end_to_end, fitting, other_fits, transfer
from npusim.accuracy.other_fits import PLANS, Plan
from npusim.accuracy.rows import Rows, load_rows
from npusim.calibration import Calibration, Provenance
from npusim.chip import load_chip
from npusim.errors import InputError

NCCL_CHIPS = ("a100", "h100", "b200")
STEP_CHIPS = ("a100", "h100", "mi250")
STEP_SOURCE = Provenance(
    dataset="llm_inference_bench", what="latency of static batches, input and output of equal length",
    how="single runs of the serving programs",
)  # fmt: skip


@dataclass(frozen=True)
class Kernels:
    """A table of kernel rows whose groups are fitted one by one, then by class.

    Args:
        files: below the folder of data sets.
        without: (op, dtype, stack) of groups that make no class: their rows do not say what ran.
    """

    files: tuple[str, ...]
    without: tuple[tuple[str, str, str], ...] = ()


DATASETS: dict[str, Kernels | tuple[Plan, ...] | str] = {
    # SGLang's int8_wo rows of H100 exceed the bf16 peak: int8 products, not weight-only ones (docs/calibration.md).
    "gemm": Kernels(("aiconfigurator/gemm.csv.gz",), (("gemm", "int8_wo", "sglang"),)),
    "prefill": Kernels(("aiconfigurator/attention_prefill.csv.gz",)),
    "decode": Kernels(("aiconfigurator/attention_decode.csv.gz",)),
    "encoder": Kernels(("aiconfigurator/attention_encoder.csv.gz",)),
    "mla": Kernels(("aiconfigurator/mla.csv.gz",)),
    "experts": Kernels(("aiconfigurator/moe_ffn.csv.gz",)),
    "vidur": Kernels(("vidur/linear_and_pointwise.csv.gz",)),
    "llmservingsim": Kernels(("llmservingsim/kernels.csv.gz",)),
    "jetson": Kernels(("llmcompass_plus_jetson/kernels.csv",)),
    "h20": Kernels(("infersim_h20_h800/kernels.csv",)),
    "aiter": Kernels(("amd_aiter/gemm_tuned.csv.gz", "amd_aiter/moe_tuned.csv.gz")),
    "v100": Kernels(("apex_plus/gemm.csv.gz",)),
    "fp32": Kernels(("neusight/gemm_fp32.csv.gz", "neusight/vector_fp32.csv.gz")),
    "ascend-attention": Kernels(("ascend_910b/kernels.csv",)),
    "tpu-vector": Kernels(("tpu_v4_scalesim/kernels.csv",)),
    "ascend-gemm": tuple(plan for plan in PLANS if plan.family.startswith("cube")),
    "tpu-gemm": tuple(plan for plan in PLANS if plan.family.startswith("systolic")),
    "tenstorrent": tuple(plan for plan in PLANS if plan.family.startswith("grid")),
    "collectives": tuple(plan for plan in PLANS if plan.collective),
    "requests": "llm_inference_bench/e2e.csv",
}


@dataclass(frozen=True)
class Only:
    """Which part of a data set is fitted: software that starts so, and one operator (``""``: all)."""

    software: str = ""
    op: str = ""
    classes: bool = True


def documents(name: str, folder: Path, only: Only = Only()) -> Iterator[Calibration | str]:
    """Documents of a data set; a line of text for what could not be fitted.

    Args:
        name: a key of ``DATASETS``.
        folder: with the measured data sets.
        only: part of it.
    """
    what = DATASETS[name]
    if isinstance(what, Kernels):
        yield from of_kernels(what, folder, only)
    elif isinstance(what, str):
        yield from of_requests(folder / what, only)
    else:
        for plan in what:
            if only.op in ("", plan.op):
                yield from of_plan(plan, folder, only)


def of_kernels(table: Kernels, folder: Path, only: Only) -> Iterator[Calibration | str]:
    """Documents of every group of kernel rows, then of their classes."""
    rows = load_rows([str(folder / file) for file in table.files])
    groups, fitted = [], []
    for found in calibrating.merged(calibrating.group_rows(_part(rows, only))):
        if not isinstance(found, calibrating.Group):
            continue
        try:
            document = calibrating.document(found, calibrating.fit_group(found))
        except (fitting.NotConverged, InputError) as error:
            yield f"{found.chip.name} {found.software} {found.op} {found.dtype}: {str(error).splitlines()[0]}"
            continue
        groups.append(found)
        fitted.append(document)
        yield document
    if only.classes:
        usable = [group for group in groups if _class_key(group) not in table.without]
        yield from transfer.class_documents(usable, fitted)


def _part(rows: Rows, only: Only) -> Rows:
    keep = np.array([text.startswith(only.software) for text in rows.column("software")], dtype=bool)
    return rows.select(np.flatnonzero(keep & ((rows.column("op") == only.op) | (only.op == ""))))


def _class_key(group: calibrating.Group) -> tuple[str, str, str]:
    return group.op, calibration.dtype_key(group.dtype), calibration.stack(group.software)


def of_plan(plan: Plan, folder: Path, only: Only) -> Iterator[Calibration]:
    """Documents of a plan, and for collectives those of the class of NCCL's chips."""
    for document, _ in other_fits.plan_documents(plan, folder, only.software):
        yield document
        if not plan.collective and only.classes:
            for name in calibration.chip_classes(load_chip(document.chip))[:-1]:
                yield transfer.lone_document(name, document)
    if plan.collective and only.classes and plan.op != "send_recv":
        yield from (document for document, _ in other_fits.class_documents(plan, folder, NCCL_CHIPS, "nccl-2"))


def of_requests(file: Path, only: Only) -> Iterator[Calibration]:
    """Documents of whole requests, by program and of the class of GPUs."""
    for document, _ in end_to_end.plan_documents(file, STEP_SOURCE):
        if document.software.startswith(only.software):
            yield document
    if only.classes:
        yield from (document for document, _ in end_to_end.class_documents(file, STEP_SOURCE, STEP_CHIPS, "fp16"))


def main() -> None:
    """Fits and writes what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", choices=[[], *DATASETS], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--measured", type=Path, default=MEASURED, metavar="FOLDER")
    parser.add_argument("--out", default="calibrations", metavar="DIR")
    parser.add_argument("--software", default="", metavar="PREFIX")
    parser.add_argument("--op", default="", metavar="NAME")
    parser.add_argument("--no-classes", action="store_true")
    given = parser.parse_args()
    if given.list:
        print("\n".join(DATASETS))
    for name in given.names:
        for found in documents(name, given.measured, Only(given.software, given.op, not given.no_classes)):
            if isinstance(found, str):
                print(found, flush=True)
                continue
            path = calibration.save(found, given.out)
            print(f"{path}: {found.cross_validation.mape_pct:.1f} %", flush=True)


if __name__ == "__main__":
    main()
