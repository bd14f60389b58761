"""Predicted times of the rows that are no kernels: collectives, RTL cycles, vision networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from npusim import dtypes, workload
from npusim.accuracy import limits, pricing
from npusim.accuracy.devices import formats_of
from npusim.accuracy.dims import RowDims
from npusim.accuracy.predicted import UNCALIBRATED, Predicted
from npusim.accuracy.prediction import apply_document, chip_or_reason, groups
from npusim.accuracy.rows import CollectiveRows, RtlRows, VisionRows
from npusim.accuracy.table import Array
from npusim.calibration import Calibrations
from npusim.chip import Chip, load_chip
from npusim.cost import estimate
from npusim.errors import NpuError

# Spelling of the ``op`` column → (function of a collective, tensor a device's buffer of ``bytes`` stands for as a
# multiple of it). nccl-tests give the whole tensor for gathering and scattering, a rank's buffer for all-to-all.
COLLECTIVES: Mapping[str, tuple[str, bool]] = {
    "all_reduce": ("all_reduce", False),
    "all_gather": ("all_gather", False),
    "reduce_scatter": ("reduce_scatter", False),
    "alltoall": ("all_to_all", True),
    "all_to_all": ("all_to_all", True),
    "send_recv": ("send", False),
}


def predict_collectives(
    rows: CollectiveRows, override: Chip | None, calibrations: Calibrations, fidelity: str
) -> Predicted:
    """Prices collectives: R0 is bytes over the links of the data sheet.

    Devices without links of their own to others go over their host interface.
    """
    keys = {name: rows.column(name) for name in ("device", "op", "dtype", "software")}
    found = Predicted(rows, keys, rows.column("latency_us") * 1e-6)
    for (device, op, dtype, software), which in groups([keys[name] for name in ("device", "op", "dtype", "software")]):
        chip, reason = chip_or_reason(device, override)
        if chip is None or op not in COLLECTIVES:
            found.reason[which] = reason or f"no operator of npusim computes '{op}'"
            continue
        found.chip[which] = chip.name
        part = rows.select(which)
        _ring(found, which, part, _linked(chip), op, dtype, fidelity)
        match = calibrations.match(chip, wired(device, software), op, dtype)
        if match is not None:
            apply_document(found, which, RowDims(part), chip, match, dtype)
            # A switch that reduces halves what a ring has to move.
            most = np.full(len(which), limits.SLOWEST_COLLECTIVE)
            limits.hold(found, which, found.roofline_s[which] / 2, most)
    return found


def wired(device: str, software: str) -> str:
    """The software with how the devices are wired, where their name says that links join pairs only.

    >>> wired("A100-pairwise-NVLink", "nccl-torch")
    'nccl-torch pairwise'
    """
    return f"{software} pairwise" if "pairwise" in device else software


def _linked(chip: Chip) -> Chip:
    if chip.link is None and chip.host is not None and chip.host.bandwidth_bytes_per_s:
        return chip.replace({"link.bandwidth": chip.host.bandwidth_bytes_per_s})
    return chip


def _ring(found: Predicted, which: Array, rows: CollectiveRows, chip: Chip, op: str, dtype: str, fidelity: str) -> None:
    formats = formats_of(dtype)
    if chip.link is None or formats is None:
        found.reason[which] = f"chip '{chip.name}' describes no link" if formats else f"'{op}' rows without a format"
        return
    function, per_rank = COLLECTIVES[op]
    ranks = rows.column("ranks")
    size = rows.column("bytes") * np.where(per_rank, ranks, 1.0)
    elements = np.maximum(np.round(size * 8 / dtypes.bits(formats.a)), 1)
    op_ = workload.collective(elements, ranks, function, formats.a)
    usable = fidelity if fidelity != "cycle" and not chip.missing(fidelity) else "roofline"
    naive, model = (estimate(op_, chip, name) for name in ("roofline", usable))
    link_s = np.asarray(naive.ops[0].seconds["link"], float)
    alone = ranks < 2
    found.reason[which[alone]] = "one rank has nobody to talk to"
    at = which[~alone]
    found.roofline_s[at] = np.broadcast_to(link_s, ranks.shape)[~alone]
    found.predicted_s[at] = np.broadcast_to(np.asarray(model.time_s, float), ranks.shape)[~alone]
    found.bound[at] = np.where(found.roofline_s[at] < pricing.LAUNCH_S, "launch", "memory")
    found.model[at], found.state[at] = usable, UNCALIBRATED


def predict_rtl(rows: RtlRows, override: Chip | None) -> Predicted:
    """Replays each row's mapping; the plain roofline is MACs over the array, and bytes over the memory."""
    from npusim.cost.replay import replay  # it loads compiled code

    chip = override or load_chip("gemmini")
    assert chip.clock_hz is not None
    array = np.round(np.sqrt(rows.column("pe"))).astype(int)
    keys = {
        "device": np.array([f"Gemmini-{n}x{n}(RTL)" for n in array], dtype=object),
        "op": np.full(len(rows), "conv2d or gemm", dtype=object),
        "dtype": np.full(len(rows), "int8", dtype=object),
        "software": np.full(len(rows), "FireSim", dtype=object),
    }
    found = Predicted(rows, keys, rows.column("cycles") / chip.clock_hz)
    side = chip.core.matrix.rows if chip.core.matrix else None
    for row in range(len(rows)):
        if array[row] != side:
            found.reason[row] = f"chip '{chip.name}' has an array of {side} x {side}"
            continue
        try:
            op = _layer(rows, row)
            found.predicted_s[row] = replay(op, str(rows.column("mapping")[row]), chip).time_s
            naive = pricing.roofline_of((op,), chip)
        except NpuError as error:
            found.reason[row] = "mapping cannot be replayed: " + str(error).splitlines()[0][:120]
            continue
        found.roofline_s[row], found.bound[row] = float(naive[0]), str(naive[1])
        found.chip[row], found.model[row], found.state[row] = chip.name, "replay", "calibrated"
    return found


def _layer(rows: RtlRows, row: int) -> workload.Op:
    """The layer of a row, its input just as large as the outputs ask."""
    r, s, p, q, c, k, n, stride = (
        int(rows.column(f"prob_{name}")[row]) for name in ("r", "s", "p", "q", "c", "k", "n", "wstride")
    )
    if r == s == q == 1:
        return workload.gemm(p, k, c, "int8", "int8", "int8")
    height, width = (q - 1) * stride + s, (p - 1) * stride + r
    return workload.conv2d(n, height, width, c, k, s, r, "int8", "int8", "int8", stride=stride)


def predict_vision(rows: VisionRows, override: Chip | None) -> Predicted:
    """Prices vision networks whose work the row states: operations over the peak, weights over the bandwidth."""
    keys = {name: rows.column(name) for name in ("device", "software")}
    keys["op"] = np.full(len(rows), "vision network", dtype=object)
    keys["dtype"] = rows.column("precision")
    fps, latency_ms = rows.column("fps"), rows.column("latency_ms")
    measured = np.where(np.isnan(latency_ms), 1 / np.where(fps > 0, fps, np.nan), latency_ms * 1e-3)
    found = Predicted(rows, keys, measured)
    work, weights = rows.column("ops_g") * 1e9, rows.column("params_m") * 1e6
    for (device,), which in groups([keys["device"]]):
        chip, reason = chip_or_reason(device, override)
        if chip is None:
            found.reason[which] = reason
            continue
        assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
        _, peak = chip.peak_flops_per_s("int8")
        seconds = np.maximum(work[which] / peak, weights[which] / chip.memory.bandwidth_bytes_per_s)
        found.predicted_s[which] = found.roofline_s[which] = np.where(measured[which] > 0, seconds, np.nan)
        found.chip[which], found.model[which] = chip.name, "roofline"
        found.bound[which] = "compute"
    lacking = np.isnan(found.predicted_s) & (found.reason == "")
    found.reason[lacking] = "the row does not state the operations of the network"
    found.reason[np.isnan(measured)] = "the network did not run"
    found.predicted_s[np.isnan(measured)] = np.nan
    return found
