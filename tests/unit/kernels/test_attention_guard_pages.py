"""Does attention read or write a byte outside its operands?"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import npukernels as nk

SCRIPT = Path(__file__).with_name("attention_guard_pages.py")
CASES = 8000 if os.environ.get("NPUSIM_SOAK") else 150

pytestmark = [
    pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mmap and mprotect"),
]


def _run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def test_attention_touches_no_page_before_or_after_its_operands():
    done = _run(str(CASES))

    assert done.returncode == 0, done.stderr
    native = [v for v in nk.variants("attention") if v.startswith("c-")]
    assert int(done.stdout) == CASES * 4 * len(native)


def test_a_planted_overrun_is_caught():
    assert _run("plant").returncode == -signal.SIGSEGV
