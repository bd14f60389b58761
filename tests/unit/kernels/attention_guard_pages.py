"""Runs attention on operands that end, or begin, exactly at a page that must not be touched.

A program of its own, because an overrun kills the process that makes it: ``attention_guard_pages.py CASES``
prints how many calls it made; ``attention_guard_pages.py plant`` must die, which proves that the guards work.
"""

import sys

import numpy as np
from guard_pages import DATA_PAGES, PAGE, Guarded

import npukernels as nk

KINDS = (np.float32, np.float16, np.uint16, np.uint8, np.int8)


class Area(Guarded):
    """Guarded pages that hold an array of any shape."""

    def array(self, shape, dtype, at_end, extra=0):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = (DATA_PAGES + 1) * PAGE - size + extra if at_end else PAGE
        return self._bytes[start : start + size].view(dtype).reshape(shape)


def plant() -> None:
    """Attends to keys whose last element lies in the guard page."""
    k = Area().array((1, 1, 8, 16), np.float32, True, extra=4)
    nk.attention(np.ones((1, 1, 1, 16), np.float32), k, np.ones((1, 1, 8, 16), np.float32))


def main(cases: int) -> None:
    """Draws ``cases`` shapes; every variant computes each at both ends, whole and paged."""
    rng = np.random.default_rng(7)
    q_area, k_area, v_area, out_area, ks_area, vs_area, table_area, lengths_area = (Area() for _ in range(8))
    variants = [v for v in nk.variants("attention") if v.startswith("c-")]
    ran = 0
    for _ in range(cases):
        kv_heads, group, seq_kv, dim, v_dim = (int(x) for x in rng.integers(1, (3, 6, 150, 34, 34)))
        seq_q = int(rng.choice([1, rng.integers(1, 20)]))
        heads, kind = kv_heads * group, KINDS[rng.integers(len(KINDS))]
        block = int(rng.choice([seq_kv, 16]))
        blocks = -(-seq_kv // block)
        for at_end in (False, True):
            q = q_area.array((1, heads, seq_q, dim), np.float32, at_end)
            out = out_area.array((1, heads, seq_q, v_dim), np.float32, at_end)
            table = table_area.array((1, blocks), np.int32, at_end)
            lengths = lengths_area.array((1,), np.int32, at_end)
            q[...], table[...], lengths[...] = 0, np.arange(blocks), seq_kv
            for paged in (False, True):
                shape = (blocks, block, kv_heads) if paged else (1, kv_heads, seq_kv)
                k, v = (a.array((*shape, w), kind, at_end) for a, w in ((k_area, dim), (v_area, v_dim)))
                ks, vs = (area.array(shape, np.float32, at_end) for area in (ks_area, vs_area))
                k[...], v[...], ks[...], vs[...] = 0, 0, 1, 1
                for variant in variants:
                    out[...] = np.nan
                    where = (table, lengths) if paged else ()
                    run = nk.paged_attention if paged else nk.attention
                    run(q, k, v, *where, ks, vs, causal=True, out=out, variant=variant)
                    assert not out.any(), (variant, shape, dim, v_dim, seq_q, group, kind)
                    ran += 1
    print(ran)


if __name__ == "__main__":
    plant() if sys.argv[1] == "plant" else main(int(sys.argv[1]))
