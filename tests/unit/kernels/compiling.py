"""How tests build kernels themselves, and how calls reach those: ``tests/sanitize.sh`` sets compiler and flags."""

import os
import shutil

import pytest

from npukernels import shortcuts

COMPILER = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
FLAGS = ["-std=c11", "-O1", "-ffp-contract=off", "-fPIC", "-pthread", *os.environ.get("CFLAGS", "").split()]


def without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortcut calls the extension, whatever stands in for it."""
    monkeypatch.setattr(shortcuts.Shortcut, "keep", lambda *arguments: None)
    shortcuts.forget()
