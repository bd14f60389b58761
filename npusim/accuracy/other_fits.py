"""Which measured rows of accelerators other than GPUs, and of collectives, are fitted by which family.

One plan makes one fit: rows of a data set by their operation and dtypes, fitted together for each device and software.
``documents`` runs the plans over a folder of data sets and gives the calibration documents of the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npusim.accuracy.devices import chip_of
from npusim.accuracy.dims import RowDims
from npusim.accuracy.fitting import Fit, fit, residual_quantiles
from npusim.accuracy.prediction import groups
from npusim.accuracy.rows import load_collectives, load_rows
from npusim.accuracy.table import Array, Table
from npusim.calibration import Calibration, Provenance, chip_classes
from npusim.chip import Chip, load_chip
from npusim.cost.calibrated.family import Dims, Family, ParameterSpec, Times, family

FLAGS = ("eager", "nodes", "devices_per_node", "fidelity_passes", "a_in_dram", "untuned", "host_dispatch")
_MIN_SHAPES = 10


@dataclass(frozen=True)
class Plan:
    """Rows of one data set that one family prices.

    Args:
        files: below the folder of data sets.
        op: spelling of the operation.
        dtypes: spellings fitted together; each gets a document with the same parameters. Empty: all there are.
        family: name of the family.
        what: what was measured, for the documents.
        how: how, for the documents.
        collective: rows have the schema of collectives.
    """

    files: tuple[str, ...]
    op: str
    dtypes: tuple[str, ...]
    family: str
    what: str
    how: str
    collective: bool = False


_COLLECTIVE_FILES = ("aiconfigurator/collectives.csv", "apex_plus/collectives.csv", "ascend_910b/collectives.csv",
                     "llmcompass/collectives.csv", "vidur/collectives.csv.gz")  # fmt: skip
_ASCEND = ("ascend_910b/kernels.csv",)
_N150 = ("tenstorrent/gemm_n150.csv",)

PLANS: tuple[Plan, ...] = (
    Plan(_ASCEND, "gemm", ("bf16",), "cube-gemm/1", "vllm-ascend kernels", "NPU events, six weights rotated"),
    Plan(_ASCEND, "gemm", ("w8a8_dynamic",), "cube-quantised-gemm/1", "vllm-ascend kernels, quantisation included",
         "NPU events, six weights rotated"),
    Plan(("tpu_v4_scalesim/kernels.csv",), "gemm", (), "systolic-gemm/1", "JAX matrix products on TPU v4",
         "xprof traces, median of 20"),
    Plan(_N150, "gemm", (), "grid-gemm/1", "ttnn matrix products on n150", "host average, with and without a trace"),
    *(
        Plan(_COLLECTIVE_FILES, op, (), f"collective-{function}/1", "collectives of a node or a few nodes",
             "nccl-tests, framework kernels or torch.distributed, as the software says", True)
        for op, function in (("all_reduce", "all_reduce"), ("all_gather", "all_gather"), ("alltoall", "all_to_all"),
                             ("reduce_scatter", "reduce_scatter"), ("send_recv", "send"))
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Joint:
    """A family over rows of several dtypes (and chips): ``which`` names the pair of each row."""

    inner: Family
    pairs: Sequence[tuple[Chip, str]]

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        return self.inner.parameters

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        which = np.asarray(dims["which"])
        time, bound = np.empty(len(which)), np.empty(len(which), dtype=object)
        for index in np.unique(which).astype(int):
            at = which == index
            part = {name: np.asarray(values)[at] for name, values in dims.items()}
            machine, spelling = self.pairs[index]
            found = self.inner.seconds(machine, spelling, part, parameters)
            time[at], bound[at] = found.time_s, found.bound
        return Times(time, bound)


def columns_of(rows: Table) -> dict[str, np.ndarray]:
    """Numeric columns and the flags of ``extra`` that some row has."""
    dims = RowDims(rows)
    found = {name: dims[name] for name in dims}
    found.update({name: dims[name] for name in FLAGS if dims.get(name) is not None})
    return found


def joint_fit(rows: Table, pairs: Sequence[tuple[Chip, str]], which: Array, name: str) -> Fit:
    """Fits rows of several chips or dtypes together. ``which`` is the index into ``pairs`` of each row."""
    dims = {**columns_of(rows), "which": which.astype(float)}
    seconds = rows.column("latency_us") * 1e-6
    return fit(_Joint(family(name), pairs), pairs[0][0], pairs[0][1], dims, seconds, max_rows=1500, starts=2)


def plan_rows(plan: Plan, folder: Path) -> Table:
    """The rows of a plan that can be fitted: positive sizes, devices of the catalog, more than one rank."""
    files = [folder / name for name in plan.files if (folder / name).exists()]
    rows: Table = load_collectives(files) if plan.collective else load_rows(files)
    keep = (rows.column("op") == plan.op) & (rows.column("latency_us") > 0)
    if plan.dtypes:
        keep &= np.isin(rows.column("dtype"), plan.dtypes)
    if plan.collective:
        keep &= (rows.column("bytes") >= 1) & (rows.column("ranks") >= 2)
        per_node = RowDims(rows).get("gpus_per_node")
        if per_node is not None:
            keep &= ~(per_node > rows.column("ranks"))  # cells that slipped into another column
    return rows.select(np.flatnonzero(keep))


def plan_documents(plan: Plan, folder: Path) -> Iterator[tuple[Calibration, Fit]]:
    """One document per device, software and dtype of a plan."""
    rows = plan_rows(plan, folder)
    for (device, software), at in groups([rows.column("device"), rows.column("software")]):
        name = chip_of(device)
        part = rows.select(at)
        if name is None or len(_shapes(part)) < _MIN_SHAPES:
            continue
        chip = load_chip(name)
        spellings = sorted(set(part.column("dtype").tolist()))
        which = np.array([spellings.index(text) for text in part.column("dtype")])
        found = joint_fit(part, [(chip, text) for text in spellings], which, plan.family)
        if not found.converged:
            continue
        for index, dtype in enumerate(spellings):
            yield document(plan, found, which == index, chip.name, software, dtype), found


def class_documents(plan: Plan, folder: Path, chips: Sequence[str], software: str) -> Iterator[tuple[Calibration, Fit]]:
    """One document per dtype for the class that several chips share, learned on rows whose software starts alike."""
    rows = plan_rows(plan, folder)
    names = np.array([chip_of(device) or "" for device in rows.column("device")], dtype=object)
    stack = np.array([text.startswith(software) for text in rows.column("software")])
    rows = rows.select(np.flatnonzero(np.isin(names, chips) & stack))
    names = names[np.isin(names, chips) & stack]
    spellings = sorted(set(rows.column("dtype").tolist()))
    pairs = [(load_chip(name), dtype) for name in chips for dtype in spellings]
    order = {(chip.name, dtype): i for i, (chip, dtype) in enumerate(pairs)}
    which = np.array([order[pair] for pair in zip(names, rows.column("dtype"), strict=True)])
    found = joint_fit(rows, pairs, which, plan.family)
    shared = [c for c in chip_classes(pairs[0][0]) if all(c in chip_classes(chip) for chip, _ in pairs)]
    for dtype in spellings:
        at = rows.column("dtype") == dtype
        yield document(plan, found, at, shared[0], software, dtype, tuple(chips)), found


def document(
    plan: Plan, found: Fit, at: Array, chip: str, software: str, dtype: str, chips: tuple[str, ...] = ()
) -> Calibration:
    """The document of the rows ``at`` of a fit."""
    own = Fit(found.parameters, found.intervals, True, found.predicted_s[at], found.bound[at], found.fold[at],
              found.log_ratio[at])  # fmt: skip
    return Calibration(
        format="npusim-calibration/1", scope="class" if chips else "chip", chip=chip, software=software, op=plan.op,
        dtype=dtype, family=plan.family, parameters=found.document_parameters(family(plan.family)), rows=int(at.sum()),
        source=Provenance(dataset=", ".join(sorted({Path(f).parts[0] for f in plan.files})), what=plan.what,
                          how=plan.how),
        residency="llc" if not plan.collective else "cold", chips=chips, cross_validation=own.cross_validation(),
        residuals=residual_quantiles(own.log_ratio, own.bound),
    )  # fmt: skip


def _shapes(rows: Table) -> set[tuple[float, ...]]:
    names = [name for name in ("m", "n", "k", "ranks", "bytes") if name in rows.numbers]
    return set(zip(*(rows.column(name).tolist() for name in names), strict=True))
