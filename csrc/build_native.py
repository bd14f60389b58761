"""Builds ``npukernels._native`` from the C sources (cffi, API mode, stable ABI).

``setup.py`` names this file in ``cffi_modules``; paths are relative to the repository root, where
setuptools runs it. Instruction sets are chosen per function by ``target`` attributes, so one set of
flags serves all sources and the library loads on any CPU of the architecture.
"""

from glob import glob

from cffi import FFI

# Matrices are void pointers here and float pointers in C: ffi.from_buffer gives the former at a tenth
# of the cost of a typed cast.
CDEF = """
#define NPK_OK ...
#define NPK_EINVAL ...
#define NPK_EOVERFLOW ...
#define NPK_ENOMEM ...
#define NPK_EUNSUPPORTED ...
#define NPK_GENERIC ...
#define NPK_AVX2 ...
#define NPK_AVX512 ...

const char *npk_cpu_feature_name(int index);
int npk_cpu_has(int index);

int npk_sgemm(int isa, int64_t m, int64_t n, int64_t k, const void *a, int64_t rsa, int64_t csa,
              const void *b, int64_t rsb, int64_t csb, void *c, int64_t rsc, int64_t csc, int threads);
"""

# Contraction would let a compiler fuse a * b + c where the hardware allows it, and the portable
# kernel would then round differently from build to build.
CFLAGS = ["-std=c11", "-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]

# cffi's generated wrappers take arguments that they do not use.
CFLAGS += ["-Wno-unused-parameter"]

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "npukernels._native",
    '#include "csrc/common/npk.h"\n#include "csrc/gemm/gemm.h"\n',
    sources=sorted(glob("csrc/common/*.c") + glob("csrc/gemm/*.c")),
    depends=sorted(glob("csrc/common/*.h") + glob("csrc/gemm/*.h")),
    include_dirs=["."],
    extra_compile_args=CFLAGS,
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
