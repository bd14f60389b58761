"""Errors of the serving engine on the vendor's tables may not grow by more than 5 % of their value.

The figures are in ``tests/serving_gate.json``, written by ``python -m bench.serving_accuracy --gate``; an error that is
meant to grow needs new figures and a line in the changelog.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import serving_accuracy
from npusim.serving.throughput import score
from tests.conftest import SOAK

GROWTH = 1.05
FIGURES = json.loads(serving_accuracy.GATE.read_text())
MODELS = serving_accuracy.MODELS if SOAK else serving_accuracy.MODELS[:1]


@pytest.mark.parametrize("name", MODELS)
def test_the_error_at_maximum_load_does_not_grow(name: str, shared: Path):
    runs = [run for run in serving_accuracy.observed("vendor", shared / "data") if run.model.name == name]
    now = serving_accuracy.gate_figures(score(runs))[name]
    assert now <= GROWTH * FIGURES[name], f"{name}: {now:.2f} % was {FIGURES[name]:.2f} %"


def test_every_model_is_gated_below_its_bar():
    assert set(FIGURES) == set(serving_accuracy.MODELS) and max(FIGURES.values()) <= 15
