"""Do the measuring loops do the work they claim? Nothing here looks at a clock."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiling import COMPILER, FLAGS

import npukernels as nk
from npukernels import probes
from npusim.errors import InputError

ROOT = Path(__file__).parents[3]
# Operations of one step: 12 chains (one for the latency), lanes, and operations a lane.
PER_LANE = {"fma": 24, "fma-chain": 2, "add": 12, "rsqrt": 12, "fp16": 24, "bf16": 24, "dot16": 48, "dot8": 96}
LANES = {"generic": 4, "avx2": 8, "avx512": 16}

pytestmark = pytest.mark.skipif(not nk.native_available(), reason="the extension is not built")


def runnable(instructions):
    return probes.compute(instructions, "fma", 1) > 0


@pytest.mark.parametrize("loop", probes.COMPUTE)
@pytest.mark.parametrize("instructions", probes.INSTRUCTION_SETS)
def test_a_loop_counts_its_operations(instructions, loop):
    if not runnable(instructions):
        pytest.skip("this CPU lacks it")
    done = probes.compute(instructions, loop, 1000)
    if instructions == "generic" and loop in ("fp16", "bf16", "dot16", "dot8"):
        assert done == 0
    elif done or instructions != "avx512":  # VNNI is its own feature
        assert done == 1000 * PER_LANE[loop] * LANES[instructions]


@pytest.mark.parametrize("instructions", probes.INSTRUCTION_SETS)
@pytest.mark.parametrize("size", [512, 1024, 7 * 512, 1 << 16])
def test_streams_move_every_byte(instructions, size):
    if not runnable(instructions):
        pytest.skip("this CPU lacks it")
    source, target = probes.buffer(size), probes.buffer(size)
    source[:] = np.random.default_rng(size).integers(0, 256, size)
    for loop in ("copy", "copy-past"):
        target[:] = 0
        if moved := probes.stream(instructions, loop, source, target, 3):
            assert moved == 2 * size * 3
            assert np.array_equal(source, target)
    assert probes.stream(instructions, "write", None, target) == size
    assert np.array_equal(target.view(np.int32), np.ones(size // 4, np.int32))
    before = source.copy()
    assert probes.stream(instructions, "read", source, None, 2) == 2 * size
    assert np.array_equal(source, before)


def test_bad_arguments_are_refused():
    memory = probes.buffer(2048)
    for bad in (
        lambda: probes.compute("avx9", "fma", 1),
        lambda: probes.compute("generic", "gemm", 1),
        lambda: probes.compute("generic", "fma", -1),
        lambda: probes.cycles(-1),
        lambda: probes.stream("generic", "read", memory[:100], None),
        lambda: probes.stream("generic", "read", memory[1 : 1 + 512], None),
        lambda: probes.stream("generic", "read", None, memory),
        lambda: probes.stream("generic", "copy", memory[:512], memory[512:]),
        lambda: probes.stream("generic", "read", memory, None, -1),
    ):
        with pytest.raises(InputError):
            bad()


def test_zero_steps_are_allowed():
    assert probes.compute("generic", "fma", 0) == 0
    assert probes.stream("generic", "read", probes.buffer(512), None, 0) == 0
    probes.cycles(0)


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_the_avx512_loops_do_their_work_in_plain_c(tmp_path):
    library = tmp_path / "libhost.so"
    header = Path(__file__).with_name("host_emulated.h")
    sources = [str(path) for folder in ("common", "host") for path in sorted((ROOT / "csrc" / folder).glob("*.c"))]
    command = [COMPILER, *FLAGS, "-shared", "-Wall", "-Wextra", "-Werror", f'-DNPK_HOST_AVX512="{header}"']
    command += [*sources, "-o", str(library), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    lib = ctypes.CDLL(str(library))
    done = ctypes.c_double()
    for index, loop in enumerate(probes.COMPUTE):
        assert lib.npk_host_compute(2, index, ctypes.c_int64(10), ctypes.byref(done)) == 0
        assert done.value == 10 * PER_LANE[loop] * 16
    source, target = probes.buffer(1024), probes.buffer(1024)
    source[:] = np.arange(1024) % 251
    for copy in (2, 3):
        target[:] = 0
        size, once = ctypes.c_int64(1024), ctypes.c_int64(1)
        where = [ctypes.c_void_p(x.ctypes.data) for x in (source, target)]
        assert lib.npk_host_stream(2, copy, size, once, *where) == 0
        assert np.array_equal(source, target)
