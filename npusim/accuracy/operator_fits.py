"""Fits calibration documents of attention, vector and expert operators from measured kernel rows.

Rows are taken by (chip, software, operator, dtype). Where a stack uses several kernels for one operator, the most
frequent one gives the document of the stack and each other one with enough rows a document of its own, found under
``variant(software, kernel)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from itertools import product

import numpy as np

from npusim.accuracy.dims import size_of, skew_of
from npusim.accuracy.fitting import Fit, Search, fit
from npusim.accuracy.rows import Rows
from npusim.chip import Chip
from npusim.cost.calibrated.family import Family
from npusim.cost.calibrated.vector import TRAFFIC, UNARY_TRAFFIC, VECTOR

MIN_ROWS = 80  # of a kernel that is not the stack's usual one, to get a document of its own
SEARCH_ROWS = 600
MAX_PRODUCT = 12  # combinations of choices tried together; more are tried one after the other
EXTRAS = (
    *("window", "causal", "splits", "pack_gqa", "kv_lora", "rope", "qk_nope", "v"),
    *("topk", "experts", "tp", "ep", "local_experts", "tok_per_expert"),
    *("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"),
)


def variant(software: str, kernel: str) -> str:
    """Software key of rows measured with a kernel that is not the usual one of its stack."""
    return f"{software} kernel={kernel}"


def dims_of(rows: Rows) -> dict[str, np.ndarray]:
    """Numeric columns and numeric keys of ``extra``, and ``skew`` from a power-law ``dist`` (0: balanced)."""
    dims = {name: rows.column(name) for name in rows.numbers if name != "latency_us"}
    for name in EXTRAS:
        values = rows.extra_number(name)
        if np.isfinite(values).any():
            dims[name] = values
    made = {"skew": skew_of(rows)} | {f"shape_{axis}": size_of(rows, axis) for axis in range(3)}
    dims |= {name: values for name, values in made.items() if np.isfinite(values).any()}
    return dims


def by_kernel(rows: Rows, software: str) -> Iterator[tuple[str, Rows]]:
    """Rows of one stack by the kernels that get a document of their own, with the software key of each."""
    kernel = rows.extra("kernel")
    names, counts = np.unique(kernel.astype(str), return_counts=True)
    usual = names[np.argmax(counts)]
    few = counts < MIN_ROWS
    if few.all() or len(names) > 4:  # kernels chosen per shape by an autotuner are part of the stack
        yield software, rows
        return
    yield software, rows.select(np.flatnonzero(kernel == usual))
    for name in names[~few]:
        if name != usual:
            yield variant(software, str(name)), rows.select(np.flatnonzero(kernel == name))


def starting_at(family: Family, values: Mapping[str, float]) -> Family:
    """The same family whose fits begin at ``values``."""
    assert is_dataclass(family) and not isinstance(family, type)
    specs = tuple(replace(spec, start=values[spec.name]) for spec in family.parameters)
    begun: Family = replace(family, parameters=specs)
    return begun


def known_parameters(family: Family, op: str) -> dict[str, float]:
    """Parameters the operator itself settles: the elements a vector operator moves per element of its output."""
    return {"traffic": TRAFFIC.get(op, UNARY_TRAFFIC)} if family is VECTOR else {}


def choose_menus(
    family: Family,
    chip: Chip,
    dtype: str,
    dims: Mapping[str, np.ndarray],
    latency_s: np.ndarray,
    known: Mapping[str, float],
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, float]]:
    """Discrete choices of the library (tile sizes, packing) with the smallest error on a sample, and its fit."""
    rows = np.arange(len(latency_s))
    if len(rows) > SEARCH_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SEARCH_ROWS, replace=False))

    def predict(which: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
        return family.seconds(chip, dtype, {n: c[which] for n, c in dims.items()}, values).time_s

    def tried(choice: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        search = Search(family.parameters, predict, latency_s, None, choice, SEARCH_ROWS, seed)
        values = search.run(rows)[0]
        return float(np.mean(np.abs(np.log(predict(rows, values) / latency_s[rows])))), values

    offered: Mapping[str, tuple[float, ...]] = getattr(family, "menus", {})
    best = {name: values[0] for name, values in offered.items()} | dict(known)
    windowed = np.nan_to_num(dims["window"]).any() if "window" in dims else False
    menus = {n: v for n, v in offered.items() if windowed or not n.startswith("window")}
    least, start = tried(best)
    if np.prod([len(v) for v in menus.values()]) <= MAX_PRODUCT:
        turns = [dict(zip(menus, values, strict=True)) for values in product(*menus.values())]
    else:
        turns = [{name: value} for name in (*menus, *list(menus)[:2]) for value in menus[name]]
    for change in turns:
        choice = best | change
        if choice != best:
            error, values = tried(choice)
            if error < least:
                best, least, start = choice, error, values
    return best, start


def fit_rows(family: Family, chip: Chip, op: str, dtype: str, rows: Rows, *, folds: int = 5, seed: int = 0) -> Fit:
    """Fits a family to the rows of one operator: its discrete choices on a sample, then the constants.

    Raises:
        InputError: too few rows.
    """
    dims = dims_of(rows)
    latency_s = rows.column("latency_us") * 1e-6
    menus, start = choose_menus(family, chip, dtype, dims, latency_s, known_parameters(family, op), seed)
    begun = starting_at(family, start)

    def attempt(starts: int, chance: int) -> Fit:
        return fit(begun, chip, dtype, dims, latency_s, folds=folds, seed=chance, starts=starts, fixed=menus)

    found = attempt(3, seed)
    if not found.converged:
        found = attempt(8, seed + 1)
    values = settled(family, found.parameters, lambda values: family.seconds(chip, dtype, dims, values).time_s)
    spans = {n: span if values[n] == found.parameters[n] else (values[n],) * 2 for n, span in found.intervals.items()}
    return replace(found, parameters=values, intervals=spans)


def settled(
    family: Family, values: Mapping[str, float], predict: Callable[[Mapping[str, float]], np.ndarray]
) -> dict[str, float]:
    """Parameters with those no row depends on (head sizes never measured) at a value that carries over.

    That is the sustained fraction found for head_dim 128 where there is one, else the family's start.

    Args:
        family: the family.
        values: what a fit found.
        predict: seconds of the fitted rows under given parameters.
    """
    base = predict(values)
    result = dict(values)
    for spec in family.parameters:
        if spec.log:
            up = values[spec.name] * 1.3
            moved = {**values, spec.name: up if up <= spec.high else values[spec.name] / 1.3}
            if np.allclose(predict(moved), base, rtol=1e-9, atol=0):
                known = values.get("engine_128") if spec.name.startswith("engine_") else None
                settled_value = spec.start if known is None else known
                # A term that is hidden at the fitted value may come forth at another one.
                if np.allclose(predict({**values, spec.name: settled_value}), base, rtol=1e-9, atol=0):
                    result[spec.name] = settled_value
    return result if np.allclose(predict(result), base, rtol=1e-9, atol=0) else dict(values)
