"""Replays small enough to count by hand; the counting is in the comments."""

from __future__ import annotations

import itertools
import json

import pytest

import npusim as ns
from npusim.cli import main
from npusim.cost.loop_nest import RELEVANT, parse_mapping
from npusim.cost.replay import GemminiCosts, Rows, hit_rate, replay
from npusim.errors import InputError, Unavailable

# Round constants, so that cycles can be written down.
ROUND = GemminiCosts(issue_cycles=10, beat_cycles=2, llc_line_cycles=20, dram_line_cycles=30,
                     conv_tile_cycles=250, gemm_tile_cycles=100, cache_ways=8, llc_bytes=4 << 20)  # fmt: skip
INT8 = {"a": "int8", "b": "int8", "out": "int8"}
ONE_BLOCK = "L3[WIO] N1 - L2[WI] N1 K16X - L1[O] C16X - L0[W] P16"
TWO_TILES = "L3[WIO] K2 - L2[WI] N1 K16X - L1[O] S3 R3 Q4 C16X - L0[W] P4"


@pytest.fixture
def gemmini() -> ns.Chip:
    return ns.load_chip("gemmini")


def conv(size: int, channels: int, out: int, kernel: int, stride: int = 1) -> ns.Op:
    side = (size - 1) * stride + kernel
    return ns.conv2d(1, side, side, channels, out, kernel, kernel, stride=stride, **INT8)


def test_one_tile_of_one_block(gemmini):
    run = replay(ns.gemm(16, 16, 16, **INT8), ONE_BLOCK, gemmini, ROUND)
    # 16 inputs rows and 16 weight rows of 16 bytes, one 16-byte beat each: 32 beats at 2 cycles. One compute of
    # 16 pixels behind a preload it hides: 16 cycles (issue 10). 16 accumulator rows at 2 cycles. All operands
    # (12 lines) are warm. One tile: nothing overlaps.
    assert run.busy_cycles == {"load": 64, "execute": 16, "store": 32, "host": 100}
    assert run.cycles == 64 + 16 + 32 + 100
    assert run.bytes == {"loaded": 512, "stored": 256, "llc": 0, "dram": 0}
    assert run.time_s == run.cycles / 1e9


def test_two_tiles_of_a_convolution(gemmini):
    run = replay(conv(4, 16, 32, 3), TWO_TILES, gemmini, ROUND)
    # A tile: 6 x 6 pixels and 9 x 16 weight rows of 16 bytes: 180 beats, 360 cycles. 9 blocks, each 4 computes of 4
    # pixels: issue 4 x 10 > 12 idle preload rows + 16 pixels, so 360 cycles. 16 accumulator rows: 32 cycles.
    assert run.tiles == 2
    assert run.busy_cycles == {"load": 720, "execute": 720, "store": 64, "host": 500}
    # Steady: store and load share the DMA, 392 > execute 360 > host 250. Then one tile end to end.
    assert run.bound == "dma"
    assert run.cycles == 392 + (360 + 360 + 32 + 250)
    assert run.bytes["loaded"] == 2 * (36 + 144) * 16
    assert run.bytes["stored"] == 4 * 4 * 32
    assert run.tile_changes == {"w": 2, "x": 1, "out": 2}


def test_a_stride_loads_the_pixels_between(gemmini):
    nest = "L3[WIO] N1 - L2[WI] N1 K16X - L1[O] S3 R3 Q4 C16X - L0[W] P4"
    # Stride 2: (4 - 1) x 2 + 3 = 9 rows and columns, against 6.
    assert replay(conv(4, 16, 16, 3, stride=2), nest, gemmini).bytes["loaded"] == (81 + 144) * 16
    assert replay(conv(4, 16, 16, 3), nest, gemmini).bytes["loaded"] == (36 + 144) * 16


def test_a_small_gemm_tile_is_a_whole_block(gemmini):
    nest = "L3[WIO] C8 - L2[WI] N1 K16X - L1[O] C2X - L0[W] P16"
    assert replay(ns.gemm(16, 16, 16, **INT8), nest, gemmini, ROUND).tiles == 1


def test_without_a_cache_every_tile_comes_again(gemmini):
    op = ns.gemm(16, 64, 64, **INT8)
    nest = "L3[WIO] K4 - L2[WI] N1 K16X - L1[O] C4 C16X - L0[W] P16"
    # Weights: a tile is 64 rows of 16 bytes, 64 apart: 64 lines, the same for all 4 tiles. Inputs: 16 rows
    # of 64 bytes, all of them in each tile. Outputs: 16 bytes in each of 16 lines, fetched and written back.
    cold = replay(op, nest, gemmini.replace({"levels.l2.capacity": 64.0}), ROUND)
    assert cold.bytes["llc"] == pytest.approx(64 * 4 * (64 + 16 + 2 * 16))
    assert cold.bytes["dram"] == 0
    assert cold.busy_cycles["load"] == pytest.approx(20 * 4 * (64 + 16))
    assert cold.busy_cycles["store"] == pytest.approx(2 * 20 * 4 * 16)
    # 64 + 16 + 16 lines: what fits is warm.
    assert replay(op, nest, gemmini.replace({"levels.l2.capacity": 96 * 64.0}), ROUND).bytes["llc"] == 0


def test_power_of_two_strides_use_few_sets():
    assert Rows(1024, 16, 1024).sets(64, 1024) == 64  # 16 lines apart: one set in 16
    assert Rows(1024, 128, 1024).sets(64, 1024) == 128  # two lines each
    assert Rows(1024, 64, 768).sets(64, 1024) == 256  # 12 lines apart: one set in 4
    assert Rows(1024, 64, 64).sets(64, 1024) == 1024
    assert Rows(100, 3, 3).lines(64) == 5  # 300 contiguous bytes
    assert Rows(100, 65, 128).lines(64) == 200


@pytest.mark.parametrize("pressure", [1.01, 1.5, 2.0, 5.0])
def test_hit_rate_is_its_own_fixed_point(pressure):
    # F lines in turn through C, random replacement: survival = (1 - 1/C)^(misses in between).
    lines, h = 10**6, hit_rate(pressure)
    assert (1 - 1 / lines) ** (pressure * lines * (1 - h)) == pytest.approx(h, rel=0.02)
    assert hit_rate(pressure - 0.01) > h


@pytest.mark.parametrize("operand", RELEVANT)
@pytest.mark.parametrize("loops", ["K2 C3 P2", "C3 K2 Q2", "P2 N3 R2", "S2 K2", "N1"])
def test_tile_changes_are_those_of_walking_the_loops(loops, operand):
    nest = parse_mapping(f"L3[WIO] {loops} - L2[WI] N1 - L1[O] N1 - L0[W] N1")
    walk = itertools.product(*(range(loop.count) for loop in nest.outer))
    tiles = [tuple(i for i, loop in zip(at, nest.outer, strict=True) if loop.dim in RELEVANT[operand]) for at in walk]
    assert nest.tile_changes(operand) == len([1 for a, b in itertools.pairwise(tiles) if a != b]) + 1


def test_the_text_comes_back():
    assert str(parse_mapping(f"  {TWO_TILES} ")) == TWO_TILES


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("", "is not a level"),
        ("K16", "is not a level"),
        (ONE_BLOCK.replace("P16", "Z16"), "unknown dimension 'Z'"),
        (ONE_BLOCK.replace("P16", "P0"), "'P0' is not a loop"),
        (ONE_BLOCK.replace("P16", "P-4"), "is not a level"),
        (ONE_BLOCK.replace("L1[O]", "L7[O]"), "unknown level 'L7'"),
        (ONE_BLOCK.replace("L1[O]", "L1[W]"), "L1 keeps W"),
        (ONE_BLOCK.replace(" - L0[W] P16", ""), "levels are L3, L2, L1"),
        (ONE_BLOCK.replace("L3", "L2"), "L2 keeps WIO"),
        (ONE_BLOCK.replace("P16", "P16X"), "cannot be spread"),
        (ONE_BLOCK.replace("P16", "P8"), "loops over P multiply to 8"),
        (ONE_BLOCK.replace("P16", "P16 R2"), "loops over R multiply to 2"),
        (ONE_BLOCK.replace("P16", "P" + "9" * 30), "is not a loop"),
        ("L3[WIO] K1 " * 2000, "longer than"),
    ],
)
def test_bad_mappings_are_explained(gemmini, mapping, said):
    with pytest.raises(InputError, match=said):
        replay(ns.gemm(16, 16, 16, **INT8), mapping, gemmini)


def test_every_wrong_dimension_is_named(gemmini):
    with pytest.raises(InputError) as error:
        replay(ns.gemm(32, 16, 48, **INT8), ONE_BLOCK, gemmini)
    assert [p.message for p in error.value.problems] == ["loops over P multiply to 16", "loops over C multiply to 16"]


def test_what_cannot_be_replayed(gemmini):
    wide = ONE_BLOCK.replace("K16X", "K32X")
    for op, mapping, said in (
        (ns.softmax(4, 4), ONE_BLOCK, "no mapping of softmax"),
        (ns.gemm(16, 16, 16, groups=2, **INT8), ONE_BLOCK, "groups"),
        (ns.gemm(16, 32, 16, **INT8), wide, "K32X on 16 columns"),
        (ns.gemm(16, 16, 16, a="bf16", b="bf16"), ONE_BLOCK, "bf16"),
    ):
        with pytest.raises(InputError, match=said):
            replay(op, mapping, gemmini)


def test_a_chip_without_the_figures_says_which(toy):
    with pytest.raises(Unavailable, match="toy cannot replay a mapping: it lacks one weight-stationary"):
        replay(ns.gemm(16, 16, 16), ONE_BLOCK, toy)


def test_a_tile_too_large_to_double_is_noted(gemmini):
    nest = "L3[WIO] N1 - L2[WI] N1 K16X - L1[O] K64 C64 C16X - L0[W] P16"
    (note,) = (n for n in replay(ns.gemm(16, 1024, 1024, **INT8), nest, gemmini).notes if "scratchpad" in n)
    assert note.startswith("a tile needs 1040.0 KiB of the scratchpad, more than half of its 256 KiB")


CONV = "conv2d:batch=1,in_h=6,in_w=6,in_c=16,out_c=32,kh=3,kw=3,a=int8,b=int8,out=int8"


def printed(capsys, *extra: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["estimate", "gemmini", CONV, "--mapping", TWO_TILES, *extra])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_command_line(capsys, gemmini):
    data = json.loads(printed(capsys, "--json"))
    run = replay(conv(4, 16, 32, 3), TWO_TILES, gemmini)
    assert data["cycles"] == run.cycles
    assert data["mapping"] == TWO_TILES
    text = printed(capsys)
    assert f"{run.cycles:,.0f} cycles" in text
    assert "2 tiles; their contents change: w 2, x 1, out 2" in text


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--mapping", "K4"], "is not a level"),
        (["--mapping", ONE_BLOCK], "multiply to"),
        (["--mapping", TWO_TILES, "--fidelity", "tile"], "no --fidelity"),
    ],
)
def test_command_line_errors(capsys, extra, said):
    with pytest.raises(SystemExit) as stop:
        main(["estimate", "gemmini", CONV, *extra])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert not captured.out
