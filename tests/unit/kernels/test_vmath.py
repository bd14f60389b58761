"""Do the elementary functions err by no more than they state, in units in the last place?

All 2^32 arguments with NPUSIM_SOAK; by default a random sample, dense ranges, and the places where formulas change.
"""

import os

import numpy as np
import pytest

import npukernels as nk
from npukernels.activations import REFERENCES
from npukernels.cases_rows import activation_bound

SOAK = bool(os.environ.get("NPUSIM_SOAK"))
EDGES = (
    0.0,
    0.25,
    0.6,
    0.75,
    1.5,
    2.5,
    4.0,
    6.0,
    9.0,
    12.5,
    14.6,
    16.0,
    50.0,
    87.0,
    87.33655,
    88.72283,
    88.72284,
    103.97,
    104.0,
    1e-38,
    1e-45,
    3.4e38,
    np.inf,
)
NATIVE = [(op, v) for op in REFERENCES for v in nk.variants(op) if v.startswith("c-")]


def _call(op, x, variant):
    return nk.gelu(x, approximate="tanh", variant=variant) if op == "gelu_tanh" else getattr(nk, op)(x, variant=variant)


def _around(points, count=300):
    """The floats next to each point, of both signs."""
    bits = np.array(points, np.float32).view(np.int32)[:, None] + np.arange(-count, count + 1)
    x = np.maximum(bits, 0).astype(np.int32).ravel().view(np.float32)
    return np.concatenate([x, -x])


def _samples():
    if SOAK:
        for start in range(0, 2**32, 2**22):
            yield np.arange(start, start + 2**22, dtype=np.uint64).astype(np.uint32).view(np.float32)
        return
    rng = np.random.default_rng(0)
    yield rng.integers(0, 2**32, 60_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    yield np.linspace(-110, 110, 60_001, dtype=np.float32)
    yield np.linspace(-1, 1, 30_001, dtype=np.float32)
    yield _around(EDGES)


@pytest.mark.parametrize(("op", "variant"), NATIVE)
def test_error_in_ulp(op, variant):
    for x in _samples():
        with np.errstate(all="ignore"):
            expected = REFERENCES[op](x.astype(np.float64))
            rounded = expected.astype(np.float32)
            bound = activation_bound(op, np.where(np.isfinite(x), x, 0).astype(np.float64))
        got = (
            nk.gelu(x, approximate="tanh", variant=variant)
            if op == "gelu_tanh"
            else getattr(nk, op)(x, variant=variant)
        )

        with np.errstate(invalid="ignore"):
            good = (got == rounded) | (np.isnan(got) & np.isnan(rounded)) | (np.abs(got - expected) <= bound)
        # Next to the largest number, a correct result may round to infinity.
        good |= np.isinf(got) & (np.abs(expected) > 3.4028e38) & (np.sign(got) == np.sign(expected))
        assert good.all(), (x[~good][:3], got[~good][:3], expected[~good][:3])


@pytest.mark.parametrize(("op", "variant"), NATIVE)
def test_limits(op, variant):
    x = np.array([-np.inf, np.inf, -0.0, 0.0, np.nan], np.float32)
    y = _call(op, x, variant)
    limits = {"exp": (0, np.inf, 1, 1), "tanh": (-1, 1, 0, 0), "sigmoid": (0, 1, 0.5, 0.5)}
    assert tuple(y[:4]) == limits.get(op, (0, np.inf, 0, 0)) and np.isnan(y[4])
    if op not in ("exp", "sigmoid"):
        assert np.signbit(y[2]) and not np.signbit(y[3])
