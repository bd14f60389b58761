"""Is every bad call to an op on rows or elements one clear InputError, never a crash or a wrong answer?"""

import numpy as np
import pytest

import npukernels as nk
from npusim.errors import InputError

F32 = np.float32
X = np.ones((4, 6), F32)
W = np.ones(6, F32)
COS, SIN = nk.rope_cache(10, 4)
HEADS, AT = np.ones((3, 2, 6), F32), np.arange(3)


def _read_only():
    out = np.zeros((4, 6), F32)
    out.flags.writeable = False
    return out


BAD = {
    "float64": (lambda: nk.silu(X.astype(float)), "x has dtype float64.*float32 or float16 or uint16"),
    "byte order": (lambda: nk.exp(X.astype(">f4")), "x has dtype >f4"),
    "list": (lambda: nk.softmax([[1.0]]), "x is a list"),
    "0-D": (lambda: nk.tanh(np.array(1, F32)), "x has 0 dimensions"),
    "masked": (lambda: nk.gelu(np.ma.masked_equal(X, 3)), "masked"),
    "approximate": (lambda: nk.gelu(X, approximate="fast"), "approximate is 'fast'"),
    "weight size": (lambda: nk.layernorm(X, W[:5]), "weight has 5 elements.*expected 6"),
    "weight dtype": (lambda: nk.rmsnorm(X, W.astype(float)), "weight has dtype float64"),
    "bias 2-D": (lambda: nk.layernorm(X, W, X), "bias has 2 dimensions"),
    "eps zero": (lambda: nk.layernorm(X, eps=0), "eps is 0"),
    "eps nan": (lambda: nk.rmsnorm(X, eps=float("nan")), "eps is nan"),
    "eps text": (lambda: nk.rmsnorm(X, eps="1"), "eps is '1'"),
    "threads": (lambda: nk.softmax(X, threads=0), "threads is 0"),
    "variant": (lambda: nk.softmax(X, variant="c-avx3"), "c-avx3"),
    "swiglu shapes": (lambda: nk.swiglu(X, X[:3]), "differ"),
    "swiglu dtypes": (lambda: nk.swiglu(X, X.astype(np.float16)), "differ"),
    "out dtype": (lambda: nk.silu(X, out=X.astype(np.float16)), "out has dtype float16"),
    "out shape": (lambda: nk.silu(X, out=X.T.copy()), r"out has shape \(6, 4\)"),
    "out read-only": (lambda: nk.layernorm(X, out=_read_only()), "out is read-only"),
    "out strided": (lambda: nk.silu(X, out=np.zeros((4, 12), F32)[:, ::2]), "not C-contiguous"),
    "out overlaps": (lambda: (lambda b: nk.silu(b[:4], out=b[1:5]))(np.ones((6, 6), F32)), "shares memory"),
    "out is weight": (lambda: (lambda w: nk.layernorm(w[None], w, out=w[None]))(W.copy()), "shares memory"),
    "residual shape": (lambda: nk.rmsnorm(X, residual=X[:3].copy()), "residual is float32"),
    "residual is x": (lambda: nk.rmsnorm(X, residual=X), "residual shares memory"),
    "residual frozen": (lambda: nk.rmsnorm(X, residual=_read_only()), "residual is read-only"),
    "residual is out": (lambda: (lambda r: nk.rmsnorm(X, residual=r, out=r))(X.copy()), "out shares memory"),
    "rope 2-D": (lambda: nk.rope(X, AT, COS, SIN), "x has 2 dimensions"),
    "rope positions": (lambda: nk.rope(HEADS, AT + 8, COS, SIN), "positions are 8 to 10.*0 to 9"),
    "rope negative": (lambda: nk.rope(HEADS, AT - 1, COS, SIN), "positions are -1 to 1"),
    "rope count": (lambda: nk.rope(HEADS, AT[:2], COS, SIN), "2 positions for 3 tokens"),
    "rope int32": (lambda: nk.rope(HEADS, AT.astype(np.int32), COS, SIN), "positions has dtype int32"),
    "rope tables": (lambda: nk.rope(HEADS, AT, COS, SIN[:, :1]), "cosines .* and sines"),
    "rope too wide": (lambda: nk.rope(HEADS[..., :3], AT, COS, SIN), "rotate 4 dimensions of heads of 3"),
    "rope cache odd": (lambda: nk.rope_cache(3, 5), "rotary_dim is 5"),
    "rope cache size": (lambda: nk.rope_cache(-1, 4), "positions is -1"),
    "rope base": (lambda: nk.rope_cache(3, 4, base=-1.0), "base is -1"),
    "topk k": (lambda: nk.topk(X, 7), "no 7 largest.*0 to 6"),
    "topk bool": (lambda: nk.topk(X, True), "no True largest"),
    "topk 0-D": (lambda: nk.topk(np.array(1, F32), 1), "at least 1 dimension"),
    "route scoring": (lambda: nk.route(X, 2, scoring="tanh"), "scoring is 'tanh'"),
    "route 1-D": (lambda: nk.route(W, 2), "logits has 1 dimensions"),
    "golden size": (lambda: nk.golden("softmax", rows=2), "softmax needs n"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_is_one_clear_error(name):
    call, message = BAD[name]
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("op", ["silu", "softmax", "layernorm", "rmsnorm"])
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (0, 0), (2, 0, 3)])
def test_empty_arrays_give_empty_arrays(op, shape):
    for variant in nk.variants(op):
        assert getattr(nk, op)(np.empty(shape, F32), variant=variant).shape == shape


def test_broadcast_rows_are_read_in_place():
    x = np.broadcast_to(np.arange(6, dtype=F32), (1000, 6))
    assert np.array_equal(nk.softmax(x), np.tile(nk.softmax(x[:1].copy()), (1000, 1)))
