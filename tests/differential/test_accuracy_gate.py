"""Errors of a fixed sample of each class may not grow by more than 5 % of their value.

The figures are in ``tests/accuracy_gate.json``, written by ``python -m bench.accuracy --gate``; an error that is
meant to grow needs new figures and a line in the changelog.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import accuracy
from bench.accuracy_classes import CLASSES

GROWTH = 1.05
FIGURES = json.loads(accuracy.GATE.read_text())


@pytest.mark.parametrize("name", FIGURES["shared"])
def test_the_error_of_a_class_does_not_grow(name: str, shared: Path):
    (kind,) = (kind for kind in CLASSES if kind.name == name)
    now = accuracy.gate_figures(shared / "data" / "measured", [kind])[name]
    assert now <= GROWTH * FIGURES["shared"][name], f"{name}: {now:.2f} % was {FIGURES['shared'][name]:.2f} %"


def test_every_class_with_rows_is_gated():
    assert len(FIGURES["shared"]) >= len(CLASSES) - 1


def test_our_own_rows():
    now = accuracy.own_figures()
    assert set(now) == set(FIGURES["own"])
    for name, error in now.items():
        assert error <= GROWTH * FIGURES["own"][name], name


def test_the_page_names_every_class_and_where_it_is_worse(shared: Path):
    kinds = [kind for kind in CLASSES if kind.name.startswith(("Gemmini", "collectives, HCCL"))]
    results = accuracy.measure(shared / "data" / "measured", kinds)
    page = accuracy.document(results)
    assert all(f"| {kind.name} |" in page for kind in kinds)
    assert "## Where npusim is worse" in page
    assert "PyTorchSim" in page
    assert all(result.baselines is not None for result in results)


def test_samples_are_the_same_in_every_run(shared: Path):
    folder = shared / "data" / "measured"
    (kind,) = (kind for kind in CLASSES if kind.name.startswith("Jetson Orin GEMM"))
    assert accuracy.gate_figures(folder, [kind]) == accuracy.gate_figures(folder, [kind])
