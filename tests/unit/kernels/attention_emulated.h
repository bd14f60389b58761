/* Sixteen lanes in plain C: stands in for csrc/attention/simd_avx512.h. */
#include <math.h>

#define NPK_LANES 16
#define NPK_FMA fmaf
#define npk_cpu_supports(name) true
#include "../../../csrc/attention/simd_portable.h"
