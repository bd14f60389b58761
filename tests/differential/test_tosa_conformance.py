"""Do our kernels pass the TOSA conformance tests? Set NPUSIM_TOSA to a folder of generated tests to run them.

``tests/tosa.sh`` makes such a folder: constant operands stand only in the generator's ``test.json``, which it copies
beside the operands, and the expected results are of TOSA's reference model.
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
