"""``estimate`` and the ``Cost`` it returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from npusim.calibration import STATES, Calibrations, State, Which, chip_classes
from npusim.chip import Chip, load_chip
from npusim.cost import energy, roofline
from npusim.cost.roofline import Priced
from npusim.errors import InputError, Problem, unknown_name
from npusim.mapping import GemmMapping
from npusim.ops import Dim
from npusim.workload import Op, Workload

if TYPE_CHECKING:
    from npusim.cost.calibrated.pricing import Documents
    from npusim.cost.calibrated.step_time import StepTime
    from npusim.cost.power import PowerCapped
    from npusim.cost.trace_events import TraceFile

FIDELITIES = ("roofline", "tile", "cycle")


@dataclass(frozen=True)
class OpCost:
    """Cost of one operator on one chip, all its runs together.

    Args:
        op: the operator.
        count: how often it runs.
        seconds: time per resource at its peak, of all runs.
        time_s: seconds of all runs.
        flops: matrix FLOPs of all runs.
        rate: engine rate the FLOPs run at.
        dram_bytes: main-memory bytes of all runs.
        link_bytes: bytes sent to other chips, all runs.
        energy_j: dynamic joules of all runs; None without a power description.
        state: ``calibrated``, ``transferred``, or ``uncalibrated`` for an operator no document prices.
        document: name of the calibration document that priced it, ``""`` without one.
        low_s: lower end of the 80 % interval of all runs, from the document's residuals; None without one.
        high_s: its upper end.
    """

    op: Op
    count: int
    seconds: dict[str, Dim]
    time_s: Dim
    flops: Dim
    rate: str
    dram_bytes: Dim
    link_bytes: Dim
    energy_j: Dim | None
    state: State = "uncalibrated"
    document: str = ""
    low_s: Dim | None = None
    high_s: Dim | None = None

    @property
    def bound(self) -> Any:
        """Name of the slowest resource (an array of names for array dimensions)."""
        return _slowest(self.seconds)


@dataclass(frozen=True)
class Cost:
    """Cost of a workload. Every figure is elementwise over the workload's array dimensions.

    Args:
        workload: what was priced (one chip's share).
        chip: on what.
        fidelity: by which model.
        ops: per-operator costs.
        time_s: seconds of the step.
        lower_bound_s: seconds no schedule of these operators on this chip can beat.
        host_s: host time per step, part of ``time_s``.
        by_hand: mappings that were given.
        power: the clock and energy at which the step fits a power limit, where one was asked for.
        calibration: which documents were allowed; None when none were.
        step: what runs measured as a whole say of a model step; None where no document describes it.
        remarks: where the documents are from, for the notes of a report.
    """

    workload: Workload
    chip: Chip
    fidelity: str
    ops: tuple[OpCost, ...]
    time_s: Dim
    lower_bound_s: Dim
    host_s: float = 0.0
    by_hand: Mapping[str, GemmMapping] = field(default_factory=dict)
    power: PowerCapped | None = field(default=None, repr=False, compare=False)
    calibration: Documents | None = field(default=None, repr=False, compare=False)
    step: StepTime | None = field(default=None, repr=False, compare=False)
    remarks: tuple[str, ...] = ()

    @property
    def mappings(self) -> dict[str, GemmMapping]:
        """Mapping of every matrix operator, given by hand or found. Raises InputError at roofline or for arrays."""
        if self.fidelity == "roofline" or np.ndim(self.time_s):
            raise InputError(Problem("only tile and cycle of scalar dimensions have mappings", "fidelity"))
        from npusim.cost import tile

        works = ((op, roofline.work(op, self.chip)) for op in self.workload.ops)
        found = {op.name: tile.chosen(op, self.chip, work, self.by_hand.get(op.name)) for op, work in works}
        return {name: time.mapping for name, time in found.items() if time is not None}

    @property
    def chips(self) -> int:
        """Chips that run the step together."""
        return self.workload.chips

    @cached_property
    def bound_seconds(self) -> dict[str, Dim]:
        """Seconds spent in operators bound by each resource; they add up to ``time_s``."""
        shares: dict[str, Dim] = {"host": np.float64(self.host_s)} if self.host_s else {}
        for cost in self.ops:
            names, winner = _winner(cost.seconds)
            first, last = int(winner.min()), int(winner.max())
            # The usual operator is bound by the same resource everywhere.
            parts = (
                {first: np.asarray(cost.time_s, float)}
                if first == last
                else {i: np.where(winner == i, cost.time_s, 0.0) for i in range(max(first, 1), last + 1)}
            )
            for index, share in parts.items():
                if index and np.any(share):
                    shares[names[index]] = shares.get(names[index], 0.0) + share
        return shares

    @property
    def bound(self) -> Any:
        """The resource that bounds most of the time (an array of names for array dimensions)."""
        return _slowest(self.bound_seconds)

    @cached_property
    def flops(self) -> Dim:
        """Matrix FLOPs of one chip."""
        return sum(cost.flops for cost in self.ops)

    @cached_property
    def dram_bytes(self) -> Dim:
        """Main-memory bytes of one chip."""
        return sum(cost.dram_bytes for cost in self.ops)

    @property
    def mfu(self) -> Dim:
        """FLOP utilisation: Σ FLOPs / (time × peak of the rate they run at)."""
        peaks = self.chip.peaks_flops_per_s
        return _per(sum(cost.flops / peaks[cost.rate] for cost in self.ops if cost.rate), self.time_s)

    @property
    def mbu(self) -> Dim:
        """Memory bandwidth utilisation: (weight + KV bytes) / (time × DRAM bandwidth)."""
        assert self.chip.memory is not None and self.chip.memory.bandwidth_bytes_per_s
        return _per(self.workload.bytes("weight", "kv") / self.chip.memory.bandwidth_bytes_per_s, self.time_s)

    @property
    def energy_j(self) -> Dim | None:
        """Joules of all chips over the step, static share included; None without a TDP."""
        if self.power is not None:
            return self.power.energy_j
        constants = energy.energies(self.chip)
        if constants is None:
            return None
        dynamic: Dim = sum(cost.energy_j for cost in self.ops if cost.energy_j is not None)
        return self.chips * (dynamic + constants.static_w * self.time_s)

    def trace(self, path: str | os.PathLike[str], op: str | None = None, cores: int | None = None) -> TraceFile:
        """Writes the operators at cycle fidelity as a Perfetto/Chrome trace (``.json`` or ``.json.gz``).

        They are run again at that fidelity, whichever priced this cost.

        Args:
            path: the file.
            op: name of one operator; default: all of them.
            cores: how many cores to show; default: all, or the first 8 where all would make too many events.

        Raises:
            InputError: unknown operator, array dimensions, too many events, or a path that cannot be written.
            Unavailable: the chip is not described for the cycle fidelity.
        """
        from npusim.cost import trace_events  # it loads compiled code

        runs = trace_events.simulate(self.workload, self.chip, op)
        return trace_events.write(runs, path, f"{self.workload.name} on {self.chip.title}", cores)

    def table(self) -> list[dict[str, Any]]:
        """One row per operator: name, kind, count, time, share, bound, FLOPs, bytes (scalar dimensions only)."""
        if np.ndim(self.time_s):
            raise InputError(Problem("a table needs scalar dimensions", hint="price one shape at a time"))
        return [
            {
                "op": cost.op.name,
                "kind": cost.op.kind,
                "count": cost.count,
                "time_s": float(cost.time_s),
                "share": float(_per(cost.time_s, self.time_s)),
                "bound": str(cost.bound),
                "flops": float(cost.flops),
                "dram_bytes": float(cost.dram_bytes),
                "link_bytes": float(cost.link_bytes),
                "operand_bytes": float(cost.count * cost.op.bytes()),
                **(_trusted(cost) if self.calibration is not None else {}),
            }
            for cost in self.ops
        ]


def _trusted(cost: OpCost) -> dict[str, Any]:
    """Columns of a table that documents entered."""
    interval = [None if figure is None else float(figure) for figure in (cost.low_s, cost.high_s)]
    return {"state": cost.state, "document": cost.document or None, "low_s": interval[0], "high_s": interval[1]}


def estimate(
    work: Workload | Op,
    chip: Chip | str,
    fidelity: str | None = None,
    tp: int | None = None,
    mappings: Mapping[str, GemmMapping] | None = None,
    *,
    calibration: Which | Calibrations = "none",
    software: str | None = None,
) -> Cost:
    """Prices a workload or an operator on a chip.

    Args:
        work: a Workload (as ``prefill`` and ``decode`` make) or a single Op.
        chip: the hardware: a chip, a catalog name or a path.
        fidelity: ``"roofline"``, ``"tile"`` or ``"cycle"``. Default: roofline; with calibrations tile, where the
            chip is described for it.
        tp: tensor-parallel chips; rebuilds a model step for that many (default: as the step was built).
        mappings: of matrix operators by name, in place of the search (tile and cycle).
        calibration: documents that may price operators: ``"none"``, ``"auto"`` (those of the catalog), a file, the
            name of a catalog document, a document or several. Operators without one are priced by ``fidelity``.
        software: whose kernels (``trtllm``, ``vllm-0.24.0``). Default: the stack of this chip with documents for most
            of the operators.

    Raises:
        InputError: unknown fidelity, calibration or software, a single operator with tp > 1, or a mapping of an
            operator that has none.
        Unavailable: the chip lacks a rate that the work needs.
    """
    if fidelity is not None and fidelity not in FIDELITIES:
        raise unknown_name("fidelity", fidelity, FIDELITIES)
    if not isinstance(chip, Chip):
        chip = load_chip(chip)
    fidelity, allowed = options(chip, fidelity, calibration, software)
    chip.require(fidelity)
    workload = as_workload(work, tp)
    by_hand = dict(mappings or {})
    _check_mappings(by_hand, workload, fidelity)
    works = [roofline.work(op, chip) for op in workload.ops]
    constants = energy.energies(chip)
    costs = tuple(_op_costs(workload, works, chip, fidelity, constants, by_hand))
    found = _Documented(None, costs)
    if allowed is not None:
        found = _documented(workload, works, chip, costs, allowed, software)
    host_s = (chip.overheads.step_s or 0.0) if fidelity != "roofline" and workload.recipe is not None else 0.0
    total = sum(cost.time_s for cost in found.ops) + host_s
    bound = roofline.lower_bound(workload, works)
    time_s = total if np.ndim(total) else float(total)
    return Cost(
        workload, chip, fidelity, found.ops, time_s, bound, host_s, by_hand, None, found.documents, found.step,
        found.remarks,
    )  # fmt: skip


def options(
    chip: Chip, fidelity: str | None, calibration: Which | Calibrations, software: str | None
) -> tuple[str, Calibrations | None]:
    """The fidelity that prices operators without a document, and the documents that may be used (None: none).

    Raises:
        InputError: no such calibration, or software without calibrations.
    """
    allowed = calibration if isinstance(calibration, Calibrations) else Calibrations(calibration)
    if not allowed:
        if software is not None:
            hint = "give calibration auto too"
            raise InputError(Problem("software chooses among calibrations, none are allowed", "software", hint=hint))
        return fidelity or "roofline", None
    return fidelity or ("roofline" if chip.missing("tile") else "tile"), allowed


@dataclass(frozen=True)
class _Documented:
    """Operators with the documents that entered."""

    documents: Documents | None
    ops: tuple[OpCost, ...]
    step: StepTime | None = None
    remarks: tuple[str, ...] = ()


def _documented(
    workload: Workload, works: list[roofline.Work], chip: Chip, costs: tuple[OpCost, ...], allowed: Calibrations,
    software: str | None,
) -> _Documented:  # fmt: skip
    """The operators a document prices at its times; the others as they are."""
    from npusim.cost.calibrated import pricing, step_time

    times = [float(np.mean(cost.time_s)) for cost in costs]
    documents = pricing.documents_for(
        workload, chip, allowed, software, times, lambda own: step_time.step_document(workload, own) is not None
    )
    ops: list[OpCost] = []
    notes: dict[str, list[str]] = {}
    for cost, found in zip(costs, pricing.prices(workload.ops, works, documents), strict=True):
        if found is None:
            ops.append(cost)
            continue
        n = cost.count
        busy = {name: n * seconds for name, seconds in found.seconds.items()}
        ops.append(
            replace(
                cost,
                seconds=busy,
                time_s=n * found.time_s,
                state=found.state,
                document=found.document,
                low_s=n * found.low_s,
                high_s=n * found.high_s,
            )
        )
        notes.setdefault(found.note, []).append(cost.op.name)
    step = step_time.step_time(workload, works, chip, documents)
    return _Documented(documents, tuple(ops), step, _remarks(documents, ops, notes))


def _remarks(documents: Documents, ops: list[OpCost], notes: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Whose kernels the figures are, how many operators have documents, and which of those are from elsewhere."""
    chip = documents.chip
    if not notes:
        classes = ", ".join(chip_classes(chip))
        return (f"{chip.name}: no calibration of this chip or of its classes ({classes}) prices any operator.",)
    states = [cost.state for cost in ops]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    whose = documents.software or "any stack"
    chosen = ", the stack with calibrations for most of the time (name another by software)"
    first = f"{chip.name}: kernels of {whose}{chosen if documents.chosen else ''}; operators: {counts}."
    return (first, *(f"{', '.join(names)}: {note}." for note, names in notes.items() if note))


def _check_mappings(mappings: dict[str, GemmMapping], workload: Workload, fidelity: str) -> None:
    mapped = [op.name for op in workload.ops if op.kind in ("gemm", "experts", "conv2d")]
    for name in mappings:
        if name not in mapped:
            raise unknown_name("matrix operator of the workload", name, mapped, "mappings")
    if mappings and fidelity == "roofline":
        raise InputError(Problem("the roofline has no mapping", "mappings", allowed="fidelity tile or cycle"))


def _op_costs(
    workload: Workload, works: list[roofline.Work], chip: Chip, fidelity: str, constants: energy.Energies | None,
    mappings: dict[str, GemmMapping],
) -> Iterator[OpCost]:  # fmt: skip
    """Costs of the operators in their order; a chip that prefetches gives each a part of the time before it."""
    ahead = fidelity != "roofline" and chip.dma is not None and chip.dma.prefetch
    before: tuple[Op, Priced] | None = None
    for op, work in zip(workload.ops, works, strict=True):
        if fidelity == "roofline":
            priced = Priced(roofline.slowest(work.seconds.values()), dict(work.seconds), work.dram_bytes)
            yield _op_cost(op, work, priced, constants)
            continue
        from npusim.cost import cycle, prefetch, tile  # they load compiled code

        fetched: Dim = 0.0
        ready, ready_work = op, work
        if ahead and before is not None:
            ready, fetched = prefetch.ahead(op, *before, chip)
            ready_work = roofline.work(ready, chip)
        priced = (tile if fidelity == "tile" else cycle).price(ready, chip, ready_work, mappings.get(op.name))
        before = (op, priced)
        busiest = roofline.slowest(priced.seconds.values())
        # What no resource is busy with: set-up, launch, pipeline fill and drain.
        seconds = {**priced.seconds, "overhead": np.maximum(priced.time_s - busiest, 0.0)}
        yield _op_cost(op, work, Priced(priced.time_s, seconds, priced.dram_bytes + fetched), constants)


def _op_cost(op: Op, work: roofline.Work, priced: Priced, constants: energy.Energies | None) -> OpCost:
    """All runs of one operator together."""
    joules = None
    if constants is not None:
        joules = op.count * constants.op_j(work.rate, work.flops, op.bytes(), priced.dram_bytes, work.link_bytes)
    n = op.count
    return OpCost(
        op, n, {name: n * s for name, s in priced.seconds.items()}, n * priced.time_s, n * work.flops, work.rate,
        n * priced.dram_bytes, n * work.link_bytes, joules,
    )  # fmt: skip


def as_workload(work: Workload | Op, tp: int | None = None) -> Workload:
    """One chip's share of ``work`` on ``tp`` chips (None: as built). Raises InputError when it cannot be split."""
    if isinstance(work, Op):
        work = Workload(work.name, (work,))
    if tp is None or tp == work.chips:
        return work
    if work.recipe is None:
        raise InputError(
            Problem(
                f"'{work.name}' cannot be split over {tp} chips",
                "tp",
                allowed="1 for single operators",
                hint="price a model step, or one chip's share of the operator",
            )
        )
    rebuild: Callable[[int], Workload] = work.recipe
    return rebuild(tp)


def _per(part: Dim, whole: Dim) -> Dim:
    """part / whole, 0 where there is no whole."""
    if np.ndim(part) or np.ndim(whole):
        return np.divide(
            part, whole, out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))), where=whole > 0
        )
    return float(part / whole) if whole else 0.0


def _winner(seconds: dict[str, Dim]) -> tuple[list[str], np.ndarray]:
    """Names, and the position of the slowest of them, elementwise."""
    # "none" wins ties at zero: an operator that costs nothing is bound by nothing.
    names = ["none", *seconds]
    stacked = np.stack(np.broadcast_arrays(0.0, *(np.asarray(s, float) for s in seconds.values())))
    return names, np.asarray(np.argmax(stacked, axis=0))


def _slowest(seconds: dict[str, Dim]) -> Any:
    names, winner = _winner(seconds)
    return names[int(winner)] if winner.ndim == 0 else np.array(names)[winner]
