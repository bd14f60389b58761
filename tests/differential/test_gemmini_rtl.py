"""Replayed mappings against cycle-exact RTL runs of Gemmini (gemmini_dosa; docs/gemmini.md has the analysis)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import npusim as ns
from npusim.cost.replay import replay

INT8 = {"a": "int8", "b": "int8", "out": "int8"}


def operator(row: dict[str, str]) -> ns.Op:
    """The layer of a row, its input just as large as the outputs ask."""
    r, s, p, q, c, k, n, stride = (int(row[f"prob.{d}"]) for d in ("R", "S", "P", "Q", "C", "K", "N", "Wstride"))
    if r == s == q == 1:
        return ns.gemm(p, k, c, **INT8)
    return ns.conv2d(n, (q - 1) * stride + s, (p - 1) * stride + r, c, k, s, r, stride=stride, **INT8)


def ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks, as Spearman's coefficient takes them."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


@pytest.fixture
def measured(shared: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured cycles, replayed cycles and stride of every test row."""
    with (shared / "data" / "measured" / "gemmini_dosa" / "rtl_test.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["target.gemmini_cycle"]]
    chip = ns.load_chip("gemmini")
    found = [replay(operator(row), row["mapping.mapping"], chip).cycles for row in rows]
    cycles = [float(row["target.gemmini_cycle"]) for row in rows]
    return np.array(cycles), np.array(found), np.array([int(row["prob.Wstride"]) for row in rows])


def test_cycles_of_given_mappings(measured):
    cycles, found, _ = measured
    error = found / cycles - 1
    assert len(cycles) >= 111
    assert np.mean(np.abs(error)) <= 0.12
    assert abs(np.mean(error)) <= 0.05
    assert np.corrcoef(ranks(cycles), ranks(found))[0, 1] >= 0.97


def test_strided_rows_are_no_tail(measured):
    cycles, found, stride = measured
    assert np.sum(stride == 2) >= 15
    assert np.mean(np.abs(found / cycles - 1)[stride == 2]) <= 0.12
