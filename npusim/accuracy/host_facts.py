"""What the operating system says about this CPU: its name, cores, caches and memory."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Cache:
    """A cache that holds data.

    Args:
        level: 1 for the one next to the core.
        capacity_bytes: of one instance.
        cores: logical CPUs that share an instance.
    """

    level: int
    capacity_bytes: int
    cores: int


@dataclass(frozen=True)
class Facts:
    """What is known without measuring.

    Args:
        model: name of the CPU.
        vendor: who makes it.
        cores: logical CPUs this process may use.
        caches: data caches, innermost first.
        memory_bytes: main memory of the machine, 0 when unknown.
        source: where caches were read.
    """

    model: str
    vendor: str
    cores: int
    caches: tuple[Cache, ...]
    memory_bytes: int
    source: str


def read_facts(root: Path = Path("/")) -> Facts:
    """Reads /proc and /sys below ``root``; what they lack is asked from the C library, else assumed."""
    info = _pairs(root / "proc/cpuinfo")
    memory = re.match(r"(\d+) kB", _pairs(root / "proc/meminfo").get("MemTotal", ""))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    caches, source = _sysfs_caches(root / "sys/devices/system/cpu/cpu0/cache", cores), "sysfs"
    if not caches:
        caches, source = _sysconf_caches(cores), "sysconf"
    if not caches:
        caches, source = (Cache(1, 32 * 2**10, 1), Cache(2, 2**20, 1)), "assumed: the system does not say"
    return Facts(
        info.get("model name") or platform.processor() or platform.machine(),
        info.get("vendor_id", ""),
        cores,
        caches,
        int(memory[1]) * 1024 if memory else 0,
        source,
    )


def _pairs(path: Path) -> dict[str, str]:
    """``name : value`` lines; the first of each name."""
    found: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _sysfs_caches(folder: Path, cores: int) -> tuple[Cache, ...]:
    found = []
    for index in sorted(folder.glob("index*")):
        size = re.match(r"(\d+)([KMG]?)", _text(index / "size"))
        level = _text(index / "level")
        if size and level.isdigit() and _text(index / "type") in ("Data", "Unified"):
            sharing = min(cores, _count(_text(index / "shared_cpu_list")))
            found.append(Cache(int(level), int(size[1]) * UNITS[size[2]], sharing))
    return tuple(sorted(found, key=lambda cache: cache.level))


def _count(listed: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names; at least 1."""
    total = 0
    for part in filter(None, listed.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last.isdigit() or not last):
            total += int(last or first) - int(first) + 1
    return max(total, 1)


def _sysconf_caches(cores: int) -> tuple[Cache, ...]:
    names = ("SC_LEVEL1_DCACHE_SIZE", "SC_LEVEL2_CACHE_SIZE", "SC_LEVEL3_CACHE_SIZE")
    known = getattr(os, "sysconf_names", {})
    sizes = [os.sysconf(name) if name in known else 0 for name in names]
    sharing = (1, 1, cores)
    return tuple(Cache(i + 1, size, sharing[i]) for i, size in enumerate(sizes) if size > 0)
