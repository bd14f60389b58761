#include "conv.h"

#if defined(__x86_64__)
#include "../common/vmath_avx2.h"
#include "depthwise_row.h"

static const conv_kernels KERNELS = {depthwise};

const conv_kernels *conv_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") && npk_cpu_supports("f16c") ? &KERNELS : NULL;
}
#else
const conv_kernels *conv_avx2(void) { return NULL; }
#endif
