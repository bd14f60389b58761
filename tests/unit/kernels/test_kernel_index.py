"""Does docs/kernels.md list every op with its variants, and does every page it links exist?"""

import re
from pathlib import Path

import npukernels as nk

DOCS = Path(__file__).parents[3] / "docs"


def listed():
    """Variants by op, as the table has them."""
    rows = [line.split("|")[1:3] for line in (DOCS / "kernels.md").read_text().splitlines() if line.startswith("| `")]
    return {op: tuple(names.strip().split(", ")) for ops, names in rows for op in re.findall(r"`(\w+)`", ops)}


def test_the_index_lists_the_variants_of_every_op():
    table = listed()
    assert {op: table.get(op) for op in nk.ops()} == {op: nk.variants(op, runnable=False) for op in nk.ops()}


def test_the_index_links_every_page():
    linked = set(re.findall(r"\((kernels-\w+\.md)\)", (DOCS / "kernels.md").read_text()))
    assert linked == {path.name for path in DOCS.glob("kernels-*.md")}
