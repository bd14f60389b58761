"""Tests see the reference and the variants named in ``ONLY_VARIANTS``, no others.

An emulator is some hundred times slower than the CPU it emulates; what other machines test need not run in it. For the
same reason ``EVERY=5`` keeps every fifth shape, length or float of a test file's lists. A pytest plugin (``-p
only_variants``), and a way to start the scripts of the guard page tests: ``python only_variants.py SCRIPT ARGUMENTS``.
"""

import os
import runpy
import sys

from npukernels import registry


def pytest_configure() -> None:
    """Runs before the test modules ask which variants there are."""
    kept = {"ref", *os.environ["ONLY_VARIANTS"].split()}
    for op, kernels in registry._KERNELS.items():
        registry._KERNELS[op] = {name: kernel for name, kernel in kernels.items() if name in kept}


if __name__ == "__main__":
    pytest_configure()
    del sys.argv[0]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
