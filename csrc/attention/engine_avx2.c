/* AVX2 + FMA: 6 x 16, i.e. 12 accumulators, 2 vectors and a broadcast in 16 registers. */
#include "attention.h"

#if defined(__x86_64__)
#include <math.h>

#include "simd_avx2.h"

enum { MR = 6, NV = 2 };
#include "engine_simd.h"

const attn_isa *attn_isa_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") && npk_cpu_supports("f16c") ? &ISA : NULL;
}
#else
const attn_isa *attn_isa_avx2(void) { return NULL; }
#endif
