"""Array cycles and accesses against SCALE-Sim's output, row by row, and against a cycle-by-cycle simulation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npusim as ns
from npusim.cost.systolic import array_run
from npusim.errors import InputError


@pytest.fixture
def golden(shared: Path) -> list[dict[str, str]]:
    with open(shared / "data" / "golden" / "scalesim.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["status"] == "ok"]
    assert len(rows) >= 400
    return rows


def test_every_row_of_the_peer_is_met_exactly(golden):
    for row in golden:
        m, n, k = (int(row[key]) for key in ("M", "N", "K"))
        ours = ns.systolic_cycles(m, n, k, rows=int(row["rows"]), cols=int(row["cols"]), dataflow=row["dataflow"])
        # The peer prints the index of the last cycle.
        assert ours - 1 == int(row["compute_cycles"]) - int(row["stall_cycles"]), row


def test_sram_accesses_of_stall_free_runs_are_met_exactly(golden):
    checked = 0
    for row in golden:
        if row["bandwidth_mode"] != "CALC":
            continue
        size = {"rows": int(row["rows"]), "cols": int(row["cols"]), "dataflow": row["dataflow"]}
        run = array_run(int(row["M"]), int(row["N"]), int(row["K"]), **size)
        writes = int(row["sram_ofmap_writes"])
        if row["dataflow"] == "os":  # the peer over-counts by one drained edge per fold
            writes -= (size["rows"] + size["cols"]) * run.folds
        assert (run.a_reads, run.b_reads, run.out_writes) == (
            int(row["sram_ifmap_reads"]),
            int(row["sram_filter_reads"]),
            writes,
        )
        checked += 1
    assert checked >= 300


def os_oracle(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """Output-stationary array simulated: element (i, j) does MAC t in cycle t + i + j; then results leave by row."""
    cycles = 0
    for _ in range(0, m, rows):
        for _ in range(0, n, cols):
            # The peer's fold runs the full skew of the physical array whatever part of it is used.
            last_mac = max(t + i + j for t in range(k) for i in (0, rows - 1) for j in (0, cols - 1))
            cycles += last_mac + 1
    return cycles


@given(*(st.integers(1, 40) for _ in range(3)), *(st.integers(1, 9) for _ in range(2)))
def test_output_stationary_equals_a_simulated_array(m, n, k, rows, cols):
    assert ns.systolic_cycles(m, n, k, rows=rows, cols=cols, dataflow="os") == os_oracle(m, n, k, rows, cols)


@given(
    *(st.integers(1, 5000) for _ in range(3)),
    *(st.integers(1, 300) for _ in range(2)),
    st.sampled_from(["os", "ws", "is"]),
)
def test_laws(m, n, k, rows, cols, dataflow):
    run = array_run(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    assert run.cycles * rows * cols >= m * n * k
    assert 0 < run.utilisation <= 1
    assert run.a_reads >= m * k and run.b_reads >= k * n and run.out_writes >= m * n
    swapped = array_run(n, m, k, rows=cols, cols=rows, dataflow="os")
    assert swapped.cycles == array_run(m, n, k, rows=rows, cols=cols, dataflow="os").cycles


def test_a_larger_array_can_be_slower():
    """Not a law: 100 × 100 outputs with K = 64 take longer on 256 × 256 than on 128 × 128 (fill and drain grow)."""
    small, large = (ns.systolic_cycles(100, 100, 64, rows=s, cols=s, dataflow="os") for s in (128, 256))
    assert (small, large) == (318, 574)


def test_arrays_broadcast():
    m, k = np.array([1, 100, 257])[:, None], np.array([64, 1000])
    cycles = ns.systolic_cycles(m, 64, k, rows=32, cols=np.array([16, 32]), dataflow="ws")
    one = [
        [
            ns.systolic_cycles(int(a), 64, int(b), rows=32, cols=int(c), dataflow="ws")
            for b, c in zip(k, (16, 32), strict=True)
        ]
        for a in m[:, 0]
    ]
    assert cycles.tolist() == one


def test_huge_dimensions_stay_exact():
    assert ns.systolic_cycles(2**40, 2**40, 2**40, rows=1, cols=1, dataflow="os") == 2**80 * 2**40


@pytest.mark.parametrize(
    ("change", "says"), [({"dataflow": "ows"}, "did you mean"), ({"rows": 0}, "rows"), ({"m": 2**70}, "m")]
)
def test_bad_input(change, says):
    arguments = {"m": 8, "n": 8, "k": 8, "rows": 4, "cols": 4, "dataflow": "os"} | change
    with pytest.raises(InputError, match=says):
        ns.systolic_cycles(**arguments)
