"""The roofline against published end-to-end results: a bound is never slower than what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import published


@pytest.fixture
def facts(shared: Path) -> list[dict]:
    return published.rows(shared / "data" / "facts" / "published.json")


def test_static_batches_are_never_faster_than_the_roofline(facts):
    compared = published.static_batches(facts)
    assert len(compared) == 172
    worst = max(compared, key=lambda item: item.ratio)
    assert worst.ratio <= 1, worst
    # A bound that is uselessly loose would hide a lost term: the best measured row comes near it.
    assert worst.ratio >= 0.6


def test_vendor_throughput_stays_below_the_bound(facts):
    compared = published.vendor_throughput(facts)
    assert len(compared) == 30
    ratios = sorted(item.ratio for item in compared)
    assert ratios[0] >= 1
    assert ratios[-1] <= 2.5


def test_power_of_the_simple_model(facts):
    watts = published.power(facts)
    assert len(watts) == 40
    assert sum(abs(item.ratio - 1) for item in watts) / 40 <= 0.20


def test_the_page_in_docs_is_the_one_that_is_generated(facts):
    page = Path(__file__).parents[2] / "docs" / "published.md"
    assert page.read_text() == published.document(facts), "run: python -m bench.published"
