"""Writes what was measured of this CPU as a chip file (docs/chip-files.md)."""

from __future__ import annotations

import re

from npusim.accuracy.host_facts import Cache
from npusim.accuracy.host_machine import Figure, Machine

# Lanes of float32, and the register tile of the kernel library, per instruction set.
LANES = {"generic": 4, "avx2": 8, "avx512": 16}
TILES = {"generic": (4, 8), "avx2": (6, 16), "avx512": (14, 32)}
COMMAND = "npusim host"


def chip_name(model: str) -> str:
    """A chip name made of a CPU's: ``AMD EPYC`` → ``host-amd-epyc``."""
    words = re.sub(r"\((r|tm)\)|@.*|\b(cpu|processor)\b", " ", model.lower())
    return f"host-{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}"[:60].rstrip("-")


def render(machine: Machine, name: str = "") -> str:
    """The text of the chip file.

    Args:
        machine: what was measured.
        name: of the chip; by default made of the CPU's name.
    """
    facts, best = machine.facts, machine.instructions
    dram, call = _si(level_rate(machine, "dram"), "B/s"), _si(machine.call_s.value, "s")
    lines = [
        "format: npusim-chip/1",
        f"name: {name or chip_name(facts.model)}",
        f"title: {_quoted(f'{facts.model}, as measured')}",
        *([f"vendor: {_quoted(facts.vendor)}"] if facts.vendor else []),
        "category: cpu",
        "",
        "sources:",
        f"  host: {_quoted(f'measured here by npusim on {machine.date}, command: {COMMAND}')}",
        f"  system: {_quoted(f'what the operating system of this machine says ({facts.source}), {machine.date}')}",
        "",
        "notes:",
        f"  - {_quoted(f'Instruction set {best}; the register tile is that of the kernel library npukernels.')}",
        '  - "Each figure is the best of many short samples; a note gives how far the median lay from it."',
        '  - "Rates are of all cores at once where they were slower together than one by one."',
        *[f"  - {_quoted(text)}" for text in _other_rates(machine)],
        "",
        f"clock: {_figure(_si(machine.clock_hz.value, 'Hz'), machine.clock_hz)}",
        f"cores: {_stated(facts.cores, 'logical CPUs this process may use')}",
        "core:",
        *_engine(machine),
        "levels:",
        *_levels(machine),
        "memory:",
        "  kind: dram",
        f"  capacity: {_stated(f'{facts.memory_bytes or 2**30} B', 'main memory of the machine')}",
        f"  bandwidth: {_figure(dram, machine.team_bandwidth['dram'], _read(machine))}",
        "overheads:",
        f"  launch: {_figure(call, machine.call_s, 'a call of npukernels that computes nothing')}",
    ]
    return "\n".join(lines) + "\n"


def rates(machine: Machine) -> dict[str, tuple[float, Figure, str]]:
    """FLOP/s of all cores by format, with the figure it comes from and what it is."""
    best, cores = machine.instructions, machine.facts.cores
    fma = machine.rates[(best, "fma")]
    total = min(cores * fma.value, machine.team_rate.value)  # all cores at once may clock lower than one alone
    scale = total / fma.value
    widened = "float32 multiply-adds, operands widened when they are packed"
    found = {
        "fp32": (total, fma, "float32 multiply-adds from registers"),
        "bf16": (total, fma, widened + _each(machine, "bf16")),
        "fp16": (total, fma, widened + _each(machine, "fp16")),
    }
    products = {loop: machine.rates[(best, loop)] for loop in ("dot8", "dot16") if (best, loop) in machine.rates}
    if products:
        loop = max(products, key=lambda key: products[key].value)
        what = {"dot8": "uint8 by int8 products, summed in pairs", "dot16": "int16 products, widened from int8"}[loop]
        found["int8"] = (products[loop].value * scale, products[loop], what)
    return found


def level_rate(machine: Machine, name: str) -> float:
    """Bytes per second that all instances of a memory deliver together, or one for what a core has to itself."""
    one = machine.bandwidth[(name, "read")].value
    together = machine.team_bandwidth.get(name)
    found = machine.residency
    alone = found.dram_bytes_per_s if name == "dram" else found.cache_bytes_per_s
    return max(one, together.value, alone) if together else one


def _each(machine: Machine, loop: str) -> str:
    figure = machine.rates.get((machine.instructions, loop))
    return f"; widened at every use {_si(figure.value, 'FLOP/s')} a core" if figure else ""


def _other_rates(machine: Machine) -> list[str]:
    """One line per instruction set: what a core reaches in every loop."""
    names = dict.fromkeys(name for name, _ in machine.rates)
    found = []
    for name in names:
        listed = [f"{loop} {figure.value / 1e9:.4g}" for (own, loop), figure in machine.rates.items() if own == name]
        found.append(f"One core with {name}, G operations/s: {', '.join(listed)}.")
    return found


def _engine(machine: Machine) -> list[str]:
    best = machine.instructions
    rows, columns = TILES[best]
    per_cycle = machine.facts.cores * machine.clock_hz.value
    lines = ["  matrix:", "    engine: tensorcore", f"    shape: [{rows}, {columns}, 1]", "    flops_per_cycle:"]
    for fmt, (total, figure, what) in rates(machine).items():
        lines.append(f"      {fmt}: {_figure(f'{total / per_cycle:.6g}', figure, what)}")
    lines += ["  vector:", f"    lanes: {_stated(LANES[best], f'float32 of one {best} register')}", "    rates:"]
    for function, loop in (("add", "add"), ("rsqrt", "rsqrt"), ("convert", "fp16")):
        measured = machine.rates.get((best, loop))
        if measured:
            work = 2.0 if loop == "fp16" else 1.0  # a multiply-add comes with each conversion
            rate = measured.value / work / (machine.clock_hz.value * LANES[best])
            lines.append(f"      {function}: {_figure(f'{rate:.6g}', measured)}")
    return [*lines, "    overlaps_matrix: false"]


def _levels(machine: Machine) -> list[str]:
    lines = []
    for cache in machine.facts.caches:
        name = f"l{cache.level}"
        if name not in machine.footprints:
            continue
        figure = machine.team_bandwidth.get(name, machine.bandwidth[(name, "read")])
        own = cache.cores <= 1 or machine.facts.cores == 1
        lines += [
            f"  {name}:",
            *_scope(cache, machine.facts.cores, own),
            "    managed: cache",
            f"    capacity: {_stated(f'{cache.capacity_bytes} B', '')}",
            f"    bandwidth: {_figure(_si(level_rate(machine, name), 'B/s'), figure, _read(machine))}",
        ]
    return lines


def _scope(cache: Cache, cores: int, own: bool) -> list[str]:
    if own and cache.level < 3:
        return ["    scope: core"]
    if cache.cores >= cores:
        return ["    scope: chip"]
    return ["    scope: cluster", f"    instances: {max(1, cores // cache.cores)}"]


def _read(machine: Machine) -> str:
    return f"reading with {machine.instructions}"


def _si(value: float, unit: str) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n")):
        if value >= size:
            return f"{value / size:.5g} {prefix}{unit}"
    return f"{value:.5g} {unit}"


def _figure(text: str, figure: Figure, what: str = "") -> str:
    note = f"{what + '; ' if what else ''}median {100 * figure.spread:.0f} % off the best"
    return f"{{value: {text}, source: host, status: measured, note: {_quoted(note)}}}"


def _stated(value: object, what: str) -> str:
    note = f", note: {_quoted(what)}" if what else ""
    return f"{{value: {value}, source: system, status: measured{note}}}"


def _quoted(text: str) -> str:
    safe = "".join(c if c.isprintable() else " " for c in text).replace("\\", "/").replace('"', "'")
    return f'"{safe}"'
