"""Do our kernels pass the TOSA conformance tests? Set NPUSIM_TOSA to a folder of generated tests to run them.

The generator (tosa-tools on PyPI) pins older versions of NumPy and ml_dtypes than ours, so that it lives in an
environment of its own, whose ``bin`` must be on PATH. There::

    tosa_verif_conformance_generator --operators matmul cast rescale matmul_t_block_scaled cast_to_block_scaled \
        cast_from_block_scaled --profile all --extension none (then: all tosa-ext-mx…) --test-type positive \
        --build-directory FOLDER --output-directory JSON --keep-build-dir

and in each folder with a ``desc.json``, ``tosa_reference_model --test_desc=desc.json``, which writes the expected
result. Constant operands stand only in the ``test.json`` of the folder of the same name under JSON: copy it beside.
"""

import os
from pathlib import Path

import pytest

from tests.differential.tosa_adapters import OPERATORS, Test

FOLDER = os.environ.get("NPUSIM_TOSA")
TESTS = sorted(Path(FOLDER).rglob("desc.json")) if FOLDER else []


@pytest.mark.skipif(not TESTS, reason="NPUSIM_TOSA names no folder of generated TOSA tests")
@pytest.mark.parametrize("file", TESTS or [None], ids=lambda file: file.parent.name if file else "none")
def test_tosa(file):
    test = Test(file)
    if test.operator not in OPERATORS:
        pytest.skip(f"{test.operator} has no adapter")
    OPERATORS[test.operator](test)
