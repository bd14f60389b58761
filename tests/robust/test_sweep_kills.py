"""Sweeps under kill -9: of the coordinator at random moments, and of Dask workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from npusim.errors import InputError
from npusim.sizing import executors
from npusim.sizing.store import Store
from npusim.sizing.sweeps import sweep
from tests.conftest import ROOT, SOAK
from tests.unit.sizing import poisons

KILLS = 200 if SOAK else 4
DASK_RUNS = 50 if SOAK else 1
PLAN = {
    "chip": "npu-2pf",
    "fidelity": "roofline",
    "parameters": {"chip.cores": {"from": 16, "to": 135, "step": 1}},
    "workloads": [{"model": "llama-3.1-8b", "precision": "fp8", "batch": [1, 64], "context": [100, 4096]}],
}
# Prices with a pause, commits every chunk, and says so once the commit has returned.
RUNNER = f"""
import sys, time
from npusim.sizing import sweeps
from tests.unit.sizing.poisons import price_chunk
sweeps.COMMIT_S = 0.0
def work(data, chunk):
    time.sleep(0.004)
    return price_chunk(data, chunk)
def told(progress):
    print("\\n".join(progress.keys), flush=True)
print("begin", flush=True)
sweeps.sweep({PLAN!r}, store=sys.argv[1], work=work, progress=told)
"""


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def killed_run(file: Path, after_s: float) -> set[str]:
    """One run of the coordinator, killed some time after it began; the keys it acknowledged."""
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(file)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert runner.stdout is not None
    assert runner.stdout.readline() == "begin\n"
    time.sleep(after_s)
    runner.send_signal(signal.SIGKILL)
    out = runner.stdout.read()
    runner.stdout.close()
    runner.wait()
    # A line cut by the kill was not acknowledged in full.
    return {line for line in out[: out.rfind("\n") + 1].splitlines() if line}


def test_nothing_acknowledged_is_lost_and_the_result_is_the_same(tmp_path: Path):
    rng, clean = random.Random(11), Store(":memory:")
    sweep(PLAN, store=clean)
    whole = clean.dump()
    file, acknowledged, rounds = tmp_path / "r.db", set[str](), 0
    for _ in range(KILLS):
        acknowledged |= killed_run(file, rng.uniform(0.0, 0.5))
        if not file.exists():
            continue
        store = Store(file)
        lines = store.dump().splitlines()
        there = {key for key in acknowledged if store.unit(key) is not None}
        complete = {len(store.points(key)) for key in there}
        store.close()
        assert there == acknowledged and complete <= {4}
        assert set(lines) <= set(whole.splitlines()) and len(lines) == len(set(lines))
        if len(acknowledged) == 120:  # done: once more from the beginning
            file.unlink()
            acknowledged, rounds = set(), rounds + 1
    sweep(PLAN, store=file)
    assert Store(file).dump() == whole


@pytest.mark.filterwarnings("ignore")
class TestDask:
    @pytest.fixture(autouse=True)
    def _path(self, monkeypatch: pytest.MonkeyPatch):
        pytest.importorskip("distributed")
        monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])

    @pytest.mark.skipif(not SOAK, reason="starts three clusters")
    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_the_same_for_any_number_of_workers(self, workers: int):
        stores = Store(":memory:"), Store(":memory:")
        sweep(PLAN, store=stores[0])
        sweep(PLAN, store=stores[1], executor="dask", workers=workers)
        assert stores[0].dump() == stores[1].dump()

    @pytest.mark.parametrize("run", range(DASK_RUNS))
    def test_a_killed_worker_costs_nothing(self, run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        mark = tmp_path / "killed"
        monkeypatch.setenv("NPUSIM_TEST_MARK", str(mark))
        plan = PLAN | {"parameters": {"chip.cores": [16, 32, poisons.POISON, 64 + run]}}
        stores = Store(":memory:"), Store(":memory:")
        sweep(plan, store=stores[0])
        sweep(plan, store=stores[1], executor="dask", workers=2, work=poisons.once_killed)
        assert mark.exists()
        assert stores[0].dump() == stores[1].dump()

    @pytest.mark.skipif(not SOAK, reason="many workers have to die")
    def test_a_design_that_kills_every_worker_is_marked(self):
        plan = PLAN | {"parameters": {"chip.cores": [16, poisons.POISON, 64]}}
        found = sweep(plan, executor="dask", workers=2, work=poisons.killing)
        assert found.status.tolist() == ["done", "failed", "done"]
        assert np.isfinite(found.metrics["time_s"][[0, 2]]).all()

    def test_no_scheduler_is_one_message(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(executors, "CONNECT_S", 1)
        with pytest.raises(InputError, match="no Dask scheduler"):
            sweep(PLAN, executor="dask", cluster="tcp://127.0.0.1:9")
