"""Does any quantised kernel read or write a byte outside its operands?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import npukernels as nk

SCRIPT = Path(__file__).with_name("guard_pages_quant.py")
CASES = 2000 if os.environ.get("NPUSIM_SOAK") else 60


@pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mmap and mprotect")
def test_no_kernel_touches_a_page_before_or_after_its_operands():
    done = subprocess.run([sys.executable, str(SCRIPT), str(CASES)], capture_output=True, text=True, timeout=900)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= CASES * 2 * 5
