"""Sweeps: every figure is the one ``estimate`` gives, whoever prices it; results outlive what goes wrong."""

from __future__ import annotations

import csv
import itertools
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npusim as ns
from npusim import llm, parallel
from npusim.cost.area import area_mm2
from npusim.cost.money import chip_cost_usd
from npusim.cost.power import at_power_limit, energy_parts
from npusim.errors import InputError
from npusim.sizing.store import Store, StoreError
from npusim.sizing.sweeps import export, sweep
from tests.conftest import SOAK
from tests.unit.sizing import poisons

EXACT = 1e-12
CORES = [32, 48, 64]
PLAN = {
    "chip": "npu-2pf",
    "fidelity": "roofline",
    "parameters": {"chip.cores": CORES, "chip.memory.stacks": [4, 6]},
    "workloads": [{"model": "llama-3.1-8b", "precision": "fp8", "batch": [1, 64], "context": [100, 4096]}],
}


def dump(data: object, **how: object) -> str:
    store = Store(":memory:")
    sweep(data, store=store, **how)
    return store.dump()


@pytest.mark.parametrize(("fidelity", "power"), [("roofline", "tdp"), ("tile", "capped"), ("tile", "bottom-up")])
def test_the_grid_is_a_loop_over_estimate(fidelity: str, power: str):
    works = [
        {"model": "llama-3.1-8b", "precision": "fp8", "phase": "decode", "batch": [1, 7, 300], "context": [9, 30_000]},
        {"model": "llama-3.3-70b", "precision": "w4a16", "phase": "prefill", "batch": 2, "prompt": [17, 1000], "tp": 4},
    ]
    parameters = {"chip.clock": ["0.7 GHz", "1 GHz"], "chip.levels.l1.capacity": ["1 MiB", "4 MiB"]}
    made = {"parameters": parameters, "fidelity": fidelity, "power": power, "workloads": works}
    found = sweep(PLAN | made)
    base = ns.load_chip("npu-2pf")
    variants = itertools.product((0.7e9, 1e9), (2**20, 2**22))
    for d, (clock, capacity) in enumerate(variants):
        chip = base.replace({"clock": clock, "levels.l1.capacity": capacity})
        assert found.design_metrics["area_mm2"][d] == pytest.approx(area_mm2(chip).total_mm2, rel=EXACT)
        assert found.design_metrics["cost_usd"][d] == pytest.approx(chip_cost_usd(chip).total_usd, rel=EXACT)
        for c, case in enumerate(found.cases):
            fmt = llm.precision(case.precision)
            kinds = {"weights": fmt.weights, "activations": fmt.activations, "kv": fmt.kv, "tp": case.tp}
            if case.phase == "decode":
                step = ns.decode(case.model, batch=case.batch, context=case.tokens, **kinds)
            else:
                step = ns.prefill(case.model, batch=case.batch, prompt=case.tokens, **kinds)
            cost = ns.estimate(step, chip, fidelity)
            if power == "capped":
                cost = at_power_limit(cost)
            joules = sum(energy_parts(cost).values()) * cost.chips if power == "bottom-up" else cost.energy_j
            need = parallel.footprint(
                ns.load_model(case.model), fmt, sequences=case.batch, tokens=case.tokens, tp=case.tp
            ).total_bytes
            expected = {"time_s": cost.time_s, "lower_bound_s": cost.lower_bound_s, "mfu": cost.mfu, "mbu": cost.mbu,
                        "energy_j": joules, "memory_bytes": need}  # fmt: skip
            for name, value in expected.items():
                assert found.metrics[name][d, c] == pytest.approx(value, rel=EXACT), (name, case)
            assert found.bounds[d, c] == cost.bound
            assert found.fits[d, c] == (need <= parallel.usable_bytes(chip))


@pytest.mark.parametrize("power", ["tdp", "capped"])
def test_kperf_rows_are_those_of_kperf(power: str):
    plan = PLAN | {
        "power": power,
        "workloads": [],
        "suite": {"models": ["llama-3.1-8b"], "precisions": ["fp8", "w4a16"]},
    }
    found = sweep(plan)
    for d, (cores, stacks) in enumerate(itertools.product(CORES, (4, 6))):
        chip = ns.load_chip("npu-2pf").replace({"cores": cores, "memory.stacks": stacks})
        rows = ns.kperf(chip, models=["llama-3.1-8b"], precisions=["fp8", "w4a16"], power_cap=power == "capped").rows
        assert len(rows) == len(found.cases)
        for c, row in enumerate(rows):
            assert found.fits[d, c] == row["fits"]
            for name in ("ttft_s", "tpot_s", "tokens_per_s", "tokens_per_j", "memory_bytes"):
                value = np.nan if row[name] is None else row[name]
                assert found.metrics[name][d, c] == pytest.approx(value, rel=EXACT, nan_ok=True)


def test_constraints_choose_points_and_designs():
    found = sweep(PLAN | {"constraints": ["tpot <= 3 ms", "chip.cores >= 48", "serving.batch >= 1"],
                          "parameters": PLAN["parameters"] | {"serving.batch": [1, 64]}})  # fmt: skip
    cores = np.repeat(CORES, 2)[:, None]
    assert (found.feasible == (found.fits & (found.metrics["tpot_s"] <= 3e-3) & (cores >= 48))).all()
    assert 0 < found.feasible.sum() < found.feasible.size
    assert found.feasible_designs.tolist() == found.feasible.all(axis=1).tolist()


class TestExecutors:
    @pytest.mark.parametrize("workers", [1, 2] + [4] * SOAK)
    def test_processes_give_the_same(self, workers: int):
        assert dump(PLAN, executor="processes", workers=workers) == dump(PLAN)

    def test_an_error_is_that_design_s_outcome(self):
        found = sweep(PLAN | {"parameters": {"chip.levels.l1.capacity": ["1 B", "4 MiB"]}, "fidelity": "tile"})
        assert found.status.tolist() == ["failed", "done"]
        assert "no tile" in found.messages[0] and not found.feasible[0].any() and found.fits[1].all()

    def test_what_kills_a_worker_is_marked_and_the_rest_finishes(self):
        found = sweep(PLAN, executor="processes", workers=2, work=poisons.killing)
        clean = sweep(PLAN)
        poisoned = np.repeat(CORES, 2) == poisons.POISON
        assert (found.status == np.where(poisoned, "failed", "done")).all()
        assert {found.messages[d] for d in np.flatnonzero(poisoned)} == {"the worker died of it"}
        assert np.array_equal(found.metrics["time_s"][~poisoned], clean.metrics["time_s"][~poisoned])

    def test_unknown_names_and_addresses(self):
        with pytest.raises(InputError, match="did you mean 'dask'"):
            sweep(PLAN, executor="desk")
        with pytest.raises(InputError, match="workers"):
            sweep(PLAN, executor="processes", workers=0)


class TestStore:
    def test_a_second_run_prices_nothing_and_other_plans_share_designs(self, tmp_path: Path):
        calls: list[int] = []

        def counting(data, chunk):
            calls.append(len(chunk))
            return poisons.price_chunk(data, chunk)

        file = tmp_path / "r.db"
        first = sweep(PLAN, store=file, work=counting)
        assert sum(calls) == 6
        second = sweep(PLAN, store=file, work=counting)
        assert sum(calls) == 6 and np.array_equal(first.metrics["time_s"], second.metrics["time_s"])
        sweep(PLAN | {"parameters": {"chip.cores": [64, 80], "chip.memory.stacks": [6]}}, store=file, work=counting)
        assert sum(calls) == 7

    def test_an_interrupted_sweep_goes_on_where_it_stopped(self, tmp_path: Path):
        class Stop(Exception):
            pass

        done = 0

        def stopping(data, chunk):
            nonlocal done
            done += 1
            if done == 4:
                raise Stop
            return poisons.slow(data, chunk)

        file, acknowledged = tmp_path / "r.db", []
        with pytest.raises(Stop):
            sweep(PLAN, store=file, work=stopping, progress=lambda p: acknowledged.extend(p.keys))
        kept = {key for (key,) in sqlite3.connect(file).execute("SELECT key FROM units")}
        assert kept >= set(acknowledged)
        sweep(PLAN, store=file)
        assert Store(file).dump() == dump(PLAN)

    def test_progress_counts_to_the_end(self):
        seen = []
        sweep(PLAN, progress=seen.append)
        assert seen[-1].done == seen[-1].total == 6 and seen[-1].eta_s == 0 and seen[-1].failed == 0

    def test_a_damaged_file_is_named_and_what_is_whole_can_be_read(self, tmp_path: Path):
        file = tmp_path / "r.db"
        big = PLAN | {"parameters": {"chip.cores": {"from": 16, "to": 64, "step": 1}}}
        sweep(big, store=file)
        sqlite3.connect(file).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        whole = file.read_bytes()
        page = 4096 * (len(whole) // 4096 - 3)  # a leaf of the points
        file.write_bytes(whole[:page] + b"\xff" * 4096 + whole[page + 4096 :])
        with pytest.raises(StoreError, match="damaged"):
            sweep(big, store=file)
        rows = []
        with pytest.raises(StoreError, match="could not be read"):
            rows.extend(row for row in iter_rows(file, rows))
        assert 0 < len(rows) < 49 * 4

    def test_a_file_that_is_none(self, tmp_path: Path):
        file = tmp_path / "r.db"
        file.write_text("this is no database, but long enough to be looked at as one" * 20)
        with pytest.raises(StoreError, match="no store"):
            sweep(PLAN, store=file)
        with pytest.raises(StoreError, match="cannot be written"):
            sweep(PLAN, store=tmp_path / "missing" / "r.db")
        with pytest.raises(StoreError, match="no such file"):
            Store(tmp_path / "none.db", readonly=True)

    def test_a_full_disk_is_named_and_earlier_results_stay(self, tmp_path: Path):
        file = tmp_path / "r.db"
        sweep(PLAN, store=file)
        before = Store(file, readonly=True).dump()
        # A limit on the size of files fails writes as a full disk does.
        code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from npusim.sizing.sweeps import sweep
from npusim.sizing.store import StoreError
plan = {PLAN | {"parameters": {"chip.cores": {"from": 2, "to": 900, "step": 1}}}!r}
resource.setrlimit(resource.RLIMIT_FSIZE, ({file.stat().st_size + 60_000},) * 2)
try:
    sweep(plan, store={str(file)!r})
except StoreError as error:
    print(error)
"""
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "the disk is full" in told and "earlier results are safe" in told
        after = Store(file, readonly=True)
        assert set(before.splitlines()) <= set(after.dump().splitlines())
        sweep(PLAN | {"parameters": {"chip.cores": [128]}}, store=file)

    @pytest.mark.parametrize("copied", [False, True])
    def test_a_read_only_file(self, tmp_path: Path, copied: bool):
        file = tmp_path / "r.db"
        Store(file)
        holder = sqlite3.connect(file)  # as long as somebody reads, the log is not emptied
        holder.execute("SELECT * FROM units").fetchall()
        sweep(PLAN, store=file)
        assert Path(f"{file}-wal").stat().st_size > 0
        if copied:  # as a crash and a copy of both files leave them
            Path(f"{file}-shm").unlink()
        for one in tmp_path.iterdir():
            one.chmod(0o444)
        tmp_path.chmod(0o555)
        code = f"""
import os
from npusim.sizing.sweeps import sweep
from npusim.sizing.store import Store, StoreError
plan = {PLAN | {"parameters": {"chip.cores": [128]}}!r}
sweep(plan)  # loads everything before the rights are given up
if os.geteuid() == 0:
    os.seteuid(65534)
print(len(list(Store({str(file)!r}, readonly=True).rows())))
try:
    sweep(plan, store={str(file)!r})
except StoreError as error:
    print(error)
"""
        for folder in tmp_path.parents:  # that other users may pass
            if "pytest" in str(folder):
                folder.chmod(0o755)
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        tmp_path.chmod(0o755)
        assert told.stdout.startswith("24\n") and "cannot be written" in told.stdout, told.stderr


def iter_rows(file: Path, rows: list):
    """Rows one by one, so that those before an error are kept."""
    for row in Store(file, readonly=True).rows():
        rows.append(row)
        yield from ()


class TestExport:
    def test_csv_and_parquet_hold_every_row(self, tmp_path: Path):
        duckdb = pytest.importorskip("duckdb")
        found = sweep(PLAN | {"constraints": ["tpot <= 3 ms"]})
        for name in ("r.csv", "r.parquet"):
            assert export(found.rows(), tmp_path / name) == 24
        with (tmp_path / "r.csv").open() as stream:
            read = list(csv.DictReader(stream))
        assert [float(row["time_s"]) for row in read] == found.metrics["time_s"].ravel().tolist()
        query = f"SELECT count(*), min(time_s), sum(CAST(feasible AS INT)) FROM '{tmp_path / 'r.parquet'}'"
        count, least, feasible = duckdb.sql(query).fetchall()[0]
        assert (count, least, feasible) == (24, found.metrics["time_s"].min(), found.feasible.sum())

    def test_other_endings_and_places(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"\.csv or \.parquet"):
            export(iter([]), tmp_path / "r.xls")
        with pytest.raises(InputError, match="cannot write"):
            export(iter([]), tmp_path / "no" / "r.csv")
