"""Our own measured rows: the documents beside them predict the shapes they were not fitted to.

The gate that needs nothing beside the repository. A class may not become worse than it was by more than a twentieth;
``MAPE_PCT`` is what was measured when the rows were committed, and the issue's target for all of them is 12 %.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from npusim.accuracy.host import load_host, validate_rows

ROWS = Path(__file__).parents[2] / "bench/rows"
FOLDERS = sorted(path.parent for path in ROWS.glob("*/chip.yaml"))
TARGET_PCT = 12.0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_no_class_is_predicted_worse_than_when_it_was_measured(folder):
    found = validate_rows(load_host(folder), folder / "validation.csv")
    assert found.priced == found.rows
    assert found.overall.mape_pct <= TARGET_PCT
    before = json.loads((folder / "mape_pct.json").read_text())
    now = {f"{group.op} {group.dtype}": group.overall.mape_pct for group in found.groups}
    assert set(now) == set(before)
    worse = {name: (before[name], value) for name, value in now.items() if value > 1.05 * before[name]}
    assert not worse


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_naive_roofline_is_far_worse(folder):
    found = validate_rows(load_host(folder), folder / "validation.csv")
    assert found.roofline.mape_pct > 3 * found.overall.mape_pct


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_fitted_and_validated_shapes_differ(folder):
    host = load_host(folder)
    seen, fresh = (validate_rows(host, folder / name).tables[0].rows for name in ("fitted.csv", "validation.csv"))

    def shapes(rows):
        sizes = [
            rows.column(name) for name in ("m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv")
        ]
        table = np.nan_to_num(np.stack(sizes, axis=1), nan=-1)
        words = zip(rows.column("op"), rows.column("dtype"), strict=True)
        return {(*pair, *line) for pair, line in zip(words, map(tuple, table.tolist()), strict=True)}

    assert not shapes(seen) & shapes(fresh)
    assert {pair[:2] for pair in shapes(seen)} == {pair[:2] for pair in shapes(fresh)}
