"""Are the VNNI and AVX-512 quantised kernels right? Their sources run on any CPU with plain C vectors.

All but the intrinsics is the shipped code. It has not run on a CPU with VNNI here.
"""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiling import COMPILER, FLAGS

import npukernels as nk
from npukernels.int8_packing import prepack_int8

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
AVX512 = 2
SIZE, INT, POINTER = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler"),
    pytest.mark.skipif(not (ROOT / "csrc/qgemm").is_dir(), reason="no C sources beside the tests"),
    pytest.mark.skipif("fma" not in nk.cpu_features(), reason="fmaf would be emulated in software: too slow"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    target = tmp_path_factory.mktemp("emulated") / "libquantised.so"
    names = {"NPK_SIMD_VNNI": "qgemm_vnni", "NPK_WGEMM_VNNI": "wgemm_vnni", "NPK_WGEMM_AVX512": "wgemm_avx512"}
    names["NPK_SIMD_AVX512"] = "simd"
    folders = ("common", "formats", "gemm", "qgemm", "wgemm")
    sources = [path for folder in folders for path in sorted(ROOT.glob(f"csrc/{folder}/*.c"))]
    command = [COMPILER, *FLAGS, "-shared", "-mfma", "-mavx2"]
    command += [f'-D{macro}="{HERE / name}_emulated.h"' for macro, name in names.items()]
    subprocess.run([*command, *map(str, sources), "-o", str(target), "-lm"], check=True, capture_output=True)
    return ctypes.CDLL(str(target))


def _address(x):
    return x.ctypes.data if x is not None and x.size else None


SHAPES = [(m, n, 40) for m in range(1, 30) for n in (1, 15, 16, 17, 33, 64)]
SHAPES += [(15, 33, 0), (14, 32, 1), (3, 40, 1025), (200, 530, 7), (30, 50, 2050)]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_qgemm_is_exact(library, dtype):
    rng, info = np.random.default_rng(1), np.iinfo(dtype)
    call = library.npk_qgemm
    call.argtypes = [
        INT,
        SIZE,
        SIZE,
        SIZE,
        POINTER,
        SIZE,
        INT,
        POINTER,
        POINTER,
        POINTER,
        ctypes.c_int32,
        POINTER,
        POINTER,
    ]
    call.argtypes += [INT, POINTER, POINTER, POINTER, POINTER, INT, ctypes.c_int32, POINTER, INT]
    for m, n, k in SHAPES:
        a = rng.integers(info.min, info.max, (m, k), dtype, endpoint=True)
        b = rng.integers(-128, 127, (k, n), np.int8, endpoint=True)
        zeros, packed, out = rng.integers(-128, 127, n, np.int32), prepack_int8(b), np.zeros((m, n), np.int32)

        status = call(
            AVX512, m, n, k, _address(a), k, dtype == "int8", _address(packed.panels), _address(packed.sums),
            _address(packed.small), 9, _address(zeros), None, 0, None, None, None, None, 0, 0, _address(out), 2,
        )  # fmt: skip

        assert status == 0
        assert np.array_equal(out, (a.astype(np.int64) - 9) @ (b.astype(np.int64) - zeros)), (m, n, k)


@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_weight_gemm_rounds_as_the_other_variants_do(library, compute):
    rng = np.random.default_rng(2)
    call = library.npk_wgemm if compute == "fp32" else library.npk_wgemm_int8
    bits = [INT] if compute == "fp32" else []
    call.argtypes = [INT, *bits, SIZE, SIZE, SIZE, SIZE, *[POINTER] * 6, INT]
    for m, n, k in SHAPES:
        groups = -(-k // 32)
        q, zero = rng.integers(-8, 8, (k, n), np.int8), rng.integers(-8, 8, (groups, n), np.int8)
        weight = nk.prepack_weight(q, rng.random((groups, n), dtype=np.float32), zero, group=32)
        x, out = rng.standard_normal((m, k)).astype(np.float32), np.full((m, n), np.nan, np.float32)
        extra = [4] if compute == "fp32" else []

        pointers = map(_address, (x, weight.codes, weight.scale, weight.zero, None, out))
        assert call(AVX512, *extra, m, n, k, 32, *pointers, 2) == 0

        if "c-avx2" in nk.variants("weight_gemm"):
            assert np.array_equal(out, nk.weight_gemm(x, weight, compute=compute, variant="c-avx2")), (m, n, k)
