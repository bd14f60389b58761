"""Is every bad call to a kernel one clear InputError, never a crash, a traceback or a wrong answer?"""

import numpy as np
import pytest

import npukernels as nk
from npusim.errors import InputError

F32 = np.float32
A, B = np.ones((4, 6), F32), np.ones((6, 5), F32)
HUGE = np.broadcast_to(F32(1), (2**30, 2**30))
TALL, WIDE = np.broadcast_to(F32(1), (2**40, 1)), np.broadcast_to(F32(1), (1, 2**40))


def _read_only():
    out = np.zeros((4, 5), F32)
    out.flags.writeable = False
    return out


def _shared(view):
    buffer = np.zeros((20, 20), F32)
    return buffer[:4, :6], view(buffer)


def _self_overlapping():
    return np.lib.stride_tricks.as_strided(np.zeros(20, F32), (4, 5), (4, 4))


def _unaligned():
    return np.zeros(4 * 5 * 4 + 1, np.uint8)[1:].view(F32).reshape(4, 5)


BAD_INPUTS = {
    "float64": (A.astype(np.float64), B, "a has dtype float64.*expected float32.*astype"),
    "int32": (A, B.astype(np.int32), "b has dtype int32"),
    "uint8": (A.astype(np.uint8), B, "a has dtype uint8"),
    "complex": (A.astype(np.complex64), B, "a has dtype complex64"),
    "object": (A.astype(object), B, "a has dtype object"),
    "text": (np.array([["x"]]), B, "a has dtype <U1"),
    "other byte order": (A.astype(">f4"), B, "a has dtype >f4"),
    "list": ([[1.0]], B, "a is a list"),
    "none": (A, None, "b is a NoneType"),
    "scalar": (1.0, B, "a is a float"),
    "0-D": (np.array(1, F32), B, "a has 0 dimensions"),
    "1-D": (A, np.ones(6, F32), r"b has 1 dimensions, shape \(6,\)"),
    "batches differ": (np.ones((2, 4, 6), F32), np.ones((3, 6, 5), F32), "do not broadcast"),
    "masked": (np.ma.masked_equal(A, 3), B, "masked"),
    "k differs": (A, np.ones((7, 5), F32), r"a \(4, 6\) and b \(7, 5\) do not match.*b of shape \(6, n\)"),
    "operands swapped": (B, A, "do not match"),
    "result too large": (TALL, WIDE, "out of shape.*exceeds the address space"),
    "result beyond the memory": (HUGE[: 2**25, :1], HUGE[:1, : 2**25], "out of shape.*does not fit"),
}

BAD_OUTPUTS = {
    "read-only": (A, _read_only(), "out is read-only"),
    "shape": (A, np.zeros((5, 4), F32), r"out has shape \(5, 4\).*expected \(4, 5\)"),
    "dtype": (A, np.zeros((4, 5)), "out has dtype float64"),
    "1-D": (A, np.zeros(20, F32), "out has shape"),
    "list": (A, [[0.0]], "out is a list"),
    "same memory": (*_shared(lambda x: x[:4, :5]), "out shares memory with an input"),
    "one element shared": (*_shared(lambda x: x[3:7, 5:10]), "out shares memory"),
    "transposed overlap": (*_shared(lambda x: x[:5, :4].T), "out shares memory"),
    "overlaps itself": (A, _self_overlapping(), "out overlaps itself"),
    "broadcast": (A, np.broadcast_to(np.zeros(5, F32), (4, 5)), "out is read-only"),
    "unaligned": (A, _unaligned(), "out is not aligned"),
}

VARIANTS = nk.variants("gemm")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input(name, variant):
    a, b, message = BAD_INPUTS[name]

    with pytest.raises(InputError, match=message) as caught:
        nk.gemm(a, b, variant=variant)
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_bad_output(name, variant):
    a, out, message = BAD_OUTPUTS[name]

    with pytest.raises(InputError, match=message) as caught:
        nk.gemm(a, B, out=out, variant=variant)
    assert len(caught.value.problems) == 1


def test_the_second_input_is_checked_for_overlap_too():
    buffer = np.zeros((6, 5), F32)
    with pytest.raises(InputError, match="shares memory"):
        nk.gemm(A, buffer, out=buffer[:4])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_transposed_second_input_may_touch_out_but_not_share_an_element(variant):
    memory = np.ones(24 + 4 * 4, F32)
    weights, after, shared = memory[:24].reshape(4, 6), memory[24:].reshape(4, 4), memory[23:39].reshape(4, 4)

    assert (nk.gemm(A, weights.T, out=after, variant=variant) == 6).all()
    with pytest.raises(InputError, match="shares memory"):
        nk.gemm(A, weights.T, out=shared, variant=variant)
    assert (weights == 1).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", [name for name, (a, _, _) in BAD_OUTPUTS.items() if a is A])
def test_bad_output_of_a_product_with_a_transposed_input(name, variant):
    with pytest.raises(InputError, match=BAD_OUTPUTS[name][2]):
        nk.gemm(A, np.ones((5, 6), F32).T, out=BAD_OUTPUTS[name][1], variant=variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_transposed_input_of_another_size_is_refused(variant):
    with pytest.raises(InputError, match=r"a \(4, 6\) and b \(5, 6\) do not match"):
        nk.gemm(A, np.ones((6, 5), F32).T, variant=variant)


def test_a_good_call_with_the_same_arrays_works():
    """So that the cases above fail for the reason they name."""
    for variant in VARIANTS:
        assert (nk.gemm(A, B, out=np.zeros((4, 5), F32), variant=variant) == 6).all()


@pytest.mark.parametrize("threads", [0, -1, 65, 1.0, "2", True, None, 2**70])
def test_bad_thread_count(threads):
    with pytest.raises(InputError, match=r"threads is .*expected an integer from 1 to 64"):
        nk.gemm(A, B, threads=threads)


HINTS = [("c-avx22", "did you mean 'c-avx2'"), ("REF", "known: "), (7, "known: ")]


@pytest.mark.parametrize(("variant", "hint"), HINTS)
def test_unknown_variant(variant, hint):
    with pytest.raises(InputError, match=f"unknown gemm variant.*{hint}"):
        nk.gemm(A, B, variant=variant)


def test_unknown_variant_in_the_environment(monkeypatch):
    monkeypatch.setenv("NPUKERNELS_VARIANT", "c-genric")
    with pytest.raises(InputError, match=r"NPUKERNELS_VARIANT: unknown .*did you mean 'c-generic'"):
        nk.gemm(A, B)


@pytest.mark.skipif("c-avx512" in VARIANTS, reason="this CPU has AVX-512")
def test_a_variant_the_cpu_lacks_is_refused_not_executed(monkeypatch):
    with pytest.raises(InputError, match=r"c-avx512' needs .*runnable here: ref"):
        nk.gemm(A, B, variant="c-avx512")
    monkeypatch.setenv("NPUKERNELS_VARIANT", "c-avx512")
    with pytest.raises(InputError, match="NPUKERNELS_VARIANT: gemm variant"):
        nk.gemm(A, B)


@pytest.mark.parametrize("variant", VARIANTS)
def test_empty_dimensions_of_any_length_are_fine(variant):
    assert nk.gemm(HUGE[:0], HUGE[:, :3], variant=variant).shape == (0, 3)
    assert not nk.gemm(HUGE[:3, :0], HUGE[:0, :4], variant=variant).any()


@pytest.mark.parametrize("variant", nk.variants("gemm"))
def test_a_strided_operand_around_out_is_refused_only_where_they_share_elements(variant):
    memory = np.ones((8, 30), np.float32)
    a, b = memory[:, :4], np.full((4, 2), 0.5, np.float32)
    with pytest.raises(InputError, match="out shares memory with an input"):
        nk.gemm(a, b, out=memory.reshape(-1)[:16].reshape(8, 2), variant=variant)
    between = memory.reshape(-1)[10:26].reshape(8, 2)
    assert (nk.gemm(a, b, out=between, variant=variant) == 2).all()
