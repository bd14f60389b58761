"""Scripts that put operands against guard pages run in a process of their own: a stray access kills it."""

import subprocess
import sys
from pathlib import Path

import pytest

import npukernels as nk

NEEDS = [
    pytest.mark.skipif(not nk.native_available(), reason="the C extension is not built"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mmap and mprotect"),
]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that lies beside this file."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)
