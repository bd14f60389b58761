"""Does any cast or quantisation read or write a byte outside its arrays?"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import npukernels as nk

SCRIPT = Path(__file__).with_name("formats_guard_pages.py")
CASES = 6000 if os.environ.get("NPUSIM_SOAK") else 300

pytestmark = [
    pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mmap and mprotect"),
]


def _run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=900)


def test_no_cast_touches_a_page_before_or_after_its_arrays():
    done = _run(str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 6 * (len(nk.variants("cast")) - 1)


def test_a_planted_overrun_is_caught():
    assert _run("plant").returncode == -signal.SIGSEGV
