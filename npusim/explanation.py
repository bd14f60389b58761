"""Why a step takes what it takes, and which single figure of the chip would help most."""

from __future__ import annotations

from dataclasses import dataclass

from npusim.calibration import Calibrations, Which
from npusim.chip import Chip
from npusim.cost import Cost, OpCost, cycle, estimate, roofline, tile
from npusim.cost.calibrated.pricing import Documents
from npusim.errors import InputError, NpuError, Problem, unknown_name
from npusim.mapping import GemmMapping
from npusim.workload import Op, Workload

STEP = 1.25  # a figure is made better by a quarter
# Figures worth turning: rates and sizes grow, times shrink. Levels are added by name.
_KNOBS = ("cores", "clock", "memory.bandwidth", "link.bandwidth", "core.vector.lanes")
_TIMES = ("dma.setup", "overheads.launch", "overheads.step", "link.latency")
_LEVEL_KNOBS = ("capacity", "bandwidth", "bytes_per_cycle")


@dataclass(frozen=True)
class Sensitivity:
    """What one figure, better by a quarter, does to the time.

    Args:
        path: the figure.
        before: its value, SI.
        after: the better value.
        speedup: time before / time after.
    """

    path: str
    before: float
    after: float
    speedup: float


@dataclass(frozen=True)
class Explanation:
    """Why an operator of a workload takes what it takes.

    Args:
        cost: the priced workload.
        op: the operator looked at (all its runs).
        bound_s: its roofline seconds.
        compute_utilisation: matrix FLOPs / (peak × time the busiest core's engine works); None without FLOPs.
        tile_utilisation: share of that an interior tile reaches (array edges, fill and drain).
        edge_utilisation: share left by tiles that hang over the edges of the output.
        wave_utilisation: share left by cores that are idle in the last wave.
        mapping: the mapping of a matrix operator at tile fidelity.
        reread: main-memory bytes / the bytes that must pass once.
        dram_share: share of its pin rate that main memory reaches (rows, turnaround, refresh); None without bytes.
        dram_rows: bursts that found their row open (``hit``), closed, or another one open (``conflict``), at cycle
            fidelity with DRAM timings.
        overhead_s: seconds in which no resource is busy.
        step_sensitivities: for the whole workload, best first.
        op_sensitivities: for the operator alone, best first.
    """

    cost: Cost
    op: OpCost
    bound_s: float
    compute_utilisation: float | None
    tile_utilisation: float | None
    edge_utilisation: float | None
    wave_utilisation: float | None
    mapping: GemmMapping | None
    reread: float
    dram_share: float | None
    dram_rows: dict[str, int] | None
    overhead_s: float
    step_sensitivities: tuple[Sensitivity, ...]
    op_sensitivities: tuple[Sensitivity, ...]


def explain(
    work: Workload | Op, chip: Chip, op: str | None = None, fidelity: str = "tile", *,
    calibration: Which | Calibrations = "none", software: str | None = None,
) -> Explanation:  # fmt: skip
    """Explains one operator of a workload, by default the one that takes longest.

    Args:
        work: a workload or operator with scalar dimensions.
        chip: the hardware.
        op: name of the operator (``layers.ffn.up``).
        fidelity: cost model; speedups are the tile model's at cycle fidelity too.
        calibration: documents that may price operators, as for ``estimate``; such operators have no mapping.
        software: whose kernels.

    Raises:
        InputError: unknown operator, or array dimensions.
    """
    cost = estimate(work, chip, fidelity, calibration=calibration, software=software)
    if getattr(cost.time_s, "ndim", 0):
        raise InputError(Problem("an explanation needs scalar dimensions", hint="explain one shape at a time"))
    names = [item.op.name for item in cost.ops]
    if op is not None and op not in names:
        raise unknown_name("operator of the workload", op, names, "OP")
    wanted = max(cost.ops, key=lambda item: float(item.time_s)) if op is None else cost.ops[names.index(op)]
    base = roofline.work(wanted.op, chip)
    modelled = not wanted.document
    found = tile.chosen(wanted.op, chip, base) if fidelity != "roofline" and modelled else None
    ran = cycle.timeline(wanted.op, chip, base) if fidelity == "cycle" and modelled else None
    asked = "tile" if fidelity == "cycle" else fidelity
    compulsory = float(base.dram_bytes) * wanted.count
    shares = _shares(wanted, chip, found)
    return Explanation(
        cost=cost,
        op=wanted,
        bound_s=wanted.count * max(float(s) for s in base.seconds.values()),
        compute_utilisation=shares[0],
        tile_utilisation=shares[1],
        edge_utilisation=shares[2],
        wave_utilisation=shares[3],
        mapping=found.mapping if found else None,
        reread=float(wanted.dram_bytes) / compulsory if compulsory else 1.0,
        dram_share=_dram_share(wanted, chip, ran),
        dram_rows=ran.rows or None if ran else None,
        overhead_s=float(wanted.seconds.get("overhead", 0.0)),
        step_sensitivities=sensitivities(cost.workload, chip, asked, cost.calibration),
        op_sensitivities=sensitivities(Workload(wanted.op.name, (wanted.op,)), chip, asked, cost.calibration),
    )


def _dram_share(item: OpCost, chip: Chip, ran: cycle.Timeline | None) -> float | None:
    """Bytes at the pin rate / seconds in which main memory works on them (at cycle: has any of them to move)."""
    assert chip.memory is not None and chip.memory.bandwidth_bytes_per_s is not None
    if item.document and item.bound != "dram":
        return None
    at_peak_s = float(item.dram_bytes) / chip.memory.bandwidth_bytes_per_s
    busy_s = item.count * ran.dram_busy_s if ran else float(item.seconds["dram"])
    return at_peak_s / busy_s if at_peak_s and busy_s else None


def _shares(item: OpCost, chip: Chip, found: tile.GemmTime | None) -> tuple[float | None, ...]:
    """Compute utilisation and, for a mapped GEMM, its factors: interior tile, output edges, waves."""
    # A document tells how long one resource works: what bounds the operator.
    if not item.rate or not float(item.flops) or (item.document and item.bound != "matrix"):
        return None, None, None, None
    whole = float(item.flops) / (chip.peaks_flops_per_s[item.rate] * float(item.seconds["matrix"]))
    if found is None or chip.cores is None:
        return whole, None, None, None
    t, shape = found.mapping, tile.gemm_shape(item.op)
    groups, m, n, _ = (float(size) for size in shape)
    unit = tile.engine(chip, item.op.matrix_format)
    cycles = tile.tile_cycles(chip, item.op.matrix_format, t.tm, t.tn, t.tk)
    inside = t.tm * t.tn * t.tk / (cycles * unit.macs)
    rows, cols = -(-m // t.tm), -(-n // t.tn)
    edges = m * n / (rows * t.tm * cols * t.tn)
    waves = groups * rows * cols * t.split / (found.waves * chip.cores)
    return whole, inside, edges, waves


def sensitivities(
    work: Workload, chip: Chip, fidelity: str = "tile", documents: Documents | None = None
) -> tuple[Sensitivity, ...]:
    """Speedup of ``work`` for each figure of ``chip`` made better by a quarter, best first.

    Rates and sizes grow by 25 %, times shrink by as much; figures the chip file does not state are left out.
    With ``documents`` the families that price operators see the changed figure.
    """

    def seconds(changed: Chip) -> float:
        if documents is None:
            return float(estimate(work, changed, fidelity).time_s)
        kernels = documents.software or None
        return float(
            estimate(work, changed, fidelity, calibration=documents.calibrations, software=kernels).time_s
        )  # fmt: skip

    stated = chip.paths()
    paths = [path for path in (*_KNOBS, *_TIMES) if path in stated]
    paths += [
        f"levels.{name}.{knob}" for name in chip.levels for knob in _LEVEL_KNOBS if f"levels.{name}.{knob}" in stated
    ]
    before = seconds(chip)
    found = []
    for path in paths:
        value = float(str(stated[path]))
        better = value / STEP if path in _TIMES else value * STEP
        changed: object = round(better) if path in ("cores", "core.vector.lanes") else better
        if not value or changed == value:
            continue
        try:
            after = seconds(chip.replace({path: changed}))
        except NpuError:  # a figure that another one contradicts when it moves alone
            continue
        found.append(Sensitivity(path, value, float(str(changed)), before / after if after else 1.0))
    return tuple(sorted(found, key=lambda s: (-s.speedup, s.path)))
