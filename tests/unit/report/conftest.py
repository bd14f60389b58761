"""Results that the report tests share; each is computed once."""

from __future__ import annotations

import pytest

from npusim.kperf_suite import KPerf, kperf, load_suite


@pytest.fixture(scope="session")
def one() -> KPerf:
    return kperf("rebel-quad")


@pytest.fixture(scope="session")
def two() -> KPerf:
    return kperf(["rebel-quad", "h100"], models=["exaone-3.5-32b"], precisions=["bf16", "fp8"])


@pytest.fixture(scope="session")
def nothing_fits() -> KPerf:
    return kperf("h100", models=["llama-3.1-405b"], precisions=["bf16"], tp=1)


@pytest.fixture(scope="session")
def one_token() -> KPerf:
    """A suite of single output tokens: no decode step, so no TPOT."""
    suite = load_suite().model_copy(update={"lengths": ((128, 1), (2048, 1))})
    return kperf("rebel-quad", suite=suite, models=["llama-3.1-8b"], precisions=["fp8"])


@pytest.fixture(scope="session")
def no_tdp() -> KPerf:
    from npusim.chip import load_chip

    chip = load_chip("rebel-quad")
    bare = chip.model_copy(update={"power": chip.power.model_copy(update={"tdp_w": None})})
    return kperf(bare, models=["llama-3.1-8b"], precisions=["fp8"])
