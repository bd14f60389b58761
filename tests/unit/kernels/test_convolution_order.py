"""Do convolutions sum in the order that docs/kernels-gemm.md states, wherever an element lies?

test_avx512_emulated.py compares the AVX-512 code with the AVX2 code on the shapes of ``convolutions``.
"""

import numpy as np
import pytest

import npukernels as nk
from npukernels.convolution import taps
from npusim.errors import InputError

NATIVE = [v for v in nk.variants("conv2d") if v.startswith("c-")]


def convolutions(cases, seed):
    """Geometry and sizes: tiles, panels and blocks of k with and without remainders."""
    rng = np.random.default_rng(seed)
    for case in range(cases):
        kh, kw, pad, stride = (int(rng.integers(lo, hi)) for lo, hi in ((1, 5), (1, 5), (0, 4), (1, 4)))
        if case % 8 == 0:
            kh, kw, pad, stride = 1, 1, 0, 1
        dilation = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        h, w = (int(rng.integers(d * (s - 1) + 1, 24)) for d, s in zip(dilation, (kh, kw), strict=True))
        c, f = int(rng.integers(1, 100)), int(rng.integers(1, 70))
        x = rng.uniform(-1, 1, (2, h, w, c)).astype(np.float32)
        weights = rng.uniform(-1, 1, (kh, kw, c, f)).astype(np.float32)
        yield x, weights, {"stride": stride, "padding": pad, "dilation": dilation}


def geometry(stride, padding, dilation):
    return (stride, stride), (padding, padding), dilation


def _patches(x, w, steps):
    """The matrix of patches, (output pixels, kernel height x kernel width x channels)."""
    pixels = [view for _, _, view in taps(x, w, geometry(**steps))]
    return np.stack(pixels, axis=3).reshape(-1, w.shape[0] * w.shape[1] * w.shape[2])


@pytest.mark.parametrize("variant", NATIVE)
def test_conv2d_has_the_bits_of_the_product_with_the_patches(variant):
    for x, w, steps in convolutions(40, 3):
        packed = nk.prepack(w.reshape(-1, w.shape[3]), variant=variant)
        expected = nk.gemm(_patches(x, w, steps), packed, variant=variant)

        for threads in (1, 3):
            found = nk.conv2d(x, w, **steps, variant=variant, threads=threads)
            assert np.array_equal(found.reshape(expected.shape), expected), (x.shape, w.shape, steps)


def _wide():
    """Taps 40000 pixels apart: the patches are gathered."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (1, 3, 80003, 9)).astype(np.float32)
    w = rng.uniform(-1, 1, (2, 3, 9, 5)).astype(np.float32)
    return [(x, w, {"stride": 1, "padding": 0, "dilation": (1, 40000)})]


@pytest.mark.parametrize("variant", NATIVE)
def test_a_kernel_too_wide_to_be_copied_has_the_same_bits(variant):
    ((x, w, steps),) = _wide()
    expected = nk.gemm(_patches(x, w, steps), nk.prepack(w.reshape(-1, 5), variant=variant), variant=variant)
    assert np.array_equal(nk.conv2d(x, w, **steps, variant=variant).reshape(-1, 5), expected)


@pytest.mark.parametrize("variant", NATIVE)
def test_depthwise_elements_do_not_depend_on_where_they_lie(variant):
    """Borders against an image that is padded beforehand; a part of the channels; a part of the columns."""
    for x, w, steps in convolutions(60, 5):
        w, pad = w[..., 0].copy(), steps["padding"]
        found = nk.depthwise_conv2d(x, w, **steps, variant=variant)

        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        inner = nk.depthwise_conv2d(padded, w, **{**steps, "padding": 0}, variant=variant, threads=2)
        assert np.array_equal(found, inner)
        some = slice(x.shape[3] // 3, None)
        assert np.array_equal(
            nk.depthwise_conv2d(x[..., some], w[..., some], **steps, variant=variant), found[..., some]
        )
        cut = padded[:, :, steps["stride"] :]
        if cut.shape[2] > (w.shape[1] - 1) * steps["dilation"][1]:
            moved = nk.depthwise_conv2d(cut, w, **{**steps, "padding": 0}, variant=variant)
            assert np.array_equal(moved, found[:, :, 1:])


@pytest.mark.parametrize("variant", nk.variants("conv2d"))
def test_prepacked_weights_give_the_same_bits(variant):
    for x, w, steps in [*convolutions(20, 9), *_wide()]:
        packed, expected = nk.prepack(w, variant=variant), nk.conv2d(x, w, **steps, variant=variant)
        out = np.empty_like(expected)
        for threads in (1, 2):
            assert nk.conv2d(x, packed, **steps, out=out, threads=threads) is out
            assert np.array_equal(out, expected), (x.shape, w.shape, steps)


@pytest.mark.parametrize("variant", NATIVE)
def test_bad_prepacked_weights(variant):
    x, w = np.ones((1, 6, 6, 4), np.float32), np.ones((3, 3, 4, 6), np.float32)
    packed, matrix = nk.prepack(w, variant=variant), nk.prepack(w.reshape(36, 6), variant=variant)
    for weights, change, match in (
        (matrix, {}, "packed weights shape"), (packed, {"groups": 2}, "groups is 2"),
        (packed, {"dilation": 9}, "reach"), (packed, {"variant": "ref"}, "packed for variant"),
        (packed, {"out": np.ones(3, np.float32)}, "out"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            nk.conv2d(x, weights, **change)
    with pytest.raises(InputError, match="packed weights shape"):
        nk.conv2d(x[..., :3], packed)
    with pytest.raises(InputError, match="do not match"):
        nk.gemm(np.ones((2, 36), np.float32), packed)
    with pytest.raises(InputError, match="dimensions"):
        nk.prepack(w[0])
