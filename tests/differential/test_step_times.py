"""Random steps by the table against ``direct``, which asks ``estimate``: never more than one per cent apart.

Steps of prompts, of decodes and of both; 1 to 16 prompts in chunks of 1 to 8192 tokens, primes among them; contexts up
to the model's limit, alike, spread or skewed; up to 1024 decodes. 25 a shape, 2000 with ``NPUSIM_SOAK=1``.
"""

from __future__ import annotations

import numpy as np
import pytest

from npusim.chip import load_chip
from npusim.llm import precision
from npusim.models import load_model
from npusim.serving.steps import TOLERANCE, Shape, StepTimes, direct
from tests.conftest import SOAK

DRAWS = 2000 if SOAK else 25
CHUNK, SEQUENCES = 8192, 1024
PRIMES = (1, 2, 3, 5, 7, 11, 13, 17, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191)
SHAPES = [
    ("h100", "llama-3.1-8b", "bf16", 1, "tile"),
    ("rtx-4090", "llama-3.1-8b", "w4a16", 1, "tile"),
    ("npu-2pf", "llama-3.1-8b", "fp8", 1, "tile"),
    ("npu-2pf", "llama-3.3-70b", "fp8", 2, "tile"),
    ("h100", "llama-3.3-70b", "fp8", 4, "tile"),
    ("h100", "gpt-oss-20b", "bf16", 1, "tile"),
    ("h200", "mixtral-8x7b", "bf16", 2, "tile"),
    ("rngd", "llama-3.1-8b", "int8", 1, "tile"),
    ("h200", "deepseek-v2-lite", "bf16", 1, "tile"),
    ("b200", "deepseek-v3", "fp8", 8, "tile"),
    ("h100", "qwen3-30b-a3b", "fp8", 2, "tile", 8),  # expert-parallel over four attention groups
    ("tpu-v5e", "gemma-2-9b", "bf16", 2, "tile"),
    ("h100", "gpt-oss-20b", "bf16", 1, "roofline"),
    ("h200", "deepseek-v2-lite", "bf16", 1, "roofline"),
]
Step = tuple[list[tuple[int, int]], list[int]]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda case: "-".join(map(str, case)))
def times(request: pytest.FixtureRequest) -> StepTimes:
    chip, name, fmt, tp, fidelity, *ep = request.param
    model = load_model(name)
    limit = model.max_positions or 131072
    size = {"max_tokens": CHUNK + SEQUENCES, "max_sequences": SEQUENCES, "max_context": limit, "ep": ep[0] if ep else 1}
    return StepTimes(Shape(model, load_chip(chip), precision(fmt), tp, 1, fidelity, **size))


def about(random: np.random.Generator, low: int, high: int) -> int:
    """An integer between, as likely in each octave."""
    return min(int(np.exp(random.uniform(np.log(low + 1), np.log(high + 2)))) - 1, high)


def prompts(random: np.random.Generator, limit: int) -> list[tuple[int, int]]:
    left, pairs = CHUNK, []
    for _ in range(about(random, 1, 16)):
        most = min(left, limit)
        if most < 1:
            break
        new = min(int(random.choice(PRIMES)), most) if random.random() < 0.25 else about(random, 1, most)
        pairs.append((new, 0 if random.random() < 0.3 else about(random, 0, limit - new)))
        left -= new
    return pairs


def decodes(random: np.random.Generator, limit: int) -> list[int]:
    count, longest = about(random, 1, SEQUENCES), about(random, 0, limit - 1)
    kind = random.integers(3)
    if kind == 0:
        return [longest] * count
    if kind == 1:
        return [int(x) for x in random.integers(0, longest + 1, count)]
    few = np.minimum(random.geometric(0.01, count), limit - 1)  # many short ones and some as long as may be
    few[random.random(count) < 0.05] = limit - 1
    return [int(x) for x in few]


def draw(random: np.random.Generator, limit: int) -> Step:
    kind = random.integers(3)
    return (prompts(random, limit) if kind != 1 else []), (decodes(random, limit) if kind != 0 else [])


def test_no_step_is_off_by_more_than_a_percent(times: StepTimes):
    random, table, errors = np.random.default_rng(17), times.table(), []
    for _ in range(DRAWS):
        step = draw(random, times.shape.max_context)
        error = abs(table.price(*step)[0] / direct(times.shape, *step) - 1)
        assert error <= 0.01, step
        errors.append(error)
    print(f"{DRAWS} steps: mean {np.mean(errors):.3%}, p95 {np.quantile(errors, 0.95):.3%}, max {max(errors):.3%}")
    assert np.mean(errors) <= 0.001


def test_parts_never_fall_and_stay_within_their_tolerance(times: StepTimes):
    """What bounds the error of steps not drawn: values between two nodes lie between those of the nodes."""
    from npusim.serving.steps import UNFITTED, _common_ops, _expanded_ops, _priced

    random = np.random.default_rng(19)
    parts = ((times.common, _common_ops, CHUNK, TOLERANCE), (times.expanded, _expanded_ops, CHUNK, 2 * TOLERANCE))
    for part, build, high, tolerance in parts:
        at = np.unique(random.integers(1, high + 1, 2 * DRAWS))
        true, nodes = _priced(times.shape, build(times.shape, at), at).seconds(UNFITTED), part.seconds(UNFITTED)
        if not true.any():
            continue
        before = np.searchsorted(part.nodes, at, side="right") - 1
        after = np.minimum(before + 1, len(nodes) - 1)
        assert np.all(nodes[before] <= true * (1 + 1e-9))
        assert np.all(true <= np.maximum(nodes[after], nodes[before]) * (1 + 1e-9))
        assert np.max(np.abs(np.interp(at, part.nodes, nodes) / true - 1)) <= tolerance
