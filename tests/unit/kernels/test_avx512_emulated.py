"""Is the AVX-512 code of products and convolutions right? Its sources are compiled with plain C vectors instead.

All but the intrinsics of simd_avx512.h and vmath_avx512.h is the shipped code: the 14 x 32 tile for every number of
rows, its packing widths, cache blocks and edges. It runs on any CPU.
"""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiling import COMPILER, FLAGS

import npukernels as nk
from npukernels import native
from npukernels.convolution import _out_size
from tests.unit.kernels.test_convolution_order import convolutions, geometry

ROOT = Path(__file__).parents[3]
AVX512 = 2

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler"),
    pytest.mark.skipif(not (ROOT / "csrc/gemm").is_dir(), reason="no C sources beside the tests"),
    pytest.mark.skipif("fma" not in nk.cpu_features(), reason="fmaf would be emulated in software: too slow"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    library = tmp_path_factory.mktemp("emulated") / "libemulated.so"
    headers = {name: Path(__file__).with_name(f"{name.lower()}_emulated.h") for name in ("SIMD", "VMATH")}
    sources = sorted(p for folder in ("common", "gemm", "conv") for p in ROOT.glob(f"csrc/{folder}/*.c"))
    command = [COMPILER, *FLAGS, "-shared", "-mfma", "-mavx2", "-Wno-psabi"]
    command += [f'-DNPK_{name}_AVX512="{header}"' for name, header in headers.items()]
    command += [*map(str, sources), "-o", str(library), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def sgemm(library):
    function = library.npk_sgemm
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    operand = [pointer, size, size]
    function.argtypes = [ctypes.c_int, size, size, size, *operand, *operand, *operand, ctypes.c_int]

    def call(a, b, threads=1):
        out = np.full((a.shape[0], b.shape[1]), np.nan, dtype=np.float32)
        operands = [v for x in (a, b, out) for v in (x.ctypes.data, x.strides[0] // 4, x.strides[1] // 4)]
        assert function(AVX512, a.shape[0], b.shape[1], a.shape[1], *operands, threads) == 0
        return out

    return call


SHAPES = [(m, n, 40) for m in range(1, 30) for n in (1, 31, 32, 33, 64)]
SHAPES += [(14, 32, 0), (14, 32, 1), (14, 32, 384), (15, 33, 385), (253, 65, 769), (3, 4097, 5)]


@pytest.mark.parametrize("fill", ["uniform", "integer"])
def test_the_tile_is_within_the_bound(sgemm, fill):
    for seed, (m, n, k) in enumerate(SHAPES):
        case = nk.golden("gemm", m=m, n=n, k=k, fill=fill, seed=seed)

        found = nk.check(sgemm(*case.inputs), case)

        assert found.verdict == "PASS", str(found)


@pytest.mark.skipif("c-avx2" not in nk.variants("gemm"), reason="this CPU or build lacks avx2 and fma")
def test_it_rounds_as_the_avx2_tile_does(sgemm):
    """Tiles are one chain of fused multiply-adds per block of k, equal in both; dot products have 16 chains in both."""
    for m, n, k in [*SHAPES, (1, 37, 1003), (2, 9, 1003), (1, 5, 15), (2, 5, 16)]:
        a, b = nk.golden("gemm", m=m, n=n, k=k, seed=3).inputs
        for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
            assert np.array_equal(sgemm(left, right, threads=2), nk.gemm(left, right, variant="c-avx2")), (m, n, k)


def _convolution(function, x, w, steps):
    (stride, padding, dilation), ffi = geometry(**steps), native.require_native().ffi
    out = np.full((x.shape[0], *_out_size(x, w, geometry(**steps)), w.shape[-1]), np.nan, np.float32)
    sizes = [*x.shape, w.shape[-1], *w.shape[:2], *stride, *dilation, *padding, *out.shape[1:3], 1]
    shape = ffi.new("npk_conv_shape *", sizes)
    pointers = [int(ffi.cast("intptr_t", shape)), *(a.ctypes.data for a in (x, w, out))]
    assert function(AVX512, *map(ctypes.c_void_p, pointers), 2) == 0
    return out


@pytest.mark.skipif("c-avx2" not in nk.variants("conv2d"), reason="this CPU or build lacks avx2 and fma")
def test_convolutions_round_as_the_avx2_code_does(library):
    for x, w, steps in convolutions(40, 7):
        found = _convolution(library.npk_conv2d, x, w, steps)
        assert np.array_equal(found, nk.conv2d(x, w, **steps, variant="c-avx2")), (x.shape, w.shape, steps)
        w = w[..., 0].copy()
        found = _convolution(library.npk_depthwise_conv2d, x, w, steps)
        assert np.array_equal(found, nk.depthwise_conv2d(x, w, **steps, variant="c-avx2")), (x.shape, w.shape, steps)
