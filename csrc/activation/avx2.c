#include "activation.h"

#if defined(__x86_64__)
#include "../common/vmath_avx2.h"
#include "template.h"

const activation_table *activation_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") && npk_cpu_supports("f16c") ? &TABLE : NULL;
}
#else
const activation_table *activation_avx2(void) { return NULL; }
#endif
