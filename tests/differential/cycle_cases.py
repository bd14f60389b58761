"""Random programs, chips and operators for the tests of the cycle model."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from npusim.chip import Chip, load_chip
from npusim.cost import lowering, roofline, tile
from npusim.cost.program import Builder, Program, Queue
from npusim.errors import InputError
from npusim.workload import Op, attention, conv2d, elementwise, embedding, experts, gemm, norm, softmax
from tests.conftest import TOY

FIXED = "sram"  # a memory kind without a timing table: one server at the pin rate
TIMED = ("hbm2", "hbm3", "gddr6", "lpddr5")
_SYSTOLIC = "engine: systolic, rows: 20, cols: 25"
_SHARED = "  l2: {scope: chip, capacity: 4 MiB, bytes_per_cycle: 200}\nmemory:"
_ENGINES = (
    "engine: systolic, rows: 20, cols: 25",
    "engine: systolic, rows: 20, cols: 25, dataflow: os",
    "engine: systolic, rows: 20, cols: 25, dataflow: is, overlap: false",
    "engine: dot, lanes: 20, width: 25",
    "engine: tensorcore, shape: [8, 8, 16]",
)


@cache
def base(engine: int = 0, shared: bool = False) -> Chip:
    """The toy chip with one of the engines, a shared memory, and a DMA set-up time."""
    text = TOY.replace(_SYSTOLIC, _ENGINES[engine]).replace("power:", "dma: {engines: 4, setup: 50 ns}\npower:")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "toy.yaml"
        file.write_text(text.replace("memory:", _SHARED) if shared else text)
        return load_chip(str(file))


def random_chip(rng: random.Random, kind: str | None = None) -> Chip:
    """A small chip; half of them with DRAM timings unless ``kind`` names the memory."""
    shared = rng.random() < 0.5
    changes: dict[str, object] = {
        "cores": rng.randint(1, 8),
        "core.vector.overlaps_matrix": rng.random() < 0.5,
        "levels.l1.buffers": rng.randint(1, 4),
        "levels.l1.capacity": float(rng.choice((32, 64, 256, 1024)) * 1024),
        "levels.l1.bytes_per_cycle": float(rng.choice((4, 16, 100, 1000))),
        "memory.bandwidth": float(rng.choice((10, 100, 400)) * 1e9),
        "memory.kind": kind or (FIXED if rng.random() < 0.5 else rng.choice(TIMED)),
        "dma.setup": rng.choice((0.0, 1e-8, 1e-6)),
    }
    if shared:
        changes["levels.l2.capacity"] = float(rng.choice((16, 256, 4096)) * 1024)
        changes["levels.l2.bytes_per_cycle"] = float(rng.choice((10, 200, 4000)))
    return base(rng.randrange(len(_ENGINES)), shared).replace(changes)


def random_gemm(rng: random.Random) -> Op:
    m, n, k = (rng.randint(1, 200) for _ in range(3))
    fmt = rng.choice(("bf16", "fp8"))
    return gemm(m, n, k, fmt, fmt, groups=rng.choice((1, 1, 1, 2, 5)), bias=rng.random() < 0.2)


def random_attention(rng: random.Random) -> Op:
    groups, packed = rng.randint(1, 3), rng.randint(1, 4)
    seq_q = rng.choice((1, 1, rng.randint(2, 150)))
    seq_kv = seq_q + rng.choice((0, rng.randint(0, 500)))
    window = rng.choice((None, rng.randint(1, 300)))
    return attention(rng.randint(1, 3), groups * packed, groups, rng.choice((16, 32, 64)), seq_q, seq_kv,
                     window=window, causal=window is not None or rng.random() < 0.7)  # fmt: skip


def random_op(rng: random.Random) -> Op:
    """Any kind of operator, small."""
    rows, cols = rng.randint(1, 300), rng.randint(1, 300)
    kind = rng.randrange(9)
    if kind < 3:
        return random_gemm(rng)
    if kind < 5:
        return random_attention(rng)
    if kind == 5:
        return experts(rng.randint(1, 60), rng.randint(1, 2), rng.randint(2, 8), rng.randint(1, 90), rng.randint(1, 90))
    if kind == 6:
        depth = rng.choice((1, 2))
        return conv2d(rng.randint(1, 2), rng.randint(3, 12), rng.randint(3, 12), depth * rng.randint(1, 8),
                      depth * rng.randint(1, 16), rng.randint(1, 3), rng.randint(1, 3), stride=rng.randint(1, 2),
                      padding=rng.randint(0, 1), groups=depth)  # fmt: skip
    if kind == 7:
        return rng.choice((norm(rows, cols), softmax(rows, cols), embedding(rows, cols)))
    return elementwise(rows * cols, rng.choice(("add", "silu", "quantize")))


def forced(op: Op, chip: Chip, rng: random.Random) -> Program | None:
    """A GEMM under a random mapping that fits, splits of the reduction included; None when the draw does not fit."""
    work = roofline.work(op, chip)
    columns = [float(column) for column in tile.gemm_columns(op, chip, work)]
    groups, m, n, k = columns[:4]
    edges = [[rng.randint(1, int(size))] if size >= 1 else [1] for size in (m, n, k)]
    split = rng.choice([s for s in (1, 2, 3, 4, 8) if s <= k])
    bytes_per = tuple(float(operand.bytes / operand.elements) for operand in op.operands)
    # Small edges of large dimensions make many tasks.
    if groups * np.prod([size / edge[0] for size, edge in zip((m, n, k), edges, strict=True)]) * split > 3000:
        return None
    try:
        found = tile.gemm_time(chip, op.matrix_format, groups, m, n, k, bytes_per,  # type: ignore[arg-type]
                               tuple(columns[4:7]), columns[7], (*edges, [split]))  # type: ignore[arg-type]  # fmt: skip
    except InputError:
        return None
    return lowering._Gemm(op, chip, work, found).program()


def lowered(op: Op, chip: Chip) -> Program | None:
    """The program of an operator; None when it does not fit the chip."""
    try:
        return lowering.lower(op, chip, roofline.work(op, chip))
    except InputError:
        return None


def random_program(rng: random.Random) -> Program:
    """Tasks in random order on compute and transfer queues, blocks that several share, no deps on later tasks."""
    ports = rng.randint(1, 3)
    queues = tuple(Queue("q", 0, rng.randint(-1, ports - 1)) for _ in range(rng.randint(1, 5)))
    times = (0.0, 0.0, 1.0, 2.0, rng.random())
    rates = np.array([rng.choice((1.0, 4.0, 1 + rng.random())) for _ in range(ports)])
    build = Builder(queues, rates, rng.choice((1.0, 3.0, 1e300)), 100.0)
    count = rng.randint(0, 5)
    sizes = [rng.choice((1.0, 2.0, 0.1 + rng.random())) for _ in range(count)]
    blocks = build.blocks(np.array(sizes), 0, 1, 1) if count else np.zeros(0, int)
    for task in range(rng.randint(1, 40)):
        queue = rng.randrange(len(queues))
        delay, size, block = rng.choice(times), 0.0, -1
        if queues[queue].port >= 0:
            size = rng.choice((0.0, 1.0, rng.random()))
            block = rng.choice((-1, *blocks.tolist()))
        build.tasks(1, queue, delay, size, block)
        for _ in range(rng.choice((0, 0, 1, 2, 3)) if task else 0):
            build.after(task, rng.randrange(task))
    return build.program()


def scaled(program: Program, factor: float) -> Program:
    """The same tasks with every rate × ``factor`` and every delay / ``factor``."""
    return replace(
        program,
        port_bytes_per_s=program.port_bytes_per_s * factor,
        fabric_bytes_per_s=program.fabric_bytes_per_s * factor,
        delay_s=program.delay_s / factor,
    )
