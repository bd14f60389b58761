"""Is the AVX-512 attention right? Runs on any CPU: its sources are compiled with plain C vectors instead.

All but the intrinsics themselves is the shipped code: the 14 x 32 tile, its packing, masks and edges. The
exponential of each instruction set is measured here too.
"""

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiling import COMPILER, FLAGS, without_shortcuts

import npukernels as nk
from npukernels import native

ROOT = Path(__file__).parents[3]
AVX512 = 2

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler"),
    pytest.mark.skipif(not (ROOT / "csrc/attention").is_dir(), reason="no C sources beside the tests"),
    pytest.mark.skipif("fma" not in nk.cpu_features(), reason="fmaf would be emulated in software: too slow"),
]


def _compiled(library, *arguments):
    command = [COMPILER, *FLAGS, "-shared", "-Wno-psabi", *map(str, arguments)]
    subprocess.run([*command, "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


class _Emulated:
    """Stands in for the extension: its own structs, the emulated library's entry point."""

    def __init__(self, library):
        self.ffi, self._lib, self.lib = native.require_native().ffi, native.require_native().lib, self
        self._entry = library.npk_attention

    def __getattr__(self, name):
        return getattr(self._lib, name)

    def npk_attention(self, isa, shape, *rest):
        *pointers, threads = rest
        addresses = [int(self.ffi.cast("uintptr_t", x)) for x in (shape, *map(self._pointer, pointers))]
        return self._entry(ctypes.c_int(AVX512), *map(ctypes.c_void_p, addresses), ctypes.c_int(threads))

    def _pointer(self, x):
        return self.ffi.cast("void *", x)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    header = Path(__file__).with_name("attention_emulated.h")
    sources = sorted([*ROOT.glob("csrc/common/*.c"), *ROOT.glob("csrc/attention/*.c")])
    library = tmp_path_factory.mktemp("emulated") / "libattention.so"
    arguments = ["-mfma", "-mavx2", "-mf16c", f'-DNPK_SIMD_AVX512="{header}"', *sources]
    return _Emulated(_compiled(library, *arguments))


@pytest.fixture
def through_emulation(emulated, monkeypatch):
    """Lets the c-generic variant run the emulated AVX-512 code."""
    if "c-generic" not in nk.variants("attention"):
        pytest.skip("the C extension is not built")
    without_shortcuts(monkeypatch)
    monkeypatch.setattr(native, "require_native", lambda: emulated)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "fp8", "int8"])
@pytest.mark.parametrize("fill", ["uniform", "integer", "adversarial"])
def test_it_is_within_the_bound(through_emulation, dtype, fill):
    rng = np.random.default_rng(12)
    for seed in range(30):
        kv_heads, group = int(rng.choice([1, 2])), int(rng.choice([1, 2, 4, 5, 9]))
        sizes = {"heads": kv_heads * group, "kv_heads": kv_heads, "causal": seed % 2, "window": 20 * (seed % 3 == 2)}
        sizes |= {"seq_q": int(rng.choice([1, 1, 6, 15, 40])), "seq_kv": int(rng.choice([1, 31, 33, 130, 600]))}
        sizes |= {"head_dim": int(rng.choice([1, 15, 16, 17, 40])), "v_head_dim": int(rng.choice([1, 16, 31, 33]))}
        case = nk.golden("paged_attention", dtype=dtype, fill=fill, seed=seed, **sizes)

        got = nk.paged_attention(*case.inputs, variant="c-generic", threads=2, **dict(case.params))

        found = nk.check(got, case)
        assert found.verdict == "PASS", str(found)


ENGINES = [e for e, v in (("generic", "c-generic"), ("avx2", "c-avx2")) if v in nk.variants("attention")]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_exponential_is_within_two_ulp(engine, tmp_path):
    """Every 997th float from -0 to -87.33, all of them under NPUSIM_SOAK; the golden bound takes 2 ulp as given."""
    source = tmp_path / "exponential.c"
    source.write_text(
        f'#include "{ROOT}/csrc/attention/engine_{engine}.c"\n'
        "TARGET void exponentials(const float *x, float *y, int64_t n) {\n"
        "    for (int64_t i = 0; i < n; i += LANES) v_store(y + i, v_exp(v_load(x + i)));\n}\n"
    )
    others = ["csrc/common/cpu.c"]
    run = _compiled(tmp_path / "exponential.so", source, *(ROOT / path for path in others)).exponentials
    first, last = (int(np.float32(x).view(np.uint32)) for x in (-0.0, -87.33))
    step = 1 if os.environ.get("NPUSIM_SOAK") else 997
    worst = 0.0
    for start in range(first, last, step << 20):
        x = np.arange(start, min(start + (step << 20), last), step, dtype=np.uint32).view(np.float32)
        x = np.ascontiguousarray(x[: x.size // 16 * 16])
        y = np.empty_like(x)
        run(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(x.size))
        exact = np.exp(x.astype(np.float64))
        worst = max(worst, float((np.abs(y - exact) / np.spacing(exact.astype(np.float32))).max(initial=0)))
    assert 0.5 <= worst <= 2

    special = np.array([0.0, -0.0, -np.inf, np.nan, -87.4, -1e4, -3.4e38, -1e-45] * 2, np.float32)
    y = np.empty_like(special)
    run(ctypes.c_void_p(special.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(special.size))
    np.testing.assert_array_equal(y, np.array([1, 1, 0, np.nan, 0, 0, 0, 1] * 2, np.float32))
