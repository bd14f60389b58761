/* Stands in for csrc/common/vmath_avx512.h: sixteen lanes of the portable vectors, with fused multiply-adds. */
#define NPK_VMATH_BYTES 64
#define NPK_VMATH_FUSED
#include "../../../csrc/common/vmath_generic.h"

#define npk_cpu_supports(name) true
