"""Do our kernels pass the TOSA conformance tests? Set NPUSIM_TOSA to a folder of generated tests to run them.

The generator (tosa-tools on PyPI) pins older versions of NumPy and ml_dtypes than ours, so that it lives in an
environment of its own. There, ``tosa_verif_conformance_generator --operators matmul cast --profile all --extension
none --test-type positive --build-directory FOLDER --keep-build-dir``, and in each folder with a ``desc.json``,
``tosa_reference_model --test_desc=desc.json``, which writes the expected result.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from npukernels.cases import gemm_bound
from tests.differential.onnx_adapters import find, integer_product, product

FOLDER = os.environ.get("NPUSIM_TOSA")
TESTS = sorted(Path(FOLDER).rglob("desc.json")) if FOLDER else []

# dtypes of TOSA casts that are float formats of ours, and their names.
CASTS = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "FP8E4M3": "fp8", "FP8E5M2": "fp8_e5m2"}


def zero_point(about, position):
    """The value of a constant operand."""
    for tensor in about["meta"]["data_gen"]["tensors"].values():
        if tensor["input_pos"] == position:
            return int(tensor["fixed_data_info"]["data"][0])
    return 0


def matmul(about, inputs, expected):
    a, b = inputs
    if a.dtype == np.int8 and expected.dtype == np.int32:
        if find("qgemm.qgemm") is None:
            pytest.skip("npukernels has no qgemm.qgemm")
        ours = integer_product(a, b, a_zero=zero_point(about, 2), b_zero=zero_point(about, 3))
        np.testing.assert_array_equal(ours, expected)
    elif a.dtype in (np.float32, np.float16) and expected.dtype == np.float32:
        ours = product(a.astype(np.float32), b.astype(np.float32))
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
        for left, right, y, z in zip(a, b, ours, expected, strict=True):
            with np.errstate(invalid="ignore"):  # infinite operands have no bound
                off, bound = np.abs(y.astype(float) - z), gemm_bound(left, right)
            # The stored result may err by the bound as well.
            assert (off <= 2 * bound)[np.isfinite(z)].all()
    else:
        pytest.skip(f"no kernel for {a.dtype} in and {expected.dtype} out")


def cast(about, inputs, expected):
    (x,) = inputs
    (source,) = (t["data_type"] for t in about["meta"]["data_gen"]["tensors"].values())
    target = about["test_details"]["output_types"][0]
    if source not in CASTS or target not in CASTS:
        pytest.skip(f"no kernel casts {source} to {target}")
    if find("casts.cast") is None:
        pytest.skip("npukernels has no casts.cast")
    ours = find("casts.cast")(x, CASTS[target], source=CASTS[source])
    np.testing.assert_array_equal(ours.view(f"u{ours.itemsize}"), expected.view(f"u{expected.itemsize}"))


OPERATORS = {"MATMUL": matmul, "CAST": cast}


@pytest.mark.skipif(not TESTS, reason="NPUSIM_TOSA names no folder of generated TOSA tests")
@pytest.mark.parametrize("file", TESTS or [None], ids=lambda file: file.parent.name if file else "none")
def test_tosa(file):
    about = json.loads(file.read_text())
    operator = about["test_details"]["operator"]
    if operator not in OPERATORS:
        pytest.skip(f"{operator} has no adapter")
    names = [*about["ifm_file"], *about["ofm_file"]]
    missing = [name for name in names if not (file.parent / name).exists()]
    wanted = {"MATMUL": 2, "CAST": 1}[operator]
    if missing or len(about["ifm_file"]) != wanted:
        pytest.skip("an operand or the result is not stored as .npy")
    *inputs, expected = (np.load(file.parent / name, allow_pickle=False) for name in names)
    OPERATORS[operator](about, inputs, expected)
