"""Sums of calibrated operators against measured static batches: closer than tile, and still too fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npusim.accuracy.end_to_end import timed
from npusim.accuracy.plain_end_to_end import summed
from npusim.chip import load_chip
from npusim.models import load_model


@pytest.mark.parametrize(
    ("device", "chip", "software", "kernels"),
    [("Nvidia H100 GPU", "h100", "vLLM", "vllm"), ("Nvidia A100 GPU", "a100", "TensorRT-LLM", "trtllm")],
)
def test_calibrated_sums_are_closer_than_tile(shared: Path, device: str, chip: str, software: str, kernels: str):
    rows = timed(shared / "data/measured/llm_inference_bench/e2e.csv", "Meta-Llama-3-8B$")
    same = (rows.column("device") == device) & (rows.column("software") == software)
    part = rows.select(np.flatnonzero(same & (rows.column("num_devices") == 1))[::3])
    assert len(part) >= 10
    common = (part, np.full(len(part), "request", dtype=object), load_chip(chip), load_model("llama-3.1-8b"), "fp16", 1)
    measured = part.column("latency_s")
    tile, calibrated = summed(*common, "tile"), summed(*common, "tile", "auto", kernels)
    errors = [np.mean(np.abs(seconds / measured - 1)) for seconds in (tile, calibrated)]
    assert errors[1] < 0.85 * errors[0]
    assert np.median(calibrated / measured) < 1  # what lies between operators is in no operator
