"""Speed of serving. Bars: ≥ 1000 × real time for Llama-3.1-8B at 10 requests/s on one chip, 10^5 requests ≤ 10 s on one
core, memory linear in live requests, a million-request day within minutes; a step table within a few seconds."""

from __future__ import annotations

import resource
import time

import npusim as ns
from npusim.llm import precision
from npusim.serving.steps import Shape, StepTimes


def serve(requests: int, rate: float = 10.0):
    return ns.serve(
        "h100", "llama-3.1-8b", arrivals=f"poisson:{rate}", requests=requests, chips=1, input="lognormal:800,cv=1",
        output="exponential:250",
    )  # fmt: skip


def test_a_hundred_thousand_requests(benchmark):
    serve(100)  # prices the steps
    start = time.process_time()
    result = benchmark.pedantic(lambda: serve(100_000), rounds=1)
    cpu_s = time.process_time() - start
    benchmark.extra_info.update(cpu_s=cpu_s, times_real_time=result.run.totals["now"] / cpu_s)
    assert result.run.totals["finished"] == 100_000
    assert cpu_s <= 10 and result.run.totals["now"] / cpu_s >= 1000


def test_a_day_of_a_million_requests(benchmark):
    serve(100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    result = benchmark.pedantic(lambda: serve(1_000_000, 1_000_000 / 86400), rounds=1)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    benchmark.extra_info.update(cpu_s=time.process_time() - start, grown_mib=grown_mib,
                                most_live=result.run.totals["most_live"])  # fmt: skip
    assert result.run.totals["finished"] == 1_000_000


def test_step_table(benchmark):
    """Pricing all parts of the steps of 70B on four chips, from nothing."""
    from npusim.cost import tile

    tile._search.cache_clear()
    shape = Shape(ns.load_model("llama-3.3-70b"), ns.load_chip("h100"), precision("fp8"), 4, max_context=8192)
    start = time.process_time()
    times = benchmark.pedantic(lambda: StepTimes(shape), rounds=1)
    benchmark.extra_info["cpu_s"] = time.process_time() - start
    assert times.table().price([(512, 0)], [1000] * 8)[0] > 0
