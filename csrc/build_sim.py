"""Builds ``npusim._sim`` from the C sources (cffi, API mode, stable ABI); see ``build_native.py``."""

import sys
from glob import glob

from cffi import FFI

sys.path.insert(0, "csrc")  # setuptools runs this file by its path
from declarations import OPTIMISATION, declarations

API = ["csrc/sim/dram.h", "csrc/sim/tile.h", "csrc/sim/cycle.h", "csrc/sim/attention.h", "csrc/sim/serving.h"]

# As csrc/build_native.py: integers only here, so no flag matters to the results.
CFLAGS = ["-std=c11", OPTIMISATION, "-Wall", "-Wextra", "-fvisibility=hidden", "-Wno-unused-parameter"]

ffibuilder = FFI()
ffibuilder.cdef(declarations(API))
ffibuilder.set_source(
    "npusim._sim",
    "".join(f'#include "{path}"\n' for path in API),
    sources=sorted(glob("csrc/sim/*.c")),
    depends=sorted(glob("csrc/sim/*.h")),
    include_dirs=["."],
    extra_compile_args=CFLAGS,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
