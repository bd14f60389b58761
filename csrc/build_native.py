"""Builds ``npukernels._native`` from the C sources (cffi, API mode, stable ABI).

``setup.py`` names this file in ``cffi_modules``; paths are relative to the repository root, where
setuptools runs it. Instruction sets are chosen per function by ``target`` attributes, so one set of
flags serves all sources and the library loads on any CPU of the architecture.
"""

import sys
from glob import glob

from cffi import FFI

sys.path.insert(0, "csrc")  # setuptools runs this file by its path
from declarations import OPTIMISATION, SLOT, adapters, declarations

# One folder an op; csrc/sim belongs to the simulator, csrc/python is an extension of its own.
OTHERS = ("csrc/sim/", "csrc/python/")
SOURCES = sorted(path for path in glob("csrc/*/*.c") if not path.startswith(OTHERS))
HEADERS = sorted(path for path in glob("csrc/*/*.h") if not path.startswith(OTHERS))
API = sorted(path for path in HEADERS if path.endswith("/api.h"))

# Contraction would let a compiler fuse a * b + c where the hardware allows it, and the portable
# kernel would then round differently from build to build.
CFLAGS = ["-std=c11", OPTIMISATION, "-Wall", "-Wextra", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]

# cffi's generated wrappers take arguments that they do not use.
CFLAGS += ["-Wno-unused-parameter"]

ffibuilder = FFI()
ADAPTERS = adapters(declarations(API))
ffibuilder.cdef(declarations(API) + SLOT + "".join(f"{prototype};\n" for prototype in ADAPTERS))
ffibuilder.set_source(
    "npukernels._native",
    "".join(f'#include "{path}"\n' for path in API)
    + SLOT
    + "".join(f"static {prototype} {body}\n" for prototype, body in ADAPTERS.items()),
    sources=SOURCES,
    depends=HEADERS,
    include_dirs=["."],
    extra_compile_args=CFLAGS,
    extra_link_args=["-pthread", "-lm"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
