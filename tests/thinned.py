"""A pytest plugin for runs that are many times slower: ``EVERY=7`` keeps every seventh of a file's long lists."""

import os

import numpy as np
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs when the test modules have drawn their shapes."""
    step = int(os.environ.get("EVERY", "1"))
    for module in {item.module for item in items}:
        for name in ("SHAPES", "LENGTHS", "SIZES", "FLOATS"):
            values = getattr(module, name, None)
            if isinstance(values, list | np.ndarray) and len(values) > 100:
                setattr(module, name, values[::step].copy())
