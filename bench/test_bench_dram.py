"""Bursts simulated per second on one core, by pattern and memory, at a window of 64 per channel.

Bars: 5 million per second on streams, 2 million on random bursts.
"""

from __future__ import annotations

import pytest

from npusim.cost.dram import generate, simulate
from npusim.cost.dram_spec import load_memory, memory_names

REQUESTS = 1_000_000


@pytest.mark.parametrize("share", [0.0, 0.33])
@pytest.mark.parametrize("pattern", ["sequential", "chunked", "random"])
@pytest.mark.parametrize("name", memory_names())
def test_requests_per_second(benchmark, name, pattern, share):
    spec = load_memory(name)
    addresses, writes = generate(spec, pattern, REQUESTS, run_bytes=1024, write_share=share)

    run = benchmark.pedantic(simulate, args=(spec, addresses), kwargs={"writes": writes}, rounds=5, warmup_rounds=1)

    assert run.reads + run.writes == REQUESTS
    benchmark.extra_info.update(
        requests_per_s=REQUESTS / benchmark.stats.stats.min, efficiency=run.efficiency, hit_share=run.hits / REQUESTS
    )
