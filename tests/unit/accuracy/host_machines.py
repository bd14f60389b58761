"""A machine with round figures, as if it had been measured."""

from npusim.accuracy.host_facts import Cache, Facts
from npusim.accuracy.host_machine import Figure, Machine, Residency

CACHES = (Cache(1, 32 << 10, 1), Cache(2, 1 << 20, 1), Cache(3, 32 << 20, 4))


def figure(value, spread=0.05):
    return Figure(value, spread)


def facts(**changes):
    given = {"model": "Acme(R) One CPU @ 3 GHz", "vendor": "Acme", "cores": 4, "caches": CACHES}
    return Facts(**{**given, "memory_bytes": 16 << 30, "source": "sysfs", **changes})


def machine(**changes):
    """4 cores at 3 GHz, 96 GFLOP/s each."""
    loops = {"fma": 96e9, "fma-chain": 12e9, "add": 48e9, "rsqrt": 3e9, "fp16": 48e9, "bf16": 48e9, "dot16": 96e9,
             "dot8": 192e9}  # fmt: skip
    rates = {("generic", "fma"): figure(24e9), **{("avx2", name): figure(rate) for name, rate in loops.items()}}
    reading = {"l1": 200e9, "l2": 100e9, "l3": 60e9, "dram": 20e9}
    given = {
        "facts": facts(),
        "instructions": "avx2",
        "clock_hz": figure(3e9),
        "rates": rates,
        "team_rate": figure(384e9),
        "bandwidth": {(name, "read"): figure(rate) for name, rate in reading.items()},
        "team_bandwidth": {"l3": figure(180e9), "dram": figure(40e9)},
        "footprints": {"l1": 16 << 10, "l2": 512 << 10, "l3": 16 << 20, "dram": 256 << 20},
        "residency": Residency(60e9, 16e9, 0.5),
        "call_s": figure(4e-6),
        "date": "2026-11-21",
    }
    return Machine(**{**given, **changes})
