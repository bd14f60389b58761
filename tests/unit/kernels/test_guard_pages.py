"""Does any kernel read or write a byte outside its operands?"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import npukernels as nk

SCRIPT = Path(__file__).with_name("guard_pages.py")
CASES = 2000 if os.environ.get("NPUSIM_SOAK") else 60

pytestmark = [
    pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mmap and mprotect"),
]


def _run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def test_no_kernel_touches_a_page_before_or_after_its_operands():
    done = _run(str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 4 * (len(nk.variants("gemm")) - 1)


def test_nor_does_any_other_of_the_family():
    done = _run("family", str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 11 * len([v for v in nk.variants("gemm") if v.startswith("c-")])


def test_a_planted_overrun_is_caught():
    assert _run("plant").returncode == -signal.SIGSEGV
