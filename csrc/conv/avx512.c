#include "conv.h"

#if defined(__x86_64__)
#ifndef NPK_VMATH_AVX512 /* the tests put plain C here, to run this code on CPUs that lack AVX-512 */
#define NPK_VMATH_AVX512 "../common/vmath_avx512.h"
#endif
#include NPK_VMATH_AVX512
#include "depthwise_row.h"

static const conv_kernels KERNELS = {depthwise};

/* Every CPU with AVX-512 has F16C, which vmath_avx512.h uses. */
const conv_kernels *conv_avx512(void) {
    return npk_cpu_supports("avx512f") && npk_cpu_supports("f16c") ? &KERNELS : NULL;
}
#else
const conv_kernels *conv_avx512(void) { return NULL; }
#endif
