"""Fixtures every suite shares, and how much the stochastic suites do.

``NPUSIM_SOAK=1`` (``make soak``) runs them at the counts the issues state.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from npusim.chip import Chip, load_chip
from npusim.models import Attention, Ffn, Layer, Model

ROOT = Path(__file__).parents[1]
SOAK = bool(os.environ.get("NPUSIM_SOAK"))

settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("soak", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("soak" if SOAK else "ci")

# A chip with round figures, so that expected values can be written down by hand: 4 cores × 1000 FLOP per
# cycle (bf16; fp8 double) × 1 GHz = 4 TFLOP/s; 100 GB/s; 10 GB.
TOY = """
format: npusim-chip/1
name: toy
title: Toy
clock: 1 GHz
cores: 4
core:
  matrix: {engine: systolic, rows: 20, cols: 25, flops_per_cycle: {bf16: 1000, fp8: 2000}}
  vector: {lanes: 10, rates: {add: 1, exp: 0.5}}
levels:
  l1: {scope: core, capacity: 1 MiB, bytes_per_cycle: 100}
memory: {kind: hbm3, capacity: 10 GB, bandwidth: 100 GB/s, usable: 1.0}
link: {bandwidth: 10 GB/s}
power: {tdp: 100 W}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Chip:
    """The chip with round figures."""
    file = tmp_path / "toy.yaml"
    file.write_text(TOY)
    return load_chip(str(file))


@pytest.fixture
def tiny() -> Model:
    """A two-layer model small enough to count by hand: hidden 8, 2 heads of 4, 1 KV head, MLP 16, vocabulary 32."""
    layer = Layer(Attention("gqa", 2, 1, 4, 4), Ffn("dense", 16))
    return Model("tiny", "Tiny", 8, 32, ((layer, 2),), tied_embeddings=False, max_positions=1024)


@pytest.fixture
def shared() -> Path:
    """Facts and measurements kept beside the repository; tests that need them skip where they are absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the measured data and facts are not beside this checkout")
    return folder
