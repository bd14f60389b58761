"""A pytest plugin for runs that are many times slower: ``EVERY=7`` keeps every seventh of what a test file lists."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs when the test modules have drawn their shapes."""
    step = int(os.environ.get("EVERY", "1"))
    for module in {item.module for item in items}:
        for name in ("SHAPES", "LENGTHS", "SIZES", "FLOATS"):
            if hasattr(module, name):
                setattr(module, name, getattr(module, name)[::step])
