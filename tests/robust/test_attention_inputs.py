"""Is every bad call to attention one clear InputError, never a crash, a traceback or a wrong answer?"""

import numpy as np
import pytest

import npukernels as nk
from npusim.errors import InputError

F32 = np.float32
Q, K, V = np.ones((2, 4, 3, 8), F32), np.ones((2, 2, 5, 8), F32), np.ones((2, 2, 5, 6), F32)
CACHE_K, CACHE_V = np.ones((4, 2, 2, 8), F32), np.ones((4, 2, 2, 6), F32)
TABLE, LENGTHS = np.array([[0, 1, 9], [2, 3, 1]], np.int32), np.array([4, 5], np.int32)
VARIANTS = nk.variants("attention")


def _frozen():
    out = np.zeros((2, 4, 3, 6), F32)
    out.flags.writeable = False
    return out


BAD = {
    "float64 queries": (Q.astype(float), K, V, {}, "q has dtype float64.*float32"),
    "int32 keys": (Q, K.astype(np.int32), V.astype(np.int32), {}, "k has dtype int32.*float16 or uint16"),
    "two formats": (Q, K, V.astype(np.float16), {}, "v has dtype float16.*expected float32"),
    "other byte order": (Q, K.astype(">f4"), V, {}, "k has dtype >f4"),
    "list": (Q, [1.0], V, {}, "k is a list"),
    "three dimensions": (Q[0], K, V, {}, "q has 3 dimensions"),
    "batch differs": (Q, K[:1], V[:1], {}, r"q \(2, 4, 3, 8\) and k \(1, 2, 5, 8\) do not match"),
    "head_dim differs": (Q, K[..., :7], V, {}, "do not match.*k of shape"),
    "values of other tokens": (Q, K, V[:, :, :4], {}, "k .* and v .* do not match"),
    "heads not shared evenly": (Q[:, :3], K, V, {}, "3 query heads do not share 2 KV heads"),
    "no KV heads": (Q, K[:, :0], V[:, :0], {}, "k has no heads"),
    "window 0": (Q, K, V, {"window": 0}, "window is 0"),
    "window text": (Q, K, V, {"window": "4"}, "window is '4'"),
    "scale NaN": (Q, K, V, {"scale": float("nan")}, "scale is nan"),
    "scale text": (Q, K, V, {"scale": "1"}, "scale is '1'"),
    "threads": (Q, K, V, {"threads": 0}, "threads is 0"),
    "scales that do not fit": (Q, K, V, {"k_scale": np.ones(3, F32)}, r"k_scale of shape \(3,\) does not broadcast"),
    "scales in float64": (Q, K, V, {"v_scale": np.ones(5)}, "v_scale has dtype float64"),
    "variant": (Q, K, V, {"variant": "c-avx"}, "unknown attention variant"),
    "out shape": (Q, K, V, {"out": np.zeros((2, 4, 3, 8), F32)}, r"out has shape .*\(2, 4, 3, 6\)"),
    "out dtype": (Q, K, V, {"out": np.zeros((2, 4, 3, 6))}, "out has dtype float64"),
    "out read-only": (Q, K, V, {"out": _frozen()}, "out is read-only"),
    "out not contiguous": (Q, K, V, {"out": np.zeros((2, 4, 6, 3), F32).swapaxes(2, 3)}, "not C-contiguous"),
}

BAD_CACHES = {
    "table of int64": (TABLE.astype(np.int64), LENGTHS, "block_table has dtype int64"),
    "table of another batch": (TABLE[:1], LENGTHS, "do not fit a batch of 2"),
    "lengths of another batch": (TABLE, LENGTHS[:1], "do not fit a batch of 2"),
    "negative length": (TABLE, np.array([4, -1], np.int32), "lengths run from -1"),
    "length beyond the table": (TABLE, np.array([4, 7], np.int32), "lengths run from 4 to 7.*= 6"),
    "block beyond the cache": (TABLE, np.array([5, 5], np.int32), r"block_table\[0, 2\] is 9.*0 to 3"),
    "negative block": (-TABLE, LENGTHS, r"block_table\[0, 1\] is -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_call(name):
    q, k, v, options, message = BAD[name]
    for variant in VARIANTS:
        with pytest.raises(InputError, match=message) as caught:
            nk.attention(q, k, v, **({"variant": variant} | options))
        assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BAD_CACHES)
def test_bad_cache(name):
    table, lengths, message = BAD_CACHES[name]
    for variant in VARIANTS:
        with pytest.raises(InputError, match=message) as caught:
            nk.paged_attention(Q, CACHE_K, CACHE_V, table, lengths, variant=variant)
        assert len(caught.value.problems) == 1


def test_out_may_not_be_an_input():
    buffer = np.ones((2, 4, 3, 8), F32)
    with pytest.raises(InputError, match="shares memory"):
        nk.attention(buffer, K, np.ones((2, 2, 5, 8), F32), out=buffer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_good_calls_with_the_same_arrays_work(variant):
    """So that the cases above fail for the reason they name."""
    assert (nk.attention(Q, K, V, variant=variant) == 1).all()
    assert (nk.paged_attention(Q, CACHE_K, CACHE_V, TABLE, LENGTHS, variant=variant) == 1).all()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("c-")])
def test_the_c_side_refuses_what_python_would_never_send(variant):
    from npukernels import native

    module = native.require_native()
    lib, ffi = module.lib, module.ffi
    isa = getattr(lib, {"c-generic": "NPK_GENERIC", "c-avx2": "NPK_AVX2", "c-avx512": "NPK_AVX512"}[variant])
    x, y = ffi.from_buffer(np.zeros(64, F32)), ffi.from_buffer(np.zeros(64, F32))
    good = {"batch": 1, "heads": 1, "kv_heads": 1, "seq_q": 1, "head_dim": 4, "v_head_dim": 4}
    good |= {"seq_kv": 2, "blocks": 1, "block_size": 2, "k_row": 4, "v_row": 4, "scale": 1.0}

    def status(table=ffi.NULL, lengths=ffi.NULL, threads=1, out=y, **change):
        shape = ffi.new("npk_attention_shape *", good | change)
        return lib.npk_attention(isa, shape, x, x, x, ffi.NULL, ffi.NULL, table, lengths, out, threads)

    assert status() == lib.NPK_OK
    table, lengths = (ffi.from_buffer(np.array([n], np.int32)) for n in (0, 2))
    assert status(table, lengths) == lib.NPK_OK
    for change in ({"batch": -1}, {"seq_q": -5}, {"window": -1}, {"format": 9}, {"kv_heads": 0}, {"block_size": 1}):
        assert status(**change) == lib.NPK_EINVAL, change
    assert status(threads=0) == lib.NPK_EINVAL
    assert status(out=ffi.NULL) == lib.NPK_EINVAL
    assert status(out=x) == lib.NPK_EALIAS
    assert status(table) == lib.NPK_EINVAL
    assert status(lengths, lengths) == lib.NPK_EINVAL  # block 2 of 1
    assert status(lengths=lengths) == lib.NPK_EINVAL
    for change in ({"seq_q": 2**62, "q_row": 2**40}, {"k_row": -(2**63)}, {"seq_kv": 2**62, "block_size": 2**62}):
        assert status(**change) == lib.NPK_EOVERFLOW, change
