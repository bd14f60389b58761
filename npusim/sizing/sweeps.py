"""``sweep``: prices a plan's designs, keeps every result, and goes on where it stopped."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npusim.errors import InputError, Problem
from npusim.sizing.cases import Case
from npusim.sizing.evaluation import COLUMNS, Outcome
from npusim.sizing.executors import Chunk, Work, check, price_chunk, run
from npusim.sizing.plan import Design, Plan, load_plan, make_plan
from npusim.sizing.quantities import DESIGN_METRICS, POINT_METRICS
from npusim.sizing.store import Keys, Store, StoreError

COMMIT_S = 0.5  # results are committed at least this often


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Args:
        done: designs with a result on disk, those of earlier runs included.
        total: designs of the plan.
        failed: designs that could not be priced.
        elapsed_s: since this run began.
        eta_s: seconds left at the rate of this run; None before the first result.
        keys: units that were written last.
    """

    done: int
    total: int
    failed: int
    elapsed_s: float
    eta_s: float | None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep: designs × cases.

    Args:
        plan: what was swept.
        designs: in the order of the plan.
        status: ``done`` or ``failed`` by design.
        messages: why a design failed.
        design_metrics: metric → array over designs, nan where unknown.
        metrics: metric → array (designs, cases), nan where unknown.
        fits: whether each point fits the memory, (designs, cases).
        bounds: what bounds each point.
        keys: of the units in the store.
    """

    plan: Plan
    designs: tuple[Design, ...]
    status: np.ndarray
    messages: tuple[str, ...]
    design_metrics: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]
    fits: np.ndarray
    bounds: np.ndarray
    keys: tuple[str, ...] = field(repr=False)

    @property
    def cases(self) -> tuple[Case, ...]:
        """What every design was priced on."""
        return self.plan.cases

    def metric(self, name: str) -> np.ndarray:
        """A metric or parameter over (designs, cases). Raises KeyError for an unknown one."""
        shape = (len(self.designs), len(self.cases))
        if name in self.metrics:
            return self.metrics[name]
        if name in self.design_metrics:
            return np.broadcast_to(self.design_metrics[name][:, None], shape)
        head, _, rest = name.partition(".")
        if head == "serving":
            field = {"context": "tokens", "prompt": "tokens"}.get(rest, rest)
            return np.broadcast_to([float(getattr(case, field) or np.nan) for case in self.cases], shape)
        known = [dict(design.parameters) | {f"chip.{k}": v for k, v in design.changes} for design in self.designs]
        return np.broadcast_to(np.array([float(one[name]) for one in known])[:, None], shape)

    @property
    def feasible(self) -> np.ndarray:
        """Points that fit and keep to every constraint, (designs, cases)."""
        found = self.fits & (self.status == "done")[:, None]
        for limit in self.plan.constraints:
            values = self.metric(limit.metric)
            found = found & (values <= limit.limit if limit.at_most else values >= limit.limit)
        return np.asarray(found)

    @property
    def feasible_designs(self) -> np.ndarray:
        """Designs all of whose points are feasible."""
        return np.asarray(self.feasible.all(axis=1))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every point as one flat mapping: parameters, case, metrics, ``fits`` and ``feasible``."""
        feasible = self.feasible
        for d, design in enumerate(self.designs):
            head = {"design": d, **dict(design.parameters), "status": str(self.status[d]), "message": self.messages[d]}
            head |= {name: _plain(values[d]) for name, values in self.design_metrics.items()}
            for c, case in enumerate(self.cases if self.status[d] == "done" else ()):
                case_columns = {key: value for key, value in case.to_dict().items() if key != "changes"}
                figures = {name: _plain(values[d, c]) for name, values in self.metrics.items()}
                figures["chips"] = figures["chips"] and int(figures["chips"])
                yield head | case_columns | {f"model.{k}": v for k, v in case.changes} | figures | {
                    "fits": bool(self.fits[d, c]), "bound": self.bounds[d, c], "feasible": bool(feasible[d, c]),
                }  # fmt: skip
            if self.status[d] != "done":
                yield head | {"feasible": False}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: plain types, stable keys, units in the keys."""
        return {
            "plan": self.plan.name,
            "chip": self.plan.chip.name,
            "fidelity": self.plan.fidelity,
            "parameters": {name: list(values) for name, values in self.plan.parameters.items()},
            "constraints": [limit.text for limit in self.plan.constraints],
            "designs": len(self.designs),
            "failed": int((self.status == "failed").sum()),
            "cases": len(self.cases),
            "rows": list(self.rows()),
        }


def _plain(value: Any) -> Any:
    return None if value != value else float(value)


def sweep(
    plan: Plan | str | os.PathLike[str] | Mapping[str, Any], *, store: Store | str | os.PathLike[str] | None = None,
    executor: str = "serial", workers: int = 1, cluster: str = "local",
    progress: Callable[[Progress], None] | None = None, work: Work = price_chunk,
) -> Sweep:  # fmt: skip
    """Prices every design of a plan on every case.

    Args:
        plan: a plan, the path of its file, or its plain data.
        store: file of results, made or continued; None keeps them in memory.
        executor: ``serial``, ``processes`` or ``dask``; results are the same.
        workers: processes of a pool or of a local cluster.
        cluster: ``local`` or the address of a Dask scheduler.
        progress: called after every commit.
        work: what prices a chunk of designs.

    Raises:
        InputError: a bad plan, or a store that cannot be used (``StoreError``).
    """
    checked = plan if isinstance(plan, Plan) else make_plan(plan) if isinstance(plan, Mapping) else load_plan(plan)
    check(executor, workers)
    opened = store if isinstance(store, Store) else Store(store or ":memory:")
    try:
        keys = Keys(checked)
        designs = tuple(checked.designs())
        names = tuple(keys.unit(design) for design in designs)
        there = opened.begin(checked, keys)
        _fill(checked, keys.plan, designs, names, there, opened, (executor, workers, cluster, work), progress)
        return read(checked, designs, names, opened)
    finally:
        if opened is not store:
            opened.close()


def _fill(
    plan: Plan, plan_key: str, designs: tuple[Design, ...], names: tuple[str, ...], there: set[str], store: Store,
    how: tuple[str, int, str, Work], progress: Callable[[Progress], None] | None,
) -> None:  # fmt: skip
    """Prices what is missing and commits it."""
    number: dict[Design, int] = {}
    missing = []
    for index, (design, name) in enumerate(zip(designs, names, strict=True)):
        number.setdefault(design, index)
        if name not in there:
            there.add(name)  # equal designs are priced once
            missing.append(design)
    executor, workers, cluster, work = how
    start, before, done, failed = time.monotonic(), len(designs) - len(missing), 0, 0
    waiting: list[tuple[str, int, Design, Outcome]] = []
    last = start

    def commit() -> None:
        nonlocal last, done
        store.add(plan_key, waiting)
        done += len(waiting)
        last = time.monotonic()
        if progress:
            left = (last - start) / done * (len(missing) - done) if done else None
            written = tuple(item[0] for item in waiting)
            progress(Progress(before + done, len(designs), failed, last - start, left, written))
        waiting.clear()

    chunks = _chunks(missing, workers, len(plan.cases))
    for chunk, outcomes in run(plan.data, chunks, executor, workers, cluster, work):
        for design, outcome in zip(chunk, outcomes, strict=True):
            failed += outcome.status == "failed"
            waiting.append((names[number[design]], number[design], design, outcome))
        if time.monotonic() - last >= COMMIT_S:
            commit()
    if waiting or not done:
        commit()


def _chunks(designs: list[Design], workers: int, cases: int) -> list[Chunk]:
    """Some dozens of chunks a worker, of at most about 5 000 points: little to lose and little to carry."""
    size = max(1, min(len(designs) // (workers * 16), 5_000 // max(cases, 1)))
    return [tuple(designs[i : i + size]) for i in range(0, len(designs), size)]


def read(plan: Plan, designs: tuple[Design, ...], names: tuple[str, ...], store: Store) -> Sweep:
    """The results of a plan's designs out of a store."""
    shape = (len(designs), len(plan.cases))
    metrics = {name: np.full(shape, np.nan) for name in POINT_METRICS}
    figures = {name: np.full(len(designs), np.nan) for name in DESIGN_METRICS}
    fits, bounds = np.zeros(shape, bool), np.full(shape, None, dtype=object)
    status, messages = np.full(len(designs), "failed", dtype=object), []
    for d, name in enumerate(names):
        unit = store.unit(name)
        if unit is None:
            raise StoreError(Problem("a result that was written is missing", file=store.path))
        status[d] = unit["status"]
        messages.append(unit["message"])
        for metric in DESIGN_METRICS:
            figures[metric][d] = np.nan if unit[metric] is None else unit[metric]
        if unit["status"] == "done":
            columns = dict(zip(COLUMNS, zip(*store.points(name), strict=True), strict=True))
            for metric in POINT_METRICS:
                metrics[metric][d] = np.array(columns[metric], dtype=float)
            fits[d], bounds[d] = np.array(columns["fits"], dtype=bool), columns["bound"]
    return Sweep(plan, designs, status, tuple(messages), figures, metrics, fits, bounds, names)


# -- files ------------------------------------------------------------------------------------------------


def export(rows: Iterator[dict[str, Any]], path: str | os.PathLike[str]) -> int:
    """Writes rows as CSV or Parquet by the file's ending; returns how many.

    Raises:
        InputError: another ending, pyarrow missing, or a file that cannot be written.
    """
    target = Path(path)
    if target.suffix not in (".csv", ".parquet"):
        raise InputError(Problem(f"'{target.name}' has no known ending", "--export", allowed=".csv or .parquet"))
    held: StoreError | None = None
    found: list[dict[str, Any]] = []
    try:
        found.extend(rows)
    except StoreError as error:  # what could be read is written first
        held = error
    names = list(dict.fromkeys(name for row in found for name in row))
    temporary = target.with_name(target.name + ".part")
    try:
        if target.suffix == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, names)
                writer.writeheader()
                writer.writerows(found)
        else:
            _parquet(found, names, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(Problem(f"cannot write: {error.strerror or error}", file=str(target))) from None
    if held is not None:
        raise held
    return len(found)


def _parquet(found: list[dict[str, Any]], names: list[str], path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            Problem("pyarrow is not installed", "--export", allowed=".csv", hint="pip install 'npusim[parquet]'")
        ) from None
    columns = {name: _one_type([row.get(name) for row in found]) for name in names}
    pq.write_table(pa.table(columns), path)


def _one_type(values: list[Any]) -> list[Any]:
    """A column of one type: mixed ones become text, mixed numbers floats."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    make: Callable[[Any], Any] = float if kinds <= {int, float} else str
    return [None if value is None else make(value) for value in values]
