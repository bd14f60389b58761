"""Does the dispatcher run what it was asked to, and only what this CPU can run?"""

import os
import subprocess
import sys

import numpy as np
import pytest

import npukernels as nk
from npukernels import native, registry
from npusim.errors import InputError

ALL = ("ref", "numba", "c-generic", "c-avx2", "c-avx512")


@pytest.fixture
def scratch_op(monkeypatch):
    """A registry of its own, with an op of four variants of which one cannot run anywhere."""
    monkeypatch.setattr(registry, "_KERNELS", dict(registry._KERNELS))
    for variant, requires in (("ref", ()), ("slow", ()), ("fast", ()), ("c-generic", ("flux-capacitor",))):
        nk.kernel("scratch", variant, requires=requires)(lambda variant=variant: variant)
    return "scratch"


def _probe(code, **environment):
    """Runs ``code`` in a fresh interpreter and returns what it prints."""
    command, environment = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_variants_are_listed_slowest_first_and_runnable_only():
    assert registry.variants("gemm", runnable=False) == ALL
    listed = nk.variants("gemm")
    assert listed[0] == "ref"
    assert list(listed) == [v for v in ALL if v in listed]
    assert ("c-avx512" in listed) == ("avx512f" in nk.cpu_features())
    assert ("c-generic" in listed) == nk.native_available()


def test_the_last_runnable_variant_is_the_default(scratch_op, monkeypatch):
    monkeypatch.delenv(registry.ENV_VARIANT, raising=False)
    assert registry.select(scratch_op).variant == "fast"
    assert nk.variants(scratch_op) == ("ref", "slow", "fast")


def test_environment_overrides_default_and_argument_overrides_environment(scratch_op, monkeypatch):
    monkeypatch.setenv(registry.ENV_VARIANT, "slow")
    assert registry.select(scratch_op).variant == "slow"
    assert registry.select(scratch_op, "ref").variant == "ref"


def test_environment_variant_applies_only_to_ops_that_have_it(scratch_op, monkeypatch):
    monkeypatch.setenv(registry.ENV_VARIANT, "slow")
    assert registry.select("gemm").variant == nk.variants("gemm")[-1]
    monkeypatch.setenv(registry.ENV_VARIANT, "")
    assert registry.select("gemm").variant == nk.variants("gemm")[-1]


def test_a_variant_this_machine_lacks_is_refused_by_name(scratch_op, monkeypatch):
    with pytest.raises(InputError, match=r"flux-capacitor.*runnable here: ref, slow, fast"):
        registry.select(scratch_op, "c-generic")
    monkeypatch.setenv(registry.ENV_VARIANT, "c-generic")
    with pytest.raises(InputError, match="NPUKERNELS_VARIANT: scratch variant 'c-generic' needs"):
        registry.select(scratch_op)


def test_registering_twice_is_a_programming_error(scratch_op):
    with pytest.raises(ValueError, match="registered twice"):
        nk.kernel(scratch_op, "slow")(lambda: None)


def test_unknown_op():
    with pytest.raises(InputError, match="did you mean 'gemm'"):
        nk.variants("gemn")


@pytest.mark.parametrize("variant", nk.variants("gemm"))
def test_the_environment_really_changes_what_gemm_runs(variant, monkeypatch):
    seen = []
    kernels = registry._KERNELS["gemm"]
    spies = {
        name: registry.Kernel("gemm", name, k.requires, lambda *_, name=name: seen.append(name))
        for name, k in kernels.items()
    }
    monkeypatch.setitem(registry._KERNELS, "gemm", spies)
    monkeypatch.setenv(registry.ENV_VARIANT, variant)

    nk.gemm(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))

    assert seen == [variant]


def test_variants_are_different_code():
    """For long k the portable kernel (two roundings) and the fused ones cannot agree in every bit."""
    if "c-avx2" not in nk.variants("gemm"):
        pytest.skip("this CPU or build lacks avx2 and fma")
    a, b = nk.golden("gemm", m=20, n=20, k=1000).inputs
    results = {v: nk.gemm(a, b, variant=v).tobytes() for v in ("ref", "c-generic", "c-avx2")}
    assert len(set(results.values())) == 3


@pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built")
def test_cpu_features_agree_with_the_kernel():
    """Linux lists a feature only when it also saves its registers, which is the rule we follow."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line.split(":")[1].split() for line in file if line.startswith("flags")), None)
    except OSError:
        flags = None
    if flags is None:
        pytest.skip("no /proc/cpuinfo with x86 flags")
    named = {"avx512_vbmi": "avx512vbmi"}
    known = []
    for index in range(64):
        name = native.require_native().lib.npk_cpu_feature_name(index)
        if name == native.require_native().ffi.NULL:
            break
        known.append(native.require_native().ffi.string(name).decode())
    assert len(known) >= 15
    assert {f for f in known if named.get(f, f) in flags} == set(nk.cpu_features())


def test_the_c_side_refuses_what_the_cpu_lacks():
    if not nk.native_available():
        pytest.skip("the C extension is not built")
    lib, ffi = native.require_native().lib, native.require_native().ffi
    null = ffi.NULL
    status = lib.npk_sgemm(lib.NPK_AVX512, 0, 0, 0, null, 0, 0, null, 0, 0, null, 0, 0, 1)
    assert status == (lib.NPK_OK if "avx512f" in nk.cpu_features() else lib.NPK_EUNSUPPORTED)


def test_the_c_side_checks_its_own_arguments():
    if not nk.native_available():
        pytest.skip("the C extension is not built")
    lib, null = native.require_native().lib, native.require_native().ffi.NULL

    def status(isa=lib.NPK_GENERIC, m=1, n=1, k=1, rs=1, threads=1):
        return lib.npk_sgemm(isa, m, n, k, null, rs, 1, null, rs, 1, null, rs, 1, threads)

    assert status() == lib.NPK_EINVAL  # null pointers
    assert status(m=-1) == status(n=-1) == status(k=-1) == status(threads=0) == lib.NPK_EINVAL
    assert status(isa=-1) == status(isa=3) == lib.NPK_EINVAL
    assert status(m=2**62) == status(m=2**32, n=2**32) == status(rs=2**62, m=2) == lib.NPK_EOVERFLOW
    assert status(rs=-(2**63)) == lib.NPK_EOVERFLOW
    assert status(m=0) == lib.NPK_OK
    for code in (lib.NPK_EINVAL, lib.NPK_EOVERFLOW, lib.NPK_ENOMEM, lib.NPK_EUNSUPPORTED, 99):
        with pytest.raises(InputError, match=r"^this call: ."):
            native.raise_for_status(code, "this call")
    assert native.raise_for_status(lib.NPK_OK, "this call") is None


def test_without_the_extension_ref_still_works():
    code = """
import sys
sys.modules["npukernels._native"] = None
import numpy as np, npukernels as nk
from npusim.errors import InputError
assert not nk.native_available() and nk.native_problem() and nk.cpu_features() == ()
assert nk.variants("gemm") == ("ref", "numba")
case = nk.golden("gemm", m=5, n=6, k=7)
nk.check(nk.gemm(*case.inputs, variant="ref"), case).raise_for_status()
try:
    nk.gemm(*case.inputs, variant="c-generic")
except InputError as error:
    print(error)
"""
    assert "needs native" in _probe(code, NPUKERNELS_VARIANT="")


def test_import_is_light():
    code = """
import sys, npukernels
heavy = {"numba", "torch", "onnx", "scipy", "pydantic", "yaml", "matplotlib", "pandas"} & set(sys.modules)
ours = sorted(m for m in sys.modules if m.startswith("npusim."))
print(sorted(heavy), ours)
"""
    assert _probe(code) == "[] ['npusim.dtypes', 'npusim.errors']"


def test_public_names_are_these():
    assert set(nk.__all__) == {
        "Case", "Check", "Packed", "Quantized", "Routing", "attention", "block_gemm", "cast", "check",
        "conv2d", "cpu_features", "depthwise_conv2d", "dequantize", "exp", "gelu", "gemm", "golden",
        "grouped_gemm", "kernel", "layernorm", "layernorm_bound", "native_available", "native_problem", "ops",
        "paged_attention", "prepack", "prepack_int8", "prepack_weight", "qgemm", "quantize", "reference",
        "rmsnorm", "rope", "rope_cache", "route", "sigmoid", "silu", "softmax", "softmax_bound", "swiglu",
        "tanh", "topk", "variants", "weight_gemm",
    }  # fmt: skip
    assert all(getattr(nk, name).__doc__ for name in nk.__all__)
    assert nk.ops() == (
        "attention", "block_gemm", "cast", "conv2d", "depthwise_conv2d", "dequantize", "exp", "gelu",
        "gelu_tanh", "gemm", "grouped_gemm", "layernorm", "qgemm", "quantize", "rmsnorm", "rope", "sigmoid",
        "silu", "softmax", "swiglu", "tanh", "topk", "weight_gemm", "weight_gemm_int8",
    )  # fmt: skip
