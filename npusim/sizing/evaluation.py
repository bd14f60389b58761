"""Prices designs: one chip variant on all cases of a plan, vectorised over the cases.

The figures are those of ``estimate`` and ``kperf``, element by element; only what does not change between chips
(the operators of a step) is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npusim import llm, parallel
from npusim.chip import Chip
from npusim.cost import Cost, estimate
from npusim.cost.technology import Technology
from npusim.errors import DoesNotFit, NpuError
from npusim.kperf_suite import Suite, kperf, load_suite
from npusim.llm import Precision
from npusim.models import Model
from npusim.sizing import bill
from npusim.sizing.cases import Case, changed_model, grouped
from npusim.sizing.plan import Design, Plan
from npusim.sizing.quantities import DESIGN_METRICS, POINT_METRICS
from npusim.workload import Workload

# What is kept of every point, in this order: its metrics, whether it fits, what bounds it, a remark.
COLUMNS = (*POINT_METRICS, "fits", "bound", "note")
Row = tuple[Any, ...]
_KPERF = {
    "ttft_s": "ttft_s",
    "tpot_s": "tpot_s",
    "tpot_loaded_s": "tpot_loaded_s",
    "tokens_per_s": "tokens_per_s",
    "tokens_per_s_per_user": "tokens_per_s_per_user",
    "tokens_per_s_per_chip": "tokens_per_s_per_chip",
    "tokens_per_j": "tokens_per_j",
    "avg_power_w": "avg_power_w",
    "mfu": "mfu",
    "mbu": "mbu",
    "memory_bytes": "memory_bytes",
    "chips": "tp",
    "bound": "bound_decode",
    "note": "note",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one design.

    Args:
        status: ``done`` or ``failed``.
        message: why it failed.
        metrics: of the design itself, by ``DESIGN_METRICS``.
        rows: one per case, in ``COLUMNS``.
    """

    status: str
    message: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()


class Pricer:
    """Prices the designs of one plan; keeps the operators of its steps between them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._groups = grouped(plan.cases)
        self._steps: dict[tuple[Any, ...], Workload] = {}
        self._suites: dict[str, Suite] = {}

    def outcome(self, design: Design) -> Outcome:
        """The metrics of a design; what is wrong with it is its message, not an error."""
        try:
            return self.price(self.plan.build(design))
        except NpuError as error:
            return Outcome("failed", str(error))
        except Exception as error:  # a poison point must not take the others with it
            return Outcome("failed", f"{type(error).__name__}: {error}")

    def price(self, chip: Chip) -> Outcome:
        """The metrics of a chip on all cases. Raises NpuError when it cannot be priced."""
        metrics = design_metrics(chip)
        rows: list[Row | None] = [None] * len(self.plan.cases)
        for key, places in self._groups.items():
            cases = [self.plan.cases[place] for place in places]
            made = self._kperf(chip, cases) if key[0] == "kperf" else self._step(chip, key, cases)
            table = self._table(made, metrics["cost_usd"], len(cases))
            for place, row in zip(places, table, strict=True):
                rows[place] = row
        return Outcome("done", "", metrics, tuple(row for row in rows if row is not None))

    def _table(self, made: dict[str, Any], cost_usd: float | None, size: int) -> list[Row]:
        """Columns as rows; what is not finite is None."""
        made["power_w"] = _ratio(made.get("avg_power_w"), made.get("chips"))
        if "tpot_s" in made:
            priced = (made.get(name) for name in ("avg_power_w", "chips"))
            made["usd_per_mtoken"] = bill.usd_per_mtoken(made.get("tokens_per_s"), cost_usd, *priced)
        columns: list[list[Any]] = []
        for name in COLUMNS:
            value = made.get(name)
            if value is None:
                columns.append([None] * size)
                continue
            array = np.broadcast_to(value, (size,))
            plain = array.tolist()
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                plain = [x if x == x and abs(x) != np.inf else None for x in plain]
            columns.append(plain)
        return list(zip(*columns, strict=True))

    # -- one model step --------------------------------------------------------------------------------

    def _step(self, chip: Chip, key: tuple[Any, ...], cases: list[Case]) -> dict[str, Any]:
        first = cases[0]
        model, fmt = changed_model(first.model, first.changes), llm.precision(first.precision)
        batch, tokens = (np.array([getattr(case, name) for case in cases]) for name in ("batch", "tokens"))
        try:
            tp = _degree(chip, model, fmt, first.tp, int(tokens.max()))
        except DoesNotFit as error:
            return {"fits": False, "note": str(error)}
        work = self._workload(key, tp, model, fmt, cases, batch, tokens)
        cost = bill.settled(estimate(work, chip, self.plan.fidelity), self.plan.power)
        need = parallel.footprint(model, fmt, sequences=batch, tokens=tokens, tp=tp).total_bytes
        joules = bill.energy_j(cost, self.plan.power)
        return _of_step(cost, joules, first.phase, batch, tokens) | {
            "memory_bytes": need,
            "fits": need <= parallel.usable_bytes(chip),
            "chips": tp,
        }

    def _workload(
        self, key: tuple[Any, ...], tp: int, model: Model, fmt: Precision, cases: list[Case], batch: np.ndarray,
        tokens: np.ndarray,
    ) -> Workload:  # fmt: skip
        found = self._steps.get((key, tp))
        if found is None:
            paged = cases[0].page is not None
            shared: dict[str, Any] = {
                "batch": batch, "weights": fmt.weights, "activations": fmt.activations, "kv": fmt.kv, "tp": tp,
                "page": np.array([case.page for case in cases]) if paged else None,
            }  # fmt: skip
            if cases[0].phase == "decode":
                found = llm.decode(model, context=tokens, **shared)
            else:
                found = llm.prefill(model, prompt=tokens, **shared)
            self._steps[key, tp] = found
        return found

    # -- K-Perf ------------------------------------------------------------------------------------------

    def _kperf(self, chip: Chip, cases: list[Case]) -> dict[str, Any]:
        first = cases[0]
        suite = self._suites.setdefault(first.suite, load_suite(first.suite))
        asked = None if first.tp == "auto" else first.tp
        model = changed_model(first.model, first.changes)
        result = kperf(
            chip, suite=suite, models=[model], precisions=[first.precision], tp=asked, fidelity=self.plan.fidelity,
            power_cap=self.plan.power == "capped",
        )  # fmt: skip
        by_case = {(r["input_tokens"], r["output_tokens"], r["concurrency_level"]): r for r in result.rows}
        rows = [by_case[case.tokens, case.output, str(case.batch)] for case in cases]
        made: dict[str, Any] = {
            name: [row[key] for row in rows] for name, key in _KPERF.items() if name not in ("bound", "note")
        }
        columns: dict[str, Any] = {name: np.array(values, dtype=float) for name, values in made.items()}
        columns |= {name: np.array([row[_KPERF[name]] for row in rows], dtype=object) for name in ("bound", "note")}
        return columns | {"fits": np.array([row["fits"] for row in rows])}


def design_metrics(chip: Chip, technology: Technology | None = None) -> dict[str, float | None]:
    """Figures of the chip itself, by ``DESIGN_METRICS``; None where nothing is known."""
    memory = chip.memory
    found: dict[str, float | None] = {
        "tdp_w": chip.power.tdp_w,
        "sram_bytes": chip.sram_bytes,
        "dram_bytes_per_s": memory.bandwidth_bytes_per_s if memory else None,
        "memory_capacity_bytes": memory.capacity_bytes if memory else None,
        "peak_flops_per_s": max(chip.peaks_flops_per_s.values(), default=None),
        **bill.bill(chip, technology),
    }
    return {name: found.get(name) for name in DESIGN_METRICS}


def _degree(chip: Chip, model: Model, fmt: Precision, asked: Any, tokens: int) -> int:
    return int(asked) if asked != "auto" else parallel.smallest_degree(model, fmt, chip, tokens=tokens)


def _ratio(part: Any, whole: Any) -> Any:
    return None if part is None or whole is None else np.asarray(part) / np.asarray(whole)


def _of_step(cost: Cost, joules: Any, phase: str, batch: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    made = batch if phase == "decode" else batch * tokens
    rate = made / cost.time_s
    found: dict[str, Any] = {
        "time_s": cost.time_s,
        "lower_bound_s": cost.lower_bound_s,
        "tpot_s" if phase == "decode" else "ttft_s": cost.time_s,
        "tokens_per_s": rate,
        "tokens_per_s_per_user": rate / batch,
        "tokens_per_s_per_chip": rate / cost.chips,
        "mfu": cost.mfu,
        "mbu": cost.mbu,
        "bound": cost.bound,
    }
    if joules is not None:
        found |= {"energy_j": joules, "avg_power_w": joules / cost.time_s, "tokens_per_j": made / joules}
    return found
