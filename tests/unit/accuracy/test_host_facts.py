"""Reading the machine's description from trees of files."""

import pytest

from npusim.accuracy.host_facts import Cache, _count, read_facts


def tree(root, caches, cpuinfo="model name\t: Some CPU\nvendor_id\t: Acme\n", meminfo="MemTotal:   2048 kB\n"):
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/meminfo").write_text(meminfo)
    for index, (level, kind, size, shared) in enumerate(caches):
        folder = root / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(f"{text}\n")


def test_a_usual_machine(tmp_path):
    caches = [
        (1, "Data", "48K", "0"),
        (1, "Instruction", "32K", "0"),
        (3, "Unified", "1G", "0-63"),
        (2, "Unified", "2M", "0"),
    ]
    tree(tmp_path, caches)
    facts = read_facts(tmp_path)
    assert facts.model == "Some CPU"
    assert facts.vendor == "Acme"
    assert facts.memory_bytes == 2048 * 1024
    assert facts.caches == (
        Cache(1, 48 << 10, 1), Cache(2, 2 << 20, 1), Cache(3, 1 << 30, min(64, facts.cores)),
    )  # fmt: skip
    assert facts.source == "sysfs"


def test_a_machine_that_says_nothing(tmp_path):
    facts = read_facts(tmp_path)
    assert facts.caches
    assert facts.memory_bytes == 0
    assert facts.cores >= 1
    assert facts.source != "sysfs"


def test_files_with_nonsense(tmp_path):
    tree(
        tmp_path,
        [("x", "Data", "48K", "0"), (2, "Unified", "lots", "0"), (1, "Data", "32K", "0,x-y")],
        "",
        "MemTotal: much\n",
    )
    facts = read_facts(tmp_path)
    assert facts.caches == (Cache(1, 32 << 10, 1),)
    assert facts.memory_bytes == 0


@pytest.mark.parametrize(
    ("text", "count"), [("0", 1), ("0-3", 4), ("0-1,4-5", 4), ("7,9", 2), ("", 1), ("a", 1), ("0-x", 1)]
)
def test_lists_of_cpus(text, count):
    assert _count(text) == count
