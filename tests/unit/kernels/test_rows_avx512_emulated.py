"""Is the AVX-512 code on rows and elements right? Its sources are compiled with plain C vectors of 16 lanes instead.

All but the intrinsics themselves (csrc/common/vmath_avx512.h) is the shipped code. The entry points of the built
extension are replaced, so that the same Python runs it.
"""

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from compiling import COMPILER, FLAGS, without_shortcuts
from rows_that_fall_back import layernorm_rows, softmax_rows

import npukernels as nk
from npukernels import native, registry
from npukernels.activations import REFERENCES
from npukernels.cases_rows import activation_bound

ROOT = Path(__file__).parents[3]
FOLDERS = ("common", "activation", "rows", "rope", "topk")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler"),
    pytest.mark.skipif(not (ROOT / "csrc/rows").is_dir(), reason="no C sources beside the tests"),
    pytest.mark.skipif("fma" not in nk.cpu_features(), reason="fmaf would be emulated in software: too slow"),
]


def _plain(ffi, argument):
    """A float, an integer, or the address that a pointer holds."""
    if isinstance(argument, (float, int)):
        return argument if isinstance(argument, float) else int(argument)
    return int(ffi.cast("intptr_t", argument))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("emulated") / "librows.so"
    header = Path(__file__).with_name("vmath_emulated.h")
    objects = []
    for source in sorted(p for folder in FOLDERS for p in (ROOT / "csrc" / folder).glob("*.c")):
        extra = [f'-DNPK_VMATH_AVX512="{header}"'] if source.name == "avx512.c" else []
        objects.append(path.with_name(f"{source.parent.name}_{source.stem}.o"))
        command = [COMPILER, *FLAGS, "-mfma", "-mavx2", "-Wno-psabi", *extra, "-c", str(source), "-o", str(objects[-1])]
        subprocess.run(command, check=True, capture_output=True, text=True)
    command = [COMPILER, *FLAGS, "-shared", *map(str, objects), "-o", str(path), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def emulated(library, monkeypatch):
    """Lets ``variant="c-avx512"`` run, and lets it run the emulated library."""
    real = native.require_native()

    def entry(name):
        def call(*arguments):
            given = [_plain(real.ffi, a) for a in arguments]
            function = getattr(library, name)
            kinds = {float: ctypes.c_float, int: ctypes.c_int64}
            function.argtypes = [kinds[type(a)] for a in given]
            return function(*given)

        return call

    names = ("npk_activation", "npk_layernorm", "npk_rmsnorm", "npk_softmax", "npk_rope", "npk_topk")
    constants = {n: getattr(real.lib, n) for n in dir(real.lib) if n.startswith("NPK_")}
    fake = SimpleNamespace(ffi=real.ffi, lib=SimpleNamespace(**constants, **{n: entry(n) for n in names}))
    without_shortcuts(monkeypatch)
    monkeypatch.setattr(native, "_native", fake)
    table = {op: dict(kernels) for op, kernels in registry._KERNELS.items()}
    for kernels in table.values():
        if "c-avx512" in kernels:
            k = kernels["c-avx512"]
            kernels["c-avx512"] = registry.Kernel(k.op, k.variant, frozenset(), k.run)
    monkeypatch.setattr(registry, "_KERNELS", table)
    return lambda op, *inputs, **options: (
        nk.gelu(*inputs, approximate="tanh", variant="c-avx512", **options)
        if op == "gelu_tanh"
        else getattr(nk, op)(*inputs, variant="c-avx512", **options)
    )


@pytest.mark.parametrize("op", ["layernorm", "rmsnorm", "softmax"])
def test_rows(emulated, op):
    for seed, n in enumerate([*range(1, 80), 127, 128, 129, 1000, 4099]):
        case = nk.golden(op, rows=3, n=n, fill=("uniform", "adversarial")[seed % 2], seed=seed)
        assert nk.check(emulated(op, *case.inputs), case).verdict == "PASS", n


@pytest.mark.parametrize("n", [65, 513, 1031, 4101])
def test_rows_that_the_fast_passes_hand_on(emulated, n):
    for name, x in layernorm_rows(n).items():
        wide = x[None].astype(np.float64)
        exact = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
        bound = nk.layernorm_bound(wide, 1.0, 0.0, 1e-5) * (1 + 1e-6) + 1e-44
        assert (np.abs(emulated("layernorm", x[None]) - exact) <= bound).all(), name
    for name, x in softmax_rows(n).items():
        y, exact = emulated("softmax", x[None]), nk.softmax(x[None], variant="c-generic")
        np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-44, err_msg=name)


@pytest.mark.parametrize("op", list(REFERENCES))
def test_elements(emulated, op):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, 20_003, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([x, np.linspace(-110, 110, 20_001, dtype=np.float32)])
    x = x[np.isfinite(x)]
    with np.errstate(all="ignore"):
        expected = REFERENCES[op](x.astype(np.float64))
        rounded, bound = expected.astype(np.float32), activation_bound(op, x.astype(np.float64))
    got = emulated(op, x)
    with np.errstate(invalid="ignore"):
        good = (got == rounded) | (np.abs(got - expected) <= bound)
    assert good.all()
    for count in range(1, 40):
        assert np.array_equal(emulated(op, x[:count]), got[:count], equal_nan=True)


def test_rope_topk_swiglu_and_sixteen_bits(emulated):
    rng = np.random.default_rng(2)
    for dim in (2, 16, 30, 34, 64, 128):
        case = nk.golden("rope", tokens=7, heads=3, dim=dim, seed=dim)
        assert nk.check(emulated("rope", *case.inputs), case).verdict == "PASS"
        for interleaved in (False, True):
            got = emulated("rope", *case.inputs, interleaved=interleaved)
            exact = nk.rope(*case.inputs, interleaved=interleaved, variant="ref")
            np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6 * np.abs(case.inputs[0]).max(initial=1))
    x = rng.integers(-9, 9, (20, 133)).astype(np.float32)
    x[3, 7] = np.nan
    for k in (0, 1, 8, 133):
        for got, exact in zip(emulated("topk", x, k), nk.topk(x, k, variant="ref"), strict=True):
            assert np.array_equal(got, exact, equal_nan=True)
    case = nk.golden("swiglu", n=1001)
    assert nk.check(emulated("swiglu", *case.inputs), case).verdict == "PASS"
    half = x.astype(np.float16)
    np.testing.assert_allclose(emulated("silu", half), nk.silu(half, variant="ref"), rtol=2**-10)
