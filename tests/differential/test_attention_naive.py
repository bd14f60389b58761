"""Does attention agree with softmax written out term by term, and with onnxruntime?"""

import math

import numpy as np
import pytest

import npukernels as nk

VARIANTS = nk.variants("attention")


def naive(q, k, v, causal, window, scale):
    """Plain Python over float64 lists; shares no code with the package."""
    batch, heads, seq_q, dim = q.shape
    kv_heads, seq_kv, v_dim = v.shape[1:]
    out = np.zeros((batch, heads, seq_q, v_dim))
    for b in range(batch):
        for h in range(heads):
            kv = h * kv_heads // heads
            for i in range(seq_q):
                here = seq_kv - seq_q + i
                keys = [t for t in range(seq_kv) if not (causal and t > here) and not (window and t <= here - window)]
                if not keys:
                    continue
                scores = [
                    scale * math.fsum(float(q[b, h, i, p]) * float(k[b, kv, t, p]) for p in range(dim)) for t in keys
                ]
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                for c in range(v_dim):
                    terms = math.fsum(w * float(v[b, kv, t, c]) for w, t in zip(weights, keys, strict=True))
                    out[b, h, i, c] = terms / math.fsum(weights)
    return out


def test_against_softmax_term_by_term():
    rng = np.random.default_rng(8)
    for _ in range(60):
        kv_heads, group, seq_q, seq_kv, dim, v_dim = (int(x) for x in rng.integers(1, (3, 4, 12, 40, 12, 6)))
        seq_q = 1 if rng.random() < 0.3 else seq_q
        causal, window = bool(rng.integers(2)), int(rng.integers(0, 9)) or None
        shapes = (2, kv_heads * group, seq_q, dim), (2, kv_heads, seq_kv, dim), (2, kv_heads, seq_kv, v_dim)
        q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        expected = naive(q, k, v, causal, window, 0.3)

        for variant in VARIANTS:
            got = nk.attention(q, k, v, causal=causal, window=window, scale=0.3, variant=variant)
            # gamma_(d+4) |q||k| below 6e-6 in a score, and a handful of roundings; outputs are of order one.
            assert np.abs(got - expected).max() <= 2e-5, (variant, shapes, causal, window)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seq_q", [1, 33])
def test_against_onnxruntime(causal, seq_q):
    ort, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    if causal and seq_q == 1:
        pytest.skip("ONNX aligns the causal mask to the first key, not to the last")
    shapes = {"q": (2, 6, seq_q, 16), "k": (2, 2, 33, 16), "v": (2, 2, 33, 24)}
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=int(causal))
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(9)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    (expected,) = session.run(None, feeds)

    for variant in VARIANTS:
        got = nk.attention(*feeds.values(), causal=causal, variant=variant)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-6)
